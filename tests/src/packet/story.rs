//! Stories of packets: chains of hooks, and what has to become of the packet at each.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result, ensure};
use millrace::bpf::object::PacketBuild;
use millrace_common::address::Address;
use millrace_common::counters::Counter;
use millrace_common::flow::{Flow, bits, role};
use millrace_common::packet::frame::Verdict;

use super::build::{ETHERNET, Packet, Payload, tcp};
use super::checksum::{check_frame, check_packet};
use super::cluster::{self as at, Host};
use super::kernel::Program;
use super::node::Rows;
use super::pair::Pair;

/// A story: what it shows, and how it goes.
pub struct Story {
    /// What it shows.
    pub name: &'static str,
    /// How it goes.
    pub steps: Vec<Step>,
}

/// A packet under a hook.
pub struct Step {
    /// At which node.
    pub node: char,
    /// Under which hook.
    pub program: Program,
    /// On which device.
    pub device: u32,
    /// None: what came out of the step before.
    pub packet: Option<Vec<u8>>,
    /// What is to be said.
    pub verdict: Verdict,
    /// What it is to become.
    pub expected: Expected,
    /// What is to be counted; none: it does not matter.
    pub counters: Vec<Counter>,
    /// Entries of established and of half-open flows at the node afterwards.
    pub entries: Option<(usize, usize)>,
}

/// What the packet is to become.
pub enum Expected {
    /// What it was.
    Same,
    /// This.
    Frame(Vec<u8>),
    /// An answer: from whom, to whom, beginning with these transport bytes.
    Answer(IpAddr, IpAddr, Vec<u8>),
}

/// A story.
pub fn story(name: &'static str, steps: Vec<Step>) -> Story {
    Story { name, steps }
}

/// A step that changes nothing.
pub fn step(node: char, program: Program, device: u32, packet: Option<Vec<u8>>) -> Step {
    Step {
        node,
        program,
        device,
        packet,
        verdict: Verdict::NEXT,
        expected: Expected::Same,
        counters: Vec::new(),
        entries: None,
    }
}

/// A packet comes in at a node.
pub fn enters(node: char, device: u32, packet: &Packet) -> Step {
    step(node, Program::In, device, Some(packet.frame()))
}

/// A packet leaves a node.
pub fn leaves(node: char, device: u32, packet: &Packet) -> Step {
    step(node, Program::Out, device, Some(packet.frame()))
}

/// The packet of the step before comes in at a node.
pub fn comes_in(node: char, device: u32) -> Step {
    step(node, Program::In, device, None)
}

/// The packet of the step before leaves a node.
pub fn goes_out(node: char, device: u32) -> Step {
    step(node, Program::Out, device, None)
}

impl Step {
    /// It is to become that packet.
    pub fn becomes(self, packet: &Packet) -> Self {
        Self { expected: Expected::Frame(packet.frame()), ..self }
    }
    /// It is to become that frame.
    pub fn becomes_frame(self, frame: Vec<u8>) -> Self {
        Self { expected: Expected::Frame(frame), ..self }
    }
    /// Whether the packet became what it was to become.
    fn check_packet(&self, before: &[u8], after: &[u8], link: usize) -> Result<()> {
        match &self.expected {
            Expected::Same => ensure!(after == before, "it was changed"),
            Expected::Frame(expected) => ensure!(
                after == expected,
                "the packet is\n  {:02x?}, expected\n  {expected:02x?}",
                after
            ),
            Expected::Answer(from, to, start) => {
                is_answer(&after[link..], *from, *to, start)?;
            }
        }
        Ok(())
    }
    /// What is to be counted.
    pub fn counts(self, counters: &[Counter]) -> Self {
        Self { counters: counters.to_vec(), ..self }
    }
    /// Entries of established and of half-open flows.
    pub fn leaves_entries(self, established: usize, half_open: usize) -> Self {
        Self { entries: Some((established, half_open)), ..self }
    }
    /// It is to be dropped.
    pub fn dropped(self, counter: Counter) -> Self {
        Self { verdict: Verdict::DROP, counters: vec![counter], ..self }
    }
    /// Turned into its answer.
    pub fn rejected<A: Host>(
        self,
        from: Ipv4Addr,
        to: Ipv4Addr,
        start: &[u8],
        why: Counter,
    ) -> Self {
        let answer = Expected::Answer(A::of(from).into(), A::of(to).into(), start.to_vec());
        Self { verdict: Verdict::RETURN, expected: answer, counters: vec![why], ..self }
    }
}

