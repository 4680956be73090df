//! What flows have led, and what of it is new since the last look. Pure.
//!
//! An entry says how many bytes it has led in all, so what it had at the last look is remembered:
//! some tens of bytes for each OPEN and REPLY entry that one of the last two passes found, which
//! the sizes of the tables bound. Whatever becomes of an entry, nothing is counted twice; what it
//! led after the last look at it, when a program has replaced or evicted it, is not counted.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::ops::AddAssign;

use millrace_common::address::{Address, Protocol};
use millrace_common::flow::{Flow, FlowKey, role, seen};
use millrace_common::packet::tables::Table;

/// Passes that may go by without finding an entry before it is forgotten. One can miss an entry
/// that moves from one table to the other, which it does once.
pub(super) const PASSES_MISSED: u32 = 1;

/// Whom a flow is led to, and for which service port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Led {
    /// The service port.
    pub service: u32,
    /// The backend.
    pub backend: SocketAddr,
}

impl Led {
    /// Of an OPEN or a REPLY entry.
    pub fn of<A: Address>(key: &FlowKey<A>, flow: &Flow<A>) -> Self {
        let (address, port) = match flow.role {
            role::OPEN => (flow.address, flow.port),
            _ => (key.source, key.source_port),
        };
        Self { service: flow.service, backend: SocketAddr::new(address.into(), port.get()) }
    }
}

/// What a pass has found of one backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// Its id and the id's generation, which OPEN entries know.
    pub row: Option<(u32, u32)>,
    /// What is new.
    pub usage: Usage,
}

/// What was led.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Flows that began.
    pub opened: u64,
    /// Connections (TCP, SCTP) that the backend refused, or did not answer.
    pub failed: u64,
    /// Bytes of packets to the backend.
    pub to_backend: u64,
    /// Bytes of its answers.
    pub to_client: u64,
}

impl Usage {
    /// Bytes both ways.
    pub const fn bytes(&self) -> u64 {
        self.to_backend.saturating_add(self.to_client)
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, more: Self) {
        self.opened += more.opened;
        self.failed += more.failed;
        self.to_backend += more.to_backend;
        self.to_client += more.to_client;
    }
}

/// What an entry had at the last look.
struct Mark {
    bytes: u64,
    has_failed: bool,
    /// The last pass that found it.
    pass: u32,
}

/// Remembers what has been counted, for one family.
#[derive(Default)]
pub struct Account {
    /// By a hash of an entry's key and of when its flow began: a flow is the same in either table.
    /// Two of a million entries have the same one in one of ten million cases.
    marks: HashMap<u64, Mark>,
    hasher: RandomState,
    pass: u32,
}

impl Account {
    /// Look at an entry: what is new. Of a flow that began before `from_secs`, what it led until
    /// the first look at it is not.
    pub fn look<A: Address>(
        &mut self,
        table: Table,
        key: &FlowKey<A>,
        flow: &Flow<A>,
        from_secs: u32,
    ) -> Usage {
        if !matches!(flow.role, role::OPEN | role::REPLY) {
            return Usage::default();
        }
        let (is_open, is_ours) = (flow.role == role::OPEN, flow.since_secs >= from_secs);
        let (bytes, is_refused) = (flow.bytes.get(), is_refused(table, key, flow));
        let mut new = Usage::default();
        let id = self.hasher.hash_one((key, flow.since_secs));
        let mark = self.marks.entry(id).or_insert_with(|| {
            new.opened = u64::from(is_open && is_ours);
            match is_ours {
                true => Mark { bytes: 0, has_failed: false, pass: 0 },
                false => Mark { bytes, has_failed: is_refused, pass: 0 },
            }
        });
        let more = bytes.saturating_sub(mark.bytes);
        *if is_open { &mut new.to_backend } else { &mut new.to_client } = more;
        new.failed = u64::from(is_refused && !mark.has_failed);
        mark.bytes += more;
        mark.has_failed |= is_refused;
        mark.pass = self.pass;
        new
    }

    /// A pass is over.
    pub fn end_pass(&mut self) {
        let pass = self.pass;
        self.marks.retain(|_, mark| pass.wrapping_sub(mark.pass) <= PASSES_MISSED);
        // What a flood has taken is given back.
        self.marks.shrink_to(2 * self.marks.len());
        self.pass = pass.wrapping_add(1);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.marks.len()
    }
}

/// Whether this is the entry of the answers of a connection that the backend has refused: an answer
/// that ends it before the client could go on.
fn is_refused<A>(table: Table, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
    flow.role == role::REPLY
        && key.protocol != Protocol::Udp as u8
        && matches!(table, Table::HalfOpen)
        && flow.seen & seen::RST != 0
}

/// Whether a flow that is over is a connection that its backend has never answered; `answered`:
/// what its REPLY entry has seen.
pub fn is_unanswered<A>(table: Table, key: &FlowKey<A>, answered: u16) -> bool {
    key.protocol != Protocol::Udp as u8
        && matches!(table, Table::HalfOpen)
        && answered & seen::PACKET == 0
}
