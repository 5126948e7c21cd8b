//! Why a call to GitHub failed, by what the caller must do.
//!
//! Every variant tells which call it was and, where an answer came, carries its ids: GitHub's support can
//! do nothing without them.

use std::{fmt, time::Duration};

use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;

use crate::{
    http::{Response, TransportError, rate_limit, redact, request_ids, retry_after, trimmed},
    identity::TokenError,
};

/// A call that GitHub answered, though not as hoped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// `open session`, `generate JIT configuration`, ...
    pub operation: &'static str,
    pub status: u16,
    /// GitHub's name of the exception, where it gave one.
    pub type_name: Option<String>,
    /// GitHub's own words, cut and redacted.
    pub message: String,
    /// `ActivityId ..., X-GitHub-Request-Id ...`
    pub ids: String,
}

impl fmt::Display for Details {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operation, self.status)?;
        if let Some(type_name) = &self.type_name {
            write!(f, " {type_name}")?;
        }
        if !self.message.is_empty() {
            write!(f, " {}", self.message)?;
        }
        if !self.ids.is_empty() {
            write!(f, " ({})", self.ids)?;
        }
        Ok(())
    }
}

/// What a 404 was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    ScaleSet,
    Agent,
    RunnerGroup,
    /// The organization, repository or enterprise, or a right to see it.
    Scope,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ScaleSet => "the scale set does not exist (any more)",
            Self::Agent => "the runner is not registered (any more)",
            Self::RunnerGroup => "the runner group does not exist here; create it, or mend github.runnerGroup",
            Self::Scope => "configUrl names nothing that this credential may manage",
        })
    }
}

/// Why a call failed. Clones are cheap enough to hand one failure to all who waited for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Make it anew, or give up on it.
    #[error("{what}: {details}")]
    NotFound { what: Missing, details: Box<Details> },
    /// The service does not know this session any more: open a new one.
    #[error("the session is lost: {0}")]
    SessionLost(Box<Details>),
    /// Somebody holds the scale set's one session: wait with jitter, or close it by its id.
    #[error("another session is open, held by {}: {details}", holder.as_deref().unwrap_or("somebody unnamed"))]
    Conflict {
        holder: Option<String>,
        details: Box<Details>,
    },
    /// The runner's name is taken: look it up by name, remove it, use a new name.
    #[error("the runner's name is taken: {0}")]
    AgentExists(Box<Details>),
    /// A scale set of that name exists: look again.
    #[error("the scale set exists: {0}")]
    ScaleSetExists(Box<Details>),
    /// The runner executes a job: leave it and its pod alone.
    #[error("the runner is busy: {0}")]
    JobStillRunning(Box<Details>),
    /// The queue token was refused: refresh the session and repeat once.
    #[error("the queue token was refused: {0}")]
    QueueTokenRefused(Box<Details>),
    /// Fresh credentials were refused too: somebody must mend them.
    #[error("GitHub refuses the credential: {0}")]
    Unauthorized(Box<Details>),
    /// The credential lacks a right.
    #[error("GitHub forbids it; check the App's or token's permissions: {0}")]
    Forbidden(Box<Details>),
    /// Asked to slow down.
    #[error("GitHub limits the rate: {details}")]
    RateLimited {
        retry_after: Option<Duration>,
        details: Box<Details>,
    },
    /// GitHub calls our request wrong: repeating it cannot help.
    #[error("GitHub refused: {0}")]
    Invalid(Box<Details>),
    /// GitHub is ill: whether the call had its effect is unknown.
    #[error("GitHub failed: {details}")]
    Server {
        retry_after: Option<Duration>,
        details: Box<Details>,
    },
    /// No answer.
    #[error("{operation}: {error}")]
    Transport {
        operation: &'static str,
        error: TransportError,
    },
    /// The answer cannot be read.
    #[error("cannot read GitHub's answer: {0}")]
    Decode(Box<Details>),
    /// No token to call with.
    #[error("no GitHub credential: {0}")]
    Credential(#[from] TokenError),
}

impl Error {
    /// The id of our set is another set's by now, which has this name.
    pub fn set_is_anothers(id: i64, name: &str) -> Self {
        let details = Details {
            operation: "open session",
            status: StatusCode::OK.as_u16(),
            type_name: None,
            message: format!("GitHub calls the scale set {id} {:?}", redact(name)),
            ids: String::new(),
        };
        not_found(Missing::ScaleSet, Box::new(details))
    }

