//! Who has which address: the same plan in every lab, modelled on a kubeadm cluster.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Loopback of the family.
    pub fn loopback(self) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// The name Kubernetes gives it.
    pub fn kubernetes(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }

    /// Length of a whole address in bits.
    pub fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kubernetes())
    }
}

/// Third number of the underlay's network.
const UNDERLAY: u8 = 50;
/// The second uplink's.
const SECOND_UNDERLAY: u8 = 51;
/// The distant client's.
const DISTANT: u8 = 60;
/// That of the hop between the two routers.
const HOP: u8 = 61;

/// Prefix length of the underlay.
pub fn underlay_prefix(family: Family) -> u8 {
    match family {
        Family::V4 => 24,
        Family::V6 => 64,
    }
}

/// 192.168.`net`.`host`, or its IPv6 twin: fd50::, fd51::, fd60::, fd61::.
fn outer(family: Family, net: u8, host: u8) -> IpAddr {
    // 50 is written fd50.
    let digits = u16::from(net / 10) << 4 | u16::from(net % 10);
    match family {
        Family::V4 => Ipv4Addr::new(192, 168, net, host).into(),
        Family::V6 => Ipv6Addr::new(0xfd00 | digits, 0, 0, 0, 0, 0, 0, u16::from(host)).into(),
    }
}

fn underlay(family: Family, host: u8) -> IpAddr {
    outer(family, UNDERLAY, host)
}

/// Address of node `index` (from 1) on the underlay.
pub fn node(family: Family, index: u8) -> IpAddr {
    underlay(family, 10 + index)
}

/// Address of the outside client on the underlay.
pub fn outside(family: Family) -> IpAddr {
    underlay(family, 100)
}

/// The underlay's gateway: it swallows what nobody routes, as a data centre does.
pub fn gateway(family: Family) -> IpAddr {
    underlay(family, 254)
}

/// Address of node `index` on the second underlay.
pub fn second_node(family: Family, index: u8) -> IpAddr {
    outer(family, SECOND_UNDERLAY, 10 + index)
}

/// Address of the outside client on the second underlay.
pub fn second_outside(family: Family) -> IpAddr {
    outer(family, SECOND_UNDERLAY, 100)
}

/// The second underlay's router, which knows every network of the lab.
pub fn second_gateway(family: Family) -> IpAddr {
    outer(family, SECOND_UNDERLAY, 254)
}

/// Address of the distant client.
pub fn distant(family: Family) -> IpAddr {
    outer(family, DISTANT, 100)
}

/// The distant client's gateway: the router on its side of the narrow hop.
pub fn distant_gateway(family: Family) -> IpAddr {
    outer(family, DISTANT, 1)
}

/// The distant client's network.
pub fn distant_cidr(family: Family) -> String {
    format!("{}/{}", outer(family, DISTANT, 0), underlay_prefix(family))
}

/// The narrow hop's ends: the distant client's router, then the nodes'.
pub fn hop(family: Family) -> [IpAddr; 2] {
    [outer(family, HOP, 1), outer(family, HOP, 2)]
}

/// Address on the underlay of the router to the distant client.
pub fn hop_router(family: Family) -> IpAddr {
    underlay(family, 200)
}

/// The pod network of the whole cluster.
pub fn cluster_cidr(family: Family) -> &'static str {
    match family {
        Family::V4 => "10.244.0.0/16",
        Family::V6 => "fd00:244::/48",
    }
}

fn in_pod_network(family: Family, node: u8, host: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 244, node, host).into(),
        Family::V6 => {
            let [node, host] = [node, host].map(u16::from);
            Ipv6Addr::new(0xfd00, 0x244, 0, node, 0, 0, 0, host).into()
        }
    }
}

/// The node's side of the pod bridge.
pub fn pod_gateway(family: Family, node: u8) -> IpAddr {
    in_pod_network(family, node, 1)
}

/// Address of the VXLAN device, which must differ from the bridge's.
pub fn vxlan(family: Family, node: u8) -> IpAddr {
    match family {
        Family::V4 => in_pod_network(family, node, 0),
        // ::0 would be the subnet's anycast router address.
        Family::V6 => in_pod_network(family, node, 0xf1),
    }
}

/// Address of pod number `index` (from 0) of a node.
pub fn pod(family: Family, node: u8, index: u8) -> IpAddr {
    in_pod_network(family, node, 10 + index)
}

/// Prefix length of a node's pod network.
pub fn pod_prefix(family: Family) -> u8 {
    underlay_prefix(family)
}

/// A node's pod network, as written in `spec.podCIDRs`.
pub fn pod_cidr(family: Family, node: u8) -> String {
    format!("{}/{}", in_pod_network(family, node, 0), pod_prefix(family))
}

/// The range that ClusterIPs are given from.
pub fn service_cidr(family: Family) -> &'static str {
    match family {
        Family::V4 => "10.96.0.0/16",
        Family::V6 => "fd00:96::/112",
    }
}

/// A ClusterIP: 10.96.0.`index` or fd00:96::`index`.
pub fn service(family: Family, index: u16) -> IpAddr {
    let [high, low] = index.to_be_bytes();
    match family {
        Family::V4 => Ipv4Addr::new(10, 96, high, low).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, index).into(),
    }
}

/// An address nobody owns (documentation ranges), for externalIPs and load balancers.
pub fn external(family: Family, index: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(203, 0, 113, index).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(index)).into(),
    }
}
