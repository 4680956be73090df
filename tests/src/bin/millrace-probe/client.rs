//! One dialogue with a server over a fresh socket.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use millrace_tests::probe::Outcome;
use serde::Serialize;

use crate::socket::{Kind, Socket, errno_name};

/// How to dial.
pub struct Plan {
    /// Whom.
    pub to: SocketAddr,
    /// From which local address.
    pub bind: Option<SocketAddr>,
    /// How long to wait for each step.
    pub limit: Duration,
    /// Whether to connect without blocking.
    pub nonblocking: bool,
    /// Bytes to send and expect back, besides the question.
    pub echo: usize,
}

/// Prints one result as a line of JSON.
pub fn print(value: &impl Serialize) {
    println!("{}", serde_json::to_string(value).expect("plain data serialises"));
}

/// Opens a socket with the plan's local address and time limit.
pub fn open(kind: Kind, plan: &Plan) -> io::Result<Socket> {
    let socket = Socket::for_address(kind, plan.to)?;
    socket.set_timeout(plan.limit)?;
    if let Some(address) = plan.bind {
        socket.set(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
        socket.bind(address)?;
    }
    Ok(socket)
}

/// Runs `work`, which fills an outcome, and adds time and failure to it.
pub fn observe(step: &str, work: impl FnOnce(&mut Outcome) -> io::Result<()>) -> Outcome {
    let start = Instant::now();
    let mut outcome = Outcome { step: step.to_owned(), ..Outcome::default() };
    match work(&mut outcome) {
        Ok(()) => outcome.ok = true,
        Err(error) => outcome.error = Some(errno_name(&error)),
    }
    outcome.micros = start.elapsed().as_micros() as u64;
    outcome
}

/// Notes both ends of a connected socket.
pub fn note_names(socket: &Socket, outcome: &mut Outcome) {
    outcome.peer = socket.peer();
    outcome.local = socket.local();
}

/// Reads "NAME ADDRESS" into the outcome.
pub fn read_identity(bytes: &[u8], outcome: &mut Outcome) -> io::Result<()> {
    let text = String::from_utf8_lossy(bytes);
    let mut words = text.split_whitespace();
    let (Some(name), Some(seen)) = (words.next(), words.next()) else {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no identity"));
    };
    outcome.server = Some(name.to_owned());
    outcome.seen = seen.parse().ok();
    Ok(())
}

/// Asks over a connected TCP socket.
pub fn ask_tcp(socket: &Socket, outcome: &mut Outcome) -> io::Result<()> {
    socket.send(b"who\n")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 256];
    while !answer.ends_with(b"\n") {
        let got = socket.recv(&mut buffer)?;
        if got == 0 {
            break;
        }
        answer.extend_from_slice(&buffer[..got]);
    }
    read_identity(&answer, outcome)
}

/// Asks over a connected UDP socket.
pub fn ask_udp(socket: &Socket, outcome: &mut Outcome) -> io::Result<()> {
    socket.send(b"who")?;
    read_udp(socket, outcome)
}

/// Asks over an unconnected UDP socket.
pub fn ask_to(socket: &Socket, to: SocketAddr, outcome: &mut Outcome) -> io::Result<()> {
    socket.send_to(b"who", to)?;
    read_udp(socket, outcome)
}

fn read_udp(socket: &Socket, outcome: &mut Outcome) -> io::Result<()> {
    let mut buffer = [0; 256];
    let (length, source) = socket.recv_from(&mut buffer)?;
    outcome.source = source;
    note_names(socket, outcome);
    read_identity(&buffer[..length], outcome)
}

/// A fresh TCP connection.
pub fn tcp(plan: &Plan) -> Outcome {
    observe("connect", |outcome| {
        let socket = open(Kind::Tcp, plan)?;
        connect(&socket, plan)?;
        note_names(&socket, outcome);
        ask_tcp(&socket, outcome)?;
        if plan.echo > 0 { echo_tcp(&socket, plan.echo) } else { Ok(()) }
    })
}

fn connect(socket: &Socket, plan: &Plan) -> io::Result<()> {
    if !plan.nonblocking {
        return socket.connect(plan.to);
    }
    socket.set_nonblocking(true)?;
    match socket.connect(plan.to) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
            socket.finish_connect(plan.limit)?;
        }
        other => other?,
    }
    socket.set_nonblocking(false)
}

fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|i| b'a' + (i % 26) as u8).collect()
}

fn wrong_echo() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the echo differs")
}

fn echo_tcp(socket: &Socket, length: usize) -> io::Result<()> {
    let sent = payload(length);
    socket.send(format!("echo {length}\n").as_bytes())?;
    let mut rest = &sent[..];
    while !rest.is_empty() {
        rest = &rest[socket.send(rest)?..];
    }
    let mut back = vec![0; length];
    let mut have = 0;
    while have < length {
        match socket.recv(&mut back[have..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => have += got,
        }
    }
    if back == sent { Ok(()) } else { Err(wrong_echo()) }
}

/// A fresh connected UDP socket.
pub fn udp_connected(plan: &Plan) -> Outcome {
    observe("udp-connected", |outcome| {
        let socket = open(Kind::Udp, plan)?;
        socket.connect(plan.to)?;
        note_names(&socket, outcome);
        ask_udp(&socket, outcome)
    })
}

/// A fresh unconnected UDP socket.
pub fn udp_unconnected(plan: &Plan) -> Outcome {
    observe("udp-unconnected", |outcome| {
        let socket = open(Kind::Udp, plan)?;
        if plan.echo > 0 {
            let sent = payload(plan.echo);
            socket.send_to(&sent, plan.to)?;
            let mut back = vec![0; plan.echo + 1];
            let (length, source) = socket.recv_from(&mut back)?;
            outcome.source = source;
            return if back[..length] == sent[..] { Ok(()) } else { Err(wrong_echo()) };
        }
        let asked = ask_to(&socket, plan.to, outcome);
        if asked.is_err() {
            // By which it can be found among what was captured.
            note_names(&socket, outcome);
        }
        asked
    })
}