    /// Whether the same call may succeed later with nobody's help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::RateLimited { .. } | Self::Server { .. } | Self::Transport { .. } | Self::Decode(_) => true,
            Self::Credential(error) => error.is_transient(),
            _ => false,
        }
    }

    /// Whether GitHub may have done what was asked.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::Server { .. } | Self::Decode(_) => true,
            Self::Transport { error, .. } => error.outcome_unknown(),
            _ => false,
        }
    }

    /// How long GitHub asks us to wait, if it does.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RateLimited { retry_after, .. } | Self::Server { retry_after, .. } => *retry_after,
            Self::Credential(error) => error.retry_after(),
            _ => None,
        }
    }

    /// The same error some time later, when so much of the wait is left.
    #[must_use]
    pub(super) fn with_wait(mut self, left: Duration) -> Self {
        match &mut self {
            Self::RateLimited { retry_after, .. } | Self::Server { retry_after, .. } if retry_after.is_some() => {
                *retry_after = Some(left);
            }
            Self::Credential(TokenError::Limited { wait, .. }) => *wait = left,
            _ => {}
        }
        self
    }

    /// GitHub's answer, if there was one.
    pub fn details(&self) -> Option<&Details> {
        match self {
            Self::NotFound { details, .. }
            | Self::Conflict { details, .. }
            | Self::RateLimited { details, .. }
            | Self::Server { details, .. }
            | Self::SessionLost(details)
            | Self::AgentExists(details)
            | Self::ScaleSetExists(details)
            | Self::JobStillRunning(details)
            | Self::QueueTokenRefused(details)
            | Self::Unauthorized(details)
            | Self::Forbidden(details)
            | Self::Invalid(details)
            | Self::Decode(details) => Some(details),
            Self::Transport { .. } | Self::Credential(_) => None,
        }
    }
}

/// What a call is about: decides what its bare status codes mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    Rest,
    RunnerGroup,
    ScaleSet,
    Agent,
    /// Opening one: 404 means the scale set is gone.
    NewSession,
    Session,
    /// A call that shows the queue token.
    Queue,
}

#[derive(Default, Deserialize)]
struct Body {
    #[serde(default, rename = "typeName")]
    type_name: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default, rename = "ownerName")]
    owner_name: Option<String>,
}

/// An answer that is no success.
pub(super) fn classify(operation: &'static str, about: About, response: &Response, now: Timestamp) -> Error {
    let status = response.status();
    let text = String::from_utf8_lossy(trimmed(response.body()));
    let body: Body = serde_json::from_str(&text).unwrap_or_default();
    let details = Box::new(Details {
        operation,
        status: status.as_u16(),
        type_name: body.type_name.as_deref().map(redact),
        message: redact(body.message.as_deref().unwrap_or(&text)),
        ids: request_ids(response.headers()),
    });
    if let Some(error) = by_type_name(body.type_name.as_deref().unwrap_or_default(), &details) {
        return error;
    }
    if let Some(limit) = rate_limit(response, now) {
        return Error::RateLimited {
            retry_after: limit.wait,
            details,
        };
    }
    let gone = matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE);
    // The service says nothing, or an object.
    let page = !text.trim().is_empty() && serde_json::from_str::<serde_json::Map<_, serde_json::Value>>(&text).is_err();
    match status {
        // A web page, or a line of text, from something in between: it proves neither that a runner is gone nor that its set is.
        _ if gone && page && !matches!(about, About::Rest | About::Queue | About::Session) => Error::Server {
            retry_after: None,
            details,
        },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if about == About::Queue => Error::QueueTokenRefused(details),
        StatusCode::UNAUTHORIZED => Error::Unauthorized(details),
        StatusCode::FORBIDDEN => Error::Forbidden(details),
        StatusCode::NOT_FOUND | StatusCode::GONE => match about {
            About::Session | About::Queue => Error::SessionLost(details),
            About::Rest => not_found(Missing::Scope, details),
            About::RunnerGroup => not_found(Missing::RunnerGroup, details),
            About::Agent => not_found(Missing::Agent, details),
            About::ScaleSet | About::NewSession => not_found(Missing::ScaleSet, details),
        },
        StatusCode::CONFLICT => match about {
            About::NewSession => Error::Conflict {
                holder: body
                    .owner_name
                    .as_deref()
                    .map(redact)
                    .or_else(|| holder(&details.message)),
                details,
            },
            About::Agent => Error::AgentExists(details),
            About::ScaleSet => Error::ScaleSetExists(details),
            _ => Error::Invalid(details),
        },
        // 408: the service gave up on reading us. 3xx: no redirect is followed, and none is expected.
        s if s.is_client_error() && s != StatusCode::REQUEST_TIMEOUT => Error::Invalid(details),
        _ => Error::Server {
            retry_after: retry_after(response.headers(), now),
            details,
        },
    }
}

/// The exceptions worth telling apart, whatever their status.
fn by_type_name(type_name: &str, details: &Details) -> Option<Error> {
    let details = || Box::new(details.clone());
    let has = |name: &str| type_name.contains(name);
    if has("AgentExistsException") {
        Some(Error::AgentExists(details()))
    } else if has("AgentNotFoundException") {
        Some(not_found(Missing::Agent, details()))
    } else if has("JobStillRunningException") {
        Some(Error::JobStillRunning(details()))
    } else if has("RunnerScaleSetExistsException") {
        Some(Error::ScaleSetExists(details()))
    } else if has("RunnerScaleSetNotFoundException") {
        Some(not_found(Missing::ScaleSet, details()))
    } else {
        None
    }
}

fn not_found(what: Missing, details: Box<Details>) -> Error {
    Error::NotFound { what, details }
}

