//! What goes wrong at GitHub, and what somebody does there.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use super::{AtWork, Stage};
use crate::sim::{
    github::{JobState, Pat},
    hunt::plan::{Fault, THIEF, Timed},
    keys::SigningKey,
    world::{APP_KEY_FILE, Credential, DAEMON_APP_KEY, GITHUB_TOKEN_FILE},
};

/// The App's keys, one after the other; the first is the world's own.
const APP_KEYS: [&str; 3] = [DAEMON_APP_KEY, "the App's second key", "the App's third key"];

impl Stage<'_> {
    pub(super) fn of_github(&self, timed: &Timed) -> Option<AtWork> {
        let github = self.world.github.clone();
        Some(match &timed.fault {
            Fault::TokensRevoked => {
                github.revoke_installation_tokens();
                github.revoke_admin_tokens();
                AtWork::done(true)
            }
            Fault::QueueTokenExpired { set } => AtWork::done(github.expire_queue_token(self.set(*set))),
            Fault::PatRefused => {
                let pat = pat(&self.shown(GITHUB_TOKEN_FILE));
                github.remove_pat(&pat.token);
                // What it opened is shut as well.
                github.revoke_admin_tokens();
                let met = self.plan.shape.credential == Credential::Pat;
                AtWork::new(move || github.put_pat(pat), move || met)
            }
            Fault::SecretRotated => self.rotate(),
            Fault::RateLimit { whom, how } => {
                github.limit(*whom, *how, Duration::from_millis(timed.for_ms));
                AtWork::done(true)
            }
            Fault::SessionLost { set } => AtWork::done(github.lose_session(self.set(*set))),
            Fault::SessionStolen { set } => AtWork::done(github.steal_session(self.set(*set), THIEF)),
            Fault::SetDeleted { set } => AtWork::done(github.remove_set(self.set(*set))),
            Fault::MessagesTwice { set } => AtWork::done(github.say_again(self.set(*set))),
            Fault::MessagesReordered => {
                github.configure(|settings| settings.shuffled = true);
                AtWork::new(move || github.configure(|settings| settings.shuffled = false), || true)
            }
            Fault::MessageIdsRestarted { set } => {
                let (set, met) = (self.set(*set).to_owned(), github.skip_message_ids(self.set(*set)));
                AtWork::new(
                    move || {
                        github.restart_message_ids(&set);
                    },
                    move || met,
                )
            }
            Fault::WrongStatistics { lie } => {
                github.lie(Some(*lie));
                AtWork::new(move || github.lie(None), || true)
            }
            Fault::JobCancelled { nth } => {
                let waiting = [JobState::Queued, JobState::Resting, JobState::Assigned];
                let job = self.job(*nth, &waiting);
                AtWork::done(job.is_some_and(|id| github.cancel(&id).is_ok()))
            }
            Fault::AssignmentDropped { nth } => {
                let job = self.job(*nth, &[JobState::Assigned]);
                AtWork::done(job.is_some_and(|id| github.drop_assignment(&id).is_ok()))
            }
            _ => return None,
        })
    }

    /// What the daemon's file beside its configuration says now.
    fn shown(&self, file: &str) -> String {
        // Nobody removes it: an empty one would fail every call.
        fs::read_to_string(self.dir.join(file)).unwrap_or_default()
    }

    /// A second secret beside the first, shown from now on; at the end the first opens nothing any more.
    fn rotate(&self) -> AtWork {
        let github = self.world.github.clone();
        let swap = |file: &str, text: &str| {
            let (path, next) = (self.dir.join(file), self.dir.join(format!("{file}.next")));
            fs::write(&next, text).and_then(|()| fs::rename(&next, &path)).is_ok()
        };
        let dir = self.dir.to_owned();
        let is_shown = move |file: &str, text: &str| fs::read_to_string(dir.join(file)).is_ok_and(|now| now == text);
        match self.plan.shape.credential {
            Credential::Pat => {
                let old = self.shown(GITHUB_TOKEN_FILE);
                let mut hasher = DefaultHasher::new();
                old.hash(&mut hasher);
                let new = format!("ghp_{:032x}", hasher.finish());
                github.put_pat(pat(&new));
                let met = swap(GITHUB_TOKEN_FILE, &new);
                let end = move || {
                    github.remove_pat(&old);
                    github.revoke_admin_tokens();
                };
                AtWork::new(end, move || met)
            }
            Credential::App => {
                let keys: Vec<SigningKey> = APP_KEYS
                    .iter()
                    .filter_map(|name| SigningKey::shared(name).ok())
                    .collect();
                let old = self.shown(APP_KEY_FILE);
                let current = keys.iter().position(|key| key.private_pem() == old).unwrap_or(0);
                let (before, next) = (keys.get(current).cloned(), keys.get((current + 1) % APP_KEYS.len()));
                let (Some(before), Some(next)) = (before, next) else {
                    return AtWork::done(false);
                };
                let met = github.add_app_key(next.public_pem()) && swap(APP_KEY_FILE, next.private_pem());
                let end = move || {
                    if !is_shown(APP_KEY_FILE, before.private_pem()) {
                        github.remove_app_key(before.public_pem());
                        github.revoke_installation_tokens();
                        github.revoke_admin_tokens();
                    }
                };
                AtWork::new(end, move || met)
            }
            // GHARTS has the keys.
            Credential::Brokered => AtWork::done(false),
        }
    }

    fn job(&self, nth: usize, states: &[JobState]) -> Option<String> {
        let jobs = self.world.github.jobs();
        let fitting: Vec<_> = jobs.iter().filter(|job| states.contains(&job.state)).collect();
        let nth = nth.checked_rem(fitting.len())?;
        Some(fitting[nth].id.clone())
    }
}

fn pat(token: &str) -> Pat {
    Pat {
        token: token.to_owned(),
        manages_runners: true,
        only_in: None,
    }
}
