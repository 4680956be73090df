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
