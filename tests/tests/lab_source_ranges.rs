//! loadBalancerSourceRanges for processes of the node itself, whose sockets the agent judges. Pods
//! and clients outside are the packet path's.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use millrace_tests::lab::{Builder, Lab, Place, address};
use millrace_tests::manifest::Service;
use millrace_tests::wait::{self, CHANGE_TIMEOUT};
use millrace_tests::world::{Client, World, cluster_ip, reach};
use serde_json::json;

/// An answer, or an error, that comes sooner is no silence.
const SILENCE: Duration = Duration::from_millis(250);
/// The load balancer address of the tests, by its number.
const BALANCER: u8 = 10;
/// Ranges without any address of the lab.
const NOBODY: [&str; 2] = ["192.0.2.0/24", "2001:db8:ffff::/48"];

fn one_node() -> Builder {
    Lab::builder().pods("n1", &["client", "a"])
}

fn balanced(world: &World, ranges: &[&str]) -> Result<Service> {
    world.service("web", 1, &["n1/a"], |service| {
        let families = world.lab.families().iter();
        let mut service = families.fold(service, |service, &family| {
            service.load_balancer_ip(address::external(family, BALANCER))
        });
        service.0["spec"]["loadBalancerSourceRanges"] = json!(ranges);
        service
    })
}

/// Waits until no kind of client gets an answer, or an error before its time is over.
fn silent(place: &Place, to: SocketAddr) -> Result<()> {
    for client in Client::ALL {
        let what = format!("{client:?} from {} to {to} to meet silence", place.name());
        wait::until(&what, CHANGE_TIMEOUT, || {
            let outcome = client.dial_briefly(place, to)?;
            let took = Duration::from_micros(outcome.micros);
            ensure!(!outcome.ok && took >= SILENCE, "{outcome:?}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_node_outside_the_ranges_meets_silence_and_one_inside_is_served() -> Result<()> {
    let world = World::new(one_node())?;
    let node = world.lab.node("n1");
    let own: Vec<String> =
        world.lab.families().iter().map(|&family| node.address(family).to_string()).collect();
    let own: Vec<String> = own
        .iter()
        .map(|ip| format!("{ip}/{}", if ip.contains(':') { "128" } else { "32" }))
        .collect();
    let inside: Vec<&str> = own.iter().map(String::as_str).chain(NOBODY).collect();
    for ranges in [&inside[..], &NOBODY, &inside, &[]] {
        balanced(&world, ranges)?;
        for &family in world.lab.families() {
            let to = SocketAddr::new(address::external(family, BALANCER), 80);
            if ranges == NOBODY {
                silent(node, to)?
            } else {
                reach(node, to, &["a"])?
            }
            reach(node, cluster_ip(family, 1), &["a"])?;
            reach(world.lab.pod("n1", "client"), cluster_ip(family, 1), &["a"])?;
        }
    }
    Ok(())
}

#[test]
fn ranges_are_kept_over_a_restart_and_go_with_their_service() -> Result<()> {
    let mut world = World::new(one_node())?;
    let service = balanced(&world, &["10.0.0.0/8", "10.1.0.0/16", "fd00::/8", NOBODY[0]])?;
    let node = world.lab.node("n1").clone();
    for &family in world.lab.families() {
        reach(&node, cluster_ip(family, 1), &["a"])?;
    }
    let before = world.agent("n1").services_json()?;
    ensure!(!before.to_string().contains("\"Address\""), "nobody dials a ClusterIP as such");
    world.agent("n1").kill()?;
    world.agent("n1").restart()?;
    let status = world.agent("n1").status_json()?;
    ensure!(status["agent"]["ops"] == 0, "{}", status["agent"]);
    ensure!(world.agent("n1").services_json()? == before);
    world.delete(&service)?;
    wait::until("the service to go", CHANGE_TIMEOUT, || {
        let left = world.agent("n1").services_json()?;
        ensure!(!left.to_string().contains("\"web\""), "{left}");
        Ok(())
    })?;
    world.agent("n1").kill()?;
    world.agent("n1").restart()?;
    let status = world.agent("n1").status_json()?;
    ensure!(status["agent"]["ops"] == 0, "something was left: {}", status["agent"]);
    Ok(())
}
