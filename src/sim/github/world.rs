//! The state of the simulated GitHub and the clockwork inside it.
//!
//! Plain data under one mutex; every method takes the time ([`Now`]) and never waits. What happens later
//! is a [`Timer`]; timers that are due fire before anything else looks at the state, so nothing depends on
//! when the timekeeper task happens to run.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;
use serde::Serialize;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    access::Access,
    agents::Agent,
    jobs::Job,
    sessions::Session,
    sets::{RunnerGroup, ScaleSet},
    settings::{GroupAccess, Lie, Limit, Limited, Settings, Setup},
};

/// Index of a scope (organization, repository, enterprise) in the setup.
pub(super) type TenantId = usize;
pub type SetId = u64;
pub type AgentId = u64;
/// Order of queueing; the service's own key of a job.
pub(super) type JobKey = u64;
pub(super) type SessionId = String;

/// One reading of both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub instant: Instant,
    pub wall: Timestamp,
}

/// What the service does by itself once its time has come.
#[derive(Clone, Debug)]
pub(super) enum Timer {
    SessionAbandoned(SessionId),
    TakeBack { job: JobKey, attempt: u32 },
    Requeue(JobKey),
    LockLost { job: JobKey },
    StartTold(JobKey),
    EndTold(JobKey),
    AgentSilent(AgentId),
    ClearOffline(AgentId),
}

/// Something a client or runner did that no correct one does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Violation {
    /// A JIT configuration was used by a second runner process.
    JitUsedTwice { runner: String },
    /// More jobs were acquired than the polls before and after announced capacity for.
    AcquiredBeyondCapacity { set: String, announced: u32, total: u32 },
    /// A scale set was deleted while jobs waited for it or ran on it.
    SetDeletedWithJobs { set: String, jobs: u32 },
}

#[derive(Debug)]
pub(super) struct Tenant {
    /// As in the setup.
    pub(super) scope: String,
    /// Path segment of its Actions service.
    pub(super) slug: String,
    pub(super) groups: Vec<RunnerGroup>,
    pub(super) sets: BTreeMap<SetId, ScaleSet>,
    pub(super) agents: BTreeMap<AgentId, Agent>,
    pub(super) agent_names: HashMap<String, AgentId>,
    /// Ordinary runners (no set) that hold a job poll open.
    pub(super) idle_ordinary: Vec<AgentId>,
    /// Waiting jobs that no scale set serves.
    pub(super) unserved: BTreeSet<JobKey>,
}

/// The whole service.
#[derive(Debug)]
pub(super) struct World {
    pub(super) web_url: String,
    pub(super) service_url: String,
    pub(super) settings: Settings,
    pub(super) access: Access,
    pub(super) tenants: Vec<Tenant>,
    pub(super) agent_tenants: HashMap<AgentId, TenantId>,
    pub(super) sessions: HashMap<SessionId, Session>,
    pub(super) jobs: BTreeMap<JobKey, Job>,
    pub(super) job_ids: HashMap<String, JobKey>,
    pub(super) request_ids: HashMap<i64, JobKey>,
    /// Names of the agents whose JIT configuration a runner has used, also when they are gone.
    pub(super) used_jits: HashMap<AgentId, String>,
    /// When each runner connected, by name, also when it is gone.
    pub(super) connected: HashMap<String, Timestamp>,
    /// Names of runners whose one job is over.
    pub(super) finished_runners: HashSet<String>,
    /// Ordinary runners that took a job of which no set's client is told.
    pub(super) runners_past_sets: HashSet<String>,
    pub(super) violations: Vec<Violation>,
    pub(super) calls: BTreeMap<(&'static str, u16), u64>,
    /// A rate limit, whom it meets, and when it ends.
    pub(super) limit: Option<(Limited, Limit, Timestamp)>,
    /// What statistics say instead of the truth.
    pub(super) lie: Option<Lie>,
    /// One generator per purpose, so that one call more does not reshuffle everything: ids and secrets,
    pub(super) rng: fastrand::Rng,
    /// what the service picks at random,
    pub(super) picks: fastrand::Rng,
    /// and the ids on answers.
    pub(super) trace: fastrand::Rng,
    timers: BTreeMap<(Instant, u64), Timer>,
    next_id: u64,
    changes: watch::Sender<u64>,
    timers_changed: Arc<Notify>,
}

impl World {
    pub(super) fn new(setup: Setup) -> Self {
        let mut rng = fastrand::Rng::with_seed(setup.seed);
        let access = Access::new(setup.apps, setup.pats, &mut rng);
        let tenants = setup
            .scopes
            .iter()
            .map(|scope| Tenant::new(scope, &setup.runner_groups, &mut rng))
            .collect();
        Self {
            web_url: setup.web_url,
            service_url: setup.service_url,
            settings: setup.settings,
            access,
            tenants,
            agent_tenants: HashMap::new(),
            sessions: HashMap::new(),
            jobs: BTreeMap::new(),
            job_ids: HashMap::new(),
            request_ids: HashMap::new(),
            used_jits: HashMap::new(),
            connected: HashMap::new(),
            finished_runners: HashSet::new(),
            runners_past_sets: HashSet::new(),
            violations: Vec::new(),
            calls: BTreeMap::new(),
            limit: None,
            lie: None,
            picks: rng.fork(),
            trace: rng.fork(),
            rng,
            timers: BTreeMap::new(),
            next_id: 1,
            changes: watch::Sender::new(0),
            timers_changed: Arc::new(Notify::new()),
        }
    }

