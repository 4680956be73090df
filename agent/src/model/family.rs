//! What differs between IPv4 and IPv6 in the model.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use millrace_common::address::{Address, V4, V6};
use millrace_common::node::{Prefix, SERVICE_CIDRS};

use super::networks::Apart;
use super::registry::{Registry, Taken};
use super::service::{Addresses, Service};
use super::slice::{Endpoint, Endpoints, Slice};

/// An address with the places where the model keeps its family's things.
pub(super) trait PerFamily: Address {
    /// Where a socket of the node reaches the node itself: loopback, and the unspecified address,
    /// which Linux takes for loopback on connect.
    const LOOPBACK: [IpAddr; 2];
    /// Bits of an address.
    const BITS: u8;
    /// The address, if it is of this family.
    fn from_ip(address: IpAddr) -> Option<Self>;
    /// The mask of a prefix of that length.
    fn mask(length: u8) -> Self;
    /// How many of their first bits two addresses have in common.
    fn common_bits(self, other: Self) -> u8;
    /// The service's addresses of this family; nothing if it has no ClusterIP of it.
    fn addresses(service: &Service) -> Option<&Addresses<Self>>;
    /// The slice's endpoints, if they are of this family.
    fn endpoints(slice: &Slice) -> &[Endpoint<Self>];
    /// The registry's addresses of this family.
    fn taken(registry: &Registry) -> &Taken<Self>;
    /// The ServiceCIDRs of this family that are told apart.
    fn service_cidrs(networks: &Apart) -> &[Prefix<Self>; SERVICE_CIDRS];
}

/// A number of bits of an address, at most 128.
fn leading_zeros(count: u32) -> u8 {
    u8::try_from(count).unwrap_or(u8::MAX)
}

impl PerFamily for V4 {
    const LOOPBACK: [IpAddr; 2] =
        [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    const BITS: u8 = 32;
    fn mask(length: u8) -> Self {
        let host_bits = u32::from(Self::BITS.saturating_sub(length));
        Ipv4Addr::from_bits(u32::MAX.checked_shl(host_bits).unwrap_or(0)).into()
    }
    fn common_bits(self, other: Self) -> u8 {
        let bits = |address: Self| Ipv4Addr::from(address).to_bits();
        leading_zeros((bits(self) ^ bits(other)).leading_zeros())
    }
    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address.into()),
            IpAddr::V6(_) => None,
        }
    }
    fn addresses(service: &Service) -> Option<&Addresses<Self>> {
        service.v4.as_deref()
    }
    fn endpoints(slice: &Slice) -> &[Endpoint<Self>] {
        match &slice.endpoints {
            Endpoints::V4(endpoints) => endpoints,
            Endpoints::V6(_) => &[],
        }
    }
    fn taken(registry: &Registry) -> &Taken<Self> {
        registry.v4()
    }
    fn service_cidrs(networks: &Apart) -> &[Prefix<Self>; SERVICE_CIDRS] {
        &networks.v4
    }
}

impl PerFamily for V6 {
    const LOOPBACK: [IpAddr; 2] =
        [IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    const BITS: u8 = 128;
    fn mask(length: u8) -> Self {
        let host_bits = u32::from(Self::BITS.saturating_sub(length));
        Ipv6Addr::from_bits(u128::MAX.checked_shl(host_bits).unwrap_or(0)).into()
    }
    fn common_bits(self, other: Self) -> u8 {
        let bits = |address: Self| Ipv6Addr::from(address).to_bits();
        leading_zeros((bits(self) ^ bits(other)).leading_zeros())
    }
    fn from_ip(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address.into()),
        }
    }
    fn addresses(service: &Service) -> Option<&Addresses<Self>> {
        service.v6.as_deref()
    }
    fn endpoints(slice: &Slice) -> &[Endpoint<Self>] {
        match &slice.endpoints {
            Endpoints::V4(_) => &[],
            Endpoints::V6(endpoints) => endpoints,
        }
    }
    fn taken(registry: &Registry) -> &Taken<Self> {
        registry.v6()
    }
    fn service_cidrs(networks: &Apart) -> &[Prefix<Self>; SERVICE_CIDRS] {
        &networks.v6
    }
}
