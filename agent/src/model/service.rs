//! Services, cut down to what planning reads.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use millrace_common::address::{Protocol, V4, V6};
use millrace_common::service::ServiceRow;

use super::address::{parse_address, parse_range, unusable};
use super::family::PerFamily;
use super::names::{is_plain, is_unusable};
use super::problem::Reading;
use super::slice::family_name;
use crate::hash::HashSet;
use crate::settings::ExternalIps;
use crate::source::slim::{self, ServiceSpec};
use crate::source::{ObjectName, labels};

/// Affinity timeout when none is given: the API's default.
const AFFINITY_DEFAULT_SECS: u32 = 10_800;
/// The longest the API allows.
const AFFINITY_MAX_SECS: i32 = 86_400;

/// One Service.
#[derive(Clone, PartialEq, Default)]
pub(super) struct Service {
    pub(super) v4: Option<Box<Addresses<V4>>>,
    pub(super) v6: Option<Box<Addresses<V6>>>,
    pub(super) ports: Box<[Port]>,
    /// `internalTrafficPolicy: Local`.
    pub(super) internal_local: bool,
    /// `externalTrafficPolicy: Local`, on a Service that can have one.
    pub(super) external_local: bool,
    /// 0: no affinity.
    pub(super) affinity_secs: u32,
    /// Where load balancers ask whether this node has endpoints of it; 0: nowhere.
    pub(super) health_check_port: u16,
}

/// Its addresses of one family.
#[derive(Clone, PartialEq)]
pub(super) struct Addresses<A> {
    pub(super) cluster: A,
    pub(super) external: Box<[A]>,
    pub(super) balancers: Box<[A]>,
    /// Who may use the load balancer addresses; empty: everybody.
    pub(super) ranges: Box<[IpNetwork]>,
}

/// One of its ports.
#[derive(Clone, PartialEq)]
pub(super) struct Port {
    pub(super) name: Box<str>,
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    /// 0: none.
    pub(super) node_port: u16,
}

impl Service {
    /// Whether it asks for addresses that may be somebody else's.
    fn asks_for_addresses(&self) -> bool {
        let asks_v4 = |a: &Addresses<V4>| !a.external.is_empty() || !a.balancers.is_empty();
        let asks_v6 = |a: &Addresses<V6>| !a.external.is_empty() || !a.balancers.is_empty();
        self.v4.as_deref().is_some_and(asks_v4) || self.v6.as_deref().is_some_and(asks_v6)
    }

    /// Whether anything of it depends on the node's addresses: where NodePorts are, whether source
    /// ranges let the node in, and whether it asks for one of them.
    pub(super) fn depends_on_node(&self) -> bool {
        let v4 = self.v4.as_ref().is_some_and(|found| !found.ranges.is_empty());
        let v6 = self.v6.as_ref().is_some_and(|found| !found.ranges.is_empty());
        v4 || v6 || self.asks_for_addresses() || self.ports.iter().any(|port| port.node_port != 0)
    }

    /// The compact form, or nothing if the Service is not for us to serve. What cannot be used is
    /// left out and reported.
    pub(super) fn read(
        object: &slim::Service,
        name: &ObjectName,
        external_ips: &ExternalIps,
        reading: &mut Reading,
    ) -> Option<Self> {
        let spec = &object.spec;
        let elsewhere = object.metadata.labels.get(labels::PROXY_NAME).is_some();
        if elsewhere || spec.cluster_ip == "None" || spec.type_ == "ExternalName" {
            return None;
        }
        if spec.cluster_ip.is_empty() {
            let fix = "empty: the Service is not served; give it an address, or None";
            reading.skip("spec.clusterIP", "", fix);
            return None;
        }
        if is_unusable(name) {
            let fix = "not a name that Kubernetes allows: the Service is not served; use lower \
                       case letters, digits and hyphens";
            reading.skip("metadata.name", "", fix);
            return None;
        }
        if ServiceRow::new(&name.namespace, &name.name, "", 0).is_none() {
            let fix = "longer than Kubernetes allows: the Service is not served; use at most 63 \
                       characters for the name and for the namespace";
            reading.skip("metadata.name", "", fix);
            return None;
        }
        check_kinds(spec, reading);
        let lists = Lists::read(object, external_ips, reading);
        Some(Self {
            v4: lists.family(spec, reading).map(Box::new),
            v6: lists.family(spec, reading).map(Box::new),
            ports: read_ports(&spec.ports, reading),
            internal_local: is_local(spec, Policy::Internal, reading),
            external_local: is_local(spec, Policy::External, reading)
                && can_have_external_policy(spec),
            affinity_secs: affinity_secs(spec, reading),
            health_check_port: health_check_port(spec, reading),
        })
    }
}

