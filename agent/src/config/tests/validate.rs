//! What kube-proxy's validation refuses, we refuse; what it says nothing about and does nothing
//! here, we say.

use std::time::Duration;

use super::super::finding::Weight;
use super::*;
use crate::settings::{DetectLocal, ExternalIps, NodePortAddresses};

#[test]
fn what_kube_proxy_refuses_is_refused() {
    let rows = [
        ("bindAddress: localhost", "bindAddress: \"localhost\" is not an IP address"),
        ("healthzBindAddress: \"1.2.3.4:0\"", "with a port from 1 to 65535"),
        ("healthzBindAddress: \"1.2.3.4:70000\"", "write IP:PORT, such as 0.0.0.0:10256"),
        ("metricsBindAddress: here", "\"here\" is no address to listen on"),
        ("iptables: {syncPeriod: -1s}", "iptables.syncPeriod: -1s: must be more than 0"),
        ("iptables: {minSyncPeriod: -1s}", "iptables.minSyncPeriod: must not be less than 0"),
        (
            "iptables: {syncPeriod: 1s, minSyncPeriod: 2s}",
            "must not be more than iptables.syncPeriod",
        ),
        ("ipvs: {syncPeriod: 1s, minSyncPeriod: 2s}", "must not be more than ipvs.syncPeriod"),
        ("nftables: {minSyncPeriod: 31s}", "31s: must not be more than nftables.syncPeriod"),
        ("configSyncPeriod: -1s", "configSyncPeriod: must be more than 0"),
        ("conntrack: {udpTimeout: -1s}", "conntrack.udpTimeout: must not be less than 0"),
        ("conntrack: {tcpEstablishedTimeout: -1s}", "must not be less than 0"),
        ("clusterCIDR: 10.0.0.0/33", "clusterCIDR: 10.0.0.0/33: 10.0.0.0/33 is no network"),
        (
            "clusterCIDR: 10.0.0.0/8,10.1.0.0/16",
            "write one network, or one of IPv4 and one of IPv6",
        ),
        ("clusterCIDR: 10.0.0.0/8,fd00::/8,fd01::/16", "write one network"),
        ("nodePortAddresses: [primary, 10.0.0.0/8]", "words and networks do not mix"),
        ("nodePortAddresses: [eth0]", "eth0 is no network"),
        ("nodePortAddresses: [localhost]", "localhost alone"),
        ("detectLocalMode: Magic", "\"Magic\": write one of Attachment, ClusterCIDR"),
        ("detectLocalMode: BridgeInterface", "needs detectLocal.bridgeInterface"),
        ("detectLocalMode: InterfaceNamePrefix", "needs detectLocal.interfaceNamePrefix"),
        ("mode: kernelspace", "\"kernelspace\" is no mode of Linux"),
        ("mode: userspace", "is no mode of Linux"),
        ("hostnameOverride: \"  \"", "hostnameOverride: blank"),
        ("logging: {format: xml}", "\"xml\": write text or json"),
        ("featureGates: {AllowServiceExternalIPs: 7}", "AllowServiceExternalIPs \"7\": write true"),
    ];
    for (line, expected) in rows {
        let error = error(&kube_proxy(line));
        assert!(error.starts_with("config.conf:3 ") && error.contains(expected), "{error}");
    }
}

#[test]
fn what_is_ours_is_validated() {
    let rows = [
        ("apiServer: 10.0.0.1:6443", "is not a URL: write https://ADDRESS:PORT"),
        (
            "externalIPs: [some]",
            "some is no network: write CIDRs such as 10.0.0.0/8, or all, or off",
        ),
        ("deviceRoles: [eth0]", "eth0: write NAME=ROLE"),
        ("deviceHooks: xdp", "\"xdp\": write auto, tcx or clsact"),
        ("masqueradePorts: 9-5", "9-5: write the lower port first"),
        ("maxServices: 1", "1: write a whole number from 2"),
        ("manifests: /m\napiServer: https://a", "either a directory of manifests or an API server"),
    ];
    for (line, expected) in rows {
        let error = error(&own(line));
        assert!(error.starts_with("config.conf:3 ") && error.contains(expected), "{error}");
    }
}

#[test]
fn what_ipvs_users_expect_and_do_not_get_is_a_warning() {
    let section = "ipvs: {scheduler: sh, excludeCIDRs: [10.0.0.0/8], strictARP: true, \
                   tcpTimeout: 1s, \
                   tcpFinTimeout: 1s, udpTimeout: 1s}";
    let warned = said(&kube_proxy(&format!("mode: ipvs\n{section}")), Weight::Warning);
    assert_eq!(warned.len(), 6, "{warned:?}");
    assert!(warned[0].contains("ipvs.scheduler: ignored: backends are chosen at random"));
    assert!(said(&kube_proxy(section), Weight::Warning).is_empty(), "the mode is another");
}

