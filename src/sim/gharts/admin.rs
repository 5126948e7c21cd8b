//! What an administrator does, and what befalls the service: changes of the model while it serves.

use std::{sync::PoisonError, time::Duration};

use super::{
    ADMINISTRATOR, Database, Deactivation, Gharts, GithubTrouble, Latency, Policy, SecurityEvent, Status, Team,
    TeamSpec, User, UserSpec,
    account::Account,
    model::{Kind, MachineClient, Membership, Record},
};
use crate::sim::oidc::Ailment;

impl Gharts {
    /// Adds a team and says its id.
    pub fn add_team(&self, spec: TeamSpec) -> String {
        let now = self.inner.clock.now();
        let mut model = self.lock();
        let id = model.uuid();
        model.teams.push(Team {
            id: id.clone(),
            name: spec.name,
            required_labels: spec.required_labels,
            optional_label_patterns: spec.optional_label_patterns,
            max_runners: spec.max_runners,
            created: now,
            updated: now,
            deactivated: None,
            foreign: 0,
        });
        id
    }

    /// Every team, in the order in which they were added.
    pub fn teams(&self) -> Vec<Team> {
        self.lock().teams.clone()
    }

    /// The team of this name.
    pub fn team(&self, name: &str) -> Option<Team> {
        self.lock().teams.iter().find(|team| team.name == name).cloned()
    }

    /// How many runners an account may have: a team's, or where there are no teams an identity's.
    pub fn set_quota(&self, account: &str, max_runners: Option<u32>) {
        if self.has_teams() {
            self.edit_team(account, |team| team.max_runners = max_runners);
        } else {
            self.edit_policy(account, |policy| policy.max_runners = max_runners);
        }
    }

    /// An account's labels: those that a team requires (an identity may have) and the patterns of further ones.
    pub fn set_policy<S: AsRef<str>>(&self, account: &str, labels: &[S], patterns: &[S]) {
        let owned = |items: &[S]| items.iter().map(|item| item.as_ref().to_owned()).collect::<Vec<_>>();
        let (labels, patterns) = (owned(labels), owned(patterns));
        if self.has_teams() {
            self.edit_team(account, |team| {
                team.required_labels = labels;
                team.optional_label_patterns = patterns;
            });
        } else {
            self.edit_policy(account, |policy| {
                policy.allowed_labels = labels;
                policy.label_patterns = patterns;
            });
        }
    }

    /// Sets what an identity may have, where there are no teams.
    pub fn put_policy(&self, policy: Policy) {
        let mut model = self.lock();
        model.policies.retain(|known| known.identity != policy.identity);
        model.policies.push(policy);
    }

    pub fn policies(&self) -> Vec<Policy> {
        self.lock().policies.clone()
    }

    /// What an identity may have.
    pub fn policy(&self, identity: &str) -> Option<Policy> {
        let model = self.lock();
        model
            .policies
            .iter()
            .find(|policy| policy.identity == identity)
            .cloned()
    }

    pub fn deactivate_team(&self, team: &str, reason: &str) {
        let at = self.inner.clock.now();
        self.edit_team(team, |team| {
            team.deactivated = Some(Deactivation {
                at,
                by: ADMINISTRATOR.to_owned(),
                reason: reason.to_owned(),
            });
        });
    }

    pub fn reactivate_team(&self, team: &str) {
        self.edit_team(team, |team| team.deactivated = None);
    }

    /// How many places of an account's quota runners of strangers hold.
    pub fn take_places(&self, account: &str, places: u32) {
        if self.has_teams() {
            self.edit_team(account, |team| team.foreign = places);
        } else {
            self.edit_policy(account, |policy| policy.foreign = places);
        }
    }

    /// How many places of an account's quota are taken, by whomever.
    pub fn places_taken(&self, account: &str) -> u32 {
        let model = self.lock();
        let account = if self.has_teams() {
            let team = model
                .teams
                .iter()
                .find(|known| known.id == account || known.name == account);
            team.cloned().map(Account::Team)
        } else {
            Some(model.identity(account.to_owned()))
        };
        account.map_or(0, |account| model.places_taken(self.capabilities(), &account))
    }

    /// Adds a user and says its id.
    pub fn add_user(&self, spec: UserSpec) -> String {
        let mut model = self.lock();
        let id = model.uuid();
        model.users.push(User {
            id: id.clone(),
            oidc_sub: spec.oidc_sub,
            email: spec.email,
            admin: spec.admin,
            can_use_jit: spec.can_use_jit,
            can_use_registration_token: spec.can_use_registration_token,
            active: true,
        });
        id
    }

    /// Activates or deactivates a user, by its id.
    pub fn set_user_active(&self, user: &str, active: bool) {
        let at = self.inner.clock.now();
        let mut model = self.lock();
        let Some(user) = model.users.iter_mut().find(|known| known.id == user) else {
            return;
        };
        user.active = active;
        let done = if active { "activated" } else { "deactivated" };
        let action = format!("{done} user {}", user.display_name());
        if !active {
            model.security.push(SecurityEvent {
                event: "user_deactivated",
                severity: "medium",
                identity: ADMINISTRATOR.to_owned(),
                runner: None,
                action,
                at,
            });
        }
    }

