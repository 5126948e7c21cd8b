//! The whole simulated world, composed: GitHub, GHARTS, an OIDC provider, Kubernetes and the fleet.
//!
//! The parts meet through a [`Network`] in this process, whether or not somebody serves them on sockets too:
//! the addresses ([`Addresses`]) are all that differs. The daemon gets what an administrator would give it
//! ([`settings`]): a file, a PAT, and the token of a service account with exactly the Role that it needs.
//!
//! [`Services`] is the world without Kubernetes, for a cluster that is real.

mod cluster;
mod counts;
mod forget;
mod settings;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

pub use self::{
    cluster::{ACCOUNT, DAEMON_NAMESPACE, LEASE, RUNNER_NAMESPACE, account_name, install, install_runners},
    counts::{Counters, DaemonWrites, Excess, Leaks, PodTimes},
    settings::{APP_KEY_FILE, GITHUB_TOKEN_FILE, Place, write_private},
};
use super::{
    fleet::{Fleet, FleetSettings},
    gharts::{
        Deployment, Flavour, Gharts, GithubAccess, JwksSource, Policy, Setup as GhartsSetup, TeamSpec, TrustedIssuer,
        UserSpec,
    },
    github::{App, AssignedJobsRunOn, Flow, GitHub, Pat, Settings as GitHubSettings, Setup as GitHubSetup},
    keys::{KeyError, SigningKey},
    kubernetes::{self, Model},
    network::Network,
    oidc::{Client, Oidc},
};
use crate::{clock::Clock, http::SharedTransport, shutdown::Tasks};

/// The organization that all scale sets belong to.
pub const ORGANIZATION: &str = "acme";
/// The GHARTS team that the daemon's service account belongs to.
pub const TEAM: &str = "platform";
/// A machine client of the OIDC provider, in the same team.
pub const MACHINE: (&str, &str) = ("gharts-listener-machine", "machine-secret-of-the-simulation");

/// Who registers the runners of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Provisioner {
    Gharts,
    ScaleSet,
}

/// How the runners that GHARTS registers meet the set's jobs, as the daemon's file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Binding {
    #[default]
    Auto,
    ScaleSet,
    /// Made for the jobs that are assigned to the set.
    LabelsAssigned,
    /// Made for the jobs that wait for the set.
    LabelsAvailable,
    RegistrationToken,
}

/// What the daemon shows GitHub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Credential {
    #[default]
    Pat,
    /// The App that GHARTS uses too.
    App,
    /// Nothing: GHARTS hands out registration tokens.
    Brokered,
}

/// One scale set of the daemon's file.
#[derive(Clone, Debug)]
pub struct SetOptions {
    pub name: String,
    pub min_runners: u32,
    pub max_runners: u32,
    pub provisioner: Provisioner,
    /// Another scope than the organization, opened by a PAT of its own.
    pub scope: Option<String>,
    pub binding: Binding,
    /// None: the daemon's default.
    pub idle_timeout: Option<Duration>,
    /// None: failed pods are not kept.
    pub keep_failed: Option<Duration>,
    /// Whose runners they are at GHARTS; none: the file's own team.
    pub team: Option<String>,
    /// What GHARTS' policy sees; empty: the set's own.
    pub gharts_labels: Vec<String>,
    /// Annotations of the pod template: a behaviour of the fleet, say.
    pub annotations: Vec<(String, String)>,
}

impl SetOptions {
    pub fn new(name: &str, provisioner: Provisioner, max_runners: u32) -> Self {
        Self {
            name: name.to_owned(),
            min_runners: 0,
            max_runners,
            provisioner,
            scope: None,
            binding: Binding::Auto,
            idle_timeout: None,
            keep_failed: None,
            team: None,
            gharts_labels: Vec::new(),
            annotations: Vec::new(),
        }
    }
}

/// What GHARTS may be asked by the daemon.
#[derive(Clone, Copy, Debug)]
pub struct GhartsLimits {
    pub requests_per_second: f64,
    pub burst: u32,
    pub max_in_flight: u32,
}

