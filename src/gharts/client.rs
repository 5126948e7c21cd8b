//! One call each to GHARTS.
//!
//! The only call repeated here is one that a 401 refused: the token is renewed once and the same request is
//! sent again, under the same name, since nothing happened. Every other repetition is the loop's decision,
//! because a JIT request whose outcome is unknown must not be repeated under its name. Where the 401 speaks
//! of an ill issuer or a skewed clock, the token is good and is kept.
//!
//! It neither paces nor counts: whoever calls has passed the gate.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, StatusCode, header};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{
    Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use url::Url;

use super::{
    classify::{Answer, Operation, Trouble, Verdict, classify},
    wire::{
        JitAnswer, JitRequest, Me, Page, RegistrationAnswer, RegistrationRequest, Runner, SCALE_SET_FIELD, TeamDetails,
        TeamList,
    },
};
use crate::{
    clock::Clock,
    http::{Request, Response, SharedTransport, TransportError, date, retry_after, send},
    identity::{Cached, TokenError},
};

/// The largest page that every version accepts.
const PAGE: usize = 200;
/// Where the older version hands out registration tokens.
const PROVISION: &str = "/api/v1/runners/provision";
/// A call that fails after so long has not met an ill peer of the service's, whose worst case it is: it stood in line
/// while nothing moved.
const STALLED: Duration = Duration::from_secs(30);
/// No list is longer: more than this is a server that does not end its list.
const PAGES_MAX: usize = 100;

/// Why a call came to nothing. `message` is fit for logs and status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub trouble: Trouble,
    pub status: Option<u16>,
    /// The server's own error code.
    pub code: Option<String>,
    pub message: String,
    pub retry_after: Option<Duration>,
}

impl Failure {
    fn new(trouble: Trouble, message: String) -> Self {
        Self {
            trouble,
            status: None,
            code: None,
            message,
            retry_after: None,
        }
    }
}

/// What became of a deletion that was answered properly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// It was there; GHARTS has removed it at GitHub too.
    Removed,
    /// There was no such record any more, or it is not ours.
    Gone,
    /// GitHub refused: the runner executes a job.
    Busy,
}

/// What a server says of its own API; `None`: it does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Description {
    pub binds_to_scale_sets: Option<bool>,
    pub hands_out_registration_tokens: Option<bool>,
}

/// One GHARTS, spoken to with one identity.
#[derive(Debug)]
pub struct Client {
    transport: SharedTransport,
    clock: Clock,
    base: String,
    token: Arc<Cached>,
    timeout: Duration,
}

impl Client {
    /// `timeout` must be longer than the server's own worst case, 30 s: a call given up early leaks a runner.
    pub fn new(
        transport: SharedTransport,
        clock: Clock,
        base_url: &Url,
        token: Arc<Cached>,
        timeout: Duration,
    ) -> Self {
        Self {
            transport,
            clock,
            base: base_url.as_str().trim_end_matches('/').to_owned(),
            token,
            timeout,
        }
    }

    /// Where this GHARTS is, for messages.
    pub fn base_url(&self) -> &str {
        &self.base
    }

    /// Who we are there; also the cheapest check of the credentials.
    pub async fn me(&self) -> Result<Me, Failure> {
        let body = self.read("/api/v1/auth/me").await?;
        decode(&body)
    }

    /// Teams that we are a member of, deactivated ones too; only the versions with teams have this.
    pub async fn teams(&self) -> Result<Vec<TeamDetails>, Failure> {
        let body = self.read("/api/v1/admin/teams").await?;
        Ok(decode::<TeamList>(&body)?.teams)
    }

    /// Registers a runner. A 201 that cannot be decoded is given back at once, where it names its record.
    pub async fn jit(&self, request: &JitRequest) -> Result<JitAnswer, Failure> {
        let (parts, mut answer) = self
            .register::<JitAnswer>(Operation::Jit, "/api/v1/runners/jit", request, &request.runner_name)
            .await?;
        answer.status = parts.status.as_u16();
        Ok(answer)
    }

    /// Has a registration token of GitHub's handed out. Only the older version does it.
    pub async fn provision(&self, request: &RegistrationRequest) -> Result<RegistrationAnswer, Failure> {
        let (parts, mut answer) = self
            .register::<RegistrationAnswer>(Operation::Provision, PROVISION, request, &request.runner_name)
            .await?;
        answer.status = parts.status.as_u16();
        answer.sent = date(&parts.headers);
        Ok(answer)
    }