    /// Ids of sets, agents, jobs and timers: one sequence, so that a mix-up is never silently right.
    pub(super) fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn uuid(&mut self) -> String {
        uuid(&mut self.rng)
    }

    pub(super) fn changed(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn timers_changed(&self) -> Arc<Notify> {
        Arc::clone(&self.timers_changed)
    }

    pub(super) fn tenant_by_scope(&self, scope: &str) -> Option<TenantId> {
        self.tenants.iter().position(|t| t.scope.eq_ignore_ascii_case(scope))
    }

    /// Sets `timer` off at `at`.
    pub(super) fn at(&mut self, at: Instant, timer: Timer) {
        let first = self.next_timer();
        let id = self.next_id();
        self.timers.insert((at, id), timer);
        if first.is_none_or(|first| at < first) {
            self.timers_changed.notify_one();
        }
    }

    pub(super) fn forget_timers_of_gone_agents(&mut self) {
        let agents = &self.agent_tenants;
        self.timers.retain(|_, timer| match timer {
            Timer::AgentSilent(agent) | Timer::ClearOffline(agent) => agents.contains_key(agent),
            _ => true,
        });
    }

    pub(super) fn next_timer(&self) -> Option<Instant> {
        self.timers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Lets everything happen that was due until `now`.
    pub(super) fn advance(&mut self, now: Now) {
        let mut fired = false;
        while let Some(entry) = self.timers.first_entry() {
            if entry.key().0 > now.instant {
                break;
            }
            fired = true;
            match entry.remove() {
                Timer::SessionAbandoned(session) => self.check_abandoned(&session, now),
                Timer::TakeBack { job, attempt } => self.take_back(job, attempt, now),
                Timer::Requeue(job) => self.requeue(job, now),
                Timer::LockLost { job } => self.check_lock(job, now),
                Timer::StartTold(job) => self.tell_start(job),
                Timer::EndTold(job) => self.tell_end(job),
                Timer::AgentSilent(agent) => self.check_silence(agent, now),
                Timer::ClearOffline(agent) => self.check_offline(agent, now),
            }
        }
        if fired {
            self.changed();
        }
    }
}

impl Tenant {
    fn new(scope: &str, groups: &[String], rng: &mut fastrand::Rng) -> Self {
        let named = std::iter::once("Default").chain(groups.iter().map(String::as_str));
        Self {
            scope: scope.trim_matches('/').to_owned(),
            slug: random_text(rng, 40),
            groups: (1..)
                .zip(named)
                .map(|(id, name)| RunnerGroup {
                    id,
                    name: name.to_owned(),
                    is_default: id == 1,
                    access: GroupAccess::default(),
                })
                .collect(),
            sets: BTreeMap::new(),
            agents: BTreeMap::new(),
            agent_names: HashMap::new(),
            idle_ordinary: Vec::new(),
            unserved: BTreeSet::new(),
        }
    }
}

/// Letters and digits.
pub(super) fn random_text(rng: &mut fastrand::Rng, length: usize) -> String {
    (0..length).map(|_| rng.alphanumeric()).collect()
}

/// A version 4 UUID.
pub(super) fn uuid(rng: &mut fastrand::Rng) -> String {
    let n = (rng.u128(..) & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{n:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}
