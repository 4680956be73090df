//! `/configz`: the settings in force, in the shape of a KubeProxyConfiguration. Pure.

use serde_json::{Value, json};

use super::servers::{Addresses, PROXY_MODE};
use crate::settings::{DetectLocal, NodePortAddresses, Policy};

/// The key that kube-proxy has it under.
const KEY: &str = "kubeproxy.config.k8s.io";

/// What has a name in kube-proxy, under that name.
pub fn page(policy: &Policy, servers: &Addresses) -> String {
    let address = |address: Option<std::net::SocketAddr>| {
        address.map_or_else(String::new, |address| address.to_string())
    };
    let configuration = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": PROXY_MODE,
        "healthzBindAddress": address(servers.healthz),
        "metricsBindAddress": address(servers.metrics),
        "bindAddressHardFail": servers.hard_fail,
        "detectLocalMode": detect_local_mode(&policy.detect_local),
        "clusterCIDR": cluster_cidr(&policy.detect_local),
        "nodePortAddresses": node_port_addresses(&policy.node_port_addresses),
        "nftables": { "masqueradeAll": policy.masquerade_all },
    });
    json!({ KEY: configuration }).to_string()
}

const fn detect_local_mode(detector: &DetectLocal) -> &'static str {
    match detector {
        DetectLocal::Attachment => "Attachment",
        DetectLocal::ClusterCidr(_) => "ClusterCIDR",
        DetectLocal::NodeCidr => "NodeCIDR",
        DetectLocal::Bridge(_) => "BridgeInterface",
        DetectLocal::NamePrefix(_) => "InterfaceNamePrefix",
        DetectLocal::Off => "Off",
    }
}

fn cluster_cidr(detector: &DetectLocal) -> String {
    match detector {
        DetectLocal::ClusterCidr(networks) => {
            networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        }
        _ => String::new(),
    }
}

fn node_port_addresses(addresses: &NodePortAddresses) -> Value {
    match addresses {
        NodePortAddresses::Primary => json!(["primary"]),
        NodePortAddresses::All => json!([]),
        NodePortAddresses::Networks(networks) => {
            json!(networks.iter().map(ToString::to_string).collect::<Vec<_>>())
        }
    }
}
