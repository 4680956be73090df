//! The single row of the `node` map.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use millrace_common::address::{Address, V4, V6};
use millrace_common::node::{NodeFamily, NodeRow, Prefix, node as flags};

use super::Device;
use super::ports::Range;
use crate::model::NodeFacts;
use crate::model::networks::{FamilyNetworks, ServiceNetworks};
use crate::settings::{DetectLocal, Policy};

/// No port may be used: the first lies behind the last.
const NO_PORTS: Range = (1, 0);

/// What the row is made of.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// What the operator wants.
    pub policy: &'a Policy,
    /// What the Node object says.
    pub facts: &'a NodeFacts,
    /// The node's devices.
    pub devices: &'a [Device],
    /// Ports for masqueraded flows.
    pub ports: Option<Range>,
    /// Where ClusterIPs are.
    pub services: &'a ServiceNetworks,
}

/// The row.
pub fn row(known: &Known<'_>) -> NodeRow {
    let v4 = family(known, v4_of, |device| device.default_v4, prefix_v4, &known.services.v4);
    let v6 = family(known, v6_of, |device| device.default_v6, prefix_v6, &known.services.v6);
    let mut bits = flags::KNOWN;
    if known.policy.masquerade_all {
        bits |= flags::MASQUERADE_ALL;
    }
    match detector(known.policy) {
        Detector::None => {}
        Detector::Device => bits |= flags::DETECTOR | flags::DETECT_BY_DEVICE,
        // A detector without a network to look for would take all the world for strangers.
        Detector::Address if v4.pods == Prefix::NONE && v6.pods == Prefix::NONE => {}
        Detector::Address => bits |= flags::DETECTOR,
    }
    if has_bridge_port(known.devices) {
        bits |= flags::BRIDGED;
    }
    let (first_port, last_port) = known.ports.unwrap_or(NO_PORTS);
    NodeRow { flags: bits, first_port, last_port, v4, v6 }
}

fn has_bridge_port(devices: &[Device]) -> bool {
    let mut bridges = devices.iter().filter(|device| device.kind.as_deref() == Some("bridge"));
    bridges.any(|bridge| devices.iter().any(|device| device.master == Some(bridge.index)))
}

fn family<A: Address>(
    known: &Known<'_>,
    of_family: fn(IpAddr) -> Option<A>,
    has_default: fn(&Device) -> bool,
    prefix: fn(&IpNetwork) -> Option<Prefix<A>>,
    services: &FamilyNetworks<A>,
) -> NodeFamily<A> {
    let named = known.facts.internal.iter().find_map(|address| of_family(*address));
    let uplinks = || known.devices.iter().filter(|device| has_default(device));
    let address = named.or_else(|| uplinks().find_map(|device| device.first_global(of_family)));
    NodeFamily {
        address: address.unwrap_or(A::ZERO),
        pods: pods(known).iter().find_map(prefix).unwrap_or(Prefix::NONE),
        service_hull: services.hull,
        service_cidrs: services.cidrs,
    }
}

/// Where pods' addresses are, if the detector goes by address.
fn pods<'a>(known: &Known<'a>) -> &'a [IpNetwork] {
    match &known.policy.detect_local {
        DetectLocal::ClusterCidr(networks) => networks,
        DetectLocal::NodeCidr => &known.facts.pod_cidrs,
        _ => &[],
    }
}

/// What the local-traffic detector goes by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Detector {
    None,
    Device,
    Address,
}

const fn detector(policy: &Policy) -> Detector {
    match policy.detect_local {
        DetectLocal::Off => Detector::None,
        DetectLocal::Attachment | DetectLocal::Bridge(_) | DetectLocal::NamePrefix(_) => {
            Detector::Device
        }
        DetectLocal::ClusterCidr(_) | DetectLocal::NodeCidr => Detector::Address,
    }
}

/// What a person should know about the row: what it is about, and what is wrong.
pub fn conditions(known: &Known<'_>, row: &NodeRow) -> Vec<(&'static str, String)> {
    let mut conditions = Vec::new();
    if row.first_port > row.last_port {
        let message = "no ports are left for masquerading: net.ipv4.ip_local_port_range and the \
                       NodePorts leave less than 1024; what must be masqueraded is dropped; \
                       narrow the range, or set --masquerade-ports together with \
                       net.ipv4.ip_local_reserved_ports";
        conditions.push(("masquerade ports", message.to_owned()));
    }
    if detector(known.policy) == Detector::Address {
        let networks = match known.policy.detect_local {
            DetectLocal::NodeCidr => "the Node's spec.podCIDRs",
            _ => "--cluster-cidr",
        };
        for (family, missing, other) in [
            ("IPv4", row.v4.pods == Prefix::NONE, row.v4.address != V4::ZERO),
            ("IPv6", row.v6.pods == Prefix::NONE, row.v6.address != V6::ZERO),
        ] {
            if missing && other {
                let message = format!(
                    "{networks} has no {family} network: pods' {family} packets are not told from \
                     others; add one, or use --detect-local-mode Attachment"
                );
                conditions.push(("local-traffic detector", message));
            }
        }
    }
    conditions
}

/// An IPv4 address.
pub(super) fn v4_of(address: IpAddr) -> Option<V4> {
    match address {
        IpAddr::V4(address) => Some(address.into()),
        IpAddr::V6(_) => None,
    }
}

/// An IPv6 address.
pub(super) fn v6_of(address: IpAddr) -> Option<V6> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(address.into()),
    }
}

/// An IPv4 network as rows have it.
pub fn prefix_v4(network: &IpNetwork) -> Option<Prefix<V4>> {
    Some(Prefix { address: v4_of(network.network())?, mask: v4_of(network.mask())? })
}

/// An IPv6 network as rows have it.
pub fn prefix_v6(network: &IpNetwork) -> Option<Prefix<V6>> {
    Some(Prefix { address: v6_of(network.network())?, mask: v6_of(network.mask())? })
}
