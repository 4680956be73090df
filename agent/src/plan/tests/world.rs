//! Random Services, for property tests.

use std::collections::{BTreeMap, BTreeSet};

use millrace_common::frontend::{Kind, flags};
use proptest::prelude::*;

use super::*;

/// The frontend that several services may want.
pub(super) const SHARED: u8 = 200;

/// How one port should be.
#[derive(Clone, Debug)]
pub(super) struct PortSpec {
    cluster: BTreeSet<u8>,
    local: BTreeSet<u8>,
    draining: BTreeSet<u8>,
    v6: bool,
    external: Option<bool>,
    shared: Option<bool>,
    affinity_secs: u32,
}

/// How one Service should be from some moment on.
#[derive(Clone, Debug)]
pub(super) struct Step {
    service: u8,
    ports: BTreeMap<u8, PortSpec>,
    /// Time passed since the step before.
    pub(super) pause: Duration,
}

fn numbers() -> impl Strategy<Value = BTreeSet<u8>> {
    prop::collection::btree_set(1..6_u8, 0..5)
}

fn port_spec(sharing: bool) -> impl Strategy<Value = PortSpec> {
    let as_cluster_ip = prop::bool::weighted(0.3);
    let shared = if sharing { prop::option::of(as_cluster_ip).boxed() } else { Just(None).boxed() };
    (numbers(), numbers(), numbers(), any::<bool>(), any::<Option<bool>>(), shared, 0..2_u32)
        .prop_map(|(cluster, local, draining, v6, external, shared, affinity_secs)| PortSpec {
            cluster,
            local,
            draining,
            v6,
            external,
            shared,
            affinity_secs,
        })
}

/// A sequence of changes to four services with up to two ports each.
pub(super) fn steps(sharing: bool) -> impl Strategy<Value = Vec<Step>> {
    let ports = prop::collection::btree_map(0..2_u8, port_spec(sharing), 0..3);
    let step = (0..4_u8, ports, 0..4_u64).prop_map(|(service, ports, pause)| Step {
        service,
        ports,
        pause: Duration::from_secs(pause),
    });
    prop::collection::vec(step, 1..14)
}

impl PortSpec {
    fn family<A: TestFamily>(&self, own: u8) -> DesiredFamily<A> {
        let all = |set: &BTreeSet<u8>| places(&set.iter().copied().collect::<Vec<_>>());
        let serving = self.cluster.iter().chain(&self.local).chain(&self.draining).copied();
        let mut frontends = vec![frontend(own, Kind::ClusterIp, List::Cluster)];
        if let Some(local) = self.external {
            let far = if local { List::Local } else { List::Cluster };
            frontends.push(frontend(own + 100, Kind::LoadBalancer, far));
        }
        if let Some(as_cluster_ip) = self.shared {
            let kind = if as_cluster_ip { Kind::ClusterIp } else { Kind::NodePort };
            frontends.push(frontend(SHARED, kind, List::Cluster));
        }
        for frontend in &mut frontends {
            frontend.affinity_secs = self.affinity_secs;
            frontend.flags |= if self.affinity_secs > 0 { flags::AFFINITY } else { 0 };
        }
        DesiredFamily {
            cluster: all(&self.cluster),
            local: all(&self.local),
            serving: all(&serving.collect()),
            frontends,
        }
    }
}

impl Step {
    pub(super) fn desired(&self) -> Desired {
        let port = |(index, spec): (&u8, &PortSpec)| {
            let mut port = port(["x", "y"][usize::from(*index)]);
            let own = 10 + self.service * 2 + index;
            port.v4 = spec.family(own);
            if spec.v6 {
                port.v6 = spec.family(own);
            }
            port
        };
        let service = ["a", "b", "c", "d"][usize::from(self.service)];
        with_ports(service, self.ports.iter().map(port).collect())
    }
}

/// The last state of each service.
pub(super) fn last(steps: &[Step]) -> Vec<Desired> {
    let all = steps.iter().map(|step| (step.service, step.desired()));
    all.collect::<BTreeMap<_, _>>().into_values().collect()
}

/// The maps that lead to these answers when written from nothing.
pub(super) fn from_scratch(desired: &[Desired]) -> maps::Answers {
    let mut bench = Bench::new(ROOMY);
    for desired in desired {
        bench.plan(desired);
    }
    bench.maps.answers()
}

/// Plan until nobody is left to be planned again.
pub(super) fn settle(bench: &mut Bench, wanted: &BTreeMap<ObjectName, Desired>, first: &Desired) {
    let mut queue = vec![first.clone()];
    let mut rounds = 0;
    while let Some(desired) = queue.pop() {
        let retry = bench.plan(&desired).retry;
        queue.extend(retry.iter().filter_map(|name| wanted.get(name).cloned()));
        rounds += 1;
        assert!(rounds < 100, "planning goes round in circles");
    }
}
