//! EndpointSlices that come, change and go.

use super::guard::is_api_server;
use super::names::canonical;
use super::problem::Reading;
use super::slice::{self, Context, Slice};
use super::triggers::{self, Trigger};
use super::{Model, Seen};
use crate::source::{Kind, SharedName, slim};

impl Model {
    /// The slice is as given.
    pub(super) fn apply_slice(&mut self, object: &slim::EndpointSlice) {
        let name = canonical(Kind::EndpointSlice, object.metadata.object_name());
        let Some(service) = slice::service_of(object, &name.namespace) else {
            return self.delete(Kind::EndpointSlice, &name);
        };
        let name = self.shared(Kind::EndpointSlice, name);
        let service = self.shared(Kind::Service, service);
        let mut reading = Reading::new(Kind::EndpointSlice, name.clone());
        let context =
            Context { node_name: &self.node_name, zones: &mut self.zones, reading: &mut reading };
        let slice = Slice::read(object, context);
        let at = triggers::time_of(object, &mut reading);
        let family = triggers::family_of(object);
        let trigger = at.zip(family);
        let trigger = trigger.map(|(at, family)| Trigger { service: service.clone(), family, at });
        self.store_slice(&name, Some((service, slice)), trigger);
        self.store_problems(Kind::EndpointSlice, name, reading.finish());
    }

    /// It is kept like this, as this Service's, or not at all; its Service is dirty if that is
    /// another state.
    pub(super) fn store_slice(
        &mut self,
        name: &SharedName,
        slice: Option<(SharedName, Slice)>,
        trigger: Option<Trigger>,
    ) {
        let list = self.slice_list.number;
        let owner = self.slices.get(name).cloned();
        match (&owner, &slice) {
            (None, None) => return,
            (Some(owner), Some((service, slice))) if owner == service => {
                if let Some(known) = self.seen_mut(name).filter(|known| known.object == *slice) {
                    known.list = list;
                    return;
                }
            }
            _ => {}
        }
        self.pending.slices += 1;
        let old = owner.as_ref().and_then(|owner| self.unlink(owner, name));
        let before = old.as_ref().and_then(|old| old.trigger);
        let [was, is] = [old.as_ref().map(|old| &old.object), slice.as_ref().map(|(_, new)| new)];
        let touched = self.registry.replace_slice(was, is);
        self.mark_touched(touched);
        let mut concerns_api_server = owner.is_some_and(|owner| is_api_server(&owner));
        match slice {
            Some((service, object)) => {
                let caused = trigger.as_ref().map(|trigger| trigger.at);
                if let Some(trigger) = trigger.filter(|_| before != caused) {
                    self.triggers.add(name, trigger);
                }
                concerns_api_server |= is_api_server(&service);
                self.link(&service, name, Seen { object, list, trigger: caused });
                self.remember_good(&service);
                self.slices.insert(name.clone(), service);
            }
            None => {
                self.triggers.drop_of(name);
                self.slices.remove(name);
            }
        }
        if concerns_api_server {
            self.update_api_servers();
        }
    }
}
