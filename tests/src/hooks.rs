//! What is attached to a device, as the kernel says it, and programs of somebody else's.

mod reference;

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use millrace::bpf::sys::{self, OnHook, TcxInfo};

pub use self::reference::Reference;
use crate::lab::{Node, Place};

/// `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS` (linux/bpf.h).
const INGRESS: u32 = 46;
const EGRESS: u32 = 47;
/// `BPF_PROG_LOAD` and `BPF_PROG_TYPE_SCHED_CLS` (linux/bpf.h).
const PROG_LOAD: libc::c_int = 5;
const SCHED_CLS: u32 = 3;
/// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR` (linux/bpf.h).
const SOCK_ADDR: u32 = 18;
/// `BPF_CGROUP_INET4_CONNECT` (linux/bpf.h).
pub const CONNECT4: u32 = 10;
/// What a program says to have a packet dropped (`TC_ACT_SHOT`).
const DROP: i32 = 2;
/// What it says to have the next one decide (`TC_ACT_UNSPEC`).
const NEXT: i32 = -1;

/// Programs on a device's two hooks, in the order they run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// For what comes in.
    pub ingress: Vec<OnHook>,
    /// For what goes out.
    pub egress: Vec<OnHook>,
}

/// Interface index of a device.
pub fn index(place: &Place, device: &str) -> Result<u32> {
    let name = CString::new(device)?;
    // SAFETY: the name is NUL-terminated.
    let index = place.within(|| unsafe { libc::if_nametoindex(name.as_ptr()) })?;
    ensure!(index > 0, "{} has no device {device}", place.name());
    Ok(index)
}

/// What is on a device.
pub fn on(place: &Place, device: &str) -> Result<Hooks> {
    let index = index(place, device)?;
    let ask = || {
        let (ingress, egress) = (sys::query_tcx(index, INGRESS)?, sys::query_tcx(index, EGRESS)?);
        Ok(Hooks { ingress, egress })
    };
    let hooks: io::Result<Hooks> = place.within(ask)?;
    hooks.with_context(|| format!("ask for the hooks of {device} of {}", place.name()))
}

/// The pins of a device's links.
pub fn pins(node: &Node, index: u32) -> [PathBuf; 2] {
    let links = node.bpffs().join("millrace/links");
    [links.join(format!("tcx-in-{index}")), links.join(format!("tcx-out-{index}"))]
}

/// Every pin of a link to a device.
pub fn all_pins(node: &Node) -> Vec<String> {
    let entries = fs::read_dir(node.bpffs().join("millrace/links")).into_iter().flatten();
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("tcx-")).collect()
}

/// Id of the link that is pinned.
pub fn link_id(pin: &Path) -> Result<u32> {
    let link = sys::obj_get(pin).with_context(|| format!("open {}", pin.display()))?;
    let info = sys::tcx_info(link.as_fd())?.context("a link of another kind")?;
    Ok(info.link_id)
}

/// Takes the link off its device, as somebody who should not.
pub fn detach(pin: &Path) -> Result<()> {
    let link = sys::obj_get(pin).with_context(|| format!("open {}", pin.display()))?;
    Ok(sys::link_detach(link.as_fd())?)
}

/// Somebody else's program that drops everything that comes in by a device, before whatever is
/// there now. It goes with the value.
#[derive(Debug)]
pub struct Dropper {
    _link: OwnedFd,
    /// Id of its link.
    pub link_id: u32,
}

impl Dropper {
    /// Attaches it.
    pub fn attach(place: &Place, device: &str) -> Result<Dropper> {
        let (link, info) = attach_constant(place, device, DROP)?;
        Ok(Dropper { _link: link, link_id: info.link_id })
    }
}

/// A program that does nothing, for what comes in by a device: what having one costs at least.
#[derive(Debug)]
pub struct Empty {
    _link: OwnedFd,
    /// Its id.
    pub program_id: u32,
}

impl Empty {
    /// Attaches it.
    pub fn attach(place: &Place, device: &str) -> Result<Empty> {
        let (link, info) = attach_constant(place, device, NEXT)?;
        Ok(Empty { _link: link, program_id: info.program_id })
    }
}

fn attach_constant(place: &Place, device: &str, number: i32) -> Result<(OwnedFd, TcxInfo)> {
    attach(place, device, &load_constant(number).context("load a program")?)
}

fn attach(place: &Place, device: &str, program: &OwnedFd) -> Result<(OwnedFd, TcxInfo)> {
    let index = index(place, device)?;
    let link = place.within(|| sys::link_create_tcx(program.as_fd(), index, INGRESS))?;
    let link = link.context("attach a program")?;
    let info = sys::tcx_info(link.as_fd())?.context("a link of another kind")?;
    Ok((link, info))
}

/// Somebody else's program that forbids what a hook of a cgroup is asked about. It goes with the
/// value.
#[derive(Debug)]
pub struct Refuser {
    program: OwnedFd,
    _link: Option<OwnedFd>,
}

impl Refuser {
    /// Loads it for a hook of sockets' addresses (`enum bpf_attach_type`).
    pub fn load(attach_type: u32) -> Result<Refuser> {
        let program = load(0, SOCK_ADDR, attach_type).context("load a program")?;
        Ok(Refuser { program, _link: None })
    }

    /// Attaches it to a cgroup, beside what is there.
    pub fn attach(cgroup: &Path, attach_type: u32) -> Result<Refuser> {
        let loaded = Self::load(attach_type)?;
        let directory = fs::File::open(cgroup)?;
        let link = sys::link_create(loaded.program.as_fd(), directory.as_fd(), attach_type)?;
        Ok(Refuser { _link: Some(link), ..loaded })
    }

    /// Puts it behind somebody's link.
    pub fn put_behind(&self, pin: &Path) -> Result<()> {
        let link = sys::obj_get(pin).with_context(|| format!("open {}", pin.display()))?;
        Ok(sys::link_update(link.as_fd(), self.program.as_fd())?)
    }
}

/// A program for devices' hooks that returns one number.
fn load_constant(number: i32) -> io::Result<OwnedFd> {
    load(number, SCHED_CLS, 0)
}

/// A program that returns one number.
fn load(number: i32, kind: u32, attach_type: u32) -> io::Result<OwnedFd> {
    // BPF_ALU64 | BPF_MOV | BPF_K of r0, and BPF_JMP | BPF_EXIT.
    let instructions = [0xb7 | (u64::from(number.cast_unsigned()) << 32), 0x95];
    load_instructions(&instructions, kind, attach_type)
}

fn load_instructions(instructions: &[u64], kind: u32, attach_type: u32) -> io::Result<OwnedFd> {
    let license = c"GPL";
    // The beginning of `union bpf_attr` for this command.
    #[repr(C)]
    struct Load {
        kind: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        rest: [u64; 6],
    }
    let attributes = Load {
        kind,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        // The second half of the last word is `expected_attach_type`.
        rest: [0, 0, 0, 0, 0, u64::from(attach_type) << 32],
    };
    bpf(PROG_LOAD, &attributes)
}

/// A command that makes something; what its attributes point to is there until it returns.
fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    let attributes = std::ptr::from_ref(attributes);
    // SAFETY: the attributes are valid for their size.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just gave us this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Runs `tc`; returns what it printed.
pub fn tc(place: &Place, arguments: &str) -> Result<String> {
    let mut command: Command = place.command("tc");
    let output = command.args(arguments.split_whitespace()).output().context("run tc")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "tc {arguments} on {}: {said}", place.name());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
