//! What differs between IPv4 and IPv6 in the plan.

use millrace_common::address::{Address, V4, V6};
use millrace_common::backend::{Backend, V6_PLACES};
use millrace_common::frontend::{Frontend, FrontendKey};
use millrace_common::node::SourceKey;

use super::claim::{Claims, Tables};
use super::grace::Freed;
use super::ids::Room;
use super::op::Op;
use super::outcome::Map;
use super::rows::{Installed, Port, Rows};
use super::{Planner, Pools};
use crate::model::desired::{DesiredFamily, DesiredPort};

/// An address with the places where the planner keeps its family's things.
pub(super) trait PerFamily: Address {
    /// Its frontends map.
    const FRONTENDS: Map;
    /// Its source ranges map.
    const SOURCES: Map;
    fn backend_op(id: u32, row: Backend<Self>) -> Op;
    fn frontend_op(key: FrontendKey<Self>, row: Option<Frontend>) -> Op;
    fn source_op(key: SourceKey<Self>, allowed: bool) -> Op;
    /// Places that a backend takes in the `backends` map.
    const PLACES: u32;
    fn freed_backend(id: u32) -> Freed;
    fn freed_sources(rows: u32) -> Freed;
    fn source_room(pools: &mut Pools) -> &mut Room;
    fn tables(planner: &mut Planner) -> &mut Tables<Self>;
    fn rows(port: &Port) -> &Rows<Self>;
    fn rows_mut(port: &mut Port) -> &mut Rows<Self>;
    fn waits(installed: &Installed) -> &[FrontendKey<Self>];
    fn desired(port: &DesiredPort) -> &DesiredFamily<Self>;
    fn claims(both: &(Claims<V4>, Claims<V6>)) -> &Claims<Self>;
}

macro_rules! per_family {
    ($address:ty, $places:expr, $field:ident, $claims:tt, $waits:ident, $room:ident,
     $frontend:ident, $backend:ident, $source:ident, $frontends:ident, $sources:ident) => {
        impl PerFamily for $address {
            const FRONTENDS: Map = Map::$frontends;
            const SOURCES: Map = Map::$sources;
            const PLACES: u32 = $places;
            fn backend_op(id: u32, row: Backend<Self>) -> Op {
                Op::$backend(id, row)
            }
            fn frontend_op(key: FrontendKey<Self>, row: Option<Frontend>) -> Op {
                Op::$frontend(key, row)
            }
            fn source_op(key: SourceKey<Self>, allowed: bool) -> Op {
                Op::$source(key, allowed)
            }
            fn freed_backend(id: u32) -> Freed {
                Freed::$backend(id)
            }
            fn freed_sources(rows: u32) -> Freed {
                Freed::$sources(rows)
            }
            fn source_room(pools: &mut Pools) -> &mut Room {
                &mut pools.$room
            }
            fn tables(planner: &mut Planner) -> &mut Tables<Self> {
                &mut planner.$field
            }
            fn rows(port: &Port) -> &Rows<Self> {
                &port.$field
            }
            fn rows_mut(port: &mut Port) -> &mut Rows<Self> {
                &mut port.$field
            }
            fn waits(installed: &Installed) -> &[FrontendKey<Self>] {
                &installed.$waits
            }
            fn desired(port: &DesiredPort) -> &DesiredFamily<Self> {
                &port.$field
            }
            fn claims(both: &(Claims<V4>, Claims<V6>)) -> &Claims<Self> {
                &both.$claims
            }
        }
    };
}

per_family!(
    V4,
    1,
    v4,
    0,
    waits_v4,
    sources_v4,
    FrontendV4,
    BackendV4,
    SourceV4,
    FrontendsV4,
    SourcesV4
);
per_family!(
    V6,
    V6_PLACES,
    v6,
    1,
    waits_v6,
    sources_v6,
    FrontendV6,
    BackendV6,
    SourceV6,
    FrontendsV6,
    SourcesV6
);
