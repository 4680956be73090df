//! The commands of `bpf(2)` that aya 0.14 lacks: batches, link update, pins of anything.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya_obj::generated::{
    BPF_F_BEFORE, bpf_attr, bpf_cmd, bpf_link_info, bpf_map_info, bpf_prog_info,
};

/// Programs that the kernel lets onto one hook of a device, at most (`BPF_MPROG_MAX`).
const PROGRAMS_PER_HOOK: usize = 64;

/// `BPF_LINK_TYPE_TCX` (linux/bpf.h).
const LINK_TYPE_TCX: u32 = 11;

/// An all-zero `bpf_attr`: unused fields must be zero.
fn attr() -> bpf_attr {
    // SAFETY: a union of plain structs of integers; zero is a valid value of each.
    unsafe { std::mem::zeroed() }
}

/// `bpf(2)`.
fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: the attribute is valid for its size; every pointer in it was made by the caller from
    // a live reference of the size the kernel will use.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<bpf_attr>())
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}

fn bpf_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the kernel just gave us this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    // A descriptor is never negative.
    fd.as_raw_fd().unsigned_abs()
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Open what is pinned at `path` (`BPF_OBJ_GET`).
pub fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    bpf_fd(bpf_cmd::BPF_OBJ_GET, &mut attr)
}

/// Pin a map, program or link at `path` (`BPF_OBJ_PIN`).
pub fn obj_pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = raw(fd);
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Link a program to a cgroup's hook (`BPF_LINK_CREATE`, Linux 5.7). Links of several owners live
/// side by side; flags must be 0.
pub fn link_create(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    let mut attr = attr();
    attr.link_create.__bindgen_anon_1.prog_fd = raw(program);
    attr.link_create.__bindgen_anon_2.target_fd = raw(cgroup);
    attr.link_create.attach_type = attach_type;
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Link a program to a device's hook, before all that are there (`BPF_LINK_CREATE`, Linux 6.6).
/// EINVAL: the kernel has no such hooks. ENODEV: there is no such device.
pub fn link_create_tcx(
    program: BorrowedFd<'_>,
    index: u32,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    let mut attr = attr();
    attr.link_create.__bindgen_anon_1.prog_fd = raw(program);
    attr.link_create.__bindgen_anon_2.target_ifindex = index;
    attr.link_create.attach_type = attach_type;
    // Without a program to stand before: the first of all.
    attr.link_create.flags = BPF_F_BEFORE;
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// A program on a device's hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OnHook {
    /// Its id.
    pub program_id: u32,
    /// Id of the link that put it there; 0: none did.
    pub link_id: u32,
}

/// The programs on a device's hook, in the order they run (`BPF_PROG_QUERY`). ENODEV: there is no
/// such device.
pub fn query_tcx(index: u32, attach_type: u32) -> io::Result<Vec<OnHook>> {
    let mut programs = [0_u32; PROGRAMS_PER_HOOK];
    let mut links = [0_u32; PROGRAMS_PER_HOOK];
    let mut attr = attr();
    attr.query.__bindgen_anon_1.target_ifindex = index;
    attr.query.attach_type = attach_type;
    attr.query.prog_ids = programs.as_mut_ptr() as u64;
    attr.query.link_ids = links.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.count = PROGRAMS_PER_HOOK as u32;
    match bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr) {
        Ok(_) => {}
        // Nothing was ever attached.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    // SAFETY: the kernel writes the count when it succeeds.
    let count = unsafe { attr.query.__bindgen_anon_2.count } as usize;
    let pairs = programs.into_iter().zip(links).take(count);
    Ok(pairs.map(|(program_id, link_id)| OnHook { program_id, link_id }).collect())
}

/// Put another program behind a link, atomically (`BPF_LINK_UPDATE`). ENOLINK: the cgroup is gone.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = attr();
    attr.link_update.link_fd = raw(link);
    attr.link_update.__bindgen_anon_1.new_prog_fd = raw(program);
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Detach a link (`BPF_LINK_DETACH`, Linux 5.9). Only `cleanup` does this.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = attr();
    attr.link_detach.link_fd = raw(link);
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

/// What the kernel says of a cgroup link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkInfo {
    /// Program behind it.
    pub program_id: u32,
    /// Inode of the cgroup it is attached to; 0 when that is gone.
    pub cgroup_id: u64,
    /// `enum bpf_attach_type`.
    pub attach_type: u32,
}

