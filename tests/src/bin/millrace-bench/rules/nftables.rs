//! nftables mode, for `nft -f`: one look-up in a verdict map, then the Service's own chain.

use std::fmt::Write as _;

use millrace_tests::lab::{Family, Node};

use super::{MARK, cluster_cidr, hash, port_name};
use crate::services::{Entry, NAMESPACE, Protocol, SERVICE_PORT, Shape, service_cidr};

/// Base chains as (name, type, hook, priority, rules).
const BASE: [(&str, &str, &str, &str, &[&str]); 8] = [
    (
        "filter-prerouting-pre-dnat",
        "filter",
        "prerouting",
        "-110",
        &["ct state new jump firewall-check"],
    ),
    ("filter-output-pre-dnat", "filter", "output", "-110", &["ct state new jump firewall-check"]),
    (
        "filter-input",
        "filter",
        "input",
        "0",
        &[
            "ct state new jump nodeport-endpoints-check",
            "ct state new jump service-endpoints-check",
        ],
    ),
    (
        "filter-forward",
        "filter",
        "forward",
        "0",
        &["ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"],
    ),
    (
        "filter-output",
        "filter",
        "output",
        "0",
        &["ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"],
    ),
    ("nat-prerouting", "nat", "prerouting", "-100", &["jump services"]),
    ("nat-output", "nat", "output", "-100", &["jump services"]),
    ("nat-postrouting", "nat", "postrouting", "100", &["jump masquerading"]),
];

/// The table's name with its family.
const fn table(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip kube-proxy",
        Family::V6 => "ip6 kube-proxy",
    }
}

const fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// The whole table. NodePorts are accepted at the node's own address, kube-proxy's default in this
/// mode.
pub fn all(shape: Shape, family: Family, node: &Node) -> String {
    whole(shape, family, &node.address(family).to_string())
}

fn whole(shape: Shape, family: Family, node_address: &str) -> String {
    let mut text = base(family, node_address);
    // As kube-proxy does: chains before the rules and elements that name them.
    let mut parts = Parts::default();
    shape.entries().for_each(|entry| parts.entry(&entry, family));
    for part in [&parts.chains, &parts.elements, &parts.rules] {
        text.push_str(part);
    }
    text
}

/// One Service changed, in one transaction: its chains anew, and those removed that it has no
/// longer.
pub fn change(family: Family, old: &Entry, new: &Entry) -> String {
    let mut parts = Parts::default();
    parts.entry(new, family);
    let mut before = Parts::default();
    before.entry(old, family);
    let mut text = parts.chains.clone();
    for line in parts.chains.lines() {
        let _ = writeln!(text, "{}", line.replacen("add", "flush", 1));
    }
    text.push_str(&parts.elements);
    text.push_str(&parts.rules);
    for line in before.chains.lines().filter(|line| !parts.chains.contains(line)) {
        let _ = writeln!(text, "{}", line.replacen("add", "flush", 1));
        let _ = writeln!(text, "{}", line.replacen("add", "delete", 1));
    }
    text
}

