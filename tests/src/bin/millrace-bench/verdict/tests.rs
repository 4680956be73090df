//! Gates, errors, and which figures a goal is about.

use super::*;
use crate::result::{About, ProgramCost};

fn word(value: f64, error: f64, side: Side, gate: f64) -> Word {
    judge("G", "", Some(Found { value, error, conclusive: true }), side, gate).verdict
}

#[test]
fn a_gate_within_the_error_is_too_close_to_call() {
    assert_eq!(word(0.99, 0.01, Side::AtLeast, 0.97), Word::Met);
    assert_eq!(word(0.975, 0.01, Side::AtLeast, 0.97), Word::TooClose);
    assert_eq!(word(0.965, 0.01, Side::AtLeast, 0.97), Word::TooClose);
    assert_eq!(word(0.90, 0.01, Side::AtLeast, 0.97), Word::Missed);
    assert_eq!(word(0.4, 0.2, Side::AtMost, 1.0), Word::Met);
    assert_eq!(word(1.4, 0.2, Side::AtMost, 1.0), Word::Missed);
    assert_eq!(word(0.0, 0.0, Side::AtMost, 0.0), Word::Met);
}

#[test]
fn noise_makes_every_verdict_inconclusive_and_none_is_not_measured() {
    let found = Found { value: 5.0, error: 0.0, conclusive: false };
    assert_eq!(judge("G", "", Some(found), Side::AtLeast, 1.0).verdict, Word::Inconclusive);
    assert_eq!(judge("G", "", None, Side::AtLeast, 1.0).verdict, Word::NotMeasured);
}

fn lane(dataplane: &str, services: u32, target: &str, time: f64, cpu: f64) -> Row {
    let at = |median| Quartiles { low: median, median, high: median };
    Row {
        dataplane: dataplane.into(),
        services,
        target: target.into(),
        time_us: at(time),
        added_us: at(time - 20.0),
        cpu_us: at(cpu),
        cpu_ratio: at(80.0 / cpu),
    }
}

#[test]
fn goals_find_their_lanes() {
    let lanes = vec![
        lane("direct", 0, "", 20.0, 80.0),
        lane("direct", 0, "again: noise", 20.1, 80.0),
        lane(SOCKETS, 1, "hot", 20.2, 80.0),
        lane(SOCKETS, 100_000, "hot", 20.3, 81.0),
        lane(SOCKETS, 100_000, "random", 21.0, 82.0),
        lane(IPTABLES, 10_000, "hot", 220.0, 300.0),
        lane(NFTABLES, 1000, "hot", 26.0, 100.0),
    ];
    let key = "tcp-connect".to_owned();
    let group = Group { key, conclusive: true, lanes, ..Group::default() };
    let run = Run { groups: vec![group], ..Run::default() };
    let verdicts = all(&run);
    let found = |goal: &str| verdicts.iter().find(|verdict| verdict.goal == goal).unwrap();
    assert_eq!(found("G1").verdict, Word::Met);
    assert_eq!(found("G2").found, Some(0.3));
    assert_eq!(found("G3").verdict, Word::Met);
    assert_eq!(found("G4").verdict, Word::Met);
    assert_eq!(found("G5").found, Some(10.8374));
    assert_eq!(found("G6").verdict, Word::NotMeasured, "there was no such lane");
}

#[test]
fn a_packet_stands_beside_the_helpers_it_needs() {
    let cost = |program: &str, what: &str, ns| ProgramCost {
        program: program.into(),
        what: what.into(),
        services: 1,
        ns: Quartiles { low: ns, median: ns, high: ns },
        net_ns: Some(ns),
    };
    let flow = ["packet_in", "packet_out"].map(|name| cost(name, "established", 300.0));
    let mut programs = flow.to_vec();
    programs.push(cost(REFERENCE, hooks::HELPERS, 241.4));
    let run = Run { programs, ..Run::default() };
    let verdicts = all(&run);
    let found = verdicts.iter().find(|verdict| verdict.goal == "G9").unwrap();
    assert_eq!(found.verdict, Word::Missed);
    assert!(found.because.ends_with("; the helpers alone: 241"), "{}", found.because);
}

#[test]
fn what_so_few_rounds_cannot_tell_is_too_close_to_call() {
    let verdict = |rounds, low, high| {
        let mut hot = lane(SOCKETS, 100_000, "hot", 20.3, 81.0);
        hot.cpu_ratio = Quartiles { low, median: 0.96, high };
        let twin = lane("direct", 0, "again: noise", 20.0, 80.0);
        let lanes = vec![lane("direct", 0, "", 20.0, 80.0), twin, hot];
        let key = "tcp-connect".to_owned();
        let group = Group { key, conclusive: true, lanes, ..Group::default() };
        let about = About { rounds, ..About::default() };
        let run = Run { groups: vec![group], about, ..Run::default() };
        all(&run).iter().find(|verdict| verdict.goal == "G1").unwrap().verdict
    };
    assert_eq!(verdict(21, 0.91, 1.0), Word::TooClose);
    assert_eq!(verdict(21, 0.95, 0.965), Word::Missed);
    assert_eq!(verdict(2100, 0.91, 1.0), Word::Missed);
}

#[test]
fn a_load_is_doubted_by_what_its_repetitions_are_apart() {
    let verdict = |cpu_s_range| {
        let what = PROGRAMMING.into();
        let (services, endpoints, cpu_s) = (100_000, 1_000_000, 0.95);
        let load = Load { what, services, endpoints, cpu_s, cpu_s_range, ..Load::default() };
        let run = Run { loads: vec![load], ..Run::default() };
        all(&run).iter().find(|verdict| verdict.goal == "G11").unwrap().verdict
    };
    assert_eq!(verdict(None), Word::Met);
    assert_eq!(verdict(Some([0.94, 0.97])), Word::Met);
    assert_eq!(verdict(Some([0.9, 1.2])), Word::TooClose);
}

#[test]
fn loads_are_compared_with_the_same_endpoints() {
    let load = |what: &str, endpoints, cpu_s| Load {
        what: what.into(),
        services: 10_000,
        endpoints,
        cpu_s,
        ..Load::default()
    };
    let loads = vec![
        load("kube-proxy iptables (iptables-legacy-restore)", 30_004, 1.2),
        load(PROGRAMMING, 100_004, 0.1),
        load(PROGRAMMING, 30_004, 0.01),
    ];
    let verdicts = all(&Run { loads, ..Run::default() });
    let found = verdicts.iter().find(|verdict| verdict.goal == "G13").unwrap();
    assert_eq!((found.found, found.verdict), (Some(120.0), Word::Met));
}

#[test]
fn every_goal_of_the_issue_has_a_verdict() {
    let verdicts = all(&Run::default());
    for goal in (1..=18).filter(|goal| *goal != 19) {
        let goal = format!("G{goal}");
        assert!(verdicts.iter().any(|verdict| verdict.goal == goal), "{goal}");
    }
    assert!(verdicts.iter().all(|verdict| verdict.verdict == Word::NotMeasured));
}
