//! iptables mode, for `iptables-restore`: KUBE-SERVICES with one rule per Service, in a row.

use std::fmt::Write as _;
use std::net::SocketAddr;

use millrace_tests::lab::Family;

use super::{MARK, cluster_cidr, hash, port_name};
use crate::services::{Entry, Protocol, SERVICE_PORT, Shape};

/// Every table.
pub fn all(shape: Shape, family: Family) -> String {
    let mut nat = Nat::new(family);
    shape.entries().for_each(|entry| nat.entry(&entry));
    format!("{}{}", filter(), nat.whole())
}

/// One Service changed: as kube-proxy's partial sync, KUBE-SERVICES and KUBE-NODEPORTS in full and
/// the chains of that Service, for `iptables-restore --noflush`. `old` are its chains before, of
/// which those are removed that it has no longer.
pub fn change(shape: Shape, family: Family, old: &Entry, new: &Entry) -> String {
    let mut nat = Nat::new(family);
    nat.entry(new);
    let chains = std::mem::take(&mut nat.chains);
    let rules = std::mem::take(&mut nat.rules);
    let mut before = Nat::new(family);
    before.entry(old);
    let gone = before.chains.iter().filter(|chain| !chains.contains(chain));
    let gone: Vec<String> = gone.cloned().collect();
    let mut whole = Nat::new(family);
    for entry in shape.entries() {
        whole.entry(if entry.index == new.index { new } else { &entry });
    }
    let mut text = String::from("*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n");
    for chain in chains.iter().chain(&gone) {
        let _ = writeln!(text, ":{chain} - [0:0]");
    }
    text.push_str(&whole.services);
    text.push_str(&whole.node_ports);
    text.push_str(&rules);
    text.push_str(NODE_PORTS_LAST);
    for chain in &gone {
        let _ = writeln!(text, "-X {chain}");
    }
    text.push_str("COMMIT\n");
    text
}

/// The last rule of KUBE-SERVICES.
const NODE_PORTS_LAST: &str = "-A KUBE-SERVICES -m comment --comment \"kubernetes service \
     nodeports; NOTE: this must be the last rule in this chain\" -m addrtype --dst-type LOCAL \
     -j KUBE-NODEPORTS\n";

/// What every packet passes before it is forwarded, delivered or sent.
fn filter() -> String {
    let mut text = String::from("*filter\n");
    for chain in ["FIREWALL", "FORWARD", "NODEPORTS", "PROXY-FIREWALL", "SERVICES"] {
        let _ = writeln!(text, ":KUBE-{chain} - [0:0]");
    }
    text.push_str(":KUBE-EXTERNAL-SERVICES - [0:0]\n");
    let mut jump = |chain: &str, new: bool, comment: &str, to: &str| {
        let state = if new { " -m conntrack --ctstate NEW" } else { "" };
        let _ = writeln!(text, "-A {chain}{state} -m comment --comment \"{comment}\" -j KUBE-{to}");
    };
    let (balancer, portals) = ("kubernetes load balancer firewall", "kubernetes service portals");
    let outer = "kubernetes externally-visible service portals";
    jump("INPUT", true, balancer, "PROXY-FIREWALL");
    jump("INPUT", false, "kubernetes health check service ports", "NODEPORTS");
    jump("INPUT", true, outer, "EXTERNAL-SERVICES");
    jump("FORWARD", true, balancer, "PROXY-FIREWALL");
    jump("FORWARD", false, "kubernetes forwarding rules", "FORWARD");
    jump("FORWARD", true, portals, "SERVICES");
    jump("FORWARD", true, outer, "EXTERNAL-SERVICES");
    jump("OUTPUT", true, balancer, "PROXY-FIREWALL");
    jump("OUTPUT", true, portals, "SERVICES");
    text.push_str("-A INPUT -j KUBE-FIREWALL\n-A OUTPUT -j KUBE-FIREWALL\n");
    let comment = "-m comment --comment \"kubernetes forwarding rules\"";
    let _ = writeln!(text, "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP");
    let _ = writeln!(text, "-A KUBE-FORWARD {comment} -m mark --mark {MARK}/{MARK} -j ACCEPT");
    let related = "-m conntrack --ctstate RELATED,ESTABLISHED";
    let _ = writeln!(text, "-A KUBE-FORWARD {comment} {related} -j ACCEPT\nCOMMIT");
    text
}

