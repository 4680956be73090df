//! When changes were caused: which of them are measured, as by kube-proxy.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::model::triggers::{Pending, TRIGGERS_MAX};

/// The agent's start in these tests: 2026-11-21 12:00:00 UTC.
const STARTED: Duration = Duration::from_secs(1_795_262_400);

fn started() -> Model {
    let mut model = model();
    model.measure_from(STARTED);
    model
}

/// A slice with one endpoint, caused at that time.
fn caused(name: &str, address: &str, at: impl Into<Value>) -> Event {
    let annotation = "endpoints.kubernetes.io/last-change-trigger-time";
    slice_with(
        name,
        json!({
            "metadata": {
                "name": name,
                "labels": {"kubernetes.io/service-name": "svc"},
                "annotations": {annotation: at.into(), "other": "x"},
            },
            "endpoints": [{"addresses": [address]}],
        }),
    )
}

fn millis_after_start(model: &mut Model) -> Vec<u128> {
    let triggers = model.take_triggers();
    let mut millis: Vec<u128> = triggers.iter().map(|t| (t.at - STARTED).as_millis()).collect();
    millis.sort_unstable();
    millis
}

#[test]
fn each_change_is_measured_once_from_its_cause() {
    let mut model = started();
    model.apply(caused("a", "10.0.0.1", "2026-11-21T12:00:01.500000000Z"));
    model.apply(caused("b", "10.0.0.2", "2026-11-21T13:00:02+01:00"));
    assert_eq!(model.pending(), Pending { services: 0, slices: 2 });
    assert_eq!(millis_after_start(&mut model), [1500, 2000]);
    assert!(model.take_triggers().is_empty(), "they were taken");
    // The same cause again, with other endpoints: it was measured.
    model.apply(caused("a", "10.0.0.3", "2026-11-21T12:00:01.5Z"));
    assert_eq!(millis_after_start(&mut model), []);
    // Another cause without a change that is used: nothing is programmed.
    model.apply(caused("a", "10.0.0.3", "2026-11-21T12:00:09Z"));
    assert_eq!(millis_after_start(&mut model), []);
    // Two changes before a round are two samples.
    model.apply(caused("a", "10.0.0.4", "2026-11-21T12:00:10Z"));
    model.apply(caused("a", "10.0.0.5", "2026-11-21T12:00:11Z"));
    assert_eq!(millis_after_start(&mut model), [10_000, 11_000]);
}

#[test]
fn what_was_caused_before_the_start_or_at_no_time_is_not_measured() {
    let mut model = started();
    model.apply(caused("a", "10.0.0.1", "2026-11-21T11:59:59.999Z"));
    model.apply(caused("b", "10.0.0.2", Value::Null));
    model.apply(slice("c", json!([{"addresses": ["10.0.0.3"]}])));
    assert_eq!(millis_after_start(&mut model), []);
    assert!(model.conditions().is_empty());
    model.apply(caused("b", "10.0.0.4", "yesterday"));
    assert_eq!(millis_after_start(&mut model), []);
    let (about, message) = model.conditions().pop_first().unwrap();
    assert!(about.contains("EndpointSlice default/b"), "{about}");
    assert!(about.contains("last-change-trigger-time") && message.contains("yesterday"));
}

#[test]
fn a_slice_that_goes_takes_its_causes_along() {
    let mut model = started();
    model.apply(caused("a", "10.0.0.1", "2026-11-21T12:00:01Z"));
    model.apply(caused("b", "10.0.0.2", "2026-11-21T12:00:02Z"));
    model.apply(delete(Kind::EndpointSlice, "a"));
    assert_eq!(millis_after_start(&mut model), [2000]);
}

#[test]
fn causes_do_not_pile_up_without_end() {
    let mut model = started();
    for index in 0..TRIGGERS_MAX + 10 {
        let address = format!("10.{}.{}.{}", index >> 16, index >> 8 & 255, index & 255);
        let at = format!("2026-11-21T12:00:01.{index:09}Z");
        model.apply(caused("a", &address, at));
    }
    assert_eq!(model.take_triggers().len(), TRIGGERS_MAX);
    model.apply(caused("a", "10.9.0.1", "2026-11-21T12:01:00Z"));
    assert_eq!(model.take_triggers().len(), 1);
}
