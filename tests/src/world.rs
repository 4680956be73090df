//! A lab with an agent on every node and servers in its pods: what most tests start from.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::agent::{Agent, Source};
use crate::lab::{Builder, Family, Lab, Place, address};
use crate::manifest::{self, Endpoint, Object, Slice};
use crate::probe::{self, Outcome, Server};
use crate::wait::{self, CHANGE_TIMEOUT};

/// The port every pod's server listens on, for TCP and UDP.
pub const TARGET_PORT: u16 = 8080;
/// Dials per backend in one round; a fair choice misses one of three with less than 1 in 10^6.
const DIALS_PER_BACKEND: usize = 16;
/// A refusal that takes longer was not immediate.
pub const REFUSAL_LIMIT: Duration = Duration::from_millis(100);
/// How long a client waits for something that should not come, in milliseconds.
const SILENCE_MS: &str = "300";

/// Map sizes for a handful of services: the kernel clears every row when a map is made, which at
/// the default sizes takes most of a test's time.
pub const SMALL_MAPS: &[&str] = &[
    "--max-services=2000",
    "--max-backends=2000",
    "--max-slots=4000",
    "--max-frontends=2000",
    "--max-flows=4000",
    "--max-half-open=4000",
];

/// A kind of client, by the probe's subcommand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// A fresh TCP connection.
    Tcp,
    /// sendto and recvfrom.
    Udp,
    /// A connected UDP socket.
    UdpConnected,
}

impl Client {
    /// Every kind.
    pub const ALL: [Client; 3] = [Client::Tcp, Client::Udp, Client::UdpConnected];

    fn subcommand(self) -> &'static str {
        match self {
            Client::Tcp => "connect",
            Client::Udp => "udp-unconnected",
            Client::UdpConnected => "udp-connected",
        }
    }

    /// `count` dialogues.
    pub fn dial(self, place: &Place, to: SocketAddr, count: usize) -> Result<Vec<Outcome>> {
        let (to, count) = (to.to_string(), count.to_string());
        probe::run(place, &[self.subcommand(), &to, "--count", &count])
    }

    /// One dialogue that is not waited for long.
    pub fn dial_briefly(self, place: &Place, to: SocketAddr) -> Result<Outcome> {
        let to = to.to_string();
        probe::one(place, &[self.subcommand(), &to, "--timeout-ms", SILENCE_MS])
    }
}

/// A lab whose nodes have agents and whose pods have servers.
///
/// The order of the fields is the order of the end: servers, agents, then the lab under them.
#[derive(Debug)]
pub struct World {
    servers: BTreeMap<String, Server>,
    agents: BTreeMap<String, Agent>,
    /// The cluster itself.
    pub lab: Lab,
}

impl World {
    /// Builds the lab, starts a server named like its pod in every pod, starts the agents.
    pub fn new(builder: Builder) -> Result<World> {
        Self::with_zones(builder, &[])
    }

    /// The same with zones, as (node, zone). The agents' maps are small.
    pub fn with_zones(builder: Builder, zones: &[(&str, &str)]) -> Result<World> {
        let mut world = Self::without_agents(builder, zones)?;
        world.start_agents(SMALL_MAPS)?;
        Ok(world)
    }

    /// The same without zones; the agents get these further arguments.
    pub fn with_flags(builder: Builder, flags: &[&str]) -> Result<World> {
        let mut world = Self::without_agents(builder, &[])?;
        world.start_agents(&[SMALL_MAPS, flags].concat())?;
        Ok(world)
    }

    /// Starts an agent with these further arguments on every node, and waits for all.
    pub fn start_agents(&mut self, arguments: &[&str]) -> Result<()> {
        for node in self.lab.nodes() {
            let agent = Agent::start_with(node, &Source::Manifests, arguments)?;
            self.agents.insert(node.name().to_owned(), agent);
        }
        self.agents.values_mut().try_for_each(Agent::wait_ready)
    }

    /// A lab with servers and Node objects, whose agents the test starts itself.
    pub fn without_agents(builder: Builder, zones: &[(&str, &str)]) -> Result<World> {
        let lab = builder.build()?;
        let mut world = World { servers: BTreeMap::new(), agents: BTreeMap::new(), lab };
        for node in world.lab.nodes() {
            let zone = zones.iter().find(|(name, _)| *name == node.name()).map(|(_, zone)| *zone);
            let object = manifest::node(node, world.lab.families(), zone);
            manifest::write(&node.manifests(), &object)?;
        }
        let pods: Vec<_> = world.lab.nodes().iter().flat_map(|n| n.pods().to_vec()).collect();
        for pod in pods {
            world.serve(&pod, pod.pod_name(), TARGET_PORT)?;
        }
        Ok(world)
    }

