//! Loading the programs: with the maps that are pinned if they fit, else with new ones.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use aya::programs::{
    CgroupSkb, CgroupSock, CgroupSockAddr, Program, ProgramError, SchedClassifier,
};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use aya_obj::generated::bpf_attach_type;

use millrace_common::ABI_VERSION;
use millrace_common::backend::BackendPair;
use millrace_common::row::Pair;
use millrace_common::service::ServiceKey;

use super::flows::FlowStore;
use super::node_maps::NodeMaps;
use super::pins::Pins;
use super::readings::MapReadings;
use super::store::{MAPS, MapError, Store};
use super::sys::MapShape;
use super::transfer::{Shapes, Transfer, present_shapes};
use crate::plan::op::Capacity;

/// The BPF object, built by `cargo xtask build`.
pub static OBJECT: &[u8] = include_bytes_aligned!(env!("MILLRACE_EBPF_OBJ"));

/// Lines of the verifier's log that are worth showing: its end.
const VERIFIER_LOG_LINES: usize = 30;

/// Programs of the socket path and the hooks they go to.
///
/// The order is that of attaching: what forgets and what leads back is there before what is
/// remembered and what leads out.
pub const SOCKET_HOOKS: [(&str, u32); 9] = [
    ("sock_release", bpf_attach_type::BPF_CGROUP_INET_SOCK_RELEASE as u32),
    ("recvmsg4", bpf_attach_type::BPF_CGROUP_UDP4_RECVMSG as u32),
    ("recvmsg6", bpf_attach_type::BPF_CGROUP_UDP6_RECVMSG as u32),
    ("getpeername4", bpf_attach_type::BPF_CGROUP_INET4_GETPEERNAME as u32),
    ("getpeername6", bpf_attach_type::BPF_CGROUP_INET6_GETPEERNAME as u32),
    ("connect4", bpf_attach_type::BPF_CGROUP_INET4_CONNECT as u32),
    ("connect6", bpf_attach_type::BPF_CGROUP_INET6_CONNECT as u32),
    ("sendmsg4", bpf_attach_type::BPF_CGROUP_UDP4_SENDMSG as u32),
    ("sendmsg6", bpf_attach_type::BPF_CGROUP_UDP6_SENDMSG as u32),
];

/// The program that judges every packet that leaves, attached only while it is needed.
pub const GUARD_HOOK: (&str, u32) = ("egress", bpf_attach_type::BPF_CGROUP_INET_EGRESS as u32);

/// The programs of the packet path: for devices with an Ethernet header, and for those without.
pub const PACKET_PROGRAMS: [&str; 4] = ["packet_out", "packet_in", "packet_out_l3", "packet_in_l3"];

/// The packet path's programs come twice, and do the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PacketBuild {
    /// With headers read and written in as few steps as can be.
    Swift,
    /// For kernels whose verifiers give up over that.
    Plain,
}

impl PacketBuild {
    /// The first Linux that takes the swift ones (`cargo xtask kernels`).
    const SWIFT_SINCE: (u32, u32) = (6, 12);

    /// What this kernel is known to take.
    pub fn of_this_kernel() -> Self {
        if is_at_least(Self::SWIFT_SINCE) { Self::Swift } else { Self::Plain }
    }

    /// The name of a program in the object.
    fn name(self, program: &str) -> String {
        match self {
            Self::Swift => program.to_owned(),
            Self::Plain => format!("{program}_plain"),
        }
    }
}

/// What programs are told when they are loaded.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Rows of the maps that plans fill.
    pub capacity: Capacity,
    /// Rows of the maps that packets fill.
    pub flows: FlowCapacity,
    /// Cookie of the node's network namespace; 0: unknown.
    pub node_netns_cookie: u64,
    /// Which of the packet path's programs.
    pub packets: PacketBuild,
}

/// Entries the packet path has room for, of each IP family. A flow takes two, a masqueraded one
/// four.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowCapacity {
    /// `flows_*`.
    pub established: u32,
    /// `half_open_*`.
    pub half_open: u32,
}

impl Default for FlowCapacity {
    fn default() -> Self {
        Self { established: 262_144, half_open: 32_768 }
    }
}

/// Loaded programs and the maps they use.
pub struct Object {
    programs: BTreeMap<&'static str, OwnedFd>,
    /// Where the maps are pinned that the programs use.
    directory: PathBuf,
    /// The rows.
    pub store: Store,
    /// Whether the maps were there before: the kernel has been serving from them.
    pub adopted: bool,
    /// Where new maps have what is in them from.
    transfer: Option<Transfer>,
    /// Swift programs that the kernel refused; the plain ones do their work.
    pub refused: Vec<&'static str>,
}

/// Loaded programs.
#[derive(Default)]
struct Programs {
    loaded: BTreeMap<&'static str, OwnedFd>,
    refused: Vec<&'static str>,
}

impl Object {
    /// A program's descriptor.
    pub fn program(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.programs.get(name).map(AsFd::as_fd)
    }

