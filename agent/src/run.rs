//! `millrace run`: the order in which things start, the loop, and how it ends.
//!
//! The kernel goes on by itself: whatever happens here, what is pinned keeps translating.

mod configuration;
mod owner;
mod serving;
mod telling;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

use crate::apply::Reconciler;
use crate::bpf::attach::MENDED_WITHIN;
use crate::bpf::environment;
use crate::bpf::object::{Object, PacketBuild, Settings};
use crate::bpf::pins::{Lock, Pins};
use crate::canary::rows;
use crate::config::finding::Findings;
use crate::config::watch::Reloaded;
use crate::config::{Effective, Source};
use crate::devices::Device;
use crate::events::{Recorder, Weight, reason};
use crate::flows::Sweeper;
use crate::metrics::Metrics;
use crate::model::Model;
use crate::net;
use crate::packet_path::{Facts, PacketPath};
use crate::report::Report;
use crate::socket_path::SocketPath;
use crate::source::open::Opened;
use crate::source::{EVENT_QUEUE_EVENTS, Event};

use self::configuration::Configuration;
use self::serving::Serving;

/// How often it is looked whether the guard is needed.
const TICK: Duration = Duration::from_millis(250);
/// Ticks between reports.
const HOUSEKEEPING_TICKS: u64 = 4;
/// Ticks between looks at the sockets' hooks.
const HOOK_TICKS: u64 = 2;
/// What a look finds is mended with the next tick.
const _: () = {
    let worst = TICK.as_millis() * (HOOK_TICKS as u128 + 1);
    assert!(worst < MENDED_WITHIN.as_millis());
};
/// Ticks between attempts to fit in services that were refused: what others give up becomes free
/// after the planner's grace period.
const RETRY_REFUSED_TICKS: u64 = 24;
/// How long the first plan waits for the Node object, as long as kube-proxy does.
const NODE_WAIT: Duration = Duration::from_secs(30);
/// Events taken before a round, at most: a flood must not keep what is known from being applied.
const EVENTS_PER_ROUND: usize = 65_536;

/// A configuration, what is to be said about it, and where changes of it come from.
pub struct Start {
    /// The configuration.
    pub config: Effective,
    /// What is to be said about it.
    pub findings: Findings,
    /// Changes of the file.
    pub changes: mpsc::Receiver<Reloaded>,
}

/// Do what comes before serving, once: look at the node, load the programs, pin the maps.
pub fn prepare(config: &Effective) -> Result<()> {
    let loaded = Loaded::new(config)?;
    loaded.lock.release();
    tracing::info!("the node has what is needed; programs are loaded and maps pinned");
    Ok(())
}

/// Run until SIGTERM or SIGINT.
pub async fn run(mut start: Start) -> Result<()> {
    let mut source = start.config.source.clone();
    let node_name = start.config.node_name.clone();
    let metrics = Metrics::new().context("set up the metrics")?;
    let opened = Opened::open(&source, &node_name, metrics.requests()).await?;
    let (events, mut queue) = mpsc::channel(EVENT_QUEUE_EVENTS);
    let recorder = Recorder::start(&node_name, opened.sink(), events.clone());
    let mut agent = Agent::start(&start, recorder, metrics)?;
    agent.recorder.once_about_node(Weight::Normal, reason::STARTING, "");
    let (found, mut devices) = watch::channel(None);
    let mut follower = tokio::spawn(net::devices::follow(found));
    let mut packet_outcomes = agent.packet_path.outcomes();
    let mut watcher = tokio::spawn(opened.watch(node_name.clone(), events.clone()));
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = tick.tick() => agent.tick(),
            Some(event) = queue.recv() => {
                agent.take(event);
                for _ in 1..EVENTS_PER_ROUND {
                    let Ok(event) = queue.try_recv() else { break };
                    agent.take(event);
                }
            }
            Ok(()) = devices.changed() => {
                let found = devices.borrow_and_update().clone();
                found.into_iter().for_each(|devices| agent.take_devices(devices));
            }
            Some(reloaded) = start.changes.recv() => {
                if let Some(wanted) = agent.reload(reloaded, &source) {
                    match Opened::open(&wanted, &node_name, agent.metrics.requests()).await {
                        Ok(opened) => {
                            // A full list follows, and with it what is no longer there goes.
                            watcher.abort();
                            agent.change_source(&wanted);
                            agent.recorder.write_to(opened.sink());
                            let again = opened.watch(node_name.clone(), events.clone());
                            watcher = tokio::spawn(again);
                            source = wanted;
                        }
                        Err(error) => agent.configuration.failed(&format!("{error:#}")),
                    }
                }
            }
            ended = packet_outcomes.changed() => {
                // What it was is read where it is needed.
                ended.context("the packet path's thread ended")?;
                agent.news = true;
            }
            changed = agent.serving.changed() => {
                changed?;
                agent.news = true;
            }
            ended = &mut watcher => bail_on(ended, "the source of Services")?,
            ended = &mut follower => bail_on(ended, "the watch over the node's devices")?,
        }
        agent.reconcile();
    }
    agent.leave();
    watcher.abort();
    follower.abort();
    Ok(())
}

