//! The table as a page, with and without results.

use std::fmt::Write as _;

use super::find;
use super::results::{Outcome, Results};
use super::scenario::{Ours, Scenario, Section};
use super::scenarios::{CLUSTER, SECTIONS};

const HEAD: &str = "\
# Conformance

What kube-proxy (Kubernetes 1.36) does in its own end-to-end and unit tests, what Millrace does, and
the test that shows it. Made from `xtask/src/conformance/scenarios` by
`cargo xtask conformance --write`; a test fails when the two differ, or when a test that is named
here does not exist or is ignored. `cargo xtask conformance` (as root) runs every test named here
and prints these tables with their results; `cargo xtask test` runs them with all others.

`C`: part of Kubernetes' conformance suite. *the same*: as kube-proxy. **better**: kube-proxy's
behaviour is a known bug or pain, or its bar is lower; ours is not. **differs**: something else, for
the reason given. **missing**: no test shows it, for the reason given. `lab_*` tests are real
sockets in network namespaces, `conformance_*` the whole way from objects to packets in memory,
`millrace::*` unit tests.
";

/// The committed page.
pub fn page() -> String {
    let mut text = HEAD.to_owned();
    text += &overview();
    for section in SECTIONS {
        let _ = write!(text, "\n## {} {}\n\n", section.number, section.title);
        text += "| Scenario | kube-proxy | Millrace | Shown by |\n|---|---|---|---|\n";
        for row in section.rows {
            let cells = [row.name.to_owned(), row.expected.to_owned(), row.ours.text(), links(row)];
            text += &line(&cells);
        }
    }
    text + &elsewhere()
}

/// These sections' rows with their results, and whether one failed.
pub fn with_results(sections: &[&Section], results: &Results) -> (String, bool) {
    let mut text = String::new();
    let mut counts = [0_usize; 4];
    for section in sections {
        let _ = write!(text, "\n## {} {}\n\n", section.number, section.title);
        text += "| Result | Scenario | kube-proxy | Millrace | Shown by |\n|---|---|---|---|---|\n";
        for row in section.rows {
            let outcome = results.of_scenario(row);
            counts[outcome.map_or(3, |outcome| outcome as usize)] += 1;
            let result = outcome.map_or("-", Outcome::text).to_owned();
            let shown = row.tests.join(", ");
            let (name, expected) = (row.name.to_owned(), row.expected.to_owned());
            text += &line(&[result, name, expected, row.ours.text(), shown]);
        }
    }
    let [passed, skipped, failed, missing] = counts;
    let _ = writeln!(
        text,
        "\n{passed} scenarios passed, {failed} failed, {skipped} skipped, {missing} without a test"
    );
    (text, failed > 0)
}

fn overview() -> String {
    let mut text = "\n| Section | Scenarios | the same | better | differs | missing |\n\
                    |---|---|---|---|---|---|\n"
        .to_owned();
    let mut sums = [0_usize; 5];
    for section in SECTIONS {
        let count = |is: fn(Ours) -> bool| section.rows.iter().filter(|row| is(row.ours)).count();
        let counts = [
            section.rows.len(),
            count(|ours| ours == Ours::Same),
            count(|ours| matches!(ours, Ours::Better(_))),
            count(|ours| matches!(ours, Ours::Differs(_))),
            count(|ours| matches!(ours, Ours::Missing(_))),
        ];
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        text += &line(&cells(&format!("{} {}", section.number, section.title), counts));
    }
    text + &line(&cells("all", sums))
}

fn cells(name: &str, counts: [usize; 5]) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(counts.map(|count| count.to_string())).collect()
}

fn elsewhere() -> String {
    let mut text = "\n## Not run here\n\nAbout the API server, controllers, DNS or the network \
                    plugin: the same with any proxy.\n\n| File | Scenarios | Why |\n|---|---|---|\n"
        .to_owned();
    for row in CLUSTER {
        text += &line(&[row.file, row.what, row.why].map(str::to_owned));
    }
    text
}

/// A row of a table.
fn line(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// The tests, with links to their files.
fn links(row: &Scenario) -> String {
    let link = |test: &&str| match find::file_of(test) {
        Some(file) => format!("[{test}]({})", file.display()),
        None => (*test).to_owned(),
    };
    row.tests.iter().map(link).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_row() {
        let text = page();
        let rows: usize = SECTIONS.iter().map(|section| section.rows.len()).sum();
        let lines = text.lines().filter(|line| line.starts_with("| ")).count();
        // The overview and its sum, the heads of the tables.
        let more = SECTIONS.len() * 2 + 1 + CLUSTER.len() + 2;
        assert_eq!(lines, rows + more);
        assert_eq!(line(&["a|b".to_owned()]), "| a\\|b |\n");
    }
}
