//! From objects to what a Service should look like on this node. Pure: no I/O, no clock, no async.
//!
//! Events come in from a [`source`](crate::source). Each object is cut down at once to what is used
//! of it ([`service`], [`slice`], [`node`]), with what cannot be used reported as a [`problem`]; if
//! nothing used has changed, nothing happens, else its Service is dirty. For a dirty Service the
//! reconcile loop asks for the [`desired`] state, which joins it with its slices and chooses
//! endpoints by the rules of [`topology`].

pub mod address;
mod admission;
mod conditions;
pub mod desired;
mod dirty;
mod family;
mod guard;
mod health;
mod identity;
mod marks;
mod names;
pub mod networks;
mod node;
mod policy;
pub mod problem;
mod registry;
mod service;
mod slice;
mod slices;
pub mod sources;
#[cfg(test)]
mod tests;
pub mod topology;
pub mod triggers;
mod view;
mod zones;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use self::desired::Desired;
use self::dirty::Dirty;
use self::guard::Guard;
use self::identity::Age;
use self::names::canonical;
use self::networks::{Networks, ServiceNetworks};
use self::node::Node;
pub use self::node::NodeFacts;
use self::problem::{Problem, Reading};
use self::registry::Registry;
use self::service::Service;
use self::slice::Slice;
pub use self::slice::family_name;
use self::triggers::{Pending, Triggers};
use self::zones::Zones;
use crate::hash::HashMap;
use crate::settings::Policy;
use crate::source::{Event, Kind, Object, ObjectName, SharedName, slim};

/// Everything known about Services, in compact form.
pub struct Model {
    node_name: String,
    policy: Policy,
    node: Node,
    zones: Zones,
    networks: Networks,
    registry: Registry,
    /// Addresses of the API server: those that the agent was told, and those of its endpoints.
    api_given: Vec<IpAddr>,
    api_servers: BTreeSet<IpAddr>,
    services: HashMap<SharedName, Entry>,
    /// Whose slice it is: the slices themselves are with their Services.
    slices: HashMap<SharedName, SharedName>,
    service_list: ListState,
    slice_list: ListState,
    cidr_list: ListState,
    node_list_complete: bool,
    /// The Node was in the list that is being read.
    node_listed: bool,
    /// Services of our own, which no source knows.
    internal: BTreeMap<SharedName, Desired>,
    /// Services that exist and were never readable since the start, and the list that named them.
    unreadable: BTreeMap<ObjectName, u32>,
    dirty: Dirty,
    pending: Pending,
    triggers: Triggers,
    problems: BTreeMap<(Kind, SharedName), Box<[Problem]>>,
    source_conditions: BTreeMap<String, String>,
    guard: Guard,
}

/// A Service and its slices; either may be known before the other.
#[derive(Default)]
struct Entry {
    service: Option<Service>,
    /// The list the Service was last seen in.
    list: u32,
    /// Its uid; 0: not known.
    uid: u128,
    /// When it was created, in an order; unknown: last.
    age: Age,
    /// Its slices, sorted by their names.
    slices: Vec<(SharedName, Seen<Slice>)>,
    /// When it was last marked: see [`Dirty`].
    marked: u64,
}

/// An object and the list it was last seen in.
struct Seen<T> {
    object: T,
    list: u32,
    /// When its last change was caused; none: not said.
    trigger: Option<Duration>,
}

/// How far the lists of a kind are.
#[derive(Default)]
struct ListState {
    /// Counts the lists that were begun.
    number: u32,
    /// Whether one was ever complete.
    complete: bool,
}

impl Model {
    /// An empty model for the node of that name.
    pub fn new(node_name: impl Into<String>, policy: Policy) -> Self {
        let mut node = Node::default();
        node.set_primary(policy.bind_address);
        Self {
            node_name: node_name.into(),
            policy,
            node,
            zones: Zones::new(),
            networks: Networks::new(),
            registry: Registry::default(),
            api_given: Vec::new(),
            api_servers: BTreeSet::new(),
            services: HashMap::default(),
            slices: HashMap::default(),
            service_list: ListState::default(),
            slice_list: ListState::default(),
            cidr_list: ListState::default(),
            node_list_complete: false,
            node_listed: false,
            internal: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            dirty: Dirty::default(),
            pending: Pending::default(),
            triggers: Triggers::default(),
            problems: BTreeMap::new(),
            source_conditions: BTreeMap::new(),
            guard: Guard::default(),
        }
    }

