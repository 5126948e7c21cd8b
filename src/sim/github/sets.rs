//! Runner groups and scale sets.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::{
    demand::Told,
    jobs::Target,
    sessions::Message,
    settings::{GroupAccess, Lie, Repositories},
    wire::Fault,
    world::{AgentId, JobKey, Now, SessionId, SetId, TenantId, Violation, World},
};

#[derive(Clone, Debug)]
pub(super) struct RunnerGroup {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) is_default: bool,
    pub(super) access: GroupAccess,
}

impl RunnerGroup {
    fn lets_in(&self, target: &Target) -> bool {
        let GroupAccess {
            public_repositories,
            repositories,
            workflows,
        } = &self.access;
        let owner = target.repository.split('/').next().unwrap_or_default();
        let on_list = |list: &Vec<String>| {
            let is =
                |entry: &String| entry.eq_ignore_ascii_case(&target.repository) || entry.eq_ignore_ascii_case(owner);
            list.iter().any(is)
        };
        let repository = match repositories {
            Repositories::All => true,
            Repositories::Private => !target.is_public,
            Repositories::Selected(list) => on_list(list),
        };
        let own = format!("{}/.github/workflows/ci.yml@refs/heads/main", target.repository);
        let is_its_workflow = |workflow: &String| *workflow == own;
        repository
            && (*public_repositories || !target.is_public)
            && workflows.as_ref().is_none_or(|list| list.iter().any(is_its_workflow))
    }
}

/// Whether the set would get this job: by its name or labels, and by its group.
pub(super) fn gets(groups: &[RunnerGroup], set: &ScaleSet, target: &Target) -> bool {
    let group = groups.iter().find(|group| group.id == set.group);
    set.serves(target) && group.is_none_or(|group| group.lets_in(target))
}

/// A scale set, its jobs by stage, its runners, its queue.
#[derive(Debug)]
pub(super) struct ScaleSet {
    pub(super) id: SetId,
    pub(super) tenant: TenantId,
    pub(super) name: String,
    pub(super) group: u64,
    pub(super) labels: Vec<String>,
    pub(super) disable_update: bool,
    pub(super) created: Timestamp,
    /// Waiting at GitHub, assigned to nobody.
    pub(super) available: BTreeSet<JobKey>,
    /// Those of `available` that no session was offered yet.
    pub(super) unoffered: BTreeSet<JobKey>,
    /// Assigned to this set, no runner yet.
    pub(super) assigned: BTreeSet<JobKey>,
    pub(super) running: BTreeSet<JobKey>,
    /// Those of the running ones whose start the queue does not know yet.
    pub(super) untold: BTreeSet<JobKey>,
    pub(super) agents: BTreeSet<AgentId>,
    /// Runners of this set that hold a job poll open: any of them may get any job of the set.
    pub(super) idle: Vec<AgentId>,
    pub(super) session: Option<SessionId>,
    /// Job messages that stand in no message yet.
    pub(super) pending: VecDeque<Value>,
    /// Delivered, or about to be, and not deleted; by ascending id.
    pub(super) messages: VecDeque<Message>,
    pub(super) last_message: u64,
    /// The newest job messages, for those that come twice.
    pub(super) said: VecDeque<Value>,
    /// What its statistics were when they got stuck.
    pub(super) stuck: Statistics,
    /// What clients were told lately.
    pub(super) told: Told,
    /// Wakes polls: something to say, or a session's end.
    pub(super) wake: Arc<Notify>,
}

/// `totalAssignedJobs` and its neighbours, exact at the moment of asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Statistics {
    pub available: usize,
    pub acquired: usize,
    pub assigned: usize,
    pub running: usize,
    pub registered_runners: usize,
    pub busy_runners: usize,
    pub idle_runners: usize,
}

impl ScaleSet {
    /// Waiting for a runner, or running: what `X-ScaleSetMaxCapacity` bounds.
    pub(super) fn total_assigned(&self) -> usize {
        self.assigned.len() + self.running.len()
    }

    pub(super) fn serves(&self, target: &Target) -> bool {
        match &target.set {
            Some(name) => self.name.eq_ignore_ascii_case(name),
            None => target
                .labels
                .iter()
                .all(|wanted| self.labels.iter().any(|label| label.eq_ignore_ascii_case(wanted))),
        }
    }
}

/// What a client may ask for when it creates or changes a set.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SetRequest {
    pub(super) name: Option<String>,
    pub(super) runner_group_id: Option<u64>,
    pub(super) labels: Option<Vec<LabelRequest>>,
    #[serde(rename = "RunnerSetting", alias = "runnerSetting")]
    pub(super) runner_setting: Option<RunnerSetting>,
}

