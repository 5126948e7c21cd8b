//! What a pod tells, pure: from the API's object to the few facts that a runner's life needs.

use std::{borrow::Cow, collections::BTreeMap};

use jiff::Timestamp;
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::ContainerState,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use serde::{Deserialize, Deserializer};

use super::{
    keys,
    manifest::{RUNNER_CONTAINER, meets_of},
};
use crate::{
    http::redact,
    ids::{Maker, RunnerName, SetName},
    plan::{
        Moment,
        runner::{Adopted, Job, Kept, PodEnd, PodFacts, PodProgress, Purpose},
    },
};

/// A container that waits for these waits for nothing in particular.
const STARTING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// As much of the API's Pod as is read here. Decoding all of it, managed fields first of all, would take a fifth of
/// the daemon's time in a burst.
#[derive(Clone, Debug, Deserialize)]
pub struct WatchedPod {
    #[serde(deserialize_with = "read_metadata")]
    metadata: ObjectMeta,
    #[serde(default)]
    spec: Spec,
    status: Option<Status>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    phase: Option<String>,
    reason: Option<String>,
    message: Option<String>,
    conditions: Option<Vec<Condition>>,
    init_container_statuses: Option<Vec<Container>>,
    container_statuses: Option<Vec<Container>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: Option<String>,
    message: Option<String>,
    last_transition_time: Option<Time>,
}

#[derive(Clone, Debug, Deserialize)]
struct Container {
    name: String,
    state: Option<ContainerState>,
}

fn read_metadata<'de, D: Deserializer<'de>>(from: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        annotations: Option<BTreeMap<String, String>>,
        creation_timestamp: Option<Time>,
        deletion_timestamp: Option<Time>,
    }
    let read = Metadata::deserialize(from)?;
    Ok(ObjectMeta {
        name: read.name,
        namespace: read.namespace,
        uid: read.uid,
        resource_version: read.resource_version,
        annotations: read.annotations,
        creation_timestamp: read.creation_timestamp,
        deletion_timestamp: read.deletion_timestamp,
        ..ObjectMeta::default()
    })
}

impl kube::Resource for WatchedPod {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// One of our pods, read.
#[derive(Clone, Debug)]
pub struct PodSeen {
    pub name: RunnerName,
    pub set: SetName,
    pub purpose: Purpose,
    /// Hash of the template that it was made of.
    pub template: Option<String>,
    /// `None`: made by an older version.
    pub maker: Option<Maker>,
    pub adopted: Adopted,
}

/// Reads a pod; `moment` turns wall time into the planner's. `None`: not a pod of ours.
pub fn read(pod: &WatchedPod, moment: impl Fn(Timestamp) -> Moment) -> Option<PodSeen> {
    let annotation = |key: &str| pod.metadata.annotations.as_ref()?.get(key).map(String::as_str);
    let set = SetName::new(annotation(keys::SCALE_SET)?);
    let name = RunnerName::new(pod.metadata.name.as_deref()?);
    let created = pod
        .metadata
        .creation_timestamp
        .as_ref()
        .map_or(Moment::START, |t| moment(t.0));
    let job = annotation(keys::JOB_ID).map(|id| Job {
        id: id.to_owned(),
        request_id: annotation(keys::REQUEST_ID).and_then(|v| v.parse().ok()).unwrap_or(0),
        repository: annotation(keys::REPOSITORY).unwrap_or_default().to_owned(),
        display_name: annotation(keys::JOB_NAME).unwrap_or_default().to_owned(),
        workflow_ref: annotation(keys::WORKFLOW_REF).unwrap_or_default().to_owned(),
        workflow_run_id: annotation(keys::RUN_ID).and_then(|v| v.parse().ok()).unwrap_or(0),
    });
    Some(PodSeen {
        name,
        set,
        purpose: if annotation(keys::PURPOSE) == Some("spare") {
            Purpose::Spare
        } else {
            Purpose::Demand
        },
        template: annotation(keys::TEMPLATE).map(str::to_owned),
        maker: annotation(keys::LEASE).map(|lease| Maker {
            lease: lease.to_owned(),
            github: annotation(keys::GITHUB).map(str::to_owned),
        }),
        adopted: Adopted {
            pod: PodFacts {
                uid: pod.metadata.uid.clone().unwrap_or_default(),
                version: pod.metadata.resource_version.clone().unwrap_or_default(),
                created,
                progress: progress(pod.status.as_ref(), created, &moment),
                deleting: pod.metadata.deletion_timestamp.is_some(),
                bound: pod.spec.node_name.is_some(),
                says: pod.status.as_ref().and_then(trouble),
            },
            agent_id: annotation(keys::AGENT_ID).and_then(|v| v.parse().ok()),
            gharts_id: annotation(keys::GHARTS_ID).map(str::to_owned),
            job,
            meets: meets_of(annotation(keys::MEETS)),
            kept: annotation(keys::KEPT_UNTIL)
                .and_then(|until| until.parse().ok())
                .map(|until| Kept {
                    reason: annotation(keys::FAILED).unwrap_or_default().to_owned(),
                    since: created,
                    until: moment(until),
                }),
        },
    })
}

fn progress(status: Option<&Status>, created: Moment, moment: &impl Fn(Timestamp) -> Moment) -> PodProgress {
    let Some(status) = status else {
        return PodProgress::Unscheduled;
    };
    let at = |time: Option<&Time>| time.map_or(created, |t| moment(t.0));
    let phase = status.phase.as_deref().unwrap_or_default();
    if let Some(state) = runner_state(status) {
        // A pod that was evicted or lost its node says so itself; how its container died is then no news of it.
        let taken_away = phase == "Failed" && status.reason.is_some();
        if let Some(end) = state
            .terminated
            .as_ref()
            .filter(|end| end.exit_code == 0 || !taken_away)
        {
            return PodProgress::Ended(PodEnd {
                exit_code: Some(end.exit_code),
                reason: end.reason.clone().unwrap_or_else(|| phase.to_owned()),
            });
        }
        if let (Some(running), false) = (&state.running, is_over(phase)) {
            return PodProgress::Running {
                since: at(running.started_at.as_ref()),
            };
        }
    }
    if is_over(phase) {
        return PodProgress::Ended(PodEnd {
            exit_code: None,
            reason: status.reason.clone().unwrap_or_else(|| phase.to_owned()),
        });
    }
    let scheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.kind == "PodScheduled" && c.status == "True");
    match scheduled {
        Some(condition) => PodProgress::Preparing {
            since: at(condition.last_transition_time.as_ref()),
        },
        None => PodProgress::Unscheduled,
    }
}

