//! What is not served as asked, object by object: one list, from which `status` makes its
//! conditions and [`events`](crate::events) makes Kubernetes Events.

use crate::apply::Reconciler;
use crate::events::reason;
use crate::events::{Notice, Object, Scope, Weight};
use crate::model::Model;
use crate::model::problem::Problem;
use crate::report::{Condition, Severity};
use crate::source::{Kind, ObjectName};

/// Something about one object.
pub struct Complaint {
    severity: Severity,
    /// What `status` calls it.
    about: String,
    message: String,
    regarding: (Kind, ObjectName),
    related: Option<(Kind, ObjectName)>,
    reason: &'static str,
    scope: Scope,
}

/// All there are.
pub fn of_objects(model: &Model, reconciler: &Reconciler) -> Vec<Complaint> {
    let problems = model.problems().map(|problem| of_problem(model, problem, false));
    let clashes = reconciler.clashes().map(|(_, problem)| of_problem(model, problem, true));
    let refused = reconciler.refused().map(|(name, message)| Complaint {
        severity: Severity::Refused,
        reason: if reconciler.is_too_large(name) { reason::TOO_LARGE } else { reason::MAP_FULL },
        // Each node has its own maps.
        scope: Scope::Node,
        ..about_service(name, message.to_owned())
    });
    let conflicts = reconciler.conflicts().flat_map(|(loser, conflict)| {
        let owner = &conflict.owner;
        let told = about_service(loser, conflict.to_string());
        let lost = Complaint { reason: reason::FRONTEND_CONFLICT, ..told };
        let also = (owner != loser).then(|| Complaint {
            reason: reason::FRONTEND_CONTESTED,
            ..about_service(owner, conflict.for_owner(loser))
        });
        [Some(lost), also].into_iter().flatten()
    });
    refused.chain(conflicts).chain(clashes).chain(problems).collect()
}

fn about_service(name: &ObjectName, message: String) -> Complaint {
    Complaint {
        severity: Severity::Warning,
        about: format!("Service {name}"),
        message,
        regarding: (Kind::Service, name.clone()),
        related: None,
        reason: reason::FIELD_REJECTED,
        scope: Scope::Cluster,
    }
}

fn of_problem(model: &Model, problem: &Problem, clashes: bool) -> Complaint {
    let object = (problem.kind, ObjectName::clone(&problem.object));
    // An author looks at the Service; its slices are its controller's.
    let service = model.service_of_slice(&object.1).filter(|_| object.0 == Kind::EndpointSlice);
    let (regarding, related) = match service {
        Some(service) => ((Kind::Service, service.clone()), Some(object)),
        None => (object, None),
    };
    let reason = match problem.kind {
        Kind::EndpointSlice => reason::ENDPOINT_REJECTED,
        Kind::Service if clashes => reason::FRONTEND_REJECTED,
        _ => reason::FIELD_REJECTED,
    };
    Complaint {
        severity: Severity::Warning,
        about: problem.key(),
        message: problem.message(),
        regarding,
        related,
        reason,
        scope: if problem.kind == Kind::Node { Scope::Node } else { Scope::Cluster },
    }
}

/// As `status` shows them.
pub fn conditions(complaints: Vec<Complaint>) -> impl Iterator<Item = Condition> {
    complaints.into_iter().map(|complaint| Condition {
        severity: complaint.severity,
        about: complaint.about,
        message: complaint.message,
    })
}

/// As Events tell them, and what the source could not read.
pub fn notices(model: &Model, complaints: &[Complaint]) -> Vec<Notice> {
    let object = |(kind, name): &(Kind, ObjectName)| Object {
        kind: *kind,
        name: name.clone(),
        uid: (*kind == Kind::Service).then(|| model.uid_of_service(name)).flatten(),
    };
    let of_complaint = |complaint: &Complaint| {
        let is_whole = complaint.about == format!("Service {}", complaint.regarding.1);
        Notice {
            regarding: object(&complaint.regarding),
            related: complaint.related.as_ref().map(object),
            weight: Weight::Warning,
            reason: complaint.reason,
            action: reason::action(complaint.reason),
            note: if is_whole {
                complaint.message.clone()
            } else {
                format!("{}: {}", complaint.about, complaint.message)
            },
            scope: complaint.scope,
        }
    };
    let unreadable = model.unreadable().map(|(kind, name, message)| Notice {
        regarding: object(&(kind, name)),
        related: None,
        weight: Weight::Warning,
        reason: reason::UNREADABLE,
        action: reason::action(reason::UNREADABLE),
        note: message.to_owned(),
        scope: Scope::Cluster,
    });
    complaints.iter().map(of_complaint).chain(unreadable).collect()
}

