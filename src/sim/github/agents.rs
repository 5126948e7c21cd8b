//! Runners as GitHub registers them (the Actions service calls them agents), and what a runner process does.
//!
//! `online` is what the lists show: connected and heard of within a minute. A job is handed only to a runner
//! that holds its job poll open at that moment, so a runner that died gets none.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::{sync::Notify, time::Instant};

use super::{
    jobs::{Stage, Target},
    wire::Fault,
    world::{AgentId, JobKey, Now, SetId, TenantId, Timer, Violation, World, random_text, uuid},
};

/// What a runner of this age calls itself once it has connected.
const RUNNER_VERSION: &str = "2.330.0";

#[derive(Debug)]
pub(super) struct Agent {
    pub(super) id: AgentId,
    pub(super) name: String,
    /// None: an ordinary runner, found by its labels.
    pub(super) set: Option<SetId>,
    pub(super) group: u64,
    pub(super) labels: Vec<String>,
    pub(super) created: Timestamp,
    secret: String,
    /// The runner process that used the JIT configuration.
    connection: Option<String>,
    connected: bool,
    pub(super) online: bool,
    last_heard: Instant,
    offline_since: Instant,
    polls_held: u32,
    pub(super) job: Option<JobKey>,
    /// It was given its one job.
    pub(super) spent: bool,
    pub(super) wake: Arc<Notify>,
}

impl Agent {
    /// Whether its labels cover what a job asks for.
    pub(super) fn matches(&self, target: &Target) -> bool {
        target
            .labels
            .iter()
            .all(|wanted| self.labels.iter().any(|label| label.eq_ignore_ascii_case(wanted)))
    }
}

/// A registration to make.
#[derive(Debug)]
pub(super) struct NewAgent {
    pub(super) name: String,
    pub(super) work_folder: String,
    pub(super) set: Option<SetId>,
    pub(super) group: u64,
    pub(super) labels: Vec<String>,
}

/// Why a runner process is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RunnerFault {
    BadSecret,
    /// The registration was removed, or the job is not this runner's any more.
    Gone,
    JitUsed,
}

/// A job as its runner gets it.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub(super) job: String,
    pub(super) request_id: i64,
    pub(super) duration_seconds: f64,
    pub(super) exit_code: i32,
}

impl World {
    /// Registers a runner, offline; the blob is the JIT configuration. `None`: the name is taken.
    pub(super) fn register(&mut self, tenant: TenantId, new: NewAgent, now: Now) -> Option<(AgentId, String)> {
        let key = new.name.to_ascii_lowercase();
        if self.tenants[tenant].agent_names.contains_key(&key) {
            return None;
        }
        let id = self.next_id();
        let secret = random_text(&mut self.rng, 40);
        let blob = self.jit_blob(tenant, id, &new, &secret);
        if let Some(set) = new.set.and_then(|set| self.tenants[tenant].sets.get_mut(&set)) {
            set.agents.insert(id);
        }
        let agent = Agent {
            id,
            name: new.name,
            set: new.set,
            group: new.group,
            labels: new.labels,
            created: now.wall,
            secret,
            connection: None,
            connected: false,
            online: false,
            last_heard: now.instant,
            offline_since: now.instant,
            polls_held: 0,
            job: None,
            spent: false,
            wake: Arc::new(Notify::new()),
        };
        self.tenants[tenant].agents.insert(id, agent);
        self.tenants[tenant].agent_names.insert(key, id);
        self.agent_tenants.insert(id, tenant);
        let due = now.instant + self.settings.offline_runner_ttl;
        self.at(due, Timer::ClearOffline(id));
        Some((id, blob))
    }

