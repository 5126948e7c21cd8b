//! One connection per credential, shared by all scale sets of its scope.
//!
//! The chain has three hops: REST token -> registration token -> admin connection (the Actions service's
//! address and a JWT for it). Only the last is held here; it is renewed ahead of its end by one flight,
//! while everybody else goes on with the old one, and once when a call meets 401. That flight's lock is the
//! only one held across a network call. A failed flight's error is shared for a few seconds, so that
//! hundreds of waiting scale sets do not repeat it one after the other.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use jiff::Timestamp;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::{Value, json};
use tokio::time::Instant;
use url::Url;

use super::error::{About, Details, Error, classify};
use crate::{
    clock::Clock,
    config::{ConfigUrl, Retry, Scope},
    http::{
        self as transport, Request, Response, SharedTransport, TransportError, request_ids,
        retry::{Verdict, with_backoff},
        trimmed,
    },
    identity::Cached,
};

/// For every call but the long poll.
pub const CALL_DEADLINE: Duration = Duration::from_secs(30);
/// Renewal comes this long before the JWT's end: a tenth of its life, within these bounds. (At half its life where
/// registration tokens are handed out.)
const RENEW_AHEAD_LEAST: Duration = Duration::from_secs(60);
const RENEW_AHEAD_MOST: Duration = Duration::from_secs(300);
/// A renewal ahead of time may take so long; then the old connection serves, and the next try comes later.
const RENEWAL_GRACE: Duration = Duration::from_secs(10);
/// And it comes after so long, however long the JWT lives.
const LIFE_MOST: Duration = Duration::from_hours(24);
/// Assumed where the JWT does not tell, or tells a time that is over by our clock.
const UNKNOWN_LIFE: Duration = Duration::from_secs(300);
/// How long one failed renewal answers for all who ask; longer where only an operator can mend the cause.
const FAILURE_SHARED: Duration = Duration::from_secs(5);
const REFUSAL_SHARED: Duration = Duration::from_secs(30);
/// A connection that was refused from the first is replaced again after so long: the next one would be refused, too, and
/// hundreds of scale sets would ask GitHub for one each.
const YOUNG: Duration = FAILURE_SHARED;
/// The service may have moved: where it is, is asked anew after so many calls in a row that it did not answer, but not
/// more often than this.
const UNANSWERED: u32 = 5;
const ASKED_ANEW: Duration = Duration::from_secs(60);
/// A fresh registration token is not visible everywhere at once.
const ADMIN_RETRY: Retry = Retry {
    max_retries: 4,
    initial_backoff: Duration::from_secs(1),
    max_backoff: Duration::from_secs(8),
    multiplier: 2.0,
};
const API_VERSION: &str = "6.0-preview";

/// What the chain begins with.
#[derive(Clone, Debug)]
pub enum Authority {
    /// A GitHub App's or a person's token: asks GitHub for registration tokens.
    Rest(Arc<Cached>),
    /// Somebody hands out registration tokens; no GitHub credential is held here.
    Registration(Arc<Cached>),
}

/// See the module's text. Cheap calls, all `&self`, all side by side.
pub struct Connection {
    transport: SharedTransport,
    clock: Clock,
    config_url: ConfigUrl,
    authority: Authority,
    rng: Mutex<fastrand::Rng>,
    held: Mutex<Option<Arc<Admin>>>,
    renewal: tokio::sync::Mutex<Option<Failure>>,
    /// The Actions service limits this credential.
    limit: Mutex<Option<Failure>>,
}

/// The Actions service as one JWT opens it.
struct Admin {
    url: Url,
    token: SecretString,
    made_at: Instant,
    renew_at: Instant,
    dies_at: Instant,
    /// Calls in a row that were not answered, or with a redirect.
    unanswered: AtomicU32,
    /// It took the place of one that the service refused, and was refused at once.
    in_vain: AtomicBool,
}

/// A call that failed, and until when it speaks for the next.
struct Failure {
    until: Instant,
    error: Error,
}

impl Failure {
    /// The error, as it stands at `now`; `None`: its time is over.
    fn speaks(&self, now: Instant) -> Option<Error> {
        let left = self.until.checked_duration_since(now).filter(|left| !left.is_zero())?;
        Some(self.error.clone().with_wait(left))
    }
}

