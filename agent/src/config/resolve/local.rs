//! Whom Services are for: local traffic, NodePorts, externalIPs.

use super::node::or_error;
use super::{Mode, kp, only_with, own};
use crate::config::catalogue::{Effect, Key};
use crate::config::merge::{Origin, Settings};
use crate::config::value::Value;
use crate::settings::parse;
use crate::settings::{DetectLocal, ExternalIps, NodePortAddresses};

const MODES: [&str; 6] =
    ["Attachment", "ClusterCIDR", "NodeCIDR", "BridgeInterface", "InterfaceNamePrefix", "Off"];
const CLUSTER_CIDR: Key = kp("clusterCIDR");
const BRIDGE: Key = kp("detectLocal.bridgeInterface");
const NAME_PREFIX: Key = kp("detectLocal.interfaceNamePrefix");
/// kube-proxy's gate for externalIPs.
const EXTERNAL_IPS_GATE: &str = "AllowServiceExternalIPs";

/// The local-traffic detector.
pub(super) fn detector(s: &mut Settings) -> Option<DetectLocal> {
    let key = detector_key(s);
    let given = s.text(key).to_owned();
    let mode = MODES.into_iter().find(|mode| mode.eq_ignore_ascii_case(&given));
    if mode.is_none() && !given.is_empty() {
        s.error(key, format!("{given:?}: write one of {}", MODES.join(", ")));
        return None;
    }
    let networks = cluster_cidr(s)?;
    let mode = mode.unwrap_or("ClusterCIDR");
    let uses = match mode {
        "ClusterCIDR" => Some(CLUSTER_CIDR),
        "BridgeInterface" => Some(BRIDGE),
        "InterfaceNamePrefix" => Some(NAME_PREFIX),
        _ => None,
    };
    for key in [CLUSTER_CIDR, BRIDGE, NAME_PREFIX] {
        if uses != Some(key) && !s.text(key).is_empty() {
            s.remark(key, Effect::Ignored, format!("not used with detectLocalMode {mode}"));
        }
    }
    let name = uses.map(|key| s.text(key).to_owned()).unwrap_or_default();
    if matches!(mode, "BridgeInterface" | "InterfaceNamePrefix") && name.is_empty() {
        let missing = uses.map_or("", |(_, path)| path);
        s.error(key, format!("{mode} needs {missing}: give it as well"));
        return None;
    }
    Some(match mode {
        "Attachment" => DetectLocal::Attachment,
        "NodeCIDR" => DetectLocal::NodeCidr,
        "BridgeInterface" => DetectLocal::Bridge(name),
        "InterfaceNamePrefix" => DetectLocal::NamePrefix(name),
        "Off" => DetectLocal::Off,
        _ if networks.is_empty() => by_attachment(s, key),
        _ => {
            s.fill(key, Value::Text("ClusterCIDR".into()), None);
            DetectLocal::ClusterCidr(networks)
        }
    })
}

/// Our own setting, if it is given; else kube-proxy's.
fn detector_key(s: &mut Settings) -> Key {
    let (ours, theirs) = (own("detectLocalMode"), kp("detectLocalMode"));
    if s.origin(ours).is_given() {
        s.remark(theirs, Effect::Ignored, "the MillraceConfiguration's detectLocalMode wins");
        return ours;
    }
    s.remark(ours, Effect::Used, "not given: the KubeProxyConfiguration's counts");
    theirs
}

/// kube-proxy would tell nothing apart, and masquerade nothing; this detector needs no network.
fn by_attachment(s: &mut Settings, key: Key) -> DetectLocal {
    let here = "ClusterCIDR without a clusterCIDR tells nothing apart in kube-proxy; here what \
                comes in by a device that leads to pods is local (Attachment)";
    let origin = s.origin(key);
    if matches!(origin, Origin::Flag(_) | Origin::File(_)) {
        s.warn(key, "there is no clusterCIDR: Attachment is used instead");
    }
    s.fill(key, Value::Text("Attachment".into()), Some(Origin::From("the empty clusterCIDR")));
    s.remark(key, Effect::Mapped, here);
    DetectLocal::Attachment
}

