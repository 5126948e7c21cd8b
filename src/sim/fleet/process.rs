//! The runner's process: from a JIT configuration to one job and an exit code.
//!
//! Speaks the simulator's own endpoint for runners (its table stands at the head of `sim::github`).

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Method, StatusCode, header};
use serde_json::{Value, json};

use crate::{
    clock::Clock,
    http::{Response, SharedTransport, send},
};

/// A held poll and then some.
const DEADLINE: Duration = Duration::from_secs(120);
const RENEW_EVERY: Duration = Duration::from_secs(60);
/// Rest after an answer that makes no sense, or none.
const PAUSE: Duration = Duration::from_secs(1);
/// Who the runner is, from its JIT configuration.
#[derive(Clone)]
pub(super) struct Identity {
    /// `{origin}/_sim/runner/{agentId}`
    base: String,
    secret: String,
}

impl Identity {
    /// Reads the configuration: base64 of a JSON map from file name to base64 content.
    pub(super) fn decode(jit: &str) -> Option<Self> {
        let files: Value = serde_json::from_slice(&STANDARD.decode(jit.trim()).ok()?).ok()?;
        let file = |name: &str| -> Option<Value> {
            serde_json::from_slice(&STANDARD.decode(files[name].as_str()?).ok()?).ok()
        };
        let runner = file(".runner")?;
        let url = url::Url::parse(runner["serverUrl"].as_str()?).ok()?;
        let agent = runner["agentId"].as_u64()?;
        Some(Self {
            base: format!("{}/_sim/runner/{agent}", url.origin().ascii_serialization()),
            secret: file(".credentials")?["data"]["secret"].as_str()?.to_owned(),
        })
    }
}

/// One process.
pub(super) struct Process {
    identity: Identity,
    github: SharedTransport,
    clock: Clock,
    stage: Mutex<Stage>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Starting,
    Idle,
    Busy,
}

/// An answer that ends the process: the registration or the job is gone.
struct Refused;

struct Job {
    id: String,
    duration: Duration,
    exit_code: i32,
}

impl Process {
    pub(super) fn new(identity: Identity, github: SharedTransport, clock: Clock) -> Self {
        Self {
            identity,
            github,
            clock,
            stage: Mutex::new(Stage::Starting),
        }
    }

    /// Connects, runs one job, says with what code the process ends; `None`: its registration or job is gone, or its
    /// configuration was used before. Without a job it leaves after so long, if at all.
    pub(super) async fn run(&self, leaves_after: Option<Duration>) -> Option<i32> {
        self.live(leaves_after).await.ok()
    }

    /// It connects, and GitHub never hears of it again.
    pub(super) async fn fall_silent(&self) {
        // Refused or not, it goes on.
        let _ = self.call(Method::POST, "/connect", Bytes::new()).await;
    }

    /// What a runner does when it is asked to end: an idle one says good-bye, a busy one has no time for it.
    pub(super) async fn terminate(&self) {
        if self.stage() == Stage::Idle {
            // Best effort, as the real one's.
            let _ = self.attempt(Method::POST, "/disconnect", Bytes::new()).await;
        }
    }

    async fn live(&self, leaves_after: Option<Duration>) -> Result<i32, Refused> {
        self.call(Method::POST, "/connect", Bytes::new()).await?;
        self.set(Stage::Idle);
        let patience = leaves_after.unwrap_or(Duration::MAX);
        let Ok(job) = tokio::time::timeout(patience, self.job()).await else {
            self.terminate().await;
            return Ok(0);
        };
        let job = job?;
        self.set(Stage::Busy);
        self.work(&job).await?;
        let result = if job.exit_code == 0 { "succeeded" } else { "failed" };
        let body = json!({ "result": result }).to_string();
        self.call(Method::POST, &format!("/job/{}/finish", job.id), body.into())
            .await?;
        Ok(job.exit_code)
    }

    async fn job(&self) -> Result<Job, Refused> {
        loop {
            let answer = self.call(Method::GET, "/job", Bytes::new()).await?;
            if let Some(job) = read_job(&answer) {
                return Ok(job);
            }
        }
    }

    async fn work(&self, job: &Job) -> Result<(), Refused> {
        let end = self.clock.instant() + job.duration;
        loop {
            let left = end.saturating_duration_since(self.clock.instant());
            if left <= RENEW_EVERY {
                tokio::time::sleep(left).await;
                return Ok(());
            }
            tokio::time::sleep(RENEW_EVERY).await;
            self.call(Method::POST, &format!("/job/{}/renew", job.id), Bytes::new())
                .await?;
        }
    }

    /// Calls until there is an answer that says something.
    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Response, Refused> {
        loop {
            match self.attempt(method.clone(), path, body.clone()).await {
                Some(answer) if answer.status().is_success() => return Ok(answer),
                Some(answer) if answer.status().is_client_error() && !passes(answer.status()) => return Err(Refused),
                _ => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn attempt(&self, method: Method, path: &str, body: Bytes) -> Option<Response> {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.identity.base))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.identity.secret))
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
            .ok()?;
        send(self.github.as_ref(), request, DEADLINE).await.ok()
    }

    fn stage(&self) -> Stage {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, stage: Stage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }
}

fn passes(status: StatusCode) -> bool {
    matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

fn read_job(answer: &Response) -> Option<Job> {
    let job: Value = serde_json::from_slice(answer.body()).ok()?;
    Some(Job {
        id: job["jobId"].as_str()?.to_owned(),
        duration: Duration::try_from_secs_f64(job["durationSeconds"].as_f64()?).ok()?,
        exit_code: i32::try_from(job["exitCode"].as_i64()?).ok()?,
    })
}
