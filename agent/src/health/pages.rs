//! What `/healthz`, `/livez` and healthCheckNodePorts say: kube-proxy's JSON, field by field.

use http::StatusCode;
use jiff::Timestamp;
use millrace_common::address::Family;
use serde::Serialize;

use super::core::{Moment, Verdict};
use crate::http::Page;
use crate::source::ObjectName;

/// `/healthz` and `/livez`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Health {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    status: Families,
}

/// Families that take part, under their Kubernetes names.
#[derive(Serialize, Default)]
struct Families {
    #[serde(rename = "IPv4", skip_serializing_if = "Option::is_none")]
    v4: Option<FamilyHealth>,
    #[serde(rename = "IPv6", skip_serializing_if = "Option::is_none")]
    v6: Option<FamilyHealth>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyHealth {
    last_updated: String,
    healthy: bool,
}

/// Is the node fit to be sent to? Load balancers ask this.
pub fn healthz(verdict: &Verdict) -> Page {
    page(verdict, verdict.healthy && verdict.node_eligible, Some(verdict.node_eligible))
}

/// Does the agent do its work? The kubelet asks this: a node that is about to go is no reason to
/// restart the agent.
pub fn livez(verdict: &Verdict) -> Page {
    page(verdict, verdict.healthy, None)
}

fn page(verdict: &Verdict, ok: bool, node_eligible: Option<bool>) -> Page {
    // When all is well, clients expect a time that is recent, whether or not anything changed.
    let last_updated = if ok { verdict.now } else { verdict.last_updated };
    let mut status = Families::default();
    for of in &verdict.families {
        let health = FamilyHealth { last_updated: time(of.last_updated), healthy: of.healthy };
        match of.family {
            Family::V4 => status.v4 = Some(health),
            Family::V6 => status.v6 = Some(health),
        }
    }
    let health = Health {
        last_updated: time(last_updated),
        current_time: time(verdict.now),
        node_eligible,
        healthy: verdict.healthy,
        status,
    };
    // Plain structs of strings and booleans: serialising them cannot fail.
    Page::json(code(ok), serde_json::to_string(&health).unwrap_or_default())
}

/// The answer of a Service's healthCheckNodePort: may load balancers send to this node? A node
/// whose endpoints are all about to end serves on, and says no.
pub fn service(name: &ObjectName, local_endpoints: usize, proxy_healthy: bool) -> Page {
    let (namespace, service) = (quoted(&name.namespace), quoted(&name.name));
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {namespace},\n\t\t\"name\": {service}\n\t}},\n\
         \t\"localEndpoints\": {local_endpoints},\n\t\"serviceProxyHealthy\": {proxy_healthy}\n}}"
    );
    Page::json(code(local_endpoints > 0 && proxy_healthy), body)
        .with("x-load-balancing-endpoint-weight", local_endpoints.to_string())
}

/// A name as a JSON string.
fn quoted(name: &str) -> String {
    // A string can always be written.
    serde_json::to_string(name).unwrap_or_default()
}

const fn code(ok: bool) -> StatusCode {
    if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// RFC 3339 in UTC with as many digits as needed, as Go writes times in JSON.
fn time(moment: Moment) -> String {
    let Moment { wall, .. } = moment;
    // Beyond the year 9999 no clock is right.
    let timestamp = i64::try_from(wall.as_secs())
        .ok()
        .and_then(|seconds| Timestamp::new(seconds, i32::try_from(wall.subsec_nanos()).ok()?).ok());
    timestamp.unwrap_or_default().to_string()
}