    /// base64 of a JSON map from file name to base64 content, about 4 KiB, as GitHub's.
    fn jit_blob(&mut self, tenant: TenantId, id: AgentId, new: &NewAgent, secret: &str) -> String {
        let url = self.tenant_url(tenant);
        let runner = json!({
            "agentId": id, "agentName": new.name, "disableUpdate": true, "ephemeral": true,
            "poolId": 1, "poolName": "Default", "serverUrl": url, "workFolder": new.work_folder,
            "gitHubUrl": format!("{}/{}", self.web_url, self.tenants[tenant].scope),
        });
        let credentials = json!({
            "scheme": "OAuth",
            "data": {
                "clientId": uuid(&mut self.rng), "authorizationUrl": format!("{url}_apis/oauth2/token"),
                "requireFipsCryptography": "False", "secret": secret,
            },
        });
        // Stands in for the private key: as long as one, and as secret.
        let mut number = |bytes: usize| {
            let raw: Vec<u8> = (0..bytes).map(|_| self.rng.u8(..)).collect();
            STANDARD.encode(raw)
        };
        let key = json!({
            "d": number(256), "dp": number(128), "dq": number(128), "exponent": "AQAB", "inverseQ": number(128),
            "modulus": number(256), "p": number(128), "q": number(128),
        });
        let file = |content: &Value| STANDARD.encode(content.to_string());
        let files = json!({
            ".runner": file(&runner), ".credentials": file(&credentials), ".credentials_rsaparams": file(&key),
        });
        STANDARD.encode(files.to_string())
    }

    pub(super) fn set_jit(
        &mut self,
        tenant: TenantId,
        set: SetId,
        name: &str,
        work_folder: &str,
        now: Now,
    ) -> Result<Value, Fault> {
        let group = self.set(tenant, set)?.group;
        if name.is_empty() || name.len() > 64 {
            return Err(Fault::invalid("The runner name must have 1 to 64 characters."));
        }
        let new = NewAgent {
            name: name.to_owned(),
            work_folder: work_folder.to_owned(),
            set: Some(set),
            group,
            labels: Vec::new(),
        };
        let (id, blob) = self
            .register(tenant, new, now)
            .ok_or_else(|| Fault::agent_exists(name))?;
        Ok(json!({"runner": {"id": id, "name": name, "runnerScaleSetId": set}, "encodedJITConfig": blob}))
    }

    pub(super) fn agents(&self, tenant: TenantId, name: Option<&str>) -> Vec<Value> {
        let tenant = &self.tenants[tenant];
        match name {
            None => tenant.agents.values().map(agent_json).collect(),
            Some(name) => tenant
                .agent_names
                .get(&name.to_ascii_lowercase())
                .and_then(|id| tenant.agents.get(id))
                .map(agent_json)
                .into_iter()
                .collect(),
        }
    }

    pub(super) fn agent(&self, tenant: TenantId, id: AgentId) -> Result<Value, Fault> {
        let agent = self.tenants[tenant].agents.get(&id);
        agent.map(agent_json).ok_or_else(|| Fault::no_agent(id))
    }

    /// Removes a registration, unless the runner is busy.
    pub(super) fn remove_agent(&mut self, tenant: TenantId, id: AgentId) -> Result<(), Fault> {
        let agent = self.tenants[tenant]
            .agents
            .get(&id)
            .ok_or_else(|| Fault::no_agent(id))?;
        if agent.job.is_some() {
            return Err(Fault::job_still_running(&agent.name));
        }
        self.forget_agent(tenant, id);
        Ok(())
    }

    /// The registration is gone; a runner that still asks learns it.
    pub(super) fn forget_agent(&mut self, tenant: TenantId, id: AgentId) {
        self.leave_idle(tenant, id);
        let Some(agent) = self.tenants[tenant].agents.remove(&id) else {
            return;
        };
        self.tenants[tenant]
            .agent_names
            .remove(&agent.name.to_ascii_lowercase());
        self.agent_tenants.remove(&id);
        if let Some(set) = agent.set.and_then(|set| self.tenants[tenant].sets.get_mut(&set)) {
            set.agents.remove(&id);
        }
        agent.wake.notify_waiters();
        self.changed();
    }

    /// With its set gone, a runner is gone too, and the job that it had has failed.
    pub(super) fn abandon_agent(&mut self, tenant: TenantId, id: AgentId, now: Now) {
        let job = self.tenants[tenant].agents.get(&id).and_then(|a| a.job);
        if let Some(job) = job {
            self.end(job, "failed", now);
        }
        self.forget_agent(tenant, id);
    }

    pub(super) fn release_agent(&mut self, tenant: TenantId, id: AgentId) {
        if let Some(agent) = self.tenants[tenant].agents.get_mut(&id) {
            agent.job = None;
        }
    }

    // What runner processes do.

    fn runner(&mut self, id: AgentId, secret: &str) -> Result<(TenantId, &mut Agent), RunnerFault> {
        let tenant = *self.agent_tenants.get(&id).ok_or(RunnerFault::Gone)?;
        let agent = self.tenants[tenant].agents.get_mut(&id).ok_or(RunnerFault::Gone)?;
        if agent.secret != secret {
            return Err(RunnerFault::BadSecret);
        }
        Ok((tenant, agent))
    }

