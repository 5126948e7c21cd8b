//! The life of a job: waiting -> assigned -> running -> finished, with the ways back.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    sets::{ScaleSet, gets},
    settings::AssignedJobsRunOn,
    wire::Kind,
    world::{AgentId, JobKey, Now, SetId, TenantId, Timer, World},
};

/// What a job asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The scale set's name; without one any set with all the labels serves it.
    pub(super) set: Option<String>,
    /// `runs-on`.
    pub(super) labels: Vec<String>,
    /// `owner/name`.
    pub(super) repository: String,
    pub(super) is_public: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Waiting,
    /// Taken back; waits for its next turn, and nobody counts it.
    Resting,
    Assigned,
    Running,
    Finished,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RunnerRef {
    /// 0 when started by hand under a name that nobody registered.
    pub(super) id: AgentId,
    pub(super) name: String,
}

#[derive(Debug)]
pub(super) struct Job {
    pub(super) key: JobKey,
    /// The UUID: the only stable identity on the wire.
    pub(super) id: String,
    pub(super) request_id: i64,
    pub(super) run_id: u64,
    pub(super) tenant: TenantId,
    /// The set where it waits or that was assigned it.
    pub(super) set: Option<SetId>,
    pub(super) target: Target,
    pub(super) owner: String,
    pub(super) repository: String,
    pub(super) duration: Duration,
    pub(super) exit_code: i32,
    pub(super) stage: Stage,
    pub(super) queued: Timestamp,
    pub(super) assigned: Option<Timestamp>,
    pub(super) started: Option<Timestamp>,
    pub(super) finished: Option<Timestamp>,
    /// Its set has heard of it by a message, and so hears of its end.
    pub(super) announced: bool,
    /// How often it was assigned.
    pub(super) attempts: u32,
    pub(super) runner: Option<RunnerRef>,
    pub(super) result: Option<String>,
    /// Its runner stopped renewing.
    pub(super) runner_lost: bool,
    /// Last renewal by its runner; none for a job started by hand.
    pub(super) renewed: Option<Instant>,
    /// Who wants to acquire it is told that the request is wrong.
    pub(super) spoilt: bool,
}

/// Jobs to queue. `set` names a scale set, existing or not; else `labels` say who may serve them.
#[derive(Clone, Debug)]
pub struct NewJobs {
    pub scope: String,
    pub set: Option<String>,
    pub labels: Vec<String>,
    pub count: usize,
    pub duration: Duration,
    pub exit_code: i32,
    pub owner: String,
    pub repository: String,
    /// The repository is public.
    pub public: bool,
}

impl NewJobs {
    /// `count` jobs of one minute for the scale set `set` of `scope`.
    pub fn for_set(scope: &str, set: &str, count: usize) -> Self {
        Self {
            scope: scope.to_owned(),
            set: Some(set.to_owned()),
            labels: Vec::new(),
            count,
            duration: Duration::from_secs(60),
            exit_code: 0,
            owner: scope.split('/').next().unwrap_or(scope).to_owned(),
            repository: "app".to_owned(),
            public: false,
        }
    }

    /// `count` jobs of one minute with these `runs-on` labels.
    pub fn with_labels(scope: &str, labels: &[&str], count: usize) -> Self {
        Self {
            set: None,
            labels: labels.iter().map(|&l| l.to_owned()).collect(),
            ..Self::for_set(scope, "", count)
        }
    }

    #[must_use]
    pub fn lasting(self, duration: Duration) -> Self {
        Self { duration, ..self }
    }

    #[must_use]
    pub fn exiting(self, exit_code: i32) -> Self {
        Self { exit_code, ..self }
    }
}

