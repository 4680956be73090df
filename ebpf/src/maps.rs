//! Every map. Names, keys and values are the ABI (`millrace_common`); sizes are defaults that the
//! agent overrides when it creates them.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, SkStorage};
use aya_ebpf::macros::btf_map;
use millrace_common::address::{V4, V6};
use millrace_common::affinity::{AffinityEntry, AffinityKey};
use millrace_common::backend::BackendPair;
use millrace_common::counters;
use millrace_common::flow::{Flow, FlowKey};
use millrace_common::flow_filter::FlowFilter;
use millrace_common::flow_room::FlowRoom;
use millrace_common::fragment::{Fragment, FragmentKey, Parked, ParkedKey};
use millrace_common::frontend::{Frontend, FrontendKey};
use millrace_common::frontend_filter::FrontendFilter;
use millrace_common::node::{DeviceRow, NodeRow, SourceNet};
use millrace_common::peer::{Connected, PEER_SLOTS, Peer, UdpPeers};
use millrace_common::row::Pair;
use millrace_common::service::{REPORT_BYTES, ServiceBlock, ServiceKey};
use millrace_common::traffic::Traffic;

/// Rows are allocated as they come: an empty map costs its bucket array only.
const GROWS: usize = BPF_F_NO_PREALLOC as usize;

/// The agent writes it as memory.
const MAPPED: usize = BPF_F_MMAPABLE as usize;

/// Destination to service, IPv4.
#[btf_map(name = "frontends_v4")]
pub static FRONTENDS_V4: HashMap<FrontendKey<V4>, Frontend, 260_000, GROWS> = HashMap::new();

/// Destination to service, IPv6.
#[btf_map(name = "frontends_v6")]
pub static FRONTENDS_V6: HashMap<FrontendKey<V6>, Frontend, 260_000, GROWS> = HashMap::new();

/// What rules out that an address is a frontend's.
#[btf_map(name = "frontend_filter")]
pub static FRONTEND_FILTER: Array<FrontendFilter, 1, MAPPED> = Array::new();

/// Blocks of backend ids.
#[btf_map(name = "slots")]
pub static SLOTS: Array<Pair<u32>, 500_000, MAPPED> = Array::new();

/// Backend id to backend, of both families.
#[btf_map(name = "backends")]
pub static BACKENDS: Array<BackendPair, 262_144, MAPPED> = Array::new();

/// Service ids to names, of several ids in one row. No program reads it: it is what tools need when
/// the agent is dead.
#[btf_map(name = "services")]
pub static SERVICES: HashMap<ServiceKey, ServiceBlock, 65_000, GROWS> = HashMap::new();

/// Which backend a client has. The longest unused entries make room when it is full.
#[btf_map(name = "affinity")]
pub static AFFINITY: LruHashMap<AffinityKey, AffinityEntry, 65_536> = LruHashMap::new();

/// Who has a place in `peers`, which the low bits of its cookie choose. Given back when the socket
/// is closed, never evicted.
#[btf_map(name = "peer_owners")]
pub static PEER_OWNERS: Array<u64, { PEER_SLOTS as usize }, MAPPED> = Array::new();

/// What the owners of these places are connected to.
#[btf_map(name = "peers")]
pub static PEERS: Array<Connected, { PEER_SLOTS as usize }, MAPPED> = Array::new();

/// As `peers`, for sockets that found their place taken.
#[btf_map(name = "peers_overflow")]
pub static PEERS_OVERFLOW: SkStorage<Peer> = SkStorage::new();

/// What a UDP socket sent to. Freed with the socket, never evicted.
#[btf_map(name = "udp_peers")]
pub static UDP_PEERS: SkStorage<UdpPeers> = SkStorage::new();

/// What rules out that a packet is a flow's.
#[btf_map(name = "flow_filter")]
pub static FLOW_FILTER: Array<FlowFilter, 1, MAPPED> = Array::new();

/// How many flows of each family may begin in `flows_*`.
#[btf_map(name = "flow_room")]
pub static FLOW_ROOM: Array<FlowRoom, 2> = Array::new();

/// Flows that were answered, IPv4, and some that were not. Taken out by the agent when they are
/// over, never evicted.
#[btf_map(name = "flows_v4")]
pub static FLOWS_V4: HashMap<FlowKey<V4>, Flow<V4>, 262_144, GROWS> = HashMap::new();

/// As `flows_v4`, IPv6.
#[btf_map(name = "flows_v6")]
pub static FLOWS_V6: HashMap<FlowKey<V6>, Flow<V6>, 262_144, GROWS> = HashMap::new();

/// Flows that were not answered yet, IPv4: a flood of them evicts them, and no others.
#[btf_map(name = "half_open_v4")]
pub static HALF_OPEN_V4: LruHashMap<FlowKey<V4>, Flow<V4>, 32_768> = LruHashMap::new();

/// As `half_open_v4`, IPv6.
#[btf_map(name = "half_open_v6")]
pub static HALF_OPEN_V6: LruHashMap<FlowKey<V6>, Flow<V6>, 32_768> = LruHashMap::new();

/// Datagrams whose first fragment was translated, IPv4.
#[btf_map(name = "fragments_v4")]
pub static FRAGMENTS_V4: LruHashMap<FragmentKey<V4>, Fragment<V4>, 4_096> = LruHashMap::new();

/// As `fragments_v4`, IPv6.
#[btf_map(name = "fragments_v6")]
pub static FRAGMENTS_V6: LruHashMap<FragmentKey<V6>, Fragment<V6>, 4_096> = LruHashMap::new();

/// Fragments that overtook the first one of their datagram, of both families.
#[btf_map(name = "parked")]
pub static PARKED: LruHashMap<ParkedKey, Parked, 256> = LruHashMap::new();

/// Frames on their way to and from `parked`; too large for a program's stack.
#[btf_map(name = "scratch")]
pub static SCRATCH: PerCpuArray<Parked, 2> = PerCpuArray::new();

/// `loadBalancerSourceRanges`, IPv4.
#[btf_map(name = "source_ranges_v4")]
pub static SOURCE_RANGES_V4: LpmTrie<SourceNet<V4>, u32, 65_536> = LpmTrie::new();

/// `loadBalancerSourceRanges`, IPv6.
#[btf_map(name = "source_ranges_v6")]
pub static SOURCE_RANGES_V6: LpmTrie<SourceNet<V6>, u32, 65_536> = LpmTrie::new();

/// Interface index to what the device is for. A device without a row is not translated for.
#[btf_map(name = "devices")]
pub static DEVICES: HashMap<u32, DeviceRow, 8_192, GROWS> = HashMap::new();

/// This node's addresses and policy.
#[btf_map(name = "node")]
pub static NODE: Array<NodeRow, 1> = Array::new();

/// What each service port had to do, by service id.
#[btf_map(name = "traffic")]
pub static TRAFFIC: Array<Traffic, 130_001, MAPPED> = Array::new();

/// Outcomes.
#[btf_map(name = "counters")]
pub static COUNTERS: PerCpuArray<u64, { counters::COUNT as usize }> = PerCpuArray::new();

/// What the agent last said about itself, as JSON, zero-padded. No program reads it: it is what
/// `millrace status` shows when the agent is dead.
#[btf_map(name = "report")]
pub static REPORT: Array<[u8; REPORT_BYTES], 1> = Array::new();