#[test]
fn the_sections_of_other_modes_do_not_count() {
    let lines = "iptables: {masqueradeAll: true, syncPeriod: 2s, minSyncPeriod: 1s, \
                 localhostNodePorts: false}";
    let found = effective(&kube_proxy(lines));
    assert!(found.policy.masquerade_all && !found.policy.localhost_node_ports);
    assert_eq!(found.sync_period, Duration::from_secs(2));
    assert_eq!(found.min_sync_period, Duration::from_secs(1));
    let found = effective(&kube_proxy(&format!("mode: nftables\n{lines}")));
    assert!(!found.policy.masquerade_all && found.policy.localhost_node_ports);
    assert_eq!(found.sync_period, Duration::from_secs(30));
    assert_eq!(found.min_sync_period, Duration::ZERO);
    let here = &setting(&found, kp("iptables.masqueradeAll")).here;
    assert!(here.contains("only counts with mode iptables"), "{here}");
    let found = effective(&kube_proxy(&format!("mode: ipvs\n{lines}")));
    assert!(found.policy.masquerade_all, "ipvs has no masqueradeAll of its own");
}

#[test]
fn detectors_are_what_the_mode_and_its_value_say() {
    let cidr = || DetectLocal::ClusterCidr(vec!["10.0.0.0/8".parse().unwrap()]);
    let rows = [
        ("clusterCIDR: 10.0.0.0/8", cidr(), 0),
        ("detectLocalMode: ClusterCIDR\nclusterCIDR: 10.0.0.0/8", cidr(), 0),
        ("detectLocalMode: \"\"", DetectLocal::Attachment, 0),
        ("detectLocalMode: ClusterCIDR", DetectLocal::Attachment, 1),
        ("detectLocalMode: NodeCIDR\nclusterCIDR: 10.0.0.0/8", DetectLocal::NodeCidr, 0),
        ("detectLocalMode: nodecidr", DetectLocal::NodeCidr, 0),
        (
            "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}",
            DetectLocal::Bridge("cni0".into()),
            0,
        ),
        (
            "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}",
            DetectLocal::NamePrefix("veth".into()),
            0,
        ),
    ];
    for (lines, expected, warnings) in rows {
        let inputs = kube_proxy(lines);
        assert_eq!(effective(&inputs).policy.detect_local, expected, "{lines}");
        assert_eq!(said(&inputs, Weight::Warning).len(), warnings, "{lines}");
    }
    let found = effective(&kube_proxy("detectLocalMode: NodeCIDR\nclusterCIDR: 10.0.0.0/8"));
    let here = &setting(&found, kp("clusterCIDR")).here;
    assert_eq!(here, "not used with detectLocalMode NodeCIDR");
    let found = effective(&kube_proxy("mode: iptables"));
    let detector = setting(&found, kp("detectLocalMode"));
    assert_eq!(detector.value.to_text(), "Attachment");
    assert!(detector.here.contains("tells nothing apart in kube-proxy"), "{}", detector.here);
}

#[test]
fn node_ports_are_where_kube_proxy_in_that_mode_has_them() {
    let networks = NodePortAddresses::Networks(vec!["10.0.0.0/8".parse().unwrap()]);
    let rows = [
        (kube_proxy(""), NodePortAddresses::All),
        (kube_proxy("mode: ipvs"), NodePortAddresses::All),
        (kube_proxy("mode: nftables"), NodePortAddresses::Primary),
        (kube_proxy("mode: ebpf"), NodePortAddresses::Primary),
        (inputs(), NodePortAddresses::Primary),
        (with_flags(inputs(), &["--proxy-mode=iptables"]), NodePortAddresses::All),
        (kube_proxy("nodePortAddresses: [primary]"), NodePortAddresses::Primary),
        (kube_proxy("nodePortAddresses: [localhost, primary]"), NodePortAddresses::Primary),
        (kube_proxy("nodePortAddresses: [all]"), NodePortAddresses::All),
        (kube_proxy("nodePortAddresses: [10.0.0.0/8]"), networks),
        (kube_proxy("nodePortAddresses: [0.0.0.0/0, \"::/0\"]"), NodePortAddresses::All),
    ];
    for (inputs, expected) in rows {
        assert_eq!(effective(&inputs).policy.node_port_addresses, expected, "{:?}", inputs.file);
    }
}

