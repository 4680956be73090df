//! One change of one map, as data.

use millrace_common::address::{V4, V6};
use millrace_common::backend::Backend;
use millrace_common::frontend::{Frontend, FrontendKey};
use millrace_common::node::SourceKey;
use millrace_common::service::ServiceRow;

/// A map write. A plan is a list of these; only [`crate::apply`] carries them out, in order.
#[derive(Clone, PartialEq, Debug)]
pub enum Op {
    /// `traffic[id] = 0`: the id is given to a service port that has had no traffic.
    NoTraffic(u32),
    /// Names of a service id, or delete. (In a box: the others are much smaller.)
    Service(u32, Option<Box<ServiceRow>>),
    /// `backends[id] = row`, of IPv4.
    BackendV4(u32, Backend<V4>),
    /// `backends[id] = row`, of IPv6.
    BackendV6(u32, Backend<V6>),
    /// `slots[first..] = backend ids`.
    Slots(u32, Vec<u32>),
    /// `frontends_v4[key] = row`, or delete.
    FrontendV4(FrontendKey<V4>, Option<Frontend>),
    /// `frontends_v6[key] = row`, or delete.
    FrontendV6(FrontendKey<V6>, Option<Frontend>),
    /// Whether the range is in `source_ranges_v4`.
    SourceV4(SourceKey<V4>, bool),
    /// Whether the range is in `source_ranges_v6`.
    SourceV6(SourceKey<V6>, bool),
}

/// Rows of every map the agent writes, as read back from the kernel: what a restart starts from.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Snapshot {
    /// `services`.
    pub services: Vec<(u32, ServiceRow)>,
    /// `backends`: IPv4 ones there ever were (generation above 0), gone ones included; by id.
    pub backends_v4: Vec<(u32, Backend<V4>)>,
    /// Likewise of IPv6.
    pub backends_v6: Vec<(u32, Backend<V6>)>,
    /// `slots`: the whole array.
    pub slots: Vec<u32>,
    /// `frontends_v4`.
    pub frontends_v4: Vec<(FrontendKey<V4>, Frontend)>,
    /// `frontends_v6`.
    pub frontends_v6: Vec<(FrontendKey<V6>, Frontend)>,
    /// `source_ranges_v4`.
    pub sources_v4: Vec<SourceKey<V4>>,
    /// `source_ranges_v6`.
    pub sources_v6: Vec<SourceKey<V6>>,
}

/// How many rows each map holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacity {
    /// `services`: one for each service port, more for one with long names.
    pub services: u32,
    /// `backends`: places, of which a backend of IPv6 takes two. Place 0 is never used.
    pub backends: u32,
    /// `slots`.
    pub slots: u32,
    /// `frontends_v4` and `frontends_v6`, each.
    pub frontends: u32,
    /// `source_ranges_v4` and `source_ranges_v6`, each.
    pub sources: u32,
}

impl Default for Capacity {
    /// Room for 100 000 services and 500 000 backends; some 23 MiB of kernel memory when full of
    /// neither. Arrays are allocated up front, and of a hash map 16 bytes for each row it may have,
    /// that number rounded up to a power of two: these are a little less than one.
    fn default() -> Self {
        Self {
            services: 130_000,
            backends: 524_288,
            slots: 1_000_000,
            frontends: 260_000,
            sources: 65_536,
        }
    }
}
