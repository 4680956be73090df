//! The lab for a person: a running cluster to poke at.
//!
//! `millrace-lab up` builds it, starts servers, agents and sample Services, and leaves all of it
//! running; `exec` runs a command anywhere in it; `status` shows what runs; `down` removes it.

use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use millrace_tests::agent::{self, Agent};
use millrace_tests::lab::{Families, InterNode, Lab, PodNetwork, address, residue};
use millrace_tests::manifest::Service;
use millrace_tests::probe;
use millrace_tests::world::{TARGET_PORT, World};

/// Name of the lab that `up` makes. There is one, so that nobody has to remember a number.
const ID: &str = "mr-up";
/// Pods on each node.
const PODS_PER_NODE: usize = 2;
/// NodePort of the sample Service.
const NODE_PORT: u16 = 30080;

#[derive(Parser)]
#[command(name = "millrace-lab", about = "A Kubernetes cluster of network namespaces, to poke at")]
struct Arguments {
    /// Which lab: mr-up, or mr-demo for a demo that was kept
    #[arg(long, global = true, default_value = ID)]
    name: String,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build it and leave it running
    Up {
        #[arg(long, default_value_t = 3)]
        nodes: usize,
        #[arg(long, value_enum, default_value = "bridge")]
        pod_network: PodNetwork,
        #[arg(long, value_enum, default_value = "vxlan")]
        inter_node: InterNode,
        #[arg(long, value_enum, default_value = "dual")]
        families: Families,
    },
    /// Remove it, with every process in it
    Down,
    /// Run a command on a node, in a pod, or outside
    Exec {
        /// n1, web-0, n1/web-0, or outside
        place: String,
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// What runs where
    Status,
}

fn main() -> ExitCode {
    // `lab status | head` should end quietly, as other commands do.
    // SAFETY: no other thread runs yet; SIG_DFL is a valid disposition.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    let arguments = Arguments::parse();
    let name = arguments.name;
    let result = match arguments.task {
        Task::Up { nodes, pod_network, inter_node, families } => {
            let builder = Lab::builder().nodes(nodes).pod_network(pod_network);
            up(&name, builder.inter_node(inter_node).families(families), nodes)
        }
        Task::Down => down(&name),
        Task::Exec { place, command } => exec(&name, &place, &command),
        Task::Status => status(&name),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("millrace-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn up(name: &str, mut builder: millrace_tests::lab::Builder, nodes: usize) -> Result<()> {
    agent::program()?;
    ensure!(
        residue::residue(name).is_empty(),
        "a lab called {name} exists already: `{} down` removes it",
        command(name)
    );
    residue::teardown_on_signal(name);
    let start = Instant::now();
    for pod in 0..nodes * PODS_PER_NODE {
        builder = builder.pod(&format!("n{}", pod / PODS_PER_NODE + 1), &format!("web-{pod}"));
    }
    let zones: Vec<(String, String)> =
        (1..=nodes).map(|node| (format!("n{node}"), format!("zone-{node}"))).collect();
    let zones: Vec<(&str, &str)> = zones.iter().map(|(n, z)| (n.as_str(), z.as_str())).collect();
    let mut world = World::without_agents(builder.id(name), &zones)?;
    world.start_agents(&[])?;
    let pods: Vec<String> =
        world.lab.options().pods.iter().map(|(n, p)| [n, "/", p].concat()).collect();
    let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
    world.service("web", 10, &pods, |service| service.node_port_for_all(NODE_PORT))?;
    world.service("sticky", 20, &pods, |service| service.affinity(600))?;
    world.service("local", 30, &pods, Service::internal_local)?;
    world.service("none", 40, &[], |service| service)?;
    let lab = world.keep()?;
    println!("up after {:.1} s\n", start.elapsed().as_secs_f64());
    print_pieces(&lab);
    print_hints(&lab);
    Ok(())
}

fn down(name: &str) -> Result<()> {
    ensure!(!residue::residue(name).is_empty(), "no lab called {name} is running");
    residue::teardown(name)?;
    let left = residue::residue(name);
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    println!("{name} is gone: its processes, namespaces, cgroups, pins and files");
    Ok(())
}

fn exec(name: &str, place: &str, command: &[String]) -> Result<()> {
    let lab = Lab::open(name)?;
    let place = lab.place(place).with_context(|| {
        let names: Vec<&str> = lab.places().iter().map(|place| place.name()).collect();
        format!("no place called {place}; there are {}", names.join(", "))
    })?;
    let mut process = place.command(&command[0]);
    let own = [probe::program()?, agent::program()?];
    let mut path: Vec<_> = own.iter().filter_map(|p| p.parent()).map(ToOwned::to_owned).collect();
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    process.args(&command[1..]).env("PATH", std::env::join_paths(path)?);
    Err(process.exec()).with_context(|| format!("run {} in {}", command[0], place.name()))
}

fn status(name: &str) -> Result<()> {
    let lab = Lab::open(name)?;
    print_pieces(&lab);
    for node in lab.nodes() {
        println!("\n--- {}", node.name());
        let output = Agent::of(node).operate(&["status"])?;
        print!("{}", String::from_utf8_lossy(&output.stdout));
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn print_pieces(lab: &Lab) {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::UTF8_FULL_CONDENSED);
    table.set_header(["place", "addresses", "namespace", "cgroup"]);
    let row = |name: &str, addresses: Vec<std::net::IpAddr>, place: &millrace_tests::lab::Place| {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let (netns, cgroup) = (place.netns().display(), place.cgroup().display());
        [name.to_owned(), addresses.join("\n"), netns.to_string(), cgroup.to_string()]
    };
    for node in lab.nodes() {
        let at = lab.families().iter().map(|&family| node.address(family)).collect();
        table.add_row(row(node.name(), at, node));
        for pod in node.pods() {
            let at = lab.families().iter().map(|&family| pod.address(family)).collect();
            table.add_row(row(pod.name(), at, pod));
        }
    }
    let at = lab.families().iter().map(|&family| address::outside(family)).collect();
    table.add_row(row("outside", at, lab.outside()));
    println!("{table}");
    for node in lab.nodes() {
        let (bpffs, run) = (node.bpffs().display(), node.run_dir().display());
        println!("{}: manifests and log in {run}, pins in {bpffs}", node.name());
    }
}

/// How a person runs this program for the lab of that name.
fn command(name: &str) -> String {
    if name == ID { "cargo xtask lab".into() } else { format!("cargo xtask lab --name {name}") }
}

fn print_hints(lab: &Lab) {
    let family = lab.options().families.primary();
    let web = std::net::SocketAddr::new(address::service(family, 10), 80);
    let none = std::net::SocketAddr::new(address::service(family, 40), 80);
    let loopback = std::net::SocketAddr::new(family.loopback(), NODE_PORT);
    let node = &lab.nodes()[0];
    println!(
        "
Services, for TCP and UDP: web {web} (NodePort {NODE_PORT}), sticky, local, none; every pod \
         answers on {TARGET_PORT}.
Try:
  {command} exec web-0 curl -s http://{web}/
  {command} exec n1 curl -s http://{loopback}/
  {command} exec web-0 curl -s http://{none}/ || echo refused
  {command} exec web-0 millrace-probe connect {web} --count 6
  {command} exec n1 millrace-probe udp-connected {loopback} --count 6
  {command} exec n1 millrace services --bpffs {bpffs}
  vi {manifests}/*.yaml        # the agent follows at once
  {command} status
  {command} down",
        command = command(lab.id()),
        bpffs = node.bpffs().display(),
        manifests = node.manifests().display(),
    );
}
