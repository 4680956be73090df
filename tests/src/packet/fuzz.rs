//! Packets that nobody thought of: the hosts and ports of the cluster thrown together, then
//! damaged.

use std::cell::RefCell;
use std::collections::HashSet;
use std::net::Ipv4Addr;

use millrace_common::address::{Address, V4, V6};

use super::build::{
    ETHERNET, Error, Packet, Payload, Ports, Tcp, Udp, extension, number, sctp, tcp,
};
use super::checksum::{internet, pseudo_header, transport};
use super::cluster::{self as at, Host, PORTS};
use super::kernel::{DEVICES, Program};
use super::node::Random;

/// Bytes of a frame, at most.
const FRAME_BYTES_MAX: usize = 1600;
/// Bytes of a frame, at least: the kernel takes no shorter one.
const FRAME_BYTES_MIN: usize = 14;
/// Of so many frames one is noise from the first byte to the last.
const NOISE_ONE_IN: usize = 16;
/// Of so many frames one is left undamaged.
const WHOLE_ONE_IN: usize = 2;
/// Ports of clients: few, so that flows meet again.
const CLIENT_PORTS: [u16; 3] = [4000, 4001, at::MASQUERADE_PORT];
/// Ports that nobody has.
const NOBODYS_PORTS: [u16; 2] = [40_000, 40_001];
/// Packets that came out and may be answered.
const POOL: usize = 64;
/// Offsets that are damaged more often than others: where the headers are.
const HEADER_BYTES: usize = 80;

/// A frame under a hook.
#[derive(Clone, Debug)]
pub struct Case {
    /// Which program.
    pub program: Program,
    /// On which device.
    pub device: u32,
    /// The frame; for devices without a link layer, the packet.
    pub frame: Vec<u8>,
}

/// Makes cases from a seed.
pub struct Fuzz {
    random: Random,
    clients: Vec<Ipv4Addr>,
    ports: Vec<u16>,
    /// Address, port, protocol.
    destinations: Vec<(Ipv4Addr, u16, u8)>,
    pool: RefCell<Vec<(bool, Vec<u8>)>>,
}

impl Fuzz {
    /// Everything the cluster has: frontends, backends, clients.
    pub fn of_cluster(seed: u64) -> Self {
        let clients = vec![
            at::CLIENT,
            at::OUTSIDE,
            at::STRANGER,
            at::RAW_OUTSIDE,
            at::ROUTER,
            at::NODE_A,
            at::TUNNEL_ADDRESS,
            at::RAW,
        ];
        let dialled = PORTS.iter().map(|port| (port.address, port.port, port.protocol));
        let backends = PORTS.iter().map(|port| (port.backend.0, port.backend.1, port.protocol));
        let others = [
            (at::UNALLOCATED, 80, number::TCP),
            (at::CLUSTER_IP, 99, number::UDP),
            (at::STRANGER, 80, number::TCP),
        ];
        let destinations = dialled.chain(backends).chain(others).collect();
        Self::new(seed, clients, CLIENT_PORTS.to_vec(), destinations)
    }

    /// Only these hosts, with ports that no frontend has and no client of [`Fuzz::of_cluster`].
    pub fn of_hosts(seed: u64, hosts: &[Ipv4Addr]) -> Self {
        let destinations = hosts.iter().map(|host| (*host, NOBODYS_PORTS[0], number::TCP));
        Self::new(seed, hosts.to_vec(), NOBODYS_PORTS.to_vec(), destinations.collect())
    }

    fn new(
        seed: u64,
        clients: Vec<Ipv4Addr>,
        ports: Vec<u16>,
        destinations: Vec<(Ipv4Addr, u16, u8)>,
    ) -> Self {
        let pool = RefCell::default();
        Self { random: Random::new(seed), clients, ports, destinations, pool }
    }

    /// A packet came out: somebody may answer it.
    pub fn learn(&self, program: Program, frame: &[u8]) {
        let mut pool = self.pool.borrow_mut();
        if pool.len() == POOL {
            pool.swap_remove(self.random.below(POOL));
        }
        pool.push((is_raw(program), frame.to_vec()));
    }

    /// The next case, damaged or not.
    pub fn next_case(&self) -> Case {
        let mut case = self.next_whole();
        if self.random.one_in(NOISE_ONE_IN) {
            case.frame = self.noise();
        }
        if !self.random.one_in(WHOLE_ONE_IN) {
            self.damage(&mut case.frame);
        }
        case.frame.truncate(FRAME_BYTES_MAX);
        case.frame.resize(case.frame.len().max(FRAME_BYTES_MIN), 0);
        case
    }

    /// The next case as it was built.
    pub fn next_whole(&self) -> Case {
        let programs =
            [Program::In, Program::In, Program::Out, Program::Out, Program::InRaw, Program::OutRaw];
        let program = self.one(&programs);
        let device = DEVICES.start() + self.random.below(DEVICES.count()) as u32;
        let is_raw = is_raw(program);
        let frame = match self.random.below(4) {
            0 => self.packet::<V4>(is_raw),
            1 => self.packet::<V6>(is_raw),
            _ => match self.learnt(is_raw) {
                Some(frame) => frame,
                None => self.packet::<V4>(is_raw),
            },
        };
        Case { program, device, frame }
    }

