//! What GHARTS knows: teams, users, machine clients, runner records, the audit log. Plain data in domain
//! words and the rules over it; no HTTP, no JSON, no waiting.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    Fault, Latency, Operation,
    flavour::{Capabilities, TeamField},
    python,
    records::Records,
    refusal::Refusal,
    tokens::Claims,
};

/// What a new team is made of.
#[derive(Clone, Debug, Default)]
pub struct TeamSpec {
    pub name: String,
    pub required_labels: Vec<String>,
    /// Regular expressions, anchored at the start only.
    pub optional_label_patterns: Vec<String>,
    pub max_runners: Option<u32>,
}

impl TeamSpec {
    /// A team that requires no label and permits every one.
    pub fn open(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            optional_label_patterns: vec![".*".to_owned()],
            ..Self::default()
        }
    }
}

#[derive(Clone, Debug)]
pub struct Team {
    pub id: String,
    pub name: String,
    pub required_labels: Vec<String>,
    pub optional_label_patterns: Vec<String>,
    pub max_runners: Option<u32>,
    pub created: Timestamp,
    pub updated: Timestamp,
    pub deactivated: Option<Deactivation>,
    /// Places taken by runners that this model does not hold.
    pub foreign: u32,
}

#[derive(Clone, Debug)]
pub struct Deactivation {
    pub at: Timestamp,
    pub by: String,
    pub reason: String,
}

/// What a new user is made of.
#[derive(Clone, Debug)]
pub struct UserSpec {
    pub oidc_sub: String,
    pub email: Option<String>,
    pub admin: bool,
    pub can_use_jit: bool,
}

impl UserSpec {
    /// An ordinary user, known by the subject of the token.
    pub fn subject(sub: &str) -> Self {
        Self {
            oidc_sub: sub.to_owned(),
            email: None,
            admin: false,
            can_use_jit: true,
        }
    }
}

#[derive(Clone, Debug)]
pub struct User {
    pub id: String,
    pub oidc_sub: String,
    pub email: Option<String>,
    pub admin: bool,
    pub can_use_jit: bool,
    pub active: bool,
}

impl User {
    pub fn display_name(&self) -> &str {
        self.email.as_deref().unwrap_or(&self.oidc_sub)
    }
}

/// A user's place in a team, in the order of joining.
#[derive(Clone, Debug)]
pub(super) struct Membership {
    pub(super) team: String,
    pub(super) user: String,
    pub(super) joined: Timestamp,
}

/// A machine client: belongs to exactly one team.
#[derive(Clone, Debug)]
pub(super) struct MachineClient {
    pub(super) team: String,
    pub(super) active: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    Pending,
    Offline,
    Online,
    Active,
    Deleted,
}

impl Status {
    pub const ALL: [Self; 5] = [Self::Pending, Self::Offline, Self::Online, Self::Active, Self::Deleted];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Offline => "offline",
            Self::Online => "online",
            Self::Active => "active",
            Self::Deleted => "deleted",
        }
    }
}

/// The scale set that a runner is registered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScaleSetRef {
    pub id: i64,
    pub name: String,
}

/// One runner as GHARTS remembers it. Its JIT configuration is not kept.
#[derive(Clone, Debug)]
pub struct Record {
    pub id: String,
    pub name: String,
    pub status: Status,
    pub github_id: i64,
    pub group: i64,
    /// What GitHub was told; empty for a runner of a scale set.
    pub labels: Vec<String>,
    pub provisioned_by: String,
    pub oidc_sub: Option<String>,
    pub team: String,
    pub scale_set: Option<ScaleSetRef>,
    pub created: Timestamp,
    pub updated: Timestamp,
    pub registered: Option<Timestamp>,
    pub deleted: Option<Timestamp>,
}

#[derive(Clone, Debug)]
pub struct AuditEntry {
    pub id: u64,
    pub event: &'static str,
    pub runner: Option<(String, String)>,
    /// Id and name.
    pub team: Option<(String, String)>,
    pub identity: String,
    pub oidc_sub: Option<String>,
    /// What was asked for: group, labels (for a runner of a scale set too), GitHub's id where known.
    pub group: Option<i64>,
    pub labels: Vec<String>,
    pub github_id: Option<i64>,
    pub error: Option<String>,
    pub at: Timestamp,
}

/// Who calls, once the token is good and the entry is found.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    User {
        user: User,
        /// `email`, else `preferred_username`, else `sub` of the token.
        identity: String,
        email: Option<String>,
        sub: Option<String>,
    },
    Machine {
        client: String,
        team: String,
        team_name: String,
    },
}

impl Caller {
    pub(super) fn identity(&self) -> String {
        match self {
            Self::User { identity, .. } => identity.clone(),
            Self::Machine { team_name, .. } => format!("m2m:{team_name}"),
        }
    }