    /// Leaves everything running: for programs that build a world for a person.
    pub fn keep(self) -> Result<Lab> {
        let World { servers, agents, mut lab } = self;
        lab.keep()?;
        servers.into_values().for_each(Server::detach);
        for agent in agents.into_values() {
            agent.detach();
        }
        Ok(lab)
    }

    /// Starts a server for TCP and UDP that calls itself `name`.
    pub fn serve(&mut self, place: &Place, name: &str, port: u16) -> Result<()> {
        let server = Server::start(place, name, &[port], &[port])?;
        self.servers.insert(name.to_owned(), server);
        Ok(())
    }

    /// Ends a server.
    pub fn end_server(&mut self, name: &str) -> Result<()> {
        let server = self.servers.remove(name);
        server.map(drop).with_context(|| format!("there is no server {name}"))
    }

    /// A node's agent. Panics with the name when there is none: a test's mistake.
    pub fn agent(&mut self, node: &str) -> &mut Agent {
        let found = self.agents.get_mut(node);
        found.unwrap_or_else(|| panic!("no agent on {node}"))
    }

    /// Lets the outside client send what is for this address or prefix to a node.
    pub fn route_to(
        &self,
        node: &str,
        prefix: impl std::fmt::Display,
        family: Family,
    ) -> Result<()> {
        let via = self.lab.node(node).address(family);
        self.lab.outside().ip(&[format!("route replace {prefix} via {via}")])
    }

    /// Writes an object for every node.
    pub fn apply(&self, object: &impl Object) -> Result<()> {
        let mut nodes = self.lab.nodes().iter();
        nodes.try_for_each(|node| manifest::write(&node.manifests(), object).map(|_| ()))
    }

    /// Removes an object from every node.
    pub fn delete(&self, object: &impl Object) -> Result<()> {
        self.lab.nodes().iter().try_for_each(|node| manifest::remove(&node.manifests(), object))
    }

    /// The address of `node/pod`.
    pub fn pod_address(&self, path: &str, family: Family) -> IpAddr {
        let (node, pod) = split(path);
        self.lab.pod(node, pod).address(family)
    }

    /// Ready endpoints for pods given as `node/pod`.
    pub fn ready(&self, pods: &[&str], family: Family) -> Vec<Endpoint> {
        let endpoint = |path: &&str| Endpoint::ready(self.pod_address(path, family), split(path).0);
        pods.iter().map(endpoint).collect()
    }

    /// A slice `SERVICE-FAMILY` with the port `main` for TCP and UDP and these ready pods.
    pub fn slice(&self, service: &str, pods: &[&str], family: Family) -> Slice {
        self.empty_slice(service, family).endpoints(self.ready(pods, family))
    }

    /// The same without endpoints.
    pub fn empty_slice(&self, service: &str, family: Family) -> Slice {
        let name = format!("{service}-{}", family.kubernetes().to_lowercase());
        let slice = Slice::new(&name, service, family);
        slice.port("main", "TCP", TARGET_PORT).port("main", "UDP", TARGET_PORT)
    }

    /// Applies a Service with ClusterIP number `index` and ready pods, in every family.
    ///
    /// `adjust` adds what the test is about.
    pub fn service(
        &self,
        name: &str,
        index: u16,
        pods: &[&str],
        adjust: impl Fn(manifest::Service) -> manifest::Service,
    ) -> Result<manifest::Service> {
        let mut service = manifest::Service::new(name);
        for &family in self.lab.families() {
            service = service.cluster_ip(address::service(family, index));
            self.apply(&self.slice(name, pods, family))?;
        }
        let service = adjust(service.port("main", "TCP", 80).port("main", "UDP", 80));
        self.apply(&service)?;
        Ok(service)
    }
}

fn split(path: &str) -> (&str, &str) {
    path.split_once('/').unwrap_or_else(|| panic!("{path} is not node/pod"))
}

/// A ClusterIP and port 80.
pub fn cluster_ip(family: Family, index: u16) -> SocketAddr {
    SocketAddr::new(address::service(family, index), 80)
}

/// Waits until clients of all kinds reach exactly these servers.
pub fn reach(place: &Place, to: SocketAddr, servers: &[&str]) -> Result<()> {
    Client::ALL.iter().try_for_each(|&client| reach_by(client, place, to, servers))
}

