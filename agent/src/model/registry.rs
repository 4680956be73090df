//! Which addresses are whose: endpoints', ClusterIPs, and those that Services ask for.
//!
//! Kept as counts, so that a change costs what it changes. What a change may mean for others comes
//! back as [`Touched`].

use std::net::IpAddr;

use millrace_common::address::{V4, V6};

use super::family::PerFamily;
use super::service::{Addresses, Service};
use super::slice::{Endpoints, Slice};
use crate::hash::HashMap;
use crate::source::SharedName;

/// Both families.
#[derive(Default)]
pub(super) struct Registry {
    v4: Taken<V4>,
    v6: Taken<V6>,
}

/// One family.
pub(super) struct Taken<A> {
    /// How many endpoints have the address.
    endpoints: HashMap<A, u32>,
    /// How many Services have it as ClusterIP.
    cluster_ips: HashMap<A, u32>,
    /// Services that ask for it as externalIP or as load balancer IP.
    asked: HashMap<A, Vec<SharedName>>,
    /// Those of them to whom a load balancer gave it.
    balanced: HashMap<A, Vec<SharedName>>,
}

/// What a change may have changed for others.
#[derive(Default)]
pub(super) struct Touched {
    /// Services that ask for an address which others have now, or have no longer.
    pub(super) services: Vec<SharedName>,
    /// Addresses of endpoints that are frontends now, or are no longer.
    pub(super) endpoints: Vec<IpAddr>,
}

/// An object comes or goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Move {
    Comes,
    Goes,
}

impl<A> Default for Taken<A> {
    fn default() -> Self {
        Self {
            endpoints: HashMap::default(),
            cluster_ips: HashMap::default(),
            asked: HashMap::default(),
            balanced: HashMap::default(),
        }
    }
}

impl Registry {
    /// A Service is replaced by another state of itself.
    pub(super) fn replace_service(
        &mut self,
        name: &SharedName,
        old: Option<&Service>,
        new: Option<&Service>,
    ) -> Touched {
        let mut touched = Touched::default();
        for (service, step) in [(old, Move::Goes), (new, Move::Comes)] {
            let Some(service) = service else { continue };
            if let Some(addresses) = &service.v4 {
                self.v4.service(name, addresses, step, &mut touched);
            }
            if let Some(addresses) = &service.v6 {
                self.v6.service(name, addresses, step, &mut touched);
            }
        }
        touched
    }

    /// A slice is replaced by another state of itself.
    pub(super) fn replace_slice(&mut self, old: Option<&Slice>, new: Option<&Slice>) -> Touched {
        let mut touched = Touched::default();
        for (slice, step) in [(old, Move::Goes), (new, Move::Comes)] {
            match slice.map(|slice| &slice.endpoints) {
                None => {}
                Some(Endpoints::V4(endpoints)) => {
                    let addresses = endpoints.iter().map(|endpoint| endpoint.address);
                    self.v4.endpoints(addresses, step, &mut touched);
                }
                Some(Endpoints::V6(endpoints)) => {
                    let addresses = endpoints.iter().map(|endpoint| endpoint.address);
                    self.v6.endpoints(addresses, step, &mut touched);
                }
            }
        }
        touched
    }

    /// One family's addresses.
    pub(super) fn of<A: PerFamily>(&self) -> &Taken<A> {
        A::taken(self)
    }
    pub(super) const fn v4(&self) -> &Taken<V4> {
        &self.v4
    }
    pub(super) const fn v6(&self) -> &Taken<V6> {
        &self.v6
    }

    /// All Services that ask for addresses.
    pub(super) fn askers(&self) -> impl Iterator<Item = &SharedName> {
        let v4 = self.v4.asked.values().flatten();
        v4.chain(self.v6.asked.values().flatten())
    }
}

impl<A: PerFamily> Taken<A> {
    /// Whether an endpoint has the address.
    pub(super) fn is_endpoint(&self, address: A) -> bool {
        self.endpoints.contains_key(&address)
    }
    /// Whether a Service has it as ClusterIP.
    pub(super) fn is_cluster_ip(&self, address: A) -> bool {
        self.cluster_ips.contains_key(&address)
    }
    /// Services that ask for it.
    fn askers(&self, address: A) -> &[SharedName] {
        self.asked.get(&address).map_or(&[], Vec::as_slice)
    }
    /// Services to whom a load balancer gave it.
    pub(super) fn balanced(&self, address: A) -> &[SharedName] {
        self.balanced.get(&address).map_or(&[], Vec::as_slice)
    }

    fn service(
        &mut self,
        name: &SharedName,
        addresses: &Addresses<A>,
        step: Move,
        touched: &mut Touched,
    ) {
        if count(&mut self.cluster_ips, addresses.cluster, step) {
            touched.services.extend(self.askers(addresses.cluster).iter().cloned());
            self.touch_endpoints(addresses.cluster, touched);
        }
        let balancers = distinct(addresses.balancers.iter());
        for address in &balancers {
            note(&mut self.balanced, *address, name, step);
            self.touch_endpoints(*address, touched);
        }
        for address in distinct(addresses.external.iter().chain(&balancers)) {
            note(&mut self.asked, address, name, step);
        }
    }

    fn touch_endpoints(&self, address: A, touched: &mut Touched) {
        if self.is_endpoint(address) {
            touched.endpoints.push(address.into());
        }
    }

    fn endpoints(&mut self, addresses: impl Iterator<Item = A>, step: Move, touched: &mut Touched) {
        for address in addresses {
            if count(&mut self.endpoints, address, step) {
                touched.services.extend(self.askers(address).iter().cloned());
            }
        }
    }
}

/// Count an owner of the address; whether it is the first, or was the last.
fn count<A: PerFamily>(counts: &mut HashMap<A, u32>, address: A, step: Move) -> bool {
    let number = counts.entry(address).or_default();
    match step {
        Move::Comes => {
            *number += 1;
            *number == 1
        }
        Move::Goes => {
            *number = number.saturating_sub(1);
            let last = *number == 0;
            if last {
                counts.remove(&address);
            }
            last
        }
    }
}

fn distinct<'a, A: PerFamily>(addresses: impl Iterator<Item = &'a A>) -> Vec<A> {
    let mut distinct: Vec<A> = addresses.copied().collect();
    distinct.sort_unstable();
    distinct.dedup();
    distinct
}

/// A Service is one of those at the address, or no longer.
fn note<A: PerFamily>(
    index: &mut HashMap<A, Vec<SharedName>>,
    address: A,
    name: &SharedName,
    step: Move,
) {
    let names = index.entry(address).or_default();
    match step {
        Move::Comes => names.push(name.clone()),
        Move::Goes => names.retain(|other| other != name),
    }
    if names.is_empty() {
        index.remove(&address);
    }
}
