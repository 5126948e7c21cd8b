//! The pod and the Secret of one runner, pure: the set's template with the design's defaults.
//!
//! | file | what it is |
//! | --- | --- |
//! | `dind`, `kubernetes` | what a container mode adds to the template |
//! | `outside` | the way out for the runner: proxy and CA |
//! | `merge` | the template's own word counts more than ours |
//! | `marks` | what is written on a pod later |

mod dind;
mod kubernetes;
mod marks;
mod merge;
mod outside;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::core::v1::{Container, EnvVar, EnvVarSource, Pod, PodSpec, PodTemplateSpec, Secret, SecretKeySelector},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

pub use self::marks::{busy_patch, keep_patch};
use self::{
    marks::{ANNOTATION_MAX, cut, evictable},
    merge::set_env,
};
use super::keys;
use crate::{
    config::{ContainerMode, Proxy, RunnerCa, ScaleSet},
    ids::{Maker, RunnerName, SetName, slug},
    plan::runner::{Meets, Purpose},
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
/// Digits of a template's hash.
const HASH_LEN: usize = 16;

/// Everything but the name, made once per scale set.
#[derive(Clone, Debug)]
pub struct Blueprint {
    set: SetName,
    pod: Pod,
    hash: String,
    work_folder: String,
}

/// What the file says of a set's pods.
#[derive(Clone, Copy, Debug)]
pub struct Intent<'a> {
    pub template: &'a PodTemplateSpec,
    pub mode: &'a ContainerMode,
    pub proxy: &'a Proxy,
    /// Trusted by the runner beside the system's roots.
    pub ca: Option<&'a RunnerCa>,
}

impl<'a> From<&'a ScaleSet> for Intent<'a> {
    fn from(set: &'a ScaleSet) -> Self {
        Self {
            template: &set.template,
            mode: &set.container_mode,
            proxy: &set.github.proxy,
            ca: set.github.runner_ca.as_ref(),
        }
    }
}

impl Blueprint {
    pub fn new(set: &SetName, intent: Intent<'_>) -> Self {
        let template = intent.template;
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
        let mut runner = take_runner(&mut spec);
        runner.image.get_or_insert_with(|| DEFAULT_IMAGE.to_owned());
        runner.command.get_or_insert_with(|| vec![DEFAULT_COMMAND.to_owned()]);
        let work_folder = runner.working_dir.clone();
        set_env(&mut runner, DEPRECATED_ENV, "1");
        match intent.mode {
            ContainerMode::None => {}
            ContainerMode::Dind(dind) => dind::add(&mut spec, &mut runner, dind, intent.proxy),
            ContainerMode::Kubernetes(mode) => kubernetes::add(&mut spec, &mut runner, mode),
        }
        if !matches!(intent.mode, ContainerMode::Kubernetes(_)) {
            spec.automount_service_account_token.get_or_insert(false);
        }
        outside::add_proxy(&mut runner, intent.proxy, intent.mode);
        if let Some(ca) = intent.ca {
            outside::add_ca(&mut spec, &mut runner, ca);
        }
        spec.containers.insert(0, runner);
        let mut pod = Pod {
            metadata,
            spec: Some(spec),
            status: None,
        };
        let hash = hash(&pod);
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(keys::TEMPLATE.into(), hash.clone());
        Self {
            set: set.clone(),
            pod,
            hash,
            work_folder: work_folder.unwrap_or_else(|| DEFAULT_WORK_FOLDER.to_owned()),
        }
    }

    /// Of everything that the template says: two that differ make different pods.
    pub fn hash(&self) -> &str {
        &self.hash
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

/// Says who has made the pod.
pub fn belongs_to(pod: &mut Pod, maker: Maker) {
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(keys::LEASE.into(), maker.lease);
    annotations.extend(maker.github.map(|github| (keys::GITHUB.to_owned(), github)));
}

/// The container `runner`, out of its list: what is added to it is added to it alone.
fn take_runner(spec: &mut PodSpec) -> Container {
    match spec.containers.iter().position(|c| c.name == RUNNER_CONTAINER) {
        Some(at) => spec.containers.remove(at),
        None => Container {
            name: RUNNER_CONTAINER.to_owned(),
            ..Container::default()
        },
    }
}

fn hash(pod: &Pod) -> String {
    let text = serde_json::to_vec(pod).unwrap_or_default();
    // Templates are told apart, not signed.
    format!("{:x}", Sha256::digest(text)).chars().take(HASH_LEN).collect()
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
