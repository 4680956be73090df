//! An agent without options has the whole machine: its own network, the root of the cgroup tree,
//! maps of the usual sizes. Nowhere else may a test do this.

use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command};
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context as _, Result, ensure};
use millrace_tests::agent;
use millrace_tests::lab::{Families, Place, address};
use millrace_tests::manifest::{self, Endpoint, Service, Slice};
use millrace_tests::privileges;
use millrace_tests::probe::Server;
use millrace_tests::wait;
use millrace_tests::world::{Client, TARGET_PORT, cluster_ip, reach, reach_by};
use serde_json::json;

use crate::{CAPABILITIES, machine};

/// Its objects.
const MANIFESTS: &str = "/run/machine";
const NAME: &str = "machine";
const RUN: &[&str] = &["run", "--manifests", MANIFESTS, "--node-name", NAME];
/// From here on BPF memory counts to the cgroup's.
const COUNTED_BY_CGROUP: (u32, u32) = (5, 11);
const SERVICE: u16 = 1;
const NODE_PORT: u16 = 30080;
/// From its start to its first complete state in the kernel, with maps of the usual sizes.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// After SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves a Service of the machine itself, then leaves. It may not lock more memory than a login:
/// where maps count as such, it is given the right to raise that, after it was seen to ask for it.
pub fn whole_machine(kernel: (u32, u32)) -> Result<()> {
    let place = Place::machine()?;
    prepare(&place)?;
    let mut command = millrace(RUN)?;
    machine::lock_little(&mut command);
    if kernel < COUNTED_BY_CGROUP {
        asks_for_memory()?;
    } else {
        privileges::limit(&mut command, CAPABILITIES);
    }
    let served = serve(&place, command);
    // Also after a failure, for what comes next to begin from nothing.
    served.and(operate(&["cleanup"]))
}

/// With three capabilities it cannot start, and names what would help.
fn asks_for_memory() -> Result<()> {
    let mut command = millrace(RUN)?;
    machine::lock_little(&mut command);
    privileges::limit(&mut command, CAPABILITIES);
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
    ensure!(said.contains("CAP_SYS_RESOURCE"), "it does not say what would help: {said}");
    Ok(())
}

fn serve(place: &Place, mut command: Command) -> Result<()> {
    let _server = Server::start(place, NAME, &[TARGET_PORT], &[TARGET_PORT])?;
    let mut agent = Running(command.spawn().context("start the agent")?);
    agent.wait_ready()?;
    for &family in Families::Dual.list() {
        reach(place, cluster_ip(family, SERVICE), &[NAME])?;
        // The node's own loopback: the machine's first network is known without a cookie.
        let loopback = SocketAddr::new(family.loopback(), NODE_PORT);
        reach_by(Client::Udp, place, loopback, &[NAME])?;
    }
    operate(&["status"])?;
    agent.stop()?;
    reach_by(Client::Tcp, place, cluster_ip(Families::Dual.primary(), SERVICE), &[NAME])
}

/// Addresses and objects.
fn prepare(place: &Place) -> Result<()> {
    let ip = |family| address::pod(family, 1, 0);
    let line = |&family| {
        let ip: IpAddr = ip(family);
        format!("addr add {ip}/{} dev lo", if ip.is_ipv4() { 32 } else { 128 })
    };
    place.ip(&Families::Dual.list().iter().map(line).collect::<Vec<_>>())?;
    let directory = std::path::Path::new(MANIFESTS);
    fs::create_dir_all(directory)?;
    let mut service = Service::new("web");
    for &family in Families::Dual.list() {
        service = service.cluster_ip(address::service(family, SERVICE));
        let name = format!("web-{family}").to_lowercase();
        let slice = Slice::new(&name, "web", family).endpoint(Endpoint::ready(ip(family), NAME));
        let slice = slice.port("main", "TCP", TARGET_PORT).port("main", "UDP", TARGET_PORT);
        manifest::write(directory, &slice)?;
    }
    let service = service.port("main", "TCP", 80).port("main", "UDP", 80).node_port(NODE_PORT);
    manifest::write(directory, &service)?;
    let addresses = Families::Dual.list().iter();
    let addresses: Vec<_> =
        addresses.map(|&f| json!({ "type": "InternalIP", "address": ip(f) })).collect();
    let node = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": NAME },
        "status": { "addresses": addresses },
    });
    manifest::write_as(directory, "node.json", &node.to_string())?;
    Ok(())
}

fn millrace(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(agent::program()?);
    command.args(arguments);
    Ok(command)
}

/// An operator's command that must succeed.
fn operate(arguments: &[&str]) -> Result<()> {
    let output = millrace(arguments)?.output()?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(
        output.status.success(),
        "millrace {arguments:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&said)
    );
    Ok(())
}

/// Killed when dropped.
struct Running(Child);

impl Running {
    fn wait_ready(&mut self) -> Result<()> {
        let ended = wait::until("the agent to be ready", READY_TIMEOUT, || {
            match self.0.try_wait()? {
                // Waiting longer would not help.
                Some(status) => Ok(Some(status)),
                None => operate(&["status"]).map(|()| None),
            }
        })?;
        ensure!(ended.is_none(), "the agent ended: {ended:?}");
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        // SAFETY: our child, not yet reaped, so the id is still its own.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) };
        let status = wait::until("the agent to end", STOP_TIMEOUT, || {
            self.0.try_wait()?.context("it runs")
        })?;
        ensure!(status.success(), "the agent ended with {status}");
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Failure means that it is gone already.
        let _: io::Result<()> = self.0.kill();
        let _ = self.0.wait();
    }
}
