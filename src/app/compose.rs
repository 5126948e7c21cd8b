//! From the configuration to the loop's setup: every concrete type is named here and nowhere else.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Error, githubs::GitHubs, identity, token_service::TokenService};
use crate::{
    admission::gate::Gate,
    clock::Clock,
    config::{
        Config, Gharts, Kubernetes, LabelsDemand, Limits, Oidc, ProvisionerKind, Retry, RunnerBinding, ScaleSet, Scope,
    },
    control::{ClusterGates, Reconfigured, ScopeLabels, Service, SetParts, SetSetup, Setup},
    gharts::{Broker, Client as GhartsClient, broker},
    http::{Exchangeable, IDLE_BRIEF, IDLE_LONG, SharedTransport, TransportBuildError, reqwest_transport},
    identity::{Cached, TokenError, TokenSource, exec, file, kubernetes, oauth2},
    ids::Namer,
    lease::LeaseSetup,
    plan::{
        demand::Source,
        runner::{Kind, Meets},
    },
    runner::{
        cluster::{Cluster, ClusterError},
        manifest::Blueprint,
    },
    scaleset::Spec,
    server::Heartbeat,
    shutdown::Tasks,
    status::{ConfigurationStatus, Status},
    telemetry::Metrics,
};

/// Between two tries at an API server that does not answer at start.
const START_PAUSE: Duration = Duration::from_secs(2);

/// The world outside: the machine's own, or the simulated one.
#[derive(Clone)]
pub struct Externals {
    pub github: SharedTransport,
    /// GHARTS and OIDC providers.
    pub gharts: SharedTransport,
    pub kubernetes: kube::Client,
    /// The Lease's own: its calls must not wait behind a burst of others, nor try one dead connection of theirs after the
    /// other.
    pub kubernetes_for_lease: kube::Client,
    pub clock: Clock,
    /// Of every random choice of the daemon.
    pub seed: u64,
    /// Who we are: in the Lease, and at GitHub's sessions. No two living processes share it, and a process that is
    /// started again on the same machine and port has it again.
    pub identity: String,
    /// Makes the transports anew when a CA bundle or a proxy changes: to GitHub, and to GHARTS and OIDC providers.
    pub dial: Dial,
}

/// Fails with one sentence that says what to mend.
pub type Dial = Arc<dyn Fn(&Config) -> Result<(SharedTransport, SharedTransport), String> + Send + Sync>;

impl std::fmt::Debug for Externals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Externals")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// Where the loop says what it does.
#[derive(Debug)]
pub(super) struct Outputs {
    pub(super) metrics: Metrics,
    pub(super) heartbeat: Arc<Heartbeat>,
    pub(super) status: watch::Sender<Arc<Status>>,
    pub(super) configuration: watch::Receiver<ConfigurationStatus>,
}

/// The machine's own world: real sockets, and the cluster that the file names. `listen`: the address that this process
/// is bound to.
pub async fn externals(config: &Config, listen: SocketAddr) -> Result<Externals, Error> {
    let (github, gharts) = transports(config).map_err(Error::Temporary)?;
    Ok(Externals {
        github,
        gharts,
        kubernetes: kubernetes_client(&config.kubernetes).await?,
        kubernetes_for_lease: kubernetes_client(&config.kubernetes).await?,
        clock: Clock::system(),
        seed: fastrand::u64(..),
        identity: identity::of(listen),
        dial: Arc::new(transports),
    })
}

/// To GitHub, and to GHARTS and OIDC providers.
pub(super) fn transports(config: &Config) -> Result<(SharedTransport, SharedTransport), String> {
    let failed = |error: TransportBuildError| error.to_string();
    let (tls, proxy) = (&config.github.tls, &config.github.proxy);
    let gharts_tls = config.gharts.as_ref().map_or(tls, |g| &g.tls);
    let github = reqwest_transport(tls, proxy, IDLE_LONG).map_err(failed)?;
    let gharts = reqwest_transport(gharts_tls, proxy, IDLE_BRIEF).map_err(failed)?;
    Ok((github, gharts))
}

