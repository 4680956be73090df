//! The configuration: kubeadm's own file, changed and broken while the agent runs, seen by packets.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use millrace_tests::agent::Agent;
use millrace_tests::apiserver::{ApiServer, Resource};
use millrace_tests::lab::{Family, Lab, Place, address};
use millrace_tests::manifest::{self, Object, Service};
use millrace_tests::wait::{self, CHANGE_TIMEOUT};
use millrace_tests::world::{SMALL_MAPS, World, cluster_ip, reach, rejected, seen_as};
use serde_json::{Value, json};

/// What kubeadm writes.
const KUBEADM: &str = include_str!("../../agent/src/config/fixtures/kubeadm.conf");
/// Where it says the kubeconfig is: the only line that no lab can have as it is.
const KUBECONFIG: &str = "/var/lib/kube-proxy/kubeconfig.conf";
/// Our own document, to be put behind it.
const OWN: &str = "---\napiVersion: millrace.dev/v1alpha1\nkind: MillraceConfiguration\n";
const NODE_PORT: u16 = 30080;
/// A second address of the node.
const SECOND: &str = "192.168.50.210";
const EXTERNAL: u8 = 10;

/// A ConfigMap's mount: files are links through `..data`, which is replaced at once.
struct Mount {
    directory: PathBuf,
    version: usize,
}

impl Mount {
    fn new(directory: PathBuf) -> Result<Mount> {
        fs::create_dir_all(&directory)?;
        symlink("..data/config.conf", directory.join("config.conf"))?;
        Ok(Mount { directory, version: 0 })
    }

    fn file(&self) -> PathBuf {
        self.directory.join("config.conf")
    }

    fn write(&mut self, text: &str) -> Result<()> {
        self.version += 1;
        let version = format!("..version-{}", self.version);
        fs::create_dir(self.directory.join(&version))?;
        fs::write(self.directory.join(&version).join("config.conf"), text)?;
        symlink(&version, self.directory.join("..data_tmp"))?;
        fs::rename(self.directory.join("..data_tmp"), self.directory.join("..data"))?;
        Ok(())
    }
}

/// A node whose agent is started as kubeadm starts kube-proxy.
struct Configured {
    agent: Agent,
    server: ApiServer,
    mount: Mount,
    /// kubeadm's file.
    text: String,
    world: World,
}

impl Configured {
    fn new() -> Result<Configured> {
        let world = World::without_agents(Lab::builder().pods("n1", &["client", "a"]), &[])?;
        let node = world.lab.node("n1").clone();
        node.ip(&[format!("addr add {SECOND}/24 dev eth0")])?;
        let server = ApiServer::start_in(&node)?;
        server.put(manifest::node(&node, world.lab.families(), None));
        let kubeconfig = node.run_dir().join("kubeconfig.conf");
        fs::write(&kubeconfig, kubeconfig_of(&server))?;
        let text = KUBEADM.replace(KUBECONFIG, &kubeconfig.display().to_string());
        let mut mount = Mount::new(node.run_dir().join("config"))?;
        mount.write(&text)?;
        let paths = [mount.file(), node.cgroup_root().to_owned(), node.bpffs().to_owned()];
        let paths = paths.map(|path| path.display().to_string());
        let arguments = [
            &format!("--config={}", paths[0]),
            &format!("--hostname-override={}", node.name()),
            &format!("--cgroup-root={}", paths[1]),
            &format!("--bpffs={}", paths[2]),
        ];
        let arguments: Vec<&str> = arguments.map(String::as_str).into();
        let mut agent = Agent::prepare_bare(&node, &[&arguments, SMALL_MAPS].concat());
        agent.start_again()?;
        agent.wait_ready()?;
        Ok(Configured { agent, server, mount, text, world })
    }

    /// Service `web` with a NodePort and an external IP, in front of pod `a`.
    fn serve(&self) -> Result<Service> {
        let mut service = Service::new("web").port("main", "TCP", 80).port("main", "UDP", 80);
        for &family in self.world.lab.families() {
            let external = address::external(family, EXTERNAL);
            service = service.cluster_ip(cluster_ip(family, 1).ip()).external_ip(external);
            self.world.route_to("n1", external, family)?;
        }
        let service = service.node_port_for_all(NODE_PORT);
        self.server.put(service.value());
        self.endpoints(&["n1/a"]);
        Ok(service)
    }

