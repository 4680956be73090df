//! What was found as tables of text, for the terminal and for pages alike. Pure.

use crate::result::{Group, Load, ProgramCost, Real, Row, Run};

/// A table with what there is to say about it.
pub struct Section {
    /// Its title.
    pub title: String,
    /// Heads of the columns.
    pub header: Vec<String>,
    /// Cells.
    pub rows: Vec<Vec<String>>,
    /// Sentences below it; may be empty.
    pub note: String,
}

impl Section {
    fn new(title: &str, header: &[&str], rows: Vec<Vec<String>>, note: &str) -> Self {
        let header = header.iter().map(ToString::to_string).collect();
        Self { title: title.to_owned(), header, rows, note: note.to_owned() }
    }
}

/// Everything that was found; tables without rows are left out.
pub fn all(run: &Run) -> Vec<Section> {
    let mut sections = vec![verdicts(run)];
    sections.extend(run.groups.iter().map(|found| group(found, run.about.rounds)));
    sections.extend([loads(run), updates(run), real(run), churn(run), restarts(run)]);
    sections.push(programs(
        "What the programs cost per run, in traffic",
        &run.programs,
        "By the kernel's statistics, which cost every run some 50 ns themselves: the row of a \
         program that does nothing. Net of an empty one: less that.",
    ));
    sections.push(programs(
        "What they cost on one packet, again and again",
        &run.runs,
        "BPF_PROG_TEST_RUN: all caches are hot; the best case.",
    ));
    sections.push(sizes(run));
    sections.retain(|section| !section.rows.is_empty());
    sections
}

/// A lane's name.
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

/// One group's table, of so many rounds.
pub fn group(group: &Group, rounds: u32) -> Section {
    let time = format!("{}, us", group.time);
    let header = ["Lane", time.as_str(), "added, us", "CPU us", "direct's CPU / its CPU"];
    let cells = |row: &Row| {
        vec![
            lane(row),
            row.time_us.text(1),
            row.added_us.text(2),
            row.cpu_us.text(1),
            row.cpu_ratio.text(3),
        ]
    };
    let mut note = match (group.conclusive, group.attempts) {
        (true, 1) => String::new(),
        (true, many) => format!("Conclusive at attempt {many}. "),
        (false, many) => {
            format!("Inconclusive: the two direct lanes differed too much, {many} times. ")
        }
    };
    if let Some(twin) = group.lanes.get(1) {
        note += &format!(
            "The two equal lanes: CPU {:.3} +- {:.3}, time {:.2} +- {:.2} us.",
            twin.cpu_ratio.median,
            twin.cpu_ratio.error_of_median(rounds),
            twin.added_us.median,
            twin.added_us.error_of_median(rounds)
        );
    }
    Section::new(&group.title, &header, group.lanes.iter().map(cells).collect(), &note)
}

fn or_none(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".into(), |value| format!("{value:.digits$}"))
}

fn loads(run: &Run) -> Section {
    let header = [
        "Loaded by",
        "Services",
        "endpoints",
        "CPU s",
        "wall s",
        "peak MiB",
        "steady MiB",
        "kernel MiB",
    ];
    let rows = run.loads.iter().map(|load| {
        vec![
            load.what.clone(),
            thousands(load.services),
            thousands(load.endpoints),
            cpu_seconds(load),
            format!("{:.3}", load.wall_s),
            format!("{:.1}", load.peak_mib),
            or_none(load.steady_mib, 1),
            or_none(load.kernel_mib, 1),
        ]
    });
    let note = "Kernel memory of rules is what the machine's slab, vmalloc and per-CPU memory grew \
                by, which others share; of maps, what the kernel says of them, without what \
                traffic fills. The agent's peak and CPU have the loading of its programs in them. \
                Objects to maps: of several repetitions the median, with the least and the most.";
    Section::new("Everything loaded", &header, rows.collect(), note)
}

fn cpu_seconds(load: &Load) -> String {
    let range = load.cpu_s_range.map(|[least, most]| format!(" [{least:.3}, {most:.3}]"));
    format!("{:.3}{}", load.cpu_s, range.unwrap_or_default())
}

fn updates(run: &Run) -> Section {
    let header =
        ["Changed by", "Services", "changes", "ms", "p50 ms", "p99 ms", "CPU ms", "failed"];
    let rows = run.updates.iter().map(|update| {
        vec![
            update.what.clone(),
            thousands(update.services),
            update.changes.to_string(),
            update.ms.text(2),
            format!("{:.2}", update.p50_ms),
            format!("{:.2}", update.p99_ms),
            format!("{:.2}", update.cpu_ms),
            update.failed.to_string(),
        ]
    });
    let note = "Millrace: from the API server's event to a connection that obeys it. kube-proxy's \
                rules: from the tool's start; kube-proxy's own work and its pause of up to 1 s \
                between two changes are not in it.";
    Section::new("One endpoint changed", &header, rows.collect(), note)
}

fn real(run: &Run) -> Section {
    let header = [
        "Served by",
        "Services",
        "endpoints",
        "start, wall s",
        "start, CPU s",
        "MiB",
        "peak MiB",
        "changes",
        "change, ms",
        "longest ms",
        "from sending, p50 ms",
        "CPU ms",
        "failed",
    ];
    let note = "Fed by a real etcd and kube-apiserver, one process at a time. Start: from the \
                process' start until the last Service answers, CPU time of whom it starts \
                included. Change: from the answer to an EndpointSlice's PATCH until a connection \
                is open that the new endpoint answers, and none after it goes to the old one; \
                below zero, connections obeyed before that answer was there. CPU for each change \
                has the pauses in it.";
    let rows = run.real.iter().map(real_row).collect();
    Section::new("A real kube-proxy, and Millrace, fed by a real API server", &header, rows, note)
}

