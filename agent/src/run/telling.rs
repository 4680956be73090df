//! What the agent says about itself in its report.

use std::time::SystemTime;

use super::Agent;
use crate::complaints::{self, Complaint};
use crate::config::Effective;
use crate::packet_path::PacketPath;
use crate::report::{Condition, Report, Severity};

impl Agent {
    /// Write the report, if it says anything new.
    pub(super) fn tell(&mut self) {
        let objects = complaints::of_objects(&self.model, &self.reconciler);
        let servers = self.serving.conditions();
        let servers = complaints::of_servers(&self.model, &self.report.node_name, &servers);
        let notices = servers.into_iter().chain(complaints::notices(&self.model, &objects));
        self.recorder.standing(notices.collect());
        self.report.conditions = self.conditions(objects);
        self.report.canary = self.serving.scores();
        self.report.repaired_device_hooks = self.packet_path.repaired();
        let json = self.report.to_json();
        if self.reported.as_ref() == Some(&json) {
            return;
        }
        match self.object.store.set_report(&json) {
            Ok(()) => self.reported = Some(json),
            Err(error) => tracing::error!("cannot write the report: {error}"),
        }
    }

    /// What a person should know, from everybody who knows something.
    fn conditions(&self, objects: Vec<Complaint>) -> Vec<Condition> {
        let warning = |(about, message): (String, String)| Condition {
            severity: Severity::Warning,
            about,
            message,
        };
        let general = self.model.general_conditions().into_iter().map(warning);
        let packets = self.packet_path.conditions().into_iter().map(warning);
        let flows = self.flows.conditions();
        let configuration = self.configuration.conditions();
        let serving = self.serving.conditions().into_iter().map(warning);
        let objects = complaints::conditions(objects).chain(general);
        objects.chain(packets).chain(flows).chain(serving).chain(configuration).collect()
    }
}

/// What is known at the start.
pub fn first_report(
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
