//! The API server's own Service does not lose all its backends because of a bad list: the agent may
//! reach the API server by it, and would never hear of the next ones.
//!
//! What makes it go is taken in like anything else, but as long as nothing is behind it, what was
//! there last stays in force. Only with a Kubernetes API as the source: who deletes it from a
//! directory of manifests means it.

use super::desired::Desired;
use super::service::Service;
use super::slice::Slice;
use super::{Kind, Model};
use crate::source::{ObjectName, SharedName};

/// The Service by which pods reach the API server.
const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";

/// Its name.
pub(super) fn api_service() -> ObjectName {
    ObjectName::new(NAMESPACE, NAME)
}

/// Whether it is that one.
pub(super) fn is_api_server(name: &ObjectName) -> bool {
    name.namespace == NAMESPACE && name.name == NAME
}

/// A Service and its slices, with their names.
struct Good {
    name: SharedName,
    service: Service,
    slices: Vec<(SharedName, Slice)>,
}

/// What was there last.
#[derive(Default)]
pub(super) struct Guard {
    on: bool,
    good: Option<Good>,
    /// The maps may have rows of it from an earlier run.
    may_have_rows: bool,
}

impl Guard {
    /// The Service as it was when there was something behind it.
    pub(super) fn service(&self) -> Option<&Service> {
        self.good.as_ref().map(|good| &good.service).filter(|_| self.on)
    }

    /// The maps know a Service of that name.
    pub(super) fn may_have_rows(&mut self, name: &ObjectName) {
        self.may_have_rows |= is_api_server(name);
    }
}

impl Model {
    /// Whether objects come from a Kubernetes API.
    pub fn guard_api_server(&mut self, on: bool) {
        let changes = self.guard.on != on && self.guard.good.is_some();
        self.guard.on = on;
        if changes {
            self.mark_dirty(api_service());
        }
    }

    /// A Service or a slice of it has changed.
    pub(super) fn remember_good(&mut self, name: &ObjectName) {
        if !is_api_server(name) || !has_backends(&self.known(name)) {
            return;
        }
        let Some(entry) = self.services.get(name) else { return };
        let slices = entry.slices.iter();
        let slices = slices.map(|(name, seen)| (name.clone(), seen.object.clone())).collect();
        let name = SharedName::new(name.clone());
        let good = entry.service.clone().map(|service| Good { name, service, slices });
        self.guard.good = good;
    }

    /// What is served instead, if nothing is behind it.
    pub(super) fn guarded(&self, desired: Desired) -> Desired {
        let Some(Good { name, service, slices }) = &self.guard.good else { return desired };
        if !self.guard.on || !is_api_server(&desired.service) || has_backends(&desired) {
            return desired;
        }
        let slices = slices.iter().map(|(name, slice)| (name, slice)).collect();
        let ports = self.view(name, service, slices).ports();
        Desired { ports, ..desired }
    }

    /// Nothing was ever seen behind it: the rows of an earlier run, if any, are the best there is.
    pub(super) fn keeps_rows(&self, name: &ObjectName) -> bool {
        self.guard.on
            && is_api_server(name)
            && self.guard.good.is_none()
            && !has_backends(&self.known(name))
    }

    /// Says so while it lasts.
    pub(super) fn guard_condition(&self) -> Option<(String, String)> {
        let name = api_service();
        let is_known = self.guard.good.is_some()
            || self.guard.may_have_rows
            || self.services.contains_key(&name);
        let is_silent = !self.guard.on || !self.is_synced() || !is_known;
        if is_silent || has_backends(&self.known(&name)) {
            return None;
        }
        let message = "the API has no usable endpoint of it: the last good backends stay in force, \
                       since the agent may need them to hear of the next; look at `kubectl get \
                       endpointslices -l kubernetes.io/service-name=kubernetes`";
        Some((format!("{} {name}", Kind::Service), message.to_owned()))
    }
}

fn has_backends(desired: &Desired) -> bool {
    let mut ports = desired.ports.iter();
    ports.any(|port| !port.v4.cluster.is_empty() || !port.v6.cluster.is_empty())
}
