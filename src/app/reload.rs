//! The file, watched: what it and the secrets that it names hold, every 10 s and when asked to (SIGHUP).
//!
//! By content, not by time stamps: a mounted ConfigMap or Secret changes by the swap of a link. A file that is wrong
//! changes nothing but what is said of it; one that is right is taken over whole, but for what a running daemon
//! cannot change, which is named.

use std::{
    collections::BTreeSet,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::FutureExt as _;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::compose::Assembly;
use crate::{
    clock::Clock,
    config::{self, Config, Contents, Difference, Environment, Problem, ScaleSet, diff},
    control::Reconfigured,
    ids::SetName,
    status::{ConfigurationStatus, ProblemStatus},
    telemetry::Metrics,
};

/// Between two looks at the file.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Where the configuration comes from, so that its changes can be followed.
#[derive(Debug)]
pub struct ConfigFile {
    pub path: PathBuf,
    /// Its overrides.
    pub environment: Environment,
    /// Asks for a look at once; answered when it has been taken.
    pub asked: mpsc::Receiver<oneshot::Sender<()>>,
}

/// What a daemon says of its file from the beginning.
pub(super) fn first_status(now: Timestamp) -> ConfigurationStatus {
    ConfigurationStatus {
        generation: 1,
        since: wall(now),
        ..ConfigurationStatus::default()
    }
}

/// What follows the file.
pub(super) struct Watch {
    pub(super) file: ConfigFile,
    /// What is in effect.
    pub(super) config: Config,
    pub(super) assembly: Assembly,
    pub(super) changes: mpsc::Sender<Reconfigured>,
    pub(super) status: watch::Sender<ConfigurationStatus>,
    pub(super) metrics: Metrics,
    pub(super) clock: Clock,
}

impl Watch {
    /// Until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        self.metrics.config_taken(1, self.clock.now().as_second());
        // The file may have changed since it was read, which may be long ago where the cluster was not to be reached: the
        // first look is taken at once, and reads it in any case.
        let (mut seen, mut first) = (self.contents(), true);
        loop {
            let pause = if first { Duration::ZERO } else { LOOK_EVERY };
            let asked = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(done) = self.file.asked.recv() => Some(done),
                () = tokio::time::sleep(pause) => None,
            };
            let look = self.look(&mut seen, asked.is_some() || std::mem::take(&mut first));
            if AssertUnwindSafe(look).catch_unwind().await.is_err() {
                // The panic itself is logged with its place.
                tracing::error!("looking at the file panicked; the settings stay, and it is looked at again");
            }
            if let Some(done) = asked {
                // Whoever asked may have gone.
                let _ = done.send(());
            }
        }
    }

    fn contents(&self) -> Contents {
        let files = self.config.files();
        Contents::of(std::iter::once(self.file.path.as_path()).chain(files.iter().map(PathBuf::as_path)))
    }

    async fn look(&mut self, seen: &mut Contents, anyway: bool) {
        let now = self.contents();
        // While the file is refused, something that nobody watches may be what mends it.
        let refused = !self.status.borrow().problems.is_empty();
        if now == *seen && !refused && !anyway {
            return;
        }
        let changed = now.changed_since(seen);
        let taken = match config::load(&self.file.path, &self.file.environment) {
            Ok(new) => self.take(new, &changed).await,
            Err(problems) => Err(problems),
        };
        match taken {
            // What the file names now is watched from here on. What has changed is news until it is taken over.
            Ok(()) => {
                *seen = now;
                seen.add(self.contents());
            }
            Err(problems) => self.refuse(&problems),
        }
    }

    /// Takes over a file that is right; `changed`: what else holds something new.
    async fn take(&mut self, written: Config, changed: &BTreeSet<PathBuf>) -> Result<(), Vec<Problem>> {
        let (fixed, differences): (Vec<Difference>, Vec<Difference>) = diff(&self.config, &written)
            .into_iter()
            .partition(Difference::needs_restart);
        let new = written.for_running(&self.config);
        let secrets: BTreeSet<PathBuf> = changed
            .iter()
            .filter(|path| **path != self.file.path)
            .cloned()
            .collect();
        if !differences.is_empty() || !secrets.is_empty() {
            self.dial(&new, &secrets)?;
            let sets = self
                .assembly
                .sets(&new)
                .map_err(|error| vec![problem("(file)", error.to_string())])?;
            self.assembly.renew_tokens(&secrets);
            let concerned = concerned(&self.config, &new, &secrets);
            let change = Reconfigured {
                sets,
                max_runners: new.max_runners,
                concerned,
            };
            // A loop that is gone has no use for it.
            let _ = self.changes.send(change).await;
            self.config = new;
        }
        self.tell(&differences, &secrets, &fixed);
        Ok(())
    }

    /// New transports where a CA bundle or a proxy is another now.
    fn dial(&self, new: &Config, changed: &BTreeSet<PathBuf>) -> Result<(), Vec<Problem>> {
        let way = |config: &Config| {
            let gharts = config.gharts.as_ref().map(|gharts| gharts.tls.clone());
            (config.github.tls.clone(), config.github.proxy.clone(), gharts)
        };
        let bundles = [Some(&new.github.tls), new.gharts.as_ref().map(|gharts| &gharts.tls)];
        let bundles = bundles.into_iter().flatten().filter_map(|tls| tls.ca_file.as_deref());
        let mut files = bundles.chain(new.github.proxy.file());
        if way(new) == way(&self.config) && !files.any(|path| changed.contains(path)) {
            return Ok(());
        }
        self.assembly
            .dial(new)
            .map_err(|error| vec![problem("github.tls", error)])
    }

    fn tell(&self, differences: &[Difference], secrets: &BTreeSet<PathBuf>, fixed: &[Difference]) {
        let now = self.clock.now();
        let before = self.status.borrow().clone();
        let mut status = ConfigurationStatus {
            refused_since: None,
            problems: Vec::new(),
            needs_restart: fixed.iter().map(ToString::to_string).collect(),
            ..before.clone()
        };
        if !differences.is_empty() {
            status.generation += 1;
            status.since = wall(now);
            let changes = joined(differences);
            tracing::info!(
                generation = status.generation,
                changes,
                "the file has changed: taken over"
            );
        } else if !before.problems.is_empty() {
            tracing::info!("the file is right again, and says what is in effect");
        }
        if !secrets.is_empty() {
            let files = joined(secrets.iter().map(|path| path.display()));
            tracing::info!(files, "secrets have changed: taken over");
        }
        if status.needs_restart != before.needs_restart && !fixed.is_empty() {
            tracing::warn!(
                changes = joined(fixed),
                "the file has changed where a running daemon cannot: restart it"
            );
        }
        self.metrics.config_taken(status.generation, now.as_second());
        self.status.send_replace(status);
    }

    /// One line with everything that is wrong, each time that something else is.
    fn refuse(&self, problems: &[Problem]) {
        let problems: Vec<ProblemStatus> = problems.iter().map(shown).collect();
        if self.status.borrow().problems == problems {
            return;
        }
        let what = joined(
            problems
                .iter()
                .map(|p| format!("{}: {} ({})", p.path, p.message, p.remedy)),
        );
        let (file, count) = (self.file.path.display(), problems.len());
        tracing::error!(%file, count, problems = what, "the file is refused; the older settings stay in effect");
        self.metrics.config_refused();
        let now = self.clock.now();
        self.status.send_modify(|status| {
            status.refused_since.get_or_insert_with(|| wall(now));
            status.problems = problems;
        });
    }
}

