//! The simulated GitHub: REST as far as runners need it, the Actions service's scale sets, sessions, queue and
//! agents, and an endpoint of the simulator's own for runner processes.
//!
//! Two layers: the model (one [`GitHub`] handle over plain state; assert on it in tests) and a thin axum router
//! ([`GitHub::router`]). The model follows what was recorded of the real service, not what clients expect.
//!
//! # Addresses
//! One router answers for everything. REST stands both under `/api/v3` (as on GHES) and at the root (as on
//! `api.github.com`); the Actions service under `/actions-service/{tenant}/`; runner processes under `/_sim`.
//! Served at `http://127.0.0.1:PORT`, a configuration URL is `http://127.0.0.1:PORT/acme`. In a test that wants
//! github.com, the same router is attached for `api.github.com` and for the Actions service's host.
//!
//! # Runner processes
//! How real runners talk to GitHub is recorded nowhere; this is our own. From the JIT configuration (base64 of
//! a JSON map from file name to base64 content) a runner reads `agentId` and `serverUrl` out of `.runner` and
//! `data.secret` out of `.credentials`; all calls go to the origin of `serverUrl` with
//! `Authorization: Bearer SECRET` (else 401).
//!
//! | call | answers |
//! | --- | --- |
//! | `POST /_sim/runner/{agentId}/connect` | `200 {"session"}`; 404 the registration is gone; 409 the JIT configuration was used before |
//! | `GET /_sim/runner/{agentId}/job` | held as long as a poll: `200 {"jobId","requestId","durationSeconds","exitCode"}`, again for the same job until it ends; 202 nothing yet; 404 gone |
//! | `POST /_sim/runner/{agentId}/job/{jobId}/renew` | every 60 s while a job runs: `200 {"lockedUntil"}`; 404 the job is not this runner's any more |
//! | `POST /_sim/runner/{agentId}/job/{jobId}/finish` `{"result"}` | 200; the ephemeral runner is deregistered; 404 as above |
//! | `POST /_sim/runner/{agentId}/disconnect` | 204; the runner is offline, its registration stays |
//!
//! # What it does not do
//! Workflows, webhooks, runner updates, organization policies beyond "this token may not". Fault injection
//! (resets, delays, wrong answers) lies in the network between, not here.

mod access;
mod agents;
mod control;
mod demand;
mod forget;
mod jobs;
mod poll;
mod router;
mod sessions;
mod sets;
mod settings;
mod wire;
mod world;

pub use control::{GitHub, JobError, JobHandle, JobState, JobView, RunnerView, SetView};
pub use jobs::NewJobs;
pub use sets::Statistics;
pub use settings::{
    App, AssignedJobsRunOn, Flow, GroupAccess, Lie, Limit, Limited, Pat, Repositories, Settings, Setup,
};
pub use world::{AgentId, SetId, Violation};
