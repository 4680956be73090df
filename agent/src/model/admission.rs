//! Which of the addresses a Service asks for it gets, and where endpoints must not be.
//!
//! A Service's author may write any address into `externalIPs` (CVE-2020-8554) and into the status
//! of a load balancer; whoever writes EndpointSlices may name any address as an endpoint
//! (CVE-2021-25737, CVE-2021-25740). What belongs to somebody else is refused, one address at a
//! time, and said. Nobody can take an address from its owner, nor have it refused to its owner:
//! an externalIP gives way to an endpoint, an endpoint to a ClusterIP or a load balancer's address.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use millrace_common::address::{Be16, Protocol};

use super::Entry;
use super::family::PerFamily;
use super::networks::Apart;
use super::node::Node;
use super::problem::{Problem, Reading};
use super::registry::Registry;
use super::service::{Addresses, Port};
use super::slice::Slice;
use crate::hash::{HashMap, HashSet};
use crate::settings::DetectLocal;
use crate::source::{Kind, SharedName};

/// Everything that decides.
pub(super) struct Admission<'a> {
    pub(super) registry: &'a Registry,
    pub(super) service_cidrs: &'a Apart,
    pub(super) node: &'a Node,
    pub(super) api_servers: &'a BTreeSet<IpAddr>,
    pub(super) detect_local: &'a DetectLocal,
    pub(super) services: &'a HashMap<SharedName, Entry>,
    /// The Service in question.
    pub(super) name: &'a SharedName,
    /// What was refused.
    pub(super) clashes: RefCell<Clashes>,
}

/// What was refused, by object.
#[derive(Default)]
pub(super) struct Clashes {
    readings: Vec<(Kind, SharedName, Reading)>,
}

impl Clashes {
    fn say(&mut self, kind: Kind, object: &SharedName, field: String, fix: String) {
        let known = self.readings.iter().position(|(k, name, _)| *k == kind && name == object);
        let index = known.unwrap_or_else(|| {
            let reading = Reading::new(kind, object.clone());
            self.readings.push((kind, object.clone(), reading));
            self.readings.len() - 1
        });
        self.readings[index].2.skip_once(field, fix);
    }

    pub(super) fn finish(self) -> Vec<Problem> {
        self.readings.into_iter().flat_map(|(_, _, reading)| reading.finish()).collect()
    }
}

/// How a Service asks for an address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    External,
    Balancer,
}

/// What a Service gets of one family, besides its ClusterIP.
pub(super) struct Granted<A> {
    pub(super) external: Vec<A>,
    pub(super) balancers: Vec<A>,
    /// Endpoints of the Service itself that are on its load balancer's addresses.
    own: HashSet<(A, Be16, Protocol)>,
}

