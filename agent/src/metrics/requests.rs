//! Requests to the API server, counted as client-go counts them: a layer around the client.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use http::{Method, Request, Response, StatusCode};
use prometheus::{HistogramVec, IntCounterVec, Registry, Result};
use tower::{Layer, Service};

use super::instruments::Instruments;

/// client-go's buckets, in seconds.
const BUCKETS: [f64; 12] = [0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0];
/// What client-go writes for a request that got no answer.
const NO_ANSWER: &str = "<error>";

/// Counts requests. A watch is one, and takes until its beginning is answered.
#[derive(Clone, Debug)]
pub struct Requests {
    total: IntCounterVec,
    duration: HistogramVec,
}

impl Requests {
    pub(super) fn new(registry: &Registry) -> Result<Self> {
        let new = Instruments(registry);
        Ok(Self {
            total: new.counters(
                "rest_client_requests_total",
                "Requests to the API server by status, method and host",
                &["code", "method", "host"],
            )?,
            duration: new.histograms(
                "rest_client_request_duration_seconds",
                "How long the API server took to begin its answer",
                &["verb", "host"],
                BUCKETS.into(),
            )?,
        })
    }

    /// A layer for a client of this server, `host:port`.
    pub fn layer(&self, host: impl Into<String>) -> RequestsLayer {
        RequestsLayer { requests: self.clone(), host: host.into() }
    }
}

/// A request under way: counted when it is answered, and when nobody waits for it any more.
struct Asked {
    layer: RequestsLayer,
    method: Method,
    begun: Instant,
    code: Option<StatusCode>,
}

impl Asked {
    const fn answered(&mut self, code: Option<StatusCode>) {
        self.code = code;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let RequestsLayer { requests, host } = &self.layer;
        let (code, method) = (self.code.as_ref(), self.method.as_str());
        let code = code.map_or(NO_ANSWER, StatusCode::as_str);
        requests.total.with_label_values(&[code, method, host]).inc();
        let took = self.begun.elapsed().as_secs_f64();
        requests.duration.with_label_values(&[method, host]).observe(took);
    }
}

/// Makes a client's service one that counts.
#[derive(Clone, Debug)]
pub struct RequestsLayer {
    requests: Requests,
    host: String,
}

impl<S> Layer<S> for RequestsLayer {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, layer: self.clone() }
    }
}

/// A service that counts.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    layer: RequestsLayer,
}

impl<S, B, C> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<C>>,
    S::Future: Send + 'static,
{
    type Response = Response<C>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<Response<C>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<std::result::Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let method = request.method().clone();
        let mut asked =
            Asked { layer: self.layer.clone(), method, begun: Instant::now(), code: None };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            asked.answered(answer.as_ref().ok().map(Response::status));
            answer
        })
    }
}