    /// A number below `count`, for the test's own choices.
    pub fn below(&self, count: usize) -> usize {
        self.random.below(count)
    }

    /// A packet that came out, or an answer to it.
    fn learnt(&self, raw: bool) -> Option<Vec<u8>> {
        let pool = self.pool.borrow();
        if pool.is_empty() {
            return None;
        }
        let (was_raw, frame) = self.one(&pool);
        let start = if was_raw { 0 } else { ETHERNET };
        let mut packet = frame.get(start..)?.to_vec();
        if !self.random.one_in(4) {
            let last = self.one(&[tcp::ACK, tcp::ACK, tcp::FIN | tcp::ACK, tcp::RST]);
            answer(&mut packet, last)?;
        }
        let mut framed = if raw { Vec::new() } else { frame.get(..start)?.to_vec() };
        if !raw && was_raw {
            framed = vec![2; ETHERNET - 2];
            let is_v4 = packet.first().is_some_and(|byte| byte >> 4 == 4);
            framed.extend(if is_v4 { [0x08, 0x00] } else { [0x86, 0xdd] });
        }
        framed.extend(packet);
        Some(framed)
    }

    fn one<T: Clone>(&self, of: &[T]) -> T {
        of[self.random.below(of.len())].clone()
    }

    fn byte(&self) -> u8 {
        self.random.next_u32() as u8
    }

    /// Random bytes, most often with an ethertype that is looked into.
    fn noise(&self) -> Vec<u8> {
        let length = FRAME_BYTES_MIN + self.random.below(120);
        let mut frame: Vec<u8> = (0..length).map(|_| self.byte()).collect();
        let kind = self.one(&[[0x08, 0x00], [0x86, 0xdd], [0x81, 0x00]]);
        frame[12..14].copy_from_slice(&kind);
        frame
    }

    /// A packet or one of its fragments, framed if it is to be.
    fn packet<A: Host>(&self, is_raw: bool) -> Vec<u8> {
        let client = (self.one(&self.clients), self.one(&self.ports));
        let (address, port, protocol) = self.one(&self.destinations);
        let (from, to) = match self.random.one_in(4) {
            true => ((address, port), client),
            false => (client, (address, port)),
        };
        let mut packet = self.plain::<A>(from, to, protocol);
        self.dress(&mut packet);
        if self.random.one_in(8) {
            packet = self.error::<A>(&packet);
        }
        let bytes = if self.random.one_in(8) {
            let id = self.random.below(4) as u32;
            let pieces = packet.fragments(id, 8 * (1 + self.random.below(4)));
            if pieces.is_empty() { packet.packet() } else { self.one(&pieces) }
        } else {
            packet.packet()
        };
        if is_raw { bytes } else { packet.framed(&bytes) }
    }

    fn plain<A: Host>(&self, from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), like: u8) -> Packet {
        let ports = Ports(from.1, to.1);
        let data = vec![7; self.random.below(40)];
        let icmp = number::ICMP;
        let other = self.one(&[number::TCP, number::UDP, number::SCTP, icmp, self.byte()]);
        let protocol = if self.random.one_in(8) { other } else { like };
        let payload = match protocol {
            number::TCP => {
                let flags = self.one(&[
                    tcp::SYN,
                    tcp::SYN,
                    tcp::SYN | tcp::ACK,
                    tcp::ACK,
                    tcp::ACK,
                    tcp::FIN | tcp::ACK,
                    tcp::RST,
                    0xff,
                ]);
                let (sequence, acknowledgement) = (self.number(), self.number());
                Payload::Tcp(ports, Tcp { flags, sequence, acknowledgement, data })
            }
            number::UDP => Payload::Udp(ports, Udp { has_checksum: !self.random.one_in(4), data }),
            number::SCTP => {
                let chunks = [sctp::INIT, sctp::DATA, sctp::ABORT, sctp::SHUTDOWN];
                Payload::Sctp(ports, self.one(&chunks))
            }
            number::ICMP => Payload::Echo(ports.0),
            protocol => Payload::Raw(protocol, data),
        };
        Packet::new(A::of(from.0), A::of(to.0), payload)
    }

    /// Few numbers, so that acknowledgements fit now and then.
    fn number(&self) -> u32 {
        self.one(&[0, 1, 1000, 1001, u32::MAX])
    }

    fn dress(&self, packet: &mut Packet) {
        if self.random.one_in(8) {
            packet.options = vec![1; 4 * (1 + self.random.below(10))];
            let kinds = [
                extension::HOP_BY_HOP,
                extension::ROUTING,
                extension::DESTINATION,
                extension::FRAGMENT,
            ];
            packet.extensions = (0..self.random.below(8)).map(|_| self.one(&kinds)).collect();
        }
        if self.random.one_in(64) {
            packet.vlan = Some(1);
        }
    }

    /// An error about a packet, to whoever may be concerned.
    fn error<A: Host>(&self, about: &Packet) -> Packet {
        let error = self.one(&[Error::Port, Error::Host, Error::TooBig, Error::Time]);
        let bytes = 20 + self.random.below(80);
        about.error(A::of(self.one(&self.clients)).into(), error, bytes)
    }

    /// One to four wounds.
    fn damage(&self, frame: &mut Vec<u8>) {
        for _ in 0..=self.random.below(4) {
            let reach =
                if self.random.one_in(4) { frame.len() } else { frame.len().min(HEADER_BYTES) };
            if reach == 0 {
                return;
            }
            let place = self.random.below(reach);
            match self.random.below(8) {
                0 | 1 => frame[place] ^= 1 << self.random.below(8),
                2 => frame[place] = self.byte(),
                3 => frame[place] = self.one(&[0, 1, 0x0f, 0x7f, 0x80, 0xff]),
                4 => frame.truncate(place),
                5 => frame.extend((0..self.random.below(64)).map(|_| self.byte())),
                6 => {
                    frame.insert(place, self.byte());
                }
                _ => {
                    frame.remove(place);
                }
            }
        }
    }
}

