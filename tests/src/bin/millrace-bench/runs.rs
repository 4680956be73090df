//! What a run of the packet path's programs costs by itself, hot: `BPF_PROG_TEST_RUN`, again and
//! again on one packet. Two flows lead it to and fro, so that each run finds one and changes
//! addresses, ports and checksums.

use std::net::Ipv4Addr;

use anyhow::Result;
use millrace::bpf::object::PacketBuild;
use millrace_common::address::{Be16, V4, V6};
use millrace_common::affinity::NS_PER_SEC;
use millrace_common::flow::{Flow, FlowKey, bits, role, seen, side};
use millrace_common::packet::transport::tcp;
use millrace_tests::packet::build::Payload;
use millrace_tests::packet::cluster::{self as at, Host, TUNNEL, UPLINK};
use millrace_tests::packet::kernel::{Kernel, Program};
use millrace_tests::packet::node::Node;
use millrace_tests::packet::pair::monotonic_ns;
use millrace_tests::packet::story::packet;

use crate::result::ProgramCost;
use crate::statistics::Quartiles;

/// Times that everything is measured.
const REPEATS: usize = 11;
/// Runs each time.
const RUNS: u32 = 20_000;

/// Who speaks to whom.
type Peer = (Ipv4Addr, u16);

/// A packet and the flows that lead it to and fro.
struct Case {
    program: Program,
    device: u32,
    packet: String,
    frame: Vec<u8>,
}

/// Every kind of packet, in the kernel.
pub fn measure() -> Result<Vec<ProgramCost>> {
    let mut node = at::node(at::NODE_A);
    node.now_ns.set(monotonic_ns()?);
    let mut cases = self::cases::<V4>(&mut node, "IPv4");
    cases.extend(self::cases::<V6>(&mut node, "IPv6"));
    let kernel = Kernel::load(PacketBuild::of_this_kernel())?;
    kernel.load_rows(&node)?;
    let mut samples = vec![Vec::new(); cases.len()];
    for _ in 0..REPEATS {
        for (case, samples) in cases.iter().zip(&mut samples) {
            let ns = kernel.time(case.program, case.device, &case.frame, RUNS)?;
            samples.push(f64::from(ns));
        }
    }
    let costs = cases.into_iter().zip(samples);
    Ok(costs
        .map(|(case, samples)| ProgramCost {
            program: case.program.name().to_owned(),
            what: case.packet,
            services: 1,
            ns: Quartiles::of(samples),
            net_ns: None,
        })
        .collect())
}

fn cases<A: Host>(node: &mut Node, family: &str) -> Vec<Case> {
    let mut cases = Vec::new();
    for (protocol, name) in [(6, "TCP"), (17, "UDP")] {
        let mut add = |program, device, what: &str, from: Peer, to: Peer| {
            let payload = match protocol {
                6 => Payload::tcp(from.1, to.1, tcp::ACK),
                _ => Payload::udp(from.1, to.1),
            };
            let frame = packet::<A>(from.0, to.0, payload).frame();
            let packet = format!("{family} {name}, {what}");
            cases.push(Case { program, device, packet, frame });
        };
        let (client, node_as_client) = ((at::OUTSIDE, 4000), (at::TUNNEL_ADDRESS, 4001));
        let (frontend, backend) = ((at::NODE_A, 30_080), (at::FAR, 8080));
        let (stranger, host) = ((at::OUTSIDE, 5000), (at::NEAR, 22));
        to_and_fro::<A>(node, protocol, role::OPEN, client, [frontend, backend]);
        to_and_fro::<A>(node, protocol, role::REPLY, client, [backend, frontend]);
        to_and_fro::<A>(node, protocol, role::MASQ, (at::FAR, 8081), [client, node_as_client]);
        to_and_fro::<A>(node, protocol, role::UNMASQ, (at::FAR, 8081), [node_as_client, client]);
        add(Program::In, UPLINK, "of a flow", client, frontend);
        add(Program::In, TUNNEL, "an answer, masqueraded", (at::FAR, 8081), node_as_client);
        add(Program::In, UPLINK, "none of ours", stranger, host);
        add(Program::Out, UPLINK, "an answer", backend, client);
        add(Program::Out, TUNNEL, "to be masqueraded", client, (at::FAR, 8081));
        add(Program::Out, UPLINK, "none of ours", host, stranger);
    }
    cases
}

/// Two flows that turn one side of a packet into the other of a pair, and back.
fn to_and_fro<A: Host>(
    node: &mut Node,
    protocol: u8,
    role: u8,
    fixed: Peer,
    [first, second]: [Peer; 2],
) {
    let is_in = matches!(role, role::OPEN | role::UNMASQ);
    let now = (node.now_ns.get() / NS_PER_SEC) as u32;
    for (from, to) in [(first, second), (second, first)] {
        let (source, destination) = if is_in { (fixed, from) } else { (from, fixed) };
        let key = FlowKey {
            source: A::of(source.0),
            destination: A::of(destination.0),
            source_port: Be16::new(source.1),
            destination_port: Be16::new(destination.1),
            protocol,
            side: if is_in { side::INGRESS } else { side::EGRESS },
            pad: 0,
        };
        let flow = Flow {
            address: A::of(to.0),
            port: Be16::new(to.1),
            other_port: Be16::new(fixed.1),
            role,
            bits: if matches!(role, role::MASQ | role::UNMASQ) { bits::MASQUERADE } else { 0 },
            seen: seen::PACKET,
            last_used_secs: now,
            since_secs: now,
            backend: at::number::<A>(at::NODE_PORT_UDP.id),
            generation: 1,
            service: at::number::<A>(at::NODE_PORT_UDP.id),
            device: UPLINK,
            expected_ack: 0,
        };
        A::rows_mut(node).flows.put(&key, &flow);
    }
}
