//! A small HTTP/1.1 server: pages made of a method and a path.
//!
//! Whoever can reach a port may try to exhaust it, so everything is bounded: connections, headers,
//! the time a connection may stay silent, the time it may live. What a page says is decided
//! elsewhere ([`crate::health`]).

mod listen;
mod serve;

use std::net::SocketAddr;
use std::sync::Arc;

use http::{Method, StatusCode};

pub use listen::{Listener, listen};
pub use serve::serve;

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path, without a query.
    pub path: String,
}

/// What is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// The status code.
    pub status: StatusCode,
    /// Headers, by their names.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: String,
}

impl Page {
    /// A page of plain text.
    pub fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self::of("text/plain; charset=utf-8", status, body)
    }

    /// A page of JSON.
    pub fn json(status: StatusCode, body: impl Into<String>) -> Self {
        Self::of("application/json", status, body)
    }

    /// There is no such page.
    pub fn not_found() -> Self {
        Self::text(StatusCode::NOT_FOUND, "404 page not found\n")
    }

    /// A page of some type; browsers shall not guess another.
    pub fn of(kind: &str, status: StatusCode, body: impl Into<String>) -> Self {
        let headers = vec![
            ("content-type", kind.to_owned()),
            ("x-content-type-options", "nosniff".to_owned()),
        ];
        Self { status, headers, body: body.into() }
    }

    /// With one more header.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Makes pages; asked by many connections at once.
pub type Pages = Arc<dyn Fn(&Request) -> Page + Send + Sync>;

/// Where a server listens.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Place {
    /// Address and port. `[::]` takes IPv4 as well, unless `v6_only`.
    pub address: SocketAddr,
    /// An IPv6 address takes IPv6 alone.
    pub v6_only: bool,
}

impl Place {
    /// As people and kube-proxy mean it: `[::]` is both families.
    pub const fn of(address: SocketAddr) -> Self {
        Self { address, v6_only: false }
    }
}
