//! Tables of flows, as kube-proxy's tests have them: who dials what, and what becomes of it.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use millrace::settings::Policy;

use super::{Protocol, Sender, Simulation};
use crate::lab::{Family, address};
use crate::manifest::Service;

/// Both families.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// NodePort of the Services here.
pub const NODE_PORT: u16 = 30080;
/// Last number of the load balancer's first address.
pub const BALANCED: u8 = 10;
/// That of its second one.
pub const BALANCED_TOO: u8 = 11;
/// That of the externalIP.
pub const EXTERNAL: u8 = 20;
/// A pod of the node that is no endpoint.
pub const CLIENT: Sender = Sender::Pod(9);

/// What clients dial.
#[derive(Clone, Copy, Debug)]
pub enum To {
    /// ClusterIP number N.
    Cluster(u16),
    /// External address number N.
    External(u8),
    /// A node's address.
    Node(u8),
    /// Any address.
    Address(&'static str),
}

impl To {
    /// The address of a family, with a port.
    pub fn at(self, family: Family, port: u16) -> SocketAddr {
        let ip = match self {
            Self::Cluster(index) => address::service(family, index),
            Self::External(index) => address::external(family, index),
            Self::Node(number) => address::node(family, number),
            Self::Address(text) => text.parse().unwrap_or_else(|_| panic!("{text}: no address")),
        };
        SocketAddr::new(ip, port)
    }
}

/// What it shows, who dials what (address, port, protocol), and what becomes of it, in the words of
/// [`Answer::text`](super::Answer::text).
pub type Row = (&'static str, Sender, To, u16, Protocol, &'static str);

/// Destinations that a policy for traffic from outside is about, and their names.
pub const OUTER: [(&str, To, u16); 3] = [
    ("NodePort", To::Node(1), NODE_PORT),
    ("externalIP", To::External(EXTERNAL), 80),
    ("LB", To::External(BALANCED), 80),
];

/// A client outside.
pub fn outside(family: Family) -> Sender {
    Sender::Outside(address::outside(family))
}

/// Dials every row of a table.
pub fn check(node: &Simulation, family: Family, rows: &[Row]) -> Result<()> {
    for (name, from, to, port, protocol, expected) in rows {
        let answer = node.dial(*from, to.at(family, *port), *protocol);
        let answer = answer.with_context(|| format!("{name} ({family})"))?;
        ensure!(answer.text() == *expected, "{name} ({family}): {answer}, expected {expected}");
    }
    Ok(())
}

/// Service `svc` with ClusterIP number 1 and port 80, TCP, of one family.
pub fn service(family: Family) -> Service {
    named(family, "svc", 1)
}

/// As [`service`], with another name and number.
pub fn named(family: Family, name: &str, index: u16) -> Service {
    let service = Service::new(name).cluster_ip(address::service(family, index));
    service.port("main", "TCP", 80)
}

/// As [`service`], with every kind of external address.
pub fn everywhere(family: Family) -> Service {
    with_addresses(service(family), family)
}

/// A Service with every kind of external address.
pub fn with_addresses(service: Service, family: Family) -> Service {
    let at = |index| address::external(family, index);
    service
        .node_port_for_all(NODE_PORT)
        .load_balancer_ip(at(BALANCED))
        .load_balancer_ip(at(BALANCED_TOO))
        .external_ip(at(EXTERNAL))
}

/// Node 1 with kube-proxy's defaults.
pub fn simulation() -> Result<Simulation> {
    Simulation::new(1, Policy::default())
}

/// On either family, a fresh node 1.
pub fn on_both(run: impl Fn(Family, &mut Simulation) -> Result<()>) -> Result<()> {
    for family in FAMILIES {
        run(family, &mut simulation()?)?;
    }
    Ok(())
}
