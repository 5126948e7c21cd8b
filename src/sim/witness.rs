//! Who asked for a runner, and when: looks at the requests for JIT configurations that come in over a socket.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::Method,
    middleware::{self, Next},
    response::Response,
};
use http_body_util::{BodyExt as _, Limited};
use jiff::Timestamp;
use serde_json::Value;

use crate::clock::Clock;

/// A request for one runner is a few hundred bytes.
const LARGEST: usize = 1 << 20;

/// When a runner was asked for, and when it was granted.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub requested: Timestamp,
    pub granted: Option<Timestamp>,
}

/// Clones share what was seen.
#[derive(Clone, Debug)]
pub struct Witness {
    seen: Arc<Mutex<HashMap<String, Asked>>>,
    clock: Clock,
}

impl Witness {
    pub fn new(clock: Clock) -> Self {
        Self {
            seen: Arc::default(),
            clock,
        }
    }

    /// Looks at what `router` is asked.
    pub fn watch(&self, router: Router) -> Router {
        router.layer(middleware::from_fn_with_state(self.clone(), look))
    }

    /// What was seen of the runner of this name.
    pub fn runner(&self, name: &str) -> Option<Asked> {
        self.lock().get(name).copied()
    }

    fn requested(&self, name: &str) {
        let requested = self.clock.now();
        self.lock().entry(name.to_owned()).or_insert(Asked {
            requested,
            granted: None,
        });
    }

    fn granted(&self, name: &str) {
        let now = self.clock.now();
        if let Some(request) = self.lock().get_mut(name) {
            request.granted.get_or_insert(now);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Asked>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn look(State(witness): State<Witness>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let for_a_runner =
        request.method() == Method::POST && (path.ends_with("/runners/jit") || path.ends_with("/generatejitconfig"));
    if !for_a_runner {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = Limited::new(body, LARGEST).collect().await else {
        let mut refused = Response::new(Body::empty());
        *refused.status_mut() = http::StatusCode::PAYLOAD_TOO_LARGE;
        return refused;
    };
    let body = body.to_bytes();
    let name = name_in(&body);
    if let Some(name) = &name {
        witness.requested(name);
    }
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    if let Some(name) = name.filter(|_| response.status().is_success()) {
        witness.granted(&name);
    }
    response
}

/// GHARTS takes `runner_name`, GitHub `name`.
fn name_in(body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let name = body["runner_name"].as_str().or_else(|| body["name"].as_str())?;
    Some(name.to_owned())
}