impl World {
    pub(super) fn queue_jobs(&mut self, tenant: TenantId, new: &NewJobs, now: Now) -> Vec<(String, i64)> {
        let target = self.target_of(tenant, new);
        let mut made = Vec::with_capacity(new.count);
        for _ in 0..new.count {
            let key = self.next_id();
            let id = self.uuid();
            let request_id = i64::try_from(key).unwrap_or(i64::MAX);
            let job = Job {
                key,
                id: id.clone(),
                request_id,
                run_id: 1_000_000 + key,
                tenant,
                set: None,
                target: target.clone(),
                owner: new.owner.clone(),
                repository: new.repository.clone(),
                duration: new.duration,
                exit_code: new.exit_code,
                stage: Stage::Waiting,
                queued: now.wall,
                assigned: None,
                started: None,
                finished: None,
                announced: false,
                attempts: 0,
                runner: None,
                result: None,
                runner_lost: false,
                renewed: None,
                spoilt: false,
            };
            self.jobs.insert(key, job);
            self.job_ids.insert(id.clone(), key);
            self.request_ids.insert(request_id, key);
            made.push((id, request_id));
            self.route(key, now);
        }
        made
    }

    fn target_of(&self, tenant: TenantId, new: &NewJobs) -> Target {
        let mut target = Target {
            set: new.set.clone(),
            labels: new.labels.clone(),
            repository: format!("{}/{}", new.owner, new.repository),
            is_public: new.public,
        };
        if let (Some(name), true) = (&new.set, new.labels.is_empty()) {
            let named = self.tenants[tenant].sets.values().find(|s| s.serves(&target));
            target.labels = named.map_or_else(|| vec![name.clone()], |s| s.labels.clone());
        }
        target
    }

    /// Lets a waiting job wait where it belongs; an idle ordinary runner may take it at once.
    fn route(&mut self, key: JobKey, now: Now) {
        let Some(job) = self.jobs.get_mut(&key) else {
            return;
        };
        job.stage = Stage::Waiting;
        job.assigned = None;
        let tenant = &mut self.tenants[job.tenant];
        let groups = &tenant.groups;
        let mut sets = tenant.sets.values_mut();
        let serving = sets.find(|set| gets(groups, set, &job.target));
        job.set = serving.as_ref().map(|s| s.id);
        match serving {
            Some(set) => {
                set.available.insert(key);
                set.unoffered.insert(key);
                set.wake.notify_waiters();
            }
            None => {
                tenant.unserved.insert(key);
            }
        }
        self.find_runner(key, now);
    }

    /// A new or renamed set takes over the waiting jobs that nobody served.
    pub(super) fn route_unserved(&mut self, tenant: TenantId, set: SetId, now: Now) {
        let Some(set) = self.tenants[tenant].sets.get(&set) else {
            return;
        };
        let groups = &self.tenants[tenant].groups;
        let gets = |job: &Job| gets(groups, set, &job.target);
        let served: Vec<JobKey> = self.tenants[tenant]
            .unserved
            .iter()
            .copied()
            .filter(|key| self.jobs.get(key).is_some_and(gets))
            .collect();
        for key in served {
            self.tenants[tenant].unserved.remove(&key);
            self.route(key, now);
        }
    }

    /// After a set's end: its jobs wait for another one.
    pub(super) fn release_jobs_of(&mut self, set: &ScaleSet, now: Now) {
        for key in set.available.iter().chain(&set.assigned) {
            self.route(*key, now);
        }
        for key in &set.running {
            if let Some(job) = self.jobs.get_mut(key) {
                job.set = None;
            }
        }
    }

    /// Takes the job out of every list that it stands in.
    fn unlist(&mut self, key: JobKey) {
        let Some(job) = self.jobs.get(&key) else {
            return;
        };
        let tenant = &mut self.tenants[job.tenant];
        tenant.unserved.remove(&key);
        if let Some(set) = job.set.and_then(|id| tenant.sets.get_mut(&id)) {
            set.available.remove(&key);
            set.unoffered.remove(&key);
            set.assigned.remove(&key);
            set.running.remove(&key);
            set.untold.remove(&key);
            // Whoever polls may have room now.
            set.wake.notify_waiters();
        }
    }

    pub(super) fn assign(&mut self, key: JobKey, set_id: SetId, now: Now) {
        self.unlist(key);
        let Some(job) = self.jobs.get_mut(&key) else {
            return;
        };
        job.stage = Stage::Assigned;
        job.assigned = Some(now.wall);
        job.attempts += 1;
        let attempt = job.attempts;
        if let Some(set) = self.tenants[job.tenant].sets.get_mut(&set_id) {
            set.assigned.insert(key);
        }
        self.push(key, set_id, Kind::Assigned, None);
        let due = now.instant + self.settings.assignment_ttl;
        self.at(due, Timer::TakeBack { job: key, attempt });
        self.find_runner(key, now);
    }