    pub(super) fn sub(&self) -> Option<String> {
        match self {
            Self::User { sub, .. } => sub.clone(),
            Self::Machine { client, .. } => Some(client.clone()),
        }
    }

    pub(super) fn is_admin(&self) -> bool {
        matches!(self, Self::User { user, .. } if user.admin)
    }

    pub(super) fn user_id(&self) -> Option<&str> {
        match self {
            Self::User { user, .. } => Some(&user.id),
            Self::Machine { .. } => None,
        }
    }

    pub(super) fn owns(&self, record: &Record) -> bool {
        record.provisioned_by == self.identity() || (record.oidc_sub.is_some() && record.oidc_sub == self.sub())
    }
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) rng: fastrand::Rng,
    /// What orders sets: one per process of the real service.
    pub(super) hash_seed: u64,
    pub(super) teams: Vec<Team>,
    pub(super) users: Vec<User>,
    pub(super) memberships: Vec<Membership>,
    pub(super) clients: BTreeMap<String, MachineClient>,
    pub(super) records: Records,
    pub(super) audit: Vec<AuditEntry>,
    pub(super) faults: Vec<(Operation, Fault)>,
    pub(super) latency: Latency,
    pub(super) loop_free_at: Option<tokio::time::Instant>,
    pub(super) calls: BTreeMap<Operation, u64>,
    pub(super) in_flight: usize,
    pub(super) max_in_flight: usize,
}

