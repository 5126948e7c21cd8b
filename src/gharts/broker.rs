//! Access to GitHub's queue without a GitHub credential (B44): registration tokens that the older GHARTS hands
//! out, under its own policy, quota and audit.
//!
//! A token is all that is wanted, but that GHARTS writes down a runner for each: a record that waits for a
//! runner of its name and counts towards the quota. So the record is deleted as soon as the token is in hand,
//! by a task of its own, for the token does not wait for that. The name follows the pattern of this
//! installation, and is fresh each time: what a lost answer or a crash left behind is found by it and deleted
//! too. No labels are asked for, since that version deletes runners whose labels are others.
//!
//! Nothing is cached here: [`crate::identity::Cached`] is in front.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::{
    Client, Deleted, Failure, Trouble,
    wire::{RegistrationAnswer, RegistrationRequest, Runner},
};
use crate::{
    admission::gate::{Gate, Urgency},
    clock::Clock,
    identity::{Denial, Token, TokenError, TokenSource},
    ids::{Namer, RunnerName, SetName},
    shutdown::Tasks,
};

/// For the cache in front: a call may take 45 s and wait for its turn, and must not be cut off.
pub const DEADLINE: Duration = Duration::from_secs(90);
/// Stands for a scale set in names and at the gate.
const NAME: &str = "queue-access";
/// A record of our pattern is left over when nobody can be using it any more.
const LEFT_OVER: Duration = Duration::from_mins(10);
/// Names that are remembered; older ones are found by their age.
const LOST_MAX: usize = 32;
/// After a limit that tells no time.
const UNTOLD_LIMIT: Duration = Duration::from_mins(1);
/// Between two tries at a record that cannot be deleted.
const PAUSES: [Duration; 5] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(60),
];

/// Hands out registration tokens for one scope, through one GHARTS.
pub struct Broker {
    shared: Arc<Shared>,
    /// What `github.configUrl` says.
    scope: Url,
    rng: Mutex<fastrand::Rng>,
    tasks: Tasks,
}

struct Shared {
    client: Arc<Client>,
    gate: Gate,
    clock: Clock,
    namer: Namer,
    /// In front of every other call: without access to the queue nothing else is of use.
    name: SetName,
    leftovers: Mutex<Leftovers>,
}

/// What may be there of ours that no answer told.
#[derive(Debug)]
struct Leftovers {
    /// The list must be looked through: after a start, and until it shows nothing that is merely too young.
    suspected: bool,
    /// Names of calls whose outcome is unknown, newest last.
    lost: Vec<RunnerName>,
    /// When those that were too young were first seen: by a clock of ours that is behind they would be so for hours.
    first_seen: BTreeMap<String, Instant>,
    /// The newest search: it alone goes on while something is suspected.
    searches: u64,
}

impl Broker {
    /// `namespace_uid` tells installations apart; `tasks` are waited for before the process ends.
    pub fn new(
        client: Arc<Client>,
        gate: Gate,
        clock: Clock,
        scope: Url,
        namespace_uid: &str,
        seed: u64,
        tasks: Tasks,
    ) -> Self {
        let name = SetName::new(NAME);
        Self {
            shared: Arc::new(Shared {
                client,
                gate,
                clock,
                namer: Namer::new(namespace_uid, &name),
                name,
                leftovers: Mutex::new(Leftovers {
                    suspected: true,
                    lost: Vec::new(),
                    first_seen: BTreeMap::new(),
                    searches: 0,
                }),
            }),
            scope,
            rng: Mutex::new(fastrand::Rng::with_seed(seed)),
            tasks,
        }
    }

