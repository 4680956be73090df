//! What becomes of flows when room gets tight: half-open entries that are evicted, no room among
//! the established ones, ports that are nearly all taken.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use millrace_common::address::{Be16, Family, V4, V6};
use millrace_common::counters::Counter;
use millrace_common::flow::{FlowKey, bits, role};
use millrace_common::packet::frame::Verdict;
use millrace_tests::packet::cluster::{self as at, Host, TUNNEL, UPLINK};
use millrace_tests::packet::kernel::Program;
use millrace_tests::packet::node::{FlowTable, Node};
use millrace_tests::packet::pair::{Outcome, run_native};
use millrace_tests::packet::story::udp_of;

/// Ports to masquerade with in the test of exhaustion.
const PORTS: u16 = 1000;
/// How many of them are taken in the end.
const TAKEN: u16 = 750;

const DIALLED: (Ipv4Addr, u16) = (at::NODE_A, 30_053);
const BACKEND: (Ipv4Addr, u16) = (at::FAR, 5353);

fn node() -> Node {
    let mut node = at::node(at::NODE_A);
    if let Some(row) = &mut node.row {
        row.last_port = row.first_port + PORTS - 1;
    }
    node
}

/// A datagram of a client outside to a NodePort whose backend is on another node, in and out.
fn request<A: Host>(node: &Node, port: u16) -> Outcome {
    let client = (at::OUTSIDE, port);
    let entered = run_native(node, Program::In, UPLINK, udp_of::<A>(client, DIALLED).frame());
    run_native(node, Program::Out, TUNNEL, entered.frame)
}

/// The port that the request left from; an error if it was not masqueraded.
fn masqueraded_port<A: Host>(left: &Outcome) -> Result<u16> {
    let transport = if A::FAMILY == Family::V4 { 14 + 20 } else { 14 + 40 };
    let port = left.frame.get(transport..transport + 2).context("ports")?;
    let port = u16::from_be_bytes(port.try_into()?);
    let masqueraded = udp_of::<A>((at::TUNNEL_ADDRESS, port), BACKEND).frame();
    ensure!(left.frame == masqueraded, "it left as {:02x?}", left.frame);
    Ok(port)
}

/// The answer, in and out.
fn answer<A: Host>(node: &Node, masqueraded: u16) -> Outcome {
    let seen = (at::TUNNEL_ADDRESS, masqueraded);
    let entered = run_native(node, Program::In, TUNNEL, udp_of::<A>(BACKEND, seen).frame());
    run_native(node, Program::Out, UPLINK, entered.frame)
}

fn count(node: &Node, counter: Counter) -> u64 {
    node.counted().iter().find(|(of, _)| *of == counter).map_or(0, |(_, count)| *count)
}

/// The keys of all entries that are of use for this.
fn keys<A: Host>(node: &Node, wanted: u8) -> Vec<FlowKey<A>> {
    let rows = [A::rows(node).half_open.rows(), A::rows(node).flows.rows()];
    let rows = rows.into_iter().flatten();
    rows.filter(|(_, flow)| flow.role == wanted).map(|(key, _)| key).collect()
}

/// The table of half-open flows evicts entries, not flows. Whichever is gone, from there or from
/// among the established ones, the client's next datagram is masqueraded and answered.
fn without<A: Host>(gone: u8, room: i64) -> Result<()> {
    let node = node();
    A::rows(&node).room.set(room);
    let left = request::<A>(&node, 4000);
    answer::<A>(&node, masqueraded_port::<A>(&left)?);
    let evicted = keys::<A>(&node, gone);
    ensure!(evicted.len() == 1, "{} entries", evicted.len());
    let rows = A::rows(&node);
    [&rows.half_open, &rows.flows].into_iter().for_each(|table| table.remove(&evicted[0]));
    let left = request::<A>(&node, 4000);
    let back = answer::<A>(&node, masqueraded_port::<A>(&left)?);
    ensure!(back.frame == udp_of::<A>(DIALLED, (at::OUTSIDE, 4000)).frame(), "{:02x?}", back.frame);
    Ok(())
}

#[test]
fn a_flow_that_lost_an_entry_begins_anew() -> Result<()> {
    for gone in [role::OPEN, role::MASQ, role::UNMASQ, role::REPLY] {
        for room in [0, 100] {
            let case = || format!("without entry {gone}, room {room}");
            without::<V4>(gone, room).with_context(case).context("IPv4")?;
            without::<V6>(gone, room).with_context(case).context("IPv6")?;
        }
    }
    Ok(())
}

