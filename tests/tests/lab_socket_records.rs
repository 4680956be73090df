//! A connected socket's record: in a place that it takes and gives back, or, where another socket
//! has that place, in its own storage.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use millrace::bpf::pins::Pins;
use millrace::bpf::store::Store;
use millrace::bpf::sys;
use millrace_common::address::{Address as _, V4, V6};
use millrace_common::peer::PEER_SLOTS;
use millrace_tests::lab::Lab;
use millrace_tests::probe::Held;
use millrace_tests::wait::{self, CHANGE_TIMEOUT};
use millrace_tests::world::{World, cluster_ip, reach};

/// The sockets that dial each address.
const KINDS: [&str; 2] = ["tcp", "udp"];
/// A cookie that no socket of this machine's ever has.
const NOBODY: u64 = 1 << 62;

fn world() -> Result<World> {
    let world = World::new(Lab::builder().pods("n1", &["client", "a"]))?;
    world.service("web", 1, &["n1/a"], |service| service)?;
    for &family in world.lab.families() {
        reach(world.lab.pod("n1", "client"), cluster_ip(family, 1), &["a"])?;
    }
    Ok(world)
}

fn pins(world: &World) -> Pins {
    Pins::new(world.lab.node("n1").bpffs())
}

/// Records of sockets that dialled this, among those with places.
fn records(world: &World, to: SocketAddr) -> Result<usize> {
    let dialled: V6 = match to.ip() {
        IpAddr::V4(address) => V4::from(address).to_v6(),
        IpAddr::V6(address) => address.into(),
    };
    let connected = Store::open_as_is(&pins(world).maps())?.connected()?;
    Ok(connected.iter().filter(|record| record.peer.dialled == dialled).count())
}

/// The sockets, connected, and what each says it is connected to.
fn dial(world: &World, to: SocketAddr) -> Result<Vec<Held>> {
    let client = world.lab.pod("n1", "client");
    let dial = |kind: &&str| {
        let (mut held, _) = Held::open(client, kind, to)?;
        ensure!(held.send()?.who() == "a", "{kind} to {to}");
        let peer = held.tell("peer")?.peer;
        ensure!(peer == Some(to), "{kind} to {to}: getpeername says {peer:?}");
        Ok(held)
    };
    KINDS.iter().map(dial).collect()
}

#[test]
fn a_place_is_taken_and_given_back() -> Result<()> {
    let world = world()?;
    for &family in world.lab.families() {
        let to = cluster_ip(family, 1);
        ensure!(records(&world, to)? == 0, "{to}: closed sockets keep no place");
        let held = dial(&world, to)?;
        ensure!(records(&world, to)? == KINDS.len(), "{to}: {} places", records(&world, to)?);
        drop(held);
        wait::until("the places to be given back", CHANGE_TIMEOUT, || {
            let left = records(&world, to)?;
            ensure!(left == 0, "{left} places of {to} are taken");
            Ok(())
        })?;
    }
    Ok(())
}

/// Who has which place, all places after another.
fn owners(map: &OwnedFd) -> Result<Vec<u64>> {
    let owner = |place: u32| {
        let mut owner = [0; size_of::<u64>()];
        sys::map_lookup(map.as_fd(), &place.to_ne_bytes(), &mut owner)?;
        Ok(u64::from_ne_bytes(owner))
    };
    (0..PEER_SLOTS).map(owner).collect()
}

/// Sockets that outlive 65 536 others are rare; here all places are theirs.
#[test]
fn who_finds_its_place_taken_remembers_all_the_same() -> Result<()> {
    let world = world()?;
    let map = pins(&world).open_map("peer_owners")?.context("no map peer_owners")?;
    for place in 0..PEER_SLOTS {
        sys::map_update(map.as_fd(), &place.to_ne_bytes(), &NOBODY.to_ne_bytes())?;
    }
    for &family in world.lab.families() {
        drop(dial(&world, cluster_ip(family, 1))?);
    }
    // Nobody took another's place, or gave it away.
    let others = owners(&map)?.into_iter().filter(|owner| *owner != NOBODY).count();
    ensure!(others == 0, "{others} places were taken from their owners");
    Ok(())
}
