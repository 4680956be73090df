//! The names of service ports in their map, several in a row: each is written, read and taken back
//! without touching its neighbours, however long it is.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use anyhow::{Context as _, Result, ensure};
use millrace::apply::MapStore as _;
use millrace::bpf::object::{FlowCapacity, Object, PacketBuild, Settings};
use millrace::bpf::pins::Pins;
use millrace::bpf::store::Store;
use millrace::bpf::sys;
use millrace::plan::op::{Capacity, Op};
use millrace_common::row::Row as _;
use millrace_common::service::{IDS_IN_BLOCK, PARTS_MAX, ServiceBlock, ServiceKey, ServiceRow};
use millrace_tests::lab::Lab;

/// Ids of some rows, the last of them in part.
const IDS: u32 = 4 * IDS_IN_BLOCK + 2;
/// Protocol number of TCP.
const TCP: u8 = 6;

fn row(id: u32) -> Result<ServiceRow> {
    // Of one part, of two, and as long as can be.
    let length = [5, 40, 63][id as usize % 3];
    let text = |letter: &str| format!("{id}{}", letter.repeat(63))[..length].to_owned();
    ServiceRow::new(&text("a"), &text("b"), &text("c"), TCP).context("names that are allowed")
}

/// Rows that the map holds.
fn rows_in_map(lab: &Lab) -> Result<usize> {
    let map = Pins::new(lab.node("n1").bpffs()).open_map("services")?.context("no map services")?;
    let mut rows = 0;
    for block in 0..=IDS / IDS_IN_BLOCK {
        for part in 0..PARTS_MAX {
            let mut value = vec![0; size_of::<ServiceBlock>()];
            let key = ServiceKey { block, part };
            rows += usize::from(sys::map_lookup(map.as_fd(), key.as_bytes(), &mut value)?);
        }
    }
    Ok(rows)
}

#[test]
fn names_share_rows_and_do_not_touch_each_other() -> Result<()> {
    let lab = Lab::builder().pod("n1", "a").build()?;
    let capacity = Capacity { services: 64, backends: 64, slots: 64, frontends: 64, sources: 64 };
    let settings = Settings {
        capacity,
        flows: FlowCapacity { established: 64, half_open: 64 },
        node_netns_cookie: 1,
        packets: PacketBuild::of_this_kernel(),
    };
    let pins = Pins::new(lab.node("n1").bpffs());
    drop(Object::load(&pins, &settings)?);
    let mut store = Store::open(&pins.maps(), capacity)?;
    ensure!(Store::open_as_is(&pins.maps())?.capacity() == capacity, "told by the maps themselves");

    let name = |id| Ok(Op::Service(id, Some(Box::new(row(id)?))));
    let all: Vec<Op> = (1..IDS).map(name).collect::<Result<_>>()?;
    // Half of them first: the others come into rows that are there.
    let (odd, even): (Vec<Op>, Vec<Op>) =
        all.into_iter().partition(|op| matches!(op, Op::Service(id, _) if id % 2 == 1));
    store.execute(&odd)?;
    ensure!(store.service(2)?.is_none() && store.service(3)? == Some(row(3)?));
    store.execute(&even)?;
    let mut expected: BTreeMap<u32, ServiceRow> =
        (1..IDS).map(|id| Ok((id, row(id)?))).collect::<Result<_>>()?;
    ensure!(store.services()?.into_iter().eq(expected.clone()), "all are there");

    for id in (1..IDS).filter(|id| id % 3 != 1) {
        store.execute(&[Op::Service(id, None)])?;
        expected.remove(&id);
        ensure!(store.service(id)?.is_none(), "{id} is gone");
        ensure!(store.services()?.into_iter().eq(expected.clone()), "and {id} alone");
    }
    // An id is given to another name.
    store.execute(&[Op::Service(1, None)])?;
    let short = ServiceRow::new("ns", "web", "", TCP).context("a name")?;
    store.execute(&[Op::Service(1, Some(Box::new(short)))])?;
    ensure!(store.service(1)? == Some(short));
    for id in expected.keys().rev() {
        store.execute(&[Op::Service(*id, None)])?;
    }
    ensure!(store.services()?.is_empty(), "{:?}", store.services()?);
    ensure!(rows_in_map(&lab)? == 0, "rows of none are deleted");
    // What was never there can go.
    store.execute(&[Op::Service(9, None)])
}
