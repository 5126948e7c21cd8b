//! What GHARTS knows: teams, users, machine clients, runner records, the audit log. Plain data in domain
//! words and the rules over it; no HTTP, no JSON, no waiting. Policies and quotas are in `account.rs`.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Fault, Operation, Policy, flavour::Capabilities, records::Records, refusal::Refusal, tokens::Claims};

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
    /// Where registration tokens are handed out.
    pub can_use_registration_token: bool,
}

impl UserSpec {
    /// An ordinary user, known by the subject of the token.
    pub fn subject(sub: &str) -> Self {
        Self {
            oidc_sub: sub.to_owned(),
            email: None,
            admin: false,
            can_use_jit: true,
            can_use_registration_token: true,
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
    pub can_use_registration_token: bool,
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

/// What the runner was given to register with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A just-in-time configuration: GitHub knows the runner already.
    Jit,
    /// A registration token: the runner registers itself.
    RegistrationToken,
}

/// One runner as GHARTS remembers it. Its JIT configuration is not kept.
#[derive(Clone, Debug)]
pub struct Record {
    pub id: String,
    pub name: String,
    pub status: Status,
    /// None: a registration token was given, and the runner has not been seen at GitHub.
    pub github_id: Option<i64>,
    pub group: i64,
    /// What GitHub was told; empty for a runner of a scale set.
    pub labels: Vec<String>,
    pub ephemeral: bool,
    pub kind: Kind,
    pub provisioned_by: String,
    pub oidc_sub: Option<String>,
    /// Its id; none where there are no teams.
    pub team: Option<String>,
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
    /// Said of a runner with a registration token.
    pub ephemeral: Option<bool>,
    pub error: Option<String>,
    pub at: Timestamp,
}

/// Something that an administrator should know of.
#[derive(Clone, Debug)]
pub struct SecurityEvent {
    pub event: &'static str,
    pub severity: &'static str,
    pub identity: String,
    /// The runner that was asked for.
    pub runner: Option<String>,
    pub action: String,
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
    pub(super) policies: Vec<Policy>,
    pub(super) records: Records,
    pub(super) audit: Vec<AuditEntry>,
    pub(super) security: Vec<SecurityEvent>,
    pub(super) last_sync: Option<Timestamp>,
    pub(super) faults: Vec<(Operation, Fault)>,
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
            policies: Vec::new(),
            records: Records::default(),
            audit: Vec::new(),
            security: Vec::new(),
            last_sync: None,
            faults: Vec::new(),
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

    pub(super) fn next_audit_id(&self) -> u64 {
        self.audit.last().map_or(1, |entry| entry.id + 1)
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
    pub(super) fn caller(&self, capabilities: &Capabilities, claims: &Claims) -> Result<Caller, Refusal> {
        if claims.machine && capabilities.machine_clients {
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
            Caller::Machine { team, .. } => record.team.as_ref() == Some(team),
            Caller::User { user, .. } => {
                let of_team = |team: &String| self.is_member(team, &user.id);
                user.admin || caller.owns(record) || record.team.as_ref().is_some_and(of_team)
            }
        };
        self.records.live().rev().filter(|record| sees(record)).collect()
    }
}
