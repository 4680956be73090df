//! What one Service should look like on this node: the model's answer, the plan's question.

use std::collections::BTreeSet;
use std::net::IpAddr;

use millrace_common::address::{Address, Be16, Protocol, V4, V6};
use millrace_common::frontend::{FrontendKey, Kind, flags};

use super::admission::{Admission, Granted};
use super::family::PerFamily;
use super::node::Node;
use super::problem::Problem;
use super::service::{Port, Service};
use super::slice::Slice;
use super::sources::{Range, Sources};
use super::topology::{self, Facts, Policy, fact};
use super::zones::Zones;
use crate::settings::{self, NodePortAddresses};
use crate::source::SharedName;

/// Frontends that one Service may ask for, of each family: its ports times its addresses. Both
/// numbers are its author's, so their product must not be built before it is looked at.
pub const SERVICE_FRONTENDS_MAX: usize = 65_536;
/// Backends that one Service may have, of each family: endpoints, once per port.
pub const SERVICE_BACKENDS_MAX: usize = 1 << 20;

/// One Service on this node. No ports: it should not exist.
#[derive(Clone, PartialEq, Debug)]
pub struct Desired {
    /// The Service.
    pub service: SharedName,
    /// Its ports, in the order of the object.
    pub ports: Vec<DesiredPort>,
    /// What load balancers are told about it, if they ask this node.
    pub health: Option<HealthCheck>,
    /// Fields of it and of its slices that cannot be used, whatever else there is.
    pub problems: Vec<Problem>,
    /// What of it is not used because of other objects.
    pub clashes: Vec<Problem>,
    /// It is larger than any Service may be, and not to be planned; why.
    pub too_large: Option<String>,
}

/// A Service's healthCheckNodePort, and how many endpoints on this node are ready.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HealthCheck {
    /// The port.
    pub port: u16,
    /// Different IPv4 addresses of ready endpoints on this node; nothing: no IPv4 Service.
    pub v4: Option<usize>,
    /// The same for IPv6.
    pub v6: Option<usize>,
}

impl HealthCheck {
    /// The same with nobody there: for a Service that could not be served.
    pub fn without_endpoints(self) -> Self {
        Self { v4: self.v4.map(|_| 0), v6: self.v6.map(|_| 0), ..self }
    }
}

/// One port of it.
#[derive(Clone, PartialEq, Debug)]
pub struct DesiredPort {
    /// Name of the port; empty is a name.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// IPv4.
    pub v4: DesiredFamily<V4>,
    /// IPv6.
    pub v6: DesiredFamily<V6>,
}

/// One port, one family. Lists are sorted and name nothing twice.
#[derive(Clone, PartialEq, Debug)]
pub struct DesiredFamily<A> {
    /// Backends under policy Cluster.
    pub cluster: Vec<BackendAddress<A>>,
    /// Backends under policy Local.
    pub local: Vec<BackendAddress<A>>,
    /// All endpoints that still serve, listed or not: they may keep the flows they have.
    pub serving: Vec<BackendAddress<A>>,
    /// What clients dial; no key twice.
    pub frontends: Vec<DesiredFrontend<A>>,
    /// Who may use the frontends that have [`flags::SOURCE_RANGES`].
    pub sources: Vec<Range<A>>,
}

/// Where a backend listens.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BackendAddress<A> {
    /// Address.
    pub address: A,
    /// Port.
    pub port: Be16,
}

/// Which of the two lists, if any.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum List {
    /// None: a frontend that refuses whatever endpoints there are.
    Nobody,
    /// Policy Cluster.
    Cluster,
    /// Policy Local.
    Local,
}

/// A frontend row, but for the ids.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct DesiredFrontend<A> {
    /// What clients dial.
    pub key: FrontendKey<A>,
    /// What kind of address it is.
    pub kind: Kind,
    /// For clients on this node.
    pub near: List,
    /// For traffic from outside.
    pub far: List,
    /// All [`flags`] of the row, kind included.
    pub flags: u32,
    /// Affinity timeout; 0: none.
    pub affinity_secs: u32,
}

impl<A> Default for DesiredFamily<A> {
    fn default() -> Self {
        Self {
            cluster: Vec::new(),
            local: Vec::new(),
            serving: Vec::new(),
            frontends: Vec::new(),
            sources: Vec::new(),
        }
    }
}

