//! The ledger under a clock of the test's, and Events as the API wants them.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::ledger::{
    BURST_WRITES, ENTRIES_MAX, Ledger, OBJECT_PAUSE, Outcome, REPEAT_AFTER, SPREAD, Say,
    WRITE_INTERVAL,
};
use super::object::{self, NOTE_BYTES_MAX};
use super::*;

const SOON: Duration = Duration::from_secs(20);

fn notice(name: &str, reason: &'static str, note: &str) -> Notice {
    let name = ObjectName::new("shop", name);
    Notice {
        regarding: Object { kind: Kind::Service, name, uid: None },
        related: None,
        weight: Weight::Warning,
        reason,
        action: reason::action(reason),
        note: note.to_owned(),
        scope: Scope::Cluster,
    }
}

/// Everything the ledger has to say at that moment, all of it written.
fn told(ledger: &mut Ledger, now: Duration) -> Vec<String> {
    let mut told = Vec::new();
    while let Ok(say) = ledger.next(now) {
        let text = match &say {
            Say::New(notice, _) => format!("{}: {}", notice.regarding.name.name, notice.note),
            Say::Again(_, _, event, count) => format!("{event} x{count}"),
        };
        told.push(text.clone());
        let event = match &say {
            Say::New(..) => text,
            Say::Again(_, _, event, _) => event.clone(),
        };
        ledger.done(say, Outcome::Written(event), now);
    }
    told
}

fn ledger() -> Ledger {
    Ledger::new(0, Duration::ZERO)
}

#[test]
fn what_is_wrong_is_said_once_merged_and_again_after_a_while() {
    let mut ledger = ledger();
    let (one, two) = (notice("a", "R", "one"), notice("a", "R", "two"));
    let other = notice("a", "Q", "other");
    ledger.stands(vec![one.clone(), two.clone(), other.clone()], SOON);
    assert_eq!(told(&mut ledger, SOON), ["a: other", "a: one; two"]);
    ledger.stands(vec![one.clone(), two, other], SOON);
    assert!(told(&mut ledger, SOON + OBJECT_PAUSE).is_empty(), "nothing is new");
    // A new note is said when the object's pause is over.
    ledger.stands(vec![one.clone()], SOON);
    assert!(told(&mut ledger, SOON + OBJECT_PAUSE / 2).is_empty());
    let later = SOON + OBJECT_PAUSE;
    assert_eq!(told(&mut ledger, later), ["a: one"]);
    assert_eq!(ledger.next(later), Err(Some(REPEAT_AFTER)));
    assert_eq!(told(&mut ledger, later + REPEAT_AFTER), ["a: one x2"]);
    assert_eq!(told(&mut ledger, later + REPEAT_AFTER * 2), ["a: one x3"]);
}

#[test]
fn what_is_mended_is_not_repeated_and_what_recurs_is_a_series() {
    let mut ledger = ledger();
    let one = notice("a", "R", "one");
    ledger.stands(vec![one.clone()], SOON);
    assert_eq!(told(&mut ledger, SOON), ["a: one"]);
    ledger.stands(Vec::new(), SOON);
    assert_eq!(ledger.next(SOON + REPEAT_AFTER), Err(None));
    // A hundred times to and fro: one more write, and not at once.
    for _ in 0..100 {
        ledger.stands(vec![one.clone()], SOON);
        assert!(told(&mut ledger, SOON).is_empty());
        ledger.stands(Vec::new(), SOON);
    }
    ledger.stands(vec![one], SOON);
    assert_eq!(told(&mut ledger, SOON + OBJECT_PAUSE), ["a: one x2"]);
    // Mended before it was said: never said.
    let mut ledger = self::ledger();
    ledger.stands(vec![notice("b", "R", "x")], Duration::ZERO);
    ledger.stands(Vec::new(), Duration::ZERO);
    assert_eq!(ledger.next(SOON), Err(None));
}

#[test]
fn a_flood_is_rationed_and_loses_nothing() {
    let mut ledger = ledger();
    let flood = |count: usize| (0..count).map(|n| notice(&format!("s{n}"), "R", "bad")).collect();
    ledger.stands(flood(100), SOON);
    assert_eq!(told(&mut ledger, SOON).len(), BURST_WRITES as usize);
    assert_eq!(ledger.next(SOON), Err(Some(WRITE_INTERVAL)));
    let mut all = BURST_WRITES as usize;
    let mut now = SOON;
    while all < 100 {
        now += WRITE_INTERVAL;
        assert_eq!(told(&mut ledger, now).len(), 1);
        all += 1;
    }
    assert!(told(&mut ledger, now + WRITE_INTERVAL).is_empty());
    let mut ledger = self::ledger();
    ledger.stands(flood(ENTRIES_MAX * 2), SOON);
    ledger.stands(Vec::new(), SOON);
    assert_eq!(ledger.next(SOON), Err(None), "and none of it is kept");
}

