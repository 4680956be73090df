//! The node's two servers: health for load balancers and the kubelet, metrics for monitoring.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http::StatusCode;
use tokio::time::sleep;

use super::Monitor;
use super::notices::Board;
use super::pages;
use crate::http::{self as server, Page, Pages, Place, Request};
use crate::metrics;

/// How long to wait before an address is tried again that could not be listened on.
const BIND_AGAIN: Duration = Duration::from_secs(5);
/// What `/proxyMode` says.
pub const PROXY_MODE: &str = "millrace";

/// Where the servers listen; nothing: the operator wants none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Addresses {
    /// Health.
    pub healthz: Option<SocketAddr>,
    /// Metrics.
    pub metrics: Option<SocketAddr>,
    /// An agent that cannot listen ends (`bindAddressHardFail`); else it tries again.
    pub hard_fail: bool,
}

/// Is told of an answer: the path and the status.
pub type Answered = Arc<dyn Fn(&str, StatusCode) + Send + Sync>;

/// What other parts of the agent have to say.
#[derive(Clone)]
pub struct Sources {
    /// How the agent is.
    pub monitor: Monitor,
    /// `/metrics`, in the text format.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// `/configz`: the settings in force, as JSON.
    pub config: Arc<dyn Fn() -> String + Send + Sync>,
    /// Told of the code of each answer, by path.
    pub answered: Answered,
}

/// `/healthz` and `/livez`, whatever the method: as kube-proxy.
pub fn health_pages(sources: &Sources) -> Pages {
    let (monitor, answered) = (sources.monitor.clone(), Arc::clone(&sources.answered));
    Arc::new(move |request: &Request| {
        let page = match request.path.as_str() {
            "/healthz" => pages::healthz(&monitor.verdict()),
            "/livez" => pages::livez(&monitor.verdict()),
            _ => return Page::not_found(),
        };
        answered(&request.path, page.status);
        page
    })
}

/// `/metrics` and what else kube-proxy has beside it.
pub fn metrics_pages(sources: &Sources) -> Pages {
    let (render, config) = (Arc::clone(&sources.metrics), Arc::clone(&sources.config));
    Arc::new(move |request: &Request| match request.path.as_str() {
        "/metrics" => Page::of(metrics::CONTENT_TYPE, StatusCode::OK, render()),
        "/healthz" => Page::text(StatusCode::OK, "ok"),
        "/proxyMode" => Page::text(StatusCode::OK, PROXY_MODE),
        "/configz" => Page::json(StatusCode::OK, config()),
        _ => Page::not_found(),
    })
}

/// Serve both, until one cannot be and must.
pub async fn run(addresses: Addresses, sources: Sources, board: Board) -> anyhow::Result<()> {
    let hard_fail = addresses.hard_fail;
    let one = |flag, address: Option<SocketAddr>, pages| {
        let board = board.clone();
        async move {
            match address {
                None => std::future::pending().await,
                Some(address) => keep(flag, address, pages, hard_fail, &board).await,
            }
        }
    };
    let healthz = one("--healthz-bind-address", addresses.healthz, health_pages(&sources));
    let metrics = one("--metrics-bind-address", addresses.metrics, metrics_pages(&sources));
    tokio::select! {
        failed = healthz => failed.map(|never| match never {}),
        failed = metrics => failed.map(|never| match never {}),
    }
}

/// One server: tried until its address is free.
async fn keep(
    flag: &str,
    address: SocketAddr,
    pages: Pages,
    hard_fail: bool,
    board: &Board,
) -> anyhow::Result<Infallible> {
    let about = format!("{flag} {address}");
    loop {
        match server::listen(Place::of(address)) {
            Ok(listener) => {
                board.set(&about, None);
                tracing::debug!("{about}: listening");
                server::serve(listener, Arc::clone(&pages)).await;
            }
            Err(error) if hard_fail => {
                return Err(error).context(format!(
                    "{about}: cannot listen, and --bind-address-hard-fail says to end then"
                ));
            }
            Err(error) => {
                let message = format!(
                    "cannot listen: {error}; it is tried every {} s: free the address or give \
                     another (empty: none)",
                    BIND_AGAIN.as_secs()
                );
                if board.set(&about, Some(message.clone())) {
                    tracing::error!("{about}: {message}");
                }
            }
        }
        sleep(BIND_AGAIN).await;
    }
}
