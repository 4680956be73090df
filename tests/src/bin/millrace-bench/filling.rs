//! From decoded objects to maps, by the agent's own code in this process: what programming costs
//! without the network, JSON, and the loading of programs. kube-proxy's tools begin with rules as
//! text; this begins with objects.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use millrace::apply::Reconciler;
use millrace::bpf::environment;
use millrace::bpf::object::{FlowCapacity, Object, PacketBuild, Settings};
use millrace::bpf::pins::Pins;
use millrace::bpf::store::Store;
use millrace::model::Model;
use millrace::plan::op::Capacity;
use millrace::settings::Policy;
use millrace::source::{Event, Kind, Object as Source, slim};
use millrace_tests::lab::{Family, system};
use serde_json::Value;

use crate::clock::{memory_mib, thread_cpu_us};
use crate::maps;
use crate::result::Load;
use crate::services::Shape;
use crate::statistics::rounded;

/// Fill new maps, and print what it cost as JSON.
pub fn run(services: &str, endpoints_each: &str) -> Result<()> {
    // As the agent has it.
    environment::use_small_pages();
    let services = services.parse().context("Services")?;
    let endpoints_each = endpoints_each.parse().context("endpoints of each")?;
    let shape = Shape { services, endpoints_each, dual: false };
    let bpffs = system::bpffs()?.join(format!("millrace-bench-{}", std::process::id()));
    std::fs::create_dir(&bpffs).with_context(|| format!("create {}", bpffs.display()))?;
    let load = fill(shape, &Pins::new(&bpffs));
    // Whatever happened, nothing of it stays.
    let removed = Pins::new(&bpffs).remove_all();
    removed.context("remove the maps")?;
    std::fs::remove_dir_all(&bpffs).with_context(|| format!("remove {}", bpffs.display()))?;
    let load = load?;
    println!("{}", serde_json::to_string(&load)?);
    Ok(())
}

fn fill(shape: Shape, pins: &Pins) -> Result<Load> {
    let room = shape.endpoints() + shape.endpoints() / 10;
    let default = Capacity::default();
    let (backends, slots) = (default.backends.max(room), default.slots.max(room));
    let capacity = Capacity { backends, slots, ..default };
    let flows = FlowCapacity { established: 1024, half_open: 1024 };
    let packets = PacketBuild::of_this_kernel();
    let settings = Settings { capacity, flows, node_netns_cookie: 0, packets };
    let _object = Object::load(pins, &settings)?;
    let mut store = Store::open(&pins.maps(), capacity)?;
    let mut reconciler = Reconciler::recover(&mut store)?;
    let events = events(shape)?;
    let (begun, before) = (Instant::now(), thread_cpu_us()?);
    let mut model = Model::new("n1", Policy::default());
    events.into_iter().for_each(|event| model.apply(event));
    let round = reconciler.round(&mut model, &mut store, Duration::ZERO)?;
    let (cpu_us, wall) = (thread_cpu_us()? - before, begun.elapsed());
    ensure!(reconciler.refused().next().is_none(), "a Service did not fit");
    ensure!(round.services as u32 >= shape.services, "only {} Services", round.services);
    let pid = std::process::id();
    Ok(Load {
        what: "Millrace (objects to maps)".into(),
        services: shape.services,
        endpoints: shape.endpoints(),
        cpu_s: rounded(cpu_us / 1e6),
        cpu_s_range: None,
        wall_s: rounded(wall.as_secs_f64()),
        peak_mib: rounded(memory_mib(pid, "VmHWM")?),
        steady_mib: None,
        kernel_mib: Some(rounded(maps::configured_mib(pid)?)),
    })
}

/// Decoded objects, in the order of a source's lists.
fn events(shape: Shape) -> Result<Vec<Event>> {
    let mut services = Vec::new();
    let mut slices = Vec::new();
    for entry in shape.entries() {
        let service: slim::Service = decode(entry.service(&[Family::V4]))?;
        let slice: slim::EndpointSlice = decode(entry.slice(Family::V4))?;
        services.push(Event::Apply(Source::Service(service)));
        slices.push(Event::Apply(Source::EndpointSlice(slice)));
    }
    services.push(Event::Complete(Kind::Service));
    services.append(&mut slices);
    services.push(Event::Complete(Kind::EndpointSlice));
    Ok(services)
}

fn decode<T: serde::de::DeserializeOwned>(object: Value) -> Result<T> {
    serde_json::from_value(object).context("decode an object of our own")
}
