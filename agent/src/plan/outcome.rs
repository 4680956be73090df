//! What planning a Service comes to, in words an operator can act on.

use std::fmt;

use millrace_common::frontend::Kind;

use crate::plan::op::Op;
use crate::source::{ObjectName, SharedName};

/// A Service was planned.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Planned {
    /// The map writes, in order.
    pub ops: Vec<Op>,
    /// Frontends the Service wants and does not get.
    pub conflicts: Vec<Conflict>,
    /// Services to plan next, because a frontend they want was released or taken from them.
    pub retry: Vec<SharedName>,
}

/// A frontend that two services claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Conflict {
    /// Address, port, protocol.
    pub frontend: String,
    /// What the loser wants it as.
    pub wanted_as: Kind,
    /// Who has it.
    pub owner: ObjectName,
    /// What the owner has it as.
    pub owned_as: Kind,
}

impl Conflict {
    /// The same for the owner: what `loser` wants of it.
    pub fn for_owner(&self, loser: &ObjectName) -> String {
        let Self { frontend, wanted_as, owned_as, .. } = self;
        format!(
            "{frontend}, its {}, is wanted by Service {loser} as {} too, which does not get it; \
             change the address or the port of one of the two",
            owned_as.name(),
            wanted_as.name()
        )
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frontend, wanted_as, owner, owned_as } = self;
        let (wanted_as, owned_as) = (wanted_as.name(), owned_as.name());
        write!(
            f,
            "{frontend} ({wanted_as}) is not served: it is the {owned_as} of Service {owner}; \
             change the address or the port of one of the two"
        )
    }
}

/// A map with a limited number of rows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Map {
    /// `services`.
    Services,
    /// `backends`.
    Backends,
    /// `slots`.
    Slots,
    /// `source_ranges_v4`.
    SourcesV4,
    /// `source_ranges_v6`.
    SourcesV6,
    /// `frontends_v4`.
    FrontendsV4,
    /// `frontends_v6`.
    FrontendsV6,
}

impl Map {
    /// Its name in the kernel.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Backends => "backends",
            Self::Slots => "slots",
            Self::SourcesV4 => "source_ranges_v4",
            Self::SourcesV6 => "source_ranges_v6",
            Self::FrontendsV4 => "frontends_v4",
            Self::FrontendsV6 => "frontends_v6",
        }
    }
    /// The flag that says how large it is.
    pub const fn flag(self) -> &'static str {
        match self {
            Self::Services => "--max-services",
            Self::Backends => "--max-backends",
            Self::Slots => "--max-slots",
            Self::SourcesV4 | Self::SourcesV6 => "--max-source-ranges",
            Self::FrontendsV4 | Self::FrontendsV6 => "--max-frontends",
        }
    }
}

/// A map has too few free rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Shortage {
    pub(super) map: Map,
    pub(super) needed: u32,
    pub(super) free: u32,
}

/// A Service does not fit: nothing of it was written, what it had before stays in force.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Refused {
    /// The Service.
    pub service: SharedName,
    /// The map that is full.
    pub map: Map,
    /// Rows needed; slots are needed in one piece.
    pub needed: u32,
    /// Rows free; slots may be in several pieces.
    pub free: u32,
    /// Rows that come free within [`GRACE`](super::GRACE): trying again may do.
    pub held: u32,
    /// Rows the map has.
    pub capacity: u32,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, map, needed, free, held, capacity } = self;
        let (name, flag) = (map.name(), map.flag());
        let in_one_piece = if *map == Map::Slots { " in one piece" } else { "" };
        write!(
            f,
            "Service {service} is not updated: it needs {needed} more rows{in_one_piece} of map \
             {name}, which has {free} of {capacity} free"
        )?;
        if *held > 0 {
            write!(f, " (and {held} more in a few seconds)")?;
        }
        write!(f, "; raise {flag}")
    }
}