#[test]
fn servers_listen_where_kube_proxys_do() {
    let addresses = |inputs: &Inputs| {
        let found = effective(inputs);
        [found.healthz_bind_address, found.metrics_bind_address]
            .map(|address| address.map_or_else(|| "-".to_owned(), |address| address.to_string()))
    };
    let flags = |given: &[&str]| addresses(&with_flags(inputs(), given));
    assert_eq!(flags(&[]), ["0.0.0.0:10256", "127.0.0.1:10249"]);
    assert_eq!(flags(&["--bind-address=::"]), ["[::]:10256", "[::1]:10249"]);
    let given = ["--healthz-bind-address=1.2.3.4", "--metrics-bind-address=[::1]"];
    assert_eq!(flags(&given), ["1.2.3.4:10256", "[::1]:10249"]);
    let given = ["--healthz-bind-address=", "--metrics-port=0"];
    assert_eq!(flags(&given), ["-", "-"]);
    let given = ["--healthz-port=77", "--metrics-bind-address=0.0.0.0:5", "--metrics-port=78"];
    assert_eq!(flags(&given), ["0.0.0.0:77", "0.0.0.0:5"]);
    let in_file = addresses(&kube_proxy("healthzBindAddress: \"\"\nbindAddress: \"::\""));
    assert_eq!(in_file, ["[::]:10256", "[::1]:10249"]);
    // Flags count for nothing beside the file, and cannot switch anything off.
    let both = with_flags(kube_proxy(""), &["--healthz-bind-address=", "--metrics-port=0"]);
    assert_eq!(addresses(&both), ["0.0.0.0:10256", "127.0.0.1:10249"]);
}

#[test]
fn gates_and_timeouts_are_mapped() {
    let found = effective(&kube_proxy("featureGates: {AllowServiceExternalIPs: false}"));
    assert_eq!(found.policy.external_ips, ExternalIps::Off);
    let gated = kube_proxy("featureGates: {AllowServiceExternalIPs: false}");
    let found = effective(&with_flags(gated, &["--external-ips=all"]));
    assert_eq!(found.policy.external_ips, ExternalIps::All, "our own setting is more than a gate");
    let other = said(&kube_proxy("featureGates: {Foo: true}"), Weight::Warning);
    assert!(other.len() == 1 && other[0].contains("mean nothing here: Foo"), "{other:?}");

    let lines = "conntrack: {tcpEstablishedTimeout: 2h, tcpCloseWaitTimeout: 90s, \
                 udpTimeout: 1500ms, \
                 udpStreamTimeout: 100s}";
    let found = effective(&kube_proxy(lines)).timeouts;
    assert_eq!((found.tcp_idle_secs, found.tcp_close_wait_secs), (7200, 90));
    assert_eq!((found.udp_unanswered_secs, found.udp_idle_secs), (4, 100), "4 s is the least");
    let long = kube_proxy("conntrack: {udpStreamTimeout: 10m, tcpEstablishedTimeout: 0s}");
    let found = effective(&long).timeouts;
    assert_eq!((found.udp_idle_secs, found.tcp_idle_secs), (120, 86_400));
    assert!(said(&long, Weight::Warning)[0].contains("600s is longer than a flow can stay"));
}

#[test]
fn connections_are_counted_in_kube_proxys_way() {
    let flows = |lines: &str| effective(&kube_proxy(lines)).flows.established;
    let default = crate::bpf::object::FlowCapacity::default().established;
    assert_eq!(flows(""), default);
    assert_eq!(flows("conntrack: {maxPerCore: 0, min: 7}"), default, "0: leave it");
    assert_eq!(flows("conntrack: {maxPerCore: 100000}"), 2 * 400_000);
    assert_eq!(flows("conntrack: {maxPerCore: 1, min: 5000}"), 2 * 5000);
    assert_eq!(flows("conntrack: {maxPerCore: 999999999}"), 2 * 1_048_576);
    let own = format!("{KUBE_PROXY}conntrack: {{maxPerCore: 1000}}\n---\n{OWN}maxFlows: 77\n");
    assert_eq!(effective(&file(&own)).flows.established, 77);
}

#[test]
fn a_bind_address_is_the_nodes() {
    let found = effective(&kube_proxy("bindAddress: 192.0.2.7"));
    assert_eq!(found.policy.bind_address, Some("192.0.2.7".parse().unwrap()));
    let found = effective(&kube_proxy("bindAddress: \"::\""));
    assert_eq!(found.policy.bind_address, None);
}
