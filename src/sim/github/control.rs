//! The handle: what tests and the control interface ask and do.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::watch;

use crate::{clock::Clock, shutdown::Tasks};

use super::{
    agents::{Agent, NewAgent},
    jobs::{Job, NewJobs, Stage},
    sets::{ScaleSet, SetRequest, Statistics},
    settings::{GroupAccess, Lie, Limit, Limited, Pat, Settings, Setup},
    world::{AgentId, Now, SetId, Violation, World},
};

/// A simulated GitHub. Clones share it.
#[derive(Clone, Debug)]
pub struct GitHub {
    world: Arc<Mutex<World>>,
    clock: Clock,
}

/// A queued job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobHandle {
    /// The UUID that job messages carry.
    pub id: String,
    pub request_id: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum JobState {
    /// Nobody was assigned it.
    Queued,
    /// Taken back from a set; queued again soon.
    Resting,
    /// A set has it, no runner yet.
    Assigned,
    Running,
    Finished,
}

/// One job, with when it got where.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobView {
    pub id: String,
    pub request_id: i64,
    pub state: JobState,
    /// The set that was assigned it, or where it waits.
    pub set: Option<String>,
    pub queued: Timestamp,
    pub assigned: Option<Timestamp>,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    /// `succeeded`, `failed`, `canceled`; `dropped` if the assignment vanished.
    pub result: Option<String>,
    pub runner: Option<String>,
    /// How often it was assigned.
    pub attempts: u32,
    /// Its runner stopped renewing: a job that was killed.
    pub runner_lost: bool,
}

/// One registered runner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunnerView {
    pub id: AgentId,
    pub name: String,
    /// None: an ordinary runner.
    pub set: Option<SetId>,
    pub labels: Vec<String>,
    pub online: bool,
    /// The job that it runs.
    pub job: Option<String>,
}

/// One scale set.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SetView {
    pub id: SetId,
    pub scope: String,
    pub name: String,
    pub group: u64,
    pub labels: Vec<String>,
    pub statistics: Statistics,
    /// Id of the open session.
    pub session: Option<String>,
    /// Who opened it.
    pub session_owner: Option<String>,
    /// The capacity that the session's last poll announced.
    pub announced: Option<u32>,
    /// Whether a poll is being held.
    pub polling: bool,
    /// Job messages not yet delivered or not yet deleted.
    pub undelivered: usize,
    pub undeleted: usize,
}

/// Why nothing was done to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    #[error("there is no such job")]
    Unknown,
    #[error("not possible: the job is {}", format!("{_0:?}").to_lowercase())]
    WrongState(JobState),
}

impl GitHub {
    /// Starts its clockwork as one of `tasks`.
    pub fn start(setup: Setup, clock: Clock, tasks: &Tasks) -> Self {
        let github = Self {
            world: Arc::new(Mutex::new(World::new(setup))),
            clock,
        };
        let timekeeper = github.clone();
        let stop = tasks.token().clone();
        tasks.spawn("simulated github", async move {
            stop.run_until_cancelled(timekeeper.keep_time()).await;
        });
        github
    }

