//! The Actions service's error form, and job messages as JSON.

use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    jobs::Job,
    settings::Flow,
    world::{AgentId, SetId},
};

/// A refusal of the Actions service: `{"typeName", "message"}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) status: StatusCode,
    pub(super) type_name: String,
    pub(super) message: String,
}

impl Fault {
    fn runtime(status: StatusCode, name: &str, message: String) -> Self {
        Self {
            status,
            type_name: format!("GitHub.Actions.Runtime.WebApi.{name}, GitHub.Actions.Runtime.WebApi"),
            message,
        }
    }

    fn task(status: StatusCode, name: &str, message: String) -> Self {
        Self {
            status,
            type_name: format!("GitHub.DistributedTask.WebApi.{name}, GitHub.DistributedTask.WebApi"),
            message,
        }
    }

    pub(super) fn no_set(id: SetId) -> Self {
        let message = format!("No runner scale set found with identifier {id}.");
        Self::runtime(StatusCode::NOT_FOUND, "RunnerScaleSetNotFoundException", message)
    }

    pub(super) fn set_exists(name: &str) -> Self {
        let message = format!("The runner scale set {name} already exists.");
        Self::runtime(StatusCode::BAD_REQUEST, "RunnerScaleSetExistsException", message)
    }

    pub(super) fn no_group(id: u64) -> Self {
        let message = format!("No runner group found with identifier {id}.");
        Self::runtime(StatusCode::NOT_FOUND, "RunnerGroupNotFoundException", message)
    }

    pub(super) fn session_conflict(set: &str, owner: &str) -> Self {
        let message = format!("The runner scale set {set} already has an active session for owner {owner}.");
        Self::runtime(StatusCode::CONFLICT, "RunnerScaleSetSessionConflictException", message)
    }

    pub(super) fn no_session(id: &str) -> Self {
        let message = format!("The runner scale set session {id} does not exist or has expired.");
        Self::runtime(StatusCode::NOT_FOUND, "RunnerScaleSetSessionExpiredException", message)
    }

    pub(super) fn no_message(id: u64) -> Self {
        let message = format!("No message found with identifier {id}.");
        Self::runtime(StatusCode::NOT_FOUND, "RunnerScaleSetMessageNotFoundException", message)
    }

    pub(super) fn assigns_by_itself() -> Self {
        let message = "No HTTP resource was found that matches the request.".to_owned();
        Self::runtime(StatusCode::NOT_FOUND, "VssResourceNotFoundException", message)
    }

    pub(super) fn invalid(message: &str) -> Self {
        Self::runtime(StatusCode::BAD_REQUEST, "InvalidRequestException", message.to_owned())
    }

    pub(super) fn agent_exists(name: &str) -> Self {
        let message = format!("A runner with the name {name} already exists.");
        Self::task(StatusCode::CONFLICT, "AgentExistsException", message)
    }

    pub(super) fn no_agent(id: AgentId) -> Self {
        let message = format!("No runner found with identifier {id}.");
        Self::task(StatusCode::NOT_FOUND, "AgentNotFoundException", message)
    }

    pub(super) fn job_still_running(name: &str) -> Self {
        let message = format!("Runner \"{name}\" is still running a job.");
        Self::task(StatusCode::BAD_REQUEST, "JobStillRunningException", message)
    }

    pub(super) fn unauthorized(what: &str) -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            type_name: "GitHub.Services.Common.VssUnauthorizedException, GitHub.Services.Common".to_owned(),
            message: format!("The {what} is missing, invalid or expired."),
        }
    }

    pub(super) fn json(&self) -> Value {
        json!({"$id": "1", "typeName": self.type_name, "message": self.message, "errorCode": 0})
    }
}

/// The four kinds of job message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Available,
    Assigned,
    Started,
    Completed,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Available => "JobAvailable",
            Self::Assigned => "JobAssigned",
            Self::Started => "JobStarted",
            Self::Completed => "JobCompleted",
        }
    }
}

/// One entry of a message's body. `result` is said by `Completed` alone: a job that is taken back is
/// reported as canceled without being over.
pub(super) fn job_message(kind: Kind, job: &Job, flow: Flow, acquire_url: &str, result: Option<&str>) -> Value {
    let request = match flow {
        Flow::GitHub => 0,
        Flow::Ghes => job.request_id,
    };
    let mut message = json!({
        "messageType": kind.name(),
        "runnerRequestId": request,
        "repositoryName": job.repository, "ownerName": job.owner,
        "jobId": job.id,
        "jobWorkflowRef": format!("{}/{}/.github/workflows/ci.yml@refs/heads/main", job.owner, job.repository),
        "jobDisplayName": format!("build {}", job.key),
        "workflowRunId": job.run_id, "eventName": "push",
        "requestLabels": job.target.labels,
        "queueTime": job.queued.to_string(),
        "scaleSetAssignTime": time(job.assigned),
        "runnerAssignTime": time(job.started),
        "finishTime": time(job.finished),
    });
    let runner = job.runner.as_ref();
    let runner_id = runner.map_or(0, |r| r.id);
    let runner_name = runner.map_or("", |r| r.name.as_str());
    match kind {
        Kind::Available => message["acquireJobUrl"] = acquire_url.into(),
        Kind::Assigned => {}
        Kind::Started => {
            message["runnerId"] = runner_id.into();
            message["runnerName"] = runner_name.into();
        }
        Kind::Completed => {
            message["result"] = result.unwrap_or_default().into();
            message["runnerId"] = runner_id.into();
            message["runnerName"] = runner_name.into();
        }
    }
    message
}

fn time(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "0001-01-01T00:00:00Z".to_owned(), |t| t.to_string())
}
