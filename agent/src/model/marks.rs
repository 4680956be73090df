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
            let names = self.services.iter().filter(|(_, entry)| touched(entry));
            self.dirty.extend(names.map(|(name, _)| name.clone()));
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
        self.dirty.extend(self.registry.askers().cloned());
    }

    /// Services with endpoints at such addresses. Nearly always there is none; to find out costs a
    /// look at each.
    fn mark_endpoints(&mut self, v4: impl Fn(V4) -> bool, v6: impl Fn(V6) -> bool) {
        let hit = |slice: &Slice| match &slice.endpoints {
            Endpoints::V4(all) => all.iter().any(|endpoint| v4(endpoint.address)),
            Endpoints::V6(all) => all.iter().any(|endpoint| v6(endpoint.address)),
        };
        let found = self.slices.values().filter(|seen| hit(&seen.object));
        self.dirty.extend(found.map(|seen| seen.object.service.clone()));
    }

    /// Another object came or went that shares an address.
    pub(super) fn mark_touched(&mut self, touched: Touched) {
        self.dirty.extend(touched.services);
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
        for seen in slices.filter_map(|name| self.slices.get(name)) {
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
