//! The agent and a Kubernetes API: what it serves follows the API, and whatever the API does, what
//! was served last goes on.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_tests::agent::{Agent, Source};
use millrace_tests::apiserver::{ApiServer, Resource};
use millrace_tests::lab::{Builder, Family, Lab, Place};
use millrace_tests::load::{EVERY_KIND, Loads};
use millrace_tests::manifest::{self, Endpoint, Object, Service, Slice};
use millrace_tests::probe::Held;
use millrace_tests::wait::{self, CHANGE_TIMEOUT};
use millrace_tests::world::{SMALL_MAPS, World, cluster_ip, reach, refused, unreachable};
use serde_json::{Value, json};

/// The agent's pause after several failures in a row (20 s) with its jitter (as much again), and
/// time for a list after it.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The namespace of the objects that `manifest` builds.
const NAMESPACE: &str = "shop";
/// A Service with this label is somebody else's.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// Broken watches of the long test.
const BREAKS: usize = 100;
/// Expired watches in it; each costs the agent a pause twice as long as the last.
const EXPIRIES: usize = 3;

/// A node whose agent follows an API server that runs on the node itself.
///
/// The order of the fields is the order of the end.
struct Kube {
    agent: Agent,
    server: ApiServer,
    world: World,
}

fn one_node() -> Builder {
    Lab::builder().pods("n1", &["client", "a", "b"])
}

impl Kube {
    /// With a Node object, and an agent that is ready.
    fn new(builder: Builder) -> Result<Kube> {
        let (world, server) = Self::parts(builder)?;
        let source = Source::ApiServer(server.url());
        let mut agent = Agent::start_with(world.lab.node("n1"), &source, SMALL_MAPS)?;
        agent.wait_ready()?;
        Ok(Kube { agent, server, world })
    }

    /// The same, where `web` leads to pods `a` and `b`.
    fn serving() -> Result<Kube> {
        let kube = Self::new(one_node())?;
        kube.service("web", 1, &["n1/a", "n1/b"], |service| service);
        kube.reaches(1, &["a", "b"])?;
        Ok(kube)
    }

    fn parts(builder: Builder) -> Result<(World, ApiServer)> {
        let world = World::without_agents(builder, &[])?;
        let node = world.lab.node("n1");
        let server = ApiServer::start_in(node)?;
        server.put(manifest::node(node, world.lab.families(), Some("zone-a")));
        Ok((world, server))
    }

    /// A Service with ClusterIP number `index` and ready pods, in every family.
    fn service(
        &self,
        name: &str,
        index: u16,
        pods: &[&str],
        adjust: impl Fn(Service) -> Service,
    ) -> Service {
        let mut service = Service::new(name);
        for &family in self.world.lab.families() {
            service = service.cluster_ip(cluster_ip(family, index).ip());
        }
        self.endpoints(name, pods);
        let service = adjust(service.port("main", "TCP", 80).port("main", "UDP", 80));
        self.server.put(service.value());
        service
    }

    /// The endpoints of a Service.
    fn endpoints(&self, service: &str, pods: &[&str]) {
        let families = self.world.lab.families().iter();
        let slices = families.map(|&family| self.world.slice(service, pods, family).value());
        self.server.put_all(slices);
    }

    fn client(&self) -> &Place {
        self.world.lab.pod("n1", "client")
    }

    /// Service number `index` leads to exactly these pods, whatever the client.
    fn reaches(&self, index: u16, pods: &[&str]) -> Result<()> {
        let mut families = self.world.lab.families().iter();
        families.try_for_each(|&family| reach(self.client(), cluster_ip(family, index), pods))
    }

    fn is_not_served(&self, index: u16) -> Result<()> {
        let mut families = self.world.lab.families().iter();
        families.try_for_each(|&family| unreachable(self.client(), cluster_ip(family, index)))
    }

    /// Waits for the agent to say something about `about`, with all of these words.
    fn condition(&self, about: &str, words: &[&str]) -> Result<()> {
        wait::until(&format!("a condition about {about}"), CHANGE_TIMEOUT, || {
            let status = self.agent.status_json()?;
            let conditions = status["agent"]["conditions"].as_array().cloned().unwrap_or_default();
            let text = conditions.iter().find(|condition| condition["about"] == about);
            let text = text.with_context(|| format!("{conditions:?}"))?["message"].to_string();
            ensure!(words.iter().all(|word| text.contains(word)), "{text}");
            Ok(())
        })
    }