    async fn hand_out(&self) -> Result<Token, TokenError> {
        let shared = &self.shared;
        let name = {
            let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
            shared.namer.next(&mut rng)
        };
        let request = RegistrationRequest {
            runner_name: name.as_str().to_owned(),
            labels: Vec::new(),
            ephemeral: true,
        };
        let permit = shared.gate.enter(Urgency::Remove, &shared.name).await;
        let answer = shared.client.provision(&request).await;
        drop(permit);
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => {
                if matches!(
                    failure.trouble,
                    Trouble::UnknownOutcome | Trouble::Stalled | Trouble::Upstream
                ) {
                    shared.lost(name);
                }
                // What such calls left behind may be what uses the quota up.
                if failure.trouble == Trouble::Quota && shared.leftovers().suspected {
                    self.search();
                }
                return Err(self.refusal(&failure));
            }
        };
        tracing::info!(runner = %name, gharts_url = shared.client.base_url(), gharts_runner_id = answer.runner_id,
            "GHARTS handed out a registration token");
        self.tidy(name, answer.runner_id.clone());
        self.is_for_our_scope(&answer)?;
        Ok(Token {
            life: answer.life(),
            secret: answer.registration_token,
        })
    }

    /// A token for another organization would be refused by GitHub without a word about why.
    fn is_for_our_scope(&self, answer: &RegistrationAnswer) -> Result<(), TokenError> {
        match answer.github_url.as_deref() {
            Some(url) if !is_same_place(url, &self.scope) => Err(TokenError::Denied {
                denial: Denial::Configuration,
                message: format!(
                    "{}: its registration tokens are for {}, and github.configUrl is {}; set configUrl to what GHARTS \
                     serves, or use the GHARTS of that organization",
                    self.describe(),
                    crate::http::redact(url),
                    self.scope
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Deletes what was left behind, beside whatever else goes on.
    fn search(&self) {
        let (shared, stop) = (Arc::clone(&self.shared), self.tasks.token().clone());
        self.tasks.keep("broker", move || {
            let (shared, stop) = (Arc::clone(&shared), stop.clone());
            async move { shared.search(&stop).await }
        });
    }

    /// Deletes the record that came with the token, and what else of ours was left behind.
    fn tidy(&self, name: RunnerName, record: String) {
        let (shared, stop) = (Arc::clone(&self.shared), self.tasks.token().clone());
        self.tasks.keep("broker", move || {
            let (shared, stop) = (Arc::clone(&shared), stop.clone());
            let (name, record) = (name.clone(), record.clone());
            async move {
                if !shared.delete_soon(&record, &stop).await {
                    shared.lost(name);
                }
                shared.search(&stop).await;
            }
        });
    }

    /// Waits until nothing that was handed out is to be tidied up any more. Nothing may be handed out afterwards.
    pub async fn finished(&self) {
        self.tasks.finished().await;
    }

    fn refusal(&self, failure: &Failure) -> TokenError {
        let message = format!("{}: {}", self.describe(), failure.message);
        let denial = match failure.trouble {
            Trouble::Quota => Denial::Quota,
            Trouble::LabelPolicy => Denial::LabelPolicy,
            Trouble::NotAuthorized => Denial::NotAuthorized,
            Trouble::InvalidRequest | Trouble::Configuration => Denial::Configuration,
            Trouble::Credentials => Denial::Credentials,
            Trouble::RateLimited => {
                let wait = failure.retry_after.unwrap_or(UNTOLD_LIMIT);
                return TokenError::Limited { message, wait };
            }
            Trouble::NameTaken
            | Trouble::ClockSkew
            | Trouble::IssuerDown
            | Trouble::Upstream
            | Trouble::UnknownOutcome
            | Trouble::Stalled
            | Trouble::Unreachable => return TokenError::Unavailable { message },
        };
        TokenError::Denied { denial, message }
    }
}

impl Shared {
    /// Gone is as good. A runner at work under this name is somebody's: it is left alone.
    async fn delete(&self, record: &str) -> Result<(), Failure> {
        let _permit = self.gate.enter(Urgency::Remove, &self.name).await;
        match self.client.delete(record).await? {
            Deleted::Removed | Deleted::Gone => {}
            Deleted::Busy => {
                tracing::warn!(
                    gharts_runner_id = record,
                    "a registration token's record has a busy runner"
                );
            }
        }
        Ok(())
    }

    /// Tries a few times; whether it was deleted.
    async fn delete_soon(&self, record: &str, stop: &CancellationToken) -> bool {
        let mut pauses = PAUSES.iter();
        while let Err(failure) = self.delete(record).await {
            let Some(pause) = pauses.next().filter(|_| !stop.is_cancelled()) else {
                tracing::warn!(gharts_runner_id = record, %failure, "the record of a registration token stays for now");
                return false;
            };
            stop.run_until_cancelled(tokio::time::sleep(*pause)).await;
        }
        true
    }

    /// Deletes what is left over, until nothing is suspected any more, or a newer search goes on with it.
    async fn search(&self, stop: &CancellationToken) {
        let mine = {
            let mut leftovers = self.leftovers();
            leftovers.searches += 1;
            leftovers.searches
        };
        let goes_on = || {
            let leftovers = self.leftovers();
            leftovers.suspected && leftovers.searches == mine
        };
        while goes_on() {
            if let Err(failure) = self.delete_leftovers().await {
                tracing::warn!(%failure, "records that registration tokens left behind cannot be deleted yet");
            }
            if !goes_on() || stop.run_until_cancelled(tokio::time::sleep(LEFT_OVER)).await.is_none() {
                return;
            }
        }
    }

    async fn delete_leftovers(&self) -> Result<(), Failure> {
        let lost = self.leftovers().lost.clone();
        let permit = self.gate.enter(Urgency::Remove, &self.name).await;
        let records = self.client.list().await?;
        drop(permit);
        let ours = |record: &&Runner| self.namer.is_ours(&record.runner_name);
        let now = self.clock.instant();
        let (before, mut young) = (self.leftovers().first_seen.clone(), BTreeMap::new());
        for record in records.iter().filter(ours) {
            let seen = before.get(&record.runner_id).copied().unwrap_or(now);
            let told = record.created().map(|at| self.clock.since(at)).unwrap_or_default();
            let is_lost = lost.iter().any(|name| name.as_str() == record.runner_name);
            if !is_lost && told.max(now.duration_since(seen)) < LEFT_OVER {
                young.insert(record.runner_id.clone(), seen);
                continue;
            }
            self.delete(&record.runner_id).await?;
            tracing::info!(
                runner = record.runner_name,
                "an old registration token's record is removed"
            );
        }
        let mut leftovers = self.leftovers();
        leftovers.lost.retain(|name| !lost.contains(name));
        // A call whose answer was lost may have its effect still: the list is looked through once more.
        leftovers.suspected = !young.is_empty() || !lost.is_empty() || !leftovers.lost.is_empty();
        leftovers.first_seen = young;
        Ok(())
    }

    fn lost(&self, name: RunnerName) {
        let mut leftovers = self.leftovers();
        leftovers.suspected = true;
        if leftovers.lost.len() == LOST_MAX {
            leftovers.lost.remove(0);
        }
        leftovers.lost.push(name);
    }

    fn leftovers(&self) -> MutexGuard<'_, Leftovers> {
        self.leftovers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TokenSource for Broker {
    fn fetch(&self) -> BoxFuture<'_, Result<Token, TokenError>> {
        Box::pin(self.hand_out())
    }

    fn describe(&self) -> String {
        format!(
            "access to the queue through GHARTS at {}",
            self.shared.client.base_url()
        )
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

/// GitHub's names differ in case only by looks.
pub(crate) fn is_same_place(told: &str, ours: &Url) -> bool {
    let Ok(told) = Url::parse(told.trim()) else {
        return false;
    };
    let path = |url: &Url| url.path().trim_matches('/').to_ascii_lowercase();
    told.host_str() == ours.host_str()
        && told.port_or_known_default() == ours.port_or_known_default()
        && path(&told) == path(ours)
}

#[cfg(test)]
mod tests;
