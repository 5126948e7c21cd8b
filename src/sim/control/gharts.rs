//! GHARTS under control: what its administrator does during a run, and what befalls it.

use std::{collections::BTreeMap, time::Duration};

use axum::{Json, body::Bytes, extract::State, http::StatusCode};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::{Controlled, Refusal, read};
use crate::sim::{
    gharts::{self, Gharts, GithubTrouble, Latency, Operation},
    oidc::Ailment,
    world::{MACHINE, Services},
};

/// Longer than GHARTS waits for GitHub, and for keys.
const SLOW_GITHUB: Duration = Duration::from_secs(7);
const SLOW_JWKS: Duration = Duration::from_secs(12);
/// A service that stands still for longer than a day is a mistake.
const LONGEST_FREEZE: f64 = 86_400.0;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Change {
    /// A team's name, or an identity; the daemon's own unless it stands here.
    account: Option<String>,
    /// `null` is a value here: no quota at all.
    #[serde(default, deserialize_with = "present")]
    quota: Option<Quota>,
    foreign_runners: Option<u32>,
    policy: Option<NewPolicy>,
    team: Option<TeamState>,
    member: Option<bool>,
    user_active: Option<bool>,
    client_active: Option<bool>,
    client_team: Option<String>,
    next: Option<Next>,
    jwks: Option<Jwks>,
    github: Option<GitHub>,
    pace: Option<Pace>,
    freezes: Option<bool>,
    freeze_seconds: Option<f64>,
    #[serde(default)]
    sync: bool,
}

#[derive(Clone, Copy)]
enum Quota {
    Most(u32),
    None,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPolicy {
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default)]
    patterns: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TeamState {
    active: bool,
    #[serde(default)]
    reason: String,
}

/// What befalls the next calls of one kind.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Next {
    call: Call,
    fault: Fault,
    #[serde(default = "once")]
    times: u32,
}

const fn once() -> u32 {
    1
}

