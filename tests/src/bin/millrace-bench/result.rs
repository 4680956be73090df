//! What a run found, as `--json` writes it and the report reads it.

use serde::{Deserialize, Serialize};

use crate::statistics::Quartiles;

/// Everything.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Run {
    /// Where, when and how.
    pub about: About,
    /// What traffic costs.
    pub groups: Vec<Group>,
    /// What it costs to load everything.
    pub loads: Vec<Load>,
    /// How long one changed endpoint takes.
    pub updates: Vec<Update>,
    /// What many changes cost.
    pub churn: Vec<Churn>,
    /// What a restart costs when nothing has changed.
    pub restarts: Vec<Restart>,
    /// What the programs cost per run, in traffic.
    pub programs: Vec<ProgramCost>,
    /// What they cost again and again on one packet.
    pub runs: Vec<ProgramCost>,
    /// How large they are.
    pub sizes: Vec<ProgramSize>,
    /// What serves, fed by a real API server: kube-proxy itself, and Millrace beside it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub real: Vec<Real>,
    /// What follows for the goals.
    pub verdicts: Vec<Verdict>,
}

/// Where, when and how a run was made.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct About {
    /// The command that made it.
    pub command: String,
    /// What decides all random choices.
    pub seed: u64,
    /// The short run.
    pub quick: bool,
    /// Rounds over all lanes.
    pub rounds: u32,
    /// When it began, UTC.
    pub date: String,
    /// `uname -r`.
    pub kernel: String,
    /// The processor's name.
    pub cpu: String,
    /// How many.
    pub cpus: usize,
    /// MiB of memory.
    pub memory_mib: u64,
    /// Of the programs that take part, as (name, version).
    pub versions: Vec<(String, String)>,
    /// /proc/loadavg at the beginning and at the end.
    pub load_average: [String; 2],
    /// How long it took.
    pub seconds: f64,
}

/// Lanes that were measured in turn, paired with the first one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Group {
    /// Its name among all: `tcp-connect`.
    pub key: String,
    /// Its name for people.
    pub title: String,
    /// What times are of.
    pub time: String,
    /// How often it was measured until the noise was small enough.
    pub attempts: u32,
    /// Whether it was in the end.
    pub conclusive: bool,
    /// The lanes; the first two are the same, and what differs between them is noise.
    pub lanes: Vec<Row>,
}

/// One lane's result.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Row {
    /// What serves: `direct`, `millrace socket path`, `kube-proxy nftables` and so on.
    pub dataplane: String,
    /// Services there are.
    pub services: u32,
    /// Which one is dialled: `hot`, `random`, and so on; empty without one.
    pub target: String,
    /// Microseconds of connect(), or of a request and its answer: the block's median.
    pub time_us: Quartiles,
    /// The same less the first lane's, in the same round.
    pub added_us: Quartiles,
    /// CPU time of client and server for one, in microseconds.
    pub cpu_us: Quartiles,
    /// The first lane's CPU time by this one's: 1.00 is equal, less is dearer.
    pub cpu_ratio: Quartiles,
}

/// What it cost to load everything.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Load {
    /// What was loaded, and by what.
    pub what: String,
    /// Services.
    pub services: u32,
    /// Endpoints of all of them.
    pub endpoints: u32,
    /// CPU seconds, user and system; of several repetitions the median.
    pub cpu_s: f64,
    /// The least and the most of them; none: it was done once.
    pub cpu_s_range: Option<[f64; 2]>,
    /// Seconds.
    pub wall_s: f64,
    /// Peak of the process' resident memory, MiB.
    pub peak_mib: f64,
    /// Its resident memory afterwards; none: it has ended.
    pub steady_mib: Option<f64>,
    /// Kernel memory for the rules or maps, without what flows fill.
    pub kernel_mib: Option<f64>,
}

