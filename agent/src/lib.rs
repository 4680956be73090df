//! The agent's library, in the order of a Service object's story.
//!
//! A [`source`] tells what Services and EndpointSlices there are; [`model`] keeps what we use of
//! them; [`plan`] decides which rows the maps should have and lists the operations that get there;
//! [`apply`] carries them out through [`bpf`], the only door to the kernel's maps and programs.
//! [`devices`] decides which of the node's devices the packet path serves, [`packet_path`]
//! attaches it there; [`flows`] takes out of its maps what nobody needs any more. [`net`] is the
//! door to netlink. [`config`] is the operator's word about all of it. [`canary`] sees whether it
//! works, and [`health`] tells others, over [`http`]; [`events`] tells authors, in Kubernetes
//! Events, what of their objects is not served as asked. [`ctl`] holds the operator's commands,
//! which read the pinned maps and so work when the agent is dead.

pub mod apply;
pub mod bpf;
pub mod canary;
mod complaints;
pub mod config;
pub mod ctl;
pub mod devices;
pub mod events;
pub mod flows;
mod guard;
mod hash;
pub mod health;
pub mod http;
pub mod metrics;
pub mod model;
pub mod net;
pub mod packet_path;
pub mod plan;
pub mod report;
pub mod run;
pub mod settings;
mod socket_path;
pub mod source;
