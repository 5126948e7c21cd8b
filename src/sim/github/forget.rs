//! What the service forgets when told to: see [`World::forget`](crate::sim::world::World::forget).

use jiff::Timestamp;

use super::{
    control::GitHub,
    world::{JobKey, World},
};

impl GitHub {
    /// Forgets the jobs that ended before then, and the runners that are gone.
    pub fn forget(&self, before: Timestamp) {
        self.with(|world, now| {
            world.forget(before);
            world.access.forget(now.wall);
        });
    }
}

impl World {
    fn forget(&mut self, before: Timestamp) {
        let over = |at: &Option<Timestamp>| at.is_some_and(|at| at < before);
        let ended: Vec<JobKey> = self
            .jobs
            .values()
            .filter(|j| over(&j.finished))
            .map(|j| j.key)
            .collect();
        for job in ended.iter().filter_map(|key| self.jobs.remove(key)) {
            self.job_ids.remove(&job.id);
            self.request_ids.remove(&job.request_id);
        }
        let tenants = &self.tenants;
        let is_there = |name: &str| {
            let name = name.to_ascii_lowercase();
            tenants.iter().any(|tenant| tenant.agent_names.contains_key(&name))
        };
        self.connected.retain(|name, at| *at >= before || is_there(name));
        let connected = &self.connected;
        self.used_jits.retain(|_, name| connected.contains_key(name));
        self.finished_runners.retain(|name| connected.contains_key(name));
        self.runners_past_sets.retain(|name| connected.contains_key(name));
        self.forget_timers_of_gone_agents();
    }
}
