//! The wire between a daemon and its world, which can be cut: what remains of a process that got SIGKILL is
//! that nothing is heard of it any more. What it had sent takes effect or not; no answer reaches it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{StreamExt as _, future::BoxFuture, stream};
use gharts_listener::http::{Request, Response, SharedTransport, Transport, TransportError};
use http_body_util::BodyExt as _;
use tokio_util::sync::CancellationToken;

/// Where a daemon is killed: at its `call`th request to anybody.
#[derive(Clone, Copy, Debug)]
pub enum Kill {
    /// The request is never sent.
    Before { call: u64 },
    /// It takes effect, and the daemon does not live to see the answer. Where it was given up before, the next
    /// one that is answered.
    After { call: u64 },
}

/// All wires of one daemon. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Cable {
    cut: CancellationToken,
    calls: Arc<AtomicU64>,
    kill: Arc<Mutex<Option<Kill>>>,
    secrets: Arc<Mutex<BTreeSet<String>>>,
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

    fn note(&self, request: &Request) {
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

    async fn carry<T>(&self, call: impl Future<Output = T>) -> T {
        let number = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let kill = *self.kill.lock().unwrap();
        if matches!(kill, Some(Kill::Before { call }) if call == number) {
            self.cut();
        }
        let answer = self.cut.run_until_cancelled(call).await;
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
        Box::pin(async {
            let answer = self.cable.carry(self.inner.send(request)).await?;
            self.cable.note_answer(&answer);
            Ok(answer)
        })
    }
}
