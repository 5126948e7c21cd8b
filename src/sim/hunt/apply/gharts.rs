//! What goes wrong at GHARTS.

use std::time::Duration;

use http::StatusCode;

use super::{AtWork, Stage};
use crate::sim::{
    gharts::{self, GithubTrouble, Operation},
    hunt::{
        plan::{Fault, GhartsCall, GhartsTrouble, Ill, Timed},
        strangers::PLACES,
    },
    oidc::Ailment,
};

/// Longer than GHARTS waits for GitHub, and for keys.
const SLOW_GITHUB: Duration = Duration::from_secs(7);
const SLOW_KEYS: Duration = Duration::from_secs(12);
/// What a changed policy permits.
const OTHER_LABEL: &str = "something-else";

impl Stage<'_> {
    pub(super) fn of_gharts(&self, timed: &Timed) -> Option<AtWork> {
        let services = &self.world.services;
        let (gharts, account) = (self.world.gharts.clone(), services.gharts_account());
        let (has_teams, user) = (gharts.flavour().has_teams(), services.gharts_user.clone());
        Some(match &timed.fault {
            Fault::Quota { places } => {
                gharts.set_quota(&account, Some(*places + PLACES));
                let usual = self.plan.shape.quota.map(|quota| quota + PLACES);
                AtWork::new(move || gharts.set_quota(&account, usual), || true)
            }
            Fault::PlacesTaken { places } => {
                gharts.take_places(&account, *places);
                let met = self.plan.shape.quota.is_some();
                AtWork::new(move || gharts.take_places(&account, 0), move || met)
            }
            Fault::PolicyChanged => {
                let (labels, patterns) = match (gharts.team(&account), gharts.policy(&account)) {
                    (Some(team), _) => (team.required_labels, team.optional_label_patterns),
                    (None, Some(policy)) => (policy.allowed_labels, policy.label_patterns),
                    (None, None) => return Some(AtWork::done(false)),
                };
                if labels == [OTHER_LABEL] {
                    // Another change is at work; its end restores what was there.
                    return Some(AtWork::done(false));
                }
                gharts.set_policy(&account, &[OTHER_LABEL], &[]);
                AtWork::new(move || gharts.set_policy(&account, &labels, &patterns), || true)
            }
            Fault::TeamDeactivated if has_teams => {
                gharts.deactivate_team(&account, "an audit");
                AtWork::new(move || gharts.reactivate_team(&account), || true)
            }
            Fault::NotAMember if has_teams => {
                gharts.remove_member(&account, &user);
                AtWork::new(move || gharts.add_member(&account, &user), || true)
            }
            Fault::TeamDeactivated | Fault::NotAMember => AtWork::done(false),
            Fault::UserDeactivated => {
                gharts.set_user_active(&user, false);
                AtWork::new(move || gharts.set_user_active(&user, true), || true)
            }
            Fault::Frozen => {
                gharts.freeze(Duration::from_millis(timed.for_ms));
                AtWork::done(true)
            }
            Fault::GhartsFails { call, how, times } => {
                let (operation, fault) = (operation(*call), gharts_fault(*how));
                let before = gharts.calls_of(operation);
                for _ in 0..*times {
                    gharts.inject(operation, fault);
                }
                let (end, asked) = (gharts.clone(), gharts);
                AtWork::new(move || end.heal(), move || asked.calls_of(operation) > before)
            }
            Fault::GhartsSeesNoGitHub { how } => {
                gharts.trouble_github(Some(match how {
                    Ill::Fails => GithubTrouble::Status(StatusCode::BAD_GATEWAY),
                    Ill::Slow => GithubTrouble::Slow(SLOW_GITHUB),
                    Ill::Lost => GithubTrouble::LostAfter,
                }));
                AtWork::new(move || gharts.trouble_github(None), || true)
            }
            Fault::KeysIll { how } => {
                gharts.ail_jwks(Some(match how {
                    Ill::Fails => Ailment::Status(StatusCode::INTERNAL_SERVER_ERROR),
                    Ill::Slow => Ailment::Slow(SLOW_KEYS),
                    Ill::Lost => Ailment::Reset,
                }));
                AtWork::new(move || gharts.ail_jwks(None), || true)
            }
            _ => return None,
        })
    }
}

fn operation(call: GhartsCall) -> Operation {
    match call {
        GhartsCall::Jit => Operation::Jit,
        GhartsCall::Token => Operation::Token,
        GhartsCall::Delete => Operation::Delete,
        GhartsCall::List => Operation::List,
        GhartsCall::Get => Operation::Get,
    }
}

fn gharts_fault(how: GhartsTrouble) -> gharts::Fault {
    match how {
        GhartsTrouble::Refused => gharts::Fault::Refused,
        GhartsTrouble::AnswerLost => gharts::Fault::AnswerLost,
        GhartsTrouble::AnswerSpoiled => gharts::Fault::AnswerSpoiled,
        GhartsTrouble::Unrecorded => gharts::Fault::Unrecorded,
    }
}
