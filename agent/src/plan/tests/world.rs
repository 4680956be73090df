//! Random Services, for property tests.

use std::collections::{BTreeMap, BTreeSet};

use millrace_common::frontend::{Kind, flags};
use proptest::prelude::*;

use super::*;
use crate::model::sources::Range;

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
    /// Source ranges of the external frontend: number of an address, and bits that do not count.
    ranges: Option<BTreeSet<(u8, u8)>>,
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
    let lists = (numbers(), numbers(), numbers());
    let ranges = prop::collection::btree_set((0..32_u8, 0..4_u8), 0..4);
    let ranges = prop::option::of(ranges);
    (lists, any::<bool>(), any::<Option<bool>>(), shared, 0..2_u32, ranges).prop_map(
        |((cluster, local, draining), v6, external, shared, affinity_secs, ranges)| PortSpec {
            cluster,
            local,
            draining,
            v6,
            external,
            shared,
            affinity_secs,
            ranges,
        },
    )
}

/// The range of address number `n` without its last bits.
fn range<A: TestFamily>((n, free_bits): (u8, u8)) -> Range<A> {
    let bits = u8::try_from(size_of::<A>() * 8).unwrap();
    Range { address: A::address(n >> free_bits << free_bits), length: bits - free_bits }
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
        let ranges = self.ranges.iter().filter(|_| self.external.is_some()).flatten();
        let sources: BTreeSet<Range<A>> = ranges.map(|found| range(*found)).collect();
        for frontend in frontends.iter_mut().filter(|found| found.kind == Kind::LoadBalancer) {
            frontend.flags |= if self.ranges.is_some() { flags::SOURCE_RANGES } else { 0 };
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
            sources: sources.into_iter().collect(),
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

/// What the maps answer when written from nothing.
pub(super) fn from_scratch(desired: &[Desired]) -> (maps::Answers, maps::Clients) {
    let mut bench = Bench::new(ROOMY);
    for desired in desired {
        bench.plan(desired);
    }
    bench.all_answers()
}

/// Plan until nobody is left to be planned again.
pub(super) fn settle(bench: &mut Bench, wanted: &BTreeMap<SharedName, Desired>, first: &Desired) {
    let mut queue = vec![first.clone()];
    let mut rounds = 0;
    while let Some(desired) = queue.pop() {
        let retry = bench.plan(&desired).retry;
        queue.extend(retry.iter().filter_map(|name| wanted.get(name).cloned()));
        rounds += 1;
        assert!(rounds < 100, "planning goes round in circles");
    }
}
