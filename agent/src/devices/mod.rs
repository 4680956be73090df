//! What each of the node's devices is for, and what the packet path must know of this node. Pure:
//! no I/O, no clock, no async.
//!
//! A [`Device`] comes from netlink ([`crate::net::devices`]); [`roles`] decides whether it leads to
//! pods, out of the node or to other nodes, and which devices are left alone; [`node`] makes the
//! single row of the `node` map, with the ports that [`ports`] chooses. What comes out is carried
//! out by [`crate::packet_path`].

pub mod node;
pub mod ports;
pub mod roles;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

/// A network device, as netlink describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// `IFLA_INFO_KIND`; none: a physical device.
    pub kind: Option<String>,
    /// What stands before the IP header.
    pub link_layer: LinkLayer,
    /// Its link layer address, if that is an Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// Index of the bridge, bond, ... it is a port of.
    pub master: Option<u32>,
    /// Index of the device it is made on (VLAN, macvlan), if that is in this network namespace.
    pub parent: Option<u32>,
    /// It is administratively up.
    pub up: bool,
    /// MTU, in bytes.
    pub mtu: u32,
    /// Its addresses, in the kernel's order.
    pub addresses: Vec<DeviceAddress>,
    /// It carries an IPv4 default route, in any table.
    pub default_v4: bool,
    /// It carries an IPv6 default route, in any table.
    pub default_v6: bool,
}

/// An address of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceAddress {
    /// The address.
    pub address: IpAddr,
    /// How far it is valid.
    pub scope: Scope,
    /// It may be used for new connections, and will be for long: neither tentative nor deprecated
    /// nor temporary.
    pub lasting: bool,
}

/// How far an address is valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Everywhere.
    Global,
    /// On the link.
    Link,
    /// In the node.
    Host,
}

/// What stands before the IP header of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum LinkLayer {
    /// An Ethernet header.
    Ethernet,
    /// Nothing: tun, WireGuard, ipip, ...
    None,
    /// The loopback device.
    Loopback,
    /// Something we do not read: `ARPHRD_*` of linux/if_arp.h.
    Other(u16),
}

impl LinkLayer {
    /// From `ARPHRD_*` (linux/if_arp.h). Those without a header are those that the kernel's
    /// `dev_is_mac_header_xmit` says have none.
    pub const fn from_hardware_type(hardware_type: u16) -> Self {
        match hardware_type {
            1 => Self::Ethernet,
            772 => Self::Loopback,
            // PPP, RAWIP, TUNNEL, TUNNEL6, SIT, IPGRE, IP6GRE, NONE, VOID.
            512 | 519 | 768 | 769 | 776 | 778 | 823 | 0xfffe | 0xffff => Self::None,
            other => Self::Other(other),
        }
    }
}

impl Device {
    /// The address that the kernel would masquerade with, of those that `wanted` wants: the first
    /// global one, rather one that lasts.
    fn first_global<A>(&self, wanted: impl Fn(IpAddr) -> Option<A>) -> Option<A> {
        let global = || self.addresses.iter().filter(|address| address.scope == Scope::Global);
        let lasting = global().filter(|address| address.lasting);
        lasting.chain(global()).find_map(|address| wanted(address.address))
    }
}
