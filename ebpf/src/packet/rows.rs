//! The packet path's maps of one family.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::maps::lpm_trie::Key;
use millrace_common::address::{V4, V6};
use millrace_common::flow::{Flow, FlowKey};
use millrace_common::fragment::{Fragment, FragmentKey};
use millrace_common::node::{DeviceRow, SourceKey};
use millrace_common::packet::reject::Answer;
use millrace_common::packet::tables::Table;

use crate::maps;
use crate::socket::tables::Rows;

/// What is put where there is something already.
#[derive(Clone, Copy)]
pub enum Put {
    /// It is replaced.
    Replace,
    /// It stays.
    Keep,
}

/// The maps of one family.
pub trait PacketRows: Rows + Answer {
    /// A flow's entry; null if there is none.
    fn flow(table: Table, key: &FlowKey<Self>) -> *mut Flow<Self>;
    /// Write one.
    fn put_flow(table: Table, key: &FlowKey<Self>, flow: &Flow<Self>, put: Put) -> bool;
    /// Delete one.
    fn remove_flow(table: Table, key: &FlowKey<Self>);
    /// A datagram's first fragment.
    fn fragment(key: &FragmentKey<Self>) -> Option<Fragment<Self>>;
    /// Remember one.
    fn set_fragment(key: &FragmentKey<Self>, fragment: &Fragment<Self>);
    /// Whether a source range contains an address.
    fn is_source_allowed(key: &SourceKey<Self>) -> bool;
    /// What masqueraded packets come from.
    fn masquerade_address(row: &DeviceRow) -> Self;
}

macro_rules! packet_rows {
    (
        $family:ty,
        $flows:ident,
        $half_open:ident,
        $fragments:ident,
        $ranges:ident,
        $address:ident
    ) => {
        impl PacketRows for $family {
            #[inline(always)]
            fn flow(table: Table, key: &FlowKey<Self>) -> *mut Flow<Self> {
                let row = match table {
                    Table::Established => maps::$flows.get_ptr_mut(key),
                    Table::HalfOpen => maps::$half_open.get_ptr_mut(key),
                };
                row.unwrap_or(core::ptr::null_mut())
            }
            #[inline(always)]
            fn put_flow(table: Table, key: &FlowKey<Self>, flow: &Flow<Self>, put: Put) -> bool {
                let flags = match put {
                    Put::Replace => u64::from(BPF_ANY),
                    Put::Keep => u64::from(BPF_NOEXIST),
                };
                match table {
                    Table::Established => maps::$flows.insert(key, flow, flags),
                    Table::HalfOpen => maps::$half_open.insert(key, flow, flags),
                }
                .is_ok()
            }
            #[inline(always)]
            fn remove_flow(table: Table, key: &FlowKey<Self>) {
                // Fails only if there is none.
                let _ = match table {
                    Table::Established => maps::$flows.remove(key),
                    Table::HalfOpen => maps::$half_open.remove(key),
                };
            }
            #[inline(always)]
            fn fragment(key: &FragmentKey<Self>) -> Option<Fragment<Self>> {
                // SAFETY: copied out at once; a recycled row is one of another datagram, whose
                // fragments would be damaged anyway.
                unsafe { maps::$fragments.get(key) }.copied()
            }
            #[inline(always)]
            fn set_fragment(key: &FragmentKey<Self>, fragment: &Fragment<Self>) {
                // Fails only when memory is short; then the datagram is lost.
                let _ = maps::$fragments.insert(key, fragment, u64::from(BPF_ANY));
            }
            #[inline(always)]
            fn is_source_allowed(key: &SourceKey<Self>) -> bool {
                maps::$ranges.get(&Key::new(key.bits, key.net)).is_some()
            }
            #[inline(always)]
            fn masquerade_address(row: &DeviceRow) -> Self {
                row.$address
            }
        }
    };
}

packet_rows!(V4, FLOWS_V4, HALF_OPEN_V4, FRAGMENTS_V4, SOURCE_RANGES_V4, masquerade_v4);
packet_rows!(V6, FLOWS_V6, HALF_OPEN_V6, FRAGMENTS_V6, SOURCE_RANGES_V6, masquerade_v6);
