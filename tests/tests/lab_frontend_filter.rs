//! The frontend filter rules out what is no frontend's address, and never an address that is one's:
//! whatever is written, deleted, or left by an agent that is gone.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use anyhow::{Context as _, Result, ensure};
use millrace::apply::MapStore as _;
use millrace::bpf::object::{FlowCapacity, Object, PacketBuild, Settings};
use millrace::bpf::pins::Pins;
use millrace::bpf::store::Store;
use millrace::bpf::sys;
use millrace::plan::op::{Capacity, Op};
use millrace_common::address::{Address, Be16, Protocol, V4, V6};
use millrace_common::frontend::{Frontend, FrontendKey};
use millrace_common::frontend_filter::{BITS, Bit, FrontendFilter};
use millrace_tests::lab::Lab;

/// Frontends of each family: more than may be gone before the filter is made anew.
const FRONTENDS: u32 = 9_000;

/// New maps, and what became of their filter.
struct World {
    lab: Lab,
    store: Store,
}

fn world() -> Result<World> {
    let lab = Lab::builder().pod("n1", "a").build()?;
    let frontends = FRONTENDS + 1;
    let capacity = Capacity { services: 64, backends: 64, slots: 64, frontends, sources: 64 };
    let settings = Settings {
        capacity,
        flows: FlowCapacity { established: 64, half_open: 64 },
        node_netns_cookie: 1,
        packets: PacketBuild::of_this_kernel(),
    };
    let pins = Pins::new(lab.node("n1").bpffs());
    drop(Object::load(&pins, &settings)?);
    let store = Store::open(&pins.maps(), capacity)?;
    Ok(World { lab, store })
}

impl World {
    fn map(&self) -> Result<std::os::fd::OwnedFd> {
        let pins = Pins::new(self.lab.node("n1").bpffs());
        pins.open_map("frontend_filter")?.context("no map frontend_filter")
    }

    fn filter(&self) -> Result<Vec<u8>> {
        let mut row = vec![0; size_of::<FrontendFilter>()];
        sys::map_lookup(self.map()?.as_fd(), &0_u32.to_ne_bytes(), &mut row)?;
        Ok(row)
    }

    /// Bits that rule nothing out.
    fn bits(&self) -> Result<BTreeSet<u64>> {
        let row = self.filter()?;
        let words = row.as_chunks::<8>().0.iter().map(|word| !u64::from_ne_bytes(*word));
        let of_word = |(index, word): (u64, u64)| {
            (0..64).filter(move |bit| word >> bit & 1 != 0).map(move |bit| index * 64 + bit)
        };
        Ok((0..).zip(words).flat_map(of_word).collect())
    }
}

fn place(bit: Bit) -> u64 {
    u64::from(bit.word()) * 64 + u64::from(bit.mask().trailing_zeros())
}

fn key<A: Address>(address: A, port: u16) -> FrontendKey<A> {
    FrontendKey::new(address, Be16::new(port), Protocol::Tcp as u8)
}

fn v4(index: u32) -> V4 {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 0).to_bits() + index).into()
}

fn v6(index: u32) -> V6 {
    Ipv6Addr::from_bits(Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 0).to_bits() + u128::from(index))
        .into()
}

fn put(index: u32, port: u16) -> [Op; 2] {
    let row = Some(Frontend::default());
    [Op::FrontendV4(key(v4(index), port), row), Op::FrontendV6(key(v6(index), port), row)]
}

fn delete(index: u32, port: u16) -> [Op; 2] {
    [Op::FrontendV4(key(v4(index), port), None), Op::FrontendV6(key(v6(index), port), None)]
}

fn places(indices: impl Iterator<Item = u32>) -> BTreeSet<u64> {
    indices.flat_map(|index| [place(Bit::of(&v4(index))), place(Bit::of(&v6(index)))]).collect()
}

#[test]
fn no_frontend_is_ruled_out_and_little_else_is_not() -> Result<()> {
    let mut world = world()?;
    ensure!(world.bits()?.len() == BITS, "a new map rules out nothing");
    let rows = world.store.snapshot()?;
    world.store.adopt(&rows)?;
    ensure!(world.bits()?.is_empty(), "no frontends: all is ruled out");

    world.store.execute(&(0..FRONTENDS).flat_map(|index| put(index, 80)).collect::<Vec<_>>())?;
    ensure!(world.bits()? == places(0..FRONTENDS), "those, and no others");
    // An address keeps its bit as long as one of its frontends is there, and longer.
    world.store.execute(&put(0, 443))?;
    world.store.execute(&delete(0, 80))?;
    ensure!(world.bits()?.is_superset(&places(0..1)));
    // So many go that the filter is made anew.
    world.store.execute(&(1..FRONTENDS).flat_map(|index| delete(index, 80)).collect::<Vec<_>>())?;
    ensure!(world.bits()? == places(0..1), "{} are left", world.bits()?.len());
    world.store.execute(&put(7, 80))?;
    let left = places([0, 7].into_iter());
    ensure!(world.bits()? == left, "{} are there", world.bits()?.len());
    Ok(())
}

#[test]
fn what_an_agent_left_is_put_right_by_the_next() -> Result<()> {
    let mut world = world()?;
    let rows = world.store.snapshot()?;
    world.store.adopt(&rows)?;
    world.store.execute(&(0..100).flat_map(|index| put(index, 80)).collect::<Vec<_>>())?;
    // One that knew of no filter has written rows, and others are gone.
    let filter = vec![0x55; size_of::<FrontendFilter>()];
    sys::map_update(world.map()?.as_fd(), &0_u32.to_ne_bytes(), &filter)?;
    let rows = world.store.snapshot()?;
    world.store.adopt(&rows)?;
    ensure!(world.bits()? == places(0..100), "{} bits", world.bits()?.len());
    Ok(())
}