/// One network, or one of each family; none if there is none. Nothing: it is wrong.
fn cluster_cidr(s: &mut Settings) -> Option<Vec<ipnetwork::IpNetwork>> {
    let text = s.text(CLUSTER_CIDR).to_owned();
    if text.is_empty() {
        return Some(Vec::new());
    }
    let networks = or_error(s, CLUSTER_CIDR, parse::networks("--cluster-cidr", &text))?;
    let is_pair = matches!(&networks[..], [a, b] if a.is_ipv4() != b.is_ipv4());
    if networks.len() > 1 && !is_pair {
        let message = format!("{text}: write one network, or one of IPv4 and one of IPv6");
        s.error(CLUSTER_CIDR, message);
        return None;
    }
    Some(networks)
}

/// `nodePortAddresses`, and whether NodePorts are served on loopback.
pub(super) fn node_ports(s: &mut Settings, mode: Mode) -> (Option<NodePortAddresses>, bool) {
    let localhost = localhost_node_ports(s, mode);
    let key = kp("nodePortAddresses");
    let mut items = s.list(key).to_vec();
    if items.is_empty() {
        return (Some(unset_node_ports(s, mode)), localhost);
    }
    // The words that can be combined, from kube-proxy 1.37 on.
    let says_localhost = items.iter().any(|item| item == "localhost");
    items.retain(|item| item != "localhost");
    let is_word = |item: &String| item == "primary" || item == "all";
    if items.iter().any(is_word) && !items.iter().all(is_word) {
        s.error(key, format!("{}: words and networks do not mix", items.join(",")));
        return (None, localhost);
    }
    if items.is_empty() {
        s.error(key, "localhost alone: write primary or all with it, or networks");
        return (None, localhost);
    }
    let text = if items.iter().any(|item| item == "all") {
        "all".to_owned()
    } else if items.iter().any(is_word) {
        "primary".to_owned()
    } else {
        items.join(",")
    };
    let addresses = or_error(s, key, parse::node_port_addresses(&text));
    (addresses, localhost || says_localhost)
}

/// What kube-proxy does in that mode.
fn unset_node_ports(s: &mut Settings, mode: Mode) -> NodePortAddresses {
    let key = kp("nodePortAddresses");
    let (addresses, word, here) = match mode {
        Mode::Ebpf => (NodePortAddresses::Primary, "primary", "not given: the Node's own"),
        Mode::Nftables => (
            NodePortAddresses::Primary,
            "primary",
            "not given: the Node's own, as in mode nftables",
        ),
        Mode::Iptables | Mode::Ipvs => {
            (NodePortAddresses::All, "all", "not given: all, as in this mode of kube-proxy")
        }
    };
    s.fill(key, Value::List(vec![word.into()]), None);
    s.remark(key, Effect::Used, here);
    addresses
}

fn localhost_node_ports(s: &mut Settings, mode: Mode) -> bool {
    let key = kp("iptables.localhostNodePorts");
    if mode == Mode::Nftables || mode == Mode::Ipvs {
        only_with(s, &[key.1], "iptables; NodePorts are served on loopback");
        return true;
    }
    s.is_set(key)
}

/// `externalIPs`, and kube-proxy's gate.
pub(super) fn external_ips(s: &mut Settings) -> Option<ExternalIps> {
    let key = own("externalIPs");
    let gate = gates(s);
    if gate == Some(false) && !s.origin(key).is_given() {
        s.fill(key, Value::List(vec!["off".into()]), Some(Origin::From("featureGates")));
        return Some(ExternalIps::Off);
    }
    let text = s.list(key).join(",");
    or_error(s, key, parse::external_ips(&text))
}

/// The gate for externalIPs; what others say is told.
fn gates(s: &mut Settings) -> Option<bool> {
    let key = kp("featureGates");
    let Value::Map(gates) = s.value(key).clone() else { return None };
    let unknown: Vec<&str> =
        gates.keys().map(String::as_str).filter(|gate| *gate != EXTERNAL_IPS_GATE).collect();
    if !unknown.is_empty() {
        s.warn(key, format!("ignored, since they mean nothing here: {}", unknown.join(", ")));
    }
    let given = gates.get(EXTERNAL_IPS_GATE)?;
    let Ok(value) = given.parse::<bool>() else {
        s.error(key, format!("{EXTERNAL_IPS_GATE} {given:?}: write true or false"));
        return None;
    };
    s.remark(key, Effect::Used, format!("{EXTERNAL_IPS_GATE} is the default of externalIPs"));
    Some(value)
}
