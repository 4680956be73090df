//! What becomes of flows that there are when objects change (sections 3, 2.11 and 8.3 of the
//! specification, `conntrack/cleanup_test.go`): UDP follows, TCP and SCTP stay, affinity sticks and
//! ends. The clock is the test's.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_tests::lab::{Family, address};
use millrace_tests::manifest::{Service, Slice};
use millrace_tests::simulation::table::To::{Cluster, External, Node};
use millrace_tests::simulation::table::*;
use millrace_tests::simulation::{Protocol, Sender, Simulation, endpoints, slice};

use Protocol::{Sctp, Tcp, Udp};

/// The source port of a client that keeps it.
const PORT: u16 = 5555;
/// Identical answers that upstream asks for.
const STICKY_DIALS: usize = 15;

/// Every way to a Service: what it shows, who, what, and the Service's policies.
fn ways(family: Family) -> Vec<(&'static str, Sender, To, u16, Service)> {
    let both = || {
        let service = Service::new("svc").cluster_ip(address::service(family, 1));
        let ports = service.port("main", "TCP", 80).port("main", "UDP", 80);
        with_addresses(ports.port("main", "SCTP", 8080), family)
    };
    let ext = outside(family);
    vec![
        ("ClusterIP", CLIENT, Cluster(1), 80, both()),
        ("ClusterIP, iTP Local", CLIENT, Cluster(1), 80, both().internal_local()),
        ("ClusterIP from outside", ext, Cluster(1), 80, both()),
        ("NodePort", ext, Node(1), NODE_PORT, both()),
        ("NodePort from a pod", CLIENT, Node(1), NODE_PORT, both()),
        ("externalIP", ext, External(EXTERNAL), 80, both()),
        ("load balancer", ext, External(BALANCED), 80, both()),
        ("load balancer, eTP Local", ext, External(BALANCED), 80, both().external_local()),
    ]
}

/// A flow from one port.
struct Flow<'a> {
    node: &'a mut Simulation,
    family: Family,
    from: Sender,
    to: To,
    port: u16,
    protocol: Protocol,
}

impl Flow<'_> {
    /// Another packet of it is led there.
    fn goes_to(&self, when: &str, expected: &str) -> Result<()> {
        let to = self.to.at(self.family, self.port);
        let answer = self.node.go_on(self.from, PORT, to, self.protocol)?.text();
        let place = answer.trim_end_matches(" masq");
        ensure!(place == expected, "{when}: {answer}, expected {expected}");
        Ok(())
    }

    /// Its first packet is led there, is answered, and so is the second.
    fn opens_to(&self, expected: &str) -> Result<()> {
        let to = self.to.at(self.family, self.port);
        let answer = self.node.open(self.from, PORT, to, self.protocol)?.text();
        ensure!(answer.trim_end_matches(" masq") == expected, "first: {answer}, not {expected}");
        if expected == "REJECT" { Ok(()) } else { self.goes_to("second", expected) }
    }

    fn endpoints(&mut self, words: &[&str]) -> Result<()> {
        self.node.put(&slice(self.family, "svc", words)).map(drop)
    }
}