impl<A> DesiredFamily<A> {
    /// The backends of a list.
    pub fn list(&self, list: List) -> &[BackendAddress<A>] {
        match list {
            List::Nobody => &[],
            List::Cluster => &self.cluster,
            List::Local => &self.local,
        }
    }
}

impl Desired {
    /// A Service that should not exist.
    pub fn absent(service: impl Into<SharedName>) -> Self {
        Self {
            service: service.into(),
            ports: Vec::new(),
            health: None,
            problems: Vec::new(),
            clashes: Vec::new(),
            too_large: None,
        }
    }
}

/// All that decides what a Service looks like.
pub(super) struct View<'a> {
    pub(super) service: &'a Service,
    /// In the order of their names.
    pub(super) slices: Vec<(&'a SharedName, &'a Slice)>,
    /// Which slices have which ports.
    pub(super) joins: Joins<'a>,
    pub(super) node: &'a Node,
    pub(super) zones: &'a Zones,
    pub(super) policy: &'a settings::Policy,
    pub(super) admission: Admission<'a>,
}

/// Names and protocols of ports, which slice has them (by number), and which number they have
/// there; sorted.
type Joins<'a> = Vec<(&'a str, Protocol, usize, Be16)>;

/// Which ports the slices have.
pub(super) fn join<'a>(slices: &[(&'a SharedName, &'a Slice)]) -> Joins<'a> {
    let mut joins: Joins<'a> = Vec::with_capacity(slices.len());
    for (index, (_, slice)) in slices.iter().enumerate() {
        joins.extend(slice.ports.iter().map(|port| (&*port.name, port.protocol, index, port.port)));
    }
    // Stable: ports of one slice stay in the order in which it has them.
    joins.sort_by_key(|(name, protocol, index, _)| (*name, *protocol, *index));
    joins
}

