//! All that the agent asks of an API server. A ClusterRole needs these rights and no others:
//! `deploy/manifests/install.yaml` is checked against them.

/// A resource, and what is done with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Right {
    /// API group; empty: the core's.
    pub group: &'static str,
    /// Resource.
    pub resource: &'static str,
    /// Path of its objects in all namespaces.
    pub path: &'static str,
    /// Verbs.
    pub verbs: &'static [&'static str],
}

impl Right {
    /// To what is followed.
    const fn to_follow(group: &'static str, resource: &'static str, path: &'static str) -> Self {
        Self { group, resource, path, verbs: &["list", "watch"] }
    }
}

/// Services.
pub const SERVICES: Right = Right::to_follow("", "services", "/api/v1/services");
/// EndpointSlices.
pub const ENDPOINT_SLICES: Right = Right::to_follow(
    "discovery.k8s.io",
    "endpointslices",
    "/apis/discovery.k8s.io/v1/endpointslices",
);
/// The own Node.
pub const NODES: Right = Right::to_follow("", "nodes", "/api/v1/nodes");
/// ServiceCIDRs.
pub const SERVICE_CIDRS: Right = Right::to_follow(
    "networking.k8s.io",
    "servicecidrs",
    "/apis/networking.k8s.io/v1/servicecidrs",
);
/// Events, in the namespace of what they are about.
pub const EVENTS: Right = Right {
    group: "events.k8s.io",
    resource: "events",
    path: "/apis/events.k8s.io/v1/events",
    verbs: &["create", "patch"],
};

/// All of them.
pub const ALL: [Right; 5] = [SERVICES, ENDPOINT_SLICES, NODES, SERVICE_CIDRS, EVENTS];

#[cfg(test)]
mod tests {
    use k8s_openapi::Resource;
    use k8s_openapi::api::core::v1::{Node, Service};
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use k8s_openapi::api::events::v1::Event;
    use k8s_openapi::api::networking::v1::ServiceCIDR;

    use super::*;

    fn of<T: Resource>(right: Right) {
        assert_eq!((right.group, right.resource), (T::GROUP, T::URL_PATH_SEGMENT));
        let prefix = if T::GROUP.is_empty() {
            "/api/v1".into()
        } else {
            format!("/apis/{}/{}", T::GROUP, T::VERSION)
        };
        assert_eq!(right.path, format!("{prefix}/{}", T::URL_PATH_SEGMENT));
    }

    #[test]
    fn rights_are_about_resources_that_exist() {
        of::<Service>(SERVICES);
        of::<EndpointSlice>(ENDPOINT_SLICES);
        of::<Node>(NODES);
        of::<ServiceCIDR>(SERVICE_CIDRS);
        of::<Event>(EVENTS);
    }
}
