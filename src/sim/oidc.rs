//! A simulated OIDC provider: OAuth2 client credentials, discovery, a JWKS, and keys that rotate.
//!
//! [`Oidc`] is the model and [`Oidc::router`] the thin HTTP over it. Its tokens are RS256 JWTs whose claims
//! the client's entry chooses (`gty: client-credentials` makes one a machine for GHARTS), with a life by our
//! clock. It knows no other grant, no refresh tokens and no consent.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State as Extract,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use super::{
    keys::{KeyError, SigningKey},
    network::broken_connection,
};
use crate::clock::Clock;

const TOKEN_PATH: &str = "/oauth/token";
const JWKS_PATH: &str = "/.well-known/jwks.json";
const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";

/// How a client gives its secret at the token endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthStyle {
    /// Fields of the form.
    Body,
    /// HTTP Basic, both halves form-encoded (RFC 6749, 2.3.1).
    Basic,
    /// Fields of a JSON object, as Auth0 takes them.
    Json,
}

/// A client that may have tokens.
#[derive(Clone)]
pub struct Client {
    pub id: String,
    pub secret: String,
    /// Claims on top of `iss`, `iat`, `nbf`, `exp`, `jti`; `sub` is the client's id and `aud` what was asked
    /// for unless they stand here.
    pub claims: Map<String, Value>,
    /// The styles it may use.
    pub styles: Vec<AuthStyle>,
}