impl Admission<'_> {
    /// What the Service gets.
    pub(super) fn grant<A: PerFamily>(
        &self,
        addresses: &Addresses<A>,
        slices: &[(&SharedName, &Slice)],
    ) -> Granted<A> {
        let balancers = self.granted(&addresses.balancers, Asked::Balancer);
        Granted {
            external: self.granted(&addresses.external, Asked::External),
            own: self.own_endpoints(&balancers, slices),
            balancers,
        }
    }

    fn own_endpoints<A: PerFamily>(
        &self,
        balancers: &[A],
        slices: &[(&SharedName, &Slice)],
    ) -> HashSet<(A, Be16, Protocol)> {
        let taken = self.registry.of::<A>();
        let meant = balancers.iter().copied().filter(|address| taken.is_endpoint(*address));
        let meant: HashSet<A> = meant.collect();
        let mut own = HashSet::default();
        if meant.is_empty() {
            return own;
        }
        for (_, slice) in slices {
            let addresses = A::endpoints(slice).iter().map(|endpoint| endpoint.address);
            for address in addresses.filter(|address| meant.contains(address)) {
                own.extend(slice.ports.iter().map(|port| (address, port.port, port.protocol)));
            }
        }
        own
    }

    fn granted<A: PerFamily>(&self, wanted: &[A], asked: Asked) -> Vec<A> {
        let mut granted = Vec::with_capacity(wanted.len());
        for &address in wanted {
            match self.owner(address, asked) {
                None => granted.push(address),
                Some(owner) => {
                    let field = match asked {
                        Asked::External => "spec.externalIPs",
                        Asked::Balancer => "status.loadBalancer.ingress",
                    };
                    let ip: IpAddr = address.into();
                    let fix = format!(
                        "{owner}: it is not served, or what is sent there would be taken from its \
                         owner; use another address"
                    );
                    self.clashes.borrow_mut().say(
                        Kind::Service,
                        self.name,
                        format!("{field} {ip}"),
                        fix,
                    );
                }
            }
        }
        granted
    }

    /// Whose the address is; nothing if it may be asked for.
    fn owner<A: PerFamily>(&self, address: A, asked: Asked) -> Option<&'static str> {
        let ip: IpAddr = address.into();
        let taken = self.registry.of::<A>();
        if self.node.owns(ip) {
            return Some("an address of this node");
        }
        if self.api_servers.contains(&ip) {
            return Some("an address of the API server");
        }
        if taken.is_cluster_ip(address) {
            return Some("the ClusterIP of a Service");
        }
        if self.service_cidrs.contains(address) {
            return Some("in a ServiceCIDR, where ClusterIPs are");
        }
        if self.node.pod_cidrs().iter().any(|network| network.contains(ip)) {
            return Some("in this node's network of pods (spec.podCIDRs)");
        }
        // A load balancer's address is written by whoever runs it, and clouds take it from the
        // network that nodes and pods are in.
        if asked == Asked::Balancer {
            return None;
        }
        if cluster_cidrs(self.detect_local).iter().any(|network| network.contains(ip)) {
            return Some("in the network of pods (--cluster-cidr)");
        }
        taken.is_endpoint(address).then_some("the address of an endpoint")
    }

    /// Whether clients may be led to this endpoint of the Service.
    pub(super) fn admits<A: PerFamily>(
        &self,
        address: A,
        port: Be16,
        protocol: Protocol,
        slice: &SharedName,
    ) -> bool {
        let Some(why) = self.frontend_at(address, port, protocol) else { return true };
        let ip: IpAddr = address.into();
        let fix = format!(
            "{why}: the endpoint gets no traffic, or it would be led from Service to Service, \
             perhaps in a circle; name the address of a pod or of a server"
        );
        let field = format!("endpoints {ip}");
        self.clashes.borrow_mut().say(Kind::EndpointSlice, slice, field, fix);
        false
    }

    /// The frontend that an endpoint is on.
    fn frontend_at<A: PerFamily>(
        &self,
        address: A,
        port: Be16,
        protocol: Protocol,
    ) -> Option<&'static str> {
        let taken = self.registry.of::<A>();
        if taken.is_cluster_ip(address) {
            return Some("the ClusterIP of a Service");
        }
        if self.service_cidrs.contains(address) {
            return Some("in a ServiceCIDR, where ClusterIPs are");
        }
        let others = taken.balanced(address).iter().filter(|other| *other != self.name);
        let mut services = others.filter_map(|other| self.services.get(other)?.service.as_ref());
        let has = |port_of: &Port| port_of.port == port.get() && port_of.protocol == protocol;
        let is_balanced = services.any(|service| service.ports.iter().any(has));
        let is_served = is_balanced && self.owner(address, Asked::Balancer).is_none();
        is_served.then_some("a load balancer's address and port of another Service")
    }

    /// Whether an endpoint of the Service itself is on this load balancer address and port: then
    /// whoever dials it gets there without us.
    pub(super) fn circles<A: PerFamily>(
        &self,
        granted: &Granted<A>,
        address: A,
        port: u16,
        protocol: Protocol,
    ) -> bool {
        let found = granted.own.contains(&(address, Be16::new(port), protocol));
        if found {
            let ip: IpAddr = address.into();
            let fix = format!(
                "an endpoint of the Service itself on port {port}: left to that, or it would be \
                 led in a circle; nothing to do if that is meant"
            );
            let field = format!("status.loadBalancer.ingress {ip}");
            self.clashes.borrow_mut().say(Kind::Service, self.name, field, fix);
        }
        found
    }
}

/// Networks of pods that the operator named.
pub(super) fn cluster_cidrs(detect_local: &DetectLocal) -> &[IpNetwork] {
    match detect_local {
        DetectLocal::ClusterCidr(networks) => networks,
        _ => &[],
    }
}
