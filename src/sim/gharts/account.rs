//! On whose account a runner goes: what permits its labels, and whose places it takes. That is a team, or in the
//! older version the identity that the token names.

use super::{
    flavour::{Accounts, Capabilities},
    model::{Caller, Model, Record, Status, Team},
    python,
    refusal::Refusal,
};

/// What an identity may have, in the version without teams. An identity without one may have everything.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Compared with what the token says: `email`, else `preferred_username`, else `sub`.
    pub identity: String,
    /// `*` allows every label.
    pub allowed_labels: Vec<String>,
    /// Regular expressions, anchored at the start only.
    pub label_patterns: Vec<String>,
    pub max_runners: Option<u32>,
    /// Places taken by runners that this model does not hold.
    pub foreign: u32,
}

impl Policy {
    /// Every label, any number.
    pub fn open(identity: &str) -> Self {
        Self {
            identity: identity.to_owned(),
            allowed_labels: vec!["*".to_owned()],
            ..Self::default()
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Account {
    Team(Team),
    Identity { name: String, policy: Option<Policy> },
}

impl Account {
    pub(super) fn team(&self) -> Option<&Team> {
        match self {
            Self::Team(team) => Some(team),
            Self::Identity { .. } => None,
        }
    }

    /// Labels that every runner of the account gets from the server where it adds them.
    pub(super) fn required_labels(&self) -> &[String] {
        self.team().map_or(&[], |team| &team.required_labels)
    }

    fn holds(&self, record: &Record) -> bool {
        match self {
            Self::Team(team) => record.team.as_ref() == Some(&team.id),
            Self::Identity { name, .. } => record.provisioned_by == *name,
        }
    }

    fn foreign(&self) -> u32 {
        match self {
            Self::Team(team) => team.foreign,
            Self::Identity { policy, .. } => policy.as_ref().map_or(0, |policy| policy.foreign),
        }
    }

    fn max_runners(&self) -> Option<u32> {
        match self {
            Self::Team(team) => team.max_runners,
            Self::Identity { policy, .. } => policy.as_ref().and_then(|policy| policy.max_runners),
        }
    }
}

impl Model {
    /// The account that a runner goes on. `sent` is the request's own choice of a team; a machine has none.
    pub(super) fn billed(
        &self,
        capabilities: &Capabilities,
        caller: &Caller,
        sent: Option<&str>,
    ) -> Result<Account, Refusal> {
        let by_name = match capabilities.accounts {
            Accounts::Teams { by_name } => by_name,
            Accounts::Identities => return Ok(self.identity(caller.identity())),
        };
        let user = match caller {
            Caller::Machine { team, .. } => {
                let team = self.team(team).ok_or(Refusal::ClientTeamGone)?;
                return Ok(Account::Team(team.clone()));
            }
            Caller::User { user, .. } => user,
        };
        let Some(sent) = sent.filter(|sent| !sent.is_empty()) else {
            let mut teams = self.teams_of(&user.id).into_iter();
            let team = teams.find(|team| team.deactivated.is_none()).ok_or(Refusal::NoTeam)?;
            return Ok(Account::Team(team.clone()));
        };
        let named = |team: &&Team| if by_name { team.name == sent } else { team.id == sent };
        let team = self.teams.iter().find(named);
        let team = team.ok_or_else(|| Refusal::TeamUnknown(sent.to_owned()))?;
        if !self.is_member(&team.id, &user.id) {
            return Err(Refusal::NotMember(sent.to_owned()));
        }
        match &team.deactivated {
            None => Ok(Account::Team(team.clone())),
            Some(deactivation) => Err(Refusal::TeamDeactivated {
                team: team.name.clone(),
                reason: deactivation.reason.clone(),
                sent: sent.to_owned(),
            }),
        }
    }

    pub(super) fn identity(&self, name: String) -> Account {
        let policy = self.policies.iter().find(|policy| policy.identity == name).cloned();
        Account::Identity { name, policy }
    }

    /// What `self-hosted` begins passes every policy, and meets no requirement.
    pub(super) fn check_labels(
        &self,
        capabilities: &Capabilities,
        account: &Account,
        labels: &[String],
    ) -> Result<(), Refusal> {
        let own: Vec<&String> = labels
            .iter()
            .filter(|label| !label.starts_with("self-hosted"))
            .collect();
        let ordered = |found: Vec<&String>| python::set_order(self.hash_seed, found);
        let (allowed, patterns) = match account {
            Account::Team(team) => {
                let missing: Vec<&String> = team.required_labels.iter().filter(|l| !own.contains(l)).collect();
                if !capabilities.adds_required_labels && !missing.is_empty() {
                    return Err(Refusal::MissingLabels {
                        team: team.name.clone(),
                        missing: ordered(missing),
                    });
                }
                (&team.required_labels, &team.optional_label_patterns)
            }
            Account::Identity { policy: None, .. } => return Ok(()),
            Account::Identity {
                policy: Some(policy), ..
            } => (&policy.allowed_labels, &policy.label_patterns),
        };
        let all = account.team().is_none() && allowed.iter().any(|label| label == "*");
        let permitted =
            |label: &String| all || allowed.contains(label) || patterns.iter().any(|p| python::matches(p, label));
        let forbidden: Vec<&String> = own.into_iter().filter(|label| !permitted(label)).collect();
        if forbidden.is_empty() {
            return Ok(());
        }
        Err(Refusal::ForbiddenLabels {
            team: account.team().map(|team| team.name.clone()),
            forbidden: ordered(forbidden),
            allowed: ordered(allowed.iter().collect()),
            patterns: patterns.clone(),
        })
    }

    /// What the quota counts.
    pub(super) fn places_taken(&self, capabilities: &Capabilities, account: &Account) -> u32 {
        let counts = |status: Status| match status {
            Status::Pending | Status::Active | Status::Offline => true,
            Status::Online => capabilities.quota_counts_online,
            Status::Deleted => false,
        };
        self.count(account, counts)
    }

    /// Runners of the account in these states, with those of strangers.
    pub(super) fn count(&self, account: &Account, counts: impl Fn(Status) -> bool) -> u32 {
        let held = self.records.live().filter(|record| account.holds(record));
        let counted = held.filter(|record| counts(record.status)).count();
        u32::try_from(counted)
            .unwrap_or(u32::MAX)
            .saturating_add(account.foreign())
    }

    pub(super) fn check_quota(&self, capabilities: &Capabilities, account: &Account) -> Result<(), Refusal> {
        let current = self.places_taken(capabilities, account);
        match account.max_runners() {
            Some(max) if current >= max => Err(Refusal::Quota {
                team: account.team().map(|team| team.name.clone()),
                max,
                current,
            }),
            _ => Ok(()),
        }
    }
}
