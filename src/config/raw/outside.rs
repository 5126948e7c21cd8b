//! The way out, as written: certificates and proxies.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Tls")]
pub(in crate::config) struct RawTls {
    /// PEM bundle that is trusted beside the system's roots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::config) ca_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "GitHubTls")]
pub(in crate::config) struct RawGitHubTls {
    /// PEM bundle that is trusted beside the system's roots, by the listener.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::config) ca_file: Option<PathBuf>,
    /// The same for the runners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::config) runners: Option<RawRunnerCa>,
}

/// A CA in a ConfigMap or a Secret of the runner namespace: exactly one of the two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "RunnerCa")]
pub(in crate::config) struct RawRunnerCa {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub(in crate::config) config_map: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub(in crate::config) secret: Option<String>,
    /// Its key: `ca.crt` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub(in crate::config) key: Option<String>,
    /// Folder in the runner: `/usr/local/share/ca-certificates` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::config) mount_path: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "Proxy")]
pub(in crate::config) struct RawProxy {
    /// Proxy for http URLs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::config) http: Option<String>,
    /// Proxy for https URLs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::config) https: Option<String>,
    /// File with `user:password` for the proxy. Read when the daemon starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::config) credentials_file: Option<PathBuf>,
    /// Name of the environment variable that holds them, instead of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::config) credentials_env: Option<String>,
    /// Secret in the runner namespace from which the runners get their proxy: keys `http_proxy` and `https_proxy`,
    /// whole URLs with credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub(in crate::config) runners_secret: Option<String>,
    /// Hosts that are reached directly.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(in crate::config) no_proxy: Vec<String>,
}
