//! Composition root: the only folder that knows every concrete type.

mod checks;
mod cleanup;
mod compose;
mod githubs;
mod identity;
mod reload;
mod token_service;

use std::{net::TcpListener, path::PathBuf, sync::Arc};

use jiff::Timestamp;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot, watch},
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, Environment},
    control,
    runner::cluster::Cluster,
    server::{self, Heartbeat, Sources, systemd::Manager},
    shutdown::Tasks,
    status::{ConfigurationStatus, Status},
    telemetry::Metrics,
};

pub use checks::{Check, CheckFailure, checks};
pub use cleanup::{Fate, Finding, Refused, Wish, cleanup};
pub use compose::{Dial, Externals, externals};
pub use reload::ConfigFile;

/// Why the daemon ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Could not start; the same may work later (exit 75).
    #[error("cannot start: {0}")]
    Temporary(String),
    /// A core task died (exit 70).
    #[error("a core task died: {0}")]
    Core(String),
    /// A second signal came while draining.
    #[error("told twice to end: ended at once; what was in flight is cured at the next start")]
    Aborted,
}

/// The runner namespace of the file, as commands see it.
pub async fn cluster(config: &Config) -> Result<Cluster, Error> {
    let client = compose::kubernetes_client(&config.kubernetes).await?;
    Ok(Cluster::new(client, &config.kubernetes.namespace))
}

/// Runs the daemon on a bound port until it is told to end: the first signal drains, the second ends at once. SIGHUP
/// has the file at `path`, with `environment`, looked at.
pub async fn run(config: Config, path: PathBuf, environment: Environment, listener: TcpListener) -> Result<(), Error> {
    let temporary = |error: std::io::Error| Error::Temporary(error.to_string());
    let listen = listener.local_addr().map_err(temporary)?;
    let listener = tokio::net::TcpListener::from_std(listener).map_err(temporary)?;
    let mut signals = Signals::new().map_err(temporary)?;
    let mut hangups = signal(SignalKind::hangup()).map_err(temporary)?;
    let externals = externals(&config, listen).await?;
    let stop = CancellationToken::new();
    let (ask, asked) = mpsc::channel(1);
    let file = ConfigFile {
        path,
        environment,
        asked,
    };
    let daemon = Daemon::new(config, externals).following(file);
    let systemd = Manager::of_this_process().map(Arc::new);
    let tasks = Tasks::new();
    if let Some(systemd) = &systemd {
        systemd.clone().serve(daemon.sources(), stop.clone(), &tasks);
    }
    let ended = run_until_told(daemon, listener, &mut signals, &stop, async {
        while hangups.recv().await.is_some() {
            reload(&ask, systemd.as_deref()).await;
        }
    })
    .await;
    tasks.stop();
    tasks.finished().await;
    ended
}

/// Has the file looked at, and systemd told of it.
async fn reload(ask: &mpsc::Sender<oneshot::Sender<()>>, systemd: Option<&Manager>) {
    tracing::info!("SIGHUP: the file is looked at");
    if let Some(systemd) = systemd {
        systemd.reloading();
    }
    let (done, looked) = oneshot::channel();
    if ask.send(done).await.is_ok() {
        // Whatever came of it stands in log and status.
        let _ = looked.await;
    }
    if let Some(systemd) = systemd {
        systemd.reloaded();
    }
}

async fn run_until_told(
    daemon: Daemon,
    listener: tokio::net::TcpListener,
    signals: &mut Signals,
    stop: &CancellationToken,
    hangups: impl Future<Output = ()>,
) -> Result<(), Error> {
    let mut daemon = std::pin::pin!(daemon.serve(Some(listener), stop.clone()));
    tokio::select! {
        biased;
        () = signals.next() => stop.cancel(),
        ended = &mut daemon => return ended,
        () = hangups => stop.cancel(),
    }
    tokio::select! {
        biased;
        () = signals.next() => Err(Error::Aborted),
        ended = daemon => ended,
    }
}

/// Runs the daemon against `externals`: what `run` does on a machine, and what `demo` and the whole-system
/// tests do in one process. Ends in good order after `stop`.
pub async fn serve(
    config: Config,
    externals: Externals,
    listener: Option<tokio::net::TcpListener>,
    stop: CancellationToken,
) -> Result<(), Error> {
    Daemon::new(config, externals).serve(listener, stop).await
}

/// The daemon before it runs: what it will say of itself can be asked for already.
#[derive(Debug)]
pub struct Daemon {
    config: Config,
    externals: Externals,
    outputs: compose::Outputs,
    sources: Sources,
    tasks: Tasks,
    /// What is said of the file.
    configuration: watch::Sender<ConfigurationStatus>,
    file: Option<ConfigFile>,
}

impl Daemon {
    pub fn new(config: Config, externals: Externals) -> Self {
        let clock = &externals.clock;
        let configuration = reload::first_status(clock.now());
        let (status_in, status) = watch::channel(Arc::new(first_status(clock.now(), configuration.clone())));
        let (configuration, said) = watch::channel(configuration);
        let heartbeat = Arc::new(Heartbeat::new(clock));
        let metrics = Metrics::new(false);
        Self {
            sources: Sources {
                status,
                heartbeat: heartbeat.clone(),
                metrics: metrics.clone(),
            },
            outputs: compose::Outputs {
                metrics,
                heartbeat,
                status: status_in,
                configuration: said,
            },
            configuration,
            file: None,
            config,
            externals,
            tasks: Tasks::new(),
        }
    }

    /// With every task of it among `tasks`.
    #[must_use]
    pub fn within(mut self, tasks: Tasks) -> Self {
        self.tasks = tasks;
        self
    }

    /// Takes over the changes of its file, too.
    #[must_use]
    pub fn following(mut self, file: ConfigFile) -> Self {
        self.file = Some(file);
        self
    }

    /// What its port serves: status, heartbeat, metrics.
    pub fn sources(&self) -> Sources {
        self.sources.clone()
    }

    /// See [`serve`].
    pub async fn serve(self, listener: Option<tokio::net::TcpListener>, stop: CancellationToken) -> Result<(), Error> {
        let Self {
            config,
            externals,
            outputs,
            sources,
            tasks,
            configuration,
            file,
        } = self;
        let serving = tasks.child();
        if let Some(listener) = listener {
            server::serve(listener, sources, &serving);
        }
        let core = tasks.spawn("control", {
            let (tasks, stop) = (tasks.clone(), stop.clone());
            async move {
                let (metrics, clock) = (outputs.metrics.clone(), externals.clock.clone());
                let (change, changes) = mpsc::channel(1);
                let made = compose::setup(&config, externals, outputs, changes, &tasks, &stop).await?;
                let Some((setup, assembly)) = made else { return Ok(()) };
                if let Some(file) = file {
                    let watch = reload::Watch {
                        file,
                        config,
                        assembly,
                        changes: change,
                        status: configuration,
                        metrics,
                        clock,
                    };
                    tasks.spawn("reload", watch.run(stop.clone()));
                }
                control::run(setup, stop).await;
                Ok(())
            }
        });
        let ended = core.await;
        serving.stop();
        serving.finished().await;
        ended.map_err(|panic| Error::Core(panic.to_string()))?
    }
}

/// SIGTERM and SIGINT, one by one.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn first_status(now: Timestamp, configuration: ConfigurationStatus) -> Status {
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: now.to_string(),
        not_ready: vec!["starting".to_owned()],
        configuration,
        ..Status::default()
    }
}
