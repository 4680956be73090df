//! Netfilter rules that nodes have from others: the CNI plugin's source NAT, a firewall that drops
//! what conntrack calls invalid, the connection marks of EKS. Pure text, for `nft -f -`.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};

use super::address::{self, Family};
use super::options::{CniMasquerade, Options};
use super::paths::FIRST_UPLINK_MARK;
use super::place::Place;

/// Table and counter of packets that conntrack called invalid.
const FIREWALL: &str = "lab-firewall";
const COUNTER: &str = "invalid";

/// All rules of a node; empty when the options ask for none.
pub fn rules(options: &Options, node: u8) -> String {
    let mut text = String::new();
    if let Some(masquerade) = options.cni_masquerade {
        table(
            &mut text,
            "lab-cni",
            "postrouting",
            "nat",
            "srcnat",
            &cni(options, node, masquerade),
        );
    }
    if options.drop_invalid {
        let _ = writeln!(text, "add table inet {FIREWALL}\nadd counter inet {FIREWALL} {COUNTER}");
        let drop = format!("ct state invalid counter name {COUNTER} drop");
        table(&mut text, FIREWALL, "forward", "filter", "filter", &[drop]);
    }
    if options.second_uplink {
        table(&mut text, "lab-eks", "prerouting", "filter", "mangle", &marks());
    }
    text
}

fn table(text: &mut String, name: &str, hook: &str, kind: &str, priority: &str, rules: &[String]) {
    let head = format!("type {kind} hook {hook} priority {priority}; policy accept;");
    let body = rules.join("\n");
    // Writing to a string cannot fail.
    let _ = writeln!(text, "table inet {name} {{\nchain {hook} {{\n{head}\n{body}\n}}\n}}");
}

fn cni(options: &Options, node: u8, masquerade: CniMasquerade) -> Vec<String> {
    let mut rules = Vec::new();
    for &family in options.families.list() {
        let (ip, multicast) = match family {
            Family::V4 => ("ip", "224.0.0.0/4"),
            Family::V6 => ("ip6", "ff00::/8"),
        };
        let (pods, own) = (address::cluster_cidr(family), address::pod_cidr(family, node));
        let mut rule = |saddr: &str, daddr: &str, verdict: &str| {
            rules.push(format!("{ip} saddr {saddr} {ip} daddr {daddr} {verdict}"));
        };
        let (strangers, snat) = (format!("!= {pods}"), "masquerade fully-random");
        rule(pods, pods, "return");
        rule(pods, &format!("!= {multicast}"), snat);
        if masquerade == CniMasquerade::Flannel {
            rule(&strangers, &own, "return");
            rule(&strangers, pods, snat);
        }
    }
    rules
}

/// The CNI plugin of EKS remembers which connections to the node's own addresses came in by the
/// first uplink, and marks what pods send in them.
fn marks() -> Vec<String> {
    let mark = FIRST_UPLINK_MARK;
    vec![
        format!("iifname \"eth0\" fib daddr . iif type local ct mark set ct mark or {mark:#x}"),
        format!(
            "iifname != {{ \"eth0\", \"eth1\", \"lo\" }} ct mark and {mark:#x} == {mark:#x} \
             meta mark set meta mark or {mark:#x}"
        ),
    ]
}

/// How many packets a place dropped because conntrack called them invalid.
pub(super) fn invalid_packets(place: &Place) -> Result<u64> {
    let mut command = place.command("nft");
    let output = command.args(["-j", "list", "counter", "inet", FIREWALL, COUNTER]).output()?;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let items = answer["nftables"].as_array().context("a list")?;
    let packets = items.iter().find_map(|item| item["counter"]["packets"].as_u64());
    packets.with_context(|| format!("no counter in {answer}"))
}