    /// Lets things happen at their time also when nobody asks.
    async fn keep_time(&self) {
        let changed = self.lock().timers_changed();
        loop {
            let next = self.with(|world, _| world.next_timer());
            match next {
                Some(at) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => {}
                        () = changed.notified() => {}
                    }
                }
                None => changed.notified().await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at or changes the state, everything due having happened.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut World, Now) -> T) -> T {
        let now = Now {
            instant: self.clock.instant(),
            wall: self.clock.now(),
        };
        let mut world = self.lock();
        world.advance(now);
        act(&mut world, now)
    }

    /// As [`Self::with`], and tells those who wait for changes.
    pub(super) fn change<T>(&self, act: impl FnOnce(&mut World, Now) -> T) -> T {
        self.with(|world, now| {
            let out = act(world, now);
            world.changed();
            out
        })
    }

    /// Counts changes of the state.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.lock().subscribe()
    }

    /// Waits until `condition` holds; it is asked after every change.
    pub async fn until(&self, mut condition: impl FnMut(&Self) -> bool) {
        let mut changes = self.subscribe();
        loop {
            changes.mark_unchanged();
            if condition(self) || changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// From now on, for so long, whoever is `limited` is answered so. Requests that are held already are not.
    pub fn limit(&self, limited: Limited, how: Limit, lasting: Duration) {
        self.change(|world, now| world.limit = Some((limited, how, now.wall + lasting)));
    }

    /// Changes settings; what is under way keeps its old deadlines.
    pub fn configure(&self, change: impl FnOnce(&mut Settings)) {
        self.change(|world, _| change(&mut world.settings));
    }

    pub fn settings(&self) -> Settings {
        self.with(|world, _| world.settings.clone())
    }

    /// Queues jobs; empty if there is no such scope.
    pub fn queue_jobs(&self, jobs: &NewJobs) -> Vec<JobHandle> {
        self.change(|world, now| {
            let Some(tenant) = world.tenant_by_scope(&jobs.scope) else {
                return Vec::new();
            };
            let made = world.queue_jobs(tenant, jobs, now);
            made.into_iter()
                .map(|(id, request_id)| JobHandle { id, request_id })
                .collect()
        })
    }

    pub fn job(&self, id: &str) -> Option<JobView> {
        self.with(|world, _| {
            let job = world.jobs.get(world.job_ids.get(id)?)?;
            Some(job_view(world, job))
        })
    }

    /// In the order of queueing.
    pub fn jobs(&self) -> Vec<JobView> {
        self.with(|world, _| world.jobs.values().map(|job| job_view(world, job)).collect())
    }

    /// How many jobs are not finished. Cheaper than [`Self::jobs`].
    pub fn unfinished_jobs(&self) -> usize {
        self.with(|world, _| world.jobs.values().filter(|j| j.stage != Stage::Finished).count())
    }

    fn act_on(&self, id: &str, allowed: &[Stage], act: impl FnOnce(&mut World, u64, Now)) -> Result<(), JobError> {
        self.change(|world, now| {
            let key = *world.job_ids.get(id).ok_or(JobError::Unknown)?;
            let stage = world.jobs.get(&key).ok_or(JobError::Unknown)?.stage;
            if !allowed.contains(&stage) {
                return Err(JobError::WrongState(stage.into()));
            }
            act(world, key, now);
            Ok(())
        })
    }

    /// Cancels a job before a runner has it.
    pub fn cancel(&self, id: &str) -> Result<(), JobError> {
        self.act_on(
            id,
            &[Stage::Waiting, Stage::Resting, Stage::Assigned],
            |world, key, now| {
                world.end(key, "canceled", now);
            },
        )
    }

    /// The assignment vanishes without a message.
    pub fn drop_assignment(&self, id: &str) -> Result<(), JobError> {
        self.act_on(id, &[Stage::Assigned], World::drop_job)
    }

    /// Starts a job by hand on a runner of that name, registered or not; nobody needs to renew it.
    pub fn start_job(&self, id: &str, runner: &str) -> Result<(), JobError> {
        self.act_on(id, &[Stage::Waiting, Stage::Assigned], |world, key, now| {
            world.start_by_hand(key, runner, now);
        })
    }

    /// Ends a running job by hand (`succeeded`, `failed`, `canceled`); its runner is deregistered.
    pub fn finish_job(&self, id: &str, result: &str) -> Result<(), JobError> {
        self.act_on(id, &[Stage::Running], |world, key, now| world.finish(key, result, now))
    }

    /// Every scale set of every scope.
    pub fn sets(&self) -> Vec<SetView> {
        self.with(|world, _| {
            let all = world.tenants.iter().flat_map(|t| t.sets.values());
            all.map(|set| set_view(world, set)).collect()
        })
    }

    /// The first scale set of that name, in any scope.
    pub fn set(&self, name: &str) -> Option<SetView> {
        self.with(|world, _| find_set(world, name).map(|set| set_view(world, set)))
    }

    /// Every registered runner of every scope.
    pub fn runners(&self) -> Vec<RunnerView> {
        self.with(|world, _| {
            let agents = world.tenants.iter().flat_map(|t| t.agents.values());
            agents.map(|agent| runner_view(world, agent)).collect()
        })
    }

    /// When the runner of that name connected, also when it is gone by now.
    pub fn connected(&self, runner: &str) -> Option<Timestamp> {
        self.with(|world, _| world.connected.get(runner).copied())
    }

    /// The queue token of the set's session dies now. False: no such set, or nobody has a session.
    pub fn expire_queue_token(&self, set: &str) -> bool {
        self.on_session(set, World::expire_queue_token)
    }

    /// The service forgets the set's session.
    pub fn lose_session(&self, set: &str) -> bool {
        self.on_session(set, World::end_session)
    }

    /// The set's id is another set's, `name`, which has its labels: the service was restored, and its ids began anew.
    pub fn give_id_to(&self, set: &str, name: &str) -> bool {
        self.lose_session(set);
        self.change(|world, _| {
            let found = find_set(world, set).map(|s| (s.tenant, s.id));
            let found = found.and_then(|(tenant, id)| world.tenants.get_mut(tenant)?.sets.get_mut(&id));
            let is_there = found.is_some();
            if let Some(set) = found {
                (set.name, set.labels) = (name.to_owned(), vec![name.to_owned()]);
            }
            is_there
        })
    }

    /// Somebody else has the set's session from now on, without a poll: until it counts as abandoned.
    pub fn steal_session(&self, set: &str, thief: &str) -> bool {
        self.lose_session(set);
        self.change(|world, now| {
            let found = find_set(world, set).map(|s| (s.tenant, s.id));
            found.is_some_and(|(tenant, id)| world.open_session(tenant, id, thief, now).is_ok())
        })
    }

    /// The set's newest job messages come once more.
    pub fn say_again(&self, set: &str) -> bool {
        self.change(|world, _| {
            let found = find_set(world, set).map(|s| (s.tenant, s.id));
            if let Some((tenant, id)) = found {
                world.say_again(tenant, id);
            }
            found.is_some()
        })
    }

    /// What every set's statistics say instead of the truth; `None`: the truth.
    pub fn lie(&self, lie: Option<Lie>) {
        self.change(|world, _| {
            for tenant in 0..world.tenants.len() {
                let sets = world.tenants[tenant].sets.values();
                let now: Vec<(SetId, Statistics)> = sets.map(|set| (set.id, world.statistics_of(set))).collect();
                for (id, statistics) in now {
                    if let Ok(set) = world.set_mut(tenant, id) {
                        set.stuck = statistics;
                    }
                }
            }
            world.lie = lie;
        });
    }

    /// Registers a runner that nobody asked for here: another program's. With the set `set`, or an ordinary one with
    /// these labels. False: the name is taken, or there is no such scope or set.
    pub fn register_runner(&self, scope: &str, set: Option<SetId>, name: &str, labels: &[&str]) -> bool {
        self.change(|world, now| {
            let Some(tenant) = world.tenant_by_scope(scope) else {
                return false;
            };
            let new = NewAgent {
                name: name.to_owned(),
                work_folder: "_work".to_owned(),
                set,
                group: 1,
                labels: labels.iter().map(|&l| l.to_owned()).collect(),
            };
            world.register(tenant, new, now).is_some()
        })
    }

    /// A scale set that another program made. `None`: the name is taken, or there is no such scope.
    pub fn add_set(&self, scope: &str, name: &str) -> Option<SetId> {
        self.change(|world, now| {
            let tenant = world.tenant_by_scope(scope)?;
            let request = SetRequest {
                name: Some(name.to_owned()),
                ..SetRequest::default()
            };
            world.create_set(tenant, request, now).ok()?["id"].as_u64()
        })
    }

    /// The registered runner of that name.
    pub fn runner(&self, name: &str) -> Option<RunnerView> {
        self.with(|world, _| {
            let key = name.to_ascii_lowercase();
            let agent = world
                .tenants
                .iter()
                .find_map(|t| t.agents.get(t.agent_names.get(&key)?))?;
            Some(runner_view(world, agent))
        })
    }

    fn on_session(&self, set: &str, act: impl FnOnce(&mut World, &str)) -> bool {
        self.change(|world, _| {
            let session = find_set(world, set).and_then(|s| s.session.clone());
            if let Some(session) = &session {
                act(world, session);
            }
            session.is_some()
        })
    }

    /// Whether every wish for the offered job, and for others along with it, is called wrong from now on.
    pub fn spoil_offer(&self, job: &str, spoilt: bool) -> bool {
        self.change(|world, _| {
            let key = world.job_ids.get(job).copied();
            let job = key.and_then(|key| world.jobs.get_mut(&key));
            job.map(|job| job.spoilt = spoilt).is_some()
        })
    }

    /// The set's message ids start anew at 1, as happens when GitHub re-creates its sequence.
    pub fn restart_message_ids(&self, set: &str) -> bool {
        self.change(|world, _| {
            let found = find_set(world, set).map(|s| (s.tenant, s.id));
            let set = found.and_then(|(tenant, id)| world.set_mut(tenant, id).ok());
            set.map(|s| s.last_message = 0).is_some()
        })
    }

    /// The set's message ids go on from far ahead.
    pub fn skip_message_ids(&self, set: &str) -> bool {
        const BY: u64 = 10_000;
        self.change(|world, _| {
            let found = find_set(world, set).map(|s| (s.tenant, s.id));
            let set = found.and_then(|(tenant, id)| world.set_mut(tenant, id).ok());
            set.map(|s| s.last_message += BY).is_some()
        })
    }

    /// As GitHub does with a set that nobody used for a week.
    pub fn remove_set(&self, set: &str) -> bool {
        self.change(|world, now| {
            let found = find_set(world, set).map(|s| (s.tenant, s.id));
            if let Some((tenant, id)) = found {
                world.remove_set(tenant, id, now);
            }
            found.is_some()
        })
    }

    /// Removes a registration, busy or not, as an administrator's force would; a job that it ran is lost in time.
    pub fn remove_runner(&self, name: &str) -> bool {
        self.change(|world, _| {
            let key = name.to_ascii_lowercase();
            let found = (0..world.tenants.len())
                .find_map(|tenant| Some((tenant, *world.tenants[tenant].agent_names.get(&key)?)));
            if let Some((tenant, id)) = found {
                world.forget_agent(tenant, id);
            }
            found.is_some()
        })
    }

    /// Every admin token handed out so far is dead, whatever its `exp` says.
    pub fn revoke_admin_tokens(&self) {
        self.change(|world, _| world.access.revoke_admin_tokens());
    }

    /// Every App's installation token handed out so far is dead.
    pub fn revoke_installation_tokens(&self) {
        self.change(|world, _| world.access.revoke_installation_tokens());
    }

    /// Changes whom a runner group lets in: its settings page. False: no such group.
    pub fn set_group_access(&self, scope: &str, group: &str, access: GroupAccess) -> bool {
        self.change(|world, now| {
            let Some(tenant) = world.tenant_by_scope(scope) else {
                return false;
            };
            let mut groups = world.tenants[tenant].groups.iter_mut();
            let Some(found) = groups.find(|g| g.name.eq_ignore_ascii_case(group)) else {
                return false;
            };
            found.access = access;
            let sets: Vec<SetId> = world.tenants[tenant].sets.keys().copied().collect();
            for set in sets {
                world.route_unserved(tenant, set, now);
            }
            true
        })
    }

    /// Adds a PAT or changes its rights.
    pub fn put_pat(&self, pat: Pat) {
        self.change(|world, _| world.access.put_pat(pat));
    }

    pub fn remove_pat(&self, token: &str) {
        self.change(|world, _| world.access.remove_pat(token));
    }

    /// One more key of the first App. False: there is none.
    pub fn add_app_key(&self, public_pem: &str) -> bool {
        self.change(|world, _| world.access.add_app_key(public_pem))
    }

    /// What is signed by this key opens nothing any more.
    pub fn remove_app_key(&self, public_pem: &str) {
        self.change(|world, _| world.access.remove_app_key(public_pem));
    }

    /// Where the Actions service of a scope is: every path of its calls begins so.
    pub fn service_path(&self, scope: &str) -> Option<String> {
        self.with(|world, _| {
            let tenant = world.tenant_by_scope(scope)?;
            Some(format!("/actions-service/{}/", world.tenants[tenant].slug))
        })
    }

    /// Calls answered so far, by operation; the names stand in the router's tables.
    pub fn calls(&self) -> BTreeMap<&'static str, u64> {
        self.with(|world, _| {
            let mut out = BTreeMap::new();
            for ((operation, _), count) in &world.calls {
                *out.entry(*operation).or_default() += count;
            }
            out
        })
    }

    /// Calls of one operation that were answered with `status`.
    pub fn answered(&self, operation: &str, status: u16) -> u64 {
        self.with(|world, _| {
            let matching = world.calls.iter().filter(|((o, s), _)| *o == operation && *s == status);
            matching.map(|(_, count)| count).sum()
        })
    }

    /// What no correct client or runner does.
    pub fn violations(&self) -> Vec<Violation> {
        self.with(|world, _| world.violations.clone())
    }
}

