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
