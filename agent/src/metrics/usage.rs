//! Bytes, connections and failures of packets' flows over time, for a bounded number of service
//! ports and backends.
//!
//! Passes over the flows bring what is new. Who has series of its own keeps them as long as it is
//! there; what is brought for others is one sum. So nothing ever goes down.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use millrace_common::address::Family as IpFamily;
use millrace_common::service::ServiceRow;

use super::backends::{BACKENDS_MAX, BackendKey};
use super::family::Family;
use super::ledger::SERVICE_PORTS_MAX;
use super::scrape::{BACKEND_LABELS, BackendPlace, OTHER, Readings, port_labels};
use crate::canary::rows::is_canary;
use crate::flows::account::{Found, Led, Usage};

const SERVICE_BYTES_LABELS: &[&str] =
    &["service_namespace", "service_name", "service_port", "protocol", "direction"];
const BACKEND_BYTES_LABELS: &[&str] =
    &["service_namespace", "service_name", "service_port", "protocol", "backend", "direction"];

/// A backend of a service port.
pub(super) type Place = (u32, SocketAddr);

/// All that was brought.
pub(super) struct Totals {
    /// By service id.
    pub(super) services: Group<u32, Option<ServiceRow>>,
    /// With what their rows are found by.
    pub(super) backends: Group<Place, Option<BackendKey>>,
}

impl Default for Totals {
    fn default() -> Self {
        Self { services: Group::new(SERVICE_PORTS_MAX), backends: Group::new(BACKENDS_MAX) }
    }
}

impl Totals {
    /// Take in what a pass has found.
    pub(super) fn add(&mut self, family: IpFamily, found: &HashMap<Led, Found>) {
        let services = found.iter().map(|(led, found)| (led.service, None, found.usage));
        self.services.add(services);
        let key =
            |found: &Found| found.row.map(|(id, generation)| BackendKey { family, id, generation });
        let place = |led: &Led| (led.service, led.backend);
        let backends = found.iter().map(|(led, found)| (place(led), key(found), found.usage));
        self.backends.add(backends);
        // One that went and came again has another row.
        for (led, found) in found.iter().filter(|(_, found)| found.row.is_some()) {
            self.backends.know(place(led), key(found));
        }
    }
}

/// Those of one kind: `K` says which, `T` what else is known of it.
pub(super) struct Group<K, T> {
    own: HashMap<K, (T, Usage)>,
    rest: Usage,
    max: usize,
}

impl<K: Copy + Eq + Hash + Ord, T: Copy> Group<K, T> {
    fn new(max: usize) -> Self {
        Self { own: HashMap::new(), rest: Usage::default(), max }
    }

    fn add(&mut self, found: impl Iterator<Item = (K, T, Usage)>) {
        let mut new: HashMap<K, (T, Usage)> = HashMap::new();
        for (key, known, usage) in found {
            match self.own.get_mut(&key) {
                Some((_, total)) => *total += usage,
                None => new.entry(key).or_insert((known, Usage::default())).1 += usage,
            }
        }
        // The busiest first, which matters after a start.
        let mut new: Vec<_> = new.into_iter().collect();
        new.sort_by_key(|(key, (_, usage))| (Reverse(usage.bytes()), *key));
        for (key, found) in new {
            if self.own.len() < self.max {
                self.own.insert(key, found);
            } else {
                self.rest += found.1;
            }
        }
    }

    /// Those with series of their own.
    pub(super) fn own(&self) -> impl Iterator<Item = (K, T, Usage)> {
        self.own.iter().map(|(key, (known, usage))| (*key, *known, *usage))
    }

    /// All others in one, if there ever were any.
    pub(super) fn rest(&self) -> Option<Usage> {
        (self.rest != Usage::default()).then_some(self.rest)
    }

    fn know(&mut self, key: K, now: T) {
        if let Some((known, _)) = self.own.get_mut(&key) {
            *known = now;
        }
    }

    /// It is gone.
    pub(super) fn forget(&mut self, key: K) {
        self.own.remove(&key);
    }
}

