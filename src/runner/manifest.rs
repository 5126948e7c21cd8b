//! The pod and the Secret of one runner, pure: the set's template with the design's defaults.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::core::v1::{Container, EnvVar, EnvVarSource, Pod, PodSpec, PodTemplateSpec, Secret, SecretKeySelector},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use super::keys;
use crate::{
    ids::{RunnerName, SetName, slug},
    plan::runner::{Job, Meets, Purpose},
};

/// The container that runs jobs; every other one is a sidecar.
pub const RUNNER_CONTAINER: &str = "runner";
/// Where the runner reads its JIT configuration; the one secret in a pod, in this container only.
pub const JIT_ENV: &str = "ACTIONS_RUNNER_INPUT_JITCONFIG";
const DEFAULT_IMAGE: &str = "ghcr.io/actions/actions-runner:latest";
const DEFAULT_COMMAND: &str = "/home/runner/run.sh";
/// Makes a runner whose version GitHub no longer serves exit with 7 instead of 0.
const DEPRECATED_ENV: &str = "ACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE";
const DEFAULT_WORK_FOLDER: &str = "_work";
/// Kubernetes' own limit on a label's value.
const LABEL_MAX: usize = 63;
/// Annotations hold strangers' text; nobody needs more of it.
const ANNOTATION_MAX: usize = 1024;

/// Everything but the name, made once per scale set.
#[derive(Clone, Debug)]
pub struct Blueprint {
    set: SetName,
    pod: Pod,
    work_folder: String,
}

impl Blueprint {
    pub fn new(set: &SetName, template: &PodTemplateSpec) -> Self {
        let mut metadata = template.metadata.clone().unwrap_or_default();
        let labels = metadata.labels.get_or_insert_default();
        labels.insert(keys::MANAGED_BY.into(), keys::MANAGED_BY_VALUE.into());
        labels.insert(keys::COMPONENT.into(), keys::COMPONENT_VALUE.into());
        labels.insert(keys::SCALE_SET.into(), slug(set.as_str()));
        metadata
            .annotations
            .get_or_insert_default()
            .insert(keys::SCALE_SET.into(), set.as_str().into());

        let mut spec = template.spec.clone().unwrap_or_default();
        spec.restart_policy = Some("Never".to_owned());
        spec.automount_service_account_token.get_or_insert(false);
        if !spec.containers.iter().any(|c| c.name == RUNNER_CONTAINER) {
            spec.containers.insert(
                0,
                Container {
                    name: RUNNER_CONTAINER.to_owned(),
                    ..Container::default()
                },
            );
        }
        let mut work_folder = DEFAULT_WORK_FOLDER.to_owned();
        for container in spec.containers.iter_mut().filter(|c| c.name == RUNNER_CONTAINER) {
            container.image.get_or_insert_with(|| DEFAULT_IMAGE.to_owned());
            container
                .command
                .get_or_insert_with(|| vec![DEFAULT_COMMAND.to_owned()]);
            if let Some(dir) = &container.working_dir {
                work_folder.clone_from(dir);
            }
            let env = container.env.get_or_insert_default();
            if !env.iter().any(|e| e.name == DEPRECATED_ENV) {
                env.push(EnvVar {
                    name: DEPRECATED_ENV.to_owned(),
                    value: Some("1".to_owned()),
                    ..EnvVar::default()
                });
            }
        }
        Self {
            set: set.clone(),
            pod: Pod {
                metadata,
                spec: Some(spec),
                status: None,
            },
            work_folder,
        }
    }

    /// The runner's work folder: the template's `workingDir`, if it has one.
    pub fn work_folder(&self) -> &str {
        &self.work_folder
    }

    pub fn set(&self) -> &SetName {
        &self.set
    }

    /// The pod of runner `name`.
    pub fn pod(
        &self,
        name: &RunnerName,
        purpose: Purpose,
        meets: Meets,
        agent_id: Option<i64>,
        gharts_id: Option<&str>,
    ) -> Pod {
        let mut pod = self.pod.clone();
        pod.metadata.name = Some(name.to_string());
        let annotations = pod.metadata.annotations.get_or_insert_default();
        if let Some(id) = agent_id {
            annotations.insert(keys::AGENT_ID.into(), id.to_string());
        }
        if let Some(id) = gharts_id {
            annotations.insert(keys::GHARTS_ID.into(), cut(id, ANNOTATION_MAX).to_owned());
        }
        annotations.insert(keys::PURPOSE.into(), purpose_word(purpose).into());
        annotations.insert(keys::MEETS.into(), meets_word(meets).into());
        annotations.extend(evictable(purpose == Purpose::Spare));
        if let Some(spec) = &mut pod.spec {
            add_jit(spec, name);
        }
        pod
    }
}

