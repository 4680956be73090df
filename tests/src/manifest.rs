//! Kubernetes objects as a cluster prints them, and the directories agents read them from.
//!
//! Builders for the fields the agent looks at; anything else can be set on the JSON value. Files
//! are YAML, as `kubectl get -o yaml` prints them, and appear atomically: written beside their
//! place under a name that is no manifest's, then renamed.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use crate::lab::{Family, Node, address};

/// Label that names a node's zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Namespace of objects that name none.
const NAMESPACE: &str = "shop";

/// Anything that can be written as a manifest.
pub trait Object {
    /// The object as the API would give it.
    fn value(&self) -> Value;
}

impl Object for Value {
    fn value(&self) -> Value {
        self.clone()
    }
}

fn metadata(name: &str) -> Value {
    json!({ "name": name, "namespace": NAMESPACE, "labels": {} })
}

/// Puts a value at the end of the list at `pointer`, which is made when missing.
fn push(object: &mut Value, key: &str, value: Value) {
    match object[key].as_array_mut() {
        Some(list) => list.push(value),
        None => object[key] = json!([value]),
    }
}

/// A Service.
#[derive(Clone, Debug)]
pub struct Service(pub Value);

impl Service {
    /// A ClusterIP Service without addresses and ports, in namespace `shop`.
    pub fn new(name: &str) -> Self {
        Service(json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(name),
            "spec": {
                "type": "ClusterIP",
                "selector": { "app": name },
                "sessionAffinity": "None",
                "internalTrafficPolicy": "Cluster",
                "clusterIPs": [],
                "ipFamilies": [],
                "ports": [],
            },
            "status": { "loadBalancer": {} },
        }))
    }

    fn spec(&mut self) -> &mut Value {
        &mut self.0["spec"]
    }

    /// Puts it into another namespace.
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.0["metadata"]["namespace"] = json!(namespace);
        self
    }

    /// Adds a label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.0["metadata"]["labels"][key] = json!(value);
        self
    }

    /// Adds a ClusterIP; the first one also becomes `spec.clusterIP`.
    pub fn cluster_ip(mut self, address: IpAddr) -> Self {
        let spec = self.spec();
        if spec.get("clusterIP").is_none() {
            spec["clusterIP"] = json!(address);
        }
        push(spec, "clusterIPs", json!(address));
        push(spec, "ipFamilies", json!(Family::of(address).kubernetes()));
        self
    }

    /// Makes it headless.
    pub fn headless(mut self) -> Self {
        let spec = self.spec();
        spec["clusterIP"] = json!("None");
        spec["clusterIPs"] = json!(["None"]);
        self
    }

    /// Makes it an alias; it keeps its other fields, as a half-converted object would.
    pub fn external_name(mut self, name: &str) -> Self {
        let spec = self.spec();
        spec["type"] = json!("ExternalName");
        spec["externalName"] = json!(name);
        self
    }

    /// Adds a port.
    pub fn port(mut self, name: &str, protocol: &str, port: u16) -> Self {
        let port = json!({ "name": name, "protocol": protocol, "port": port, "targetPort": name });
        push(self.spec(), "ports", port);
        self
    }

    /// Gives the last port a NodePort, and the Service the type.
    pub fn node_port(mut self, port: u16) -> Self {
        let spec = self.spec();
        spec["externalTrafficPolicy"] =
            spec.get("externalTrafficPolicy").cloned().unwrap_or(json!("Cluster"));
        if spec["type"] == "ClusterIP" {
            spec["type"] = json!("NodePort");
        }
        if let Some(last) = spec["ports"].as_array_mut().and_then(|ports| ports.last_mut()) {
            last["nodePort"] = json!(port);
        }
        self
    }

    /// Gives every port this NodePort, which the protocols tell apart.
    pub fn node_port_for_all(self, port: u16) -> Self {
        let mut service = self.node_port(port);
        for each in service.spec()["ports"].as_array_mut().into_iter().flatten() {
            each["nodePort"] = json!(port);
        }
        service
    }

    /// Adds an external address.
    pub fn external_ip(mut self, address: IpAddr) -> Self {
        push(self.spec(), "externalIPs", json!(address));
        self
    }

    /// Adds a load balancer's address, as its controller writes it into the status.
    pub fn load_balancer_ip(self, address: IpAddr) -> Self {
        self.load_balancer(address, "VIP")
    }

    /// The same with `ipMode: Proxy`, which the node must not translate.
    pub fn load_balancer_proxy(self, address: IpAddr) -> Self {
        self.load_balancer(address, "Proxy")
    }

    fn load_balancer(mut self, address: IpAddr, mode: &str) -> Self {
        self.spec()["type"] = json!("LoadBalancer");
        let ingress = json!({ "ip": address, "ipMode": mode });
        push(&mut self.0["status"]["loadBalancer"], "ingress", ingress);
        self
    }

    /// The networks that may use its load balancer's addresses.
    pub fn source_ranges(mut self, ranges: &[String]) -> Self {
        self.spec()["loadBalancerSourceRanges"] = json!(ranges);
        self
    }

    /// Sticks clients to an endpoint for this long after their last new connection.
    pub fn affinity(mut self, seconds: u32) -> Self {
        let spec = self.spec();
        spec["sessionAffinity"] = json!("ClientIP");
        spec["sessionAffinityConfig"] = json!({ "clientIP": { "timeoutSeconds": seconds } });
        self
    }

    /// `internalTrafficPolicy: Local`.
    pub fn internal_local(mut self) -> Self {
        self.spec()["internalTrafficPolicy"] = json!("Local");
        self
    }

    /// The port on every node where its load balancer asks for local endpoints.
    pub fn health_check(mut self, port: u16) -> Self {
        let spec = self.spec();
        spec["type"] = json!("LoadBalancer");
        spec["healthCheckNodePort"] = json!(port);
        self
    }

    /// `externalTrafficPolicy: Local`.
    pub fn external_local(mut self) -> Self {
        self.spec()["externalTrafficPolicy"] = json!("Local");
        self
    }
}

