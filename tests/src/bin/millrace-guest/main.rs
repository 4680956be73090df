//! The first process of a virtual machine (`cargo xtask kernels`): does Millrace work on this
//! kernel?
//!
//! [`machine`] makes a usable system of a bare kernel and gives the verdict to the world outside;
//! [`socket_path`] are scenarios in a small cluster, [`defaults`] is an agent that owns the whole
//! machine. A further path is a further file with a list of [`Scenario`]s, named in [`PATHS`].
//!
//! It goes on after a scenario that failed, for one run to tell as much as it can.

mod defaults;
mod machine;
mod packet_path;
mod socket_path;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use millrace::bpf::{environment, inventory};
use millrace_tests::agent::{Agent, Source};
use millrace_tests::lab::Lab;
use millrace_tests::privileges::{CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON};
use millrace_tests::wait;
use millrace_tests::world::{SMALL_MAPS, World};

/// Begins every line that `xtask/src/kernels` looks at.
const MARK: &str = "guest:";
/// All that the agent asks for.
const CAPABILITIES: u64 = CAP_BPF | CAP_NET_ADMIN | CAP_PERFMON;
/// The kernel frees programs and maps some time after their last user has gone; emulated, later.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);

/// What is tried in the cluster, in this order.
const PATHS: &[&[Scenario]] = &[socket_path::SCENARIOS, packet_path::SCENARIOS];

/// One thing that must work, told in one word.
pub struct Scenario {
    name: &'static str,
    run: fn(&mut Cluster) -> Result<()>,
}

/// What scenarios work with.
pub struct Cluster {
    /// The agent of n1; it ends before the lab under it. n2 has none: emulated, the verifier takes
    /// a minute for each, and all clients are on n1 or outside.
    agent: Agent,
    /// Two nodes: pods `client` and `a` on n1, `b` on n2, a client outside.
    world: World,
    /// Major and minor version of the kernel.
    kernel: (u32, u32),
}

impl Cluster {
    /// Starts the agent with nothing but the capabilities that the README names.
    fn start(kernel: (u32, u32)) -> Result<Self> {
        let builder = Lab::builder().nodes(2).pods("n1", &["client", "a"]).pod("n2", "b");
        let world = World::without_agents(builder, &[])?;
        let mut agent = Agent::prepare(world.lab.node("n1"), &Source::Manifests, SMALL_MAPS);
        agent.limit_capabilities(CAPABILITIES);
        // How far it came: its programs are loaded one after the other, and go with it.
        agent.restart().or_else(|error| tell_verified().and(Err(error)))?;
        Ok(Self { agent, world, kernel })
    }
}

/// Counts what failed.
struct Report {
    failed: usize,
}

impl Report {
    fn run(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> bool {
        let start = Instant::now();
        let result = work();
        let took = start.elapsed().as_secs_f64();
        match &result {
            Ok(()) => println!("{MARK} passed {name} ({took:.1} s)"),
            Err(error) => {
                self.failed += 1;
                println!("{MARK} failed {name} ({took:.1} s): {error:#}");
            }
        }
        result.is_ok()
    }
}

fn main() {
    let failed = match machine::set_up().and_then(|()| scenarios()) {
        Ok(report) => report.failed,
        Err(error) => {
            println!("{MARK} failed setup: {error:#}");
            1
        }
    };
    machine::leave(failed == 0);
}

/// Runs everything there is.
fn scenarios() -> Result<Report> {
    let release = environment::kernel_release()?;
    println!("{MARK} kernel {release}");
    let kernel = environment::parse_release(&release).unwrap_or_default();
    let mut report = Report { failed: 0 };
    let before = held()?;
    let mut cluster = None;
    report.run("load-and-attach", || {
        cluster = Some(Cluster::start(kernel)?);
        Ok(())
    });
    if let Some(mut cluster) = cluster {
        for Scenario { name, run } in PATHS.iter().copied().flatten() {
            report.run(name, || run(&mut cluster));
        }
        tell_verified()?;
        report.run("cleanup", || socket_path::cleanup(&mut cluster));
    }
    report.run("nothing-left", || nothing_left(&before));
    report.run("whole-machine", || defaults::whole_machine(kernel));
    report.run("nothing-left-again", || nothing_left(&before));
    Ok(report)
}

/// Programs, maps and links that the kernel holds.
fn held() -> Result<(usize, usize, usize)> {
    Ok((inventory::programs()?.len(), inventory::maps()?.len(), inventory::link_count()?))
}

/// Nobody else uses BPF in this machine, so what is there is ours.
fn nothing_left(before: &(usize, usize, usize)) -> Result<()> {
    wait::until("programs, maps and links to go", RELEASE_TIMEOUT, || {
        let now = held()?;
        ensure!(now == *before, "{:?}, {:?}, {now:?}", inventory::programs()?, inventory::maps()?);
        Ok(())
    })
}

/// How much the verifier had to walk through, of each program once.
fn tell_verified() -> Result<()> {
    let mut programs = inventory::programs()?;
    programs.dedup();
    for program in programs {
        if let Some(count) = program.verified_instructions {
            println!("{MARK} verified {} {count}", program.name);
        }
    }
    Ok(())
}
