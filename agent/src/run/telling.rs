//! What the agent says about itself in its report.

use std::time::SystemTime;

use super::Agent;
use crate::complaints::{self, Complaint};
use crate::config::Effective;
use crate::packet_path::PacketPath;
use crate::report::{Condition, Report, Severity};

impl Agent {
    /// What a person should know, from everybody who knows something.
    pub(super) fn conditions(&self, objects: Vec<Complaint>) -> Vec<Condition> {
        let warning = |(about, message): (String, String)| Condition {
            severity: Severity::Warning,
            about,
            message,
        };
        let general = self.model.general_conditions().into_iter().map(warning);
        let packets = self.packet_path.conditions().into_iter().map(warning);
        let flows = self.flows.conditions();
        let configuration = self.configuration.conditions();
        let objects = complaints::conditions(objects).chain(general);
        objects.chain(packets).chain(flows).chain(configuration).collect()
    }
}

/// What is known at the start.
pub(super) fn first_report(
    config: &Effective,
    cgroup_root: &std::path::Path,
    packet_path: &PacketPath,
) -> Report {
    Report {
        version: env!("MILLRACE_VERSION").to_owned(),
        pid: std::process::id(),
        node_name: config.node_name.clone(),
        source: config.source_chosen.clone(),
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
