//! The server of every lane: it accepts and closes first, so that the client's ports are free at
//! once.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use millrace_tests::lab::Place;

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

/// Accept and close, for ever.
pub fn serve(addresses: Addresses) -> Result<()> {
    let threads: Vec<_> = addresses
        .0
        .into_iter()
        .map(|address| {
            let listener = TcpListener::bind(address).with_context(|| format!("bind {address}"))?;
            Ok(std::thread::spawn(move || listener.incoming().for_each(drop)))
        })
        .collect::<Result<_>>()?;
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}
