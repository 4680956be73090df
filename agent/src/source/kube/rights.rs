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

/// What is followed.
const FOLLOW: &[&str] = &["list", "watch"];

/// Services.
pub const SERVICES: Right =
    Right { group: "", resource: "services", path: "/api/v1/services", verbs: FOLLOW };
/// EndpointSlices.
pub const ENDPOINT_SLICES: Right = Right {
    group: "discovery.k8s.io",
    resource: "endpointslices",
    path: "/apis/discovery.k8s.io/v1/endpointslices",
    verbs: FOLLOW,
};
/// The own Node.
pub const NODES: Right =
    Right { group: "", resource: "nodes", path: "/api/v1/nodes", verbs: FOLLOW };
/// ServiceCIDRs.
pub const SERVICE_CIDRS: Right = Right {
    group: "networking.k8s.io",
    resource: "servicecidrs",
    path: "/apis/networking.k8s.io/v1/servicecidrs",
    verbs: FOLLOW,
};
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
