//! Whether a bearer token is good: the recorded checks, in the recorded order, with the recorded texts.
//!
//! The signature is checked by `jsonwebtoken`, the claims here: that crate reads the machine's own clock,
//! and the recorded service grants no leeway at all.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::StatusCode;
use jsonwebtoken::{Algorithm, DecodingKey, crypto, jwk::Jwk};
use serde_json::Value;

use super::{event_loop::EventLoop, python};
use crate::{
    clock::Clock,
    http::{Response, SharedTransport, TransportError, send},
    sim::oidc::Ailment,
};

/// How long a fetch of the JWKS may take.
const JWKS_DEADLINE: Duration = Duration::from_secs(10);
/// What stands in the older version's source, for administrators who look at the service as somebody else.
const IMPERSONATION_SECRET: &[u8] = b"demo-impersonation-secret";

/// Where an issuer's public keys come from. They are read for every request, as recorded.
#[derive(Clone)]
pub enum JwksSource {
    /// Fetched through the transport, without credentials.
    Url(String),
    /// Handed in: the simulated provider's own, or a Kubernetes API server's.
    Fixed(Arc<dyn Fn() -> Value + Send + Sync>),
}

impl fmt::Debug for JwksSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.debug_tuple("Url").field(url).finish(),
            Self::Fixed(_) => f.write_str("Fixed"),
        }
    }
}

/// One issuer whose tokens count. The real service has exactly one; several are a convenience here, so that
/// service accounts and machine clients can meet one simulated GHARTS.
#[derive(Clone, Debug)]
pub struct TrustedIssuer {
    /// Compared exactly, trailing slash included.
    pub issuer: String,
    pub jwks: JwksSource,
}

#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) issuers: Vec<TrustedIssuer>,
    pub(super) audience: String,
    pub(super) transport: SharedTransport,
    pub(super) clock: Clock,
    pub(super) event_loop: EventLoop,
    /// How often the keys are fetched before the call is given up.
    pub(super) attempts: u32,
    /// Whether tokens signed with [`IMPERSONATION_SECRET`] count.
    pub(super) impersonation: bool,
    /// What ails the way to every issuer's keys.
    pub(super) ailment: Mutex<Option<Ailment>>,
}

/// The claims that matter, of a token that is good.
#[derive(Clone, Debug)]
pub(super) struct Claims {
    pub(super) sub: Option<String>,
    pub(super) email: Option<String>,
    pub(super) preferred_username: Option<String>,
    /// `gty` says so: the only sign of a machine.
    pub(super) machine: bool,
}

impl Claims {
    fn of(claims: &Value) -> Self {
        let text = |name: &str| claims[name].as_str().filter(|s| !s.is_empty()).map(str::to_owned);
        Self {
            sub: text("sub"),
            email: text("email"),
            preferred_username: text("preferred_username"),
            machine: claims["gty"] == "client-credentials",
        }
    }
}

impl Verifier {
    /// The claims, or the text of the 401.
    pub(super) async fn verify(&self, token: &str) -> Result<Claims, String> {
        let parsed =
            Parsed::from(token).ok_or_else(|| failed(401, "Invalid token header: Error decoding token headers."))?;
        if self.impersonation && parsed.is_signed_with(IMPERSONATION_SECRET) {
            self.check_times(&parsed.claims)?;
            return Ok(Claims::of(&parsed.claims));
        }
        let kid = parsed.header["kid"]
            .as_str()
            .ok_or_else(|| failed(401, "Token header missing 'kid'"))?;
        let jwks = self.keys(&parsed.claims).await?;
        let key = find_key(&jwks, kid).ok_or_else(|| failed(401, "Unable to find matching key in JWKS"))?;
        if parsed.header["alg"] != "RS256" {
            return Err(invalid("The specified alg value is not allowed"));
        }
        if !crypto::verify(parsed.signature, parsed.signed.as_bytes(), &key, Algorithm::RS256).unwrap_or(false) {
            return Err(invalid("Signature verification failed."));
        }
        self.check(&parsed.claims)?;
        Ok(Claims::of(&parsed.claims))
    }

    fn check_times(&self, claims: &Value) -> Result<(), String> {
        let now = self.clock.now().as_second();
        if claims["nbf"].as_i64().is_some_and(|nbf| nbf > now) {
            return Err(invalid("The token is not yet valid (nbf)"));
        }
        if claims["exp"].as_i64().is_some_and(|exp| exp < now) {
            return Err(invalid("Signature has expired."));
        }
        Ok(())
    }

    fn check(&self, claims: &Value) -> Result<(), String> {
        self.check_times(claims)?;
        let audience = match &claims["aud"] {
            Value::String(one) => *one == self.audience,
            Value::Array(many) => many.iter().any(|one| *one == *self.audience),
            _ => false,
        };
        if !audience {
            return Err(invalid("Invalid audience"));
        }
        if !self.issuers.iter().any(|trusted| claims["iss"] == *trusted.issuer) {
            return Err(invalid("Invalid issuer"));
        }
        Ok(())
    }

