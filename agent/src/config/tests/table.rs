//! Every setting of the specification: what stands in the file, what is shown of it, and what it
//! does here.

use std::collections::BTreeSet;

use super::super::catalogue::{self, Document, Effect};
use super::super::merge::Origin;
use super::super::resolve;
use super::{effective, kube_proxy, own, setting};
use Effect::{Ignored, Mapped, Refused, Used};

/// Path, lines of a file that sets it, the value shown, what it does.
type Row = (&'static str, &'static str, &'static str, Effect);

const KUBE_PROXY: &[Row] = &[
    (
        "featureGates",
        "featureGates: {AllowServiceExternalIPs: false}",
        "AllowServiceExternalIPs=false",
        Used,
    ),
    ("clientConnection.kubeconfig", "clientConnection: {kubeconfig: /k}", "/k", Used),
    (
        "clientConnection.acceptContentTypes",
        "clientConnection: {acceptContentTypes: a}",
        "a",
        Ignored,
    ),
    ("clientConnection.contentType", "clientConnection: {contentType: a}", "a", Ignored),
    ("clientConnection.qps", "clientConnection: {qps: 7.5}", "7.5", Ignored),
    ("clientConnection.burst", "clientConnection: {burst: 7}", "7", Ignored),
    ("logging.format", "logging: {format: json}", "json", Used),
    ("logging.flushFrequency", "logging: {flushFrequency: 5s}", "5s", Ignored),
    ("logging.verbosity", "logging: {verbosity: 5}", "5", Mapped),
    (
        "logging.vmodule",
        "logging: {vmodule: [{filePattern: x, verbosity: 3}]}",
        "[{\"filePattern\":\"x\",\"verbosity\":3}]",
        Ignored,
    ),
    (
        "logging.options",
        "logging: {options: {json: {infoBufferSize: \"7\"}}}",
        "{\"json\":{\"infoBufferSize\":\"7\"}}",
        Ignored,
    ),
    ("hostnameOverride", "hostnameOverride: \" Node-7 \"", "node-7", Used),
    ("bindAddress", "bindAddress: 192.0.2.7", "192.0.2.7", Used),
    ("healthzBindAddress", "healthzBindAddress: 192.0.2.7", "192.0.2.7:10256", Used),
    ("metricsBindAddress", "metricsBindAddress: \"[::]:77\"", "[::]:77", Used),
    ("bindAddressHardFail", "bindAddressHardFail: true", "true", Used),
    ("enableProfiling", "enableProfiling: true", "true", Ignored),
    ("showHiddenMetricsForVersion", "showHiddenMetricsForVersion: \"1.36\"", "1.36", Ignored),
    ("mode", "mode: nftables", "nftables", Mapped),
    ("iptables.masqueradeBit", "iptables: {masqueradeBit: 0}", "0", Ignored),
    ("iptables.masqueradeAll", "iptables: {masqueradeAll: true}", "true", Used),
    ("iptables.localhostNodePorts", "iptables: {localhostNodePorts: false}", "false", Used),
    ("iptables.syncPeriod", "iptables: {syncPeriod: 1m}", "1m0s", Used),
    ("iptables.minSyncPeriod", "iptables: {minSyncPeriod: 2s}", "2s", Used),
    ("ipvs.syncPeriod", "mode: ipvs\nipvs: {syncPeriod: 1m}", "1m0s", Used),
    ("ipvs.minSyncPeriod", "mode: ipvs\nipvs: {minSyncPeriod: 2s}", "2s", Used),
    ("ipvs.scheduler", "ipvs: {scheduler: lc}", "lc", Ignored),
    ("ipvs.excludeCIDRs", "ipvs: {excludeCIDRs: [10.0.0.0/8]}", "10.0.0.0/8", Ignored),
    ("ipvs.strictARP", "ipvs: {strictARP: true}", "true", Ignored),
    ("ipvs.tcpTimeout", "ipvs: {tcpTimeout: 1s}", "1s", Ignored),
    ("ipvs.tcpFinTimeout", "ipvs: {tcpFinTimeout: 1s}", "1s", Ignored),
    ("ipvs.udpTimeout", "ipvs: {udpTimeout: 1s}", "1s", Ignored),
    ("nftables.masqueradeBit", "nftables: {masqueradeBit: 15}", "15", Ignored),
    ("nftables.masqueradeAll", "mode: nftables\nnftables: {masqueradeAll: true}", "true", Used),
    ("nftables.syncPeriod", "mode: nftables\nnftables: {syncPeriod: 1m}", "1m0s", Used),
    ("nftables.minSyncPeriod", "mode: nftables\nnftables: {minSyncPeriod: 2s}", "2s", Used),
    ("winkernel.networkName", "winkernel: {networkName: a}", "a", Refused),
    ("winkernel.sourceVip", "winkernel: {sourceVip: a}", "a", Refused),
    ("winkernel.enableDSR", "winkernel: {enableDSR: true}", "true", Refused),
    ("winkernel.rootHnsEndpointName", "winkernel: {rootHnsEndpointName: a}", "a", Refused),
    (
        "winkernel.forwardHealthCheckVip",
        "winkernel: {forwardHealthCheckVip: true}",
        "true",
        Refused,
    ),
    ("windowsRunAsService", "windowsRunAsService: true", "true", Refused),
    ("detectLocalMode", "detectLocalMode: NodeCIDR", "NodeCIDR", Used),
    (
        "detectLocal.bridgeInterface",
        "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}",
        "cni0",
        Used,
    ),
    (
        "detectLocal.interfaceNamePrefix",
        "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: cali}",
        "cali",
        Used,
    ),
    ("clusterCIDR", "clusterCIDR: 10.0.0.0/8,fd00::/48", "10.0.0.0/8,fd00::/48", Used),
    ("nodePortAddresses", "nodePortAddresses: [10.0.0.0/8]", "10.0.0.0/8", Used),
    ("oomScoreAdj", "oomScoreAdj: 0", "0", Used),
    ("conntrack.maxPerCore", "conntrack: {maxPerCore: 65536}", "65536", Mapped),
    ("conntrack.min", "conntrack: {maxPerCore: 1, min: 70000}", "70000", Mapped),
    ("conntrack.tcpEstablishedTimeout", "conntrack: {tcpEstablishedTimeout: 2h}", "2h0m0s", Mapped),
    ("conntrack.tcpCloseWaitTimeout", "conntrack: {tcpCloseWaitTimeout: 2m}", "2m0s", Mapped),
    ("conntrack.tcpBeLiberal", "conntrack: {tcpBeLiberal: true}", "true", Ignored),
    ("conntrack.udpTimeout", "conntrack: {udpTimeout: 20s}", "20s", Mapped),
    ("conntrack.udpStreamTimeout", "conntrack: {udpStreamTimeout: 60s}", "1m0s", Mapped),
    ("configSyncPeriod", "configSyncPeriod: 1m", "1m0s", Ignored),
    ("portRange", "portRange: 1-2", "1-2", Ignored),
];

const OWN: &[Row] = &[
    ("manifests", "manifests: /m", "/m", Used),
    ("apiServer", "apiServer: https://192.0.2.1:6443", "https://192.0.2.1:6443", Used),
    ("socketLB", "socketLB: off", "false", Used),
    ("detectLocalMode", "detectLocalMode: Off", "Off", Used),
    ("externalIPs", "externalIPs: [192.0.2.0/24]", "192.0.2.0/24", Used),
    ("deviceRoles", "deviceRoles: [wg0=tunnel, tap*=off]", "wg0=tunnel,tap*=off", Used),
    ("deviceHooks", "deviceHooks: clsact", "clsact", Used),
    ("masqueradePorts", "masqueradePorts: 61000-65535", "61000-65535", Used),
    ("cgroupRoot", "cgroupRoot: /c", "/c", Used),
    ("bpffs", "bpffs: /b", "/b", Used),
    ("maxServices", "maxServices: 7", "7", Used),
    ("maxBackends", "maxBackends: 7", "7", Used),
    ("maxSlots", "maxSlots: 7", "7", Used),
    ("maxFrontends", "maxFrontends: 7", "7", Used),
    ("maxSourceRanges", "maxSourceRanges: 7", "7", Used),
    ("maxFlows", "maxFlows: 7", "7", Used),
    ("maxHalfOpen", "maxHalfOpen: 7", "7", Used),
    ("log", "log: debug", "debug", Used),
];

fn check(document: Document, rows: &[Row], inputs: impl Fn(&str) -> super::Inputs) {
    let listed: BTreeSet<&str> = rows.iter().map(|row| row.0).collect();
    let known: BTreeSet<&str> = catalogue::of(document).map(|field| field.path).collect();
    assert_eq!(listed, known, "one row for every setting");
    for &(path, lines, shown, effect) in rows {
        let inputs = inputs(lines);
        if effect == Refused {
            let (refused, findings) = resolve(&inputs);
            assert!(refused.is_none(), "{path}");
            let text = findings.errors();
            assert!(text.contains(path) && text.contains("Windows"), "{text}");
            continue;
        }
        let effective = effective(&inputs);
        let setting = setting(&effective, (document, path));
        assert_eq!(setting.value.to_text(), shown, "{path}");
        assert_eq!(setting.effect, effect, "{path}: {}", setting.here);
        assert!(matches!(setting.origin, Origin::File(3 | 4)), "{path}: {:?}", setting.origin);
        assert!(!setting.here.is_empty(), "{path}");
    }
}

#[test]
fn every_field_of_kube_proxy_has_its_verdict() {
    check(Document::KubeProxy, KUBE_PROXY, kube_proxy);
}

#[test]
fn every_field_of_our_own_has_its_verdict() {
    check(Document::Millrace, OWN, own);
}

/// kube-proxy's flags on Linux, as `kube-proxy --help` lists them.
const FLAGS: &str = "--bind-address --bind-address-hard-fail --cleanup --cluster-cidr --config \
    --config-sync-period --conntrack-max-per-core --conntrack-min --conntrack-tcp-be-liberal \
    --conntrack-tcp-timeout-close-wait --conntrack-tcp-timeout-established --conntrack-udp-timeout \
    --conntrack-udp-timeout-stream --detect-local-mode --feature-gates --healthz-bind-address \
    --healthz-port --hostname-override --init-only --iptables-localhost-nodeports \
    --iptables-masquerade-bit --iptables-min-sync-period --iptables-sync-period \
    --ipvs-exclude-cidrs --ipvs-min-sync-period --ipvs-scheduler --ipvs-strict-arp \
    --ipvs-sync-period --ipvs-tcp-timeout --ipvs-tcpfin-timeout --ipvs-udp-timeout \
    --kube-api-burst --kube-api-content-type --kube-api-qps --kubeconfig --log-flush-frequency \
    --log-json-info-buffer-size --log-json-split-stream --log-text-info-buffer-size \
    --log-text-split-stream --logging-format --masquerade-all --master --metrics-bind-address \
    --metrics-port --nodeport-addresses --oom-score-adj --pod-bridge-interface \
    --pod-interface-name-prefix --profiling --proxy-mode --proxy-port-range \
    --show-hidden-metrics-for-version --v --version --vmodule --write-config-to";

#[test]
fn every_flag_of_kube_proxy_is_taken() {
    let known = super::flags::all();
    let missing: Vec<&str> =
        FLAGS.split_whitespace().filter(|flag| !known.contains_key(flag)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_default_can_be_read() {
    for field in catalogue::fields().filter(|field| !field.default.is_empty()) {
        let read = field.shape.read_text(field.default);
        assert!(read.is_ok(), "{}: {:?}", field.path, field.default);
    }
}

/// The README's tables are these.
#[test]
fn the_readme_has_every_setting() {
    let readme = include_str!("../../../../README.md");
    for document in [Document::KubeProxy, Document::Millrace, Document::Flags] {
        let table = super::super::print::markdown(document);
        assert!(readme.contains(&table), "put this table into README.md:\n{table}");
    }
}
