//! Transport checksums are right when they arrive, whoever computes them: the sender; the kernel
//! behind the programs, for a device that was to; or nobody, because conntrack has judged them.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use millrace_tests::lab::{Builder, Family, Lab, Place};
use millrace_tests::probe::{self, Outcome};
use millrace_tests::wire::{TCP, UDP, Wire, compute_checksums};
use millrace_tests::world::{World, cluster_ip, reach};

/// NodePorts of n1: of the pod there, of the pod on n2, of the pod there with the client's address.
const PORTS: [u16; 3] = [30080, 30081, 30082];
/// Enough for several windows of segments, each way.
const BULK_BYTES: &str = "300000";
/// More than a frame, and an odd number.
const DATAGRAM_BYTES: &str = "1001";
/// Each wire sees at least so many packets: of each family and frontend a connection and a
/// datagram.
const PACKETS_MIN: usize = 20;

/// Conntrack looks at everything that passes, checksums included.
const CONNTRACK: &str = "table inet test {
    chain look { type filter hook forward priority 0; ct state established accept; }
}";

fn cluster() -> Builder {
    Lab::builder().nodes(2).pods("n1", &["client", "a"]).pod("n2", "b")
}

fn served() -> Result<World> {
    let world = World::new(cluster())?;
    for (index, port) in (1..).zip(PORTS) {
        let pod = if port == PORTS[1] { "n2/b" } else { "n1/a" };
        world.service(&format!("s{port}"), index, &[pod], |service| {
            let service = service.node_port_for_all(port);
            if port == PORTS[2] { service.external_local() } else { service }
        })?;
    }
    for &family in world.lab.families() {
        for port in PORTS {
            let server = if port == PORTS[1] { "b" } else { "a" };
            reach(world.lab.outside(), node_port(&world, family, port), &[server])?;
        }
    }
    Ok(world)
}

fn node_port(world: &World, family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(world.lab.node("n1").address(family), port)
}

/// A connection with data, and a datagram, each answered.
fn talk(client: &Place, to: SocketAddr) -> Result<()> {
    let to = to.to_string();
    for (how, bytes) in [("connect", BULK_BYTES), ("udp-unconnected", DATAGRAM_BYTES)] {
        let outcomes: Vec<Outcome> = probe::run(client, &[how, &to, "--echo", bytes])?;
        let from = client.name();
        ensure!(outcomes.iter().all(|outcome| outcome.ok), "{from} {how} {to}: {outcomes:?}");
    }
    Ok(())
}

/// Everything that clients outside and beside the pods may do, while all who receive watch.
fn arrives_soundly(world: &World) -> Result<()> {
    let lab = &world.lab;
    let client = lab.pod("n1", "client");
    let (outside, vm) = (lab.outside(), client.as_vm());
    let receivers: [&Place; 4] = [outside, client, lab.pod("n1", "a"), lab.pod("n2", "b")];
    let wires: Result<Vec<Wire>> = receivers.iter().map(|at| Wire::open(at, "eth0")).collect();
    for &family in lab.families() {
        for (index, port) in (1..).zip(PORTS) {
            talk(outside, node_port(world, family, port))?;
            talk(&vm, cluster_ip(family, index))?;
        }
    }
    for (place, mut wire) in receivers.into_iter().zip(wires?) {
        let arrived = wire.seen()?.iter().filter(|seen| !seen.outgoing);
        let judged = arrived.filter(|seen| matches!(seen.protocol, TCP | UDP));
        let (sound, others): (Vec<_>, Vec<_>) = judged.partition(|seen| seen.sound == Some(true));
        let name = place.name();
        ensure!(others.is_empty(), "{name}: {} are not sound: {:?}", others.len(), &others[0]);
        ensure!(sound.len() >= PACKETS_MIN, "{name} got {} packets", sound.len());
    }
    Ok(())
}

/// Programs see the sum of the pseudo header in the place of the checksum.
#[test]
fn checksums_that_a_device_was_to_compute_are_right() -> Result<()> {
    let world = served()?;
    world.lab.nodes().iter().try_for_each(|node| compute_checksums(node))?;
    arrives_soundly(&world)
}

/// Programs see checksums that nobody has looked at, or with conntrack, that somebody has.
#[test]
fn checksums_that_senders_compute_stay_right() -> Result<()> {
    let world = served()?;
    world.lab.places().into_iter().try_for_each(compute_checksums)?;
    arrives_soundly(&world)?;
    world.lab.nodes().iter().try_for_each(|node| node.nft(CONNTRACK))?;
    arrives_soundly(&world)
}
