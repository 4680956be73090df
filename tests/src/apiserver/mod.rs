//! An API server in this process, for tests: as much of Kubernetes' list and watch as the agent
//! uses, and everything that can go wrong with it, on request.
//!
//! [`state`] holds the objects and their history (pure); [`select`] applies selectors (pure);
//! [`serve`] speaks HTTP. [`Fold`] is the other end's oracle: what a listener must believe. The
//! server runs on a runtime of its own, so that tests without one can use it, and tests with one
//! cannot stall it.

mod events;
mod fold;
pub mod real;
mod select;
mod serve;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::lab::Place;

pub use fold::Fold;
use state::State;
pub use state::{Counts, Resource};

/// The port of a stopped server may take this long to become free.
const REBIND_TIMEOUT: Duration = Duration::from_secs(5);
/// A change that a watch asks for is sent within this time, on a busy machine.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between two looks at something that is about to happen.
const TICK: Duration = Duration::from_millis(2);

/// How the server misbehaves.
#[derive(Clone, Debug, Default)]
struct Faults {
    /// Answer so many requests with this status.
    status: Option<(u16, usize)>,
    /// Answer nothing, and send nothing in streams that are open.
    hang: bool,
    /// Wait before answering a page of a list.
    list_delays: BTreeMap<Resource, Duration>,
    /// Know nothing of these.
    missing: BTreeSet<Resource>,
    /// Know no fields of Services.
    old_fields: bool,
    /// Answer writes of Events with this status.
    event_status: Option<u16>,
    /// Refuse requests without this token.
    token: Option<String>,
    /// End watches as soon as they have begun.
    short_watches: bool,
    /// Answer an expired version with status 410, not with an event in the stream.
    gone_as_status: bool,
    /// Send bookmarks this often; none: only before the stream's end, as short-lived watches get
    /// them from the real one.
    bookmark_interval: Option<Duration>,
}

/// What connections and controls share.
struct Shared {
    state: Mutex<State>,
    faults: Mutex<Faults>,
    events: Mutex<events::Events>,
    /// Raised when there is something new for watches to look at.
    changed: watch::Sender<u64>,
    /// Raised to end all streams; with a 410 in them first if so.
    broken: watch::Sender<(u64, bool)>,
    /// When a connection last took a line of a watch, to send it.
    sent: watch::Sender<Option<Instant>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics while it holds the state")
    }
    fn events(&self) -> MutexGuard<'_, events::Events> {
        self.events.lock().expect("no thread panics while it holds the Events")
    }
    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().expect("no thread panics while it holds the faults")
    }
}

