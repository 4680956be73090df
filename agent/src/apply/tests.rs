//! The loop's step against maps in memory that fail, crash and overflow.

use std::time::Duration;

use anyhow::{Result, bail};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::plan::GRACE;
use crate::plan::tests::maps::Maps;
use crate::settings::Policy;
use crate::source::{Event, Kind, Object};

const SERVICES: usize = 6;

/// Maps that stop working after a number of operations, once.
struct Store {
    maps: Maps,
    capacity: Capacity,
    fails_after: Option<usize>,
    executed: usize,
    adopted: bool,
}

impl Store {
    fn new(capacity: Capacity) -> Self {
        Self { maps: Maps::new(capacity), capacity, fails_after: None, executed: 0, adopted: false }
    }

    /// How many backends the ClusterIP of a service leads to.
    fn backends_of(&self, index: u8) -> usize {
        let key = ([10, 96, 0, index + 1].into(), 80, 6);
        self.maps.answers()[&key].near.len()
    }
}

impl MapStore for Store {
    fn execute(&mut self, ops: &[Op]) -> Result<()> {
        assert!(self.adopted, "the rows are nobody's yet");
        for op in ops {
            if self.fails_after == Some(self.executed) {
                self.fails_after = None;
                bail!("the kernel said no");
            }
            self.maps.apply(op);
            self.executed += 1;
            // Panics if any frontend leads astray.
            self.maps.answers();
        }
        Ok(())
    }
    fn snapshot(&self) -> Result<Snapshot> {
        Ok(self.maps.snapshot())
    }
    fn adopt(&mut self, rows: &Snapshot) -> Result<()> {
        assert_eq!(*rows, self.maps.snapshot());
        self.adopted = true;
        Ok(())
    }
    fn capacity(&self) -> Capacity {
        self.capacity
    }
}

fn small() -> Capacity {
    Capacity { services: 16, backends: 64, slots: 128, frontends: 40, sources: 16 }
}

fn service(index: usize, node_port: u16) -> Event {
    let object = json!({
        "metadata": {"name": format!("s{index}"), "namespace": "ns"},
        "spec": {
            "clusterIP": format!("10.96.0.{}", index + 1),
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": node_port}],
        },
    });
    Event::Apply(Object::Service(serde_json::from_value(object).unwrap()))
}

fn slice(index: usize, endpoints: usize) -> Event {
    let addresses: Vec<Value> = (0..endpoints)
        .map(|endpoint| json!({"addresses": [format!("10.1.{index}.{}", endpoint + 1)]}))
        .collect();
    let object = json!({
        "metadata": {
            "name": format!("s{index}-a"), "namespace": "ns",
            "labels": {"kubernetes.io/service-name": format!("s{index}")},
        },
        "addressType": "IPv4",
        "endpoints": addresses,
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    });
    Event::Apply(Object::EndpointSlice(serde_json::from_value(object).unwrap()))
}

fn gone(index: usize) -> Event {
    Event::Delete(Kind::Service, ObjectName::new("ns", format!("s{index}")))
}

fn synced_model() -> Model {
    let mut model = Model::new("n1", Policy::default());
    for kind in [Kind::Service, Kind::EndpointSlice] {
        model.apply(Event::Begin(kind));
        model.apply(Event::Complete(kind));
    }
    model
}

/// Rounds until nothing is dirty; an error is retried as the loop does.
fn settle(reconciler: &mut Reconciler, model: &mut Model, store: &mut Store, now: Duration) {
    for _ in 0..4 {
        if reconciler.round(model, store, now).is_ok() && !model.has_dirty() {
            return;
        }
        model.mark_all_dirty();
    }
    panic!("rounds keep failing");
}

