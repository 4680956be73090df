//! Millrace's own metrics, those that the loop records.

use millrace_common::ABI_VERSION;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, Result};

use super::IP_FAMILIES;
use super::instruments::Instruments;

pub(super) struct Own {
    pub(super) ready: IntGauge,
    pub(super) conditions: IntGaugeVec,
    pub(super) hooks_repaired: IntCounterVec,
    pub(super) sync_failures: IntCounter,
    pub(super) map_writes: IntCounter,
    pub(super) swept: IntCounterVec,
    canary_checks: IntCounterVec,
    canary_ok: IntGaugeVec,
}

impl Own {
    pub(super) fn new(registry: &Registry) -> Result<Self> {
        let new = Instruments(registry);
        // Not kubernetes_build_info: an alert compares that between components, and would find
        // ours to be another version of Kubernetes.
        new.constant(
            "millrace_build_info",
            "1; the labels are the agent's version and that of its maps' layout",
            &[("version", env!("MILLRACE_VERSION")), ("abi", &ABI_VERSION.to_string())],
        )?;
        let own = Self {
            ready: new.gauge(
                "millrace_ready",
                "1 while the first plan is carried out, every program attached and the canary \
                 translated",
            )?,
            conditions: new.gauges(
                "millrace_conditions",
                "Objects and devices that are not served as asked (refused) or that a person \
                 should look at (warning); `millrace status` names them",
                &["severity"],
            )?,
            hooks_repaired: new.counters(
                "millrace_hooks_repaired_total",
                "Programs and pins that somebody removed and that were put back",
                &["path"],
            )?,
            sync_failures: new.counter(
                "millrace_bpf_sync_failures_total",
                "Rounds that failed; the next one begins by reading the maps back",
            )?,
            map_writes: new.counter(
                "millrace_map_writes_total",
                "Operations on maps that rounds carried out",
            )?,
            swept: new.counters(
                "millrace_flow_entries_swept_total",
                "Entries deleted of flows that were over, for whatever reason",
                &["ip_family"],
            )?,
            canary_checks: new.counters(
                "millrace_canary_checks_total",
                "Canary connections through each hook, by result",
                &["hook", "ip_family", "result"],
            )?,
            canary_ok: new.gauges(
                "millrace_canary_ok",
                "1 if the last canary connection through the hook was translated",
                &["hook", "ip_family"],
            )?,
        };
        own.begin();
        Ok(own)
    }

    fn begin(&self) {
        for path in ["socket", "device"] {
            self.hooks_repaired.with_label_values(&[path]);
        }
        for severity in ["refused", "warning"] {
            self.conditions.with_label_values(&[severity]);
        }
        for family in IP_FAMILIES {
            self.swept.with_label_values(&[family]);
        }
    }

    pub(super) fn canary(&self, hook: &str, family: &str, ok: bool) {
        let result = if ok { "ok" } else { "failed" };
        self.canary_checks.with_label_values(&[hook, family, result]).inc();
        self.canary_ok.with_label_values(&[hook, family]).set(i64::from(ok));
    }

    /// Bring a counter to a total that is counted elsewhere.
    pub(super) fn set_total(&self, counter: &IntCounterVec, label: &str, total: u64) {
        let counter = counter.with_label_values(&[label]);
        counter.inc_by(total.saturating_sub(counter.get()));
    }
}
