//! The door to the kernel's maps, programs and links: the only place that names `aya` or `bpf(2)`.
//!
//! [`environment`] finds what is needed and says what is missing; [`pins`] is the layout under
//! bpffs; [`object`] loads the programs, with new maps (`resize`) when they get other sizes;
//! [`attach`] links them to hooks of the cgroup without ever leaving one empty, [`packet`] to hooks
//! of devices (by [`tcx`] or [`clsact`]); [`store`], [`node_maps`] and [`flows`] write and read the
//! rows of a [`map`], many rows of an array as memory (`window`), [`flow_filter`] and
//! `frontend_filter` among them; [`sys`] is the part of `bpf(2)` that aya lacks; [`inventory`]
//! lists what the kernel holds of all owners.

pub mod attach;
pub mod clsact;
pub mod environment;
pub mod flow_filter;
pub mod flows;
mod frontend_filter;
pub mod inventory;
#[cfg(feature = "bpf-log")]
mod log;
pub mod map;
mod names;
pub mod node_maps;
pub mod object;
pub mod packet;
pub mod pins;
pub mod readings;

pub mod store;
pub mod sys;
pub mod tcx;
mod transfer;
mod window;
