//! The control interface of a served world: what a person, a script or somebody's test of their own client may
//! do to it. [`HELP`] is its description for people.

mod gharts;
mod github;

use std::time::Duration;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, patch, post},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    github::{AssignedJobsRunOn, Flow, JobError, NewJobs, Settings},
    kubernetes::Model,
    world::{Counters, DaemonWrites, Leaks, ORGANIZATION, Services},
};

/// For `sim --help`.
pub const HELP: &str = "\
Control interface, on the same HTTP port as GitHub (bodies and answers are JSON):
  POST  /control/jobs {\"scaleSet\",\"count\":1,\"durationSeconds\":10,\"exitCode\":0}
                                       queue jobs -> {\"jobs\":[{\"id\",\"requestId\"}]}
  GET   /control/jobs                  every job
  GET   /control/jobs/{id}             one job, with when it got where
  POST  /control/jobs/{id}/start {\"runner\"}    run it by hand on a runner of that name
  POST  /control/jobs/{id}/finish {\"result\"}   end it: succeeded, failed, canceled
  POST  /control/jobs/{id}/cancel      before a runner has it
  POST  /control/jobs/{id}/drop        its assignment vanishes without a message
  POST  /control/scale-sets/{name}/expire-queue-token
  POST  /control/scale-sets/{name}/lose-session
  PATCH /control/settings {\"flow\":\"github\"|\"ghes\",\"pollHoldSeconds\",\"adminTokenTtlSeconds\",
                           \"sessionTtlSeconds\",\"assignedJobsRunOn\":\"setRunners\"|\"matchingLabels\",
                           \"latencyMs\"}        latencyMs: added to every answer of GitHub
  GET   /control/settings
  PATCH /control/github {...}          what befalls it, any of:
    \"limit\": {\"whom\", \"as\", \"seconds\"}  \"rest\" calls or those to the Actions \"service\" meet a rate
                                       limit: primary, secondary, secondaryUntold, tooMany
    \"group\": {\"name\", \"scope\", \"publicRepositories\", \"selected\": [], \"workflows\": []}
                                       whom a runner group lets in; what is absent is open
    \"multiLabel\": BOOL               false: only a scale set's first label is stored
    \"refusedNames\": {NAME: WORDS}    scale sets of these names are refused
    \"revokeTokens\": true             installation tokens and admin tokens are dead
    \"removeScaleSet\": NAME           as with one that nobody used for a week
  PATCH /control/gharts {...}          what its administrator does and what befalls it, any of:
    \"account\": NAME                    whom the next four are about: a team, or with --gharts
                                       user an identity; the daemon's own unless it stands here
    \"quota\": N | null                  runners that it may have
    \"foreignRunners\": N                places of its quota that runners of strangers hold
    \"policy\": {\"labels\", \"patterns\"}   lists: labels that a team requires (an identity may have,
                                       \"*\": all), and patterns of further ones
    \"team\": {\"active\", \"reason\"}       deactivates the team, or activates it again
    \"member\": BOOL                     the daemon's user joins the team or leaves it
    \"userActive\": BOOL                 the daemon's user
    \"clientActive\": BOOL               the machine client of sim.json
    \"clientTeam\": NAME                 its team from now on
    \"jwks\": \"ok\"|\"fails\"|\"slow\"|\"lost\" the issuers' keys, as GHARTS finds them
    \"github\": \"ok\"|\"slow\"|\"lost\"|STATUS
                                       GitHub, as GHARTS alone finds it: it does what it is
                                       asked and nobody hears of it, or it refuses with STATUS
    \"next\": {\"call\", \"fault\", \"times\": 1}
                                       what befalls the next calls (jit, token, delete, list,
                                       get, me): refused (500, nothing is done), answerLost,
                                       answerSpoiled (500, all is done), unrecorded (500, GitHub
                                       did it and no record was written)
    \"pace\": \"atOnce\"|\"recorded\"        see --gharts-pace
    \"freezes\": BOOL                    stands still for 30 s at each call beyond what the
                                       database serves at once
    \"freezeSeconds\": N                 stands still now
    \"sync\": true                       compares its records with GitHub now
  GET   /control/gharts
  GET   /control/state                 scale sets, runners, jobs by state, what is left over, and the invariant:
                                       at each creation of a pod, live + 1 <= min(limits, minRunners + assigned
                                       as last delivered): maxLiveRunners, limitExceeded

Pods with the annotation sim.gharts/behaviour (put it into the template) misbehave: unschedulable,
image-pull-fails, never-registers, crashes:CODE, evicted:SECONDS, out-of-memory:SECONDS, node-lost:SECONDS.

A runner process of your own (--no-fleet) reads agentId and serverUrl from .runner and data.secret from
.credentials of the JIT configuration and calls the origin of serverUrl with Authorization: Bearer SECRET:
  POST  /_sim/runner/{agentId}/connect             200; 404 registration gone; 409 configuration used before
  GET   /_sim/runner/{agentId}/job                 held: 200 {\"jobId\",\"requestId\",\"durationSeconds\",\"exitCode\"}
                                                   or 202 nothing yet, ask again
  POST  /_sim/runner/{agentId}/job/{jobId}/renew   every 60 s
  POST  /_sim/runner/{agentId}/job/{jobId}/finish {\"result\"}
  POST  /_sim/runner/{agentId}/disconnect";

/// A world under control.
#[derive(Clone)]
pub struct Controlled {
    pub services: Services,
    pub counters: Counters,
    /// May do everything in the cluster.
    pub admin: kube::Client,
    /// None: the cluster is real.
    pub kubernetes: Option<Model>,
}

impl std::fmt::Debug for Controlled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controlled").finish_non_exhaustive()
    }
}

impl Controlled {
    /// The control interface.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/control/jobs", get(jobs).post(queue))
            .route("/control/jobs/{id}", get(job))
            .route("/control/jobs/{id}/{action}", post(act))
            .route("/control/scale-sets/{name}/{action}", post(upset))
            .route("/control/settings", patch(configure).get(settings))
            .route("/control/github", patch(github::change))
            .route("/control/gharts", patch(gharts::change).get(gharts::show))
            .route("/control/state", get(state))
            .with_state(self.clone())
    }

    /// Everything that a run is judged by.
    pub async fn state(&self) -> Result<Value, super::world::WorldError> {
        let github = &self.services.github;
        let leaks = Leaks::count(&self.services, &self.admin).await?;
        let mut by_state = std::collections::BTreeMap::<String, u64>::new();
        for job in github.jobs() {
            let word = json!(job.state).as_str().unwrap_or_default().to_owned();
            *by_state.entry(word).or_default() += 1;
        }
        let writes = self.kubernetes.as_ref().map(DaemonWrites::of);
        Ok(json!({
            "scaleSets": github.sets(),
            "runners": github.runners(),
            "jobs": by_state,
            "unfinishedJobs": github.unfinished_jobs(),
            "liveRunners": self.counters.live(),
            "maxLiveRunners": self.counters.max_live(),
            "maxLiveRunnersByScaleSet": self.counters.max_live_by_set(),
            "podsCreated": self.counters.created(),
            "limitExceeded": self.counters.exceeded(),
            "left": leaks,
            "violations": github.violations(),
            "calls": github.calls(),
            "daemonWrites": writes.map(|w| w.by_kind),
        }))
    }
}

/// Why a request is not carried out.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "message": self.1 }))).into_response()
    }
}

impl From<JobError> for Refusal {
    fn from(error: JobError) -> Self {
        let status = match error {
            JobError::Unknown => StatusCode::NOT_FOUND,
            JobError::WrongState(_) => StatusCode::CONFLICT,
        };
        Self(status, error.to_string())
    }
}

/// A body, whatever its content type says; none is an empty object.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| Refusal(StatusCode::BAD_REQUEST, error.to_string()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Queue {
    scale_set: String,
    #[serde(default = "one")]
    count: usize,
    #[serde(default = "ten_seconds")]
    duration_seconds: f64,
    #[serde(default)]
    exit_code: i32,
}

const fn one() -> usize {
    1
}

const fn ten_seconds() -> f64 {
    10.0
}

/// More jobs than this in one request are a mistake.
const MOST_JOBS: usize = 100_000;

async fn queue(State(world): State<Controlled>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let asked: Queue = read(&body)?;
    let bad = |message: &str| Refusal(StatusCode::BAD_REQUEST, message.to_owned());
    let duration = Duration::try_from_secs_f64(asked.duration_seconds)
        .map_err(|_| bad("durationSeconds: 0 or more is expected"))?;
    if asked.count == 0 || asked.count > MOST_JOBS {
        return Err(bad("count: 1 to 100000 is expected"));
    }
    let jobs = NewJobs::for_set(ORGANIZATION, &asked.scale_set, asked.count)
        .lasting(duration)
        .exiting(asked.exit_code);
    Ok(Json(json!({ "jobs": world.services.github.queue_jobs(&jobs) })))
}

async fn jobs(State(world): State<Controlled>) -> Json<Value> {
    Json(json!({ "jobs": world.services.github.jobs() }))
}

async fn job(State(world): State<Controlled>, Path(id): Path<String>) -> Result<Json<Value>, Refusal> {
    match world.services.github.job(&id) {
        Some(job) => Ok(Json(json!(job))),
        None => Err(JobError::Unknown.into()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    runner: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Finish {
    #[serde(default = "succeeded")]
    result: String,
}

/// How a job may end.
const RESULTS: [&str; 3] = ["succeeded", "failed", "canceled"];

fn succeeded() -> String {
    "succeeded".to_owned()
}

async fn act(
    State(world): State<Controlled>,
    Path((id, action)): Path<(String, String)>,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let github = &world.services.github;
    match action.as_str() {
        "start" => github.start_job(&id, &read::<Start>(&body)?.runner)?,
        "finish" => {
            let result = read::<Finish>(&body)?.result;
            if !RESULTS.contains(&result.as_str()) {
                let message = format!("a job ends as one of {}, not as {result:?}", RESULTS.join(", "));
                return Err(Refusal(StatusCode::BAD_REQUEST, message));
            }
            github.finish_job(&id, &result)?;
        }
        "cancel" => github.cancel(&id)?,
        "drop" => github.drop_assignment(&id)?,
        _ => return Err(nothing(&action)),
    }
    Ok(Json(json!(github.job(&id))))
}

async fn upset(
    State(world): State<Controlled>,
    Path((name, action)): Path<(String, String)>,
) -> Result<Json<Value>, Refusal> {
    let github = &world.services.github;
    if github.set(&name).is_none() {
        let message = format!("there is no scale set {name}");
        return Err(Refusal(StatusCode::NOT_FOUND, message));
    }
    let done = match action.as_str() {
        "expire-queue-token" => github.expire_queue_token(&name),
        "lose-session" => github.lose_session(&name),
        _ => return Err(nothing(&action)),
    };
    if done {
        Ok(Json(json!({})))
    } else {
        let message = "nobody has a session with it".to_owned();
        Err(Refusal(StatusCode::CONFLICT, message))
    }
}

fn nothing(action: &str) -> Refusal {
    Refusal(StatusCode::NOT_FOUND, format!("there is nothing called {action}"))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Change {
    flow: Option<Flow>,
    poll_hold_seconds: Option<u32>,
    admin_token_ttl_seconds: Option<u32>,
    session_ttl_seconds: Option<u32>,
    assigned_jobs_run_on: Option<AssignedJobsRunOn>,
    latency_ms: Option<u32>,
}

impl Change {
    fn apply(&self, settings: &mut Settings) {
        let seconds = |n: u32| Duration::from_secs(n.into());
        if let Some(flow) = self.flow {
            settings.flow = flow;
        }
        if let Some(hold) = self.poll_hold_seconds {
            settings.poll_hold = seconds(hold);
        }
        if let Some(ttl) = self.admin_token_ttl_seconds {
            settings.admin_token_ttl = seconds(ttl);
        }
        if let Some(ttl) = self.session_ttl_seconds {
            settings.session_ttl = (seconds(ttl), seconds(ttl));
        }
        if let Some(who) = self.assigned_jobs_run_on {
            settings.assigned_jobs_run_on = who;
        }
        if let Some(latency) = self.latency_ms {
            settings.latency = Duration::from_millis(latency.into());
        }
    }
}

async fn configure(State(world): State<Controlled>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let change: Change = read(&body)?;
    world.services.github.configure(|settings| change.apply(settings));
    Ok(settings(State(world)).await)
}

async fn settings(State(world): State<Controlled>) -> Json<Value> {
    let settings = world.services.github.settings();
    Json(json!({
        "flow": settings.flow,
        "pollHoldSeconds": settings.poll_hold.as_secs(),
        "adminTokenTtlSeconds": settings.admin_token_ttl.as_secs(),
        "sessionTtlSeconds": settings.session_ttl.0.as_secs(),
        "assignedJobsRunOn": settings.assigned_jobs_run_on,
        "latencyMs": u64::try_from(settings.latency.as_millis()).unwrap_or(u64::MAX),
    }))
}

async fn state(State(world): State<Controlled>) -> Result<Json<Value>, Refusal> {
    match world.state().await {
        Ok(state) => Ok(Json(state)),
        Err(error) => Err(Refusal(StatusCode::BAD_GATEWAY, error.to_string())),
    }
}
