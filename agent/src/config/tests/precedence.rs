//! Flags, environment, file, defaults; and the ways to the API server.

use super::super::effective::Source;
use super::super::finding::Weight;
use super::super::merge::Origin;
use super::*;

#[test]
fn beside_a_kube_proxy_configuration_its_flags_are_ignored_with_a_note() {
    let given = ["--cluster-cidr=10.0.0.0/8", "--masquerade-all", "--proxy-mode=ipvs"];
    let inputs = with_flags(kube_proxy("clusterCIDR: 10.1.0.0/16"), &given);
    let found = effective(&inputs);
    assert_eq!(setting(&found, kp("clusterCIDR")).value.to_text(), "10.1.0.0/16");
    assert!(!found.policy.masquerade_all);
    let notes = said(&inputs, Weight::Note);
    for flag in ["--cluster-cidr", "--masquerade-all", "--proxy-mode"] {
        let told = notes.iter().filter(|note| note.starts_with(&format!("{flag}: ignored beside")));
        assert_eq!(told.count(), 1, "{flag}: {notes:?}");
    }
    // Beside our own document alone, and without a file, they count.
    for inputs in [own("socketLB: on"), inputs_alone()] {
        let found = effective(&with_flags(inputs, &given));
        assert_eq!(setting(&found, kp("clusterCIDR")).origin, Origin::Flag("--cluster-cidr"));
        assert!(found.policy.masquerade_all);
    }
}

fn inputs_alone() -> Inputs {
    inputs()
}

#[test]
fn kube_proxys_exceptions_and_our_own_flags_override_the_file() {
    let text = format!(
        "{KUBE_PROXY}hostnameOverride: file\nlogging: {{verbosity: 1}}\n---\n{OWN}apiServer: \
         https://file\nsocketLB: true\nmaxFlows: 100\nexternalIPs: [all]\n"
    );
    let given = [
        "--hostname-override=Flag",
        "--v=5",
        "--master=https://flag",
        "--socket-lb=off",
        "--max-flows=200",
        "--external-ips=off",
    ];
    let found = effective(&with_flags(file(&text), &given));
    assert_eq!((found.node_name.as_str(), found.log.verbosity), ("flag", 5));
    let api_server = Some("https://flag".into());
    assert_eq!(found.source, Source::Kubernetes { kubeconfig: None, api_server });
    assert!(!found.policy.socket_lb);
    assert_eq!(found.flows.established, 200);
    assert_eq!(found.policy.external_ips, crate::settings::ExternalIps::Off);
    let found = effective(&file(&text));
    assert_eq!((found.node_name.as_str(), found.log.verbosity), ("file", 1));
    assert_eq!(setting(&found, ours("maxFlows")).origin, Origin::File(10));
}

#[test]
fn names_come_from_the_strongest_who_says_one() {
    let environment = &[("NODE_NAME", "Environment")];
    let named = kube_proxy("hostnameOverride: File");
    assert_eq!(effective(&inputs()).node_name, "host-1");
    assert_eq!(effective(&named).node_name, "file");
    assert_eq!(effective(&with_environment(named.clone(), environment)).node_name, "environment");
    let flagged = with_flags(with_environment(named, environment), &["--hostname-override=Flag"]);
    assert_eq!(effective(&flagged).node_name, "flag");
    let both = with_flags(flagged, &["--node-name=Own"]);
    assert_eq!(effective(&both).node_name, "own");
    let empty = with_flags(inputs(), &["--hostname-override="]);
    assert_eq!(effective(&empty).node_name, "host-1", "$(NODE_NAME) may be empty");
    let blank = with_flags(inputs(), &["--node-name= "]);
    assert!(error(&blank).contains("--node-name: blank"));
    let nameless = Inputs { machine: Machine { cpus: 1, host_name: "\n".into() }, ..inputs() };
    assert!(error(&nameless).contains("blank"));
}

