//! What a set's client has been told of its demand: the measure of how many runners it may have.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{
    control::GitHub,
    world::{Now, SetId, TenantId, World},
};

/// A runner that was called for stays so for this long after newer statistics: its creation was under way.
const GRACE: Duration = Duration::from_secs(2);

/// Jobs that were delivered as assigned, or as waiting for more capacity (a client that was refused a runner
/// before must have one before it announces a place for them). Newest last; only the newest is older than
/// [`GRACE`].
#[derive(Debug, Default)]
pub(super) struct Told(VecDeque<(Instant, usize)>);

impl Told {
    fn jobs(&mut self, jobs: usize, now: Instant) {
        self.trim(now);
        self.0.push_back((now, jobs));
    }

    /// An entry counts until [`GRACE`] after its successor came.
    fn trim(&mut self, now: Instant) {
        while self.0.get(1).is_some_and(|(at, _)| *at + GRACE < now) {
            self.0.pop_front();
        }
    }

    fn most(&mut self, now: Instant) -> usize {
        self.trim(now);
        self.0.iter().map(|(_, jobs)| *jobs).max().unwrap_or(0)
    }
}

impl World {
    pub(super) fn tell_demand(&mut self, tenant: TenantId, set: SetId, now: Now) {
        if let Ok(set) = self.set_mut(tenant, set) {
            let jobs = set.total_assigned() + set.available.len();
            set.told.jobs(jobs, now.instant);
        }
    }
}

impl GitHub {
    /// How many jobs the client of the set `name` has been told are assigned to it or wait for it: the most of
    /// what still counts.
    pub fn demand_as_delivered(&self, name: &str) -> usize {
        self.with(|world, now| {
            let mut sets = world.tenants.iter_mut().flat_map(|t| t.sets.values_mut());
            let set = sets.find(|set| set.name.eq_ignore_ascii_case(name));
            set.map_or(0, |set| set.told.most(now.instant))
        })
    }

    /// How many of these runners stand for the jobs that a set's client is told of: those that have neither finished a
    /// job nor have one that was taken past every set.
    pub fn standing_for_sets<'a>(&self, runners: impl Iterator<Item = &'a str>) -> usize {
        self.with(|world, _| {
            let elsewhere =
                |name: &str| world.finished_runners.contains(name) || world.runners_past_sets.contains(name);
            runners.filter(|name| !elsewhere(name)).count()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_delivered_counts_until_a_moment_after_newer_news() {
        let mut told = Told::default();
        assert_eq!(told.most(Instant::now()), 0);
        told.jobs(3, Instant::now());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(told.most(Instant::now()), 3);
        told.jobs(1, Instant::now());
        assert_eq!(told.most(Instant::now()), 3);
        tokio::time::advance(GRACE + Duration::from_millis(1)).await;
        assert_eq!(told.most(Instant::now()), 1);
    }
}