/// The nat table, in parts.
struct Nat {
    family: Family,
    chains: Vec<String>,
    services: String,
    node_ports: String,
    rules: String,
}

impl Nat {
    fn new(family: Family) -> Self {
        let (services, node_ports, rules) = (String::new(), String::new(), String::new());
        Self { family, chains: Vec::new(), services, node_ports, rules }
    }

    fn entry(&mut self, entry: &Entry) {
        for &protocol in entry.protocols {
            self.port(entry, protocol);
        }
    }

    fn port(&mut self, entry: &Entry, protocol: Protocol) {
        let (name, proto) = (port_name(entry, protocol), protocol.lower());
        let service = format!("KUBE-SVC-{}", hash(&name));
        let address = format!("{}/{}", entry.address(self.family), self.family.bits());
        let matches = format!(
            "-m comment --comment \"{name} cluster IP\" -m {proto} -p {proto} -d {address} \
             --dport {SERVICE_PORT}"
        );
        let _ = writeln!(self.services, "-A KUBE-SERVICES {matches} -j {service}");
        let pods = cluster_cidr(self.family);
        let _ = writeln!(self.rules, "-A {service} {matches} ! -s {pods} -j KUBE-MARK-MASQ");
        self.chains.push(service.clone());
        let servers: Vec<SocketAddr> = entry.servers(self.family).collect();
        self.endpoints(&service, &name, proto, &servers);
        if let Some(port) = entry.node_port {
            self.external(entry, &name, proto, port, &service);
        }
    }

    /// One chain per endpoint, each taken with the probability that makes all equal.
    fn endpoints(&mut self, service: &str, name: &str, proto: &str, servers: &[SocketAddr]) {
        for (index, server) in servers.iter().enumerate() {
            let chain = format!("KUBE-SEP-{}", hash(&format!("{name}{proto}{server}")));
            let left = servers.len() - index;
            let random = match left {
                1 => String::new(),
                _ => format!(" -m statistic --mode random --probability {:.10}", 1.0 / left as f64),
            };
            let comment = format!("-m comment --comment \"{name} -> {server}\"");
            let _ = writeln!(self.rules, "-A {service} {comment}{random} -j {chain}");
            let comment = format!("-m comment --comment {name}");
            let from = format!("-s {}/{}", server.ip(), self.family.bits());
            let _ = writeln!(self.rules, "-A {chain} {comment} {from} -j KUBE-MARK-MASQ");
            let to = format!("-j DNAT --to-destination {server}");
            let _ = writeln!(self.rules, "-A {chain} {comment} -m {proto} -p {proto} {to}");
            self.chains.push(chain);
        }
    }

    /// From outside: masqueraded, or, under a Local policy, the local endpoints only.
    fn external(&mut self, entry: &Entry, name: &str, proto: &str, port: u16, service: &str) {
        let external = format!("KUBE-EXT-{}", hash(name));
        let comment = format!("-m comment --comment {name}");
        let matches = format!("{comment} -m {proto} -p {proto} --dport {port}");
        let _ = writeln!(self.node_ports, "-A KUBE-NODEPORTS {matches} -j {external}");
        self.chains.push(external.clone());
        if !entry.local {
            let comment = format!("-m comment --comment \"masquerade traffic for {name} external");
            let rule = format!("{comment} destinations\" -j KUBE-MARK-MASQ");
            let _ = writeln!(self.rules, "-A {external} {rule}\n-A {external} -j {service}");
            return;
        }
        let pods = cluster_cidr(self.family);
        let local = format!("KUBE-SVL-{}", hash(name));
        let _ = writeln!(self.rules, "-A {external} -s {pods} -j {service}");
        let from_node = "-m addrtype --src-type LOCAL";
        let _ = writeln!(self.rules, "-A {external} {from_node} -j KUBE-MARK-MASQ");
        let _ = writeln!(self.rules, "-A {external} {from_node} -j {service}");
        let _ = writeln!(self.rules, "-A {external} -j {local}");
        for server in entry.servers(self.family) {
            let chain = format!("KUBE-SEP-{}", hash(&format!("{name}{proto}{server}")));
            let _ = writeln!(self.rules, "-A {local} {comment} -j {chain}");
        }
        self.chains.push(local);
    }