/// How long it takes until new connections obey one changed endpoint.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Update {
    /// By what.
    pub what: String,
    /// Services.
    pub services: u32,
    /// Changes.
    pub changes: usize,
    /// Milliseconds.
    pub ms: Quartiles,
    /// The median.
    pub p50_ms: f64,
    /// 99 of 100 do not exceed this; with fewer than 100 changes it is the worst.
    pub p99_ms: f64,
    /// CPU milliseconds of whoever carried out a change.
    pub cpu_ms: f64,
    /// Connections that failed meanwhile.
    pub failed: u32,
}

/// What a process that serves costs, fed by a real API server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Real {
    /// It: `Millrace`, `kube-proxy nftables (real)`.
    pub what: String,
    /// Services.
    pub services: u32,
    /// Endpoints of all of them.
    pub endpoints: u32,
    /// Seconds from the process' start until everything is served.
    pub start_wall_s: f64,
    /// CPU seconds until then, of the process and those it started.
    pub start_cpu_s: f64,
    /// MiB of its resident memory then.
    pub memory_mib: f64,
    /// MiB at most so far.
    pub peak_mib: f64,
    /// One endpoint's changes; none: they were not asked for.
    pub changes: Option<RealChanges>,
}

/// How long one changed endpoint takes from the API server to new connections.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RealChanges {
    /// How many.
    pub count: usize,
    /// Milliseconds from the PATCH's answer; below zero: connections obeyed before it was there.
    pub ms: Quartiles,
    /// The median.
    pub p50_ms: f64,
    /// The longest.
    pub worst_ms: f64,
    /// The median from the PATCH's sending.
    pub sent_p50_ms: f64,
    /// CPU milliseconds for each, of the process and those it started, pauses included.
    pub cpu_ms: f64,
    /// Connections that failed meanwhile.
    pub failed: u32,
}

/// What many changes cost.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Churn {
    /// Services.
    pub services: u32,
    /// Endpoints of all of them.
    pub endpoints: u32,
    /// Slices changed per second.
    pub events_per_s: f64,
    /// Percent of one CPU that the agent used.
    pub cpu_percent: f64,
    /// MiB of its resident memory afterwards.
    pub memory_mib: f64,
}

/// What a restart costs when nothing has changed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Restart {
    /// Services.
    pub services: u32,
    /// CPU seconds of the agent until it is ready.
    pub cpu_s: f64,
    /// Seconds until then.
    pub wall_s: f64,
    /// Rows it wrote.
    pub ops: u64,
    /// Connections made meanwhile.
    pub connections: u32,
    /// Those that failed.
    pub failed: u32,
}

/// What a program costs per run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProgramCost {
    /// Its name.
    pub program: String,
    /// What ran it.
    pub what: String,
    /// Services in the maps.
    pub services: u32,
    /// Nanoseconds.
    pub ns: Quartiles,
    /// The median less that of a program that does nothing, where there is one.
    pub net_ns: Option<f64>,
}

/// How large a program is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProgramSize {
    /// Its name, as the kernel has it.
    pub program: String,
    /// Bytes of machine code.
    pub jitted_bytes: u64,
    /// Instructions.
    pub instructions: u64,
    /// Instructions that the verifier walked through.
    pub verified: u64,
}

/// What follows for a goal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Verdict {
    /// `G1`.
    pub goal: String,
    /// In words.
    pub what: String,
    /// What was found; none: not measured in this run.
    pub found: Option<f64>,
    /// What it must be.
    pub gate: String,
    /// The word.
    pub verdict: Word,
    /// What people want to know about it besides.
    pub because: String,
}

/// The words of a verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// By more than the noise.
    Met,
    /// Not, by more than the noise.
    Missed,
    /// The gate is within the noise.
    TooClose,
    /// The machine was too noisy.
    Inconclusive,
    /// This run did not measure it.
    #[default]
    NotMeasured,
}

impl Word {
    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Missed => "MISSED",
            Self::TooClose => "too close to call",
            Self::Inconclusive => "inconclusive",
            Self::NotMeasured => "not measured",
        }
    }
}
