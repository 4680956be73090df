//! From settings to a configuration that can be used: validated, with types, and with a word about
//! each setting whose value decides what it does. Pure.

mod flows;
mod local;
mod node;
mod periods;
mod servers;
mod source;

use std::path::PathBuf;

pub use self::source::IN_CLUSTER;
use super::catalogue::{Document, Effect, Key};
use super::effective::Effective;
use super::finding::Findings;
use super::merge::{Inputs, Settings, merge};
use super::value::Value;
use crate::settings::Policy;

/// A setting of kube-proxy's document.
const fn kp(path: &'static str) -> Key {
    (Document::KubeProxy, path)
}

/// A setting of our own document.
const fn own(path: &'static str) -> Key {
    (Document::Millrace, path)
}

/// A setting that is only a flag.
const fn flag(path: &'static str) -> Key {
    (Document::Flags, path)
}

/// Which of kube-proxy's sections counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// Our own, and what is meant where no `KubeProxyConfiguration` and no flag says otherwise.
    Ebpf,
    Iptables,
    Ipvs,
    Nftables,
}

/// A configuration, unless there are errors, and all that is to be said about it.
pub fn resolve(inputs: &Inputs) -> (Option<Effective>, Findings) {
    let mut settings = merge(inputs);
    let effective = effective(&mut settings, inputs);
    let mut findings = std::mem::take(&mut settings.findings);
    // The heaviest first; otherwise in the order they were found.
    findings.0.sort_by_key(|finding| finding.weight);
    let effective = effective.filter(|_| !findings.has_errors());
    (effective.map(|effective| Effective { settings: settings.all, ..effective }), findings)
}

fn effective(s: &mut Settings, inputs: &Inputs) -> Option<Effective> {
    let mode = mode(s);
    refuse_windows(s);
    let node_name = node::name(s, &inputs.machine.host_name);
    let log = node::log(s);
    let (source, source_chosen) = source::source(s, &inputs.environment);
    let bind_address = servers::bind_address(s);
    let healthz = servers::address(s, &servers::HEALTHZ, bind_address);
    let metrics = servers::address(s, &servers::METRICS, bind_address);
    let policy = policy(s, mode, bind_address);
    let capacity = flows::capacity(s);
    let flow_capacity = flows::flow_capacity(s, inputs.machine.cpus);
    let timeouts = flows::timeouts(s);
    let (sync_period, min_sync_period) = periods::periods(s, mode);
    let device_hooks = node::device_hooks(s);
    let oom_score_adj = node::oom_score_adj(s);
    ipvs(s, mode);
    let path = |s: &Settings, key| Some(s.text(key)).filter(|t| !t.is_empty()).map(PathBuf::from);
    Some(Effective {
        node_name: node_name?,
        source: source?,
        source_chosen,
        policy: policy?,
        cgroup_root: path(s, own("cgroupRoot")),
        bpffs: path(s, own("bpffs")),
        capacity,
        flows: flow_capacity,
        timeouts,
        device_hooks,
        bind_address,
        healthz_bind_address: healthz,
        metrics_bind_address: metrics,
        bind_address_hard_fail: s.is_set(kp("bindAddressHardFail")),
        sync_period,
        min_sync_period,
        enable_profiling: s.is_set(kp("enableProfiling")),
        oom_score_adj,
        log,
        settings: std::collections::BTreeMap::new(),
        file: s.file.clone(),
    })
}

fn policy(s: &mut Settings, mode: Mode, bind_address: std::net::IpAddr) -> Option<Policy> {
    let masquerade_all = masquerade_all(s, mode);
    let detect_local = local::detector(s);
    let (node_port_addresses, localhost) = local::node_ports(s, mode);
    let external_ips = local::external_ips(s);
    let device_roles = node::device_roles(s);
    let masquerade_ports = node::masquerade_ports(s);
    Some(Policy {
        socket_lb: s.is_set(own("socketLB")),
        masquerade_all,
        detect_local: detect_local?,
        node_port_addresses: node_port_addresses?,
        localhost_node_ports: localhost,
        bind_address: Some(bind_address).filter(|address| !address.is_unspecified()),
        external_ips: external_ips?,
        device_roles: device_roles?,
        masquerade_ports,
    })
}

fn mode(s: &mut Settings) -> Mode {
    let key = kp("mode");
    let has_document = s.documents.contains(&Document::KubeProxy);
    let (mode, here) = match s.text(key) {
        "" if has_document => (Mode::Iptables, "kube-proxy's default, iptables"),
        "" | "ebpf" | "millrace" => (Mode::Ebpf, "our own"),
        "iptables" => (Mode::Iptables, "iptables"),
        "nftables" => (Mode::Nftables, "nftables"),
        "ipvs" => (Mode::Ipvs, "ipvs"),
        other => {
            let message = format!(
                "{other:?} is no mode of Linux: write iptables, nftables, ipvs, or nothing; eBPF \
                 serves with each"
            );
            s.error(key, message);
            (Mode::Ebpf, "our own")
        }
    };
    let counts = match mode {
        Mode::Ebpf | Mode::Iptables => "iptables",
        Mode::Ipvs => "ipvs (iptables for masqueradeAll)",
        Mode::Nftables => "nftables",
    };
    let here = format!("eBPF serves; as the mode is {here}, the section {counts} counts");
    s.remark(key, Effect::Mapped, here);
    mode
}

/// The section of another mode does nothing.
fn only_with(s: &mut Settings, keys: &[&'static str], what: &str) {
    for path in keys {
        s.remark(kp(path), Effect::Ignored, format!("only counts with mode {what}"));
    }
}

fn masquerade_all(s: &mut Settings, mode: Mode) -> bool {
    let (counts, other, what) = match mode {
        Mode::Nftables => ("nftables.masqueradeAll", "iptables.masqueradeAll", "iptables or ipvs"),
        _ => ("iptables.masqueradeAll", "nftables.masqueradeAll", "nftables"),
    };
    only_with(s, &[other], what);
    s.is_set(kp(counts))
}

fn refuse_windows(s: &mut Settings) {
    let keys: Vec<Key> = s
        .all
        .iter()
        .filter(|(_, setting)| setting.field.effect == Effect::Refused)
        .map(|(key, _)| *key)
        .collect();
    for key in keys {
        if s.value(key).is_zero() {
            s.remark(key, Effect::Ignored, "only for Windows; not set");
        } else {
            s.error(key, "only for Windows, and this is Linux: take it out");
        }
    }
}

/// Users who set these expect something of IPVS that is not had here.
fn ipvs(s: &mut Settings, mode: Mode) {
    for (path, why) in [
        (
            "ipvs.scheduler",
            "backends are chosen at random, whatever the scheduler; use \
                            sessionAffinity: ClientIP where clients must stay with a backend",
        ),
        ("ipvs.excludeCIDRs", "there are no IPVS rules to keep; what others have made is left"),
        (
            "ipvs.strictARP",
            "addresses of Services are put on no device, so no ARP is answered for \
                            them; it may stay or go",
        ),
        ("ipvs.tcpTimeout", "set conntrack.tcpEstablishedTimeout"),
        ("ipvs.tcpFinTimeout", "set conntrack.tcpCloseWaitTimeout"),
        ("ipvs.udpTimeout", "set conntrack.udpStreamTimeout"),
    ] {
        let key = kp(path);
        if *s.value(key) != Value::Null && !s.value(key).is_zero() && mode == Mode::Ipvs {
            s.warn(key, format!("ignored: {why}"));
        }
    }
}
