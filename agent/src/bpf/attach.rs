//! Links: a program goes to its hook once, and from then on is only ever replaced in place.
//!
//! Detaching and attaching again would leave the hook empty for milliseconds (CVE-2023-27595 was
//! that). There is no detach here but [`detach_all`], for `cleanup`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::environment;
use super::object::{Object, SOCKET_HOOKS};
use super::pins::Pins;
use super::sys::{self, LinkInfo};

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

/// Bring every program to its hook on `cgroup`.
pub fn attach(object: &Object, pins: &Pins, cgroup: &Path) -> Result<Attached, AttachError> {
    let failed = |act, program, error| AttachError { act, program, cgroup: cgroup.into(), error };
    let directory = File::open(cgroup).map_err(|error| failed("open", "root", error))?;
    let mut attached = Attached::default();
    for (name, attach_type) in SOCKET_HOOKS {
        let missing = || failed("find", name, io::ErrorKind::NotFound.into());
        let program = object.program(name).ok_or_else(missing)?;
        if update(pins, name, program, cgroup).map_err(|error| failed("update", name, error))? {
            attached.updated += 1;
        } else {
            create(pins, name, program, directory.as_fd(), attach_type)
                .map_err(|error| failed("attach", name, error))?;
            attached.created += 1;
        }
    }
    Ok(attached)
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

/// The state of every hook.
pub fn hooks(pins: &Pins) -> io::Result<Vec<(&'static str, HookState)>> {
    let state = |name| -> io::Result<HookState> {
        let Some(link) = pins.open_link(name)? else {
            return Ok(HookState::Missing);
        };
        let info = sys::link_info(link.as_fd())?;
        Ok(if info.cgroup_id == 0 { HookState::Severed } else { HookState::Attached(info) })
    };
    SOCKET_HOOKS.iter().map(|(name, _)| Ok((*name, state(name)?))).collect()
}

/// Take every program off its hook. New connections are no longer translated from here on; those
/// that are established live on, but are told their backend's address.
pub fn detach_all(pins: &Pins) -> io::Result<()> {
    // The way out first, so that nothing is translated whose way back is gone.
    for (name, _) in SOCKET_HOOKS.iter().rev() {
        if let Some(link) = pins.open_link(name)? {
            sys::link_detach(link.as_fd())?;
        }
    }
    Ok(())
}
