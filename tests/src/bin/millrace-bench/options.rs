//! The command line.

use std::path::PathBuf;

use clap::Parser;

/// Rounds of a full run: with 21 the quartiles are steady.
const ROUNDS: u32 = 41;
/// Rounds of a quick one.
const QUICK_ROUNDS: u32 = 9;

/// What a connection through a Service costs beside one without, and beside kube-proxy's rules.
#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask bench", version)]
pub struct Options {
    /// Smaller: fits in three minutes on two cores
    #[arg(long)]
    pub quick: bool,
    /// Rounds over all lanes (default: 21; 9 with --quick)
    #[arg(long, value_parser = clap::value_parser!(u32).range(3..))]
    pub rounds: Option<u32>,
    /// Decides every random choice
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write everything that was found
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a page with tables and plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Measure only these parts: traffic, control, programs
    #[arg(long, value_name = "PART", value_delimiter = ',')]
    pub only: Vec<Part>,
    /// A kube-proxy to measure too; with --kube-apiserver and --etcd
    #[arg(long, value_name = "PATH", help_heading = "A real kube-proxy")]
    pub kube_proxy: Option<PathBuf>,
    /// The API server that feeds it, and Millrace beside it
    #[arg(long, value_name = "PATH", help_heading = "A real kube-proxy")]
    pub kube_apiserver: Option<PathBuf>,
    /// The API server's store
    #[arg(long, value_name = "PATH", help_heading = "A real kube-proxy")]
    pub etcd: Option<PathBuf>,
    /// Measure nothing: make docs/BENCHMARKS.md's results and its pictures from this result
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub report: Option<PathBuf>,
}

/// A part of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// What connections and packets cost.
    Traffic,
    /// What changes of Services cost.
    Control,
    /// What the programs cost per run.
    Programs,
}

impl Options {
    /// Rounds over all lanes.
    pub fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { QUICK_ROUNDS } else { ROUNDS })
    }

    /// Whether this part is wanted.
    pub fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_run_has_fewer_rounds_and_parts_can_be_chosen() {
        let parse = |line: &str| Options::try_parse_from(line.split_whitespace());
        assert!(parse("bench --rounds 2").is_err());
        let quick = parse("bench --quick --only traffic,programs").unwrap();
        assert_eq!(quick.rounds(), QUICK_ROUNDS);
        assert!(quick.wants(Part::Traffic) && !quick.wants(Part::Control));
    }
}
