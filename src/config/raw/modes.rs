//! What the container modes take, as written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::duration::DurationText;

/// Docker in Docker. A container named `dind` in the template is laid over the one that this makes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Dind")]
pub(in crate::config) struct RawDind {
    /// `docker:dind` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub(in crate::config) image: Option<String>,
    /// Path of the socket that daemon and runner share: `/var/run/docker.sock` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::config) socket: Option<String>,
    /// Id of the group that owns the socket: `123` by default, as in the runner's image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::config) group_id: Option<u32>,
    /// Further arguments of `dockerd`, such as `--registry-mirror=https://mirror.example.com`, `--mtu=1400`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(in crate::config) args: Vec<String>,
    /// Resources of the daemon's container, as in a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub(in crate::config) resources: Option<serde_json::Value>,
    /// How long the runner waits for the daemon: `2m` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::config) wait_for_docker: Option<DurationText>,
    /// Copy the runner's own tools to where the daemon can mount them (default: `true`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::config) copy_externals: Option<bool>,
    /// A native sidecar (default: `true`). `false`: an ordinary container, for Kubernetes before 1.29.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::config) native_sidecar: Option<bool>,
}

/// Jobs in pods of their own, which the runner's hooks make.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "KubernetesMode")]
pub(in crate::config) struct RawKubernetesMode {
    /// Service account of the runner, whose Role lets it make the job's pods (docs/container-modes.md). By default
    /// `gharts-listener-kubernetes-mode`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub(in crate::config) service_account: Option<String>,
    /// The hook's script in the runner's image: `/home/runner/k8s/index.js` by default; without a volume
    /// `/home/runner/k8s-novolume/index.js`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::config) hook: Option<String>,
    /// Refuse jobs without `container:`, which would run in the runner's own container (default: `true`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::config) require_job_container: Option<bool>,
    /// Spec of the claim for the volume that runner and job share (`kubernetes`): by default `ReadWriteOnce`, `1Gi`, the
    /// cluster's default storage class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub(in crate::config) work_volume_claim: Option<serde_json::Value>,
    /// A pod template that the hooks lay over the job's pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::config) hook_template: Option<RawHookTemplate>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "HookTemplate")]
pub(in crate::config) struct RawHookTemplate {
    /// Name of a ConfigMap in the runner namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required, length(min = 1))]
    pub(in crate::config) config_map: Option<String>,
    /// Its key: `extension` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub(in crate::config) key: Option<String>,
}
