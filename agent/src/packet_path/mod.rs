//! The packet path as the loop sees it: what is known of devices and of the Node goes in, and what
//! should be attached is decided ([`crate::devices`]) and handed to the [`worker`].
//!
//! Everything that touches a device takes the kernel's RTNL mutex, which is held for long while
//! pods come and go: a thread of its own waits for that, the loop never does.

mod canary;
pub mod worker;

use std::net::IpAddr;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use millrace_common::address::{Address, V4, V6};
use millrace_common::node::NodeRow;
use tokio::sync::watch;

use self::worker::{Outcome, Wanted, Worker};
use crate::bpf::object::Object;
use crate::bpf::packet::{Means, PacketHooks};
use crate::bpf::pins::Pins;
use crate::canary::tally::Tally;
use crate::devices::node::{self, Known};
use crate::devices::ports::{self, Range};
use crate::devices::{Device, LinkLayer, roles};
use crate::metrics::Metrics;
use crate::model::NodeFacts;
use crate::model::networks::ServiceNetworks;
use crate::net;
use crate::settings::Policy;

/// How long an agent that stops waits for the worker's last change.
const STOP_WAIT: Duration = Duration::from_secs(1);
/// How often it looks whether that is done.
const STOP_POLL: Duration = Duration::from_millis(5);

/// What the model knows that decides about devices and the node's row.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// What the Node object says; nothing: it was not seen yet.
    pub node: Option<NodeFacts>,
    /// It was waited for long enough: without it, do without.
    pub settled: bool,
    /// Where ClusterIPs are; nothing: not all of them are known yet.
    pub services: Option<ServiceNetworks>,
}

/// The loop's side.
pub struct PacketPath {
    policy: Policy,
    means: Means,
    /// What sockets get, and what they do not get of it.
    given_to_sockets: (Range, Vec<Range>),
    devices: Option<Vec<Device>>,
    facts: Facts,
    /// The row that the agent before us left.
    recovered: Option<NodeRow>,
    /// Something changed since the last order.
    stale: bool,
    /// Orders may be given.
    started: bool,
    /// The canary's rows are written.
    canary: bool,
    /// The last order.
    wanted: Wanted,
    orders: Option<Sender<Wanted>>,
    outcomes: watch::Receiver<Outcome>,
    worker: Option<JoinHandle<()>>,
    conditions: Vec<(String, String)>,
}

impl PacketPath {
    /// Start the worker; it does nothing before [`start`](Self::start).
    pub fn new(
        object: &Object,
        pins: &Pins,
        policy: &Policy,
        means: Option<Means>,
        metrics: &Metrics,
    ) -> Result<Self> {
        let given_to_sockets =
            net::ports::given_to_sockets().context("read which ports sockets get")?;
        let hooks = PacketHooks::new(object, pins, means)?;
        let means = hooks.means();
        let maps = object.node_maps()?;
        // A new map is all zero.
        let recovered = maps.node()?.filter(|row| row.first_port > 0);
        let worker = Worker::new(hooks, maps, object.flow_maps()?, metrics.clone())?;
        let (orders, received) = std::sync::mpsc::channel();
        let (sender, outcomes) = watch::channel(Outcome::default());
        let thread = std::thread::Builder::new().name("packet-path".to_owned());
        let worker = thread
            .spawn(move || worker.run(&received, &sender))
            .context("start the packet path's thread")?;
        Ok(Self {
            policy: policy.clone(),
            means,
            given_to_sockets,
            devices: None,
            facts: Facts::default(),
            recovered,
            stale: false,
            started: false,
            canary: false,
            wanted: Wanted::default(),
            orders: Some(orders),
            outcomes,
            worker: Some(worker),
            conditions: Vec::new(),
        })
    }

    /// By what means programs are attached.
    pub const fn means(&self) -> Means {
        self.means
    }

    /// Tells when the worker has done something.
    pub fn outcomes(&self) -> watch::Receiver<Outcome> {
        self.outcomes.clone()
    }

    /// The operator wants something else.
    pub fn set_policy(&mut self, policy: Policy) {
        self.stale |= self.policy != policy;
        self.policy = policy;
    }

    /// The node's devices are these.
    pub fn set_devices(&mut self, devices: Vec<Device>) {
        self.devices = Some(devices);
        self.stale = true;
    }

    /// The maps are filled or were in force before: from now on, attach.
    pub const fn start(&mut self) {
        self.stale |= !self.started;
        self.started = true;
    }

