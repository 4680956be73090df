//! The canary's own Service: a name and addresses that no object can have, and how tools keep it
//! out of what they show. Pure.
//!
//! Its frontends are a loopback and a link-local address, which no Service may have and which never
//! leave the node: a connection that is not translated fails at once. Sockets are led to the helper
//! ([`super::helper`]); packets nowhere, since they are never sent.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use millrace_common::address::{Be16, Protocol, V4, V6};
use millrace_common::backend::V6_PLACES;
use millrace_common::frontend::{FrontendKey, Kind, flags};
use millrace_common::service::ServiceRow;

use crate::model::desired::{
    BackendAddress, Desired, DesiredFamily, DesiredFrontend, DesiredPort, List,
};
use crate::plan::op::{Capacity, Snapshot};
use crate::source::ObjectName;

/// Its name. The namespace is empty, which that of an object never is.
const NAME: &str = "canary";

/// What sockets dial.
pub const SOCKET_V4: Ipv4Addr = Ipv4Addr::new(127, 109, 114, 1);
/// What sockets dial.
pub const SOCKET_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x6d72, 1);
/// What packets go to.
pub const PACKET_V4: Ipv4Addr = Ipv4Addr::new(127, 109, 114, 2);
/// What packets go to.
pub const PACKET_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x6d72, 2);
/// The port of all of them: "discard".
pub const PORT: u16 = 9;

/// Where packets would be led: the dummy address of RFC 7600.
pub const NOWHERE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 8);
/// Where packets would be led: in the discard-only prefix of RFC 6666.
pub const NOWHERE_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 8);

/// Rows that the maps have for it besides those the operator asked for. Of backends and slots twice
/// what it needs: those that are freed wait before they are used again.
const RESERVE: Capacity =
    Capacity { services: 3, backends: 6 * (1 + V6_PLACES), slots: 24, frontends: 3, sources: 0 };

/// Where the helper listens on loopback; 0: it does not, for want of the family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ports {
    /// 127.0.0.1, TCP.
    pub tcp4: u16,
    /// 127.0.0.1, UDP.
    pub udp4: u16,
    /// `::1`, TCP.
    pub tcp6: u16,
    /// `::1`, UDP.
    pub udp6: u16,
}

/// The Service, with a helper that listens there.
///
/// `knows_namespace`: programs can tell which sockets are the node's own, so that pods are left
/// alone. Below Linux 5.14 they take the initial network namespace for the node's; where a node is
/// another one, its own helper would be refused.
pub fn desired(ports: Ports, knows_namespace: bool) -> Desired {
    let sockets = Reach::Sockets { node_only: knows_namespace };
    let socket = |name: &str, protocol, v4, v6| DesiredPort {
        name: name.to_owned(),
        protocol,
        v4: family(protocol, V4::from(SOCKET_V4), (Ipv4Addr::LOCALHOST.into(), v4), sockets),
        v6: family(protocol, V6::from(SOCKET_V6), (Ipv6Addr::LOCALHOST.into(), v6), sockets),
    };
    let packet = DesiredPort {
        name: "packet".to_owned(),
        protocol: Protocol::Udp,
        v4: family(Protocol::Udp, V4::from(PACKET_V4), (NOWHERE_V4.into(), PORT), Reach::Packets),
        v6: family(Protocol::Udp, V6::from(PACKET_V6), (NOWHERE_V6.into(), PORT), Reach::Packets),
    };
    let sockets = [
        socket("tcp", Protocol::Tcp, ports.tcp4, ports.tcp6),
        socket("udp", Protocol::Udp, ports.udp4, ports.udp6),
    ];
    let served =
        |port: &DesiredPort| !port.v4.frontends.is_empty() || !port.v6.frontends.is_empty();
    let name = ObjectName::new("", NAME);
    Desired {
        ports: sockets.into_iter().filter(served).chain([packet]).collect(),
        ..Desired::absent(name)
    }
}

/// Who is led by a frontend.
#[derive(Clone, Copy)]
enum Reach {
    Sockets { node_only: bool },
    Packets,
}

/// One family of a port. Packets are never masqueraded: so an answer can be checked by itself.
fn family<A: Copy>(
    protocol: Protocol,
    address: A,
    (backend, port): (A, u16),
    reach: Reach,
) -> DesiredFamily<A> {
    if port == 0 {
        return DesiredFamily::default();
    }
    let backend = vec![BackendAddress { address: backend, port: Be16::new(port) }];
    let (near, far, marks) = match reach {
        Reach::Sockets { node_only: true } => (List::Cluster, List::Nobody, flags::NODE_ONLY),
        Reach::Sockets { node_only: false } => (List::Cluster, List::Nobody, 0),
        Reach::Packets => (List::Local, List::Local, flags::NEAR_LOCAL | flags::FAR_LOCAL),
    };
    let frontend = DesiredFrontend {
        key: FrontendKey { address, port: Be16::new(PORT), protocol: protocol as u8, pad: 0 },
        kind: Kind::ExternalIp,
        near,
        far,
        flags: Kind::ExternalIp.bits() | marks,
        affinity_secs: 0,
    };
    let (cluster, local) = match reach {
        Reach::Sockets { .. } => (backend.clone(), Vec::new()),
        Reach::Packets => (Vec::new(), backend.clone()),
    };
    DesiredFamily {
        cluster,
        local,
        serving: backend,
        frontends: vec![frontend],
        sources: Vec::new(),
    }
}

/// Sizes of maps that have room for the canary beside what was asked for.
pub const fn with_reserve(asked: Capacity) -> Capacity {
    Capacity {
        services: asked.services.saturating_add(RESERVE.services),
        backends: asked.backends.saturating_add(RESERVE.backends),
        slots: asked.slots.saturating_add(RESERVE.slots),
        frontends: asked.frontends.saturating_add(RESERVE.frontends),
        sources: asked.sources.saturating_add(RESERVE.sources),
    }
}

/// What was asked for, of maps that have room for the canary.
pub const fn without_reserve(sizes: Capacity) -> Capacity {
    Capacity {
        services: sizes.services.saturating_sub(RESERVE.services),
        backends: sizes.backends.saturating_sub(RESERVE.backends),
        slots: sizes.slots.saturating_sub(RESERVE.slots),
        frontends: sizes.frontends.saturating_sub(RESERVE.frontends),
        sources: sizes.sources.saturating_sub(RESERVE.sources),
    }
}

/// Whether a service port is the canary's.
pub fn is_canary(row: &ServiceRow) -> bool {
    row.namespace().is_empty()
}

/// Take the canary's rows out of what was read from the maps: they are nobody's business.
pub fn hide(snapshot: &mut Snapshot) {
    let canaries = snapshot.services.iter().filter(|(_, row)| is_canary(row));
    let ids: BTreeSet<u32> = canaries.map(|(id, _)| *id).collect();
    snapshot.services.retain(|(id, _)| !ids.contains(id));
    snapshot.frontends_v4.retain(|(_, row)| !ids.contains(&row.service));
    snapshot.frontends_v6.retain(|(_, row)| !ids.contains(&row.service));
    snapshot.backends_v4.retain(|(_, row)| !ids.contains(&row.service));
    snapshot.backends_v6.retain(|(_, row)| !ids.contains(&row.service));
}