/// Events about servers that could not be started, by what `status` says of them.
pub fn of_servers(model: &Model, node_name: &str, conditions: &[(String, String)]) -> Vec<Notice> {
    let notice = |(about, message): &(String, String)| {
        let (regarding, reason) = match about.split_once(' ') {
            Some(("--healthz-bind-address", _)) => (Object::node(node_name), reason::HEALTH_SERVER),
            Some(("--metrics-bind-address", _)) => {
                (Object::node(node_name), reason::METRICS_SERVER)
            }
            Some(("Service", name)) => {
                let (namespace, name) = name.split_once('/')?;
                let name = ObjectName::new(namespace, name);
                let uid = model.uid_of_service(&name);
                (Object { kind: Kind::Service, name, uid }, reason::SERVICE_HEALTH_SERVER)
            }
            _ => return None,
        };
        Some(Notice {
            regarding,
            related: None,
            weight: Weight::Warning,
            reason,
            action: reason::action(reason),
            note: format!("{about}: {message}"),
            scope: Scope::Node,
        })
    };
    conditions.iter().filter_map(notice).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};
    use std::sync::Arc;
    use std::time::Duration;

    use serde_json::json;
    use tokio::sync::watch;
    use tokio::time::timeout;

    use super::*;
    use crate::health::Monitor;
    use crate::health::node_ports::{NodePorts, Wanted};
    use crate::health::notices::{Board, Notices};
    use crate::health::servers::{self, Addresses, Sources};
    use crate::model::desired::HealthCheck;
    use crate::settings::Policy;
    use crate::source::{Event, Object as Given};

    const UID: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
    /// How long a server may take to find its address taken.
    const HEARD: Duration = Duration::from_secs(20);

    fn model() -> Model {
        let mut model = Model::new("n1", Policy::default());
        let service = json!({
            "metadata": {"namespace": "shop", "name": "web", "uid": UID},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
        });
        let service = serde_json::from_value(service).unwrap();
        model.apply(Event::Apply(Given::Service(service)));
        model
    }

    /// An address that somebody listens on.
    fn taken() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    /// What is said when it is so many things.
    async fn said(notices: &mut watch::Receiver<Notices>, count: usize) -> Vec<(String, String)> {
        let enough = notices.wait_for(|notices| notices.len() >= count);
        let notices = timeout(HEARD, enough).await.expect("notices come").unwrap().clone();
        notices.into_iter().collect()
    }

    /// What the servers themselves say of addresses that are taken.
    async fn of_servers_that_cannot_listen() -> Vec<(String, String)> {
        let monitor = Monitor::new(Duration::from_secs(30));
        let sources = Sources {
            monitor: monitor.clone(),
            metrics: Arc::new(String::new),
            config: Arc::new(String::new),
            answered: Arc::new(|_, _| {}),
        };
        let ((_health, healthz), (_metrics, metrics)) = (taken(), taken());
        let addresses =
            Addresses { healthz: Some(healthz), metrics: Some(metrics), hard_fail: false };
        let (board, mut notices) = Board::new();
        let servers = tokio::spawn(servers::run(addresses, sources, board));
        let mut conditions = said(&mut notices, 2).await;
        servers.abort();
        let (_port, port) = taken();
        let check = HealthCheck { port: port.port(), v4: Some(0), v6: None };
        let wanted = Wanted {
            checks: [(ObjectName::new("shop", "web").into(), check)].into(),
            v4: Some(vec![port.ip()]),
            v6: None,
        };
        let (board, mut notices) = Board::new();
        let (_wanted, wanted) = watch::channel(wanted);
        let ports = tokio::spawn(NodePorts::new(monitor, board).run(wanted));
        conditions.extend(said(&mut notices, 1).await);
        ports.abort();
        conditions
    }

    #[test]
    fn servers_that_cannot_listen_are_events_under_kube_proxys_reasons() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut conditions = runtime.block_on(of_servers_that_cannot_listen());
        conditions.push(("canary connect4 IPv4".to_owned(), "is for status alone".to_owned()));
        let notices = of_servers(&model(), "n1", &conditions);
        let node = Object::node("n1");
        let web = ObjectName::new("shop", "web");
        let service = Object { kind: Kind::Service, name: web, uid: Some(UID.to_owned()) };
        let found: Vec<_> = notices.iter().map(|n| (n.reason, n.action, &n.regarding)).collect();
        assert_eq!(
            found,
            [
                ("FailedToStartProxierHealthcheck", "StartKubeProxyHealthcheck", &node),
                ("FailedToStartMetricServer", "StartKubeProxyMetricServer", &node),
                ("FailedToStartServiceHealthcheck", "Listen", &service),
            ]
        );
        for notice in notices {
            assert_eq!((notice.weight, notice.scope), (Weight::Warning, Scope::Node));
            assert!(notice.note.contains("cannot listen"), "{}", notice.note);
        }
    }
}
