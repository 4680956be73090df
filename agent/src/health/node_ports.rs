//! One server for each Service with a healthCheckNodePort: load balancers that lead to local
//! endpoints alone ask each node there whether it has any.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millrace_common::address::Family;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Monitor;
use super::notices::{Board, Notices};
use super::pages;
use crate::http::{self as server, Listener, Pages, Place};
use crate::model::desired::HealthCheck;
use crate::source::{ObjectName, SharedName};

/// How long to wait before a port is tried again that could not be listened on.
const BIND_AGAIN: Duration = Duration::from_secs(5);
/// Services that have servers, at most; a cluster's range of NodePorts has 2768.
const SERVICES_MAX: usize = 8192;
/// Addresses that one port is served on, at most, of each family.
const ADDRESSES_MAX: usize = 64;

/// What should be served.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// Ports and counts.
    pub checks: BTreeMap<SharedName, HealthCheck>,
    /// The node's IPv4 addresses to serve them on; nothing: all.
    pub v4: Option<Vec<IpAddr>>,
    /// The node's IPv6 addresses.
    pub v6: Option<Vec<IpAddr>>,
}

impl Wanted {
    /// Where a port is served.
    fn places(&self, family: Family, port: u16) -> Vec<Place> {
        let (addresses, all): (_, IpAddr) = match family {
            Family::V4 => (&self.v4, Ipv4Addr::UNSPECIFIED.into()),
            Family::V6 => (&self.v6, Ipv6Addr::UNSPECIFIED.into()),
        };
        let place = |ip: &IpAddr| Place { address: SocketAddr::new(*ip, port), v6_only: true };
        match addresses {
            None => vec![place(&all)],
            Some(addresses) => addresses.iter().take(ADDRESSES_MAX).map(place).collect(),
        }
    }
}

/// Which Service has which port. Whoever has one keeps it; of those that come together, the first
/// by name gets it.
#[derive(Debug, Default)]
pub struct Claims(BTreeMap<u16, SharedName>);

impl Claims {
    /// Bring the claims up to date. Returns who does not get his port, and who has it.
    pub fn settle(
        &mut self,
        checks: &BTreeMap<SharedName, HealthCheck>,
    ) -> BTreeMap<SharedName, Option<SharedName>> {
        self.0.retain(|port, name| checks.get(name).is_some_and(|check| check.port == *port));
        let mut losers = BTreeMap::new();
        for (name, check) in checks {
            match self.0.get(&check.port) {
                Some(holder) if holder == name => {}
                Some(holder) => drop(losers.insert(name.clone(), Some(holder.clone()))),
                None if self.0.len() >= SERVICES_MAX => drop(losers.insert(name.clone(), None)),
                None => drop(self.0.insert(check.port, name.clone())),
            }
        }
        losers
    }
}

/// A port of a Service in one family, served.
struct Open {
    places: Vec<Place>,
    endpoints: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Open {
    /// Stop listening, and end the connections there are.
    async fn close(self) {
        for task in self.tasks {
            task.abort();
            // Cancelled: that was the order.
            let _ = task.await;
        }
    }
}

/// All that is served.
pub struct NodePorts {
    monitor: Monitor,
    board: Board,
    claims: Claims,
    open: BTreeMap<(SharedName, Family), Open>,
}

impl NodePorts {
    /// Nothing is served yet.
    pub fn new(monitor: Monitor, board: Board) -> Self {
        Self { monitor, board, claims: Claims::default(), open: BTreeMap::new() }
    }

    /// Serve what is wanted, until nobody wants anything any more.
    pub async fn run(mut self, mut wanted: watch::Receiver<Wanted>) {
        loop {
            let now = wanted.borrow_and_update().clone();
            let complete = self.settle(&now).await;
            let changed = tokio::select! {
                changed = wanted.changed() => changed,
                () = sleep(BIND_AGAIN), if !complete => Ok(()),
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Bring everything to where it is wanted. False: something could not be done.
    async fn settle(&mut self, wanted: &Wanted) -> bool {
        let losers = self.claims.settle(&wanted.checks);
        let mut notices: Notices =
            losers.iter().map(|(name, holder)| loss(name, holder.as_ref(), wanted)).collect();
        let mut goal = BTreeMap::new();
        for (name, check) in &wanted.checks {
            let counts = [(Family::V4, check.v4), (Family::V6, check.v6)];
            for (family, count) in counts.into_iter().filter(|_| !losers.contains_key(name)) {
                if let Some(count) = count {
                    let places = wanted.places(family, check.port);
                    goal.insert((name.clone(), family), (places, count));
                }
            }
        }
        self.close_others(&goal).await;
        for (key, (places, count)) in goal {
            if let Err((place, error)) = self.serve(&key, places, count) {
                let about = format!("Service {}", key.0);
                let message = format!(
                    "spec.healthCheckNodePort: cannot listen on {}: {error}; load balancers get \
                     no answer there; it is tried every {} s",
                    place.address,
                    BIND_AGAIN.as_secs()
                );
                notices.insert(about, message);
            }
        }
        let complete = notices.len() == losers.len();
        self.tell(notices);
        complete
    }

    /// Close what is not wanted, or is wanted elsewhere.
    async fn close_others(&mut self, goal: &BTreeMap<(SharedName, Family), (Vec<Place>, usize)>) {
        type Key = (SharedName, Family);
        let stays =
            |key: &Key, open: &Open| goal.get(key).is_some_and(|(at, _)| *at == open.places);
        let closed: Vec<Open> = self
            .open
            .extract_if(.., |key, open: &mut Open| !stays(key, open))
            .map(|(_, open)| open)
            .collect();
        for open in closed {
            open.close().await;
        }
    }

    /// Serve a port, or only say what it says now.
    fn serve(
        &mut self,
        key: &(SharedName, Family),
        places: Vec<Place>,
        count: usize,
    ) -> Result<(), (Place, std::io::Error)> {
        if let Some(open) = self.open.get(key) {
            open.endpoints.store(count, Ordering::Relaxed);
            return Ok(());
        }
        // All of them or none: half of a port would hide what is wrong.
        let listeners: Vec<Listener> = places
            .iter()
            .map(|place| server::listen(*place).map_err(|error| (*place, error)))
            .collect::<Result<_, _>>()?;
        let endpoints = Arc::new(AtomicUsize::new(count));
        let pages = self.pages(key.0.clone(), Arc::clone(&endpoints));
        let serve = |listener| tokio::spawn(server::serve(listener, Arc::clone(&pages)));
        let tasks = listeners.into_iter().map(serve).collect();
        self.open.insert(key.clone(), Open { places, endpoints, tasks });
        Ok(())
    }

    /// The same page for any path and method.
    fn pages(&self, name: SharedName, endpoints: Arc<AtomicUsize>) -> Pages {
        let monitor = self.monitor.clone();
        Arc::new(move |_| {
            let healthy = monitor.verdict().healthy;
            pages::service(&name, endpoints.load(Ordering::Relaxed), healthy)
        })
    }

    fn tell(&self, notices: Notices) {
        for (about, message) in self.board.replace(notices) {
            tracing::warn!("{about}: {message}");
        }
    }
}

fn loss(name: &ObjectName, holder: Option<&SharedName>, wanted: &Wanted) -> (String, String) {
    let port = wanted.checks.get(name).map_or(0, |check| check.port);
    let why = match holder {
        Some(holder) => {
            format!("{port} is Service {holder}'s already: give this one another")
        }
        None => format!("{SERVICES_MAX} Services have one already, which is the limit"),
    };
    (format!("Service {name}"), format!("spec.healthCheckNodePort: {why}"))
}