/// Sets that a change is about: what was refused to them may be granted now.
fn concerned(old: &Config, new: &Config, changed: &BTreeSet<PathBuf>) -> BTreeSet<SetName> {
    let has_changed = |file: Option<&Path>| file.is_some_and(|file| changed.contains(file));
    let gharts = new.gharts.as_ref();
    let of_proxy = has_changed(new.github.proxy.file());
    let of_gharts =
        gharts.is_some_and(|gharts| has_changed(gharts.oidc.file()) || has_changed(gharts.tls.ca_file.as_deref()));
    let by_secret = |set: &&ScaleSet| {
        of_proxy
            || has_changed(set.github.auth.file())
            || has_changed(set.github.tls.ca_file.as_deref())
            || (of_gharts && set.uses_gharts())
    };
    let differ = old.sets_that_differ(new).into_iter().cloned();
    let by_secret = new.scale_sets.iter().filter(by_secret).map(|set| set.name.clone());
    differ.chain(by_secret).collect()
}

fn problem(path: &str, message: String) -> Problem {
    Problem {
        path: path.to_owned(),
        message,
        remedy: "mend the file, or what it names".to_owned(),
    }
}

fn shown(problem: &Problem) -> ProblemStatus {
    ProblemStatus {
        path: problem.path.clone(),
        message: problem.message.clone(),
        remedy: problem.remedy.clone(),
    }
}

fn joined(parts: impl IntoIterator<Item = impl ToString>) -> String {
    let parts: Vec<String> = parts.into_iter().map(|part| part.to_string()).collect();
    parts.join("; ")
}

fn wall(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
