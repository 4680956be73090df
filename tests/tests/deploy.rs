//! `deploy/manifests/install.yaml` and the image: each says what the agent needs, and no more. No
//! privileges needed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Container, PodSpec, Probe, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use millrace::source::kube::rights;
use millrace_tests::{agent, manifest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What `system:node-proxier` may: group, resource, verbs.
const NODE_PROXIER: [(&str, &str, &[&str]); 6] = [
    ("", "services", &["list", "watch"]),
    ("", "nodes", &["get", "list", "watch"]),
    ("", "events", &["create", "patch", "update"]),
    ("events.k8s.io", "events", &["create", "patch", "update"]),
    ("discovery.k8s.io", "endpointslices", &["list", "watch"]),
    ("networking.k8s.io", "servicecidrs", &["list", "watch"]),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> Result<String> {
    let path = root().join(path);
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The documents of install.yaml.
fn documents() -> Result<Vec<Value>> {
    manifest::documents(&read("deploy/manifests/install.yaml")?)
}

/// The only object of that kind. Fields that Kubernetes does not know are an error.
fn only<T: DeserializeOwned + Serialize>(kind: &str) -> Result<T> {
    let documents = documents()?;
    let mut of_kind = documents.into_iter().filter(|document| document["kind"] == kind);
    let (Some(document), None) = (of_kind.next(), of_kind.next()) else {
        bail!("not exactly one {kind}")
    };
    let object: T = serde_json::from_value(document.clone())?;
    let known = serde_json::to_value(&object)?;
    let unknown = lost(&document, &known, "");
    ensure!(unknown.is_empty(), "{kind}: fields that Kubernetes does not know: {unknown:?}");
    Ok(object)
}

/// Paths in `given` that `known` lacks: what did not survive being read.
fn lost(given: &Value, known: &Value, path: &str) -> Vec<String> {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => given
            .iter()
            .flat_map(|(name, value)| {
                let path = format!("{path}.{name}");
                match known.get(name) {
                    // An empty selector or the like may be left out when written.
                    None if value.is_null() => Vec::new(),
                    None => vec![path],
                    Some(known) => lost(value, known, &path),
                }
            })
            .collect(),
        (Value::Array(given), Value::Array(known)) if given.len() == known.len() => {
            let pairs = given.iter().zip(known).enumerate();
            pairs
                .flat_map(|(n, (given, known))| lost(given, known, &format!("{path}[{n}]")))
                .collect()
        }
        _ if given == known => Vec::new(),
        _ => vec![path.to_owned()],
    }
}

#[test]
fn unknown_fields_would_be_found() -> Result<()> {
    let good = serde_json::json!({"metadata": {"name": "a"}, "automountServiceAccountToken": true});
    let account: ServiceAccount = serde_json::from_value(good.clone())?;
    ensure!(lost(&good, &serde_json::to_value(&account)?, "").is_empty());
    let bad = serde_json::json!({"metadata": {"name": "a", "labls": {}}, "secret": 1});
    let account: ServiceAccount = serde_json::from_value(bad.clone())?;
    let lost = lost(&bad, &serde_json::to_value(&account)?, "");
    ensure!(lost == [".metadata.labls", ".secret"], "{lost:?}");
    Ok(())
}

fn daemon_set() -> Result<PodSpec> {
    let set: DaemonSet = only("DaemonSet")?;
    let spec = set.spec.context("it has a spec")?;
    let strategy = spec.update_strategy.context("it says how it is updated")?;
    let rolling = strategy.rolling_update.context("node by node")?;
    ensure!(rolling.max_surge == Some(IntOrString::Int(0)), "two agents cannot share a node");
    let labels = spec.template.metadata.context("labels")?.labels;
    ensure!(labels == spec.selector.match_labels, "{labels:?}");
    spec.template.spec.context("it has a pod")
}

fn container() -> Result<Container> {
    let pod = daemon_set()?;
    ensure!(pod.init_containers.is_none() && pod.containers.len() == 1);
    pod.containers.into_iter().next().context("one")
}

/// The configuration, both documents.
fn configuration() -> Result<(String, Vec<Value>)> {
    let map: ConfigMap = only("ConfigMap")?;
    let text = map.data.context("data")?.remove("config.yaml").context("config.yaml")?;
    let lines: Vec<&str> = text.lines().collect();
    let documents = lines.split(|line| *line == "---").map(|lines| lines.join("\n"));
    let documents: Result<_> = documents.map(|text| Ok(serde_saphyr::from_str(&text)?)).collect();
    Ok((text, documents?))
}

#[test]
fn every_document_is_what_kubernetes_knows() -> Result<()> {
    let kinds: Vec<String> =
        documents()?.iter().map(|d| d["kind"].as_str().unwrap_or_default().to_owned()).collect();
    let expected =
        ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "ConfigMap", "DaemonSet"];
    ensure!(kinds == expected, "{kinds:?}");
    let account: ServiceAccount = only("ServiceAccount")?;
    let binding: ClusterRoleBinding = only("ClusterRoleBinding")?;
    let role: ClusterRole = only("ClusterRole")?;
    only::<ConfigMap>("ConfigMap")?;
    ensure!(Some(&binding.role_ref.name) == role.metadata.name.as_ref());
    let subjects = binding.subjects.context("somebody is bound")?;
    ensure!(subjects.len() == 1 && Some(&subjects[0].name) == account.metadata.name.as_ref());
    ensure!(subjects[0].namespace == account.metadata.namespace);
    let pod = daemon_set()?;
    ensure!(pod.service_account_name == account.metadata.name);
    ensure!(pod.automount_service_account_token.is_none(), "the token is how the API knows us");
    Ok(())
}

#[test]
fn the_role_is_what_the_agent_asks_for_and_no_wider_than_a_proxys() -> Result<()> {
    type Grants = BTreeSet<(String, String, String)>;
    let grants = |group: &str, resource: &str, verbs: &[&str]| -> Grants {
        let grant = |verb: &&str| (group.to_owned(), resource.to_owned(), (*verb).to_owned());
        verbs.iter().map(grant).collect()
    };
    let role: ClusterRole = only("ClusterRole")?;
    ensure!(role.aggregation_rule.is_none());
    let mut granted = Grants::new();
    for rule in role.rules.context("rules")? {
        ensure!(rule.non_resource_urls.is_none() && rule.resource_names.is_none());
        let verbs: Vec<&str> = rule.verbs.iter().map(String::as_str).collect();
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                granted.extend(grants(group, resource, &verbs));
            }
        }
    }
    let asked: Grants =
        rights::ALL.iter().flat_map(|r| grants(r.group, r.resource, r.verbs)).collect();
    ensure!(granted == asked, "granted {granted:#?}, asked for {asked:#?}");
    let proxys: Grants = NODE_PROXIER.iter().flat_map(|(g, r, v)| grants(g, r, v)).collect();
    ensure!(granted.is_subset(&proxys), "{granted:#?}");
    Ok(())
}