    /// Waits until the agent has nothing to complain about: after an outage, until its pauses are
    /// over.
    fn no_conditions(&self) -> Result<()> {
        wait::until("the last condition to be withdrawn", LONGEST_PAUSE, || {
            let status = self.agent.status_json()?;
            ensure!(status["agent"]["conditions"] == json!([]), "{}", status["agent"]);
            Ok(())
        })
    }

    /// Waits until Service number `index` has so many backends for clients on the node.
    fn backends(&self, index: u16, count: usize) -> Result<()> {
        let address = json!(cluster_ip(Family::V4, index));
        wait::until(&format!("{count} backends of {address}"), LONGEST_PAUSE, || {
            let services = self.agent.services_json()?;
            let of = |service: &Value| service["frontends"].as_array().cloned().unwrap_or_default();
            let mut frontends = services.as_array().into_iter().flatten().flat_map(of);
            let frontend = frontends.find(|frontend| frontend["address"] == address);
            let list = frontend.context("not served")?["near"]["backends"].clone();
            ensure!(list.as_array().is_some_and(|list| list.len() == count), "{list}");
            Ok(())
        })
    }

    fn outage_is_told(&self) -> Result<()> {
        for watch in ["watch Services", "watch EndpointSlices"] {
            self.condition(watch, &["refused", "stays in force"])?;
        }
        Ok(())
    }

    /// Runs `steps` while every kind of client dials `web`; not one dialogue may fail.
    fn under_load(&mut self, steps: impl FnOnce(&mut Kube) -> Result<()>) -> Result<()> {
        let mut loads = Loads::new();
        for &family in self.world.lab.families() {
            loads.add(self.client(), &EVERY_KIND, cluster_ip(family, 1))?;
        }
        steps(self)?;
        loads.stop(&self.world.lab)
    }
}

#[test]
fn traffic_follows_what_the_api_says() -> Result<()> {
    let kube = Kube::new(one_node())?;
    kube.service("web", 1, &["n1/a", "n1/b"], |service| service);
    kube.reaches(1, &["a", "b"])?;
    kube.endpoints("web", &["n1/b"]);
    kube.reaches(1, &["b"])?;
    kube.endpoints("web", &[]);
    for &family in kube.world.lab.families() {
        refused(kube.client(), cluster_ip(family, 1))?;
    }
    kube.endpoints("web", &["n1/a"]);
    kube.reaches(1, &["a"])?;
    kube.server.delete(Resource::Services, NAMESPACE, "web");
    kube.is_not_served(1)?;
    ensure!(kube.agent.services_json()? == json!([]));
    kube.no_conditions()
}

#[test]
fn a_kubeconfig_with_a_token_file_does() -> Result<()> {
    let (world, server) = Kube::parts(one_node())?;
    server.require_token(Some("sesame"));
    let node = world.lab.node("n1");
    let (config, token) = (node.run_dir().join("kubeconfig"), node.run_dir().join("token"));
    std::fs::write(&token, "sesame")?;
    let text = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": server.url()}}],
        "users": [{"name": "agent", "user": {"tokenFile": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "agent"}}],
        "current-context": "lab",
    });
    std::fs::write(&config, manifest::yaml(&text))?;
    let mut agent = Agent::start_with(node, &Source::Kubeconfig(config), SMALL_MAPS)?;
    agent.wait_ready()?;
    let mut kube = Kube { agent, server, world };
    kube.service("web", 1, &["n1/a", "n1/b"], |service| service);
    kube.reaches(1, &["a", "b"])?;
    let source = kube.agent.status_json()?["agent"]["source"].to_string();
    ensure!(source.contains("kubeconfig"), "{source}");
    kube.agent.stop()
}

#[test]
fn without_its_api_the_agent_serves_on_and_catches_up_later() -> Result<()> {
    let mut kube = Kube::serving()?;
    kube.service("other", 2, &["n1/a"], |service| service);
    kube.reaches(2, &["a"])?;
    let to = cluster_ip(Family::V4, 1);
    let (mut tcp, _) = Held::open(kube.client(), "tcp", to)?;
    let (mut udp, _) = Held::open(kube.client(), "udp", to)?;
    kube.under_load(|kube| {
        kube.server.stop();
        kube.outage_is_told()?;
        kube.endpoints("other", &["n1/b"]);
        kube.service("new", 3, &["n1/b"], |service| service);
        kube.reaches(2, &["a"])?;
        kube.is_not_served(3)?;
        ensure!(kube.agent.status_json()?["ready"] == true);
        kube.server.restart()?;
        kube.no_conditions()?;
        kube.reaches(2, &["b"])?;
        kube.reaches(3, &["b"])
    })?;
    for held in [&mut tcp, &mut udp] {
        ensure!(held.send()?.ok);
        ensure!(held.tell("peer")?.peer == Some(to));
    }
    Ok(())
}

