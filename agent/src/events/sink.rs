//! Where Events go: to the API, or into the log.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use k8s_openapi::api::events::v1::Event as ApiEvent;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::Status;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::ledger::{Ledger, Outcome, Say};
use super::{Notice, Order, object};
use crate::source::Event;

/// A write that takes longer has failed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after a failure; it doubles with each.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// Up to this.
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// What the condition is about.
const ABOUT: &str = "Kubernetes Events";

/// Where Events go.
pub enum Sink {
    /// To an API server.
    Api(kube::Client),
    /// Into the log: objects come from files, and nobody else would see them.
    Log,
}

/// Why nothing was written.
enum Failure {
    /// Not now.
    Later(String),
    /// The API will never take this one; the next it may.
    Never(String),
}

/// Writes what the ledger says.
pub(super) struct Writer {
    node_name: String,
    sink: Sink,
    conditions: mpsc::Sender<Event>,
    ledger: Ledger,
    begun: Instant,
    /// What was said about Events that cannot be written.
    told: Option<String>,
    pause: Duration,
}

impl Writer {
    pub(super) fn new(node_name: String, sink: Sink, conditions: mpsc::Sender<Event>) -> Self {
        let mut hasher = DefaultHasher::new();
        node_name.hash(&mut hasher);
        let ledger = Ledger::new(hasher.finish(), Duration::ZERO);
        let begun = Instant::now();
        Self { node_name, sink, conditions, ledger, begun, told: None, pause: PAUSE_FIRST }
    }

    /// Until nobody has anything to say.
    pub(super) async fn run(
        mut self,
        mut standing: watch::Receiver<Vec<Notice>>,
        mut once: mpsc::Receiver<Order>,
    ) {
        loop {
            let wait = match self.ledger.next(self.begun.elapsed()) {
                Ok(say) => {
                    if let Some(pause) = self.say(say).await {
                        sleep(pause).await;
                    }
                    // News come in between two writes as well.
                    Some(Duration::ZERO)
                }
                Err(wait) => {
                    if wait.is_none() {
                        // What could not be written is not worth it any more.
                        self.tell(None).await;
                    }
                    wait
                }
            };
            tokio::select! {
                biased;
                changed = standing.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let notices = standing.borrow_and_update().clone();
                    self.ledger.stands(notices, self.begun.elapsed());
                }
                Some(order) = once.recv() => match order {
                    Order::Once(notice) => self.ledger.happened(notice),
                    Order::WriteTo(sink) => {
                        // What the last one could not do says nothing about this one.
                        self.tell(None).await;
                        self.sink = sink;
                    }
                },
                () = sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            }
        }
    }

    /// Say it; how long to wait if that did not work.
    async fn say(&mut self, say: Say) -> Option<Duration> {
        let result = timeout(WRITE_TIMEOUT, self.write(&say)).await;
        let result = result.unwrap_or_else(|_| {
            let secs = WRITE_TIMEOUT.as_secs();
            Err(Failure::Later(format!("the API server sent nothing for {secs} s")))
        });
        let now = self.begun.elapsed();
        match result {
            Ok(outcome) => {
                self.ledger.done(say, outcome, now);
                self.pause = PAUSE_FIRST;
                self.tell(None).await;
                None
            }
            Err(Failure::Never(why)) => {
                tracing::info!("an Event was not taken: {why}");
                self.ledger.done(say, Outcome::Settled, now);
                None
            }
            Err(Failure::Later(why)) => {
                let pause = self.pause;
                self.ledger.failed(say, now, pause);
                self.pause = (pause * 2).min(PAUSE_MAX);
                self.tell(Some(why)).await;
                Some(pause)
            }
        }
    }

    async fn write(&self, say: &Say) -> Result<Outcome, Failure> {
        let now = Timestamp::now();
        let client = match &self.sink {
            Sink::Api(client) => client,
            Sink::Log => return Ok(log(say, &self.node_name, now)),
        };
        let (Say::New(notice, _) | Say::Again(notice, ..)) = say;
        let events: Api<ApiEvent> =
            Api::namespaced(client.clone(), object::namespace(&notice.regarding));
        match say {
            Say::New(notice, _) => {
                let name = object::name(notice, &self.node_name, now);
                let event = object::event(notice, name.clone(), &self.node_name, now);
                match events.create(&PostParams::default(), &event).await {
                    Ok(_) => Ok(Outcome::Written(name)),
                    Err(kube::Error::Api(status)) if status.code == 409 => Ok(Outcome::Settled),
                    Err(error) => Err(failure(error)),
                }
            }
            Say::Again(_, _, name, count) => {
                let patch = Patch::Merge(object::seen_again(*count, now));
                match events.patch(name, &PatchParams::default(), &patch).await {
                    Ok(_) => Ok(Outcome::Written(name.clone())),
                    Err(kube::Error::Api(status)) if status.code == 404 => Ok(Outcome::Forgotten),
                    Err(error) => Err(failure(error)),
                }
            }
        }
    }

    /// Say once that Events cannot be written, and once that they can again.
    async fn tell(&mut self, why: Option<String>) {
        if why == self.told {
            return;
        }
        self.told.clone_from(&why);
        let message = why.map(|why| {
            format!(
                "cannot be written: {why}; Services are served all the same, and `millrace status` \
                 shows what Events would have said; let the agent's account create and patch \
                 events in events.k8s.io (ClusterRole system:node-proxier)"
            )
        });
        if let Some(message) = &message {
            tracing::warn!("{ABOUT} {message}");
        }
        let _ = self.conditions.send(Event::Condition { key: ABOUT.to_owned(), message }).await;
    }
}

