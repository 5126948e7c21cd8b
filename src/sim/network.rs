//! The simulated network: requests reach routers by authority, in process, under virtual time.
//!
//! What goes wrong between two peers is put here ([`Network::disturb`]): neither of them knows of it, so every
//! peer can be late, silent, cut off or misquoted without a line in its own code.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::Router;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{StatusCode, header};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use crate::http::{Request, Response, Transport, TransportError, peer};

/// Routers by authority (`gharts.example.com`, `127.0.0.1:8080`). Clones share the routes.
#[derive(Clone, Debug, Default)]
pub struct Network {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    routes: BTreeMap<String, Router>,
    disturbances: Vec<Disturbance>,
}

/// Makes another body of an answer's.
pub type Alteration = Arc<dyn Fn(&[u8]) -> Bytes + Send + Sync>;

/// Something that happens in the world when a request (`METHOD /path`) leaves.
pub type Event = Arc<dyn Fn(&str) + Send + Sync>;

/// What happens to a request on its way.
#[derive(Clone)]
pub enum Trouble {
    /// It arrives later.
    Late(Duration),
    /// The same, and something happens elsewhere while it is on its way.
    Meanwhile(Event, Duration),
    /// It never arrives, and no answer ever comes: a half-open connection.
    Silence,
    /// The connection breaks before the peer hears of it; the sender cannot know.
    LostBefore,
    /// The peer does what was asked; the connection breaks where the answer should come.
    LostAfter,
    /// Something in between answers in the peer's place, with this JSON.
    Answered(StatusCode, String),
    /// The same, with an answer of any kind.
    Replied(Response),
    /// The body of the peer's answer is another one when it arrives.
    Altered(Alteration),
}

impl fmt::Debug for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late(by) => f.debug_tuple("Late").field(by).finish(),
            Self::Meanwhile(_, by) => f.debug_tuple("Meanwhile").field(by).finish(),
            Self::Silence => f.write_str("Silence"),
            Self::LostBefore => f.write_str("LostBefore"),
            Self::LostAfter => f.write_str("LostAfter"),
            Self::Answered(status, _) => f.debug_tuple("Answered").field(status).finish(),
            Self::Replied(answer) => f.debug_tuple("Replied").field(&answer.status()).finish(),
            Self::Altered(_) => f.write_str("Altered"),
        }
    }
}

/// One kind of trouble for some requests. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Disturbance {
    authority: String,
    /// Part of `METHOD /path`; of several parts with `*` in between each behind the one before.
    pattern: String,
    trouble: Trouble,
    left: Arc<AtomicU32>,
    met: Arc<AtomicU32>,
}

impl Disturbance {
    /// Only the next `times` requests meet it.
    pub fn times(&self, times: u32) -> &Self {
        self.left.store(times, Ordering::SeqCst);
        self
    }

    /// It is over.
    pub fn end(&self) {
        self.left.store(0, Ordering::SeqCst);
    }

    /// How many requests have met it.
    pub fn met(&self) -> u32 {
        self.met.load(Ordering::SeqCst)
    }

    fn meets(&self, authority: &str, line: &str) -> bool {
        // A runner's own calls are none of the service's.
        if authority != self.authority || !contains(line, &self.pattern) || line.contains("/_sim/") {
            return false;
        }
        let take = |left: u32| left.checked_sub(1);
        if self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
            .is_err()
        {
            return false;
        }
        self.met.fetch_add(1, Ordering::SeqCst);
        true
    }
}

/// Whether the parts of `pattern`, which `*` separates, stand in `line`, one behind the other.
fn contains(line: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let rest = parts.try_fold(line, |rest, part| rest.find(part).map(|at| &rest[at + part.len()..]));
    rest.is_some()
}

impl Network {
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `router` answer for `authority` from now on.
    pub fn attach(&self, authority: &str, router: Router) {
        self.lock().routes.insert(authority.to_owned(), router);
    }

    /// Takes a peer away: connections to it fail from now on. The router is for attaching it again.
    pub fn detach(&self, authority: &str) -> Option<Router> {
        self.lock().routes.remove(authority)
    }

    /// Takes every peer away.
    pub fn close(&self) {
        *self.lock() = State::default();
    }