#[test]
fn what_was_deleted_unseen_is_swept_by_the_next_list() -> Result<()> {
    let mut kube = Kube::serving()?;
    for (as_status, index) in [(false, 2), (true, 3)] {
        kube.service("doomed", index, &["n1/a"], |service| service);
        kube.reaches(index, &["a"])?;
        kube.server.gone_as_status(as_status);
        kube.under_load(|kube| {
            kube.server.stop();
            kube.outage_is_told()?;
            kube.server.delete(Resource::Services, NAMESPACE, "doomed");
            kube.server.compact();
            kube.server.restart()?;
            kube.no_conditions()?;
            kube.is_not_served(index)
        })?;
    }
    ensure!(kube.server.counts(Resource::Services).lists == 3, "first, and after each compaction");
    kube.reaches(1, &["a", "b"])
}

/// Watches that break, and versions that expire, as under a rolling restart of the control plane.
#[test]
fn a_hundred_broken_watches_break_no_connection() -> Result<()> {
    let mut kube = Kube::serving()?;
    let other = |pods: usize| ["n1/a", "n1/b"][..pods].to_vec();
    kube.service("other", 2, &other(1), |service| service);
    kube.under_load(|kube| {
        for round in 0..BREAKS {
            let watches = |kube: &Kube| kube.server.counts(Resource::EndpointSlices).watches;
            let before = watches(kube);
            let pods = other(1 + round % 2);
            kube.endpoints("other", &pods);
            // A watch that ends before it said anything would cost the agent a pause.
            kube.backends(2, pods.len())?;
            kube.server.break_watches();
            wait::until("the watch to be opened again", CHANGE_TIMEOUT, || {
                ensure!(watches(kube) > before, "it is not");
                Ok(())
            })?;
        }
        kube.reaches(2, &["a", "b"])?;
        for round in 0..EXPIRIES {
            let pods = other(1 + round % 2);
            kube.endpoints("other", &pods);
            // The change shows that there is a watch to expire.
            kube.backends(2, pods.len())?;
            let before = kube.server.counts(Resource::EndpointSlices).lists;
            (0..BREAKS).for_each(|_| kube.server.expire_watches());
            wait::until("the list after an expiry", LONGEST_PAUSE, || {
                let lists = kube.server.counts(Resource::EndpointSlices).lists;
                ensure!(lists > before, "{lists} lists");
                Ok(())
            })?;
        }
        kube.endpoints("other", &other(2));
        kube.reaches(2, &["a", "b"])
    })?;
    kube.reaches(1, &["a", "b"])
}

/// Killed while the API is down: the next agent takes over what is there, says that it is not
/// ready, and touches nothing until it knows all.
#[test]
fn an_agent_that_starts_without_its_api_adopts_and_waits() -> Result<()> {
    let mut kube = Kube::serving()?;
    kube.service("doomed", 2, &["n1/a"], |service| service);
    kube.reaches(2, &["a"])?;
    kube.under_load(|kube| {
        kube.server.stop();
        kube.agent.kill()?;
        kube.server.delete(Resource::Services, NAMESPACE, "doomed");
        kube.service("new", 3, &["n1/b"], |service| service);
        let before = kube.agent.services_without_counts()?;
        kube.agent.start_again()?;
        wait::until("the agent to adopt", CHANGE_TIMEOUT, || {
            let log = kube.agent.run_log()?;
            ensure!(log.contains("adopted the pinned maps"), "{log}");
            Ok(())
        })?;
        // At once: not what its predecessor said last.
        let status = kube.agent.status_json()?;
        ensure!(status["agentRunning"] == true && status["ready"] == false, "{status}");
        ensure!(status["agent"]["pid"] == json!(kube.agent.pid()), "{status}");
        kube.condition("watch Services", &["cannot list", "refused"])?;
        reach(kube.client(), cluster_ip(Family::V4, 2), &["a"])?;
        let status = kube.agent.status_json()?;
        ensure!(status["ready"] == false && status["agent"]["ops"] == 0, "{status}");
        ensure!(kube.agent.services_without_counts()? == before);
        kube.server.restart()?;
        kube.agent.wait_ready()?;
        kube.is_not_served(2)?;
        kube.reaches(3, &["b"])?;
        kube.no_conditions()?;
        ensure!(kube.agent.status_json()?["ready"] == true);
        Ok(())
    })
}

