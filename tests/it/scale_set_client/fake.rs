//! A scripted GitHub: answers by method and path, remembers what it was asked. Not the simulator: each test
//! says what the service answers, and nothing here knows the protocol beyond the chain of credentials.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::future::BoxFuture;
use gharts_listener::{
    clock::Clock,
    config::{ConfigUrl, SecretRef},
    http::{Request, Response, Transport, TransportError},
    identity::{Cached, Pat},
    scaleset::{Authority, Connection},
};
use serde_json::{Value, json};

pub(super) const SERVICE: &str = "https://actions.example/tenant/9";

#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) url: String,
    pub(super) authorization: String,
    pub(super) headers: http::HeaderMap,
    pub(super) body: Value,
}

type Reply = Arc<dyn Fn(&Seen) -> Result<Response, TransportError> + Send + Sync>;

struct Route {
    method: &'static str,
    path: String,
    replies: VecDeque<Reply>,
}

/// Clones share script and memory.
#[derive(Clone)]
pub(super) struct Fake {
    pub(super) clock: Clock,
    latency: Arc<Mutex<Duration>>,
    routes: Arc<Mutex<Vec<Route>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fake")
    }
}

impl Fake {
    /// With a working chain of credentials: registration tokens `reg-N`, admin JWTs that live `ttl`.
    pub(super) fn new(ttl: Duration) -> Self {
        let fake = Self {
            clock: Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap()),
            latency: Arc::new(Mutex::new(Duration::from_millis(50))),
            routes: Arc::default(),
            seen: Arc::default(),
        };
        fake.chain(ttl);
        fake
    }

    /// The chain works (again).
    pub(super) fn chain(&self, ttl: Duration) {
        let clock = self.clock.clone();
        self.on(
            "POST",
            "/registration-token",
            vec![json_reply(201, json!({"token": "reg-token-1"}))],
        );
        let admin: Reply = Arc::new(move |_| {
            let exp = clock.now().as_second() + ttl.as_secs() as i64;
            let payload = URL_SAFE_NO_PAD.encode(json!({"exp": exp}).to_string());
            Ok(response(
                200,
                json!({"url": SERVICE, "token": format!("h.{payload}.s")})
                    .to_string()
                    .as_bytes(),
            ))
        });
        self.on("POST", "/actions/runner-registration", vec![admin]);
    }

    /// Answers `method` on paths that end in `path` (query aside): in order, the last reply for ever. A later
    /// script for the same call replaces the earlier.
    pub(super) fn on(&self, method: &'static str, path: &str, replies: Vec<Reply>) {
        let mut routes = self.routes.lock().unwrap();
        routes.retain(|r| !(r.method == method && r.path == path));
        routes.push(Route {
            method,
            path: path.to_owned(),
            replies: replies.into(),
        });
    }

    pub(super) fn latency(&self, latency: Duration) {
        *self.latency.lock().unwrap() = latency;
    }

    pub(super) fn seen(&self, method: &str, path: &str) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap();
        seen.iter()
            .filter(|s| s.method == method && path_of(&s.url).ends_with(path))
            .cloned()
            .collect()
    }

    pub(super) fn all_seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(super) fn connection(&self) -> Arc<Connection> {
        self.connection_to("https://github.com/acme")
    }

    /// With a personal access token (`CARGO_PKG_NAME` stands in for one: it is set in every test).
    pub(super) fn connection_to(&self, config_url: &str) -> Arc<Connection> {
        let source = Arc::new(Pat {
            token: SecretRef::Env("CARGO_PKG_NAME".into()),
        });
        self.connection_with(
            config_url,
            Authority::Rest(Arc::new(Cached::new(source, self.clock.clone()))),
        )
    }

    pub(super) fn connection_with(&self, config_url: &str, authority: Authority) -> Arc<Connection> {
        let url = ConfigUrl::parse(config_url, false).unwrap();
        Arc::new(Connection::new(
            Arc::new(self.clone()),
            self.clock.clone(),
            url,
            authority,
            1,
        ))
    }

    fn answer(&self, seen: &Seen) -> Result<Response, TransportError> {
        let reply = {
            let mut routes = self.routes.lock().unwrap();
            let route = routes
                .iter_mut()
                .find(|r| r.method == seen.method && path_of(&seen.url).ends_with(&r.path));
            let route = route.unwrap_or_else(|| panic!("nobody expected {} {}", seen.method, seen.url));
            if route.replies.len() > 1 {
                route.replies.pop_front().unwrap()
            } else {
                route.replies[0].clone()
            }
        };
        reply(seen)
    }
}

impl Transport for Fake {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        Box::pin(async move {
            let authorization = request.headers().get("authorization");
            let seen = Seen {
                method: request.method().to_string(),
                url: request.uri().to_string(),
                authorization: authorization
                    .map(|v| v.to_str().unwrap().to_owned())
                    .unwrap_or_default(),
                headers: request.headers().clone(),
                body: serde_json::from_slice(request.body()).unwrap_or_default(),
            };
            self.seen.lock().unwrap().push(seen.clone());
            let latency = *self.latency.lock().unwrap();
            tokio::time::sleep(latency).await;
            self.answer(&seen)
        })
    }
}

fn path_of(url: &str) -> &str {
    url.split('?').next().unwrap()
}

pub(super) fn response(status: u16, body: &[u8]) -> Response {
    http::Response::builder()
        .status(status)
        .header("ActivityId", "act-1")
        .header("X-GitHub-Request-Id", "REQ:1")
        .body(bytes::Bytes::copy_from_slice(body))
        .unwrap()
}

pub(super) fn json_reply(status: u16, body: Value) -> Reply {
    bytes_reply(status, body.to_string().as_bytes())
}

pub(super) fn bytes_reply(status: u16, body: &[u8]) -> Reply {
    let answer = response(status, body);
    Arc::new(move |_| Ok(answer.clone()))
}

pub(super) fn with_header(status: u16, name: &'static str, value: &'static str) -> Reply {
    let mut answer = response(status, b"");
    answer.headers_mut().insert(name, value.parse().unwrap());
    Arc::new(move |_| Ok(answer.clone()))
}

pub(super) fn exception(status: u16, name: &str, message: &str) -> Reply {
    json_reply(
        status,
        json!({"typeName": format!("GitHub.Services.{name}, GitHub.Services"), "message": message}),
    )
}

pub(super) fn lost() -> Reply {
    Arc::new(|_| {
        Err(TransportError::Lost {
            peer: "actions.example".into(),
            reason: "reset".into(),
        })
    })
}
