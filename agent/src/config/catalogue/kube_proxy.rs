//! The settings of a `KubeProxyConfiguration` and kube-proxy's flags for them.

use super::Effect::{Ignored, Mapped, Refused, Used};
use super::{Document, Effect, Field, kube_proxy as ignored_with_config, overrides};
use crate::config::value::Shape;
use crate::config::value::Shape::{Any, Bool, Duration, Int, List, Map, Number, Text};

const fn field(
    path: &'static str,
    shape: Shape,
    default: &'static str,
    verdict: (Effect, &'static str),
) -> Field {
    Field::new(Document::KubeProxy, path, shape, default, verdict)
}

/// Windows only.
const WINDOWS: (Effect, &str) =
    (Refused, "only for Windows: the agent does not start if it is set");
/// What only kube-proxy's rules need.
const MARK: (Effect, &str) = (Ignored, "no mark of packets is used");
/// Since the sizes of maps are given otherwise.
const ANY_COUNT: Shape = Int(0, i64::MAX);
/// Bits of a mark.
const MARK_BIT: Shape = Int(0, 31);

/// All of them, in the order of kube-proxy's own documentation.
pub(super) const FIELDS: &[Field] = &[
    field("featureGates", Map, "", (Ignored, "only AllowServiceExternalIPs is known here"))
        .flags(&[ignored_with_config("--feature-gates")])
        .live(),
    field("clientConnection.kubeconfig", Text, "", (Used, "how to reach the API server"))
        .flags(&[ignored_with_config("--kubeconfig")])
        .live(),
    field("clientConnection.acceptContentTypes", Text, "", (Ignored, "JSON is spoken")),
    field(
        "clientConnection.contentType",
        Text,
        "application/vnd.kubernetes.protobuf",
        (Ignored, "JSON is spoken"),
    )
    .flags(&[ignored_with_config("--kube-api-content-type")]),
    field(
        "clientConnection.qps",
        Number,
        "5",
        (Ignored, "four lists and four watches are all there is; after failures the pauses grow"),
    )
    .flags(&[ignored_with_config("--kube-api-qps")]),
    field("clientConnection.burst", ANY_COUNT, "10", (Ignored, "as clientConnection.qps"))
        .flags(&[ignored_with_config("--kube-api-burst")]),
    field("logging.format", Text, "text", (Used, "text or json"))
        .flags(&[overrides("--logging-format")]),
    field("logging.flushFrequency", Any, "5s", (Ignored, "lines are written at once"))
        .flags(&[overrides("--log-flush-frequency")]),
    field(
        "logging.verbosity",
        Int(0, 100),
        "0",
        (Mapped, "below 4: info; from 4: debug; from 6: trace; MILLRACE_LOG overrides it"),
    )
    .flags(&[overrides("--v")]),
    field("logging.vmodule", Any, "", (Ignored, "MILLRACE_LOG chooses by module"))
        .flags(&[overrides("--vmodule")]),
    field("logging.options", Any, "", (Ignored, "lines go to standard error, unbuffered")).flags(
        &[
            overrides("--log-text-split-stream"),
            overrides("--log-text-info-buffer-size"),
            overrides("--log-json-split-stream"),
            overrides("--log-json-info-buffer-size"),
        ],
    ),
    field(
        "hostnameOverride",
        Text,
        "",
        (Used, "name of this node's Node object; in its absence the host's name, in lower case"),
    )
    .flags(&[overrides("--node-name"), overrides("--hostname-override")])
    .env("NODE_NAME"),
    field(
        "bindAddress",
        Text,
        "0.0.0.0",
        (Used, "if it is an address of its own: the node's primary one of that family"),
    )
    .flags(&[ignored_with_config("--bind-address")])
    .live(),
    field("healthzBindAddress", Text, "", (Used, "where /healthz and /livez are served"))
        .flags(&[ignored_with_config("--healthz-bind-address")]),
    field("metricsBindAddress", Text, "", (Used, "where /metrics and its like are served"))
        .flags(&[ignored_with_config("--metrics-bind-address")]),
    field(
        "bindAddressHardFail",
        Bool,
        "false",
        (Used, "the agent ends if it cannot listen on these two"),
    )
    .flags(&[ignored_with_config("--bind-address-hard-fail")]),
    field("enableProfiling", Bool, "false", (Ignored, "no profiles are served"))
        .flags(&[ignored_with_config("--profiling")]),
    field("showHiddenMetricsForVersion", Text, "", (Ignored, "no metrics are hidden"))
        .flags(&[ignored_with_config("--show-hidden-metrics-for-version")]),
    field(
        "mode",
        Text,
        "",
        (Mapped, "eBPF serves whatever it says; it decides which section below counts"),
    )
    .flags(&[ignored_with_config("--proxy-mode")])
    .live(),
    field("iptables.masqueradeBit", MARK_BIT, "14", MARK)
        .zero_counts()
        .flags(&[ignored_with_config("--iptables-masquerade-bit")]),
    field(
        "iptables.masqueradeAll",
        Bool,
        "false",
        (Used, "what pods send to ClusterIPs is masqueraded as well"),
    )
    .flags(&[ignored_with_config("--masquerade-all")])
    .live(),
    field(
        "iptables.localhostNodePorts",
        Bool,
        "true",
        (Used, "the node's own processes reach NodePorts on 127.0.0.1 and ::1"),
    )
    .zero_counts()
    .flags(&[ignored_with_config("--iptables-localhost-nodeports")])
    .live(),
    field("iptables.syncPeriod", Duration, "30s", (Used, SYNC))
        .flags(&[ignored_with_config("--iptables-sync-period")])
        .live(),
    field("iptables.minSyncPeriod", Duration, "0s", (Used, MIN_SYNC))
        .flags(&[ignored_with_config("--iptables-min-sync-period")])
        .live(),
    field("ipvs.syncPeriod", Duration, "30s", (Used, SYNC))
        .flags(&[ignored_with_config("--ipvs-sync-period")])
        .live(),
    field("ipvs.minSyncPeriod", Duration, "0s", (Used, MIN_SYNC))
        .flags(&[ignored_with_config("--ipvs-min-sync-period")])
        .live(),
    field("ipvs.scheduler", Text, "", (Ignored, "backends are chosen at random"))
        .flags(&[ignored_with_config("--ipvs-scheduler")]),
    field("ipvs.excludeCIDRs", List, "", (Ignored, "no IPVS table is touched"))
        .flags(&[ignored_with_config("--ipvs-exclude-cidrs")]),
    field("ipvs.strictARP", Bool, "false", (Ignored, "no address is put on a device, so no ARP"))
        .flags(&[ignored_with_config("--ipvs-strict-arp")]),
    field("ipvs.tcpTimeout", Duration, "0s", (Ignored, "conntrack.tcpEstablishedTimeout counts"))
        .flags(&[ignored_with_config("--ipvs-tcp-timeout")]),
    field("ipvs.tcpFinTimeout", Duration, "0s", (Ignored, "conntrack.tcpCloseWaitTimeout counts"))
        .flags(&[ignored_with_config("--ipvs-tcpfin-timeout")]),
    field("ipvs.udpTimeout", Duration, "0s", (Ignored, "conntrack.udpStreamTimeout counts"))
        .flags(&[ignored_with_config("--ipvs-udp-timeout")]),
    field("nftables.masqueradeBit", MARK_BIT, "14", MARK).zero_counts(),
    field(
        "nftables.masqueradeAll",
        Bool,
        "false",
        (Used, "what pods send to ClusterIPs is masqueraded as well"),
    )
    .flags(&[ignored_with_config("--masquerade-all")])
    .live(),
    field("nftables.syncPeriod", Duration, "30s", (Used, SYNC)).live(),
    field("nftables.minSyncPeriod", Duration, "0s", (Used, MIN_SYNC)).live(),
    field("winkernel.networkName", Text, "", WINDOWS),
    field("winkernel.sourceVip", Text, "", WINDOWS),
    field("winkernel.enableDSR", Bool, "false", WINDOWS),
    field("winkernel.rootHnsEndpointName", Text, "", WINDOWS),
    field("winkernel.forwardHealthCheckVip", Bool, "false", WINDOWS),
    field("windowsRunAsService", Bool, "false", WINDOWS),
    field("detectLocalMode", Text, "", (Used, "how this node's pods are told from others"))
        .flags(&[ignored_with_config("--detect-local-mode")])
        .live(),
    field("detectLocal.bridgeInterface", Text, "", (Used, "for detectLocalMode BridgeInterface"))
        .flags(&[ignored_with_config("--pod-bridge-interface")])
        .live(),
    field(
        "detectLocal.interfaceNamePrefix",
        Text,
        "",
        (Used, "for detectLocalMode InterfaceNamePrefix"),
    )
    .flags(&[ignored_with_config("--pod-interface-name-prefix")])
    .live(),
    field("clusterCIDR", Text, "", (Used, "for detectLocalMode ClusterCIDR"))
        .flags(&[ignored_with_config("--cluster-cidr")])
        .live(),
    field("nodePortAddresses", List, "", (Used, "the node's addresses that serve NodePorts"))
        .flags(&[ignored_with_config("--nodeport-addresses")])
        .live(),
    field(
        "oomScoreAdj",
        Int(-1000, 1000),
        "",
        (
            Used,
            "written at the start; less than before needs CAP_SYS_RESOURCE, and is left if \
                that is missing",
        ),
    )
    .zero_counts()
    .flags(&[ignored_with_config("--oom-score-adj")]),
    field(
        "conntrack.maxPerCore",
        ANY_COUNT,
        "32768",
        (Mapped, "if given: room for so many flows (maxFlows is twice that); no sysctl is set"),
    )
    .zero_counts()
    .flags(&[ignored_with_config("--conntrack-max-per-core")]),
    field("conntrack.min", ANY_COUNT, "131072", (Mapped, "the least that maxPerCore comes to"))
        .zero_counts()
        .flags(&[ignored_with_config("--conntrack-min")]),
    field(
        "conntrack.tcpEstablishedTimeout",
        Duration,
        "24h",
        (Mapped, "an idle TCP flow of the packet path is forgotten after it; no sysctl is set"),
    )
    .zero_counts()
    .flags(&[ignored_with_config("--conntrack-tcp-timeout-established")])
    .live(),
    field(
        "conntrack.tcpCloseWaitTimeout",
        Duration,
        "1h",
        (Mapped, "a TCP flow that one side has closed is forgotten after it; no sysctl is set"),
    )
    .zero_counts()
    .flags(&[ignored_with_config("--conntrack-tcp-timeout-close-wait")])
    .live(),
    field(
        "conntrack.tcpBeLiberal",
        Bool,
        "false",
        (Ignored, "no packet is dropped for its sequence number, as if it were true"),
    )
    .flags(&[ignored_with_config("--conntrack-tcp-be-liberal")]),
    field(
        "conntrack.udpTimeout",
        Duration,
        "0s",
        (Mapped, "a UDP flow without an answer is forgotten after it; 0 and above 60s: 60s"),
    )
    .flags(&[ignored_with_config("--conntrack-udp-timeout")])
    .live(),
    field(
        "conntrack.udpStreamTimeout",
        Duration,
        "0s",
        (Mapped, "an idle UDP flow is forgotten after it; 0 and above 120s: 120s"),
    )
    .flags(&[ignored_with_config("--conntrack-udp-timeout-stream")])
    .live(),
    field("configSyncPeriod", Duration, "15m", (Ignored, "watches do not need to be repeated"))
        .flags(&[ignored_with_config("--config-sync-period")]),
    field("portRange", Text, "", (Ignored, "kube-proxy ignores it, too"))
        .flags(&[ignored_with_config("--proxy-port-range")]),
];

const SYNC: &str = "the health server calls a change stale that waits for twice as long; what \
                    fails is tried again sooner";
const MIN_SYNC: &str = "the least time between two rounds; 0s: changes are applied at once, since \
                        a round costs what changed (kube-proxy's default: 1s)";
