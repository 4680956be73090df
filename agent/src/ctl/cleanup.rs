//! `millrace cleanup`: leave nothing behind.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::bpf::attach;

/// Detach every program and remove every pin. Refused while an agent owns them.
pub fn cleanup(bpffs: Option<&Path>) -> Result<()> {
    let pins = super::pins(bpffs)?;
    let Some(_lock) = pins.lock().context("lock the pins")? else {
        bail!("an agent owns {}: stop it first", pins.root().display());
    };
    attach::detach_all(&pins).context("detach the programs")?;
    pins.remove_all().with_context(|| format!("remove {}", pins.root().display()))?;
    println!("removed {}: Services are no longer translated on this node", pins.root().display());
    Ok(())
}
