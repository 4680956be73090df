//! Frames that nobody thought of: kernel and native build must agree on all of them, what was valid
//! stays valid, and what is none of ours is never touched.
//!
//! `cargo xtask fuzz --seconds N --seed S` runs these for longer. The seed is printed; one seed is
//! one sequence of frames. What is comparable, and what chance and time are kept out of, is said in
//! `millrace_tests::packet::pair`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use millrace::bpf::object::PacketBuild;
use millrace_common::address::{V4, V6};
use millrace_common::backend::state;
use millrace_common::node::node;
use millrace_common::packet::frame::Verdict;
use millrace_tests::packet::build::{Packet, Payload, tcp};
use millrace_tests::packet::checksum::{check_frame, check_packet};
use millrace_tests::packet::cluster::{self as at, Host, PORTS};
use millrace_tests::packet::fuzz::{Fuzz, Hosts, age};
use millrace_tests::packet::kernel::Program;
use millrace_tests::packet::node::Node;
use millrace_tests::packet::pair::Pair;

/// Frames of a test that is not told how long it may take.
const FRAMES: u64 = 1_000_000;
/// Frames between two comparisons of all rows, after which they are forgotten: less than would make
/// the kernel evict some.
const EPOCH_FRAMES: u64 = 2048;
/// Frames between two changes of what the node is told.
const CHANGE_FRAMES: u64 = 512;
/// The seed of a run that is given none. The same every time: a test that fails by chance is no
/// test. Other seeds are for `cargo xtask fuzz`.
const SEED: u64 = 0x6d69_6c6c_7261_6365;
/// Ages that make a difference, in seconds, and none.
const AGES: [u32; 6] = [0, 0, 31, 61, 121, 86_401];

/// Flows that may begin among the established ones until the next change.
const ROOMS: [i64; 4] = [-1, 0, 7, 1000];

/// How long a test goes on.
struct Budget {
    seed: u64,
    until: Option<Instant>,
    frames: u64,
}

impl Budget {
    fn new(name: &str) -> Result<Self> {
        let number = |name: &str| -> Result<Option<u64>> {
            let text = std::env::var(name).ok();
            text.map(|text| text.parse().with_context(|| format!("{name}={text}"))).transpose()
        };
        let seed = number("MILLRACE_FUZZ_SEED")?.unwrap_or(SEED);
        let seconds = number("MILLRACE_FUZZ_SECONDS")?;
        println!("{name}: seed {seed}");
        let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        Ok(Self { seed, until, frames: 0 })
    }

    /// Whether there is another frame to run.
    fn take(&mut self) -> bool {
        self.frames += 1;
        match self.until {
            Some(until) if self.frames.is_multiple_of(EPOCH_FRAMES) => Instant::now() < until,
            Some(_) => true,
            None => self.frames <= FRAMES,
        }
    }
}

/// Tell the node something else: what is gone, who is masqueraded, how old everything is.
fn change(node: &mut Node, fuzz: &Fuzz) {
    age(node, AGES[fuzz.below(AGES.len())]);
    let gone = fuzz.below(4) == 0;
    for id in [at::DNS.id, at::LOCAL_UDP.id] {
        let state = if gone { state::GONE } else { state::CLUSTER | state::LOCAL | state::SERVING };
        node.v4.backends.entry(id).and_modify(|row| row.state = state);
        let id = at::number::<V6>(id);
        node.v6.backends.entry(id).and_modify(|row| row.state = state);
    }
    for room in [&node.v4.room, &node.v6.room] {
        room.set(ROOMS[fuzz.below(ROOMS.len())]);
    }
    if let Some(row) = &mut node.row {
        let flags = [
            node::DETECTOR | node::DETECT_BY_DEVICE,
            node::DETECTOR | node::DETECT_BY_DEVICE | node::MASQUERADE_ALL,
            node::DETECTOR,
            0,
        ];
        row.flags = node::KNOWN | flags[fuzz.below(flags.len())];
        row.last_port = at::MASQUERADE_PORT - u16::from(fuzz.below(8) == 0);
    }
}

/// Whether all checksums of a case are right.
fn check(program: Program, frame: &[u8]) -> Result<()> {
    match program {
        Program::In | Program::Out => check_frame(frame),
        Program::InRaw | Program::OutRaw => check_packet(frame),
    }
}