#[test]
fn the_pod_has_three_capabilities_and_nothing_to_gain() -> Result<()> {
    let pod = daemon_set()?;
    ensure!(pod.host_network == Some(true) && pod.dns_policy.as_deref() == Some("Default"));
    ensure!(pod.host_pid.is_none() && pod.host_ipc.is_none());
    ensure!(pod.priority_class_name.as_deref() == Some("system-node-critical"));
    let tolerations = pod.tolerations.context("it tolerates")?;
    let all = |t: &k8s_openapi::api::core::v1::Toleration| {
        t.operator.as_deref() == Some("Exists") && t.key.is_none() && t.effect.is_none()
    };
    ensure!(tolerations.len() == 1 && all(&tolerations[0]), "{tolerations:?}");
    let selector = pod.node_selector.context("linux")?;
    ensure!(selector.get("kubernetes.io/os").is_some_and(|os| os == "linux"));

    let container = container()?;
    let context = container.security_context.context("a security context")?;
    ensure!(context.privileged == Some(false));
    ensure!(context.allow_privilege_escalation == Some(false));
    ensure!(context.read_only_root_filesystem == Some(true));
    let capabilities = context.capabilities.context("capabilities")?;
    ensure!(capabilities.drop == Some(vec!["ALL".to_owned()]));
    let mut added = capabilities.add.context("three")?;
    added.sort_unstable();
    ensure!(added == ["BPF", "NET_ADMIN", "PERFMON"], "{added:?}");
    let seccomp = context.seccomp_profile.context("a seccomp profile")?;
    ensure!(seccomp.type_ == "RuntimeDefault");
    let resources = container.resources.context("resources")?;
    ensure!(resources.requests.is_some_and(|r| r.contains_key("cpu") && r.contains_key("memory")));
    Ok(())
}

