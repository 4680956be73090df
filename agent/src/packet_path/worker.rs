//! Carries out what the packet path wants, and looks twice a second whether it still is so.
//!
//! A device's row is written before its hooks get their programs, and removed after they have gone.
//! What is right already is not touched, so an order costs what it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::Result;
use millrace_common::node::{DeviceRow, NodeRow, node};
use tokio::sync::watch;

use super::canary::Canary;
use crate::bpf::attach::MENDED_WITHIN;
use crate::bpf::flows::FlowStore;
use crate::bpf::node_maps::NodeMaps;
use crate::bpf::packet::{Attached, Direction, Hook, PacketHooks};
use crate::canary::tally::Tally;
use crate::devices::roles::Attachment;
use crate::metrics::Metrics;

/// How often it is looked whether someone has removed a program or a pin. What a look finds is
/// mended at once.
const LOOK: Duration = Duration::from_millis(500);
const _: () = assert!(LOOK.as_millis() < MENDED_WITHIN.as_millis());

/// An order.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Counts the orders; 0: none yet.
    pub generation: u64,
    /// The node's row; none: leave it as it is.
    pub node: Option<NodeRow>,
    /// Devices to attach to, and no others.
    pub attachments: Vec<Attachment>,
    /// The canary's rows are written: send it through the programs.
    pub canary: bool,
}

/// What became of the orders.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// The last order that was carried out.
    pub generation: u64,
    /// What could not be done, and is tried again: what it is about, and why.
    pub failures: Vec<(String, String)>,
    /// Hooks that were found without our program, and mended.
    pub repaired: u64,
    /// The canary was sent at least once.
    pub checked: bool,
    /// What came of it.
    pub canary: Tally,
}

/// The thread's own.
pub struct Worker {
    hooks: PacketHooks,
    maps: NodeMaps,
    canary: Canary,
    /// Rows as they are in the map.
    node: Option<NodeRow>,
    rows: BTreeMap<u32, DeviceRow>,
    served: BTreeMap<u32, Served>,
    wanted: Wanted,
    repaired: u64,
    /// What an earlier run has left was seen to.
    swept: bool,
    failures: Vec<(String, String)>,
    /// Those of the last time: they were logged.
    known_failures: Vec<(String, String)>,
}

/// A device and what is on its hooks, in the order of [`Direction::BOTH`].
#[derive(Default)]
struct Served {
    ethernet: bool,
    hooks: [Option<Attached>; 2],
    /// Hooks that have lost our program.
    lost: u64,
}

impl Worker {
    /// With what is in the maps.
    pub fn new(
        hooks: PacketHooks,
        maps: NodeMaps,
        flows: FlowStore,
        metrics: Metrics,
    ) -> Result<Self> {
        let (node, rows) = (maps.node()?, maps.devices()?);
        Ok(Self {
            hooks,
            maps,
            canary: Canary::new(flows, metrics),
            node,
            rows,
            served: BTreeMap::new(),
            wanted: Wanted::default(),
            repaired: 0,
            swept: false,
            failures: Vec::new(),
            known_failures: Vec::new(),
        })
    }

