//! A node twice: its hooks run by the kernel and natively, on the same packets, and never allowed
//! to differ.
//!
//! Comparable are verdicts (as far as they can be seen), bytes, rows and counters. Not comparable
//! are time and chance. The native clock is set to the kernel's before every packet, and stamps
//! that are nearly the same are taken for equal. Chance is taken out of the cluster: every list has
//! one backend, and there is one port to masquerade with, so that every random choice has one
//! outcome.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace::bpf::object::PacketBuild;
use millrace_common::affinity::NS_PER_SEC;
use millrace_common::counters::Counter;
use millrace_common::packet::frame::Verdict;
use millrace_common::packet::{comes_in, goes_out};

use super::buffer::Buffer;
use super::hook::Hook;
use super::kernel::{Kernel, Program, Seen};
use super::node::Node;
use super::rows::{align_moments, differences};
use crate::wait;

/// A node, native and perhaps in the kernel.
pub struct Pair {
    /// Native.
    pub node: Node,
    kernel: Option<Kernel>,
    /// What the kernel had counted when the native node had counted nothing.
    before: BTreeMap<u32, u64>,
}

/// What became of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// The verdict.
    pub verdict: Verdict,
    /// The packet.
    pub frame: Vec<u8>,
}

impl Pair {
    /// Native only.
    pub fn native(node: Node) -> Self {
        Self { node, kernel: None, before: BTreeMap::new() }
    }

    /// Both.
    pub fn load(node: Node, packets: PacketBuild) -> Result<Self> {
        let kernel = Kernel::load(packets)?;
        kernel.load_rows(&node)?;
        let mut pair = Self { node, kernel: Some(kernel), before: BTreeMap::new() };
        pair.forget()?;
        Ok(pair)
    }

    /// Run a packet through a hook of the node, natively and, if it is there, in the kernel, which
    /// must agree. What the kernel cannot be given is given to a node without rows instead, so that
    /// the two stay comparable: it must be left alone there.
    pub fn run(&self, program: Program, device: u32, frame: &[u8]) -> Result<Outcome> {
        if self.kernel.is_some() && !Kernel::takes(frame) {
            let outcome = run_native(&Node::default(), program, device, frame.to_vec());
            ensure!(outcome.verdict == Verdict::NEXT && outcome.frame == frame, "{outcome:02x?}");
            return Ok(outcome);
        }
        self.node.now_ns.set(monotonic_ns()?);
        let ours = run_native(&self.node, program, device, frame.to_vec());
        let Some(kernel) = &self.kernel else { return Ok(ours) };
        let (seen, bytes) = kernel.run(program, device, frame)?;
        ensure!(
            seen == Seen::from(ours.verdict) && bytes == ours.frame,
            "{program:?} on device {device} of\n  {frame:02x?}\nkernel {seen:?}\n  {bytes:02x?}\n\
             native {:?}\n  {:02x?}",
            ours.verdict,
            ours.frame
        );
        Ok(ours)
    }

    /// Whether rows and counters are still the same.
    pub fn agree(&self) -> Result<()> {
        let Some(kernel) = &self.kernel else { return Ok(()) };
        let (mut theirs, ours) = (kernel.left()?, self.node.left());
        align_moments(&mut theirs, &ours);
        let rows = differences(&theirs, &ours);
        ensure!(rows.is_empty(), "rows differ:\n{rows}");
        let theirs = self.kernel_counted(kernel)?;
        let ours = self.node.counted();
        ensure!(theirs == ours, "counters differ:\nkernel {theirs:?}\nnative {ours:?}");
        Ok(())
    }

    fn kernel_counted(&self, kernel: &Kernel) -> Result<Vec<(Counter, u64)>> {
        let since = |(counter, count): (Counter, u64)| {
            let before = self.before.get(&(counter as u32)).copied().unwrap_or(0);
            (counter, count - before)
        };
        let counts = kernel.counted()?.into_iter().map(since);
        Ok(counts.filter(|(_, count)| *count > 0).collect())
    }

    /// Forget what packets have left, in both.
    pub fn forget(&mut self) -> Result<()> {
        self.node.forget();
        if let Some(kernel) = &self.kernel {
            kernel.load_left(&self.node)?;
            let counts = kernel.counted()?.into_iter();
            self.before = counts.map(|(counter, count)| (counter as u32, count)).collect();
        }
        Ok(())
    }

    /// Change the native node's rows and have the kernel's follow.
    pub fn change(&mut self, change: impl FnOnce(&mut Node)) -> Result<()> {
        change(&mut self.node);
        match &self.kernel {
            Some(kernel) => kernel.load_rows(&self.node).context("write the changed rows"),
            None => Ok(()),
        }
    }
}

/// Run a packet through a hook of a native node.
pub fn run_native(node: &Node, program: Program, device: u32, frame: Vec<u8>) -> Outcome {
    let frame = match program {
        Program::In | Program::Out => Buffer::ethernet(frame, device),
        Program::InRaw | Program::OutRaw => Buffer::raw(frame, device),
    };
    let hook = Hook { subject: frame, node };
    let verdict = match program {
        Program::In | Program::InRaw => comes_in(&hook),
        Program::Out | Program::OutRaw => goes_out(&hook),
    };
    Outcome { verdict, frame: hook.subject.into_bytes() }
}

/// How long before the end of a second a packet waits for the next one, in nanoseconds: more than
/// the clock of the last timer tick is behind.
const SECOND_ENDS_NS: u64 = 20_000_000;
/// How long it waits, at most.
const SECOND_BEGINS_WITHIN: Duration = Duration::from_secs(5);

/// The kernel programs' clock, in nanoseconds: that of the last timer tick, of which they use whole
/// seconds. At the end of one the two sides would read different seconds, so that is waited for.
pub fn monotonic_ns() -> Result<u64> {
    wait::until("a second that does not end at once", SECOND_BEGINS_WITHIN, || {
        let now = coarse_ns()?;
        ensure!(NS_PER_SEC - now % NS_PER_SEC > SECOND_ENDS_NS, "{now} ns");
        Ok(now)
    })
}

/// `CLOCK_MONOTONIC_COARSE`, in nanoseconds.
fn coarse_ns() -> Result<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid clock and a live timespec.
    let code = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    ensure!(code == 0, "CLOCK_MONOTONIC_COARSE: {}", std::io::Error::last_os_error());
    Ok(u64::try_from(time.tv_sec)? * NS_PER_SEC + u64::try_from(time.tv_nsec)?)
}
