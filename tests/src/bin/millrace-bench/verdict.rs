//! From figures to words: each goal against its gate. Pure.

mod real;

use crate::groups::NOISE_CPU;
use crate::programs::REFERENCE;
use crate::result::{Group, Load, Row, Run, Verdict, Word};
use crate::statistics::Quartiles;
use crate::{hooks, programs};

/// Which side of the gate is good.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    AtLeast,
    AtMost,
}

/// A figure with what is known about its error.
#[derive(Clone, Copy)]
struct Found {
    value: f64,
    /// It may be off by so much.
    error: f64,
    conclusive: bool,
}

/// The dataplanes' names in rows.
const SOCKETS: &str = "Millrace socket path";
const PACKETS: &str = "Millrace packet path";
const IPTABLES: &str = "kube-proxy iptables";
const NFTABLES: &str = "kube-proxy nftables";
/// Beginning of the name of a load without the agent's start.
const PROGRAMMING: &str = "Millrace (objects to maps)";
/// How much a measured nanosecond, second or MiB is doubted at least: none has a twin to compare
/// with.
const PLAIN_ERROR: f64 = 0.03;

/// All goals.
pub fn all(run: &Run) -> Vec<Verdict> {
    let mut verdicts = traffic(run);
    verdicts.extend(programs(run));
    verdicts.extend(control(run));
    verdicts.extend(changes(run));
    verdicts.extend(memory(run));
    verdicts.extend(real::all(run));
    verdicts
}

/// The row of a group, with the group.
fn row<'a>(
    run: &'a Run,
    key: &str,
    dataplane: &str,
    services: u32,
    target: &str,
) -> Option<(&'a Group, &'a Row)> {
    let group = run.groups.iter().find(|group| group.key == key)?;
    let wanted =
        |row: &&Row| row.dataplane == dataplane && row.services == services && row.target == target;
    Some((group, group.lanes.iter().find(wanted)?))
}

/// How far the two equal lanes of the group are apart: in CPU (a ratio) and in time (us).
fn noise(group: &Group) -> (f64, f64) {
    let twin = group.lanes.get(1);
    let cpu = twin.map_or(NOISE_CPU, |twin| (twin.cpu_ratio.median - 1.0).abs());
    (cpu, twin.map_or(0.0, |twin| twin.added_us.median.abs()))
}

/// A row's figure. It may be off by what the two equal lanes are apart, or by what the median of so
/// many rounds may miss.
fn of(group: &Group, figure: &Quartiles, apart: f64, rounds: u32) -> Found {
    let error = apart.max(figure.error_of_median(rounds));
    Found { value: figure.median, error, conclusive: group.conclusive }
}

/// One row's figure by another's of the same group; `apart` is a part of the whole.
fn by(
    one: Option<(&Group, &Row)>,
    other: Option<(&Group, &Row)>,
    figure: fn(&Row) -> &Quartiles,
    apart: fn(&Group) -> f64,
    rounds: u32,
) -> Option<Found> {
    let ((group, one), (_, other)) = (one?, other?);
    let (one, other) = (figure(one), figure(other));
    let value = one.median / other.median;
    let error = one.relative_error(rounds).hypot(other.relative_error(rounds));
    let error = value * apart(group).max(error);
    Some(Found { value, error, conclusive: group.conclusive })
}

/// How far the two equal lanes are apart in CPU, as a part of it.
fn apart_in_cpu(group: &Group) -> f64 {
    noise(group).0
}

/// And in time.
fn apart_in_time(group: &Group) -> f64 {
    noise(group).1 / group.lanes.first().map_or(1.0, |direct| direct.time_us.median)
}

