//! What the agent says about itself in its report.

use std::time::SystemTime;

use super::{Agent, Config, Source};
use crate::packet_path::PacketPath;
use crate::report::{Condition, Report, Severity};

impl Agent {
    /// What a person should know, from everybody who knows something.
    pub(super) fn conditions(&self) -> Vec<Condition> {
        let warning = |about: String, message: &str| Condition {
            severity: Severity::Warning,
            about,
            message: message.to_owned(),
        };
        let refused = self.reconciler.refused().map(|(name, message)| Condition {
            severity: Severity::Refused,
            about: format!("Service {name}"),
            message: message.to_owned(),
        });
        let conflicts = self.reconciler.conflicts();
        let conflicts =
            conflicts.map(|(name, message)| warning(format!("Service {name}"), message));
        let objects = self.model.conditions();
        let objects = objects.into_iter().map(|(about, message)| warning(about, &message));
        let packets = self.packet_path.conditions();
        let packets = packets.into_iter().map(|(about, message)| warning(about, &message));
        let flows = self.flows.conditions();
        let serving = self.serving.conditions().into_iter();
        let serving = serving.map(|(about, message)| warning(about, &message));
        let of_objects = refused.chain(conflicts).chain(objects);
        of_objects.chain(packets).chain(flows).chain(serving).collect()
    }
}

/// What is known at the start.
pub fn first_report(
    config: &Config,
    cgroup_root: &std::path::Path,
    packet_path: &PacketPath,
) -> Report {
    let source = match &config.source {
        Source::Manifests(directory) => format!("manifests in {}", directory.display()),
        Source::Kubernetes { kubeconfig: Some(path), api_server: None } => {
            format!("Kubernetes API of {}", path.display())
        }
        Source::Kubernetes { api_server: Some(url), .. } => format!("Kubernetes API at {url}"),
        Source::Kubernetes { .. } => "Kubernetes API, in-cluster".to_owned(),
    };
    Report {
        version: env!("MILLRACE_VERSION").to_owned(),
        pid: std::process::id(),
        node_name: config.node_name.clone(),
        source,
        cgroup_root: cgroup_root.display().to_string(),
        sockets_off: !config.policy.socket_lb,
        device_hooks: packet_path.means().name().to_owned(),
        started_at: SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs(),
        ..Report::default()
    }
}
