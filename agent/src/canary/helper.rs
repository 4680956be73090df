//! `millrace canary`: the process whose sockets are the canary's. The agent starts it, puts it into
//! the cgroup that is served, and asks it once a second to dial the canary's Service, behind which
//! it listens itself.
//!
//! Told to begin, it says where it listens; then it answers each line it reads with a line: JSON,
//! both. It ends when the agent closes its end, or ends.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use socket2::SockRef;

use super::rows::{PORT, Ports, SOCKET_V4, SOCKET_V6};

/// Where it listens if nobody else does: the same port after a restart leaves the maps as they are.
const PORT_PREFERRED: u16 = 7641;
/// How long a dead predecessor may keep that port.
const PORT_WAIT: Duration = Duration::from_secs(1);
/// How often that is tried.
const PORT_POLL: Duration = Duration::from_millis(50);
/// How long one step of a check may take; on loopback, it takes microseconds.
const STEP: Duration = Duration::from_millis(500);
/// How often a listener is looked at.
const STEP_POLL: Duration = Duration::from_millis(1);
/// Strangers that a listener lets go by while it waits for its own.
const STRANGERS_MAX: usize = 64;
/// What datagrams carry, with a number of their own.
const WORD: &[u8] = b"millrace canary ";

/// Where it listens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Listening {
    tcp4: u16,
    udp4: u16,
    tcp6: u16,
    udp6: u16,
}

impl From<Listening> for Ports {
    fn from(at: Listening) -> Self {
        Self { tcp4: at.tcp4, udp4: at.udp4, tcp6: at.tcp6, udp6: at.udp6 }
    }
}

/// What became of each hook: nothing, or why it failed.
pub type Answer = BTreeMap<String, Option<String>>;

