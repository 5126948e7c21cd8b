//! A simulated GHARTS: the service that hands out just-in-time runner configurations under a team's label
//! policy and quota, and calls GitHub with its own GitHub App to do so.
//!
//! [`Gharts`] is the model's handle: tests change teams, quotas and faults through it and assert on records,
//! audit log and counters. [`Gharts::router`] is the service over HTTP. Which version of the service it is
//! stands in one table ([`Flavour`]); what it says in a refusal stands in one other (`refusal.rs`). GitHub is
//! called through a [`crate::http::Transport`], so the simulated GitHub is a peer here as everywhere.
//!
//! It does not administer over HTTP (that is the model's business), has no database to lose and no sync with
//! GitHub: as in the recorded service without sync, nothing leaves `pending` but by refresh and DELETE.

mod flavour;
mod model;
mod provision;
mod python;
mod records;
mod refusal;
mod router;
mod routes;
mod tokens;
mod upstream;
mod views;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use self::{
    flavour::Capabilities,
    model::{MachineClient, Membership, Model},
    tokens::Verifier,
    upstream::Upstream,
};
pub use self::{
    flavour::Flavour,
    model::{AuditEntry, Deactivation, Record, ScaleSetRef, Status, Team, TeamSpec, User, UserSpec},
    tokens::{JwksSource, TrustedIssuer},
    upstream::GithubAccess,
};
use crate::{clock::Clock, http::SharedTransport, shutdown::Tasks};

/// Every version of the service says this.
const VERSION: &str = "1.0.0";
/// Who does what is done through the model.
const ADMINISTRATOR: &str = "admin@example.com";

/// What a call is about, for counters and faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    Jit,
    List,
    Get,
    Delete,
    Refresh,
    Me,
    Other,
}

/// What goes wrong with one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// 500 at once, nothing done.
    Refused,
    /// All is done; the connection breaks where the answer should come.
    AnswerLost,
    /// All is done; the answer is a 500 that says nothing.
    AnswerSpoiled,
    /// A JIT call: GitHub did it, the record could not be written, and the answer is a 500.
    Unrecorded,
}

/// How long calls take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    None,
    /// One event loop: each call keeps it busy for a while, and the next one waits.
    Serialised {
        least: Duration,
        most: Duration,
    },
}

impl Latency {
    /// As measured: 2.4 to 4 calls a second, whatever the parallelism.
    pub const RECORDED: Self = Self::Serialised {
        least: Duration::from_millis(250),
        most: Duration::from_millis(400),
    };
}

/// What a simulated GHARTS is made of.
#[derive(Debug)]
pub struct Setup {
    pub flavour: Flavour,
    pub seed: u64,
    /// The audience that tokens must be for.
    pub audience: String,
    pub issuers: Vec<TrustedIssuer>,
    pub github: GithubAccess,
    /// Reaches GitHub and the issuers' keys.
    pub transport: SharedTransport,
    pub clock: Clock,
    /// Where calls run: they outlive a client that goes away.
    pub tasks: Tasks,
}

/// The service. Clones share it.
#[derive(Clone)]
pub struct Gharts {
    inner: Arc<Inner>,
}

struct Inner {
    flavour: Flavour,
    verifier: Verifier,
    upstream: Upstream,
    clock: Clock,
    tasks: Tasks,
    model: Mutex<Model>,
}

impl fmt::Debug for Gharts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gharts")
            .field("flavour", &self.inner.flavour)
            .finish_non_exhaustive()
    }
}

impl Gharts {
    pub fn new(setup: Setup) -> Self {
        Self {
            inner: Arc::new(Inner {
                flavour: setup.flavour,
                verifier: Verifier {
                    issuers: setup.issuers,
                    audience: setup.audience,
                    transport: Arc::clone(&setup.transport),
                    clock: setup.clock.clone(),
                },
                upstream: Upstream::new(setup.github, setup.transport, setup.clock.clone()),
                clock: setup.clock,
                tasks: setup.tasks,
                model: Mutex::new(Model::new(setup.seed)),
            }),
        }
    }

    pub fn flavour(&self) -> Flavour {
        self.inner.flavour
    }

    /// The service over HTTP.
    pub fn router(&self) -> axum::Router {
        router::router(self.clone())
    }

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

    /// The team of this name.
    pub fn team(&self, name: &str) -> Option<Team> {
        self.lock().teams.iter().find(|team| team.name == name).cloned()
    }

    pub fn set_quota(&self, team: &str, max_runners: Option<u32>) {
        self.edit_team(team, |team| team.max_runners = max_runners);
    }

