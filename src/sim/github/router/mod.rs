//! HTTP over the model: paths, credentials, statuses, headers. No state of its own.
//!
//! Every operation has a name; the call counters, and the setting that puts a byte order mark in front of
//! answers, go by it.

mod limits;
mod rest;
mod runner;
mod service;

use std::time::Duration;

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, any},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use super::{control::GitHub, world::uuid};

impl GitHub {
    /// The whole service; see the module's head for the addresses.
    pub fn router(&self) -> Router {
        let rest = rest::routes(self);
        Router::new()
            .nest("/api/v3", rest.clone())
            .merge(rest)
            .nest("/actions-service/{tenant}", service::routes(self))
            .nest("/_sim/runner/{agent}", runner::routes(self))
            .fallback_service(self.named("unknown", any(unknown)).with_state(self.clone()))
            .with_state(self.clone())
    }

    /// Gives a route its operation's name.
    fn named(&self, operation: &'static str, route: MethodRouter<Self>) -> MethodRouter<Self> {
        route.layer(middleware::from_fn_with_state((self.clone(), operation), observe))
    }
}

async fn unknown() -> Response {
    answer(StatusCode::NOT_FOUND, &json!({"message": "Not Found"}))
}

/// Counts the call, adds the setting's latency, and puts on every answer what GitHub puts on it.
async fn observe(State((github, operation)): State<(GitHub, &'static str)>, request: Request, next: Next) -> Response {
    let (latency, marked) = github.with(|world, _| {
        let settings = &world.settings;
        (settings.latency, settings.byte_order_mark.contains(operation))
    });
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    let limit = github.with(|world, now| limits::refusal(world, operation, now));
    let mut response = match limit {
        Some(refusal) => refusal,
        None => next.run(request).await,
    };
    if marked {
        response = with_byte_order_mark(response).await;
    }
    let status = response.status().as_u16();
    let (activity, request_id, date) = github.change(|world, now| {
        *world.calls.entry((operation, status)).or_default() += 1;
        let n = world.trace.u64(..);
        let request_id = format!(
            "{:04X}:{:05X}:{:07X}:{:08X}",
            n >> 48,
            (n >> 28) & 0xf_ffff,
            n & 0xfff_ffff,
            n >> 32
        );
        let date = now.wall.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        (uuid(&mut world.trace), request_id, date)
    });
    let way_back = github.with(|world, _| match world.settings.answer_latency {
        Duration::ZERO => Duration::ZERO,
        longest => longest.mul_f64(world.picks.f64()),
    });
    if !way_back.is_zero() {
        tokio::time::sleep(way_back).await;
    }
    let headers = response.headers_mut();
    for (name, value) in [
        ("activityid", activity),
        ("x-github-request-id", request_id),
        ("date", date),
    ] {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    response
}

async fn with_byte_order_mark(response: Response) -> Response {
    let is_json = |v: &HeaderValue| v.as_bytes().starts_with(b"application/json");
    if !response.headers().get(header::CONTENT_TYPE).is_some_and(is_json) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    match body.collect().await {
        Ok(body) => {
            let marked = [b"\xef\xbb\xbf".as_slice(), &body.to_bytes()].concat();
            Response::from_parts(parts, Body::from(marked))
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// JSON whatever its content type says: clients of this service are careless about it.
fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Option<T> {
    serde_json::from_slice(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)).ok()
}

fn answer(status: StatusCode, body: &Value) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "application/json; charset=utf-8")],
        body.to_string(),
    )
        .into_response()
}

/// The credential of `Authorization`, if its scheme is one of `schemes`.
fn credential<'a>(headers: &'a HeaderMap, schemes: &[&str]) -> Option<&'a str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    schemes
        .iter()
        .any(|s| s.eq_ignore_ascii_case(scheme))
        .then(|| token.trim())
}
