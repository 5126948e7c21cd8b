//! A simulated GHARTS: the service that hands out just-in-time runner configurations under a team's label
//! policy and quota, and calls GitHub with its own GitHub App to do so.
//!
//! [`Gharts`] is the model's handle: tests change teams, quotas and faults through it and assert on records,
//! audit log and counters. [`Gharts::router`] is the service over HTTP. Which version of the service it is
//! stands in one table ([`Flavour`]); what it says in a refusal stands in one other (`refusal.rs`). GitHub is
//! called through a [`crate::http::Transport`], so the simulated GitHub is a peer here as everywhere.
//!
//! What an administrator does is done on the model (`admin.rs`), not over HTTP, and there is no database to lose.
//! How the service is run is a setting ([`Deployment`]): with a sync nothing stays `pending` for ever, and where
//! connections to the database can run out the whole service stands still when they do.

mod account;
mod admin;
mod event_loop;
mod flavour;
mod model;
mod older;
mod openapi;
mod provision;
mod python;
mod records;
mod refusal;
mod registration;
mod router;
mod routes;
mod sync;
mod tokens;
mod upstream;
mod views;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

pub use self::{
    account::Policy,
    event_loop::Latency,
    flavour::Flavour,
    model::{
        AuditEntry, Deactivation, Kind, Record, ScaleSetRef, SecurityEvent, Status, Team, TeamSpec, User, UserSpec,
    },
    tokens::{JwksSource, TrustedIssuer},
    upstream::{GithubAccess, GithubTrouble},
};
use self::{event_loop::EventLoop, flavour::Capabilities, model::Model, tokens::Verifier, upstream::Upstream};
use crate::{clock::Clock, http::SharedTransport, shutdown::Tasks};

/// Every version of the service says this.
const VERSION: &str = "1.0.0";
/// Who does what is done on the model.
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
    /// A registration token.
    Token,
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
    /// A call that hands something out: GitHub did it, the record could not be written, and the answer is a 500.
    Unrecorded,
}

/// Where the records are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Database {
    #[default]
    Sqlite,
    Postgres,
}

/// How the service is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// Decides how many calls may be under way before everything stands still, and whether there is a sync.
    pub database: Database,
    /// Whether connections to the database run out as recorded: from the 16th call in flight on, or the 31st.
    pub freezes: bool,
    pub latency: Latency,
    /// Whether it is kept in step with GitHub, where this version on this database can be.
    pub sync: bool,
    /// Whether it stands behind the chart's ingress, which sends only `/api` to it: everything else is answered by
    /// the web page's server, with a 200.
    pub ingress: bool,
}

impl Default for Deployment {
    /// Answers at once, never stands still.
    fn default() -> Self {
        Self {
            database: Database::Sqlite,
            freezes: false,
            latency: Latency::None,
            sync: true,
            ingress: false,
        }
    }
}

/// What a simulated GHARTS is made of.
#[derive(Debug)]
pub struct Setup {
    pub flavour: Flavour,
    pub deployment: Deployment,
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
    deployment: Deployment,
    verifier: Verifier,
    upstream: Upstream,
    event_loop: EventLoop,
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
        let (capabilities, deployment) = (setup.flavour.capabilities(), setup.deployment);
        let event_loop = EventLoop::new(setup.seed, deployment.latency);
        let gharts = Self {
            inner: Arc::new(Inner {
                flavour: setup.flavour,
                deployment,
                verifier: Verifier {
                    issuers: setup.issuers,
                    audience: setup.audience,
                    transport: Arc::clone(&setup.transport),
                    clock: setup.clock.clone(),
                    event_loop: event_loop.clone(),
                    attempts: capabilities.jwks_attempts,
                    impersonation: capabilities.older_surface,
                    ailment: Mutex::default(),
                },
                upstream: Upstream::new(setup.github, setup.transport, setup.clock.clone(), event_loop.clone()),
                event_loop,
                clock: setup.clock,
                tasks: setup.tasks,
                model: Mutex::new(Model::new(setup.seed)),
            }),
        };
        gharts.set_freezes(deployment.freezes);
        if deployment.sync {
            gharts.start_sync(deployment.database);
        }
        gharts
    }

    pub fn flavour(&self) -> Flavour {
        self.inner.flavour
    }

    /// The service over HTTP.
    pub fn router(&self) -> axum::Router {
        router::router(self.clone())
    }

    /// The next call of this kind meets `fault`; several are met in turn.
    pub fn inject(&self, operation: Operation, fault: Fault) {
        self.lock().faults.push((operation, fault));
    }

    /// Calls meet none of the injected faults any more.
    pub fn heal(&self) {
        self.lock().faults.clear();
    }

    /// Every record, oldest first.
    pub fn records(&self) -> Vec<Record> {
        self.lock().records.all().cloned().collect()
    }

    pub fn records_by_status(&self, status: Status) -> Vec<Record> {
        let model = self.lock();
        model
            .records
            .all()
            .filter(|record| record.status == status)
            .cloned()
            .collect()
    }

    pub fn audit_log(&self) -> Vec<AuditEntry> {
        self.lock().audit.clone()
    }

    pub fn security_events(&self) -> Vec<SecurityEvent> {
        self.lock().security.clone()
    }

    /// Forgets the runners that were deleted before then, and what was logged: see [`World::forget`](super::world::World::forget).
    pub fn forget(&self, before: Timestamp) {
        let mut model = self.lock();
        model.records.forget(before);
        let newest = model.audit.last().map(|entry| entry.id);
        model
            .audit
            .retain(|entry| entry.at >= before || Some(entry.id) == newest);
        model.security.retain(|event| event.at >= before);
    }

    /// How long the whole service has stood still so far, with what is still to come.
    pub fn stood_still(&self) -> Duration {
        self.inner.event_loop.stood_still()
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
}

struct InFlight(Gharts);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.lock().in_flight -= 1;
    }
}