/// The server. Stops when dropped.
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// Whose network it listens in; none: this process'.
    place: Option<Place>,
    task: Option<JoinHandle<()>>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl ApiServer {
    /// Start on a free port of 127.0.0.1.
    pub async fn start() -> Result<Self> {
        Self::start_blocking()
    }

    /// [`Self::start`] for tests without a runtime.
    pub fn start_blocking() -> Result<Self> {
        Self::start_at(None)
    }

    /// Start on a free port of 127.0.0.1 in a lab's network namespace: a node's own API server.
    pub fn start_in(place: &Place) -> Result<Self> {
        Self::start_at(Some(place.clone()))
    }

    fn start_at(place: Option<Place>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("apiserver")
            .enable_all()
            .build()?;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            faults: Mutex::default(),
            events: Mutex::default(),
            changed: watch::Sender::new(0),
            broken: watch::Sender::new((0, false)),
            sent: watch::Sender::new(None),
        });
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = bind(place.as_ref(), any_port).context("bind the API server")?;
        let address = listener.local_addr()?;
        let mut server = Self { shared, address, place, task: None, runtime: Some(runtime) };
        server.listen(listener)?;
        Ok(server)
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Create or change an object, as `kubectl apply` would: anything with a `kind` that the agent
    /// watches. The new resource version.
    pub fn put(&self, object: Value) -> u64 {
        self.put_all([object])
    }

    /// [`Self::put`] for many; watches see them together.
    pub fn put_all(&self, objects: impl IntoIterator<Item = Value>) -> u64 {
        let mut state = self.shared.state();
        objects.into_iter().for_each(|object| state.put(object));
        let version = state.version();
        drop(state);
        self.shared.changed.send_replace(version);
        version
    }

    /// [`Self::put`], and wait until a watch sends it: when its connection took it to be sent. Not
    /// for a thread that is in a runtime.
    pub fn put_and_send(&self, object: Value) -> Result<Instant> {
        let runtime = self.runtime.as_ref().context("the server's runtime is gone")?;
        let mut sent = self.shared.sent.subscribe();
        self.put(object);
        runtime.block_on(async {
            timeout(SEND_TIMEOUT, sent.changed()).await.context("no watch sends it")??;
            sent.borrow().context("a time, from the first change on")
        })
    }

    /// Delete an object; whether it was there. The namespace of a Node is empty.
    pub fn delete(&self, resource: Resource, namespace: &str, name: &str) -> bool {
        let mut state = self.shared.state();
        let deleted = state.delete(resource, namespace, name);
        let version = state.version();
        drop(state);
        self.shared.changed.send_replace(version);
        deleted
    }

    /// All objects of a resource, unfiltered.
    pub fn objects(&self, resource: Resource) -> Vec<Value> {
        self.shared.state().objects(resource)
    }

    /// Events that were written, in the order of their namespaces and names.
    pub fn events(&self) -> Vec<Value> {
        self.shared.events().all()
    }

    /// Writes of Events so far, refused ones included.
    pub fn event_writes(&self) -> usize {
        self.shared.events().writes()
    }

    /// Answer writes of Events with this status: 403 is an account without the right to.
    pub fn refuse_events(&self, status: Option<u16>) {
        self.shared.faults().event_status = status;
    }

    /// The newest resource version.
    pub fn version(&self) -> u64 {
        self.shared.state().version()
    }

    /// Forget the past: versions and continue tokens up to now are answered with 410 Gone. Watches
    /// that are open go on.
    pub fn compact(&self) {
        self.shared.state().compact();
    }

    /// [`Self::compact`], and tell all open watches so: an ERROR event with 410, and the end.
    pub fn expire_watches(&self) {
        // A version of its own: even those that have seen everything are behind.
        self.shared.state().skip_version();
        self.compact();
        self.shared.broken.send_modify(|(count, gone)| (*count, *gone) = (*count + 1, true));
    }

    /// End all open watches, as a server does whose time limit is over.
    pub fn break_watches(&self) {
        self.shared.broken.send_modify(|(count, gone)| (*count, *gone) = (*count + 1, false));
    }

    /// Close the port and cut all connections.
    pub fn stop(&mut self) {
        let Some(task) = self.task.take() else { return };
        task.abort();
        while !task.is_finished() {
            std::thread::sleep(TICK);
        }
    }

    /// Listen again, on the same port, with the same objects.
    pub fn restart(&mut self) -> Result<()> {
        self.stop();
        let begun = Instant::now();
        loop {
            match bind(self.place.as_ref(), self.address) {
                Ok(listener) => return self.listen(listener),
                Err(error) if begun.elapsed() > REBIND_TIMEOUT => {
                    return Err(error.context(format!("bind {} again", self.address)));
                }
                Err(_) => std::thread::sleep(TICK),
            }
        }
    }

    /// Answer the next `count` requests with this status.
    pub fn fail_requests(&self, status: u16, count: usize) {
        self.shared.faults().status = Some((status, count));
    }

    /// Half-open: accept connections and requests, but send nothing, in open streams neither.
    pub fn hang(&self, hang: bool) {
        self.shared.faults().hang = hang;
        self.wake_watches();
    }

    /// Wait so long before answering a page of a list.
    pub fn delay_lists(&self, delay: Duration) {
        Resource::ALL.into_iter().for_each(|resource| self.delay_lists_of(resource, delay));
    }

    /// The same for one resource.
    pub fn delay_lists_of(&self, resource: Resource, delay: Duration) {
        self.shared.faults().list_delays.insert(resource, delay);
    }

    /// Be a server of a version that does not have the resource, or has it (again).
    pub fn lack(&self, resource: Resource, lack: bool) {
        let missing = &mut self.shared.faults().missing;
        if lack {
            missing.insert(resource);
        } else {
            missing.remove(&resource);
        }
    }

    /// Be a server before Kubernetes 1.31, which cannot select Services by their fields.
    pub fn know_no_fields_of_services(&self, old: bool) {
        self.shared.faults().old_fields = old;
    }

    /// Refuse requests that do not bear this token.
    pub fn require_token(&self, token: Option<&str>) {
        self.shared.faults().token = token.map(Into::into);
    }

    /// End watches as soon as they have begun.
    pub fn shorten_watches(&self, shorten: bool) {
        self.shared.faults().short_watches = shorten;
    }

    /// Answer expired versions with status 410 (true), or, as real ones mostly do, with an ERROR
    /// event in a stream that begins well (false).
    pub fn gone_as_status(&self, status: bool) {
        self.shared.faults().gone_as_status = status;
    }

    /// Send bookmarks this often, to those who ask for them.
    pub fn bookmark_every(&self, interval: Option<Duration>) {
        self.shared.faults().bookmark_interval = interval;
    }

    /// Requests so far.
    pub fn counts(&self, resource: Resource) -> Counts {
        self.shared.state().counts(resource)
    }

    fn wake_watches(&self) {
        self.shared.changed.send_modify(|_| {});
    }

    fn listen(&mut self, listener: TcpListener) -> Result<()> {
        listener.set_nonblocking(true)?;
        let runtime = self.runtime.as_ref().context("the server's runtime is gone")?;
        let guard = runtime.enter();
        let listener = tokio::net::TcpListener::from_std(listener)?;
        drop(guard);
        self.task = Some(runtime.spawn(serve::accept(listener, self.shared.clone())));
        Ok(())
    }
}

/// A socket stays in the namespace it was made in, whoever uses it later.
fn bind(place: Option<&Place>, address: SocketAddr) -> Result<TcpListener> {
    match place {
        None => Ok(TcpListener::bind(address)?),
        Some(place) => Ok(place.within(|| TcpListener::bind(address))??),
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
        if let Some(runtime) = self.runtime.take() {
            // Not a plain drop: that may not happen inside another runtime.
            runtime.shutdown_background();
        }
    }
}
