//! The simulated world on sockets: one HTTP port for GitHub, GHARTS, the OIDC provider and the control interface,
//! one TLS port for Kubernetes, and everything that a daemon needs in a directory.
//!
//! With a kubeconfig only Kubernetes is real: what the daemon needs is installed there, and the simulated GHARTS
//! trusts the tokens that its API server signs.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::serve::ListenerExt as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{
    control::Controlled,
    fleet::Fleet,
    gharts::{JwksSource, TrustedIssuer},
    kubernetes::{Authority, ServeError, kubeconfig, serve_tls},
    oidc::Oidc,
    witness::Witness,
    world::{
        Addresses, Counters, MACHINE, Options, Place, RUNNER_NAMESPACE, Services, TEAM, World, WorldError, install,
        write_private,
    },
};
use crate::{clock::Clock, shutdown::Tasks};

/// Where it is served.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Gets `config.yaml`, credentials, `kubeconfig`, `sim.json`.
    pub dir: PathBuf,
    /// HTTP here, Kubernetes one above, the daemon's own port two above. None: whatever is free.
    pub port_base: Option<u16>,
    /// The daemon's own port, where somebody has bound it already.
    pub daemon: Option<SocketAddr>,
    /// A real cluster instead of the simulated one, with an administrator's rights.
    pub kubeconfig: Option<PathBuf>,
    pub human_logs: bool,
}

/// A world that is served, until its tasks end.
#[derive(Debug)]
pub struct Served {
    pub world: Controlled,
    /// What was asked of it over the HTTP port.
    pub witness: Witness,
    pub fleet: Option<Fleet>,
    /// The daemon's file.
    pub config: PathBuf,
    pub addresses: Addresses,
    pub http: SocketAddr,
}

