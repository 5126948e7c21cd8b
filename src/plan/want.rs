//! Step one: what one scale set wants, looking at itself alone.

use super::{
    Moment,
    reason::{Code, Reason},
    world::{SetWorld, World},
};
use crate::ids::RunnerName;

/// One set's wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// Runners that the set lacks and may have by its own figures.
    pub missing: u32,
    /// Jobs of the demand (without spare runners).
    pub jobs: u32,
    /// Nobody has refused: headroom is unlimited.
    pub free: bool,
    /// What stops it, as far as the set alone can tell.
    pub reasons: Vec<Reason>,
}

/// What `set` wants now.
pub fn want(world: &World, set: &SetWorld, now: Moment) -> Want {
    let mut reasons = Vec::new();
    let jobs = set.demand.to_create(now, set.idle_since(), set.busy());
    let target = set.wants_to_create(now);
    let live = set.live();
    let lacking = target.saturating_sub(set.covering());
    let room = set.max_runners.saturating_sub(live);
    let mut missing = lacking.min(room);

    let hurdles: Vec<_> = set.scopes().iter().filter_map(|s| world.hurdles.get(s)).collect();
    reasons.extend(hurdles.iter().map(|h| h.reason.clone()));
    if !hurdles.is_empty() && missing == 0 && room > 0 && set.demand.available() > 0 {
        // Jobs wait at GitHub for capacity, and capacity waits for a runner: try one, idle.
        missing = 1;
    }
    if jobs.saturating_add(set.min_runners) > set.max_runners || (live >= set.max_runners && set.demand.available() > 0)
    {
        reasons.push(Reason::new(
            Code::MaxRunners,
            format!("{live} of at most {} runners", set.max_runners),
        ));
    }

    let mut stopped = false;
    if let Some(reason) = set.session.blocks() {
        reasons.push(reason);
        stopped = true;
    }
    if !world.synced {
        reasons.push(Reason::new(
            Code::NotSynced,
            "the pods of before have not been read yet",
        ));
        stopped = true;
    }
    if world.draining {
        reasons.push(Reason::new(Code::Draining, "the daemon is shutting down"));
        stopped = true;
    }
    if stopped {
        missing = 0;
    }
    Want {
        missing,
        jobs,
        free: !stopped && hurdles.is_empty(),
        reasons,
    }
}

/// Surplus runners to retire now: those not yet registered first, then the youngest idle.
pub fn retire(set: &SetWorld, now: Moment) -> Vec<RunnerName> {
    let surplus = surplus(set, now);
    let due = set
        .surplus_since
        .is_some_and(|since| now.since(since) >= set.timeouts.idle);
    if surplus == 0 || !due {
        return Vec::new();
    }
    let mut candidates: Vec<_> = set
        .runners
        .values()
        .filter_map(|r| r.spare_since().map(|(online, since)| (online, since, &r.name)))
        .filter(|(_, since, _)| now.since(*since) >= set.timeouts.idle)
        .collect();
    candidates.sort_by_key(|(online, since, name)| (*online, std::cmp::Reverse(*since), (*name).clone()));
    candidates
        .into_iter()
        .take(usize::try_from(surplus).unwrap_or(usize::MAX))
        .map(|(_, _, name)| name.clone())
        .collect()
}

/// Runners beyond what demand keeps.
pub fn surplus(set: &SetWorld, now: Moment) -> u32 {
    let waiting_or_working = super::world::count(set.runners.values().filter(|r| r.is_live() && r.covers_job()));
    waiting_or_working.saturating_sub(set.wants_to_keep(now))
}
