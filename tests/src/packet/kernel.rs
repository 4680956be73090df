//! The same packets through the loaded programs, by `BPF_PROG_TEST_RUN`, in a network namespace of
//! the test's own.
//!
//! The kernel makes every packet an Ethernet frame, and its devices are all Ethernet devices. For
//! the programs of devices without a link layer the frame's first bytes are the IP header's; its
//! source then has to have the ethertype where a frame has it (see [`super::cluster`]).

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use millrace::bpf::object::{FlowCapacity, Object, PacketBuild, Settings};
use millrace::bpf::pins::Pins;
use millrace::bpf::sys;
use millrace::plan::op::Capacity;
use millrace_common::address::{V4, V6};
use millrace_common::counters::Counter;
use millrace_common::flow::FlowKey;
use millrace_common::flow_filter::FlowFilter;
use millrace_common::frontend::FrontendKey;
use millrace_common::frontend_filter::{Bit, WORDS};
use millrace_common::packet::frame::Verdict;
use millrace_common::row::Row;

use super::build::{ADDRESS, ETHERNET};
use super::node::Node;
use super::rows::{LEFT, Map, Maps};
use crate::lab::system;

/// Bytes of a frame that comes back, at most: the kernel makes no longer ones here.
const FRAME_BYTES_MAX: usize = 4096;
/// Rows of the maps: enough for every test, and quickly made.
const CAPACITY: Capacity =
    Capacity { services: 256, backends: 256, slots: 1024, frontends: 1024, sources: 256 };
/// Entries for established flows.
pub const FLOWS: u32 = 16_384;
/// Entries for flows that were not answered. The kernel begins to make room a little before they
/// are full.
pub const HALF_OPEN: u32 = 32_768;
/// Devices of the namespace, by index: loopback, and one end each of pairs.
pub const DEVICES: std::ops::RangeInclusive<u32> = 1..=4;
/// What `tc` programs return.
mod code {
    pub const NEXT: i32 = -1;
    pub const DROP: i32 = 2;
    pub const REDIRECT: i32 = 7;
}

/// One of the four programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    /// Ingress of an Ethernet device.
    In,
    /// Egress of an Ethernet device.
    Out,
    /// Ingress of a device without a link layer.
    InRaw,
    /// Egress of one.
    OutRaw,
}

impl Program {
    /// Its name in the object.
    pub const fn name(self) -> &'static str {
        match self {
            Self::In => "packet_in",
            Self::Out => "packet_out",
            Self::InRaw => "packet_in_l3",
            Self::OutRaw => "packet_out_l3",
        }
    }
}

/// What can be seen of a verdict from outside: a packet that was made an answer and one that goes
/// out by another device are both redirected, and the kernel does not say where to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// On its way.
    Next,
    /// Lost.
    Drop,
    /// Out by a device that we name.
    Redirect,
}

impl From<Verdict> for Seen {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::NEXT => Self::Next,
            Verdict::DROP => Self::Drop,
            _ => Self::Redirect,
        }
    }
}

/// The loaded programs and their maps.
pub struct Kernel {
    programs: Vec<(Program, OwnedFd)>,
    maps: BTreeMap<&'static str, OwnedFd>,
    pins: Pins,
    bpffs: PathBuf,
    cpus: usize,
}

