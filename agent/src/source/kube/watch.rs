//! List, then watch, for ever: four of these side by side, one for each kind.
//!
//! A list is a mark-and-sweep of what is known (`Begin`, `Apply`..., `Complete`), so that objects
//! deleted while nobody watched go away and nothing else does. A watch that breaks goes on from the
//! version it had reached; only a version that has expired costs a new list.

use std::time::Duration;

use futures::{TryStreamExt, pin_mut};
use kube::Client;
use kube::api::{ListParams, ObjectList, Request, WatchEvent, WatchParams};
use tokio::sync::mpsc::Sender;
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use super::decode::Raw;
use super::failure::Failure;
use super::pauses::Pauses;
use super::report::Report;
use super::rights;
use crate::source::{Event, Kind};

/// The server ends a watch after this long, and we open the next: a watch that is silent for longer
/// is dead. Bookmarks come only about once a minute, so they cannot tell sooner.
const WATCH_SECS: u32 = 50;
/// What the server's end of a watch may be late.
const WATCH_MARGIN: Duration = Duration::from_secs(5);
/// A page of a list, or the beginning of a watch, that takes longer never comes.
const REPLY_TIMEOUT: Duration = Duration::from_secs(45);
/// Objects in one page of a list; client-go's number.
const PAGE_OBJECTS: u32 = 500;
/// The first pause after a failure. The jitter adds up to as much again.
const RETRY_FIRST: Duration = Duration::from_millis(500);
/// Pauses double up to this. With the jitter: one list in 30 s on average, in a long outage.
const RETRY_MAX: Duration = Duration::from_secs(20);
/// After so long without a failure the pauses begin anew.
const RETRY_RESET: Duration = Duration::from_secs(120);
/// A watch that ends without an event within this is a failure: a server or proxy that closes all
/// watches at once would otherwise be asked without a pause. client-go's number.
const WATCH_SHORTEST: Duration = Duration::from_secs(1);

/// How often to look for a resource that the API server does not have: it may be upgraded.
const MISSING_RETRY: Duration = Duration::from_secs(300);

/// The times and sizes of a watch. Tests shorten them; nobody else should.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The server ends a watch after this many seconds.
    pub watch_secs: u32,
    /// What the server's end of a watch may be late.
    pub watch_margin: Duration,
    /// Longest wait for a page of a list, or for the beginning of a watch.
    pub reply: Duration,
    /// Objects in one page of a list.
    pub page_objects: u32,
    /// The first pause after a failure.
    pub retry_first: Duration,
    /// The longest pause, not counting jitter.
    pub retry_max: Duration,
    /// After so long without a failure the pauses begin anew.
    pub retry_reset: Duration,
    /// The pause before a resource that the server does not have is asked for again.
    pub missing_retry: Duration,
}

impl Timing {
    /// As it should be.
    pub const DEFAULT: Self = Self {
        watch_secs: WATCH_SECS,
        watch_margin: WATCH_MARGIN,
        reply: REPLY_TIMEOUT,
        page_objects: PAGE_OBJECTS,
        retry_first: RETRY_FIRST,
        retry_max: RETRY_MAX,
        retry_reset: RETRY_RESET,
        missing_retry: MISSING_RETRY,
    };
}

