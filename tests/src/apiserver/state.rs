//! Objects, their history, and the lists cut from them. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::select::Selection;

/// What can be listed and watched.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Resource {
    /// `v1` Services.
    Services,
    /// `discovery.k8s.io/v1` EndpointSlices.
    EndpointSlices,
    /// `v1` Nodes.
    Nodes,
    /// `networking.k8s.io/v1` ServiceCIDRs.
    ServiceCidrs,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::Services, Self::EndpointSlices, Self::Nodes, Self::ServiceCidrs];

    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::Services => "Service",
            Self::EndpointSlices => "EndpointSlice",
            Self::Nodes => "Node",
            Self::ServiceCidrs => "ServiceCIDR",
        }
    }
    pub(super) fn api_version(self) -> &'static str {
        match self {
            Self::Services | Self::Nodes => "v1",
            Self::EndpointSlices => "discovery.k8s.io/v1",
            Self::ServiceCidrs => "networking.k8s.io/v1",
        }
    }
    pub(super) fn of_path(path: &str) -> Option<Self> {
        match path {
            "/api/v1/services" => Some(Self::Services),
            "/apis/discovery.k8s.io/v1/endpointslices" => Some(Self::EndpointSlices),
            "/api/v1/nodes" => Some(Self::Nodes),
            "/apis/networking.k8s.io/v1/servicecidrs" => Some(Self::ServiceCidrs),
            _ => None,
        }
    }
    fn is_namespaced(self) -> bool {
        matches!(self, Self::Services | Self::EndpointSlices)
    }
}

/// Requests for a resource.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// Pages of lists.
    pub list_pages: usize,
    /// Lists begun: first pages.
    pub lists: usize,
    /// Watches.
    pub watches: usize,
}

/// A change of one object.
pub(super) struct Change {
    pub version: u64,
    pub resource: Resource,
    pub old: Option<Arc<Value>>,
    /// None: deleted.
    pub new: Option<Arc<Value>>,
}

/// The version asked for is no longer there, or not yet.
#[derive(Debug)]
pub(super) enum VersionError {
    Gone,
    TooLarge,
}

/// One page of a list.
pub(super) struct Page {
    pub version: u64,
    pub items: Vec<Arc<Value>>,
    pub continue_token: Option<String>,
    pub remaining: usize,
}

/// A list that was begun: the rest of it, as it was then.
struct Rest {
    version: u64,
    items: Vec<Arc<Value>>,
}

type Key = (Resource, String, String);

/// Everything the server knows.
pub(super) struct State {
    version: u64,
    /// Watches can begin at this version or later.
    oldest: u64,
    objects: BTreeMap<Key, Arc<Value>>,
    changes: Vec<Change>,
    rests: BTreeMap<u64, Rest>,
    next_token: u64,
    counts: BTreeMap<Resource, Counts>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            // Real ones are never 0, which means something else in requests.
            version: 1,
            oldest: 1,
            objects: BTreeMap::new(),
            changes: Vec::new(),
            rests: BTreeMap::new(),
            next_token: 1,
            counts: BTreeMap::new(),
        }
    }
}

impl State {
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn put(&mut self, mut object: Value) {
        let resource = Resource::ALL
            .into_iter()
            .find(|resource| object["kind"] == resource.kind())
            .unwrap_or_else(|| panic!("not a kind this server has: {}", object["kind"]));
        self.version += 1;
        object["apiVersion"] = resource.api_version().into();
        let metadata = &mut object["metadata"];
        if resource.is_namespaced() && metadata["namespace"].is_null() {
            metadata["namespace"] = "default".into();
        }
        metadata["resourceVersion"] = self.version.to_string().into();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let key = (resource, text(&metadata["namespace"]), text(&metadata["name"]));
        if metadata["uid"].is_null() {
            metadata["uid"] = match self.objects.get(&key) {
                Some(old) => old["metadata"]["uid"].clone(),
                None => format!("00000000-0000-4000-8000-{:012x}", self.version).into(),
            };
        }
        let object = Arc::new(object);
        let old = self.objects.insert(key, object.clone());
        self.changes.push(Change { version: self.version, resource, old, new: Some(object) });
    }

    pub fn delete(&mut self, resource: Resource, namespace: &str, name: &str) -> bool {
        let Some(old) = self.objects.remove(&(resource, namespace.into(), name.into())) else {
            return false;
        };
        self.version += 1;
        self.changes.push(Change { version: self.version, resource, old: Some(old), new: None });
        true
    }

