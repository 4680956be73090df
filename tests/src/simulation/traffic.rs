//! What clients of a simulated node send, and what becomes of it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use millrace::settings::DetectLocal;
use millrace_common::address::{Be16, V4, V6};
use millrace_common::affinity::Client;
use millrace_common::frontend::FrontendKey;
use millrace_common::packet::frame::Verdict;
use millrace_common::select::{Decision, Sockets, Tables as _, select};

use super::{Simulation, device};
use crate::lab::{Family, address};
use crate::packet::build::{ETHERNET, Packet, Payload, Ports, number, sctp, tcp};
use crate::packet::checksum::{check_frame, transport};
use crate::packet::hook::At;
use crate::packet::kernel::Program;
use crate::packet::node::{InNode, Node};
use crate::packet::pair::run_native;

/// Flows of one question: a fair choice misses one of three with less than 1 in 10^6.
const DIALS: usize = 40;
/// Where source ports begin.
pub(super) const FIRST_PORT: u16 = 30_000;

/// A transport protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    const fn number(self) -> u8 {
        match self {
            Self::Tcp => number::TCP,
            Self::Udp => number::UDP,
            Self::Sctp => number::SCTP,
        }
    }

    /// What a client sends first.
    fn opening(self, from: u16, to: u16) -> Payload {
        match self {
            Self::Tcp => Payload::tcp(from, to, tcp::SYN),
            Self::Udp => Payload::udp(from, to),
            Self::Sctp => Payload::Sctp(Ports(from, to), sctp::INIT),
        }
    }

    /// What it sends later.
    fn more(self, from: u16, to: u16) -> Payload {
        match self {
            Self::Tcp => Payload::tcp(from, to, tcp::ACK),
            Self::Udp => Payload::udp(from, to),
            Self::Sctp => Payload::Sctp(Ports(from, to), sctp::DATA),
        }
    }
}

/// Who sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    /// Pod number N of the node, by packets: what no socket hook has seen.
    Pod(u8),
    /// A machine outside, by its address.
    Outside(IpAddr),
    /// A process of the node itself: by its socket, since its packets come in by no device.
    Node,
}

/// What becomes of new flows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// They are led to these backends.
    Backends {
        /// Where they are led.
        to: BTreeSet<SocketAddr>,
        /// Whether the backend sees the node in the client's place.
        masqueraded: bool,
    },
    /// The client is told at once that there is nobody.
    Reject,
    /// Silence.
    Drop,
    /// It is none of the node's business.
    None,
}

impl Answer {
    /// As tables have it: `n1/0 n2/1:9090 masq`, `REJECT`, `DROP`, `none`. Ports are left out where
    /// they are the usual one.
    pub fn text(&self) -> String {
        match self {
            Self::Reject => "REJECT".to_owned(),
            Self::Drop => "DROP".to_owned(),
            Self::None => "none".to_owned(),
            Self::Backends { to, masqueraded } => {
                let mut words: Vec<String> = to.iter().map(|at| place(*at)).collect();
                words.sort_unstable();
                words.extend(masqueraded.then(|| "masq".to_owned()));
                words.join(" ")
            }
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// `n1/0`, `n1/host`, with the port if it is unusual; else the address.
fn place(at: SocketAddr) -> String {
    let family = Family::of(at.ip());
    let nodes = 1..=9;
    let pod = |node| (0..20).map(move |pod| (address::pod(family, node, pod), pod.to_string()));
    let all = nodes.flat_map(|node| {
        let host = std::iter::once((address::node(family, node), "host".to_owned()));
        pod(node).chain(host).map(move |(address, name)| (address, format!("n{node}/{name}")))
    });
    let mut named = all.filter(|(address, _)| *address == at.ip()).map(|(_, name)| name);
    let name = named.next().unwrap_or_else(|| at.ip().to_string());
    if at.port() == super::TARGET_PORT { name } else { format!("{name}:{}", at.port()) }
}

/// Source and destination of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ends {
    from: SocketAddr,
    to: SocketAddr,
}

fn ends(frame: &[u8]) -> Result<Ends> {
    let packet = frame.get(ETHERNET..).context("no frame")?;
    let found = transport(packet)?;
    let (addresses, bytes) = (&packet[found.addresses], &packet[found.range]);
    let ip = |bytes: &[u8]| match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).map(IpAddr::from),
    };
    let (source, destination) = addresses.split_at(addresses.len() / 2);
    let port = |at: usize| -> Result<u16> {
        let bytes = bytes.get(at..at + 2).context("no ports")?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    Ok(Ends {
        from: SocketAddr::new(ip(source)?, port(0)?),
        to: SocketAddr::new(ip(destination)?, port(2)?),
    })
}

impl Simulation {
    /// What becomes of new flows from a client to `to`.
    pub fn dial(&self, from: Sender, to: SocketAddr, protocol: Protocol) -> Result<Answer> {
        let mut answers = Vec::new();
        for _ in 0..DIALS {
            answers.push(self.open(from, self.fresh_port(), to, protocol)?);
        }
        one_answer(answers).with_context(|| format!("{from:?} to {to}, {protocol:?}"))
    }

