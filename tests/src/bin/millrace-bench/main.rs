//! What a connection through a Service costs beside one without, and beside kube-proxy's rules.
//!
//! Method (docs/BENCHMARKS.md has it in full): every lane is a cluster of namespaces of its own
//! ([`site`]) with a client process of its own ([`lane`]). Blocks of connections alternate between
//! the lanes, in changing order, and every figure is paired with the direct lane of its own round
//! ([`groups`]). Two direct lanes show what the machine's noise is: if they differ too much, the
//! group is measured again. CPU time is the client's thread and the server's process together.
//! [`real`] lets a kube-proxy make such rules itself, for callers who have one.
//! [`control`] measures changes of Services, [`programs`] and [`hooks`] the programs; [`verdict`]
//! makes goals' verdicts of it, [`print`] tables, [`report`] pages.

mod clock;
mod control;
mod filling;
mod groups;
mod hooks;
mod lane;
mod maps;
mod options;
mod print;
mod probe;
mod programs;
mod real;
mod report;
mod result;
mod rules;
mod runs;
mod server;
mod services;
mod site;
mod statistics;
mod tables;
mod tool;
mod verdict;

use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser as _;
use millrace_tests::lab::residue;
use millrace_tests::lab::system::require_root;

use options::{Options, Part};
use real::given::{self, Given};
use result::{About, Run};
use services::Shape;
use site::{Dataplane, Site};

/// The agent's: some of its work is measured in this process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Endpoints of each Service that kube-proxy's rules have.
const ENDPOINTS: u8 = 3;
/// Of each Service in the larger of our sites: a million at 100 000 Services.
const MANY_ENDPOINTS: u8 = 10;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        // These are this program's own children.
        ["lane", seed] => lane::serve_orders(seed),
        ["maps", services, endpoints_each] => filling::run(services, endpoints_each),
        ["serve", addresses, first] => server::serve(addresses, first),
        _ => bench(&Options::parse()),
    }
}

fn bench(options: &Options) -> Result<()> {
    if let Some(path) = &options.report {
        return report::write(path);
    }
    let given = Given::of(options)?;
    require_root()?;
    residue::teardown_all_on_signal();
    let begun = Instant::now();
    let mut run = Run { about: about(options)?, ..Run::default() };
    let real = match &given {
        Some(given) => real::measure(options, given, &mut run)?,
        None => {
            println!("{}", given::HINT);
            Vec::new()
        }
    };
    let mut sites = start(options)?;
    sites.extend(real);
    run.loads = sites.iter().filter_map(|site| site.load.clone()).collect();
    if options.wants(Part::Traffic) {
        for plan in groups::plans(&sites) {
            let group = plan.run(&sites, options.rounds(), options.seed)?;
            print::section(&tables::group(&group, options.rounds()));
            run.groups.push(group);
        }
    }
    if options.wants(Part::Programs) {
        programs::measure(&sites, options, &mut run)?;
    }
    if options.wants(Part::Control) {
        control::measure(&sites, options, &mut run)?;
        control::restarts(&mut sites, options, &mut run)?;
    }
    sites.clear();
    run.about.load_average[1] = read("/proc/loadavg")?;
    run.about.seconds = begun.elapsed().as_secs_f64().round();
    run.verdicts = verdict::all(&run);
    print::run(&run);
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_string_pretty(&run)? + "\n")
            .with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(path) = &options.html {
        std::fs::write(path, report::page(&run)?)
            .with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// All sites; the first two are direct ones.
fn start(options: &Options) -> Result<Vec<Site>> {
    let bare = Shape { services: 1, endpoints_each: ENDPOINTS, dual: false };
    let mut wanted =
        vec![(Dataplane::Direct, bare), (Dataplane::Direct, bare), (Dataplane::Conntrack, bare)];
    let sizes = |dataplane, sizes: &[u32], most: u8| {
        let shape = move |&services: &u32| {
            let endpoints_each = if services == 1 { ENDPOINTS } else { most };
            (dataplane, Shape { services, endpoints_each, dual: services == groups::MANY })
        };
        sizes.iter().map(shape).collect::<Vec<_>>()
    };
    let (ours, rules): (&[u32], &[u32]) = match options.quick {
        true => (&[1, 1000, 100_000], &[1, 1000]),
        false => (&[1, 1000, 10_000, 100_000], &[1, 1000, 10_000]),
    };
    let most = if options.quick { ENDPOINTS } else { MANY_ENDPOINTS };
    wanted.extend(sizes(Dataplane::Millrace, ours, most));
    wanted.extend(sizes(Dataplane::Iptables, &[1, 1000, 10_000], ENDPOINTS));
    wanted.extend(sizes(Dataplane::Nftables, rules, ENDPOINTS));
    let start = |(dataplane, shape): (Dataplane, Shape)| {
        let begun = Instant::now();
        let site = Site::start(dataplane, shape)?;
        let (name, services) = (dataplane.name(), tables::thousands(shape.services));
        println!("{name}, {services} Services: {:.1} s", begun.elapsed().as_secs_f64());
        Ok(site)
    };
    wanted.into_iter().map(start).collect()
}

fn about(options: &Options) -> Result<About> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let first = |path: &str, field: &str| -> Result<String> {
        let text = read(path)?;
        let line = text.lines().find_map(|line| line.strip_prefix(field));
        Ok(line.unwrap_or_default().trim_matches([' ', '\t', ':']).to_owned())
    };
    let memory = first("/proc/meminfo", "MemTotal")?;
    let kib: u64 = memory.split(' ').next().unwrap_or_default().parse().context("MemTotal")?;
    let load = read("/proc/loadavg")?;
    Ok(About {
        command: format!("cargo xtask bench {}", words.join(" ")).trim().to_owned(),
        seed: options.seed,
        quick: options.quick,
        rounds: options.rounds(),
        date: output("date", &["-u", "+%Y-%m-%d %H:%M"]),
        kernel: read("/proc/sys/kernel/osrelease")?,
        cpu: first("/proc/cpuinfo", "model name")?,
        cpus: std::thread::available_parallelism()?.get(),
        memory_mib: kib / 1024,
        versions: vec![
            ("millrace".into(), env!("CARGO_PKG_VERSION").into()),
            ("commit".into(), output("git", &["describe", "--always", "--dirty"])),
            ("iptables".into(), output("iptables-legacy", &["--version"])),
            ("nft".into(), output("nft", &["--version"])),
        ],
        load_average: [load.clone(), load],
        seconds: 0.0,
    })
}

/// The first line of what a program says; empty if it cannot.
fn output(program: &str, words: &[&str]) -> String {
    let output = std::process::Command::new(program).args(words).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default().lines().next().unwrap_or_default().to_owned()
}

fn read(path: &str) -> Result<String> {
    Ok(std::fs::read_to_string(path).with_context(|| format!("read {path}"))?.trim().to_owned())
}
