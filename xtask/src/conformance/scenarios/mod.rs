//! The scoreboard's rows, as the specification has them: sections 7 (kube-proxy's end-to-end
//! tests), 8 (its unit tests) and 9 (what people suffer from).

mod balancers;
mod cluster;
mod flows;
mod networking;
mod others;
mod pains;
mod selection;
mod services;
mod units;

pub use cluster::CLUSTER;

use super::scenario::Section;

/// Every section, in order.
pub const SECTIONS: &[Section] = &[
    services::SERVICES,
    networking::NETWORKING,
    networking::DUAL_STACK,
    balancers::LOAD_BALANCER,
    balancers::CONNTRACK,
    balancers::TOPOLOGY,
    others::OTHERS,
    selection::SELECTION,
    flows::FLOWS,
    units::UNITS,
    pains::PAINS,
    pains::TRAPS,
];
