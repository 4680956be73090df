//! What the operator wants, and what of it can be changed while running.

use super::Model;
use super::node::Changed;
use crate::settings::{NodePortAddresses, Policy};

impl Model {
    /// The operator wants something else. True: objects must be listed anew, because what is kept
    /// of them depends on it.
    pub fn set_policy(&mut self, policy: Policy) -> bool {
        let changed = self.node.set_primary(policy.bind_address);
        self.mark_after(changed);
        let same_node_ports = policy.node_port_addresses == self.policy.node_port_addresses
            && policy.localhost_node_ports == self.policy.localhost_node_ports;
        if !same_node_ports {
            self.mark_after(Changed { zone: false, addresses: true });
        }
        if policy.detect_local != self.policy.detect_local {
            // Networks of pods, which nobody may ask for.
            self.mark_askers();
        }
        let lists_anew = policy.external_ips != self.policy.external_ips;
        self.policy = policy;
        lists_anew
    }

    /// Another source is followed from now on: what the last one said of itself is over.
    pub fn forget_source_conditions(&mut self) {
        self.source_conditions.clear();
    }

    /// Networks for NodePorts that are loopback: such a NodePort would be another one in every pod.
    pub(super) fn useless_node_port_networks(&self) -> Vec<(String, String)> {
        let NodePortAddresses::Networks(networks) = &self.policy.node_port_addresses else {
            return Vec::new();
        };
        let loopback = networks.iter().filter(|network| network.ip().is_loopback());
        let message = "a loopback network: NodePorts are not served on it; take it out (without a \
                       list of networks, or with `primary`, the node's own processes reach \
                       NodePorts on loopback)";
        let about = |network| (format!("--nodeport-addresses {network}"), message.to_owned());
        loopback.map(about).collect()
    }

    /// Nothing is known of the node by the name that the operator gave.
    pub(super) fn unknown_node(&self) -> (String, String) {
        let message = "no Node of this name is known: without its zone, hints by zone are not \
                       obeyed, and NodePorts are served on the addresses of the interfaces; if the \
                       name is wrong, no endpoint counts as local: give --node-name the name that \
                       `kubectl get nodes` shows";
        (format!("Node {}", self.node_name), message.to_owned())
    }
}