/// A packet between two hosts.
pub fn packet<A: Host>(source: Ipv4Addr, destination: Ipv4Addr, payload: Payload) -> Packet {
    Packet::new(A::of(source), A::of(destination), payload)
}

/// A TCP segment of a connection that a client opens: `from` and `to` with their ports.
pub fn segment<A: Host>(
    from: (Ipv4Addr, u16),
    to: (Ipv4Addr, u16),
    flags: u8,
    numbers: (u32, u32),
) -> Packet {
    packet::<A>(from.0, to.0, Payload::segment(from.1, to.1, flags, numbers.0, numbers.1))
}

/// Opens a connection: flags, sequence and acknowledgement numbers.
pub const SYN: (u8, (u32, u32)) = (tcp::SYN, (1000, 0));
/// The backend's answer.
pub const SYN_ACK: (u8, (u32, u32)) = (tcp::SYN | tcp::ACK, (5000, 1001));
/// The client's next segment.
pub const ACK: (u8, (u32, u32)) = (tcp::ACK, (1001, 5001));
/// The backend's next segment.
pub const DATA: (u8, (u32, u32)) = (tcp::ACK, (5001, 1001));
/// The client's last segment.
pub const FIN: (u8, (u32, u32)) = (tcp::FIN | tcp::ACK, (1013, 5001));

/// A segment of the connection that the constants above are of.
pub fn tcp_of<A: Host>(
    from: (Ipv4Addr, u16),
    to: (Ipv4Addr, u16),
    what: (u8, (u32, u32)),
) -> Packet {
    segment::<A>(from, to, what.0, what.1)
}

