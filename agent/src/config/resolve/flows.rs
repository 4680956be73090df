//! Sizes of maps, and when flows are forgotten.

use millrace_common::flow::{HALF_OPEN_SECS, UDP_IDLE_SECS};

use super::{kp, own};
use crate::bpf::object::FlowCapacity;
use crate::config::catalogue::{Effect, Key};
use crate::config::merge::{Origin, Settings};
use crate::config::value::Value;
use crate::flows::rules::{SHORTEST_SECS, Timeouts};
use crate::plan::op::Capacity;

/// kube-proxy asks for no more connections than this.
const CONNECTIONS_MAX: i64 = 1_048_576;
/// Entries of a flow that is not masqueraded.
const ENTRIES_PER_FLOW: i64 = 2;
const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// A number of rows: the shape keeps it in range.
fn rows(s: &mut Settings, path: &'static str, default: u32) -> u32 {
    let key = own(path);
    let rows = s.int(key).and_then(|rows| u32::try_from(rows).ok());
    if rows.is_none() {
        s.fill(key, Value::Int(default.into()), None);
    }
    rows.unwrap_or(default)
}

/// Sizes of the maps that plans fill.
pub(super) fn capacity(s: &mut Settings) -> Capacity {
    let default = Capacity::default();
    Capacity {
        services: rows(s, "maxServices", default.services),
        backends: rows(s, "maxBackends", default.backends),
        slots: rows(s, "maxSlots", default.slots),
        frontends: rows(s, "maxFrontends", default.frontends),
        sources: rows(s, "maxSourceRanges", default.sources),
    }
}

/// Sizes of the maps that packets fill.
pub(super) fn flow_capacity(s: &mut Settings, cpus: u32) -> FlowCapacity {
    let default = FlowCapacity::default();
    let half_open = rows(s, "maxHalfOpen", default.half_open);
    let (per_core, least) = (kp("conntrack.maxPerCore"), kp("conntrack.min"));
    let asked = s.origin(per_core).is_given() && s.int(per_core).is_some_and(|count| count > 0);
    let has_own = s.origin(own("maxFlows")).is_given();
    if !asked || has_own {
        let why = if has_own { "maxFlows says it" } else { "not given: the default of maxFlows" };
        s.remark(per_core, Effect::Ignored, why);
        s.remark(least, Effect::Ignored, why);
        return FlowCapacity { established: rows(s, "maxFlows", default.established), half_open };
    }
    let connections = s.int(per_core).unwrap_or(0).saturating_mul(cpus.into());
    let connections = connections.max(s.int(least).unwrap_or(0)).min(CONNECTIONS_MAX);
    let entries = connections.saturating_mul(ENTRIES_PER_FLOW).max(ENTRIES_PER_FLOW);
    s.fill(own("maxFlows"), Value::Int(entries), Some(Origin::From("conntrack.maxPerCore")));
    let here = format!(
        "room for {connections} flows of each family, as the sysctl nf_conntrack_max would be \
         with {cpus} processors"
    );
    s.remark(per_core, Effect::Mapped, here);
    FlowCapacity { established: u32::try_from(entries).unwrap_or(default.established), half_open }
}

/// When flows are forgotten.
pub(super) fn timeouts(s: &mut Settings) -> Timeouts {
    let default = Timeouts::default();
    let udp_unanswered = secs(s, kp("conntrack.udpTimeout"), HALF_OPEN_SECS);
    let udp_idle = secs(s, kp("conntrack.udpStreamTimeout"), UDP_IDLE_SECS);
    // The programs themselves take a UDP flow for over after these.
    for (path, asked, most) in [
        ("conntrack.udpTimeout", udp_unanswered, HALF_OPEN_SECS),
        ("conntrack.udpStreamTimeout", udp_idle, UDP_IDLE_SECS),
    ] {
        if asked > most {
            s.warn(kp(path), format!("{asked}s is longer than a flow can stay: {most}s are used"));
        }
    }
    Timeouts {
        tcp_idle_secs: secs(s, kp("conntrack.tcpEstablishedTimeout"), default.tcp_idle_secs),
        tcp_close_wait_secs: secs(
            s,
            kp("conntrack.tcpCloseWaitTimeout"),
            default.tcp_close_wait_secs,
        ),
        udp_idle_secs: udp_idle.min(UDP_IDLE_SECS),
        udp_unanswered_secs: udp_unanswered.min(HALF_OPEN_SECS),
    }
}

/// Whole seconds; 0 leaves the default, as it leaves kube-proxy's sysctls.
fn secs(s: &mut Settings, key: Key, default: u32) -> u32 {
    let nanos = s.nanos(key);
    if nanos < 0 {
        s.error(key, "must not be less than 0");
    }
    if nanos <= 0 {
        return default;
    }
    let secs = (nanos.saturating_add(NANOS_PER_SECOND - 1)) / NANOS_PER_SECOND;
    u32::try_from(secs).unwrap_or(u32::MAX).max(SHORTEST_SECS)
}
