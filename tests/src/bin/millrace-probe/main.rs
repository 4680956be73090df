//! Servers and clients for the lab, each result one line of JSON.
//!
//! Clients use plain system calls in the variety found in the wild: connected and unconnected
//! UDP, one socket to two services, IPv4-mapped addresses, non-blocking connect, SO_REUSEPORT,
//! fork, sendmmsg. [`serve`] is the server, [`client`] the dialogues, [`hold`] long-lived sockets,
//! [`socket`] the calls themselves.

mod client;
mod hold;
mod many;
mod serve;
mod socket;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Servers and clients for Millrace's lab; one line of JSON per result")]
struct Arguments {
    /// How long a connect or an answer may take
    #[arg(long, global = true, default_value_t = 2000)]
    timeout_ms: u64,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Answer "NAME PEER" on these ports until killed
    Serve {
        #[arg(long)]
        name: String,
        #[arg(long)]
        tcp: Vec<u16>,
        #[arg(long)]
        udp: Vec<u16>,
        /// Listen on this address only
        #[arg(long)]
        address: Option<IpAddr>,
    },
    /// Fresh TCP connections
    Connect {
        to: SocketAddr,
        #[arg(long, default_value_t = 1)]
        count: usize,
        #[arg(long)]
        nonblocking: bool,
        #[arg(long)]
        bind: Option<SocketAddr>,
        /// Also send this many bytes and expect them back
        #[arg(long, default_value_t = 0)]
        echo: usize,
    },
    /// Fresh UDP sockets: connect, send, recv
    UdpConnected {
        to: SocketAddr,
        #[arg(long, default_value_t = 1)]
        count: usize,
        #[arg(long)]
        bind: Option<SocketAddr>,
    },
    /// Fresh UDP sockets: sendto, recvfrom
    UdpUnconnected {
        to: SocketAddr,
        #[arg(long, default_value_t = 1)]
        count: usize,
        #[arg(long)]
        bind: Option<SocketAddr>,
        /// Send this many bytes instead of the question, and expect them back
        #[arg(long, default_value_t = 0)]
        echo: usize,
    },
    /// One UDP socket that talks to two services in turn
    UdpTwoServices {
        a: SocketAddr,
        b: SocketAddr,
        #[arg(long, default_value_t = 4)]
        count: usize,
    },
    /// AF_INET6 sockets that dial ::ffff:a.b.c.d: TCP, connected UDP, unconnected UDP
    V4Mapped { to: SocketAddr },
    /// Two UDP sockets on one local port with SO_REUSEPORT, each dialling the service
    Reuseport { to: SocketAddr },
    /// The parent connects, the child talks
    Fork { to: SocketAddr },
    /// Several datagrams to two services in one sendmmsg, answers by recvmmsg
    Sendmmsg { a: SocketAddr, b: SocketAddr },
    /// The same UDP socket connected to A, to B, to a plain backend; then TCP: A fails, B works
    Redial { a: SocketAddr, b: SocketAddr, backend: SocketAddr },
    /// A TCP socket whose connect to A fails, used again for B
    RedialTcp { a: SocketAddr, b: SocketAddr },
    /// Sockets connected to a service, disconnected, then connected to one of its backends
    Disconnect { service: SocketAddr, backend: SocketAddr },
    /// One UDP socket connected to a service that also sends to it by address
    SendToOwnPeer {
        to: SocketAddr,
        #[arg(long, default_value_t = 8)]
        count: usize,
    },
    /// A socket that stays open; commands on stdin: send, peer, connect ADDRESS, close
    Hold {
        kind: hold::HoldKind,
        to: SocketAddr,
        #[arg(long)]
        bind: Option<SocketAddr>,
    },
    /// Fresh dialogues until stdin closes, then the totals
    Load { kind: hold::LoadKind, to: SocketAddr },
    /// Connect times in microseconds
    Latency {
        to: SocketAddr,
        #[arg(long, default_value_t = 100)]
        count: usize,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let limit = Duration::from_millis(arguments.timeout_ms);
    match arguments.task {
        Task::Serve { name, tcp, udp, address } => serve::serve(&name, &tcp, &udp, address)?,
        Task::Connect { to, count, nonblocking, bind, echo } => {
            let plan = client::Plan { to, bind, limit, nonblocking, echo };
            repeat(count, || client::tcp(&plan));
        }
        Task::UdpConnected { to, count, bind } => {
            let plan = client::Plan { to, bind, limit, nonblocking: false, echo: 0 };
            repeat(count, || client::udp_connected(&plan));
        }
        Task::UdpUnconnected { to, count, bind, echo } => {
            let plan = client::Plan { to, bind, limit, nonblocking: false, echo };
            repeat(count, || client::udp_unconnected(&plan));
        }
        Task::UdpTwoServices { a, b, count } => many::two_services(a, b, count, limit)?,
        Task::V4Mapped { to } => many::v4_mapped(to, limit)?,
        Task::Reuseport { to } => many::reuseport(to, limit)?,
        Task::Fork { to } => many::fork(to, limit)?,
        Task::Sendmmsg { a, b } => many::sendmmsg(a, b, limit)?,
        Task::Redial { a, b, backend } => many::redial_udp(&[a, b, backend], limit)?,
        Task::RedialTcp { a, b } => many::redial_tcp(a, b, limit)?,
        Task::Disconnect { service, backend } => many::disconnect(service, backend, limit)?,
        Task::SendToOwnPeer { to, count } => many::send_to_own_peer(to, count, limit)?,
        Task::Hold { kind, to, bind } => hold::hold(kind, to, bind, limit)?,
        Task::Load { kind, to } => hold::load(kind, to, limit)?,
        Task::Latency { to, count } => hold::latency(to, count, limit)?,
    }
    Ok(())
}

fn repeat(count: usize, mut one: impl FnMut() -> millrace_tests::probe::Outcome) {
    for _ in 0..count {
        client::print(&one());
    }
}
