//! Listening sockets.

use std::io;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use super::Place;

/// Connections that may wait for us to take them.
const BACKLOG: i32 = 128;

/// A socket that listens; its connections are closed with it when [`serve`](super::serve) ends.
#[derive(Debug)]
pub struct Listener(pub(super) TcpListener);

/// Listen. What `[::]` means must not depend on net.ipv6.bindv6only.
pub fn listen(place: Place) -> io::Result<Listener> {
    let address = place.address;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(place.v6_only)?;
    }
    // A connection of our predecessor that the kernel has not forgotten is no obstacle.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(Listener(TcpListener::from_std(socket.into())?))
}
