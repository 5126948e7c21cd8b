//! The provisioner behind which a GHARTS stands: how a runner that it registers meets the jobs of a scale set.
//!
//! | binding | what it is |
//! | --- | --- |
//! | [`Binding::ScaleSet`] | the set-aware extension: registered with the set (this file) |
//! | [`Binding::Labels`] | an ordinary runner with the set's labels ([`labels`]) |
//! | [`Binding::RegistrationToken`] | policy, quota and audit at GHARTS, then the set's own JIT configuration with the authority of the registration token that it hands out ([`registration_token`]) |
//!
//! A runner that GHARTS registers in the ordinary way belongs to no scale set, and a job of a scale set never runs
//! on it. So the first binding makes runners only where the server shows that it binds them: by its
//! feature flag, by its API description, or, where neither can be had, by the echo in the first answer. An
//! answer without echo is an ordinary runner: it is given back at once, and the refusal says what mends it.
//!
//! What is known of a server is kept only while it is good news; bad news is asked for again each time,
//! and the caller decides how often that is.

mod labels;
mod registration_token;
mod standing;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;

pub use self::registration_token::GitHubAccess;
use super::{Class, Granted, JitRequest, Provisioner, Record, Refusal, Registration, ReleaseError, Released, Standing};
use crate::{
    clock::Clock,
    gharts::{
        Client, Deleted, Failure, Trouble,
        wire::{self, JitAnswer, Me, ScaleSetFields},
    },
    http::redact,
};

/// What every self-hosted runner is called.
const SELF_HOSTED: &str = "self-hosted";
const REMEDY: &str = "upgrade GHARTS with the extension described in docs/gharts-extension.md, set `provisioner: scaleSet` \
                      for this scale set, or bind its runners another way: `runnerBinding: registrationToken` with the older \
                      GHARTS, `runnerBinding: labels` (experimental) with any";

/// How the runners of a set meet its jobs.
#[derive(Debug)]
pub enum Binding {
    ScaleSet,
    Labels { runner_group_id: Option<i64> },
    RegistrationToken(Box<GitHubAccess>),
}

/// Registers runners through GHARTS, for one team and in one way.
#[derive(Debug)]
pub struct GhartsProvisioner {
    client: Arc<Client>,
    clock: Clock,
    /// Name or id, as the file says.
    team: Option<String>,
    binding: Binding,
    known: Mutex<Option<Known>>,
}

/// What a server was found to be. Kept only while it serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    team: Team,
    /// Shown by flag, description or echo; false: the next answer's echo is the proof.
    binds: bool,
}

/// How a request names the team.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Team {
    id: Option<String>,
    name: Option<String>,
}

impl GhartsProvisioner {
    pub fn new(client: Arc<Client>, clock: Clock, team: Option<String>, binding: Binding) -> Self {
        Self {
            client,
            clock,
            team,
            binding,
            known: Mutex::new(None),
        }
    }

    async fn grant(&self, request: &JitRequest) -> Result<Granted, Refusal> {
        let granted = match &self.binding {
            Binding::ScaleSet => self.grant_in_set(request).await,
            Binding::Labels { runner_group_id } => self.grant_by_labels(request, *runner_group_id).await,
            Binding::RegistrationToken(github) => self.grant_by_registration_token(request, github).await,
        };
        match granted {
            Err(refusal) => Err(self.explained(refusal).await),
            well => well,
        }
    }

    async fn grant_in_set(&self, request: &JitRequest) -> Result<Granted, Refusal> {
        let known = self.server().await?;
        let fields = ScaleSetFields {
            runner_scale_set_id: request.scale_set_id,
            runner_scale_set_name: request.set.as_str().to_owned(),
        };
        let answer = self.ask(request, &known.team, None, Some(fields)).await?;
        match answer.runner_scale_set_id {
            Some(id) if id == request.scale_set_id => {
                *self.known() = Some(Known { binds: true, ..known });
                Ok(Granted {
                    jit_config: answer.encoded_jit_config,
                    agent_id: answer.github_runner_id,
                    gharts_id: Some(answer.runner_id),
                    status: Some(answer.status),
                })
            }
            echo => Err(self.give_back(request, &answer, echo).await),
        }
    }