/// Both listeners of a family.
struct Side {
    hooks: [&'static str; 4],
    frontend: SocketAddr,
    tcp: TcpListener,
    udp: UdpSocket,
}

/// Serve the agent on standard input and output until it goes.
pub fn run() -> io::Result<()> {
    end_with_the_agent();
    let mut lines = io::stdin().lock().lines();
    // A first line says that we are where we should be: sockets belong to the cgroup they are made
    // in.
    if lines.next().transpose()?.is_none() {
        return Ok(());
    }
    let v4 = Side::open(Ipv4Addr::LOCALHOST.into(), SOCKET_V4.into(), "4");
    let v6 = Side::open(Ipv6Addr::LOCALHOST.into(), SOCKET_V6.into(), "6");
    let port = |socket: io::Result<SocketAddr>| socket.map_or(0, |address| address.port());
    let of = |side: &Option<Side>| match side {
        Some(side) => (port(side.tcp.local_addr()), port(side.udp.local_addr())),
        None => (0, 0),
    };
    let ((tcp4, udp4), (tcp6, udp6)) = (of(&v4), of(&v6));
    say(&Listening { tcp4, udp4, tcp6, udp6 })?;
    let mut number = 0_u64;
    for line in lines {
        line?;
        number += 1;
        let sides = [&v4, &v6].into_iter().flatten();
        let answer: Answer = sides.flat_map(|side| side.check(number)).collect();
        say(&answer)?;
    }
    Ok(())
}

/// A helper whose agent was killed must not stay in a cgroup that somebody wants to remove.
fn end_with_the_agent() {
    // SAFETY: takes a number, and changes only this process.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

fn say(line: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_string(line).map_err(io::Error::other)?;
    text.push('\n');
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Bind where preferred, else anywhere.
fn bind<T>(ip: IpAddr, bind: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let begun = Instant::now();
    loop {
        match bind(SocketAddr::new(ip, PORT_PREFERRED)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if begun.elapsed() > PORT_WAIT {
                    return bind(SocketAddr::new(ip, 0));
                }
            }
            other => return other,
        }
        std::thread::sleep(PORT_POLL);
    }
}

impl Side {
    /// Nothing: the node does not have the family.
    fn open(loopback: IpAddr, frontend: IpAddr, digit: &str) -> Option<Self> {
        let tcp = bind(loopback, TcpListener::bind).ok()?;
        tcp.set_nonblocking(true).ok()?;
        let udp = bind(loopback, UdpSocket::bind).ok()?;
        udp.set_read_timeout(Some(STEP)).ok()?;
        let hooks = match digit {
            "4" => ["connect4", "getpeername4", "sendmsg4", "recvmsg4"],
            _ => ["connect6", "getpeername6", "sendmsg6", "recvmsg6"],
        };
        Some(Self { hooks, frontend: SocketAddr::new(frontend, PORT), tcp, udp })
    }

    /// Dial the frontend in every way there is.
    fn check(&self, number: u64) -> Answer {
        let [connect, getpeername, sendmsg, recvmsg] = self.hooks;
        let word = [WORD, number.to_string().as_bytes()].concat();
        let mut answer = Answer::new();
        let mut note = |hook: &str, result: Result<(), String>| {
            let known = answer.entry(hook.to_owned()).or_default();
            *known = known.take().or(result.err());
        };
        let (stream, error) = ok_or(self.connect_tcp());
        note(connect, error);
        if let Some(stream) = stream {
            note(getpeername, self.is_frontend("getpeername (TCP)", stream.peer_addr()));
        }
        let (socket, error) = ok_or(self.connect_udp(&word));
        note(connect, error);
        if let Some(socket) = socket {
            note(getpeername, self.is_frontend("getpeername (UDP)", socket.peer_addr()));
        }
        let (socket, error) = ok_or(self.send(&word));
        note(sendmsg, error);
        if let Some(socket) = socket {
            note(recvmsg, self.hear(&socket, &word));
        }
        answer
    }

    fn connect_tcp(&self) -> Result<TcpStream, String> {
        let stream = TcpStream::connect_timeout(&self.frontend, STEP)
            .map_err(|error| format!("connect (TCP): {error}"))?;
        // Ends with a reset: a connection a second must not leave TIME_WAITs.
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        let own = stream.local_addr().map_err(|error| format!("getsockname: {error}"))?;
        let begun = Instant::now();
        for _ in 0..STRANGERS_MAX {
            match self.tcp.accept() {
                Ok((_, peer)) if peer == own => return Ok(stream),
                Ok(_) => {}
                Err(_) if begun.elapsed() > STEP => break,
                Err(_) => std::thread::sleep(STEP_POLL),
            }
        }
        Err("connect (TCP): connected to somebody else".to_owned())
    }

    fn client(&self) -> Result<UdpSocket, String> {
        let any: IpAddr = match self.frontend {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).map_err(|e| format!("bind: {e}"))?;
        socket.set_read_timeout(Some(STEP)).map_err(|e| format!("set a time limit: {e}"))?;
        Ok(socket)
    }

    fn connect_udp(&self, word: &[u8]) -> Result<UdpSocket, String> {
        let socket = self.client()?;
        socket.connect(self.frontend).map_err(|error| format!("connect (UDP): {error}"))?;
        socket.send(word).map_err(|error| format!("send: {error}"))?;
        self.take(word).map_err(|error| format!("connect (UDP): {error}"))?;
        Ok(socket)
    }

    fn send(&self, word: &[u8]) -> Result<UdpSocket, String> {
        let socket = self.client()?;
        socket.send_to(word, self.frontend).map_err(|error| format!("sendto: {error}"))?;
        let client = self.take(word).map_err(|error| format!("sendto: {error}"))?;
        self.udp.send_to(word, client).map_err(|error| format!("answer: {error}"))?;
        Ok(socket)
    }

    /// The datagram with this word arrives at the listener.
    fn take(&self, word: &[u8]) -> Result<SocketAddr, String> {
        let mut buffer = [0; 64];
        for _ in 0..STRANGERS_MAX {
            match self.udp.recv_from(&mut buffer) {
                Ok((length, from)) if buffer.get(..length) == Some(word) => return Ok(from),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        Err("what was sent did not arrive".to_owned())
    }

    fn hear(&self, socket: &UdpSocket, word: &[u8]) -> Result<(), String> {
        let mut buffer = [0; 64];
        let (length, from) =
            socket.recv_from(&mut buffer).map_err(|error| format!("recvfrom: {error}"))?;
        if buffer.get(..length) != Some(word) {
            return Err("recvfrom: somebody else's datagram".to_owned());
        }
        self.is_frontend("recvfrom", Ok(from))
    }

    fn is_frontend(&self, what: &str, told: io::Result<SocketAddr>) -> Result<(), String> {
        let told = told.map_err(|error| format!("{what}: {error}"))?;
        if (told.ip(), told.port()) == (self.frontend.ip(), self.frontend.port()) {
            return Ok(());
        }
        Err(format!("{what} says {told} instead of {}", self.frontend))
    }
}

fn ok_or<T>(result: Result<T, String>) -> (Option<T>, Result<(), String>) {
    match result {
        Ok(value) => (Some(value), Ok(())),
        Err(error) => (None, Err(error)),
    }
}
