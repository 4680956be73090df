//! Properties of the sweep: what is over goes whole, what is not stays whole, whatever happens
//! meanwhile.

mod usage;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::Result;
use millrace_common::address::{Be16, Protocol, V4};
use millrace_common::backend::{Backend, state};
use millrace_common::flow::{Count, Flow, FlowKey, bits, role, seen, side};
use millrace_common::packet::tables::Table;
use proptest::prelude::*;

use super::FlowRows;
use super::account::{Led, PASSES_MISSED, Usage};
use super::census::Census;
use super::rules::{ORPHAN_SECS, State, Timeouts, idle_secs};
use super::sweep::{Counts, Now, Sweep, TableCounts};

/// When the tests play, in seconds.
const NOW_SECS: u32 = 1_000_000;
/// Entries a step shows.
const BATCH: usize = 3;
/// The last look at a flow before it is taken out is three: at OPEN, and at REPLY in either table.
const LAST_LOOKS: u32 = 3;
/// A backend that serves, and one that is gone.
const SERVING: u32 = 1;
const GONE: u32 = 2;
/// Where clients come in.
const DEVICE: u32 = 7;

/// Both tables, one behind the other.
type Entries = BTreeMap<(u8, FlowKey<V4>), Flow<V4>>;

/// Tables in memory; a packet comes by before one of the looks.
#[derive(Default)]
struct Rows {
    entries: RefCell<Entries>,
    looks: Cell<u32>,
    /// Before which look, and the entry it uses.
    packet: Option<(u32, FlowKey<V4>)>,
    /// Looks there had been when the first entry was deleted.
    deleted_at: Cell<Option<u32>>,
}

const fn number(table: Table) -> u8 {
    match table {
        Table::Established => 0,
        Table::HalfOpen => 1,
    }
}

impl FlowRows<V4> for Rows {
    type Cursor = Option<FlowKey<V4>>;

    fn flow(&self, table: Table, key: &FlowKey<V4>) -> Result<Option<Flow<V4>>> {
        self.looks.set(self.looks.get() + 1);
        let mut entries = self.entries.borrow_mut();
        if let Some((look, used)) = self.packet
            && look == self.looks.get()
        {
            let of_flow = entries.iter_mut().filter(|((_, key), _)| *key == used);
            of_flow.for_each(|(_, flow)| flow.last_used_secs = NOW_SECS);
        }
        Ok(entries.get(&(number(table), *key)).copied())
    }
    fn remove(&self, table: Table, key: &FlowKey<V4>) -> Result<()> {
        self.entries.borrow_mut().remove(&(number(table), *key));
        self.deleted_at.set(self.deleted_at.get().or(Some(self.looks.get())));
        Ok(())
    }
    fn backend(&self, id: u32) -> Result<Option<Backend<V4>>> {
        let state = if id == SERVING { state::SERVING } else { state::GONE };
        let (address, port) = (V4::default(), Be16::new(1));
        Ok(Some(Backend { port, state, family: 4, generation: 1, service: 1, address }))
    }
    fn step(
        &self,
        table: Table,
        cursor: &mut Self::Cursor,
        mut show: impl FnMut(FlowKey<V4>, Flow<V4>),
    ) -> Result<bool> {
        let entries = self.entries.borrow();
        let table = number(table);
        let all = entries.iter().filter(|((of, _), _)| *of == table);
        let rest = all.filter(|((_, key), _)| cursor.is_none_or(|after| *key > after));
        let batch: Vec<_> = rest.take(BATCH).collect();
        batch.iter().for_each(|((_, key), flow)| show(*key, **flow));
        *cursor = batch.last().map(|((_, key), _)| *key);
        Ok(batch.len() < BATCH)
    }
    fn size(&self, _: Table) -> Result<u32> {
        Ok(100)
    }
}

/// A flow as the kernel would have left it.
#[derive(Clone, Debug)]
struct Case {
    protocol: Protocol,
    established: bool,
    /// It began in the table of established flows, where it is.
    begun_there: bool,
    is_masqueraded: bool,
    client_seen: u16,
    backend_seen: u16,
    client_idle: u32,
    backend_idle: u32,
    backend: u32,
}

/// A TCP connection whose handshake is not complete.
const HALF_OPEN: Case = Case {
    protocol: Protocol::Tcp,
    established: false,
    begun_there: false,
    is_masqueraded: true,
    client_seen: seen::PACKET,
    backend_seen: seen::PACKET,
    client_idle: 0,
    backend_idle: 0,
    backend: SERVING,
};