#[derive(Debug, Deserialize)]
pub(super) struct LabelRequest {
    pub(super) name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RunnerSetting {
    #[serde(default)]
    pub(super) disable_update: bool,
}

impl World {
    pub(super) fn set(&self, tenant: TenantId, id: SetId) -> Result<&ScaleSet, Fault> {
        self.tenants[tenant].sets.get(&id).ok_or_else(|| Fault::no_set(id))
    }

    pub(super) fn set_mut(&mut self, tenant: TenantId, id: SetId) -> Result<&mut ScaleSet, Fault> {
        self.tenants[tenant].sets.get_mut(&id).ok_or_else(|| Fault::no_set(id))
    }

    pub(super) fn groups_by_name(&self, tenant: TenantId, name: Option<&str>) -> Vec<Value> {
        let tenant = &self.tenants[tenant];
        tenant
            .groups
            .iter()
            .filter(|g| name.is_none_or(|name| g.name.eq_ignore_ascii_case(name)))
            .map(|g| {
                let size = tenant.agents.values().filter(|a| a.group == g.id).count();
                json!({"id": g.id, "name": g.name, "size": size, "isDefaultGroup": g.is_default})
            })
            .collect()
    }

    /// All sets in scope, or those of one group and name.
    pub(super) fn sets(&self, tenant: TenantId, group: Option<u64>, name: Option<&str>) -> Vec<Value> {
        self.tenants[tenant]
            .sets
            .values()
            .filter(|s| group.is_none_or(|g| s.group == g))
            .filter(|s| name.is_none_or(|n| s.name.eq_ignore_ascii_case(n)))
            .map(|s| self.set_json(s))
            .collect()
    }

    pub(super) fn create_set(&mut self, tenant: TenantId, request: SetRequest, now: Now) -> Result<Value, Fault> {
        let name = request
            .name
            .filter(|n| !n.trim().is_empty())
            .ok_or_else(|| Fault::invalid("The runner scale set name must not be empty."))?;
        if let Some(words) = self.settings.refused_names.get(&name) {
            return Err(Fault::invalid(words));
        }
        let group = request.runner_group_id.unwrap_or(1);
        self.check_group(tenant, group)?;
        self.check_name_free(tenant, group, &name, None)?;
        let mut labels: Vec<String> = request.labels.into_iter().flatten().map(|l| l.name).collect();
        if labels.is_empty() {
            labels.push(name.clone());
        }
        self.keep_labels(&mut labels);
        let id = self.next_id();
        let set = ScaleSet {
            id,
            tenant,
            name,
            group,
            labels,
            disable_update: request.runner_setting.is_some_and(|s| s.disable_update),
            created: now.wall,
            available: BTreeSet::new(),
            unoffered: BTreeSet::new(),
            assigned: BTreeSet::new(),
            running: BTreeSet::new(),
            untold: BTreeSet::new(),
            agents: BTreeSet::new(),
            idle: Vec::new(),
            session: None,
            pending: VecDeque::new(),
            messages: VecDeque::new(),
            last_message: 0,
            said: VecDeque::new(),
            stuck: Statistics::default(),
            told: Told::default(),
            wake: Arc::new(Notify::new()),
        };
        self.tenants[tenant].sets.insert(id, set);
        self.route_unserved(tenant, id, now);
        self.set(tenant, id).map(|s| self.set_json(s))
    }

    /// PATCH: name, group and update setting change; labels are ignored in silence, as recorded.
    /// PUT: labels too.
    pub(super) fn update_set(
        &mut self,
        tenant: TenantId,
        id: SetId,
        request: SetRequest,
        with_labels: bool,
        now: Now,
    ) -> Result<Value, Fault> {
        let set = self.set(tenant, id)?;
        let name = request
            .name
            .filter(|n| !n.is_empty())
            .unwrap_or_else(|| set.name.clone());
        let group = request.runner_group_id.filter(|g| *g != 0).unwrap_or(set.group);
        self.check_group(tenant, group)?;
        self.check_name_free(tenant, group, &name, Some(id))?;
        let mut labels: Vec<String> = request.labels.into_iter().flatten().map(|l| l.name).collect();
        self.keep_labels(&mut labels);
        let set = self.set_mut(tenant, id)?;
        set.name = name;
        set.group = group;
        if let Some(setting) = request.runner_setting {
            set.disable_update = setting.disable_update;
        }
        if with_labels && !labels.is_empty() {
            set.labels = labels;
        }
        self.route_unserved(tenant, id, now);
        self.set(tenant, id).map(|s| self.set_json(s))
    }