impl Client {
    /// A machine as GHARTS knows them: `gty: client-credentials`, any style.
    pub fn machine(id: &str, secret: &str) -> Self {
        let mut claims = Map::new();
        claims.insert("gty".to_owned(), json!("client-credentials"));
        Self {
            id: id.to_owned(),
            secret: secret.to_owned(),
            claims,
            styles: vec![AuthStyle::Body, AuthStyle::Basic, AuthStyle::Json],
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What ails an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ailment {
    /// Answers with this status and a text that is no JSON.
    Status(StatusCode),
    /// Answers after this long.
    Slow(Duration),
    /// 200 with a web page.
    Html,
    /// The connection breaks.
    Reset,
}

/// The provider. Clones share it.
#[derive(Clone, Debug)]
pub struct Oidc {
    issuer: Arc<str>,
    clock: Clock,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    rng: fastrand::Rng,
    clients: BTreeMap<String, Client>,
    /// The last one signs.
    keys: Vec<SigningKey>,
    keys_made: u32,
    ttl: Duration,
    token_ailment: Option<Ailment>,
    jwks_ailment: Option<Ailment>,
    tokens_issued: u64,
    tokens_refused: u64,
    jwks_served: u64,
}

impl Oidc {
    /// `issuer` is the URL that stands in `iss`, slashes included; the endpoints lie below it.
    pub fn new(issuer: &str, seed: u64, clock: Clock) -> Result<Self, KeyError> {
        Ok(Self {
            issuer: Arc::from(issuer),
            clock,
            state: Arc::new(Mutex::new(State {
                rng: fastrand::Rng::with_seed(seed),
                clients: BTreeMap::new(),
                keys: vec![SigningKey::shared("key-1")?],
                keys_made: 1,
                ttl: Duration::from_secs(3600),
                token_ailment: None,
                jwks_ailment: None,
                tokens_issued: 0,
                tokens_refused: 0,
                jwks_served: 0,
            })),
        })
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn token_url(&self) -> String {
        self.url(TOKEN_PATH)
    }

    pub fn jwks_url(&self) -> String {
        self.url(JWKS_PATH)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.issuer.trim_end_matches('/'))
    }

    pub fn register(&self, client: Client) {
        self.lock().clients.insert(client.id.clone(), client);
    }

    pub fn unregister(&self, id: &str) {
        self.lock().clients.remove(id);
    }

    /// How long tokens live from now on.
    pub fn set_ttl(&self, ttl: Duration) {
        self.lock().ttl = ttl;
    }

    pub fn ail_token_endpoint(&self, ailment: Option<Ailment>) {
        self.lock().token_ailment = ailment;
    }

    pub fn ail_jwks_endpoint(&self, ailment: Option<Ailment>) {
        self.lock().jwks_ailment = ailment;
    }

    /// Signs with a new key from now on; `keep_old` goes on publishing the earlier ones.
    pub fn rotate(&self, keep_old: bool) -> Result<(), KeyError> {
        let number = {
            let mut state = self.lock();
            state.keys_made += 1;
            state.keys_made
        };
        let key = SigningKey::shared(&format!("key-{number}"))?;
        let mut state = self.lock();
        if !keep_old {
            state.keys.clear();
        }
        state.keys.push(key);
        Ok(())
    }

    /// Publishes only the key that signs.
    pub fn drop_old_keys(&self) {
        let mut state = self.lock();
        let old = state.keys.len().saturating_sub(1);
        state.keys.drain(..old);
    }

    /// The published keys, without going over HTTP.
    pub fn jwks(&self) -> Value {
        let keys: Vec<Value> = self.lock().keys.iter().map(SigningKey::jwk).collect();
        json!({ "keys": keys })
    }

    /// The id of the key that signs.
    pub fn kid(&self) -> String {
        self.lock().keys.last().map(|k| k.kid().to_owned()).unwrap_or_default()
    }

    /// A token with the standard claims, overlaid by `claims`; a `null` takes a claim away.
    pub fn issue(&self, claims: &Map<String, Value>) -> Result<String, KeyError> {
        let now = self.clock.now().as_second();
        let (key, all) = {
            let mut state = self.lock();
            state.tokens_issued += 1;
            let ttl = i64::try_from(state.ttl.as_secs()).unwrap_or(i64::MAX);
            let mut all = Map::new();
            all.insert("iss".to_owned(), json!(&*self.issuer));
            all.insert("iat".to_owned(), json!(now));
            all.insert("nbf".to_owned(), json!(now));
            all.insert("exp".to_owned(), json!(now.saturating_add(ttl)));
            all.insert("jti".to_owned(), json!(format!("{:032x}", state.rng.u128(..))));
            for (name, value) in claims {
                all.insert(name.clone(), value.clone());
            }
            all.retain(|_, value| !value.is_null());
            (state.keys.last().cloned(), all)
        };
        match key {
            Some(key) => key.sign(&Value::Object(all)),
            None => SigningKey::shared("none")?.sign(&Value::Object(all)),
        }
    }

    /// Tokens issued, by the endpoint and by [`Self::issue`].
    pub fn tokens_issued(&self) -> u64 {
        self.lock().tokens_issued
    }

    /// Requests that the token endpoint refused.
    pub fn tokens_refused(&self) -> u64 {
        self.lock().tokens_refused
    }

    /// How often the JWKS was fetched.
    pub fn jwks_served(&self) -> u64 {
        self.lock().jwks_served
    }

    pub fn router(&self) -> Router {
        Router::new()
            .route(DISCOVERY_PATH, get(discovery))
            .route(JWKS_PATH, get(jwks))
            .route(TOKEN_PATH, post(token))
            .with_state(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grant(&self, asked: &Credentials) -> Result<Value, Refusal> {
        if asked.grant_type != "client_credentials" {
            return Err(Refusal::UnsupportedGrant);
        }
        let client = self.lock().clients.get(&asked.id).cloned();
        let Some(client) = client.filter(|c| c.secret == asked.secret && c.styles.contains(&asked.style)) else {
            return Err(Refusal::InvalidClient);
        };
        let mut claims = Map::new();
        claims.insert("sub".to_owned(), json!(client.id));
        if let Some(audience) = &asked.audience {
            claims.insert("aud".to_owned(), json!(audience));
        }
        if let Some(scope) = &asked.scope {
            claims.insert("scope".to_owned(), json!(scope));
        }
        claims.extend(client.claims);
        let token = self.issue(&claims).map_err(|_| Refusal::ServerError)?;
        let mut answer = json!({
            "access_token": token, "token_type": "Bearer", "expires_in": self.lock().ttl.as_secs(),
        });
        if let Some(scope) = &asked.scope {
            answer["scope"] = json!(scope);
        }
        Ok(answer)
    }
}

/// The errors of RFC 6749, section 5.2.
#[derive(Clone, Copy, Debug)]
enum Refusal {
    InvalidRequest,
    InvalidClient,
    UnsupportedGrant,
    ServerError,
}

struct Credentials {
    style: AuthStyle,
    grant_type: String,
    id: String,
    secret: String,
    audience: Option<String>,
    scope: Option<String>,
}

fn credentials(headers: &HeaderMap, body: &[u8]) -> Result<Credentials, Refusal> {
    let json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.starts_with("application/json"));
    let mut fields: BTreeMap<String, String> = if json {
        serde_json::from_slice(body).map_err(|_| Refusal::InvalidRequest)?
    } else {
        form_urlencoded::parse(body).into_owned().collect()
    };
    let mut take = |name: &str| fields.remove(name);
    let grant_type = take("grant_type").ok_or(Refusal::InvalidRequest)?;
    let (style, id, secret) = match basic(headers) {
        Some((id, secret)) => (AuthStyle::Basic, Some(id), Some(secret)),
        None if json => (AuthStyle::Json, take("client_id"), take("client_secret")),
        None => (AuthStyle::Body, take("client_id"), take("client_secret")),
    };
    Ok(Credentials {
        style,
        grant_type,
        id: id.ok_or(Refusal::InvalidClient)?,
        secret: secret.ok_or(Refusal::InvalidClient)?,
        audience: take("audience"),
        scope: take("scope"),
    })
}

fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let decoded = STANDARD.decode(value.strip_prefix("Basic ")?).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (id, secret) = text.split_once(':')?;
    Some((form_decoded(id), form_decoded(secret)))
}

fn form_decoded(text: &str) -> String {
    form_urlencoded::parse(text.as_bytes())
        .next()
        .map(|(name, _)| name.into_owned())
        .unwrap_or_default()
}

async fn token(Extract(oidc): Extract<Oidc>, headers: HeaderMap, body: Bytes) -> Response {
    let ailment = oidc.lock().token_ailment.clone();
    if let Some(answer) = suffer(ailment).await {
        return answer;
    }
    match credentials(&headers, &body).and_then(|asked| oidc.grant(&asked)) {
        Ok(answer) => ([(header::CACHE_CONTROL, "no-store")], axum::Json(answer)).into_response(),
        Err(refusal) => {
            oidc.lock().tokens_refused += 1;
            refused(refusal)
        }
    }
}

fn refused(refusal: Refusal) -> Response {
    let (status, error) = match refusal {
        Refusal::InvalidRequest => (StatusCode::BAD_REQUEST, "invalid_request"),
        Refusal::UnsupportedGrant => (StatusCode::BAD_REQUEST, "unsupported_grant_type"),
        Refusal::InvalidClient => (StatusCode::UNAUTHORIZED, "invalid_client"),
        Refusal::ServerError => (StatusCode::INTERNAL_SERVER_ERROR, "server_error"),
    };
    let mut response = (status, axum::Json(json!({ "error": error }))).into_response();
    if status == StatusCode::UNAUTHORIZED {
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Basic"));
    }
    response
}

async fn jwks(Extract(oidc): Extract<Oidc>) -> Response {
    let ailment = {
        let mut state = oidc.lock();
        state.jwks_served += 1;
        state.jwks_ailment.clone()
    };
    match suffer(ailment).await {
        Some(answer) => answer,
        None => axum::Json(oidc.jwks()).into_response(),
    }
}

async fn discovery(Extract(oidc): Extract<Oidc>) -> Response {
    axum::Json(json!({
        "issuer": oidc.issuer(),
        "token_endpoint": oidc.token_url(),
        "jwks_uri": oidc.jwks_url(),
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": ["client_secret_post", "client_secret_basic"],
        "id_token_signing_alg_values_supported": ["RS256"],
    }))
    .into_response()
}

async fn suffer(ailment: Option<Ailment>) -> Option<Response> {
    match ailment? {
        Ailment::Status(status) => Some((status, "ill").into_response()),
        Ailment::Html => Some(([(header::CONTENT_TYPE, "text/html")], "<html></html>").into_response()),
        Ailment::Reset => Some(broken_connection()),
        Ailment::Slow(time) => {
            tokio::time::sleep(time).await;
            None
        }
    }
}