    /// As [`Self::runner`], and notes that it was heard of.
    fn heard(&mut self, id: AgentId, secret: &str, now: Now) -> Result<TenantId, RunnerFault> {
        let silence = self.settings.runner_offline_after;
        let (tenant, agent) = self.runner(id, secret)?;
        if !agent.connected {
            return Err(RunnerFault::Gone);
        }
        agent.last_heard = now.instant;
        if !agent.online {
            agent.online = true;
            self.at(now.instant + silence, Timer::AgentSilent(id));
            self.changed();
        }
        Ok(tenant)
    }

    /// Uses the JIT configuration, once.
    pub(super) fn connect(&mut self, id: AgentId, secret: &str, now: Now) -> Result<String, RunnerFault> {
        let connection = self.uuid();
        let used = self.used_jits.get(&id).cloned();
        let known = self.runner(id, secret).map(|_| ());
        if let (Some(runner), Ok(()) | Err(RunnerFault::Gone)) = (used, known) {
            self.violations.push(Violation::JitUsedTwice { runner });
            self.changed();
            known?;
            return Err(RunnerFault::JitUsed);
        }
        let (_, agent) = self.runner(id, secret)?;
        agent.connection = Some(connection.clone());
        agent.connected = true;
        let name = agent.name.clone();
        self.connected.insert(name.clone(), now.wall);
        self.used_jits.insert(id, name);
        self.heard(id, secret, now)?;
        Ok(connection)
    }

    /// Begins to wait for a job.
    pub(super) fn begin_wait(&mut self, id: AgentId, secret: &str, now: Now) -> Result<Arc<Notify>, RunnerFault> {
        let tenant = self.heard(id, secret, now)?;
        let (_, agent) = self.runner(id, secret)?;
        agent.polls_held += 1;
        let wake = Arc::clone(&agent.wake);
        let (idle, set) = (agent.polls_held == 1 && !agent.spent, agent.set);
        if idle {
            self.idle_list(tenant, set).push(id);
            if let Some(job) = self.find_job(tenant, id) {
                self.start(job, Some(id), None, now);
            }
        }
        Ok(wake)
    }

    pub(super) fn end_wait(&mut self, id: AgentId, now: Now) {
        let Some(tenant) = self.agent_tenants.get(&id).copied() else {
            return;
        };
        let Some(agent) = self.tenants[tenant].agents.get_mut(&id) else {
            return;
        };
        agent.polls_held -= 1;
        agent.last_heard = now.instant;
        if agent.polls_held == 0 {
            self.leave_idle(tenant, id);
        }
    }

    /// The job that this runner has, if it has one.
    pub(super) fn work_of(&mut self, id: AgentId, secret: &str) -> Result<Option<Work>, RunnerFault> {
        let job = self.runner(id, secret)?.1.job;
        Ok(job.and_then(|key| self.jobs.get(&key)).map(|job| Work {
            job: job.id.clone(),
            request_id: job.request_id,
            duration_seconds: job.duration.as_secs_f64(),
            exit_code: job.exit_code,
        }))
    }

    fn own_job(&mut self, id: AgentId, secret: &str, job: &str, now: Now) -> Result<JobKey, RunnerFault> {
        let tenant = self.heard(id, secret, now)?;
        let has = self.tenants[tenant].agents.get(&id).and_then(|a| a.job);
        let asked = self.job_ids.get(job).copied();
        has.filter(|key| asked == Some(*key)).ok_or(RunnerFault::Gone)
    }

    /// Renews the runner's lock on its job.
    pub(super) fn renew(&mut self, id: AgentId, secret: &str, job: &str, now: Now) -> Result<Timestamp, RunnerFault> {
        let key = self.own_job(id, secret, job, now)?;
        if let Some(job) = self.jobs.get_mut(&key) {
            job.renewed = Some(now.instant);
        }
        Ok(now.wall + self.settings.job_lock_ttl)
    }

    pub(super) fn finish_by_runner(
        &mut self,
        id: AgentId,
        secret: &str,
        job: &str,
        result: &str,
        now: Now,
    ) -> Result<(), RunnerFault> {
        let key = self.own_job(id, secret, job, now)?;
        self.finish(key, result, now);
        Ok(())
    }

