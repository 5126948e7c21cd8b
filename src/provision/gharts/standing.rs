//! What GHARTS says of itself and of us before any runner is wanted: reads alone, no runner is registered.
//!
//! It is stricter than a request: what only the server's answer to a request would show as well is said here from what
//! it tells of the identity, so that a person reads it before the first job waits.

use super::{
    super::Standing, Binding, Class, GhartsProvisioner, Known, Me, Refusal, is_uuid, refusal,
    registration_token::UNSUPPORTED,
};
use crate::gharts::wire::TeamDetails;

impl GhartsProvisioner {
    pub(super) async fn stand(&self) -> Result<Standing, Refusal> {
        match self.ask_how_we_stand().await {
            Err(refusal) => Err(self.explained(refusal).await),
            well => well,
        }
    }

    /// Where the team may be to blame: GHARTS says of a deactivated one only that we are no member of it, and why it was
    /// deactivated it tells elsewhere.
    pub(super) async fn explained(&self, told: Refusal) -> Refusal {
        let speaks_of_team = told.message.to_lowercase().contains("team");
        if !speaks_of_team || !matches!(told.class, Class::NotAuthorized | Class::Configuration) {
            return told;
        }
        let Some(wanted) = self.team.as_deref() else {
            return told;
        };
        let teams = self.client.teams().await.unwrap_or_default();
        let is_it = |team: &&TeamDetails| (team.id == wanted || team.name == wanted) && !team.is_active;
        let Some(team) = teams.iter().find(is_it) else {
            return told;
        };
        let why = team.deactivation_reason.as_deref().unwrap_or("no reason is told");
        Refusal {
            class: Class::NotAuthorized,
            message: format!(
                "team {} is deactivated at GHARTS: {}",
                crate::http::redact(&team.name),
                crate::http::redact(why)
            ),
            ..told
        }
    }

    async fn ask_how_we_stand(&self) -> Result<Standing, Refusal> {
        let asked = self.ask_server().await;
        let is_other = |refusal: &Refusal| matches!(refusal.class, Class::BindingUnsupported | Class::Configuration);
        if asked.as_ref().err().is_some_and(is_other) {
            *self.known() = None;
        }
        let (me, known) = asked?;
        let way = match &self.binding {
            Binding::ScaleSet if known.binds => "it binds runners to scale sets",
            Binding::ScaleSet => "whether it binds runners to scale sets shows at the first runner",
            Binding::Labels { .. } => "runners are bound to jobs by labels only (experimental)",
            Binding::RegistrationToken(_) => match self.client.description().await.hands_out_registration_tokens {
                Some(true) => "it hands out registration tokens",
                Some(false) => return Err(refusal(Class::BindingUnsupported, UNSUPPORTED.to_owned())),
                None => "whether it hands out registration tokens shows at the first runner",
            },
        };
        self.may_ask(&me)?;
        let team = self.team.as_ref();
        let team = team.map_or_else(|| "no team asked for".to_owned(), |team| format!("team {team}"));
        Ok(Standing {
            says: format!("{team}; {way}"),
            payer: payer(&me, &known),
        })
    }

    /// Whether the server lets this identity have runners, as far as it tells.
    fn may_ask(&self, me: &Me) -> Result<(), Refusal> {
        let (may, right) = match self.binding {
            Binding::RegistrationToken(_) => (me.can_use_registration_token, "can_use_registration_token"),
            Binding::ScaleSet | Binding::Labels { .. } => (me.can_use_jit, "can_use_jit"),
        };
        let not = |what: String| {
            Err(refusal(
                Class::NotAuthorized,
                format!("GHARTS says of this identity: {what}"),
            ))
        };
        if may == Some(false) {
            return not(format!("it has not the right {right}"));
        }
        let Some(teams) = &me.teams else { return Ok(()) };
        match &self.team {
            None if teams.is_empty() => not("it is a member of no active team".to_owned()),
            // A name that is none of its teams is refused where the team is chosen.
            Some(id) if is_uuid(id) && !teams.iter().any(|team| team.id == *id) => {
                not(format!("it is no member of team {id}, or that team is deactivated"))
            }
            _ => Ok(()),
        }
    }
}

/// The team, by its name at the server; the identity itself where the version knows no teams.
fn payer(me: &Me, known: &Known) -> Option<String> {
    let team = match (&me.teams, &known.team.id) {
        (Some(teams), Some(id)) => teams.iter().find(|team| team.id == *id),
        // Of several teams the server takes any.
        (Some(teams), None) if teams.len() == 1 => teams.first(),
        (None, _) if me.can_use_registration_token.is_some() => return Some("this identity".to_owned()),
        _ => None,
    };
    team.map(|team| format!("team {}", team.name))
}
