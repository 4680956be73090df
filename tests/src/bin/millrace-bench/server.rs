//! The server of a lane's backends. A connection says by its first byte what it wants: [`CLOSE`]
//! is answered and closed by the server, so that the client's ports are free at once; [`ECHO`]
//! gets everything back until the client closes. Datagrams are sent back.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use millrace_tests::lab::Place;

use crate::lane::pin;

/// Answer with who you are, and close.
pub const CLOSE: u8 = b'c';
/// Send back what comes.
pub const ECHO: u8 = b'e';
/// Bytes of the largest message that is sent back whole.
const MESSAGE_BYTES: usize = 2048;
/// How long a connection may keep others waiting for its first byte.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_millis(500);
/// The CPU of all servers, beside the clients'.
const CPU: usize = 1;

/// A running server; ends with the value.
pub struct Server {
    child: Child,
}

impl Server {
    /// Start one that listens on all `addresses`; the first calls itself `first`, the next one
    /// more.
    pub fn start(place: &Place, addresses: &[SocketAddr], first: u8) -> Result<Self> {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let mut command: Command = place.command(std::env::current_exe()?);
        command.args(["serve", &addresses.join(","), &first.to_string()]);
        command.stdin(Stdio::null());
        Ok(Self { child: command.spawn().context("start the server")? })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Failure means it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serve the addresses, parted by commas, for ever.
pub fn serve(addresses: &str, first: &str) -> Result<()> {
    pin(CPU);
    let first: u8 = first.parse().context("the first server's name")?;
    let mut threads = Vec::new();
    for (address, name) in addresses.split(',').zip(first..) {
        let address: SocketAddr = address.parse().context("server's address")?;
        let listener = TcpListener::bind(address).with_context(|| format!("bind {address}"))?;
        threads.push(std::thread::spawn(move || {
            listener.incoming().flatten().for_each(|stream| answer(stream, name));
        }));
        let socket = UdpSocket::bind(address).with_context(|| format!("bind {address}, UDP"))?;
        threads.push(std::thread::spawn(move || send_back(&socket)));
    }
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

/// Whatever fails here is a client that has gone.
fn answer(mut stream: TcpStream, name: u8) {
    let mut first = [0];
    let _ = stream.set_read_timeout(Some(FIRST_BYTE_TIMEOUT));
    if stream.read_exact(&mut first).is_err() {
        return;
    }
    if first[0] == ECHO {
        std::thread::spawn(move || echo(stream));
    } else {
        let _ = stream.write_all(&[name]);
    }
}

fn echo(mut stream: TcpStream) {
    let _ = stream.set_read_timeout(None);
    let _ = stream.set_nodelay(true);
    let mut bytes = [0; MESSAGE_BYTES];
    while let Ok(length @ 1..) = stream.read(&mut bytes) {
        if stream.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
}

fn send_back(socket: &UdpSocket) {
    let mut bytes = [0; MESSAGE_BYTES];
    loop {
        // What fails is an answer that nobody waits for any more.
        if let Ok((length, from)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(&bytes[..length], from);
        }
    }
}
