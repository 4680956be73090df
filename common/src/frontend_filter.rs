//! The frontend filter: a bit says that an address is no frontend's, without a look into the table.
//!
//! The first packet of every connection, and every socket that connects, would be looked up among
//! the frontends, in cold memory, though most go to pods. The bits are few enough to stay in a
//! processor's cache. The agent, who alone writes frontends, unsets an address' bit before it
//! writes its first row, and now and then makes all bits anew from the rows there are. In a new map
//! none is set: it rules out nothing.

use crate::address::Address;
use crate::flow_filter::MIX;
use crate::row::Row;

/// How many bits there are; a power of two. Ten for each address of a cluster with 100 000
/// Services, so one address in ten that is none is looked up there.
pub const BITS: usize = 1 << 20;
/// Bits of a word.
const WORD_BITS: usize = u64::BITS as usize;
/// Words that hold them.
pub const WORDS: usize = BITS / WORD_BITS;

/// Value of the `frontend_filter` map, which has one row.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FrontendFilter {
    /// A bit that is 1: no frontend has an address that leads here.
    pub ruled_out: [u64; WORDS],
}

// SAFETY: 64-bit words.
unsafe impl Row for FrontendFilter {}

/// Where an address' bit is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Bit(u32);

impl Bit {
    /// The bit that an address leads to.
    #[inline(always)]
    pub fn of<A: Address>(address: &A) -> Self {
        const SHIFT: u32 = u64::BITS - BITS.trailing_zeros();
        let words = core::ptr::from_ref(address).cast::<u32>();
        let mut sum = 0_u64;
        for word in 0..size_of::<A>() / size_of::<u32>() {
            // SAFETY: an address is made of aligned words.
            let word = unsafe { words.add(word).read() };
            sum = (sum ^ u64::from(word)).wrapping_mul(MIX);
        }
        Self((sum >> SHIFT) as u32)
    }

    /// Which word it is in.
    #[inline(always)]
    pub const fn word(self) -> u32 {
        self.0 / WORD_BITS as u32
    }

    /// The bit alone, in its word.
    #[inline(always)]
    pub const fn mask(self) -> u64 {
        1 << (self.0 % WORD_BITS as u32)
    }
}

const _LAYOUT: () = {
    assert!(BITS.is_power_of_two() && size_of::<FrontendFilter>() == BITS / 8);
};