/// One call to the Actions service.
pub(super) struct Call<'a> {
    pub(super) operation: &'static str,
    pub(super) about: About,
    pub(super) method: Method,
    /// Relative to the service's base, escaped.
    pub(super) path: String,
    /// Values are escaped here.
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) body: Option<Value>,
    /// For the user agent.
    pub(super) set: Option<i64>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("config_url", &self.config_url)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// `seed` is for the jitter of repetitions.
    pub fn new(
        transport: SharedTransport,
        clock: Clock,
        config_url: ConfigUrl,
        authority: Authority,
        seed: u64,
    ) -> Self {
        Self {
            transport,
            clock,
            config_url,
            authority,
            rng: Mutex::new(fastrand::Rng::with_seed(seed)),
            held: Mutex::new(None),
            renewal: tokio::sync::Mutex::new(None),
            limit: Mutex::new(None),
        }
    }

    /// The scope that this connection serves.
    pub fn config_url(&self) -> &ConfigUrl {
        &self.config_url
    }

    /// The credential has changed: what was refused to the old one says nothing about the new.
    pub fn reconsider(&self) {
        // Whoever renews it now finds out by himself.
        if let Ok(mut failure) = self.renewal.try_lock() {
            *failure = None;
        }
    }

    pub(super) fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Calls the Actions service; a 401 renews the admin connection and repeats once. Success is any 2xx.
    ///
    /// A limit that tells its time is the credential's: until it is over nobody calls, and all get the same error.
    /// Only sessions are closed all the same, since an open one blocks its scale set.
    pub(super) async fn call(&self, call: Call<'_>) -> Result<Response, Error> {
        let closes = call.about == About::Session && call.method == Method::DELETE;
        if let Some(limited) = self.limited().filter(|_| !closes) {
            return Err(limited);
        }
        let answer = self.call_once_authorized(call).await;
        if let Err(
            error @ Error::RateLimited {
                retry_after: Some(told),
                ..
            },
        ) = &answer
        {
            tracing::warn!(scope = %self.config_url.url, %error, seconds = told.as_secs(), "GitHub asks to slow down");
            *self.limit() = Some(Failure {
                until: self.clock.instant() + *told,
                error: error.clone(),
            });
        }
        answer
    }

    fn limited(&self) -> Option<Error> {
        self.limit().as_ref()?.speaks(self.clock.instant())
    }

    fn limit(&self) -> MutexGuard<'_, Option<Failure>> {
        self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn call_once_authorized(&self, call: Call<'_>) -> Result<Response, Error> {
        let admin = self.admin().await?;
        let response = self.call_as(&call, &admin, &admin.token).await?;
        let may_help = || !admin.in_vain.load(Ordering::Relaxed) || self.is_older(&admin, YOUNG);
        let response = if response.status() == StatusCode::UNAUTHORIZED && may_help() {
            self.forget(&admin);
            let fresh = self.admin().await?;
            let again = self.call_as(&call, &fresh, &fresh.token).await?;
            if again.status() == StatusCode::UNAUTHORIZED {
                fresh.in_vain.store(true, Ordering::Relaxed);
            }
            again
        } else {
            response
        };
        self.successful(call.operation, call.about, response)
    }

    /// The same with another token than the admin connection's; a 401 is the caller's affair.
    pub(super) async fn call_with_token(&self, call: Call<'_>, token: &SecretString) -> Result<Response, Error> {
        let admin = self.admin().await?;
        let response = self.call_as(&call, &admin, token).await?;
        self.successful(call.operation, call.about, response)
    }

    async fn call_as(&self, call: &Call<'_>, admin: &Arc<Admin>, token: &SecretString) -> Result<Response, Error> {
        let url = service_url(&admin.url, &call.path, call.query);
        let body = call.body.as_ref().map(|b| Bytes::from(b.to_string()));
        let request = http::Request::builder()
            .method(call.method.clone())
            .uri(url.as_str())
            .header(header::AUTHORIZATION, bearer("Bearer", token))
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, user_agent(call.set))
            .body(body.unwrap_or_default());
        let answer = self.send(call.operation, request, CALL_DEADLINE).await;
        if answer.as_ref().is_ok_and(|answer| !answer.status().is_redirection()) {
            admin.unanswered.store(0, Ordering::Relaxed);
        } else if admin.unanswered.fetch_add(1, Ordering::Relaxed) + 1 >= UNANSWERED && self.is_older(admin, ASKED_ANEW)
        {
            self.forget(admin);
        }
        answer
    }

    pub(super) async fn send(
        &self,
        operation: &'static str,
        request: http::Result<Request>,
        deadline: Duration,
    ) -> Result<Response, Error> {
        let request = request.map_err(|e| Error::Transport {
            operation,
            error: TransportError::Connect {
                peer: "?".to_owned(),
                reason: e.to_string(),
            },
        })?;
        let response = transport::send(&*self.transport, request, deadline)
            .await
            .map_err(|error| Error::Transport { operation, error })?;
        tracing::debug!(
            operation,
            status = response.status().as_u16(),
            ids = request_ids(response.headers()),
            "GitHub answered"
        );
        Ok(response)
    }

    /// Also an answer of which nothing is read must be GitHub's own: what a proxy says in between proves no removal.
    pub(super) fn successful(
        &self,
        operation: &'static str,
        about: About,
        answer: Response,
    ) -> Result<Response, Error> {
        if !answer.status().is_success() {
            return Err(classify(operation, about, &answer, self.clock.now()));
        }
        if !trimmed(answer.body()).is_empty() {
            decode::<IgnoredAny>(operation, &answer)?;
        }
        Ok(answer)
    }

    /// The admin connection, renewed when due.
    async fn admin(&self) -> Result<Arc<Admin>, Error> {
        let held = self.held().clone();
        let now = self.clock.instant();
        match held {
            Some(admin) if now < admin.renew_at => Ok(admin),
            // Due, but good still: one renews, the others go on, and a failure changes nothing yet.
            Some(admin) if now < admin.dies_at => match self.renewal.try_lock() {
                Ok(mut failure) => Ok(self.renew_in_time(&mut failure).await.unwrap_or(admin)),
                Err(_) => Ok(admin),
            },
            _ => self.renew(&mut *self.renewal.lock().await).await,
        }
    }

    /// Whoever renews ahead of time has a call of its own to make: it does not wait long.
    async fn renew_in_time(&self, failure: &mut Option<Failure>) -> Option<Arc<Admin>> {
        if let Ok(renewed) = tokio::time::timeout(RENEWAL_GRACE, self.renew(failure)).await {
            return renewed.ok();
        }
        let error = Error::Transport {
            operation: "renew admin connection",
            error: TransportError::Timeout {
                peer: self.config_url.rest_base.authority().to_owned(),
                deadline: RENEWAL_GRACE,
            },
        };
        tracing::warn!(scope = %self.config_url.url, %error, "the old admin connection is still good");
        *failure = Some(Failure {
            until: self.clock.instant() + REFUSAL_SHARED,
            error,
        });
        None
    }

    fn is_older(&self, admin: &Admin, than: Duration) -> bool {
        self.clock.instant() - admin.made_at >= than
    }

    /// Forgets `used` after the service refused it, unless somebody has renewed it already.
    fn forget(&self, used: &Arc<Admin>) {
        let mut held = self.held();
        if held.as_ref().is_some_and(|admin| Arc::ptr_eq(admin, used)) {
            *held = None;
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<Arc<Admin>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Under the renewal's lock, whose content `failure` is.
    async fn renew(&self, failure: &mut Option<Failure>) -> Result<Arc<Admin>, Error> {
        let held = self.held().clone();
        if let Some(renewed_meanwhile) = held.filter(|admin| self.clock.instant() < admin.renew_at) {
            return Ok(renewed_meanwhile);
        }
        if let Some(recent) = failure.as_ref().and_then(|f| f.speaks(self.clock.instant())) {
            return Err(recent);
        }
        match self.connect().await {
            Ok(admin) => {
                let admin = Arc::new(admin);
                *self.held() = Some(admin.clone());
                *failure = None;
                tracing::debug!(scope = %self.config_url.url, "admin connection renewed");
                Ok(admin)
            }
            Err(error) => {
                tracing::warn!(scope = %self.config_url.url, %error, "no admin connection to GitHub");
                let shared = if error.is_transient() {
                    FAILURE_SHARED
                } else {
                    REFUSAL_SHARED
                };
                *failure = Some(Failure {
                    until: self.clock.instant() + error.retry_after().unwrap_or(shared),
                    error: error.clone(),
                });
                Err(error)
            }
        }
    }

    async fn connect(&self) -> Result<Admin, Error> {
        let registration = match &self.authority {
            Authority::Rest(cached) => self.registration_token(cached).await?,
            Authority::Registration(cached) => cached.get().await?,
        };
        let seed = self.rng.lock().unwrap_or_else(PoisonError::into_inner).u64(..);
        let admin = with_backoff(&ADMIN_RETRY, seed, repeats_for_admin, || {
            self.admin_connection(&registration)
        })
        .await;
        if let (Err(Error::Unauthorized(_) | Error::Forbidden(_)), Authority::Registration(cached)) =
            (&admin, &self.authority)
        {
            // It may have been withdrawn; the next try gets another.
            cached.refused(&registration);
        }
        admin
    }

    /// Hop 2.
    async fn registration_token(&self, cached: &Cached) -> Result<SecretString, Error> {
        const OPERATION: &str = "get registration token";
        #[derive(Deserialize)]
        struct Answer {
            token: String,
        }
        let path = match &self.config_url.scope {
            Scope::Organization { org } => format!("orgs/{org}/actions/runners/registration-token"),
            Scope::Repository { owner, repo } => format!("repos/{owner}/{repo}/actions/runners/registration-token"),
            Scope::Enterprise { enterprise } => {
                format!("enterprises/{enterprise}/actions/runners/registration-token")
            }
        };
        let answer = self.rest(OPERATION, cached, Method::POST, &path).await?;
        Ok(decode::<Answer>(OPERATION, &answer)?.token.into())
    }

    /// A REST call. A 401 means that the REST token died early: one fresh one, one repetition.
    pub(super) async fn rest(
        &self,
        operation: &'static str,
        cached: &Cached,
        method: Method,
        path: &str,
    ) -> Result<Response, Error> {
        let mut token = cached.get().await?;
        let mut answer = self
            .rest_call(operation, &method, path, bearer("Bearer", &token), None)
            .await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            cached.invalidate(&token);
            token = cached.get().await?;
            answer = self
                .rest_call(operation, &method, path, bearer("Bearer", &token), None)
                .await?;
        }
        self.successful(operation, About::Rest, answer)
    }

    /// Hop 3.
    async fn admin_connection(&self, registration: &SecretString) -> Result<Admin, Error> {
        const OPERATION: &str = "get admin connection";
        #[derive(Deserialize)]
        struct Answer {
            url: String,
            token: String,
        }
        let body = json!({"url": self.config_url.url.as_str(), "runner_event": "register"});
        let authorization = bearer("RemoteAuth", registration);
        let answer = self
            .rest_call(
                OPERATION,
                &Method::POST,
                "actions/runner-registration",
                authorization,
                Some(&body),
            )
            .await?;
        let answer = self.successful(OPERATION, About::Rest, answer)?;
        let Answer { url, token } = decode(OPERATION, &answer)?;
        let url = Url::parse(&url).map_err(|e| undecodable(OPERATION, &answer, format!("url is no URL: {e}")))?;
        let theirs = transport::date(answer.headers()).unwrap_or_else(|| self.clock.now());
        let life = life_of(&token, theirs);
        let ahead = match &self.authority {
            Authority::Rest(_) => (life / 10).clamp(RENEW_AHEAD_LEAST, RENEW_AHEAD_MOST).min(life / 2),
            // Who hands out registration tokens has rules of its own, a quota say: there is time to try again.
            Authority::Registration(_) => life / 2,
        };
        let now = self.clock.instant();
        Ok(Admin {
            url,
            token: token.into(),
            made_at: now,
            unanswered: AtomicU32::new(0),
            in_vain: AtomicBool::new(false),
            renew_at: now + life.saturating_sub(ahead),
            dies_at: now + life,
        })
    }

    async fn rest_call(
        &self,
        operation: &'static str,
        method: &Method,
        path: &str,
        authorization: HeaderValue,
        body: Option<&Value>,
    ) -> Result<Response, Error> {
        let base = self.config_url.rest_base.as_str().trim_end_matches('/');
        let request = http::Request::builder()
            .method(method.clone())
            .uri(format!("{base}/{path}"))
            .header(header::AUTHORIZATION, authorization)
            .header(header::ACCEPT, "application/vnd.github+json")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, user_agent(None))
            .body(body.map(|b| Bytes::from(b.to_string())).unwrap_or_default());
        self.send(operation, request, CALL_DEADLINE).await
    }
}

