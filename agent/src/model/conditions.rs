//! What the model has to say to people.

use std::collections::BTreeMap;

use super::Model;
use super::problem::Problem;
use crate::source::{Kind, ObjectName};

impl Model {
    /// What a person should know: unusable fields of objects, and what the sources say about
    /// themselves. Key: what it is about; value: what is wrong and how to mend it.
    pub fn conditions(&self) -> BTreeMap<String, String> {
        let problems = self.problems().map(|problem| (problem.key(), problem.message()));
        problems.chain(self.general_conditions()).collect()
    }

    /// What of that is not about a field of an object.
    pub fn general_conditions(&self) -> BTreeMap<String, String> {
        let mut conditions = BTreeMap::new();
        if self.node_list_complete && !self.node.is_known() {
            let (key, message) = self.unknown_node();
            conditions.insert(key, message);
        }
        conditions.extend(self.networks.condition());
        conditions.extend(self.useless_node_port_networks());
        conditions.extend(self.guard_condition());
        let sources = self.source_conditions.iter();
        conditions.extend(sources.map(|(key, message)| (key.clone(), message.clone())));
        conditions
    }

    /// Every field of an object that cannot be used.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().flatten()
    }

    /// The Service that an EndpointSlice belongs to.
    pub fn service_of_slice(&self, slice: &ObjectName) -> Option<&ObjectName> {
        self.slices.get(slice).map(|service| &**service)
    }

    /// What tells a Service from others of its name, before and after it; nothing if that is not
    /// known.
    pub fn uid_of_service(&self, name: &ObjectName) -> Option<String> {
        let uid = self.services.get(name)?.uid;
        (uid != 0).then(|| super::identity::text(uid))
    }

    /// Objects of which a source says that they cannot be read, and what it says.
    pub fn unreadable(&self) -> impl Iterator<Item = (Kind, ObjectName, &str)> {
        let object = |about: &str| {
            let (kind, name) = about.split_once(' ')?;
            let kind = Kind::ALL.into_iter().find(|known| known.to_string() == kind)?;
            let name = match name.split_once('/') {
                Some((namespace, name)) if kind.is_namespaced() => ObjectName::new(namespace, name),
                None if !kind.is_namespaced() && !name.contains(' ') => ObjectName::new("", name),
                _ => return None,
            };
            Some((kind, name))
        };
        self.source_conditions.iter().filter_map(move |(about, message)| {
            object(about).map(|(kind, name)| (kind, name, message.as_str()))
        })
    }
}
