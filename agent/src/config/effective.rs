//! The configuration in force, with types.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value as Json};

use super::catalogue::{self, Document, Key};
use super::merge::Setting;
use super::value::{Shape, Value};
use crate::bpf::object::FlowCapacity;
use crate::bpf::packet::Means;
use crate::flows::rules::Timeouts;
use crate::health::servers::Addresses;
use crate::plan::op::Capacity;
use crate::settings::Policy;

/// Where objects come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// A directory of manifests.
    Manifests(PathBuf),
    /// A Kubernetes API.
    Kubernetes {
        /// A kubeconfig.
        kubeconfig: Option<PathBuf>,
        /// Its URL, in the place of the kubeconfig's or the environment's.
        api_server: Option<String>,
    },
}

impl Source {
    /// Addresses that the API server was said to have.
    pub fn api_addresses(&self) -> Vec<IpAddr> {
        let Self::Kubernetes { api_server: Some(url), .. } = self else { return Vec::new() };
        let host = url.parse::<http::Uri>().ok().and_then(|url| url.host().map(str::to_owned));
        let address = host.and_then(|host| host.trim_matches(['[', ']']).parse().ok());
        address.into_iter().collect()
    }
}

/// What is logged, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    /// In the words of `tracing`; none: by verbosity.
    pub filter: Option<String>,
    /// kube-proxy's `-v`.
    pub verbosity: i64,
    /// A JSON object per line.
    pub json: bool,
}

/// Everything.
#[derive(Clone, PartialEq, Debug)]
pub struct Effective {
    /// The Node's name.
    pub node_name: String,
    /// Where objects come from.
    pub source: Source,
    /// Which of the ways to the API server won, and why.
    pub source_chosen: String,
    /// What is served, and how.
    pub policy: Policy,
    /// Where to attach; found if not given.
    pub cgroup_root: Option<PathBuf>,
    /// Where to pin; found if not given.
    pub bpffs: Option<PathBuf>,
    /// Sizes of the maps that plans fill.
    pub capacity: Capacity,
    /// Sizes of the maps that packets fill.
    pub flows: FlowCapacity,
    /// When flows are forgotten.
    pub timeouts: Timeouts,
    /// By what means programs are attached to devices; none: the best that the kernel has.
    pub device_hooks: Option<Means>,
    /// kube-proxy's `bindAddress`: the family whose loopback and "any" the servers' defaults are.
    pub bind_address: IpAddr,
    /// Where `/healthz` and `/livez` are served; none: nowhere.
    pub healthz_bind_address: Option<SocketAddr>,
    /// Where `/metrics` is served; none: nowhere.
    pub metrics_bind_address: Option<SocketAddr>,
    /// Not being able to listen there is fatal.
    pub bind_address_hard_fail: bool,
    /// Half of the time after which a change that waits is stale.
    pub sync_period: Duration,
    /// The least time from the end of a round to the begin of the next.
    pub min_sync_period: Duration,
    /// Whether profiles were asked for (there are none).
    pub enable_profiling: bool,
    /// What to write into `oom_score_adj`; none: nothing.
    pub oom_score_adj: Option<i64>,
    /// What is logged.
    pub log: Log,
    /// Every setting, for those who ask where a value comes from.
    pub settings: BTreeMap<Key, Setting>,
    /// The file's name.
    pub file: Option<String>,
}

impl Effective {
    /// Where health and metrics are served.
    pub const fn servers(&self) -> Addresses {
        Addresses {
            healthz: self.healthz_bind_address,
            metrics: self.metrics_bind_address,
            hard_fail: self.bind_address_hard_fail,
        }
    }

    /// The effective `KubeProxyConfiguration` as kube-proxy's `/configz` shows it.
    pub fn configz(&self) -> Json {
        let mut top = Map::new();
        top.insert("kubeproxy.config.k8s.io".into(), self.document(Document::KubeProxy));
        Json::Object(top)
    }

    /// One document with every value in force.
    pub fn document(&self, document: Document) -> Json {
        let (api_version, kind) = document.type_meta();
        let mut root = Map::new();
        root.insert("apiVersion".into(), api_version.into());
        root.insert("kind".into(), kind.into());
        for field in catalogue::of(document) {
            let Some(setting) = self.settings.get(&field.key()) else { continue };
            let value = match (&setting.value, field.shape) {
                (Value::Null, Shape::Text) => Json::from(""),
                (value, _) => value.to_json(),
            };
            put(&mut root, field.path, value);
        }
        Json::Object(root)
    }

    /// What is in force after a change of the file while running: of what can only be had at the
    /// start, what `started` says.
    pub fn after(started: &Self, changed: Self) -> Self {
        let mut settings = changed.settings;
        for (key, setting) in &mut settings {
            if let Some(old) = started.settings.get(key).filter(|old| !old.field.live) {
                setting.clone_from(old);
            }
        }
        Self {
            settings,
            source: changed.source,
            source_chosen: changed.source_chosen,
            policy: Policy { socket_lb: started.policy.socket_lb, ..changed.policy },
            timeouts: changed.timeouts,
            sync_period: changed.sync_period,
            min_sync_period: changed.min_sync_period,
            bind_address: changed.bind_address,
            ..started.clone()
        }
    }
}

/// Puts a value at a path with dots.
fn put(root: &mut Map<String, Json>, path: &str, value: Json) {
    match path.split_once('.') {
        None => drop(root.insert(path.to_owned(), value)),
        Some((section, rest)) => {
            let section = root.entry(section).or_insert_with(|| Json::Object(Map::new()));
            if let Json::Object(section) = section {
                put(section, rest, value);
            }
        }
    }
}

/// A setting whose new value needs a restart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NeedsRestart {
    /// Its path.
    pub path: &'static str,
    /// Its value in force.
    pub in_force: String,
    /// Its value in the file.
    pub wanted: String,
}

/// What of a changed configuration a restart is needed for.
pub fn needs_restart(started: &Effective, changed: &Effective) -> Vec<NeedsRestart> {
    let differs = |(key, new): (&Key, &Setting)| {
        let old = started.settings.get(key)?;
        let differs = !new.field.live && old.value != new.value;
        differs.then(|| NeedsRestart {
            path: new.field.path,
            in_force: old.value.to_text(),
            wanted: new.value.to_text(),
        })
    };
    changed.settings.iter().filter_map(differs).collect()
}

/// Live settings whose value is another one now: path, before, after.
pub fn applied(before: &Effective, after: &Effective) -> Vec<(&'static str, String, String)> {
    let differs = |(key, new): (&Key, &Setting)| {
        let old = before.settings.get(key)?;
        let differs = new.field.live && old.value != new.value;
        differs.then(|| (new.field.path, old.value.to_text(), new.value.to_text()))
    };
    after.settings.iter().filter_map(differs).collect()
}
