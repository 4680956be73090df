//! A file that changes while we run.

use super::super::effective::{applied, needs_restart};
use super::*;

#[test]
fn what_can_be_changed_is_and_what_cannot_waits_for_a_restart() {
    let started = effective(&file(&format!(
        "{KUBE_PROXY}mode: iptables\nhealthzBindAddress: 0.0.0.0:1\n---\n{OWN}socketLB: true\n"
    )));
    let changed = effective(&file(&format!(
        "{KUBE_PROXY}iptables: {{masqueradeAll: true, localhostNodePorts: false}}\n\
         conntrack: {{tcpCloseWaitTimeout: 90s}}\nnodePortAddresses: [10.0.0.0/8]\n\
         bindAddress: 192.0.2.7\n---\n{OWN}socketLB: false\nmaxFlows: 77\nexternalIPs: [off]\n\
         deviceRoles: [eth0=off]\nmasqueradePorts: 1-2\napiServer: https://new\n\
         detectLocalMode: Off\n"
    )));
    let waiting: Vec<&str> =
        needs_restart(&started, &changed).into_iter().map(|field| field.path).collect();
    assert_eq!(waiting, ["healthzBindAddress", "maxFlows", "socketLB"]);
    let after = Effective::after(&started, changed.clone());
    let policy = crate::settings::Policy { socket_lb: true, ..changed.policy.clone() };
    assert_eq!(after.policy, policy);
    assert_eq!(after.source, changed.source);
    assert_eq!(after.timeouts, changed.timeouts);
    assert_eq!(after.flows, started.flows);
    assert_eq!(after.healthz_bind_address, started.healthz_bind_address);
    let shown = &after.configz()["kubeproxy.config.k8s.io"];
    assert_eq!(shown["healthzBindAddress"], "0.0.0.0:1");
    assert_eq!(shown["iptables"]["masqueradeAll"], true);
    let applied: Vec<&str> = applied(&started, &after).into_iter().map(|row| row.0).collect();
    for path in ["iptables.masqueradeAll", "nodePortAddresses", "externalIPs", "deviceRoles"] {
        assert!(applied.contains(&path), "{path}: {applied:?}");
    }
    // Back to what it was: nothing waits, and all is as before.
    let back = Effective::after(&started, started.clone());
    assert_eq!(back, started);
    assert!(needs_restart(&started, &back).is_empty());
}

#[test]
fn every_field_that_is_used_and_not_live_waits() {
    // Whoever adds a setting decides this, and changes `Effective::after`.
    let paths: Vec<&str> = super::super::catalogue::fields()
        .filter(|field| !field.live && field.document != Document::Flags)
        .filter(|field| field.effect != super::super::catalogue::Effect::Refused)
        .map(|field| field.path)
        .collect();
    let expected = [
        "logging.format",
        "logging.verbosity",
        "hostnameOverride",
        "healthzBindAddress",
        "metricsBindAddress",
        "bindAddressHardFail",
        "oomScoreAdj",
        "conntrack.maxPerCore",
        "conntrack.min",
        "socketLB",
        "deviceHooks",
        "cgroupRoot",
        "bpffs",
        "maxServices",
        "maxBackends",
        "maxSlots",
        "maxFrontends",
        "maxSourceRanges",
        "maxFlows",
        "maxHalfOpen",
        "log",
    ];
    assert_eq!(paths, expected);
}
