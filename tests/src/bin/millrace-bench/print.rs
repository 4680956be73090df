//! The tables on the terminal.

use comfy_table::Table;
use comfy_table::presets::NOTHING;

use crate::result::{Group, ProgramCost, Row, Run};

/// Everything that was found.
pub fn run(run: &Run) {
    run.groups.iter().for_each(group);
    loads(run);
    updates(run);
    programs("PROGRAM, IN TRAFFIC", &run.programs);
    programs("PROGRAM, ON ONE PACKET", &run.runs);
    sizes(run);
    verdicts(run);
    let [before, after] = &run.about.load_average;
    println!("\nKernel {}, {} x {}.", run.about.kernel, run.about.cpus, run.about.cpu);
    println!("Load average {before} at the beginning, {after} at the end.");
    println!("Seed {}, {:.0} s.", run.about.seed, run.about.seconds);
}

/// A lane's name in tables.
pub fn lane(row: &Row) -> String {
    let services = match row.services {
        0 => String::new(),
        1 => ", 1 Service".into(),
        many => format!(", {} Services", thousands(many)),
    };
    let target = match row.target.as_str() {
        "" => String::new(),
        target => format!(", {target}"),
    };
    format!("{}{services}{target}", row.dataplane)
}

/// `100 000`.
pub fn thousands(number: u32) -> String {
    match number {
        0..1000 => number.to_string(),
        _ => format!("{} {:03}", thousands(number / 1000), number % 1000),
    }
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header);
    table
}

/// One group's table.
pub fn group(group: &Group) {
    let time = format!("{} us [quartiles]", group.time);
    let header = [group.title.as_str(), &time, "ADDED us", "CPU us", "DIRECT'S CPU / ITS CPU"];
    let mut table = table(header);
    for row in &group.lanes {
        table.add_row([
            lane(row),
            row.time_us.text(1),
            row.added_us.text(2),
            row.cpu_us.text(1),
            row.cpu_ratio.text(3),
        ]);
    }
    println!("\n{table}");
    if !group.conclusive {
        let times = group.attempts;
        println!("Inconclusive: the two direct lanes differed too much, {times} times.");
    }
}

fn loads(run: &Run) {
    if run.loads.is_empty() {
        return;
    }
    let mut table = table([
        "LOADED BY", "SERVICES", "ENDPOINTS", "CPU s", "WALL s", "PEAK MiB", "STEADY MiB",
        "KERNEL MiB",
    ]);
    let or_none = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.1}"));
    for load in &run.loads {
        table.add_row([
            load.what.clone(),
            thousands(load.services),
            thousands(load.endpoints),
            format!("{:.3}", load.cpu_s),
            format!("{:.3}", load.wall_s),
            format!("{:.1}", load.peak_mib),
            or_none(load.steady_mib),
            or_none(load.kernel_mib),
        ]);
    }
    println!("\n{table}");
}

fn updates(run: &Run) {
    let mut table = table([
        "ONE ENDPOINT CHANGED, BY", "SERVICES", "CHANGES", "ms [quartiles]", "p99 ms", "CPU ms",
        "FAILED",
    ]);
    for update in &run.updates {
        table.add_row([
            update.what.clone(),
            thousands(update.services),
            update.changes.to_string(),
            update.ms.text(2),
            format!("{:.2}", update.p99_ms),
            format!("{:.2}", update.cpu_ms),
            update.failed.to_string(),
        ]);
    }
    if !run.updates.is_empty() {
        println!("\n{table}\n");
    }
    for churn in &run.churn {
        println!(
            "{} Services, {} endpoints, {:.0} slice events a second: {:.1} % of a CPU, {:.0} MiB.",
            thousands(churn.services),
            thousands(churn.endpoints),
            churn.events_per_s,
            churn.cpu_percent,
            churn.memory_mib
        );
    }
    for restart in &run.restarts {
        println!(
            "{} Services, agent killed and started again: {:.2} CPU s, {} rows written, {} of {} \
             connections failed.",
            thousands(restart.services),
            restart.cpu_s,
            restart.ops,
            restart.failed,
            restart.connections
        );
    }
}

fn programs(title: &str, costs: &[ProgramCost]) {
    if costs.is_empty() {
        return;
    }
    let mut table = table([title, "BY", "SERVICES", "ns PER RUN", "NET OF AN EMPTY ONE"]);
    for cost in costs {
        table.add_row([
            cost.program.clone(),
            cost.what.clone(),
            thousands(cost.services),
            cost.ns.text(0),
            cost.net_ns.map_or("-".into(), |ns| format!("{ns:.0}")),
        ]);
    }
    println!("\n{table}");
}

fn sizes(run: &Run) {
    if run.sizes.is_empty() {
        return;
    }
    let mut table = table(["PROGRAM", "JITTED BYTES", "INSTRUCTIONS", "VERIFIED INSTRUCTIONS"]);
    for size in &run.sizes {
        table.add_row([
            size.program.clone(),
            size.jitted_bytes.to_string(),
            size.instructions.to_string(),
            size.verified.to_string(),
        ]);
    }
    println!("\n{table}");
}

fn verdicts(run: &Run) {
    let mut table = table(["GOAL", "WHAT", "FOUND", "GATE", "VERDICT", ""]);
    for verdict in &run.verdicts {
        table.add_row([
            verdict.goal.clone(),
            verdict.what.clone(),
            verdict.found.map_or("-".into(), |found| format!("{found:.3}")),
            verdict.gate.clone(),
            verdict.verdict.text().to_owned(),
            verdict.because.clone(),
        ]);
    }
    println!("\n{table}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_how_many() {
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(100_004), "100 004");
        let row = Row { dataplane: "x".into(), services: 1000, ..Row::default() };
        assert_eq!(lane(&row), "x, 1 000 Services");
    }
}
