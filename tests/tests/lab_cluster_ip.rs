//! ClusterIP: the "Services" scenarios of the specification's section 7.1, on every family.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use millrace_tests::lab::{Builder, Family, Lab, address};
use millrace_tests::manifest::{self, Endpoint};
use millrace_tests::probe;
use millrace_tests::wait::{self, CHANGE_TIMEOUT};
use millrace_tests::world::{
    Client, TARGET_PORT, World, cluster_ip, reach, reach_by, refused, unreachable,
};

fn two_nodes() -> Builder {
    Lab::builder().nodes(2).pods("n1", &["client", "a"]).pod("n2", "b")
}

#[test]
fn serve_a_basic_endpoint_from_pods() -> Result<()> {
    let world = World::new(two_nodes())?;
    world.service("web", 1, &[], |service| service)?;
    let clients = [world.lab.pod("n1", "client"), world.lab.pod("n2", "b")];
    for pods in [&[][..], &["n1/a"], &["n1/a", "n2/b"], &["n2/b"], &[]] {
        for &family in world.lab.families() {
            world.apply(&world.slice("web", pods, family))?;
        }
        let names: Vec<&str> = pods.iter().map(|path| &path[3..]).collect();
        for &family in world.lab.families() {
            for client in clients {
                match &names[..] {
                    [] => refused(client, cluster_ip(family, 1))?,
                    names => reach(client, cluster_ip(family, 1), names)?,
                }
            }
        }
    }
    Ok(())
}

#[test]
fn serve_multiport_endpoints_from_pods() -> Result<()> {
    let mut world = World::new(two_nodes())?;
    for (node, pod) in [("n1", "a"), ("n2", "b")] {
        let place = world.lab.pod(node, pod).clone();
        world.serve(&place, &format!("{pod}-admin"), 9090)?;
    }
    world.service("web", 1, &[], |service| service.port("admin", "TCP", 81))?;
    for &family in world.lab.families() {
        // Two named ports, served by different pods, in slices of their own.
        let main = world.slice("web", &["n1/a"], family);
        let mut admin = manifest::Slice::new("web-admin", "web", family).port("admin", "TCP", 9090);
        admin.0["metadata"]["name"] = format!("web-admin-{family}").to_lowercase().into();
        world.apply(&main)?;
        world.apply(&admin.endpoints(world.ready(&["n2/b"], family)))?;
        let client = world.lab.pod("n1", "client");
        reach(client, cluster_ip(family, 1), &["a"])?;
        let admin = SocketAddr::new(address::service(family, 1), 81);
        reach_by(Client::Tcp, client, admin, &["b-admin"])?;
    }
    Ok(())
}

#[test]
fn be_updated_after_adding_or_deleting_ports() -> Result<()> {
    let world = World::new(two_nodes())?;
    let one = world.service("web", 1, &["n1/a"], |service| service)?;
    let client = world.lab.pod("n1", "client");
    let added = cluster_ip(Family::V4, 1).ip();
    let added = SocketAddr::new(added, 8000);
    reach(client, cluster_ip(Family::V4, 1), &["a"])?;
    unreachable(client, added)?;
    let slice = world.slice("web", &["n1/a"], Family::V4).port("more", "TCP", TARGET_PORT);
    world.apply(&slice)?;
    world.apply(&one.clone().port("more", "TCP", 8000))?;
    reach_by(Client::Tcp, client, added, &["a"])?;
    reach(client, cluster_ip(Family::V4, 1), &["a"])?;
    world.apply(&one)?;
    unreachable(client, added)?;
    reach(client, cluster_ip(Family::V4, 1), &["a"])
}

#[test]
fn endpoints_on_same_port_and_different_protocols() -> Result<()> {
    let world = World::new(two_nodes())?;
    let mut both = world.service("web", 1, &["n1/a", "n2/b"], |service| service)?;
    let client = world.lab.pod("n2", "b");
    let ports = both.0["spec"]["ports"].clone();
    for &family in world.lab.families() {
        reach(client, cluster_ip(family, 1), &["a", "b"])?;
    }
    for (kept, alive, dead) in [(0, Client::Tcp, Client::Udp), (1, Client::Udp, Client::Tcp)] {
        both.0["spec"]["ports"] = serde_json::json!([ports[kept]]);
        world.apply(&both)?;
        for &family in world.lab.families() {
            let to = cluster_ip(family, 1);
            millrace_tests::wait::until_true(
                "the other protocol to end",
                millrace_tests::wait::CHANGE_TIMEOUT,
                || dead.dial_briefly(client, to).is_ok_and(|outcome| !outcome.ok),
            )?;
            reach_by(alive, client, to, &["a", "b"])?;
        }
    }
    Ok(())
}