/// Runs a story for every way to a Service, in both families, each on a fresh node.
fn on_every_way(protocol: Protocol, story: impl Fn(&mut Flow<'_>) -> Result<()>) -> Result<()> {
    for family in FAMILIES {
        for (name, from, to, port, object) in ways(family) {
            let mut node = simulation()?;
            node.put(&object)?;
            let is_sctp_port = protocol == Sctp && port == 80;
            // SCTP's ports cannot be changed: where the frontend's is not the target's it is not
            // served.
            if protocol == Sctp && !is_sctp_port {
                continue;
            }
            let port = if is_sctp_port { 8080 } else { port };
            let mut flow = Flow { node: &mut node, family, from, to, port, protocol };
            story(&mut flow).with_context(|| format!("{name} ({family})"))?;
        }
    }
    Ok(())
}

#[test]
fn udp_goes_to_another_backend_when_its_own_is_gone() -> Result<()> {
    on_every_way(Udp, |flow| {
        flow.endpoints(&["n1/0"])?;
        flow.opens_to("n1/0")?;
        flow.endpoints(&["n1/1"])?;
        flow.goes_to("replaced", "n1/1")?;
        flow.endpoints(&["n1/1", "n1/2", "n1/3"])?;
        flow.goes_to("others are added", "n1/1")?;
        flow.endpoints(&["n1/1 unready", "n1/2"])?;
        flow.goes_to("it does not serve", "n1/2")
    })
}

#[test]
fn udp_stays_with_a_backend_that_serves() -> Result<()> {
    on_every_way(Udp, |flow| {
        flow.endpoints(&["n1/0"])?;
        flow.opens_to("n1/0")?;
        flow.endpoints(&["n1/0 terminating", "n1/1"])?;
        flow.goes_to("it is terminating", "n1/0")?;
        flow.endpoints(&["n1/0", "n1/1"])?;
        flow.goes_to("and back", "n1/0")?;
        flow.endpoints(&["n1/1"])?;
        flow.goes_to("and gone", "n1/1")
    })
}

/// kube-proxy 1.32 to 1.36 leave such flows to the dead pod (#139628).
#[test]
fn udp_ends_when_no_backend_is_left() -> Result<()> {
    on_every_way(Udp, |flow| {
        flow.endpoints(&["n1/0"])?;
        flow.opens_to("n1/0")?;
        flow.endpoints(&[])?;
        flow.goes_to("scaled to nothing", "REJECT")?;
        flow.endpoints(&["n1/0"])?;
        flow.goes_to("and up again", "n1/0")
    })
}

#[test]
fn udp_that_began_without_endpoints_is_served_when_there_are_some() -> Result<()> {
    on_every_way(Udp, |flow| {
        flow.endpoints(&[])?;
        flow.opens_to("REJECT")?;
        flow.endpoints(&["n1/0"])?;
        flow.goes_to("ready", "n1/0")
    })
}

#[test]
fn udp_follows_a_changed_target_port() -> Result<()> {
    on_every_way(Udp, |flow| {
        flow.endpoints(&["n1/0"])?;
        flow.opens_to("n1/0")?;
        let name = format!("svc-{}", flow.family.kubernetes().to_lowercase());
        let other = Slice::new(&name, "svc", flow.family).port("main", "UDP", 9090);
        flow.node.put(&other.endpoints(endpoints(flow.family, &["n1/0"])))?;
        flow.goes_to("another port", "n1/0:9090")
    })
}

/// Valid are all endpoints that serve, whatever policies and hints say.
#[test]
fn policies_and_hints_cut_no_udp_flow() -> Result<()> {
    on_both(|family, node| {
        node.in_zone(Some("a"))?;
        let udp = |service: Service| service.port("main", "UDP", 80);
        let object = udp(everywhere(family));
        node.put_all(&[&object, &slice(family, "svc", &["n2/0"])])?;
        let (from, to) = (outside(family), External(BALANCED));
        let flow = |node: &mut Simulation, when: &str| {
            Flow { node, family, from, to, port: 80, protocol: Udp }.goes_to(when, "n2/0")
        };
        flow(node, "first")?;
        node.put(&slice(family, "svc", &["n1/0", "n2/0"]))?;
        node.put(&object.clone().external_local())?;
        flow(node, "policy Local")?;
        let fresh = node.dial(from, to.at(family, 80), Tcp)?;
        ensure!(fresh.text() == "n1/0", "{fresh}");
        node.put(&object)?;
        let hinted = slice(family, "svc", &[]).endpoints([
            endpoints(family, &["n1/0"]).remove(0).zone("a", &["a"]),
            endpoints(family, &["n2/0"]).remove(0).zone("b", &["b"]),
        ]);
        node.put(&hinted)?;
        flow(node, "hints")?;
        let fresh = node.dial(from, to.at(family, 80), Tcp)?;
        ensure!(fresh.text() == "n1/0 masq", "{fresh}");
        Ok(())
    })
}

#[test]
fn a_restart_of_the_agent_cuts_no_flow() -> Result<()> {
    for protocol in [Tcp, Udp, Sctp] {
        on_every_way(protocol, |flow| {
            flow.endpoints(&["n1/0"])?;
            flow.opens_to("n1/0")?;
            flow.endpoints(&["n1/0", "n1/1", "n1/2"])?;
            flow.node.restart_agent()?;
            flow.node.settle()?;
            flow.goes_to("restarted", "n1/0")
        })?;
    }
    Ok(())
}

/// Never cut: they drain.
#[test]
fn tcp_and_sctp_stay_with_their_backend() -> Result<()> {
    for protocol in [Tcp, Sctp] {
        on_every_way(protocol, |flow| {
            flow.endpoints(&["n1/0"])?;
            flow.opens_to("n1/0")?;
            for words in [&["n1/0 terminating", "n1/1"][..], &["n1/0 gone", "n1/1"], &["n1/1"], &[]]
            {
                flow.endpoints(words)?;
                flow.goes_to(&format!("{words:?}"), "n1/0")?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// A reused address is another endpoint: what went to the one before does not come along, whichever
/// Service it is now of.
#[test]
fn an_address_that_another_service_gets_takes_no_udp_flow_along() -> Result<()> {
    on_both(|family, node| {
        let udp = |name: &str, index| named(family, name, index).port("main", "UDP", 80);
        node.put_all(&[&udp("svc", 1), &slice(family, "svc", &["n2/0"])])?;
        let to = Cluster(1);
        Flow { node, family, from: CLIENT, to, port: 80, protocol: Udp }.opens_to("n2/0")?;
        node.put_all(&[&slice(family, "svc", &["n2/1"]), &udp("two", 2)])?;
        node.put(&slice(family, "two", &["n2/0"]))?;
        let flow = Flow { node, family, from: CLIENT, to, port: 80, protocol: Udp };
        flow.goes_to("the pod is another Service's", "n2/1")
    })
}

/// kubernetes#48719: nothing is remembered of what was not translated; the SYN that is sent again
/// is served.
#[test]
fn what_was_sent_before_the_service_existed_is_no_obstacle() -> Result<()> {
    for protocol in [Tcp, Udp] {
        for family in FAMILIES {
            for (name, from, to, port, object) in ways(family) {
                let mut node = simulation()?;
                let at = to.at(family, port);
                ensure!(node.open(from, PORT, at, protocol)?.text() == "none", "{name}");
                node.put_all(&[&object, &slice(family, "svc", &["n1/0"])])?;
                let answer = node.open(from, PORT, at, protocol)?.text();
                ensure!(answer.trim_end_matches(" masq") == "n1/0", "{name}: {answer}");
            }
        }
    }
    Ok(())
}

/// kubernetes#111682: the host has dialled out from a port that is a NodePort's number, and is
/// answered. What is no SYN begins no flow.
#[test]
fn answers_to_the_hosts_own_connections_are_left_alone() -> Result<()> {
    on_both(|family, node| {
        node.put_all(&[&everywhere(family), &slice(family, "svc", &["n1/0"])])?;
        let (from, to) = (outside(family), Node(1).at(family, NODE_PORT));
        let answer = node.go_on(from, 443, to, Tcp)?;
        ensure!(answer.text() == "none", "{answer}");
        let newcomer = node.open(from, 443, to, Tcp)?;
        ensure!(newcomer.text() == "n1/0 masq", "{newcomer}");
        Ok(())
    })
}

/// Dials until it is clear whether the client sticks.
fn backend(node: &Simulation, from: Sender, to: To, family: Family, port: u16) -> Result<String> {
    let to = to.at(family, port);
    let mut all = BTreeSet::new();
    for _ in 0..STICKY_DIALS {
        let answer = node.open(from, node.fresh_port(), to, Tcp)?.text();
        all.insert(answer.trim_end_matches(" masq").to_owned());
    }
    ensure!(all.len() == 1, "it does not stick: {all:?}");
    all.pop_first().context("an answer")
}

const FOUR: &[&str] = &["n1/0", "n1/1", "n1/2", "n1/3"];
const SECONDS: u32 = 100;

#[test]
fn affinity_sticks_by_every_way_and_is_shared_by_the_ways_of_a_port() -> Result<()> {
    for family in FAMILIES {
        for (name, from, to, port, object) in ways(family) {
            let mut node = simulation()?;
            node.put_all(&[&object.affinity(SECONDS), &slice(family, "svc", FOUR)])?;
            let first = backend(&node, from, to, family, port).context(name)?;
            for (other_name, other_from, other, other_port, _) in ways(family) {
                if other_from != from || name.contains("ClusterIP, iTP") {
                    continue;
                }
                let other = backend(&node, from, other, family, other_port)?;
                ensure!(other == first, "{name}: {first}; {other_name}: {other}");
            }
        }
    }
    Ok(())
}

#[test]
fn affinity_ends_after_its_time_without_a_new_connection() -> Result<()> {
    for family in FAMILIES {
        for (name, from, to, port, object) in ways(family) {
            let mut node = simulation()?;
            node.put_all(&[&object.affinity(SECONDS), &slice(family, "svc", FOUR)])?;
            let first = backend(&node, from, to, family, port)?;
            // Each new connection begins the time anew.
            for _ in 0..5 {
                node.wait(Duration::from_secs(u64::from(SECONDS) - 1));
                ensure!(backend(&node, from, to, family, port)? == first, "{name}: too early");
            }
            let mut seen = BTreeSet::new();
            for _ in 0..30 {
                node.wait(Duration::from_secs(u64::from(SECONDS) + 1));
                seen.insert(backend(&node, from, to, family, port)?);
            }
            ensure!(seen.len() == FOUR.len(), "{name}: only {seen:?}");
        }
    }
    Ok(())
}

#[test]
fn affinity_is_switched_on_and_off() -> Result<()> {
    for family in FAMILIES {
        for (name, from, to, port, object) in ways(family) {
            let mut node = simulation()?;
            node.put_all(&[&object, &slice(family, "svc", FOUR)])?;
            for round in 0..2 {
                node.put(&object)?;
                let all = node.dial(from, to.at(family, port), Tcp)?.text();
                let all = all.trim_end_matches(" masq").to_owned();
                ensure!(all == FOUR.join(" "), "{name}, round {round}: {all}");
                node.put(&object.clone().affinity(SECONDS))?;
                backend(&node, from, to, family, port).context(name)?;
            }
        }
    }
    Ok(())
}

/// A client is led elsewhere when its endpoint leaves, or is no longer ready, and is not taken
/// back.
#[test]
fn affinity_ends_with_its_endpoint() -> Result<()> {
    for family in FAMILIES {
        for (name, from, to, port, object) in ways(family) {
            let mut node = simulation()?;
            node.put_all(&[&object.affinity(SECONDS), &slice(family, "svc", FOUR)])?;
            for state in [None, Some("unready"), Some("terminating")] {
                let first = backend(&node, from, to, family, port)?;
                let words: Vec<String> = FOUR
                    .iter()
                    .filter(|word| state.is_some() || **word != first)
                    .map(|word| match state {
                        Some(state) if *word == first => format!("{word} {state}"),
                        _ => (*word).to_owned(),
                    })
                    .collect();
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                node.put(&slice(family, "svc", &words))?;
                let next = backend(&node, from, to, family, port)?;
                ensure!(next != first, "{name}: still {first}, {words:?}");
                node.put(&slice(family, "svc", FOUR))?;
                ensure!(backend(&node, from, to, family, port)? == next, "{name}: taken back");
            }
        }
    }
    Ok(())
}

/// Two ports of a Service are two choices, and so are two clients.
#[test]
fn affinity_is_of_one_port_and_one_client() -> Result<()> {
    for family in FAMILIES {
        let mut node = simulation()?;
        let mut apart = [0, 0];
        for index in 1..=15 {
            let name = format!("svc-{index}");
            let object = named(family, &name, index).port("more", "TCP", 81).affinity(SECONDS);
            let more = slice(family, &name, FOUR).port("more", "TCP", 8080);
            node.put_all(&[&object, &more])?;
            let of = |from, port| backend(&node, from, Cluster(index), family, port);
            let mine = of(CLIENT, 80)?;
            apart[0] += usize::from(of(CLIENT, 81)? != mine);
            apart[1] += usize::from(of(Sender::Pod(8), 80)? != mine);
        }
        // That none of fifteen differs would be a chance of 1 in 4^15.
        ensure!(apart.iter().all(|count| *count > 0), "{apart:?}");
    }
    Ok(())
}
