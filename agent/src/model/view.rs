//! The desired state of one Service, from all that the model knows.

use std::borrow::Borrow;
use std::cell::RefCell;
use std::hash::Hash;

use super::Model;
use super::admission::{Admission, Clashes};
use super::desired::{Desired, View, join};
use super::problem::Problem;
use super::service::Service;
use super::slice::Slice;
use crate::source::{Kind, ObjectName, SharedName};

/// The name of a Service, shared or not. One that is shared need not be hashed again.
pub trait AnyName: Hash + Ord + Clone + Into<SharedName> {}

impl AnyName for ObjectName {}
impl AnyName for SharedName {}

impl Model {
    /// What a Service should look like on this node. No ports: it should not exist.
    pub fn desired<N: AnyName>(&self, name: &N) -> Desired
    where
        SharedName: Borrow<N>,
    {
        if let Some(internal) = self.internal.get(name) {
            return internal.clone();
        }
        let desired = self.known(name);
        self.guarded(desired)
    }

    /// What follows from what is known of a Service.
    pub(super) fn known<N: AnyName>(&self, name: &N) -> Desired
    where
        SharedName: Borrow<N>,
    {
        let Some((name, entry)) = self.services.get_key_value(name) else {
            return Desired::absent(name.clone());
        };
        let mut desired = Desired::absent(name.clone());
        let Some(service) = &entry.service else {
            return desired;
        };
        desired.problems.extend(self.problems_of(Kind::Service, name));
        for (slice, _) in &entry.slices {
            desired.problems.extend(self.problems_of(Kind::EndpointSlice, slice));
        }
        let slices = entry.slices.iter().map(|(name, seen)| (name, &seen.object)).collect();
        let view = self.view(name, service, slices);
        desired.too_large = view.too_large();
        if desired.too_large.is_none() {
            desired.ports = view.ports();
        }
        desired.health = view.health();
        desired.clashes = view.admission.clashes.into_inner().finish();
        desired
    }

    /// All that decides about this Service with these slices.
    pub(super) fn view<'a>(
        &'a self,
        name: &'a SharedName,
        service: &'a Service,
        slices: Vec<(&'a SharedName, &'a Slice)>,
    ) -> View<'a> {
        View {
            service,
            joins: join(&slices),
            slices,
            node: &self.node,
            zones: &self.zones,
            policy: &self.policy,
            admission: Admission {
                registry: &self.registry,
                service_cidrs: self.networks.apart(),
                node: &self.node,
                api_servers: &self.api_servers,
                detect_local: &self.policy.detect_local,
                services: &self.services,
                name,
                clashes: RefCell::new(Clashes::default()),
            },
        }
    }

    fn problems_of(&self, kind: Kind, name: &SharedName) -> impl Iterator<Item = Problem> {
        // There are hardly ever any.
        let has_any = !self.problems.is_empty();
        let problems = has_any.then(|| self.problems.get(&(kind, name.clone()))).flatten();
        problems.into_iter().flatten().cloned()
    }
}