    /// The maps that say what the node and its devices are.
    pub fn node_maps(&self) -> Result<NodeMaps, MapError> {
        NodeMaps::open(&self.directory)
    }

    /// The programs are those behind the hooks: take over what the ones before have written since.
    pub fn catch_up(&mut self) -> Result<()> {
        self.transfer.take().map_or(Ok(()), |transfer| transfer.copy_flows(&self.directory))
    }

    /// The maps once more, for whoever reads them beside the loop.
    pub fn readings(&self) -> Result<MapReadings, MapError> {
        MapReadings::open(&self.directory)
    }

    /// The maps that packets fill.
    pub fn flow_maps(&self) -> Result<FlowStore, MapError> {
        FlowStore::open(&self.directory)
    }

    /// Load everything. Maps already pinned are used again if they have the shape that the settings
    /// ask for; else new ones are made beside the old ones, which stay in force until
    /// [`Pins::promote_new_maps`], and take over what is in them, if that can be. So do the first
    /// maps of this version's layout what is in those of the version before.
    pub fn load(pins: &Pins, settings: &Settings) -> Result<Self> {
        pins.prepare().with_context(|| format!("prepare {}", pins.root().display()))?;
        let present = present_shapes(pins, ABI_VERSION)?;
        let wanted = wanted_shapes(settings)?;
        if present == wanted {
            return Self::load_in(&pins.maps(), pins, settings, true);
        }
        let capacity = &settings.capacity;
        let (differences, transfer) = match pins.predecessor().context("look at the pins")? {
            _ if !present.is_empty() => (
                differences(&present, &wanted),
                Transfer::of_other_sizes(pins, &present, &wanted, capacity),
            ),
            Some(version) => (
                format!("layout {version}, now {ABI_VERSION}"),
                Transfer::of_older_layout(pins, version, &wanted, capacity),
            ),
            None => return Self::load_in(&pins.maps(), pins, settings, false),
        };
        match transfer.and_then(|transfer| Self::take_over(pins, settings, transfer)) {
            Ok(object) => {
                tracing::info!(differences, "took over what is in the pinned maps");
                Ok(object)
            }
            Err(why) => {
                tracing::warn!(
                    differences,
                    "pinned maps do not have the shape that is asked for, and new ones cannot take \
                     over what is in them: {why:#}; building new ones beside them: flows and what \
                     sockets dialled are forgotten"
                );
                Self::load_in(&pins.new_maps(), pins, settings, false)
            }
        }
    }

    /// As [`Object::load`], with the maps of one directory, which are made if they are not there.
    fn load_in(directory: &Path, pins: &Pins, settings: &Settings, adopted: bool) -> Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("create {}", directory.display()))?;
        let loaded = load_programs(directory, settings).and_then(|programs| {
            let store = Store::open(directory, settings.capacity)?;
            let Programs { loaded, refused } = programs;
            let directory = directory.into();
            Ok(Self { programs: loaded, directory, store, adopted, transfer: None, refused })
        });
        if loaded.is_err() && !adopted {
            pins.forget(directory);
        }
        loaded
    }

    /// The same with new maps that take over what is in those in force.
    fn take_over(pins: &Pins, settings: &Settings, mut from: Transfer) -> Result<Self> {
        let directory = pins.new_maps();
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("create {}", directory.display()))?;
        let filled = from.share(pins, &directory).and_then(|()| {
            let mut object = Self::load_in(&directory, pins, settings, false)?;
            from.fill(&directory, &mut object.store)?;
            Ok(Self { adopted: from.is_complete(), transfer: Some(from), ..object })
        });
        if filled.is_err() {
            pins.forget(&directory);
        }
        filled
    }
}

/// The shape each map should have, read from the object itself.
fn wanted_shapes(settings: &Settings) -> Result<Shapes> {
    let object = aya_obj::Object::parse(OBJECT).context("parse the embedded BPF object")?;
    let mut shapes = Shapes::new();
    for (name, _) in MAPS {
        let map = object.maps.get(name).with_context(|| format!("the object has no map {name}"))?;
        shapes.insert(
            name,
            MapShape {
                kind: map.map_type(),
                key_size: map.key_size(),
                value_size: map.value_size(),
                max_entries: max_entries(name, settings).unwrap_or_else(|| map.max_entries()),
                flags: map.map_flags(),
            },
        );
    }
    Ok(shapes)
}

/// The configured size of a map, for those that have one.
fn max_entries(name: &str, settings: &Settings) -> Option<u32> {
    let Settings { capacity, flows, .. } = settings;
    match name {
        // Ids begin at 1.
        "services" => Some(ServiceKey::rows_for(capacity.services.saturating_add(1))),
        // An array, and ids begin with 1.
        "traffic" => Some(capacity.services.saturating_add(1)),
        "source_ranges_v4" | "source_ranges_v6" => Some(capacity.sources),
        "slots" => Some(Pair::<u32>::rows_for(capacity.slots)),
        "backends" => Some(BackendPair::rows_for(capacity.backends)),
        "frontends_v4" | "frontends_v6" => Some(capacity.frontends),
        "flows_v4" | "flows_v6" => Some(flows.established),
        "half_open_v4" | "half_open_v6" => Some(flows.half_open),
        _ => None,
    }
}

