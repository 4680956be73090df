//! kube-proxy's metrics: the names, labels and buckets of Kubernetes 1.36, those of every mode.
//!
//! What its modes keep apart is one thing here: a round serves both families, so both get its
//! duration; and what its conntrack reconciler deletes, our sweep of the flow tables does.

use prometheus::{
    GaugeVec, HistogramVec, IntCounterVec, IntGaugeVec, Registry, Result, exponential_buckets,
};

use super::IP_FAMILIES;
use super::changes::Changes;
use super::instruments::Instruments;
use crate::apply::no_local::NoLocal;

/// The first bucket of durations, in seconds; each of the others is twice the one before.
const SYNC_FIRST_BUCKET: f64 = 0.001;
/// Buckets of durations: up to 16.384 s.
const SYNC_BUCKETS: usize = 15;
/// Answers of the health server.
const HEALTH_CODES: [&str; 2] = ["200", "503"];

pub(super) struct Proxy {
    pub(super) sync_duration: HistogramVec,
    pub(super) last_synced: GaugeVec,
    pub(super) last_queued: GaugeVec,
    pub(super) programming: HistogramVec,
    pub(super) changes: Changes,
    pub(super) healthz: IntCounterVec,
    pub(super) livez: IntCounterVec,
    pub(super) reconciler_duration: HistogramVec,
    pub(super) reconciler_deleted: IntCounterVec,
    no_local: IntGaugeVec,
}

impl Proxy {
    pub(super) fn new(registry: &Registry) -> Result<Self> {
        let new = Instruments(registry);
        let durations = || exponential_buckets(SYNC_FIRST_BUCKET, 2.0, SYNC_BUCKETS);
        let proxy = Self {
            sync_duration: new.histograms(
                "kubeproxy_sync_proxy_rules_duration_seconds",
                "How long a round took that brought the maps to what is wanted",
                &["ip_family"],
                durations()?,
            )?,
            last_synced: new.times(
                "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
                "When the last round succeeded",
                &["ip_family"],
            )?,
            last_queued: new.times(
                "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
                "When a round was last asked for",
                &["ip_family"],
            )?,
            programming: new.histograms(
                "kubeproxy_network_programming_duration_seconds",
                "From the change of a pod or Service to its endpoints being in the maps",
                &["ip_family"],
                programming_buckets(),
            )?,
            changes: Changes::new(registry)?,
            healthz: new.counters("kubeproxy_proxy_healthz_total", HEALTHZ_HELP, &["code"])?,
            livez: new.counters("kubeproxy_proxy_livez_total", LIVEZ_HELP, &["code"])?,
            reconciler_duration: new.histograms(
                "kubeproxy_conntrack_reconciler_sync_duration_seconds",
                "How long a pass over the flow tables worked",
                &["ip_family"],
                durations()?,
            )?,
            reconciler_deleted: new.counters(
                "kubeproxy_conntrack_reconciler_deleted_entries_total",
                "Entries deleted of UDP flows whose backend is gone",
                &["ip_family"],
            )?,
            no_local: new.gauges(
                "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
                "Service ports with a Local policy and endpoints on other nodes only",
                &["traffic_policy", "ip_family"],
            )?,
        };
        proxy.begin();
        Ok(proxy)
    }

    /// What can be zero is there from the start: a rate needs a sample to begin from. Times are
    /// not: nothing has happened yet.
    fn begin(&self) {
        for family in IP_FAMILIES {
            self.sync_duration.with_label_values(&[family]);
            self.programming.with_label_values(&[family]);
            self.reconciler_duration.with_label_values(&[family]);
            self.reconciler_deleted.with_label_values(&[family]);
        }
        for code in HEALTH_CODES {
            self.healthz.with_label_values(&[code]);
            self.livez.with_label_values(&[code]);
        }
        self.set_no_local(&NoLocal::default());
    }

    pub(super) fn set_no_local(&self, found: &NoLocal) {
        for (family, count) in IP_FAMILIES.into_iter().zip([found.v4, found.v6]) {
            self.no_local.with_label_values(&["internal", family]).set(count.internal.into());
            self.no_local.with_label_values(&["external", family]).set(count.external.into());
        }
    }
}

const HEALTHZ_HELP: &str = "Answers to /healthz by status";
const LIVEZ_HELP: &str = "Answers to /livez by status";

/// kube-proxy's buckets for its service level objective: fine around the seconds that are usual,
/// coarse up to five minutes.
fn programming_buckets() -> Vec<f64> {
    let seconds = (1..60).chain((60..120).step_by(5)).chain((120..=300).step_by(30));
    [0.25, 0.5].into_iter().chain(seconds.map(f64::from)).collect()
}
