//! The server of every lane: it accepts and closes first, so that the client's ports are free at
//! once; datagrams it sends back.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use millrace_tests::lab::Place;

/// Bytes of the largest datagram that is sent back whole.
const DATAGRAM_BYTES: usize = 2048;

/// A running server; ends with the value.
pub struct Server {
    child: Child,
}

impl Server {
    /// Start one that listens on all `ports` of `address`.
    pub fn start(place: &Place, address: IpAddr, ports: &[u16]) -> Result<Self> {
        let addresses: Vec<String> =
            ports.iter().map(|port| SocketAddr::new(address, *port).to_string()).collect();
        let mut command: Command = place.command(std::env::current_exe()?);
        command.args(["serve", &addresses.join(",")]).stdin(Stdio::null());
        Ok(Self { child: command.spawn().context("start the server")? })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server's addresses, parted by commas.
pub struct Addresses(Vec<SocketAddr>);

impl std::str::FromStr for Addresses {
    type Err = std::net::AddrParseError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// Accept and close, and send datagrams back, for ever.
pub fn serve(addresses: Addresses) -> Result<()> {
    let mut threads = Vec::new();
    for address in addresses.0 {
        let listener = TcpListener::bind(address).with_context(|| format!("bind {address}"))?;
        threads.push(std::thread::spawn(move || listener.incoming().for_each(drop)));
        let socket = UdpSocket::bind(address).with_context(|| format!("bind {address}, UDP"))?;
        threads.push(std::thread::spawn(move || send_back(&socket)));
    }
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

fn send_back(socket: &UdpSocket) {
    let mut bytes = [0; DATAGRAM_BYTES];
    loop {
        // What fails is an answer that nobody waits for any more.
        if let Ok((length, from)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(&bytes[..length], from);
        }
    }
}
