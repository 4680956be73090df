//! kube-proxy's metrics about changes of Services and EndpointSlices.

use prometheus::{IntCounter, IntGauge, Registry, Result};

use super::instruments::Instruments;

pub(super) struct Changes {
    pub(super) endpoints_pending: IntGauge,
    pub(super) endpoints: IntCounter,
    pub(super) services_pending: IntGauge,
    pub(super) services: IntCounter,
}

impl Changes {
    pub(super) fn new(registry: &Registry) -> Result<Self> {
        let new = Instruments(registry);
        Ok(Self {
            endpoints_pending: new.gauge(
                "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
                "Changes of EndpointSlices that are not in the maps yet",
            )?,
            endpoints: new.counter(
                "kubeproxy_sync_proxy_rules_endpoint_changes_total",
                "EndpointSlices that the source told of",
            )?,
            services_pending: new.gauge(
                "kubeproxy_sync_proxy_rules_service_changes_pending",
                "Changes of Services that are not in the maps yet",
            )?,
            services: new.counter(
                "kubeproxy_sync_proxy_rules_service_changes_total",
                "Services that the source told of",
            )?,
        })
    }
}