/// A task that ends, ends the agent: its supervisor starts it anew, and the kernel goes on
/// meanwhile.
fn bail_on(ended: Result<Result<()>, tokio::task::JoinError>, what: &str) -> Result<()> {
    match ended {
        Ok(Ok(())) => bail!("{what} ended"),
        Ok(Err(error)) => Err(error.context(format!("{what} failed"))),
        Err(error) => Err(anyhow::Error::new(error).context(format!("{what} crashed"))),
    }
}

/// Everything the loop owns.
struct Agent {
    model: Model,
    reconciler: Reconciler,
    recorder: Recorder,
    object: Object,
    pins: Pins,
    socket_path: SocketPath,
    packet_path: PacketPath,
    serving: Serving,
    flows: Sweeper,
    metrics: Metrics,
    report: Report,
    reported: Option<String>,
    /// Something happened since the last report.
    news: bool,
    started: Instant,
    ticks: u64,
    /// The first plan was carried out, and every program attached.
    applied: bool,
    /// It was said that it is ready.
    was_ready: bool,
    swept: bool,
    knows_addresses: bool,
    lock: Lock,
    configuration: Configuration,
    /// When the last round ended.
    last_round: Option<Instant>,
    /// When it was last looked whether the guard is needed.
    guard_minded: Instant,
}

/// What comes before serving.
struct Loaded {
    cgroup_root: PathBuf,
    pins: Pins,
    lock: Lock,
    object: Object,
    /// Programs can tell the node's own sockets from those of pods, wherever the agent runs.
    knows_namespace: bool,
}

impl Loaded {
    /// Look at the node, become the owner, load.
    fn new(config: &Effective) -> Result<Self> {
        environment::use_small_pages();
        environment::check()?;
        environment::lift_memory_limit()?;
        let cgroup_root = environment::cgroup_root(config.cgroup_root.as_deref())?;
        let bpffs = environment::bpffs(config.bpffs.as_deref())?;
        let pins = Pins::new(&bpffs);
        std::fs::create_dir_all(pins.root())
            .with_context(|| format!("create {}", pins.root().display()))?;
        let lock = owner::become_owner(&pins)?;
        let settings = Settings {
            capacity: rows::with_reserve(config.capacity),
            flows: config.flows,
            node_netns_cookie: net::cookie::netns_cookie()
                .context("read the network namespace's cookie")?
                .unwrap_or(0),
            packets: PacketBuild::of_this_kernel(),
        };
        let object = Object::load(&pins, &settings)?;
        let knows_namespace = settings.node_netns_cookie != 0;
        Ok(Self { cgroup_root, pins, lock, object, knows_namespace })
    }
}

