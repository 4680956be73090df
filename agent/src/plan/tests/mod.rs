//! The planner against maps in memory.

mod capacity;
mod cluster_ips;
mod conflicts;
pub(crate) mod maps;
mod order;
mod properties;
mod recovery;
mod scale;
mod sources;
mod transfer;
mod world;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use millrace_common::address::{Be16, Protocol, V4};
use millrace_common::frontend::{FrontendKey, Kind, flags};

use self::maps::Maps;
use super::op::{Capacity, Op};
use super::outcome::Planned;
use super::{GRACE, Planner};
use crate::model::desired::{
    BackendAddress, Desired, DesiredFamily, DesiredFrontend, DesiredPort, List,
};
use crate::source::{ObjectName, SharedName};

const ROOMY: Capacity =
    Capacity { services: 1000, backends: 1000, slots: 10_000, frontends: 1000, sources: 1000 };

/// A planner and the maps it writes.
struct Bench {
    planner: Planner,
    maps: Maps,
    now: Duration,
}

impl Bench {
    fn new(capacity: Capacity) -> Self {
        Self { planner: Planner::new(capacity), maps: Maps::new(capacity), now: Duration::ZERO }
    }

    /// Plan and carry out, checking the maps after every operation.
    fn plan(&mut self, desired: &Desired) -> Planned {
        let planned = self.planner.plan(desired, self.now).unwrap();
        self.maps.run(&planned.ops);
        self.plan_cluster_ips();
        planned
    }

    /// The same for ClusterIPs as such. Returns the operations.
    fn plan_cluster_ips(&mut self) -> Vec<Op> {
        let ops = self.planner.plan_cluster_ips();
        self.maps.run(&ops);
        self.maps.check_cluster_ips();
        ops
    }

    /// What the maps answer, and to whom.
    fn all_answers(&self) -> (maps::Answers, maps::Clients) {
        (self.maps.answers(), self.maps.admitted().by_frontend())
    }

    /// Let everything held come free.
    fn wait(&mut self) {
        self.now += GRACE;
    }
}

fn name(name: &str) -> ObjectName {
    ObjectName::new("ns", name)
}

/// Address number N of either family: 10.0.0.N or fd00::N.
fn place<A: TestFamily>(n: u8) -> BackendAddress<A> {
    BackendAddress { address: A::address(n), port: Be16::new(8080) }
}

fn places<A: TestFamily>(numbers: &[u8]) -> Vec<BackendAddress<A>> {
    let mut places: Vec<_> = numbers.iter().map(|n| place(*n)).collect();
    places.sort_unstable();
    places
}

pub(crate) trait TestFamily: millrace_common::address::Address {
    fn address(n: u8) -> Self;
}

impl TestFamily for V4 {
    fn address(n: u8) -> Self {
        Ipv4Addr::new(10, 0, 0, n).into()
    }
}

impl TestFamily for millrace_common::address::V6 {
    fn address(n: u8) -> Self {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()).into()
    }
}

/// A frontend on address N and port 80; a ClusterIP leads to `near` both ways, others to the
/// Cluster list from here and to `far` from outside.
fn frontend<A: TestFamily>(n: u8, kind: Kind, far: List) -> DesiredFrontend<A> {
    let near = if kind == Kind::ClusterIp { far } else { List::Cluster };
    let key = FrontendKey::new(A::address(n), Be16::new(80), Protocol::Tcp as u8);
    let mut flags = kind.bits();
    if near == List::Local {
        flags |= flags::NEAR_LOCAL;
    }
    if far == List::Local {
        flags |= flags::FAR_LOCAL;
    }
    DesiredFrontend { key, kind, near, far, flags, affinity_secs: 0 }
}

fn port(name: &str) -> DesiredPort {
    DesiredPort {
        name: name.into(),
        protocol: Protocol::Tcp,
        v4: DesiredFamily::default(),
        v6: DesiredFamily::default(),
    }
}

fn with_ports(service: &str, ports: Vec<DesiredPort>) -> Desired {
    Desired { ports, ..Desired::absent(name(service)) }
}

/// A Service with one ClusterIP, number `n`, and these ready backends.
fn simple(service: &str, n: u8, backends: &[u8]) -> Desired {
    let mut port = port("");
    port.v4 = DesiredFamily {
        cluster: places(backends),
        local: Vec::new(),
        serving: places(backends),
        frontends: vec![frontend(n, Kind::ClusterIp, List::Cluster)],
        sources: Vec::new(),
    };
    with_ports(service, vec![port])
}

fn key(n: u8) -> FrontendKey<V4> {
    frontend::<V4>(n, Kind::ClusterIp, List::Cluster).key
}

/// What an operation does, without its values.
fn verb(op: &Op) -> &'static str {
    match op {
        Op::NoTraffic(_) => "zero",
        Op::Service(_, Some(_)) => "name",
        Op::Service(_, None) => "unname",
        Op::BackendV4(_, row) if row.state == 0 => "gone",
        Op::BackendV6(_, row) if row.state == 0 => "gone",
        Op::BackendV4(..) | Op::BackendV6(..) => "backend",
        Op::Slots(..) => "slots",
        Op::FrontendV4(_, Some(_)) | Op::FrontendV6(_, Some(_)) => "flip",
        Op::FrontendV4(_, None) | Op::FrontendV6(_, None) => "delete",
        Op::SourceV4(_, true) | Op::SourceV6(_, true) => "allow",
        Op::SourceV4(_, false) | Op::SourceV6(_, false) => "disallow",
    }
}

fn verbs(planned: &Planned) -> Vec<&'static str> {
    planned.ops.iter().map(verb).collect()
}

fn ip(n: u8) -> IpAddr {
    V4::address(n).into()
}
