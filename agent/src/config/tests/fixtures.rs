//! The files that kubeadm and EKS write, unedited.

use std::time::Duration;

use serde_json::json;

use super::super::effective::Source;
use super::super::finding::Weight;
use super::super::merge::Origin;
use super::super::print;
use super::*;
use crate::settings::{DetectLocal, NodePortAddresses};

const KUBEADM: &str = include_str!("../fixtures/kubeadm.conf");
const EKS: &str = include_str!("../fixtures/eks.yaml");

#[test]
fn kubeadms_file_is_what_kube_proxy_makes_of_it() {
    let inputs = file(KUBEADM);
    let found = effective(&inputs);
    assert!(said(&inputs, Weight::Warning).is_empty(), "{:?}", findings(&inputs));
    let kubeconfig = Some("/var/lib/kube-proxy/kubeconfig.conf".into());
    assert_eq!(found.source, Source::Kubernetes { kubeconfig, api_server: None });
    assert_eq!(found.node_name, "host-1");
    assert!(!found.policy.masquerade_all && found.policy.localhost_node_ports);
    let pods = vec!["10.244.0.0/16".parse().unwrap()];
    assert_eq!(found.policy.detect_local, DetectLocal::ClusterCidr(pods));
    assert_eq!(found.policy.node_port_addresses, NodePortAddresses::All, "mode iptables");
    assert_eq!(found.policy.bind_address, None);
    assert_eq!(found.healthz_bind_address, Some("0.0.0.0:10256".parse().unwrap()));
    assert_eq!(found.metrics_bind_address, Some("127.0.0.1:10249".parse().unwrap()));
    assert!(!found.bind_address_hard_fail && !found.enable_profiling);
    assert_eq!(found.sync_period, Duration::from_secs(30));
    assert_eq!(found.min_sync_period, Duration::ZERO);
    assert_eq!(found.oom_score_adj, Some(-999));
    assert_eq!(found.timeouts, crate::flows::rules::Timeouts::default());
}

#[test]
fn ekss_file_is_what_kube_proxy_makes_of_it() {
    let inputs = with_flags(file(EKS), &["--v=2", "--hostname-override=ip-10-0-0-7.internal"]);
    let found = effective(&inputs);
    assert!(said(&inputs, Weight::Warning).is_empty(), "{:?}", findings(&inputs));
    assert_eq!(found.node_name, "ip-10-0-0-7.internal");
    assert_eq!(found.policy.detect_local, DetectLocal::Attachment, "no clusterCIDR");
    assert_eq!(found.metrics_bind_address, Some("0.0.0.0:10249".parse().unwrap()));
    assert_eq!(found.oom_score_adj, Some(-998));
    assert_eq!(found.log.verbosity, 2);
    // 32768 for each of four processors is 131072: so is the least.
    assert_eq!(found.flows.established, 262_144);
}

#[test]
fn what_an_old_eks_file_has_too_much_is_a_warning() {
    let inputs = file(&format!("{EKS}udpIdleTimeout: 250ms\n"));
    effective(&inputs);
    let warnings = said(&inputs, Weight::Warning);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("config.conf:35 udpIdleTimeout: unknown field"), "{warnings:?}");
    assert!(warnings[0].ends_with("ignored, as by kube-proxy"), "{warnings:?}");
}

#[test]
fn print_explains_every_line_of_kubeadms_file() {
    let inputs = file(KUBEADM);
    let found = effective(&inputs);
    let text = print::text(&found, &findings(&inputs));
    let last = KUBEADM.lines().count();
    let mut explained = 0;
    for field in super::super::catalogue::of(Document::KubeProxy) {
        let setting = &found.settings[&field.key()];
        if let Origin::File(line) | Origin::LeftOpen(line) = setting.origin {
            assert!((1..=last as u64).contains(&line), "{}: {line}", field.path);
            let written = KUBEADM.lines().nth(line as usize - 1).unwrap();
            let name = field.path.rsplit('.').next().unwrap();
            // A section begins on the line below its name.
            let is_section = field.path == "logging.options";
            assert!(is_section || written.trim().starts_with(name), "{line}: {written}");
            explained += 1;
        }
        let row = text.lines().find(|row| row.trim_start().starts_with(field.path)).unwrap();
        assert!(row.contains(setting.effect.name()) && row.contains(&setting.here), "{row}");
    }
    assert!(explained > 50, "{explained}");
    let machine = print::json(&found, &findings(&inputs));
    let fields = machine["fields"].as_array().unwrap();
    let cidr = fields.iter().find(|field| field["field"] == "clusterCIDR").unwrap();
    let from = json!({"kind": "file", "file": "config.conf", "line": 10});
    assert_eq!((&cidr["value"], &cidr["from"]), (&json!("10.244.0.0/16"), &from));
}

#[test]
fn configz_is_the_whole_configuration_in_force() {
    let found = effective(&with_flags(file(KUBEADM), &["--hostname-override=n1"]));
    let shown = &found.configz()["kubeproxy.config.k8s.io"];
    assert_eq!(shown["apiVersion"], "kubeproxy.config.k8s.io/v1alpha1");
    assert_eq!(shown["kind"], "KubeProxyConfiguration");
    assert_eq!(shown["iptables"]["syncPeriod"], "30s");
    assert_eq!(shown["conntrack"]["tcpEstablishedTimeout"], "24h0m0s");
    assert_eq!(shown["metricsBindAddress"], "127.0.0.1:10249");
    assert_eq!(shown["hostnameOverride"], "n1");
    assert_eq!(shown["portRange"], "");
    // It is a configuration itself, and means the same.
    let again = effective(&file(&serde_json::to_string(shown).unwrap()));
    assert_eq!(again.configz(), found.configz());
    assert_eq!(again.policy, found.policy);
}
