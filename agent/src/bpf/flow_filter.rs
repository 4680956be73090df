//! The flow filter's row, as memory: programs set its bytes while it is filled.

use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use millrace_common::flow_filter::{CELLS, FlowFilter};

use super::map::{Map, MapError};
use super::window::Window;
use crate::flows::filter::{FilterRow, Half};

/// The row, for as long as the value lives.
pub struct FilterMemory {
    window: Window<FlowFilter>,
}

impl FilterMemory {
    pub(super) fn of(map: &Map) -> Result<Self, MapError> {
        let window = Window::writable(&map.fd, 0, 0).map_err(map.error("map into memory"))?;
        Ok(Self { window })
    }

    fn row(&self) -> *mut FlowFilter {
        self.window.row(0)
    }

    fn word(&self) -> &AtomicU32 {
        // SAFETY: an aligned word of the window, which programs only read.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.row()).in_force) }
    }

    fn cells(&self, half: Half) -> *mut [u8; CELLS] {
        // SAFETY: within the window.
        unsafe { (&raw mut (*self.row()).cells).cast::<[u8; CELLS]>().add(half as usize) }
    }
}

impl FilterRow for FilterMemory {
    fn in_force(&self) -> u32 {
        self.word().load(Ordering::Relaxed)
    }
    fn clear(&self, half: Half) {
        // SAFETY: bytes of the window. A byte that a program sets meanwhile is set or not: its
        // entry is in the table by then, and is found.
        unsafe { ptr::write_bytes(self.cells(half), 0, 1) };
        // Before the tables are read.
        fence(Ordering::SeqCst);
    }
    fn set(&self, half: Half, cell: u32) {
        let cell = cell as usize & (CELLS - 1);
        // SAFETY: a byte of the window.
        unsafe { self.cells(half).cast::<u8>().add(cell).write_volatile(1) };
    }
    fn enforce(&self, half: Half) {
        self.word().store(half as u32 + 1, Ordering::Release);
    }
}