/// Ask about a link.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    // SAFETY: plain integers; zero is valid.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    obj_info(link, &mut info)?;
    // SAFETY: the links we ask about are cgroup links, for which this is the member in use; for any
    // other, all members are integers.
    let cgroup = unsafe { info.__bindgen_anon_1.cgroup };
    Ok(LinkInfo {
        program_id: info.prog_id,
        cgroup_id: cgroup.cgroup_id,
        attach_type: cgroup.attach_type,
    })
}

/// What the kernel says of a link to a device's hook.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcxInfo {
    /// The link.
    pub link_id: u32,
    /// Program behind it.
    pub program_id: u32,
    /// Index of the device, in whichever network namespace that is; 0 when it is gone.
    pub index: u32,
    /// `enum bpf_attach_type`.
    pub attach_type: u32,
}

/// Ask about a link to a device's hook; nothing: it is a link of another kind.
pub fn tcx_info(link: BorrowedFd<'_>) -> io::Result<Option<TcxInfo>> {
    // SAFETY: plain integers; zero is valid.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    obj_info(link, &mut info)?;
    if info.type_ != LINK_TYPE_TCX {
        return Ok(None);
    }
    // SAFETY: the member in use for links of this type, which was checked.
    let tcx = unsafe { info.__bindgen_anon_1.tcx };
    Ok(Some(TcxInfo {
        link_id: info.id,
        program_id: info.prog_id,
        index: tcx.ifindex,
        attach_type: tcx.attach_type,
    }))
}

/// Type and sizes of a map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapShape {
    /// `enum bpf_map_type`.
    pub kind: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Rows it holds.
    pub max_entries: u32,
    /// `BPF_F_*`.
    pub flags: u32,
}

/// Ask about a map.
pub fn map_shape(map: BorrowedFd<'_>) -> io::Result<MapShape> {
    // SAFETY: plain integers; zero is valid.
    let mut info: bpf_map_info = unsafe { std::mem::zeroed() };
    obj_info(map, &mut info)?;
    Ok(MapShape {
        kind: info.type_,
        key_size: info.key_size,
        value_size: info.value_size,
        max_entries: info.max_entries,
        flags: info.map_flags,
    })
}

/// A program's id.
pub fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    // SAFETY: plain integers; zero is valid, and asks for none of the lists.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    obj_info(program, &mut info)?;
    Ok(info.id)
}

/// How many instructions the verifier walked through to accept a program; not told below Linux
/// 5.16.
pub fn verified_instructions(program: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    // SAFETY: plain integers; zero is valid, and asks for none of the lists.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    obj_info(program, &mut info)?;
    Ok((info.verified_insns > 0).then_some(info.verified_insns))
}

fn obj_info<T>(fd: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    let mut attr = attr();
    attr.info.bpf_fd = raw(fd);
    attr.info.info_len = u32::try_from(size_of::<T>()).map_err(io::Error::other)?;
    attr.info.info = std::ptr::from_mut(info) as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr).map(drop)
}

/// Read one row into `value`, which must have the size of a value (times the possible CPUs for a
/// per-CPU map). False: there is no such row.
pub fn map_lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let mut attr = attr();
    attr.__bindgen_anon_2.map_fd = raw(map);
    attr.__bindgen_anon_2.key = key.as_ptr() as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    found(bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr))
}

/// Write one row.
pub fn map_update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut attr = attr();
    attr.__bindgen_anon_2.map_fd = raw(map);
    attr.__bindgen_anon_2.key = key.as_ptr() as u64;
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_ptr() as u64;
    bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr).map(drop)
}

/// Delete one row. False: there was none.
pub fn map_delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    let mut attr = attr();
    attr.__bindgen_anon_2.map_fd = raw(map);
    attr.__bindgen_anon_2.key = key.as_ptr() as u64;
    found(bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr))
}

fn found(result: io::Result<i32>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The key that follows `key` (`None`: the first) into `next`, in the map's own order. False: there
/// is none.
pub fn map_next_key(map: BorrowedFd<'_>, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
    let mut attr = attr();
    attr.__bindgen_anon_2.map_fd = raw(map);
    attr.__bindgen_anon_2.key = key.map_or(0, |key| key.as_ptr() as u64);
    attr.__bindgen_anon_2.__bindgen_anon_1.next_key = next.as_mut_ptr() as u64;
    found(bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr))
}