/// One step of a random story.
#[derive(Clone, Debug)]
enum Step {
    Service(usize, u16),
    Endpoints(usize, usize),
    Gone(usize),
    /// An operation fails this far into the next round.
    Failure(usize),
    /// The agent dies and starts anew.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let service = 0..SERVICES;
    let step = prop_oneof![
        (service.clone(), prop_oneof![Just(0_u16), 30000_u16..30004])
            .prop_map(|(index, port)| Step::Service(index, port)),
        (service.clone(), 0_usize..5).prop_map(|(index, count)| Step::Endpoints(index, count)),
        service.prop_map(Step::Gone),
        (0_usize..12).prop_map(Step::Failure),
        Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever fails and whenever the agent dies, the maps end up as if nothing had happened.
    #[test]
    fn failures_and_restarts_leave_no_trace(story in steps()) {
        let mut store = Store::new(small());
        let mut model = synced_model();
        let mut reconciler = Reconciler::recover(&mut store).unwrap();
        let mut now = Duration::ZERO;
        for step in story {
            match step {
                Step::Service(index, port) => model.apply(service(index, port)),
                Step::Endpoints(index, count) => model.apply(slice(index, count)),
                Step::Gone(index) => model.apply(gone(index)),
                Step::Failure(after) => store.fails_after = Some(store.executed + after),
                Step::Restart => {
                    store.fails_after = None;
                    reconciler = Reconciler::recover(&mut store).unwrap();
                    reconciler.mark_known(&mut model);
                    model.mark_all_dirty();
                }
            }
            settle(&mut reconciler, &mut model, &mut store, now);
            now += GRACE + Duration::from_secs(1);
        }
        // NodePorts that two services claim go to whoever came first, which a fresh start cannot
        // know: compare what has one claimant only.
        let mut fresh = Store::new(small());
        let mut again = Reconciler::recover(&mut fresh).unwrap();
        model.mark_all_dirty();
        settle(&mut again, &mut model, &mut fresh, now);
        let cluster_ips = |store: &Store| {
            let answers = store.maps.answers().into_iter();
            answers.filter(|((_, port, _), _)| *port == 80).collect::<Vec<_>>()
        };
        prop_assert_eq!(cluster_ips(&store), cluster_ips(&fresh));
    }
}

#[test]
fn a_failed_write_is_read_back_and_made_good() {
    let mut store = Store::new(small());
    let mut model = synced_model();
    let mut reconciler = Reconciler::recover(&mut store).unwrap();
    model.apply(service(0, 0));
    model.apply(slice(0, 3));
    store.fails_after = Some(2);
    assert!(reconciler.round(&mut model, &mut store, Duration::ZERO).is_err());
    model.mark_all_dirty();
    reconciler.round(&mut model, &mut store, GRACE * 2).unwrap();
    assert_eq!(store.backends_of(0), 3);
}

#[test]
fn a_service_that_does_not_fit_is_refused_whole_until_there_is_room() {
    let capacity = Capacity { backends: 5, ..small() };
    let mut store = Store::new(capacity);
    let mut model = synced_model();
    let mut reconciler = Reconciler::recover(&mut store).unwrap();
    model.apply(service(0, 0));
    model.apply(slice(0, 3));
    model.apply(service(1, 0));
    model.apply(slice(1, 3));
    reconciler.round(&mut model, &mut store, Duration::ZERO).unwrap();
    let refused: Vec<String> = reconciler.refused().map(|(_, text)| text.to_owned()).collect();
    assert_eq!(refused.len(), 1);
    assert!(refused[0].contains("--max-backends"), "{refused:?}");
    assert_eq!(store.maps.answers().len(), 1);
    model.apply(gone(0));
    reconciler.round(&mut model, &mut store, GRACE).unwrap();
    reconciler.retry_refused(&mut model);
    reconciler.round(&mut model, &mut store, GRACE * 3).unwrap();
    assert_eq!(reconciler.refused().count(), 0);
    assert_eq!(store.backends_of(1), 3);
}

#[test]
fn a_released_address_goes_to_who_waited_for_it() {
    let mut store = Store::new(small());
    let mut model = synced_model();
    model.set_node_addresses(vec!["192.0.2.1".parse().unwrap()]);
    let mut reconciler = Reconciler::recover(&mut store).unwrap();
    for index in [0, 1] {
        model.apply(service(index, 30000));
        model.apply(slice(index, index + 1));
    }
    reconciler.round(&mut model, &mut store, Duration::ZERO).unwrap();
    let conflicts: Vec<String> =
        reconciler.conflicts().map(|(_, conflict)| conflict.to_string()).collect();
    assert!(conflicts.iter().any(|text| text.contains("192.0.2.1:30000")), "{conflicts:?}");
    model.apply(gone(0));
    reconciler.round(&mut model, &mut store, Duration::ZERO).unwrap();
    assert_eq!(reconciler.conflicts().count(), 0);
    let key = ("192.0.2.1".parse().unwrap(), 30000, 6);
    assert_eq!(store.maps.answers()[&key].near.len(), 2);
}

#[test]
fn a_restart_with_nothing_changed_writes_nothing() {
    let mut store = Store::new(small());
    let mut model = synced_model();
    let mut reconciler = Reconciler::recover(&mut store).unwrap();
    for index in 0..SERVICES {
        model.apply(service(index, 0));
        model.apply(slice(index, 3));
    }
    reconciler.round(&mut model, &mut store, Duration::ZERO).unwrap();
    let before = store.executed;
    let mut reconciler = Reconciler::recover(&mut store).unwrap();
    reconciler.mark_known(&mut model);
    model.mark_all_dirty();
    let round = reconciler.round(&mut model, &mut store, Duration::ZERO).unwrap();
    assert_eq!((round.services, round.ops, store.executed), (SERVICES, 0, before));
}

#[test]
fn what_was_deleted_while_no_agent_ran_is_removed() {
    let mut store = Store::new(small());
    let mut model = synced_model();
    let mut reconciler = Reconciler::recover(&mut store).unwrap();
    model.apply(service(0, 0));
    reconciler.round(&mut model, &mut store, Duration::ZERO).unwrap();
    let mut model = synced_model();
    let mut reconciler = Reconciler::recover(&mut store).unwrap();
    reconciler.mark_known(&mut model);
    reconciler.round(&mut model, &mut store, Duration::ZERO).unwrap();
    assert!(store.maps.answers().is_empty());
}

#[test]
fn what_cannot_be_read_after_a_restart_is_served_as_before() {
    let mut store = Store::new(small());
    let mut model = synced_model();
    let mut reconciler = Reconciler::recover(&mut store).unwrap();
    model.apply(service(0, 0));
    model.apply(slice(0, 2));
    reconciler.round(&mut model, &mut store, Duration::ZERO).unwrap();
    let before = store.maps.answers();
    let mut model = Model::new("n1", Policy::default());
    model.apply(Event::Begin(Kind::Service));
    model.apply(Event::Keep(Kind::Service, ObjectName::new("ns", "s0")));
    model.apply(Event::Complete(Kind::Service));
    model.apply(slice(0, 2));
    let mut reconciler = Reconciler::recover(&mut store).unwrap();
    reconciler.mark_known(&mut model);
    reconciler.round(&mut model, &mut store, Duration::ZERO).unwrap();
    assert_eq!(store.maps.answers(), before);
    // The next list does not name it: it is gone.
    model.apply(Event::Begin(Kind::Service));
    model.apply(Event::Complete(Kind::Service));
    reconciler.round(&mut model, &mut store, Duration::ZERO).unwrap();
    assert!(store.maps.answers().is_empty());
}