impl Group<u32, Option<ServiceRow>> {
    /// Whose id it is now; nobody's: it is gone. An id that was given to another begins anew.
    pub(super) fn set_name(&mut self, id: u32, name: Option<ServiceRow>) {
        let Some(row) = name else { return self.forget(id) };
        let Some((known, usage)) = self.own.get_mut(&id) else { return };
        if known.replace(row).is_some_and(|before| before != row) {
            *usage = Usage::default();
        }
    }
}

/// Who that is now, and what there is to say of them. The lock is not held while maps are read: the
/// loop takes it.
pub(super) fn families(maps: &dyn Readings, totals: &Mutex<Totals>) -> Result<[Family; 4]> {
    let lock =
        || -> MutexGuard<'_, Totals> { totals.lock().unwrap_or_else(PoisonError::into_inner) };
    let ids: Vec<u32> = lock().services.own().map(|(id, ..)| id).collect();
    for id in ids {
        let name = maps.service(id)?;
        lock().services.set_name(id, name);
    }
    let places: Vec<_> = lock().backends.own().map(|(place, key, _)| (place, key)).collect();
    let mut names: HashMap<u32, Option<ServiceRow>> = HashMap::new();
    for ((service, address), key) in places {
        let wanted = BackendPlace { service, address };
        let now = key.map(|key| maps.backend(key)).transpose()?.flatten();
        if now != Some(wanted) {
            lock().backends.forget((service, address));
        } else if let Entry::Vacant(vacant) = names.entry(service) {
            vacant.insert(maps.service(service)?);
        }
    }
    let totals = lock();
    let [connections, failures, backend_bytes] = backends(&totals, &names);
    Ok([services(&totals), connections, failures, backend_bytes])
}

fn services(totals: &Totals) -> Family {
    let mut bytes = Family::counter(
        "millrace_service_bytes_total",
        "Bytes of IP packets of flows, by service port; what sockets that were led at connect() \
         send is not seen",
        SERVICE_BYTES_LABELS,
    );
    let mut add = |[namespace, name, port, protocol]: [&str; 4], usage: Usage| {
        for (direction, count) in directions(usage) {
            bytes.add(&[namespace, name, port, protocol, direction], count);
        }
    };
    for (_, name, usage) in totals.services.own() {
        if let Some(row) = name.filter(|row| !is_canary(row)) {
            add(port_labels(&row), usage);
        }
    }
    totals.services.rest().into_iter().for_each(|rest| add([OTHER; 4], rest));
    bytes
}

fn backends(totals: &Totals, names: &HashMap<u32, Option<ServiceRow>>) -> [Family; 3] {
    let mut opened = Family::counter(
        "millrace_backend_connections_total",
        "New connections and UDP flows of packets led to a backend; sockets are not in it",
        BACKEND_LABELS,
    );
    let mut failed = Family::counter(
        "millrace_backend_failures_total",
        "Connections of packets (TCP, SCTP) that the backend refused or did not answer; sockets \
         are not in it",
        BACKEND_LABELS,
    );
    let mut bytes = Family::counter(
        "millrace_backend_bytes_total",
        "Bytes of IP packets of flows, by backend; what sockets that were led at connect() send \
         is not seen",
        BACKEND_BYTES_LABELS,
    );
    let mut add = |[namespace, name, port, protocol]: [&str; 4], backend: &str, usage: Usage| {
        let of = |last| [namespace, name, port, protocol, backend, last];
        opened.add(&of("packet"), usage.opened);
        failed.add(&of("packet"), usage.failed);
        for (direction, count) in directions(usage) {
            bytes.add(&of(direction), count);
        }
    };
    for ((service, address), _, usage) in totals.backends.own() {
        // A pass may have brought one since names were asked for.
        let Some(Some(row)) = names.get(&service) else { continue };
        if !is_canary(row) {
            add(port_labels(row), &address.to_string(), usage);
        }
    }
    totals.backends.rest().into_iter().for_each(|rest| add([OTHER; 4], OTHER, rest));
    [opened, failed, bytes]
}

