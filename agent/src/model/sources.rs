//! Who may use a Service's load balancer addresses: `loadBalancerSourceRanges`.

use ipnetwork::IpNetwork;

use super::family::PerFamily;
use super::node::Node;
use super::service::Addresses;

/// A network of clients.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Range<A> {
    /// Its address; host bits zero.
    pub address: A,
    /// Length of its prefix in bits.
    pub length: u8,
}

/// Who may, of one family.
pub(super) struct Sources<A> {
    /// Sorted, nothing twice.
    pub(super) ranges: Vec<Range<A>>,
    /// Whether the node itself may.
    pub(super) node: bool,
}

impl<A: PerFamily> Sources<A> {
    /// Nothing: everybody may.
    pub(super) fn of(addresses: &Addresses<A>, node: &Node) -> Option<Self> {
        if addresses.ranges.is_empty() {
            return None;
        }
        let contains = |range: &IpNetwork, ip: &A| range.contains((*ip).into());
        let own: Vec<A> = node.addresses();
        let node = addresses.ranges.iter().any(|range| own.iter().any(|ip| contains(range, ip)));
        let mut ranges: Vec<Range<A>> = addresses
            .ranges
            .iter()
            .filter_map(|range| {
                Some(Range { address: A::from_ip(range.ip())?, length: range.prefix() })
            })
            .collect();
        if node {
            // A node that has the address itself, as some load balancers want it, uses it as the
            // source when it dials it.
            let own = addresses.balancers.iter();
            ranges.extend(own.map(|ip| Range { address: *ip, length: A::BITS }));
        }
        ranges.sort_unstable();
        ranges.dedup();
        Some(Self { ranges, node })
    }
}
