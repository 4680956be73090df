//! The least that a program can do that translates: what the benchmark has beside ours.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use millrace::bpf::sys;

use super::{NEXT, SCHED_CLS, attach, bpf, load_instructions};
use crate::lab::Place;

/// `BPF_MAP_CREATE` and `BPF_MAP_TYPE_HASH` (linux/bpf.h).
const MAP_CREATE: libc::c_int = 0;
const HASH: u32 = 1;
/// Stands for the distance to the program's end.
const END: i16 = i16::MAX;

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
