//! A node in memory, whole: objects in, verdicts on packets and sockets out.
//!
//! Between the two is the product's own code: the model, the planner, the reconcile loop's step,
//! the roles of devices, the node's row, the packet path, the sockets' decision. What is left out
//! is the kernel and time, so that a row of a table costs microseconds and the clock is the test's.
//! [`store`] is where the rows go, [`traffic`] what clients send, [`table`] how tests write it
//! down.
//!
//! The node has a device to its pods, one to the outside, and one to the other nodes' pods; the
//! addresses are the lab's ([`address`]).

mod store;
pub mod table;
mod traffic;

use std::cell::Cell;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use millrace::apply::{Reconciler, Round};
use millrace::devices::node::{Known, row};
use millrace::devices::roles::attachments;
use millrace::devices::{Device, DeviceAddress, LinkLayer, Scope};
use millrace::model::Model;
use millrace::settings::Policy;
use millrace::source::{Event, Kind, Object as Decoded};
use serde_json::{Value, json};

use crate::lab::{Family, address};
use crate::manifest::{Endpoint, Object, Slice, ZONE_LABEL};
use crate::packet::build::ADDRESS;
use crate::packet::node::Node;
use store::Store;
pub use traffic::{Answer, Protocol, Sender};

/// Devices of the node, by index.
mod device {
    /// Leads to the node's pods.
    pub const POD: u32 = 2;
    /// Leads outside, and to the other nodes.
    pub const UPLINK: u32 = 3;
    /// Leads to the other nodes' pods.
    pub const TUNNEL: u32 = 4;
}

/// Ports that masqueraded flows come from.
const MASQUERADE_PORTS: (u16, u16) = (10_240, 29_999);
/// Where the node's clock begins, in seconds: after its start, as every clock.
const START_SECS: u64 = 1000;

/// A node, its agent and its tables.
pub struct Simulation {
    number: u8,
    policy: Policy,
    model: Model,
    reconciler: Reconciler,
    store: Store,
    now: Duration,
    devices: Vec<Device>,
    /// What a client's next flow comes from.
    next_port: Cell<u16>,
}

impl Simulation {
    /// Node number `number` (from 1) of the lab's address plan, named `n1`, `n2`, ..., with nothing
    /// on it yet.
    pub fn new(number: u8, policy: Policy) -> Result<Self> {
        let mut store = Store::default();
        let reconciler = Reconciler::recover(&mut store)?;
        let name = format!("n{number}");
        let mut simulation = Self {
            number,
            model: Model::new(name, policy.clone()),
            policy,
            reconciler,
            store,
            now: Duration::from_secs(START_SECS),
            devices: devices(number),
            next_port: Cell::new(traffic::FIRST_PORT),
        };
        let addresses = simulation.devices.iter().flat_map(|device| &device.addresses);
        simulation.model.set_node_addresses(addresses.map(|found| found.address).collect());
        for kind in Kind::ALL {
            simulation.model.apply(Event::Begin(kind));
            simulation.model.apply(Event::Complete(kind));
        }
        simulation.in_zone(None)?;
        Ok(simulation)
    }

    /// Puts the node into a zone, or out of any.
    pub fn in_zone(&mut self, zone: Option<&str>) -> Result<Round> {
        let labels = zone.map_or(json!({}), |zone| json!({ ZONE_LABEL: zone }));
        let families = [Family::V4, Family::V6];
        let address =
            |f: &Family| json!({"type": "InternalIP", "address": address::node(*f, self.number)});
        self.put(&json!({
            "kind": "Node",
            "metadata": {"name": self.name(), "labels": labels},
            "spec": {"podCIDRs": families.map(|f| address::pod_cidr(f, self.number))},
            "status": {"addresses": families.iter().map(address).collect::<Vec<_>>()},
        }))
    }

    /// The node's name.
    pub fn name(&self) -> String {
        format!("n{}", self.number)
    }

    /// Takes an object in and brings the tables up to date.
    pub fn put(&mut self, object: &impl Object) -> Result<Round> {
        self.model.apply(Event::Apply(decode(&object.value())?));
        self.settle()
    }

    /// Takes several in, and then brings the tables up to date once.
    pub fn put_all(&mut self, objects: &[&dyn Object]) -> Result<Round> {
        for object in objects {
            self.model.apply(Event::Apply(decode(&object.value())?));
        }
        self.settle()
    }

    /// The object is gone.
    pub fn delete(&mut self, object: &impl Object) -> Result<Round> {
        let object = decode(&object.value())?;
        self.model.apply(Event::Delete(object.kind(), object.name()));
        self.settle()
    }

    /// Brings the tables up to date.
    pub fn settle(&mut self) -> Result<Round> {
        let round = self.reconciler.round(&mut self.model, &mut self.store, self.now);
        self.set_node_row();
        round
    }

    /// From the next write on, so many writes fail.
    pub fn fail_writes(&mut self, count: usize) {
        self.store.failing = count;
    }

    /// Lets time pass.
    pub fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    /// The agent is killed and another started, which knows nothing but the tables.
    pub fn restart_agent(&mut self) -> Result<()> {
        self.reconciler = Reconciler::recover(&mut self.store)?;
        self.reconciler.mark_known(&mut self.model);
        self.model.mark_all_dirty();
        Ok(())
    }

