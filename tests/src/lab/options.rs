//! What can be chosen about a lab.

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::address::Family;
use super::cluster::Lab;

/// How pods hang on their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum PodNetwork {
    /// One bridge `cni0` per node with hairpin ports, as flannel and the bridge plugin do.
    Bridge,
    /// One routed veth per pod, gateway 169.254.1.1 by proxy ARP and fe80::1, as Calico does.
    #[value(name = "ptp")]
    PointToPoint,
}

/// How pod packets travel between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum InterNode {
    /// Routes to the other nodes' pod networks over the underlay.
    Direct,
    /// A `flannel.1` VXLAN device with static neighbours.
    Vxlan,
}

/// Address families of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Families {
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Both.
    Dual,
}

impl Families {
    /// The families as a list, IPv4 first.
    pub fn list(self) -> &'static [Family] {
        match self {
            Families::V4 => &[Family::V4],
            Families::V6 => &[Family::V6],
            Families::Dual => &[Family::V4, Family::V6],
        }
    }

    /// Whether the cluster has this family.
    pub fn has(self, family: Family) -> bool {
        self.list().contains(&family)
    }

    /// The family that comes first in the nodes' and Services' lists.
    pub fn primary(self) -> Family {
        self.list()[0]
    }
}

/// What nodes do with packets that came in by another device than the way back to their source
/// (`rp_filter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReversePath {
    /// 0: nothing is looked at.
    Off,
    /// 1: they are dropped.
    Strict,
    /// 2: dropped only if there is no way back at all; systemd's default.
    Loose,
}

impl ReversePath {
    /// Every choice.
    pub const ALL: [ReversePath; 3] = [ReversePath::Off, ReversePath::Strict, ReversePath::Loose];

    /// The value of the setting.
    pub fn setting(self) -> &'static str {
        match self {
            ReversePath::Off => "0",
            ReversePath::Strict => "1",
            ReversePath::Loose => "2",
        }
    }
}

/// The source NAT that a CNI plugin does with netfilter, on every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CniMasquerade {
    /// What pods send out of the pod network leaves with the node's address.
    Outgoing,
    /// That, and what strangers send to pods of other nodes, as flannel's rules do.
    Flannel,
}

/// Everything a lab is built from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Options {
    /// Number of nodes; they are called n1, n2, ...
    pub nodes: usize,
    /// Pods as (node, pod name), created at the start.
    pub pods: Vec<(String, String)>,
    /// How pods hang on their node.
    pub pod_network: PodNetwork,
    /// How pod packets travel between nodes.
    pub inter_node: InterNode,
    /// Address families.
    pub families: Families,
    /// The nodes' reverse path filter.
    pub reverse_path: ReversePath,
    /// Whether bridged frames pass netfilter's IP hooks; none: as the kernel has it.
    pub bridge_netfilter: Option<bool>,
    /// The CNI plugin's source NAT.
    pub cni_masquerade: Option<CniMasquerade>,
    /// Whether nodes drop forwarded packets that conntrack calls invalid.
    pub drop_invalid: bool,
    /// Whether nodes have a second device to a second underlay, as on EKS.
    pub second_uplink: bool,
    /// MTU of a hop between the nodes and a distant client; none: there is no such client.
    pub hop_mtu: Option<u32>,
}

/// Collects options, then builds the lab.
#[derive(Clone, Debug)]
pub struct Builder {
    options: Options,
    id: Option<String>,
}

impl Default for Builder {
    fn default() -> Self {
        let options = Options {
            nodes: 1,
            pods: Vec::new(),
            pod_network: PodNetwork::Bridge,
            inter_node: InterNode::Direct,
            families: Families::Dual,
            reverse_path: ReversePath::Loose,
            bridge_netfilter: None,
            cni_masquerade: None,
            drop_invalid: false,
            second_uplink: false,
            hop_mtu: None,
        };
        Builder { options, id: None }
    }
}

impl Builder {
    /// Number of nodes, n1 to n`count`.
    pub fn nodes(mut self, count: usize) -> Self {
        self.options.nodes = count;
        self
    }

    /// One pod on one node.
    pub fn pod(mut self, node: &str, name: &str) -> Self {
        self.options.pods.push((node.to_owned(), name.to_owned()));
        self
    }

    /// Several pods on one node.
    pub fn pods(mut self, node: &str, names: &[&str]) -> Self {
        for name in names {
            self = self.pod(node, name);
        }
        self
    }

    /// How pods hang on their node.
    pub fn pod_network(mut self, network: PodNetwork) -> Self {
        self.options.pod_network = network;
        self
    }

    /// How pod packets travel between nodes.
    pub fn inter_node(mut self, inter_node: InterNode) -> Self {
        self.options.inter_node = inter_node;
        self
    }

    /// Address families.
    pub fn families(mut self, families: Families) -> Self {
        self.options.families = families;
        self
    }

    /// The nodes' reverse path filter; without this it is loose.
    pub fn reverse_path(mut self, filter: ReversePath) -> Self {
        self.options.reverse_path = filter;
        self
    }

    /// `bridge-nf-call-iptables` and its IPv6 twin on every node.
    pub fn bridge_netfilter(mut self, on: bool) -> Self {
        self.options.bridge_netfilter = Some(on);
        self
    }

    /// The CNI plugin's source NAT on every node.
    pub fn cni_masquerade(mut self, masquerade: CniMasquerade) -> Self {
        self.options.cni_masquerade = Some(masquerade);
        self
    }

    /// A forward chain on every node that drops what conntrack calls invalid, and counts it:
    /// [`super::Node::invalid_packets`].
    pub fn drop_invalid(mut self) -> Self {
        self.options.drop_invalid = true;
        self
    }

    /// A second device on every node and on the outside client; pods leave by it after
    /// [`Lab::leave_by_second_uplink`].
    pub fn second_uplink(mut self) -> Self {
        self.options.second_uplink = true;
        self
    }

    /// A client behind two routers, with this MTU between them: [`Lab::distant`].
    pub fn distant_client(mut self, hop_mtu: u32) -> Self {
        self.options.hop_mtu = Some(hop_mtu);
        self
    }

    /// A fixed name, for a lab that outlives the process that builds it.
    pub fn id(mut self, id: &str) -> Self {
        self.id = Some(id.to_owned());
        self
    }

    /// Builds it.
    pub fn build(self) -> Result<Lab> {
        Lab::build(self.id, self.options)
    }
}
