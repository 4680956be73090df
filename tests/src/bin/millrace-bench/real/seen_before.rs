//! What a real kube-proxy was seen to take where this project once had one: v1.36.2 with etcd
//! 3.5.30, on a machine of two cores, with 4 endpoints a Service and iptables in its legacy
//! variant.

use crate::site::{REAL_IPTABLES, REAL_NFTABLES};

/// One mode at one size.
struct SeenBefore {
    what: &'static str,
    services: u32,
    /// Seconds from the process' start until everything was served, where that was timed.
    start_s: Option<f64>,
    /// CPU seconds of the first IPv4 sync alone.
    sync_cpu_s: f64,
    /// MB of memory after it.
    memory_mb: u32,
    /// Milliseconds from a PATCH's answer to a connection that obeyed: the median and the longest.
    change_ms: [u32; 2],
}

/// All that was kept.
const ALL: [SeenBefore; 4] = [
    SeenBefore {
        what: REAL_IPTABLES,
        services: 1000,
        start_s: Some(1.0),
        sync_cpu_s: 0.4,
        memory_mb: 81,
        change_ms: [80, 114],
    },
    SeenBefore {
        what: REAL_NFTABLES,
        services: 1000,
        start_s: Some(1.3),
        sync_cpu_s: 0.5,
        memory_mb: 81,
        change_ms: [231, 263],
    },
    SeenBefore {
        what: REAL_IPTABLES,
        services: 10_000,
        start_s: None,
        sync_cpu_s: 3.8,
        memory_mb: 222,
        change_ms: [780, 1346],
    },
    SeenBefore {
        what: REAL_NFTABLES,
        services: 10_000,
        start_s: None,
        sync_cpu_s: 21.6,
        memory_mb: 225,
        change_ms: [6383, 7094],
    },
];

/// In one cell of a table; a dash for what was not seen.
pub fn text(what: &str, services: u32) -> String {
    let Some(seen) = ALL.iter().find(|seen| seen.what == what && seen.services == services) else {
        return "-".into();
    };
    let start = seen.start_s.map_or(String::new(), |seconds| format!("start {seconds:.1} s, "));
    let [median, longest] = seen.change_ms;
    format!(
        "{start}first sync {:.1} CPU s, {} MB, change {median} ms (at most {longest})",
        seen.sync_cpu_s, seen.memory_mb
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_seen_is_a_dash() {
        assert_eq!(text(REAL_IPTABLES, 1), "-");
        assert_eq!(text("Millrace", 1000), "-");
        let seen = "start 1.3 s, first sync 0.5 CPU s, 81 MB, change 231 ms (at most 263)";
        assert_eq!(text(REAL_NFTABLES, 1000), seen);
        assert!(text(REAL_NFTABLES, 10_000).starts_with("first sync 21.6 CPU s"));
    }
}