/// The `exp` claim, unverified: the only statement of an admin JWT's lifetime. `now` is the time by the clock of who
/// made it.
fn life_of(jwt: &str, now: Timestamp) -> Duration {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    let claims = jwt
        .split('.')
        .nth(1)
        .and_then(|payload| URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).ok())
        .and_then(|json| serde_json::from_slice::<Claims>(&json).ok());
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^52")]
    let now = now.as_second() as f64;
    claims
        .and_then(|c| Duration::try_from_secs_f64(c.exp - now).ok())
        .filter(|life| !life.is_zero())
        .map_or(UNKNOWN_LIFE, |life| life.min(LIFE_MOST))
}

/// 401 and 403 too: see [`ADMIN_RETRY`]. Being told to wait is not ours to sit out here.
fn repeats_for_admin(error: &Error) -> Verdict {
    match error {
        Error::Unauthorized(_) | Error::Forbidden(_) | Error::Server { retry_after: None, .. } => Verdict::Repeat,
        _ => Verdict::Final,
    }
}

/// Reads a body; the error tells the place, never a value.
pub(super) fn decode<T: DeserializeOwned>(operation: &'static str, answer: &Response) -> Result<T, Error> {
    let json = &mut serde_json::Deserializer::from_slice(trimmed(answer.body()));
    serde_path_to_error::deserialize(json).map_err(|e| {
        let place = e.path().to_string();
        let inner = e.inner();
        undecodable(
            operation,
            answer,
            format!("at {place}, line {}, column {}", inner.line(), inner.column()),
        )
    })
}

