//! Our own settings, and flags that are nothing but flags.

use super::Effect::{Ignored, Mapped, Used};
use super::{Document, Effect, Field, overrides};
use crate::config::value::Shape;
use crate::config::value::Shape::{Bool, Int, List, Switch, Text};

const fn field(
    path: &'static str,
    shape: Shape,
    default: &'static str,
    here: &'static str,
) -> Field {
    Field::new(Document::Millrace, path, shape, default, (Used, here))
}

const fn flag(path: &'static str, shape: Shape, verdict: (Effect, &'static str)) -> Field {
    Field::new(Document::Flags, path, shape, "", verdict)
}

/// Rows of a map: one would be none to speak of.
const ROWS: Shape = Int(2, u32::MAX as i64);

/// The settings of a `MillraceConfiguration`.
pub(super) const FIELDS: &[Field] = &[
    field(
        "manifests",
        Text,
        "",
        "Services, EndpointSlices, Nodes and ServiceCIDRs are read from the files in this \
         directory, live, instead of from an API server",
    )
    .flags(&[overrides("--manifests")])
    .live(),
    field(
        "apiServer",
        Text,
        "",
        "URL of the API server, instead of the one in the kubeconfig or in the pod's environment",
    )
    .flags(&[overrides("--api-server"), overrides("--master")])
    .env("MILLRACE_API_SERVER")
    .live(),
    field("socketLB", Switch, "on", "sockets are translated when they connect and send")
        .flags(&[overrides("--socket-lb")]),
    field(
        "detectLocalMode",
        Text,
        "",
        "as in the KubeProxyConfiguration, over which it wins; further modes: Attachment (what \
         comes in by a device that leads to pods) and Off",
    )
    .live(),
    field("externalIPs", List, "all", "externalIPs that are served: all, off, or networks")
        .flags(&[overrides("--external-ips")])
        .live(),
    field(
        "deviceRoles",
        List,
        "",
        "what a device is for, where the rules get it wrong: NAME[*]=pod|uplink|tunnel|off; the \
         first match counts",
    )
    .flags(&[overrides("--device-role")])
    .live(),
    field("deviceHooks", Text, "auto", "how programs are attached to devices: auto, tcx, clsact")
        .flags(&[overrides("--device-hooks")]),
    field(
        "masqueradePorts",
        Text,
        "",
        "ports that masqueraded flows come from, FIRST-LAST; in its absence chosen clear of \
         NodePorts and of what sockets get",
    )
    .flags(&[overrides("--masquerade-ports")])
    .live(),
    field("cgroupRoot", Text, "", "cgroup2 directory whose processes are served; else found")
        .flags(&[overrides("--cgroup-root")]),
    field("bpffs", Text, "", "directory on a BPF file system to pin in; else found")
        .flags(&[overrides("--bpffs")]),
    field(
        "maxServices",
        ROWS,
        "",
        "service ports there is room for; one with long names counts for up to four",
    )
    .flags(&[overrides("--max-services")]),
    field(
        "maxBackends",
        ROWS,
        "",
        "backends there is room for; one of IPv6 counts for two; with another number flows and \
         what sockets dialled are forgotten",
    )
    .flags(&[overrides("--max-backends")]),
    field("maxSlots", ROWS, "", "places in lists of backends there is room for")
        .flags(&[overrides("--max-slots")]),
    field(
        "maxFrontends",
        ROWS,
        "",
        "frontends (address and port) there is room for, per family; 128 neighbouring ClusterIPs \
         take one more",
    )
    .flags(&[overrides("--max-frontends")]),
    field(
        "maxSourceRanges",
        ROWS,
        "",
        "prefixes of loadBalancerSourceRanges there is room for, per family; every port of a \
         Service has its own",
    )
    .flags(&[overrides("--max-source-ranges")]),
    field(
        "maxFlows",
        ROWS,
        "",
        "entries for established flows there is room for, per family (a flow takes 2 to 4)",
    )
    .flags(&[overrides("--max-flows")]),
    field("maxHalfOpen", ROWS, "", "entries for flows that were not answered yet, likewise")
        .flags(&[overrides("--max-half-open")]),
    field("log", Text, "", "what is logged, by module: debug, or millrace::apply=debug,info")
        .env("MILLRACE_LOG"),
];

/// Flags of kube-proxy that are no setting of a file. (`--master` stands with `apiServer`.)
pub(super) const FLAGS: &[Field] = &[
    flag(
        "--config",
        Text,
        (Used, "the file with a KubeProxyConfiguration, a MillraceConfiguration, or both"),
    )
    .flags(&[overrides("--config")]),
    flag("--write-config-to", Text, (Used, "the effective configuration is written; then the end"))
        .flags(&[overrides("--write-config-to")]),
    flag("--cleanup", Bool, (Mapped, "as `millrace cleanup`: everything of ours is taken off"))
        .flags(&[overrides("--cleanup")]),
    flag(
        "--init-only",
        Bool,
        (Mapped, "the node is looked at, programs are loaded and maps pinned; then the end"),
    )
    .flags(&[overrides("--init-only")]),
    flag("--version", Bool, (Used, "the version is printed; then the end"))
        .flags(&[overrides("--version")]),
    flag(
        "--healthz-port",
        Int(0, 65_535),
        (Mapped, "the port of --healthz-bind-address, if that has none; 0: not served"),
    )
    .flags(&[super::kube_proxy("--healthz-port")]),
    flag(
        "--metrics-port",
        Int(0, 65_535),
        (Mapped, "the port of --metrics-bind-address, if that has none; 0: not served"),
    )
    .flags(&[super::kube_proxy("--metrics-port")]),
    flag("--cleanup-ipvs", Bool, (Ignored, "no IPVS table is touched"))
        .flags(&[super::kube_proxy("--cleanup-ipvs")]),
];
