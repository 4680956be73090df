//! What a device is for, by its kind, its place and what it carries.
//!
//! A packet that is translated must be seen once on its way in and once on its way out. Of a bridge
//! and its ports therefore only one side is attached: the ports, since what pods of one node send
//! each other never reaches the bridge device, and br_netfilter should see packets that are
//! translated already; but the bridge itself if it is how the node reaches the world.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use millrace_common::address::{Address, V4, V6};
use millrace_common::node::{DeviceRow, device as flags};

use super::node::{v4_of, v6_of};
use super::{Device, LinkLayer};
use crate::settings::{DetectLocal, Policy, Role};

/// Kinds that carry pods' packets to other nodes.
const TUNNELS: &[&str] = &[
    "vxlan",
    "geneve",
    "gre",
    "gretap",
    "ip6gre",
    "ip6gretap",
    "ipip",
    "sit",
    "ip6tnl",
    "wireguard",
    "tun",
    "vti",
    "vti6",
    "xfrm",
    "bareudp",
];
/// Kinds that no packet of a Service comes in or goes out by: what they are made of does that.
const NEVER: &[&str] = &["dummy", "ifb", "nlmon", "vrf", "can", "vcan", "vxcan"];
/// Kinds that are made of physical devices.
const AGGREGATES: &[&str] = &["bond", "team"];
/// Kinds that are made on another device and are for what that is for.
const UPPERS: &[&str] = &["vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec"];
/// Devices made on devices made on ..., at most.
const UPPERS_DEEP: u32 = 4;

/// A device whose packets are translated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attachment {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Whether packets have an Ethernet header.
    pub ethernet: bool,
    /// Its row in the `devices` map.
    pub row: DeviceRow,
}

/// Every device, by index, with what decides about them.
struct View<'a> {
    devices: BTreeMap<u32, &'a Device>,
    /// The Node's addresses.
    own: BTreeSet<IpAddr>,
    policy: &'a Policy,
}

/// The devices to attach to. `own`: the Node's addresses; empty if they are not known, then default
/// routes alone tell an uplink.
pub fn attachments(devices: &[Device], own: &[IpAddr], policy: &Policy) -> Vec<Attachment> {
    let view = View::new(devices, own, policy);
    devices.iter().filter_map(|device| view.attachment(device)).collect()
}

/// Devices that should be attached to and cannot be, because we cannot read their packets.
pub fn unreadable<'a>(devices: &'a [Device], own: &[IpAddr], policy: &Policy) -> Vec<&'a Device> {
    let view = View::new(devices, own, policy);
    let wanted = |device: &&Device| {
        let named = matches!(view.given_role(device), Some(Some(_)));
        matches!(device.link_layer, LinkLayer::Other(_)) && (named || view.is_way_out(device))
    };
    devices.iter().filter(wanted).collect()
}

impl<'a> View<'a> {
    fn new(devices: &'a [Device], own: &[IpAddr], policy: &'a Policy) -> Self {
        Self {
            devices: devices.iter().map(|device| (device.index, device)).collect(),
            own: own.iter().copied().collect(),
            policy,
        }
    }

    fn attachment(&self, device: &Device) -> Option<Attachment> {
        let ethernet = match device.link_layer {
            LinkLayer::Ethernet => true,
            LinkLayer::None => false,
            LinkLayer::Loopback | LinkLayer::Other(_) => return None,
        };
        let role = self.role(device)?;
        let mut bits = match role {
            Role::Pod => flags::POD,
            Role::Uplink => flags::UPLINK,
            Role::Tunnel => flags::TUNNEL,
        };
        if self.is_from_pods(device, role) {
            bits |= flags::FROM_PODS;
        }
        Some(Attachment {
            index: device.index,
            name: device.name.clone(),
            role,
            ethernet,
            row: DeviceRow {
                flags: bits,
                masquerade_v4: self.masquerade(device, v4_of).unwrap_or(V4::ZERO),
                masquerade_v6: self.masquerade(device, v6_of).unwrap_or(V6::ZERO),
                bridge: self.bridge(device),
                pad: 0,
            },
        })
    }

    /// The link layer address of the bridge that the device is a port of; zero: of none.
    fn bridge(&self, device: &Device) -> [u8; 6] {
        let master = self.master(device).filter(|master| master.kind.as_deref() == Some("bridge"));
        master.and_then(|bridge| bridge.mac).unwrap_or_default()
    }

