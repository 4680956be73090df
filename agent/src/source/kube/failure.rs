//! What a failed request means: where to go on from, and what a person should know.

use std::error::Error as _;
use std::time::Duration;

use kube::core::Status;

/// Codes of the API that matter here.
const BAD_REQUEST: u16 = 400;
const UNAUTHORIZED: u16 = 401;
const FORBIDDEN: u16 = 403;
const NOT_FOUND: u16 = 404;
const GONE: u16 = 410;
const TOO_MANY_REQUESTS: u16 = 429;
const GATEWAY_TIMEOUT: u16 = 504;

/// Why a list or a watch did not work.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server answered, or said in the stream, that it will not.
    Refused(Box<Status>),
    /// The request did not get through, or its answer made no sense.
    Transport(kube::Error),
    /// No answer, or nothing more in a stream that should have ended by now.
    Silent(Duration),
    /// A watch that ended as soon as it began.
    ShortWatch,
    /// A list that does not say which version it shows.
    NoVersion,
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Refused(status),
            other => Self::Transport(other),
        }
    }
}

impl Failure {
    /// The version asked for is no longer (or not yet) there. That is the API's way of asking for a
    /// new list, nothing that is wrong.
    pub fn is_expired(&self) -> bool {
        match self {
            Self::Refused(status) => {
                status.code == GONE || status.reason == "Expired" || is_future_version(status)
            }
            _ => false,
        }
    }
    /// The server does not have the resource at all.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code == NOT_FOUND)
    }
    /// The server does not understand what it is asked.
    pub fn is_bad_request(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code == BAD_REQUEST)
    }
    /// The same watch may work later: the server is busy, starting, or does not let us in (yet).
    /// Anything else is answered with a new list, which cannot repeat the same mistake.
    pub fn can_resume(&self) -> bool {
        match self {
            Self::Refused(_) if self.is_expired() => false,
            Self::Refused(status) => {
                let code = status.code;
                matches!(code, UNAUTHORIZED | FORBIDDEN | TOO_MANY_REQUESTS) || code >= 500
            }
            // A line of the stream that could not be read may have been a change.
            Self::Transport(kube::Error::SerdeError(_)) => false,
            Self::Transport(_) | Self::Silent(_) | Self::ShortWatch => true,
            Self::NoVersion => false,
        }
    }
    /// What happened.
    pub fn describe(&self) -> String {
        match self {
            Self::Refused(status) => {
                format!("the API server answered {} {}", status.code, reason(status))
            }
            Self::Transport(error) => chain(error),
            Self::Silent(limit) => {
                format!("the API server sent nothing for {} s", limit.as_secs())
            }
            Self::ShortWatch => "the API server ends the watch as soon as it has begun".into(),
            Self::NoVersion => "the API server's list has no resourceVersion".into(),
        }
    }
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Refused(status) => match status.code {
                UNAUTHORIZED => "give the agent a token or client certificate that is valid",
                FORBIDDEN => {
                    "bind the agent's account to the ClusterRole system:node-proxier (list and \
                     watch services, endpointslices, nodes and servicecidrs)"
                }
                NOT_FOUND => "check that --api-server is a Kubernetes API server, 1.21 or newer",
                TOO_MANY_REQUESTS => "the API server is overloaded; it is asked again less often",
                _ => "look at the API server's health and logs",
            },
            Self::Transport(_) => {
                "check the API server's address and that this node reaches it without Services"
            }
            Self::Silent(_) => "check the network between this node and the API server",
            Self::ShortWatch | Self::NoVersion => {
                "look at the API server's logs and at proxies or load balancers in front of it"
            }
        }
    }
}

/// A watch from a version that the server has not reached: its etcd was restored from a backup, or
/// it lags behind. A new list is right in both cases.
fn is_future_version(status: &Status) -> bool {
    status.code == GATEWAY_TIMEOUT && status.message.contains("Too large resource version")
}

fn reason(status: &Status) -> String {
    match (status.reason.as_str(), status.message.as_str()) {
        ("", message) | (_, message) if !message.is_empty() => message.to_owned(),
        (reason, _) => reason.to_owned(),
    }
}

/// An error with its causes, each said once: most of these already quote the next.
fn chain(error: &kube::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16, reason: &str, message: &str) -> Failure {
        Failure::Refused(Box::new(Status {
            code,
            reason: reason.into(),
            message: message.into(),
            ..Status::default()
        }))
    }

    #[test]
    fn what_follows_from_a_refusal() {
        // (code, reason, message) -> (expired, can resume)
        let cases = [
            ((410, "Expired", "too old resource version: 1 (7)"), (true, false)),
            ((410, "Gone", ""), (true, false)),
            ((504, "Timeout", "Too large resource version: 9, current: 7"), (true, false)),
            ((504, "Timeout", "etcd"), (false, true)),
            ((500, "InternalError", ""), (false, true)),
            ((503, "", "not ready"), (false, true)),
            ((429, "TooManyRequests", ""), (false, true)),
            ((401, "Unauthorized", ""), (false, true)),
            ((403, "Forbidden", ""), (false, true)),
            ((400, "BadRequest", "invalid resource version"), (false, false)),
        ];
        for ((code, reason, message), expect) in cases {
            let failure = refused(code, reason, message);
            assert_eq!((failure.is_expired(), failure.can_resume()), expect, "{code} {reason}");
        }
    }
}