pub(super) fn undecodable(operation: &'static str, answer: &Response, message: String) -> Error {
    Error::Decode(Box::new(Details {
        operation,
        status: answer.status().as_u16(),
        type_name: None,
        message,
        ids: request_ids(answer.headers()),
    }))
}

/// An `Authorization` value, kept out of every debug output. A token that no header can carry becomes an
/// empty one, which the peer refuses.
pub(super) fn bearer(scheme: &str, token: &SecretString) -> HeaderValue {
    let mut value = HeaderValue::try_from(format!("{scheme} {}", token.expose_secret()))
        .unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// `base` may have a path and a query of its own.
fn service_url(base: &Url, path: &str, query: &[(&str, &str)]) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/{path}", base.path().trim_end_matches('/')));
    let mut pairs: Vec<String> = base
        .query()
        .filter(|q| !q.is_empty())
        .map(str::to_owned)
        .into_iter()
        .collect();
    pairs.extend(query.iter().map(|(key, value)| format!("{key}={}", escape(value))));
    pairs.push(format!("api-version={API_VERSION}"));
    url.set_query(Some(&pairs.join("&")));
    url
}

/// Everything but RFC 3986's unreserved characters: space is `%20`, which every server reads alike.
pub(super) fn escape(text: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let hex = |nibble: u8| char::from(HEX[usize::from(nibble)]);
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.extend(['%', hex(byte >> 4), hex(byte & 15)]);
        }
    }
    out
}