    /// A source port that no flow came from for long.
    pub fn fresh_port(&self) -> u16 {
        let port = self.next_port.get();
        self.next_port.set(port.checked_add(1).unwrap_or(FIRST_PORT));
        port
    }

    /// What becomes of the first packet of a flow from this port, or of the first system call.
    pub fn open(
        &self,
        from: Sender,
        port: u16,
        to: SocketAddr,
        protocol: Protocol,
    ) -> Result<Answer> {
        let answer = match from {
            Sender::Node => self.connect(true, to, protocol)?,
            _ => self.send(from, port, to, protocol.opening(port, to.port()))?,
        };
        // Pods have sockets, too: what these are told must be the same, where they know enough.
        // (They know without a detector whose they are.)
        let is_told_apart = self.policy.detect_local != DetectLocal::Off;
        if matches!(from, Sender::Pod(_)) && protocol != Protocol::Sctp && is_told_apart {
            self.check_socket(to, protocol, &answer)?;
        }
        Ok(answer)
    }

    /// What becomes of a later packet of a flow from this port.
    pub fn go_on(
        &self,
        from: Sender,
        port: u16,
        to: SocketAddr,
        protocol: Protocol,
    ) -> Result<Answer> {
        self.send(from, port, to, protocol.more(port, to.port()))
    }

    /// Where a pod's socket is led may be another backend of the same list, and who may use the
    /// frontend may be left to the packet.
    fn check_socket(&self, to: SocketAddr, protocol: Protocol, packet: &Answer) -> Result<()> {
        let socket = self.connect_as(false, to, protocol)?;
        let same = match (&socket, packet) {
            (Decided::LeftToPacket | Decided::Answer(Answer::None), _) => true,
            (Decided::Answer(Answer::Backends { .. }), Answer::Backends { .. }) => true,
            (Decided::Answer(socket), packet) => socket == packet,
        };
        ensure!(same, "a socket that dials {to} gets {socket:?}, a packet {packet:?}");
        Ok(())
    }

    fn connect(&self, is_node: bool, to: SocketAddr, protocol: Protocol) -> Result<Answer> {
        match self.connect_as(is_node, to, protocol)? {
            Decided::Answer(answer) => Ok(answer),
            Decided::LeftToPacket => bail!("no packet of the node itself is translated"),
        }
    }

    fn connect_as(&self, is_node: bool, to: SocketAddr, protocol: Protocol) -> Result<Decided> {
        match to.ip() {
            IpAddr::V4(ip) => decide::<V4>(self.node(), is_node, ip.into(), to.port(), protocol),
            IpAddr::V6(ip) => decide::<V6>(self.node(), is_node, ip.into(), to.port(), protocol),
        }
    }

    /// A packet through the node: in, routed, out, and the answer back to the client.
    fn send(&self, from: Sender, port: u16, to: SocketAddr, payload: Payload) -> Result<Answer> {
        let family = Family::of(to.ip());
        let (source, device) = match from {
            Sender::Pod(pod) => (address::pod(family, self.number, pod), device::POD),
            Sender::Outside(address) => (address, device::UPLINK),
            Sender::Node => bail!("the node's packets come in by no device"),
        };
        let client = SocketAddr::new(source, port);
        let frame = Packet::new(source, to.ip(), payload.clone()).frame();
        let entered = run_native(self.node(), Program::In, device, frame.clone());
        check_frame(&entered.frame).context("after ingress")?;
        match entered.verdict {
            Verdict::DROP => return Ok(Answer::Drop),
            Verdict::RETURN => {
                is_refusal(&entered.frame, client, to)?;
                return Ok(Answer::Reject);
            }
            _ => {}
        }
        if entered.frame == frame {
            return Ok(Answer::None);
        }
        let backend = ends(&entered.frame)?.to;
        let out = self.device_to(backend.ip());
        let Some(out) = out else {
            // Delivered to a process of this node: it leaves by no device.
            return Ok(led(backend, false));
        };
        let left = run_native(self.node(), Program::Out, out, entered.frame);
        check_frame(&left.frame).context("after egress")?;
        if left.verdict == Verdict::DROP {
            return Ok(Answer::Drop);
        }
        let seen = ends(&left.frame)?;
        ensure!(seen.to == backend, "egress changed the backend: {seen:?}");
        self.answer_comes_back(&payload, seen, out, client, to, device)?;
        Ok(led(backend, seen.from.ip() != source))
    }