/// A datagram.
pub fn udp_of<A: Host>(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Packet {
    packet::<A>(from.0, to.0, Payload::udp(from.1, to.1))
}

/// A client in a pod.
pub const CLIENT: (Ipv4Addr, u16) = (at::CLIENT, 4000);
/// A client outside.
pub const OUTSIDE: (Ipv4Addr, u16) = (at::OUTSIDE, 4000);
/// A ClusterIP's port.
pub const WEB: (Ipv4Addr, u16) = (at::CLUSTER_IP, 80);
/// Its backend.
pub const FAR_WEB: (Ipv4Addr, u16) = (at::FAR, 8080);
/// A NodePort with the same backend.
pub const NODE_PORT: (Ipv4Addr, u16) = (at::NODE_A, 30_080);
/// What the backend sees as its client.
pub const MASQUERADED: (Ipv4Addr, u16) = (at::TUNNEL_ADDRESS, at::MASQUERADE_PORT);

/// What a reset that answers the SYN of [`SYN`] at that port begins with.
pub const fn reset_from(port: u8) -> [u8; 14] {
    [0, port, 0x0f, 0xa0, 0, 0, 0, 0, 0, 0, 0x03, 0xe9, 0x50, tcp::RST | tcp::ACK]
}

/// Both nodes.
pub struct Stage {
    a: Pair,
    b: Pair,
    /// Whether flows begin among the established ones.
    roomy: bool,
}

/// How many flows may, there: more than a story has.
const ROOM: i64 = 16;

impl Stage {
    /// Natively only.
    pub fn native() -> Self {
        let pair = |address| Pair::native(at::node(address));
        Self { a: pair(at::NODE_A), b: pair(at::NODE_B), roomy: false }
    }

    /// Natively and in the kernel.
    pub fn load(packets: PacketBuild) -> Result<Self> {
        let pair = |address| Pair::load(at::node(address), packets);
        Ok(Self { a: pair(at::NODE_A)?, b: pair(at::NODE_B)?, roomy: false })
    }

    /// Tell the stories of either family, twice: where all flows begin among the half-open ones,
    /// and where they begin among the established ones.
    pub fn tell(mut self, v4: &[Story], v6: &[Story]) -> Result<()> {
        for roomy in [false, true] {
            self.roomy = roomy;
            for pair in [&mut self.a, &mut self.b] {
                pair.node.flow_room = if roomy { ROOM } else { 0 };
            }
            let told = self.tell_all(v4, v6);
            told.with_context(|| format!("with room for {} flows", self.a.node.flow_room))?;
        }
        Ok(())
    }

    fn tell_all(&mut self, v4: &[Story], v6: &[Story]) -> Result<()> {
        for story in v4 {
            self.play(story, |pair| Entries::of(&pair.node.v4)).context("IPv4")?;
        }
        for story in v6 {
            self.play(story, |pair| Entries::of(&pair.node.v6)).context("IPv6")?;
        }
        Ok(())
    }

    fn pair(&self, name: char) -> &Pair {
        if name == 'a' { &self.a } else { &self.b }
    }

    fn play(&mut self, story: &Story, entries: impl Fn(&Pair) -> Entries) -> Result<()> {
        self.a.forget()?;
        self.b.forget()?;
        let mut last = Vec::new();
        for (index, step) in story.steps.iter().enumerate() {
            last = self.step(step, last, &entries).with_context(|| {
                format!(
                    "{:?}, step {} ({:?} at {})",
                    story.name,
                    index + 1,
                    step.program,
                    step.node
                )
            })?;
        }
        Ok(())
    }

    fn step(
        &self,
        step: &Step,
        last: Vec<u8>,
        entries: impl Fn(&Pair) -> Entries,
    ) -> Result<Vec<u8>> {
        let pair = self.pair(step.node);
        let frame = step.packet.clone().unwrap_or(last);
        let before = pair.node.counted();
        let outcome = pair.run(step.program, step.device, &frame)?;
        ensure!(outcome.verdict == step.verdict, "verdict {:?}", outcome.verdict);
        let is_raw = matches!(step.program, Program::InRaw | Program::OutRaw);
        let check = if is_raw { check_packet } else { check_frame };
        if check(&frame).is_ok() {
            check(&outcome.frame).context("a checksum is wrong")?;
        }
        step.check_packet(&frame, &outcome.frame, if is_raw { 0 } else { ETHERNET })?;
        let mut counted = Vec::new();
        for (counter, count) in pair.node.counted() {
            let known = before.iter().find(|(of, _)| *of == counter).map_or(0, |(_, count)| *count);
            counted.extend(vec![counter; usize::try_from(count - known)?]);
        }
        let mut wanted = step.counters.clone();
        wanted.sort_by_key(|counter| *counter as u32);
        ensure!(wanted.is_empty() || counted == wanted, "counted {counted:?}");
        let outcomes = counted.iter().filter(|counter| counter.is_packet_outcome()).count();
        ensure!(outcomes == 1, "{outcomes} outcomes of one packet: {counted:?}");
        let left = entries(pair);
        ensure!(
            step.entries.is_none_or(|wanted| left.are(wanted, self.roomy)),
            "entries: {left:?}"
        );
        pair.agree()?;
        Ok(outcome.frame)
    }
}

/// Entries of one family.
#[derive(Debug)]
struct Entries {
    /// Of `flows_*`.
    established: usize,
    /// Those of them that are marked as half-open.
    marked: usize,
    /// Of `half_open_*`.
    half_open: usize,
}

impl Entries {
    fn of<A: Address>(rows: &Rows<A>) -> Self {
        let flows = rows.flows.rows();
        let is_marked = |flow: &&Flow<A>| {
            flow.bits & bits::HALF_OPEN != 0 && matches!(flow.role, role::OPEN | role::REPLY)
        };
        let marked = flows.values().filter(is_marked).count();
        Self { established: flows.len(), marked, half_open: rows.half_open.len() }
    }

    /// Whether these are so many of established and of half-open flows. Where all are in one table,
    /// the OPEN and REPLY entries of the half-open ones are marked.
    fn are(&self, (established, half_open): (usize, usize), roomy: bool) -> bool {
        if !roomy {
            return (self.established, self.marked, self.half_open) == (established, 0, half_open);
        }
        let are_some_marked = if half_open == 0 { self.marked == 0 } else { self.marked >= 2 };
        self.half_open == 0 && self.established == established + half_open && are_some_marked
    }
}

/// Whether an IP packet goes from one to the other and its transport begins so.
fn is_answer(packet: &[u8], from: IpAddr, to: IpAddr, start: &[u8]) -> Result<()> {
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let header = if from.is_ipv4() { 20 } else { 40 };
    let addresses = [bytes(from), bytes(to)].concat();
    ensure!(packet[header - addresses.len()..header] == addresses, "addresses of {packet:02x?}");
    ensure!(packet[header..].starts_with(start), "{packet:02x?}, expected {start:02x?}");
    Ok(())
}