/// In-cluster, or by kubeconfig. The client's own retries are off: they would repeat creates unasked.
pub(super) async fn kubernetes_client(kubernetes: &Kubernetes) -> Result<kube::Client, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Temporary(format!("no Kubernetes client: {error}"));
    let options = kube::config::KubeConfigOptions {
        context: kubernetes.context.clone(),
        ..Default::default()
    };
    let mut config = match &kubernetes.kubeconfig {
        Some(path) => {
            let file = kube::config::Kubeconfig::read_from(path).map_err(|e| failed(&e))?;
            kube::Config::from_custom_kubeconfig(file, &options)
                .await
                .map_err(|e| failed(&e))?
        }
        None if kubernetes.context.is_some() => {
            kube::Config::from_kubeconfig(&options).await.map_err(|e| failed(&e))?
        }
        None => kube::Config::infer().await.map_err(|e| failed(&e))?,
    };
    config.default_retry = false;
    config.connect_timeout = Some(Duration::from_secs(10));
    // A proxy is for GitHub and GHARTS; the API server's connection never takes one.
    config.proxy_url = None;
    kube::Client::try_from(config).map_err(|e| failed(&e))
}

/// The loop's setup, and what makes its sets anew when the file changes; `None` when told to stop meanwhile. Waits
/// for the API server, since nothing can be named without the runner namespace's uid.
pub(super) async fn setup(
    config: &Config,
    externals: Externals,
    outputs: Outputs,
    changes: mpsc::Receiver<Reconfigured>,
    tasks: &Tasks,
    stop: &CancellationToken,
) -> Result<Option<(Setup, Assembly)>, Error> {
    let cluster = Cluster::new(externals.kubernetes.clone(), &config.kubernetes.namespace);
    let Some(uid) = namespace_uid(&cluster, &outputs, stop).await else {
        return Ok(None);
    };
    let (lease, clock, seed) = (lease_setup(config, &externals), externals.clock.clone(), externals.seed);
    let mut assembly = Assembly::new(externals, outputs.metrics.clone(), uid, tasks.clone());
    let setup = Setup {
        sets: assembly.sets(config)?,
        max_runners: config.max_runners,
        cluster_gates: ClusterGates {
            starts: Gate::new(Some(&Limits::kubernetes()), clock.clone()),
            others: Gate::new(Some(&Limits::kubernetes()), clock.clone()),
        },
        cluster,
        lease,
        clock,
        seed,
        metrics: outputs.metrics,
        heartbeat: outputs.heartbeat,
        status: outputs.status,
        configuration: outputs.configuration,
        changes,
        tasks: tasks.clone(),
    };
    Ok(Some((setup, assembly)))
}

/// What is made of the file, and outlives its changes as far as they do not concern it: connections, tokens, gates.
pub(super) struct Assembly {
    externals: Externals,
    github: Arc<Exchangeable>,
    gharts: Arc<Exchangeable>,
    metrics: Metrics,
    namespace_uid: String,
    tasks: Tasks,
    ways: GitHubs,
    service: Option<TokenService>,
    /// What the file named before it named none: removed sets still call it, and its limits hold for all.
    service_of_before: Option<TokenService>,
}

impl Assembly {
    pub(super) fn new(externals: Externals, metrics: Metrics, namespace_uid: String, tasks: Tasks) -> Self {
        Self {
            github: Arc::new(Exchangeable::new(externals.github.clone())),
            gharts: Arc::new(Exchangeable::new(externals.gharts.clone())),
            externals,
            metrics,
            namespace_uid,
            tasks,
            ways: GitHubs::default(),
            service: None,
            service_of_before: None,
        }
    }

    /// The sets of a configuration, with whatever of the last one's serves them still.
    pub(super) fn sets(&mut self, config: &Config) -> Result<Vec<SetSetup>, Error> {
        let client_before = self.service.as_ref().map(|service| service.client.clone());
        let before = self.service.take().or_else(|| self.service_of_before.take());
        match &config.gharts {
            Some(gharts) => self.service = Some(self.service(gharts, config, before)),
            None => self.service_of_before = before,
        }
        let service = self.service.as_ref();
        let same_client = match (&client_before, service) {
            (Some(before), Some(service)) => Arc::ptr_eq(before, &service.client),
            (None, None) => true,
            _ => false,
        };
        let github: SharedTransport = self.github.clone();
        self.ways = self.ways.renewed(
            config,
            &github,
            &self.externals.clock,
            self.externals.seed,
            |source| cached(source, &self.externals, &self.metrics, "github"),
            |scope| {
                let (client, gate) = brokerage(service);
                let (clock, seed) = (self.externals.clock.clone(), self.externals.seed);
                let url = scope.url.clone();
                let broker = Broker::new(client, gate, clock, url, &self.namespace_uid, seed, self.tasks.clone());
                let cached = cached(Arc::new(broker), &self.externals, &self.metrics, "registration");
                cached.with_deadline(broker::DEADLINE)
            },
            same_client,
        );
        let mut service = self.service.as_mut();
        let sets = config.scale_sets.iter();
        sets.map(|set| set_setup(set, config, &self.namespace_uid, &self.ways, service.as_deref_mut()))
            .collect()
    }