    /// The backend answers whom it saw, and the client hears whom it dialled.
    fn answer_comes_back(
        &self,
        payload: &Payload,
        seen: Ends,
        out: u32,
        client: SocketAddr,
        to: SocketAddr,
        device: u32,
    ) -> Result<()> {
        let (from, port) = (seen.to.port(), seen.from.port());
        let payload = match payload {
            Payload::Tcp(..) => Payload::segment(from, port, tcp::SYN | tcp::ACK, 5000, 1001),
            Payload::Udp(..) => Payload::udp(from, port),
            _ => Payload::Sctp(Ports(from, port), sctp::DATA),
        };
        let frame = Packet::new(seen.to.ip(), seen.from.ip(), payload).frame();
        let entered = run_native(self.node(), Program::In, out, frame);
        let left = run_native(self.node(), Program::Out, device, entered.frame);
        check_frame(&left.frame).context("the answer")?;
        let heard = ends(&left.frame)?;
        ensure!(heard == Ends { from: to, to: client }, "the answer goes {heard:?}");
        Ok(())
    }

    /// The device that leads to an address; none: it is the node's own.
    fn device_to(&self, to: IpAddr) -> Option<u32> {
        let family = Family::of(to);
        let pods = |node: u8| (0..20).any(|pod| address::pod(family, node, pod) == to);
        if to == address::node(family, self.number) {
            return None;
        }
        Some(if pods(self.number) {
            device::POD
        } else if (1..=9).any(pods) {
            device::TUNNEL
        } else {
            device::UPLINK
        })
    }
}

fn led(to: SocketAddr, masqueraded: bool) -> Answer {
    Answer::Backends { to: BTreeSet::from([to]), masqueraded }
}

/// Whether a frame tells the client that nobody is there, in the name of whom it dialled.
fn is_refusal(frame: &[u8], client: SocketAddr, to: SocketAddr) -> Result<()> {
    let packet = &frame[ETHERNET..];
    let found = transport(packet)?;
    let (start, source) = (found.range.start, found.addresses.start);
    let icmp = [number::ICMP, number::ICMP_V6].contains(&found.protocol);
    let unreachable = if to.is_ipv4() { [3, 3] } else { [1, 4] };
    ensure!(!icmp || packet[start..start + 2] == unreachable, "another ICMP message");
    ensure!(icmp || packet[start + 13] & tcp::RST != 0, "no reset");
    let bytes = match to.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    ensure!(packet[source..].starts_with(&bytes), "the refusal comes from elsewhere");
    ensure!(icmp || ends(frame)?.to == client, "the refusal goes elsewhere");
    Ok(())
}

/// The answers to many flows of one kind, as one.
fn one_answer(answers: Vec<Answer>) -> Result<Answer> {
    let mut answers = answers.into_iter();
    let mut all = answers.next().context("nothing was dialled")?;
    for answer in answers {
        match (&mut all, answer) {
            (
                Answer::Backends { to, masqueraded },
                Answer::Backends { to: more, masqueraded: also },
            ) => {
                ensure!(*masqueraded == also, "some of them are masqueraded");
                to.extend(more);
            }
            (all, other) => ensure!(*all == other, "some get {all}, some {other}"),
        }
    }
    Ok(all)
}

/// What a socket is told.
#[derive(Debug)]
enum Decided {
    Answer(Answer),
    /// The packet knows more.
    LeftToPacket,
}

/// The socket path's decision. (The kernel gives a translated socket the source address that the
/// route to the backend asks for: from the node itself that is the node's own, as if masqueraded.)
fn decide<A: InNode>(
    node: &Node,
    is_node: bool,
    address: A,
    port: u16,
    protocol: Protocol,
) -> Result<Decided> {
    let socket = At { subject: Socket { is_node }, node };
    let key = FrontendKey::new(address, Be16::new(port), protocol.number());
    Ok(match select(&socket, &key) {
        Decision::Pass => Decided::Answer(Answer::None),
        Decision::NeedsSource => Decided::LeftToPacket,
        Decision::Refuse(_) => Decided::Answer(Answer::Reject),
        Decision::Drop(_) => Decided::Answer(Answer::Drop),
        Decision::Broken => bail!("a broken row behind {key:?}"),
        Decision::Forward(target) => {
            let to = SocketAddr::new(target.address.into(), target.port.get());
            Decided::Answer(led(to, is_node))
        }
    })
}

/// A socket that dials.
struct Socket {
    is_node: bool,
}

impl<A: InNode> Sockets<A> for At<'_, Socket> {
    fn client(&self) -> Client {
        Client::of_namespace(if self.subject.is_node { 1 } else { 2 })
    }
    fn client_is_node(&self) -> bool {
        self.subject.is_node
    }
    fn is_cluster_ip(&self, address: A) -> bool {
        self.has_cluster_ip(address)
    }
}
