//! The frontend filter's row, as memory: programs read it while it is written.

use std::sync::atomic::{AtomicU64, Ordering};

use millrace_common::address::Address;
use millrace_common::frontend_filter::{Bit, FrontendFilter, WORDS};

use super::map::{Map, MapError};
use super::window::Window;

/// The bits of some addresses.
pub(super) struct Bits(Vec<u64>);

impl Bits {
    /// Of none.
    pub(super) fn new() -> Self {
        Self(vec![0; WORDS])
    }

    /// And of these.
    pub(super) fn with<A: Address>(mut self, addresses: impl Iterator<Item = A>) -> Self {
        for bit in addresses.map(|address| Bit::of(&address)) {
            self.0[bit.word() as usize] |= bit.mask();
        }
        self
    }
}

/// The row, for as long as the value lives.
pub(super) struct FrontendFilterMemory {
    window: Window<FrontendFilter>,
}

impl FrontendFilterMemory {
    pub(super) fn of(map: &Map) -> Result<Self, MapError> {
        let window = Window::writable(&map.fd, 0, 0).map_err(map.error("map into memory"))?;
        Ok(Self { window })
    }

    /// Rule these addresses out no longer, before the first row with such an address is written.
    pub(super) fn admit<A: Address>(&self, addresses: impl Iterator<Item = A>) {
        for bit in addresses.map(|address| Bit::of(&address)) {
            let word = self.word(bit.word() as usize);
            // Most are not: of an address with several ports, of a row that only changes.
            if word.load(Ordering::Relaxed) & bit.mask() != 0 {
                word.fetch_and(!bit.mask(), Ordering::SeqCst);
            }
        }
    }

    /// Rule out all but these, the addresses of all frontends there are. One that stays is ruled
    /// out at no time.
    pub(super) fn rule_out_all_but(&self, bits: &Bits) {
        for (index, word) in bits.0.iter().enumerate() {
            self.word(index).store(!word, Ordering::SeqCst);
        }
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < WORDS, "the filter has no word {index}");
        // SAFETY: an aligned word of the window, which programs only read.
        unsafe {
            let words = (&raw mut (*self.window.row(0)).ruled_out).cast::<u64>();
            AtomicU64::from_ptr(words.add(index))
        }
    }
}