impl Model {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            hash_seed: seed,
            teams: Vec::new(),
            users: Vec::new(),
            memberships: Vec::new(),
            clients: BTreeMap::new(),
            records: Records::default(),
            audit: Vec::new(),
            faults: Vec::new(),
            latency: Latency::None,
            loop_free_at: None,
            calls: BTreeMap::new(),
            in_flight: 0,
            max_in_flight: 0,
        }
    }

    pub(super) fn uuid(&mut self) -> String {
        let bits = self.rng.u128(..);
        let hex = format!("{bits:032x}");
        // Version 4, variant 8..b, as every UUID of the real service.
        let variant = ["8", "9", "a", "b"][self.rng.usize(..4)];
        format!(
            "{}-{}-4{}-{variant}{}-{}",
            &hex[..8],
            &hex[8..12],
            &hex[13..16],
            &hex[17..20],
            &hex[20..]
        )
    }

    pub(super) fn take_fault(&mut self, operation: Operation) -> Option<Fault> {
        let at = self.faults.iter().position(|(of, _)| *of == operation)?;
        Some(self.faults.remove(at).1)
    }

    pub(super) fn team(&self, id: &str) -> Option<&Team> {
        self.teams.iter().find(|team| team.id == id)
    }

    pub(super) fn is_member(&self, team: &str, user: &str) -> bool {
        self.memberships.iter().any(|m| m.team == team && m.user == user)
    }

    /// The user's teams in the order of joining.
    pub(super) fn teams_of(&self, user: &str) -> Vec<&Team> {
        let joined = self.memberships.iter().filter(|m| m.user == user);
        joined.filter_map(|m| self.team(&m.team)).collect()
    }

    /// Who the token's bearer is here.
    pub(super) fn caller(&self, claims: &Claims) -> Result<Caller, Refusal> {
        if claims.machine {
            return self.machine(claims.sub.clone().unwrap_or_default());
        }
        let by_sub = |user: &&User| claims.sub.as_ref() == Some(&user.oidc_sub);
        let by_email = |user: &&User| user.email.is_some() && user.email == claims.email;
        let user = self
            .users
            .iter()
            .find(by_sub)
            .or_else(|| self.users.iter().find(by_email));
        let user = user.ok_or(Refusal::UnknownUser)?;
        if !user.active {
            return Err(Refusal::UserDeactivated);
        }
        let names = [&claims.email, &claims.preferred_username, &claims.sub];
        Ok(Caller::User {
            user: user.clone(),
            identity: names.into_iter().flatten().next().cloned().unwrap_or_default(),
            email: claims.email.clone(),
            sub: claims.sub.clone(),
        })
    }

    fn machine(&self, id: String) -> Result<Caller, Refusal> {
        let Some(client) = self.clients.get(&id) else {
            return Err(Refusal::ClientUnregistered(id));
        };
        if !client.active {
            return Err(Refusal::ClientDisabled(id));
        }
        let team = self.team(&client.team).filter(|team| team.deactivated.is_none());
        let team = team.ok_or(Refusal::ClientTeamGone)?;
        Ok(Caller::Machine {
            client: id,
            team: team.id.clone(),
            team_name: team.name.clone(),
        })
    }

    /// The team on whose account a runner goes. `sent` is the request's own choice; a machine has none.
    pub(super) fn billed_team(
        &self,
        capabilities: &Capabilities,
        caller: &Caller,
        sent: Option<&str>,
    ) -> Result<&Team, Refusal> {
        let user = match caller {
            Caller::Machine { team, .. } => return self.team(team).ok_or(Refusal::ClientTeamGone),
            Caller::User { user, .. } => user,
        };
        let Some(sent) = sent.filter(|sent| !sent.is_empty()) else {
            let teams = self.teams_of(&user.id);
            return teams
                .into_iter()
                .find(|team| team.deactivated.is_none())
                .ok_or(Refusal::NoTeam);
        };
        let team = self.teams.iter().find(|team| match capabilities.team_field {
            TeamField::Id => team.id == sent,
            TeamField::Name => team.name == sent,
        });
        let team = team.ok_or_else(|| Refusal::TeamUnknown(sent.to_owned()))?;
        if !self.is_member(&team.id, &user.id) {
            return Err(Refusal::NotMember(sent.to_owned()));
        }
        match &team.deactivated {
            None => Ok(team),
            Some(deactivation) => Err(Refusal::TeamDeactivated {
                team: team.name.clone(),
                reason: deactivation.reason.clone(),
                sent: sent.to_owned(),
            }),
        }
    }

    /// What `self-hosted` begins passes every policy, and meets no requirement.
    pub(super) fn check_labels(
        &self,
        capabilities: &Capabilities,
        team: &Team,
        labels: &[String],
    ) -> Result<(), Refusal> {
        let own = |label: &&String| !label.starts_with("self-hosted");
        let ordered = |found: Vec<&String>| python::set_order(self.hash_seed, found);
        if !capabilities.adds_required_labels {
            let met = |required: &&String| labels.iter().filter(own).any(|label| label == *required);
            let missing: Vec<&String> = team.required_labels.iter().filter(|required| !met(required)).collect();
            if !missing.is_empty() {
                return Err(Refusal::MissingLabels {
                    team: team.name.clone(),
                    missing: ordered(missing),
                });
            }
        }
        let patterns = &team.optional_label_patterns;
        let permitted = |label: &&String| {
            team.required_labels.contains(*label) || patterns.iter().any(|pattern| python::matches(pattern, label))
        };
        let forbidden: Vec<&String> = labels.iter().filter(own).filter(|label| !permitted(label)).collect();
        if forbidden.is_empty() {
            return Ok(());
        }
        Err(Refusal::ForbiddenLabels {
            team: team.name.clone(),
            forbidden: ordered(forbidden),
            required: ordered(team.required_labels.iter().collect()),
            patterns: patterns.clone(),
        })
    }

    /// What the quota counts.
    pub(super) fn places_taken(&self, capabilities: &Capabilities, team: &Team) -> u32 {
        let counts = |status: Status| match status {
            Status::Pending | Status::Active | Status::Offline => true,
            Status::Online => capabilities.quota_counts_online,
            Status::Deleted => false,
        };
        self.count(team, counts) + team.foreign
    }

    pub(super) fn count(&self, team: &Team, counts: impl Fn(Status) -> bool) -> u32 {
        let of_team = self.records.live().filter(|record| record.team == team.id);
        u32::try_from(of_team.filter(|record| counts(record.status)).count()).unwrap_or(u32::MAX)
    }

    pub(super) fn check_quota(&self, capabilities: &Capabilities, team: &Team) -> Result<(), Refusal> {
        let current = self.places_taken(capabilities, team);
        match team.max_runners {
            Some(max) if current >= max => Err(Refusal::Quota {
                team: team.name.clone(),
                max,
                current,
            }),
            _ => Ok(()),
        }
    }

    pub(super) fn name_in_use(&self, name: &str) -> bool {
        self.records.live().any(|record| record.name == name)
    }

    /// The record, if the caller may touch it: a team-mate may not.
    pub(super) fn owned(&self, caller: &Caller, id: &str) -> Result<&Record, Refusal> {
        self.records
            .get(id)
            .filter(|record| caller.is_admin() || caller.owns(record))
            .ok_or_else(|| Refusal::RunnerUnknown(id.to_owned()))
    }

    /// What the caller sees in a list, newest first, without the deleted.
    pub(super) fn visible(&self, caller: &Caller) -> Vec<&Record> {
        let sees = |record: &Record| match caller {
            Caller::Machine { team, .. } => record.team == *team,
            Caller::User { user, .. } => user.admin || caller.owns(record) || self.is_member(&record.team, &user.id),
        };
        self.records.live().rev().filter(|record| sees(record)).collect()
    }
}
