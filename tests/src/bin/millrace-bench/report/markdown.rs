//! The parts of documents that hold figures, between two marks.

use std::fmt::Write as _;

use crate::result::{Row, Run};
use crate::site::{REAL_IPTABLES, REAL_NFTABLES};
use crate::tables::{self, Section, thousands};

/// What stands before and after figures.
const BEGIN: &str = "<!-- figures: made by `cargo xtask bench --report`, not by hand -->\n";
const END: &str = "<!-- end of figures -->\n";
/// The lines of the short table: (dataplane, which Service, name).
const SHORT: [(&str, &str, &str); 7] = [
    ("Millrace socket path", "hot", "Millrace, sockets"),
    ("Millrace socket path", "random", "Millrace, sockets, a random Service"),
    ("Millrace packet path", "hot", "Millrace, packets"),
    ("kube-proxy nftables", "hot", "kube-proxy's rules, nftables"),
    ("kube-proxy iptables", "hot", "kube-proxy's rules, iptables"),
    (REAL_NFTABLES, "hot", "kube-proxy itself, nftables"),
    (REAL_IPTABLES, "hot", "kube-proxy itself, iptables"),
];
/// Its columns.
const SIZES: [u32; 4] = [1, 1000, 10_000, 100_000];

/// A document with other figures; nothing: it has no place for any.
pub fn replace(document: &str, figures: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{figures}{END}{after}"))
}

/// All tables.
pub fn results(run: &Run) -> String {
    let mut text = format!("{}\n\n", tables::about(run));
    text.push_str("Figures are medians with quartiles: `median [low, high]`.\n");
    tables::all(run).iter().for_each(|section| table(&mut text, section));
    text
}

fn table(text: &mut String, section: &Section) {
    // Writing to a string cannot fail.
    let _ = write!(text, "\n### {}\n\n", section.title);
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    text.push_str(&line(&section.header));
    text.push_str(&line(&vec!["---".to_owned(); section.header.len()]));
    section.rows.iter().for_each(|cells| text.push_str(&line(cells)));
    if !section.note.is_empty() {
        let _ = write!(text, "\n{}\n", section.note);
    }
}

/// The picture and the short table.
pub fn summary(run: &Run) -> String {
    let mut text =
        String::from("![connect() against the number of Services](docs/bench/connect.svg)\n");
    let head: Vec<String> = SIZES.iter().map(|size| thousands(*size)).collect();
    let _ = write!(text, "\n| Services | {} |\n|---|---|---|---|---|\n", head.join(" | "));
    for (dataplane, target, name) in SHORT {
        let cells = SIZES.map(|size| short(run, dataplane, size, target));
        // Few have a kube-proxy.
        if dataplane.ends_with("(real)") && cells.iter().all(|cell| cell == "-") {
            continue;
        }
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    }
    let quiet = run.groups.iter().all(|group| group.conclusive);
    let noise = if quiet { "" } else { " **Some of its figures are inconclusive: noise.**" };
    let _ = write!(
        text,
        "\nCPU time of a new TCP connection, client and server, as a multiple of one to a pod \
         without any Service (and what connect() takes longer). Made by `{}` on {} (load \
         average {}); [all figures](docs/BENCHMARKS.md).{noise}\n",
        run.about.command, run.about.date, run.about.load_average[0]
    );
    text
}

fn short(run: &Run, dataplane: &str, services: u32, target: &str) -> String {
    let is =
        |row: &&Row| row.dataplane == dataplane && row.services == services && row.target == target;
    let group = run.groups.iter().find(|group| group.key == "tcp-connect");
    match group.and_then(|group| group.lanes.iter().find(is)) {
        Some(row) => {
            let times = 1.0 / row.cpu_ratio.median;
            format!("{times:.2}x ({:+.1} us)", row.added_us.median)
        }
        None => "-".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::Group;
    use crate::statistics::Quartiles;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let document = format!("a\n{BEGIN}old\n{END}b\n");
        assert_eq!(replace(&document, "new\n").unwrap(), format!("a\n{BEGIN}new\n{END}b\n"));
        assert_eq!(replace("a\n", "new\n"), None);
    }

    #[test]
    fn the_short_table_is_in_multiples_of_direct() {
        let at = |median| Quartiles { low: median, median, high: median };
        let row = Row {
            dataplane: "kube-proxy iptables".into(),
            services: 1000,
            target: "hot".into(),
            cpu_ratio: at(0.8),
            added_us: at(12.34),
            ..Row::default()
        };
        let key = "tcp-connect".to_owned();
        let group = Group { key, lanes: vec![row], ..Group::default() };
        let text = summary(&Run { groups: vec![group], ..Run::default() });
        let line = "| kube-proxy's rules, iptables | - | 1.25x (+12.3 us) | - | - |";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("inconclusive"), "the group was not conclusive");
        assert!(!text.contains("kube-proxy itself"), "there was none");
    }
}
