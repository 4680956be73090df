//! The ports that the kernel gives to sockets.

use std::fs;
use std::io;

use crate::devices::ports::{Range, parse_local_range, parse_reserved};

/// `ip_local_port_range`, of this network namespace.
const LOCAL_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// `ip_local_reserved_ports`. Only read: what is in it is the operator's.
const RESERVED: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";

/// What sockets get, and what they do not get of it.
pub fn given_to_sockets() -> io::Result<(Range, Vec<Range>)> {
    let text = fs::read_to_string(LOCAL_RANGE)?;
    let local = parse_local_range(&text)
        .ok_or_else(|| io::Error::other(format!("{LOCAL_RANGE} holds {text:?}")))?;
    let reserved = fs::read_to_string(RESERVED)?;
    Ok((local, parse_reserved(&reserved)))
}
