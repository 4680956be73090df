//! A real kube-proxy beside Millrace, where there was one: no rows where there was none.

use super::{
    Found, IPTABLES, NFTABLES, SOCKETS, Side, apart_in_cpu, apart_in_time, by, cpu_of, judge,
    plain, row, time_of,
};
use crate::result::{Real, RealChanges, Run, Verdict};
use crate::site::{REAL_IPTABLES, REAL_NFTABLES};
use crate::tables::thousands;

/// What serves, fed by the same API server as the others.
const MILLRACE: &str = "Millrace";

/// Everything that can be said.
pub fn all(run: &Run) -> Vec<Verdict> {
    [REAL_IPTABLES, REAL_NFTABLES].into_iter().flat_map(|name| of(run, name)).collect()
}

/// Of one mode, at the largest size where both were measured.
fn of(run: &Run, name: &str) -> Vec<Verdict> {
    let find = |what: &str, services| {
        run.real.iter().find(move |real| real.what == what && real.services == services)
    };
    let sizes = run.real.iter().filter(|real| real.what == name).map(|real| real.services);
    let both = |services| find(name, services).zip(find(MILLRACE, services));
    let Some((theirs, ours)) = sizes.filter_map(both).max_by_key(|(theirs, _)| theirs.services)
    else {
        return Vec::new();
    };
    let mut verdicts = vec![starts([theirs, ours], both(1))];
    if let Some((changed, own)) = theirs.changes.as_ref().zip(ours.changes.as_ref()) {
        verdicts.push(changes(theirs, changed, own));
    }
    verdicts.extend(traffic(run, theirs));
    verdicts
}

/// Millrace loads its programs whatever there is to serve: how much of it that is, one Service
/// tells.
fn starts([theirs, ours]: [&Real; 2], one: Option<(&Real, &Real)>) -> Verdict {
    let what = format!(
        "CPU from process start to synced, {}: {} / Millrace, from one API server",
        sized(theirs),
        theirs.what
    );
    let ratio = plain(theirs.start_cpu_s / ours.start_cpu_s);
    let because = format!(
        "{:.2} s (wall {:.2} s, {:.0} MiB) beside {:.2} s (wall {:.2} s, {:.0} MiB)",
        theirs.start_cpu_s,
        theirs.start_wall_s,
        theirs.memory_mib,
        ours.start_cpu_s,
        ours.start_wall_s,
        ours.memory_mib
    );
    let least = one.filter(|(least, _)| least.services < theirs.services).map(|(theirs, ours)| {
        format!("; with 1 Service {:.2} s beside {:.2} s", theirs.start_cpu_s, ours.start_cpu_s)
    });
    let because = because + &least.unwrap_or_default();
    explained(judge("G13", &what, Some(ratio), Side::AtLeast, 1.0), because)
}

fn changes(theirs: &Real, changed: &RealChanges, own: &RealChanges) -> Verdict {
    let what = format!(
        "ms from a PATCH's answer until it is obeyed, p50, {}: Millrace; the gate is {}",
        sized(theirs),
        theirs.what
    );
    let because = format!(
        "from the PATCH's sending: {:.1} ms beside {:.1} ms, {:.0} times as long",
        own.sent_p50_ms,
        changed.sent_p50_ms,
        changed.sent_p50_ms / own.sent_p50_ms
    );
    explained(judge("G14", &what, Some(plain(own.p50_ms)), Side::AtMost, changed.p50_ms), because)
}

/// What its rules cost connections, beside the socket path and beside the rules that we make.
fn traffic(run: &Run, theirs: &Real) -> Vec<Verdict> {
    let connect = |name: &str, services, target| row(run, "tcp-connect", name, services, target);
    let (name, services) = (theirs.what.as_str(), theirs.services);
    let target = if services == 1 { "hot" } else { "random" };
    let real = connect(name, services, target);
    if real.is_none() {
        return Vec::new();
    }
    let made = if name == REAL_IPTABLES { IPTABLES } else { NFTABLES };
    let (rounds, ours) = (run.about.rounds, connect(SOCKETS, services, target));
    let gain = by(real, ours, cpu_of, apart_in_cpu, rounds);
    let close = by(real, connect(made, services, target), time_of, apart_in_time, rounds);
    let (sized, goal) = (sized(theirs), if made == IPTABLES { "G5" } else { "G4" });
    let gate = if made == IPTABLES { 1.0 } else { 1.12 };
    let what = format!("CPU of a connection, {sized}, {target}: {name} / socket path");
    let mut verdicts = vec![judge(goal, &what, gain, Side::AtLeast, gate)];
    // No goal, but what the rules' lanes are worth.
    if let Some(Found { value, .. }) = close {
        let note = format!("its connect() takes {value:.2} times as long as by the rules we make");
        verdicts[0].because = joined(&verdicts[0].because, note);
    }
    verdicts
}