    /// Gives the job to an idle runner that may run it, if there is one: any of them, at random.
    fn find_runner(&mut self, key: JobKey, now: Now) {
        let Some(job) = self.jobs.get(&key) else {
            return;
        };
        let tenant = &self.tenants[job.tenant];
        let of_set: &[AgentId] = match (job.stage, job.set.and_then(|id| tenant.sets.get(&id))) {
            (Stage::Assigned, Some(set)) => &set.idle,
            _ => &[],
        };
        let mut candidates = of_set.to_vec();
        if candidates.is_empty() && self.ordinary_runners_may_take(job) {
            let agents = tenant.idle_ordinary.iter().filter_map(|id| tenant.agents.get(id));
            candidates.extend(agents.filter(|a| a.matches(&job.target)).map(|a| a.id));
        }
        if let Some(agent) = self.picks.choice(candidates) {
            self.start(key, Some(agent), None, now);
        }
    }

    fn ordinary_runners_may_take(&self, job: &Job) -> bool {
        job.stage == Stage::Waiting || self.settings.assigned_jobs_run_on == AssignedJobsRunOn::MatchingLabels
    }

    /// The oldest job that an idle runner may run.
    pub(super) fn find_job(&self, tenant: TenantId, agent: AgentId) -> Option<JobKey> {
        let tenant = &self.tenants[tenant];
        let agent = tenant.agents.get(&agent)?;
        if let Some(set) = agent.set {
            return tenant.sets.get(&set)?.assigned.first().copied();
        }
        let fits = |key: &&JobKey| self.jobs.get(key).is_some_and(|job| agent.matches(&job.target));
        let waiting = tenant.sets.values().filter_map(|s| s.available.iter().find(fits));
        let assigned = tenant
            .sets
            .values()
            .filter(|_| self.settings.assigned_jobs_run_on == AssignedJobsRunOn::MatchingLabels)
            .filter_map(|s| s.assigned.iter().find(fits));
        let unserved = tenant.unserved.iter().find(fits);
        waiting.chain(assigned).chain(unserved).min().copied()
    }

    /// Binds a job to a runner. `name` is for a start by hand without a registered runner.
    pub(super) fn start(&mut self, key: JobKey, agent: Option<AgentId>, name: Option<&str>, now: Now) {
        self.unlist(key);
        let Some(job) = self.jobs.get_mut(&key) else {
            return;
        };
        let (tenant, was_assigned) = (job.tenant, job.stage == Stage::Assigned);
        let by_fleet = name.is_none();
        let registered = agent.and_then(|id| self.tenants[tenant].agents.get_mut(&id));
        job.runner = Some(RunnerRef {
            id: registered.as_ref().map_or(0, |a| a.id),
            name: registered
                .as_ref()
                .map_or_else(|| name.unwrap_or_default().to_owned(), |a| a.name.clone()),
        });
        job.stage = Stage::Running;
        job.started = Some(now.wall);
        job.renewed = by_fleet.then_some(now.instant);
        if !was_assigned {
            // Taken past every set: no set hears of it.
            job.set = None;
            let runner = job.runner.iter().map(|r| r.name.clone());
            self.runners_past_sets.extend(runner);
        }
        let set = job.set;
        if let Some(agent) = registered {
            agent.job = Some(key);
            agent.spent = true;
            agent.wake.notify_waiters();
        }
        if let Some(agent) = agent {
            self.leave_idle(tenant, agent);
        }
        if let Some(set_id) = set {
            if let Some(set) = self.tenants[tenant].sets.get_mut(&set_id) {
                set.running.insert(key);
                set.untold.insert(key);
            }
            self.tell_later(key, Timer::StartTold, now);
        }
        if by_fleet {
            self.at(now.instant + self.settings.job_lock_ttl, Timer::LockLost { job: key });
        }
        self.changed();
    }

    /// Ends a job with `result`. Its runner, if ephemeral and honest about the end, is deregistered.
    pub(super) fn finish(&mut self, key: JobKey, result: &str, now: Now) {
        self.end(key, result, now);
        let runner = self
            .jobs
            .get(&key)
            .and_then(|job| Some((job.tenant, job.runner.as_ref()?.id)));
        if let Some((tenant, agent)) = runner {
            self.release_agent(tenant, agent);
            self.forget_agent(tenant, agent);
        }
    }

