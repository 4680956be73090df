//! Links: a program goes to its hook once, and from then on is only ever replaced in place.
//!
//! Detaching and attaching again would leave the hook empty for milliseconds (CVE-2023-27595 was
//! that). Nothing here detaches but [`detach_all`], for `cleanup`, [`remove_all`], for an operator
//! who wants sockets left alone, and [`detach_guard`], for a program that translates nothing.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::environment;
use super::object::{GUARD_HOOK, Object, SOCKET_HOOKS};
use super::pins::Pins;
use super::sys::{self, LinkInfo};

/// A hook that somebody took our program or its pin from, or gave another program, is mended within
/// so long. Who looks after hooks looks often enough for that; asserted where it says how often.
pub const MENDED_WITHIN: Duration = Duration::from_secs(1);

/// A hook that could not be served.
#[derive(Debug, Error)]
#[error("{act} {program} on cgroup {cgroup}: {error}")]
pub struct AttachError {
    act: &'static str,
    program: &'static str,
    cgroup: PathBuf,
    error: io::Error,
}

/// What became of each hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Attached {
    /// Links made: the hook had none of ours.
    pub created: u32,
    /// Links whose program was replaced in place.
    pub updated: u32,
}

/// Bring every program of the socket path to its hook on `cgroup`. The guard's program is replaced
/// where it is attached, and left alone where it is not.
pub fn attach(object: &Object, pins: &Pins, cgroup: &Path) -> Result<Attached, AttachError> {
    let mut attached = Attached::default();
    for (name, attach_type) in SOCKET_HOOKS {
        attach_one(object, pins, cgroup, (name, attach_type), &mut attached)?;
    }
    if guard_is_attached(pins).map_err(|error| AttachError {
        act: "look at",
        program: GUARD_HOOK.0,
        cgroup: cgroup.into(),
        error,
    })? {
        attach_guard(object, pins, cgroup)?;
    }
    Ok(attached)
}

/// Attach the guard, or replace its program.
pub fn attach_guard(object: &Object, pins: &Pins, cgroup: &Path) -> Result<(), AttachError> {
    attach_one(object, pins, cgroup, GUARD_HOOK, &mut Attached::default())
}

/// Take the guard off: it translates nothing, so nobody misses it.
pub fn detach_guard(pins: &Pins) -> io::Result<()> {
    let Some(link) = pins.open_link(GUARD_HOOK.0)? else {
        return Ok(());
    };
    sys::link_detach(link.as_fd())?;
    std::fs::remove_file(pins.links().join(GUARD_HOOK.0))
}

/// Whether the guard is on its hook.
pub fn guard_is_attached(pins: &Pins) -> io::Result<bool> {
    Ok(matches!(hook(pins, GUARD_HOOK.0)?, HookState::Attached(_)))
}

fn attach_one(
    object: &Object,
    pins: &Pins,
    cgroup: &Path,
    (name, attach_type): (&'static str, u32),
    attached: &mut Attached,
) -> Result<(), AttachError> {
    let failed = |act, error| AttachError { act, program: name, cgroup: cgroup.into(), error };
    let program = object.program(name);
    let program = program.ok_or_else(|| failed("find", io::ErrorKind::NotFound.into()))?;
    if update(pins, name, program, cgroup).map_err(|error| failed("update", error))? {
        attached.updated += 1;
        return Ok(());
    }
    let directory = File::open(cgroup).map_err(|error| failed("open the cgroup of", error))?;
    create(pins, name, program, directory.as_fd(), attach_type)
        .map_err(|error| failed("attach", error))?;
    attached.created += 1;
    Ok(())
}

/// Put the program behind the pinned link, if there is one on this cgroup.
fn update(pins: &Pins, name: &str, program: BorrowedFd<'_>, cgroup: &Path) -> io::Result<bool> {
    let Some(link) = pins.open_link(name)? else {
        return Ok(false);
    };
    if !is_on(&sys::link_info(link.as_fd())?, cgroup)? {
        return Ok(false);
    }
    match sys::link_update(link.as_fd(), program) {
        // The cgroup went away between the two questions.
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
        other => other.map(|()| true),
    }
}

fn is_on(info: &LinkInfo, cgroup: &Path) -> io::Result<bool> {
    let id = environment::cgroup_id(cgroup).map_err(io::Error::other)?;
    Ok(info.cgroup_id == id)
}

/// Link the program, then put the new pin in the place of a dead one.
fn create(
    pins: &Pins,
    name: &str,
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<()> {
    let link = sys::link_create(program, cgroup, attach_type)?;
    let path = pins.links().join(name);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    sys::obj_pin(link.as_fd(), &path)
}

/// State of one hook, for `status` and for the watch over our own links.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HookState {
    /// Our program is on it.
    Attached(LinkInfo),
    /// The link is pinned, but its cgroup is gone or it was detached by someone.
    Severed,
    /// There is no link.
    Missing,
}

/// The state of every hook that must have its program.
pub fn hooks(pins: &Pins) -> io::Result<Vec<(&'static str, HookState)>> {
    SOCKET_HOOKS.iter().map(|(name, _)| Ok((*name, hook(pins, name)?))).collect()
}

fn hook(pins: &Pins, name: &str) -> io::Result<HookState> {
    let Some(link) = pins.open_link(name)? else {
        return Ok(HookState::Missing);
    };
    let info = sys::link_info(link.as_fd())?;
    Ok(if info.cgroup_id == 0 { HookState::Severed } else { HookState::Attached(info) })
}

/// Take every program off its hook. New connections are no longer translated from here on; those
/// that are established live on, but are told their backend's address.
pub fn detach_all(pins: &Pins) -> io::Result<()> {
    detach_guard(pins)?;
    // The way out first, so that nothing is translated whose way back is gone.
    for (name, _) in SOCKET_HOOKS.iter().rev() {
        if let Some(link) = pins.open_link(name)? {
            sys::link_detach(link.as_fd())?;
        }
    }
    Ok(())
}

/// As [`detach_all`], and remove the links' pins.
pub fn remove_all(pins: &Pins) -> io::Result<()> {
    detach_all(pins)?;
    for (name, _) in SOCKET_HOOKS {
        match std::fs::remove_file(pins.links().join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
