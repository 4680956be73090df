//! The node's name, its devices, and the agent as a process.

use super::{kp, own};
use crate::bpf::packet::Means;
use crate::config::catalogue::{Document, Effect};
use crate::config::effective::Log;
use crate::config::merge::{Origin, Settings};
use crate::config::value::Value;
use crate::settings::parse::{self, Invalid};
use crate::settings::{NamePattern, Role};

/// kube-proxy's `oom_score_adj`.
const OOM_SCORE_ADJ: i64 = -999;

/// As kube-proxy: what is given or the host's name, trimmed and in lower case; blank is an error.
pub(super) fn name(s: &mut Settings, host_name: &str) -> Option<String> {
    let key = kp("hostnameOverride");
    let given = s.text(key).to_owned();
    let origin = s.origin(key);
    // An empty flag of our own was always an error; kube-proxy's is no name given.
    let is_open = given.is_empty() && origin != Origin::Flag("--node-name");
    let name = if is_open { host_name } else { &given }.trim().to_lowercase();
    if name.is_empty() {
        s.error(key, "blank: give the name of this node's Node object");
        return None;
    }
    let origin = is_open.then_some(Origin::From("the host's name"));
    s.fill(key, Value::Text(name.clone()), origin);
    Some(name)
}

/// What is logged.
pub(super) fn log(s: &mut Settings) -> Log {
    let json = match s.text(kp("logging.format")) {
        "" | "text" => false,
        "json" => true,
        other => {
            let message = format!("{other:?}: write text or json");
            s.error(kp("logging.format"), message);
            false
        }
    };
    let filter = Some(s.text(own("log")).to_owned()).filter(|filter| !filter.is_empty());
    if filter.is_some() {
        let here = "MILLRACE_LOG or the field log says it";
        s.remark(kp("logging.verbosity"), Effect::Ignored, here);
    }
    Log { filter, verbosity: s.int(kp("logging.verbosity")).unwrap_or(0), json }
}

/// `deviceHooks`.
pub(super) fn device_hooks(s: &mut Settings) -> Option<Means> {
    match s.text(own("deviceHooks")) {
        "" | "auto" => None,
        "tcx" => Some(Means::Tcx),
        "clsact" => Some(Means::Clsact),
        other => {
            let message = format!("{other:?}: write auto, tcx or clsact");
            s.error(own("deviceHooks"), message);
            None
        }
    }
}

/// `deviceRoles`.
pub(super) fn device_roles(s: &mut Settings) -> Option<Vec<(NamePattern, Option<Role>)>> {
    let key = own("deviceRoles");
    let roles = parse::device_roles(s.list(key));
    or_error(s, key, roles)
}

/// `masqueradePorts`; none: not given, or wrong, which is an error and the end of it.
pub(super) fn masquerade_ports(s: &mut Settings) -> Option<(u16, u16)> {
    let key = own("masqueradePorts");
    let text = s.text(key).to_owned();
    if text.is_empty() {
        return None;
    }
    or_error(s, key, parse::masquerade_ports(&text))
}

/// The value, or an error at its place.
pub(super) fn or_error<T>(
    s: &mut Settings,
    key: crate::config::catalogue::Key,
    read: Result<T, Invalid>,
) -> Option<T> {
    match read {
        Ok(value) => Some(value),
        Err(invalid) => {
            s.error(key, format!("{}: {}", invalid.given(), invalid.fix()));
            None
        }
    }
}

/// kube-proxy lowers its own; without its configuration the process is left as it was started.
pub(super) fn oom_score_adj(s: &mut Settings) -> Option<i64> {
    let key = kp("oomScoreAdj");
    if *s.value(key) == Value::Null && s.documents.contains(&Document::KubeProxy) {
        s.fill(key, Value::Int(OOM_SCORE_ADJ), None);
    }
    let score = s.int(key);
    if score.is_none() {
        s.remark(key, Effect::Used, "the process is left as it was started");
    }
    score
}