fn cases() -> impl Strategy<Value = Case> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Sctp)];
    let idle = || {
        prop_oneof![
            0..10_u32,
            25..35_u32,
            55..65_u32,
            115..125_u32,
            3595..3605_u32,
            86_395..86_405_u32
        ]
    };
    let backend = prop_oneof![4 => Just(SERVING), 1 => Just(GONE)];
    let switches = (any::<bool>(), any::<bool>(), any::<bool>());
    let all = (protocol, switches, 0..8_u16, 0..8_u16, idle(), idle(), backend);
    all.prop_map(
        |(protocol, switches, client_seen, backend_seen, client_idle, backend_idle, backend)| {
            let (established, begun_there, is_masqueraded) = switches;
            let client_seen = client_seen | seen::PACKET;
            Case {
                protocol,
                established,
                begun_there,
                is_masqueraded,
                client_seen,
                backend_seen,
                client_idle,
                backend_idle,
                backend,
            }
        },
    )
}

const fn host(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

impl Case {
    fn table(&self) -> Table {
        if self.established || self.begun_there { Table::Established } else { Table::HalfOpen }
    }

    /// Of OPEN and REPLY.
    fn bits(&self) -> u8 {
        let masquerade = if self.is_masqueraded { bits::MASQUERADE } else { 0 };
        let is_marked = self.begun_there && !self.established;
        masquerade | if is_marked { bits::HALF_OPEN } else { 0 }
    }

    /// By the words of `common/src/flow.rs`.
    fn is_over(&self) -> bool {
        let idle = self.client_idle.min(self.backend_idle);
        let table = if self.established { Table::Established } else { Table::HalfOpen };
        let state = State::of(self.protocol as u8, table, self.client_seen, self.backend_seen);
        let is_gone = self.protocol == Protocol::Udp && self.backend == GONE;
        is_gone || idle >= state.timeout_secs(self.protocol as u8, false, &Timeouts::default())
    }

    /// OPEN, REPLY, and if it is masqueraded MASQ and UNMASQ.
    fn entries(&self, index: u16) -> Vec<(FlowKey<V4>, Flow<V4>)> {
        let open_key = FlowKey {
            source: host(1).into(),
            destination: host(2).into(),
            source_port: Be16::new(index),
            destination_port: Be16::new(80),
            protocol: self.protocol as u8,
            side: side::INGRESS,
            pad: 0,
        };
        let open = Flow {
            bytes: Count::ZERO,
            address: host(3).into(),
            port: Be16::new(8080),
            other_port: open_key.source_port,
            role: role::OPEN,
            bits: self.bits(),
            seen: self.client_seen,
            last_used_secs: NOW_SECS - self.client_idle,
            since_secs: NOW_SECS - 100_000,
            service: 1,
            backend_or_device: self.backend,
            generation_or_ack: 1,
        };
        let reply = Flow {
            address: open_key.destination,
            port: open_key.destination_port,
            role: role::REPLY,
            backend_or_device: DEVICE,
            generation_or_ack: 0,
            seen: self.backend_seen,
            last_used_secs: NOW_SECS - self.backend_idle,
            ..open
        };
        let mut entries = vec![(open_key, open), (open.reply_key(&open_key), reply)];
        if self.is_masqueraded {
            let first = Flow { seen: 0, last_used_secs: open.since_secs, ..open };
            let key = open.masq_key(&open_key);
            let masq = Flow {
                address: host(4).into(),
                port: Be16::new(61_000 + index),
                role: role::MASQ,
                ..first
            };
            let unmasq = Flow {
                address: open_key.source,
                port: open_key.source_port,
                other_port: key.destination_port,
                role: role::UNMASQ,
                ..first
            };
            entries.extend([(key, masq), (masq.unmasq_key(&key), unmasq)]);
        }
        entries
    }
}

fn rows_of(cases: &[Case]) -> Rows {
    let rows = Rows::default();
    for (index, case) in (1_u16..).zip(cases) {
        let entries = case.entries(index).into_iter();
        let table = number(case.table());
        rows.entries.borrow_mut().extend(entries.map(|(key, flow)| ((table, key), flow)));
    }
    rows
}

/// A whole pass.
fn pass(rows: &Rows, secs: u32) -> Counts<V4> {
    pass_of(&mut Sweep::default(), rows, secs, 0)
}

/// One of many.
fn pass_of(sweep: &mut Sweep<V4>, rows: &Rows, secs: u32, from_secs: u32) -> Counts<V4> {
    for table in [Table::Established, Table::HalfOpen] {
        let mut cursor = None;
        let now = Now { secs, pressed: false, timeouts: Timeouts::default(), from_secs };
        while !sweep.step(rows, table, &mut cursor, now).unwrap() {}
    }
    sweep.take_counts()
}

fn entries_left(rows: &Rows, case: &Case, index: u16) -> (usize, usize) {
    let entries = case.entries(index);
    let left = rows.entries.borrow();
    let there = entries.iter().filter(|(key, _)| left.contains_key(&(number(case.table()), *key)));
    (there.count(), entries.len())
}

proptest! {
    #[test]
    fn what_is_over_goes_whole_and_the_rest_stays_whole(
        cases in prop::collection::vec(cases(), 1..12),
    ) {
        let rows = rows_of(&cases);
        pass(&rows, NOW_SECS);
        for (index, case) in (1_u16..).zip(&cases) {
            let (left, all) = entries_left(&rows, case, index);
            prop_assert_eq!(left, if case.is_over() { 0 } else { all }, "{:?}", case);
        }
    }

    #[test]
    fn everything_goes_in_the_end_whatever_was_lost(
        cases in prop::collection::vec(cases(), 1..8),
        lost in prop::collection::vec(any::<bool>(), 32),
    ) {
        let rows = rows_of(&cases);
        let mut keep = lost.iter().cycle();
        rows.entries.borrow_mut().retain(|_, _| *keep.next().unwrap());
        // What has lost its flow goes after a while, though its flow may have been used for a day.
        let entries = rows.entries.borrow().clone();
        let opens = entries.iter().filter(|(_, flow)| flow.role == role::OPEN);
        let opens: Vec<_> = opens.map(|((_, key), flow)| (*key, *flow)).collect();
        pass(&rows, NOW_SECS + ORPHAN_SECS);
        pass(&rows, NOW_SECS + ORPHAN_SECS);
        for ((_, key), flow) in rows.entries.borrow().iter() {
            let has_open = opens.iter().any(|(open_key, open)| open_key == key
                || open.reply_key(open_key) == *key
                || open.masq_key(open_key) == *key
                || flow.role == role::UNMASQ && flow.port == open_key.source_port);
            prop_assert!(has_open, "{:?} {:?}", key, flow);
        }
        for _ in 0..3 {
            pass(&rows, NOW_SECS + 10 * 86_400);
        }
        prop_assert!(rows.entries.borrow().is_empty(), "{:?}", rows.entries.borrow());
    }

    #[test]
    fn a_flow_that_is_used_before_the_last_look_stays_whole(
        case in cases(),
        look in 1..16_u32,
        by_backend in any::<bool>(),
    ) {
        let mut rows = rows_of(std::slice::from_ref(&case));
        rows.packet = Some((look, case.entries(1)[usize::from(by_backend)].0));
        pass(&rows, NOW_SECS);
        let (left, all) = entries_left(&rows, &case, 1);
        match rows.deleted_at.get() {
            None => prop_assert_eq!(left, all),
            Some(at) => {
                let is_gone = case.protocol == Protocol::Udp && case.backend == GONE;
                prop_assert!(look + LAST_LOOKS > at || is_gone, "{} {}: {:?}", look, at, case);
            }
        }
    }
}

#[test]
fn a_backend_without_room_for_more_is_reported() {
    let case = Case { established: true, ..HALF_OPEN };
    let report = |flows: usize, ports: u32| {
        let rows = rows_of(&vec![case.clone(); flows]);
        let mut census = Census::default();
        census.add("IPv4", &pass(&rows, NOW_SECS), rows.size(Table::Established).unwrap(), ports);
        census
    };
    assert_eq!(report(19, 100).conditions(), []);
    let ports = report(8, 10).conditions();
    assert_eq!(ports.len(), 1);
    assert_eq!(ports[0].about, "masquerade ports of 10.0.0.4 to 10.0.0.3:8080/TCP");
    assert!(ports[0].message.starts_with("80 % of 10 used"), "{ports:?}");
    let full = report(20, 1000);
    assert!(full.is_tight());
    assert_eq!(full.conditions()[0].about, "IPv4 flows");
}

#[test]
fn a_clock_that_is_ahead_makes_nothing_old() {
    assert_eq!(idle_secs(10, 12), 0);
}

#[test]
fn a_pass_counts_flows_and_what_it_took_out_and_why() {
    let udp = Case {
        protocol: Protocol::Udp,
        established: true,
        begun_there: true,
        client_seen: seen::PACKET,
        backend_seen: seen::PACKET,
        client_idle: 1,
        backend_idle: 1,
        is_masqueraded: false,
        backend: SERVING,
    };
    let stale = Case { backend: GONE, is_masqueraded: true, ..udp };
    let idle = Case { client_idle: 100_000, backend_idle: 100_000, ..udp };
    let begun = Case { established: false, backend_seen: 0, ..udp };
    let given_up = Case { client_idle: 100_000, backend_idle: 100_000, ..begun };
    let half_open = Case { begun_there: false, ..begun };
    let rows = rows_of(&[udp.clone(), udp, stale, idle, begun, given_up, half_open]);
    let counts = pass(&rows, NOW_SECS);
    let TableCounts { flows, removed, .. } = counts.established;
    assert_eq!((flows, removed), (4, 8), "four entries of the stale one, two of each idle one");
    assert_eq!(counts.half_open, TableCounts { entries: 2, flows: 3, removed: 0 });
    assert_eq!(counts.unanswered, 1);
    assert_eq!((counts.stale_removed, counts.removed()), (4, 8));
    assert_eq!(counts.by_backend[&(SERVING, 1)], 6);
    assert_eq!(counts.by_backend[&(GONE, 1)], 1);
}