    async fn ask(
        &self,
        request: &JitRequest,
        team: &Team,
        runner_group_id: Option<i64>,
        scale_set: Option<ScaleSetFields>,
    ) -> Result<JitAnswer, Refusal> {
        let wire = wire::JitRequest {
            runner_name: request.name.as_str().to_owned(),
            labels: sent_labels(&request.labels),
            team_id: team.id.clone(),
            team_name: team.name.clone(),
            work_folder: request.work_folder.clone(),
            runner_group_id,
            scale_set,
        };
        let answer = self.client.jit(&wire).await.map_err(|failure| {
            // A team may have been renamed or changed hands; ask anew before the next try.
            if matches!(failure.trouble, Trouble::NotAuthorized | Trouble::Configuration) {
                *self.known() = None;
            }
            refused_jit(failure, request)
        })?;
        match answer.runner_name.as_deref() {
            // GitHub would tell of its jobs by a name that nobody here knows.
            Some(other) if other != request.name.as_str() => {
                let undone = self.undo(&answer.runner_id).await;
                let what = format!(
                    "GHARTS registered {} under the name {:?} ({})",
                    request.name,
                    redact(other),
                    fate(&undone)
                );
                Err(Refusal {
                    left_behind: undone.is_err(),
                    ..refusal(Class::Configuration, what)
                })
            }
            _ => Ok(answer),
        }
    }

    /// Undoes the registration of a runner that no job of the set could reach.
    async fn give_back(&self, request: &JitRequest, answer: &JitAnswer, echo: Option<i64>) -> Refusal {
        *self.known() = None;
        let undone = self.undo(&answer.runner_id).await;
        let fate = fate(&undone);
        let (class, what) = match echo {
            None => (
                Class::BindingUnsupported,
                format!(
                    "GHARTS registered {} outside the scale set ({fate}): {REMEDY}",
                    request.name
                ),
            ),
            Some(other) => (
                Class::Configuration,
                format!(
                    "GHARTS registered {} with scale set {other} instead of {} ({fate})",
                    request.name, request.scale_set_id
                ),
            ),
        };
        Refusal {
            left_behind: undone.is_err(),
            ..refusal(class, what)
        }
    }

    /// Gives a record back that is of no use; or why it is there still.
    async fn undo(&self, runner_id: &str) -> Result<(), String> {
        match self.client.delete(runner_id).await {
            Ok(Deleted::Removed | Deleted::Gone) => Ok(()),
            Ok(Deleted::Busy) => Err("GitHub says that it is busy".to_owned()),
            Err(failure) => Err(failure.to_string()),
        }
    }

    /// What is known of the server, asked for where nothing is.
    async fn server(&self) -> Result<Known, Refusal> {
        if let Some(known) = self.known().clone() {
            return Ok(known);
        }
        let (_, known) = self.ask_server().await?;
        Ok(known)
    }

    async fn ask_server(&self) -> Result<(Me, Known), Refusal> {
        let me = match self.client.me().await {
            Ok(me) => me,
            // A version without this endpoint: the other signs will tell.
            Err(failure) if matches!(failure.status, Some(404 | 405)) => Me::default(),
            Err(failure) => return Err(failure.into()),
        };
        let team = choose_team(self.team.as_deref(), &me)?;
        if !matches!(self.binding, Binding::ScaleSet) {
            let known = Known { team, binds: false };
            *self.known() = Some(known.clone());
            return Ok((me, known));
        }
        let binds = me.binds_to_scale_sets()
            || match self.client.description().await.binds_to_scale_sets {
                Some(false) => {
                    return Err(refusal(
                        Class::BindingUnsupported,
                        format!("this GHARTS cannot bind a runner to a scale set: {REMEDY}"),
                    ));
                }
                Some(true) => true,
                None => false,
            };
        let known = Known { team, binds };
        if known.binds {
            *self.known() = Some(known.clone());
        }
        Ok((me, known))
    }

    async fn take_back(&self, registration: &Registration) -> Result<Released, ReleaseError> {
        let failed = |failure: Failure| ReleaseError::Failed(failure.into());
        let id = match &registration.gharts_id {
            Some(id) => id.clone(),
            None => match self
                .client
                .find_by_name(registration.name.as_str())
                .await
                .map_err(failed)?
            {
                Some(record) => record.runner_id,
                None => return Ok(Released::AlreadyGone),
            },
        };
        match self.client.delete(&id).await.map_err(failed)? {
            Deleted::Removed => Ok(Released::Removed),
            Deleted::Gone => Ok(Released::AlreadyGone),
            Deleted::Busy => Err(ReleaseError::Busy),
        }
    }