impl View<'_> {
    /// Why the Service is larger than one may be.
    pub(super) fn too_large(&self) -> Option<String> {
        let frontends = self.frontend_count::<V4>().max(self.frontend_count::<V6>());
        if frontends > SERVICE_FRONTENDS_MAX {
            return Some(format!(
                "its ports times its addresses are {frontends} frontends; more than \
                 {SERVICE_FRONTENDS_MAX} are not served: give it fewer externalIPs or ports, or \
                 make several Services of it"
            ));
        }
        let backends = self.backend_count::<V4>().max(self.backend_count::<V6>());
        (backends > SERVICE_BACKENDS_MAX).then(|| {
            format!(
                "its ports times its endpoints are {backends} backends; more than \
                 {SERVICE_BACKENDS_MAX} are not served: make several Services of it"
            )
        })
    }

    fn frontend_count<A: PerFamily>(&self) -> usize {
        let Some(addresses) = A::addresses(self.service) else { return 0 };
        let asked = 1 + addresses.external.len() + addresses.balancers.len();
        let ports = &self.service.ports;
        let asked = asked.saturating_mul(ports.len());
        let with_node_port = ports.iter().filter(|port| port.node_port != 0).count();
        if with_node_port == 0 {
            return asked;
        }
        let node = self.node.node_port_addresses::<A>(&self.policy.node_port_addresses).len()
            + A::LOOPBACK.len();
        asked.saturating_add(node.saturating_mul(with_node_port))
    }

    fn backend_count<A: PerFamily>(&self) -> usize {
        let joined = self.service.ports.iter().flat_map(|port| self.joined(port));
        let count = |index: usize| A::endpoints(self.slices[index].1).len();
        joined.fold(0_usize, |sum, (index, _)| sum.saturating_add(count(index)))
    }

    /// The slices that have the port, by their number, and its number in each.
    fn joined(&self, port: &Port) -> impl Iterator<Item = (usize, Be16)> {
        let wanted = (&*port.name, port.protocol);
        let first = self.joins.partition_point(|join| (join.0, join.1) < wanted);
        let joined = self.joins.iter().skip(first);
        let joined = joined.take_while(move |join| (join.0, join.1) == wanted);
        joined.map(|(_, _, index, number)| (*index, *number))
    }

    /// Ports that have an address to be served on.
    pub(super) fn ports(&self) -> Vec<DesiredPort> {
        let (v4, v6) = (self.granted::<V4>(), self.granted::<V6>());
        let ports = self.service.ports.iter().map(|port| DesiredPort {
            name: port.name.to_string(),
            protocol: port.protocol,
            v4: self.family(port, v4.as_ref()),
            v6: self.family(port, v6.as_ref()),
        });
        ports.filter(|p| !p.v4.frontends.is_empty() || !p.v6.frontends.is_empty()).collect()
    }

    fn granted<A: PerFamily>(&self) -> Option<Granted<A>> {
        A::addresses(self.service).map(|wanted| self.admission.grant(wanted, &self.slices))
    }

    /// What its healthCheckNodePort says.
    pub(super) fn health(&self) -> Option<HealthCheck> {
        let port = self.service.health_check_port;
        (port != 0).then(|| HealthCheck {
            port,
            v4: self.local_ready::<V4>(),
            v6: self.local_ready::<V6>(),
        })
    }

    /// Ready endpoints on this node, each address once whatever ports it has. Those that terminate
    /// do not count, though they serve on: that is how a load balancer learns to go elsewhere.
    fn local_ready<A: PerFamily>(&self) -> Option<usize> {
        A::addresses(self.service)?;
        let slices = self.slices.iter().filter(|(_, slice)| !slice.ports.is_empty());
        let endpoints = slices.flat_map(|(_, slice)| A::endpoints(slice));
        let ready = endpoints.filter(|e| Facts(e.facts).has(fact::LOCAL | fact::READY));
        Some(ready.map(|endpoint| endpoint.address).collect::<BTreeSet<A>>().len())
    }

    fn family<A: PerFamily>(&self, port: &Port, granted: Option<&Granted<A>>) -> DesiredFamily<A> {
        let dialled = self.dialled::<A>(port, granted);
        if dialled.is_empty() {
            return DesiredFamily::default();
        }
        let policy = Policy {
            internal_local: self.service.internal_local,
            external_local: self.service.external_local,
            external: dialled.iter().any(|(_, kind)| *kind != Kind::ClusterIp),
        };
        let (places, facts): (Vec<_>, Vec<_>) = self.endpoints::<A>(port).into_iter().unzip();
        let selection = topology::select(&facts, policy);
        let pick = |indexes: &[usize]| indexes.iter().map(|index| places[*index]).collect();
        let serving = |index: &usize| facts[*index].has(fact::SERVING);
        let mut family = DesiredFamily {
            cluster: pick(&selection.cluster),
            local: pick(&selection.local),
            serving: (0..places.len()).filter(serving).map(|index| places[index]).collect(),
            frontends: Vec::with_capacity(dialled.len()),
            sources: Vec::new(),
        };
        let is_balancer = dialled.iter().any(|(_, kind)| *kind == Kind::LoadBalancer);
        let addresses = A::addresses(self.service).filter(|_| is_balancer);
        let sources = addresses.and_then(|addresses| Sources::of(addresses, self.node));
        let source_flags = sources.as_ref().map_or(0, |sources| {
            flags::SOURCE_RANGES | if sources.node { flags::NODE_ALLOWED } else { 0 }
        });
        for (key, kind) in dialled {
            let mut frontend = self.frontend(key, kind, &family, selection.has_any);
            if kind == Kind::LoadBalancer {
                frontend.flags |= source_flags;
            }
            family.frontends.push(frontend);
        }
        family.sources = sources.map(|sources| sources.ranges).unwrap_or_default();
        family
    }

    /// What clients dial for this port. When one address is of two kinds, that of the first kind
    /// here: a service address comes before the node's, and the kind that asks for a source range
    /// before the one that lets everybody in.
    fn dialled<A: PerFamily>(
        &self,
        port: &Port,
        granted: Option<&Granted<A>>,
    ) -> Vec<(FrontendKey<A>, Kind)> {
        let (Some(addresses), Some(granted)) = (A::addresses(self.service), granted) else {
            return Vec::new();
        };
        let circles = |ip: &A| self.admission.circles(granted, *ip, port.port, port.protocol);
        let balancers = granted.balancers.iter().copied();
        let balancers: Vec<A> = balancers.filter(|ip| !circles(ip)).collect();
        let mut dialled = Vec::new();
        let mut add = |number: u16, found: &[A], kind: Kind| {
            let key =
                |address: &A| FrontendKey::new(*address, Be16::new(number), port.protocol as u8);
            dialled.extend(found.iter().map(|address| (key(address), kind)));
        };
        add(port.port, &[addresses.cluster], Kind::ClusterIp);
        add(port.port, &balancers, Kind::LoadBalancer);
        add(port.port, &granted.external, Kind::ExternalIp);
        if port.node_port != 0 {
            let loopback: Vec<A> = A::LOOPBACK.iter().filter_map(|ip| A::from_ip(*ip)).collect();
            let which = &self.policy.node_port_addresses;
            add(port.node_port, &self.node.node_port_addresses(which), Kind::NodePort);
            // Networks that somebody lists are meant to be all there are.
            let is_listed = matches!(which, NodePortAddresses::Networks(_));
            if self.policy.localhost_node_ports && !is_listed {
                add(port.node_port, &loopback, Kind::NodePort);
            }
        }
        // Stable: the first kind stays.
        dialled.sort_by_key(|(key, _)| *key);
        dialled.dedup_by_key(|(key, _)| *key);
        dialled
    }

    /// The row of one frontend, but for the ids.
    fn frontend<A: PerFamily>(
        &self,
        key: FrontendKey<A>,
        kind: Kind,
        family: &DesiredFamily<A>,
        has_any: bool,
    ) -> DesiredFrontend<A> {
        let list = |local: bool| if local { List::Local } else { List::Cluster };
        // Clients on this node reach an external frontend's whole cluster, whatever its policy.
        let (near, far) = match kind {
            Kind::ClusterIp => {
                (list(self.service.internal_local), list(self.service.internal_local))
            }
            _ => (List::Cluster, list(self.service.external_local)),
        };
        let drops = |list| has_any && family.list(list).is_empty();
        let address: IpAddr = key.address.into();
        let affinity_secs = self.service.affinity_secs;
        let bits = [
            (affinity_secs != 0, flags::AFFINITY),
            (address.is_loopback() || address.is_unspecified(), flags::NODE_ONLY),
            (drops(near), flags::NEAR_DROP),
            (drops(far), flags::FAR_DROP),
            (near == List::Local, flags::NEAR_LOCAL),
            (far == List::Local, flags::FAR_LOCAL),
        ];
        let set = bits.iter().filter(|(holds, _)| *holds);
        let flags = set.fold(kind.bits(), |flags, (_, bit)| flags | bit);
        DesiredFrontend { key, kind, near, far, flags, affinity_secs }
    }

    /// All endpoints of the port, each address once, sorted. A pod that runs wins over one that
    /// terminates and had the same address before it.
    fn endpoints<A: PerFamily>(&self, port: &Port) -> Vec<(BackendAddress<A>, Facts)> {
        let mut found = Vec::new();
        for (index, number) in self.joined(port) {
            let (name, slice) = self.slices[index];
            let endpoints = A::endpoints(slice);
            found.reserve(endpoints.len());
            for endpoint in endpoints {
                let place = BackendAddress { address: endpoint.address, port: number };
                let facts = Facts(endpoint.facts | self.zone_facts(endpoint.zones));
                if self.admission.admits(place.address, number, port.protocol, name) {
                    found.push((place, facts));
                }
            }
        }
        // Stable: of several that run, the last one has the address.
        found.sort_by_key(|(place, _)| *place);
        found.dedup_by(|next, kept| {
            let is_same = next.0 == kept.0;
            if is_same && !next.1.has(fact::TERMINATING) {
                kept.1 = next.1;
            }
            is_same
        });
        found
    }

    fn zone_facts(&self, set: u16) -> u8 {
        if set == 0 {
            return 0;
        }
        let ours = |zone: &str| self.zones.contains(set, zone);
        match &self.node.zone {
            Some(zone) if ours(zone) => fact::ZONE_HINTED | fact::OUR_ZONE,
            _ => fact::ZONE_HINTED,
        }
    }
}

impl<A: Address> std::fmt::Display for BackendAddress<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::net::SocketAddr::new(self.address.into(), self.port.get()).fmt(f)
    }
}