/// `... already has an active session for owner NAME.`
fn holder(message: &str) -> Option<String> {
    let after = &message[message.rfind("owner")? + "owner".len()..];
    let name = after
        .trim_start_matches([' ', ':', '\'', '"'])
        .split([' ', '\'', '"', ',', ';'])
        .next()?
        .trim_end_matches('.');
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Response {
        let mut builder = http::Response::builder().status(status);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(body.to_owned().into()).unwrap()
    }

    fn verdict(about: About, status: u16, headers: &[(&str, &str)], body: &str) -> Error {
        classify("a call", about, &answer(status, headers, body), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn b26_exceptions_are_known_by_name_whatever_the_status() {
        let body = |name: &str| format!(r#"{{"typeName":"GitHub.X.{name}, GitHub.X","message":"m"}}"#);
        for status in [400, 404, 409, 500] {
            let of = |name| verdict(About::Agent, status, &[], &body(name));
            assert!(matches!(of("AgentExistsException"), Error::AgentExists(_)));
            assert!(matches!(of("JobStillRunningException"), Error::JobStillRunning(_)));
            assert!(matches!(of("RunnerScaleSetExistsException"), Error::ScaleSetExists(_)));
            assert!(matches!(
                of("AgentNotFoundException"),
                Error::NotFound {
                    what: Missing::Agent,
                    ..
                }
            ));
            assert!(matches!(
                of("RunnerScaleSetNotFoundException"),
                Error::NotFound {
                    what: Missing::ScaleSet,
                    ..
                }
            ));
        }
    }

    #[test]
    fn b01_a_conflict_says_who_holds_the_session() {
        for (body, expected) in [
            (
                r#"{"message":"The scale set 'x' already has an active session for owner 'runner-7'."}"#,
                Some("runner-7"),
            ),
            ("There is a session of owner: abc.", Some("abc")),
            (r#"{"ownerName":"other","message":"conflict"}"#, Some("other")),
            ("conflict", None),
        ] {
            let Error::Conflict { holder, .. } = verdict(About::NewSession, 409, &[], body) else {
                panic!("{body}");
            };
            assert_eq!(holder.as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn b27_the_text_carries_operation_and_both_ids() {
        let ids = [("activityid", "act-1"), ("x-github-request-id", "REQ:2")];
        for status in [400, 401, 403, 404, 409, 410, 429, 500, 503] {
            for about in [
                About::Rest,
                About::ScaleSet,
                About::Agent,
                About::NewSession,
                About::Session,
                About::Queue,
            ] {
                let text = verdict(about, status, &ids, "ill").to_string();
                for part in ["a call", "ActivityId act-1", "X-GitHub-Request-Id REQ:2", "ill"] {
                    assert!(text.contains(part), "{about:?} {status}: {text}");
                }
            }
        }
    }

    #[test]
    fn b02_the_queue_has_its_own_meanings() {
        assert!(matches!(
            verdict(About::Queue, 401, &[], ""),
            Error::QueueTokenRefused(_)
        ));
        assert!(matches!(
            verdict(About::Queue, 403, &[], ""),
            Error::QueueTokenRefused(_)
        ));
        assert!(matches!(verdict(About::Queue, 404, &[], ""), Error::SessionLost(_)));
        assert!(matches!(verdict(About::Queue, 410, &[], ""), Error::SessionLost(_)));
        assert!(matches!(verdict(About::Session, 404, &[], ""), Error::SessionLost(_)));
    }

    #[test]
    fn limits_are_told_from_missing_rights() {
        let secondary = r#"{"message":"You have exceeded a secondary rate limit."}"#;
        for (status, headers, body) in [
            (429, vec![], ""),
            (403, vec![("retry-after", "9")], ""),
            (403, vec![("x-ratelimit-remaining", "0")], ""),
            (403, vec![], secondary),
        ] {
            assert!(matches!(
                verdict(About::Rest, status, &headers, body),
                Error::RateLimited { .. }
            ));
        }
        assert!(matches!(verdict(About::Rest, 403, &[], "no"), Error::Forbidden(_)));
        let limited = verdict(About::Queue, 429, &[("retry-after", "9")], "");
        assert_eq!(limited.retry_after(), Some(Duration::from_secs(9)));
    }

    #[test]
    fn every_status_has_one_verdict() {
        let mut lines = Vec::new();
        for about in [
            About::Rest,
            About::RunnerGroup,
            About::ScaleSet,
            About::Agent,
            About::NewSession,
            About::Session,
            About::Queue,
        ] {
            for status in [
                302, 400, 401, 403, 404, 405, 408, 409, 410, 422, 429, 500, 502, 503, 504,
            ] {
                let error = verdict(about, status, &[], "");
                let kind = format!("{error:?}");
                let kind = kind.split([' ', '(']).next().unwrap().to_owned();
                lines.push(format!(
                    "{about:?} {status} {kind}{}{}",
                    if error.is_transient() { " transient" } else { "" },
                    if error.outcome_unknown() { " unknown" } else { "" }
                ));
            }
        }
        insta::assert_snapshot!(lines.join("\n"));
    }
}