    /// The runner process ends in order, without a job's end.
    pub(super) fn disconnect(&mut self, id: AgentId, secret: &str, now: Now) -> Result<(), RunnerFault> {
        let (tenant, agent) = self.runner(id, secret)?;
        agent.connected = false;
        agent.wake.notify_waiters();
        self.leave_idle(tenant, id);
        self.goes_offline(tenant, id, now);
        Ok(())
    }

    fn idle_list(&mut self, tenant: TenantId, set: Option<SetId>) -> &mut Vec<AgentId> {
        let tenant = &mut self.tenants[tenant];
        match set.and_then(|set| tenant.sets.get_mut(&set)) {
            Some(set) => &mut set.idle,
            None => &mut tenant.idle_ordinary,
        }
    }

    pub(super) fn leave_idle(&mut self, tenant: TenantId, id: AgentId) {
        let set = self.tenants[tenant].agents.get(&id).and_then(|a| a.set);
        self.idle_list(tenant, set).retain(|other| *other != id);
    }

    fn goes_offline(&mut self, tenant: TenantId, id: AgentId, now: Now) {
        if let Some(agent) = self.tenants[tenant].agents.get_mut(&id) {
            agent.online = false;
            agent.offline_since = now.instant;
            let due = now.instant + self.settings.offline_runner_ttl;
            self.at(due, Timer::ClearOffline(id));
        }
    }

    pub(super) fn check_silence(&mut self, id: AgentId, now: Now) {
        let Some(tenant) = self.agent_tenants.get(&id).copied() else {
            return;
        };
        let Some(agent) = self.tenants[tenant].agents.get(&id).filter(|a| a.online) else {
            return;
        };
        let heard = if agent.polls_held > 0 {
            now.instant
        } else {
            agent.last_heard
        };
        let due = heard + self.settings.runner_offline_after;
        if due > now.instant {
            self.at(due, Timer::AgentSilent(id));
        } else {
            self.goes_offline(tenant, id, now);
        }
    }

    pub(super) fn check_offline(&mut self, id: AgentId, now: Now) {
        let Some(tenant) = self.agent_tenants.get(&id).copied() else {
            return;
        };
        let ttl = self.settings.offline_runner_ttl;
        let cleared = self.tenants[tenant]
            .agents
            .get(&id)
            .is_some_and(|a| !a.online && a.job.is_none() && a.offline_since + ttl <= now.instant);
        if cleared {
            self.forget_agent(tenant, id);
        }
    }

    /// By hand, without a fleet: any name, registered or not. False: the job is past its start.
    pub(super) fn start_by_hand(&mut self, job: JobKey, runner: &str, now: Now) -> bool {
        let Some(job) = self.jobs.get(&job) else {
            return false;
        };
        if !matches!(job.stage, Stage::Waiting | Stage::Assigned) {
            return false;
        }
        let (key, tenant) = (job.key, job.tenant);
        let agent = self.tenants[tenant]
            .agent_names
            .get(&runner.to_ascii_lowercase())
            .copied();
        self.start(key, agent, Some(runner), now);
        true
    }
}

fn agent_json(agent: &Agent) -> Value {
    let labels: Vec<Value> = agent
        .labels
        .iter()
        .map(|l| json!({"type": "user", "name": l}))
        .collect();
    let mut out = json!({
        "id": agent.id, "name": agent.name, "enabled": true, "ephemeral": true,
        "status": if agent.online { "online" } else { "offline" },
        "busy": agent.job.is_some(),
        "version": if agent.connection.is_some() { RUNNER_VERSION } else { "" },
        "osDescription": "Linux", "labels": labels, "runnerGroupId": agent.group,
        "createdOn": agent.created.to_string(),
    });
    if let Some(set) = agent.set {
        out["runnerScaleSetId"] = set.into();
    }
    out
}

/// A runner as REST shows it.
pub(super) fn rest_json(agent: &Agent) -> Value {
    let labels: Vec<Value> = (1..)
        .zip(&agent.labels)
        .map(|(id, name): (u64, &String)| json!({"id": id, "name": name, "type": "custom"}))
        .collect();
    json!({
        "id": agent.id, "name": agent.name, "os": if agent.connection.is_some() { "Linux" } else { "unknown" },
        "status": if agent.online { "online" } else { "offline" }, "busy": agent.job.is_some(),
        "labels": labels, "runner_group_id": agent.group, "ephemeral": true,
    })
}
