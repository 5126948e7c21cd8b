//! The file as it is written: serde and schemars types in camelCase.
//!
//! Everything is optional here, even what the schema requires, so that the semantic rules can still look at
//! the rest of a file in which one value was refused (see `load`). The doc comments are the descriptions
//! that `config schema` prints. The schema lists only what works.
//!
//! `serde(default)` and `schemars(required)` exclude each other: a required key has no default in the schema.

mod modes;
mod outside;

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(super) use self::{
    modes::{RawDind, RawHookTemplate, RawKubernetesMode},
    outside::{RawGitHubTls, RawProxy, RawRunnerCa, RawTls},
};
use super::duration::DurationText;

/// Configuration of gharts-listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "GhartsListener")]
pub(super) struct RawConfig {
    /// Where the jobs come from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub(super) github: Option<RawGitHub>,
    /// The token service that registers runners. Needed as soon as one scale set uses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) gharts: Option<RawGharts>,
    /// Where the runners live.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub(super) kubernetes: Option<RawKubernetes>,
    /// Which of several replicas leads.
    #[serde(default)]
    pub(super) lease: RawLease,
    /// The daemon's own port: health, metrics, status.
    #[serde(default)]
    pub(super) server: RawServer,
    #[serde(default)]
    pub(super) logging: RawLogging,
    /// Most runners over all scale sets of this process. No total limit when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) max_runners: Option<u32>,
    /// One entry per runner scale set; at least one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required, length(min = 1))]
    pub(super) scale_sets: Option<Vec<RawScaleSet>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "GitHub")]
pub(super) struct RawGitHub {
    /// Organization (`https://HOST/ORG`), repository (`https://HOST/OWNER/REPO`) or enterprise
    /// (`https://HOST/enterprises/NAME`). GitHub Enterprise Server too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub(super) config_url: Option<String>,
    /// Name of the runner group that the scale sets belong to. Default: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) runner_group: Option<String>,
    /// Exactly one way to authenticate.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub(super) auth: Option<RawAuth>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) tls: RawGitHubTls,
    /// For GitHub, GHARTS and the runners; never for the Kubernetes API server.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) proxy: RawProxy,
    /// What GitHub may be asked. Default: 500 requests per second, burst 1000, 64 in flight.
    #[serde(default)]
    pub(super) limits: RawLimits,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Auth")]
pub(super) struct RawAuth {
    /// A GitHub App.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) app: Option<RawApp>,
    /// A personal access token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pat: Option<RawPat>,
    /// No credential of GitHub's at all: an older, user-based GHARTS hands out registration tokens. `{}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) gharts: Option<RawBrokered>,
}

/// Nothing to be said: the section `gharts` says it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Brokered")]
pub(super) struct RawBrokered {}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "App")]
pub(super) struct RawApp {
    /// Client id (`Iv1...`) or app id, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required, length(min = 1))]
    pub(super) client_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required, range(min = 1))]
    pub(super) installation_id: Option<u64>,
    /// PEM file of the App's private key. Read anew when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) private_key_file: Option<PathBuf>,
    /// Name of the environment variable that holds the private key, instead of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) private_key_env: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Pat")]
pub(super) struct RawPat {
    /// File that holds the token. Read anew when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token_file: Option<PathBuf>,
    /// Name of the environment variable that holds the token, instead of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token_env: Option<String>,
}

/// A measure for one peer; what is absent keeps its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Limits")]
pub(super) struct RawLimits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 10_000.0))]
    pub(super) requests_per_second: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub(super) burst: Option<u32>,
    /// Calls that may wait for their answer at one time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub(super) max_in_flight: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Gharts")]