    async fn register<T: DeserializeOwned>(
        &self,
        operation: Operation,
        path: &str,
        request: &(impl Serialize + Sync),
        runner: &str,
    ) -> Result<(http::response::Parts, T), Failure> {
        let body = serde_json::to_vec(request)
            .map_err(|e| Failure::new(Trouble::InvalidRequest, format!("request cannot be encoded: {e}")))?;
        let (_, response) = self.authorized(operation, Method::POST, path, body.into()).await?;
        let (parts, body) = response.into_parts();
        match decode::<T>(&body) {
            Ok(decoded) => Ok((parts, decoded)),
            Err(mut failure) => {
                failure.trouble = Trouble::UnknownOutcome;
                if let Some(id) = record_id(&body) {
                    let outcome = self.delete(&id).await;
                    tracing::warn!(
                        runner,
                        gharts_runner_id = id,
                        ?outcome,
                        "undecodable answer: its record was given back"
                    );
                }
                Err(failure)
            }
        }
    }

    /// Takes a record back, and with it the runner at GitHub. Safe to repeat.
    pub async fn delete(&self, runner_id: &str) -> Result<Deleted, Failure> {
        let path = format!("/api/v1/runners/{}", segment(runner_id));
        let (verdict, response) = self
            .authorized(Operation::Delete, Method::DELETE, &path, Bytes::new())
            .await?;
        if verdict == Verdict::Done && !response.body().is_empty() {
            // What a proxy says in between proves no removal.
            decode::<IgnoredAny>(response.body()).map_err(|failure| Failure {
                trouble: Trouble::UnknownOutcome,
                ..failure
            })?;
        }
        Ok(match verdict {
            Verdict::Gone => Deleted::Gone,
            Verdict::Busy => Deleted::Busy,
            Verdict::Done | Verdict::Failed(_) => Deleted::Removed,
        })
    }

    /// Every record that this identity may see, newest first; deleted ones are left out.
    pub async fn list(&self) -> Result<Vec<Runner>, Failure> {
        let mut all = Vec::new();
        self.pages(|runner| {
            all.push(runner);
            true
        })
        .await?;
        Ok(all)
    }

    /// The living record of this exact name, by paging through the list: there is no filter by name.
    pub async fn find_by_name(&self, name: &str) -> Result<Option<Runner>, Failure> {
        let mut found = None;
        self.pages(|runner| {
            if runner.runner_name == name {
                found = Some(runner);
            }
            found.is_none()
        })
        .await?;
        Ok(found)
    }

    /// What the server's own description of its API says; nothing where there is no such description to be had
    /// (ingresses answer with a web page).
    pub async fn description(&self) -> Description {
        self.read_description().await.unwrap_or_default()
    }

    async fn read_description(&self) -> Option<Description> {
        let request = self.request(&Method::GET, "/openapi.json", Bytes::new(), None).ok()?;
        let response = send(self.transport.as_ref(), request, self.timeout).await.ok()?;
        if classify(
            Operation::Read,
            response.status().as_u16(),
            content_type(&response),
            response.body(),
        )
        .verdict
            != Verdict::Done
        {
            return None;
        }
        let document: serde_json::Value = serde_json::from_slice(response.body()).ok()?;
        let field = format!("/properties/{SCALE_SET_FIELD}");
        let schemas = document
            .pointer("/components/schemas")
            .and_then(|found| found.as_object());
        let paths = document.get("paths").and_then(|found| found.as_object());
        Some(Description {
            binds_to_scale_sets: schemas.map(|all| all.values().any(|schema| schema.pointer(&field).is_some())),
            hands_out_registration_tokens: paths.map(|all| all.contains_key(PROVISION)),
        })
    }

    /// Pages through the list until `take` says false. Records that vanish meanwhile shift the rest towards
    /// the front, past us: where the total shrank, the gap before the page just read is read too.
    async fn pages(&self, mut take: impl FnMut(Runner) -> bool) -> Result<(), Failure> {
        let mut seen = BTreeSet::new();
        let mut offset = 0;
        let mut last_total: Option<usize> = None;
        for _ in 0..PAGES_MAX {
            let body = self
                .read(&format!("/api/v1/runners?limit={PAGE}&offset={offset}"))
                .await?;
            let (runners, total) = match decode::<Page>(&body)? {
                Page::Counted { runners, total } => (runners, total),
                // A server that counts nothing knows no offsets either.
                Page::Bare(runners) => {
                    let all = runners.len();
                    (runners, Some(all))
                }
            };
            let received = runners.len();
            for value in runners {
                let runner: Runner = match serde_json::from_value(value) {
                    Ok(runner) => runner,
                    Err(error) => {
                        tracing::warn!(%error, "a record in the list of GHARTS cannot be read; left out");
                        continue;
                    }
                };
                if !runner.is_deleted() && seen.insert(runner.runner_id.clone()) && !take(runner) {
                    return Ok(());
                }
            }
            let shrunk = match (last_total, total) {
                (Some(before), Some(now)) => before.saturating_sub(now).min(offset),
                _ => 0,
            };
            last_total = total.or(last_total);
            if shrunk > 0 {
                offset -= shrunk;
                continue;
            }
            offset += received;
            if received == 0 || total.is_some_and(|total| offset >= total) {
                return Ok(());
            }
        }
        Err(Failure::new(
            Trouble::Upstream,
            format!("the list of runners did not end after {PAGES_MAX} pages"),
        ))
    }

