//! Kubernetes Events: what an author should know about an object, where authors look.
//!
//! What is wrong is passed on as a state, not as a stream: the [`ledger`] (pure) compares it with
//! what was said, merges what concerns one object, and decides what to say next and when. So
//! nothing can pile up, and what could not be said now is said later, if it is still true.
//! [`object`] makes the API's objects; [`sink`] writes them, or, where objects come from files,
//! logs them.

pub mod ledger;
pub mod object;
pub mod reason;
mod sink;
#[cfg(test)]
mod tests;

use tokio::sync::{mpsc, watch};

use crate::source::{Event, Kind, ObjectName};

pub use self::sink::Sink;

/// Single notices that wait for the writer; more are dropped, and that is logged.
const QUEUE_NOTICES: usize = 64;
/// States of objects that are compared, at most. The rest waits until some of these are mended.
pub const STANDING_NOTICES_MAX: usize = 1024;

/// Something to say about an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// The object.
    pub regarding: Object,
    /// Another that has to do with it.
    pub related: Option<Object>,
    /// Of how much weight.
    pub weight: Weight,
    /// One of [`reason`]: `CamelCase`.
    pub reason: &'static str,
    /// What was done about it, likewise.
    pub action: &'static str,
    /// For people.
    pub note: String,
    /// Who else says the same.
    pub scope: Scope,
}

/// An object that Events are about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Object {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: ObjectName,
    /// Its uid, as far as it is known.
    pub uid: Option<String>,
}

/// `type` of an Event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Weight {
    /// All is well.
    Normal,
    /// Something is not.
    Warning,
}

/// Who else says the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Every node sees it alike, and one Event is enough for all of them.
    Cluster,
    /// It concerns this node.
    Node,
    /// It happened now; if it happens again, that is another Event.
    Moment,
}

/// Takes what there is to say, and never waits. Clones say it to the same writer, which ends when
/// the last of them is gone.
#[derive(Clone, Debug)]
pub struct Recorder {
    node_name: String,
    standing: watch::Sender<Vec<Notice>>,
    once: mpsc::Sender<Order>,
}

/// What the writer is told one by one.
enum Order {
    Once(Notice),
    WriteTo(Sink),
}

impl Recorder {
    /// Begin to write into `sink`. What keeps Events from being written becomes a condition of the
    /// source.
    pub fn start(node_name: &str, sink: Sink, conditions: mpsc::Sender<Event>) -> Self {
        let (standing, standings) = watch::channel(Vec::new());
        let (once, queue) = mpsc::channel(QUEUE_NOTICES);
        let writer = sink::Writer::new(node_name.to_owned(), sink, conditions);
        tokio::spawn(writer.run(standings, queue));
        Self { node_name: node_name.to_owned(), standing, once }
    }

    /// Write into another sink from now on: objects come from another source.
    pub fn write_to(&self, sink: Sink) {
        self.order(Order::WriteTo(sink));
    }

    /// All that is wrong at this moment; what was said before and is not among it is mended.
    pub fn standing(&self, mut notices: Vec<Notice>) {
        notices.truncate(STANDING_NOTICES_MAX);
        self.standing.send_if_modified(|old| {
            let changed = *old != notices;
            if changed {
                *old = notices;
            }
            changed
        });
    }

    /// Something that happened.
    pub fn once(&self, notice: Notice) {
        self.order(Order::Once(notice));
    }

    fn order(&self, order: Order) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.once.try_send(order) {
            tracing::warn!("too many Events at once, one is dropped");
        }
    }

    /// Something that happened to this node: [`reason::STARTING`], for instance.
    pub fn once_about_node(&self, weight: Weight, reason: &'static str, note: impl Into<String>) {
        self.once(Notice {
            regarding: Object::node(&self.node_name),
            related: None,
            weight,
            reason,
            action: reason::action(reason),
            note: note.into(),
            scope: Scope::Moment,
        });
    }
}

impl Object {
    /// A Node. Its name stands for its uid, as kubelet and kube-proxy have it: `kubectl describe`
    /// looks for that.
    pub fn node(name: &str) -> Self {
        let uid = Some(name.to_owned());
        Self { kind: Kind::Node, name: ObjectName::new("", name), uid }
    }
}
