//! The transport seam: everything that the daemon says over HTTP to GitHub, GHARTS and OIDC providers goes
//! through [`Transport`] (Kubernetes has `kube::Client`, itself a seam over any tower service).
//!
//! Two real things stand behind the trait: [`reqwest_transport`] in production, and the simulator's
//! in-memory routers under virtual time. Bodies are whole: no answer of these peers is streamed.
//! Deadlines are the caller's, through [`send`]; redirects are never followed.

mod answer;
mod exchangeable;
mod rate_limit;
mod redact;
mod reqwest_transport;
pub mod retry;

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;

pub use answer::{date, request_ids, retry_after, trimmed};
pub use exchangeable::Exchangeable;
pub use rate_limit::{RateLimit, rate_limit};
pub use redact::redact;
pub use reqwest_transport::{IDLE_BRIEF, IDLE_LONG, TransportBuildError, reqwest_transport};

pub use crate::config::{InsecureUrl, check_url};

pub type Request = http::Request<Bytes>;
pub type Response = http::Response<Bytes>;

/// Carries one request to its peer and brings the whole answer back.
pub trait Transport: Send + Sync + fmt::Debug {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>>;
}

pub type SharedTransport = Arc<dyn Transport>;

/// No answer came. The texts never hold credentials or query strings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The peer was never reached, so the request has had no effect.
    #[error("cannot connect to {peer}: {reason}")]
    Connect { peer: String, reason: String },
    /// The connection broke, or the answer was cut: whether the request had its effect is unknown.
    #[error("connection to {peer} was lost: {reason}")]
    Lost { peer: String, reason: String },
    /// No answer within the deadline: whether the request had its effect is unknown.
    #[error("no answer from {peer} within {} s", deadline.as_secs())]
    Timeout { peer: String, deadline: Duration },
}

impl TransportError {
    /// Whether the peer may have acted on the request.
    pub fn outcome_unknown(&self) -> bool {
        !matches!(self, Self::Connect { .. })
    }
}

/// `host:port` of a request, for messages: never path or query, which may hold secrets.
pub fn peer(request: &Request) -> String {
    request.uri().authority().map_or_else(
        || "?".to_owned(),
        |a| a.host().to_owned() + &a.port().map_or_else(String::new, |p| format!(":{p}")),
    )
}

/// Sends under a deadline that follows tokio's clock.
pub async fn send(transport: &dyn Transport, request: Request, deadline: Duration) -> Result<Response, TransportError> {
    let peer = peer(&request);
    match tokio::time::timeout(deadline, transport.send(request)).await {
        Ok(result) => result,
        Err(_) => Err(TransportError::Timeout { peer, deadline }),
    }
}
