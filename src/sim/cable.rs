//! The wire between a daemon and its world, which can be cut: what remains of a process that got SIGKILL is
//! that nothing is heard of it any more. What it had sent takes effect or not; no answer reaches it.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures::{StreamExt as _, future::BoxFuture, stream};
use http_body_util::BodyExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::http::{Request, Response, SharedTransport, Transport, TransportError, peer};

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
    looking: Looking,
    without_cluster: Arc<AtomicBool>,
    fatal: Arc<Mutex<(String, u32)>>,
}

/// Sees every request over HTTP as it leaves the daemon, and its answer as it arrives.
pub trait Onlooker: Send + Sync {
    fn asked(&self, sent: &Sent, request: &Request);
    fn answered(&self, sent: &Sent, answer: Result<&Response, &TransportError>);
    /// The same of one to the API server: `METHOD /path?query`.
    fn cluster_asked(&self, line: &str);
    /// What came of it: 0 where the connection broke.
    fn cluster_answered(&self, _line: &str, _status: u16) {}
    /// Answered, or given up.
    fn ended(&self, sent: &Sent);
}

/// A request on its way.
struct Going {
    cable: Cable,
    sent: Sent,
}

impl Drop for Going {
    fn drop(&mut self) {
        if let Some(onlooker) = self.cable.onlooker() {
            onlooker.ended(&self.sent);
        }
    }
}

#[derive(Clone, Default)]
struct Looking(Arc<Mutex<Option<Arc<dyn Onlooker>>>>);

impl fmt::Debug for Looking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Looking")
    }
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

/// What GitHub puts in front of its answers.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Of what no field tells, so many characters without a gap may be a secret: longer than any id, and than the name of
/// an organization in the service's paths.
const SECRET_RUN: usize = 41;

/// Secrets that stand in the body of an answer. Of one that cannot be read whatever looks like one.
fn secrets_in(body: &[u8]) -> Vec<String> {
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    match serde_json::from_slice(body) {
        Ok(serde_json::Value::Object(fields)) => {
            let values = SECRET_FIELDS.iter().filter_map(|field| fields.get(*field)?.as_str());
            values.map(str::to_owned).collect()
        }
        Ok(_) => Vec::new(),
        Err(_) => {
            let text = String::from_utf8_lossy(body);
            let runs = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
            runs.filter(|run| run.len() >= SECRET_RUN).map(str::to_owned).collect()
        }
    }
}

impl Cable {
    pub fn cut(&self) {
        self.cut.cancel();
    }

    pub fn is_cut(&self) -> bool {
        self.cut.is_cancelled()
    }

    pub fn cut_at(&self, kill: Kill) {
        self.steps.store(0, Ordering::Relaxed);
        *lock(&self.kill) = Some(kill);
    }

