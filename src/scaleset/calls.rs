//! The calls about runner groups, scale sets and runners. Each is made once: repetition is the caller's.

use http::{Method, StatusCode};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{
    connection::{Call, Connection, decode, escape},
    error::{About, Error, Missing},
    wire::{Agent, JitAnswer, List, RunnerGroup, ScaleSet, WholeList},
};

const SETS: &str = "_apis/runtime/runnerscalesets";
/// There is one pool of runners, numbered 0.
const AGENTS: &str = "_apis/distributedtask/pools/0/agents";

/// A registration and what its runner needs to start.
#[derive(Clone, Debug)]
pub struct Jit {
    /// `None`: the service told nobody's.
    pub agent_id: Option<i64>,
    pub name: String,
    pub config: SecretString,
}

/// What became of a runner's registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    Removed,
    /// It was not there (any more).
    AlreadyGone,
    /// It executes a job: the service keeps it, and its pod must be kept as well.
    Busy,
}

impl Connection {
    /// The runner group of that name, if this scope can see one.
    pub async fn runner_group(&self, name: &str) -> Result<Option<RunnerGroup>, Error> {
        const OPERATION: &str = "get runner group";
        let query = [("groupName", name)];
        let call = get(
            OPERATION,
            About::RunnerGroup,
            "_apis/runtime/runnergroups/".to_owned(),
            &query,
        );
        let groups: List<RunnerGroup> = decode(OPERATION, &self.call(call).await?)?;
        Ok(the_one_called(groups.value, name, |group| &group.name))
    }

    pub async fn scale_set_by_name(&self, group_id: i64, name: &str) -> Result<Option<ScaleSet>, Error> {
        const OPERATION: &str = "get scale set by name";
        let group = group_id.to_string();
        let query = [("runnerGroupId", group.as_str()), ("name", name)];
        let call = get(OPERATION, About::ScaleSet, SETS.to_owned(), &query);
        let sets: List<ScaleSet> = decode(OPERATION, &self.call(call).await?)?;
        Ok(the_one_called(sets.value, name, |set| &set.name))
    }

    pub async fn scale_set_by_id(&self, id: i64) -> Result<ScaleSet, Error> {
        const OPERATION: &str = "get scale set";
        let call = Call {
            set: Some(id),
            ..get(OPERATION, About::ScaleSet, format!("{SETS}/{id}"), &[])
        };
        decode(OPERATION, &self.call(call).await?)
    }

    /// Every scale set in scope, with statistics.
    pub async fn list_scale_sets(&self) -> Result<Vec<ScaleSet>, Error> {
        const OPERATION: &str = "list scale sets";
        let call = get(OPERATION, About::ScaleSet, SETS.to_owned(), &[]);
        let sets: List<ScaleSet> = decode(OPERATION, &self.call(call).await?)?;
        Ok(sets.value)
    }

    pub async fn create_scale_set(
        &self,
        group_id: i64,
        name: &str,
        labels: &[String],
        disable_update: bool,
    ) -> Result<ScaleSet, Error> {
        const OPERATION: &str = "create scale set";
        let body = whole_set(group_id, name, labels, disable_update);
        let call = send(
            OPERATION,
            About::ScaleSet,
            Method::POST,
            SETS.to_owned(),
            Some(body),
            None,
        );
        decode(OPERATION, &self.call(call).await?)
    }

    /// Renames a scale set or moves it to another group. Labels do not change by this call.
    pub async fn update_scale_set(&self, id: i64, group_id: i64, name: &str) -> Result<ScaleSet, Error> {
        const OPERATION: &str = "update scale set";
        let body = json!({"name": name, "runnerGroupId": group_id});
        let call = send(
            OPERATION,
            About::ScaleSet,
            Method::PATCH,
            format!("{SETS}/{id}"),
            Some(body),
            Some(id),
        );
        decode(OPERATION, &self.call(call).await?)
    }

    /// Replaces a scale set's labels. The answer may be wrong: read the set back.
    pub async fn put_labels(&self, set: &ScaleSet, labels: &[String], disable_update: bool) -> Result<(), Error> {
        const OPERATION: &str = "replace scale set labels";
        let body = whole_set(set.runner_group_id, &set.name, labels, disable_update);
        let path = format!("{SETS}/{}", set.id);
        let call = send(OPERATION, About::ScaleSet, Method::PUT, path, Some(body), Some(set.id));
        self.call(call).await.map(drop)
    }

    /// Only an operator's explicit command does this.
    pub async fn delete_scale_set(&self, id: i64) -> Result<(), Error> {
        let path = format!("{SETS}/{id}");
        let call = send(
            "delete scale set",
            About::ScaleSet,
            Method::DELETE,
            path,
            None,
            Some(id),
        );
        self.call(call).await.map(drop)
    }

