//! The flags of `millrace run` that make a [`Policy`].

use clap::Args;

use super::Policy;
use super::parse::{self, DetectLocalFlags, Invalid};

/// Flags about what is served and how packets are treated.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Policy")]
pub struct PolicyFlags {
    /// Translate sockets when they connect and send. Off: packets alone are translated, and the
    /// node's own processes are not served.
    #[arg(long, value_name = "on|off", default_value = "on")]
    socket_lb: String,
    /// Masquerade what pods send to ClusterIPs as well.
    #[arg(long)]
    masquerade_all: bool,
    /// How packets of this node's pods are told from others: Attachment (they come in by a device
    /// that leads to pods), ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix, Off.
    #[arg(long, value_name = "MODE")]
    detect_local_mode: Option<String>,
    /// Networks of pods, for --detect-local-mode ClusterCIDR; the first of each family counts.
    #[arg(long, value_name = "CIDR,...")]
    cluster_cidr: Option<String>,
    /// Bridge that pods are attached to, for --detect-local-mode BridgeInterface.
    #[arg(long, value_name = "NAME")]
    pod_bridge_interface: Option<String>,
    /// What names of pods' devices begin with, for --detect-local-mode InterfaceNamePrefix.
    #[arg(long, value_name = "PREFIX")]
    pod_interface_name_prefix: Option<String>,
    /// What a device is for, where the rules get it wrong: pod, uplink, tunnel, off. The first
    /// match counts; may be repeated.
    #[arg(long, value_name = "NAME[*]=ROLE")]
    device_role: Vec<String>,
    /// Ports that masqueraded flows come from; default: chosen clear of the ports that sockets get
    /// (net.ipv4.ip_local_port_range) and of NodePorts.
    #[arg(long, value_name = "FIRST-LAST")]
    masquerade_ports: Option<String>,
    /// Addresses of the node that NodePorts are served on: primary, all, or those in networks.
    #[arg(long, value_name = "primary|all|CIDR,...", default_value = "primary")]
    nodeport_addresses: String,
    /// externalIPs that are served: all, off, or those in networks.
    #[arg(long, value_name = "all|off|CIDR,...", default_value = "all")]
    external_ips: String,
}

impl PolicyFlags {
    /// The policy they ask for.
    pub fn policy(&self) -> Result<Policy, Invalid> {
        let detect_local = parse::detect_local(DetectLocalFlags {
            mode: self.detect_local_mode.as_deref(),
            cluster_cidr: self.cluster_cidr.as_deref(),
            bridge: self.pod_bridge_interface.as_deref(),
            name_prefix: self.pod_interface_name_prefix.as_deref(),
        })?;
        let ports = self.masquerade_ports.as_deref().map(parse::masquerade_ports).transpose()?;
        Ok(Policy {
            socket_lb: parse::switch("--socket-lb", &self.socket_lb)?,
            masquerade_all: self.masquerade_all,
            detect_local,
            node_port_addresses: parse::node_port_addresses(&self.nodeport_addresses)?,
            external_ips: parse::external_ips(&self.external_ips)?,
            device_roles: parse::device_roles(&self.device_role)?,
            masquerade_ports: ports,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        flags: PolicyFlags,
    }

    fn policy(arguments: &[&str]) -> Result<Policy, Invalid> {
        let arguments = std::iter::once(&"millrace").chain(arguments);
        Command::try_parse_from(arguments).unwrap().flags.policy()
    }

    #[test]
    fn no_flags_are_the_defaults() {
        assert_eq!(policy(&[]), Ok(Policy::default()));
    }

    #[test]
    fn every_flag_reaches_its_place() {
        let changed = policy(&[
            "--socket-lb=off",
            "--masquerade-all",
            "--detect-local-mode=NodeCIDR",
            "--device-role=wg0=tunnel",
            "--device-role=tap*=off",
            "--masquerade-ports=50000-50999",
            "--nodeport-addresses=all",
            "--external-ips=off",
        ])
        .unwrap();
        let default = Policy::default();
        assert!(!changed.socket_lb && changed.masquerade_all);
        assert_ne!(changed.detect_local, default.detect_local);
        assert_eq!(changed.device_roles.len(), 2);
        assert_eq!(changed.masquerade_ports, Some((50_000, 50_999)));
        assert_ne!(changed.node_port_addresses, default.node_port_addresses);
        assert_ne!(changed.external_ips, default.external_ips);
    }
}
