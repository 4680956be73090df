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
        let slice = Slice::read(object, service.clone(), context);
        let at = triggers::time_of(object, &mut reading);
        let family = triggers::family_of(object);
        let trigger = at.zip(family).map(|(at, family)| Trigger { service, family, at });
        self.store_slice(&name, Some(slice), trigger);
        self.store_problems(Kind::EndpointSlice, name, reading.finish());
    }

    /// It is kept like this, or not at all; its Service is dirty if that is another state.
    pub(super) fn store_slice(
        &mut self,
        name: &SharedName,
        slice: Option<Slice>,
        trigger: Option<Trigger>,
    ) {
        let list = self.slice_list.number;
        let known = self.slices.get_mut(name);
        let is_known = known.is_some();
        match (known, &slice) {
            (None, None) => return,
            (Some(known), Some(slice)) if known.object == *slice => {
                known.list = list;
                return;
            }
            _ => {}
        }
        self.pending.slices += 1;
        let old = is_known.then(|| self.slices.remove(name)).flatten();
        let before = old.as_ref().and_then(|old| old.trigger);
        let old = old.map(|old| old.object);
        let touched = self.registry.replace_slice(old.as_ref(), slice.as_ref());
        self.mark_touched(touched);
        let services = [&old, &slice].map(|s| s.as_ref().map(|s| s.service.clone()));
        if let Some(service) = &services[0] {
            self.unlink(service, name);
        }
        match slice {
            Some(object) => {
                let caused = trigger.as_ref().map(|trigger| trigger.at);
                if let Some(trigger) = trigger.filter(|_| before != caused) {
                    self.triggers.add(name, trigger);
                }
                let service = object.service.clone();
                self.link(&service, name);
                self.slices.insert(name.clone(), Seen { object, list, trigger: caused });
                self.remember_good(&service);
            }
            None => self.triggers.drop_of(name),
        }
        if services.iter().flatten().any(|service| is_api_server(service)) {
            self.update_api_servers();
        }
    }
}