    pub fn objects(&self, resource: Resource) -> Vec<Value> {
        let of_resource = self.objects.iter().filter(|((other, ..), _)| *other == resource);
        of_resource.map(|(_, object)| (**object).clone()).collect()
    }

    pub fn compact(&mut self) {
        // The changes stay: open watches that have not caught up yet do not lose them.
        self.oldest = self.version;
        self.rests.clear();
    }

    /// Something else in the cluster changed.
    pub fn skip_version(&mut self) {
        self.version += 1;
    }

    pub fn counts(&self, resource: Resource) -> Counts {
        self.counts.get(&resource).copied().unwrap_or_default()
    }

    pub fn count(&mut self, resource: Resource, add: impl Fn(&mut Counts)) {
        add(self.counts.entry(resource).or_default());
    }

    /// The first page of a list.
    pub fn list(&mut self, resource: Resource, selection: &Selection, limit: usize) -> Page {
        let of_resource = self.objects.iter().filter(|((other, ..), _)| *other == resource);
        let items = of_resource.map(|(_, object)| object.clone());
        let items = items.filter(|object| selection.selects(object)).collect();
        self.cut(Rest { version: self.version, items }, limit)
    }

    /// The next page of a list.
    pub fn continue_list(&mut self, token: &str, limit: usize) -> Result<Page, VersionError> {
        let rest = token.parse().ok().and_then(|token| self.rests.remove(&token));
        Ok(self.cut(rest.ok_or(VersionError::Gone)?, limit))
    }

    fn cut(&mut self, mut rest: Rest, limit: usize) -> Page {
        let limit = if limit == 0 { usize::MAX } else { limit };
        let remaining = rest.items.split_off(limit.min(rest.items.len()));
        let (items, version, count) = (rest.items, rest.version, remaining.len());
        let mut continue_token = None;
        if count > 0 {
            continue_token = Some(self.next_token.to_string());
            self.rests.insert(self.next_token, Rest { version, items: remaining });
            self.next_token += 1;
        }
        Page { version, items, continue_token, remaining: count }
    }

    /// May a watch begin at this version?
    pub fn check_version(&self, version: u64) -> Result<(), VersionError> {
        if version > self.version {
            return Err(VersionError::TooLarge);
        }
        if version < self.oldest { Err(VersionError::Gone) } else { Ok(()) }
    }

    /// Lines of a watch after this version, and the version they lead to. An object that leaves the
    /// selection is deleted, as far as this watch is concerned.
    pub fn events(&self, resource: Resource, selection: &Selection, after: u64) -> Vec<String> {
        let from = self.changes.partition_point(|change| change.version <= after);
        let changes = self.changes[from..].iter().filter(|change| change.resource == resource);
        changes.filter_map(|change| event(change, selection)).collect()
    }

    /// The current objects as ADDED events: a watch that names no version begins with these.
    pub fn initial_events(&self, resource: Resource, selection: &Selection) -> Vec<String> {
        let of_resource = self.objects.iter().filter(|((other, ..), _)| *other == resource);
        let selected = of_resource.filter(|(_, object)| selection.selects(object));
        selected.map(|(_, object)| line("ADDED", object)).collect()
    }
}

fn event(change: &Change, selection: &Selection) -> Option<String> {
    let selected = |object: &Option<Arc<Value>>| {
        object.as_ref().filter(|object| selection.selects(object)).cloned()
    };
    match (selected(&change.old), selected(&change.new)) {
        (None, None) => None,
        (None, Some(new)) => Some(line("ADDED", &new)),
        (Some(_), Some(new)) => Some(line("MODIFIED", &new)),
        (Some(old), None) => {
            // The old content, with the version of its end.
            let mut last = (*old).clone();
            last["metadata"]["resourceVersion"] = change.version.to_string().into();
            Some(line("DELETED", &last))
        }
    }
}

/// A line of a watch. The type comes first, as Go prints it.
pub(super) fn line(kind: &str, object: &Value) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

/// A bookmark.
pub(super) fn bookmark(resource: Resource, version: u64) -> String {
    let object = json!({"kind": resource.kind(), "apiVersion": resource.api_version(),
        "metadata": {"resourceVersion": version.to_string(), "creationTimestamp": null}});
    line("BOOKMARK", &object)
}
