//! The runner's way out: a proxy with or without credentials, and a CA of one's own.

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, Container, EnvVar, EnvVarSource, KeyToPath, PodSpec, SecretKeySelector, SecretVolumeSource,
    Volume, VolumeMount,
};

use super::merge::{add_env, add_mount, add_volume, mount, set_env};
use crate::config::{CaSource, ContainerMode, Proxy, RunnerCa};

const CA_VOLUME: &str = "github-server-tls-cert";
/// Container hooks talk to the API server, which no proxy of GitHub's leads to.
const API_SERVER: [&str; 2] = ["$(KUBERNETES_SERVICE_HOST)", "kubernetes.default.svc"];

pub(super) fn add_proxy(runner: &mut Container, proxy: &Proxy, mode: &ContainerMode) {
    match mode {
        ContainerMode::Kubernetes(_) => set_proxy(runner, proxy, &API_SERVER),
        ContainerMode::None | ContainerMode::Dind(_) => set_proxy(runner, proxy, &[]),
    }
}

/// In both letter cases: programs disagree on which they read.
pub(super) fn set_proxy(container: &mut Container, proxy: &Proxy, direct: &[&str]) {
    for (name, url) in [("http_proxy", &proxy.http), ("https_proxy", &proxy.https)] {
        let Some(url) = url else { continue };
        for variable in [name.to_owned(), name.to_uppercase()] {
            match &proxy.runners_secret {
                // With its credentials, which belong in no pod.
                Some(secret) => add_env(container, from_secret(variable, secret, name)),
                None => set_env(container, &variable, url.as_str().trim_end_matches('/')),
            }
        }
    }
    if proxy.http.is_none() && proxy.https.is_none() {
        return;
    }
    let hosts: Vec<&str> = proxy
        .no_proxy
        .iter()
        .map(String::as_str)
        .chain(direct.iter().copied())
        .collect();
    if !hosts.is_empty() {
        for variable in ["no_proxy", "NO_PROXY"] {
            set_env(container, variable, &hosts.join(","));
        }
    }
}

fn from_secret(variable: String, secret: &str, key: &str) -> EnvVar {
    EnvVar {
        name: variable,
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector {
                name: secret.to_owned(),
                key: key.to_owned(),
                optional: None,
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

/// One file of a ConfigMap or Secret, which the runner's Node trusts and which it puts into its system's store.
pub(super) fn add_ca(spec: &mut PodSpec, runner: &mut Container, ca: &RunnerCa) {
    let path = format!("{}/{}", ca.mount_path.trim_end_matches('/'), ca.key);
    set_env(runner, "NODE_EXTRA_CA_CERTS", &path);
    set_env(runner, "RUNNER_UPDATE_CA_CERTS", "1");
    add_mount(
        runner,
        VolumeMount {
            sub_path: Some(ca.key.clone()),
            ..mount(CA_VOLUME, &path)
        },
    );
    let items = Some(vec![KeyToPath {
        key: ca.key.clone(),
        path: ca.key.clone(),
        mode: None,
    }]);
    let volume = Volume {
        name: CA_VOLUME.to_owned(),
        ..Volume::default()
    };
    add_volume(
        spec,
        match &ca.source {
            CaSource::ConfigMap(name) => Volume {
                config_map: Some(ConfigMapVolumeSource {
                    name: name.clone(),
                    items,
                    ..ConfigMapVolumeSource::default()
                }),
                ..volume
            },
            CaSource::Secret(name) => Volume {
                secret: Some(SecretVolumeSource {
                    secret_name: Some(name.clone()),
                    items,
                    ..SecretVolumeSource::default()
                }),
                ..volume
            },
        },
    );
}