    /// What the agent says about its objects: what it is about, and what is wrong.
    pub fn conditions(&self) -> Vec<(String, String)> {
        self.model.conditions().into_iter().collect()
    }

    /// Services with a frontend that drops for want of a local endpoint: for clients on the node,
    /// and for those outside.
    pub fn frontends_without_local_endpoints(&self) -> (usize, usize) {
        self.store.dropping()
    }

    /// How many rows there are, of every table.
    pub fn rows(&self) -> usize {
        self.store.rows()
    }

    fn node(&self) -> &Node {
        self.store.node.now_ns.set(u64::try_from(self.now.as_nanos()).unwrap_or(u64::MAX));
        &self.store.node
    }

    /// What the packet path's thread would write after every round.
    fn set_node_row(&mut self) {
        let facts = self.model.node_facts().unwrap_or_default();
        let services = self.model.service_networks().unwrap_or_default();
        let known = Known {
            policy: &self.policy,
            facts: &facts,
            devices: &self.devices,
            ports: Some(MASQUERADE_PORTS),
            services: &services,
        };
        self.store.node.row = Some(row(&known));
        let attached = attachments(&self.devices, &facts.internal, &self.policy).into_iter();
        self.store.node.devices = attached.map(|found| (found.index, found.row)).collect();
    }
}

/// Endpoints of a slice, from words: `n1/0`, `n2/1 terminating`, `host` instead of a pod's number
/// for a pod in the host's network; `unready`, `gone`.
pub fn endpoints(family: Family, words: &[&str]) -> Vec<Endpoint> {
    let endpoint = |text: &&str| {
        let (place, state) = text.split_once(' ').unwrap_or((text, "ready"));
        let (node, _) = place.split_once('/').unwrap_or_else(|| panic!("{text}: node/pod"));
        let address = place_address(family, place);
        match state {
            "ready" => Endpoint::ready(address, node),
            "unready" => Endpoint::unready(address, node),
            "terminating" => Endpoint::terminating(address, node),
            "gone" => Endpoint::gone(address, node),
            _ => panic!("{text}: no such state"),
        }
    };
    words.iter().map(endpoint).collect()
}

/// A slice `SERVICE-FAMILY` with the port `main` for every protocol, and [`endpoints`].
pub fn slice(family: Family, service: &str, words: &[&str]) -> Slice {
    let name = format!("{service}-{}", family.kubernetes().to_lowercase());
    let ports = ["TCP", "UDP", "SCTP"];
    let empty = Slice::new(&name, service, family);
    let with_ports =
        ports.iter().fold(empty, |slice, protocol| slice.port("main", protocol, TARGET_PORT));
    with_ports.endpoints(endpoints(family, words))
}

/// The port that endpoints of [`slice()`] serve.
pub const TARGET_PORT: u16 = 8080;

/// The address of `n1/0` (a pod), `n1/host` or `outside`.
pub fn place_address(family: Family, place: &str) -> IpAddr {
    let Some((node, pod)) = place.split_once('/') else {
        assert_eq!(place, "outside", "node/pod, node/host or outside");
        return address::outside(family);
    };
    let number = |text: &str| text.parse::<u8>().unwrap_or_else(|_| panic!("{place}: a number"));
    let node = number(node.trim_start_matches('n'));
    if pod == "host" {
        address::node(family, node)
    } else {
        address::pod(family, node, number(pod))
    }
}

fn decode(value: &Value) -> Result<Decoded> {
    let decoded = match value["kind"].as_str() {
        Some("Service") => Decoded::Service(serde_json::from_value(value.clone())?),
        Some("EndpointSlice") => Decoded::EndpointSlice(serde_json::from_value(value.clone())?),
        Some("Node") => Decoded::Node(serde_json::from_value(value.clone())?),
        Some("ServiceCIDR") => Decoded::ServiceCidr(serde_json::from_value(value.clone())?),
        kind => bail!("an object of kind {kind:?}"),
    };
    Ok(decoded)
}

fn devices(number: u8) -> Vec<Device> {
    let device = |index, name: &str, kind: Option<&str>, addresses: Vec<IpAddr>| Device {
        index,
        name: name.to_owned(),
        kind: kind.map(str::to_owned),
        link_layer: LinkLayer::Ethernet,
        mac: Some(ADDRESS),
        master: None,
        parent: None,
        up: true,
        mtu: 1500,
        addresses: addresses
            .into_iter()
            .map(|address| DeviceAddress { address, scope: Scope::Global, lasting: true })
            .collect(),
        default_v4: name == "eth0",
        default_v6: name == "eth0",
    };
    let both = |of: fn(Family, u8) -> IpAddr| vec![of(Family::V4, number), of(Family::V6, number)];
    vec![
        device(device::POD, "veth0", Some("veth"), Vec::new()),
        device(device::UPLINK, "eth0", None, both(address::node)),
        device(device::TUNNEL, "flannel.1", Some("vxlan"), both(address::vxlan)),
    ]
}
