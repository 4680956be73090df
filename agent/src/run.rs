//! `millrace run`: the order in which things start, the loop, and how it ends.
//!
//! The kernel goes on by itself: whatever happens here, what is pinned keeps translating.

mod telling;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

use crate::apply::Reconciler;
use crate::bpf::environment;
use crate::bpf::object::{FlowCapacity, Object, Settings};
use crate::bpf::packet::Means;
use crate::bpf::pins::{Lock, Pins};
use crate::complaints;
use crate::devices::Device;
use crate::events::{Recorder, Sink, Weight, reason};
use crate::flows::Sweeper;
use crate::model::Model;
use crate::net;
use crate::packet_path::{Facts, PacketPath};
use crate::plan::op::Capacity;
use crate::report::Report;
use crate::settings::Policy;
use crate::socket_path::SocketPath;
use crate::source::kube::KubeConfig;
use crate::source::{self, EVENT_QUEUE_EVENTS, Event};

/// How often it is looked whether the guard is needed.
const TICK: Duration = Duration::from_millis(250);
/// Ticks between looks at the hooks and reports.
const HOUSEKEEPING_TICKS: u64 = 4;
/// Ticks between attempts to fit in services that were refused: what others give up becomes free
/// after the planner's grace period.
const RETRY_REFUSED_TICKS: u64 = 24;
/// How long the first plan waits for the Node object, as long as kube-proxy does.
const NODE_WAIT: Duration = Duration::from_secs(30);
/// How long to wait for another agent to let go of the pins.
const OWNER_WAIT: Duration = Duration::from_secs(30);
/// How often to look whether it has.
const OWNER_POLL: Duration = Duration::from_millis(50);
/// Events taken before a round, at most: a flood must not keep what is known from being applied.
const EVENTS_PER_ROUND: usize = 65_536;

/// Where objects come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A directory of manifests.
    Manifests(PathBuf),
    /// A Kubernetes API.
    Kubernetes {
        /// `--kubeconfig`.
        kubeconfig: Option<PathBuf>,
        /// `--api-server`.
        api_server: Option<String>,
    },
}

impl Source {
    /// Addresses that the API server was said to have.
    fn api_addresses(&self) -> Vec<IpAddr> {
        let Self::Kubernetes { api_server: Some(url), .. } = self else { return Vec::new() };
        let host = url.parse::<http::Uri>().ok().and_then(|url| url.host().map(str::to_owned));
        let address = host.and_then(|host| host.trim_matches(['[', ']']).parse().ok());
        address.into_iter().collect()
    }
}

/// What `millrace run` was told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where objects come from.
    pub source: Source,
    /// The Node's name.
    pub node_name: String,
    /// Where to attach; found if not given.
    pub cgroup_root: Option<PathBuf>,
    /// Where to pin; found if not given.
    pub bpffs: Option<PathBuf>,
    /// Sizes of the maps that plans fill.
    pub capacity: Capacity,
    /// Sizes of the maps that packets fill.
    pub flows: FlowCapacity,
    /// What is served, and how.
    pub policy: Policy,
    /// By what means programs are attached to devices; none: the best that the kernel has.
    pub device_hooks: Option<Means>,
}

