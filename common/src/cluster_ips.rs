//! ClusterIPs as such: which addresses are one, whatever port is dialled.
//!
//! A frontend says where an address **and port** lead. What is sent to a ClusterIP and to none of
//! its ports is refused, so there are rows that say which addresses are ClusterIPs: a bit each, for
//! [`BLOCK_ADDRESSES`] neighbours. They lie in the maps of frontends, at port 0 of protocol 0,
//! which nobody can dial, and of such a row the two lists are the bits.

use crate::address::Address;
use crate::frontend::{Frontend, FrontendKey, Kind, SlotRange};

/// Addresses that have a row together: as many as a row's lists have bits.
pub const BLOCK_ADDRESSES: u32 = u128::BITS;

const _: () = assert!(2 * size_of::<SlotRange>() as u32 * u8::BITS == BLOCK_ADDRESSES);

impl<A: Address> FrontendKey<A> {
    /// The row that knows whether an address is a ClusterIP, and the bit that says so.
    #[inline(always)]
    pub fn of_block(address: A) -> (Self, u32) {
        let (first, place) = address.in_block();
        (Self::new(first, crate::address::Be16::new(0), 0), place)
    }

    /// Whether a row at this key says such a thing.
    pub const fn is_block(&self) -> bool {
        self.port.raw() == 0 && self.protocol == 0
    }
}

impl Frontend {
    /// The row at such a key: the bits of those of its addresses that are ClusterIPs.
    pub fn of_block<A: Address>(key: &FrontendKey<A>, cluster_ips: u128) -> Self {
        let word = |number: u32| (cluster_ips >> (u32::BITS * number)) as u32;
        Self {
            flags: Kind::ClusterIps.bits(),
            near: SlotRange { first: word(0), count: word(1) },
            far: SlotRange { first: word(2), count: word(3) },
            check: key.check(),
            ..Self::default()
        }
    }

    /// Whether the address at that place of such a row's block is a ClusterIP.
    #[inline(always)]
    pub const fn has_cluster_ip(&self, place: u32) -> bool {
        let word = match place / u32::BITS {
            0 => self.near.first,
            1 => self.near.count,
            2 => self.far.first,
            _ => self.far.count,
        };
        word >> (place % u32::BITS) & 1 != 0
    }
}