    fn endpoints(&self, pods: &[&str]) {
        let families = self.world.lab.families().iter();
        self.server.put_all(families.map(|&family| self.world.slice("web", pods, family).value()));
    }

    /// A client whose sockets are not translated.
    fn machine(&self) -> Place {
        self.world.lab.pod("n1", "client").as_vm()
    }

    /// The condition about something that begins so, with all of these words; none: there is none.
    fn condition(&self, about: &str, words: Option<&[&str]>) -> Result<()> {
        wait::until(&format!("{words:?} about {about}"), CHANGE_TIMEOUT, || {
            let status = self.agent.status_json()?;
            let conditions = status["agent"]["conditions"].as_array().cloned().unwrap_or_default();
            let is_meant = |c: &&Value| c["about"].as_str().is_some_and(|s| s.starts_with(about));
            let found = conditions.iter().find(is_meant);
            let Some(words) = words else {
                ensure!(found.is_none(), "{found:?}");
                return Ok(());
            };
            let text = found.with_context(|| format!("{conditions:?}"))?["message"].to_string();
            ensure!(words.iter().all(|word| text.contains(word)), "{text}");
            Ok(())
        })
    }
}

fn kubeconfig_of(server: &ApiServer) -> String {
    let cluster = json!({"name": "default", "cluster": {"server": server.url()}});
    let context = json!({"cluster": "default", "namespace": "default", "user": "default"});
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [cluster],
        "contexts": [{"name": "default", "context": context}],
        "current-context": "default",
        "users": [{"name": "default", "user": {}}],
    })
    .to_string()
}

#[test]
fn kubeadms_file_starts_the_agent_and_changes_of_it_are_carried_out() -> Result<()> {
    let mut configured = Configured::new()?;
    configured.serve()?;
    let (machine, outside) = (configured.machine(), configured.world.lab.outside().clone());
    let node = configured.world.lab.node("n1").clone();
    let pod = configured.world.lab.pod("n1", "client").address(Family::V4);
    let to = cluster_ip(Family::V4, 1);
    let [first, second] = [node.address(Family::V4), SECOND.parse::<IpAddr>()?]
        .map(|address| SocketAddr::new(address, NODE_PORT));
    let external = SocketAddr::new(address::external(Family::V4, EXTERNAL), 80);
    for &family in configured.world.lab.families() {
        reach(configured.world.lab.pod("n1", "client"), cluster_ip(family, 1), &["a"])?;
    }
    let status = configured.agent.status_json()?;
    let source = status["agent"]["source"].as_str().unwrap_or_default();
    ensure!(source.contains("clientConnection.kubeconfig"), "{source}");
    ensure!(status["agent"]["nodeName"] == "n1", "{status}");
    configured.condition("configuration", None)?;
    // Mode iptables: NodePorts on every address. The pod's own is in the clusterCIDR.
    seen_as(&machine, to, &[pod])?;
    reach(&outside, first, &["a"])?;
    reach(&outside, second, &["a"])?;
    reach(&outside, external, &["a"])?;

    let iptables = "iptables:\n  localhostNodePorts: null\n  masqueradeAll: ";
    ensure!(configured.text.contains(iptables), "{}", configured.text);
    let masquerade =
        configured.text.replacen(&format!("{iptables}false"), &format!("{iptables}true"), 1);
    configured.mount.write(&masquerade)?;
    seen_as(&machine, to, &node.own_addresses(Family::V4))?;

    let listed = format!("nodePortAddresses: [\"{}/32\"]", first.ip());
    configured.mount.write(&configured.text.replace("nodePortAddresses: null", &listed))?;
    seen_as(&machine, to, &[pod])?;
    rejected(&outside, second)?;
    reach(&outside, first, &["a"])?;

    // What is kept of Services depends on this: they are listed anew, and others go on.
    let lists = configured.server.counts(Resource::Services).lists;
    configured.mount.write(&format!("{}{OWN}externalIPs: [off]\n", configured.text))?;
    wait::until("the external IP to be nobody's", CHANGE_TIMEOUT, || {
        let outcome = millrace_tests::world::Client::Tcp.dial_briefly(&outside, external)?;
        ensure!(!outcome.ok, "{outcome:?}");
        Ok(())
    })?;
    ensure!(configured.server.counts(Resource::Services).lists == lists + 1);
    reach(&outside, second, &["a"])
}