    /// Makes both transports anew; nothing changes where that fails.
    pub(super) fn dial(&self, config: &Config) -> Result<(), String> {
        let (github, gharts) = (self.externals.dial)(config)?;
        self.github.exchange(github);
        self.gharts.exchange(gharts);
        Ok(())
    }

    /// These files hold something else now: whoever made a token of one of them makes another.
    pub(super) fn renew_tokens(&self, changed: &BTreeSet<PathBuf>) {
        self.ways.renew_tokens(changed);
        if let Some(service) = &self.service {
            service.renew_token(changed);
        }
    }

    /// The token service with its identity.
    fn service(&self, gharts: &Gharts, config: &Config, before: Option<TokenService>) -> TokenService {
        let Externals { clock, kubernetes, .. } = &self.externals;
        let transport: SharedTransport = self.gharts.clone();
        TokenService::renewed(before, gharts, || {
            let source = token_source(&gharts.oidc, config, kubernetes, &transport, clock);
            let token = Arc::new(cached(source, &self.externals, &self.metrics, "gharts"));
            TokenService::new(
                gharts,
                token,
                transport.clone(),
                self.github.clone(),
                clock.clone(),
                self.externals.seed,
            )
        })
    }
}

async fn namespace_uid(cluster: &Cluster, outputs: &Outputs, stop: &CancellationToken) -> Option<String> {
    let mut said: Option<ClusterError> = None;
    loop {
        let error = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            uid = cluster.namespace_uid() => match uid {
                Ok(uid) => return Some(uid),
                Err(error) => error,
            },
            // An API server that hangs is no reason to believe that we do.
            () = beat_on(&outputs.heartbeat) => continue,
        };
        outputs.heartbeat.beat();
        if said.as_ref() != Some(&error) {
            tracing::warn!(namespace = cluster.namespace(), %error, "the runner namespace cannot be read; trying again");
            outputs.status.send_modify(|status| {
                Arc::make_mut(status).not_ready = vec![format!("namespace {}: {error}", cluster.namespace())];
            });
            said = Some(error);
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            () = tokio::time::sleep(START_PAUSE) => {}
        }
    }
}

async fn beat_on(heartbeat: &Heartbeat) {
    loop {
        heartbeat.beat();
        tokio::time::sleep(START_PAUSE).await;
    }
}

/// What hands out registration tokens, and the gate in front of it.
#[expect(
    clippy::expect_used,
    reason = "the configuration takes `auth: { gharts: {} }` only beside a section `gharts`"
)]
fn brokerage(gharts: Option<&TokenService>) -> (Arc<GhartsClient>, Gate) {
    let side = gharts.expect("a section `gharts` beside brokered access");
    (side.client.clone(), side.gate.clone())
}

pub(super) fn token_source(
    oidc: &Oidc,
    config: &Config,
    client: &kube::Client,
    transport: &SharedTransport,
    clock: &Clock,
) -> Arc<dyn TokenSource> {
    match oidc {
        Oidc::Kubernetes {
            audience,
            service_account,
            namespace,
            expiration,
        } => {
            let own = own_namespace(client, config);
            Arc::new(kubernetes::ServiceAccountTokens::new(
                client.clone(),
                namespace.as_deref().unwrap_or(&own),
                service_account,
                audience,
                *expiration,
            ))
        }
        Oidc::External {
            audience,
            token_url,
            client_id,
            client_secret,
            scope,
            auth_style,
        } => {
            let secret = client_secret.clone();
            let read: oauth2::ReadSecret = Arc::new(move || {
                secret.read().map_err(|error| TokenError::Refused {
                    message: error.to_string(),
                })
            });
            let issuer = oauth2::Issuer {
                token_url: token_url.clone(),
                client_id: client_id.clone(),
                audience: audience.clone(),
                scope: scope.clone(),
                style: *auth_style,
            };
            Arc::new(oauth2::ClientCredentials::new(
                transport.clone(),
                clock.clone(),
                issuer,
                read,
            ))
        }
        Oidc::File { path } => Arc::new(file::TokenFile::new(path.clone(), clock.clone())),
        Oidc::Exec(command) => Arc::new(exec::TokenCommand::new(command.clone(), clock.clone())),
    }
}

/// The daemon's own namespace, where its service account is: the pod's, or the kubeconfig context's.
fn own_namespace(client: &kube::Client, config: &Config) -> String {
    match client.default_namespace() {
        "" => config.kubernetes.namespace.clone(),
        namespace => namespace.to_owned(),
    }
}

