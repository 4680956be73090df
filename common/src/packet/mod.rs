//! The packet path: Services for every client whose sockets we do not see.
//!
//! [`frame`] and [`tables`] are what it needs of its surroundings: in the kernel helpers and BPF
//! maps (`ebpf/src/packet`), in tests a buffer and ordinary collections.

pub mod frame;
pub mod tables;
