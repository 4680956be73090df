//! Links to the hooks of devices (tcx, Linux 6.6): pinned, and from then on replaced in place.
//!
//! A link's pin is called after its hook: `tcx-in-5`, `tcx-out-5`. When a device goes, the kernel
//! takes its link off; when it moves to another network namespace, as the ends of pods' devices do,
//! the link goes with it, so an index alone does not prove that a link is where it should be: the
//! hook is asked which links are on it.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use aya_obj::generated::bpf_attach_type;

use super::packet::{Direction, Hook};
use super::pins::Pins;
use super::sys;

/// An index that no device has: asking for a link to it tells whether the kernel knows such links.
const NO_DEVICE: u32 = i32::MAX as u32;

/// A link that was made or adopted. It is pinned; as it is held open, a pin that was removed can be
/// put back.
#[derive(Debug)]
pub struct Link {
    fd: OwnedFd,
    id: u32,
    /// The program behind it.
    program: u32,
}

/// Links below one set of pins.
#[derive(Clone, Debug)]
pub struct Tcx {
    pins: Pins,
}

const fn attach_type(direction: Direction) -> u32 {
    match direction {
        Direction::In => bpf_attach_type::BPF_TCX_INGRESS as u32,
        Direction::Out => bpf_attach_type::BPF_TCX_EGRESS as u32,
    }
}

/// What the pin of a hook's link is called.
fn pin_name(hook: Hook) -> String {
    match hook.direction {
        Direction::In => format!("tcx-in-{}", hook.index),
        Direction::Out => format!("tcx-out-{}", hook.index),
    }
}

/// The hook that a pin's name means.
fn hook_of(name: &str) -> Option<Hook> {
    let (direction, index) = name.strip_prefix("tcx-")?.split_once('-')?;
    let direction = match direction {
        "in" => Direction::In,
        "out" => Direction::Out,
        _ => return None,
    };
    Some(Hook { index: index.parse().ok()?, direction })
}

fn is(error: &io::Error, code: i32) -> bool {
    error.raw_os_error() == Some(code)
}

/// Whether the kernel has such hooks.
pub fn is_supported(program: BorrowedFd<'_>) -> io::Result<bool> {
    match sys::link_create_tcx(program, NO_DEVICE, attach_type(Direction::In)) {
        Err(error) if is(&error, libc::ENODEV) => Ok(true),
        Err(error) if is(&error, libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::other("the kernel linked a program to a device that is not there")),
    }
}

impl Tcx {
    /// Links pinned below `pins`.
    pub const fn new(pins: Pins) -> Self {
        Self { pins }
    }

    fn pin(&self, hook: Hook) -> PathBuf {
        self.pins.links().join(pin_name(hook))
    }

    /// Put the program behind the link that is pinned, if that is on the hook; else link it, before
    /// all others.
    pub fn attach(&self, hook: Hook, program: BorrowedFd<'_>) -> io::Result<Link> {
        if let Some(link) = self.adopt(hook, program)? {
            return Ok(link);
        }
        // Whatever its pin holds is not on this hook.
        self.unpin(hook)?;
        let fd = sys::link_create_tcx(program, hook.index, attach_type(hook.direction))?;
        let info = sys::tcx_info(fd.as_fd())?;
        let info =
            info.ok_or_else(|| io::Error::other("the kernel made a link of another kind"))?;
        sys::obj_pin(fd.as_fd(), &self.pin(hook))?;
        Ok(Link { fd, id: info.link_id, program: info.program_id })
    }

    fn adopt(&self, hook: Hook, program: BorrowedFd<'_>) -> io::Result<Option<Link>> {
        let Some(fd) = self.pins.open_link(&pin_name(hook))? else {
            return Ok(None);
        };
        let Some(info) = sys::tcx_info(fd.as_fd())? else {
            return Ok(None);
        };
        let link = Link { fd, id: info.link_id, program: sys::program_id(program)? };
        if self.program_of(hook, &link)?.is_none() {
            return Ok(None);
        }
        match sys::link_update(link.fd.as_fd(), program) {
            // The device went away between the two questions.
            Err(error) if is(&error, libc::ENOLINK) => Ok(None),
            other => other.map(|()| Some(link)),
        }
    }

    /// Whether a link is on its hook with our program behind it. False as well if the device is
    /// gone.
    pub fn is_on(&self, hook: Hook, link: &Link) -> io::Result<bool> {
        Ok(self.program_of(hook, link)? == Some(link.program))
    }

    /// The program that a link has on its hook; nothing: it is not on it.
    fn program_of(&self, hook: Hook, link: &Link) -> io::Result<Option<u32>> {
        match sys::query_tcx(hook.index, attach_type(hook.direction)) {
            Ok(programs) => {
                let found = programs.iter().find(|program| program.link_id == link.id);
                Ok(found.map(|program| program.program_id))
            }
            Err(error) if is(&error, libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Put a link's pin back, if someone removed it. True: someone had.
    pub fn mend_pin(&self, hook: Hook, link: &Link, pinned: &BTreeSet<Hook>) -> io::Result<bool> {
        if pinned.contains(&hook) {
            return Ok(false);
        }
        sys::obj_pin(link.fd.as_fd(), &self.pin(hook))?;
        Ok(true)
    }

    /// Take the link off its hook, wherever that is by now, and remove its pin.
    pub fn detach(&self, hook: Hook) -> io::Result<()> {
        if let Some(link) = self.pins.open_link(&pin_name(hook))? {
            match sys::link_detach(link.as_fd()) {
                // The device has gone and has taken it off.
                Err(error) if is(&error, libc::ENOLINK) => {}
                other => other?,
            }
        }
        self.unpin(hook)
    }

    fn unpin(&self, hook: Hook) -> io::Result<()> {
        match fs::remove_file(self.pin(hook)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Hooks whose links are pinned, alive or not.
    pub fn pinned(&self) -> io::Result<BTreeSet<Hook>> {
        let entries = match fs::read_dir(self.pins.links()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            other => other?,
        };
        let mut hooks = BTreeSet::new();
        for entry in entries {
            hooks.extend(entry?.file_name().to_str().and_then(hook_of));
        }
        Ok(hooks)
    }

    /// The program on a hook whose link is pinned, for tools: they may run in another network
    /// namespace. Nothing: there is no link, or it is on no device.
    pub fn program_on(&self, hook: Hook) -> io::Result<Option<u32>> {
        let Some(link) = self.pins.open_link(&pin_name(hook))? else {
            return Ok(None);
        };
        let info = sys::tcx_info(link.as_fd())?;
        Ok(info.filter(|info| info.index == hook.index).map(|info| info.program_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_named_after_their_hooks() {
        for direction in [Direction::In, Direction::Out] {
            let hook = Hook { index: 42, direction };
            assert_eq!(hook_of(&pin_name(hook)), Some(hook));
            assert!(!pin_name(hook).contains('.'), "bpffs refuses names with a dot");
        }
        for other in ["connect4", "egress", "tcx-in-", "tcx-up-4", "tcx-in-4-5"] {
            assert_eq!(hook_of(other), None, "{other}");
        }
    }
}