    fn whole(&self) -> String {
        let mut text = String::from("*nat\n");
        for chain in ["SERVICES", "NODEPORTS", "POSTROUTING", "MARK-MASQ"] {
            let _ = writeln!(text, ":KUBE-{chain} - [0:0]");
        }
        for chain in &self.chains {
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        let portals = "-m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES";
        let _ = writeln!(text, "-A PREROUTING {portals}\n-A OUTPUT {portals}");
        let after = "-m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING";
        let _ = writeln!(text, "-A POSTROUTING {after}");
        let _ = writeln!(text, "-A KUBE-MARK-MASQ -j MARK --or-mark {MARK}");
        let _ = writeln!(text, "-A KUBE-POSTROUTING -m mark ! --mark {MARK}/{MARK} -j RETURN");
        let _ = writeln!(text, "-A KUBE-POSTROUTING -j MARK --xor-mark {MARK}");
        let comment = "-m comment --comment \"kubernetes service traffic requiring SNAT\"";
        let _ = writeln!(text, "-A KUBE-POSTROUTING {comment} -j MASQUERADE --random-fully");
        text.push_str(&self.services);
        text.push_str(&self.node_ports);
        text.push_str(&self.rules);
        text.push_str(NODE_PORTS_LAST);
        text.push_str("COMMIT\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::Extra;

    const SHAPE: Shape = Shape { services: 100, endpoints_each: 3, dual: false };

    fn position(text: &str, part: &str) -> usize {
        text.find(part).unwrap_or_else(|| panic!("no {part} in\n{text}"))
    }

    #[test]
    fn every_service_has_a_rule_and_the_hot_one_the_last() {
        let text = all(SHAPE, Family::V4);
        let rules: Vec<&str> =
            text.lines().filter(|line| line.starts_with("-A KUBE-SERVICES")).collect();
        // The hot one's UDP, the four others (three with UDP), the jump to the NodePorts besides.
        assert_eq!(rules.len(), 100 + 1 + 4 + 3 + 1);
        assert!(rules[106].contains("-d 10.100.1.99/32 --dport 80"), "{}", rules[106]);
        assert!(rules[107].contains("-p udp -d 10.100.1.99/32"), "{}", rules[107]);
        assert!(rules[108].ends_with("-j KUBE-NODEPORTS"));
    }

    #[test]
    fn endpoints_are_taken_with_equal_probability() {
        let text = all(SHAPE, Family::V4);
        let first = position(&text, "bench-0:tcp -> 10.244.1.200:8080\"");
        let second = position(&text, "bench-0:tcp -> 10.244.1.201:8080\"");
        let third = position(&text, "bench-0:tcp -> 10.244.1.202:8080\"");
        assert!(text[first..second].contains("--probability 0.3333333333 -j KUBE-SEP-"));
        assert!(text[second..third].contains("--probability 0.5000000000 -j KUBE-SEP-"));
        assert!(text[third..].lines().next().unwrap().contains("8080\" -j KUBE-SEP-"));
    }

    #[test]
    fn every_chain_that_is_named_is_there() {
        for family in [Family::V4, Family::V6] {
            let text = all(SHAPE, family);
            for line in text.lines().filter(|line| line.starts_with("-A")) {
                let target = line.split(" -j ").nth(1).unwrap().split(' ').next().unwrap();
                if target.starts_with("KUBE") {
                    assert!(text.contains(&format!("\n:{target} - ")), "{line}");
                }
            }
        }
    }

    #[test]
    fn a_change_rewrites_the_list_and_one_service() {
        let [old, new] = [0, 1].map(|server| SHAPE.extra_entry(Extra::Changing, server));
        let text = change(SHAPE, Family::V4, &old, &new);
        let count = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!(count("-A KUBE-SERVICES"), 109);
        assert_eq!((count("-A KUBE-SVC"), count("-A KUBE-SEP")), (2, 2));
        assert_eq!((count("-X KUBE-SEP"), count("-X")), (1, 1));
        assert!(text.contains("--to-destination 10.244.1.201:8080"));
        assert!(!text.contains("--to-destination 10.244.1.200:8080"));
    }
}
