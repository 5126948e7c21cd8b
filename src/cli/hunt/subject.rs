//! The daemon as the hunt starts it, and what it is seen to do.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::mpsc;
use tracing_subscriber::fmt::MakeWriter;

use crate::{
    app::{self, ConfigFile, Externals},
    config,
    shutdown::Tasks,
    sim::hunt::{Glance, Journal, Kept, Launch, Life, Subject},
    telemetry::metrics,
};

/// The daemon's logs of one run. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Logs {
    text: Arc<Mutex<String>>,
    journal: Journal,
}

impl Logs {
    pub(super) fn new(journal: &Journal) -> Self {
        Self {
            text: Arc::default(),
            journal: journal.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, String> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl io::Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.lock().push_str(&text);
        // The journal has a time of its own.
        let line = text.split_once(' ').map_or(&*text, |(_, line)| line);
        self.journal.say(|| format!("log      {}", line.trim()));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Logs {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// The daemon of `run`.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) logs: Logs,
}

impl Subject for Daemon {
    fn launch(&self, launch: Launch<'_>) -> Result<Life, String> {
        let config =
            config::load(launch.file, &config::Environment::new()).map_err(|problems| format!("{problems:?}"))?;
        let (github, gharts) = (launch.github.clone(), launch.gharts.clone());
        let externals = Externals {
            github: launch.github,
            gharts: launch.gharts,
            dial: Arc::new(move |_| Ok((github.clone(), gharts.clone()))),
            kubernetes_for_lease: launch.kubernetes.clone(),
            kubernetes: launch.kubernetes,
            clock: launch.clock,
            seed: launch.seed,
            identity: launch.identity,
        };
        let (hangups, asked) = mpsc::channel(1);
        let file = ConfigFile {
            path: launch.file.to_owned(),
            environment: config::Environment::new(),
            asked,
        };
        let daemon = app::Daemon::new(config, externals).within(Tasks::that_freeze(launch.freeze));
        let daemon = daemon.following(file);
        let (seen, said) = (daemon.sources(), daemon.sources());
        let stop = launch.stop;
        Ok(Life {
            serve: Box::pin(async move {
                // Nobody sends SIGHUP here.
                let _hangups = hangups;
                daemon.serve(None, stop).await.map_err(|error| error.to_string())
            }),
            glance: Box::new(move || {
                let status = seen.status.borrow().clone();
                let reasons = status.scale_sets.iter().map(|set| {
                    let codes = set.reasons.iter().map(|reason| reason.code.clone());
                    (set.name.clone(), codes.collect())
                });
                Glance {
                    heartbeat_age: seen.heartbeat.age(),
                    reasons: reasons.collect(),
                    kept: metrics::Kept::ALL
                        .map(|what| Kept {
                            what: what.as_str(),
                            count: seen.metrics.kept(what),
                            of_runners: what.is_of_runners(),
                            of_pods: what.is_of_pods(),
                        })
                        .to_vec(),
                }
            }),
            says: Box::new(move || {
                let status = serde_json::to_string(&**said.status.borrow()).unwrap_or_default();
                status + &said.metrics.render()
            }),
        })
    }

    fn logs(&self) -> String {
        self.logs.lock().clone()
    }
}
