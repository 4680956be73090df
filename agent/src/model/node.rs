//! This node: its zone, its addresses, and those of them that NodePorts are served on.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::address::{parse_address, unusable};
use super::family::PerFamily;
use super::problem::Reading;
use crate::settings::NodePortAddresses;
use crate::source::{labels, slim};

/// The taint that the cluster autoscaler puts on a node it is about to remove.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// What is known about this node. Deleting the Node object forgets nothing: it may come back, and
/// traffic should not change meanwhile.
#[derive(Default)]
pub(super) struct Node {
    /// The Node object was seen.
    known: bool,
    /// A list of Nodes was complete.
    listed: bool,
    /// Load balancers may send to it: it is there, and is not about to go.
    eligible: bool,
    pub(super) zone: Option<Box<str>>,
    /// From the Node object.
    internal: Vec<IpAddr>,
    facts: NodeFacts,
    /// From the interfaces, all that can be dialled from elsewhere.
    interfaces: Vec<IpAddr>,
    /// The operator's word for the primary address of its family.
    primary: Option<IpAddr>,
}

/// What the packet path uses of the Node object, in the object's order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeFacts {
    /// Its addresses of type InternalIP.
    pub internal: Vec<IpAddr>,
    /// Its addresses of type ExternalIP.
    pub external: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNetwork>,
}

impl NodeFacts {
    fn read(object: &slim::Node) -> Self {
        let of_type = |type_: &str| {
            let addresses = object.status.addresses.iter().filter(|a| a.type_ == type_);
            let parsed = addresses.filter_map(|address| parse_address(&address.address));
            parsed.filter(|ip| unusable(*ip).is_none()).collect()
        };
        let pod_cidrs = object.spec.pod_cidrs.iter();
        Self {
            internal: of_type("InternalIP"),
            external: of_type("ExternalIP"),
            pod_cidrs: pod_cidrs.filter_map(|network| network.parse().ok()).collect(),
        }
    }
}

/// What changed with an update.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Changed {
    pub(super) zone: bool,
    pub(super) addresses: bool,
}

impl Node {
    /// The operator's word for the primary address of its family.
    pub(super) fn set_primary(&mut self, primary: Option<IpAddr>) -> Changed {
        let changed = Changed { zone: false, addresses: primary != self.primary };
        self.primary = primary;
        changed
    }

    /// Take the Node object in.
    pub(super) fn update(&mut self, object: &slim::Node, reading: &mut Reading) -> Changed {
        // An empty label matches no hint, like none at all.
        let label = object.metadata.labels.get(labels::ZONE).filter(|zone| !zone.is_empty());
        let zone: Option<Box<str>> = label.map(Into::into);
        let internal = internal_addresses(&object.status.addresses, reading);
        let facts = NodeFacts::read(object);
        let addresses = internal != self.internal || facts != self.facts || !self.known;
        let changed = Changed { zone: zone != self.zone, addresses };
        self.known = true;
        let is_leaving = object.spec.taints.iter().any(|taint| taint.key == TO_BE_DELETED);
        self.eligible = object.metadata.deletion_timestamp.is_none() && !is_leaving;
        self.zone = zone;
        self.internal = internal;
        self.facts = facts;
        changed
    }

    /// It is known whether there is a Node object.
    pub(super) fn listed(&mut self) -> Changed {
        let changed = Changed { zone: false, addresses: !self.listed && !self.known };
        self.listed = true;
        changed
    }

    /// Whether it is an address of this node's own. Those that the Node object names: a load
    /// balancer's address may well be on an interface of the node that it has chosen. Without any,
    /// those of the interfaces.
    pub(super) fn owns(&self, address: IpAddr) -> bool {
        let NodeFacts { internal, external, .. } = &self.facts;
        if internal.is_empty() && external.is_empty() {
            return self.listed && self.interfaces.contains(&address);
        }
        internal.contains(&address) || external.contains(&address)
    }

    /// Where its pods' addresses are.
    pub(super) fn pod_cidrs(&self) -> &[IpNetwork] {
        &self.facts.pod_cidrs
    }

    /// What the packet path uses of the object; the primary address comes first.
    pub(super) fn facts(&self) -> NodeFacts {
        let mut facts = self.facts.clone();
        if let Some(primary) = self.primary {
            facts.internal.retain(|address| *address != primary);
            facts.internal.insert(0, primary);
        }
        facts
    }

    /// The Node object is gone. Its zone and addresses are kept; that it may be sent to is not.
    pub(super) const fn is_gone(&mut self) {
        self.eligible = false;
    }

    /// Whether load balancers may send to it.
    pub(super) const fn is_eligible(&self) -> bool {
        self.eligible
    }

    /// Whether the Node object was ever seen.
    pub(super) const fn is_known(&self) -> bool {
        self.known
    }

    /// Take the addresses of the interfaces in.
    pub(super) fn update_interfaces(&mut self, addresses: Vec<IpAddr>) -> Changed {
        let mut kept: Vec<IpAddr> =
            addresses.into_iter().filter(|address| is_dialled(*address)).collect();
        kept.sort_unstable();
        kept.dedup();
        let changed = Changed { zone: false, addresses: kept != self.interfaces };
        self.interfaces = kept;
        changed
    }

    /// Its own addresses: the operator's word, else those the Node object names, else those of the
    /// interfaces.
    pub(super) fn addresses<A: PerFamily>(&self) -> Vec<A> {
        let primary: Vec<A> = of_family(self.primary.iter());
        if !primary.is_empty() {
            return primary;
        }
        let named: Vec<A> = of_family(self.internal.iter());
        if !named.is_empty() {
            return named;
        }
        of_family(self.interfaces.iter().filter(|ip| unusable(**ip).is_none()))
    }

    /// The addresses NodePorts are served on.
    pub(super) fn node_port_addresses<A: PerFamily>(&self, which: &NodePortAddresses) -> Vec<A> {
        match which {
            NodePortAddresses::Primary => self.addresses(),
            NodePortAddresses::All => of_family(self.interfaces.iter()),
            // As kube-proxy has it, a family that no network is given of is not restricted.
            NodePortAddresses::Networks(networks)
                if !networks.iter().any(|network| A::from_ip(network.ip()).is_some()) =>
            {
                of_family(self.interfaces.iter())
            }
            NodePortAddresses::Networks(networks) => {
                let inside = |ip: &&IpAddr| networks.iter().any(|network| network.contains(**ip));
                of_family(self.interfaces.iter().filter(inside))
            }
        }
    }
}

fn of_family<'a, A: PerFamily>(addresses: impl Iterator<Item = &'a IpAddr>) -> Vec<A> {
    addresses.filter_map(|ip| A::from_ip(*ip)).collect()
}

/// Whether others can dial an address of an interface. An IPv6 link-local one takes the interface
/// as well, which no frontend has; IPv4 ones are served (node-local caches have them).
fn is_dialled(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) if v4.is_link_local() => true,
        _ => unusable(address).is_none(),
    }
}

fn internal_addresses(addresses: &[slim::NodeAddress], reading: &mut Reading) -> Vec<IpAddr> {
    let mut kept = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        if address.type_ != "InternalIP" {
            continue;
        }
        let why = match parse_address(&address.address) {
            None => "not an IP address",
            Some(ip) => match unusable(ip) {
                Some(why) => why,
                None => {
                    kept.push(ip);
                    continue;
                }
            },
        };
        let fix = format!("{why}: NodePorts are not served on it; correct the kubelet's --node-ip");
        reading.skip(format!("status.addresses[{index}].address"), &address.address, fix);
    }
    kept.sort_unstable();
    kept.dedup();
    kept
}