fn sized(real: &Real) -> String {
    match real.services {
        1 => "1 Service".into(),
        many => format!("{} Services", thousands(many)),
    }
}

fn explained(verdict: Verdict, because: String) -> Verdict {
    Verdict { because: joined(&verdict.because, because), ..verdict }
}

fn joined(first: &str, second: String) -> String {
    if first.is_empty() { second } else { format!("{first}; {second}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Group, Row, Word};
    use crate::statistics::Quartiles;

    fn real(what: &str, services: u32, cpu: f64, ms: f64) -> Real {
        let changes = RealChanges { p50_ms: ms, sent_p50_ms: ms + 3.0, ..Default::default() };
        Real {
            what: what.into(),
            services,
            start_cpu_s: cpu,
            changes: Some(changes),
            ..Real::default()
        }
    }

    #[test]
    fn nothing_is_said_where_there_was_none() {
        assert!(all(&Run::default()).is_empty());
        let alone = Run { real: vec![real(MILLRACE, 1, 1.0, 1.0)], ..Run::default() };
        assert!(all(&alone).is_empty());
    }

    #[test]
    fn the_largest_size_is_compared_with_the_same_of_ours() {
        let all_real = vec![
            real(REAL_IPTABLES, 1, 0.1, 9.0),
            real(REAL_NFTABLES, 1000, 0.5, 230.0),
            real(REAL_IPTABLES, 1000, 0.4, 80.0),
            real(MILLRACE, 1, 1.7, -0.5),
            real(MILLRACE, 1000, 2.0, -0.5),
        ];
        let verdicts = all(&Run { real: all_real, ..Run::default() });
        let goals: Vec<&str> = verdicts.iter().map(|verdict| verdict.goal.as_str()).collect();
        assert_eq!(goals, ["G13", "G14", "G13", "G14"]);
        assert!(verdicts[0].what.contains("1 000 Services: kube-proxy iptables (real)"));
        assert_eq!((verdicts[0].found, verdicts[0].verdict), (Some(0.2), Word::Missed));
        assert!(verdicts[0].because.ends_with("; with 1 Service 0.10 s beside 1.70 s"));
        assert!(verdicts[2].because.ends_with("MiB)"), "{}", verdicts[2].because);
        assert_eq!((verdicts[3].found, verdicts[3].verdict), (Some(-0.5), Word::Met));
        assert_eq!(verdicts[3].gate, "<= 230");
        assert!(verdicts[3].because.ends_with("2.5 ms beside 233.0 ms, 93 times as long"));
    }

    #[test]
    fn its_lanes_are_compared_with_ours_and_with_the_rules_we_make() {
        let lane = |dataplane: &str, time, cpu| {
            let at = |median| Quartiles { low: median, median, high: median };
            Row {
                dataplane: dataplane.into(),
                services: 1000,
                target: "random".into(),
                time_us: at(time),
                cpu_us: at(cpu),
                cpu_ratio: at(1.0),
                ..Row::default()
            }
        };
        let lanes = vec![
            lane("direct", 20.0, 80.0),
            lane("direct", 20.0, 80.0),
            lane(SOCKETS, 20.0, 80.0),
            lane(NFTABLES, 40.0, 100.0),
            lane(REAL_NFTABLES, 50.0, 120.0),
        ];
        let key = "tcp-connect".to_owned();
        let group = Group { key, conclusive: true, lanes, ..Group::default() };
        let theirs = real(REAL_NFTABLES, 1000, 1.0, 1.0);
        let verdicts = traffic(&Run { groups: vec![group], ..Run::default() }, &theirs);
        assert_eq!((verdicts[0].found, verdicts[0].verdict), (Some(1.5), Word::Met));
        assert!(verdicts[0].because.contains("1.25 times as long"), "{}", verdicts[0].because);
    }
}
