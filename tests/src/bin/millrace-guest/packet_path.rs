//! Packets of clients that no socket hook sees, in the same cluster.

use std::net::SocketAddr;

use anyhow::Result;
use millrace_tests::world::{Client, reach_by};

use crate::socket_path::{TCP_PORT, UDP_PORT};
use crate::{Cluster, Scenario};

/// After those of the socket path, whose Services they use.
pub const SCENARIOS: &[Scenario] = &[Scenario { name: "from-outside", run: serve_outside }];

/// NodePorts, with a backend on the node and one elsewhere, whose answers must come back this way.
fn serve_outside(cluster: &mut Cluster) -> Result<()> {
    let world = &cluster.world;
    for &family in world.lab.families() {
        let node = world.lab.node("n1").address(family);
        for (client, port) in [(Client::Tcp, TCP_PORT), (Client::Udp, UDP_PORT)] {
            let to = SocketAddr::new(node, port);
            reach_by(client, world.lab.outside(), to, &["a", "b"])?;
        }
    }
    Ok(())
}