/// Everything but the Services.
fn base(family: Family, node_address: &str) -> String {
    let (table, ip) = (table(family), ip(family));
    let kind = match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    };
    let mut text = format!("add table {table} {{ comment \"rules for kube-proxy\" ; }}\n");
    for (name, chain, hook, priority, _) in BASE {
        let head = format!("type {chain} hook {hook} priority {priority} ;");
        let _ = writeln!(text, "add chain {table} {name} {{ {head} }}");
    }
    for chain in [
        "mark-for-masquerade",
        "masquerading",
        "services",
        "service-endpoints-check",
        "nodeport-endpoints-check",
        "firewall-check",
        "cluster-ips-check",
        "reject-chain",
    ] {
        let _ = writeln!(text, "add chain {table} {chain}");
    }
    for (name, key) in [("cluster-ips", kind), ("nodeport-ips", kind)] {
        let _ = writeln!(text, "add set {table} {name} {{ type {key} ; }}");
    }
    let with_address = format!("{kind} . inet_proto . inet_service");
    let without = "inet_proto . inet_service".to_owned();
    for (name, key) in [
        ("service-ips", &with_address),
        ("service-nodeports", &without),
        ("no-endpoint-services", &with_address),
        ("no-endpoint-nodeports", &without),
        ("firewall-ips", &with_address),
    ] {
        let _ = writeln!(text, "add map {table} {name} {{ type {key} : verdict ; }}");
    }
    let mut rule = |chain: &str, rule: &str| {
        let _ = writeln!(text, "add rule {table} {chain} {rule}");
    };
    for (name, _, _, _, rules) in BASE {
        rules.iter().for_each(|body| rule(name, body));
    }
    let (to, port) = (format!("{ip} daddr . meta l4proto . th dport"), "meta l4proto . th dport");
    rule("mark-for-masquerade", &format!("mark set mark or {MARK}"));
    rule("masquerading", &format!("mark and {MARK} == 0 return"));
    rule("masquerading", &format!("mark set mark xor {MARK}"));
    rule("masquerading", "masquerade fully-random");
    rule("services", &format!("{to} vmap @service-ips"));
    rule("services", &format!("{ip} daddr @nodeport-ips {port} vmap @service-nodeports"));
    rule("service-endpoints-check", &format!("{to} vmap @no-endpoint-services"));
    let at_node = format!("{ip} daddr @nodeport-ips {port} vmap @no-endpoint-nodeports");
    rule("nodeport-endpoints-check", &at_node);
    rule("firewall-check", &format!("{to} vmap @firewall-ips"));
    rule("cluster-ips-check", &format!("{ip} daddr @cluster-ips reject"));
    rule("cluster-ips-check", &format!("{ip} daddr {{ {} }} drop", service_cidr(family)));
    rule("reject-chain", "reject");
    let _ = writeln!(text, "add element {table} nodeport-ips {{ {node_address} }}");
    text
}

/// What Services add.
#[derive(Default)]
struct Parts {
    chains: String,
    elements: String,
    rules: String,
}

impl Parts {
    fn entry(&mut self, entry: &Entry, family: Family) {
        for &protocol in entry.protocols {
            self.port(entry, protocol, family);
        }
        let (table, address) = (table(family), entry.address(family));
        let _ = writeln!(self.elements, "add element {table} cluster-ips {{ {address} }}");
    }

    fn chain(&mut self, family: Family, name: &str) {
        let _ = writeln!(self.chains, "add chain {} {name}", table(family));
    }

    fn rule(&mut self, family: Family, chain: &str, rule: &str) {
        let _ = writeln!(self.rules, "add rule {} {chain} {rule}", table(family));
    }

    fn port(&mut self, entry: &Entry, protocol: Protocol, family: Family) {
        let (table, ip, proto) = (table(family), ip(family), protocol.lower());
        let name = port_name(entry, protocol);
        let hash = &hash(&name)[..8];
        let path = format!("{hash}-{NAMESPACE}/{}/{proto}/{proto}", entry.name());
        let service = format!("service-{path}");
        let address = entry.address(family);
        self.chain(family, &service);
        let pods = cluster_cidr(family);
        let masquerade = format!(
            "{ip} daddr {address} {proto} dport {SERVICE_PORT} {ip} saddr != {pods} \
             jump mark-for-masquerade"
        );
        self.rule(family, &service, &masquerade);
        let key = format!("{address} . {proto} . {SERVICE_PORT}");
        let _ = writeln!(
            self.elements,
            "add element {table} service-ips {{ {key} comment \"{name}\" : goto {service} }}"
        );
        let endpoints = self.endpoints(entry, protocol, family);
        let choices: Vec<String> =
            endpoints.iter().zip(0..).map(|(chain, n)| format!("{n} : goto {chain}")).collect();
        let count = endpoints.len();
        let choose = format!("numgen random mod {count} vmap {{ {} }}", choices.join(" , "));
        self.rule(family, &service, &choose);
        if let Some(port) = entry.node_port {
            self.external(entry, protocol, family, port, (&path, &service, &choose));
        }
    }

