//! Reasons of Events, and what was done in each case. kube-proxy's where it has the same.

/// The agent starts (Node).
pub const STARTING: &str = "Starting";
/// The port for `/healthz` cannot be bound (Node).
pub const HEALTH_SERVER: &str = "FailedToStartProxierHealthcheck";
/// The port for `/metrics` cannot be bound (Node).
pub const METRICS_SERVER: &str = "FailedToStartMetricServer";
/// A Service's healthCheckNodePort cannot be bound (Service).
pub const SERVICE_HEALTH_SERVER: &str = "FailedToStartServiceHealthcheck";
/// A field cannot be used, whatever else there is.
pub const FIELD_REJECTED: &str = "FieldRejected";
/// The object cannot be read at all.
pub const UNREADABLE: &str = "Unreadable";
/// An address that is asked for is somebody else's (Service).
pub const FRONTEND_REJECTED: &str = "FrontendRejected";
/// Another Service has the address and port (Service).
pub const FRONTEND_CONFLICT: &str = "FrontendConflict";
/// Another Service wants the address and port that this one has (Service).
pub const FRONTEND_CONTESTED: &str = "FrontendContested";
/// An endpoint gets no traffic (Service).
pub const ENDPOINT_REJECTED: &str = "EndpointRejected";
/// The Service does not fit the maps (Service).
pub const MAP_FULL: &str = "MapFull";
/// The Service is larger than any may be (Service).
pub const TOO_LARGE: &str = "ServiceTooLarge";

/// What was done.
pub fn action(reason: &str) -> &'static str {
    match reason {
        STARTING => "StartKubeProxy",
        HEALTH_SERVER => "StartKubeProxyHealthcheck",
        METRICS_SERVER => "StartKubeProxyMetricServer",
        SERVICE_HEALTH_SERVER => "Listen",
        UNREADABLE | MAP_FULL | TOO_LARGE => "KeepLastGoodState",
        FRONTEND_CONTESTED => "KeepFrontend",
        _ => "LeaveOut",
    }
}
