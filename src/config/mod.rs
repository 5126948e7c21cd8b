//! The file: raw YAML -> JSON schema (every error at once) -> [`Config`], validated and typed.
//!
//! What the file alone shows to be wrong is found here, before anything is bound or called. What only a
//! peer knows (a key, a team, a right) is not: that becomes a reason on its scale set.

mod config_url;
mod container_mode;
mod diff;
mod duration;
mod env;
mod load;
mod oidc;
mod outside;
mod place;
mod raw;
mod scale_sets;
mod schema;
mod secret;
mod secrets;
mod show;
mod template;
mod validate;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use k8s_openapi::api::core::v1::PodTemplateSpec;
use url::Url;

pub use self::{
    config_url::{InsecureUrl, check_url},
    container_mode::{ContainerMode, Dind, HookTemplate, KubernetesMode},
    secret::SecretError,
};
use crate::ids::SetName;

pub use diff::{Contents, Difference, diff};
pub use env::environment;
pub use load::{listen, load, parse};
pub use show::show;

/// A file to start from, with every key explained. It loads once the files it names exist.
pub const EXAMPLE: &str = include_str!("../../config/example.yaml");

/// The JSON schema of the file, for editors and for whoever generates it.
pub fn schema_json() -> String {
    format!("{:#}", schema::schema())
}

/// Whether a URL stays on this machine: only there plain http is allowed.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// One validated configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub github: GitHub,
    pub gharts: Option<Gharts>,
    pub kubernetes: Kubernetes,
    pub lease: Lease,
    pub server: Server,
    pub logging: Logging,
    /// Over all sets of this process.
    pub max_runners: Option<u32>,
    pub scale_sets: Vec<ScaleSet>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct GitHub {
    pub config_url: ConfigUrl,
    /// Name of the runner group; GitHub's own default group is called `default`.
    pub runner_group: String,
    pub auth: GitHubAuth,
    pub tls: Tls,
    /// What the runners trust beside their system's roots.
    pub runner_ca: Option<RunnerCa>,
    pub proxy: Proxy,
    pub limits: Limits,
}

