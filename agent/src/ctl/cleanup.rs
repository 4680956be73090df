//! `millrace cleanup`: leave nothing behind.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::bpf::node_maps::NodeMaps;
use crate::bpf::store::Store;
use crate::bpf::{attach, packet};
use crate::canary::sockets;
use crate::report::Report;

/// Detach every program and remove every pin. Refused while an agent owns them.
pub fn cleanup(bpffs: Option<&Path>) -> Result<()> {
    let pins = super::pins(bpffs)?;
    let Some(_lock) = pins.lock().context("lock the pins")? else {
        bail!("an agent owns {}: stop it first", pins.root().display());
    };
    // What an agent that was killed has left.
    let report = Store::open_as_is(&pins.maps()).and_then(|store| store.report());
    let report = report.ok().and_then(|text| serde_json::from_str::<Report>(&text).ok());
    if let Some(report) = report.filter(|report| !report.cgroup_root.is_empty()) {
        sockets::remove_cgroup(Path::new(&report.cgroup_root));
    }
    attach::detach_all(&pins).context("detach the programs from sockets")?;
    // Filters are found by the rows of their devices. Without the map there never were any.
    let rows = NodeMaps::open(&pins.maps()).and_then(|maps| maps.devices()).unwrap_or_default();
    let indices = rows.into_keys().collect();
    packet::detach_all(&pins, &indices).context("detach the programs from devices")?;
    pins.remove_all().with_context(|| format!("remove {}", pins.root().display()))?;
    println!("removed {}: Services are no longer translated on this node", pins.root().display());
    Ok(())
}