/// An established flow's entries move to their table as far as there is room, and the rest when
/// there is some: a table that was full for a moment leaves no flow among those that are evicted.
/// And a flow that was to begin there, for there was said to be room, loses no packet.
fn moves_when_there_is_room<A: Host>(size: usize, room: i64) -> Result<()> {
    let mut node = node();
    A::rows_mut(&mut node).flows = FlowTable::new(size);
    A::rows(&node).room.set(room);
    let masqueraded = masqueraded_port::<A>(&request::<A>(&node, 4000))?;
    answer::<A>(&node, masqueraded);
    request::<A>(&node, 4000);
    let rows = A::rows(&node);
    let (moved, left) = (rows.flows.len(), rows.half_open.len());
    ensure!((moved, left) == (size, 4 - size), "{moved} have moved, {left} have not");
    ensure!(rows.room.get() == 0, "others try it too");
    ensure!(count(&node, Counter::FlowTableFull) == 1);
    // The same table with more room.
    let before = rows.flows.rows();
    let table = FlowTable::new(4);
    before.iter().for_each(|(key, flow)| assert!(table.put(key, flow)));
    A::rows_mut(&mut node).flows = table;
    ensure!(masqueraded_port::<A>(&request::<A>(&node, 4000))? == masqueraded, "another port");
    ensure!(entries::<A>(&node) == (4, 0, 0), "{:?}", entries::<A>(&node));
    ensure!(count(&node, Counter::FlowEstablished) == 1);
    Ok(())
}

#[test]
fn a_flow_that_found_no_room_moves_later() -> Result<()> {
    for size in 0..4 {
        for room in [0, 100] {
            let case = || format!("{size} entries, room {room}");
            moves_when_there_is_room::<V4>(size, room).with_context(case).context("IPv4")?;
            moves_when_there_is_room::<V6>(size, room).with_context(case).context("IPv6")?;
        }
    }
    Ok(())
}

/// Request, answer, and the next request; returns how many flows may begin among the established
/// ones then.
fn converse<A: Host>(node: &Node, port: u16) -> Result<i64> {
    let left = request::<A>(node, port);
    let back = answer::<A>(node, masqueraded_port::<A>(&left)?);
    let answered = udp_of::<A>(DIALLED, (at::OUTSIDE, port)).frame();
    ensure!(back.frame == answered, "{:02x?}", back.frame);
    masqueraded_port::<A>(&request::<A>(node, port))?;
    Ok(A::rows(node).room.get())
}

/// Entries of established flows, those of them that are not answered, entries of half-open ones.
fn entries<A: Host>(node: &Node) -> (usize, usize, usize) {
    let rows = A::rows(node);
    let flows = rows.flows.rows();
    let marked = flows.values().filter(|flow| flow.role == role::OPEN);
    let marked = marked.filter(|flow| flow.bits & bits::HALF_OPEN != 0).count();
    (flows.len(), marked, rows.half_open.len())
}

/// Flows that are not answered take what room there is among the established ones, and no more;
/// those that are answered give it back.
fn room_is_taken_and_given_back<A: Host>() -> Result<()> {
    let node = node();
    A::rows(&node).room.set(2);
    for (port, wanted) in [(4001, (4, 1, 0)), (4002, (8, 2, 0)), (4003, (8, 2, 4))] {
        request::<A>(&node, port);
        ensure!(entries::<A>(&node) == wanted, "{port}: {:?}", entries::<A>(&node));
    }
    ensure!(converse::<A>(&node, 4001)? == 1, "it was not given back");
    ensure!(entries::<A>(&node) == (8, 1, 4), "{:?}", entries::<A>(&node));
    ensure!(converse::<A>(&node, 4001)? == 1, "it was given back twice");
    // One that began among the half-open ones moves, and had taken nothing.
    ensure!(converse::<A>(&node, 4003)? == 1, "more was given back than was taken");
    ensure!(entries::<A>(&node) == (12, 1, 0), "{:?}", entries::<A>(&node));
    ensure!(count(&node, Counter::FlowEstablished) == 2);
    request::<A>(&node, 4004);
    ensure!(entries::<A>(&node) == (16, 2, 0), "{:?}", entries::<A>(&node));
    Ok(())
}

#[test]
fn flows_begin_among_the_established_ones_while_there_is_room() -> Result<()> {
    room_is_taken_and_given_back::<V4>().context("IPv4")?;
    room_is_taken_and_given_back::<V6>().context("IPv6")
}

/// Every client gets a port of its own while three of four are taken by flows that nobody may
/// close, in both tables.
fn nearly_all_ports<A: Host>(room: i64) -> Result<()> {
    let node = node();
    A::rows(&node).room.set(room);
    for client in 0..TAKEN {
        let left = request::<A>(&node, 1024 + client);
        ensure!(
            left.verdict == Verdict::NEXT,
            "client {client} finds no port: {:?}",
            node.counted()
        );
    }
    ensure!(count(&node, Counter::DroppedNoPort) == 0);
    let mut ports: Vec<Be16> =
        keys::<A>(&node, role::UNMASQ).iter().map(|key| key.destination_port).collect();
    ports.sort_by_key(|port| port.get());
    ports.dedup();
    ensure!(ports.len() == usize::from(TAKEN), "{} ports for {TAKEN} flows", ports.len());
    Ok(())
}

#[test]
fn a_port_is_found_while_there_are_some() -> Result<()> {
    for room in [0, i64::from(TAKEN) / 2, i64::from(TAKEN)] {
        nearly_all_ports::<V4>(room).with_context(|| format!("IPv4, room {room}"))?;
        nearly_all_ports::<V6>(room).with_context(|| format!("IPv6, room {room}"))?;
    }
    Ok(())
}