    /// The job's end; the runner is not looked at. The queue may hear of it later.
    pub(super) fn end(&mut self, key: JobKey, result: &str, now: Now) {
        let Some(job) = self.jobs.get_mut(&key) else {
            return;
        };
        let ran = job.stage == Stage::Running;
        if let Some(runner) = &job.runner {
            self.finished_runners.insert(runner.name.clone());
        }
        job.stage = Stage::Finished;
        job.finished = Some(now.wall);
        job.result = Some(result.to_owned());
        if ran {
            self.tell_later(key, Timer::EndTold, now);
        } else {
            self.tell_end(key);
        }
        self.changed();
    }

    /// Lets the queue know what has become of a job, now or later.
    fn tell_later(&mut self, key: JobKey, told: fn(JobKey) -> Timer, now: Now) {
        match self.settings.told_after {
            Duration::ZERO => match told(key) {
                Timer::StartTold(key) => self.tell_start(key),
                _ => self.tell_end(key),
            },
            longest => {
                let later = longest.mul_f64(self.picks.f64());
                self.at(now.instant + later, told(key));
            }
        }
    }

    /// The start as the queue hears it: before its end.
    pub(super) fn tell_start(&mut self, key: JobKey) {
        let place = self.jobs.get(&key).and_then(|job| Some((job.tenant, job.set?)));
        let Some((tenant, id)) = place else { return };
        let set = self.tenants[tenant].sets.get_mut(&id);
        if set.is_some_and(|set| set.untold.remove(&key)) {
            self.push(key, id, Kind::Started, None);
        }
    }

    /// The end as the queue hears it.
    pub(super) fn tell_end(&mut self, key: JobKey) {
        self.tell_start(key);
        self.unlist(key);
        let Some(job) = self.jobs.get(&key) else { return };
        if let (Some(set), true, Some(result)) = (job.set, job.announced, job.result.clone()) {
            self.push(key, set, Kind::Completed, Some(&result));
        }
    }

    /// No runner took the job in time.
    pub(super) fn take_back(&mut self, key: JobKey, attempt: u32, now: Now) {
        let Some(job) = self.jobs.get(&key) else {
            return;
        };
        if job.stage != Stage::Assigned || job.attempts != attempt {
            return;
        }
        if job.attempts > self.settings.max_requeues {
            self.end(key, "canceled", now);
            return;
        }
        let set = job.set;
        self.unlist(key);
        if let Some(set) = set {
            self.push(key, set, Kind::Completed, Some("canceled"));
        }
        if let Some(job) = self.jobs.get_mut(&key) {
            job.stage = Stage::Resting;
        }
        let due = now.instant + self.settings.requeue_delay * attempt;
        self.at(due, Timer::Requeue(key));
    }

    pub(super) fn requeue(&mut self, key: JobKey, now: Now) {
        if self.jobs.get(&key).is_some_and(|job| job.stage == Stage::Resting) {
            self.route(key, now);
        }
    }

    /// The assignment vanishes without a message; the job is over.
    pub(super) fn drop_job(&mut self, key: JobKey, now: Now) {
        self.unlist(key);
        if let Some(job) = self.jobs.get_mut(&key) {
            job.stage = Stage::Finished;
            job.finished = Some(now.wall);
            job.result = Some("dropped".to_owned());
        }
        self.changed();
    }

    pub(super) fn check_lock(&mut self, key: JobKey, now: Now) {
        let Some(job) = self.jobs.get_mut(&key) else {
            return;
        };
        let (Stage::Running, Some(renewed)) = (job.stage, job.renewed) else {
            return;
        };
        let due = renewed + self.settings.job_lock_ttl;
        if due > now.instant {
            self.at(due, Timer::LockLost { job: key });
            return;
        }
        job.runner_lost = true;
        let runner = job.runner.as_ref().map(|r| (job.tenant, r.id));
        self.end(key, "failed", now);
        if let Some((tenant, agent)) = runner {
            self.release_agent(tenant, agent);
        }
    }
}
