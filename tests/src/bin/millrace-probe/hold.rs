//! Sockets that live long, and dialogues without end.

use std::io::{self, BufRead as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;
use millrace_tests::probe::{Latency, Load, Outcome};

use crate::client::{self, Plan};
use crate::socket::{Kind, Socket};

/// Failures that are reported one by one; the rest is only counted.
const REPORTED_FAILURES: usize = 5;

/// What is held open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HoldKind {
    /// A TCP connection.
    Tcp,
    /// A connected UDP socket.
    Udp,
    /// A UDP socket that names its target with every datagram.
    UdpUnconnected,
    /// A TCP socket that is opened now and connected by a later `connect`.
    TcpLater,
    /// A UDP socket that is opened now and connected by a later `connect`.
    UdpLater,
}

/// What is dialled without end.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LoadKind {
    /// Fresh TCP connections.
    Tcp,
    /// Fresh unconnected UDP sockets.
    Udp,
    /// Fresh connected UDP sockets.
    UdpConnected,
    /// Fresh TCP connections that only connect, for servers of any kind.
    Dial,
}

/// Opens a socket, reports its connect, then obeys stdin line by line.
pub fn hold(
    kind: HoldKind,
    to: SocketAddr,
    bind: Option<SocketAddr>,
    limit: Duration,
) -> Result<()> {
    let plan = Plan { to, bind, limit, nonblocking: false, echo: 0 };
    let transport = match kind {
        HoldKind::Tcp | HoldKind::TcpLater => Kind::Tcp,
        HoldKind::Udp | HoldKind::UdpUnconnected | HoldKind::UdpLater => Kind::Udp,
    };
    let socket = client::open(transport, &plan)?;
    let first = client::observe("open", |outcome| match kind {
        HoldKind::Tcp | HoldKind::Udp => dial(&socket, to, outcome),
        _ => Ok(()),
    });
    client::print(&first);
    let mut to = to;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.split_whitespace();
        let outcome = match (words.next(), words.next()) {
            (Some("send"), None) => client::observe("send", |o| ask(kind, &socket, to, o)),
            (Some("send"), Some(address)) => {
                to = address.parse()?;
                client::observe("send", |outcome| ask(kind, &socket, to, outcome))
            }
            (Some("peer"), None) => client::observe("peer", |outcome| {
                client::note_names(&socket, outcome);
                Ok(())
            }),
            (Some("connect"), Some(address)) => {
                to = address.parse()?;
                client::observe("connect", |outcome| dial(&socket, to, outcome))
            }
            (Some("close"), None) => break,
            _ => anyhow::bail!("not a command: {line}"),
        };
        client::print(&outcome);
    }
    Ok(())
}

fn dial(socket: &Socket, to: SocketAddr, outcome: &mut Outcome) -> io::Result<()> {
    socket.connect(to)?;
    client::note_names(socket, outcome);
    Ok(())
}

fn ask(kind: HoldKind, socket: &Socket, to: SocketAddr, outcome: &mut Outcome) -> io::Result<()> {
    match kind {
        HoldKind::Tcp | HoldKind::TcpLater => client::ask_tcp(socket, outcome),
        HoldKind::Udp | HoldKind::UdpLater => client::ask_udp(socket, outcome),
        HoldKind::UdpUnconnected => client::ask_to(socket, to, outcome),
    }
}

/// Dials again and again until stdin closes, then prints the totals.
pub fn load(kind: LoadKind, to: SocketAddr, limit: Duration) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    std::thread::spawn(move || {
        // Whatever ends the input ends the load.
        let _ = io::stdin().lock().read_line(&mut String::new());
        flag.store(true, Ordering::Relaxed);
    });
    let plan = Plan { to, bind: None, limit, nonblocking: false, echo: 0 };
    let mut totals = Load::default();
    while !stop.load(Ordering::Relaxed) {
        let outcome = match kind {
            LoadKind::Tcp => client::tcp(&plan),
            LoadKind::Udp => client::udp_unconnected(&plan),
            LoadKind::UdpConnected => client::udp_connected(&plan),
            LoadKind::Dial => client::observe("dial", |outcome| {
                let socket = client::open(Kind::Tcp, &plan)?;
                dial(&socket, to, outcome)
            }),
        };
        totals.count += 1;
        if outcome.ok {
            totals.slowest_micros = totals.slowest_micros.max(outcome.micros);
        } else {
            totals.failed += 1;
            if totals.failures.len() < REPORTED_FAILURES {
                totals.failures.push(outcome);
            }
        }
    }
    client::print(&totals);
    Ok(())
}

/// Times connect(2) alone.
pub fn latency(to: SocketAddr, count: usize, limit: Duration) -> Result<()> {
    let mut times = Vec::with_capacity(count);
    let mut failed = 0;
    for _ in 0..count {
        let socket = Socket::for_address(Kind::Tcp, to)?;
        socket.set_timeout(limit)?;
        let start = Instant::now();
        match socket.connect(to) {
            Ok(()) => times.push(start.elapsed().as_nanos() as f64 / 1000.0),
            Err(_) => failed += 1,
        }
    }
    times.sort_by(f64::total_cmp);
    let at = |index: usize| times.get(index).copied().unwrap_or_default();
    client::print(&Latency {
        min: at(0),
        median: at(times.len() / 2),
        max: at(times.len().saturating_sub(1)),
        failed,
    });
    Ok(())
}