/// What is mounted is what the configuration and the arguments name, and only the pins are written.
#[test]
fn mounts_are_what_the_agent_needs() -> Result<()> {
    let (_, documents) = configuration()?;
    let own = documents.iter().find(|d| d["kind"] == "MillraceConfiguration").context("ours")?;
    let container = container()?;
    let mounts = container.volume_mounts.context("mounts")?;
    let volumes = daemon_set()?.volumes.context("volumes")?;
    ensure!(mounts.len() == volumes.len(), "each volume is mounted once");
    let source = |path: &str| -> Result<_> {
        let mount = mounts.iter().find(|mount| mount.mount_path == path).context("a mount")?;
        let volume = volumes.iter().find(|volume| volume.name == mount.name).context("a volume")?;
        Ok((mount.clone(), volume.clone()))
    };
    let host = |field: &str| -> Result<_> {
        let path = own[field].as_str().with_context(|| format!("{field} is given"))?;
        let (mount, volume) = source(path).with_context(|| format!("{field}: {path}"))?;
        ensure!(mount.mount_propagation.as_deref() == Some("HostToContainer"));
        Ok((mount.read_only.unwrap_or(false), volume.host_path.context("the host's")?.path))
    };
    ensure!(host("bpffs")? == (false, "/sys/fs/bpf".to_owned()));
    ensure!(host("cgroupRoot")? == (true, "/sys/fs/cgroup".to_owned()));
    let (mount, volume) = source("/etc/millrace")?;
    let map: ConfigMap = only("ConfigMap")?;
    ensure!(mount.read_only == Some(true));
    ensure!(Some(volume.config_map.context("the ConfigMap")?.name) == map.metadata.name);
    ensure!(mounts.len() == 3, "and no more");
    Ok(())
}

#[test]
fn probes_ask_where_health_is_served() -> Result<()> {
    let (_, documents) = configuration()?;
    let proxy = documents.iter().find(|d| d["kind"] == "KubeProxyConfiguration").context("it")?;
    let served = proxy["healthzBindAddress"].as_str().context("healthzBindAddress")?;
    let container = container()?;
    // A declared port would be the node's, and kube-proxy may still have it.
    ensure!(container.ports.is_none());
    let port: i32 = served.rsplit(':').next().context("a port")?.parse()?;
    let asks = |probe: Option<Probe>, path: &str| -> Result<()> {
        let get = probe.context("a probe")?.http_get.context("over HTTP")?;
        ensure!(get.path.as_deref() == Some(path) && get.port == IntOrString::Int(port), "{get:?}");
        Ok(())
    };
    // An autoscaler's taint must not restart the agent (KEP-3836).
    asks(container.liveness_probe, "/livez")?;
    asks(container.startup_probe, "/livez")?;
    asks(container.readiness_probe, "/healthz")
}

#[test]
fn the_agent_understands_its_configuration_and_arguments() -> Result<()> {
    let (text, _) = configuration()?;
    let directory = std::env::temp_dir().join(format!("millrace-deploy-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let file = directory.join("config.yaml");
    std::fs::write(&file, text)?;
    let container = container()?;
    let args = container.args.context("arguments")?;
    let (run, flags) = args.split_first().context("a command")?;
    ensure!(run == "run", "{args:?}");
    let env = container.env.context("variables")?;
    ensure!(env.len() == 1 && env[0].name == "NODE_NAME");
    let flags = flags.iter().map(|flag| {
        let flag = flag.replace("$(NODE_NAME)", "worker-1");
        flag.replace("/etc/millrace/config.yaml", &file.display().to_string())
    });
    let mut check = Command::new(agent::program()?);
    check.args(["config", "check"]).args(flags).env_clear();
    let output = check.output()?;
    std::fs::remove_dir_all(&directory)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    ensure!(said.contains("0 errors, 0 warnings"), "{said}");
    Ok(())
}

#[test]
fn the_image_is_the_one_that_is_built() -> Result<()> {
    let image = container()?.image.context("an image")?;
    ensure!(image == format!("millrace:{}", env!("CARGO_PKG_VERSION")), "{image}");
    let file = read("deploy/Dockerfile")?;
    let version = env!("CARGO_PKG_RUST_VERSION");
    ensure!(file.contains(&format!("ARG RUST_VERSION={version}")), "not Rust {version}");
    ensure!(file.contains("FROM scratch") && file.contains("ENTRYPOINT [\"/usr/bin/millrace\"]"));
    ensure!(!file.contains("latest"), "every base is pinned");
    Ok(())
}
