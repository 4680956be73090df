//! Where the health and metrics servers listen.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{flag, kp};
use crate::config::catalogue::{Effect, Key};
use crate::config::merge::{Origin, Settings};
use crate::config::value::Value;

/// A server's settings.
pub(super) struct Server {
    key: Key,
    /// kube-proxy's flag for the port alone.
    port_flag: Key,
    port: u16,
    /// Only the node itself reaches it, unless it is told to listen elsewhere.
    on_loopback: bool,
}

/// `/healthz`, `/livez`.
pub(super) const HEALTHZ: Server = Server {
    key: kp("healthzBindAddress"),
    port_flag: flag("--healthz-port"),
    port: 10_256,
    on_loopback: false,
};

/// `/metrics` and its like.
pub(super) const METRICS: Server = Server {
    key: kp("metricsBindAddress"),
    port_flag: flag("--metrics-port"),
    port: 10_249,
    on_loopback: true,
};

/// `bindAddress`.
pub(super) fn bind_address(s: &mut Settings) -> IpAddr {
    let key = kp("bindAddress");
    let text = s.text(key).to_owned();
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    if text.is_empty() {
        return any;
    }
    let Ok(address) = text.parse::<IpAddr>() else {
        s.error(key, format!("{text:?} is not an IP address: write one, or 0.0.0.0"));
        return any;
    };
    if address.is_unspecified() {
        let here = "no address of its own: the Node's addresses count; it chooses the family that \
                    the servers listen on by default";
        s.remark(key, Effect::Used, here);
    } else {
        let here = "the node's primary address of its family: where NodePorts are served by \
                    default, and what may pass source ranges as this node";
        s.remark(key, Effect::Used, here);
    }
    address
}

/// A server's address; none: it is switched off.
pub(super) fn address(s: &mut Settings, server: &Server, bind: IpAddr) -> Option<SocketAddr> {
    let text = s.text(server.key).trim().to_owned();
    let port = s.int(server.port_flag);
    let is_switched_off = text.is_empty() && matches!(s.origin(server.key), Origin::Flag(_));
    if is_switched_off || port == Some(0) {
        s.fill(server.key, Value::Text(String::new()), None);
        s.remark(server.key, Effect::Used, "not served: the flag says so");
        return None;
    }
    let port = port.and_then(|port| u16::try_from(port).ok()).unwrap_or(server.port);
    let address = if text.is_empty() {
        SocketAddr::new(default_address(bind, server.on_loopback), port)
    } else if let Some(address) = parse(&text, port) {
        address
    } else {
        let message = format!(
            "{text:?} is no address to listen on: write IP:PORT, such as 0.0.0.0:{} or \
             [::]:{}, with a port from 1 to 65535",
            server.port, server.port
        );
        s.error(server.key, message);
        return None;
    };
    if address.is_ipv4() != bind.is_ipv4() && !text.is_empty() {
        let message = format!("{address} and bindAddress {bind} are of two families");
        let place = s.place(server.key);
        s.findings.note(place, message);
    }
    s.fill(server.key, Value::Text(address.to_string()), None);
    Some(address)
}

const fn default_address(bind: IpAddr, on_loopback: bool) -> IpAddr {
    match (bind.is_ipv4(), on_loopback) {
        (true, true) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        (true, false) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        (false, true) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        (false, false) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// With or without a port.
fn parse(text: &str, port: u16) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, port));
    }
    text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0)
}
