//! What a connection through a Service costs beside one without: lanes interleaved in one run.
//!
//! Method: every lane has its own client process in the same pod; blocks of connections alternate
//! between the lanes, in changing order, and every figure is paired with the direct lane of its own
//! round. Two direct lanes show what the machine's noise is: no difference below theirs means
//! anything. Direct clients and their server run in a cgroup that has none of our programs, the
//! others and theirs in one that has. CPU time is the client's thread and the server's process
//! together, per connection. [`packets`] does the same for the packet path, beside plain routing.

mod hooks;
mod lane;
mod packets;
mod programs;
mod runs;
mod server;
mod statistics;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use millrace_tests::agent::Agent;
use millrace_tests::lab::system::require_root;
use millrace_tests::lab::{Families, Family, Lab, Node, Place};
use millrace_tests::manifest::{self, Endpoint, Object as _, Service, Slice};
use millrace_tests::wait;
use serde::Serialize;

use lane::{Lane, Target};
use packets::Packets;
use programs::ProgramCost;
use server::Server;
use statistics::Quartiles;

/// Backends of every service: ports of one pod, so that all lanes lead to the same place.
const SERVER_PORTS: [u16; 3] = [8080, 8081, 8082];
/// Ports of the server without our programs.
const BARE_PORTS: [u16; 3] = [9080, 9081, 9082];
/// Connections of one lane before it is another one's turn.
const BLOCK: u32 = 200;
/// Rounds over all lanes.
const ROUNDS: u32 = 21;
/// How long the agent may take to serve all services.
const FEED_TIMEOUT: Duration = Duration::from_secs(120);
/// Port of the services.
const SERVICE_PORT: u16 = 80;

/// One lane's result.
#[derive(Serialize)]
struct Row {
    lane: &'static str,
    connect_us: Quartiles,
    added_us: Quartiles,
    cpu_us: Quartiles,
    cpu_ratio: Quartiles,
}

/// Everything a run found, for `--json FILE`.
#[derive(Serialize)]
struct Outcome {
    kernel: String,
    load_average: String,
    services: u32,
    rounds: u32,
    connections_per_block: u32,
    lanes: Vec<Row>,
    programs: Vec<ProgramCost>,
    packets: Packets,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["lane"] => lane::serve_commands(),
        ["runs"] => runs::measure().map(|costs| runs::print(&costs)),
        ["serve", address] => server::serve(address.parse().context("server's address")?),
        options => bench(&Options::parse(options)?),
    }
}

struct Options {
    services: u32,
    rounds: u32,
    json: Option<PathBuf>,
}

impl Options {
    fn parse(words: &[&str]) -> Result<Self> {
        let mut options = Self { services: 10_000, rounds: ROUNDS, json: None };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} wants a value"));
            match *word {
                "--services" => options.services = value()?.parse().context("--services")?,
                "--rounds" => options.rounds = value()?.parse().context("--rounds")?,
                "--json" => options.json = Some(PathBuf::from(value()?)),
                _ => bail!("usage: bench [--services N] [--rounds N] [--json FILE]"),
            }
        }
        ensure!((1..=250_000).contains(&options.services), "--services: 1 to 250000");
        ensure!(options.rounds > 2, "--rounds: at least 3");
        Ok(options)
    }
}

fn bench(options: &Options) -> Result<()> {
    require_root()?;
    println!("{} services, {} rounds of {BLOCK} connections", options.services, options.rounds);
    let (lanes, programs) = sockets(options)?;
    let outcome = Outcome {
        kernel: read("/proc/sys/kernel/osrelease")?,
        load_average: read("/proc/loadavg")?,
        services: options.services,
        rounds: options.rounds,
        connections_per_block: BLOCK,
        lanes,
        programs,
        packets: packets::run(options.services, options.rounds)?,
    };
    print(&outcome);
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(&outcome)?)
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// The socket path: connections whose sockets are translated.
fn sockets(options: &Options) -> Result<(Vec<Row>, Vec<ProgramCost>)> {
    let lab = Lab::builder().pods("n1", &["client", "server"]).families(Families::V4).build()?;
    let node = lab.node("n1");
    let (client, pod) = (lab.pod("n1", "client"), lab.pod("n1", "server"));
    let backend = pod.address(Family::V4);
    // The same two pods, seen from a cgroup that no agent manages.
    let unmanaged = |place: &Place| place.in_cgroup(lab.outside().cgroup().to_path_buf());
    let bare = Server::start(&unmanaged(pod), backend, &BARE_PORTS)?;
    let served = Server::start(pod, backend, &SERVER_PORTS)?;
    feed(node, options.services, backend)?;
    let mut agent = Agent::start(node)?;
    agent.wait_ready()?;
    let direct = Target::AnyPort { address: backend, first: BARE_PORTS[0] };
    let hooked = Target::AnyPort { address: backend, first: SERVER_PORTS[0] };
    let hot = Target::One(service(0));
    let random = Target::Any { services: options.services };
    let mut lanes = vec![
        Lane::start("direct", &unmanaged(client), direct, bare.pid())?,
        Lane::start("direct again (noise)", &unmanaged(client), direct, bare.pid())?,
        Lane::start("direct, hooks attached", client, hooked, served.pid())?,
        Lane::start("ClusterIP, always the same", client, hot, served.pid())?,
        Lane::start("ClusterIP, a random one", client, random, served.pid())?,
    ];
    wait::until("the services are served", FEED_TIMEOUT, || lanes[4].block(20).map(drop))?;
    let rows = measure(&mut lanes, options.rounds, BLOCK)?;
    Ok((rows, programs::measure(&agent, &mut lanes)?))
}