    /// Take in what a source says.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Begin(kind) => {
                self.node_listed &= kind != Kind::Node;
                if let Some(list) = self.list_mut(kind) {
                    list.number = list.number.wrapping_add(1);
                }
            }
            Event::Complete(kind) => self.sweep(kind),
            Event::Apply(Object::Service(object)) => self.apply_service(&object),
            Event::Apply(Object::EndpointSlice(object)) => self.apply_slice(&object),
            Event::Apply(Object::Node(object)) => self.apply_node(&object),
            Event::Apply(Object::ServiceCidr(object)) => self.apply_cidr(&object),
            Event::Delete(kind, name) => self.delete(kind, &canonical(kind, name)),
            Event::Keep(kind, name) => self.keep(kind, &canonical(kind, name)),
            Event::Condition { key, message: Some(message) } => {
                self.source_conditions.insert(key, message);
            }
            Event::Condition { key, message: None } => {
                self.source_conditions.remove(&key);
            }
        }
    }

    /// Whether all Services and EndpointSlices there were at the start are known. Before that,
    /// planning would take what is not known yet for deleted.
    pub const fn is_synced(&self) -> bool {
        self.service_list.complete && self.slice_list.complete
    }

    /// Whether it is known if there is a Node object of ours. Before that, planning would take this
    /// node for one without a zone and without addresses of its own.
    pub const fn is_node_listed(&self) -> bool {
        self.node_list_complete
    }

    /// Have a Service of our own, or another in the place of the one of that name.
    pub fn set_internal(&mut self, desired: Desired) {
        let name = desired.service.clone();
        if self.internal.get(&name) != Some(&desired) {
            self.internal.insert(name.clone(), desired);
            self.mark(name);
        }
    }

    /// The addresses of the node's interfaces: where NodePorts are served when the Node object does
    /// not say.
    pub fn set_node_addresses(&mut self, addresses: Vec<IpAddr>) {
        let changed = self.node.update_interfaces(addresses);
        self.mark_after(changed);
    }

    /// What the packet path uses of the Node object; nothing while that was never seen.
    pub fn node_facts(&self) -> Option<NodeFacts> {
        self.node.is_known().then(|| self.node.facts())
    }

    /// Services whose desired state may have changed, the oldest first; they are clean from now on.
    pub fn take_dirty(&mut self) -> Vec<SharedName> {
        self.pending = Pending::default();
        self.dirty.take(&self.services)
    }

    /// In the order of their age, and of their names where that is the same: of several that want
    /// what nobody has yet, the first one gets it, on every node the same.
    pub fn oldest_first(&self, names: impl IntoIterator<Item = SharedName>) -> Vec<SharedName> {
        let aged = names.into_iter().map(|name| (dirty::age_of(&name, &self.services), name));
        let mut aged: Vec<(Age, SharedName)> = aged.collect();
        aged.sort_unstable();
        aged.into_iter().map(|(_, name)| name).collect()
    }

    /// Addresses that the API server is reached at: nobody may claim them.
    pub fn set_api_servers(&mut self, addresses: Vec<IpAddr>) {
        self.api_given = addresses;
        self.update_api_servers();
    }

    /// Have a Service looked at again.
    pub fn mark_dirty(&mut self, name: impl Into<SharedName>) {
        let name = name.into();
        self.guard.may_have_rows(&name);
        self.mark(name);
    }

    /// Have every Service looked at again.
    pub fn mark_all_dirty(&mut self) {
        self.services.iter_mut().for_each(|(name, entry)| self.dirty.mark(name, entry));
        for name in self.internal.keys() {
            self.dirty.mark_by_name(name.clone(), &mut self.services);
        }
    }

    /// Whether [`take_dirty`](Self::take_dirty) would return any.
    pub fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Whether a Service exists of which nothing is known: what the maps hold of it from an earlier
    /// run is the best there is.
    pub fn is_unreadable(&self, name: &ObjectName) -> bool {
        self.unreadable.contains_key(name) || self.keeps_rows(name)
    }

    /// Where ClusterIPs are; to be in force before what is planned for them. Nothing before all
    /// Services are known: one not known yet must not be dropped for being in a ServiceCIDR.
    pub fn service_networks(&self) -> Option<ServiceNetworks> {
        self.is_synced().then(|| self.networks.of_services())
    }

    /// A Service has to be looked at again, known or not.
    fn mark(&mut self, name: SharedName) {
        self.dirty.mark_by_name(name, &mut self.services);
    }

    fn list_mut(&mut self, kind: Kind) -> Option<&mut ListState> {
        match kind {
            Kind::Service => Some(&mut self.service_list),
            Kind::EndpointSlice => Some(&mut self.slice_list),
            Kind::ServiceCidr => Some(&mut self.cidr_list),
            // One object, and deleting it forgets nothing: there is nothing to sweep.
            Kind::Node => None,
        }
    }

    /// A full list is complete: what was not in it is gone.
    fn sweep(&mut self, kind: Kind) {
        if kind == Kind::Node {
            self.node_list_complete = true;
            if !self.node_listed {
                self.node.is_gone();
            }
            let changed = self.node.listed();
            self.mark_after(changed);
        }
        let Some(list) = self.list_mut(kind) else { return };
        list.complete = true;
        let number = list.number;
        let stale: Vec<SharedName> = match kind {
            Kind::Service => {
                let known = self.services.iter();
                known.filter(|(_, e)| e.list != number).map(|(name, _)| name.clone()).collect()
            }
            Kind::EndpointSlice => {
                let known = self.services.values().flat_map(|entry| &entry.slices);
                known.filter(|(_, s)| s.list != number).map(|(name, _)| name.clone()).collect()
            }
            Kind::ServiceCidr => self.networks.stale(number),
            Kind::Node => Vec::new(),
        };
        for name in stale {
            self.delete(kind, &name);
        }
        if kind == Kind::Service {
            let gone = self.unreadable.extract_if(.., |_, list| *list != number);
            for (name, _) in gone {
                self.dirty.mark_by_name(SharedName::new(name), &mut self.services);
            }
            let services = self.services.values();
            let services = services.filter_map(|entry| entry.service.as_ref());
            self.networks.cover_only(services.chain(self.guard.service()));
        }
    }

    fn delete(&mut self, kind: Kind, name: &ObjectName) {
        let name = self.shared(kind, name.clone());
        match kind {
            Kind::Service => self.store_service(&name, None, (0, Age::default())),
            Kind::EndpointSlice => self.store_slice(&name, None, None),
            Kind::ServiceCidr => {
                let before = self.networks.remove(&name);
                self.mark_after_cidrs(before);
            }
            Kind::Node if name.name == self.node_name => return self.node.is_gone(),
            Kind::Node => return,
        }
        self.problems.remove(&(kind, name));
    }

    /// The object is in the present list, as it was.
    fn keep(&mut self, kind: Kind, name: &ObjectName) {
        let (services, slices) = (self.service_list.number, self.slice_list.number);
        match kind {
            Kind::Service => match self.services.get_mut(name) {
                Some(entry) if entry.service.is_some() => entry.list = services,
                _ => drop(self.unreadable.insert(name.clone(), services)),
            },
            Kind::EndpointSlice => {
                if let Some(seen) = self.seen_mut(name) {
                    seen.list = slices;
                }
            }
            Kind::ServiceCidr => self.networks.keep(name, self.cidr_list.number),
            Kind::Node => self.node_listed |= name.name == self.node_name,
        }
    }

    fn apply_service(&mut self, object: &slim::Service) {
        let name = canonical(Kind::Service, object.metadata.object_name());
        let name = self.shared(Kind::Service, name);
        let mut reading = Reading::new(Kind::Service, name.clone());
        let service = Service::read(object, &name, &self.policy.external_ips, &mut reading);
        // What cannot be served at all is kept as a Service without ports, for its problems.
        let problems = reading.finish();
        let service = service.or_else(|| (!problems.is_empty()).then(Service::default));
        let metadata = &object.metadata;
        let identity = (identity::uid(&metadata.uid), Age::of(&metadata.creation_timestamp));
        self.store_service(&name, service, identity);
        self.store_problems(Kind::Service, name, problems);
    }

    /// It is kept like this, or not at all; with its uid and its age.
    fn store_service(
        &mut self,
        name: &SharedName,
        service: Option<Service>,
        (uid, age): (u128, Age),
    ) {
        if self.unreadable.remove::<ObjectName>(name).is_some() {
            self.mark(name.clone());
        }
        let entry = self.services.entry(name.clone()).or_default();
        entry.list = self.service_list.number;
        if entry.age != age {
            self.dirty.ages(entry);
        }
        (entry.uid, entry.age) = (uid, age);
        let is_empty = service.is_none() && entry.slices.is_empty();
        if entry.service != service {
            if let Some(service) = &service {
                self.networks.cover(service);
            }
            let old = std::mem::replace(&mut entry.service, service);
            let new = entry.service.as_ref();
            let touched = self.registry.replace_service(name, old.as_ref(), new);
            self.pending.services += 1;
            self.dirty.mark(name, entry);
            self.mark_touched(touched);
        }
        if is_empty {
            self.drop_if_empty(name);
        }
        self.remember_good(name);
    }

    /// The slice is the service's from now on.
    fn link(&mut self, service: &SharedName, name: &SharedName, slice: Seen<Slice>) {
        if !self.services.contains_key(service) {
            self.services.insert(service.clone(), Entry::default());
        }
        let Some(entry) = self.services.get_mut(service) else { return };
        self.dirty.mark(service, entry);
        match entry.slices.binary_search_by(|(known, _)| known.cmp(name)) {
            Ok(index) => entry.slices[index].1 = slice,
            Err(index) => {
                // Most Services have one or two.
                entry.slices.reserve_exact(1);
                entry.slices.insert(index, (name.clone(), slice));
            }
        }
    }

    /// It is no longer. Returns it.
    fn unlink(&mut self, service: &SharedName, name: &SharedName) -> Option<Seen<Slice>> {
        let entry = self.services.get_mut(service)?;
        self.dirty.mark(service, entry);
        let index = entry.slices.binary_search_by(|(known, _)| known.cmp(name)).ok()?;
        let (_, slice) = entry.slices.remove(index);
        self.drop_if_empty(service);
        Some(slice)
    }

    /// The slice of that name.
    fn seen_mut(&mut self, name: &ObjectName) -> Option<&mut Seen<Slice>> {
        let (name, service) = self.slices.get_key_value(name)?;
        let slices = &mut self.services.get_mut(service)?.slices;
        let index = slices.binary_search_by(|(known, _)| known.cmp(name)).ok()?;
        slices.get_mut(index).map(|(_, slice)| slice)
    }

    fn drop_if_empty(&mut self, name: &SharedName) {
        let Some(entry) = self.services.get(name) else { return };
        if entry.service.is_none() && entry.slices.is_empty() {
            self.dirty.ages(entry);
            self.services.remove(name);
        }
    }

    fn apply_node(&mut self, object: &slim::Node) {
        if object.metadata.name != self.node_name {
            return;
        }
        self.node_listed = true;
        let name = SharedName::new(ObjectName::new("", self.node_name.as_str()));
        let mut reading = Reading::new(Kind::Node, name.clone());
        let changed = self.node.update(object, &mut reading);
        self.mark_after(changed);
        self.store_problems(Kind::Node, name, reading.finish());
    }

    fn apply_cidr(&mut self, object: &slim::ServiceCidr) {
        let name = SharedName::new(canonical(Kind::ServiceCidr, object.metadata.object_name()));
        let mut reading = Reading::new(Kind::ServiceCidr, name.clone());
        let before = self.networks.apply(object, &name, self.cidr_list.number, &mut reading);
        self.mark_after_cidrs(before);
        self.store_problems(Kind::ServiceCidr, name, reading.finish());
    }

    fn store_problems(&mut self, kind: Kind, name: SharedName, problems: Box<[Problem]>) {
        if problems.is_empty() {
            self.problems.remove(&(kind, name));
        } else {
            self.problems.insert((kind, name), problems);
        }
    }

    /// The name, sharing memory with the one already known.
    fn shared(&self, kind: Kind, name: ObjectName) -> SharedName {
        let known = match kind {
            Kind::Service => self.services.get_key_value(&name).map(|(name, _)| name),
            Kind::EndpointSlice => self.slices.get_key_value(&name).map(|(name, _)| name),
            Kind::Node | Kind::ServiceCidr => None,
        };
        known.cloned().unwrap_or_else(|| SharedName::new(name))
    }
}
