//! The program under test, as the hunt knows it: how to start it, and what it shows.

use std::{collections::BTreeMap, path::Path, time::Duration};

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::{clock::Clock, http::SharedTransport, shutdown::Freeze};

/// What a daemon gets at its start.
pub struct Launch<'a> {
    /// Its file.
    pub file: &'a Path,
    pub github: SharedTransport,
    pub gharts: SharedTransport,
    pub kubernetes: kube::Client,
    pub clock: Clock,
    /// Of every random choice; another one for each life.
    pub seed: u64,
    /// Who it is in its Lease and at GitHub's sessions; the same for each life of one replica.
    pub identity: String,
    /// SIGTERM.
    pub stop: CancellationToken,
    /// From SIGSTOP to SIGCONT nothing of it moves.
    pub freeze: Freeze,
}

impl std::fmt::Debug for Launch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Launch")
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// What a running daemon shows.
#[derive(Debug, Default)]
pub struct Glance {
    /// Since its loop last moved.
    pub heartbeat_age: Duration,
    /// Codes of the reasons that it gives now, by set.
    pub reasons: BTreeMap<String, Vec<String>>,
    /// What it keeps in memory.
    pub kept: Vec<Kept>,
}

/// How much a daemon keeps of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub what: &'static str,
    pub count: usize,
    /// It is forgotten with the runners that it is about.
    pub of_runners: bool,
    /// It is forgotten with the pods that it is about, also strangers'.
    pub of_pods: bool,
}

/// A daemon that was started.
pub struct Life {
    /// Runs it to its end; an error says how it ended otherwise than in good order.
    pub serve: BoxFuture<'static, Result<(), String>>,
    pub glance: Box<dyn Fn() -> Glance + Send + Sync>,
    /// Everything that it says to whoever asks: status, metrics.
    pub says: Box<dyn Fn() -> String + Send + Sync>,
}

impl std::fmt::Debug for Life {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Life").finish_non_exhaustive()
    }
}

/// The program under test: the simulation knows how to start it, and no more.
pub trait Subject: Sync {
    fn launch(&self, launch: Launch<'_>) -> Result<Life, String>;
    /// What it has logged in this run so far.
    fn logs(&self) -> String;
}