pub(super) fn lease_setup(config: &Config, externals: &Externals) -> LeaseSetup {
    LeaseSetup {
        client: externals.kubernetes_for_lease.clone(),
        namespace: lease_namespace(&externals.kubernetes, config),
        name: config.lease.name.clone(),
        identity: externals.identity.clone(),
        clock: externals.clock.clone(),
    }
}

pub(super) fn lease_namespace(client: &kube::Client, config: &Config) -> String {
    let named = config.lease.namespace.clone();
    named.unwrap_or_else(|| own_namespace(client, config))
}

fn cached(source: Arc<dyn TokenSource>, externals: &Externals, metrics: &Metrics, token: &'static str) -> Cached {
    let metrics = metrics.clone();
    Cached::new(source, externals.clock.clone()).on_refresh(Arc::new(move |result| {
        metrics.token_renewal(token, result.is_ok());
        if token == "gharts" && result.is_ok() {
            metrics.token_refreshed();
        }
    }))
}

fn set_setup(
    set: &ScaleSet,
    config: &Config,
    namespace_uid: &str,
    githubs: &GitHubs,
    gharts: Option<&mut TokenService>,
) -> Result<SetSetup, Error> {
    let github = githubs.of(&set.github);
    let blueprint = Blueprint::new(&set.name, set.into());
    let gharts_in_flight = gharts.as_ref().map_or(0, |gharts| gharts.max_in_flight);
    let records = gharts.map(|gharts| gharts.service(set));
    let (service, in_flight_max, word) = match set.provisioner {
        ProvisionerKind::ScaleSet => {
            let service = Service {
                provisioner: github.provisioner.clone(),
                key: github.key.clone(),
                account: github.key.clone(),
                gate: github.gate.clone(),
                breaker: github.breaker.clone(),
            };
            (service, github.jits_in_flight, "scaleSet")
        }
        ProvisionerKind::Gharts => {
            let service = records.clone().ok_or_else(|| {
                Error::Temporary(format!("scale set {} wants GHARTS, and the file names none", set.name))
            })?;
            (service, gharts_in_flight, "gharts")
        }
    };
    let work_folder = set
        .gharts
        .work_folder
        .as_deref()
        .unwrap_or(blueprint.work_folder())
        .to_owned();
    Ok(SetSetup {
        spec: Spec {
            group: set.github.runner_group.clone(),
            name: set.name.to_string(),
            labels: set.labels.clone(),
            disable_update: true,
            known_id: None,
            inherited_id: None,
        },
        min_runners: set.min_runners,
        max_runners: set.max_runners,
        timeouts: set.timeouts.clone(),
        retry: match (set.provisioner, &config.gharts) {
            (ProvisionerKind::Gharts, Some(gharts)) => gharts.retry.clone(),
            _ => Retry::default(),
        },
        in_flight_max,
        kind: Kind {
            has_record: set.provisioner == ProvisionerKind::Gharts,
            meets: match set.binding {
                RunnerBinding::Labels(_) => Meets::ByLabels,
                _ => Meets::InSet,
            },
            keep_failed: set.keep_failed,
        },
        demand: match set.binding {
            RunnerBinding::Labels(LabelsDemand::Available) => Source::Available,
            _ => Source::Assigned,
        },
        scope: scope_labels(&set.github.config_url.scope, &config.kubernetes.namespace),
        provisioner_word: word,
        binding_word: match (set.binding, set.provisioner) {
            (RunnerBinding::Auto, ProvisionerKind::Gharts) => "auto",
            (RunnerBinding::Labels(_), _) => "labels",
            (RunnerBinding::RegistrationToken, _) => "registrationToken",
            _ => "scaleSet",
        },
        parts: Arc::new(SetParts {
            name: set.name.clone(),
            namer: Namer::new(namespace_uid, &set.name),
            blueprint,
            labels: set.gharts.labels.clone().unwrap_or_else(|| set.labels.clone()),
            work_folder,
            service,
            records,
            github: github.key.clone(),
            connection: github.connection.clone(),
            github_gate: github.gate.clone(),
            leaves_things: set.container_mode.leaves_things(),
        }),
    })
}

fn scope_labels(scope: &Scope, namespace: &str) -> ScopeLabels {
    let mut labels = ScopeLabels {
        namespace: namespace.to_owned(),
        ..ScopeLabels::default()
    };
    match scope {
        Scope::Organization { org } => labels.organization.clone_from(org),
        Scope::Repository { owner, repo } => {
            labels.organization.clone_from(owner);
            labels.repository.clone_from(repo);
        }
        Scope::Enterprise { enterprise } => labels.enterprise.clone_from(enterprise),
    }
    labels
}