fn add_jit(spec: &mut PodSpec, name: &RunnerName) {
    for container in spec.containers.iter_mut().filter(|c| c.name == RUNNER_CONTAINER) {
        container.env.get_or_insert_default().push(EnvVar {
            name: JIT_ENV.to_owned(),
            value_from: Some(EnvVarSource {
                secret_key_ref: Some(SecretKeySelector {
                    name: name.to_string(),
                    key: keys::JIT_CONFIG.to_owned(),
                    optional: None,
                }),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        });
    }
}

/// The runner's Secret: immutable, owned by the pod's uid, so that it cannot outlive it.
pub fn secret(name: &RunnerName, pod_uid: &str, jit_config: &SecretString) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_string()),
            labels: Some(BTreeMap::from([
                (keys::MANAGED_BY.into(), keys::MANAGED_BY_VALUE.into()),
                (keys::COMPONENT.into(), keys::COMPONENT_VALUE.into()),
            ])),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                name: name.to_string(),
                uid: pod_uid.to_owned(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        immutable: Some(true),
        data: Some(BTreeMap::from([(
            keys::JIT_CONFIG.to_owned(),
            ByteString(jit_config.expose_secret().as_bytes().to_vec()),
        )])),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}

/// Merge patch for a runner that became busy: ids as labels, full values as annotations, not safe to evict.
pub fn busy_patch(job: Option<&Job>) -> Value {
    let mut labels = BTreeMap::new();
    let mut annotations: BTreeMap<String, String> = evictable(false).into_iter().collect();
    if let Some(job) = job {
        let ids = [
            (keys::JOB_ID, job.id.clone()),
            (keys::RUN_ID, job.workflow_run_id.to_string()),
            (keys::REQUEST_ID, job.request_id.to_string()),
        ];
        for (key, value) in ids.iter().filter(|(_, v)| is_label_value(v)) {
            labels.insert((*key).to_owned(), value.clone());
        }
        let texts = [
            (keys::REPOSITORY, job.repository.as_str()),
            (keys::JOB_NAME, job.display_name.as_str()),
            (keys::WORKFLOW_REF, job.workflow_ref.as_str()),
        ];
        annotations.extend(
            ids.iter()
                .map(|(k, v)| ((*k).to_owned(), cut(v, ANNOTATION_MAX).to_owned())),
        );
        annotations.extend(
            texts
                .iter()
                .map(|(k, v)| ((*k).to_owned(), cut(v, ANNOTATION_MAX).to_owned())),
        );
    }
    json!({ "metadata": { "labels": labels, "annotations": annotations } })
}

fn evictable(safe: bool) -> [(String, String); 2] {
    [
        (keys::SAFE_TO_EVICT.to_owned(), safe.to_string()),
        (keys::DO_NOT_DISRUPT.to_owned(), (!safe).to_string()),
    ]
}

/// `demand` or `spare`.
pub fn purpose_word(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Demand => "demand",
        Purpose::Spare => "spare",
    }
}

fn meets_word(meets: Meets) -> &'static str {
    match meets {
        Meets::InSet => "set",
        Meets::ByLabels => "labels",
    }
}

/// The reverse of what a pod says; `None`: it does not say.
pub fn meets_of(word: Option<&str>) -> Option<Meets> {
    [Meets::InSet, Meets::ByLabels]
        .into_iter()
        .find(|meets| word == Some(meets_word(*meets)))
}

fn is_label_value(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= LABEL_MAX && bytes.iter().copied().all(inner) && edge(bytes.first()) && edge(bytes.last())
}

fn cut(text: &str, max: usize) -> &str {
    match text.char_indices().nth(max) {
        Some((at, _)) => &text[..at],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blueprint(template: Value) -> Blueprint {
        Blueprint::new(&SetName::new("Linux.Large"), &serde_json::from_value(template).unwrap())
    }

    fn name() -> RunnerName {
        RunnerName::new("linux-large-abcde-0123456789")
    }

    #[test]
    fn an_empty_template_gets_every_default() {
        let pod = blueprint(json!({})).pod(&name(), Purpose::Demand, Meets::InSet, Some(7), Some("uuid"));
        insta::assert_snapshot!(serde_json::to_string_pretty(&pod).unwrap());
    }

    #[test]
    fn b29_the_jit_configuration_is_referenced_by_the_runner_container_only() {
        let pod = blueprint(json!({"spec": {
            "containers": [{"name": "side", "image": "s"}, {"name": "runner", "image": "r"}],
            "initContainers": [{"name": "init", "image": "i"}],
        }}))
        .pod(&name(), Purpose::Demand, Meets::InSet, None, None);
        let spec = serde_json::to_value(pod.spec).unwrap();
        let refers = |c: &Value| c.to_string().contains(JIT_ENV);
        assert!(!refers(&spec["containers"][0]));
        assert!(refers(&spec["containers"][1]));
        assert!(!refers(&spec["initContainers"][0]));
        let secret = secret(&name(), "uid-1", &"jit".to_owned().into());
        assert_eq!(secret.immutable, Some(true));
        assert_eq!(secret.metadata.owner_references.unwrap()[0].uid, "uid-1");
    }

    #[test]
    fn b34_only_spare_runners_start_safe_to_evict() {
        let safe = |purpose| {
            let pod = blueprint(json!({})).pod(&name(), purpose, Meets::InSet, None, None);
            pod.metadata.annotations.unwrap()[keys::SAFE_TO_EVICT].clone()
        };
        assert_eq!(safe(Purpose::Demand), "false");
        assert_eq!(safe(Purpose::Spare), "true");
        assert_eq!(
            busy_patch(None)["metadata"]["annotations"][keys::SAFE_TO_EVICT],
            "false"
        );
    }

    #[test]
    fn a_strangers_job_name_becomes_an_annotation_never_a_label() {
        let job = Job {
            id: "0a1b".into(),
            request_id: 0,
            display_name: "x".repeat(5000) + "<script>",
            ..Job::default()
        };
        let patch = busy_patch(Some(&job));
        assert_eq!(patch["metadata"]["labels"][keys::JOB_ID], "0a1b");
        assert_eq!(
            patch["metadata"]["annotations"][keys::JOB_NAME].as_str().unwrap().len(),
            ANNOTATION_MAX
        );
    }

    #[test]
    fn the_templates_working_directory_is_the_runners_work_folder() {
        let with = blueprint(json!({"spec": {"containers": [{"name": "runner", "workingDir": "/work"}]}}));
        assert_eq!(with.work_folder(), "/work");
        assert_eq!(blueprint(json!({})).work_folder(), "_work");
    }
}