impl GhartsLimits {
    /// The daemon's own default, fit for a real GHARTS.
    pub const USUAL: Self = Self {
        requests_per_second: 3.0,
        burst: 6,
        max_in_flight: 4,
    };
    /// Fit for a simulated one, which answers at once.
    pub const WIDE: Self = Self {
        requests_per_second: 200.0,
        burst: 200,
        max_in_flight: 32,
    };
}

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    pub flavour: Flavour,
    /// How GHARTS is run.
    pub deployment: Deployment,
    pub flow: Flow,
    pub assigned_jobs_run_on: AssignedJobsRunOn,
    pub credential: Credential,
    pub sets: Vec<SetOptions>,
    /// Runner groups at GitHub beside `Default`.
    pub runner_groups: Vec<String>,
    /// Over all sets.
    pub max_runners: Option<u32>,
    /// Runners that GHARTS gives the team.
    pub quota: Option<u32>,
    /// Further teams that the daemon's user belongs to, where there are teams: open to every label, without quotas.
    pub more_teams: Vec<String>,
    pub gharts_limits: GhartsLimits,
    /// GHARTS' clock is so many seconds ahead of everybody's.
    pub gharts_ahead: i64,
    /// None: somebody else plays the runners.
    pub fleet: Option<FleetSettings>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            flavour: Flavour::SetAware,
            deployment: Deployment::default(),
            flow: Flow::GitHub,
            assigned_jobs_run_on: AssignedJobsRunOn::SetRunners,
            credential: Credential::default(),
            sets: vec![SetOptions::new("linux", Provisioner::Gharts, 50)],
            runner_groups: Vec::new(),
            max_runners: None,
            quota: None,
            more_teams: Vec::new(),
            gharts_limits: GhartsLimits::USUAL,
            gharts_ahead: 0,
            fleet: Some(FleetSettings::default()),
        }
    }
}

/// Where the parts are reached, without a slash at the end.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Configuration URLs are below it.
    pub github: String,
    pub gharts: String,
    pub oidc: String,
}

impl Addresses {
    /// Names that only the simulated network knows.
    pub fn in_process() -> Self {
        Self {
            github: "https://github.test".to_owned(),
            gharts: "https://gharts.test".to_owned(),
            oidc: "https://oidc.test".to_owned(),
        }
    }

    /// GHARTS and the OIDC provider each have a path of their own beside GitHub, which owns the root.
    pub fn on(socket: std::net::SocketAddr) -> Self {
        Self {
            github: format!("http://{socket}"),
            gharts: format!("http://{socket}{GHARTS_PATH}"),
            oidc: format!("http://{socket}{OIDC_PATH}"),
        }
    }

    /// The page of the organization, as the daemon's file has it.
    pub fn config_url(&self) -> String {
        format!("{}/{ORGANIZATION}", self.github)
    }
}

/// Where GHARTS is mounted beside GitHub on one port, and the OIDC provider.
pub const GHARTS_PATH: &str = "/gharts";
pub const OIDC_PATH: &str = "/oidc";

/// The world could not be made.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("Kubernetes: {0}")]
    Kubernetes(#[from] kube::Error),
    #[error("the API server gave no token for the daemon's service account")]
    NoToken,
    #[error("the cluster refuses what belongs to the world: {0}")]
    Refused(String),
    #[error("{path}: {source}")]
    File { path: String, source: std::io::Error },
}

/// GitHub, GHARTS and the OIDC provider, and the network between them.
#[derive(Clone, Debug)]
pub struct Services {
    pub github: GitHub,
    pub gharts: Gharts,
    pub oidc: Oidc,
    pub network: Network,
    pub addresses: Addresses,
    pub options: Arc<Options>,
    /// GHARTS' id of the user that the daemon's service account is there.
    pub gharts_user: String,
    /// The daemon's PAT.
    pat: String,
    /// Its PATs for other scopes.
    scope_pats: BTreeMap<String, String>,
    app_key: SigningKey,
}

impl Services {
    /// `cluster` signs the tokens of the daemon's service account.
    pub fn start(
        options: Options,
        addresses: Addresses,
        cluster: TrustedIssuer,
        clock: &Clock,
        tasks: &Tasks,
    ) -> Result<Self, WorldError> {
        let mut rng = fastrand::Rng::with_seed(options.seed);
        let network = Network::new();
        let pat = format!("ghp_{:032x}", rng.u128(..));
        let gharts_key = SigningKey::shared("gharts-app")?;
        let app_key = match options.credential {
            // A key of its own: each can be replaced without the other.
            Credential::App => SigningKey::shared(DAEMON_APP_KEY)?,
            Credential::Pat | Credential::Brokered => gharts_key.clone(),
        };
        let setup = github_setup(&options, &addresses, &pat, &gharts_key, rng.u64(..));
        let github = GitHub::start(setup, clock.clone(), tasks);
        if options.credential == Credential::App {
            github.add_app_key(app_key.public_pem());
        }
        let scopes = options.sets.iter().filter_map(|set| set.scope.clone());
        let scope_pats: BTreeMap<String, String> = scopes
            .map(|scope| (scope, format!("ghp_{:032x}", rng.u128(..))))
            .collect();
        for (scope, token) in &scope_pats {
            github.put_pat(Pat {
                token: token.clone(),
                manages_runners: true,
                only_in: Some(scope.clone()),
            });
        }
        let oidc = Oidc::new(&format!("{}/", addresses.oidc), rng.u64(..), clock.clone())?;
        oidc.register(Client::machine(MACHINE.0, MACHINE.1));
        let provider = oidc.clone();
        let gharts = Gharts::new(GhartsSetup {
            flavour: options.flavour,
            deployment: options.deployment,
            seed: rng.u64(..),
            audience: addresses.gharts.clone(),
            issuers: vec![
                cluster,
                TrustedIssuer {
                    issuer: format!("{}/", addresses.oidc),
                    jwks: JwksSource::Fixed(Arc::new(move || provider.jwks())),
                },
            ],
            github: GithubAccess {
                rest: format!("{}/api/v3", addresses.github),
                org: ORGANIZATION.to_owned(),
                config_url: addresses.config_url(),
                app: APP.0.to_string(),
                installation: APP.1,
                key: gharts_key,
            },
            transport: Arc::new(network.clone()),
            clock: clock.ahead(options.gharts_ahead),
            tasks: tasks.clone(),
        });
        let user = administer(&gharts, &options);
        let services = Self {
            github,
            gharts,
            oidc,
            network,
            addresses,
            options: Arc::new(options),
            gharts_user: user,
            pat,
            scope_pats,
            app_key,
        };
        services.attach();
        Ok(services)
    }