/// Run until SIGTERM or SIGINT.
pub async fn run(config: Config) -> Result<()> {
    let source = open_source(&config).await?;
    let (events, mut queue) = mpsc::channel(EVENT_QUEUE_EVENTS);
    let recorder = Recorder::start(&config.node_name, source.sink(), events.clone());
    let mut agent = Agent::start(&config, recorder)?;
    let (found, mut devices) = watch::channel(None);
    let mut follower = tokio::spawn(net::devices::follow(found));
    let mut packet_outcomes = agent.packet_path.outcomes();
    let mut watcher = tokio::spawn(watch_source(source, config.node_name, events));
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
            ended = packet_outcomes.changed() => {
                // What it was is read where it is needed.
                ended.context("the packet path's thread ended")?;
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

/// A source that can be followed.
enum Opened {
    Manifests(PathBuf),
    Kubernetes(Box<kube::Client>),
}

impl Opened {
    /// Where Events about its objects go.
    fn sink(&self) -> Sink {
        match self {
            Self::Manifests(_) => Sink::Log,
            Self::Kubernetes(client) => Sink::Api(client.as_ref().clone()),
        }
    }
}

/// See that the source can be reached at all, before anything in the kernel is touched. (An API
/// server that does not answer can be: it will.)
async fn open_source(config: &Config) -> Result<Opened> {
    match &config.source {
        Source::Manifests(directory) => {
            std::fs::read_dir(directory).with_context(|| {
                format!("--manifests {}: create it or name another", directory.display())
            })?;
            Ok(Opened::Manifests(directory.clone()))
        }
        Source::Kubernetes { kubeconfig, api_server } => {
            let access = KubeConfig {
                kubeconfig: kubeconfig.clone(),
                api_server: api_server.clone(),
                ..KubeConfig::in_cluster(config.node_name.clone())
            };
            Ok(Opened::Kubernetes(Box::new(source::kube::client(&access).await?)))
        }
    }
}

/// Follow the source until nobody listens.
async fn watch_source(
    source: Opened,
    node_name: String,
    events: mpsc::Sender<Event>,
) -> Result<()> {
    match source {
        Opened::Manifests(directory) => source::files::watch(directory, events).await,
        Opened::Kubernetes(client) => {
            source::kube::watch(*client, &node_name, events).await;
            Ok(())
        }
    }
}

/// Wait for the present owner to go: one that was killed may take a while to be gone.
fn become_owner(pins: &Pins) -> Result<Lock> {
    let begun = Instant::now();
    let mut said = false;
    loop {
        if let Some(lock) = pins.lock().context("lock the pins")? {
            return Ok(lock);
        }
        if begun.elapsed() > OWNER_WAIT {
            bail!(
                "another agent owns {} (`millrace status` shows its pid): stop it first, or give \
                 this one its own --bpffs and --cgroup-root",
                pins.root().display()
            );
        }
        if !std::mem::replace(&mut said, true) {
            tracing::info!("waiting for the agent that owns {}", pins.root().display());
        }
        std::thread::sleep(OWNER_POLL);
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
    flows: Sweeper,
    report: Report,
    reported: Option<String>,
    /// Something happened since the last report.
    news: bool,
    started: Instant,
    ticks: u64,
    swept: bool,
    knows_addresses: bool,
    lock: Lock,
}

impl Agent {
    /// Find what is needed, become the owner, load, adopt what is pinned.
    fn start(config: &Config, recorder: Recorder) -> Result<Self> {
        environment::check()?;
        environment::lift_memory_limit()?;
        let cgroup_root = environment::cgroup_root(config.cgroup_root.as_deref())?;
        let bpffs = environment::bpffs(config.bpffs.as_deref())?;
        let pins = Pins::new(&bpffs);
        std::fs::create_dir_all(pins.root())
            .with_context(|| format!("create {}", pins.root().display()))?;
        let lock = become_owner(&pins)?;
        let settings = Settings {
            capacity: config.capacity,
            flows: config.flows,
            node_netns_cookie: net::cookie::netns_cookie()
                .context("read the network namespace's cookie")?
                .unwrap_or(0),
        };
        let mut object = Object::load(&pins, &settings)?;
        let reconciler = Reconciler::recover(&mut object.store)?;
        let packet_path = PacketPath::new(&object, &pins, &config.policy, config.device_hooks)?;
        let mut agent = Self {
            model: Model::new(config.node_name.clone(), config.policy.clone()),
            reconciler,
            recorder,
            object,
            pins,
            report: telling::first_report(config, &cgroup_root, &packet_path),
            socket_path: SocketPath::new(cgroup_root, config.policy.socket_lb),
            packet_path,
            flows: Sweeper::default(),
            reported: None,
            news: false,
            started: Instant::now(),
            ticks: 0,
            swept: false,
            knows_addresses: false,
            lock,
        };
        agent.model.set_api_servers(config.source.api_addresses());
        agent.recorder.once_about_node(Weight::Normal, reason::STARTING, "");
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
    fn may_plan(&self) -> bool {
        self.model.is_synced() && self.knows_addresses && self.is_node_settled()
    }

    /// Tell the packet path what it must know of this node.
    fn update_packet_path(&mut self) {
        self.packet_path.update(Facts {
            node: self.model.node_facts().cloned(),
            settled: self.is_node_settled(),
            services: self.model.service_networks(),
        });
    }

    /// Apply what is dirty.
    fn reconcile(&mut self) {
        self.update_packet_path();
        if !self.may_plan() {
            return;
        }
        if !self.swept {
            self.swept = true;
            self.reconciler.mark_known(&mut self.model);
        }
        if self.model.has_dirty() {
            let dropped = self.reconciler.drops();
            self.round();
            if self.report.ready && self.reconciler.drops() && !dropped {
                self.mind_guard();
            }
        }
        if !self.report.ready {
            self.first_sync();
        }
    }

    fn round(&mut self) {
        self.news = true;
        let begun = Instant::now();
        let now = begun.duration_since(self.started);
        match self.reconciler.round(&mut self.model, &mut self.object.store, now) {
            Ok(round) => {
                self.report.ops += round.ops as u64;
                let elapsed = begun.elapsed();
                tracing::debug!(services = round.services, ops = round.ops, ?elapsed, "applied");
            }
            Err(error) => {
                self.report.failed_rounds += 1;
                self.model.mark_all_dirty();
                tracing::error!("applying failed, will read the maps back and retry: {error:#}");
            }
        }
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
        self.report.synced = true;
        self.report.ready = true;
        self.tell();
        let elapsed = self.started.elapsed();
        tracing::info!(ops = self.report.ops, ?elapsed, "ready: Services are served");
        give_back_memory();
    }

    /// The programs behind the hooks use the new maps: give those their names. Sockets that are to
    /// be left alone were served until now.
    fn programs_are_attached(&self) -> Result<()> {
        if self.pins.new_maps().exists() {
            self.pins.promote_new_maps().context("put the new maps in force")?;
        }
        self.socket_path.leave_if_off(&self.pins)
    }

    fn tick(&mut self) {
        self.ticks += 1;
        if self.report.ready {
            self.mind_guard();
        }
        if self.ticks.is_multiple_of(RETRY_REFUSED_TICKS) {
            self.reconciler.retry_refused(&mut self.model);
        }
        let mended = self.socket_path.mend_hooks(&self.object, &self.pins);
        self.news |= mended > 0;
        self.report.repaired_hooks += mended;
        self.news |= self.flows.tick(&self.object.store.flows);
        if self.ticks.is_multiple_of(HOUSEKEEPING_TICKS) {
            if self.report.ready {
                self.socket_path.look_at_hooks(&self.pins);
            }
            if std::mem::replace(&mut self.news, false) {
                self.tell();
                give_back_memory();
            }
        }
    }

    fn mind_guard(&mut self) {
        let (gone, drops) = (self.reconciler.take_udp_gone(), self.reconciler.drops());
        self.socket_path.mind_guard(&self.object, &self.pins, gone, drops);
    }

    /// Write the report, if it says anything new.
    fn tell(&mut self) {
        let objects = complaints::of_objects(&self.model, &self.reconciler);
        self.recorder.standing(complaints::notices(&self.model, &objects));
        self.report.conditions = self.conditions(objects);
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

    fn leave(&mut self) {
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
