//! The wire between a daemon and its world, which can be cut: what remains of a process that got SIGKILL is
//! that nothing is heard of it any more. What it had sent takes effect or not; no answer reaches it.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{StreamExt as _, future::BoxFuture, stream};
use gharts_listener::http::{Request, Response, SharedTransport, Transport, TransportError, peer};
use http_body_util::BodyExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Where a daemon is killed: at its `call`th request to anybody.
#[derive(Clone, Copy, Debug)]
pub enum Kill {
    /// The request is never sent.
    Before { call: u64 },
    /// It takes effect, and the daemon does not live to see the answer. Where it was given up before, the next
    /// one that is answered.
    After { call: u64 },
    /// At this step from now: each time that one of the daemon's calls, or its own future, is polled, is two: before
    /// it and after it.
    AtStep { step: u64 },
}

/// All wires of one daemon. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Cable {
    cut: CancellationToken,
    calls: Arc<AtomicU64>,
    steps: Arc<AtomicU64>,
    kill: Arc<Mutex<Option<Kill>>>,
    secrets: Arc<Mutex<BTreeSet<String>>>,
    log: Arc<Mutex<Vec<Sent>>>,
    spoiler: Spoiler,
}

/// Chooses requests that come to no good.
pub type Spoil = Arc<dyn Fn(&Request) -> Option<Spoilt> + Send + Sync>;

#[derive(Clone, Default)]
struct Spoiler(Arc<Mutex<Option<Spoil>>>);

impl fmt::Debug for Spoiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Spoiler")
    }
}

/// What becomes of such a request.
#[derive(Clone, Copy, Debug)]
pub enum Spoilt {
    /// Never answered.
    Hangs,
    /// Whoever sends it panics.
    Panics,
    /// 403.
    Forbidden,
}

/// One request over HTTP, as it left the daemon.
#[derive(Clone, Debug)]
pub struct Sent {
    pub at: Instant,
    pub authority: String,
    /// `METHOD /path`
    pub line: String,
}

/// Fields of answers that hold a secret: JIT configurations, tokens of GitHub, GHARTS' and OIDC providers.
const SECRET_FIELDS: [&str; 6] = [
    "encodedJITConfig",
    "encoded_jit_config",
    "token",
    "access_token",
    "messageQueueAccessToken",
    "registration_token",
];

impl Cable {
    pub fn cut(&self) {
        self.cut.cancel();
    }

    pub fn is_cut(&self) -> bool {
        self.cut.is_cancelled()
    }

    pub fn cut_at(&self, kill: Kill) {
        self.steps.store(0, Ordering::Relaxed);
        *self.kill.lock().unwrap() = Some(kill);
    }

    pub fn transport(&self, inner: SharedTransport) -> SharedTransport {
        Arc::new(Wire {
            cable: self.clone(),
            inner,
        })
    }

    pub fn client(&self, inner: &kube::Client, namespace: &str) -> kube::Client {
        let (cable, inner) = (self.clone(), inner.clone());
        let service = tower::service_fn(move |request| {
            let (cable, inner) = (cable.clone(), inner.clone());
            async move {
                let answer = cable.carry(inner.send(request)).await?;
                let cut = cable.cut.clone();
                Ok::<_, kube::Error>(answer.map(|body| until_cut(body, cut)))
            }
        });
        kube::Client::new(service, namespace)
    }

    /// Every credential shown and every secret handed out over HTTP so far.
    pub fn secrets(&self) -> BTreeSet<String> {
        self.secrets.lock().unwrap().clone()
    }

    /// From now on these requests come to no good.
    pub fn spoil(&self, spoil: Spoil) {
        *self.spoiler.0.lock().unwrap() = Some(spoil);
    }

    fn spoilt(&self, request: &Request) -> Option<Spoilt> {
        let spoil = self.spoiler.0.lock().unwrap().clone();
        spoil.and_then(|spoil| spoil(request))
    }

    /// Every request over HTTP so far.
    pub fn log(&self) -> Vec<Sent> {
        self.log.lock().unwrap().clone()
    }

    fn note(&self, request: &Request) {
        let sent = Sent {
            at: Instant::now(),
            authority: peer(request),
            line: format!("{} {}", request.method(), request.uri().path()),
        };
        self.log.lock().unwrap().push(sent);
        if let Some(value) = request.headers().get(http::header::AUTHORIZATION) {
            let (_, credential) = value.to_str().unwrap().split_once(' ').unwrap();
            self.secrets.lock().unwrap().insert(credential.to_owned());
        }
    }

    fn note_answer(&self, answer: &Response) {
        let Ok(serde_json::Value::Object(fields)) = serde_json::from_slice(answer.body()) else {
            return;
        };
        let values = SECRET_FIELDS.iter().filter_map(|field| fields.get(*field)?.as_str());
        self.secrets.lock().unwrap().extend(values.map(str::to_owned));
    }

    /// Counts the steps of a future, and takes the last one of all.
    pub fn counted<F: Future>(&self, future: F) -> impl Future<Output = F::Output> + use<F> {
        let cable = self.clone();
        let mut future = Box::pin(future);
        std::future::poll_fn(move |context| {
            cable.step();
            let polled = future.as_mut().poll(context);
            cable.step();
            polled
        })
    }

    fn step(&self) {
        let number = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        let kill = *self.kill.lock().unwrap();
        if matches!(kill, Some(Kill::AtStep { step }) if step == number) {
            self.cut();
        }
    }

    async fn carry<T>(&self, call: impl Future<Output = T>) -> T {
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let kill = *self.kill.lock().unwrap();
        if matches!(kill, Some(Kill::Before { call }) if call == number) {
            self.cut();
        }
        let answer = self.cut.run_until_cancelled(self.counted(call)).await;
        if answer.is_some() && matches!(kill, Some(Kill::After { call }) if call <= number) {
            self.cut();
        }
        match answer {
            Some(answer) if !self.is_cut() => answer,
            _ => std::future::pending().await,
        }
    }
}

/// A watch falls silent for ever with the cut, and its server sees the connection go.
fn until_cut(body: kube::client::Body, cut: CancellationToken) -> axum::body::Body {
    let lines = body.into_data_stream().boxed();
    axum::body::Body::from_stream(stream::unfold((lines, cut), |(mut lines, cut)| async move {
        match cut.run_until_cancelled(lines.next()).await {
            Some(line) => Some((line?, (lines, cut))),
            None => {
                drop(lines);
                std::future::pending().await
            }
        }
    }))
}

#[derive(Debug)]
struct Wire {
    cable: Cable,
    inner: SharedTransport,
}

impl Transport for Wire {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        self.cable.note(&request);
        match self.cable.spoilt(&request) {
            None => {}
            Some(Spoilt::Hangs) => return Box::pin(std::future::pending()),
            Some(Spoilt::Panics) => panic!("as the test wants it"),
            Some(Spoilt::Forbidden) => {
                let mut answer = Response::new(bytes::Bytes::from_static(
                    br#"{"detail":"Not for you","message":"Not for you"}"#,
                ));
                *answer.status_mut() = http::StatusCode::FORBIDDEN;
                let json = http::HeaderValue::from_static("application/json");
                answer.headers_mut().insert(http::header::CONTENT_TYPE, json);
                return Box::pin(std::future::ready(Ok(answer)));
            }
        }
        Box::pin(async {
            let answer = self.cable.carry(self.inner.send(request)).await?;
            self.cable.note_answer(&answer);
            Ok(answer)
        })
    }
}
