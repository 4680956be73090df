//! Filters on devices, for kernels without tcx links (below 6.6).
//!
//! A filter of ours has a priority and a handle of its own, so that the next agent finds it and
//! puts its program in its place: no packet is missed. What else is on a device is not touched, and
//! what stands in our place but is not ours is not replaced: that was an outage once
//! (DataDog/datadog-agent#13692).

use std::collections::BTreeSet;
use std::io;
use std::os::fd::BorrowedFd;

use super::packet::{Direction, Hook};
use crate::net::traffic_control::{Filter, Place, Side, TrafficControl};

/// Runs before what others put there: they number from 1, but hardly use 2.
const PRIORITY: u16 = 2;
/// "mill": a number that nobody takes by chance.
const HANDLE: u32 = 0x6d69_6c6c;
/// What our filters' names begin with.
const NAME: &str = "millrace_";

/// Our filters.
pub struct Clsact {
    netlink: TrafficControl,
}

const fn side(direction: Direction) -> Side {
    match direction {
        Direction::In => Side::Ingress,
        Direction::Out => Side::Egress,
    }
}

const fn place(hook: Hook) -> Place {
    let side = side(hook.direction);
    Place { index: hook.index, side, priority: PRIORITY, handle: HANDLE }
}

/// The name of a hook's filter.
const fn name(direction: Direction) -> &'static str {
    match direction {
        Direction::In => "millrace_packet_in",
        Direction::Out => "millrace_packet_out",
    }
}

fn is_in_our_place(filter: &Filter) -> bool {
    filter.priority == PRIORITY && filter.handle == HANDLE
}

fn is_ours(filter: &Filter) -> bool {
    let named = filter.name.as_deref().is_some_and(|name| name.starts_with(NAME));
    is_in_our_place(filter) && filter.kind == "bpf" && named
}

/// Not an error: the device is gone, or what was to be removed is.
fn unless_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT)) => Ok(()),
        // No discipline, no filters.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        other => other,
    }
}

impl Clsact {
    /// In this thread's network namespace.
    pub fn open() -> io::Result<Self> {
        Ok(Self { netlink: TrafficControl::open()? })
    }

    /// Put the program on the hook, in the place of the one of ours that is there.
    pub fn attach(&mut self, hook: Hook, program: BorrowedFd<'_>) -> io::Result<()> {
        self.netlink.add_clsact(hook.index).map_err(|error| match error.raw_os_error() {
            Some(libc::EEXIST) => io::Error::other(
                "the device has an ingress queueing discipline, which has no egress side: replace \
                 it (tc qdisc del dev ... ingress; tc qdisc add dev ... clsact)",
            ),
            _ => error,
        })?;
        let filters = self.netlink.filters(hook.index, side(hook.direction))?;
        if let Some(other) = filters.iter().find(|f| is_in_our_place(f) && !is_ours(f)) {
            return Err(io::Error::other(format!(
                "a filter {:?} that is not ours has priority {PRIORITY} and handle {HANDLE:#x}: \
                 remove it (tc filter show, tc filter del)",
                other.name.as_deref().unwrap_or(&other.kind)
            )));
        }
        self.netlink.put_filter(place(hook), program, name(hook.direction))
    }

    /// Whether our filter is on the hook.
    pub fn is_on(&mut self, hook: Hook) -> io::Result<bool> {
        Ok(self.ours(hook)?.is_some())
    }

    fn ours(&mut self, hook: Hook) -> io::Result<Option<Filter>> {
        let filters = self.netlink.filters(hook.index, side(hook.direction))?;
        Ok(filters.into_iter().find(is_ours))
    }

    /// Take our filter off the hook.
    pub fn detach(&mut self, hook: Hook) -> io::Result<()> {
        if self.is_on(hook)? {
            unless_gone(self.netlink.delete_filter(place(hook)))?;
        }
        Ok(())
    }

    /// Take our filters off a device, and its discipline if that is of no more use to anybody.
    fn leave(&mut self, index: u32) -> io::Result<()> {
        let mut any = false;
        // The way out of a frontend first.
        for direction in [Direction::In, Direction::Out] {
            let hook = Hook { index, direction };
            if self.is_on(hook)? {
                any = true;
                self.detach(hook)?;
            }
        }
        let mut others = false;
        for side in Side::BOTH {
            others |= !self.netlink.filters(index, side)?.is_empty();
        }
        // A discipline that had no filter of ours may be somebody's who is about to use it.
        if any && !others {
            unless_gone(self.netlink.delete_clsact(index))?;
        }
        Ok(())
    }
}

/// Take our filters off these devices.
pub fn detach_from(indices: &BTreeSet<u32>) -> io::Result<()> {
    if indices.is_empty() {
        return Ok(());
    }
    let mut clsact = Clsact::open()?;
    indices.iter().try_for_each(|index| clsact.leave(*index))
}

/// The program of our filter on a hook, for tools.
pub fn program_on(hook: Hook) -> io::Result<Option<u32>> {
    let filter = Clsact::open()?.ours(hook)?;
    Ok(filter.and_then(|filter| filter.program_id))
}
