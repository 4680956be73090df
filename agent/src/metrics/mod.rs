//! What the agent tells Prometheus: kube-proxy's own names ([`proxy`]), so that dashboards and
//! alerts made for it go on working, and ours ([`own`]).
//!
//! The loop records what happens as it happens; that costs it some atomic additions. What only the
//! kernel's maps know is read by whoever scrapes ([`scrape`]), from the scraper's own thread and at
//! most once in [`scrape::REUSE`], however many ask.

mod backends;
mod changes;
mod family;
mod instruments;
mod ledger;
mod own;
mod process;
mod proxy;
mod requests;
pub mod scrape;
mod sizes;
#[cfg(test)]
mod tests;
mod usage;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use millrace_common::address::Family;
use prometheus::{Registry, TextEncoder};
use tokio::runtime::Handle;

use self::own::Own;
use self::proxy::Proxy;
pub use self::requests::Requests;
use self::scrape::{Readings, Scrape, Scraper};
use self::sizes::Sizes;
use self::usage::Totals;
use crate::apply::no_local::NoLocal;
use crate::canary::tally::Check;
use crate::flows::Pass;
use crate::model::triggers::{Pending, Trigger};
use crate::plan::occupancy::Occupancy;
use crate::report::{Report, Severity};
use crate::source::{Event, Kind};

/// The `Content-Type` of [`Metrics::render`]: Prometheus' classic text format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Both values of the label `ip_family`, as kube-proxy writes them.
pub const IP_FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

/// All metrics of this process. Clones are the same metrics.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    proxy: Proxy,
    own: Own,
    sizes: Sizes,
    requests: Requests,
    scraper: Mutex<Scraper>,
    /// See [`Occupancy::service_ids_end`]; 0: not known, and all counts are looked at.
    service_ids_end: AtomicU32,
    /// The last whole pass over the flow tables; apart from the scraper, whose lock is held while
    /// maps are read.
    pass: Mutex<Arc<Pass>>,
    /// What all passes have brought; its lock is held for moments.
    totals: Mutex<Totals>,
    /// The runtime whose tasks are counted.
    runtime: Option<Handle>,
}

impl Metrics {
    /// All metrics, at zero. Counts the tasks of the runtime it is called in.
    ///
    /// # Errors
    /// Two metrics have the same name: a bug.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let inner = Inner {
            proxy: Proxy::new(&registry)?,
            own: Own::new(&registry)?,
            sizes: Sizes::new(&registry)?,
            requests: Requests::new(&registry)?,
            scraper: Mutex::default(),
            service_ids_end: AtomicU32::new(0),
            pass: Mutex::default(),
            totals: Mutex::default(),
            runtime: Handle::try_current().ok(),
            registry,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Everything in text format, to be sent as [`CONTENT_TYPE`].
    ///
    /// Reads maps, which takes milliseconds to tens of them, and waits for whoever else does: call
    /// it where a thread may block (`tokio::task::spawn_blocking`).
    pub fn render(&self) -> String {
        let scrape = self.scrape();
        self.inner.sizes.set_rooms(&scrape.rooms);
        let mut families = self.inner.registry.gather();
        families.extend(process::families(self.tasks()));
        families.extend(scrape.families);
        families.sort_by(|a, b| a.name().cmp(b.name()));
        let mut text = String::new();
        // It fails on families without a name or without samples, and there are none.
        if let Err(error) = TextEncoder::new().encode_utf8(&families, &mut text) {
            tracing::error!("cannot write the metrics: {error}");
        }
        text
    }

    fn scrape(&self) -> Scrape {
        let pass = Arc::clone(&self.inner.pass.lock().unwrap_or_else(PoisonError::into_inner));
        let mut scraper = self.inner.scraper.lock().unwrap_or_else(PoisonError::into_inner);
        scraper.scrape(
            &pass,
            &self.inner.totals,
            self.inner.service_ids_end.load(Ordering::Relaxed),
        )
    }

    fn tasks(&self) -> Option<usize> {
        self.inner.runtime.as_ref().map(|runtime| runtime.metrics().num_alive_tasks())
    }

    /// From now on, a scrape reads these maps.
    pub fn read_maps(&self, maps: Box<dyn Readings>) {
        self.inner.scraper.lock().unwrap_or_else(PoisonError::into_inner).set_maps(maps);
    }

    /// Counts requests to the API server.
    pub fn requests(&self) -> Requests {
        self.inner.requests.clone()
    }

    /// `/healthz` was answered with this status.
    pub fn healthz(&self, code: u16) {
        self.inner.proxy.healthz.with_label_values(&[code.to_string()]).inc();
    }