    /// Registers a runner with the scale set, at once and offline.
    ///
    /// [`Error::AgentExists`]: the name is taken. After an error with [`Error::outcome_unknown`] the
    /// registration may exist; it is found by its name.
    pub async fn generate_jit_config(&self, set_id: i64, name: &str, work_folder: &str) -> Result<Jit, Error> {
        const OPERATION: &str = "generate JIT configuration";
        let body = json!({"name": name, "workFolder": work_folder});
        let path = format!("{SETS}/{set_id}/generatejitconfig");
        let call = send(OPERATION, About::ScaleSet, Method::POST, path, Some(body), Some(set_id));
        let answer = self.call(call).await.map_err(|error| match error {
            // A bare 409 here is about the runner, though the call is about the scale set.
            Error::ScaleSetExists(details) => Error::AgentExists(details),
            other => other,
        })?;
        let answer: JitAnswer = decode(OPERATION, &answer)?;
        Ok(Jit {
            agent_id: Some(answer.runner.id).filter(|id| *id > 0),
            name: answer.runner.name,
            config: answer.encoded_jit_config.into(),
        })
    }

    /// Every runner in scope, ordinary ones too: one call, which costs no REST budget.
    pub async fn agents(&self) -> Result<Vec<Agent>, Error> {
        const OPERATION: &str = "list runners";
        let call = get(OPERATION, About::Agent, AGENTS.to_owned(), &[]);
        // One that is missing is no longer registered: an answer without a list must not pass for an empty one, nor one
        // entry of a stranger's hide all others.
        let agents: WholeList = decode(OPERATION, &self.call(call).await?)?;
        let read = agents.value.into_iter().filter_map(|agent| {
            let read = serde_json::from_value(agent);
            if let Err(error) = &read {
                tracing::warn!(%error, "an entry of GitHub's list of runners cannot be read");
            }
            read.ok()
        });
        Ok(read.collect())
    }

    pub async fn agent_by_name(&self, name: &str) -> Result<Option<Agent>, Error> {
        const OPERATION: &str = "get runner by name";
        let query = [("agentName", name)];
        let call = get(OPERATION, About::Agent, AGENTS.to_owned(), &query);
        // A list without it says that it is not there; a 404 is no list, and proves nothing of a runner that may be busy.
        let agents: List<Agent> = decode(OPERATION, &self.call(call).await?)?;
        Ok(the_one_called(agents.value, name, |agent| &agent.name))
    }

    /// Takes a registration back, unless the runner is busy: the only race-free check.
    pub async fn delete_agent(&self, id: i64) -> Result<Removal, Error> {
        let call = send(
            "remove runner",
            About::Agent,
            Method::DELETE,
            format!("{AGENTS}/{id}"),
            None,
            None,
        );
        match self.call(call).await {
            Ok(_) => Ok(Removal::Removed),
            Err(Error::NotFound {
                what: Missing::Agent, ..
            }) => Ok(Removal::AlreadyGone),
            Err(Error::JobStillRunning(_)) => Ok(Removal::Busy),
            Err(error) => Err(error),
        }
    }

    /// Jobs on offer (GHES). Offers made to a dead session are found here only.
    pub async fn acquirable_jobs(&self, set_id: i64) -> Result<Vec<super::Job>, Error> {
        const OPERATION: &str = "list acquirable jobs";
        let call = Call {
            set: Some(set_id),
            ..get(
                OPERATION,
                About::ScaleSet,
                format!("{SETS}/{set_id}/acquirablejobs"),
                &[],
            )
        };
        let answer = match self.call(call).await {
            Ok(answer) => answer,
            // This tenant assigns jobs by itself. That the set is gone its own exception says.
            Err(Error::NotFound { details, .. }) if details.type_name.is_none() => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        if answer.status() == StatusCode::NO_CONTENT || answer.body().is_empty() {
            return Ok(Vec::new());
        }
        let jobs: super::wire::RawList = decode(OPERATION, &answer)?;
        Ok(jobs.value.iter().filter_map(super::message::read_job).collect())
    }
}

pub(super) fn sessions(set_id: i64) -> String {
    format!("{SETS}/{set_id}/sessions")
}

pub(super) fn session(set_id: i64, session_id: &str) -> String {
    format!("{SETS}/{set_id}/sessions/{}", escape(session_id))
}

pub(super) fn acquire(set_id: i64) -> String {
    format!("{SETS}/{set_id}/acquirejobs")
}

fn get<'a>(operation: &'static str, about: About, path: String, query: &'a [(&'a str, &'a str)]) -> Call<'a> {
    Call {
        operation,
        about,
        method: Method::GET,
        path,
        query,
        body: None,
        set: None,
    }
}

pub(super) fn send(
    operation: &'static str,
    about: About,
    method: Method,
    path: String,
    body: Option<Value>,
    set: Option<i64>,
) -> Call<'static> {
    Call {
        operation,
        about,
        method,
        path,
        query: &[],
        body,
        set,
    }
}

fn whole_set(group_id: i64, name: &str, labels: &[String], disable_update: bool) -> Value {
    let labels: Vec<Value> = labels.iter().map(|l| json!({"type": "System", "name": l})).collect();
    json!({
        "name": name,
        "runnerGroupId": group_id,
        "labels": labels,
        "RunnerSetting": {"disableUpdate": disable_update},
    })
}

/// Filters of the service may match more than the exact name; GitHub's names ignore case.
fn the_one_called<T>(list: Vec<T>, name: &str, name_of: impl Fn(&T) -> &String) -> Option<T> {
    list.into_iter().find(|item| name_of(item).eq_ignore_ascii_case(name))
}