    /// Its session ends, its runners lose their registrations, its waiting jobs wait for another set.
    pub(super) fn delete_set(&mut self, tenant: TenantId, id: SetId, now: Now) -> Result<(), Fault> {
        let set = self.set(tenant, id)?;
        let jobs = set.total_assigned() + set.available.len();
        let name = set.name.clone();
        if jobs > 0 {
            self.violations.push(Violation::SetDeletedWithJobs {
                set: name,
                jobs: u32::try_from(jobs).unwrap_or(u32::MAX),
            });
        }
        self.remove_set(tenant, id, now);
        Ok(())
    }

    /// As GitHub does with a set that nobody used for a week.
    pub(super) fn remove_set(&mut self, tenant: TenantId, id: SetId, now: Now) {
        if let Some(session) = self.tenants[tenant].sets.get(&id).and_then(|s| s.session.clone()) {
            self.end_session(&session);
        }
        let agents = self.tenants[tenant].sets.get(&id).map(|s| s.agents.clone());
        for agent in agents.into_iter().flatten() {
            self.abandon_agent(tenant, agent, now);
        }
        if let Some(set) = self.tenants[tenant].sets.remove(&id) {
            self.release_jobs_of(&set, now);
            set.wake.notify_waiters();
        }
    }

    fn check_group(&self, tenant: TenantId, group: u64) -> Result<(), Fault> {
        if self.tenants[tenant].groups.iter().any(|g| g.id == group) {
            Ok(())
        } else {
            Err(Fault::no_group(group))
        }
    }

    fn check_name_free(&self, tenant: TenantId, group: u64, name: &str, but: Option<SetId>) -> Result<(), Fault> {
        let taken = self.tenants[tenant]
            .sets
            .values()
            .any(|s| s.group == group && s.name.eq_ignore_ascii_case(name) && Some(s.id) != but);
        if taken { Err(Fault::set_exists(name)) } else { Ok(()) }
    }

    fn keep_labels(&self, labels: &mut Vec<String>) {
        if !self.settings.multi_label {
            labels.truncate(1);
        }
    }

    pub(super) fn statistics_of(&self, set: &ScaleSet) -> Statistics {
        let agents = &self.tenants[set.tenant].agents;
        let of_set = || set.agents.iter().filter_map(|id| agents.get(id));
        Statistics {
            available: set.available.len(),
            acquired: match self.settings.flow {
                super::Flow::GitHub => 0,
                super::Flow::Ghes => set.assigned.len(),
            },
            assigned: set.total_assigned(),
            running: set.running.len() - set.untold.len(),
            registered_runners: set.agents.len(),
            busy_runners: of_set().filter(|a| a.job.is_some()).count(),
            idle_runners: of_set().filter(|a| a.online && a.job.is_none()).count(),
        }
    }

    pub(super) fn statistics_json(&self, set: &ScaleSet) -> Value {
        let s = match self.lie {
            None => self.statistics_of(set),
            Some(Lie::Stuck) => set.stuck,
            Some(Lie::Zero) => Statistics::default(),
            Some(Lie::Ghosts(more)) => {
                let true_ones = self.statistics_of(set);
                Statistics {
                    assigned: true_ones.assigned + more,
                    ..true_ones
                }
            }
        };
        json!({
            "totalAvailableJobs": s.available, "totalAcquiredJobs": s.acquired, "totalAssignedJobs": s.assigned,
            "totalRunningJobs": s.running, "totalRegisteredRunners": s.registered_runners,
            "totalBusyRunners": s.busy_runners, "totalIdleRunners": s.idle_runners,
        })
    }

    pub(super) fn set_json(&self, set: &ScaleSet) -> Value {
        let tenant = set.tenant;
        let group = self.tenants[tenant].groups.iter().find(|g| g.id == set.group);
        let labels: Vec<Value> = set
            .labels
            .iter()
            .map(|l| json!({"type": "System", "name": l}))
            .collect();
        json!({
            "id": set.id, "name": set.name, "runnerGroupId": set.group,
            "runnerGroupName": group.map(|g| g.name.as_str()),
            "labels": labels, "RunnerSetting": {"disableUpdate": set.disable_update},
            "createdOn": set.created.to_string(),
            "runnerJitConfigUrl": format!(
                "{}_apis/runtime/runnerscalesets/{}/generatejitconfig", self.tenant_url(tenant), set.id
            ),
            "status": if set.session.is_some() { "online" } else { "offline" },
            "statistics": self.statistics_json(set),
        })
    }
}