/// What Kubernetes says of the pod's trouble, if it has any.
fn trouble(status: &Status) -> Option<String> {
    let words = |parts: [Option<&str>; 2]| -> Option<String> {
        let parts: Vec<&str> = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect();
        (!parts.is_empty()).then(|| parts.join(": "))
    };
    let of_pod = || words([status.reason.as_deref(), status.message.as_deref()]);
    let unscheduled = || {
        let conditions = status.conditions.iter().flatten();
        let condition = conditions
            .into_iter()
            .find(|c| c.kind == "PodScheduled" && c.status == "False")?;
        words([condition.reason.as_deref(), condition.message.as_deref()])
    };
    let containers = || {
        let all = status.init_container_statuses.iter().flatten();
        all.chain(status.container_statuses.iter().flatten())
    };
    let of_container = |container: &Container| {
        let state = container.state.as_ref()?;
        let what = if let Some(waiting) = &state.waiting {
            let reason = waiting.reason.as_deref().filter(|reason| !STARTING.contains(reason))?;
            words([Some(reason), waiting.message.as_deref()])
        } else {
            let end = state.terminated.as_ref().filter(|end| end.exit_code != 0)?;
            let code = format!(
                "exit code {} ({})",
                end.exit_code,
                end.reason.as_deref().unwrap_or("Error")
            );
            words([Some(&code), end.message.as_deref()])
        }?;
        Some(if container.name == RUNNER_CONTAINER {
            what
        } else {
            format!("container {}: {what}", container.name)
        })
    };
    // The runner's own words count for more than a sidecar's.
    let runner = containers()
        .filter(|c| c.name == RUNNER_CONTAINER)
        .find_map(of_container);
    let said = of_pod()
        .or(runner)
        .or_else(|| containers().find_map(of_container))
        .or_else(unscheduled)?;
    Some(redact(&said))
}

fn is_over(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

fn runner_state(status: &Status) -> Option<&ContainerState> {
    status
        .container_statuses
        .iter()
        .flatten()
        .find(|c| c.name == RUNNER_CONTAINER)?
        .state
        .as_ref()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_status(status: &serde_json::Value) -> PodProgress {
        let pod: WatchedPod = serde_json::from_value(json!({
            "metadata": {
                "name": "a-abcde-0123456789", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z",
                "annotations": {"gharts-listener/scale-set": "a", "gharts-listener/agent-id": "12"},
            },
            "status": status,
        }))
        .unwrap();
        let base: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let seen = read(&pod, |t| {
            Moment::from_millis(i64::try_from(t.duration_since(base).as_millis()).unwrap())
        })
        .unwrap();
        assert_eq!(seen.adopted.agent_id, Some(12));
        seen.adopted.pod.progress
    }

    #[test]
    fn progress_follows_the_container_named_runner() {
        let ended = |code, reason: &str| {
            PodProgress::Ended(PodEnd {
                exit_code: code,
                reason: reason.to_owned(),
            })
        };
        assert_eq!(read_status(&json!({"phase": "Pending"})), PodProgress::Unscheduled);
        assert_eq!(
            read_status(&json!({"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:05Z"}]})),
            PodProgress::Preparing {
                since: Moment::from_millis(5000)
            }
        );
        assert_eq!(
            read_status(
                &json!({"phase": "Running", "containerStatuses": [{"name": "runner", "image": "", "imageID": "",
                "ready": true, "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:07Z"}}}]})
            ),
            PodProgress::Running {
                since: Moment::from_millis(7000)
            }
        );
        // b33: a failed sidecar fails the pod, not the runner.
        assert_eq!(
            read_status(&json!({"phase": "Failed", "containerStatuses": [
                {"name": "side", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 1}}},
                {"name": "runner", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                 "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]})),
            ended(Some(0), "Completed")
        );
        // b32: the kubelet killed the container of a pod that it evicted.
        assert_eq!(
            read_status(&json!({"phase": "Failed", "reason": "Evicted", "containerStatuses": [
                {"name": "runner", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                 "state": {"terminated": {"exitCode": 137, "reason": "Error"}}}]})),
            ended(None, "Evicted")
        );
        assert_eq!(
            read_status(&json!({"phase": "Failed", "reason": "Evicted"})),
            ended(None, "Evicted")
        );
    }
}
