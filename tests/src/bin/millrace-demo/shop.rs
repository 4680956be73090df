//! The shop: which server runs in which pod, and the objects a cluster would have for it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use millrace_tests::agent::Agent;
use millrace_tests::lab::residue;
use millrace_tests::lab::{Family, InterNode, Lab, Node, Pod, address};
use millrace_tests::manifest::{self, Endpoint, Service, Slice};

use crate::servers::{self, Daemon};

/// Numbers of the ClusterIPs: 10.96.0.N and fd00:96::N.
pub const DNS: u16 = 10;
/// The web Service.
pub const WEB: u16 = 20;
/// The API.
pub const API: u16 = 30;
/// The cache, with affinity.
pub const CACHE: u16 = 40;
/// One pod, on n1: for the latency.
pub const CHECKOUT: u16 = 50;
/// Nobody serves it.
pub const SEARCH: u16 = 60;
/// As web, for clients of a node with a local endpoint.
pub const WEB_LOCAL: u16 = 70;
/// NodePort of web.
pub const NODE_PORT: u16 = 30080;
/// NodePort of web-local.
pub const LOCAL_NODE_PORT: u16 = 30081;
/// Last number of the load balancer's address of web.
pub const BALANCED: u8 = 20;
/// Where the pods' web servers listen.
pub const HTTP_TARGET: u16 = 8080;

/// Both families, in the order of the cluster.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

const NAME: &str = "mr-demo";
const PODS: [(&str, &[&str]); 3] = [
    ("n1", &["client-1", "web-0", "checkout-0", "dns-0"]),
    ("n2", &["client-2", "web-1", "api-0", "cache-0"]),
    ("n3", &["client-3", "web-2", "api-1", "cache-1", "dns-1"]),
];
const NAMES: [(&str, u16); 5] =
    [("web", WEB), ("api", API), ("cache", CACHE), ("checkout", CHECKOUT), ("search", SEARCH)];

/// The running shop. The fields end in this order: servers, agents, the cluster.
pub struct Shop {
    /// Servers by pod.
    pub servers: BTreeMap<String, Daemon>,
    agents: BTreeMap<String, Agent>,
    /// The cluster.
    pub lab: Lab,
}

impl Shop {
    /// Builds the cluster, starts the servers and the agents, and waits for both.
    pub fn open(keep: bool) -> Result<Shop> {
        let mut builder = Lab::builder().nodes(PODS.len()).inter_node(InterNode::Vxlan);
        for (node, pods) in PODS {
            builder = builder.pods(node, pods);
        }
        let id = if keep { NAME.to_owned() } else { Lab::next_id() };
        residue::teardown_on_signal(&id);
        let builder = builder.id(&id);
        let lab = builder.build()?;
        let mut shop = Shop { servers: BTreeMap::new(), agents: BTreeMap::new(), lab };
        let pods: Vec<Pod> =
            shop.lab.nodes().iter().flat_map(|node| node.pods().to_vec()).collect();
        for pod in pods {
            shop.start_server(&pod)?;
        }
        shop.write_manifests()?;
        for node in shop.lab.nodes() {
            shop.agents.insert(node.name().to_owned(), Agent::start(node)?.quiet());
        }
        shop.agents.values_mut().try_for_each(Agent::wait_ready)?;
        Ok(shop)
    }

    fn run_dir(&self) -> PathBuf {
        residue::run_of(self.lab.id()).join("servers")
    }

    /// Starts the server that belongs into a pod; clients have none.
    pub fn start_server(&mut self, pod: &Pod) -> Result<()> {
        let (name, run) = (pod.pod_name(), self.run_dir());
        let daemon = match name.split('-').next() {
            Some("web" | "checkout") => {
                servers::nginx(pod, &run, HTTP_TARGET, &format!("{name} saw $remote_addr"))?
            }
            Some("api") => {
                let answer = format!("{{\"pod\":\"{name}\",\"client\":\"$remote_addr\"}}");
                servers::nginx(pod, &run, 9000, &answer)?
            }
            Some("cache") => servers::redis(pod, &run, 6379)?,
            Some("dns") => servers::dnsmasq(pod, &run, &NAMES)?,
            _ => return Ok(()),
        };
        self.servers.insert(name.to_owned(), daemon);
        Ok(())
    }

    /// A node's agent.
    pub fn agent(&mut self, node: &str) -> &mut Agent {
        self.agents.get_mut(node).expect("the demo names nodes it has")
    }

    /// How many pods there are.
    pub fn pod_count(&self) -> usize {
        self.lab.options().pods.len()
    }

    /// A pod by name, wherever it runs.
    pub fn pod(&self, name: &str) -> &Pod {
        let mut pods = self.lab.nodes().iter().flat_map(Node::pods);
        pods.find(|pod| pod.pod_name() == name).expect("the demo names pods it has")
    }