impl Object for Service {
    fn value(&self) -> Value {
        self.0.clone()
    }
}

/// One endpoint of a slice.
#[derive(Clone, Debug)]
pub struct Endpoint(pub Value);

impl Endpoint {
    /// A ready endpoint on a node.
    pub fn ready(address: IpAddr, node: &str) -> Self {
        Self::with(address, node, true, true, false)
    }

    /// Neither ready nor serving.
    pub fn unready(address: IpAddr, node: &str) -> Self {
        Self::with(address, node, false, false, false)
    }

    /// Going away, but still serving.
    pub fn terminating(address: IpAddr, node: &str) -> Self {
        Self::with(address, node, false, true, true)
    }

    /// Going away and serving no more.
    pub fn gone(address: IpAddr, node: &str) -> Self {
        Self::with(address, node, false, false, true)
    }

    fn with(address: IpAddr, node: &str, ready: bool, serving: bool, terminating: bool) -> Self {
        let conditions = json!({ "ready": ready, "serving": serving, "terminating": terminating });
        let mut endpoint = json!({ "addresses": [address], "conditions": conditions });
        if !node.is_empty() {
            endpoint["nodeName"] = json!(node);
        }
        Endpoint(endpoint)
    }

    /// Its zone, and the zones it should serve.
    pub fn zone(mut self, zone: &str, for_zones: &[&str]) -> Self {
        self.0["zone"] = json!(zone);
        let hints: Vec<Value> = for_zones.iter().map(|zone| json!({ "name": zone })).collect();
        self.0["hints"]["forZones"] = json!(hints);
        self
    }

    /// The nodes it should serve.
    pub fn for_nodes(mut self, nodes: &[&str]) -> Self {
        let hints: Vec<Value> = nodes.iter().map(|node| json!({ "name": node })).collect();
        self.0["hints"]["forNodes"] = json!(hints);
        self
    }
}

/// An EndpointSlice.
#[derive(Clone, Debug)]
pub struct Slice(pub Value);

impl Slice {
    /// An empty slice of a Service, for one family, in namespace `shop`.
    pub fn new(name: &str, service: &str, family: Family) -> Self {
        let mut slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata(name),
            "addressType": family.kubernetes(),
            "ports": [],
            "endpoints": [],
        });
        slice["metadata"]["labels"]["kubernetes.io/service-name"] = json!(service);
        slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] =
            json!("endpointslice-controller.k8s.io");
        Slice(slice)
    }

    /// Puts it into another namespace.
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.0["metadata"]["namespace"] = json!(namespace);
        self
    }

    /// Adds a label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.0["metadata"]["labels"][key] = json!(value);
        self
    }

    /// Adds a port, joined to the Service's by name and protocol.
    pub fn port(mut self, name: &str, protocol: &str, port: u16) -> Self {
        push(&mut self.0, "ports", json!({ "name": name, "protocol": protocol, "port": port }));
        self
    }

    /// Adds an endpoint.
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        push(&mut self.0, "endpoints", endpoint.0);
        self
    }

    /// Adds several.
    pub fn endpoints(self, endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        endpoints.into_iter().fold(self, Slice::endpoint)
    }
}

impl Object for Slice {
    fn value(&self) -> Value {
        self.0.clone()
    }
}