#[test]
fn kernel_and_native_build_agree_on_every_frame() -> Result<()> {
    let mut budget = Budget::new("kernel_and_native_build_agree_on_every_frame")?;
    let fuzz = Fuzz::of_cluster(budget.seed);
    let mut pair = Pair::load(at::node(at::NODE_A), PacketBuild::of_this_kernel())?;
    let mut changed = 0_u64;
    let mut total: BTreeMap<&str, u64> = BTreeMap::new();
    while budget.take() {
        let number = budget.frames;
        let told = || format!("seed {}, frame {number}", budget.seed);
        let case = fuzz.next_case();
        let outcome = pair.run(case.program, case.device, &case.frame).with_context(told)?;
        if outcome.frame != case.frame {
            changed += 1;
            fuzz.learn(case.program, &outcome.frame);
            if check(case.program, &case.frame).is_ok() {
                check(case.program, &outcome.frame).with_context(|| {
                    format!("{}: {case:02x?}\nbecame {:02x?}", told(), outcome.frame)
                })?;
            }
        }
        if number.is_multiple_of(CHANGE_FRAMES) {
            pair.agree().with_context(told)?;
            pair.change(|node| change(node, &fuzz))?;
        }
        if number.is_multiple_of(EPOCH_FRAMES) {
            for (counter, count) in pair.node.counted() {
                *total.entry(counter.name()).or_default() += count;
            }
            pair.forget()?;
        }
    }
    pair.agree()?;
    println!("{} frames, {changed} of them changed: {total:?}", budget.frames - 1);
    ensure!(changed > budget.frames / 50, "too few were changed to mean anything: {changed}");
    Ok(())
}

/// Hosts with which nobody has a flow and which are no frontends.
const NOBODYS: [Ipv4Addr; 5] =
    [at::STRANGER, at::ROUTER, at::NODE_B, Ipv4Addr::new(172, 16, 0, 9), Ipv4Addr::new(8, 0, 9, 9)];

/// Open flows, so that the tables are not empty.
fn open_flows<A: Host>(pair: &Pair) -> Result<()> {
    for port in PORTS {
        let source = (A::of(at::OUTSIDE), 4000);
        let payload = match port.protocol {
            6 => Payload::tcp(source.1, port.port, tcp::SYN),
            _ => Payload::udp(source.1, port.port),
        };
        let packet = Packet::new(source.0, A::of(port.address), payload);
        let led = pair.run(Program::In, at::UPLINK, &packet.frame())?;
        pair.run(Program::Out, at::TUNNEL, &led.frame)?;
    }
    Ok(())
}

#[test]
fn a_frame_to_no_frontend_and_of_no_flow_is_never_changed() -> Result<()> {
    let mut budget = Budget::new("a_frame_to_no_frontend_and_of_no_flow_is_never_changed")?;
    let pair = Pair::load(at::node(at::NODE_A), PacketBuild::of_this_kernel())?;
    open_flows::<V4>(&pair)?;
    open_flows::<V6>(&pair)?;
    ensure!(pair.node.v4.half_open.len() > PORTS.len(), "there should be flows");
    let ours: Vec<Ipv4Addr> = PORTS
        .iter()
        .flat_map(|port| [port.address, port.backend.0])
        .chain([at::OUTSIDE, at::NODE_A, at::TUNNEL_ADDRESS, at::UNALLOCATED])
        .collect();
    let ours = Hosts::new(&ours);
    let strangers = Fuzz::of_hosts(budget.seed, &NOBODYS);
    // Hosts that have flows, with ports that no flow has; undamaged, they cannot be anyone else's.
    let neighbours = Fuzz::of_hosts(budget.seed, &[at::OUTSIDE, at::FAR, at::NEAR, at::CLIENT]);
    let mut skipped = 0_u64;
    while budget.take() {
        let by_ports = budget.frames.is_multiple_of(4);
        let case = if by_ports { neighbours.next_whole() } else { strangers.next_case() };
        if !by_ports && ours.are_mentioned(&case.frame) {
            skipped += 1;
            continue;
        }
        let told = || format!("seed {}, frame {}: {case:02x?}", budget.seed, budget.frames);
        let outcome = pair.run(case.program, case.device, &case.frame).with_context(told)?;
        ensure!(outcome.verdict == Verdict::NEXT, "{}: {:?}", told(), outcome.verdict);
        ensure!(outcome.frame == case.frame, "{}: changed", told());
    }
    pair.agree()?;
    println!("{} frames, {skipped} of them skipped", budget.frames - 1);
    ensure!(skipped < budget.frames / 10, "too many mention our hosts: {skipped}");
    Ok(())
}