    /// The canary's rows are written: from now on, send it.
    pub const fn begin_canary(&mut self) {
        self.stale |= !self.canary;
        self.canary = true;
    }

    /// What came of the canary; nothing: it was not sent yet.
    pub fn canary(&self) -> Option<Tally> {
        let outcome = self.outcomes.borrow();
        outcome.checked.then(|| outcome.canary.clone())
    }

    /// Whether everything that was ordered was tried.
    pub fn is_done(&self) -> bool {
        let done = self.outcomes.borrow().generation;
        self.started && !self.stale && done > 0 && done == self.wanted.generation
    }

    /// Hooks that were found without our program, and mended.
    pub fn repaired(&self) -> u64 {
        self.outcomes.borrow().repaired
    }

    /// Take in what the model knows now, and order what follows from it. Cheap when nothing
    /// changed.
    pub fn update(&mut self, facts: Facts) {
        if self.facts != facts {
            self.facts = facts;
            self.stale = true;
        }
        if !self.stale || !self.started {
            return;
        }
        let Some(devices) = self.devices.take() else {
            return;
        };
        self.stale = false;
        self.order(&devices);
        self.devices = Some(devices);
    }

    fn order(&mut self, devices: &[Device]) {
        let own = self.own_addresses();
        let attachments = roles::attachments(devices, &own, &self.policy);
        let mut conditions = Vec::new();
        for device in roles::unreadable(devices, &own, &self.policy) {
            conditions.push((format!("device {}", device.name), unreadable(device)));
        }
        let (local, reserved) = &self.given_to_sockets;
        let asked = self.policy.masquerade_ports;
        let ports = asked.or_else(|| ports::choose(*local, reserved));
        if let Some(objection) = asked.and_then(|asked| ports::objection(asked, *local, reserved)) {
            conditions.push(("masquerade ports".to_owned(), objection));
        }
        // Before the Node and the Services are known, the row that our predecessor left is better
        // than ours.
        let is_known = self.facts.settled || self.facts.node.is_some();
        let node = self.facts.services.as_ref().filter(|_| is_known).map(|services| {
            let unknown = NodeFacts::default();
            let known = Known {
                policy: &self.policy,
                facts: self.facts.node.as_ref().unwrap_or(&unknown),
                devices,
                ports,
                services,
            };
            let row = node::row(&known);
            let found = node::conditions(&known, &row).into_iter();
            conditions.extend(found.map(|(about, message)| (about.to_owned(), message)));
            row
        });
        self.conditions = conditions;
        if self.wanted.generation > 0
            && self.wanted.attachments == attachments
            && self.wanted.node == node
            && self.wanted.canary == self.canary
        {
            return;
        }
        let generation = self.wanted.generation + 1;
        self.wanted = Wanted { generation, node, attachments, canary: self.canary };
        if let Some(orders) = &self.orders {
            // The worker ends only when we drop our end.
            let _ = orders.send(self.wanted.clone());
        }
    }

    /// The Node's addresses; while the Node is not known, those our predecessor knew.
    fn own_addresses(&self) -> Vec<IpAddr> {
        match (&self.facts.node, &self.recovered) {
            (Some(node), _) => node.internal.iter().chain(&node.external).copied().collect(),
            (None, Some(row)) if !self.facts.settled => {
                let v4 = (row.v4.address != V4::ZERO).then(|| row.v4.address.into());
                let v6 = (row.v6.address != V6::ZERO).then(|| row.v6.address.into());
                v4.into_iter().chain(v6).collect()
            }
            _ => Vec::new(),
        }
    }

    /// What a person should know: what it is about, and what is wrong.
    pub fn conditions(&self) -> Vec<(String, String)> {
        let failures = self.outcomes.borrow().failures.clone();
        self.conditions.iter().cloned().chain(failures).collect()
    }

    /// Have the worker finish what it is at, so that it does not meet the next owner of the pins.
    pub fn stop(&mut self) {
        self.orders = None;
        let Some(worker) = self.worker.take() else { return };
        let begun = Instant::now();
        while !worker.is_finished() && begun.elapsed() < STOP_WAIT {
            std::thread::sleep(STOP_POLL);
        }
    }
}

fn unreadable(device: &Device) -> String {
    let number = match device.link_layer {
        LinkLayer::Other(number) => number,
        _ => 0,
    };
    format!(
        "Services are not served through it: its packets have headers of a kind that is not read \
         (ARPHRD {number}); Ethernet and plain IP are"
    )
}