impl Kernel {
    /// Load the programs of a build, and move the calling thread to a network namespace with
    /// [`DEVICES`].
    pub fn load(packets: PacketBuild) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        enter_namespace()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = system::bpffs()?;
        let bpffs = root.join(format!("millrace-packet-{}-{number}", std::process::id()));
        std::fs::create_dir(&bpffs).with_context(|| format!("create {}", bpffs.display()))?;
        let pins = Pins::new(&bpffs);
        let mut kernel = Self {
            programs: Vec::new(),
            maps: BTreeMap::new(),
            pins,
            bpffs,
            cpus: possible_cpus()?,
        };
        let flows = FlowCapacity { established: FLOWS, half_open: HALF_OPEN };
        let settings = Settings { capacity: CAPACITY, flows, node_netns_cookie: 0, packets };
        let object = Object::load(&kernel.pins, &settings)?;
        for program in [Program::In, Program::Out, Program::InRaw, Program::OutRaw] {
            let fd = object.program(program.name()).context("a program is missing")?;
            kernel.programs.push((program, fd.try_clone_to_owned()?));
        }
        for (name, _) in millrace::bpf::store::MAPS {
            let fd = kernel.pins.open_map(name)?.with_context(|| format!("no map {name}"))?;
            kernel.maps.insert(name, fd);
        }
        Ok(kernel)
    }

    /// Whether the kernel can be given a frame: it refuses IP packets shorter than their header.
    pub fn takes(frame: &[u8]) -> bool {
        let header = match frame.get(12..14) {
            Some([0x08, 0x00]) => 20,
            Some([0x86, 0xdd]) => 40,
            Some(_) => 0,
            None => return false,
        };
        frame.len() >= ETHERNET + header
    }

    /// Run a frame through a program.
    pub fn run(&self, program: Program, device: u32, frame: &[u8]) -> Result<(Seen, Vec<u8>)> {
        let fd = self.programs.iter().find(|(of, _)| *of == program).context("not loaded")?;
        let mut output = vec![0; FRAME_BYTES_MAX];
        let (code, length) = sys::run_packet(fd.1.as_fd(), device, frame, &mut output)
            .with_context(|| format!("run {program:?} on device {device}"))?;
        output.truncate(length);
        let seen = match code {
            code::NEXT => Seen::Next,
            code::DROP => Seen::Drop,
            code::REDIRECT => Seen::Redirect,
            other => bail!("{program:?} returned {other}"),
        };
        Ok((seen, output))
    }

    /// Run one frame through a program many times over, changed as it is by each: nanoseconds per
    /// run.
    pub fn time(&self, program: Program, device: u32, frame: &[u8], runs: u32) -> Result<u32> {
        let fd = self.programs.iter().find(|(of, _)| *of == program).context("not loaded")?;
        sys::time_packet(fd.1.as_fd(), device, frame, runs)
            .with_context(|| format!("run {program:?} on device {device}, {runs} times"))
    }

    fn map(&self, name: &'static str) -> BorrowedFd<'_> {
        self.maps[name].as_fd()
    }

    /// Make the maps say what the node's rows say, those that packets leave included.
    pub fn load_rows(&self, node: &Node) -> Result<()> {
        let left = node.left();
        let configured = node.configured();
        self.set_filter(&left)?;
        self.set_frontend_filter(&configured)?;
        for (name, rows) in configured.into_iter().chain(left) {
            self.replace(name, &rows)?;
        }
        Ok(())
    }

    /// Put a flow filter in force as the agent fills it from these rows.
    fn set_filter(&self, left: &Maps) -> Result<()> {
        let mut row = vec![0; size_of::<FlowFilter>()];
        row[..size_of::<u32>()].copy_from_slice(&1_u32.to_ne_bytes());
        let keys = |name: &'static str| left.get(name).into_iter().flat_map(Map::keys);
        let v4 = ["flows_v4", "half_open_v4"].into_iter().flat_map(keys);
        let v6 = ["flows_v6", "half_open_v6"].into_iter().flat_map(keys);
        let cells = v4.filter_map(|key| FlowKey::<V4>::from_bytes(key)).map(|key| key.cell());
        let cells =
            cells.chain(v6.filter_map(|key| FlowKey::<V6>::from_bytes(key)).map(|key| key.cell()));
        for cell in cells {
            row[offset_of!(FlowFilter, cells) + cell as usize] = 1;
        }
        sys::map_update(self.map("flow_filter"), &0_u32.to_ne_bytes(), &row)
            .context("write flow_filter")
    }

    /// Make the frontend filter as the agent makes it of these rows.
    fn set_frontend_filter(&self, configured: &Maps) -> Result<()> {
        let mut words = vec![u64::MAX; WORDS];
        let keys = |name: &'static str| configured.get(name).into_iter().flat_map(Map::keys);
        let v4 = keys("frontends_v4").filter_map(|key| FrontendKey::<V4>::from_bytes(key));
        let v6 = keys("frontends_v6").filter_map(|key| FrontendKey::<V6>::from_bytes(key));
        for bit in v4.map(|key| Bit::of(&key.address)).chain(v6.map(|key| Bit::of(&key.address))) {
            words[bit.word() as usize] &= !bit.mask();
        }
        let row: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        sys::map_update(self.map("frontend_filter"), &0_u32.to_ne_bytes(), &row)
            .context("write frontend_filter")
    }

    /// Make the maps say what packets have left according to the node's rows.
    pub fn load_left(&self, node: &Node) -> Result<()> {
        node.left().iter().try_for_each(|(name, rows)| self.replace(name, rows))
    }

    fn replace(&self, name: &'static str, rows: &Map) -> Result<()> {
        for (key, value) in self.read(name)? {
            if rows.contains_key(&key) {
                continue;
            }
            if is_array(name) {
                sys::map_update(self.map(name), &key, &vec![0; value.len()])
            } else {
                sys::map_delete(self.map(name), &key).map(drop)
            }
            .with_context(|| format!("clear {name}"))?;
        }
        for (key, value) in rows {
            let written = sys::map_update(self.map(name), key, value);
            written.with_context(|| format!("write {name}"))?;
        }
        Ok(())
    }

    /// A map's rows; of an array those that are not zero.
    fn read(&self, name: &'static str) -> Result<Map> {
        let fd = self.map(name);
        let shape = sys::map_shape(fd)?;
        let (key_bytes, value_bytes) = (shape.key_size as usize, shape.value_size as usize);
        let rows = shape.max_entries as usize;
        let (mut keys, mut values) = (vec![0; rows * key_bytes], vec![0; rows * value_bytes]);
        let mut position = None;
        let step =
            sys::map_lookup_batch(fd, &mut position, &mut keys, &mut values, shape.max_entries)
                .with_context(|| format!("read {name}"))?;
        let pairs = keys.chunks(key_bytes).zip(values.chunks(value_bytes));
        let rows = pairs.take(step.count as usize);
        let rows = rows.filter(|(_, value)| !is_array(name) || value.iter().any(|byte| *byte != 0));
        Ok(rows.map(|(key, value)| (key.to_vec(), value.to_vec())).collect())
    }

    /// What packets have left.
    pub fn left(&self) -> Result<Maps> {
        LEFT.iter().map(|name| Ok((*name, self.read(name)?))).collect()
    }

    /// Every outcome that was counted since the programs were loaded.
    pub fn counted(&self) -> Result<Vec<(Counter, u64)>> {
        let mut counts = Vec::new();
        for counter in Counter::ALL {
            let mut values = vec![0; self.cpus * size_of::<u64>()];
            let key = (counter as u32).to_ne_bytes();
            sys::map_lookup(self.map("counters"), &key, &mut values)?;
            let sum = values.chunks(size_of::<u64>()).filter_map(u64::from_bytes).sum();
            counts.push((counter, sum));
        }
        Ok(counts)
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // What is left would only be in the way of the next run's residue check.
        let _ = self.pins.remove_all();
        let _ = std::fs::remove_dir(&self.bpffs);
    }
}

