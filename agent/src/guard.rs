//! When the guard is needed: the program that judges every packet that leaves a socket
//! (`ebpf/src/socket/guard.rs`).
//!
//! It costs every packet of the node something, so it is attached only while there is something to
//! guard: a frontend that drops clients on this node (a Local policy with nothing here, source
//! ranges without the node), or a connected UDP socket whose backend is gone.

use std::path::Path;

use anyhow::{Context, Result};
use millrace_common::counters::Counter;

use crate::bpf::attach;
use crate::bpf::object::Object;
use crate::bpf::pins::Pins;

/// Looks for stale sockets after a UDP backend is gone: a program that was choosing it at that
/// moment may write its record a little later.
const LOOKS: u32 = 8;

/// Attaches and detaches the guard.
pub struct Guard {
    /// Whether it is attached. Remembered: asking the kernel may take seconds while cgroups come
    /// and go.
    attached: Option<bool>,
    /// Looks still to be made.
    looks: u32,
    /// UDP backends have gone since records went where we cannot look.
    hidden: bool,
}

impl Guard {
    /// After a start it is not known what went while no agent ran: look.
    pub const fn new() -> Self {
        Self { attached: None, looks: LOOKS, hidden: false }
    }

    /// A UDP backend is gone.
    pub const fn backend_gone(&mut self) {
        self.looks = LOOKS;
    }

    /// Bring the guard to where it is needed. `drops`: a frontend drops clients on this node.
    pub fn mind(&mut self, object: &Object, pins: &Pins, cgroup: &Path, drops: bool) -> Result<()> {
        let attached = match self.attached {
            Some(attached) => attached,
            None => attach::guard_is_attached(pins).context("look at the guard")?,
        };
        self.attached = Some(attached);
        let look = self.looks > 0 || attached;
        if !look && !drops {
            return Ok(());
        }
        let needed = drops || (look && self.is_stale(object)?);
        self.looks = self.looks.saturating_sub(1);
        if needed && !attached {
            tracing::info!("attaching the guard: packets have to be dropped or refused");
            attach::attach_guard(object, pins, cgroup)?;
            self.attached = Some(true);
        } else if attached && !needed && self.looks == 0 {
            tracing::info!("detaching the guard: nothing is left to drop or refuse");
            attach::detach_guard(pins).context("detach the guard")?;
            self.attached = Some(false);
        }
        Ok(())
    }

    /// Whether a connected UDP socket's backend is gone. A record that we cannot see counts as one.
    fn is_stale(&mut self, object: &Object) -> Result<bool> {
        if !self.hidden {
            let counters = object.store.counters()?;
            let hidden = counters.iter().find(|(name, _)| *name == Counter::UdpRecordHidden);
            self.hidden = hidden.is_some_and(|(_, count)| *count > 0);
        }
        Ok(self.hidden || object.store.has_stale_udp()?)
    }
}
