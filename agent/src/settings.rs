//! What an operator decides about the packet path and about what is served. Pure: made by
//! [`config`](crate::config) with the help of [`parse`], used by the model, by device following and
//! by the rows of the `node` map.

pub mod parse;

use std::net::IpAddr;

use ipnetwork::IpNetwork;

/// All of it, with kube-proxy's defaults where it has the setting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Sockets are translated when they connect and send. Off: the packet path alone serves pods
    /// and the outside, and the node's own processes are not served.
    pub socket_lb: bool,
    /// Masquerade what pods send to ClusterIPs as well (kube-proxy's `masqueradeAll`).
    pub masquerade_all: bool,
    /// How packets of this node's pods are told from others.
    pub detect_local: DetectLocal,
    /// Which of the node's addresses NodePorts are served on.
    pub node_port_addresses: NodePortAddresses,
    /// The node's own processes reach NodePorts on loopback (kube-proxy's
    /// `iptables.localhostNodePorts`).
    pub localhost_node_ports: bool,
    /// The node's primary address of its family, whatever the Node object says (kube-proxy's
    /// `bindAddress`).
    pub bind_address: Option<IpAddr>,
    /// Which externalIPs are served.
    pub external_ips: ExternalIps,
    /// Roles of devices that the rules get wrong, first match first.
    pub device_roles: Vec<(NamePattern, Option<Role>)>,
    /// Ports for masqueraded flows; chosen clear of `ip_local_port_range` and NodePorts if not
    /// given.
    pub masquerade_ports: Option<(u16, u16)>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            socket_lb: true,
            masquerade_all: false,
            detect_local: DetectLocal::Attachment,
            node_port_addresses: NodePortAddresses::Primary,
            localhost_node_ports: true,
            bind_address: None,
            external_ips: ExternalIps::All,
            device_roles: Vec::new(),
            masquerade_ports: None,
        }
    }
}

/// The local-traffic detector (kube-proxy's `detectLocalMode`, and one of our own).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DetectLocal {
    /// What comes in by a device that leads to pods. Needs no configuration.
    Attachment,
    /// What comes from these networks (`ClusterCIDR`; the first of each family counts).
    ClusterCidr(Vec<IpNetwork>),
    /// What comes from the Node's `spec.podCIDRs` (`NodeCIDR`).
    NodeCidr,
    /// What comes in by this bridge or its ports (`BridgeInterface`).
    Bridge(String),
    /// What comes in by devices whose names begin so (`InterfaceNamePrefix`).
    NamePrefix(String),
    /// Nothing is told apart.
    Off,
}

/// kube-proxy's `nodePortAddresses`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NodePortAddresses {
    /// The node's primary address of each family.
    Primary,
    /// Every address of the node but loopback.
    All,
    /// The addresses of the node in these networks.
    Networks(Vec<IpNetwork>),
}

/// Which `spec.externalIPs` are served (`AllowServiceExternalIPs` in kube-proxy, all or none).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExternalIps {
    /// All of them.
    All,
    /// Those in these networks.
    Networks(Vec<IpNetwork>),
    /// None.
    Off,
}

/// What a device is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Role {
    /// It leads to pods.
    Pod,
    /// It leads out of the node.
    Uplink,
    /// It carries pods' packets to other nodes.
    Tunnel,
}

/// A device name, or its beginning followed by `*`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamePattern(pub String);

impl NamePattern {
    /// Whether a device of that name is meant.
    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == self.0,
        }
    }
}