pub(super) struct RawGharts {
    /// https, except to loopback.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub(super) base_url: Option<String>,
    /// Name or id of the team that runners are made for, where this identity has more than one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub(super) team: Option<String>,
    /// Who we are for GHARTS.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub(super) oidc: Option<RawOidc>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) tls: RawTls,
    /// What this GHARTS may be asked. Default: 3 requests per second, burst 6, 4 in flight.
    #[serde(default)]
    pub(super) limits: RawLimits,
    /// How long one call may take: `45s` by default. Calls are never cancelled earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) timeout: Option<DurationText>,
    #[serde(default)]
    pub(super) retry: RawRetry,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Oidc")]
pub(super) struct RawOidc {
    /// `kubernetes`: TokenRequest of a service account. `external`: OAuth2 client credentials.
    /// `file`: a token that somebody else keeps fresh. `exec`: a token that a command prints.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub(super) provider: Option<RawOidcProvider>,
    /// The audience that GHARTS expects (kubernetes, external).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub(super) audience: Option<String>,
    /// Service account whose token is asked for (kubernetes).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) service_account: Option<String>,
    /// Namespace of the service account (kubernetes). The daemon's own when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) namespace: Option<String>,
    /// Life of a token (kubernetes): at least `10m`, `1h` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token_expiration: Option<DurationText>,
    /// The token endpoint and the client (external).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) external: Option<RawExternal>,
    /// The file that holds the token (file).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token_file: Option<PathBuf>,
    /// The command that prints the token (exec).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) exec: Option<RawExec>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub(super) enum RawOidcProvider {
    Kubernetes,
    External,
    File,
    Exec,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Exec")]
pub(super) struct RawExec {
    /// Program (an absolute path, or a name in PATH) and its arguments. No shell. It prints the token alone, or
    /// JSON: `{"token", "expiresAt"}`, or Kubernetes' ExecCredential.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required, length(min = 1))]
    pub(super) command: Option<Vec<String>>,
    /// Environment variables on top of the daemon's own. No place for secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) env: BTreeMap<String, String>,
    /// How long the command may take: `10s` by default, at most `25s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) timeout: Option<DurationText>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "External")]
pub(super) struct RawExternal {
    /// https, except to loopback.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub(super) token_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required, length(min = 1))]
    pub(super) client_id: Option<String>,
    /// File that holds the client's secret. Read anew when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) client_secret_file: Option<PathBuf>,
    /// Name of the environment variable that holds the client's secret, instead of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) client_secret_env: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) scope: Option<String>,
    /// How the client shows its secret: form `body` (default), HTTP `basic`, or a `json` body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) auth_style: Option<RawAuthStyle>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub(super) enum RawAuthStyle {
    Body,
    Basic,
    Json,
}

/// How a GHARTS that fails is tried again: after `initialBackoff`, then later and later by `multiplier`, `maxRetries` times
/// in a row; from then on once every `maxBackoff`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Retry")]
pub(super) struct RawRetry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 20))]
    pub(super) max_retries: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) initial_backoff: Option<DurationText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) max_backoff: Option<DurationText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1.0, max = 10.0))]
    pub(super) multiplier: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Kubernetes")]
