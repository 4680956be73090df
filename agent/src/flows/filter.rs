//! Each pass over the tables fills the flow filter anew: see [`millrace_common::flow_filter`].

use anyhow::Result;
use millrace_common::address::Address;
use millrace_common::backend::Backend;
use millrace_common::flow::{Flow, FlowKey};
use millrace_common::packet::tables::Table;

use super::FlowRows;

/// The filter's row. Programs read and write it at the same time.
pub trait FilterRow {
    /// Which half is in force, from 1; 0: none.
    fn in_force(&self) -> u32;
    /// Unset all bytes of a half. What is read from the tables afterwards is not older.
    fn clear(&self, half: Half);
    /// Set a byte.
    fn set(&self, half: Half, cell: u32);
    /// Put a half in force.
    fn enforce(&self, half: Half);
}

/// A half of the filter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Half {
    /// The first.
    First,
    /// The second.
    Second,
}

/// A half that is being filled. Dropped before its end, it is not put in force.
pub struct Refill<F> {
    row: F,
    half: Half,
}

impl<F: FilterRow> Refill<F> {
    /// A pass begins: clear the half that is not in force.
    pub fn begin(row: F) -> Self {
        let half = if row.in_force() == 1 { Half::Second } else { Half::First };
        row.clear(half);
        Self { row, half }
    }

    /// The pass has shown every entry that was in the tables all the time since it began.
    pub fn end(self) {
        self.row.enforce(self.half);
    }
}

/// Tables whose entries are noted in the filter as they are shown.
pub struct Noted<'a, R, F> {
    /// The tables.
    pub rows: &'a R,
    /// Where to note them, if anywhere.
    pub refill: Option<&'a Refill<F>>,
}

