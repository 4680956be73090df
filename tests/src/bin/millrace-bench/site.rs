//! Where a lane runs: a small cluster of its own, of the same shape for all. Two nodes, the first
//! one with a client pod, a second client pod (whose sockets nobody translates) and a server pod,
//! the other one with a server pod; pods are routed to, not bridged. What serves is the only
//! difference.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use millrace_tests::agent::{Agent, Source};
use millrace_tests::apiserver::ApiServer;
use millrace_tests::lab::{Families, Family, Lab, Node, Place, Pod, PodNetwork};
use millrace_tests::{manifest, wait};

use crate::clock::{cpu_us, kernel_mib, memory_mib};
use crate::maps;
use crate::real::kube_proxy::Mode;
use crate::result::Load;
use crate::rules::{iptables, nftables};
use crate::server::Server;
use crate::services::{self, Shape};
use crate::statistics::rounded;
use crate::tool::Input;

/// Addresses of a server pod: the most endpoints a Service has.
const SERVERS: u8 = 10;
/// How long an agent may take to serve everything, on a busy machine.
const FEED_TIMEOUT: Duration = Duration::from_secs(300);
/// What the agent logs when it serves.
const READY: &str = "ready: Services are served";
/// Endpoints that fit the agent's default maps, with room for exchanged ones.
const DEFAULT_ENDPOINTS: u32 = 500_000;
/// The node that is measured, and the other one.
const NODE: &str = "n1";
const OTHER_NODE: &str = "n2";
/// Conntrack for everything, and no NAT.
const CONNTRACK: &str = "table inet bench {\nchain forward {\n\
    type filter hook forward priority 0; policy accept;\n\
    ct state established,related accept\n}\n}\n";

/// The names of the lanes that a real kube-proxy has made.
pub const REAL_IPTABLES: &str = "kube-proxy iptables (real)";
pub const REAL_NFTABLES: &str = "kube-proxy nftables (real)";

/// What serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dataplane {
    /// Nothing; pods are dialled.
    Direct,
    /// Nothing, but connections are tracked.
    Conntrack,
    /// Our agent.
    Millrace,
    /// kube-proxy's rules in iptables mode.
    Iptables,
    /// kube-proxy's rules in nftables mode.
    Nftables,
    /// The rules that a real kube-proxy has made.
    KubeProxy(Mode),
}

impl Dataplane {
    /// For people and for the report's keys.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Conntrack => "direct with conntrack",
            Self::Millrace => "Millrace",
            Self::Iptables => "kube-proxy iptables",
            Self::Nftables => "kube-proxy nftables",
            Self::KubeProxy(Mode::Iptables) => REAL_IPTABLES,
            Self::KubeProxy(Mode::Nftables) => REAL_NFTABLES,
        }
    }
}

/// Who dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// A pod whose sockets may be translated.
    Pod,
    /// A pod whose sockets are nobody's business: a virtual machine.
    Packets,
    /// The client outside the cluster.
    Outside,
}

/// A running site. The order of the fields is the order of the end.
pub struct Site {
    servers: [Server; 2],
    /// What serves.
    pub dataplane: Dataplane,
    /// What it serves.
    pub shape: Shape,
    /// What it cost to load it.
    pub load: Option<Load>,
    /// Our agent, where it serves.
    pub agent: Option<Agent>,
    /// Where the agent has its objects from.
    pub api: Option<ApiServer>,
    /// The cluster.
    pub lab: Lab,
}

impl Site {
    /// Build it, and let it serve.
    pub fn start(dataplane: Dataplane, shape: Shape) -> Result<Self> {
        let mut site = Self::build(dataplane, shape)?;
        let name = dataplane.name();
        let context = || format!("{name} with {} Services", shape.services);
        site.serve().with_context(context)?;
        Ok(site)
    }

    /// Build it, for a caller who knows what makes it serve.
    pub fn build(dataplane: Dataplane, shape: Shape) -> Result<Self> {
        let lab = Lab::builder().nodes(2).pods(NODE, &["client", "vm", "server"]);
        let lab = lab.pod(OTHER_NODE, "server").pod_network(PodNetwork::PointToPoint);
        let lab = lab.families(Families::Dual).build()?;
        let servers = [serve(&lab, NODE, 0)?, serve(&lab, OTHER_NODE, SERVERS)?];
        let (agent, api, load) = (None, None, None);
        Ok(Self { servers, dataplane, shape, load, agent, api, lab })
    }

    fn serve(&mut self) -> Result<()> {
        match self.dataplane {
            Dataplane::Direct => Ok(()),
            Dataplane::KubeProxy(_) => bail!("a real kube-proxy serves by itself"),
            Dataplane::Conntrack => self.node().nft(CONNTRACK),
            Dataplane::Millrace => self.start_agent(),
            Dataplane::Iptables => self.load_rules("iptables-legacy-restore"),
            Dataplane::Nftables => self.load_rules("nft -f"),
        }
    }

    /// The tool that loads rules, and all rules.
    fn rules(&self, family: Family) -> (Command, String) {
        let node = self.node();
        if self.dataplane == Dataplane::Nftables {
            let mut command = node.command("nft");
            command.args(["-f", "-"]);
            return (command, nftables::all(self.shape, family, node));
        }
        let tool = match family {
            Family::V4 => "iptables-legacy-restore",
            Family::V6 => "ip6tables-legacy-restore",
        };
        (node.command(tool), iptables::all(self.shape, family))
    }

