//! Full maps: what does not fit is refused whole, named, and hurts nobody else.

use anyhow::{Context as _, Result, ensure};
use millrace_tests::lab::{Families, Family, Lab};
use millrace_tests::manifest::Endpoint;
use millrace_tests::wait::{self, CHANGE_TIMEOUT};
use millrace_tests::world::{World, cluster_ip, reach, unreachable};

/// Three services with a TCP and a UDP port each, and the row that says which addresses are
/// ClusterIPs.
const FRONTENDS_THAT_FIT: &str = "7";

#[test]
fn what_does_not_fit_is_refused_whole_and_named() -> Result<()> {
    let builder = Lab::builder().pods("n1", &["client", "a"]).families(Families::V4);
    let mut world = World::without_agents(builder, &[])?;
    world.start_agents(&["--max-frontends", FRONTENDS_THAT_FIT])?;
    let client = world.lab.pod("n1", "client").clone();
    let at = |index| cluster_ip(Family::V4, index);
    let first = world.service("first", 1, &["n1/a"], |service| service)?;
    world.service("second", 2, &["n1/a"], |service| service)?;
    world.service("third", 3, &["n1/a"], |service| service)?;
    for index in 1..=3 {
        reach(&client, at(index), &["a"])?;
    }
    world.service("fourth", 4, &["n1/a"], |service| service)?;
    wait::until("the refusal to be named", CHANGE_TIMEOUT, || {
        let status = world.agent("n1").status_json()?.to_string();
        ensure!(status.contains("shop/fourth"), "{status}");
        Ok(())
    })?;
    let status = world.agent("n1").operate(&["status"])?;
    ensure!(!status.status.success(), "a refusal shows in the exit code: {status:?}");
    unreachable(&client, at(4))?;
    for index in 1..=3 {
        reach(&client, at(index), &["a"]).context("a service that fitted")?;
    }
    // Endpoints of a service that fits still change.
    world.apply(&world.empty_slice("second", Family::V4))?;
    millrace_tests::world::refused(&client, at(2))?;
    // Room is made: the refused service is served without being touched.
    world.delete(&first)?;
    reach(&client, at(4), &["a"])?;
    wait::until("the refusal to be withdrawn", CHANGE_TIMEOUT, || {
        let status = world.agent("n1").status_json()?.to_string();
        ensure!(!status.contains("shop/fourth"), "{status}");
        Ok(())
    })
}

/// More endpoints than backends have room for: the one service is refused, the other is not.
#[test]
fn a_service_with_too_many_endpoints_is_refused_alone() -> Result<()> {
    let builder = Lab::builder().pods("n1", &["client", "a", "b"]).families(Families::V4);
    let mut world = World::without_agents(builder, &[])?;
    // Room for both services with two endpoints on two ports each, and a little; not for 50.
    world.start_agents(&["--max-backends", "12"])?;
    let client = world.lab.pod("n1", "client").clone();
    world.service("small", 1, &["n1/a"], |service| service)?;
    reach(&client, cluster_ip(Family::V4, 1), &["a"])?;
    let nobody = (1..=50).map(|host| Endpoint::ready([10, 244, 9, host].into(), "n9"));
    world.apply(&world.empty_slice("large", Family::V4).endpoints(nobody))?;
    let large = millrace_tests::manifest::Service::new("large");
    let large = large.cluster_ip(cluster_ip(Family::V4, 2).ip());
    world.apply(&large.port("main", "TCP", 80).port("main", "UDP", 80))?;
    wait::until("the refusal to be named", CHANGE_TIMEOUT, || {
        let status = world.agent("n1").status_json()?.to_string();
        ensure!(status.contains("shop/large"), "{status}");
        Ok(())
    })?;
    unreachable(&client, cluster_ip(Family::V4, 2))?;
    reach(&client, cluster_ip(Family::V4, 1), &["a"])?;
    world.apply(&world.slice("large", &["n1/a", "n1/b"], Family::V4))?;
    reach(&client, cluster_ip(Family::V4, 2), &["a", "b"])
}

/// A bad file is reported, and everything else goes on.
#[test]
fn a_broken_manifest_leaves_the_last_good_state_in_force() -> Result<()> {
    let mut world = World::new(Lab::builder().pods("n1", &["client", "a"]))?;
    let service = world.service("web", 1, &["n1/a"], |service| service)?;
    let client = world.lab.pod("n1", "client").clone();
    let to = cluster_ip(Family::V4, 1);
    reach(&client, to, &["a"])?;
    let directory = world.lab.node("n1").manifests();
    millrace_tests::manifest::write_as(&directory, "service.shop.web.yaml", "kind: [Service\n")?;
    wait::until("the file to be reported", CHANGE_TIMEOUT, || {
        let status = world.agent("n1").status_json()?.to_string();
        ensure!(status.contains("service.shop.web.yaml"), "{status}");
        Ok(())
    })?;
    reach(&client, to, &["a"])?;
    world.service("other", 2, &["n1/a"], |service| service)?;
    reach(&client, cluster_ip(Family::V4, 2), &["a"])?;
    world.apply(&service)?;
    wait::until("the report to be withdrawn", CHANGE_TIMEOUT, || {
        let status = world.agent("n1").status_json()?.to_string();
        ensure!(!status.contains("service.shop.web.yaml"), "{status}");
        Ok(())
    })?;
    reach(&client, to, &["a"])
}