fn differences(present: &Shapes, wanted: &Shapes) -> String {
    let describe = |name: &&str| match present.get(name) {
        None => format!("{name}: missing"),
        Some(shape) => format!("{name}: {} rows", shape.max_entries),
    };
    let differing = wanted.iter().filter(|(name, shape)| present.get(*name) != Some(shape));
    differing.map(|(name, _)| describe(name)).collect::<Vec<_>>().join(", ")
}

fn load_programs(directory: &Path, settings: &Settings) -> Result<Programs> {
    let has_set_retval = u8::from(is_at_least(helper::SET_RETVAL));
    let has_coarse_clock = u8::from(is_at_least(helper::COARSE_CLOCK));
    let paths: Vec<(&str, PathBuf)> =
        MAPS.iter().map(|(name, _)| (*name, directory.join(name))).collect();
    let mut loader = EbpfLoader::new();
    loader.override_global("NODE_NETNS_COOKIE", &settings.node_netns_cookie, true);
    loader.override_global("HAS_SET_RETVAL", &has_set_retval, true);
    loader.override_global("HAS_COARSE_CLOCK", &has_coarse_clock, true);
    for (name, path) in &paths {
        loader.map_pin_path(name, path.as_path());
        if let Some(rows) = max_entries(name, settings) {
            loader.map_max_entries(name, rows);
        }
    }
    let mut ebpf = loader.load(OBJECT).with_context(|| {
        let Capacity { services, backends, slots, frontends, sources } = settings.capacity;
        format!(
            "load the BPF maps with --max-services {services} --max-backends {backends} \
             --max-slots {slots} --max-frontends {frontends} --max-source-ranges {sources} (is \
             that more than the kernel gives?)"
        )
    })?;
    #[cfg(feature = "bpf-log")]
    super::log::start(&mut ebpf)?;
    let mut programs = Programs::default();
    let sockets = SOCKET_HOOKS.into_iter().chain([GUARD_HOOK]).map(|(name, _)| name);
    for name in sockets {
        programs.loaded.insert(name, load_program(&mut ebpf, name)?);
    }
    for name in PACKET_PROGRAMS {
        programs.packet(&mut ebpf, name, settings.packets)?;
    }
    Ok(programs)
}

impl Programs {
    /// Load a program of the packet path. A kernel of another make may be less patient than those
    /// we know.
    fn packet(&mut self, ebpf: &mut Ebpf, name: &'static str, build: PacketBuild) -> Result<()> {
        let program = match load_program(ebpf, &build.name(name)) {
            Err(error) if build == PacketBuild::Swift => {
                tracing::warn!("taking the plain program instead: {error:#}");
                self.refused.push(name);
                load_program(ebpf, &PacketBuild::Plain.name(name))?
            }
            loaded => loaded?,
        };
        self.loaded.insert(name, program);
        Ok(())
    }
}

fn load_program(ebpf: &mut Ebpf, name: &str) -> Result<OwnedFd> {
    let program =
        ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?;
    let loaded = match program {
        Program::CgroupSockAddr(program) => CgroupSockAddr::load(program),
        Program::CgroupSkb(program) => CgroupSkb::load(program),
        Program::CgroupSock(program) => CgroupSock::load(program),
        Program::SchedClassifier(program) => SchedClassifier::load(program),
        other => bail!("program {name} has an unexpected type: {other:?}"),
    };
    loaded.map_err(|error| explain(name, error))?;
    let fd = program.fd().with_context(|| format!("descriptor of program {name}"))?;
    fd.as_fd().try_clone_to_owned().context("duplicate a program's descriptor")
}

/// A load error with the end of the verifier's log, where the reason stands.
fn explain(name: &str, error: ProgramError) -> anyhow::Error {
    let ProgramError::LoadError { io_error, verifier_log } = &error else {
        return anyhow::Error::new(error).context(format!("load program {name}"));
    };
    let log = verifier_log.to_string();
    let lines: Vec<&str> = log.lines().collect();
    let tail = &lines[lines.len().saturating_sub(VERIFIER_LOG_LINES)..];
    anyhow::anyhow!(
        "load program {name}: {io_error}; the verifier's log ends:\n{}",
        tail.join("\n")
    )
}

/// Helpers that a program may call, by the version they came with.
///
/// Asked by version: probing would need a program of the exact type and attach type, and no
/// distribution is known to have back-ported them.
mod helper {
    /// `bpf_set_retval`: the program sets its caller's error.
    pub const SET_RETVAL: (u32, u32) = (5, 18);
    /// `bpf_ktime_get_coarse_ns`.
    pub const COARSE_CLOCK: (u32, u32) = (5, 11);
}

/// Whether this is that kernel or a later one.
fn is_at_least(version: (u32, u32)) -> bool {
    let release = super::environment::kernel_release().unwrap_or_default();
    super::environment::parse_release(&release).is_some_and(|ours| ours >= version)
}