#[test]
fn named_target_ports_resolving_to_different_ports_per_endpoint() -> Result<()> {
    let mut world = World::new(two_nodes())?;
    let place = world.lab.pod("n2", "b").clone();
    world.serve(&place, "b-9090", 9090)?;
    world.service("web", 1, &["n1/a"], |service| service)?;
    let client = world.lab.pod("n1", "client").clone();
    for &family in world.lab.families() {
        let name = format!("web-other-{family}").to_lowercase();
        let other = manifest::Slice::new(&name, "web", family).port("main", "TCP", 9090);
        world.apply(&other.endpoints(world.ready(&["n2/b"], family)))?;
        reach_by(Client::Tcp, &client, cluster_ip(family, 1), &["a", "b-9090"])?;
    }
    Ok(())
}

#[test]
fn multiple_endpoint_ips_in_multiple_endpoint_slices() -> Result<()> {
    let world = World::new(two_nodes())?;
    world.service("web", 1, &["n1/a"], |service| service)?;
    let client = world.lab.pod("n1", "client");
    for &family in world.lab.families() {
        let mut second = world.slice("web", &["n2/b"], family);
        second.0["metadata"]["name"] = format!("web-second-{family}").to_lowercase().into();
        world.apply(&second)?;
        reach(client, cluster_ip(family, 1), &["a", "b"])?;
        world.delete(&second)?;
        reach(client, cluster_ip(family, 1), &["a"])?;
    }
    Ok(())
}

