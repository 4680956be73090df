//! What is attached to a device, as the kernel says it, and programs of somebody else's.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use millrace::bpf::sys::{self, OnHook, TcxInfo};

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
/// `BPF_MAP_CREATE` and `BPF_MAP_TYPE_HASH` (linux/bpf.h).
const MAP_CREATE: libc::c_int = 0;
const HASH: u32 = 1;
/// Stands for the distance to a program's end.
const END: i16 = i16::MAX;
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

/// A program for what comes in by a device that does the least that translating a datagram takes
/// with the kernel's helpers, and changes nothing: one look-up in a hash table, one write of the
/// addresses and ports that are there, two updates of the checksum by nothing. What it costs is
/// the machine's: helpers, and returns from them, which cost more where they are guarded.
#[derive(Debug)]
pub struct Reference {
    _link: OwnedFd,
    /// Its id.
    pub program_id: u32,
}

impl Reference {
    /// Attaches it, behind what is there.
    pub fn attach(place: &Place, device: &str) -> Result<Reference> {
        let map = one_row().context("create a map")?;
        let program = load_instructions(&reference(map.as_raw_fd()), SCHED_CLS, 0);
        let (link, info) = attach(place, device, &program.context("load a program")?)?;
        Ok(Reference { _link: link, program_id: info.program_id })
    }
}

/// A hash table with one row: a key of a flow's size, all zero.
fn one_row() -> io::Result<OwnedFd> {
    /// The beginning of `union bpf_attr` for `BPF_MAP_CREATE`.
    #[repr(C)]
    struct Create {
        kind: u32,
        key_bytes: u32,
        value_bytes: u32,
        rows: u32,
        rest: [u64; 8],
    }
    let attributes =
        Create { kind: HASH, key_bytes: 16, value_bytes: 40, rows: 1024, rest: [0; 8] };
    let map = bpf(MAP_CREATE, &attributes)?;
    sys::map_update(map.as_fd(), &[0; 16], &[0; 40])?;
    Ok(map)
}

/// See [`Reference`]. Registers: 6 the packet's context, 7 its first byte.
fn reference(map: i32) -> Vec<u64> {
    const IPV4_BE: i32 = 0x0008;
    /// From the header checksum to the ports, in a packet with neither tags nor options.
    const ENDS: i16 = 14 + 10;
    const UDP_CHECKSUM: i32 = 14 + 20 + 6;
    const PSEUDO: i32 = 0x10;
    const UDP: i32 = 0x20;
    let instruction = |opcode: u8, to: u8, from: u8, offset: i16, number: i32| {
        u64::from(opcode)
            | u64::from(to) << 8
            | u64::from(from) << 12
            | u64::from(offset.cast_unsigned()) << 16
            | u64::from(number.cast_unsigned()) << 32
    };
    let set = |to: u8, number: i32| instruction(0xb7, to, 0, 0, number);
    let copy = |to: u8, from: u8| instruction(0xbf, to, from, 0, 0);
    let add = |to: u8, number: i32| instruction(0x07, to, 0, 0, number);
    let call = |helper: i32| instruction(0x85, 0, 0, 0, helper);
    let read_u32 = |to: u8, from: u8, offset: i16| instruction(0x61, to, from, offset, 0);
    let read_u64 = |to: u8, from: u8, offset: i16| instruction(0x79, to, from, offset, 0);
    let write_u64 = |to: u8, offset: i16, from: u8| instruction(0x7b, to, from, offset, 0);
    let mut code = vec![
        copy(6, 1),
        // Only IPv4: `__sk_buff::protocol`.
        read_u32(1, 6, 16),
        instruction(0x55, 1, 0, END, IPV4_BE),
        read_u32(7, 6, 76),
        read_u32(2, 6, 80),
        copy(3, 7),
        add(3, UDP_CHECKSUM + 2),
        instruction(0x2d, 3, 2, END, 0),
        set(1, 0),
        write_u64(10, -16, 1),
        write_u64(10, -8, 1),
        copy(2, 10),
        add(2, -16),
        instruction(0x18, 1, 1, 0, map),
        0,
        call(1),
        instruction(0x15, 0, 0, END, 0),
        read_u64(1, 7, ENDS),
        write_u64(10, -32, 1),
        read_u64(1, 7, ENDS + 8),
        write_u64(10, -24, 1),
        copy(1, 6),
        set(2, ENDS.into()),
        copy(3, 10),
        add(3, -32),
        set(4, 14),
        set(5, 0),
        call(9),
    ];
    for flags in [PSEUDO | UDP, UDP] {
        code.extend([copy(1, 6), set(2, UDP_CHECKSUM), set(3, 0), set(4, 0), set(5, flags)]);
        code.push(call(11));
    }
    let end = code.len();
    code.extend([set(0, NEXT), 0x95]);
    for (at, word) in code.iter_mut().enumerate() {
        if (*word >> 16) as u16 == END.cast_unsigned() {
            let distance = (end - at - 1) as u64;
            *word = *word & !(0xffff << 16) | distance << 16;
        }
    }
    code
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
