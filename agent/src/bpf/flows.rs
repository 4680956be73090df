//! The rows that packets leave: flows, answered or not.

use std::marker::PhantomData;
use std::path::Path;

use anyhow::Result;
use millrace_common::address::{V4, V6};
use millrace_common::backend::{Backend, InPair};
use millrace_common::flow::{Flow, FlowKey};
use millrace_common::flow_room::{self, FlowRoom};
use millrace_common::node::NodeRow;
use millrace_common::packet::tables::Table;
use millrace_common::row::Row;

use super::flow_filter::FilterMemory;
use super::map::{Cursor, Map, MapError};
use crate::flows::FlowRows;

/// The tables, answered and not, of both families.
pub(super) const FLOW_MAPS: [&str; 4] = ["flows_v4", "flows_v6", "half_open_v4", "half_open_v6"];

/// The maps of both families.
pub struct FlowStore {
    /// IPv4.
    pub v4: FamilyStore<V4>,
    /// IPv6.
    pub v6: FamilyStore<V6>,
    filter: Map,
    room: Map,
    node: Map,
}

/// The maps of one family.
pub struct FamilyStore<A> {
    flows: Map,
    half_open: Map,
    backends: Map,
    family: PhantomData<A>,
}

impl FlowStore {
    /// Open the maps pinned in `directory`.
    pub fn open(directory: &Path) -> std::result::Result<Self, MapError> {
        Ok(Self {
            v4: FamilyStore::open(directory, "flows_v4", "half_open_v4")?,
            v6: FamilyStore::open(directory, "flows_v6", "half_open_v6")?,
            filter: Map::open(directory, "flow_filter")?,
            room: Map::open(directory, "flow_room")?,
            node: Map::open(directory, "node")?,
        })
    }

    /// What rules out that a packet is a flow's.
    pub fn filter(&self) -> std::result::Result<FilterMemory, MapError> {
        FilterMemory::of(&self.filter)
    }

    /// How many flows may begin among the established ones, of IPv4 and of IPv6.
    pub fn room(&self) -> std::result::Result<[i64; 2], MapError> {
        let mut left = [0; 2];
        for (left, row) in left.iter_mut().zip([flow_room::V4, flow_room::V6]) {
            let room: Option<FlowRoom> = self.room.get(&row)?;
            *left = room.unwrap_or_default().left;
        }
        Ok(left)
    }

    /// Say it anew. (What a program takes or gives back at this moment may be lost: the next pass
    /// counts again.)
    pub fn set_room(&self, [v4, v6]: [i64; 2]) -> std::result::Result<(), MapError> {
        let rows = [(flow_room::V4, v4), (flow_room::V6, v6)];
        let rows = rows.map(|(row, left)| (row, FlowRoom { left, pad: [0; 7] }));
        // One by one: arrays take no batches before Linux 5.13.
        rows.iter().try_for_each(|row| self.room.put(std::slice::from_ref(row)))
    }

    /// How many ports there are to masquerade with, for each backend and address.
    pub fn masquerade_ports(&self) -> std::result::Result<u32, MapError> {
        let row: Option<NodeRow> = self.node.get(&0_u32)?;
        let ports = row.map(|row| (u32::from(row.first_port), u32::from(row.last_port)));
        Ok(ports.map_or(0, |(first, last)| (last + 1).saturating_sub(first)))
    }
}

impl<A> FamilyStore<A> {
    fn open(
        directory: &Path,
        flows: &'static str,
        half_open: &'static str,
    ) -> std::result::Result<Self, MapError> {
        Ok(Self {
            flows: Map::open(directory, flows)?,
            half_open: Map::open(directory, half_open)?,
            backends: Map::open(directory, "backends")?,
            family: PhantomData,
        })
    }

    const fn map(&self, table: Table) -> &Map {
        match table {
            Table::Established => &self.flows,
            Table::HalfOpen => &self.half_open,
        }
    }
}

impl<A: InPair> FlowRows<A> for FamilyStore<A>
where
    FlowKey<A>: Row,
    Flow<A>: Row,
{
    type Cursor = Cursor;

    fn flow(&self, table: Table, key: &FlowKey<A>) -> Result<Option<Flow<A>>> {
        Ok(self.map(table).get(key)?)
    }
    fn remove(&self, table: Table, key: &FlowKey<A>) -> Result<()> {
        Ok(self.map(table).delete(key)?)
    }
    fn backend(&self, id: u32) -> Result<Option<Backend<A>>> {
        Ok(self.backends.backend(id)?)
    }
    fn step(
        &self,
        table: Table,
        cursor: &mut Cursor,
        show: impl FnMut(FlowKey<A>, Flow<A>),
    ) -> Result<bool> {
        Ok(self.map(table).step(cursor, show)?)
    }
    fn size(&self, table: Table) -> Result<u32> {
        Ok(self.map(table).size()?)
    }
}
