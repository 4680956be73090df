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