impl Agent {
    /// Load, adopt what is pinned.
    fn start(start: &Start, recorder: Recorder, metrics: Metrics) -> Result<Self> {
        let config = &start.config;
        let Loaded { cgroup_root, pins, lock, mut object, knows_namespace } = Loaded::new(config)?;
        let reconciler = Reconciler::recover(&mut object.store)?;
        let hooks = config.device_hooks;
        let packet_path = PacketPath::new(&object, &pins, &config.policy, hooks, &metrics)?;
        let mut model = Model::new(config.node_name.clone(), config.policy.clone());
        model.guard_api_server(matches!(config.source, Source::Kubernetes { .. }));
        let sockets = config.policy.socket_lb.then_some(cgroup_root.as_path());
        let mut agent = Self {
            model,
            reconciler,
            recorder,
            object,
            pins,
            serving: Serving::start(config, sockets, knows_namespace, &metrics)?,
            report: telling::first_report(config, &cgroup_root, &packet_path),
            socket_path: SocketPath::new(cgroup_root, config.policy.socket_lb),
            packet_path,
            flows: Sweeper::new(config.timeouts),
            metrics,
            reported: None,
            news: false,
            started: Instant::now(),
            ticks: 0,
            applied: false,
            was_ready: false,
            swept: false,
            knows_addresses: false,
            lock,
            configuration: Configuration::new(config.clone(), &start.findings),
            last_round: None,
            guard_minded: Instant::now(),
        };
        agent.begin_metrics()?;
        agent.model.set_api_servers(config.source.api_addresses());
        // The maps have been serving: bring their programs up to date at once. New maps are
        // attached when they are filled.
        if agent.object.adopted {
            agent.socket_path.attach(&agent.object, &agent.pins)?;
            agent.packet_path.start();
            // Until now the report is our predecessor's, who may have been ready.
            agent.tell();
            tracing::info!("adopted the pinned maps; the kernel never stopped serving from them");
        }
        Ok(agent)
    }

    fn take(&mut self, event: Event) {
        self.news = true;
        self.metrics.event(&event);
        self.model.apply(event);
    }

    fn take_devices(&mut self, devices: Vec<Device>) {
        let known = devices.iter().flat_map(|device| &device.addresses);
        let addresses = known.map(|known| known.address).collect();
        self.knows_addresses = true;
        self.model.set_node_addresses(addresses);
        self.packet_path.set_devices(devices);
    }

    /// Whether the Node was seen, or waited for long enough.
    fn is_node_settled(&self) -> bool {
        self.model.is_node_listed() || self.started.elapsed() > NODE_WAIT
    }

    /// Whether enough is known to plan. Half a list would take away backends that are alive, and
    /// without addresses all NodePorts would go. The Node is waited for, but not for ever.
    fn may_plan(&mut self) -> bool {
        let is_canary_placed = self.serving.place_canary(&mut self.model);
        is_canary_placed && self.model.is_synced() && self.knows_addresses && self.is_node_settled()
    }

    /// Tell the packet path what it must know of this node.
    fn update_packet_path(&mut self) {
        self.packet_path.update(Facts {
            node: self.model.node_facts(),
            settled: self.is_node_settled(),
            services: self.model.service_networks(),
        });
    }

    /// Apply what is dirty.
    fn reconcile(&mut self) {
        self.update_packet_path();
        self.count_queued();
        if !self.may_plan() {
            return;
        }
        if !self.swept {
            self.swept = true;
            self.reconciler.mark_known(&mut self.model);
        }
        if self.model.has_dirty() && !self.is_too_soon() {
            let dropped = self.reconciler.drops();
            self.round();
            // A look at the sockets' records is too much for every round of many.
            let may_look = self.guard_minded.elapsed() >= TICK;
            let is_needed = (self.reconciler.drops() && !dropped)
                || (self.reconciler.is_udp_gone() && may_look);
            if self.applied && is_needed {
                self.mind_guard();
            }
        }
        if !self.applied {
            self.first_sync();
        }
        self.mind_canary();
    }

    /// Ready is who has seen that it works.
    fn mind_canary(&mut self) {
        self.serving.take_packets(self.packet_path.canary());
        self.serving.say_what_fails();
        let passes = self.applied && self.serving.canary_passes() == Some(true);
        if passes == self.report.ready {
            return;
        }
        self.report.ready = passes;
        if !passes {
            tracing::error!("not ready any more: the canary is not translated (millrace status)");
        } else if std::mem::replace(&mut self.was_ready, true) {
            tracing::info!("ready again: the canary is translated");
        } else {
            let elapsed = self.started.elapsed();
            tracing::info!(ops = self.report.ops, ?elapsed, "ready: Services are served");
        }
        self.serving.turns(&self.model);
        self.tell();
    }

    /// The operator wants rounds to be further apart: the next tick comes by again.
    fn is_too_soon(&self) -> bool {
        let least = self.configuration.in_force().min_sync_period;
        self.applied && self.last_round.is_some_and(|ended| ended.elapsed() < least)
    }