/// Organization, repository or enterprise, and the REST base that belongs to it
/// (scale-set-protocol section 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigUrl {
    /// As the Actions service wants to see it: no trailing slash.
    pub url: Url,
    /// `https://api.github.com`, `https://api.HOST` or `https://HOST/api/v3`; no trailing slash.
    pub rest_base: Url,
    pub scope: Scope,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Organization { org: String },
    Repository { owner: String, repo: String },
    Enterprise { enterprise: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GitHubAuth {
    /// `client_id` takes a client id or an app id: GitHub accepts both as issuer.
    App {
        client_id: String,
        installation_id: u64,
        private_key: SecretRef,
    },
    Pat {
        token: SecretRef,
    },
    /// None of GitHub's: the GHARTS of the section `gharts` hands out registration tokens.
    Gharts,
}

/// Where a secret is; read anew whenever it is needed, so that it can be rotated without a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretRef {
    File(PathBuf),
    /// Name of an environment variable.
    Env(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM bundle that is trusted beside the system's roots.
    pub ca_file: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxy {
    pub http: Option<Url>,
    pub https: Option<Url>,
    /// `user:password`.
    pub credentials: Option<SecretRef>,
    /// Secret in the runner namespace with whole URLs for the runners.
    pub runners_secret: Option<String>,
    pub no_proxy: Vec<String>,
}

/// A CA that runners trust: one key of a ConfigMap or Secret in their namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunnerCa {
    pub source: CaSource,
    pub key: String,
    /// Folder in the runner.
    pub mount_path: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaSource {
    ConfigMap(String),
    Secret(String),
}

/// What may be asked of one peer.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    pub requests_per_second: f64,
    pub burst: u32,
    pub max_in_flight: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Gharts {
    /// Its path has no trailing slash (a bare host still prints as `https://HOST/`: join paths, not texts).
    pub base_url: Url,
    /// Name or id.
    pub team: Option<String>,
    pub oidc: Oidc,
    pub tls: Tls,
    pub limits: Limits,
    pub timeout: Duration,
    pub retry: Retry,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Oidc {
    /// Kubernetes TokenRequest for a service account.
    Kubernetes {
        audience: String,
        service_account: String,
        /// The daemon's own namespace when absent.
        namespace: Option<String>,
        expiration: Duration,
    },
    /// OAuth2 client credentials.
    External {
        audience: Option<String>,
        token_url: Url,
        client_id: String,
        client_secret: SecretRef,
        scope: Option<String>,
        auth_style: AuthStyle,
    },
    /// A token that somebody else writes into a file (a projected volume).
    File { path: PathBuf },
    /// A token that a command prints.
    Exec(ExecCommand),
}

/// A command that prints a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecCommand {
    /// Program and arguments; never empty.
    pub command: Vec<String>,
    /// On top of the daemon's own environment.
    pub env: BTreeMap<String, String>,
    pub timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthStyle {
    /// Form fields `client_id` and `client_secret`.
    Body,
    /// HTTP Basic.
    Basic,
    /// A JSON body (Auth0).
    Json,
}

/// How a service that fails is tried again. Nobody gives up for good: after so many tries in a row with growing pauses
/// there is one every `max_backoff`.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    pub max_retries: u32,
    pub initial_backoff: Duration,
    pub max_backoff: Duration,
    pub multiplier: f64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// Where the runners live.
    pub namespace: String,
    /// In-cluster, then `KUBECONFIG`, then `~/.kube/config` when absent.
    pub kubeconfig: Option<PathBuf>,
    pub context: Option<String>,
}

/// The Lease by which one of several replicas leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// One per deployment: replicas of one deployment share it, and nobody else.
    pub name: String,
    /// The daemon's own when absent.
    pub namespace: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub listen: std::net::SocketAddr,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a `tracing` filter.
    pub level: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Human,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ScaleSet {
    pub name: SetName,
    /// What workflows write in `runs-on`; the set's own name when the file gives none.
    pub labels: Vec<String>,
    /// Idle runners kept ready, on top of demand.
    pub min_runners: u32,
    pub max_runners: u32,
    pub provisioner: ProvisionerKind,
    pub binding: RunnerBinding,
    pub gharts: GhartsOverrides,
    /// Where the set lives at GitHub and who speaks for it there: the top-level section, with what the set itself
    /// says of `configUrl`, `runnerGroup` and `auth`.
    pub github: GitHub,
    pub timeouts: Timeouts,
    /// Failed pods are kept so long.
    pub keep_failed: Option<Duration>,
    pub container_mode: ContainerMode,
    /// As written, defaults not yet applied (`runner::manifest` does that).
    pub template: PodTemplateSpec,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProvisionerKind {
    Gharts,
    ScaleSet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunnerBinding {
    /// By evidence: does the GHARTS know the set-aware extension?
    Auto,
    ScaleSet,
    /// Ordinary runners with the set's labels (experimental).
    Labels(LabelsDemand),
    /// The older GHARTS' registration token, and the set's own JIT configuration.
    RegistrationToken,
}

/// What ordinary runners are made for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LabelsDemand {
    /// Jobs that GitHub assigned to the set.
    Assigned,
    /// Jobs that wait for the set, which takes none of them: it is a sensor only.
    #[default]
    Available,
}

/// What GHARTS is asked for this set, where it differs from the set's own and the `gharts` section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GhartsOverrides {
    /// Name or id; that of the `gharts` section when absent.
    pub team: Option<String>,
    pub labels: Option<Vec<String>>,
    /// For ordinary runners only.
    pub runner_group_id: Option<i64>,
    pub work_folder: Option<String>,
}

/// Deadlines of a runner's life (B30). `None` = off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    pub scheduling: Duration,
    pub image_pull: Duration,
    pub registration: Duration,
    pub idle: Duration,
    pub after_job: Duration,
    pub total: Option<Duration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        const MINUTE: Duration = Duration::from_mins(1);
        Self {
            scheduling: 10 * MINUTE,
            image_pull: 10 * MINUTE,
            registration: 3 * MINUTE,
            idle: 2 * MINUTE,
            after_job: 5 * MINUTE,
            total: None,
        }
    }
}

impl Default for Limits {
    /// GHARTS' measure: one real server gives 2.4 to 4 calls a second and freezes at 16 in flight.
    fn default() -> Self {
        Self {
            requests_per_second: 3.0,
            burst: 6,
            max_in_flight: 4,
        }
    }
}

impl Limits {
    /// GitHub's measure: far wider; its Actions service is asked once per runner.
    pub fn github() -> Self {
        Self {
            requests_per_second: 500.0,
            burst: 1000,
            max_in_flight: 64,
        }
    }

    /// An API server's measure: it has priority and fairness of its own; ours only keeps the number of
    /// connections small.
    pub fn kubernetes() -> Self {
        Self {
            requests_per_second: 2000.0,
            burst: 2000,
            max_in_flight: 64,
        }
    }
}

impl Retry {
    /// The pause after a failure that `step` others in a row came before, without jitter.
    pub fn pause(&self, step: u32) -> Duration {
        if step >= self.max_retries {
            return self.max_backoff;
        }
        let exponent = i32::try_from(step).unwrap_or(i32::MAX);
        let seconds = self.initial_backoff.as_secs_f64() * self.multiplier.powi(exponent);
        Duration::try_from_secs_f64(seconds).map_or(self.max_backoff, |pause| pause.min(self.max_backoff))
    }
}

impl Default for Retry {
    /// Five growing pauses reach the longest one without a leap.
    fn default() -> Self {
        Self {
            max_retries: 5,
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(30),
            multiplier: 2.0,
        }
    }
}

/// One thing wrong with the file: where, what was expected, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// `scaleSets[2].labels[0]`
    pub path: String,
    pub message: String,
    pub remedy: String,
}

/// Environment of the process, handed in so that tests need none.
pub type Environment = BTreeMap<String, String>;