#[test]
fn single_occurrences_come_first_and_survive_a_failure() {
    let mut ledger = ledger();
    ledger.stands(vec![notice("a", "R", "bad")], SOON);
    ledger.happened(notice("n1", reason::STARTING, ""));
    let say = ledger.next(SOON).unwrap();
    ledger.failed(say.clone(), SOON, Duration::from_secs(1));
    assert_eq!(ledger.next(SOON), Ok(say.clone()));
    ledger.done(say, Outcome::Written("x".into()), SOON);
    let say = ledger.next(SOON).unwrap();
    let Say::New(notice, Some(_)) = &say else { panic!("{say:?}") };
    assert_eq!(notice.regarding.name.name, "a");
    ledger.failed(say, SOON, Duration::from_secs(7));
    assert_eq!(ledger.next(SOON), Err(Some(Duration::from_secs(7))));
}

#[test]
fn what_another_node_said_or_the_api_forgot() {
    let mut ledger = ledger();
    ledger.stands(vec![notice("a", "R", "bad")], SOON);
    let say = ledger.next(SOON).unwrap();
    ledger.done(say, Outcome::Settled, SOON);
    assert_eq!(ledger.next(SOON + REPEAT_AFTER * 9), Err(None), "the other one repeats it");
    let mut ledger = self::ledger();
    ledger.stands(vec![notice("a", "R", "bad")], SOON);
    told(&mut ledger, SOON);
    let later = SOON + REPEAT_AFTER;
    let say = ledger.next(later).unwrap();
    assert!(matches!(say, Say::Again(..)));
    ledger.done(say, Outcome::Forgotten, later);
    assert!(matches!(ledger.next(later), Ok(Say::New(..))), "then it is said anew");
}

#[test]
fn nodes_take_turns_with_what_all_of_them_see() {
    for node in [0, 1, 3_999, u64::MAX] {
        let mut ledger = Ledger::new(node, Duration::ZERO);
        ledger.stands(vec![notice("a", "R", "bad")], SOON);
        let wait = ledger.next(SOON).err().flatten().unwrap_or_default();
        assert!(wait < SPREAD, "{wait:?}");
        let mut own = notice("b", "R", "here");
        own.scope = Scope::Node;
        ledger.stands(vec![own], SOON);
        assert!(ledger.next(SOON).is_ok(), "its own it says at once");
    }
}

#[test]
fn notes_are_cut_to_what_the_api_takes() {
    let mut ledger = ledger();
    let long = "ü".repeat(400);
    let many: Vec<Notice> = (0..50).map(|_| notice("a", "R", &long)).collect();
    ledger.stands(many, SOON);
    let Ok(Say::New(notice, _)) = ledger.next(SOON) else { panic!("nothing") };
    assert!(notice.note.len() <= NOTE_BYTES_MAX && notice.note.ends_with("; and 49 more"));
    ledger.happened(self::notice("a", "R", &"x".repeat(5000)));
    let Ok(Say::New(notice, None)) = ledger.next(SOON) else { panic!("nothing") };
    assert_eq!(notice.note.len(), NOTE_BYTES_MAX);
}

#[test]
fn events_are_as_the_api_wants_them() {
    let now = Timestamp::UNIX_EPOCH;
    let mut cluster_wide = notice("web", reason::FRONTEND_REJECTED, "no");
    cluster_wide.regarding.uid = Some("0f8fad5b-d9cb-469f-a165-70867728950e".into());
    let name = object::name(&cluster_wide, "n1", now);
    assert_eq!(name, object::name(&cluster_wide, "n2", now), "one Event for all nodes");
    let own = Notice { scope: Scope::Node, ..cluster_wide.clone() };
    assert_ne!(object::name(&own, "n1", now), object::name(&own, "n2", now));
    let event = object::event(&cluster_wide, name.clone(), "n1", now);
    let json = serde_json::to_value(&event).unwrap();
    assert_eq!(json["metadata"], serde_json::json!({"name": name, "namespace": "shop"}));
    assert_eq!(json["reportingController"], "millrace");
    assert_eq!(json["reportingInstance"], "n1");
    assert_eq!(json["eventTime"], "1970-01-01T00:00:00.000000Z");
    assert_eq!(json["regarding"]["kind"], "Service");
    assert_eq!(json["regarding"]["apiVersion"], "v1");
    assert_eq!(json["regarding"]["uid"], "0f8fad5b-d9cb-469f-a165-70867728950e");
    assert_eq!(json["type"], "Warning");

    let mut node = notice("ignored", reason::STARTING, "");
    node.regarding = Object::node("n1");
    let event = object::event(&node, "x".into(), "n1", now);
    let json = serde_json::to_value(&event).unwrap();
    assert_eq!(json["metadata"]["namespace"], "default");
    assert_eq!(json["regarding"]["uid"], "n1", "where kubectl describe node looks");
    assert_eq!(json["action"], "StartKubeProxy");
    assert_eq!(object::seen_again(3, now)["series"]["count"], 3);
    let odd = notice("(unusable name) \u{fc} 12", "R", "x");
    let name = object::name(&odd, "n1", now);
    assert!(
        name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
    );
}