    /// The configuration file says something else. Some: another source, or the same one anew.
    fn reload(&mut self, reloaded: Reloaded, source: &Source) -> Option<Source> {
        self.news = true;
        if !self.configuration.take(reloaded) {
            return None;
        }
        let config = self.configuration.in_force();
        self.flows.set_timeouts(config.timeouts);
        self.serving.configure(config);
        self.packet_path.set_policy(config.policy.clone());
        let lists_anew = self.model.set_policy(config.policy.clone());
        (lists_anew || config.source != *source).then(|| config.source.clone())
    }

    fn change_source(&mut self, source: &Source) {
        self.model.forget_source_conditions();
        self.model.guard_api_server(matches!(source, Source::Kubernetes { .. }));
        self.model.set_api_servers(source.api_addresses());
        self.report.source.clone_from(&self.configuration.in_force().source_chosen);
    }

    fn round(&mut self) {
        self.news = true;
        self.serving.monitor.queued();
        let begun = Instant::now();
        let now = begun.duration_since(self.started);
        match self.reconciler.round(&mut self.model, &mut self.object.store, now) {
            Ok(round) => {
                self.report.ops += round.ops as u64;
                self.serving.applied(&self.model, &self.reconciler);
                let elapsed = begun.elapsed();
                self.count_round(&round, elapsed);
                tracing::debug!(services = round.services, ops = round.ops, ?elapsed, "applied");
            }
            Err(error) => {
                self.report.failed_rounds += 1;
                self.metrics.sync_failed();
                self.model.mark_all_dirty();
                tracing::error!("applying failed, will read the maps back and retry: {error:#}");
            }
        }
        self.last_round = Some(Instant::now());
    }

    /// The first plan is carried out: let sockets use it, and say so.
    fn first_sync(&mut self) {
        if self.report.failed_rounds > 0 && self.model.has_dirty() {
            return;
        }
        if let Err(error) = self.socket_path.attach(&self.object, &self.pins) {
            tracing::error!("cannot attach, will retry: {error:#}");
            return;
        }
        self.packet_path.start();
        self.update_packet_path();
        if !self.packet_path.is_done() {
            // Its outcome wakes us.
            return;
        }
        if let Err(error) = self.programs_are_attached() {
            tracing::error!("cannot put the new programs in force, will retry: {error:#}");
            return;
        }
        self.mind_guard();
        self.applied = true;
        self.report.synced = true;
        self.serving.turns(&self.model);
        self.serving.begin_canary();
        self.packet_path.begin_canary();
        self.update_packet_path();
        self.tell();
        give_back_memory();
    }

    /// The programs behind the hooks use the new maps: give those their names. Sockets that are to
    /// be left alone were served until now.
    fn programs_are_attached(&mut self) -> Result<()> {
        if let Err(error) = self.object.catch_up() {
            tracing::warn!("flows that began a moment ago are forgotten: {error:#}");
        }
        if self.pins.new_maps().exists() {
            self.pins.promote_new_maps().context("put the new maps in force")?;
        }
        self.pins.forget_other_layouts().context("remove the maps of another version")?;
        self.socket_path.leave_if_off(&self.pins)
    }

    fn tick(&mut self) {
        self.ticks += 1;
        if self.applied {
            self.mind_guard();
        }
        self.serving.turns(&self.model);
        if self.ticks.is_multiple_of(RETRY_REFUSED_TICKS) {
            self.reconciler.retry_refused(&mut self.model);
        }
        let mended = self.socket_path.mend_hooks(&self.object, &self.pins);
        self.news |= mended > 0;
        self.report.repaired_hooks += mended;
        self.news |= self.sweep_flows();
        if self.applied && self.ticks.is_multiple_of(HOOK_TICKS) {
            self.socket_path.look_at_hooks(&self.pins);
        }
        let is_time = self.ticks.is_multiple_of(HOUSEKEEPING_TICKS);
        if is_time && std::mem::replace(&mut self.news, false) {
            self.tell();
            give_back_memory();
        }
    }

    fn mind_guard(&mut self) {
        self.guard_minded = Instant::now();
        let (gone, drops) = (self.reconciler.take_udp_gone(), self.reconciler.drops());
        self.socket_path.mind_guard(&self.object, &self.pins, gone, drops);
    }

    fn leave(&mut self) {
        self.serving.stop();
        self.packet_path.stop();
        self.tell();
        self.lock.release();
        tracing::info!("stopping; what is pinned keeps serving");
    }
}

/// Return to the system what decoding the initial lists left free: several times what is kept.
fn give_back_memory() {
    // SAFETY: takes a flag; no memory in use is touched.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
