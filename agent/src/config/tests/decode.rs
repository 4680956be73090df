//! Files that are not as they should be.

use super::super::finding::Weight;
use super::super::resolve;
use super::*;

#[test]
fn unknown_fields_name_their_neighbours() {
    let rows = [
        (
            OWN,
            "maxService: 7",
            "config.conf:3 maxService: unknown field; did you mean maxServices?",
        ),
        (OWN, "socketLb: on", "config.conf:3 socketLb: unknown field; did you mean socketLB?"),
        (OWN, "externalIps: [all]", "externalIps: unknown field; did you mean externalIPs?"),
        (OWN, "zebra: 1", "config.conf:3 zebra: unknown field"),
        (OWN, "masquerade-ports: 1-2", "did you mean masqueradePorts?"),
    ];
    for (head, line, expected) in rows {
        let error = error(&file(&format!("{head}{line}\n")));
        assert!(error.contains(expected), "{error}");
        assert!(expected.contains("did you mean") || !error.contains("did you mean"), "{error}");
    }
}

#[test]
fn kube_proxys_document_is_lenient_where_kube_proxys_is() {
    let rows = [
        ("clusterCidr: 10.0.0.0/8", "clusterCidr: unknown field; did you mean clusterCIDR?"),
        ("masqueradeAll: true", "did you mean iptables.masqueradeAll?"),
        ("conntrack: {max: 0}", "conntrack.max: unknown field: kube-proxy has done without it"),
        ("iptabels: {}", "iptabels: unknown field; did you mean iptables?"),
        (
            "mode: ipvs\nmode: iptables",
            "config.conf:4 mode: it stands here twice; the last one counts",
        ),
    ];
    for (lines, expected) in rows {
        let inputs = kube_proxy(lines);
        effective(&inputs);
        let warnings = said(&inputs, Weight::Warning);
        assert!(warnings.len() == 1 && warnings[0].contains(expected), "{warnings:?}");
        assert!(warnings[0].ends_with("; ignored, as by kube-proxy"), "{warnings:?}");
    }
}

#[test]
fn values_of_the_wrong_shape_are_errors_that_say_what_is_right() {
    let rows = [
        ("bindAddressHardFail: maybe", "bindAddressHardFail: \"maybe\": write true or false"),
        ("iptables: {masqueradeBit: 32}", "32: write a whole number from 0 to 31"),
        ("iptables: {syncPeriod: 30}", "30: write a duration such as \"30s\""),
        ("oomScoreAdj: -1001", "-1001: write a whole number from -1000 to 1000"),
        ("clientConnection: {burst: -1}", "-1: write a whole number of at least 0"),
        ("clusterCIDR: 7", "7: write text"),
        ("nodePortAddresses: 10.0.0.0/8", "write a list"),
        ("nodePortAddresses: [7]", "write a list of texts"),
        ("featureGates: 7", "write names and values"),
        ("conntrack: 7", "conntrack: write names and values below it"),
        ("conntrack: {maxPerCore: -1}", "write a whole number of at least 0"),
    ];
    for (line, expected) in rows {
        let error = error(&kube_proxy(line));
        assert!(error.starts_with("config.conf:3 ") && error.contains(expected), "{error}");
    }
}

#[test]
fn files_that_are_no_configuration_are_refused() {
    let rows = [
        ("", "config.conf: the file is empty"),
        ("# nothing\n---\n", "config.conf: the file is empty"),
        ("a: [1,\n", "not YAML"),
        ("kind: Pod\napiVersion: v1\n", "apiVersion \"v1\" with kind \"Pod\" is not known here"),
        ("mode: ipvs\n", "no apiVersion and kind is not known here; write apiVersion: kubeproxy"),
        ("[1, 2]\n", "is not known here"),
        (
            "apiVersion: kubeproxy.config.k8s.io/v1alpha2\nkind: KubeProxyConfiguration\n",
            "v1alpha2",
        ),
    ];
    for (text, expected) in rows {
        let error = error(&file(text));
        assert!(error.contains(expected), "{text:?}: {error}");
    }
    let twice = format!("{KUBE_PROXY}---\n{KUBE_PROXY}");
    assert!(error(&file(&twice)).contains("a second KubeProxyConfiguration"));
}

#[test]
fn nothing_a_file_can_hold_makes_us_panic() {
    let pieces = [
        "",
        "a",
        ": ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "\n",
        "  ",
        "mode",
        "null",
        "*x",
        "&x ",
        "!!int ",
        "\"",
        "7",
        "---\n",
        "iptables:\n",
        "\u{0}",
        "é",
        KUBE_PROXY,
        OWN,
    ];
    let mut seed = 0x2545_f491_u32;
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..12 {
            seed ^= seed << 13;
            seed ^= seed >> 17;
            seed ^= seed << 5;
            text.push_str(pieces[seed as usize % pieces.len()]);
        }
        let (effective, findings) = resolve(&file(&text));
        assert_eq!(effective.is_none(), findings.has_errors(), "{text:?}");
    }
}
