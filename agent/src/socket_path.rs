//! The socket path's programs on the hooks of the cgroup: attached, watched, mended.

use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use anyhow::{Context, Result};

use crate::bpf::attach::{self, Attached, HookState};
use crate::bpf::object::Object;
use crate::bpf::pins::Pins;
use crate::bpf::sys;
use crate::guard::Guard;

/// The state of every hook.
type Hooks = Vec<(&'static str, HookState)>;

/// The programs of one cgroup.
pub struct SocketPath {
    cgroup_root: PathBuf,
    /// Sockets are translated at all.
    on: bool,
    attached: bool,
    guard: Guard,
    /// A look at the hooks that is under way.
    look: Option<Receiver<io::Result<Hooks>>>,
}

impl SocketPath {
    /// On a cgroup; not attached yet.
    pub const fn new(cgroup_root: PathBuf, on: bool) -> Self {
        Self { cgroup_root, on, attached: false, guard: Guard::new(), look: None }
    }

    /// Attach the programs, or put them in the place of those that are there; once.
    pub fn attach(&mut self, object: &Object, pins: &Pins) -> Result<()> {
        if self.attached || !self.on {
            return Ok(());
        }
        self.attach_again(object, pins)?;
        self.attached = true;
        Ok(())
    }

    fn attach_again(&self, object: &Object, pins: &Pins) -> Result<()> {
        let Attached { created, updated } = attach::attach(object, pins, &self.cgroup_root)?;
        tracing::info!(created, updated, cgroup = %self.cgroup_root.display(), "programs attached");
        Ok(())
    }

    /// If sockets are not to be translated: take off what an earlier run has attached. To be done
    /// when the packet path serves.
    pub fn leave_if_off(&self, pins: &Pins) -> Result<()> {
        if self.on {
            return Ok(());
        }
        attach::remove_all(pins).context("take the programs off the sockets' hooks")
    }

    /// Bring the guard to where it is needed. `udp_gone`: a UDP backend went; `drops`: a frontend's
    /// policy says "drop".
    pub fn mind_guard(&mut self, object: &Object, pins: &Pins, udp_gone: bool, drops: bool) {
        if !self.on {
            return;
        }
        if udp_gone {
            self.guard.backend_gone();
        }
        if let Err(error) = self.guard.mind(object, pins, &self.cgroup_root, drops) {
            tracing::error!("cannot tend the guard, will retry: {error:#}");
        }
    }

    /// Asking the kernel about a link takes its cgroup mutex, which others hold for seconds when
    /// pods come and go: changes must not wait for that, so the loop does not.
    pub fn look_at_hooks(&mut self, pins: &Pins) {
        if self.look.is_some() || !self.on {
            return;
        }
        let (sender, receiver) = channel();
        let pins = pins.clone();
        tokio::task::spawn_blocking(move || {
            // Nobody listens any more when we stop.
            let _ = sender.send(attach::hooks(&pins));
        });
        self.look = Some(receiver);
    }

    /// Someone may detach our programs, put others behind our links or unpin them; traffic must not
    /// wait for a restart.
    /// Returns how many hooks were mended.
    pub fn mend_hooks(&mut self, object: &Object, pins: &Pins) -> u64 {
        let found = match self.look.as_ref().map(Receiver::try_recv) {
            None | Some(Err(TryRecvError::Empty)) => return 0,
            Some(found) => found,
        };
        self.look = None;
        let broken = match found.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(hooks) => hooks
                .into_iter()
                .filter(|(name, state)| !has_our_program(object, name, *state))
                .map(|(name, _)| name)
                .collect::<Vec<_>>(),
            Err(error) => {
                tracing::error!("cannot look at the hooks: {error}");
                return 0;
            }
        };
        if broken.is_empty() {
            return 0;
        }
        tracing::warn!(hooks = broken.join(", "), "someone removed our programs: attaching again");
        match self.attach_again(object, pins) {
            Ok(()) => broken.len() as u64,
            Err(error) => {
                tracing::error!("cannot mend the hooks: {error:#}");
                0
            }
        }
    }
}

/// Whether a hook runs the program that we loaded for it. (One that could not be asked about is
/// believed to.)
fn has_our_program(object: &Object, name: &str, state: HookState) -> bool {
    let HookState::Attached(info) = state else { return false };
    let ours = object.program(name).and_then(|program| sys::program_id(program).ok());
    ours.is_none_or(|ours| ours == info.program_id)
}