#[test]
fn a_bad_file_leaves_what_was_in_force_and_what_needs_a_restart_says_so() -> Result<()> {
    let mut configured = Configured::new()?;
    configured.serve()?;
    let machine = configured.machine();
    let to = cluster_ip(Family::V4, 1);
    let own = configured.world.lab.node("n1").own_addresses(Family::V4);
    let masquerade = configured.text.replace("masqueradeAll: false", "masqueradeAll: true");
    configured.mount.write(&masquerade)?;
    seen_as(&machine, to, &own)?;
    let file = format!("configuration {}", configured.mount.file().display());
    for (text, words) in [
        ("mode: [\n".to_owned(), &["cannot be used", "not YAML"][..]),
        (format!("{masquerade}{OWN}externalIp: off\n"), &["did you mean externalIPs?"]),
        (masquerade.replace("0.0.0.0", "here"), &["bindAddress", "is not an IP address"]),
        (String::new(), &["the file is empty"]),
    ] {
        configured.mount.write(&text)?;
        configured.condition(&file, Some(words))?;
        seen_as(&machine, to, &own)?;
        reach(configured.world.lab.pod("n1", "client"), to, &["a"])?;
    }
    fs::remove_file(configured.mount.directory.join("..data"))?;
    configured.condition(&file, Some(&["cannot be used", "read the configuration"]))?;

    let waiting = format!("{masquerade}{OWN}socketLB: false\nmaxServices: 99\n");
    configured.mount.write(&waiting.replace("nodePortAddresses: null\n", "maxPerCor: 7\n"))?;
    let words: &[&str] = &["the file says false, in force is true: restart the agent"];
    configured.condition("configuration socketLB", Some(words))?;
    // A flag is stronger: nothing waits for a restart.
    configured.condition("configuration maxServices", None)?;
    configured.condition(&file, Some(&["unknown field", "ignored, as by kube-proxy"]))?;
    seen_as(&machine, to, &own)?;
    configured.mount.write(&configured.text.clone())?;
    configured.condition("configuration", None)?;
    seen_as(&machine, to, &[configured.world.lab.pod("n1", "client").address(Family::V4)])
}

/// A list without the API server's endpoints would cut the agent off from what it learns by.
#[test]
fn the_api_servers_own_service_keeps_its_backends() -> Result<()> {
    let mut configured = Configured::new()?;
    let rename = |mut object: Value| {
        object["metadata"]["namespace"] = json!("default");
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        object["metadata"]["name"] = json!(name.replace("web", "kubernetes"));
        if !object["metadata"]["labels"]["kubernetes.io/service-name"].is_null() {
            object["metadata"]["labels"]["kubernetes.io/service-name"] = json!("kubernetes");
        }
        object
    };
    let to = cluster_ip(Family::V4, 1);
    let service = Service::new("web").cluster_ip(to.ip());
    let service = service.port("main", "TCP", 80).port("main", "UDP", 80);
    let slice = |pods: &[&str]| rename(configured.world.slice("web", pods, Family::V4).value());
    let (good, bad) = (slice(&["n1/a"]), slice(&[]));
    configured.server.put_all([rename(service.value()), good.clone()]);
    let client = configured.world.lab.pod("n1", "client").clone();
    reach(&client, to, &["a"])?;
    configured.condition("Service default/kubernetes", None)?;
    configured.server.put(bad);
    configured.condition("Service default/kubernetes", Some(&["last good backends"]))?;
    reach(&client, to, &["a"])?;
    // A new agent has seen nothing good: what is pinned is the best there is.
    configured.agent.kill()?;
    configured.agent.restart()?;
    configured.condition("Service default/kubernetes", Some(&["last good backends"]))?;
    reach(&client, to, &["a"])?;
    configured.server.put(good);
    configured.condition("Service default/kubernetes", None)?;
    reach(&client, to, &["a"])
}