    fn endpoints(&mut self, entry: &Entry, protocol: Protocol, family: Family) -> Vec<String> {
        let (ip, proto) = (ip(family), protocol.lower());
        let chains = entry.servers(family).map(|server| {
            let hash = &hash(&format!("{}{proto}{server}", entry.name()))[..8];
            // A chain's name knows no brackets and colons.
            let at = server.ip().to_string().replace(':', ".");
            let port = server.port();
            let chain = format!(
                "endpoint-{hash}-{NAMESPACE}/{}/{proto}/{proto}__{at}/{port}",
                entry.name()
            );
            self.chain(family, &chain);
            let hairpin = format!("{ip} saddr {} jump mark-for-masquerade", server.ip());
            self.rule(family, &chain, &hairpin);
            self.rule(family, &chain, &format!("meta l4proto {proto} dnat to {server}"));
            chain
        });
        chains.collect()
    }

    /// From outside: masqueraded, or, under a Local policy, the local endpoints only.
    fn external(
        &mut self,
        entry: &Entry,
        protocol: Protocol,
        family: Family,
        port: u16,
        (path, service, choose): (&str, &str, &str),
    ) {
        let (table, ip, proto) = (table(family), ip(family), protocol.lower());
        let external = format!("external-{path}");
        self.chain(family, &external);
        if entry.local {
            let pods = cluster_cidr(family);
            self.rule(family, &external, &format!("{ip} saddr {pods} goto {service}"));
            self.rule(family, &external, "fib saddr type local jump mark-for-masquerade");
            self.rule(family, &external, &format!("fib saddr type local goto {service}"));
            self.rule(family, &external, choose);
        } else {
            self.rule(family, &external, "jump mark-for-masquerade");
            self.rule(family, &external, &format!("goto {service}"));
        }
        let element = format!("{proto} . {port} : goto {external}");
        let _ = writeln!(self.elements, "add element {table} service-nodeports {{ {element} }}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::Extra;

    const SHAPE: Shape = Shape { services: 100, endpoints_each: 3, dual: false };

    #[test]
    fn every_service_is_one_element_and_its_own_chains() {
        let text = whole(SHAPE, Family::V4, "192.168.50.11");
        let count = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
        // The hot one's UDP and the four others, three with UDP, besides.
        assert_eq!(count("add element ip kube-proxy service-ips"), 100 + 1 + 4 + 3);
        assert_eq!(count("add chain ip kube-proxy service-"), 100 + 1 + 4 + 3 + 1);
        assert_eq!(count("add chain ip kube-proxy endpoint-"), 3 * 101 + 4 + 3);
        assert_eq!(count("add element ip kube-proxy service-nodeports"), 6);
        assert!(text.contains("numgen random mod 3 vmap { 0 : goto endpoint-"), "{text}");
    }

    #[test]
    fn every_chain_that_is_named_is_there() {
        let text = whole(SHAPE, Family::V6, "fd50::b");
        for word in ["goto ", "jump "] {
            for part in text.split(word).skip(1) {
                let end = part.find([' ', '\n']).unwrap_or(part.len());
                let chain = &part[..end];
                assert!(text.contains(&format!("add chain ip6 kube-proxy {chain}")), "{chain}");
            }
        }
        assert!(text.contains("dnat to [fd00:244:0:1::c8]:8080"), "{text}");
    }

    #[test]
    fn a_change_touches_one_service() {
        let [old, new] = [0, 1].map(|server| SHAPE.extra_entry(Extra::Changing, server));
        let text = change(Family::V4, &old, &new);
        assert!(text.lines().count() < 20, "{text}");
        assert!(text.contains("delete chain ip kube-proxy endpoint-"), "{text}");
        assert!(!text.contains("delete chain ip kube-proxy service-"), "{text}");
        assert!(text.contains("dnat to 10.244.1.201:8080"), "{text}");
    }
}
