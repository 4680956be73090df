//! What the packet path costs beside plain routing: clients whose sockets nobody translates.
//!
//! Two nodes of the same shape, with pods that are routed to, not bridged. On one an agent serves;
//! the other has none, and its lanes are what the others are paired with. So the lane that dials a
//! pod of the first one without a Service shows what the programs cost traffic that is not theirs.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use millrace_tests::agent::Agent;
use millrace_tests::lab::{Families, Family, Lab, Place, PodNetwork};
use millrace_tests::manifest::{self, Endpoint, Service, Slice};
use millrace_tests::wait;
use serde::Serialize;

use crate::hooks::{self, HookCost};
use crate::lane::{Dialogue, Lane, Target};
use crate::server::Server;
use crate::{BLOCK, FEED_TIMEOUT, Row, SERVER_PORTS, SERVICE_PORT, measure};

/// G6: plain routing's CPU time by ours, at least.
const GOAL_CPU_RATIO: f64 = 0.93;
/// G9: nanoseconds an established flow's packet costs more than a program that does nothing.
const GOAL_ESTABLISHED_NS: f64 = 220.0;
/// Port of the server that is dialled without a Service. Not the backends': a flow of the path
/// keeps its client's port for itself towards its backend, for as long as it is remembered.
const DIRECT_PORT: u16 = SERVER_PORTS[2];
/// Exchanges of datagrams in a block, all of one flow.
const EXCHANGES: u32 = 1000;
/// NodePort that keeps the client's address (externalTrafficPolicy: Local).
const LOCAL_PORT: u16 = 30_080;
/// NodePort that masquerades.
const CLUSTER_PORT: u16 = 30_081;
/// The node with an agent, and the one without.
const SERVED: &str = "n1";
const BARE: &str = "n2";

/// Lanes of one kind of client, paired with its first one.
#[derive(Serialize)]
pub struct Group {
    /// What is done.
    what: &'static str,
    /// What times are of.
    time: &'static str,
    lanes: Vec<Row>,
}

/// All there is to say about the packet path.
#[derive(Serialize)]
pub struct Packets {
    groups: Vec<Group>,
    programs: Vec<HookCost>,
}

/// Where the lanes run. The order of the fields is the order of the end.
pub struct Routed {
    servers: [Server; 2],
    agent: Agent,
    /// The cluster.
    pub lab: Lab,
    cluster_ip: SocketAddr,
}

/// Measure everything, with that many Services in the maps.
pub fn run(services: u32, rounds: u32) -> Result<Packets> {
    let routed = Routed::start(services)?;
    let mut groups = Vec::new();
    let datagrams = Dialogue::Datagrams { per_socket: EXCHANGES };
    for (dialogue, count) in [(Dialogue::Connections, BLOCK), (datagrams, EXCHANGES)] {
        for (client, mut lanes) in [("outside", routed.outside()?), ("pod", routed.pod()?)] {
            for lane in &mut lanes {
                lane.dialogue = dialogue;
                wait::until(lane.name, FEED_TIMEOUT, || lane.block(1).map(drop))?;
            }
            let (what, time) = describe(dialogue, client);
            groups.push(Group { what, time, lanes: measure(&mut lanes, rounds, count)? });
        }
    }
    let programs = hooks::measure(&routed)?;
    Ok(Packets { groups, programs })
}

fn describe(dialogue: Dialogue, client: &str) -> (&'static str, &'static str) {
    match (dialogue, client) {
        (Dialogue::Connections, "outside") => ("TCP FROM OUTSIDE", "CONNECT us [quartiles]"),
        (Dialogue::Connections, _) => ("TCP FROM A POD", "CONNECT us [quartiles]"),
        (_, "outside") => ("UDP FROM OUTSIDE", "EXCHANGE us [quartiles]"),
        _ => ("UDP FROM A POD", "EXCHANGE us [quartiles]"),
    }
}

impl Routed {
    fn start(services: u32) -> Result<Self> {
        let pods = ["client", "server"];
        let lab = Lab::builder().nodes(2).pods(SERVED, &pods).pods(BARE, &pods);
        let lab = lab.pod_network(PodNetwork::PointToPoint).families(Families::V4).build()?;
        let server = |node: &str| {
            let pod = lab.pod(node, "server");
            Server::start(&pod.as_vm(), pod.address(Family::V4), &SERVER_PORTS)
        };
        let servers = [server(SERVED)?, server(BARE)?];
        let node = lab.node(SERVED);
        let backend = lab.pod(SERVED, "server").address(Family::V4);
        manifest::write(&node.manifests(), &manifest::node(node, lab.families(), None))?;
        crate::feed(node, services, backend)?;
        // The first address that the others leave free.
        let cluster_ip = crate::service(services);
        serve(&lab, cluster_ip.ip(), backend)?;
        let mut agent = Agent::start(node)?;
        agent.wait_ready()?;
        Ok(Self { servers, agent, lab, cluster_ip })
    }