    fn write_manifests(&self) -> Result<()> {
        for (node, zone) in self.lab.nodes().iter().zip(["a", "b", "c"]) {
            let zone = format!("zone-{zone}");
            let object = manifest::node(node, &FAMILIES, Some(&zone));
            manifest::write(&node.manifests(), &object)?;
        }
        let dns = with_addresses("kube-dns", DNS).namespace("kube-system");
        self.apply(&dns.port("dns", "UDP", 53).port("dns-tcp", "TCP", 53))?;
        let web = with_addresses("web", WEB).port("http", "TCP", 80).node_port(NODE_PORT);
        self.apply(
            &FAMILIES.iter().fold(web, |web, &family| {
                web.load_balancer_ip(address::external(family, BALANCED))
            }),
        )?;
        let local = with_addresses("web-local", WEB_LOCAL).port("http", "TCP", 80);
        self.apply(&local.node_port(LOCAL_NODE_PORT).external_local())?;
        self.apply(&with_addresses("api", API).port("http", "TCP", 80))?;
        self.apply(&with_addresses("cache", CACHE).port("redis", "TCP", 6379).affinity(10800))?;
        self.apply(&with_addresses("checkout", CHECKOUT).port("http", "TCP", 80))?;
        let search = with_addresses("search", SEARCH);
        self.apply(&search.port("http", "TCP", 80).port("query", "UDP", 80))?;
        self.scale_web(&["web-0", "web-1", "web-2"])?;
        for family in FAMILIES {
            let dns = self.slice("kube-dns", family, &["dns-0", "dns-1"]).namespace("kube-system");
            self.apply(&dns.port("dns", "UDP", 53).port("dns-tcp", "TCP", 53))?;
            self.apply(&self.slice("api", family, &["api-0", "api-1"]).port("http", "TCP", 9000))?;
            let cache = self.slice("cache", family, &["cache-0", "cache-1"]);
            self.apply(&cache.port("redis", "TCP", 6379))?;
            let local = self.slice("web-local", family, &["web-0"]);
            self.apply(&local.port("http", "TCP", HTTP_TARGET))?;
            let checkout = self.slice("checkout", family, &["checkout-0"]);
            self.apply(&checkout.port("http", "TCP", HTTP_TARGET))?;
            self.apply(&self.slice("search", family, &[]).port("http", "TCP", HTTP_TARGET))?;
        }
        Ok(())
    }

    /// Writes the web Service's slices with these pods.
    pub fn scale_web(&self, pods: &[&str]) -> Result<()> {
        FAMILIES.iter().try_for_each(|&family| {
            self.apply(&self.slice("web", family, pods).port("http", "TCP", HTTP_TARGET))
        })
    }

    fn slice(&self, service: &str, family: Family, pods: &[&str]) -> Slice {
        let name = format!("{service}-{}", family.kubernetes().to_lowercase());
        let endpoints = pods.iter().map(|name| {
            let pod = self.pod(name);
            Endpoint::ready(pod.address(family), &pod.node_name())
        });
        Slice::new(&name, service, family).endpoints(endpoints)
    }

    fn apply(&self, object: &impl manifest::Object) -> Result<()> {
        let mut nodes = self.lab.nodes().iter();
        nodes.try_for_each(|node| manifest::write(&node.manifests(), object).map(|_| ()))
    }

    /// The end of every agent's log.
    pub fn print_logs(&self) {
        for (node, agent) in &self.agents {
            println!("--- agent of {node}\n{}", agent.log_tail());
        }
    }

    /// Namespaces, cgroups, pins, manifests, and commands that look at them.
    pub fn print_pieces(&self, kept: bool) {
        let id = self.lab.id();
        println!("   namespaces  /run/netns/{id}-*");
        println!("   cgroups     {}/NODE/POD", residue::cgroup_of(id).display());
        println!("   pinned maps {}/NODE/millrace/", residue::bpffs_of(id).display());
        println!("   manifests   {}/NODE/manifests/*.yaml", residue::run_of(id).display());
        println!("   agent logs  {}/NODE/agent.log", residue::run_of(id).display());
        if !kept {
            println!("   All of it is removed now; `cargo xtask demo --keep` leaves it running.");
            return;
        }
        let (web, node) = (address::service(Family::V4, WEB), &self.lab.nodes()[0]);
        let exec = format!("cargo xtask lab --name {id} exec");
        println!("   {exec} client-1 curl -s http://{web}/");
        println!("   {exec} n1 curl -s http://127.0.0.1:{NODE_PORT}/");
        println!("   {exec} n1 millrace services --bpffs {}", node.bpffs().display());
        println!("   cargo xtask lab --name {id} status");
        println!("   cargo xtask lab --name {id} down");
    }

    /// Leaves everything running.
    pub fn keep(self) -> Result<()> {
        let Shop { servers, agents, mut lab } = self;
        lab.keep()?;
        servers.into_values().for_each(Daemon::detach);
        for agent in agents.into_values() {
            agent.detach();
        }
        Ok(())
    }
}

fn with_addresses(name: &str, index: u16) -> Service {
    let service = Service::new(name);
    FAMILIES.iter().fold(service, |service, &f| service.cluster_ip(address::service(f, index)))
}