/// Waits until clients of one kind reach exactly these servers, without a failure.
pub fn reach_by(client: Client, place: &Place, to: SocketAddr, servers: &[&str]) -> Result<()> {
    let wanted: BTreeSet<&str> = servers.iter().copied().collect();
    let count = if wanted.len() > 1 { wanted.len() * DIALS_PER_BACKEND } else { 3 };
    let what = format!("{client:?} from {} to {to} to reach {wanted:?}", place.name());
    wait::until(&what, CHANGE_TIMEOUT, || {
        // One first: while nothing answers, a whole round would take its time limits' sum.
        let one = client.dial_briefly(place, to)?;
        ensure!(one.ok, "{one:?}");
        let outcomes = client.dial(place, to, count)?;
        let seen: BTreeSet<&str> = outcomes.iter().map(Outcome::who).collect();
        ensure!(seen == wanted, "it reached {seen:?}");
        // An answer from elsewhere would do for a socket that is not connected, but not for a
        // program that looks.
        let stray = outcomes.iter().find(|outcome| outcome.source.is_some_and(|from| from != to));
        ensure!(stray.is_none(), "the answer came from elsewhere: {stray:?}");
        Ok(())
    })
}

/// Waits until somebody answers clients of all kinds.
pub fn answers(place: &Place, to: SocketAddr) -> Result<()> {
    Client::ALL.iter().try_for_each(|client| {
        let what = format!("{to} to answer {client:?} from {}", place.name());
        wait::until(&what, CHANGE_TIMEOUT, || {
            let outcome = client.dial_briefly(place, to)?;
            if outcome.ok { Ok(()) } else { bail!("{outcome:?}") }
        })
    })
}

/// Waits until servers see a client at one of these addresses, whatever it dials with.
pub fn seen_as(place: &Place, to: SocketAddr, wanted: &[IpAddr]) -> Result<()> {
    for client in Client::ALL {
        let what = format!("{client:?} from {} to {to} to be seen as {wanted:?}", place.name());
        wait::until(&what, CHANGE_TIMEOUT, || {
            let outcome = client.dial_briefly(place, to)?;
            let seen = outcome.seen.with_context(|| format!("{outcome:?}"))?;
            ensure!(wanted.contains(&seen.ip()), "{outcome:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Waits until all kinds of clients are refused, and at once.
pub fn refused(place: &Place, to: SocketAddr) -> Result<()> {
    refused_by(&Client::ALL, place, to)
}

/// Waits until clients are refused by a packet, and at once. A UDP socket that is not connected
/// is not told.
pub fn rejected(place: &Place, to: SocketAddr) -> Result<()> {
    refused_by(&[Client::Tcp, Client::UdpConnected], place, to)
}

fn refused_by(clients: &[Client], place: &Place, to: SocketAddr) -> Result<()> {
    for &client in clients {
        let what = format!("{client:?} from {} to {to} to be refused", place.name());
        wait::until(&what, CHANGE_TIMEOUT, || {
            let outcome = client.dial_briefly(place, to)?;
            ensure!(outcome.error.as_deref() == Some("ECONNREFUSED"), "{outcome:?}");
            let took = Duration::from_micros(outcome.micros);
            ensure!(took < REFUSAL_LIMIT, "the refusal took {took:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Waits until no kind of client gets an answer, in whatever way.
pub fn unreachable(place: &Place, to: SocketAddr) -> Result<()> {
    for client in Client::ALL {
        let what = format!("{client:?} from {} to {to} to get no answer", place.name());
        wait::until(&what, CHANGE_TIMEOUT, || {
            let outcome = client.dial_briefly(place, to)?;
            if outcome.ok { bail!("{outcome:?}") } else { Ok(()) }
        })?;
    }
    Ok(())
}

/// Waits until all kinds of clients hear nothing at all: no answer, no refusal.
pub fn silent(place: &Place, to: SocketAddr) -> Result<()> {
    for client in Client::ALL {
        let what = format!("{client:?} from {} to {to} to hear nothing", place.name());
        wait::until(&what, CHANGE_TIMEOUT, || {
            let outcome = client.dial_briefly(place, to)?;
            // A packet dropped on its way out of the sender's own socket may be told to that.
            let dropped = [Some("ETIMEDOUT"), Some("EPERM")].contains(&outcome.error.as_deref());
            ensure!(dropped, "{outcome:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// Dials `count` times and returns the one server that answered every time.
pub fn sticks(client: Client, place: &Place, to: SocketAddr, count: usize) -> Result<String> {
    let outcomes = client.dial(place, to, count)?;
    let seen: BTreeSet<&str> = outcomes.iter().map(Outcome::who).collect();
    let mut seen = seen.into_iter();
    match (seen.next(), seen.next()) {
        (Some(one), None) if outcomes.iter().all(|outcome| outcome.ok) => Ok(one.to_owned()),
        _ => bail!("{client:?} from {} to {to} did not stick: {outcomes:?}", place.name()),
    }
}