/// Events of objects from files.
fn log(say: &Say, node_name: &str, now: Timestamp) -> Outcome {
    let (Say::New(notice, _) | Say::Again(notice, ..)) = say;
    let about = format!("{} {}", notice.regarding.kind, notice.regarding.name);
    tracing::info!(target: "millrace::events", reason = notice.reason, about, "{}", notice.note);
    Outcome::Written(object::name(notice, node_name, now))
}

fn failure(error: kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) if is_about_this_one(&status) => Failure::Never(status.message),
        kube::Error::Api(status) => {
            Failure::Later(format!("the API server answered {} {}", status.code, status.message))
        }
        other => Failure::Later(other.to_string()),
    }
}

/// Whether it is the one Event that is refused, not all of them: it is not as the API wants it, or
/// its namespace is gone or going.
fn is_about_this_one(status: &Status) -> bool {
    match status.code {
        400 | 413 | 422 => true,
        403 => status.message.contains("being terminated"),
        404 => status.message.contains("namespaces"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::super::{Object, Recorder, Scope, Weight, reason};
    use super::*;
    use crate::source::kube::{KubeConfig, client};
    use crate::source::{Kind, ObjectName};

    /// How long the writer may take to try again, on a busy machine.
    const HEARD: Duration = Duration::from_secs(20);

    /// An API server that is not there.
    async fn nowhere() -> Sink {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let config = KubeConfig::from_url(format!("http://{address}"), "n1");
        Sink::Api(client(&config).await.unwrap())
    }

    /// What is said next about Events that cannot be written; nothing: they can.
    async fn told(conditions: &mut mpsc::Receiver<Event>) -> Option<String> {
        let next = timeout(HEARD, conditions.recv()).await.expect("something is said");
        match next {
            Some(Event::Condition { key, message }) if key == ABOUT => message,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn another_sink_begins_without_the_failures_of_the_last() {
        let (sender, mut conditions) = mpsc::channel(8);
        let recorder = Recorder::start("n1", nowhere().await, sender);
        recorder.standing(vec![Notice {
            regarding: Object {
                kind: Kind::Service,
                name: ObjectName::new("shop", "web"),
                uid: None,
            },
            related: None,
            weight: Weight::Warning,
            reason: reason::FIELD_REJECTED,
            action: reason::action(reason::FIELD_REJECTED),
            note: "x".to_owned(),
            scope: Scope::Node,
        }]);
        assert!(told(&mut conditions).await.is_some());
        recorder.write_to(nowhere().await);
        assert_eq!(told(&mut conditions).await, None, "nothing is known of the other one");
        assert!(told(&mut conditions).await.is_some(), "until that one fails, too");
    }
}