    /// The same, with calls counted from now on.
    pub fn cut_after(&self, kill: Kill) {
        let so_far = self.calls.load(Ordering::Relaxed);
        self.cut_at(match kill {
            Kill::Before { call } => Kill::Before { call: so_far + call },
            Kill::After { call } => Kill::After { call: so_far + call },
            Kill::AtStep { .. } => kill,
        });
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
                if cable.without_cluster.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
                cable.panic_at(&request);
                let line = format!("{} {}", request.method(), request.uri());
                if let Some(onlooker) = cable.onlooker() {
                    onlooker.cluster_asked(&line);
                }
                let answer = cable.carry(inner.send(request)).await;
                if let Some(onlooker) = cable.onlooker() {
                    let status = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
                    onlooker.cluster_answered(&line, status);
                }
                let answer = answer?;
                let cut = cable.cut.clone();
                Ok::<_, kube::Error>(answer.map(|body| until_cut(body, cut)))
            }
        });
        kube::Client::new(service, namespace)
    }

    /// Whether this daemon alone gets no answers from the API server to what it asks from now on.
    pub fn lose_cluster(&self, lost: bool) {
        self.without_cluster.store(lost, Ordering::Relaxed);
    }

    /// From now on, so often, whoever asks the API server for a path with this in it panics.
    pub fn make_fatal(&self, path: &str, times: u32) {
        *lock(&self.fatal) = (path.to_owned(), times);
    }

    fn panic_at<B>(&self, request: &http::Request<B>) {
        let is_met = {
            let (path, left) = &mut *lock(&self.fatal);
            let is_met = *left > 0 && request.uri().path().contains(path.as_str());
            *left -= u32::from(is_met);
            is_met
        };
        if is_met {
            // No words on standard error: it is what was asked for.
            std::panic::resume_unwind(Box::new("as the test wants it"));
        }
    }

    /// Every credential shown and every secret handed out over HTTP so far.
    pub fn secrets(&self) -> BTreeSet<String> {
        lock(&self.secrets).clone()
    }

    /// From now on these requests come to no good.
    pub fn spoil(&self, spoil: Spoil) {
        *lock(&self.spoiler.0) = Some(spoil);
    }

    fn spoilt(&self, request: &Request) -> Option<Spoilt> {
        let spoil = lock(&self.spoiler.0).clone();
        spoil.and_then(|spoil| spoil(request))
    }

    /// Shows everything from now on to `onlooker`.
    pub fn look_on(&self, onlooker: Arc<dyn Onlooker>) {
        *lock(&self.looking.0) = Some(onlooker);
    }

    fn onlooker(&self) -> Option<Arc<dyn Onlooker>> {
        lock(&self.looking.0).clone()
    }

    /// Every request over HTTP so far.
    pub fn log(&self) -> Vec<Sent> {
        lock(&self.log).clone()
    }

    fn note(&self, request: &Request) -> Sent {
        let sent = Sent {
            at: Instant::now(),
            authority: peer(request),
            line: format!("{} {}", request.method(), request.uri().path()),
        };
        lock(&self.log).push(sent.clone());
        if let Some(value) = request.headers().get(http::header::AUTHORIZATION) {
            let credential = value.to_str().ok().and_then(|value| value.split_once(' '));
            lock(&self.secrets).extend(credential.map(|(_, credential)| credential.to_owned()));
        }
        if let Some(onlooker) = self.onlooker() {
            onlooker.asked(&sent, request);
        }
        sent
    }

    fn note_answer(&self, answer: &Response) {
        lock(&self.secrets).extend(secrets_in(answer.body()));
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
        let kill = *lock(&self.kill);
        if matches!(kill, Some(Kill::AtStep { step }) if step == number) {
            self.cut();
        }
    }

    async fn carry<T>(&self, call: impl Future<Output = T>) -> T {
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let kill = *lock(&self.kill);
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
        if let Some(line) = cut.run_until_cancelled(lines.next()).await {
            return Some((line?, (lines, cut)));
        }
        drop(lines);
        std::future::pending().await
    }))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Wire {
    cable: Cable,
    inner: SharedTransport,
}

impl Transport for Wire {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        if self.cable.is_cut() {
            // What is left of a process that is dead asks nobody anything.
            return Box::pin(std::future::pending());
        }
        let going = Going {
            sent: self.cable.note(&request),
            cable: self.cable.clone(),
        };
        match self.cable.spoilt(&request) {
            None => {}
            Some(Spoilt::Hangs) => return Box::pin(std::future::pending()),
            // No words on standard error: it is what was asked for.
            Some(Spoilt::Panics) => std::panic::resume_unwind(Box::new("as the test wants it")),
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
        Box::pin(async move {
            let answer = self.cable.carry(self.inner.send(request)).await;
            if let Some(onlooker) = self.cable.onlooker() {
                onlooker.answered(&going.sent, answer.as_ref());
            }
            let answer = answer?;
            self.cable.note_answer(&answer);
            Ok(answer)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_also_from_answers_that_nobody_can_read() {
        let jit = "A".repeat(64);
        let body = format!("\u{feff}{{\"runner\":{{\"id\":1}},\"encodedJITConfig\":\"{jit}\",\"name\":\"short\"}}");
        assert_eq!(secrets_in(body.as_bytes()), std::slice::from_ref(&jit));
        let half = &body.as_bytes()[..body.len() - 40];
        assert_eq!(secrets_in(half), [jit[..64 - 40 + 17].to_owned()]);
        assert!(secrets_in(b"<html>Please sign in</html>").is_empty());
    }
}