    /// The agent's process is there as long as this.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// From a place that goes with the node, to the server of the bare node and of the other one.
    fn direct(&self, place: impl Fn(&str) -> Place) -> Result<Vec<Lane>> {
        let backend = |node| SocketAddr::new(self.address(node), DIRECT_PORT);
        let [served, bare] = [&self.servers[0], &self.servers[1]].map(Server::pid);
        let [to_served, to_bare] = [backend(SERVED), backend(BARE)].map(Target::One);
        Ok(vec![
            Lane::start("no agent", &place(BARE), to_bare, bare)?,
            Lane::start("no agent, again (noise)", &place(BARE), to_bare, bare)?,
            Lane::start("no service, programs attached", &place(SERVED), to_served, served)?,
        ])
    }

    /// Lanes of the client outside.
    pub fn outside(&self) -> Result<Vec<Lane>> {
        let outside = self.lab.outside();
        let mut lanes = self.direct(|_| outside.clone())?;
        let node = self.lab.node(SERVED).address(Family::V4);
        for (name, port) in [("NodePort", LOCAL_PORT), ("NodePort, masqueraded", CLUSTER_PORT)] {
            let target = Target::One(SocketAddr::new(node, port));
            lanes.push(Lane::start(name, outside, target, self.servers[0].pid())?);
        }
        Ok(lanes)
    }

    /// Lanes of a pod whose sockets are not translated.
    fn pod(&self) -> Result<Vec<Lane>> {
        let client = |node: &str| self.lab.pod(node, "client").as_vm();
        let mut lanes = self.direct(client)?;
        let target = Target::One(self.cluster_ip);
        let server = self.servers[0].pid();
        lanes.push(Lane::start("ClusterIP, packet by packet", &client(SERVED), target, server)?);
        Ok(lanes)
    }

    /// The devices' programs run on this node.
    pub fn served(&self) -> &millrace_tests::lab::Node {
        self.lab.node(SERVED)
    }

    /// And none on this one.
    pub fn bare(&self) -> &millrace_tests::lab::Node {
        self.lab.node(BARE)
    }

    fn address(&self, node: &str) -> IpAddr {
        self.lab.pod(node, "server").address(Family::V4)
    }
}

/// The Services that lanes dial: one server each, for TCP and UDP.
fn serve(lab: &Lab, cluster_ip: IpAddr, backend: IpAddr) -> Result<()> {
    let ports = |service: Service| {
        service.port("main", "TCP", SERVICE_PORT).port("main", "UDP", SERVICE_PORT)
    };
    let local = ports(Service::new("local").cluster_ip(cluster_ip));
    let IpAddr::V4(next) = cluster_ip else { anyhow::bail!("the lab is IPv4") };
    let next = IpAddr::V4((u32::from(next) + 1).into());
    let services = [
        local.node_port_for_all(LOCAL_PORT).external_local(),
        ports(Service::new("cluster").cluster_ip(next)).node_port_for_all(CLUSTER_PORT),
    ];
    let directory = lab.node(SERVED).manifests();
    for (name, service) in ["local", "cluster"].into_iter().zip(&services) {
        let slice = Slice::new(&format!("{name}-v4"), name, Family::V4);
        let slice = slice.port("main", "TCP", SERVER_PORTS[0]).port("main", "UDP", SERVER_PORTS[0]);
        manifest::write(&directory, &slice.endpoints([Endpoint::ready(backend, SERVED)]))?;
        manifest::write(&directory, service)?;
    }
    Ok(())
}

/// Print the tables, and the goals beside them.
pub fn print(packets: &Packets) {
    println!("\nThe packet path beside plain routing:");
    for group in &packets.groups {
        let mut table = Table::new();
        let header = [group.what, group.time, "ADDED us", "CPU us", "DIRECT'S CPU / ITS CPU"];
        table.load_style(NOTHING).set_header(header);
        for row in &group.lanes {
            table.add_row([
                row.lane.to_owned(),
                row.connect_us.text(1),
                row.added_us.text(2),
                row.cpu_us.text(2),
                row.cpu_ratio.text(3),
            ]);
        }
        println!("\n{table}");
    }
    println!("\nCPU is of client and server together, per connection or per datagram.");
    println!("Goal G6, TCP through a Service: CPU ratio at least {GOAL_CPU_RATIO}.\n");
    let mut table = Table::new();
    let header = ["PROGRAM", "PACKET", "ns PER RUN [quartiles]", "NET OF AN EMPTY ONE"];
    table.load_style(NOTHING).set_header(header);
    for cost in &packets.programs {
        table.add_row([
            cost.program.to_owned(),
            cost.packet.to_owned(),
            cost.ns.text(0),
            format!("{:.0}", cost.net_ns),
        ]);
    }
    println!("{table}");
    println!("\nGoal G9, established: at most {GOAL_ESTABLISHED_NS} ns net of an empty program.");
}
