//! Composition root: the only folder that knows every concrete type.

mod checks;
mod compose;
mod githubs;
mod identity;
mod token_service;

use std::{net::TcpListener, sync::Arc};

use jiff::Timestamp;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    control,
    runner::cluster::Cluster,
    server::{self, Heartbeat, Sources},
    shutdown::Tasks,
    status::Status,
    telemetry::Metrics,
};

pub use checks::{Check, CheckFailure, checks};
pub use compose::{Externals, externals};

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

/// Runs the daemon on a bound port until it is told to end: the first signal drains, the second ends at once.
pub async fn run(config: Config, listener: TcpListener) -> Result<(), Error> {
    let temporary = |error: std::io::Error| Error::Temporary(error.to_string());
    let listen = listener.local_addr().map_err(temporary)?;
    let listener = tokio::net::TcpListener::from_std(listener).map_err(temporary)?;
    let mut signals = Signals::new().map_err(temporary)?;
    let externals = externals(&config, listen).await?;
    let stop = CancellationToken::new();
    let mut daemon = std::pin::pin!(serve(config, externals, Some(listener), stop.clone()));
    tokio::select! {
        biased;
        () = signals.next() => stop.cancel(),
        ended = &mut daemon => return ended,
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
}

impl Daemon {
    pub fn new(config: Config, externals: Externals) -> Self {
        let clock = &externals.clock;
        let (status_in, status) = watch::channel(Arc::new(first_status(clock.now())));
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
            },
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
        } = self;
        let serving = tasks.child();
        if let Some(listener) = listener {
            server::serve(listener, sources, &serving);
        }
        let core = tasks.spawn("control", {
            let (tasks, stop) = (tasks.clone(), stop.clone());
            async move {
                if let Some(setup) = compose::setup(config, externals, outputs, &tasks, &stop).await? {
                    control::run(setup, stop).await;
                }
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

fn first_status(now: Timestamp) -> Status {
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: now.to_string(),
        not_ready: vec!["starting".to_owned()],
        ..Status::default()
    }
}
