//! A part of an array of the kernel's, as memory (`BPF_F_MMAPABLE`, Linux 5.5): a row costs what
//! its bytes cost, not a step of a system call.
//!
//! Programs read meanwhile, as they do when a system call writes: it copies a row word by word too,
//! and plans give no row another meaning that a program may be reading. A window is opened for one
//! piece of work only, since the pages it shows count as this process' memory.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr;

use memmap2::{MmapOptions, MmapRaw};
use millrace_common::row::Row;

use super::sys;

/// The kernel rounds an array's rows up to this many bytes.
const ROW_BYTES: usize = 8;

/// Rows `first` to `last` of an array.
pub(super) struct Window<V> {
    memory: MmapRaw,
    first: u32,
    last: u32,
    row: PhantomData<V>,
}

impl<V: Row> Window<V> {
    /// Bytes from one row to the next.
    const STRIDE: usize = size_of::<V>().next_multiple_of(ROW_BYTES);

    /// To be written.
    pub(super) fn writable(map: &OwnedFd, first: u32, last: u32) -> io::Result<Self> {
        Self::open(map, first, last, |options| options.map_raw(map.as_raw_fd()))
    }

    /// To be read.
    pub(super) fn readable(map: &OwnedFd, first: u32, last: u32) -> io::Result<Self> {
        Self::open(map, first, last, |options| options.map_raw_read_only(map.as_raw_fd()))
    }

    fn open(
        map: &OwnedFd,
        first: u32,
        last: u32,
        open: impl FnOnce(&MmapOptions) -> io::Result<MmapRaw>,
    ) -> io::Result<Self> {
        let shape = sys::map_shape(map.as_fd())?;
        if shape.value_size as usize != size_of::<V>() || first > last || last >= shape.max_entries
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut options = MmapOptions::new();
        options.offset(u64::from(first) * Self::STRIDE as u64);
        options.len((last - first + 1) as usize * Self::STRIDE);
        Ok(Self { memory: open(&options)?, first, last, row: PhantomData })
    }

    /// Where a row is.
    pub(super) fn row(&self, index: u32) -> *mut V {
        assert!((self.first..=self.last).contains(&index), "row {index} is not in the window");
        let offset = (index - self.first) as usize * Self::STRIDE;
        self.memory.as_mut_ptr().wrapping_add(offset).cast()
    }

    /// Write a row; to a window that is writable.
    pub(super) fn write(&self, index: u32, row: &V) {
        // SAFETY: within the window, aligned to eight bytes.
        unsafe { ptr::write_volatile(self.row(index), *row) };
    }

    /// Read a row.
    pub(super) fn read(&self, index: u32) -> V {
        // SAFETY: within the window, aligned to eight bytes, and every bit pattern of a row is
        // valid. Programs do not write what is read here, but for records of sockets, of which a
        // torn one is looked at again.
        unsafe { ptr::read_volatile(self.row(index)) }
    }
}
