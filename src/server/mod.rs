//! The daemon's own port: `/livez`, `/readyz`, `/metrics`, `/api/v1/status`, and a page for people at `/`.
//!
//! Reads only: one snapshot of the status, the heartbeat of the control loop, the metrics. It holds no state
//! of its own and answers even while the loop is stuck, which is how `/livez` can say so.

mod heartbeat;
mod page;
pub mod systemd;

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{net::TcpListener, sync::watch, time::timeout};

use crate::{
    shutdown::Tasks,
    status::Status,
    telemetry::metrics::{self, Metrics},
};

pub use heartbeat::Heartbeat;

/// Without a beat for this long, the control loop counts as dead.
pub const HEARTBEAT_LIMIT: Duration = Duration::from_secs(30);
/// How long open requests may take after the daemon was told to end.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

/// What the routes read.
#[derive(Clone, Debug)]
pub struct Sources {
    pub status: watch::Receiver<Arc<Status>>,
    pub heartbeat: Arc<Heartbeat>,
    pub metrics: Metrics,
}

/// The routes, also for calling them in process.
pub fn router(sources: Sources) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route("/api/v1/status", get(status))
        .with_state(sources)
}

/// Serves until the tasks are told to end.
pub fn serve(listener: TcpListener, sources: Sources, tasks: &Tasks) {
    let token = tasks.token().clone();
    tasks.spawn("server", async move {
        let stop = token.clone();
        let server = axum::serve(listener, router(sources))
            .with_graceful_shutdown(async move { stop.cancelled().await })
            .into_future();
        tokio::pin!(server);
        let ended = tokio::select! {
            biased;
            ended = &mut server => ended,
            () = token.cancelled() => timeout(LAST_REQUESTS, server).await.unwrap_or(Ok(())),
        };
        if let Err(error) = ended {
            tracing::error!(%error, "the daemon's own port failed");
        }
    });
}

async fn livez(State(sources): State<Sources>) -> Response {
    let age = sources.heartbeat.age();
    if age < HEARTBEAT_LIMIT {
        "ok\n".into_response()
    } else {
        let text = format!("the control loop has not moved for {} s\n", age.as_secs());
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

async fn readyz(State(sources): State<Sources>) -> Response {
    let status = Arc::clone(&sources.status.borrow());
    if status.ready {
        return "ready\n".into_response();
    }
    let mut text = "not ready\n".to_owned();
    for line in &status.not_ready {
        text.push_str(line);
        text.push('\n');
    }
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn metrics_text(State(sources): State<Sources>) -> Response {
    (
        [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)],
        sources.metrics.render(),
    )
        .into_response()
}

async fn status(State(sources): State<Sources>) -> Json<Status> {
    let status = Arc::clone(&sources.status.borrow());
    Json(Status::clone(&status))
}

async fn page(State(sources): State<Sources>) -> impl IntoResponse {
    let status = Arc::clone(&sources.status.borrow());
    (page::HEADERS, page::render(&status))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;
    use crate::clock::Clock;

    async fn ask(sources: &Sources, path: &str) -> (StatusCode, String) {
        let request = http::Request::get(path).body(Body::empty()).unwrap();
        let answer = router(sources.clone()).oneshot(request).await.unwrap();
        let status = answer.status();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    fn sources() -> (Sources, watch::Sender<Arc<Status>>) {
        let (sender, status) = watch::channel(Arc::new(Status {
            not_ready: vec!["the watch is not synced".to_owned()],
            ..Status::default()
        }));
        let sources = Sources {
            status,
            heartbeat: Arc::new(Heartbeat::new(&Clock::system())),
            metrics: Metrics::new(false),
        };
        (sources, sender)
    }

    #[tokio::test(start_paused = true)]
    async fn b39_live_while_the_loop_beats_and_dead_30_s_after_it_stopped() {
        let (sources, _sender) = sources();
        tokio::time::advance(Duration::from_secs(29)).await;
        assert_eq!(ask(&sources, "/livez").await.0, StatusCode::OK);
        tokio::time::advance(Duration::from_secs(1)).await;
        let (status, text) = ask(&sources, "/livez").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, "the control loop has not moved for 30 s\n");
        sources.heartbeat.beat();
        assert_eq!(ask(&sources, "/livez").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn b39_readiness_says_why_not() {
        let (sources, sender) = sources();
        let (status, text) = ask(&sources, "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, "not ready\nthe watch is not synced\n");
        sender.send_replace(Arc::new(Status {
            ready: true,
            ..Status::default()
        }));
        assert_eq!(ask(&sources, "/readyz").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn b39_status_is_the_snapshot_and_metrics_are_text() {
        let (sources, _sender) = sources();
        let (_, text) = ask(&sources, "/api/v1/status").await;
        let status: Status = serde_json::from_str(&text).unwrap();
        assert_eq!(status.not_ready, ["the watch is not synced"]);
        let (_, text) = ask(&sources, "/metrics").await;
        assert!(text.contains("# TYPE gharts_listener_build_info gauge"), "{text}");
    }

    #[tokio::test]
    async fn b39_the_page_loads_nothing_and_runs_nothing() {
        let (sources, _sender) = sources();
        let request = http::Request::get("/").body(Body::empty()).unwrap();
        let answer = router(sources).oneshot(request).await.unwrap();
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
        let policy = answer.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        let page = String::from_utf8(bytes.to_vec()).unwrap();
        assert!(page.contains("the watch is not synced"), "{page}");
        assert!(
            !page.contains("src=") && !page.contains("<script") && !page.contains("<link"),
            "{page}"
        );
    }
}