    async fn living(&self) -> Result<Option<Vec<Record>>, Refusal> {
        let records = self.client.list().await?.into_iter().map(|runner| Record {
            // A record of unknown age counts as new: nobody's orphan yet.
            age: runner.created().map(|at| self.clock.since(at)).unwrap_or_default(),
            name: runner.runner_name,
            gharts_id: runner.runner_id,
            agent_id: runner.github_runner_id,
        });
        Ok(Some(records.collect()))
    }

    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Provisioner for GhartsProvisioner {
    fn provision<'a>(&'a self, request: &'a JitRequest) -> BoxFuture<'a, Result<Granted, Refusal>> {
        Box::pin(self.grant(request))
    }

    fn probe(&self) -> BoxFuture<'_, Result<Standing, Refusal>> {
        Box::pin(self.stand())
    }

    fn release<'a>(&'a self, registration: &'a Registration) -> BoxFuture<'a, Result<Released, ReleaseError>> {
        Box::pin(self.take_back(registration))
    }

    fn gharts_url(&self) -> Option<&str> {
        Some(self.client.base_url())
    }

    fn records(&self) -> BoxFuture<'_, Result<Option<Vec<Record>>, Refusal>> {
        Box::pin(self.living())
    }
}

/// The team as the server wants to hear it. Requests name ids; `/auth/me` is the only place that tells them.
fn choose_team(wanted: Option<&str>, me: &Me) -> Result<Team, Refusal> {
    let Some(wanted) = wanted else {
        return Ok(Team::default());
    };
    let Some(teams) = &me.teams else {
        // A server without teams, or one that resolves names itself; it ignores what it does not know.
        return Ok(if is_uuid(wanted) {
            Team {
                id: Some(wanted.to_owned()),
                name: None,
            }
        } else {
            Team {
                id: None,
                name: Some(wanted.to_owned()),
            }
        });
    };
    if let Some(team) = teams.iter().find(|t| t.id == wanted || t.name == wanted) {
        // By both names: today's servers know only ids, the first design's only names, and each ignores the other.
        return Ok(Team {
            id: Some(team.id.clone()),
            name: Some(team.name.clone()),
        });
    }
    // A person's membership is the server's to judge; a machine client's team is fixed, and its request's ignored.
    if is_uuid(wanted) && !me.is_machine() {
        return Ok(Team {
            id: Some(wanted.to_owned()),
            name: None,
        });
    }
    let have = if teams.is_empty() {
        "no active team".to_owned()
    } else {
        teams.iter().map(|t| t.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    Err(refusal(
        Class::Configuration,
        format!("gharts.team `{wanted}` is none of this identity's teams, which are: {have}"),
    ))
}

/// GHARTS adds `self-hosted` by itself, and no policy permits it.
fn sent_labels(labels: &[String]) -> Vec<String> {
    let sent = labels.iter().filter(|label| *label != SELF_HOSTED);
    sent.cloned().collect()
}

/// What became of a record that was of no use.
fn fate(undone: &Result<(), String>) -> String {
    match undone {
        Ok(()) => "it was given back".to_owned(),
        Err(why) => format!("it could not be given back yet: {why}"),
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// A malformed request is answered without a word about the field: say what was sent.
fn refused_jit(failure: Failure, request: &JitRequest) -> Refusal {
    let malformed = failure.trouble == Trouble::InvalidRequest;
    let mut refusal = Refusal::from(failure);
    if malformed {
        refusal.message = format!(
            "{}; sent: name {}, labels [{}]",
            refusal.message,
            request.name,
            request.labels.join(", ")
        );
    }
    refusal
}

fn refusal(class: Class, message: String) -> Refusal {
    Refusal {
        class,
        status: None,
        code: None,
        message,
        retry_after: None,
        by_github: false,
        left_behind: false,
    }
}

impl From<Trouble> for Class {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Quota => Self::Quota,
            Trouble::NameTaken => Self::NameTaken,
            Trouble::LabelPolicy => Self::LabelPolicy,
            Trouble::NotAuthorized => Self::NotAuthorized,
            Trouble::InvalidRequest => Self::InvalidRequest,
            Trouble::Configuration => Self::Configuration,
            Trouble::Credentials => Self::Credentials,
            Trouble::ClockSkew => Self::ClockSkew,
            Trouble::IssuerDown => Self::IssuerDown,
            Trouble::RateLimited => Self::RateLimited,
            Trouble::Upstream => Self::Upstream,
            Trouble::UnknownOutcome => Self::UnknownOutcome,
            Trouble::Stalled => Self::Stalled,
            Trouble::Unreachable => Self::Unreachable,
        }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self {
            class: failure.trouble.into(),
            status: failure.status,
            code: failure.code,
            message: failure.message,
            retry_after: failure.retry_after,
            by_github: false,
            left_behind: false,
        }
    }
}

#[cfg(test)]
mod tests;