/// More faults than this in one request are a mistake.
const MOST_FAULTS: u32 = 1000;

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Call {
    Jit,
    Token,
    Delete,
    List,
    Get,
    Me,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Fault {
    Refused,
    AnswerLost,
    AnswerSpoiled,
    Unrecorded,
}

impl Next {
    fn apply(&self, gharts: &Gharts) {
        let operation = match self.call {
            Call::Jit => Operation::Jit,
            Call::Token => Operation::Token,
            Call::Delete => Operation::Delete,
            Call::List => Operation::List,
            Call::Get => Operation::Get,
            Call::Me => Operation::Me,
        };
        let fault = match self.fault {
            Fault::Refused => gharts::Fault::Refused,
            Fault::AnswerLost => gharts::Fault::AnswerLost,
            Fault::AnswerSpoiled => gharts::Fault::AnswerSpoiled,
            Fault::Unrecorded => gharts::Fault::Unrecorded,
        };
        for _ in 0..self.times {
            gharts.inject(operation, fault);
        }
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Jwks {
    Ok,
    Fails,
    Slow,
    Lost,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum GitHub {
    Status(u16),
    Word(GitHubWord),
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum GitHubWord {
    Ok,
    Slow,
    Lost,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Pace {
    AtOnce,
    Recorded,
}

/// A field that is there, `null` or not.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Quota>, D::Error> {
    let most = Option::deserialize(deserializer)?;
    Ok(Some(most.map_or(Quota::None, Quota::Most)))
}

impl GitHub {
    fn trouble(self) -> Result<Option<GithubTrouble>, Refusal> {
        match self {
            Self::Word(GitHubWord::Ok) => Ok(None),
            Self::Word(GitHubWord::Slow) => Ok(Some(GithubTrouble::Slow(SLOW_GITHUB))),
            Self::Word(GitHubWord::Lost) => Ok(Some(GithubTrouble::LostAfter)),
            Self::Status(status) => match StatusCode::from_u16(status) {
                Ok(status) if status.is_client_error() || status.is_server_error() => {
                    Ok(Some(GithubTrouble::Status(status)))
                }
                _ => Err(bad("github: ok, slow, lost, or a status from 400 to 599 is expected")),
            },
        }
    }
}

impl Jwks {
    fn ailment(self) -> Option<Ailment> {
        match self {
            Self::Ok => None,
            Self::Fails => Some(Ailment::Status(StatusCode::INTERNAL_SERVER_ERROR)),
            Self::Slow => Some(Ailment::Slow(SLOW_JWKS)),
            Self::Lost => Some(Ailment::Reset),
        }
    }
}

fn no_account(name: &str) -> Refusal {
    Refusal(StatusCode::NOT_FOUND, format!("GHARTS has no account {name}"))
}

fn bad(message: &str) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, message.to_owned())
}

impl Change {
    /// What can be refused is looked at before anything is done.
    fn apply(&self, services: &Services) -> Result<(), Refusal> {
        let gharts = &services.gharts;
        let trouble = self.github.map(GitHub::trouble).transpose()?;
        let freeze = self.freeze()?;
        let account = self.account(services)?;
        if self.next.as_ref().is_some_and(|next| next.times > MOST_FAULTS) {
            return Err(bad("next.times: at most 1000 is expected"));
        }
        let client_team = match &self.client_team {
            None => None,
            Some(name) => Some(gharts.team(name).ok_or_else(|| no_account(name))?),
        };
        self.apply_to_account(services, &account);
        if let Some(active) = self.user_active {
            gharts.set_user_active(&services.gharts_user, active);
        }
        if let Some(active) = self.client_active {
            gharts.set_client_active(MACHINE.0, active);
        }
        if let Some(team) = client_team {
            gharts.register_client(MACHINE.0, &team.id);
        }
        if let Some(next) = &self.next {
            next.apply(gharts);
        }
        if let Some(jwks) = self.jwks {
            gharts.ail_jwks(jwks.ailment());
        }
        if let Some(trouble) = trouble {
            gharts.trouble_github(trouble);
        }
        match self.pace {
            Some(Pace::AtOnce) => gharts.set_latency(Latency::None),
            Some(Pace::Recorded) => gharts.set_latency(Latency::RECORDED),
            None => {}
        }
        if let Some(freezes) = self.freezes {
            gharts.set_freezes(freezes);
        }
        if let Some(time) = freeze {
            gharts.freeze(time);
        }
        Ok(())
    }

    /// Whom it is about, if there is such a one.
    fn account(&self, services: &Services) -> Result<String, Refusal> {
        let gharts = &services.gharts;
        let has_teams = gharts.flavour().has_teams();
        if (self.team.is_some() || self.member.is_some()) && !has_teams {
            let message = format!("GHARTS of flavour {} has no teams", gharts.flavour().name());
            return Err(Refusal(StatusCode::CONFLICT, message));
        }
        let account = self.account.clone().unwrap_or_else(|| services.gharts_account());
        let known = if has_teams {
            gharts.team(&account).is_some()
        } else {
            gharts.policy(&account).is_some()
        };
        if known { Ok(account) } else { Err(no_account(&account)) }
    }

    fn apply_to_account(&self, services: &Services, account: &str) {
        let gharts = &services.gharts;
        match self.quota {
            Some(Quota::Most(most)) => gharts.set_quota(account, Some(most)),
            Some(Quota::None) => gharts.set_quota(account, None),
            None => {}
        }
        if let Some(places) = self.foreign_runners {
            gharts.take_places(account, places);
        }
        if let Some(policy) = &self.policy {
            gharts.set_policy(account, &policy.labels, &policy.patterns);
        }
        match &self.team {
            Some(team) if team.active => gharts.reactivate_team(account),
            Some(team) => gharts.deactivate_team(account, &team.reason),
            None => {}
        }
        match self.member {
            Some(true) => gharts.add_member(account, &services.gharts_user),
            Some(false) => gharts.remove_member(account, &services.gharts_user),
            None => {}
        }
    }

    fn freeze(&self) -> Result<Option<Duration>, Refusal> {
        let Some(seconds) = self.freeze_seconds else {
            return Ok(None);
        };
        if !(0.0..=LONGEST_FREEZE).contains(&seconds) {
            return Err(bad("freezeSeconds: 0 to 86400 is expected"));
        }
        Ok(Some(Duration::from_secs_f64(seconds)))
    }
}

pub(super) async fn change(State(world): State<Controlled>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let change: Change = read(&body)?;
    change.apply(&world.services)?;
    if change.sync {
        world.services.gharts.sync().await;
    }
    Ok(show(State(world)).await)
}

pub(super) async fn show(State(world): State<Controlled>) -> Json<Value> {
    let gharts = &world.services.gharts;
    let mut records = BTreeMap::<&str, usize>::new();
    for record in gharts.records() {
        *records.entry(record.status.as_str()).or_default() += 1;
    }
    let calls: BTreeMap<String, u64> = gharts
        .calls()
        .into_iter()
        .map(|(operation, count)| (format!("{operation:?}").to_lowercase(), count))
        .collect();
    let account = world.services.gharts_account();
    Json(json!({
        "flavour": gharts.flavour().name(),
        "account": account,
        "accounts": accounts(gharts),
        "records": records,
        "calls": calls,
        "maxInFlight": gharts.max_in_flight(),
        "stoodStillSeconds": gharts.stood_still().as_secs_f64(),
    }))
}

/// Every team or identity with what it may have.
fn accounts(gharts: &Gharts) -> serde_json::Map<String, Value> {
    let mut accounts = serde_json::Map::new();
    for team in gharts.teams() {
        let mut shown = json!({
            "id": team.id, "quota": team.max_runners, "placesTaken": gharts.places_taken(&team.name),
            "policy": { "labels": team.required_labels, "patterns": team.optional_label_patterns },
            "active": team.deactivated.is_none(),
        });
        if let Some(deactivation) = team.deactivated {
            shown["reason"] = json!(deactivation.reason);
        }
        accounts.insert(team.name, shown);
    }
    for policy in gharts.policies() {
        let shown = json!({
            "quota": policy.max_runners, "placesTaken": gharts.places_taken(&policy.identity),
            "policy": { "labels": policy.allowed_labels, "patterns": policy.label_patterns },
        });
        accounts.insert(policy.identity, shown);
    }
    accounts
}