fn real_row(real: &Real) -> Vec<String> {
    let changes = real.changes.as_ref();
    vec![
        real.what.clone(),
        thousands(real.services),
        thousands(real.endpoints),
        format!("{:.2}", real.start_wall_s),
        format!("{:.2}", real.start_cpu_s),
        format!("{:.1}", real.memory_mib),
        format!("{:.1}", real.peak_mib),
        changes.map_or("-".into(), |changes| changes.count.to_string()),
        changes.map_or("-".into(), |changes| changes.ms.text(1)),
        or_none(changes.map(|changes| changes.worst_ms), 1),
        or_none(changes.map(|changes| changes.sent_p50_ms), 1),
        or_none(changes.map(|changes| changes.cpu_ms), 1),
        changes.map_or("-".into(), |changes| changes.failed.to_string()),
    ]
}

fn churn(run: &Run) -> Section {
    let header = ["Services", "endpoints", "slice events / s", "% of a CPU", "agent MiB"];
    let rows = run.churn.iter().map(|churn| {
        vec![
            thousands(churn.services),
            thousands(churn.endpoints),
            format!("{:.0}", churn.events_per_s),
            format!("{:.1}", churn.cpu_percent),
            format!("{:.1}", churn.memory_mib),
        ]
    });
    Section::new("Many slices changed, Millrace", &header, rows.collect(), "")
}

fn restarts(run: &Run) -> Section {
    let header = ["Services", "CPU s", "wall s", "rows written", "connections", "failed"];
    let rows = run.restarts.iter().map(|restart| {
        vec![
            thousands(restart.services),
            format!("{:.2}", restart.cpu_s),
            format!("{:.2}", restart.wall_s),
            restart.ops.to_string(),
            restart.connections.to_string(),
            restart.failed.to_string(),
        ]
    });
    let note = "Killed and started again, with nothing changed; connections go on meanwhile.";
    Section::new("The agent started again", &header, rows.collect(), note)
}

fn programs(title: &str, costs: &[ProgramCost], note: &str) -> Section {
    let rows = costs.iter().map(|cost| {
        vec![
            cost.program.clone(),
            cost.what.clone(),
            thousands(cost.services),
            cost.ns.text(0),
            or_none(cost.net_ns, 0),
        ]
    });
    let header = ["Program", "what", "Services", "ns", "net of an empty one"];
    Section::new(title, &header, rows.collect(), note)
}

fn sizes(run: &Run) -> Section {
    let rows = run.sizes.iter().map(|size| {
        vec![
            size.program.clone(),
            size.jitted_bytes.to_string(),
            size.instructions.to_string(),
            size.verified.to_string(),
        ]
    });
    let header = ["Program", "jitted bytes", "instructions", "verified instructions"];
    Section::new("The programs' sizes", &header, rows.collect(), "")
}

fn verdicts(run: &Run) -> Section {
    let rows = run.verdicts.iter().map(|verdict| {
        vec![
            verdict.goal.clone(),
            verdict.what.clone(),
            or_none(verdict.found, 3),
            verdict.gate.clone(),
            verdict.verdict.text().to_owned(),
            verdict.because.clone(),
        ]
    });
    let header = ["Goal", "what", "found", "gate", "verdict", ""];
    Section::new("Goals", &header, rows.collect(), "")
}

/// Where and how, in a few sentences.
pub fn about(run: &Run) -> String {
    let about = &run.about;
    let versions: Vec<String> =
        about.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let [before, after] = &about.load_average;
    format!(
        "Made by `{}` (seed {}) on {} UTC in {:.0} s: {} rounds. Linux {}, {} x {}, {} MiB. Load \
         average {before} at the beginning, {after} at the end. {}.",
        about.command,
        about.seed,
        about.date,
        about.seconds,
        about.rounds,
        about.kernel,
        about.cpus,
        about.cpu,
        about.memory_mib,
        versions.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Quartiles;

    #[test]
    fn names_say_how_many() {
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(100_004), "100 004");
        let row = Row { dataplane: "x".into(), services: 1000, ..Row::default() };
        assert_eq!(lane(&row), "x, 1 000 Services");
    }

    #[test]
    fn a_group_that_stayed_noisy_says_so() {
        let ratio = Quartiles { low: 0.98, median: 1.01, high: 1.03 };
        let lanes = vec![Row::default(), Row { cpu_ratio: ratio, ..Row::default() }];
        let group = Group { attempts: 3, lanes, ..Group::default() };
        let note = self::group(&group, 25).note;
        assert!(note.starts_with("Inconclusive") && note.contains("CPU 1.010 +- 0.018"), "{note}");
    }

    #[test]
    fn every_row_has_a_cell_for_every_column() {
        let run = Run {
            loads: vec![Default::default()],
            updates: vec![Default::default()],
            real: vec![
                Real::default(),
                Real { changes: Some(Default::default()), ..Real::default() },
            ],
            churn: vec![Default::default()],
            restarts: vec![Default::default()],
            programs: vec![Default::default()],
            sizes: vec![Default::default()],
            verdicts: vec![Default::default()],
            groups: vec![Group { lanes: vec![Row::default()], ..Group::default() }],
            ..Run::default()
        };
        let sections = all(&run);
        assert_eq!(sections.len(), 9);
        for section in sections {
            let columns = section.header.len();
            assert!(section.rows.iter().all(|row| row.len() == columns), "{}", section.title);
        }
    }
}