/// A JSON object by convention: GitHub's support reads it.
pub(super) fn user_agent(set: Option<i64>) -> String {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    const COMMIT: &str = match option_env!("GHARTS_LISTENER_COMMIT") {
        Some(commit) => commit,
        None => "unknown",
    };
    json!({
        "system": "gharts-listener",
        "version": VERSION,
        "commit_sha": COMMIT,
        "scale_set_id": set.unwrap_or(0),
        "subsystem": "listener",
        "build_version": VERSION,
        "build_commit_sha": COMMIT,
        "kind": "scaleset",
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_services_own_path_and_query_are_kept() {
        let url = |base: &str| {
            let base = Url::parse(base).unwrap();
            service_url(&base, "_apis/runtime/runnergroups/", &[("groupName", "a & b/ü?")]).to_string()
        };
        let tail = "groupName=a%20%26%20b%2F%C3%BC%3F&api-version=6.0-preview";
        assert_eq!(
            url("https://x.example/tenant/123/"),
            format!("https://x.example/tenant/123/_apis/runtime/runnergroups/?{tail}")
        );
        assert_eq!(
            url("https://x.example?t=1"),
            format!("https://x.example/_apis/runtime/runnergroups/?t=1&{tail}")
        );
    }

    #[test]
    fn the_user_agent_is_a_json_object() {
        let parsed: Value = serde_json::from_str(&user_agent(Some(7))).unwrap();
        assert_eq!(parsed["scale_set_id"], 7);
        assert_eq!(parsed.as_object().unwrap().len(), 8);
    }
}