fn traffic(run: &Run) -> Vec<Verdict> {
    let connect =
        |dataplane, services, target| row(run, "tcp-connect", dataplane, services, target);
    let all = 100_000;
    let hot = connect(SOCKETS, all, "hot");
    let rounds = run.about.rounds;
    let cpu_ratio =
        |(group, row): (&Group, &Row)| of(group, &row.cpu_ratio, noise(group).0, rounds);
    let added = hot.map(|(group, row)| of(group, &row.added_us, noise(group).1, rounds));
    let [one, any] = [connect(SOCKETS, 1, "hot"), connect(SOCKETS, all, "random")];
    let flat = by(any, one, time_of, apart_in_time, rounds);
    let most = [10_000, 1000, 1].into_iter().find(|n| connect(NFTABLES, *n, "hot").is_some());
    let nftables = connect(NFTABLES, most.unwrap_or(1), "hot");
    let gain = by(nftables, hot, cpu_of, apart_in_cpu, rounds);
    let speed = by(connect(IPTABLES, 10_000, "hot"), hot, time_of, apart_in_time, rounds);
    let packets = connect(PACKETS, all, "hot").map(cpu_ratio);
    vec![
        judge(
            "G1",
            "CPU of a connection: direct / socket path, 100 000 Services, hot",
            hot.map(cpu_ratio),
            Side::AtLeast,
            0.97,
        ),
        judge(
            "G2",
            "connect() adds, in us: socket path, 100 000 Services, hot",
            added,
            Side::AtMost,
            1.0,
        ),
        judge(
            "G3",
            "connect(): 100 000 Services at random / 1 Service, socket path",
            flat,
            Side::AtMost,
            1.12,
        ),
        judge("G4", "CPU of a connection: nftables rules / socket path", gain, Side::AtLeast, 1.12),
        judge(
            "G5",
            "connect(): iptables rules of 10 000 Services / socket path",
            speed,
            Side::AtLeast,
            10.0,
        ),
        judge(
            "G6",
            "CPU of a connection: direct / packet path, 100 000 Services, hot",
            packets,
            Side::AtLeast,
            0.93,
        ),
        not_here("G7", "packet path with redirects", ">= 1.00", "Millrace does not redirect"),
        not_here("G8", "XDP NodePort program", "<= 50 ns", "Millrace has no XDP program"),
    ]
}

const fn time_of(row: &Row) -> &Quartiles {
    &row.time_us
}

const fn cpu_of(row: &Row) -> &Quartiles {
    &row.cpu_us
}

fn programs(run: &Run) -> Vec<Verdict> {
    let net = |program: &str, what: &str, repeats: usize| {
        let wanted = run
            .programs
            .iter()
            .filter(|cost| cost.program == program && cost.what == what && cost.net_ns.is_some());
        let most = wanted.max_by_key(|cost| cost.services)?;
        let value = most.net_ns?;
        let error = (most.ns.median * PLAIN_ERROR).max(most.ns.error_of_median(repeats as u32));
        Some(Found { value, error, conclusive: true })
    };
    let established =
        ["packet_in", "packet_out"].map(|program| net(program, "established", hooks::REPEATS));
    let worst = |one: Found, other: Found| if one.value > other.value { one } else { other };
    let established = established.into_iter().flatten().reduce(worst);
    let what = "ns of an established flow's packet, net of an empty program";
    let mut of_packets = judge("G9", what, established, Side::AtMost, 220.0);
    if let (Some(_), Some(least)) = (established, net(REFERENCE, hooks::HELPERS, hooks::REPEATS)) {
        of_packets.because += &format!("; the helpers alone: {:.0}", least.value);
    }
    vec![
        of_packets,
        judge(
            "G10",
            "ns of connect4, net of an empty program, hot",
            net("connect4", "socket path, hot", programs::REPEATS),
            Side::AtMost,
            400.0,
        ),
    ]
}

fn load<'a>(run: &'a Run, start: &str, services: u32) -> Option<&'a Load> {
    run.loads.iter().find(|load| load.what.starts_with(start) && load.services == services)
}

const fn plain(value: f64) -> Found {
    Found { value, error: value * PLAIN_ERROR, conclusive: true }
}

/// A figure that is a load's CPU time, or has it in it.
fn repeated(value: f64, load: &Load) -> Found {
    Found { value, error: value * repeated_error(load), conclusive: true }
}

/// By which part of it the CPU time of a load may be off: half of what its repetitions are apart.
fn repeated_error(load: &Load) -> f64 {
    let [least, most] = load.cpu_s_range.unwrap_or([load.cpu_s; 2]);
    PLAIN_ERROR.max((most - least) / 2.0 / load.cpu_s)
}