    /// All on one router: GHARTS and the OIDC provider below their paths, GitHub everywhere else.
    pub fn router(&self) -> axum::Router {
        axum::Router::new()
            .nest_service(GHARTS_PATH, self.gharts.router())
            .nest_service(OIDC_PATH, self.oidc.router())
            .fallback_service(self.github.router())
    }

    /// Makes the parts reachable for each other, and for a daemon in this process.
    fn attach(&self) {
        let authority = |address: &str| {
            let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
            rest.split('/').next().unwrap_or(rest).to_owned()
        };
        let (github, gharts) = (authority(&self.addresses.github), authority(&self.addresses.gharts));
        if github == gharts {
            self.network.attach(&github, self.router());
        } else {
            self.network.attach(&github, self.github.router());
            self.network.attach(&gharts, self.gharts.router());
            self.network
                .attach(&authority(&self.addresses.oidc), self.oidc.router());
        }
    }

    /// What GHARTS bills the daemon's runners to: its team, or its own identity.
    pub fn gharts_account(&self) -> String {
        if self.options.flavour.has_teams() {
            TEAM.to_owned()
        } else {
            account_name()
        }
    }

    /// The daemon's PAT for the organization.
    pub fn pat(&self) -> &str {
        &self.pat
    }

    /// The daemon's PAT for a scope that a set of the options names.
    pub fn pat_of(&self, scope: &str) -> Option<&str> {
        self.scope_pats.get(scope).map(String::as_str)
    }

    /// The simulated network as the daemon's transport.
    pub fn transport(&self) -> SharedTransport {
        Arc::new(self.network.clone())
    }

    /// Writes the daemon's credentials into `dir` and gives the text of its file.
    pub fn config(&self, dir: &Path, place: &Place) -> Result<String, WorldError> {
        settings::write_credentials(dir, &self.pat, self.app_key.private_pem())?;
        for (scope, token) in &self.scope_pats {
            write_private(&settings::scope_token_file(dir, scope), token)?;
        }
        Ok(self.config_of(&self.options, dir, place))
    }

    /// The text of the daemon's file had the world been made of `options`.
    pub fn config_of(&self, options: &Options, dir: &Path, place: &Place) -> String {
        settings::config_text(options, &self.addresses, dir, place)
    }

    /// Starts the fleet, if the options want one, on a cluster where `client` may do everything.
    pub fn start_fleet(&self, client: &kube::Client, clock: &Clock, tasks: &Tasks) -> Option<Fleet> {
        let settings = self.options.fleet.clone()?;
        Some(Fleet::start(
            client,
            self.transport(),
            RUNNER_NAMESPACE,
            settings,
            clock.clone(),
            tasks,
        ))
    }
}

/// Everything, in this process.
#[derive(Clone, Debug)]
pub struct World {
    pub services: Services,
    pub github: GitHub,
    pub gharts: Gharts,
    pub oidc: Oidc,
    pub kubernetes: Model,
    pub network: Network,
    pub fleet: Option<Fleet>,
    /// The daemon's token at the API server.
    pub token: String,
    pub counters: Counters,
    pub clock: Clock,
}

impl World {
    /// Under names that only the simulated network knows: for tests under virtual time.
    pub async fn start(options: Options, clock: Clock, tasks: &Tasks) -> Result<Self, WorldError> {
        Self::start_at(options, Addresses::in_process(), clock, tasks).await
    }