#[test]
fn preserve_source_pod_ip_for_traffic_thru_service_cluster_ip() -> Result<()> {
    let world = World::new(two_nodes())?;
    world.service("near", 1, &["n1/a"], |service| service)?;
    world.service("far", 2, &["n2/b"], |service| service)?;
    let client = world.lab.pod("n1", "client");
    for &family in world.lab.families() {
        for (index, name) in [(1, "a"), (2, "b")] {
            let to = cluster_ip(family, index);
            reach(client, to, &[name])?;
            for kind in Client::ALL {
                let outcome = &kind.dial(client, to, 1)?[0];
                let seen = outcome.seen.map(|seen| seen.ip());
                ensure!(seen == Some(client.address(family)), "{outcome:?}");
                if kind != Client::Udp {
                    ensure!(outcome.peer == Some(to), "getpeername: {outcome:?}");
                }
                if kind != Client::Tcp {
                    ensure!(outcome.source == Some(to), "recvfrom: {outcome:?}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn allow_pods_to_hairpin_back_to_themselves_through_services() -> Result<()> {
    let world = World::new(two_nodes())?;
    world.service("web", 1, &["n1/a"], |service| service)?;
    for &family in world.lab.families() {
        reach(world.lab.pod("n1", "a"), cluster_ip(family, 1), &["a"])?;
    }
    Ok(())
}

#[test]
fn be_able_to_up_and_down_services() -> Result<()> {
    let world = World::new(two_nodes())?;
    let first = world.service("first", 1, &["n1/a"], |service| service)?;
    world.service("second", 2, &["n2/b"], |service| service)?;
    for &family in world.lab.families() {
        let [one, two, three] = [1, 2, 3].map(|index| cluster_ip(family, index));
        let clients = [&**world.lab.pod("n1", "client"), &**world.lab.node("n2")];
        for client in clients {
            reach(client, one, &["a"])?;
            reach(client, two, &["b"])?;
        }
        world.delete(&first)?;
        world.service("third", 3, &["n1/a"], |service| service)?;
        for client in clients {
            unreachable(client, one)?;
            reach(client, two, &["b"])?;
            reach(client, three, &["a"])?;
        }
        // "work after the service has been recreated"
        world.apply(&first)?;
        reach(clients[0], one, &["a"])?;
    }
    Ok(())
}

#[test]
fn implement_service_proxy_name() -> Result<()> {
    let world = World::new(two_nodes())?;
    let label = "service.kubernetes.io/service-proxy-name";
    let plain = world.service("web", 1, &["n1/a"], |service| service.label(label, "other"))?;
    world.service("canary", 2, &["n1/a"], |service| service)?;
    let client = world.lab.pod("n1", "client");
    let (to, canary) = (cluster_ip(Family::V4, 1), cluster_ip(Family::V4, 2));
    reach(client, canary, &["a"])?;
    unreachable(client, to)?;
    let mut open = plain.clone();
    open.0["metadata"]["labels"] = serde_json::json!({});
    world.apply(&open)?;
    reach(client, to, &["a"])?;
    world.apply(&plain)?;
    unreachable(client, to)
}

#[test]
fn implement_headless_label() -> Result<()> {
    let world = World::new(two_nodes())?;
    world.service("web", 1, &["n1/a"], |service| service)?;
    let client = world.lab.pod("n1", "client");
    let label = "service.kubernetes.io/headless";
    for &family in world.lab.families() {
        let slice = world.slice("web", &["n1/a"], family);
        reach(client, cluster_ip(family, 1), &["a"])?;
        world.apply(&slice.clone().label(label, ""))?;
        unreachable(client, cluster_ip(family, 1))?;
        world.apply(&slice)?;
        reach(client, cluster_ip(family, 1), &["a"])?;
    }
    Ok(())
}

#[test]
fn be_rejected_when_no_endpoints_exist() -> Result<()> {
    let world = World::new(two_nodes())?;
    // "be rejected for evicted pods": the slice lists a pod that neither is ready nor serves.
    world.service("none", 1, &[], |service| service)?;
    world.service("evicted", 2, &[], |service| service)?;
    for &family in world.lab.families() {
        let evicted = Endpoint::gone(world.pod_address("n1/a", family), "n1");
        world.apply(&world.empty_slice("evicted", family).endpoint(evicted))?;
        for client in [&**world.lab.pod("n1", "client"), &**world.lab.node("n1")] {
            refused(client, cluster_ip(family, 1))?;
            refused(client, cluster_ip(family, 2))?;
        }
    }
    Ok(())
}

#[test]
fn a_port_that_a_cluster_ip_lacks_is_refused_and_other_addresses_are_left_alone() -> Result<()> {
    let world = World::new(two_nodes())?;
    world.service("web", 1, &["n1/a"], |service| service.port("admin", "TCP", 81))?;
    let far = world.service("far", 9, &["n1/a"], |service| service)?;
    for &family in world.lab.families() {
        for client in [&**world.lab.pod("n1", "client"), &**world.lab.node("n1")] {
            reach(client, cluster_ip(family, 1), &["a"])?;
            refused(client, SocketAddr::new(address::service(family, 1), 82))?;
            // One protocol's port is not the other's.
            let tcp_only = SocketAddr::new(address::service(family, 1), 81);
            for kind in [Client::Udp, Client::UdpConnected] {
                let outcome = kind.dial_briefly(client, tcp_only)?;
                ensure!(outcome.error.as_deref() == Some("ECONNREFUSED"), "{outcome:?}");
            }
            // Between the two ClusterIPs, and nobody's: nothing we know of.
            let nobodys = SocketAddr::new(address::service(family, 2), 82);
            let outcome = Client::Tcp.dial_briefly(client, nobodys)?;
            ensure!(outcome.error.as_deref() != Some("ECONNREFUSED"), "{outcome:?}");
            reach(client, SocketAddr::new(world.pod_address("n1/a", family), TARGET_PORT), &["a"])?;
        }
    }
    // What was a ClusterIP is none any more.
    world.delete(&far)?;
    let gone = SocketAddr::new(address::service(Family::V4, 9), 82);
    let client = world.lab.pod("n1", "client");
    wait::until("the address to be forgotten", CHANGE_TIMEOUT, || {
        let outcome = Client::Tcp.dial_briefly(client, gone)?;
        ensure!(outcome.error.as_deref() != Some("ECONNREFUSED"), "{outcome:?}");
        Ok(())
    })
}

#[test]
fn change_the_type_between_external_name_and_cluster_ip() -> Result<()> {
    let world = World::new(two_nodes())?;
    let cluster = world.service("web", 1, &["n1/a"], |service| service)?;
    let client = world.lab.pod("n1", "client");
    for &family in world.lab.families() {
        reach(client, cluster_ip(family, 1), &["a"])?;
    }
    world.apply(&cluster.clone().external_name("example.test"))?;
    for &family in world.lab.families() {
        unreachable(client, cluster_ip(family, 1))?;
    }
    world.apply(&cluster)?;
    for &family in world.lab.families() {
        reach(client, cluster_ip(family, 1), &["a"])?;
    }
    Ok(())
}

#[test]
fn handle_large_requests() -> Result<()> {
    let world = World::new(two_nodes())?;
    world.service("web", 1, &["n2/b"], |service| service)?;
    let client = world.lab.pod("n1", "client");
    for &family in world.lab.families() {
        let to = cluster_ip(family, 1);
        reach(client, to, &["b"])?;
        let to = to.to_string();
        for arguments in [
            ["connect", &to, "--echo", "2000"],
            ["connect", &to, "--echo", "500000"],
            ["udp-unconnected", &to, "--echo", "2000"],
        ] {
            let outcome = probe::one(client, &arguments)?;
            ensure!(outcome.ok, "{arguments:?}: {outcome:?}");
        }
    }
    Ok(())
}

#[test]
fn headless_services_have_no_frontend_and_hurt_nobody() -> Result<()> {
    let world = World::new(two_nodes())?;
    world.service("headless", 1, &["n1/a"], manifest::Service::headless)?;
    world.service("web", 2, &["n1/a"], |service| service)?;
    let client = world.lab.pod("n1", "client");
    for &family in world.lab.families() {
        reach(client, cluster_ip(family, 2), &["a"])?;
        unreachable(client, cluster_ip(family, 1))?;
        reach(client, SocketAddr::new(world.pod_address("n1/a", family), TARGET_PORT), &["a"])?;
    }
    Ok(())
}
