//! What the agent and the BPF programs must agree on: the rows of every map (the ABI), and the
//! decisions made on them.
//!
//! Compiled twice: natively, for the agent and for tests, and to BPF, for the kernel. What the
//! tests exercise is what the kernel runs. No dependencies, no allocation, no I/O.
//!
//! In the order of a packet's story: an [`address`] is looked up as a [`frontend`], which leads to
//! a [`backend`] by the rules of [`select`]; [`affinity`], [`peer`] and [`flow`] are what is
//! remembered, [`flow_filter`] and [`frontend_filter`] rule out what is not, [`counters`] are what
//! is counted, [`service`] is what tools need to name things. [`packet`] is the story of those
//! whose sockets are not seen.

#![no_std]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

/// Version of the row layouts; part of the pin path, so two layouts never meet in one map.
///
/// Raise it with every change of a row's size, order or meaning, and name it as that of the map's
/// last change (`bpf::store::MAPS` of the agent).
pub const ABI_VERSION: u32 = 8;

pub mod address;
pub mod affinity;
pub mod backend;
pub mod cluster_ips;
pub mod counters;
pub mod flow;
pub mod flow_filter;
pub mod flow_room;
pub mod fragment;
pub mod frontend;
pub mod frontend_filter;
pub mod node;
pub mod packet;
pub mod peer;
pub mod row;
pub mod select;
pub mod service;
pub mod traffic;
