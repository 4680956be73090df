//! ClientIP session affinity.

use crate::address::{Address, V6};
use crate::row::Row;

/// Who asks. Sockets do not know their source address when they connect, packets do not know their
/// namespace; a client that uses both ways to one service has two affinities.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Client(V6);

impl Client {
    /// A socket, by its network namespace's cookie: a pod, or the node itself. `::cookie` is no
    /// source a packet could have: `::/64` is not routed.
    #[inline(always)]
    pub const fn of_namespace(cookie: u64) -> Self {
        Self(V6::from_raw([0, 0, (cookie >> 32) as u32, cookie as u32]))
    }
    /// A packet, by its source.
    #[inline(always)]
    pub fn of_source<A: Address>(source: A) -> Self {
        Self(source.to_v6())
    }
    /// The address, if it is one, as IPv6.
    pub const fn address(self) -> V6 {
        self.0
    }
}

/// Key of the `affinity` map.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AffinityKey {
    /// The client.
    pub client: Client,
    /// The service port. All its frontends share affinity.
    pub service: u32,
    /// IP version: 4 or 6. The two families keep affinity apart.
    pub family: u32,
}

/// Value of the `affinity` map.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AffinityEntry {
    /// Backend id.
    pub backend: u32,
    /// Generation of the id when it was chosen.
    pub generation: u32,
    /// `CLOCK_MONOTONIC` at the last new connection, in nanoseconds.
    pub last_used_ns: u64,
}

// SAFETY: 16 + 4 + 4 bytes.
unsafe impl Row for AffinityKey {}
// SAFETY: 4 + 4 + 8 bytes.
unsafe impl Row for AffinityEntry {}

/// Nanoseconds in a second.
pub const NS_PER_SEC: u64 = 1_000_000_000;

impl AffinityEntry {
    /// Whether the entry still binds: idle no longer than the timeout since the last *new*
    /// connection (established ones do not count).
    pub const fn is_live(&self, now_ns: u64, timeout_secs: u32) -> bool {
        now_ns.saturating_sub(self.last_used_ns) <= timeout_secs as u64 * NS_PER_SEC
    }
}

const _LAYOUT: () = {
    assert!(size_of::<AffinityKey>() == 24);
    assert!(size_of::<AffinityEntry>() == 16);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn affinity_lasts_until_its_timeout_and_survives_a_clock_behind() {
        let entry = AffinityEntry { backend: 1, generation: 1, last_used_ns: 5 * NS_PER_SEC };
        assert!(entry.is_live(15 * NS_PER_SEC, 10));
        assert!(!entry.is_live(15 * NS_PER_SEC + 1, 10));
        assert!(entry.is_live(0, 10), "another CPU's clock may be a little behind");
    }
}