/// A slice of nobody's, to fill pages.
fn filler(index: usize) -> Value {
    Slice::new(&format!("m-{index:04}"), "nobody", Family::V4).value()
}

/// cilium#26912: after a restart, backends were removed that the list under way had not named yet.
/// Whichever list is late, and however its pages come: nothing is written, as nothing has changed.
#[test]
fn lists_that_come_slowly_after_a_restart_change_nothing() -> Result<()> {
    let mut kube = Kube::serving()?;
    // Three pages; `b` is on the first, `a` on the last.
    kube.server.put_all((0..1200).map(filler));
    for &family in kube.world.lab.families() {
        let (old, late) = (kube.world.slice("web", &["n1/b"], family).value(), "z-late");
        let mut slice = kube.world.slice("web", &["n1/a"], family).value();
        slice["metadata"]["name"] = json!(format!("{late}-{}", family.kubernetes().to_lowercase()));
        let mut first = old.clone();
        first["metadata"]["name"] = json!(format!("a-{}", family.kubernetes().to_lowercase()));
        kube.server.put_all([slice, first]);
        let name = old["metadata"]["name"].as_str().context("a slice has a name")?.to_owned();
        kube.server.delete(Resource::EndpointSlices, NAMESPACE, &name);
    }
    // Two services that depend on the Node object: on its zone, and on its addresses.
    let zoned = |path: &str, zone: &str| {
        let address = kube.world.pod_address(path, Family::V4);
        Endpoint::ready(address, "n1").zone(zone, &[zone])
    };
    kube.service("zoned", 2, &[], |service| service);
    let slice = kube.world.empty_slice("zoned", Family::V4);
    let slice = slice.endpoints([zoned("n1/a", "zone-a"), zoned("n1/b", "zone-b")]);
    kube.server.put(slice.value());
    kube.service("ported", 3, &["n1/a"], |service| service.node_port(30080));
    kube.reaches(1, &["a", "b"])?;
    kube.reaches(3, &["a"])?;
    reach(kube.client(), cluster_ip(Family::V4, 2), &["a"])?;
    let delay = Duration::from_millis(400);
    for late in Resource::ALL {
        kube.agent.kill()?;
        kube.server.delay_lists(Duration::ZERO);
        kube.server.delay_lists_of(late, delay);
        let before = kube.agent.services_without_counts()?;
        kube.under_load(|kube| kube.agent.restart())?;
        let status = kube.agent.status_json()?;
        ensure!(status["agent"]["ops"] == 0, "{late:?} late: {}", status["agent"]);
        ensure!(kube.agent.services_without_counts()? == before, "{late:?} late");
    }
    Ok(())
}

#[test]
fn a_service_of_another_proxy_is_left_to_it() -> Result<()> {
    let kube = Kube::serving()?;
    let ours = kube.service("other", 2, &["n1/a"], |service| service);
    kube.reaches(2, &["a"])?;
    kube.server.put(ours.clone().label(PROXY_NAME, "somebody").value());
    kube.is_not_served(2)?;
    kube.reaches(1, &["a", "b"])?;
    kube.server.put(ours.value());
    kube.reaches(2, &["a"])?;
    ensure!(kube.server.counts(Resource::Services).lists == 1);
    Ok(())
}

#[test]
fn an_object_that_cannot_be_read_blocks_no_other() -> Result<()> {
    let kube = Kube::serving()?;
    let good = kube.service("odd", 2, &["n1/a"], |service| service);
    kube.reaches(2, &["a"])?;
    let mut bad = good.value();
    bad["spec"]["ports"][0]["port"] = json!("http");
    kube.server.put(bad);
    kube.condition("Service shop/odd", &["spec.ports[0].port"])?;
    // What it said last is still served, and so is what comes after it.
    kube.reaches(2, &["a"])?;
    kube.service("next", 3, &["n1/b"], |service| service);
    kube.reaches(3, &["b"])?;
    kube.reaches(1, &["a", "b"])?;
    kube.endpoints("odd", &["n1/b"]);
    kube.reaches(2, &["b"])?;
    let mended = good.port("more", "TCP", 81);
    kube.server.put(mended.value());
    kube.no_conditions()?;
    kube.reaches(2, &["b"])
}
