//! Rows as bytes: what goes through `bpf(2)`.

use core::mem::MaybeUninit;

/// A plain value that is stored in a BPF map.
///
/// # Safety
/// The type is `#[repr(C)]` or `#[repr(transparent)]`, has no padding that the compiler inserted,
/// and every bit pattern is a valid value.
pub unsafe trait Row: Copy + 'static {
    /// The row's bytes, as the kernel stores them.
    fn as_bytes(&self) -> &[u8] {
        // SAFETY: `Self` has no implicit padding, so all its bytes are initialised.
        unsafe { core::slice::from_raw_parts(core::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }

    /// The row made of `bytes`, or nothing if the length is not the row's size.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        // SAFETY: the length was checked, every bit pattern is valid, the read is unaligned.
        Some(unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast()) })
    }
}

// SAFETY: a primitive integer has neither padding nor invalid bit patterns.
unsafe impl Row for u32 {}
// SAFETY: as above.
unsafe impl Row for u64 {}
// SAFETY: as above.
unsafe impl Row for u8 {}
// SAFETY: as above.
unsafe impl Row for u16 {}
// SAFETY: elements without padding, and none between them.
unsafe impl<T: Row, const N: usize> Row for [T; N] {}

/// Two places in one row of an array, which the kernel rounds up to eight bytes: number N of the
/// places is in row N / 2. To find one costs a shift and a mask, and no look-up more.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pair<T>(pub [T; 2]);

// SAFETY: as the array that it is.
unsafe impl<T: Row> Row for Pair<T> {}

impl<T: Copy> Pair<T> {
    /// The row that a place is in.
    #[inline(always)]
    pub const fn row_of(place: u32) -> u32 {
        place >> 1
    }

    /// One of its two places, by the number of that among all places.
    #[inline(always)]
    pub const fn get(&self, place: u32) -> T {
        self.0[(place & 1) as usize]
    }

    /// As [`Pair::get`], to be written.
    pub const fn get_mut(&mut self, place: u32) -> &mut T {
        &mut self.0[(place & 1) as usize]
    }

    /// Rows that have so many places.
    pub const fn rows_for(places: u32) -> u32 {
        places.div_ceil(2)
    }
}

/// Make a value all zero, in its place and word by word: of anything else BPF's compiler makes a
/// call of `memset`, which goes byte by byte and takes longer than all the rest of what most
/// packets need.
///
/// # Safety
/// Zero is a valid value of the type.
#[inline(always)]
pub unsafe fn zero_in<T: Copy>(place: &mut MaybeUninit<T>) -> &mut T {
    const { assert!(align_of::<T>() >= align_of::<u32>()) };
    for word in 0..size_of::<T>() / size_of::<u32>() {
        // SAFETY: an aligned word of the value, whose size is a multiple of its alignment.
        unsafe { place.as_mut_ptr().cast::<u32>().add(word).write_volatile(0) };
    }
    // SAFETY: all of it is zero, which the caller vouches for.
    unsafe { place.assume_init_mut() }
}
