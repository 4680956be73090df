//! What load balancers ask the node, as far as objects and settings decide it.

use std::net::IpAddr;

use millrace_common::address::{Family, V4, V6};

use super::Model;
use super::family::PerFamily;
use crate::settings::NodePortAddresses;

impl Model {
    /// Whether load balancers may send to this node: its Node object exists, is not being deleted,
    /// and the autoscaler is not about to remove it.
    pub const fn is_node_eligible(&self) -> bool {
        self.node.is_eligible()
    }

    /// Where healthCheckNodePorts of a family are served: where NodePorts are. Nothing: on every
    /// address.
    pub fn health_check_addresses(&self, family: Family) -> Option<Vec<IpAddr>> {
        match family {
            Family::V4 => self.restricted::<V4>(),
            Family::V6 => self.restricted::<V6>(),
        }
    }

    fn restricted<A: PerFamily>(&self) -> Option<Vec<IpAddr>> {
        let which = &self.policy.node_port_addresses;
        let is_restricted = match which {
            NodePortAddresses::Primary => true,
            NodePortAddresses::All => false,
            // As kube-proxy has it, a family that no network is given of is not restricted.
            NodePortAddresses::Networks(networks) => {
                let mut own = networks.iter().filter(|net| A::from_ip(net.ip()).is_some());
                own.clone().next().is_some() && !own.any(|net| net.prefix() == 0)
            }
        };
        let addresses = || self.node.node_port_addresses::<A>(which).into_iter();
        is_restricted.then(|| addresses().map(Into::into).collect())
    }
}