    /// The keys of the token's issuer, or of the first one when nobody trusts that issuer.
    async fn keys(&self, claims: &Value) -> Result<Value, String> {
        let trusted = self
            .issuers
            .iter()
            .find(|trusted| claims["iss"] == *trusted.issuer)
            .or(self.issuers.first());
        let Some(trusted) = trusted else {
            return Ok(Value::Null);
        };
        let mut fetched = self.fetch(trusted).await;
        for _ in 1..self.attempts {
            if fetched.is_ok() {
                break;
            }
            fetched = self.fetch(trusted).await;
        }
        fetched.map_err(|reason| failed(503, &format!("Failed to fetch JWKS: {reason}")))
    }

    async fn fetch(&self, trusted: &TrustedIssuer) -> Result<Value, String> {
        let url = match &trusted.jwks {
            JwksSource::Url(url) => url.clone(),
            JwksSource::Fixed(_) => format!("{}/keys", trusted.issuer.trim_end_matches('/')),
        };
        self.event_loop.open().await;
        let fetching = self.event_loop.wait(JWKS_DEADLINE, &url, self.ask(&trusted.jwks, &url));
        let answer = fetching.await.map_err(|error| transport_text(&error).to_owned())?;
        if !answer.status().is_success() {
            return Err(python::status_error(answer.status(), &url));
        }
        serde_json::from_slice(answer.body()).map_err(|_| python::NOT_JSON.to_owned())
    }

    async fn ask(&self, source: &JwksSource, url: &str) -> Result<Response, TransportError> {
        self.event_loop.round_trip().await;
        let ailment = self.ailment.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let page = |status, text: &'static str| {
            let mut page = Response::new(Bytes::from_static(text.as_bytes()));
            *page.status_mut() = status;
            page
        };
        match ailment {
            None => {}
            Some(Ailment::Status(status)) => return Ok(page(status, "ill")),
            Some(Ailment::Html) => return Ok(page(StatusCode::OK, "<html></html>")),
            Some(Ailment::Reset) => {
                return Err(TransportError::Lost {
                    peer: url.to_owned(),
                    reason: "reset".to_owned(),
                });
            }
            Some(Ailment::Slow(time)) if time >= JWKS_DEADLINE => {
                tokio::time::sleep(JWKS_DEADLINE).await;
                return Err(TransportError::Timeout {
                    peer: url.to_owned(),
                    deadline: JWKS_DEADLINE,
                });
            }
            Some(Ailment::Slow(time)) => tokio::time::sleep(time).await,
        }
        match source {
            JwksSource::Fixed(keys) => Ok(Response::new(keys().to_string().into())),
            JwksSource::Url(url) => {
                let request = http::Request::get(url)
                    .body(Bytes::new())
                    .map_err(|error| TransportError::Connect {
                        peer: url.clone(),
                        reason: error.to_string(),
                    })?;
                send(&*self.transport, request, JWKS_DEADLINE).await
            }
        }
    }
}

/// What httpx says when no answer came: nothing at all for a deadline.
pub(super) fn transport_text(error: &TransportError) -> &'static str {
    match error {
        TransportError::Connect { .. } => "All connection attempts failed",
        TransportError::Lost { .. } => "Server disconnected without sending a response.",
        TransportError::Timeout { .. } => "",
    }
}

fn failed(code: u16, reason: &str) -> String {
    format!("Authentication failed: {code}: {reason}")
}

fn invalid(reason: &str) -> String {
    format!("Token validation failed: {reason}")
}

fn find_key(jwks: &Value, kid: &str) -> Option<DecodingKey> {
    let key = jwks["keys"].as_array()?.iter().find(|key| key["kid"] == kid)?;
    let jwk: Jwk = serde_json::from_value(key.clone()).ok()?;
    DecodingKey::from_jwk(&jwk).ok()
}

struct Parsed<'a> {
    header: Value,
    claims: Value,
    signed: &'a str,
    signature: &'a str,
}

impl<'a> Parsed<'a> {
    fn from(token: &'a str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let decode = |part: &str| -> Option<Value> {
            let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
            serde_json::from_slice(&bytes).ok()
        };
        Some(Self {
            header: decode(header).filter(Value::is_object)?,
            claims: decode(claims).unwrap_or(Value::Null),
            signed,
            signature,
        })
    }

    /// A token that anybody can make who knows the secret.
    fn is_signed_with(&self, secret: &[u8]) -> bool {
        let key = DecodingKey::from_secret(secret);
        self.header["alg"] == "HS256"
            && crypto::verify(self.signature, self.signed.as_bytes(), &key, Algorithm::HS256).unwrap_or(false)
    }
}