fn control(run: &Run) -> Vec<Verdict> {
    let programming = |services| load(run, PROGRAMMING, services);
    // With as many endpoints as the rules have.
    let rules = |name| {
        let theirs = load(run, name, 10_000)?;
        let same =
            |load: &&Load| load.what.starts_with(PROGRAMMING) && load.endpoints == theirs.endpoints;
        let ours = run.loads.iter().find(same)?;
        Some(repeated(theirs.cpu_s / ours.cpu_s, ours))
    };
    let million = programming(100_000).filter(|load| load.endpoints >= 1_000_000);
    let whole = load(run, "Millrace (agent", 100_000).filter(|load| load.endpoints >= 1_000_000);
    let churn = run.churn.first().map(|churn| plain(churn.cpu_percent));
    let cpu = |load: &Load| repeated(load.cpu_s, load);
    vec![
        judge(
            "G11",
            "CPU s: 100 000 Services, 1 000 000 endpoints, objects to maps",
            million.map(cpu),
            Side::AtMost,
            1.0,
        ),
        judge(
            "G12",
            "CPU s: the same with JSON, the agent from its start",
            whole.map(cpu),
            Side::AtMost,
            5.0,
        ),
        judge(
            "G13",
            "CPU of loading 10 000 Services: iptables rules / Millrace's maps",
            rules(IPTABLES),
            Side::AtLeast,
            50.0,
        ),
        judge(
            "G13",
            "the same: nftables rules / Millrace's maps",
            rules(NFTABLES),
            Side::AtLeast,
            1000.0,
        ),
        judge("G16", "% of a CPU for 300 slice events a second", churn, Side::AtMost, 8.0),
    ]
}

fn changes(run: &Run) -> Vec<Verdict> {
    let update = |services| {
        let ours = |update: &&crate::result::Update| update.what.starts_with("Millrace");
        run.updates.iter().filter(ours).find(|update| update.services == services)
    };
    let flat = update(100_000).zip(update(1)).map(|(many, one)| many.p50_ms / one.p50_ms);
    let lost = run.restarts.iter().map(|restart| f64::from(restart.failed)).reduce(f64::max);
    vec![
        judge(
            "G14",
            "ms until one changed endpoint is obeyed, p50, 100 000 Services",
            update(100_000).map(|update| plain(update.p50_ms)),
            Side::AtMost,
            1.0,
        ),
        judge(
            "G14",
            "the same, p99",
            update(100_000).map(|update| plain(update.p99_ms)),
            Side::AtMost,
            10.0,
        ),
        judge(
            "G15",
            "the same, p50: 100 000 Services / 1 Service",
            flat.map(plain),
            Side::AtMost,
            1.5,
        ),
        judge(
            "G21",
            "connections that failed while the agent was killed and started",
            lost.map(plain),
            Side::AtMost,
            0.0,
        ),
    ]
}

fn memory(run: &Run) -> Vec<Verdict> {
    let agent = |services| load(run, "Millrace (agent", services);
    let ten = agent(10_000).filter(|load| load.endpoints >= 100_000);
    let million = agent(100_000).filter(|load| load.endpoints >= 1_000_000);
    let steady = ten.and_then(|load| load.steady_mib).map(plain);
    let peak = ten.map(|load| plain(load.peak_mib));
    let kernel = million.and_then(|load| load.kernel_mib).map(plain);
    vec![
        judge(
            "G17",
            "MiB of the agent, 10 000 Services, 100 000 endpoints",
            steady,
            Side::AtMost,
            64.0,
        ),
        judge("G17", "the same at its peak", peak, Side::AtMost, 128.0),
        judge(
            "G18",
            "MiB of maps, 100 000 Services, 1 000 000 endpoints, without flows",
            kernel,
            Side::AtMost,
            64.0,
        ),
    ]
}

fn not_here(goal: &str, what: &str, gate: &str, because: &str) -> Verdict {
    Verdict {
        goal: goal.into(),
        what: what.into(),
        gate: gate.into(),
        because: because.into(),
        ..Verdict::default()
    }
}

fn judge(goal: &str, what: &str, found: Option<Found>, side: Side, gate: f64) -> Verdict {
    let sign = if side == Side::AtLeast { ">=" } else { "<=" };
    let verdict = not_here(goal, what, &format!("{sign} {gate}"), "");
    let Some(found) = found else { return verdict };
    let beyond = match side {
        Side::AtLeast => found.value - gate,
        Side::AtMost => gate - found.value,
    };
    let word = if !found.conclusive {
        Word::Inconclusive
    } else if beyond.abs() < found.error {
        Word::TooClose
    } else if beyond >= 0.0 {
        Word::Met
    } else {
        Word::Missed
    };
    let because = match word {
        Word::Inconclusive => "the machine was too noisy".into(),
        _ if found.error == 0.0 => String::new(),
        _ => format!("may be off by {:.3}", found.error),
    };
    let found = Some(crate::statistics::rounded(found.value));
    Verdict { found, verdict: word, because, ..verdict }
}

#[cfg(test)]
mod tests;