    /// Carry out orders until there can be no more.
    pub fn run(mut self, orders: &Receiver<Wanted>, outcomes: &watch::Sender<Outcome>) {
        let mut looked = Instant::now();
        loop {
            match orders.recv_timeout(LOOK.saturating_sub(looked.elapsed())) {
                // Only the last one counts.
                Ok(order) => self.wanted = orders.try_iter().last().unwrap_or(order),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.wanted.generation == 0 {
                looked = Instant::now();
                continue;
            }
            self.failures.clear();
            if looked.elapsed() >= LOOK {
                self.look();
                looked = Instant::now();
            }
            self.reconcile();
            self.check();
            self.known_failures.clone_from(&self.failures);
            let outcome = Outcome {
                generation: self.wanted.generation,
                failures: std::mem::take(&mut self.failures),
                repaired: self.repaired,
                checked: self.canary.checked,
                canary: self.canary.tally.clone(),
            };
            outcomes.send_if_modified(|known| {
                let changed = *known != outcome;
                *known = outcome;
                changed
            });
        }
    }

    /// Send the canary through the programs, if it is time to.
    fn check(&mut self) {
        let is_known = self.node.is_some_and(|row| row.flags & node::KNOWN != 0);
        if !self.wanted.canary || !is_known {
            return;
        }
        let served =
            self.served.iter().filter(|(_, served)| served.hooks.iter().all(Option::is_some));
        let devices = served.map(|(index, served)| (*index, served.ethernet)).collect();
        self.canary.check_if_due(&self.hooks, &devices);
    }

    fn failed(&mut self, about: impl Into<String>, error: impl std::fmt::Display) {
        let failure = (about.into(), error.to_string());
        if !self.known_failures.contains(&failure) {
            tracing::error!("{}: {}; will be tried again", failure.0, failure.1);
        }
        self.failures.push(failure);
    }

    /// Find out which hooks have lost our program.
    fn look(&mut self) {
        let pinned = match self.hooks.pinned() {
            Ok(pinned) => pinned,
            Err(error) => return self.failed("links of the packet path", error),
        };
        let mut failures = Vec::new();
        for (&index, served) in &mut self.served {
            for (at, direction) in Direction::BOTH.into_iter().enumerate() {
                let hook = Hook { index, direction };
                let Some(attached) = &served.hooks[at] else { continue };
                match self.hooks.is_on(hook, attached) {
                    Ok(true) => match self.hooks.mend_pin(hook, attached, &pinned) {
                        Ok(false) => {}
                        Ok(true) => {
                            tracing::warn!(index, "someone removed the pin of a link: put back");
                            self.repaired += 1;
                        }
                        Err(error) => failures.push((index, error)),
                    },
                    Ok(false) => {
                        served.hooks[at] = None;
                        served.lost += 1;
                    }
                    Err(error) => failures.push((index, error)),
                }
            }
        }
        for (index, error) in failures {
            self.failed(format!("hooks of device {index}"), error);
        }
        self.leave_strays(&pinned);
    }

    /// Links to devices that are gone, or that are not attached to any more.
    fn leave_strays(&mut self, pinned: &BTreeSet<Hook>) {
        let strays: Vec<Hook> = {
            let wanted = self.wanted_indices();
            pinned.iter().filter(|hook| !wanted.contains(&hook.index)).copied().collect()
        };
        for hook in strays {
            if let Err(error) = self.hooks.detach(hook) {
                self.failed(format!("device {}", hook.index), error);
            }
        }
    }

    fn wanted_indices(&self) -> BTreeSet<u32> {
        self.wanted.attachments.iter().map(|attachment| attachment.index).collect()
    }

    /// Bring everything to where it is wanted.
    fn reconcile(&mut self) {
        if let Some(row) = self.wanted.node.filter(|row| self.node != Some(*row)) {
            match self.maps.set_node(&row) {
                Ok(()) => self.node = Some(row),
                // Programs must not run with what is not true.
                Err(error) => return self.failed("node", error),
            }
        }
        let attachments = std::mem::take(&mut self.wanted.attachments);
        for attachment in &attachments {
            if let Err(error) = self.serve(attachment) {
                self.failed(format!("device {}", attachment.name), format!("{error:#}"));
            }
        }
        self.wanted.attachments = attachments;
        self.leave_others();
        if !std::mem::replace(&mut self.swept, true)
            && let Err(error) = self.sweep()
        {
            self.failed("what an earlier run has attached", error);
        }
    }

    fn serve(&mut self, attachment: &Attachment) -> Result<()> {
        let index = attachment.index;
        if self.rows.get(&index) != Some(&attachment.row) {
            self.maps.set_device(index, &attachment.row)?;
            self.rows.insert(index, attachment.row);
        }
        let served = self.served.entry(index).or_default();
        if served.ethernet != attachment.ethernet {
            // Another program: it is put in the place of the one that is there.
            served.ethernet = attachment.ethernet;
            served.hooks = [None, None];
        }
        for (at, direction) in Direction::BOTH.into_iter().enumerate() {
            if served.hooks[at].is_some() {
                continue;
            }
            let hook = Hook { index, direction };
            match self.hooks.attach(hook, served.ethernet) {
                Ok(attached) => served.hooks[at] = Some(attached),
                // It went meanwhile; netlink will say so.
                Err(error) if is_gone(&error) => return Ok(()),
                Err(error) => return Err(anyhow::Error::new(error).context(what(direction))),
            }
        }
        let lost = std::mem::take(&mut served.lost);
        if lost > 0 {
            let name = attachment.name.as_str();
            tracing::warn!(device = name, "someone removed our programs: attached again");
            self.repaired += lost;
        }
        Ok(())
    }

    /// Leave the devices that are not wanted: first the hooks, then the rows.
    fn leave_others(&mut self) {
        let wanted = self.wanted_indices();
        let known: BTreeSet<u32> = self.served.keys().chain(self.rows.keys()).copied().collect();
        for index in known.difference(&wanted).copied() {
            self.served.remove(&index);
            if let Err(error) = self.leave(index) {
                self.failed(format!("device {index}"), error);
            }
        }
    }

    fn leave(&mut self, index: u32) -> Result<()> {
        for direction in [Direction::In, Direction::Out] {
            self.hooks.detach(Hook { index, direction })?;
        }
        if self.rows.contains_key(&index) {
            self.maps.delete_device(index)?;
            self.rows.remove(&index);
        }
        Ok(())
    }

    /// What an earlier run has left: links to devices that are gone, programs that were attached by
    /// other means.
    fn sweep(&mut self) -> io::Result<()> {
        let pinned = self.hooks.pinned()?;
        self.leave_strays(&pinned);
        self.hooks.leave_other_means(&self.wanted_indices())
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENODEV)
}

const fn what(direction: Direction) -> &'static str {
    match direction {
        Direction::In => "attach the program for packets that come in",
        Direction::Out => "attach the program for packets that go out",
    }
}