impl From<Stage> for JobState {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Waiting => Self::Queued,
            Stage::Resting => Self::Resting,
            Stage::Assigned => Self::Assigned,
            Stage::Running => Self::Running,
            Stage::Finished => Self::Finished,
        }
    }
}

fn find_set<'a>(world: &'a World, name: &str) -> Option<&'a ScaleSet> {
    world
        .tenants
        .iter()
        .flat_map(|t| t.sets.values())
        .find(|s| s.name.eq_ignore_ascii_case(name))
}

fn runner_view(world: &World, agent: &Agent) -> RunnerView {
    RunnerView {
        id: agent.id,
        name: agent.name.clone(),
        set: agent.set,
        labels: agent.labels.clone(),
        online: agent.online,
        job: agent.job.and_then(|key| world.jobs.get(&key)).map(|job| job.id.clone()),
    }
}

fn set_view(world: &World, set: &ScaleSet) -> SetView {
    let session = set.session.as_ref().and_then(|id| world.sessions.get(id));
    SetView {
        announced: session.and_then(|s| s.announced),
        polling: session.is_some_and(|s| s.polls_held > 0),
        id: set.id,
        scope: world.tenants[set.tenant].scope.clone(),
        name: set.name.clone(),
        group: set.group,
        labels: set.labels.clone(),
        statistics: world.statistics_of(set),
        session: set.session.clone(),
        session_owner: session.map(|s| s.owner.clone()),
        undelivered: set.pending.len(),
        undeleted: set.messages.len(),
    }
}

fn job_view(world: &World, job: &Job) -> JobView {
    let set = job.set.and_then(|id| world.tenants[job.tenant].sets.get(&id));
    JobView {
        id: job.id.clone(),
        request_id: job.request_id,
        state: job.stage.into(),
        set: set.map(|s| s.name.clone()),
        queued: job.queued,
        assigned: job.assigned,
        started: job.started,
        finished: job.finished,
        result: job.result.clone(),
        runner: job.runner.as_ref().map(|r| r.name.clone()),
        attempts: job.attempts,
        runner_lost: job.runner_lost,
    }
}
