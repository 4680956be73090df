//! What the loop tells the world about itself, and how it finds out: health and metrics servers,
//! healthCheckNodePorts, the canary.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use millrace_common::address::Family;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::apply::Reconciler;
use crate::canary::rows;
use crate::canary::sockets::{News, Sockets};
use crate::canary::tally::{Score, Tally};
use crate::config::Effective;
use crate::health::Monitor;
use crate::health::node_ports::{NodePorts, Wanted};
use crate::health::notices::{Board, Notices};
use crate::health::servers::{self, Answered, Sources};
use crate::metrics::Metrics;
use crate::model::Model;

/// The loop's side of all that.
pub struct Serving {
    /// How the agent is.
    pub monitor: Monitor,
    /// What `/configz` says.
    configz: watch::Sender<String>,
    servers: JoinHandle<Result<()>>,
    notices: [watch::Receiver<Notices>; 2],
    /// Servers that end say why; that their board is gone must not be heard first.
    _board: Board,
    node_ports: watch::Sender<Wanted>,
    sockets: Option<Sockets>,
    news: watch::Receiver<News>,
    /// Never sends, while there are no sockets to speak of.
    _silence: Option<watch::Sender<News>>,
    /// The packet path's; nothing: not sent yet.
    packets: Option<Tally>,
    /// What the canary fails at, and was said to.
    failing: Vec<(String, String)>,
    /// Programs can tell which sockets are the node's own.
    knows_namespace: bool,
}

impl Serving {
    /// Start the servers, and a helper for the sockets that are served below a cgroup; none: none
    /// are. `knows_namespace`: programs can tell which sockets are the node's own.
    pub fn start(
        config: &Effective,
        cgroup: Option<&Path>,
        knows_namespace: bool,
        metrics: &Metrics,
    ) -> Result<Self> {
        let monitor = Monitor::new(config.sync_period);
        let (configz, shown) = watch::channel(config.configz().to_string());
        let (board, notices) = Board::new();
        let (port_board, port_notices) = Board::new();
        let sources = Sources {
            monitor: monitor.clone(),
            metrics: render(metrics.clone()),
            config: Arc::new(move || shown.borrow().clone()),
            answered: count(metrics.clone()),
        };
        let servers = tokio::spawn(servers::run(config.servers(), sources, board.clone()));
        let (node_ports, wanted) = watch::channel(Wanted::default());
        tokio::spawn(NodePorts::new(monitor.clone(), port_board).run(wanted));
        let sockets = cgroup.map(|root| Sockets::start(root, metrics.clone())).transpose()?;
        let (silence, silent) = watch::channel(News::default());
        Ok(Self {
            monitor,
            configz,
            servers,
            notices: [notices, port_notices],
            _board: board,
            node_ports,
            news: sockets.as_ref().map_or(silent, Sockets::news),
            _silence: sockets.is_none().then_some(silence),
            sockets,
            packets: None,
            failing: Vec::new(),
            knows_namespace,
        })
    }

    /// The operator wants something else.
    pub fn configure(&self, config: &Effective) {
        self.monitor.set_sync_period(config.sync_period);
        self.configz.send_replace(config.configz().to_string());
    }

    /// Wait until something is new. An error ends the agent.
    pub async fn changed(&mut self) -> Result<()> {
        let [notices, port_notices] = &mut self.notices;
        tokio::select! {
            ended = &mut self.servers => super::bail_on(ended, "the servers of health and metrics"),
            changed = self.news.changed() => Ok(changed?),
            changed = notices.changed() => Ok(changed?),
            changed = port_notices.changed() => Ok(changed?),
        }
    }

    /// Plan the canary's own Service, as soon as it is known where its helper listens. False: it is
    /// not yet.
    pub fn place_canary(&self, model: &mut Model) -> bool {
        let news = self.news.borrow();
        let is_placed = self.sockets.is_none() || news.ports.is_some() || news.trouble.is_some();
        if is_placed {
            model.set_internal(rows::desired(news.ports.unwrap_or_default(), self.knows_namespace));
        }
        is_placed
    }

    /// The canary's rows are written and the programs attached.
    pub fn begin_canary(&self) {
        self.sockets.iter().for_each(Sockets::begin);
    }

    /// What the packet path says of it.
    pub fn take_packets(&mut self, packets: Option<Tally>) {
        self.packets = packets;
    }

    /// Whether the canary came through every hook; nothing: it was not sent through all yet.
    pub fn canary_passes(&self) -> Option<bool> {
        let news = self.news.borrow();
        let packets = self.packets.as_ref()?;
        let known = self.sockets.is_none() || news.checked;
        known.then(|| news.tally.passes() && packets.passes())
    }

    /// Log where the canary has begun to fail: who waits for readiness must be able to see why it
    /// does not come.
    pub fn say_what_fails(&mut self) {
        let of_sockets: Vec<_> = self.news.borrow().tally.conditions().collect();
        let of_packets = self.packets.iter().flat_map(Tally::conditions);
        let failing: Vec<_> = of_sockets.into_iter().chain(of_packets).collect();
        for (about, message) in failing.iter().filter(|failure| !self.failing.contains(failure)) {
            tracing::error!("{about}: {message}");
        }
        self.failing = failing;
    }

    fn canary_fails(&self, family: Family) -> bool {
        let of_packets = self.packets.as_ref().is_some_and(|tally| tally.fails(family));
        of_packets || self.news.borrow().tally.fails(family)
    }

    /// Say that the loop turns, and what it knows.
    pub fn turns(&self, model: &Model) {
        self.monitor.turns(model.is_node_eligible(), |family| self.canary_fails(family));
    }

    /// Everything that waited is applied: so may be what load balancers are told.
    pub fn applied(&self, model: &Model, reconciler: &Reconciler) {
        self.monitor.updated();
        let wanted = Wanted {
            checks: reconciler.health().clone(),
            v4: model.health_check_addresses(Family::V4),
            v6: model.health_check_addresses(Family::V6),
        };
        self.node_ports.send_if_modified(|known| {
            let changed = *known != wanted;
            *known = wanted;
            changed
        });
    }

    /// The canary's score, hook by hook.
    pub fn scores(&self) -> Vec<Score> {
        let sockets = self.news.borrow().tally.clone();
        let packets = self.packets.clone().unwrap_or_default();
        sockets.scores().chain(packets.scores()).collect()
    }

    /// What a person should know: what it is about, and what is wrong.
    pub fn conditions(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for notices in &self.notices {
            found.extend(notices.borrow().clone());
        }
        let news = self.news.borrow();
        found.extend(news.tally.conditions());
        found.extend(self.packets.iter().flat_map(Tally::conditions));
        found.extend(news.trouble.as_ref().map(|trouble| {
            let message = format!(
                "{trouble}: it is not known whether sockets are translated; the agent must be able \
                 to make a cgroup below --cgroup-root and start itself"
            );
            ("canary".to_owned(), message)
        }));
        found
    }

    /// End what does not end with the process.
    pub fn stop(&mut self) {
        self.sockets.iter_mut().for_each(Sockets::stop);
    }
}

/// `/metrics`. Reading the maps blocks: the runtime is told, and does its other work elsewhere.
fn render(metrics: Metrics) -> Arc<dyn Fn() -> String + Send + Sync> {
    Arc::new(move || tokio::task::block_in_place(|| metrics.render()))
}

/// Counts the answers of the health server.
fn count(metrics: Metrics) -> Answered {
    Arc::new(move |path, code| match path {
        "/healthz" => metrics.healthz(code.as_u16()),
        "/livez" => metrics.livez(code.as_u16()),
        _ => {}
    })
}
