//! The demo: a small shop on three nodes, served by the kernel.
//!
//! Real servers from Debian's packages run in pods; real clients dial the Services. Every line
//! that says `ok` was checked just now, and the exit code is 0 only when all of them were.
//!
//! [`shop`] is what runs: servers and manifests. [`scenes`] is what is shown, [`outside`] the part
//! of it whose client is no part of the cluster. [`report`] prints and counts.

mod outside;
mod report;
mod scenes;
mod servers;
mod shop;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::Parser;
use millrace_tests::agent;

use report::Report;
use shop::Shop;

#[derive(Parser)]
#[command(name = "millrace-demo", about = "A small shop whose Services the kernel translates")]
struct Arguments {
    /// Leave the cluster running; `cargo xtask lab --name mr-demo down` removes it
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("millrace-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    agent::program()?;
    servers::require_programs()?;
    let start = Instant::now();
    let mut report = Report::new();
    let mut shop = Shop::open(arguments.keep).context("set up the shop")?;
    report.note(&format!(
        "3 nodes, {} pods, dual stack, bridge + VXLAN; an agent on each node: up after {:.1} s",
        shop.pod_count(),
        start.elapsed().as_secs_f64(),
    ));
    let mut finished = Ok(());
    for (title, scene) in scenes::ALL {
        report.scene(title);
        let result = scene(&mut shop, &mut report);
        if let Err(error) = &result {
            report.check(false, &format!("{title}: {error:#}"));
            shop.print_logs();
            finished = result;
            break;
        }
    }
    report.scene("Where the pieces are");
    shop.print_pieces(arguments.keep);
    let passed = report.finish(start.elapsed());
    if arguments.keep {
        shop.keep()?;
    }
    Ok(passed && finished.is_ok())
}