impl Default for Timing {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Follow Services, EndpointSlices, ServiceCIDRs and the node of this name. Returns when the
/// receiver is gone.
pub async fn watch(client: Client, node_name: &str, sender: Sender<Event>) {
    watch_with(client, node_name, sender, Timing::default()).await;
}

/// [`watch`] with times of one's own.
pub async fn watch_with(client: Client, node_name: &str, sender: Sender<Event>, timing: Timing) {
    let follow =
        |resource: Resource| Follower::new(client.clone(), resource, sender.clone(), timing).run();
    let all = futures::future::join4(
        follow(Resource::services()),
        follow(Resource::endpoint_slices()),
        follow(Resource::node(node_name)),
        follow(Resource::service_cidrs()),
    );
    tokio::select! {
        () = sender.closed() => {}
        _ = all => {}
    }
}

/// What is watched. The selectors are kube-proxy's, applied by the server: an object that leaves
/// the selection arrives as a deletion.
struct Resource {
    kind: Kind,
    path: &'static str,
    labels: Option<&'static str>,
    fields: Option<String>,
    /// Older API servers do not know the fields: they are asked for everything, and the model
    /// leaves out what is not wanted.
    fields_are_optional: bool,
    /// Older API servers do not have it, and then there is nothing to know.
    is_optional: bool,
}

impl Resource {
    fn services() -> Self {
        Self {
            kind: Kind::Service,
            path: rights::SERVICES.path,
            labels: Some("!service.kubernetes.io/service-proxy-name"),
            // Known since Kubernetes 1.31.
            fields: Some("spec.clusterIP!=None".into()),
            fields_are_optional: true,
            is_optional: false,
        }
    }
    fn endpoint_slices() -> Self {
        Self {
            kind: Kind::EndpointSlice,
            path: rights::ENDPOINT_SLICES.path,
            labels: Some("!service.kubernetes.io/headless"),
            fields: None,
            fields_are_optional: false,
            is_optional: false,
        }
    }
    fn node(name: &str) -> Self {
        Self {
            kind: Kind::Node,
            path: rights::NODES.path,
            labels: None,
            fields: Some(format!("metadata.name={name}")),
            fields_are_optional: false,
            is_optional: false,
        }
    }
    /// In the API since Kubernetes 1.33.
    fn service_cidrs() -> Self {
        Self {
            kind: Kind::ServiceCidr,
            path: rights::SERVICE_CIDRS.path,
            labels: None,
            fields: None,
            fields_are_optional: false,
            is_optional: true,
        }
    }
    /// Whether there is a selector that an older server may not understand.
    fn can_do_without_fields(&self) -> bool {
        self.fields_are_optional && self.fields.is_some()
    }
}

/// Where a follower stands.
enum Position {
    /// A list is due: in pages, or whole because the pages expired under us.
    List { paged: bool },
    /// A watch from this version is due.
    Watch { version: String },
}

/// Follows one resource.
struct Follower {
    client: Client,
    resource: Resource,
    sender: Sender<Event>,
    timing: Timing,
    pauses: Pauses,
    report: Report,
}

impl Follower {
    fn new(client: Client, resource: Resource, sender: Sender<Event>, timing: Timing) -> Self {
        let (pauses, report) = (Pauses::new(&timing), Report::new(resource.kind));
        Self { client, resource, sender, timing, pauses, report }
    }

    async fn run(mut self) {
        let mut position = Position::List { paged: true };
        loop {
            let (next, pause) = match position {
                Position::List { paged } => self.list_step(paged).await,
                Position::Watch { version } => self.watch_step(version).await,
            };
            position = next;
            if let Some(pause) = pause {
                sleep(pause).await;
            }
        }
    }

    /// Where it goes on, and after which pause.
    async fn list_step(&mut self, paged: bool) -> (Position, Option<Duration>) {
        match self.list(paged).await {
            Ok(version) => {
                send_all(&self.sender, self.report.works()).await;
                (Position::Watch { version }, None)
            }
            // Slow readers of a big list lose the version they read: ask for all of it at once.
            Err(failure) if failure.is_expired() && paged => {
                debug!(kind = %self.resource.kind, "the pages of a list expired: listing whole");
                (Position::List { paged: false }, Some(self.pauses.after(&failure)))
            }
            Err(failure) if failure.is_missing() && self.resource.is_optional => {
                self.nothing_there().await;
                (Position::List { paged: true }, None)
            }
            Err(failure) if failure.is_bad_request() && self.resource.can_do_without_fields() => {
                let (kind, why) = (self.resource.kind, failure.describe());
                info!(%kind, why, "an older API server: asking for all and leaving some out here");
                self.resource.fields = None;
                (Position::List { paged: true }, None)
            }
            Err(failure) => {
                send_all(&self.sender, self.report.failed("list", &failure)).await;
                (Position::List { paged: true }, Some(self.pauses.after(&failure)))
            }
        }
    }

    /// The server does not have the resource: so there are no objects of it, for a good while.
    async fn nothing_there(&mut self) {
        debug!(kind = %self.resource.kind, "the API server does not have the resource");
        send(&self.sender, Event::Begin(self.resource.kind)).await;
        send(&self.sender, Event::Complete(self.resource.kind)).await;
        send_all(&self.sender, self.report.works()).await;
        sleep(self.timing.missing_retry).await;
    }

    /// As [`list_step`](Self::list_step).
    async fn watch_step(&mut self, mut version: String) -> (Position, Option<Duration>) {
        let Err(failure) = self.watch(&mut version).await else {
            return (Position::Watch { version }, None);
        };
        if failure.is_expired() {
            debug!(kind = %self.resource.kind, version, "version expired: listing anew");
        } else {
            send_all(&self.sender, self.report.failed("watch", &failure)).await;
        }
        let resume = failure.can_resume();
        let next =
            if resume { Position::Watch { version } } else { Position::List { paged: true } };
        (next, Some(self.pauses.after(&failure)))
    }

