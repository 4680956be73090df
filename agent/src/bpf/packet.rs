//! The packet path's programs on the hooks of devices: by [`tcx`](super::tcx) where the kernel has
//! it, else by [`clsact`](super::clsact).

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};

use super::clsact::{self, Clsact};
use super::object::Object;
use super::pins::Pins;
use super::sys;
use super::tcx::{self, Tcx};

/// What a program returns that lets the packet go on (`TC_ACT_UNSPEC`).
pub const NEXT: i32 = -1;
/// Bytes by which a program might lengthen a packet.
const ROOM_BYTES: usize = 128;

/// Which way packets go that a hook sees.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Direction {
    /// They come in by the device.
    In,
    /// They go out by the device.
    Out,
}

impl Direction {
    /// In the order of attaching: what leads back is there before what leads out.
    pub const BOTH: [Self; 2] = [Self::Out, Self::In];
}

/// A device's hook.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Hook {
    /// Interface index.
    pub index: u32,
    /// Which of the device's two.
    pub direction: Direction,
}

/// By what means programs are attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Means {
    /// Links (Linux 6.6).
    Tcx,
    /// Filters of the clsact queueing discipline.
    Clsact,
}

impl Means {
    /// As tools show it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// A program that is on its hook.
#[derive(Debug)]
pub enum Attached {
    /// By a link.
    Link(tcx::Link),
    /// By a filter.
    Filter,
}

/// The programs, and the means to attach them.
pub struct PacketHooks {
    programs: Programs,
    tcx: Tcx,
    /// Means in use if not tcx.
    clsact: Option<Clsact>,
}

struct Programs {
    ethernet: [OwnedFd; 2],
    bare: [OwnedFd; 2],
}

impl Programs {
    fn of(object: &Object) -> Result<Self> {
        let program = |name: &str| {
            let program = object.program(name).with_context(|| format!("no program {name}"))?;
            program.try_clone_to_owned().context("duplicate a program's descriptor")
        };
        Ok(Self {
            ethernet: [program("packet_in")?, program("packet_out")?],
            bare: [program("packet_in_l3")?, program("packet_out_l3")?],
        })
    }

    fn get(&self, direction: Direction, ethernet: bool) -> &OwnedFd {
        let [inward, outward] = if ethernet { &self.ethernet } else { &self.bare };
        match direction {
            Direction::In => inward,
            Direction::Out => outward,
        }
    }
}

impl PacketHooks {
    /// The programs of `object`, attached by the best means that the kernel has, unless `means` are
    /// asked for.
    pub fn new(object: &Object, pins: &Pins, means: Option<Means>) -> Result<Self> {
        let programs = Programs::of(object)?;
        let means = match means {
            Some(means) => means,
            None if tcx::is_supported(programs.get(Direction::In, true).as_fd())
                .context("ask the kernel for tcx links")? =>
            {
                Means::Tcx
            }
            None => Means::Clsact,
        };
        let clsact = match means {
            Means::Tcx => None,
            Means::Clsact => Some(Clsact::open().context("open a netlink socket")?),
        };
        Ok(Self { programs, tcx: Tcx::new(pins.clone()), clsact })
    }

    /// The means in use.
    pub const fn means(&self) -> Means {
        if self.clsact.is_some() { Means::Clsact } else { Means::Tcx }
    }

    /// Bring the program to its hook, or put it in the place of the one of ours that is there.
    /// ENODEV: the device is gone.
    pub fn attach(&mut self, hook: Hook, ethernet: bool) -> io::Result<Attached> {
        let program = self.programs.get(hook.direction, ethernet).as_fd();
        match &mut self.clsact {
            None => self.tcx.attach(hook, program).map(Attached::Link),
            Some(clsact) => clsact.attach(hook, program).map(|()| Attached::Filter),
        }
    }

    /// Run the program of a hook on a frame, as if it came by there. Returns what it returned, and
    /// the frame as it then is.
    pub fn run(&self, hook: Hook, ethernet: bool, frame: &[u8]) -> io::Result<(i32, Vec<u8>)> {
        let program = self.programs.get(hook.direction, ethernet).as_fd();
        let mut output = vec![0; frame.len() + ROOM_BYTES];
        let (code, length) = sys::run_packet(program, hook.index, frame, &mut output)?;
        output.truncate(length);
        Ok((code, output))
    }

    /// Whether the program is on its hook. False as well if the device is gone.
    pub fn is_on(&mut self, hook: Hook, attached: &Attached) -> io::Result<bool> {
        match (attached, &mut self.clsact) {
            (Attached::Link(link), _) => self.tcx.is_on(hook, link),
            (Attached::Filter, Some(clsact)) => clsact.is_on(hook),
            (Attached::Filter, None) => Ok(false),
        }
    }

    /// Put a removed pin back. True: it was gone.
    pub fn mend_pin(
        &self,
        hook: Hook,
        attached: &Attached,
        pinned: &BTreeSet<Hook>,
    ) -> io::Result<bool> {
        match attached {
            Attached::Link(link) => self.tcx.mend_pin(hook, link, pinned),
            Attached::Filter => Ok(false),
        }
    }

    /// Take the program off its hook. Not an error: it is not there, or the device is gone.
    pub fn detach(&mut self, hook: Hook) -> io::Result<()> {
        match &mut self.clsact {
            None => self.tcx.detach(hook),
            Some(clsact) => clsact.detach(hook),
        }
    }

    /// Hooks whose links are pinned.
    pub fn pinned(&self) -> io::Result<BTreeSet<Hook>> {
        self.tcx.pinned()
    }

    /// Remove what an earlier run has attached by the other means to these devices.
    pub fn leave_other_means(&mut self, indices: &BTreeSet<u32>) -> io::Result<()> {
        if self.clsact.is_some() {
            let pinned = self.tcx.pinned()?;
            return pinned.into_iter().try_for_each(|hook| self.tcx.detach(hook));
        }
        clsact::detach_from(indices)
    }
}

/// Take every program of the packet path off every hook, of whichever means. `indices`: the devices
/// that have rows.
pub fn detach_all(pins: &Pins, indices: &BTreeSet<u32>) -> io::Result<()> {
    let tcx = Tcx::new(pins.clone());
    let pinned = tcx.pinned()?;
    // The way out of a frontend first, so that nothing is translated whose way back is gone.
    for direction in [Direction::In, Direction::Out] {
        let of_direction = pinned.iter().filter(|hook| hook.direction == direction);
        of_direction.copied().try_for_each(|hook| tcx.detach(hook))?;
    }
    clsact::detach_from(indices)
}

/// The program on a hook, for tools: by whichever means. Nothing: none of ours.
pub fn program_on(pins: &Pins, hook: Hook) -> io::Result<Option<u32>> {
    let by_link = Tcx::new(pins.clone()).program_on(hook)?;
    if by_link.is_some() { Ok(by_link) } else { clsact::program_on(hook) }
}
