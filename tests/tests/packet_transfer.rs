//! Tables of flows of other sizes: what is in the old ones, and what the old programs still write.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use millrace::bpf::object::{FlowCapacity, Object, PacketBuild, Settings};
use millrace::bpf::pins::Pins;
use millrace::bpf::sys;
use millrace::flows::filter::FilterRow as _;
use millrace::plan::op::Capacity;
use millrace_common::address::{Address, Be16, V4, V6};
use millrace_common::flow::{Count, Flow, FlowKey, bits, role, seen, side};
use millrace_common::flow_filter::{CELLS, FlowFilter};
use millrace_common::row::Row;
use millrace_tests::lab::system;

const CAPACITY: Capacity =
    Capacity { services: 64, backends: 64, slots: 64, frontends: 64, sources: 64 };

/// A place to pin in, removed at the end.
struct Place {
    bpffs: PathBuf,
    pins: Pins,
}

impl Place {
    fn new() -> Result<Self> {
        let bpffs = system::bpffs()?.join(format!("millrace-transfer-{}", std::process::id()));
        std::fs::create_dir(&bpffs).with_context(|| format!("create {}", bpffs.display()))?;
        Ok(Self { pins: Pins::new(&bpffs), bpffs })
    }

    fn load(&self, established: u32) -> Result<Object> {
        let flows = FlowCapacity { established, half_open: 1024 };
        let packets = PacketBuild::of_this_kernel();
        let settings = Settings { capacity: CAPACITY, flows, node_netns_cookie: 0, packets };
        Object::load(&self.pins, &settings)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.bpffs);
    }
}

/// The table of one family in a directory of maps.
struct Table(std::os::fd::OwnedFd);

impl Table {
    fn open<A: Address>(directory: &Path) -> Result<Self> {
        let name = if size_of::<A>() == size_of::<V4>() { "flows_v4" } else { "flows_v6" };
        sys::obj_get(&directory.join(name)).map(Self).with_context(|| format!("open {name}"))
    }

    fn put<A: Address>(&self, port: u16, flow_bits: u8, bytes: u64) -> Result<()>
    where
        FlowKey<A>: Row,
        Flow<A>: Row,
    {
        self.put_flow(port, flow::<A>(flow_bits, bytes))
    }

    fn put_flow<A: Address>(&self, port: u16, flow: Flow<A>) -> Result<()>
    where
        FlowKey<A>: Row,
        Flow<A>: Row,
    {
        Ok(sys::map_update(self.0.as_fd(), key::<A>(port).as_bytes(), flow.as_bytes())?)
    }

    /// What an entry has of bits and bytes.
    fn get<A: Address>(&self, port: u16) -> Result<Option<(u8, Count)>>
    where
        FlowKey<A>: Row,
        Flow<A>: Row,
    {
        let mut row = vec![0; size_of::<Flow<A>>()];
        let found = sys::map_lookup(self.0.as_fd(), key::<A>(port).as_bytes(), &mut row)?;
        let flow = Flow::<A>::from_bytes(&row).context("a row of another size")?;
        Ok(found.then_some((flow.bits, flow.bytes)))
    }
}

fn key<A: Address>(port: u16) -> FlowKey<A> {
    FlowKey {
        source: A::ONES,
        destination: A::ZERO,
        source_port: Be16::new(port),
        destination_port: Be16::new(80),
        protocol: 6,
        side: side::INGRESS,
        pad: 0,
    }
}

fn flow<A: Address>(flow_bits: u8, bytes: u64) -> Flow<A> {
    Flow {
        bytes: Count::new(bytes),
        address: A::ZERO,
        port: Be16::new(8080),
        other_port: Be16::new(1),
        role: role::OPEN,
        bits: flow_bits,
        seen: seen::PACKET,
        last_used_secs: 1,
        since_secs: 1,
        service: 1,
        backend_or_device: 1,
        generation_or_ack: 1,
    }
}

/// Whether the filter lets the key's packets be looked up, in each half.
fn is_possible<A: Address>(directory: &Path, port: u16) -> Result<bool>
where
    FlowKey<A>: Row,
{
    let filter = sys::obj_get(&directory.join("flow_filter"))?;
    let mut row = vec![0; size_of::<FlowFilter>()];
    sys::map_lookup(filter.as_fd(), &0_u32.to_ne_bytes(), &mut row)?;
    let first = std::mem::offset_of!(FlowFilter, cells) + key::<A>(port).cell() as usize;
    Ok([first, first + CELLS].into_iter().all(|at| row[at] == 1))
}

/// What was there is copied; then both generations of programs write.
fn meanwhile<A: Address>(place: &Place, old: &Path, object: &Object) -> Result<()>
where
    FlowKey<A>: Row,
    Flow<A>: Row,
{
    let new = place.pins.new_maps();
    let (from, to) = (Table::open::<A>(old)?, Table::open::<A>(&new)?);
    let size = |table: &Table| sys::map_shape(table.0.as_fd()).map(|shape| shape.max_entries);
    ensure!((size(&from)?, size(&to)?) == (1000, 3000));
    for port in [1, 2, 3] {
        ensure!(to.get::<A>(port)? == from.get::<A>(port)?, "port {port} was not copied");
    }
    // The old programs are still in force: one flow is answered, and one begins. A new program has
    // counted a packet of the third, and opened another.
    from.put::<A>(1, 0, 11)?;
    from.put::<A>(4, bits::HALF_OPEN, 4)?;
    to.put::<A>(3, 0, 33)?;
    to.put::<A>(5, bits::HALF_OPEN, 5)?;
    // A port has begun another flow since.
    from.put::<A>(6, 0, 6)?;
    to.put_flow(6, Flow { since_secs: 2, ..flow::<A>(bits::HALF_OPEN, 66) })?;
    object.flow_maps()?.filter()?.clear(millrace::flows::filter::Half::Second);
    Ok(())
}

fn is_caught_up<A: Address>(directory: &Path) -> Result<()>
where
    FlowKey<A>: Row,
    Flow<A>: Row,
{
    let table = Table::open::<A>(directory)?;
    let expected = [
        (1, 0, 11),
        (2, bits::HALF_OPEN, 2),
        (3, 0, 33),
        (4, bits::HALF_OPEN, 4),
        (5, bits::HALF_OPEN, 5),
        (6, bits::HALF_OPEN, 66),
    ];
    for (port, flow_bits, bytes) in expected {
        let found = table.get::<A>(port)?;
        ensure!(found == Some((flow_bits, Count::new(bytes))), "port {port}: {found:?}");
    }
    for port in [1, 4] {
        ensure!(is_possible::<A>(directory, port)?, "port {port} is ruled out");
    }
    Ok(())
}

#[test]
fn flows_that_begin_while_tables_are_copied_are_not_forgotten() -> Result<()> {
    let place = Place::new()?;
    drop(place.load(1000)?);
    let old = place.pins.maps();
    for (port, flow_bits) in [(1, bits::HALF_OPEN), (2, bits::HALF_OPEN), (3, 0)] {
        Table::open::<V4>(&old)?.put::<V4>(port, flow_bits, port.into())?;
        Table::open::<V6>(&old)?.put::<V6>(port, flow_bits, port.into())?;
    }
    let mut object = place.load(3000)?;
    ensure!(object.adopted, "the rows of Services were not taken over");
    meanwhile::<V4>(&place, &old, &object)?;
    meanwhile::<V6>(&place, &old, &object)?;
    object.catch_up()?;
    is_caught_up::<V4>(&place.pins.new_maps())?;
    is_caught_up::<V6>(&place.pins.new_maps())
}