    async fn read(&self, path: &str) -> Result<Bytes, Failure> {
        match self
            .authorized(Operation::Read, Method::GET, path, Bytes::new())
            .await?
        {
            (Verdict::Done, response) => Ok(response.into_body()),
            _ => Err(Failure::new(
                Trouble::Configuration,
                format!("GHARTS has nothing at {path}"),
            )),
        }
    }

    /// Sends with the token; after a 401 that blames the token, once more with a new one.
    async fn authorized(
        &self,
        operation: Operation,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(Verdict, Response), Failure> {
        let mut renewed = false;
        loop {
            let token = self.token.get().await.map_err(no_token)?;
            let request = self.request(&method, path, body.clone(), Some(&token))?;
            let began = self.clock.instant();
            let response = send(self.transport.as_ref(), request, self.timeout)
                .await
                .map_err(|e| no_answer(&e))?;
            let took = self.clock.instant().duration_since(began);
            let status = response.status().as_u16();
            let Answer { verdict, code, message } =
                classify(operation, status, content_type(&response), response.body());
            let Verdict::Failed(trouble) = verdict else {
                return Ok((verdict, response));
            };
            if trouble == Trouble::Credentials && !renewed && self.token.refused(&token) {
                tracing::info!(status, message, "token refused; trying another");
                renewed = true;
                continue;
            }
            let trouble = match trouble {
                Trouble::UnknownOutcome | Trouble::Upstream | Trouble::IssuerDown if took >= STALLED => {
                    Trouble::Stalled
                }
                trouble => trouble,
            };
            return Err(Failure {
                trouble,
                status: Some(status),
                code,
                message,
                retry_after: retry_after(response.headers(), self.clock.now()),
            });
        }
    }

    fn request(
        &self,
        method: &Method,
        path: &str,
        body: Bytes,
        token: Option<&SecretString>,
    ) -> Result<Request, Failure> {
        let mut builder = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header(header::ACCEPT, "application/json");
        if !body.is_empty() {
            builder = builder.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(token) = token {
            let mut value =
                header::HeaderValue::try_from(format!("Bearer {}", token.expose_secret())).map_err(|_| {
                    Failure::new(
                        Trouble::Credentials,
                        format!(
                            "{}: the token holds characters that no header can carry",
                            self.token.describe()
                        ),
                    )
                })?;
            value.set_sensitive(true);
            builder = builder.header(header::AUTHORIZATION, value);
        }
        builder.body(body).map_err(|e| {
            Failure::new(
                Trouble::Configuration,
                format!("gharts.baseUrl makes no valid address: {e}"),
            )
        })
    }
}

fn content_type(response: &Response) -> Option<&str> {
    response.headers().get(header::CONTENT_TYPE)?.to_str().ok()
}

/// Decodes a body whose content type is right. The error names the place, never a value.
fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| Failure {
        status: Some(StatusCode::OK.as_u16()),
        ..Failure::new(
            Trouble::Configuration,
            format!(
                "GHARTS' answer cannot be read ({:?} error at line {}, column {}): is this a version that this daemon knows?",
                error.classify(),
                error.line(),
                error.column()
            ),
        )
    })
}

fn record_id(body: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    value.get("runner_id")?.as_str().map(str::to_owned)
}

/// An id as one path segment, whatever is in it.
fn segment(id: &str) -> String {
    let escaped: String = url::form_urlencoded::byte_serialize(id.as_bytes()).collect();
    escaped.replace('+', "%20")
}

fn no_token(error: TokenError) -> Failure {
    match error {
        TokenError::Refused { message } | TokenError::Denied { message, .. } => {
            Failure::new(Trouble::Credentials, message)
        }
        TokenError::Unavailable { message } | TokenError::Limited { message, .. } => {
            Failure::new(Trouble::IssuerDown, message)
        }
    }
}

fn no_answer(error: &TransportError) -> Failure {
    let trouble = match error {
        TransportError::Timeout { .. } => Trouble::Stalled,
        error if error.outcome_unknown() => Trouble::UnknownOutcome,
        _ => Trouble::Unreachable,
    };
    Failure::new(trouble, format!("GHARTS: {error}"))
}

#[cfg(test)]
mod tests;