pub(super) struct RawKubernetes {
    /// Namespace of the runners.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub(super) namespace: Option<String>,
    /// When absent: in-cluster, then `KUBECONFIG`, then `~/.kube/config`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; its current one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) context: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Lease")]
pub(super) struct RawLease {
    /// Name of the Lease that the replicas of this deployment share; `gharts-listener` by default. Deployments that share
    /// a namespace need one each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    /// Its namespace. By default the daemon's own: its pod's, or the kubeconfig context's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) namespace: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Server")]
pub(super) struct RawServer {
    /// Address and port; `0.0.0.0:8080` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) listen: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Logging")]
pub(super) struct RawLogging {
    /// `json` (default) or `human`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) format: Option<RawLogFormat>,
    /// `error`, `warn`, `info` (default), `debug`, `trace`, or a filter such as `info,gharts_listener::plan=debug`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) level: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub(super) enum RawLogFormat {
    Json,
    Human,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "ScaleSet")]
pub(super) struct RawScaleSet {
    /// The scale set's name at GitHub; at most 45 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub(super) name: Option<String>,
    /// What workflows write in `runs-on`. The set's own name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) labels: Option<Vec<String>>,
    /// Idle runners kept ready, on top of demand. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) min_runners: Option<u32>,
    /// Most runners of this set at one time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub(super) max_runners: Option<u32>,
    /// Who registers the runners: `gharts` (default where a `gharts` section exists) or `scaleSet`
    /// (GitHub itself, with the listener's own credential).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) provisioner: Option<RawProvisioner>,
    /// How a runner that GHARTS registers meets its job. `auto` (default): `scaleSet` where GHARTS shows that it can,
    /// else none is made. `scaleSet`: registered with the set. `registrationToken`: with the older GHARTS. `labels`
    /// (experimental): an ordinary runner with the set's labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) runner_binding: Option<RawBinding>,
    /// What runners are made for with `runnerBinding: labels`. `available` (default): jobs that wait, of which the set
    /// takes none. `assigned`: jobs that GitHub assigned to the set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) labels_demand: Option<RawLabelsDemand>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) gharts: RawGhartsOverrides,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) github: RawGitHubOverrides,
    /// How jobs run containers (docs/container-modes.md): `none` (default), `dind`, `kubernetes` or
    /// `kubernetes-novolume`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) container_mode: Option<RawContainerMode>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) dind: Option<RawDind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) kubernetes_mode: Option<RawKubernetesMode>,
    #[serde(default)]
    pub(super) timeouts: RawTimeouts,
    /// Keep the newest failed pods so long for people to look at (`30m`; at most five). Off when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) keep_failed: Option<DurationText>,
    /// A Kubernetes PodTemplateSpec. The container named `runner` is the runner; others are sidecars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub(super) template: Option<serde_json::Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub(super) enum RawProvisioner {
    Gharts,
    ScaleSet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub(super) enum RawBinding {
    Auto,
    ScaleSet,
    Labels,
    RegistrationToken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub(super) enum RawLabelsDemand {
    Assigned,
    Available,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub(super) enum RawContainerMode {
    None,
    Dind,
    Kubernetes,
    #[serde(rename = "kubernetes-novolume")]
    KubernetesNovolume,
}

/// What GHARTS is asked for this set, where it differs from the set's own and the `gharts` section.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "GhartsOverrides")]
pub(super) struct RawGhartsOverrides {
    /// Name or id of the team that this set's runners are made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub(super) team: Option<String>,
    /// Labels for the policy; the set's labels when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) labels: Option<Vec<String>>,
    /// GitHub's id of the runner group (`runnerBinding: labels`; elsewhere the scale set has one of its own).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub(super) runner_group_id: Option<i64>,
    /// Work folder of the runner, relative to its home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub(super) work_folder: Option<String>,
}

/// Where this set lives at GitHub, where that differs from the top-level `github` section. Sets with the same
/// `configUrl` and `auth` share one connection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "GitHubOverrides")]
pub(super) struct RawGitHubOverrides {
    /// Organization, repository or enterprise of this set. On another host it needs an `auth` of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) config_url: Option<String>,
    /// Runner group of this set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) runner_group: Option<String>,
    /// The credential for this set: exactly one way to authenticate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) auth: Option<RawAuth>,
}

/// Deadlines of a runner's life.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Timeouts")]
pub(super) struct RawTimeouts {
    /// Until a node is found: `10m` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) scheduling: Option<DurationText>,
    /// Until the images are there: `10m` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) image_pull: Option<DurationText>,
    /// From the container's start until the runner is online: `3m` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) registration: Option<DurationText>,
    /// Until a surplus idle runner is removed: `2m` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) idle: Option<DurationText>,
    /// From the job's end until the pod is removed all the same: `5m` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) after_job: Option<DurationText>,
    /// Longest life of a runner, busy or not. Off when absent: it ends running jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) total: Option<DurationText>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