    /// IPv4's rules first: those that the load is of.
    fn load_rules(&mut self, what: &str) -> Result<()> {
        let mut load = None;
        for &family in self.shape.families() {
            let (command, text) = self.rules(family);
            let before = kernel_mib()?;
            let cost = Input::new(&text)?.feed(command)?;
            load.get_or_insert((cost, kernel_mib()? - before));
        }
        let (cost, kernel) = load.context("a site has IPv4")?;
        self.load = Some(Load {
            what: format!("{} ({what})", self.dataplane.name()),
            services: self.shape.services,
            endpoints: self.shape.endpoints(),
            cpu_s: rounded(cost.cpu_s),
            cpu_s_range: None,
            wall_s: rounded(cost.wall_s),
            peak_mib: rounded(cost.peak_mib),
            steady_mib: None,
            kernel_mib: Some(rounded(kernel)),
        });
        Ok(())
    }

    fn start_agent(&mut self) -> Result<()> {
        let (node, shape) = (self.lab.node(NODE), self.shape);
        let api = ApiServer::start_in(node)?;
        api.put(manifest::node(node, &[Family::V4, Family::V6], None));
        api.put_all(shape.entries().flat_map(|entry| entry.objects(shape.families())));
        let room = shape.endpoints() + shape.endpoints() / 10;
        let room = [format!("--max-backends={room}"), format!("--max-slots={room}")];
        let room = [room[0].as_str(), room[1].as_str()];
        let more: &[&str] = if shape.endpoints() > DEFAULT_ENDPOINTS { &room } else { &[] };
        let source = Source::ApiServer(api.url());
        let begun = std::time::Instant::now();
        self.agent = Some(Agent::start_with(node, &source, more)?.quiet());
        self.api = Some(api);
        let cpu_s = self.await_agent()? / 1e6;
        let wall_s = begun.elapsed().as_secs_f64();
        let pid = self.agent_pid()?;
        self.load = Some(Load {
            what: "Millrace (agent, from its start)".into(),
            services: shape.services,
            endpoints: shape.endpoints(),
            cpu_s: rounded(cpu_s),
            cpu_s_range: None,
            wall_s: rounded(wall_s),
            peak_mib: rounded(memory_mib(pid, "VmHWM")?),
            steady_mib: Some(rounded(memory_mib(pid, "VmRSS")?)),
            kernel_mib: Some(rounded(maps::configured_mib(pid)?)),
        });
        Ok(())
    }

    /// Waits until the agent serves; the CPU time it took so far, in microseconds.
    pub fn await_agent(&self) -> Result<f64> {
        let agent = self.agent.as_ref().context("a site with an agent")?;
        let pid = self.agent_pid()?;
        wait::until("the agent serves everything", FEED_TIMEOUT, || {
            // One that has ended has no clock.
            let cpu = cpu_us(pid)?;
            if agent.run_log()?.contains(READY) { Ok(cpu) } else { bail!("{}", agent.log_tail()) }
        })
    }

    /// The agent's process.
    pub fn agent_pid(&self) -> Result<u32> {
        self.agent.as_ref().and_then(Agent::pid).context("the agent has ended")
    }

    /// The node that is measured.
    pub fn node(&self) -> &Node {
        self.lab.node(NODE)
    }

    /// Where a client of this kind runs.
    pub fn place(&self, client: Client) -> Place {
        match client {
            Client::Pod => (**self.lab.pod(NODE, "client")).clone(),
            Client::Packets => self.lab.pod(NODE, "vm").as_vm(),
            Client::Outside => self.lab.outside().clone(),
        }
    }

    /// The process of the server of node 1 or 2.
    pub fn server(&self, node: u8) -> Result<u32> {
        ensure!((1..=2).contains(&node), "there is no node {node}");
        Ok(self.servers[usize::from(node) - 1].pid())
    }

    /// The node's address with this port.
    pub fn node_port(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.node().address(family), port)
    }
}

/// Give a server pod its addresses, and start its server.
fn serve(lab: &Lab, node: &str, first: u8) -> Result<Server> {
    let pod: &Pod = lab.pod(node, "server");
    let owner = lab.node(node);
    let device = lab.gateway_device(pod);
    let number: u8 = node.trim_start_matches('n').parse().context("a node's number")?;
    let (mut inner, mut outer, mut addresses) = (Vec::new(), Vec::new(), Vec::new());
    for &family in lab.families() {
        for server in 0..SERVERS {
            let at = services::server(family, number, server);
            let prefix = family.bits();
            inner.push(format!("addr add {}/{prefix} dev eth0 nodad", at.ip()));
            outer.push(format!("route add {}/{prefix} dev {device}", at.ip()));
            addresses.push((family, at));
        }
    }
    pod.ip(&inner)?;
    owner.ip(&outer)?;
    // Both families' servers of one number have the same name.
    addresses.sort_by_key(|(family, at)| (matches!(family, Family::V6), *at));
    let addresses: Vec<SocketAddr> = addresses.into_iter().map(|(_, at)| at).collect();
    Server::start(pod, &addresses, first)
}
