//! What each service port has had to do, by both paths.

use crate::row::Row;

/// Value of the `traffic` map (an array, indexed by service id). Shared by all CPUs; the agent
/// zeroes it when it gives the id to another service.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// New connections and UDP flows led to a backend.
    pub opened: u64,
    /// New ones refused or dropped: no backend, a source that may not, or no room.
    pub failed: u64,
}

// SAFETY: two 64-bit words.
unsafe impl Row for Traffic {}

const _LAYOUT: () = assert!(size_of::<Traffic>() == 16);