fn is_array(name: &str) -> bool {
    matches!(name, "backends" | "slots" | "node" | "traffic" | "flow_room")
}

/// A network namespace for the calling thread alone, with [`DEVICES`] in it.
fn enter_namespace() -> Result<()> {
    // SAFETY: takes flags; the thread shares nothing else that depends on its namespace.
    let code = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    ensure!(code == 0, "a network namespace: {}", std::io::Error::last_os_error());
    // Pairs of devices, as there are always; the second of each is not used.
    let (first, last) = (*DEVICES.start() + 1, *DEVICES.end());
    for index in first..=last {
        let peer = (index + last).to_string();
        let (name, index) = (format!("d{index}"), index.to_string());
        let address = ADDRESS.map(|byte| format!("{byte:02x}")).join(":");
        let added = Command::new("ip")
            .args(["link", "add", &name, "index", &index, "address", &address, "type", "veth"])
            .args(["peer", "name", &format!("p{peer}"), "index", &peer])
            .status()
            .context("run ip")?;
        ensure!(added.success(), "ip link add {name}: {added}");
    }
    Ok(())
}

/// Values a per-CPU row has.
fn possible_cpus() -> Result<usize> {
    let ranges = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = ranges.trim().rsplit([',', '-']).next().context("no CPU")?;
    Ok(last.parse::<usize>()? + 1)
}
