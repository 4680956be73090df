//! Kubernetes objects, cut down to the fields we use.
//!
//! Decoding straight into these costs a fraction of the full types' time and memory. Shapes are
//! those of `k8s.io/api` (core/v1, discovery/v1). What needs checking (addresses, port numbers)
//! stays as the API prints it: [`crate::model`] judges it and says which object and field is wrong.

use serde::{Deserialize, Deserializer};

use super::ObjectName;
use super::labels::Labels;

/// A null counts as the default: Go clients print `"endpoints": null` for an empty list.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// `metadata`.
#[derive(Clone, PartialEq, Hash, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Name.
    pub name: String,
    /// Namespace; manifests may leave it out and mean `default`.
    #[serde(deserialize_with = "nullable")]
    pub namespace: String,
    /// Resource version, opaque.
    #[serde(deserialize_with = "nullable")]
    pub resource_version: String,
    /// What tells the object from an earlier one of its name.
    #[serde(deserialize_with = "nullable")]
    pub uid: String,
    /// When it was created, as RFC 3339 has it; manifests leave it out.
    #[serde(deserialize_with = "nullable")]
    pub creation_timestamp: String,
    /// Labels.
    #[serde(deserialize_with = "nullable")]
    pub labels: Labels,
    /// When its deletion was asked for; missing: it was not.
    pub deletion_timestamp: Option<String>,
    /// Annotations.
    #[serde(deserialize_with = "nullable")]
    pub annotations: Annotations,
}

/// `metadata.annotations`: those that are used.
#[derive(Clone, PartialEq, Hash, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Annotations {
    /// When what an EndpointSlice says was caused, in RFC 3339.
    #[serde(rename = "endpoints.kubernetes.io/last-change-trigger-time")]
    pub last_change_trigger_time: Option<String>,
}

impl Metadata {
    /// Namespace and name.
    pub fn object_name(&self) -> ObjectName {
        ObjectName::new(self.namespace.clone(), self.name.clone())
    }
}

/// `v1` Service.
#[derive(Clone, PartialEq, Hash, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    /// Metadata.
    pub metadata: Metadata,
    /// Spec.
    #[serde(deserialize_with = "nullable")]
    pub spec: ServiceSpec,
    /// Status.
    #[serde(deserialize_with = "nullable")]
    pub status: ServiceStatus,
}

/// `spec` of a Service.
#[derive(Clone, PartialEq, Hash, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalName`; empty: `ClusterIP`.
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub type_: String,
    /// First cluster IP, `None`, or empty.
    #[serde(rename = "clusterIP", deserialize_with = "nullable")]
    pub cluster_ip: String,
    /// One per family.
    #[serde(rename = "clusterIPs", deserialize_with = "nullable")]
    pub cluster_ips: Vec<String>,
    /// `IPv4`, `IPv6`, in the order of `cluster_ips`.
    #[serde(deserialize_with = "nullable")]
    pub ip_families: Vec<String>,
    /// Ports.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<ServicePort>,
    /// External IPs.
    #[serde(rename = "externalIPs", deserialize_with = "nullable")]
    pub external_ips: Vec<String>,
    /// `Cluster` or `Local`.
    #[serde(deserialize_with = "nullable")]
    pub external_traffic_policy: String,
    /// `Cluster` or `Local`.
    #[serde(deserialize_with = "nullable")]
    pub internal_traffic_policy: String,
    /// `None` or `ClientIP`.
    #[serde(deserialize_with = "nullable")]
    pub session_affinity: String,
    /// Its timeout.
    #[serde(deserialize_with = "nullable")]
    pub session_affinity_config: SessionAffinityConfig,
    /// CIDRs that may use the load balancer IPs.
    #[serde(deserialize_with = "nullable")]
    pub load_balancer_source_ranges: Vec<String>,
    /// Port of the per-service health check.
    #[serde(deserialize_with = "nullable")]
    pub health_check_node_port: i32,
}

/// `spec.ports[]`.
#[derive(Clone, PartialEq, Hash, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Name; empty is a name.
    #[serde(deserialize_with = "nullable")]
    pub name: String,
    /// `TCP`, `UDP`, `SCTP`; empty: `TCP`.
    #[serde(deserialize_with = "nullable")]
    pub protocol: String,
    /// Port clients dial.
    pub port: i32,
    /// Port on every node; 0: none.
    #[serde(deserialize_with = "nullable")]
    pub node_port: i32,
}

/// `spec.sessionAffinityConfig`.
#[derive(Clone, PartialEq, Hash, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionAffinityConfig {
    /// For ClientIP.
    #[serde(rename = "clientIP", deserialize_with = "nullable")]
    pub client_ip: ClientIpConfig,
}

/// `spec.sessionAffinityConfig.clientIP`.
#[derive(Clone, PartialEq, Hash, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientIpConfig {
    /// Seconds; the API's default is 10800.
    pub timeout_seconds: Option<i32>,
}

/// `status` of a Service.
#[derive(Clone, PartialEq, Hash, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// Load balancer.
    #[serde(deserialize_with = "nullable")]
    pub load_balancer: LoadBalancerStatus,
}

