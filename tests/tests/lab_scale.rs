//! Many services, and more than fit.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use millrace_tests::lab::{Families, Family, Lab, address};
use millrace_tests::manifest::{self, Endpoint, Object as _, Service, Slice};
use millrace_tests::wait;
use millrace_tests::world::{World, cluster_ip, reach};

const SERVICES: u16 = 10_000;
const ENDPOINTS_PER_SERVICE: u8 = 10;
/// Services per manifest file: `kubectl get -o yaml` prints one `List` per namespace.
const SERVICES_PER_FILE: u16 = 500;
/// How long a development build may take to read and apply them.
const FEED_TIMEOUT: Duration = Duration::from_secs(120);

/// Service number `index` with endpoints that nobody serves.
fn many(index: u16) -> [serde_json::Value; 2] {
    let name = format!("svc-{index}");
    // Port 443, so that the world's own services on port 80 never collide with one of these.
    let service = Service::new(&name).cluster_ip(address::service(Family::V4, index));
    let slice = Slice::new(&format!("{name}-v4"), &name, Family::V4).port("main", "TCP", 8443);
    let [high, low] = index.to_be_bytes();
    let endpoints = (1..=ENDPOINTS_PER_SERVICE)
        .map(|host| Endpoint::ready([100, 64 + high, low, host].into(), "n9"));
    [service.port("main", "TCP", 443).value(), slice.endpoints(endpoints).value()]
}

#[test]
fn feeding_ten_thousand_services_and_a_hundred_thousand_endpoints_works() -> Result<()> {
    let builder = Lab::builder().pods("n1", &["client", "a"]).families(Families::V4);
    let mut world = World::without_agents(builder, &[])?;
    world.start_agents(&[])?;
    let directory = world.lab.node("n1").manifests();
    let start = Instant::now();
    for first in (0..SERVICES).step_by(usize::from(SERVICES_PER_FILE)) {
        let items: Vec<_> = (first..first + SERVICES_PER_FILE).flat_map(many).collect();
        let text = manifest::list(items).to_string();
        manifest::write_as(&directory, &format!("many-{first}.json"), &text)?;
    }
    let fed = start.elapsed();
    // The canary is written last and the probe waits for it among all the others.
    world.service("canary", 65000, &["n1/a"], |service| service)?;
    let client = world.lab.pod("n1", "client");
    wait::until("the canary among 10 000 services", FEED_TIMEOUT, || {
        reach(client, cluster_ip(Family::V4, 65000), &["a"])
    })?;
    let took = start.elapsed();
    println!("wrote the files in {fed:?}, all of it applied after {took:?}");
    let status = millrace_tests::agent::Agent::of(world.lab.node("n1")).services_json()?;
    let count = status.to_string().matches("svc-").count();
    ensure!(count >= usize::from(SERVICES), "only {count} of the services are known");
    // One change among them is as quick as alone.
    let start = Instant::now();
    world.service("late", 65001, &["n1/a"], |service| service)?;
    reach(client, cluster_ip(Family::V4, 65001), &["a"])?;
    let took = start.elapsed();
    ensure!(took < Duration::from_secs(5), "one more service took {took:?}");
    Ok(())
}