/// Words of enumerations that we do not know. What depends on them is not served, or served as if
/// they were not there.
fn check_kinds(spec: &ServiceSpec, reading: &mut Reading) {
    if !["", "ClusterIP", "NodePort", "LoadBalancer"].contains(&spec.type_.as_str()) {
        let fix = "not a type: what the other fields ask for is served, without \
                   externalTrafficPolicy; use ClusterIP, NodePort or LoadBalancer";
        reading.skip("spec.type", &spec.type_, fix);
    }
    for (index, family) in spec.ip_families.iter().enumerate() {
        if !["IPv4", "IPv6"].contains(&family.as_str()) {
            let fix = "not an IP family: its address is not served; use IPv4 or IPv6";
            reading.skip(format!("spec.ipFamilies[{index}]"), family, fix);
        }
    }
}

/// Both families' addresses, parsed.
struct Lists {
    external: Vec<IpAddr>,
    balancers: Vec<IpAddr>,
    ranges: Vec<IpNetwork>,
}

impl Lists {
    fn read(object: &slim::Service, external_ips: &ExternalIps, reading: &mut Reading) -> Self {
        let spec = &object.spec;
        Self {
            external: read_external_ips(spec, external_ips, reading),
            balancers: read_balancers(&object.status.load_balancer.ingress, reading),
            ranges: read_ranges(spec, reading),
        }
    }

    /// The addresses of family A; nothing without a ClusterIP of it.
    fn family<A: PerFamily>(
        &self,
        spec: &ServiceSpec,
        reading: &mut Reading,
    ) -> Option<Addresses<A>> {
        let cluster = cluster_ip(spec, reading)?;
        let ranges: Box<[IpNetwork]> =
            self.ranges.iter().filter(|range| A::from_ip(range.ip()).is_some()).copied().collect();
        let everybody = ranges.iter().any(|range| range.prefix() == 0);
        Some(Addresses {
            cluster,
            external: self.external.iter().filter_map(|ip| A::from_ip(*ip)).collect(),
            balancers: self.balancers.iter().filter_map(|ip| A::from_ip(*ip)).collect(),
            ranges: if everybody { Box::default() } else { ranges },
        })
    }
}

/// The ClusterIP of family A: at the place where `ipFamilies` names the family.
fn cluster_ip<A: PerFamily>(spec: &ServiceSpec, reading: &mut Reading) -> Option<A> {
    let wanted = family_name(A::FAMILY);
    if spec.ip_families.is_empty() {
        // Of the other family: that one reports what may be wrong with it.
        let other = parse_address(&spec.cluster_ip).is_some_and(|ip| A::from_ip(ip).is_none());
        let garbage = parse_address(&spec.cluster_ip).is_none();
        if other || (garbage && wanted != "IPv4") {
            return None;
        }
        return usable("spec.clusterIP", &spec.cluster_ip, reading).and_then(A::from_ip);
    }
    let index = spec.ip_families.iter().position(|family| family == wanted)?;
    // Manifests may give the first address in `clusterIP` only.
    let first = (index == 0).then_some(&spec.cluster_ip);
    let text = spec.cluster_ips.get(index).or(first)?;
    let field = format!("spec.clusterIPs[{index}]");
    let found = usable(&field, text, reading).map(A::from_ip)?;
    if found.is_none() {
        let fix = format!(
            "not an {wanted} address, which spec.ipFamilies[{index}] says it is: \
                           {wanted} is not served; make the two agree"
        );
        reading.skip(field, text, fix);
    }
    found
}