/// The world cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address}: {source}")]
    Port { address: SocketAddr, source: io::Error },
    #[error("kubeconfig {path}: {reason}")]
    Kubeconfig { path: String, reason: String },
    #[error(transparent)]
    World(#[from] WorldError),
    #[error(transparent)]
    Tls(#[from] ServeError),
}

impl From<kube::Error> for StartError {
    fn from(error: kube::Error) -> Self {
        Self::World(error.into())
    }
}

/// Starts everything and writes the directory.
pub async fn serve(options: Options, place: &ServeOptions, clock: &Clock, tasks: &Tasks) -> Result<Served, StartError> {
    let port = |above: u16| place.port_base.map_or(0, |base| base.saturating_add(above));
    let (http_listener, http) = bind(port(0)).await?;
    let addresses = Addresses::on(http);
    let daemon = place.daemon.unwrap_or_else(|| loopback(port(2)));
    let cluster_file = place.dir.join("kubeconfig");
    std::fs::create_dir_all(&place.dir).map_err(|source| WorldError::File {
        path: place.dir.display().to_string(),
        source,
    })?;
    let (world, fleet) = match &place.kubeconfig {
        None => {
            let (listener, address) = bind(port(1)).await?;
            let world = World::start_at(options, addresses.clone(), clock.clone(), tasks).await?;
            let authority = Authority::generate()?;
            serve_tls(&world.kubernetes, &authority, listener, tasks)?;
            let file = |token: &str| kubeconfig(&authority, address, token, RUNNER_NAMESPACE);
            write_private(&cluster_file, &file(&world.token))?;
            write_private(
                &place.dir.join("admin.kubeconfig"),
                &file(world.kubernetes.admin_token()),
            )?;
            let controlled = Controlled {
                services: world.services.clone(),
                counters: world.counters.clone(),
                admin: world.admin_client(),
                kubernetes: Some(world.kubernetes.clone()),
            };
            (controlled, world.fleet)
        }
        Some(path) => real_cluster(options, path, &cluster_file, &addresses, clock, tasks).await?,
    };
    let witness = Witness::new(clock.clone());
    let router = witness.watch(world.services.router()).merge(world.router());
    serve_http(http_listener, router, tasks);
    let file_place = Place {
        kubeconfig: Some(cluster_file.clone()),
        listen: Some(daemon),
        human_logs: place.human_logs,
    };
    let config = place.dir.join("config.yaml");
    let text = world.services.config(&place.dir, &file_place)?;
    write_private(&config, &text)?;
    let told = addresses_json(&world.services, &config, &cluster_file, daemon);
    write_private(&place.dir.join("sim.json"), &format!("{told:#}\n"))?;
    Ok(Served {
        world,
        witness,
        fleet,
        config,
        addresses,
        http,
    })
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

async fn bind(port: u16) -> Result<(TcpListener, SocketAddr), StartError> {
    let wanted = loopback(port);
    let failed = |source| StartError::Port {
        address: wanted,
        source,
    };
    let listener = TcpListener::bind(wanted).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

fn serve_http(listener: TcpListener, router: axum::Router, tasks: &Tasks) {
    let listener = listener.tap_io(|stream| {
        // Small answers must not wait for the last one's acknowledgement. Without it they are only slower.
        let _ = stream.set_nodelay(true);
    });
    let stop = tasks.token().clone();
    tasks.spawn("simulated world", async move {
        // Held polls would keep a graceful end waiting for a minute.
        if let Some(Err(error)) = stop
            .run_until_cancelled(async { axum::serve(listener, router).await })
            .await
        {
            tracing::error!(%error, "the simulated world's port failed");
        }
    });
}

async fn real_cluster(
    options: Options,
    path: &Path,
    daemon_file: &Path,
    addresses: &Addresses,
    clock: &Clock,
    tasks: &Tasks,
) -> Result<(Controlled, Option<Fleet>), StartError> {
    let unusable = |reason: String| StartError::Kubeconfig {
        path: path.display().to_string(),
        reason,
    };
    let file = Kubeconfig::read_from(path).map_err(|error| unusable(error.to_string()))?;
    let mut config = kube::Config::from_custom_kubeconfig(file.clone(), &KubeConfigOptions::default())
        .await
        .map_err(|error| unusable(error.to_string()))?;
    config.default_retry = false;
    let admin = kube::Client::try_from(config).map_err(|error| unusable(error.to_string()))?;
    let token = install(&admin).await?;
    write_private(daemon_file, &daemon_kubeconfig(file, &token).map_err(unusable)?)?;
    let issuer = issuer_of(&admin).await?;
    let services = Services::start(options, addresses.clone(), issuer, clock, tasks)?;
    let counters = Counters::start(&admin, services.clone(), clock, tasks);
    let fleet = services.start_fleet(&admin, clock, tasks);
    let controlled = Controlled {
        services,
        counters,
        admin,
        kubernetes: None,
    };
    Ok((controlled, fleet))
}

/// The same cluster, as the daemon's service account.
fn daemon_kubeconfig(mut file: Kubeconfig, token: &str) -> Result<String, String> {
    let current = file.current_context.clone().unwrap_or_default();
    let mut context = file
        .contexts
        .iter()
        .find(|named| named.name == current)
        .cloned()
        .ok_or("it has no current context")?;
    let inner = context.context.as_mut().ok_or("its current context is empty")?;
    "gharts-listener".clone_into(inner.user.get_or_insert_default());
    inner.namespace = Some(RUNNER_NAMESPACE.to_owned());
    file.contexts = vec![context];
    let user = json!({"name": "gharts-listener", "user": {"token": token}});
    file.auth_infos = vec![serde_json::from_value(user).map_err(|error| error.to_string())?];
    serde_yaml_ng::to_string(&file).map_err(|error| error.to_string())
}

/// Who signs this cluster's service-account tokens, and with what keys.
async fn issuer_of(admin: &kube::Client) -> Result<TrustedIssuer, StartError> {
    let discovery = fetch(admin, "/.well-known/openid-configuration").await?;
    let keys = fetch(admin, "/openid/v1/jwks").await?;
    Ok(TrustedIssuer {
        issuer: discovery["issuer"].as_str().unwrap_or_default().to_owned(),
        jwks: JwksSource::Fixed(Arc::new(move || keys.clone())),
    })
}

async fn fetch(admin: &kube::Client, path: &str) -> Result<Value, StartError> {
    let request = http::Request::get(path)
        .body(Vec::new())
        .map_err(kube::Error::HttpError)?;
    let text = admin.request_text(request).await?;
    let value = serde_json::from_str(&text).map_err(kube::Error::SerdeError)?;
    Ok(value)
}

fn teams(services: &Services) -> serde_json::Map<String, Value> {
    let teams = services.gharts.teams().into_iter();
    teams.map(|team| (team.name, team.id.into())).collect()
}

/// Everything that somebody may want to find.
fn addresses_json(services: &Services, config: &Path, kubeconfig: &Path, daemon: SocketAddr) -> Value {
    let (addresses, oidc): (&Addresses, &Oidc) = (&services.addresses, &services.oidc);
    json!({
        "config": config, "kubeconfig": kubeconfig,
        "github": {
            "url": addresses.github, "configUrl": addresses.config_url(),
            "restUrl": format!("{}/api/v3", addresses.github),
            "tokenFile": config.with_file_name(super::world::GITHUB_TOKEN_FILE),
        },
        "gharts": {
            "url": addresses.gharts, "audience": addresses.gharts, "flavour": services.gharts.flavour().name(),
            "account": services.gharts_account(), "team": services.gharts.team(TEAM).map(|team| team.name),
            // Ids by name.
            "teams": teams(services),
        },
        "oidc": {
            "issuer": oidc.issuer(), "tokenUrl": oidc.token_url(), "clientId": MACHINE.0, "clientSecret": MACHINE.1,
        },
        "control": format!("{}/control", addresses.github),
        "namespace": RUNNER_NAMESPACE,
        "scaleSets": services.options.sets.iter().map(|set| &set.name).collect::<Vec<_>>(),
        "daemon": format!("http://{daemon}"),
    })
}