const fn is_raw(program: Program) -> bool {
    matches!(program, Program::InRaw | Program::OutRaw)
}

/// Make a packet its own answer; a TCP segment the next one of the handshake, or `last`.
fn answer(packet: &mut [u8], last: u8) -> Option<()> {
    let found = transport(packet).ok()?;
    let middle = found.addresses.start.midpoint(found.addresses.end);
    let (before, after) = packet.split_at_mut(middle);
    let length = middle - found.addresses.start;
    before[found.addresses.start..].swap_with_slice(&mut after[..length]);
    let pseudo = pseudo_header(packet, &found);
    let bytes = packet.get_mut(found.range.clone())?;
    if !matches!(found.protocol, number::TCP | number::UDP | number::SCTP) || bytes.len() < 12 {
        return Some(());
    }
    if found.protocol == number::SCTP {
        // Its checksum covers the ports: only one that keeps them both stays right.
        return Some(());
    }
    let (source, rest) = bytes.split_at_mut(2);
    source.swap_with_slice(&mut rest[..2]);
    if found.protocol == number::TCP && bytes.len() >= 20 && !found.is_fragment {
        let sequence = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        bytes.copy_within(8..12, 4);
        bytes[8..12].copy_from_slice(&sequence.wrapping_add(1).to_be_bytes());
        bytes[13] = match bytes[13] {
            tcp::SYN => tcp::SYN | tcp::ACK,
            flags if flags == tcp::SYN | tcp::ACK => tcp::ACK,
            _ => last,
        };
        bytes[16..18].fill(0);
        let sum = internet(&[&pseudo, bytes]);
        bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    }
    Some(())
}

/// Addresses of hosts, in both families.
pub struct Hosts {
    v4: HashSet<[u8; 4]>,
    v6: HashSet<[u8; 16]>,
    /// The first bytes that any of them has: most places in a frame need no closer look.
    first: [bool; 256],
}

impl Hosts {
    /// These.
    pub fn new(hosts: &[Ipv4Addr]) -> Self {
        let v4: HashSet<[u8; 4]> = hosts.iter().map(Ipv4Addr::octets).collect();
        let v6: HashSet<[u8; 16]> = hosts.iter().map(|host| at::twin(*host).octets()).collect();
        let mut first = [false; 256];
        v4.iter().for_each(|octets| first[usize::from(octets[0])] = true);
        v6.iter().for_each(|octets| first[usize::from(octets[0])] = true);
        Self { v4, v6, first }
    }

    /// Whether one of them stands anywhere in a frame.
    pub fn are_mentioned(&self, frame: &[u8]) -> bool {
        let places = (0..frame.len()).filter(|place| self.first[usize::from(frame[*place])]);
        let mut rests = places.map(|place| &frame[place..]);
        rests.any(|rest| {
            rest.first_chunk().is_some_and(|address| self.v4.contains(address))
                || rest.first_chunk().is_some_and(|address| self.v6.contains(address))
        })
    }
}

/// Make everything that packets have left look older.
pub fn age(node: &mut super::node::Node, secs: u32) {
    age_family(&mut node.v4, secs);
    age_family(&mut node.v6, secs);
}

fn age_family<A: Address>(rows: &mut super::node::Rows<A>, secs: u32) {
    for table in [&mut rows.flows, &mut rows.half_open] {
        for flow in table.iter_mut() {
            flow.last_used_secs = flow.last_used_secs.saturating_sub(secs);
            flow.since_secs = flow.since_secs.saturating_sub(secs);
        }
    }
    for fragment in rows.fragments.get_mut().values_mut() {
        fragment.since_secs = fragment.since_secs.saturating_sub(secs);
    }
}
