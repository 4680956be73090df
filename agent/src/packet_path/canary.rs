//! Sends the canary through the programs, on one device after the other.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Instant;

use anyhow::Result;
use millrace_common::address::{Address, Family};
use millrace_common::flow::FlowKey;
use millrace_common::packet::tables::Table;

use crate::bpf::flows::FlowStore;
use crate::bpf::packet::{Direction, Hook, NEXT, PacketHooks};
use crate::canary::CHECK_EVERY;
use crate::canary::packets::{self, Case};
use crate::canary::tally::{Check, Tally};
use crate::flows::FlowRows;
use crate::metrics::Metrics;

/// What the worker needs for it.
pub struct Canary {
    flows: FlowStore,
    metrics: Metrics,
    /// When it was last sent.
    sent: Option<Instant>,
    /// The device it was last sent by, of those with an Ethernet header and of those without.
    last: [u32; 2],
    /// It failed there: there it is sent again, until it does not or the device is gone.
    failed: [bool; 2],
    /// It was sent at least once.
    pub checked: bool,
    /// What came of it.
    pub tally: Tally,
}

impl Canary {
    /// Not sent yet.
    pub fn new(flows: FlowStore, metrics: Metrics) -> Self {
        Self {
            flows,
            metrics,
            sent: None,
            last: [0; 2],
            failed: [false; 2],
            checked: false,
            tally: Tally::default(),
        }
    }

    /// Send it by the next device of each kind, once a second. `devices`: those that have programs,
    /// and whether they have an Ethernet header.
    pub fn check_if_due(&mut self, hooks: &PacketHooks, devices: &BTreeMap<u32, bool>) {
        if self.sent.is_some_and(|sent| sent.elapsed() < CHECK_EVERY) {
            return;
        }
        self.sent = Some(Instant::now());
        let mut checks = Vec::new();
        for (at, ethernet) in [(0, true), (1, false)] {
            let is_there = devices.get(&self.last[at]) == Some(&ethernet);
            let index = match self.failed[at] && is_there {
                true => Some(self.last[at]),
                false => next(devices, self.last[at], ethernet),
            };
            let Some(index) = index else { continue };
            let families = [Family::V4, Family::V6].into_iter();
            let found: Vec<Check> =
                families.flat_map(|family| self.send(hooks, index, ethernet, family)).collect();
            self.last[at] = index;
            self.failed[at] = found.iter().any(|check| check.error.is_some());
            checks.extend(found);
        }
        self.checked = true;
        self.metrics.canary_checked(&checks);
        self.tally.record(checks);
    }

    /// The request, then its answer.
    fn send(&self, hooks: &PacketHooks, index: u32, ethernet: bool, family: Family) -> Vec<Check> {
        let directions = [Direction::In, Direction::Out];
        let cases = packets::cases(family, ethernet);
        let mut checks = Vec::with_capacity(cases.len());
        for (direction, case) in directions.into_iter().zip(&cases) {
            let error = run(hooks, Hook { index, direction }, ethernet, case).err();
            let error = error.map(|error| format!("device {index}: {error}"));
            checks.push(Check { hook: name(direction, ethernet).to_owned(), family, error });
        }
        let forgotten = match family {
            Family::V4 => forget(&self.flows.v4, packets::keys_v4()),
            Family::V6 => forget(&self.flows.v6, packets::keys_v6()),
        };
        if let Err(error) = forgotten {
            tracing::debug!("cannot remove the canary's flow: {error:#}");
        }
        checks
    }
}

/// The device after the last one, round and round.
fn next(devices: &BTreeMap<u32, bool>, last: u32, ethernet: bool) -> Option<u32> {
    let is_of_kind = |(index, of): (&u32, &bool)| (*of == ethernet).then_some(*index);
    let mut after = devices.range((Bound::Excluded(last), Bound::Unbounded));
    after.find_map(is_of_kind).or_else(|| devices.iter().find_map(is_of_kind))
}

fn run(hooks: &PacketHooks, hook: Hook, ethernet: bool, case: &Case) -> Result<(), String> {
    match hooks.run(hook, ethernet, &case.frame) {
        Ok((code, frame)) => packets::judge(case, code, &frame, NEXT),
        // It went meanwhile.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        Err(error) => Err(format!("run the program: {error}")),
    }
}

fn forget<A: Address>(rows: &impl FlowRows<A>, keys: [FlowKey<A>; 2]) -> Result<()> {
    for table in [Table::HalfOpen, Table::Established] {
        keys.iter().try_for_each(|key| rows.remove(table, key))?;
    }
    Ok(())
}

/// The program's name.
const fn name(direction: Direction, ethernet: bool) -> &'static str {
    match (direction, ethernet) {
        (Direction::In, true) => "packet_in",
        (Direction::Out, true) => "packet_out",
        (Direction::In, false) => "packet_in_l3",
        (Direction::Out, false) => "packet_out_l3",
    }
}