    /// From now on, until it ends, requests to `authority` whose `METHOD /path` contains `pattern` meet `trouble`.
    pub fn disturb(&self, authority: &str, pattern: &str, trouble: Trouble) -> Disturbance {
        let disturbance = Disturbance {
            authority: authority.to_owned(),
            pattern: pattern.to_owned(),
            trouble,
            left: Arc::new(AtomicU32::new(u32::MAX)),
            met: Arc::default(),
        };
        self.lock().disturbances.push(disturbance.clone());
        disturbance
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first trouble on this request's way.
    fn trouble(&self, authority: &str, request: &Request) -> Option<Trouble> {
        let mut state = self.lock();
        if state.disturbances.is_empty() {
            return None;
        }
        let line = format!("{} {}", request.method(), request.uri().path());
        let met = state.disturbances.iter().find(|d| d.meets(authority, &line));
        let trouble = met.map(|d| d.trouble.clone());
        state.disturbances.retain(|d| d.left.load(Ordering::SeqCst) > 0);
        trouble
    }

    async fn deliver(&self, peer: String, request: Request) -> Result<Response, TransportError> {
        let Some(router) = self.lock().routes.get(&peer).cloned() else {
            return Err(TransportError::Connect {
                peer,
                reason: "nobody listens".to_owned(),
            });
        };
        let response = match router.oneshot(request.map(axum::body::Body::from)).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        let (parts, body) = response.into_parts();
        match body.collect().await {
            Ok(body) => Ok(Response::from_parts(parts, body.to_bytes())),
            Err(error) => Err(TransportError::Lost {
                peer,
                reason: error.to_string(),
            }),
        }
    }
}

/// An answer whose connection breaks where the body should come: a transport error in process and on sockets.
pub fn broken_connection() -> axum::response::Response {
    let broken =
        futures::stream::once(async { Err::<Bytes, _>(std::io::Error::from(std::io::ErrorKind::ConnectionReset)) });
    axum::response::Response::new(axum::body::Body::from_stream(broken))
}

fn lost(peer: String) -> TransportError {
    TransportError::Lost {
        peer,
        reason: "connection reset".to_owned(),
    }
}

impl Transport for Network {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        Box::pin(async move {
            let peer = peer(&request);
            match self.trouble(&peer, &request) {
                None => self.deliver(peer, request).await,
                Some(Trouble::Late(by)) => {
                    tokio::time::sleep(by).await;
                    self.deliver(peer, request).await
                }
                Some(Trouble::Meanwhile(event, by)) => {
                    event(&format!("{} {}", request.method(), request.uri().path()));
                    tokio::time::sleep(by).await;
                    self.deliver(peer, request).await
                }
                Some(Trouble::Silence) => std::future::pending().await,
                Some(Trouble::LostBefore) => Err(lost(peer)),
                Some(Trouble::LostAfter) => {
                    self.deliver(peer.clone(), request).await?;
                    Err(lost(peer))
                }
                Some(Trouble::Answered(status, body)) => {
                    let mut response = Response::new(Bytes::from(body));
                    *response.status_mut() = status;
                    let json = http::HeaderValue::from_static("application/json");
                    response.headers_mut().insert(header::CONTENT_TYPE, json);
                    Ok(response)
                }
                Some(Trouble::Replied(answer)) => Ok(answer),
                Some(Trouble::Altered(alter)) => {
                    let response = self.deliver(peer, request).await?;
                    Ok(response.map(|body| alter(&body)))
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;

    use super::*;

    fn network() -> Network {
        let network = Network::new();
        network.attach("a.test", Router::new().route("/x", get(|| async { "well" })));
        network
    }

    async fn ask(network: &Network) -> Result<Bytes, TransportError> {
        let request = http::Request::get("https://a.test/x").body(Bytes::new()).unwrap();
        network.send(request).await.map(Response::into_body)
    }

    #[tokio::test(start_paused = true)]
    async fn a_disturbance_meets_what_it_names_and_as_often_as_it_says() {
        let network = network();
        let other = network.disturb("a.test", "POST /x", Trouble::Silence);
        let apart = network.disturb("a.test", "/x*GET", Trouble::Silence);
        let once = network.disturb("a.test", "GET*x", Trouble::LostBefore);
        once.times(1);
        assert_eq!(ask(&network).await.unwrap_err(), lost("a.test".to_owned()));
        assert_eq!(ask(&network).await.unwrap(), "well");
        assert_eq!((once.met(), other.met(), apart.met()), (1, 0, 0));
        let alter = Trouble::Altered(Arc::new(|body| [b"un", body].concat().into()));
        let altered = network.disturb("a.test", "/x", alter);
        assert_eq!(ask(&network).await.unwrap(), "unwell");
        altered.end();
        assert_eq!(ask(&network).await.unwrap(), "well");
    }
}