/// The Node object of a lab's node, in a zone if one is given.
pub fn node(node: &Node, families: &[Family], zone: Option<&str>) -> Value {
    let mut labels = json!({ "kubernetes.io/hostname": node.name() });
    if let Some(zone) = zone {
        labels[ZONE_LABEL] = json!(zone);
    }
    let addresses =
        families.iter().map(|&f| json!({ "type": "InternalIP", "address": node.address(f) }));
    let mut addresses: Vec<Value> = addresses.collect();
    addresses.push(json!({ "type": "Hostname", "address": node.name() }));
    let cidrs: Vec<String> = families.iter().map(|&family| node.pod_cidr(family)).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": node.name(), "labels": labels },
        "spec": { "podCIDR": cidrs[0], "podCIDRs": cidrs },
        "status": { "addresses": addresses },
    })
}

/// The range that ClusterIPs are given from.
pub fn service_cidr(families: &[Family]) -> Value {
    let cidrs: Vec<&str> = families.iter().map(|&f| address::service_cidr(f)).collect();
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": { "name": "kubernetes" },
        "spec": { "cidrs": cidrs },
    })
}

/// A `List` of objects, as `kubectl get -o yaml` prints several.
pub fn list(items: Vec<Value>) -> Value {
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

/// The objects of a file with several documents.
pub fn documents(text: &str) -> Result<Vec<Value>> {
    let lines: Vec<&str> = text.lines().collect();
    let documents = lines.split(|line| *line == "---").map(|lines| lines.join("\n"));
    documents.map(|text| serde_saphyr::from_str(&text).context("read a document")).collect()
}

/// Where an object's manifest goes: one file per object.
fn file_name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    let mut parts = vec![text(&object["kind"]).to_lowercase()];
    parts.extend([&metadata["namespace"], &metadata["name"]].map(text));
    parts.retain(|part| !part.is_empty());
    format!("{}.yaml", parts.join("."))
}

/// Writes an object into a manifest directory; replaces what was there at once.
pub fn write(directory: &Path, object: &impl Object) -> Result<PathBuf> {
    let object = object.value();
    write_as(directory, &file_name(&object), &yaml(&object))
}

/// Writes any text as a manifest, at once.
pub fn write_as(directory: &Path, name: &str, text: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    let beside = directory.join(format!(".{name}.new"));
    let context = || format!("write {}", path.display());
    fs::write(&beside, text).with_context(context)?;
    fs::rename(&beside, &path).with_context(context)?;
    Ok(path)
}

/// Removes an object's manifest.
pub fn remove(directory: &Path, object: &impl Object) -> Result<()> {
    let path = directory.join(file_name(&object.value()));
    fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
}

/// A value as YAML in block style, keys in alphabetical order as kubectl prints them.
pub fn yaml(value: &Value) -> String {
    let mut text = String::new();
    write_yaml(&mut text, value, 0);
    text
}

fn write_yaml(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => write_map(text, map, depth, false),
        Value::Array(list) if !list.is_empty() => {
            for item in list {
                let _ = write!(text, "{}- ", "  ".repeat(depth));
                match item {
                    Value::Object(map) if !map.is_empty() => write_map(text, map, depth + 1, true),
                    scalar => write_scalar(text, scalar),
                }
            }
        }
        scalar => write_scalar(text, scalar),
    }
}

/// `inline` means that the first key follows a list's dash.
fn write_map(text: &mut String, map: &Map<String, Value>, depth: usize, inline: bool) {
    for (index, (key, value)) in map.iter().enumerate() {
        let indent = if inline && index == 0 { 0 } else { depth };
        let _ = write!(text, "{}{key}:", "  ".repeat(indent));
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                text.push('\n');
                write_map(text, inner, depth + 1, false);
            }
            Value::Array(items) if !items.is_empty() => {
                text.push('\n');
                write_yaml(text, value, depth);
            }
            scalar => {
                text.push(' ');
                write_scalar(text, scalar);
            }
        }
    }
}

/// Plain where YAML cannot misread it, otherwise quoted as JSON, which YAML includes.
fn write_scalar(text: &mut String, value: &Value) {
    let plain = value.as_str().filter(|s| {
        s.starts_with(|c: char| c.is_ascii_alphabetic())
            && s.chars().all(|c| c.is_ascii_alphanumeric() || "-./_".contains(c))
            && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
                .contains(&s.to_lowercase().as_str())
    });
    let _ = match plain {
        Some(plain) => writeln!(text, "{plain}"),
        None => writeln!(text, "{value}"),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_look_as_kubectl_prints_them() {
        let address = "10.96.0.9".parse().unwrap();
        let service = Service::new("web").cluster_ip(address).port("http", "TCP", 80);
        let text = yaml(&service.value());
        assert!(text.starts_with("apiVersion: v1\nkind: Service\nmetadata:\n"), "{text}");
        assert!(text.contains("  clusterIPs:\n  - \"10.96.0.9\"\n"), "{text}");
        assert!(text.contains("  - name: http\n    port: 80\n"), "{text}");
        assert!(text.contains("status:\n  loadBalancer: {}\n"), "{text}");
        assert_eq!(file_name(&service.value()), "service.shop.web.yaml");
    }
}