    pub fn set_policy(&self, team: &str, required_labels: &[&str], optional_label_patterns: &[&str]) {
        let owned = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
        self.edit_team(team, |team| {
            team.required_labels = owned(required_labels);
            team.optional_label_patterns = owned(optional_label_patterns);
        });
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

    /// How many places of the team's quota runners of strangers hold.
    pub fn take_places(&self, team: &str, places: u32) {
        self.edit_team(team, |team| team.foreign = places);
    }

    /// How many places of the team's quota are taken, by whomever.
    pub fn places_taken(&self, team: &str) -> u32 {
        let model = self.lock();
        let team = model.teams.iter().find(|known| known.id == team || known.name == team);
        team.map_or(0, |team| model.places_taken(self.capabilities(), team))
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
            active: true,
        });
        id
    }

    /// Activates or deactivates a user, by its id.
    pub fn set_user_active(&self, user: &str, active: bool) {
        if let Some(user) = self.lock().users.iter_mut().find(|known| known.id == user) {
            user.active = active;
        }
    }

    /// Adds a user to a team, both by id (the team by name as well).
    pub fn add_member(&self, team: &str, user: &str) {
        let joined = self.inner.clock.now();
        let mut model = self.lock();
        let known = model.teams.iter().find(|known| known.id == team || known.name == team);
        if let Some(team) = known.map(|team| team.id.clone()) {
            model.memberships.push(Membership {
                team,
                user: user.to_owned(),
                joined,
            });
        }
    }

    pub fn remove_member(&self, team: &str, user: &str) {
        self.lock().memberships.retain(|m| m.team != team || m.user != user);
    }

    /// Registers a machine client for a team (by id). `client` is the `sub` of its tokens.
    pub fn register_client(&self, client: &str, team: &str) {
        let entry = MachineClient {
            team: team.to_owned(),
            active: true,
        };
        self.lock().clients.insert(client.to_owned(), entry);
    }

    pub fn set_client_active(&self, client: &str, active: bool) {
        if let Some(client) = self.lock().clients.get_mut(client) {
            client.active = active;
        }
    }

    pub fn set_latency(&self, latency: Latency) {
        self.lock().latency = latency;
    }

    /// The next call of this kind meets `fault`; several are met in turn.
    pub fn inject(&self, operation: Operation, fault: Fault) {
        self.lock().faults.push((operation, fault));
    }

    /// Every record, oldest first.
    pub fn records(&self) -> Vec<Record> {
        self.lock().records.all().to_vec()
    }

    pub fn records_by_status(&self, status: Status) -> Vec<Record> {
        let model = self.lock();
        model
            .records
            .all()
            .iter()
            .filter(|record| record.status == status)
            .cloned()
            .collect()
    }

    /// What a sync with GitHub or a webhook would have found out, by the runner's name.
    pub fn set_status(&self, runner: &str, status: Status) {
        let now = self.inner.clock.now();
        let mut model = self.lock();
        let newest = model.records.all().iter().rev().find(|record| record.name == runner);
        if let Some(id) = newest.map(|record| record.id.clone()) {
            model.records.edit(&id, |record| {
                record.status = status;
                record.updated = now;
                record.deleted = (status == Status::Deleted).then_some(now);
            });
        }
    }

    pub fn audit_log(&self) -> Vec<AuditEntry> {
        self.lock().audit.clone()
    }

    /// Calls received so far, by what they were about.
    pub fn calls(&self) -> BTreeMap<Operation, u64> {
        self.lock().calls.clone()
    }

    pub fn calls_of(&self, operation: Operation) -> u64 {
        self.lock().calls.get(&operation).copied().unwrap_or_default()
    }

    /// The most calls that were under way at once.
    pub fn max_in_flight(&self) -> usize {
        self.lock().max_in_flight
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

    fn capabilities(&self) -> &'static Capabilities {
        self.inner.flavour.capabilities()
    }

    fn lock(&self) -> MutexGuard<'_, Model> {
        self.inner.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call in; it counts itself out.
    fn enter(&self, operation: Operation) -> InFlight {
        let mut model = self.lock();
        *model.calls.entry(operation).or_default() += 1;
        model.in_flight += 1;
        model.max_in_flight = model.max_in_flight.max(model.in_flight);
        InFlight(self.clone())
    }

    /// Waits for this call's turn on the event loop and for its own time there.
    async fn turn(&self) {
        let now = self.inner.clock.instant();
        let until = {
            let mut model = self.lock();
            let Latency::Serialised { least, most } = model.latency else {
                return;
            };
            let spread = model.rng.f64();
            let busy = least + most.saturating_sub(least).mul_f64(spread);
            let start = model.loop_free_at.map_or(now, |free| free.max(now));
            model.loop_free_at = Some(start + busy);
            start + busy
        };
        tokio::time::sleep_until(until).await;
    }
}

struct InFlight(Gharts);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.lock().in_flight -= 1;
    }
}
