//! What the agent says about itself, in its report and in metrics.

use std::time::{Duration, SystemTime};

use anyhow::Result;

use super::Agent;
use crate::apply::Round;
use crate::config::Effective;
use crate::metrics;
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
        let configuration = self.configuration.conditions();
        of_objects.chain(packets).chain(flows).chain(serving).chain(configuration).collect()
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
