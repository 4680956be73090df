//! The kernel's side of the programs: contexts and helper calls, each wrapped once.

pub mod context;
pub mod helpers;
