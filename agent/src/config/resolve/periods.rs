//! How often, at least and at most.

use std::time::Duration;

use super::{Mode, kp, only_with};
use crate::config::merge::Settings;
use crate::config::value::Value;

const SECTIONS: [(&str, &str, &str); 3] = [
    ("iptables", "iptables.syncPeriod", "iptables.minSyncPeriod"),
    ("ipvs", "ipvs.syncPeriod", "ipvs.minSyncPeriod"),
    ("nftables", "nftables.syncPeriod", "nftables.minSyncPeriod"),
];

/// The periods of the section that counts. All sections are checked, as by kube-proxy.
pub(super) fn periods(s: &mut Settings, mode: Mode) -> (Duration, Duration) {
    let counts = match mode {
        Mode::Ebpf | Mode::Iptables => "iptables",
        Mode::Ipvs => "ipvs",
        Mode::Nftables => "nftables",
    };
    let mut found = (Duration::ZERO, Duration::ZERO);
    for (section, sync, min_sync) in SECTIONS {
        let (period, least) = (s.nanos(kp(sync)), s.nanos(kp(min_sync)));
        let shown = s.value(kp(sync)).to_text();
        if period <= 0 {
            s.error(kp(sync), format!("{shown}: must be more than 0"));
        }
        if least < 0 {
            s.error(kp(min_sync), "must not be less than 0");
        } else if least > period && period > 0 {
            let message = format!(
                "{}: must not be more than {sync}, which is {shown}",
                s.value(kp(min_sync)).to_text()
            );
            s.error(kp(min_sync), message);
        }
        if section == counts {
            let nanos = |nanos: i64| Duration::from_nanos(nanos.max(0).unsigned_abs());
            found = (nanos(period), nanos(least));
        } else {
            only_with(s, &[sync, min_sync], section);
        }
    }
    if s.nanos(kp("configSyncPeriod")) <= 0 && *s.value(kp("configSyncPeriod")) != Value::Null {
        s.error(kp("configSyncPeriod"), "must be more than 0");
    }
    found
}
