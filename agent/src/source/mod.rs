//! Where Services come from: a Kubernetes API ([`kube`]) or a directory of manifests ([`files`]).
//!
//! Both decode into the same [`slim`] types and speak the same [`Event`]s, so everything behind
//! them, validation included, is the same.

pub mod files;
pub mod kube;
pub mod labels;
mod name;
pub mod open;
pub mod slim;

use std::fmt;

pub use self::name::{ObjectName, SharedName};

/// Events a source may have sent and the reconcile loop not yet taken.
pub const EVENT_QUEUE_EVENTS: usize = 4096;

/// Kinds of objects that are watched.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `v1` Node.
    Node,
    /// `networking.k8s.io/v1` ServiceCIDR.
    ServiceCidr,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Service, Self::EndpointSlice, Self::Node, Self::ServiceCidr];

    /// Whether objects of the kind are in namespaces.
    pub const fn is_namespaced(self) -> bool {
        matches!(self, Self::Service | Self::EndpointSlice)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
            Self::ServiceCidr => "ServiceCIDR",
        })
    }
}

/// A decoded object.
#[derive(Clone, PartialEq, Hash, Debug)]
#[expect(clippy::large_enum_variant, reason = "passed on one by one, never stored in numbers")]
pub enum Object {
    /// A Service.
    Service(slim::Service),
    /// An EndpointSlice.
    EndpointSlice(slim::EndpointSlice),
    /// A Node.
    Node(slim::Node),
    /// A ServiceCIDR.
    ServiceCidr(slim::ServiceCidr),
}

impl Object {
    /// Its kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Node(_) => Kind::Node,
            Self::ServiceCidr(_) => Kind::ServiceCidr,
        }
    }
    /// Its name.
    pub fn name(&self) -> ObjectName {
        self.metadata().object_name()
    }
    /// Its metadata.
    pub const fn metadata(&self) -> &slim::Metadata {
        match self {
            Self::Service(object) => &object.metadata,
            Self::EndpointSlice(object) => &object.metadata,
            Self::Node(object) => &object.metadata,
            Self::ServiceCidr(object) => &object.metadata,
        }
    }
}

/// What a source tells the reconcile loop. Order matters: events are applied as they come.
#[derive(Clone, PartialEq, Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all are the largest")]
pub enum Event {
    /// A full list of this kind begins: mark what is known.
    Begin(Kind),
    /// The object is as given, new or changed.
    Apply(Object),
    /// The object is gone.
    Delete(Kind, ObjectName),
    /// The object exists but cannot be read: its last good state, if any, stays in force.
    Keep(Kind, ObjectName),
    /// The full list is complete: what it did not name is gone (mark and sweep).
    Complete(Kind),
    /// Something about the source itself that a person should know, replacing what was said before
    /// under the same key; no message: all is well again.
    Condition {
        /// What it is about: a file, an object, a watch.
        key: String,
        /// What is wrong and how to mend it.
        message: Option<String>,
    },
}