/// Address of service number `index`.
fn service(index: u32) -> SocketAddr {
    let base = u32::from(Ipv4Addr::new(10, 100, 0, 0));
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from(base + index)), SERVICE_PORT)
}

/// Write services that all lead to the same ports of one pod.
fn feed(node: &Node, services: u32, backend: IpAddr) -> Result<()> {
    let objects = |index: u32| {
        let name = format!("bench-{index}");
        let object = Service::new(&name).cluster_ip(service(index).ip());
        let slice = |(number, port): (usize, &u16)| {
            Slice::new(&format!("{name}-{number}"), &name, Family::V4)
                .port("main", "TCP", *port)
                .endpoints([Endpoint::ready(backend, "n1")])
                .value()
        };
        let mut all: Vec<_> = SERVER_PORTS.iter().enumerate().map(slice).collect();
        all.push(object.port("main", "TCP", SERVICE_PORT).value());
        all
    };
    let items = (0..services).flat_map(objects);
    let text = manifest::list(items.collect::<Vec<_>>()).to_string();
    manifest::write_as(&node.manifests(), "bench.json", &text).map(drop)
}

/// Blocks of `size` of all lanes in turn; the first lane is what the others are paired with.
fn measure(lanes: &mut [Lane], rounds: u32, size: u32) -> Result<Vec<Row>> {
    let count = lanes.len();
    let mut blocks = vec![Vec::new(); count];
    for round in 0..rounds as usize {
        for step in 0..count {
            let index = (round + step) % count;
            blocks[index].push(lanes[index].block(size)?);
        }
    }
    let direct = blocks[0].clone();
    let paired = |lane: &[lane::Block], figure: fn(&lane::Block, &lane::Block) -> f64| {
        Quartiles::of(lane.iter().zip(&direct).map(|(own, direct)| figure(own, direct)).collect())
    };
    Ok(lanes
        .iter()
        .zip(&blocks)
        .map(|(lane, blocks)| Row {
            lane: lane.name,
            connect_us: paired(blocks, |own, _| own.connect_us),
            added_us: paired(blocks, |own, direct| own.connect_us - direct.connect_us),
            cpu_us: paired(blocks, |own, _| own.cpu_us),
            cpu_ratio: paired(blocks, |own, direct| direct.cpu_us / own.cpu_us),
        })
        .collect())
}

fn print(outcome: &Outcome) {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header([
        "LANE",
        "CONNECT us [quartiles]",
        "ADDED us [quartiles]",
        "DIRECT'S CPU / ITS CPU [quartiles]",
    ]);
    for row in &outcome.lanes {
        let cells = [row.connect_us.text(1), row.added_us.text(2), row.cpu_ratio.text(3)];
        table.add_row(std::iter::once(row.lane.to_owned()).chain(cells));
    }
    println!("\n{table}\n");
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(["PROGRAM", "LANE", "ns PER RUN [quartiles]"]);
    for cost in &outcome.programs {
        table.add_row([cost.program.clone(), cost.lane.to_owned(), cost.ns.text(0)]);
    }
    println!("{table}");
    println!(
        "\nns per run include what measuring costs (some 50 ns: the row of a direct lane shows"
    );
    println!(
        "what a hook costs at least). Kernel {}, load {}.",
        outcome.kernel, outcome.load_average
    );
    packets::print(&outcome.packets);
}

fn read(path: &str) -> Result<String> {
    Ok(std::fs::read_to_string(path).with_context(|| format!("read {path}"))?.trim().to_owned())
}
