//! The packet path without a network: what its tests feed it, and what they make of the answer.
//!
//! [`build`] makes frames, checksums included, and [`checksum`] judges those that come back.
//! [`node`] holds a node's rows in ordinary collections; [`buffer`] is a packet in memory that
//! behaves as the kernel's helpers do; [`hook`] is the two together, which is what the code of
//! `millrace_common::packet` is generic over. [`kernel`] runs the same packets through the loaded
//! programs, [`rows`] are what the two are compared by, [`pair`] compares them, and [`cluster`] is
//! the little cluster they play in, [`story`] what is told of them. [`fuzz`] makes packets that
//! nobody thought of.

pub mod buffer;
pub mod build;
pub mod checksum;
pub mod cluster;
pub mod fuzz;
pub mod hook;
pub mod kernel;
pub mod node;
pub mod pair;
pub mod rows;
pub mod story;
