//! One agent owns the pins at a time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::bpf::pins::{Lock, Pins};

/// How long to wait for another agent to let go of the pins.
const OWNER_WAIT: Duration = Duration::from_secs(30);
/// How often to look whether it has.
const OWNER_POLL: Duration = Duration::from_millis(50);

/// Wait for the present owner to go: one that was killed may take a while to be gone.
pub fn become_owner(pins: &Pins) -> Result<Lock> {
    let begun = Instant::now();
    let mut said = false;
    loop {
        if let Some(lock) = pins.lock().context("lock the pins")? {
            return Ok(lock);
        }
        if begun.elapsed() > OWNER_WAIT {
            bail!(
                "another agent owns {} (`millrace status` shows its pid): stop it first, or give \
                 this one its own --bpffs and --cgroup-root",
                pins.root().display()
            );
        }
        if !std::mem::replace(&mut said, true) {
            tracing::info!("waiting for the agent that owns {}", pins.root().display());
        }
        std::thread::sleep(OWNER_POLL);
    }
}