    fn role(&self, device: &Device) -> Option<Role> {
        if let Some(given) = self.given_role(device) {
            return given;
        }
        let kind = device.kind.as_deref();
        if kind.is_some_and(|kind| NEVER.contains(&kind)) {
            return None;
        }
        let master = self.master(device);
        let master_kind = master.and_then(|master| master.kind.as_deref());
        match (master, master_kind) {
            (_, Some(kind)) if AGGREGATES.contains(&kind) => None,
            (Some(bridge), Some("bridge")) => self.port_role(device, bridge),
            _ if self.is_way_out(device) => Some(Role::Uplink),
            _ if kind == Some("bridge") => self.bridge_role(device),
            _ if is_tunnel(device) => Some(Role::Tunnel),
            _ if self.is_uplink_kind(device, UPPERS_DEEP) => Some(Role::Uplink),
            _ => Some(Role::Pod),
        }
    }

    /// The operator's word; none: he said nothing.
    fn given_role(&self, device: &Device) -> Option<Option<Role>> {
        let mut roles = self.policy.device_roles.iter();
        roles.find(|(pattern, _)| pattern.matches(&device.name)).map(|(_, role)| *role)
    }

    /// A port of a bridge.
    fn port_role(&self, port: &Device, bridge: &Device) -> Option<Role> {
        // A tap that is a port leads to a virtual machine.
        let tap = port.kind.as_deref() == Some("tun");
        if is_tunnel(port) && !tap {
            return Some(Role::Tunnel);
        }
        if self.is_uplink_kind(port, UPPERS_DEEP) {
            return (!self.is_uplink_bridge(bridge)).then_some(Role::Uplink);
        }
        Some(Role::Pod)
    }

    /// A bridge that is not the node's way out. Its ports cover it; one without any has nothing to
    /// translate.
    fn bridge_role(&self, bridge: &Device) -> Option<Role> {
        let all = self.devices.values();
        let mut ports = all.filter(|device| device.master == Some(bridge.index)).peekable();
        ports.peek()?;
        let covered = ports.any(|port| self.role(port).is_some());
        (!covered).then_some(Role::Pod)
    }

    fn is_uplink_bridge(&self, bridge: &Device) -> bool {
        match self.given_role(bridge) {
            Some(given) => given == Some(Role::Uplink),
            None => self.is_way_out(bridge),
        }
    }

    /// It carries a default route or one of the Node's addresses.
    fn is_way_out(&self, device: &Device) -> bool {
        let mut addresses = device.addresses.iter();
        let own = addresses.any(|address| self.own.contains(&address.address));
        device.link_layer != LinkLayer::Loopback && (device.default_v4 || device.default_v6 || own)
    }

    /// It is a physical device or made of some.
    fn is_uplink_kind(&self, device: &Device, depth: u32) -> bool {
        let Some(kind) = device.kind.as_deref() else {
            return true;
        };
        if AGGREGATES.contains(&kind) {
            return true;
        }
        let parent = device.parent.and_then(|parent| self.devices.get(&parent));
        let Some(parent) = parent.filter(|_| UPPERS.contains(&kind) && depth > 0) else {
            return false;
        };
        if parent.kind.as_deref() != Some("bridge") {
            return self.is_way_out(parent) || self.is_uplink_kind(parent, depth - 1);
        }
        let mut ports = self.devices.values().filter(|port| port.master == Some(parent.index));
        self.is_uplink_bridge(parent) || ports.any(|port| self.is_uplink_kind(port, depth - 1))
    }

    fn master(&self, device: &Device) -> Option<&'a Device> {
        device.master.and_then(|master| self.devices.get(&master)).copied()
    }

    /// Whether what comes in by the device is from this node's pods, for a detector that goes by
    /// device.
    fn is_from_pods(&self, device: &Device, role: Role) -> bool {
        match &self.policy.detect_local {
            DetectLocal::Attachment => role == Role::Pod,
            DetectLocal::Bridge(bridge) => {
                device.name == *bridge
                    || self.master(device).is_some_and(|master| master.name == *bridge)
            }
            DetectLocal::NamePrefix(prefix) => device.name.starts_with(prefix),
            DetectLocal::ClusterCidr(_) | DetectLocal::NodeCidr | DetectLocal::Off => false,
        }
    }

    /// What packets that are masqueraded and leave here come from: the device's own address or, for
    /// a port, its bridge's.
    fn masquerade<A>(
        &self,
        device: &Device,
        of_family: impl Fn(IpAddr) -> Option<A> + Copy,
    ) -> Option<A> {
        let own = device.first_global(of_family);
        own.or_else(|| self.master(device).and_then(|master| master.first_global(of_family)))
    }
}

fn is_tunnel(device: &Device) -> bool {
    device.kind.as_deref().is_some_and(|kind| TUNNELS.contains(&kind))
}