    /// `/livez` was answered with this status.
    pub fn livez(&self, code: u16) {
        self.inner.proxy.livez.with_label_values(&[code.to_string()]).inc();
    }

    /// The canary was sent through some hooks.
    pub fn canary_checked(&self, checks: &[Check]) {
        for check in checks {
            let family = crate::model::family_name(check.family);
            self.inner.own.canary(&check.hook, family, check.error.is_none());
        }
    }

    /// The source said something.
    pub(crate) fn event(&self, event: &Event) {
        let kind = match event {
            Event::Apply(object) => object.kind(),
            Event::Delete(kind, _) => *kind,
            _ => return,
        };
        match kind {
            Kind::Service => self.inner.proxy.changes.services.inc(),
            Kind::EndpointSlice => self.inner.proxy.changes.endpoints.inc(),
            Kind::Node | Kind::ServiceCidr => {}
        }
    }

    /// Changes wait for a round.
    pub(crate) fn queued(&self, pending: Pending) {
        self.set_pending(pending);
        let now = since_epoch().as_secs_f64();
        for family in IP_FAMILIES {
            self.inner.proxy.last_queued.with_label_values(&[family]).set(now);
        }
    }

    fn set_pending(&self, pending: Pending) {
        self.inner.proxy.changes.services_pending.set(count(pending.services));
        self.inner.proxy.changes.endpoints_pending.set(count(pending.slices));
    }

    /// A round was carried out. It is one for both families.
    pub(crate) fn synced(&self, took: Duration, ops: usize) {
        self.set_pending(Pending::default());
        self.inner.own.map_writes.inc_by(ops as u64);
        let now = since_epoch().as_secs_f64();
        for family in IP_FAMILIES {
            let proxy = &self.inner.proxy;
            proxy.sync_duration.with_label_values(&[family]).observe(took.as_secs_f64());
            proxy.last_synced.with_label_values(&[family]).set(now);
        }
    }

    /// A round failed.
    pub(crate) fn sync_failed(&self) {
        self.inner.own.sync_failures.inc();
    }

    /// What these changes asked for is in the maps now.
    pub(crate) fn programmed(&self, triggers: &[Trigger]) {
        let now = since_epoch();
        for trigger in triggers {
            let took = now.saturating_sub(trigger.at);
            let family = crate::model::family_name(trigger.family);
            self.inner.proxy.programming.with_label_values(&[family]).observe(took.as_secs_f64());
        }
    }

    /// How full the maps are that plans fill, and what is in them.
    pub(crate) fn planned(&self, occupancy: &Occupancy, no_local: &NoLocal) {
        self.inner.sizes.set_occupancy(occupancy);
        self.inner.service_ids_end.store(occupancy.service_ids_end, Ordering::Relaxed);
        self.inner.proxy.set_no_local(no_local);
    }

    /// All flow tables were gone through once.
    pub(crate) fn swept(&self, pass: Pass) {
        for (family, swept) in IP_FAMILIES.into_iter().zip([&pass.v4, &pass.v6]) {
            let proxy = &self.inner.proxy;
            let deleted = proxy.reconciler_deleted.with_label_values(&[family]);
            deleted.inc_by(swept.stale_removed);
            let took = proxy.reconciler_duration.with_label_values(&[family]);
            took.observe(swept.took.as_secs_f64());
            self.inner.own.swept.with_label_values(&[family]).inc_by(swept.removed());
        }
        let mut totals = self.inner.totals.lock().unwrap_or_else(PoisonError::into_inner);
        totals.add(Family::V4, &pass.v4.usage);
        totals.add(Family::V6, &pass.v6.usage);
        drop(totals);
        self.inner.sizes.set_rooms(&pass.rooms());
        *self.inner.pass.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(pass);
    }

    /// What the agent says about itself.
    pub(crate) fn report(&self, report: &Report) {
        let own = &self.inner.own;
        own.ready.set(i64::from(report.ready));
        own.set_total(&own.hooks_repaired, "socket", report.repaired_hooks);
        own.set_total(&own.hooks_repaired, "device", report.repaired_device_hooks);
        for (severity, label) in [(Severity::Refused, "refused"), (Severity::Warning, "warning")] {
            let found = report.conditions.iter().filter(|c| c.severity == severity).count();
            own.conditions.with_label_values(&[label]).set(count(found));
        }
    }
}

/// Time since the epoch: samples of times are of the clock on the wall.
pub(crate) fn since_epoch() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