    /// Adds a user to a team, both by id (the team by name as well).
    pub fn add_member(&self, team: &str, user: &str) {
        let joined = self.inner.clock.now();
        let mut model = self.lock();
        let known = model.teams.iter().find(|known| known.id == team || known.name == team);
        let known = known.map(|team| team.id.clone());
        if let Some(team) = known.filter(|team| !model.is_member(team, user)) {
            model.memberships.push(Membership {
                team,
                user: user.to_owned(),
                joined,
            });
        }
    }

    /// As [`Self::add_member`] finds them.
    pub fn remove_member(&self, team: &str, user: &str) {
        let mut model = self.lock();
        let known = model.teams.iter().find(|known| known.id == team || known.name == team);
        if let Some(team) = known.map(|team| team.id.clone()) {
            model.memberships.retain(|m| m.team != team || m.user != user);
        }
    }

    /// Registers a machine client for a team (by id). `client` is the `sub` of its tokens.
    pub fn register_client(&self, client: &str, team: &str) {
        let entry = MachineClient {
            team: team.to_owned(),
            active: true,
        };
        self.lock().clients.insert(client.to_owned(), entry);
    }

    /// Enables or disables a machine client; where machines are users, that user.
    pub fn set_client_active(&self, client: &str, active: bool) {
        if !self.capabilities().machine_clients {
            let user = self
                .lock()
                .users
                .iter()
                .find(|user| user.oidc_sub == client)
                .map(|user| user.id.clone());
            if let Some(user) = user {
                self.set_user_active(&user, active);
            }
            return;
        }
        if let Some(client) = self.lock().clients.get_mut(client) {
            client.active = active;
        }
    }

    pub fn set_latency(&self, latency: Latency) {
        self.inner.event_loop.set_latency(latency);
    }

    /// Whether connections to the database run out, where it was measured when they do.
    pub fn set_freezes(&self, freezes: bool) {
        let pool = self.capabilities().pool.filter(|_| freezes);
        let size = pool.map(|pool| match self.inner.deployment.database {
            Database::Sqlite => pool.sqlite,
            Database::Postgres => pool.postgres,
        });
        self.inner.event_loop.set_pool(size);
    }

    /// The whole service stands still for this long from now on.
    pub fn freeze(&self, time: Duration) {
        self.inner.event_loop.freeze(time);
    }

    /// What ails the issuers' keys, as GHARTS finds them.
    pub fn ail_jwks(&self, ailment: Option<Ailment>) {
        *self
            .inner
            .verifier
            .ailment
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = ailment;
    }

    /// What GHARTS meets when it asks GitHub about runners.
    pub fn trouble_github(&self, trouble: Option<GithubTrouble>) {
        self.inner.upstream.set_trouble(trouble);
    }

    /// Writes down a runner that somebody else had registered in this account's name, and says the record's id.
    pub fn add_record(&self, account: &str, runner: &str) -> String {
        let (now, team) = (self.inner.clock.now(), self.team(account).map(|team| team.id));
        let mut model = self.lock();
        let id = model.uuid();
        model.records.add(Record {
            id: id.clone(),
            name: runner.to_owned(),
            status: Status::Offline,
            github_id: None,
            group: 1,
            labels: Vec::new(),
            ephemeral: true,
            kind: Kind::Jit,
            provisioned_by: account.to_owned(),
            oidc_sub: Some(account.to_owned()),
            team,
            scale_set: None,
            created: now,
            updated: now,
            registered: Some(now),
            deleted: None,
        });
        id
    }

    /// What a sync with GitHub or a webhook would have found out, by the runner's name.
    pub fn set_status(&self, runner: &str, status: Status) {
        let now = self.inner.clock.now();
        let mut model = self.lock();
        let newest = model.records.all().rev().find(|record| record.name == runner);
        if let Some(id) = newest.map(|record| record.id.clone()) {
            model.records.edit(&id, |record| {
                record.status = status;
                record.updated = now;
                record.deleted = (status == Status::Deleted).then_some(now);
            });
        }
    }

    fn has_teams(&self) -> bool {
        self.inner.flavour.has_teams()
    }

    fn edit_team(&self, team: &str, edit: impl FnOnce(&mut Team)) {
        let now = self.inner.clock.now();
        let mut model = self.lock();
        if let Some(team) = model
            .teams
            .iter_mut()
            .find(|known| known.id == team || known.name == team)
        {
            edit(team);
            team.updated = now;
        }
    }

    fn edit_policy(&self, identity: &str, edit: impl FnOnce(&mut Policy)) {
        let mut model = self.lock();
        if let Some(policy) = model.policies.iter_mut().find(|known| known.identity == identity) {
            edit(policy);
        }
    }
}