impl<A: Address, R: FlowRows<A>, F: FilterRow> FlowRows<A> for Noted<'_, R, F> {
    type Cursor = R::Cursor;

    fn flow(&self, table: Table, key: &FlowKey<A>) -> Result<Option<Flow<A>>> {
        self.rows.flow(table, key)
    }
    fn remove(&self, table: Table, key: &FlowKey<A>) -> Result<()> {
        self.rows.remove(table, key)
    }
    fn backend(&self, id: u32) -> Result<Option<Backend<A>>> {
        self.rows.backend(id)
    }
    fn step(
        &self,
        table: Table,
        cursor: &mut Self::Cursor,
        mut show: impl FnMut(FlowKey<A>, Flow<A>),
    ) -> Result<bool> {
        self.rows.step(table, cursor, |key, flow| {
            if let Some(Refill { row, half }) = self.refill {
                row.set(*half, key.cell());
            }
            show(key, flow);
        })
    }
    fn size(&self, table: Table) -> Result<u32> {
        self.rows.size(table)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeSet;

    use millrace_common::address::{Be16, Protocol, V4};
    use millrace_common::flow::side;
    use millrace_common::flow_filter::LINE_BYTES;
    use millrace_common::row::Row as _;
    use proptest::prelude::*;

    use super::*;

    /// Entries a step shows.
    const BATCH: usize = 2;

    #[derive(Default)]
    struct Row {
        in_force: Cell<u32>,
        halves: [RefCell<BTreeSet<u32>>; 2],
    }

    impl FilterRow for &Row {
        fn in_force(&self) -> u32 {
            self.in_force.get()
        }
        fn clear(&self, half: Half) {
            self.halves[half as usize].borrow_mut().clear();
        }
        fn set(&self, half: Half, cell: u32) {
            self.halves[half as usize].borrow_mut().insert(cell);
        }
        fn enforce(&self, half: Half) {
            self.in_force.set(half as u32 + 1);
        }
    }

    impl Row {
        fn rules_out(&self, cell: u32) -> bool {
            let half = self.in_force.get().checked_sub(1);
            half.is_some_and(|half| !self.halves[half as usize].borrow().contains(&cell))
        }
    }

    /// One table of entries by number.
    struct Entries<'a>(&'a RefCell<BTreeSet<u16>>);

    fn key(number: u16) -> FlowKey<V4> {
        FlowKey {
            source: V4::default(),
            destination: V4::default(),
            source_port: Be16::new(number),
            destination_port: Be16::new(80),
            protocol: Protocol::Tcp as u8,
            side: side::INGRESS,
            pad: 0,
        }
    }

    fn flow() -> Flow<V4> {
        Flow::from_bytes(&[0; size_of::<Flow<V4>>()]).unwrap()
    }

    impl FlowRows<V4> for Entries<'_> {
        type Cursor = u16;

        fn flow(&self, _: Table, _: &FlowKey<V4>) -> Result<Option<Flow<V4>>> {
            Ok(None)
        }
        fn remove(&self, _: Table, _: &FlowKey<V4>) -> Result<()> {
            Ok(())
        }
        fn backend(&self, _: u32) -> Result<Option<Backend<V4>>> {
            Ok(None)
        }
        fn step(
            &self,
            _: Table,
            cursor: &mut u16,
            mut show: impl FnMut(FlowKey<V4>, Flow<V4>),
        ) -> Result<bool> {
            let batch: Vec<u16> = self.0.borrow().range(*cursor..).take(BATCH).copied().collect();
            batch.iter().for_each(|number| show(key(*number), flow()));
            *cursor = batch.last().map_or(*cursor, |last| last + 1);
            Ok(batch.len() < BATCH)
        }
        fn size(&self, _: Table) -> Result<u32> {
            Ok(0)
        }
    }

    /// What happens next.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        /// A program writes an entry.
        Put(u16),
        /// It sets the bytes of one it wrote.
        Note(u16),
        /// An entry goes.
        Remove(u16),
        /// The agent reads on; after the last batch it puts the half in force and begins anew.
        Step,
        /// The agent is killed, and another one begins a pass.
        Restart,
        /// It cannot read.
        Fail,
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let number = 0..8_u16;
        let event = prop_oneof![
            3 => number.clone().prop_map(Event::Put),
            3 => number.clone().prop_map(Event::Note),
            1 => number.prop_map(Event::Remove),
            4 => Just(Event::Step),
            1 => Just(Event::Restart),
            1 => Just(Event::Fail),
        ];
        proptest::collection::vec(event, 0..80)
    }

    proptest! {
        #[test]
        fn no_entry_whose_bytes_are_set_is_ruled_out(events in events()) {
            let (row, entries) = (Row::default(), RefCell::new(BTreeSet::new()));
            let mut noted = BTreeSet::new();
            let (mut refill, mut cursor) = (Some(Refill::begin(&row)), 0);
            for event in events {
                match event {
                    Event::Put(number) => {
                        entries.borrow_mut().insert(number);
                    }
                    Event::Note(number) if entries.borrow().contains(&number) => {
                        (&row).set(Half::First, key(number).cell());
                        (&row).set(Half::Second, key(number).cell());
                        noted.insert(number);
                    }
                    Event::Note(_) => {}
                    Event::Remove(number) => {
                        entries.borrow_mut().remove(&number);
                        noted.remove(&number);
                    }
                    Event::Step => {
                        let rows = Noted { rows: &Entries(&entries), refill: refill.as_ref() };
                        if rows.step(Table::Established, &mut cursor, |_, _| {}).unwrap() {
                            if let Some(refill) = refill {
                                refill.end();
                            }
                            (refill, cursor) = (Some(Refill::begin(&row)), 0);
                        }
                    }
                    Event::Restart => {
                        (refill, cursor) = (Some(Refill::begin(&row)), 0);
                    }
                    Event::Fail => {
                        refill = None;
                        // It may have lost its place.
                        cursor = cursor.max(4);
                    }
                }
                for number in &noted {
                    prop_assert!(!row.rules_out(key(*number).cell()), "{number} after {event:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_gone_is_ruled_out_after_a_pass() {
        let (row, entries) = (Row::default(), RefCell::new(BTreeSet::from([1, 2, 3])));
        for _ in 0..2 {
            let (refill, mut cursor) = (Refill::begin(&row), 0);
            let rows = Noted { rows: &Entries(&entries), refill: Some(&refill) };
            while !rows.step(Table::Established, &mut cursor, |_, _| {}).unwrap() {}
            refill.end();
            let ruled_out = (1..=3).filter(|number| row.rules_out(key(*number).cell()));
            assert_eq!(ruled_out.count(), 3 - entries.borrow().len());
            entries.borrow_mut().remove(&2);
        }
        assert!(row.rules_out(key(2).cell()) && !row.rules_out(key(3).cell()));
    }

    #[test]
    fn keys_lead_to_cells_of_their_own() {
        let key_to = |host: u32, number| FlowKey { destination: V4::from_raw(host), ..key(number) };
        let hosts = (0..64).flat_map(|host| (0..64).map(move |number| (host, number)));
        let cells: BTreeSet<u32> = hosts.map(|(host, n)| key_to(host, n).cell()).collect();
        // Of 64 keys in the 32 cells of a line some 27 have one, if the lines differ.
        assert!(cells.len() > 64 * 24, "{}", cells.len());
        let other_side = FlowKey { side: side::EGRESS, ..key(1) };
        let other_way = key(1).answer(side::INGRESS);
        assert!(key(1).cell() != other_side.cell() && key(1).cell() != other_way.cell());
    }

    #[test]
    fn a_pair_of_addresses_has_a_line() {
        let line = |key: FlowKey<V4>| key.cell() as usize / LINE_BYTES;
        let lines: BTreeSet<usize> = (0..4096).map(|number| line(key(number))).collect();
        assert_eq!(lines.len(), 1);
        let to = |host| FlowKey { destination: V4::from_raw(host), ..key(1) };
        let lines: BTreeSet<usize> = (0..1024).map(|host| line(to(host))).collect();
        // By chance some 900 of 4096.
        assert!(lines.len() > 800, "{}", lines.len());
    }
}