    pub async fn start_at(
        options: Options,
        addresses: Addresses,
        clock: Clock,
        tasks: &Tasks,
    ) -> Result<Self, WorldError> {
        let kubernetes = Model::new(options.seed, clock.clone(), SigningKey::shared("service-accounts")?);
        let admin = kubernetes::client(&kubernetes, kubernetes.admin_token(), RUNNER_NAMESPACE);
        let token = install(&admin).await?;
        let keys = kubernetes.clone();
        let issuer = TrustedIssuer {
            issuer: kubernetes::ISSUER.to_owned(),
            jwks: JwksSource::Fixed(Arc::new(move || keys.jwks())),
        };
        let services = Services::start(options, addresses, issuer, &clock, tasks)?;
        let counters = Counters::start(&admin, services.clone(), &clock, tasks);
        let fleet = services.start_fleet(&admin, &clock, tasks);
        Ok(Self {
            github: services.github.clone(),
            gharts: services.gharts.clone(),
            oidc: services.oidc.clone(),
            network: services.network.clone(),
            services,
            kubernetes,
            fleet,
            token,
            counters,
            clock,
        })
    }

    /// A client of the simulated API that speaks as the daemon does.
    pub fn daemon_client(&self) -> kube::Client {
        kubernetes::client(&self.kubernetes, &self.token, RUNNER_NAMESPACE)
    }

    /// A client that may do everything.
    pub fn admin_client(&self) -> kube::Client {
        kubernetes::client(&self.kubernetes, self.kubernetes.admin_token(), RUNNER_NAMESPACE)
    }

    /// Writes the daemon's credentials into `dir` and gives the text of its file, for a daemon in this process.
    pub fn config(&self, dir: &Path) -> Result<String, WorldError> {
        self.services.config(dir, &Place::default())
    }

    /// What is left of runners anywhere.
    pub async fn leaks(&self) -> Result<Leaks, WorldError> {
        Leaks::count(&self.services, &self.admin_client()).await
    }

    /// The daemon's own pod and Secret writes so far.
    pub fn daemon_writes(&self) -> DaemonWrites {
        DaemonWrites::of(&self.kubernetes)
    }
}

/// What an administrator of GHARTS does for the daemon: its service account and a machine client may have any
/// labels, as members of a team or, where there are none, each by its own policy. Gives the id of the daemon's user.
fn administer(gharts: &Gharts, options: &Options) -> String {
    let quota = options.quota;
    let user = gharts.add_user(UserSpec::subject(&account_name()));
    if gharts.flavour().has_teams() {
        let team = gharts.add_team(TeamSpec {
            max_runners: quota,
            ..TeamSpec::open(TEAM)
        });
        gharts.add_member(&team, &user);
        gharts.register_client(MACHINE.0, &team);
        for name in &options.more_teams {
            let team = gharts.add_team(TeamSpec::open(name));
            gharts.add_member(&team, &user);
        }
    } else {
        gharts.add_user(UserSpec::subject(MACHINE.0));
        for identity in [&account_name(), MACHINE.0] {
            gharts.put_policy(Policy {
                max_runners: quota,
                ..Policy::open(identity)
            });
        }
    }
    user
}

/// Id and installation of the GitHub App that GHARTS holds, and the daemon where it has one.
const APP: (u64, u64) = (4711, APP_INSTALLATION);
pub const APP_INSTALLATION: u64 = 815;
/// The name of the key ([`SigningKey::shared`]) that the daemon is this App with, where it is.
pub const DAEMON_APP_KEY: &str = "daemon-app";
/// Its client id.
pub const APP_CLIENT: &str = "Iv1.0123456789abcdef";

fn github_setup(options: &Options, addresses: &Addresses, pat: &str, app_key: &SigningKey, seed: u64) -> GitHubSetup {
    let scopes = options.sets.iter().filter_map(|set| set.scope.clone());
    let scopes: BTreeSet<String> = scopes.chain([ORGANIZATION.to_owned()]).collect();
    GitHubSetup {
        scopes: scopes.into_iter().collect(),
        runner_groups: options.runner_groups.clone(),
        apps: vec![App {
            client_id: APP_CLIENT.to_owned(),
            app_id: APP.0,
            installation_id: APP.1,
            public_pem: app_key.public_pem().to_owned(),
        }],
        settings: GitHubSettings {
            flow: options.flow,
            assigned_jobs_run_on: options.assigned_jobs_run_on,
            // A burst of a thousand runners must not meet the limit of one machine's simulation.
            rest_limit: 1_000_000,
            ..GitHubSettings::default()
        },
        seed,
        ..GitHubSetup::new(&addresses.github, ORGANIZATION, pat)
    }
}

/// How long the daemon's token lives: longer than any simulation.
const TOKEN_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