/// Write `count` rows, whose keys and values stand one after the other (Linux 5.6).
pub fn map_update_batch(
    map: BorrowedFd<'_>,
    keys: &[u8],
    values: &[u8],
    count: u32,
) -> io::Result<()> {
    let mut attr = attr();
    attr.batch.map_fd = raw(map);
    attr.batch.keys = keys.as_ptr() as u64;
    attr.batch.values = values.as_ptr() as u64;
    attr.batch.count = count;
    bpf(bpf_cmd::BPF_MAP_UPDATE_BATCH, &mut attr).map(drop)
}

/// What one step of a scan brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScanStep {
    /// Rows read.
    pub count: u32,
    /// Whether these were the last ones.
    pub done: bool,
}

/// Read up to `count` rows from where `position` stands (`None`: the beginning), and move it.
/// ENOSPC: a bucket of the hash holds more than `count` rows; ask for more.
pub fn map_lookup_batch(
    map: BorrowedFd<'_>,
    position: &mut Option<u32>,
    keys: &mut [u8],
    values: &mut [u8],
    count: u32,
) -> io::Result<ScanStep> {
    let start = *position;
    let mut next = 0_u32;
    let mut attr = attr();
    attr.batch.map_fd = raw(map);
    attr.batch.in_batch = start.as_ref().map_or(0, |p| std::ptr::from_ref(p) as u64);
    attr.batch.out_batch = std::ptr::from_mut(&mut next) as u64;
    attr.batch.keys = keys.as_mut_ptr() as u64;
    attr.batch.values = values.as_mut_ptr() as u64;
    attr.batch.count = count;
    let result = bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr);
    // SAFETY: the kernel writes the count in every case we go on from.
    let count = unsafe { attr.batch.count };
    *position = Some(next);
    match result {
        Ok(_) => Ok(ScanStep { count, done: false }),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            Ok(ScanStep { count, done: true })
        }
        Err(error) => Err(error),
    }
}

/// `__sk_buff`, as far as [`run_packet`] sets it (linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct PacketContext {
    before: [u32; 10],
    ifindex: u32,
}

/// Run a program of a device's hook on a packet (`BPF_PROG_TEST_RUN`): on the device with that
/// index, in the caller's network namespace. Returns what the program returned, and how many bytes
/// of `output` the packet now has.
pub fn run_packet(
    program: BorrowedFd<'_>,
    device: u32,
    packet: &[u8],
    output: &mut [u8],
) -> io::Result<(i32, usize)> {
    let attr = test_run(program, device, packet, output, 1)?;
    // SAFETY: the kernel has written both.
    let (code, length) = unsafe { (attr.test.retval, attr.test.data_size_out) };
    Ok((code.cast_signed(), length as usize))
}

/// The same many times over, on one packet that is changed each time: nanoseconds per run.
pub fn time_packet(
    program: BorrowedFd<'_>,
    device: u32,
    packet: &[u8],
    runs: u32,
) -> io::Result<u32> {
    let mut output = vec![0; packet.len()];
    let attr = test_run(program, device, packet, &mut output, runs)?;
    // SAFETY: the kernel has written it.
    Ok(unsafe { attr.test.duration })
}

fn test_run(
    program: BorrowedFd<'_>,
    device: u32,
    packet: &[u8],
    output: &mut [u8],
    runs: u32,
) -> io::Result<bpf_attr> {
    let context = PacketContext { ifindex: device, ..PacketContext::default() };
    let size = |bytes: usize| u32::try_from(bytes).map_err(io::Error::other);
    let mut attr = attr();
    attr.test.prog_fd = raw(program);
    attr.test.data_in = packet.as_ptr() as u64;
    attr.test.data_size_in = size(packet.len())?;
    attr.test.data_out = output.as_mut_ptr() as u64;
    attr.test.data_size_out = size(output.len())?;
    attr.test.ctx_in = std::ptr::from_ref(&context) as u64;
    attr.test.ctx_size_in = size(size_of::<PacketContext>())?;
    attr.test.repeat = runs;
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr)?;
    Ok(attr)
}