/// `status.loadBalancer`.
#[derive(Clone, PartialEq, Hash, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerStatus {
    /// Its addresses.
    #[serde(deserialize_with = "nullable")]
    pub ingress: Vec<LoadBalancerIngress>,
}

/// `status.loadBalancer.ingress[]`.
#[derive(Clone, PartialEq, Hash, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LoadBalancerIngress {
    /// Address; empty for hostname-only entries.
    #[serde(deserialize_with = "nullable")]
    pub ip: String,
    /// `VIP` or `Proxy`; empty: `VIP`.
    #[serde(deserialize_with = "nullable")]
    pub ip_mode: String,
}

/// `discovery.k8s.io/v1` EndpointSlice.
#[derive(Clone, PartialEq, Hash, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// Metadata.
    pub metadata: Metadata,
    /// `IPv4`, `IPv6` or `FQDN`.
    #[serde(deserialize_with = "nullable")]
    pub address_type: String,
    /// Endpoints.
    #[serde(deserialize_with = "nullable")]
    pub endpoints: Vec<Endpoint>,
    /// Ports, for every endpoint of the slice.
    #[serde(deserialize_with = "nullable")]
    pub ports: Vec<EndpointPort>,
}

/// `endpoints[]`.
#[derive(Clone, PartialEq, Hash, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Addresses; only the first counts.
    #[serde(deserialize_with = "nullable")]
    pub addresses: Vec<String>,
    /// Conditions.
    #[serde(deserialize_with = "nullable")]
    pub conditions: Conditions,
    /// Node it runs on.
    pub node_name: Option<String>,
    /// Topology hints.
    #[serde(deserialize_with = "nullable")]
    pub hints: Hints,
}

/// `conditions`; what is missing has the default of the API.
#[derive(Clone, PartialEq, Hash, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conditions {
    /// Missing: true.
    pub ready: Option<bool>,
    /// Missing: true.
    pub serving: Option<bool>,
    /// Missing: false.
    pub terminating: Option<bool>,
}

/// `hints`.
#[derive(Clone, PartialEq, Hash, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hints {
    /// Zones it is meant for.
    #[serde(deserialize_with = "nullable")]
    pub for_zones: Vec<Hint>,
    /// Nodes it is meant for.
    #[serde(deserialize_with = "nullable")]
    pub for_nodes: Vec<Hint>,
}

/// One zone or node.
#[derive(Clone, PartialEq, Hash, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Hint {
    /// Its name.
    pub name: String,
}

/// `ports[]` of a slice.
#[derive(Clone, PartialEq, Hash, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointPort {
    /// Name; missing: the port is skipped; empty is a name.
    pub name: Option<String>,
    /// `TCP`, `UDP`, `SCTP`; missing: `TCP`.
    pub protocol: Option<String>,
    /// Port; missing or 0: the port is skipped.
    pub port: Option<i32>,
}

/// `v1` Node.
#[derive(Clone, PartialEq, Hash, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    /// Metadata; the zone is a label.
    pub metadata: Metadata,
    /// Spec.
    #[serde(deserialize_with = "nullable")]
    pub spec: NodeSpec,
    /// Status.
    #[serde(deserialize_with = "nullable")]
    pub status: NodeStatus,
}

/// `spec` of a Node.
#[derive(Clone, PartialEq, Hash, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    /// Where its pods' addresses are, one network of each family.
    #[serde(rename = "podCIDRs", deserialize_with = "nullable")]
    pub pod_cidrs: Vec<String>,
    /// Taints.
    #[serde(deserialize_with = "nullable")]
    pub taints: Vec<Taint>,
}

/// `spec.taints[]`.
#[derive(Clone, PartialEq, Hash, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Taint {
    /// Its key.
    #[serde(deserialize_with = "nullable")]
    pub key: String,
}

/// `status` of a Node.
#[derive(Clone, PartialEq, Hash, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// Addresses.
    #[serde(deserialize_with = "nullable")]
    pub addresses: Vec<NodeAddress>,
}

/// `status.addresses[]`.
#[derive(Clone, PartialEq, Hash, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname`, ...
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub type_: String,
    /// The address.
    #[serde(deserialize_with = "nullable")]
    pub address: String,
}

/// `networking.k8s.io/v1` ServiceCIDR.
#[derive(Clone, PartialEq, Hash, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceCidr {
    /// Metadata.
    pub metadata: Metadata,
    /// Spec.
    #[serde(deserialize_with = "nullable")]
    pub spec: ServiceCidrSpec,
}

/// `spec` of a ServiceCIDR.
#[derive(Clone, PartialEq, Hash, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceCidrSpec {
    /// Networks that ClusterIPs are taken from.
    #[serde(deserialize_with = "nullable")]
    pub cidrs: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nulls_and_missing_fields_are_defaults() {
        let slice: EndpointSlice = serde_json::from_str(
            r#"{"metadata":{"name":"a","labels":null},"addressType":"IPv4","endpoints":null,
                "ports":[{"name":"","port":80}]}"#,
        )
        .unwrap();
        assert!(slice.endpoints.is_empty());
        assert_eq!(slice.ports[0].name.as_deref(), Some(""));
        assert_eq!(slice.ports[0].protocol, None);
    }
}
