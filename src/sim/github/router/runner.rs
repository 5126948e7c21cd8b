//! The simulator's own endpoint for runner processes; the table stands at the head of `sim::github`.
//!
//! Operations: `runner connect`, `runner wait`, `runner renew`, `runner finish`, `runner disconnect`.

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::{super::control::GitHub, answer, credential, read};
use crate::sim::github::{agents::RunnerFault, world::AgentId};

pub(super) fn routes(github: &GitHub) -> Router<GitHub> {
    Router::new()
        .route("/connect", github.named("runner connect", post(connect)))
        .route("/job", github.named("runner wait", get(wait)))
        .route("/job/{job}/renew", github.named("runner renew", post(renew)))
        .route("/job/{job}/finish", github.named("runner finish", post(finish)))
        .route("/disconnect", github.named("runner disconnect", post(disconnect)))
}

#[derive(Debug, Deserialize)]
struct Place {
    agent: AgentId,
    #[serde(default)]
    job: String,
}

fn refuse(fault: RunnerFault) -> Response {
    let (status, message) = match fault {
        RunnerFault::BadSecret => (StatusCode::UNAUTHORIZED, "wrong secret"),
        RunnerFault::Gone => (StatusCode::NOT_FOUND, "the registration or the job is gone"),
        RunnerFault::JitUsed => (StatusCode::CONFLICT, "the JIT configuration was used before"),
    };
    answer(status, &json!({"message": message}))
}

fn secret(headers: &HeaderMap) -> &str {
    credential(headers, &["Bearer"]).unwrap_or_default()
}

async fn connect(State(github): State<GitHub>, Path(place): Path<Place>, headers: HeaderMap) -> Response {
    match github.change(|world, now| world.connect(place.agent, secret(&headers), now)) {
        Ok(session) => answer(StatusCode::OK, &json!({"session": session})),
        Err(fault) => refuse(fault),
    }
}

async fn wait(State(github): State<GitHub>, Path(place): Path<Place>, headers: HeaderMap) -> Response {
    match github.wait_for_job(place.agent, secret(&headers)).await {
        Ok(Some(work)) => answer(
            StatusCode::OK,
            &json!({
                "jobId": work.job, "requestId": work.request_id,
                "durationSeconds": work.duration_seconds, "exitCode": work.exit_code,
            }),
        ),
        Ok(None) => StatusCode::ACCEPTED.into_response(),
        Err(fault) => refuse(fault),
    }
}

async fn renew(State(github): State<GitHub>, Path(place): Path<Place>, headers: HeaderMap) -> Response {
    match github.change(|world, now| world.renew(place.agent, secret(&headers), &place.job, now)) {
        Ok(until) => answer(StatusCode::OK, &json!({"lockedUntil": until.to_string()})),
        Err(fault) => refuse(fault),
    }
}

#[derive(Deserialize)]
struct End {
    result: String,
}

async fn finish(State(github): State<GitHub>, Path(place): Path<Place>, headers: HeaderMap, body: Bytes) -> Response {
    let Some(end) = read::<End>(&body) else {
        return answer(StatusCode::BAD_REQUEST, &json!({"message": "no result"}));
    };
    let done =
        github.change(|world, now| world.finish_by_runner(place.agent, secret(&headers), &place.job, &end.result, now));
    match done {
        Ok(()) => answer(StatusCode::OK, &json!({})),
        Err(fault) => refuse(fault),
    }
}

async fn disconnect(State(github): State<GitHub>, Path(place): Path<Place>, headers: HeaderMap) -> Response {
    match github.change(|world, now| world.disconnect(place.agent, secret(&headers), now)) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(fault) => refuse(fault),
    }
}
