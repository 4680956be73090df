//! Flags of `millrace run` as they were before there was a file, and the command line itself.

use clap::Parser;

use super::super::flags::ConfigFlags;
use super::*;
use crate::settings::{DetectLocal, Policy};

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    flags: ConfigFlags,
}

fn parse(arguments: &[&str]) -> Result<Inputs, clap::Error> {
    let arguments = std::iter::once(&"millrace").chain(arguments);
    let flags = Command::try_parse_from(arguments)?.flags.given;
    Ok(Inputs { flags, ..inputs() })
}

#[test]
fn no_flags_are_the_defaults() {
    let found = effective(&parse(&[]).unwrap());
    assert_eq!(found.policy, Policy::default());
    assert_eq!(found.capacity, crate::plan::op::Capacity::default());
    assert_eq!(found.flows, crate::bpf::object::FlowCapacity::default());
    assert_eq!(found.oom_score_adj, None);
}

#[test]
fn every_flag_reaches_its_place() {
    let changed = effective(
        &parse(&[
            "--socket-lb",
            "off",
            "--masquerade-all",
            "--detect-local-mode=NodeCIDR",
            "--device-role=wg0=tunnel",
            "--device-role=tap*=off",
            "--masquerade-ports=50000-50999",
            "--nodeport-addresses=all",
            "--external-ips=off",
            "--device-hooks",
            "clsact",
            "--max-services=7",
            "-v=4",
            "--oom-score-adj=-5",
            "--iptables-localhost-nodeports=false",
        ])
        .unwrap(),
    );
    let (policy, default) = (&changed.policy, Policy::default());
    assert!(!policy.socket_lb && policy.masquerade_all && !policy.localhost_node_ports);
    assert_eq!(policy.detect_local, DetectLocal::NodeCidr);
    assert_eq!(policy.device_roles.len(), 2);
    assert_eq!(policy.masquerade_ports, Some((50_000, 50_999)));
    assert_ne!(policy.node_port_addresses, default.node_port_addresses);
    assert_ne!(policy.external_ips, default.external_ips);
    assert_eq!(changed.device_hooks, Some(crate::bpf::packet::Means::Clsact));
    assert_eq!((changed.capacity.services, changed.log.verbosity), (7, 4));
    assert_eq!(changed.oom_score_adj, Some(-5));
}

#[test]
fn kubeadms_and_ekss_command_lines_are_taken() {
    parse(&["--config=/var/lib/kube-proxy/config.conf", "--hostname-override=n1"]).unwrap();
    let eks = ["--v=2", "--config=/c", "--hostname-override=n1", "--cleanup-ipvs=false"];
    parse(&eks).unwrap();
    parse(&["--v", "2", "--ipvs-scheduler", "rr", "--feature-gates=A=true,B=false"]).unwrap();
    assert!(parse(&["--no-such-flag"]).is_err());
}

#[test]
fn what_is_written_can_be_read_and_means_the_same() {
    let text = format!(
        "{KUBE_PROXY}clusterCIDR: 10.0.0.0/8\nmode: nftables\nnftables: {{masqueradeAll: true}}\n\
         ---\n{OWN}externalIPs: [192.0.2.0/24]\ndeviceRoles: [eth0=uplink]\nmanifests: /m\n"
    );
    let found = effective(&file(&text));
    let documents = super::super::print::documents(&found);
    let again: Vec<String> =
        documents.iter().map(|document| serde_saphyr::to_string(document).unwrap()).collect();
    let again = effective(&file(&again.join("---\n")));
    assert_eq!(again.policy, found.policy);
    assert_eq!(again.source, found.source);
    assert_eq!(again.configz(), found.configz());
}
