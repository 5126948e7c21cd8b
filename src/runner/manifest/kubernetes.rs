//! Jobs in pods of their own, made by the runner's container hooks: with a volume that both share, or without.

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, Container, EnvVar, EnvVarSource, EphemeralVolumeSource, ObjectFieldSelector,
    PersistentVolumeClaimTemplate, PodSpec, Volume, VolumeMount,
};

use super::merge::{add_env, add_mount, add_volume, mount, set_env};
use crate::config::{HookTemplate, KubernetesMode};

const WORK: &str = "work";
const WORK_PATH: &str = "/home/runner/_work";
const TEMPLATE_VOLUME: &str = "hook-extension";
const TEMPLATE_FILE: &str = "hook-template.yaml";

pub(super) fn add(spec: &mut PodSpec, runner: &mut Container, mode: &KubernetesMode) {
    if spec.service_account_name.is_none() {
        spec.service_account_name = Some(mode.service_account.clone());
    }
    set_env(runner, "ACTIONS_RUNNER_CONTAINER_HOOKS", &mode.hook);
    add_env(
        runner,
        EnvVar {
            name: "ACTIONS_RUNNER_POD_NAME".to_owned(),
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    field_path: "metadata.name".to_owned(),
                    api_version: None,
                }),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        },
    );
    let required = mode.require_job_container.to_string();
    set_env(runner, "ACTIONS_RUNNER_REQUIRE_JOB_CONTAINER", &required);
    if let Some(claim) = &mode.work_volume_claim {
        add_mount(runner, mount(WORK, WORK_PATH));
        let template = PersistentVolumeClaimTemplate {
            metadata: None,
            spec: claim.clone(),
        };
        add_volume(
            spec,
            Volume {
                name: WORK.to_owned(),
                ephemeral: Some(EphemeralVolumeSource {
                    volume_claim_template: Some(template),
                }),
                ..Volume::default()
            },
        );
    } else {
        let image = runner.image.clone().unwrap_or_default();
        set_env(runner, "ACTIONS_RUNNER_IMAGE", &image);
    }
    if let Some(template) = &mode.hook_template {
        add_template(spec, runner, mode, template);
    }
}

/// The file that the hooks lay over the job pods which they make.
fn add_template(spec: &mut PodSpec, runner: &mut Container, mode: &KubernetesMode, template: &HookTemplate) {
    let folder = mode.hook.rsplit_once('/').map_or("", |(folder, _)| folder);
    let path = format!("{folder}/{TEMPLATE_FILE}");
    set_env(runner, "ACTIONS_RUNNER_CONTAINER_HOOK_TEMPLATE", &path);
    add_mount(
        runner,
        VolumeMount {
            sub_path: Some(template.key.clone()),
            read_only: Some(true),
            ..mount(TEMPLATE_VOLUME, &path)
        },
    );
    add_volume(
        spec,
        Volume {
            name: TEMPLATE_VOLUME.to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: template.config_map.clone(),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        },
    );
}
