//! What the agent says about itself, in its report and in metrics.

use std::time::{Duration, SystemTime};

use anyhow::Result;

use super::Agent;
use crate::apply::Round;
use crate::complaints::{self, Complaint};
use crate::config::Effective;
use crate::metrics;
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
        self.metrics.report(&self.report);
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

    /// From now on changes are measured, and maps may be read.
    pub(super) fn begin_metrics(&mut self) -> Result<()> {
        self.model.measure_from(metrics::since_epoch());
        self.metrics.read_maps(Box::new(self.object.readings()?));
        Ok(())
    }

    /// Changes wait.
    pub(super) fn count_queued(&self) {
        if self.model.has_dirty() {
            self.metrics.queued(self.model.pending());
        }
    }

    /// A round was carried out. Of what Services asked for that do not fit, nothing is served.
    pub(super) fn count_round(&mut self, round: &Round, took: Duration) {
        let mut triggers = self.model.take_triggers();
        triggers.retain(|trigger| !self.reconciler.is_refused(&trigger.service));
        self.metrics.synced(took, round.ops);
        self.metrics.programmed(&triggers);
        self.metrics.planned(&self.reconciler.occupancy(), &self.reconciler.no_local());
    }

    /// Go on with the sweep. True: there are other conditions than before.
    pub(super) fn sweep_flows(&mut self) -> bool {
        let news = self.flows.tick(&self.object.store.flows);
        self.flows.take_pass().into_iter().for_each(|pass| self.metrics.swept(pass));
        news
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
