//! The lab itself: builds the namespaces, hands out places, removes everything when dropped.

use std::fs;
use std::net::IpAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};

use super::address::{self, Family};
use super::options::{Builder, InterNode, Options, PodNetwork};
use super::place::{Place, run_batch};
use super::{netfilter, paths, residue, system, topology};

/// Labs made by this process so far; part of the name.
static COUNTER: AtomicU32 = AtomicU32::new(1);

/// The cgroup of pods' processes that no agent manages, below the lab's.
const VMS: &str = "vms";

/// The clean-up before the first lab.
static CLEAN: Once = Once::new();

/// A pod: a namespace with one interface, and a cgroup below its node's.
#[derive(Clone, Debug)]
pub struct Pod {
    place: Place,
    name: String,
    node: u8,
    index: u8,
}

impl Pod {
    /// The pod's name.
    pub fn pod_name(&self) -> &str {
        &self.name
    }

    /// Name of the node it is on.
    pub fn node_name(&self) -> String {
        node_name(self.node)
    }

    /// The pod's address.
    pub fn address(&self, family: Family) -> IpAddr {
        address::pod(family, self.node, self.index)
    }

    /// The pod as a virtual machine: its network, but a cgroup that no agent manages, so that no
    /// hook sees its sockets and the node knows its packets only.
    pub fn as_vm(&self) -> Place {
        let lab = self.place.cgroup().ancestors().nth(2).expect("a pod's cgroup is lab/node/pod");
        let vm = self.place.in_cgroup(lab.join(VMS));
        vm.named(format!("{} (vm)", self.place.name()))
    }
}

impl Deref for Pod {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

/// A node. Used as a [`Place`] it means a host process: a hostNetwork pod, a kubelet, a shell.
#[derive(Clone, Debug)]
pub struct Node {
    place: Place,
    agent: Place,
    index: u8,
    cgroup: PathBuf,
    bpffs: PathBuf,
    run: PathBuf,
    pods: Vec<Pod>,
}

impl Node {
    /// The node's address on the underlay.
    pub fn address(&self, family: Family) -> IpAddr {
        address::node(family, self.index)
    }

    /// Where its agent runs: the node's network, but a cgroup nobody manages.
    pub fn agent_place(&self) -> &Place {
        &self.agent
    }

    /// Root of the cgroup tree that stands for the whole node: `--cgroup-root`.
    pub fn cgroup_root(&self) -> &Path {
        &self.cgroup
    }

    /// The node's own directory in bpffs: `--bpffs`.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// The directory its agent reads objects from: `--manifests`.
    pub fn manifests(&self) -> PathBuf {
        self.run.join("manifests")
    }

    /// Logs and other files of the node.
    pub fn run_dir(&self) -> &Path {
        &self.run
    }

    /// Its pods.
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// Its address on the second underlay, in labs that have one.
    pub fn second_address(&self, family: Family) -> IpAddr {
        address::second_node(family, self.index)
    }

    /// Every address of its own that a masquerade may choose: underlay, pod bridge, VXLAN.
    pub fn own_addresses(&self, family: Family) -> Vec<IpAddr> {
        let of_node = [address::node, address::second_node, address::pod_gateway, address::vxlan];
        of_node.iter().map(|address| address(family, self.index)).collect()
    }

    /// Packets its firewall dropped because conntrack called them invalid; needs
    /// [`Builder::drop_invalid`].
    pub fn invalid_packets(&self) -> Result<u64> {
        netfilter::invalid_packets(&self.place)
    }

    /// The pods' network in this family, as in `spec.podCIDRs`.
    pub fn pod_cidr(&self, family: Family) -> String {
        address::pod_cidr(family, self.index)
    }
}

impl Deref for Node {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

/// A running lab. Dropping it removes everything and fails the test if something is left.
#[derive(Debug)]
pub struct Lab {
    id: String,
    options: Options,
    nodes: Vec<Node>,
    outside: Place,
    distant: Place,
    keep: bool,
}

/// What a kept lab is rebuilt from, as JSON.
#[derive(Serialize, Deserialize)]
struct State {
    id: String,
    options: Options,
}

fn node_name(index: u8) -> String {
    format!("n{index}")
}

impl Lab {
    /// Starts describing a lab.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Removes labs whose process is dead.
    pub fn clean_stale() -> Result<()> {
        residue::clean_stale()
    }