const fn directions(usage: Usage) -> [(&'static str, u64); 2] {
    [("to_backend", usage.to_backend), ("to_client", usage.to_client)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn led(service: u32) -> Led {
        let [_, _, high, low] = service.to_be_bytes();
        let backend = SocketAddr::from(([10, 0, high, low], 80));
        Led { service, backend }
    }

    fn found(bytes: u64) -> Found {
        Found { row: Some((1, 1)), usage: usage(bytes) }
    }

    const fn usage(bytes: u64) -> Usage {
        Usage { opened: 1, failed: 0, to_backend: bytes, to_client: 0 }
    }

    fn sum<K: Copy + Eq + Hash + Ord, T: Copy>(group: &Group<K, T>) -> u64 {
        let own: u64 = group.own().map(|(.., usage)| usage.bytes()).sum();
        own + group.rest().unwrap_or_default().bytes()
    }

    #[test]
    fn the_busiest_get_their_own_series_and_nothing_is_lost() {
        let count = SERVICE_PORTS_MAX as u32 + 10;
        let mut totals = Totals::default();
        let all = (1..=count).map(|id| (led(id), found(id.into()))).collect();
        totals.add(IpFamily::V4, &all);
        totals.add(IpFamily::V4, &all);
        assert_eq!(totals.services.own().count(), SERVICE_PORTS_MAX);
        assert_eq!(totals.backends.own().count(), BACKENDS_MAX);
        assert!(totals.services.own().all(|(id, ..)| id > 10));
        let rest = Usage { opened: 20, ..usage(2 * (1..=10).sum::<u64>()) };
        assert_eq!(totals.backends.rest(), Some(rest));
        let sum_of_all = u64::from(count * (count + 1));
        assert_eq!((sum(&totals.services), sum(&totals.backends)), (sum_of_all, sum_of_all));
    }

    #[test]
    fn what_is_gone_makes_room_and_the_sum_of_the_others_stays() {
        let count = SERVICE_PORTS_MAX as u32 + 1;
        let mut totals = Totals::default();
        totals.add(IpFamily::V4, &(1..=count).map(|id| (led(id), found(1))).collect());
        assert_eq!(totals.services.rest(), Some(usage(1)));
        totals.services.set_name(1, None);
        totals.add(IpFamily::V4, &[(led(count), found(5))].into());
        assert_eq!(totals.services.own().count(), SERVICE_PORTS_MAX);
        let own = totals.services.own().find(|(id, ..)| *id == count);
        assert_eq!(own.map(|(.., usage)| usage), Some(usage(5)));
        assert_eq!(totals.services.rest(), Some(usage(1)));
    }

    #[test]
    fn an_id_that_is_given_to_another_begins_anew() {
        let mut totals = Totals::default();
        let named = |name| ServiceRow::new("shop", name, "", 6);
        totals.add(IpFamily::V4, &[(led(1), found(5))].into());
        totals.services.set_name(1, named("web"));
        totals.services.set_name(1, named("web"));
        assert_eq!(sum(&totals.services), 5);
        totals.services.set_name(1, named("other"));
        assert_eq!(sum(&totals.services), 0);
        totals.add(IpFamily::V4, &[(led(1), found(2))].into());
        totals.services.set_name(1, named("other"));
        assert_eq!(sum(&totals.services), 2);
    }

    #[test]
    fn a_backend_is_the_same_whatever_its_row_and_answers_do_not_know_it() {
        let mut totals = Totals::default();
        for (row, bytes) in [(Some((1, 1)), 5), (Some((9, 2)), 6), (None, 7)] {
            let found = Found { row, usage: usage(bytes) };
            totals.add(IpFamily::V4, &[(led(1), found)].into());
        }
        let key = BackendKey { family: IpFamily::V4, id: 9, generation: 2 };
        let own: Vec<_> = totals.backends.own().collect();
        assert_eq!(own[0].1, Some(key));
        assert_eq!((own.len(), sum(&totals.backends)), (1, 18));
    }
}
