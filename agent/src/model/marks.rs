//! What has to be looked at again when something changes that is not the Service's own.

use std::collections::BTreeSet;
use std::net::IpAddr;

use millrace_common::address::{V4, V6};

use super::guard::api_service;
use super::networks::Apart;
use super::node::Changed;
use super::registry::Touched;
use super::service::Service;
use super::slice::{Endpoints, Slice};
use super::{Entry, Model};

impl Model {
    /// This node's zone or addresses changed.
    pub(super) fn mark_after(&mut self, changed: Changed) {
        let touched = |entry: &Entry| {
            let service = entry.service.as_ref();
            changed.zone || (changed.addresses && service.is_some_and(Service::depends_on_node))
        };
        if changed != Changed::default() {
            let entries = self.services.iter_mut().filter(|(_, entry)| touched(entry));
            entries.for_each(|(name, entry)| self.dirty.mark(name, entry));
        }
    }

    /// The ServiceCIDRs changed, from those given if at all: who asks for addresses in them, and
    /// whose endpoints are in them or were.
    pub(super) fn mark_after_cidrs(&mut self, before: Option<Apart>) {
        let Some(before) = before else { return };
        self.mark_askers();
        let now = *self.networks.apart();
        self.mark_endpoints(
            |address| now.contains(address) || before.contains(address),
            |address| now.contains(address) || before.contains(address),
        );
    }

    /// Services that ask for addresses.
    pub(super) fn mark_askers(&mut self) {
        for name in self.registry.askers() {
            self.dirty.mark_by_name(name.clone(), &mut self.services);
        }
    }

    /// Services with endpoints at such addresses. Nearly always there is none; to find out costs a
    /// look at each.
    fn mark_endpoints(&mut self, v4: impl Fn(V4) -> bool, v6: impl Fn(V6) -> bool) {
        let hit = |slice: &Slice| match &slice.endpoints {
            Endpoints::V4(all) => all.iter().any(|endpoint| v4(endpoint.address)),
            Endpoints::V6(all) => all.iter().any(|endpoint| v6(endpoint.address)),
        };
        for (name, entry) in &mut self.services {
            if entry.slices.iter().any(|(_, seen)| hit(&seen.object)) {
                self.dirty.mark(name, entry);
            }
        }
    }

    /// Another object came or went that shares an address.
    pub(super) fn mark_touched(&mut self, touched: Touched) {
        touched.services.into_iter().for_each(|name| self.mark(name));
        if touched.endpoints.is_empty() {
            return;
        }
        let wanted: BTreeSet<IpAddr> = touched.endpoints.into_iter().collect();
        self.mark_endpoints(
            |address| wanted.contains(&address.into()),
            |address| wanted.contains(&address.into()),
        );
    }

    /// The API server's endpoints changed, or what the agent was told of it.
    pub(super) fn update_api_servers(&mut self) {
        let mut addresses: BTreeSet<IpAddr> = self.api_given.iter().copied().collect();
        let entry = self.services.get(&api_service());
        let slices = entry.into_iter().flat_map(|entry| &entry.slices);
        for (_, seen) in slices {
            match &seen.object.endpoints {
                Endpoints::V4(all) => {
                    addresses.extend(all.iter().map(|e| IpAddr::from(e.address)));
                }
                Endpoints::V6(all) => {
                    addresses.extend(all.iter().map(|e| IpAddr::from(e.address)));
                }
            }
        }
        if addresses != self.api_servers {
            self.api_servers = addresses;
            self.mark_askers();
        }
    }
}