    pub(super) fn build(id: Option<String>, options: Options) -> Result<Lab> {
        system::require_root()?;
        system::bpffs()?;
        ensure!((1..=20).contains(&options.nodes), "a lab has 1 to 20 nodes");
        let tunnelled = options.inter_node == InterNode::Vxlan;
        ensure!(
            !(options.second_uplink && tunnelled),
            "EKS has no tunnels: two uplinks are direct"
        );
        // Once per process: what killed runs left behind. Failing at it is not this lab's failure.
        CLEAN.call_once(|| {
            if let Err(error) = residue::clean_stale() {
                eprintln!("remove labs of dead processes: {error:#}");
            }
        });
        let id = id.unwrap_or_else(Lab::next_id);
        ensure!(residue::residue(&id).is_empty(), "a lab called {id} exists already");
        // From here on dropping the half-built lab removes what was made.
        let mut lab = Lab::sketch(id, Options { pods: Vec::new(), ..options.clone() })?;
        lab.make_directories().and_then(|()| lab.make_network()).context("build the lab")?;
        for (node, pod) in &options.pods {
            lab.add_pod(node, pod).with_context(|| format!("build pod {node}/{pod}"))?;
        }
        Ok(lab)
    }

    /// The name of the next lab of this process.
    pub fn next_id() -> String {
        format!("mr-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
    }

    /// The lab's parts, by name only.
    fn sketch(id: String, options: Options) -> Result<Lab> {
        let root = system::cgroup2()?.join(format!("millrace-{id}"));
        let namespace = |name: &str| Path::new(system::NETNS_DIR).join(format!("{id}-{name}"));
        let nodes = (1..=options.nodes as u8).map(|index| {
            let name = node_name(index);
            let cgroup = root.join(&name);
            let host = Place::new(name.clone(), namespace(&name), cgroup.join("host"));
            Node {
                agent: host.in_cgroup(root.join("agents")),
                place: host,
                index,
                cgroup,
                bpffs: residue::bpffs_of(&id).join(&name),
                run: residue::run_of(&id).join(&name),
                pods: Vec::new(),
            }
        });
        let nodes = nodes.collect();
        let outside = Place::new("outside".into(), namespace("outside"), root.join("outside"));
        let distant = Place::new("distant".into(), namespace("distant"), root.join("outside"));
        Ok(Lab { id, options, nodes, outside, distant, keep: false })
    }

    fn make_directories(&self) -> Result<()> {
        let vms = residue::cgroup_of(&self.id).join(VMS);
        let mut directories = vec![self.outside.cgroup().to_owned(), vms];
        for node in &self.nodes {
            directories.extend([node.agent.cgroup().to_owned(), node.cgroup().to_owned()]);
            directories.extend([node.bpffs.clone(), node.manifests()]);
        }
        for directory in directories {
            fs::create_dir_all(&directory)
                .with_context(|| format!("create {}", directory.display()))?;
        }
        Ok(())
    }

    fn make_network(&self) -> Result<()> {
        let mut names = vec![format!("{}-net", self.id), format!("{}-outside", self.id)];
        names.extend(self.nodes.iter().map(|node| format!("{}-{}", self.id, node.name())));
        add_namespaces(&names)?;
        let net = self.underlay();
        net.sysctl(topology::COMMON_SYSCTLS)?;
        self.outside.sysctl(topology::COMMON_SYSCTLS)?;
        let mut members = vec![("outside".to_owned(), names[1].clone())];
        for (node, namespace) in self.nodes.iter().zip(&names[2..]) {
            node.sysctl(topology::COMMON_SYSCTLS)?;
            node.sysctl(topology::ROUTER_SYSCTLS)?;
            node.sysctl(&topology::node_sysctls(&self.options))?;
            members.push((node.name().to_owned(), namespace.clone()));
        }
        net.ip(&topology::underlay(&self.options, &members))?;
        self.outside.ip(&topology::outside(&self.options))?;
        for node in &self.nodes {
            node.ip(&topology::node(&self.options, node.index))?;
            node.bridge(&topology::forwarding(&self.options, node.index))?;
            node.nft(&netfilter::rules(&self.options, node.index))?;
        }
        if self.options.second_uplink {
            self.make_second_uplinks(&members)?;
        }
        self.options.hop_mtu.map_or(Ok(()), |mtu| self.make_distant_client(mtu))
    }

    fn make_second_uplinks(&self, members: &[(String, String)]) -> Result<()> {
        let net = self.underlay();
        net.sysctl(topology::ROUTER_SYSCTLS)?;
        net.ip(&paths::second_underlay(&self.options, members))?;
        self.outside.ip(&paths::second_outside(&self.options))?;
        for node in &self.nodes {
            node.ip(&paths::second_uplink(&self.options, node.index))?;
            for &family in self.options.families.list() {
                node.ip_of(family, &paths::second_uplink_rules(family, node.index))?;
            }
        }
        Ok(())
    }

    /// The narrow hop's routers and the client behind them.
    fn make_distant_client(&self, mtu: u32) -> Result<()> {
        let names = ["distant", "r1", "r2"].map(|name| format!("{}-{name}", self.id));
        add_namespaces(&names)?;
        let router = |at: usize| {
            let netns = Path::new(system::NETNS_DIR).join(&names[at]);
            Place::new(names[at].clone(), netns, self.outside.cgroup().to_owned())
        };
        let (far, near) = (router(1), router(2));
        for place in [&self.distant, &far, &near] {
            place.sysctl(topology::COMMON_SYSCTLS)?;
        }
        far.sysctl(topology::ROUTER_SYSCTLS)?;
        near.sysctl(topology::ROUTER_SYSCTLS)?;
        self.underlay().ip(&[
            format!("link add r2 type veth peer name eth0 netns {}", names[2]),
            "link set r2 master br0 up".into(),
        ])?;
        near.ip(&paths::near_router(&self.options, mtu, &names[1]))?;
        far.ip(&paths::far_router(&self.options, &names[0]))?;
        self.distant.ip(&paths::distant(&self.options))?;
        self.nodes.iter().try_for_each(|node| node.ip(&paths::to_distant(&self.options)))
    }

    /// The wire between the nodes, for packet captures and for loss.
    pub fn underlay(&self) -> Place {
        let netns = Path::new(system::NETNS_DIR).join(format!("{}-net", self.id));
        Place::new("underlay".into(), netns, self.outside.cgroup().to_owned())
    }

    /// Adds a pod to a running lab; it gets the lowest address of its node that is free.
    pub fn add_pod(&mut self, node: &str, name: &str) -> Result<Pod> {
        let id = self.id.clone();
        let options = self.options.clone();
        let owner = self.node_mut(node)?;
        ensure!(owner.pods.iter().all(|pod| pod.name != name), "{node} has a pod {name}");
        let taken = |index: &u8| owner.pods.iter().any(|pod| pod.index == *index);
        let index = (0..200).find(|index| !taken(index)).context("a node has 200 pods at most")?;
        let namespace = format!("{id}-{node}-{name}");
        let netns = Path::new(system::NETNS_DIR).join(&namespace);
        let cgroup = owner.cgroup.join(format!("pod-{name}"));
        fs::create_dir_all(&cgroup)?;
        add_namespaces(std::slice::from_ref(&namespace))?;
        let place = Place::new(format!("{node}/{name}"), netns, cgroup);
        place.sysctl(topology::COMMON_SYSCTLS)?;
        owner.ip(&topology::pod_in_node(&options, owner.index, index, &namespace))?;
        let settings = topology::pod_sysctls(&options, index);
        let settings: Vec<_> = settings.iter().map(|(path, to)| (path.as_str(), *to)).collect();
        if !settings.is_empty() {
            owner.sysctl(&settings)?;
        }
        place.ip(&topology::pod(&options, owner.index, index))?;
        let pod = Pod { place, name: name.to_owned(), node: owner.index, index };
        owner.pods.push(pod.clone());
        self.options.pods.push((node.to_owned(), name.to_owned()));
        Ok(pod)
    }

    /// Removes a pod: its device goes at once, its processes are killed, its address is free.
    pub fn remove_pod(&mut self, node: &str, name: &str) -> Result<()> {
        let options = self.options.clone();
        let owner = self.node_mut(node)?;
        let found = owner.pods.iter().position(|pod| pod.name == name);
        let at = found.with_context(|| format!("{node} has no pod {name}"))?;
        let pod = owner.pods.remove(at);
        owner.ip(&[format!("link del {}", topology::pod_device(&options, pod.index))])?;
        self.options.pods.retain(|(n, p)| (n.as_str(), p.as_str()) != (node, name));
        residue::remove_pod(pod.cgroup(), pod.netns())
    }

    /// Keeps the lab when this value is dropped; [`Lab::open`] finds it again.
    pub fn keep(&mut self) -> Result<()> {
        let state = State { id: self.id.clone(), options: self.options.clone() };
        let path = state_file(&self.id);
        fs::write(&path, serde_json::to_vec_pretty(&state)?)
            .with_context(|| format!("write {}", path.display()))?;
        self.keep = true;
        Ok(())
    }

    /// Opens a kept lab. Dropping the value leaves the lab running.
    pub fn open(id: &str) -> Result<Lab> {
        let path = state_file(id);
        let text = fs::read(&path).map_err(|_| anyhow!("no lab called {id} is running"))?;
        let state: State = serde_json::from_slice(&text)?;
        let mut lab = Lab::sketch(state.id, state.options)?;
        lab.keep = true;
        let mut next = vec![0; lab.nodes.len() + 1];
        for (node, name) in lab.options.pods.clone() {
            let id = lab.id.clone();
            let owner = lab.node_mut(&node)?;
            let index: &mut u8 = &mut next[usize::from(owner.index)];
            let netns = Path::new(system::NETNS_DIR).join(format!("{id}-{node}-{name}"));
            let cgroup = owner.cgroup.join(format!("pod-{name}"));
            let place = Place::new(format!("{node}/{name}"), netns, cgroup);
            owner.pods.push(Pod { place, name, node: owner.index, index: *index });
            *index += 1;
        }
        Ok(lab)
    }

    /// The lab's name, in the name of everything it made.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it was built from.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node by name. Panics with the name when there is none: a test's mistake.
    pub fn node(&self, name: &str) -> &Node {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.unwrap_or_else(|| panic!("the lab has no node {name}"))
    }

    fn node_mut(&mut self, name: &str) -> Result<&mut Node> {
        let found = self.nodes.iter_mut().find(|node| node.name() == name);
        found.with_context(|| format!("the lab has no node {name}"))
    }

    /// A pod by node and name. Panics with the name when there is none: a test's mistake.
    pub fn pod(&self, node: &str, name: &str) -> &Pod {
        let found = self.node(node).pods.iter().find(|pod| pod.name == name);
        found.unwrap_or_else(|| panic!("node {node} has no pod {name}"))
    }

    /// The client outside the cluster.
    pub fn outside(&self) -> &Place {
        &self.outside
    }

    /// The client behind the narrow hop; only in labs built with [`Builder::distant_client`].
    pub fn distant(&self) -> &Place {
        &self.distant
    }

    /// Lets a pod leave its node by the second uplink, as a pod on a secondary ENI does.
    pub fn leave_by_second_uplink(&self, node: &str, pod: &str) -> Result<()> {
        let index = self.pod(node, pod).index;
        let node = self.node(node);
        self.families().iter().try_for_each(|&family| {
            node.ip_of(family, &[paths::by_second_uplink(family, node.index, index)])
        })
    }

    /// The node's device that a pod's packets arrive at as its gateway.
    pub fn gateway_device(&self, pod: &Pod) -> String {
        match self.options.pod_network {
            PodNetwork::Bridge => "cni0".to_owned(),
            PodNetwork::PointToPoint => topology::pod_device(&self.options, pod.index),
        }
    }

    /// Every place in the lab: nodes, pods, the outside client.
    pub fn places(&self) -> Vec<&Place> {
        let hosts = self.nodes.iter().map(|node| &node.place);
        let pods = self.nodes.iter().flat_map(|node| node.pods.iter().map(|pod| &pod.place));
        let distant = self.options.hop_mtu.map(|_| &self.distant);
        hosts.chain(pods).chain([&self.outside]).chain(distant).collect()
    }

    /// A place by the name a person types: `n1`, `n1/web-0`, `web-0`, `outside`.
    pub fn place(&self, name: &str) -> Option<&Place> {
        let last = |place: &&Place| place.name().rsplit('/').next() == Some(name);
        let places = self.places();
        let exact = places.iter().copied().find(|place| place.name() == name);
        exact.or_else(|| places.into_iter().find(last))
    }

    /// The families of the cluster, IPv4 first.
    pub fn families(&self) -> &'static [Family] {
        self.options.families.list()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        residue::leave_to_signal();
        let result = residue::teardown(&self.id);
        let left = residue::residue(&self.id);
        if std::thread::panicking() {
            if !left.is_empty() {
                eprintln!("left by lab {}: {left:?}", self.id);
            }
        } else {
            assert!(left.is_empty(), "lab {} left {left:?} ({result:?})", self.id);
        }
    }
}

fn state_file(id: &str) -> PathBuf {
    residue::run_of(id).join("state.json")
}

fn add_namespaces(names: &[String]) -> Result<()> {
    let lines: Vec<String> = names.iter().map(|name| format!("netns add {name}")).collect();
    run_batch(Command::new("ip"), &lines.join("\n")).context("add namespaces")
}
