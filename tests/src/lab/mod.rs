//! A cluster made of network namespaces, built in a fraction of a second.
//!
//! ```text
//!   outside client ──┐             (own cgroup that no agent manages)
//!                    │
//!   underlay  ═══════╪═══════════╪═══════════  br0, 192.168.50.0/24, fd50::/64
//!                    │ eth0      │ eth0
//!                 node n1     node n2          namespace + cgroup + bpffs + manifest directory
//!                 cni0 / cali cni0 / cali      pod network: bridge or point-to-point
//!                  │    │      │    │
//!                 pod  pod    pod  pod         namespace + cgroup below the node's
//! ```
//!
//! Read in this order: [`options`] (what can be chosen), [`address`] (who has which address),
//! [`place`] (how a process gets into a namespace and a cgroup), [`topology`] (the `ip` lines),
//! [`paths`] (a second uplink, a distant client), [`netfilter`] (rules that others make on nodes),
//! [`cluster`] (the [`Lab`] itself), [`residue`] (teardown, and what must not be left).
//!
//! Every lab has its own underlay, so the same addresses serve all labs and labs run in parallel.

pub mod address;
pub mod cluster;
mod netfilter;
pub mod options;
mod paths;
pub mod place;
pub mod residue;
pub mod system;
mod topology;

pub use address::Family;
pub use cluster::{Lab, Node, Pod};
pub use options::{Builder, CniMasquerade, Families, InterNode, Options, PodNetwork, ReversePath};
pub use place::Place;