    /// List everything; the version that the list shows.
    ///
    /// With paging, and without `resourceVersion`: the list is then the newest there is, so it
    /// cannot take back what an older watch has told (`resourceVersion=0` may be answered by a
    /// server that lags behind), and neither side holds it whole in memory. Streaming lists
    /// (KEP-3157) would be lighter still, but older servers refuse or ignore them, which takes a
    /// second code path.
    async fn list(&mut self, paged: bool) -> Result<String, Failure> {
        let mut begun = false;
        let mut params = ListParams {
            label_selector: self.resource.labels.map(Into::into),
            field_selector: self.resource.fields.clone(),
            limit: paged.then_some(self.timing.page_objects),
            ..ListParams::default()
        };
        loop {
            let page = self.page(&params).await?;
            // Not before the first page: a server that does not answer starts no list.
            if !std::mem::replace(&mut begun, true) {
                self.report.list_begins();
                send(&self.sender, Event::Begin(self.resource.kind)).await;
            }
            for raw in page.items {
                self.apply(&raw).await;
            }
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                let version = page.metadata.resource_version.filter(|version| !version.is_empty());
                let version = version.ok_or(Failure::NoVersion)?;
                send(&self.sender, Event::Complete(self.resource.kind)).await;
                let gone = self.report.list_complete();
                send_all(&self.sender, gone).await;
                return Ok(version);
            }
        }
    }

    async fn page(&self, params: &ListParams) -> Result<ObjectList<Raw>, Failure> {
        let request = Request::new(self.resource.path);
        let request = request.list(params).map_err(kube::Error::BuildRequest)?;
        self.in_time(self.client.request(request)).await
    }

    /// Watch from a version on, moving it along, until the stream ends.
    async fn watch(&mut self, version: &mut String) -> Result<(), Failure> {
        let params = WatchParams {
            label_selector: self.resource.labels.map(Into::into),
            field_selector: self.resource.fields.clone(),
            timeout: Some(self.timing.watch_secs),
            bookmarks: true,
            ..WatchParams::default()
        };
        let request = Request::new(self.resource.path);
        let request = request.watch(&params, version).map_err(kube::Error::BuildRequest)?;
        let stream = self.in_time(self.client.request_events::<Raw>(request)).await?;
        pin_mut!(stream);
        let idle = Duration::from_secs(self.timing.watch_secs.into()) + self.timing.watch_margin;
        // That the watch was let in shows when it has lasted, or when something comes.
        let mut settled = false;
        loop {
            let limit = if settled { idle } else { WATCH_SHORTEST };
            let next = timeout(limit, stream.try_next()).await;
            if next.is_err() && settled {
                return Err(Failure::Silent(idle));
            }
            match next {
                Ok(Ok(None)) if !settled => return Err(Failure::ShortWatch),
                Ok(Ok(None)) => return Ok(()),
                Ok(Ok(Some(event))) => self.take(event, version).await?,
                // The connection broke: an API server restarts. Whether that is worth a word shows
                // when the next one is opened.
                Ok(Err(kube::Error::ReadEvents(error))) if settled => {
                    debug!(kind = %self.resource.kind, %error, "the watch broke");
                    return Ok(());
                }
                Ok(Err(error)) => return Err(error.into()),
                Err(_) => debug!(kind = %self.resource.kind, "watching"),
            }
            settled = true;
            self.pauses.watched();
            send_all(&self.sender, self.report.works()).await;
        }
    }

    /// One event of a watch.
    async fn take(&mut self, event: WatchEvent<Raw>, version: &mut String) -> Result<(), Failure> {
        let reached = match event {
            WatchEvent::Added(raw) | WatchEvent::Modified(raw) => self.apply(&raw).await,
            WatchEvent::Deleted(raw) => {
                let name = raw.name();
                send_all(&self.sender, self.report.good_object(&name)).await;
                send(&self.sender, Event::Delete(self.resource.kind, name)).await;
                raw.resource_version()
            }
            WatchEvent::Bookmark(bookmark) => bookmark.metadata.resource_version,
            WatchEvent::Error(status) => return Err(Failure::Refused(status)),
        };
        if !reached.is_empty() {
            *version = reached;
        }
        Ok(())
    }

    /// Pass an object on, or say why not; its version.
    async fn apply(&mut self, raw: &Raw) -> String {
        match raw.decode(self.resource.kind) {
            Ok(object) => {
                send_all(&self.sender, self.report.good_object(&object.name())).await;
                let version = object.metadata().resource_version.clone();
                send(&self.sender, Event::Apply(object)).await;
                version
            }
            Err(undecodable) => {
                let name = undecodable.name.clone();
                send(&self.sender, Event::Keep(self.resource.kind, name)).await;
                send_all(&self.sender, self.report.bad_object(undecodable)).await;
                raw.resource_version()
            }
        }
    }

    async fn in_time<T>(
        &self,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Failure> {
        match timeout(self.timing.reply, request).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Failure::Silent(self.timing.reply)),
        }
    }
}

async fn send_all(sender: &Sender<Event>, events: impl IntoIterator<Item = Event>) {
    for event in events {
        send(sender, event).await;
    }
}

async fn send(sender: &Sender<Event>, event: Event) {
    // Closed means that nobody listens any more: `watch_with` ends us at its next poll.
    let _ = sender.send(event).await;
}