fn usable(field: &str, text: &str, reading: &mut Reading) -> Option<IpAddr> {
    let Some(address) = parse_address(text) else {
        reading.skip(field, text, "not an IP address: it is not served; correct it or take it out");
        return None;
    };
    if let Some(why) = unusable(address) {
        let fix = format!("{why}: it is not served; use an ordinary address or take it out");
        reading.skip(field, text, fix);
        return None;
    }
    Some(address)
}

fn read_external_ips(
    spec: &ServiceSpec,
    served: &ExternalIps,
    reading: &mut Reading,
) -> Vec<IpAddr> {
    let mut kept = Vec::new();
    for (index, text) in spec.external_ips.iter().enumerate() {
        if text.trim().is_empty() {
            continue;
        }
        let field = format!("spec.externalIPs[{index}]");
        let Some(address) = usable(&field, text, reading) else { continue };
        let fix = match served {
            ExternalIps::All => None,
            ExternalIps::Networks(networks) => {
                let inside = networks.iter().any(|network| network.contains(address));
                (!inside).then_some("in none of the networks of --external-ips")
            }
            ExternalIps::Off => Some("not allowed: --external-ips is off"),
        };
        match fix {
            None => kept.push(address),
            Some(why) => reading.skip(
                field,
                text,
                format!("{why}: it is not served; take it out, or have the flag allow it"),
            ),
        }
    }
    kept
}

fn read_balancers(ingress: &[slim::LoadBalancerIngress], reading: &mut Reading) -> Vec<IpAddr> {
    let mut kept = Vec::new();
    for (index, ingress) in ingress.iter().enumerate() {
        let field = format!("status.loadBalancer.ingress[{index}]");
        match ingress.ip_mode.as_str() {
            _ if ingress.ip.is_empty() => {}
            "" | "VIP" => kept.extend(usable(&format!("{field}.ip"), &ingress.ip, reading)),
            // What is sent there goes to the load balancer itself.
            "Proxy" => {}
            other => {
                let fix = "not a mode: the address is not served; use VIP or Proxy";
                reading.skip(format!("{field}.ipMode"), other, fix);
            }
        }
    }
    kept
}

fn read_ranges(spec: &ServiceSpec, reading: &mut Reading) -> Vec<IpNetwork> {
    let mut ranges = Vec::new();
    for (index, text) in spec.load_balancer_source_ranges.iter().enumerate() {
        if let Some(range) = parse_range(text) {
            ranges.push(range);
            continue;
        }
        let fix = "not a prefix such as 192.0.2.0/24: it is skipped, and with no valid range left \
                   everybody is let in; correct it";
        reading.skip(format!("spec.loadBalancerSourceRanges[{index}]"), text, fix);
    }
    ranges
}

/// What earlier ports of the Service have. Sets, because nothing limits their number.
#[derive(Default)]
struct Seen<'a> {
    names: HashSet<(Protocol, &'a str)>,
    numbers: HashSet<(Protocol, u16)>,
    node_ports: HashSet<(Protocol, u16)>,
}

fn read_ports(ports: &[slim::ServicePort], reading: &mut Reading) -> Box<[Port]> {
    let mut kept: Vec<Port> = Vec::with_capacity(ports.len());
    let mut seen = Seen::default();
    for (index, port) in ports.iter().enumerate() {
        match read_port(port, &mut seen, index, reading) {
            Ok(port) => kept.push(port),
            Err((field, value, fix)) => {
                let fix = format!("{fix}: this port is not served, the others are");
                reading.skip(format!("spec.ports[{index}].{field}"), value, fix);
            }
        }
    }
    kept.into()
}

/// Field, value and what is wrong with it.
type BadPort = (&'static str, String, &'static str);