#[test]
fn flags_are_taken_as_go_takes_them() {
    let lists = ["--nodeport-addresses=10.0.0.0/8", "--nodeport-addresses=fd00::/8,10.1.0.0/16"];
    let found = effective(&with_flags(inputs(), &lists));
    let shown = setting(&found, kp("nodePortAddresses")).value.to_text();
    assert_eq!(shown, "10.0.0.0/8,fd00::/8,10.1.0.0/16", "lists add up");
    let last = ["--cluster-cidr=10.0.0.0/8", "--cluster-cidr=10.1.0.0/16"];
    let found = effective(&with_flags(inputs(), &last));
    assert_eq!(setting(&found, kp("clusterCIDR")).value.to_text(), "10.1.0.0/16");
    let wrong = error(&with_flags(inputs(), &["--masquerade-all=maybe"]));
    assert_eq!(wrong, "--masquerade-all: \"maybe\": write true or false");
    // One flag, two fields; one error.
    let wrong = error(&with_flags(inputs(), &["--iptables-sync-period=5"]));
    assert!(wrong.starts_with("--iptables-sync-period: \"5\": write a duration"), "{wrong}");
}

const FILE: &str = "clientConnection: {kubeconfig: /file}";

/// Flags, environment, file; expected kubeconfig and URL; words of what is shown.
type Way<'a> =
    (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str, (Option<&'a str>, Option<&'a str>), &'a str);

#[test]
fn the_api_server_is_found_by_flag_environment_kubeconfig_and_pod() {
    let flag: &[&str] = &["--api-server=https://flag"];
    let env: &[(&str, &str)] = &[("MILLRACE_API_SERVER", "https://env")];
    let pod: &[(&str, &str)] =
        &[("KUBERNETES_SERVICE_HOST", "10.96.0.1"), ("KUBERNETES_SERVICE_PORT", "443")];
    let rows: &[Way<'_>] = &[
        (
            flag,
            env,
            FILE,
            (Some("/file"), Some("https://flag")),
            "https://flag (--api-server), with",
        ),
        (&["--master=https://m"], env, "", (None, Some("https://m")), "https://m (--master), with"),
        (&[], env, FILE, (Some("/file"), Some("https://env")), "(environment MILLRACE_API_SERVER)"),
        (
            &[],
            &[],
            FILE,
            (Some("/file"), None),
            "/file (config.conf:3 clientConnection.kubeconfig)",
        ),
        (&[], pod, "", (None, None), "https://10.96.0.1:443 (in-cluster"),
        (&[], &[], "", (None, None), "which this is not"),
        (&["--kubeconfig=/flag"], &[], FILE, (Some("/file"), None), "/file"),
    ];
    for (flags, environment, lines, (kubeconfig, url), words) in rows {
        let inputs = with_environment(with_flags(kube_proxy(lines), flags), environment);
        let found = effective(&inputs);
        let expected = Source::Kubernetes {
            kubeconfig: kubeconfig.map(Into::into),
            api_server: url.map(Into::into),
        };
        assert_eq!(found.source, expected, "{words}");
        assert!(found.source_chosen.contains(words), "{}", found.source_chosen);
    }
    // Without a file a kubeconfig given by a flag is stronger than the environment.
    let inputs = with_environment(with_flags(inputs(), &["--kubeconfig=/flag"]), env);
    let expected = Source::Kubernetes { kubeconfig: Some("/flag".into()), api_server: None };
    assert_eq!(effective(&inputs).source, expected);
}

#[test]
fn a_cluster_ip_as_the_way_to_the_api_server_is_noted() {
    let pod = &[("KUBERNETES_SERVICE_HOST", "10.96.0.1"), ("KUBERNETES_SERVICE_PORT", "443")];
    let notes = said(&with_environment(inputs(), pod), Weight::Note);
    assert!(notes.iter().any(|note| note.contains("MILLRACE_API_SERVER")), "{notes:?}");
}

#[test]
fn manifests_win_over_weaker_words() {
    let manifests = Source::Manifests("/m".into());
    let found = effective(&with_flags(kube_proxy(FILE), &["--manifests=/m"]));
    assert_eq!(found.source, manifests);
    let both = format!("{KUBE_PROXY}{FILE}\n---\n{OWN}manifests: /m\n");
    assert_eq!(effective(&file(&both)).source, manifests, "kube-proxy's file always names one");
    let found = effective(&with_flags(own("manifests: /m"), &["--api-server=https://flag"]));
    assert!(matches!(found.source, Source::Kubernetes { .. }));
    let clash = with_flags(inputs(), &["--manifests=/m", "--api-server=https://flag"]);
    assert!(error(&clash).contains("--manifests: give either"));
    let clash = with_flags(inputs(), &["--manifests=/m", "--kubeconfig=/k"]);
    assert!(error(&clash).contains("--manifests: give either"));
}
