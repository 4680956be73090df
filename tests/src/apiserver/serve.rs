//! HTTP: lists and watches over the state, with the faults that were asked for.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::select::Selection;
use super::state::{self, Resource, VersionError};
use super::{Faults, Shared, events};

/// Lines of a watch that wait to be sent; more than that, and the watch waits.
const STREAM_LINES: usize = 256;
/// A watch that names no time limit.
const WATCH_LIMIT: Duration = Duration::from_secs(1800);
/// The last bookmark comes so long before the end of a watch.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);

type Body = BoxBody<Bytes, Infallible>;
type Query = HashMap<String, String>;

/// Accept connections until aborted; all connections end with it.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let shared = shared.clone();
        connections.spawn(async move {
            let service = service_fn(|request| answer(request, shared.clone()));
            let builder = hyper::server::conn::http1::Builder::new();
            // An error is a client that left.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path();
    if let Some(place) = events::Place::of_path(path) {
        return Ok(take_event(request, &shared, &place).await);
    }
    let lacked = shared.faults().missing.clone();
    let resource = Resource::of_path(path).filter(|resource| !lacked.contains(resource));
    let Some(resource) = resource else {
        let known = matches!(path, "/healthz" | "/livez" | "/readyz");
        return Ok(if known { text(StatusCode::OK, "ok".into()) } else { refuse(404, "NotFound") });
    };
    let query = parse_query(request.uri().query().unwrap_or_default());
    let watch = matches!(query.get("watch").map(String::as_str), Some("1" | "true"));
    count(&shared, resource, watch, &query);
    let faults = shared.faults().clone();
    if faults.hang {
        pending::<()>().await;
    }
    if let Some(refusal) = fail(&shared, &faults, &request) {
        return Ok(refusal);
    }
    let part = |key| query.get(key).map_or("", String::as_str);
    let (labels, fields) = (part("labelSelector"), part("fieldSelector"));
    let selection = match Selection::parse(resource, labels, fields, faults.old_fields) {
        Ok(selection) => selection,
        Err(message) => return Ok(refuse_with(400, "BadRequest", &message)),
    };
    if watch {
        return Ok(self::watch(shared, resource, selection, &query, &faults));
    }
    sleep(faults.list_delays.get(&resource).copied().unwrap_or_default()).await;
    Ok(list(&shared, resource, &selection, &query))
}

/// A write of an Event.
async fn take_event(
    request: Request<Incoming>,
    shared: &Shared,
    place: &events::Place,
) -> Response<Body> {
    let faults = shared.faults().clone();
    if faults.hang {
        pending::<()>().await;
    }
    if let Some(status) = faults.event_status {
        return refuse(status, "Forbidden");
    }
    // Requests that are to fail by number are lists and watches.
    if let Some(refusal) = wrong_token(&faults, &request) {
        return refusal;
    }
    let method = request.method().clone();
    let Ok(body) = request.into_body().collect().await else { return refuse(400, "BadRequest") };
    let Ok(object) = serde_json::from_slice(&body.to_bytes()) else {
        return refuse(400, "BadRequest");
    };
    let mut events = shared.events();
    match events.write(method.as_str(), place, object) {
        Ok((code, object)) => {
            let code = StatusCode::from_u16(code).unwrap_or(StatusCode::OK);
            text(code, object.to_string())
        }
        Err((code, reason, message)) => refuse_with(code, reason, &message),
    }
}

fn count(shared: &Shared, resource: Resource, watch: bool, query: &Query) {
    shared.state().count(resource, |counts| {
        if watch {
            counts.watches += 1;
            return;
        }
        counts.list_pages += 1;
        counts.lists += usize::from(!query.contains_key("continue"));
    });
}

/// The refusal that was asked for, or that the client deserves.
fn fail(shared: &Shared, faults: &Faults, request: &Request<Incoming>) -> Option<Response<Body>> {
    if let Some((status, left)) = faults.status.filter(|(_, left)| *left > 0) {
        shared.faults().status = Some((status, left - 1));
        let reason = match status {
            429 => "TooManyRequests",
            503 => "ServiceUnavailable",
            403 => "Forbidden",
            _ => "InternalError",
        };
        return Some(refuse(status, reason));
    }
    wrong_token(faults, request)
}

fn wrong_token(faults: &Faults, request: &Request<Incoming>) -> Option<Response<Body>> {
    let token = faults.token.as_ref()?;
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let right = given.and_then(|value| value.strip_prefix("Bearer ")) == Some(token);
    (!right).then(|| refuse(401, "Unauthorized"))
}

fn list(
    shared: &Shared,
    resource: Resource,
    selection: &Selection,
    query: &Query,
) -> Response<Body> {
    let limit = query.get("limit").and_then(|limit| limit.parse().ok()).unwrap_or_default();
    let mut state = shared.state();
    let page = match query.get("continue") {
        None => state.list(resource, selection, limit),
        Some(token) => match state.continue_list(token, limit) {
            Ok(page) => page,
            Err(_) => {
                let message = "The provided continue parameter is too old to display a consistent \
                               list result.";
                return refuse_with(410, "Expired", message);
            }
        },
    };
    drop(state);
    let mut metadata = json!({"resourceVersion": page.version.to_string()});
    if let Some(token) = page.continue_token {
        metadata["continue"] = token.into();
        if selection.is_everything() {
            metadata["remainingItemCount"] = page.remaining.into();
        }
    }
    let items: Vec<Value> = page.items.iter().map(|object| untyped(object)).collect();
    let body = json!({"kind": format!("{}List", resource.kind()),
        "apiVersion": resource.api_version(), "metadata": metadata, "items": items});
    text(StatusCode::OK, body.to_string())
}

/// Objects in a list do not repeat what they are.
fn untyped(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    object
}

fn watch(
    shared: Arc<Shared>,
    resource: Resource,
    selection: Selection,
    query: &Query,
    faults: &Faults,
) -> Response<Body> {
    if query.contains_key("sendInitialEvents") {
        // A server without the WatchList gate.
        return refuse_with(422, "Invalid", "sendInitialEvents: Forbidden");
    }
    let version: u64 = match query.get("resourceVersion").map_or("", String::as_str).parse() {
        Ok(version) => version,
        Err(_) if query.get("resourceVersion").is_none_or(String::is_empty) => 0,
        Err(_) => return refuse_with(400, "BadRequest", "invalid resource version"),
    };
    let (lines, receiver) = mpsc::channel(STREAM_LINES);
    let sent = shared.sent.clone();
    let checked = if version == 0 { Ok(()) } else { shared.state().check_version(version) };
    match checked {
        Err(VersionError::TooLarge) => {
            let current = shared.state().version();
            let message = format!("Too large resource version: {version}, current: {current}");
            return refuse_with(504, "Timeout", &message);
        }
        Err(VersionError::Gone) if faults.gone_as_status => {
            return refuse_with(410, "Expired", &too_old(version));
        }
        Err(VersionError::Gone) => {
            // Fits: the channel is new.
            let _ = lines.try_send(gone_line(version));
        }
        Ok(()) if faults.short_watches => {}
        Ok(()) => {
            let limit = query.get("timeoutSeconds").and_then(|limit| limit.parse().ok());
            let limit = limit.map_or(WATCH_LIMIT, Duration::from_secs);
            let bookmarks = query.get("allowWatchBookmarks").is_some_and(|value| value == "true");
            let stream = Stream { shared, resource, selection, version, lines, bookmarks };
            tokio::spawn(stream.run(limit));
        }
    }
    let frames = futures::stream::unfold((receiver, sent), |(mut receiver, sent)| async move {
        let line: String = receiver.recv().await?;
        sent.send_replace(Some(std::time::Instant::now()));
        Some((Ok(Frame::data(Bytes::from(line))), (receiver, sent)))
    });
    response(StatusCode::OK, StreamBody::new(frames).boxed())
}

/// A watch under way.
struct Stream {
    shared: Arc<Shared>,
    resource: Resource,
    selection: Selection,
    version: u64,
    lines: mpsc::Sender<String>,
    bookmarks: bool,
}

impl Stream {
    /// Until its time is over, the client leaves, or the test ends it. With it ends the body.
    async fn run(mut self, limit: Duration) {
        let mut changed = self.shared.changed.subscribe();
        let mut broken = self.shared.broken.subscribe();
        let end = Instant::now() + limit;
        let mut last_bookmark = end.checked_sub(LAST_BOOKMARK).filter(|_| self.bookmarks);
        if !self.catch_up().await {
            return;
        }
        loop {
            let faults = self.shared.faults().clone();
            if faults.hang {
                // Not even the time limit: nothing comes until the client leaves.
                self.lines.closed().await;
                return;
            }
            let interval = faults.bookmark_interval.filter(|_| self.bookmarks);
            let regular = interval.map(|interval| Instant::now() + interval);
            let bookmark = regular.into_iter().chain(last_bookmark).min();
            let alive = tokio::select! {
                _ = changed.changed() => self.catch_up().await,
                _ = broken.changed() => {
                    if broken.borrow().1 {
                        let _ = self.lines.send(gone_line(self.version)).await;
                    }
                    false
                }
                () = sleep_until(end) => self.shared.faults().hang,
                () = sleep_until(bookmark.unwrap_or(end)), if bookmark.is_some() => {
                    last_bookmark = last_bookmark.filter(|at| Some(*at) != bookmark);
                    self.send(state::bookmark(self.resource, self.version)).await
                }
                () = self.lines.closed() => false,
            };
            if !alive {
                return;
            }
        }
    }

    /// Send what is new; false: the client left.
    async fn catch_up(&mut self) -> bool {
        if self.shared.faults().hang {
            return true;
        }
        let lines = {
            let state = self.shared.state();
            let lines = match self.version {
                0 => state.initial_events(self.resource, &self.selection),
                version => state.events(self.resource, &self.selection, version),
            };
            self.version = state.version();
            lines
        };
        for line in lines {
            if !self.send(line).await {
                return false;
            }
        }
        true
    }

    async fn send(&self, line: String) -> bool {
        self.lines.send(line).await.is_ok()
    }
}

fn too_old(version: u64) -> String {
    format!("too old resource version: {version}")
}

fn gone_line(version: u64) -> String {
    state::line("ERROR", &status(410, "Expired", &too_old(version)))
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code})
}

fn refuse(code: u16, reason: &str) -> Response<Body> {
    refuse_with(code, reason, &format!("the test asked for {reason}"))
}

fn refuse_with(code: u16, reason: &str, message: &str) -> Response<Body> {
    let status_code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = text(status_code, status(code, reason, message).to_string());
    if matches!(code, 429 | 503) {
        response.headers_mut().insert(RETRY_AFTER, 1.into());
    }
    response
}

fn text(code: StatusCode, text: String) -> Response<Body> {
    response(code, Full::new(Bytes::from(text)).boxed())
}

fn response(code: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// `a=b&c=d`, with percent escapes.
fn parse_query(query: &str) -> Query {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (unescape(key), unescape(value))).collect()
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let escaped = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let (decoded, tail) = match (byte, escaped) {
            (b'%', Some(decoded)) => (decoded, &tail[2..]),
            (b'+', _) => (b' ', tail),
            (byte, _) => (*byte, tail),
        };
        bytes.push(decoded);
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