fn read_port<'a>(
    port: &'a slim::ServicePort,
    seen: &mut Seen<'a>,
    index: usize,
    reading: &mut Reading,
) -> Result<Port, BadPort> {
    let name = port.name.as_str();
    let Some(protocol) = protocol(&port.protocol) else {
        let fix = "not a protocol; use TCP, UDP or SCTP";
        return Err(("protocol", port.protocol.clone(), fix));
    };
    let Some(number) = u16::try_from(port.port).ok().filter(|number| *number != 0) else {
        return Err(("port", port.port.to_string(), "not a port number; use 1 to 65535"));
    };
    if ServiceRow::new("", "", name, 0).is_none() {
        return Err(("name", name.into(), "longer than Kubernetes allows; use 63 characters"));
    }
    if !is_plain(name) {
        let fix = "not a name that Kubernetes allows; use letters, digits and hyphens";
        return Err(("name", name.into(), fix));
    }
    if seen.names.contains(&(protocol, name)) {
        return Err(("name", name.into(), "the name of an earlier port; give each its own"));
    }
    if !seen.numbers.insert((protocol, number)) {
        return Err(("port", number.to_string(), "the number of an earlier port; use another"));
    }
    seen.names.insert((protocol, name));
    let node_port = match u16::try_from(port.node_port) {
        Ok(0) => 0,
        Ok(number) if seen.node_ports.insert((protocol, number)) => number,
        _ => {
            let fix = "not a port number, or an earlier port's: there is no NodePort; use 1 to \
                       65535, each once";
            reading.skip(format!("spec.ports[{index}].nodePort"), port.node_port, fix);
            0
        }
    };
    Ok(Port { name: name.into(), protocol, port: number, node_port })
}

/// The protocol of that name; an empty one is TCP.
pub(super) fn protocol(name: &str) -> Option<Protocol> {
    match name {
        "" | "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

#[derive(Clone, Copy)]
enum Policy {
    Internal,
    External,
}

fn is_local(spec: &ServiceSpec, policy: Policy, reading: &mut Reading) -> bool {
    let (field, value) = match policy {
        Policy::Internal => ("spec.internalTrafficPolicy", &spec.internal_traffic_policy),
        Policy::External => ("spec.externalTrafficPolicy", &spec.external_traffic_policy),
    };
    if !["", "Cluster", "Local"].contains(&value.as_str()) {
        reading.skip(field, value, "not a policy, taken for Cluster; use Cluster or Local");
    }
    value == "Local"
}

/// Only these take traffic from outside by definition.
fn can_have_external_policy(spec: &ServiceSpec) -> bool {
    match spec.type_.as_str() {
        "LoadBalancer" | "NodePort" => true,
        "" | "ClusterIP" => !spec.external_ips.is_empty(),
        _ => false,
    }
}

/// Only load balancers that lead to local endpoints alone ask each node.
fn health_check_port(spec: &ServiceSpec, reading: &mut Reading) -> u16 {
    if spec.type_ != "LoadBalancer" || spec.external_traffic_policy != "Local" {
        return 0;
    }
    let given = spec.health_check_node_port;
    let port = u16::try_from(given).unwrap_or(0);
    if port == 0 {
        let fix = "not a port number: load balancers cannot ask which nodes have endpoints; use 1 \
                   to 65535 (the API gives one by itself)";
        reading.skip("spec.healthCheckNodePort", given, fix);
    }
    port
}

fn affinity_secs(spec: &ServiceSpec, reading: &mut Reading) -> u32 {
    match spec.session_affinity.as_str() {
        "" | "None" => return 0,
        "ClientIP" => {}
        other => {
            reading.skip("spec.sessionAffinity", other, "taken for None; use None or ClientIP");
            return 0;
        }
    }
    let Some(given) = spec.session_affinity_config.client_ip.timeout_seconds else {
        return AFFINITY_DEFAULT_SECS;
    };
    if (1..=AFFINITY_MAX_SECS).contains(&given) {
        return given.unsigned_abs();
    }
    let fix = "out of range, 10800 is used; use 1 to 86400";
    reading.skip("spec.sessionAffinityConfig.clientIP.timeoutSeconds", given, fix);
    AFFINITY_DEFAULT_SECS
}
