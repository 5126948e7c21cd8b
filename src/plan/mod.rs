//! Deciding, pure: no I/O, no clock, no randomness.
//!
//! Three steps: what each set wants ([`want`]), who gets the next places where sets share a limit
//! ([`allocate`]), then one [`Plan`] per set with a reason for every runner that is not made. Everything
//! that can be decided is decided here; the property tests aim at it.

pub mod allocate;
pub mod demand;
pub mod limits;
mod moment;
pub mod orphans;
pub mod reason;
pub mod runner;
#[cfg(test)]
mod tests;
pub mod want;
pub mod world;

use std::collections::BTreeMap;

use allocate::Share;
pub use moment::Moment;
use reason::{Code, Reason};
use runner::{Call, Purpose};
use world::{SetWorld, World};

use crate::ids::{RunnerName, SetName};

/// What one scale set needs done now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub create: Vec<Purpose>,
    pub retire: Vec<RunnerName>,
    pub calls: Vec<(RunnerName, Call)>,
    /// Announced to GitHub with the next poll: bounds waiting and running jobs together.
    pub capacity: u32,
    /// Statistics must be fetched beside the poll: at the limit, or to confirm a zero.
    pub listen_closely: bool,
    /// Why there are not more runners: never empty, hardest first.
    pub reasons: Vec<Reason>,
    /// When this plan changes by itself.
    pub wake_at: Option<Moment>,
}

/// A plan for every set.
pub fn plan(world: &World, now: Moment) -> BTreeMap<SetName, Plan> {
    let wants: Vec<want::Want> = world.sets.values().map(|set| want::want(world, set)).collect();
    let shares = allocate::allocate(world, &wants, now);
    world
        .sets
        .values()
        .zip(wants)
        .map(|(set, want)| {
            let share = shares.get(&set.name).copied().unwrap_or_default();
            (set.name.clone(), plan_set(world, set, &want, share, now))
        })
        .collect()
}

fn plan_set(world: &World, set: &SetWorld, want: &want::Want, share: Share, now: Moment) -> Plan {
    let live = set.live();
    let mut reasons = want.reasons.clone();
    if let Some(stop) = share.stopped_by {
        reasons.extend(allocate::shortfall(world, set, want, stop));
    }
    if reasons.is_empty() {
        reasons.push(Reason::new(Code::DemandMet, "every job has its runner"));
    }
    reasons.sort_by_key(|r| r.code);
    reasons.dedup_by_key(|r| r.code);

    // After a refusal capacity rises only with a registration in hand; lowering it takes nothing back.
    let capacity = if want.free {
        u32::MAX
    } else {
        live.saturating_sub(set.awaiting_grant())
    }
    .min(set.max_runners)
    .min(allocate::total_share(world, live));

    let calls: Vec<(RunnerName, Call)> = set
        .runners
        .values()
        .flat_map(|r| r.due(now).into_iter().map(|call| (r.name.clone(), call)))
        .collect();
    let retire = if world.draining {
        Vec::new()
    } else {
        want::retire(set, now)
    };
    let has_spare = set.runners.values().any(|r| r.spare_since().is_some());

    let wake_at = set
        .runners
        .values()
        .filter_map(|r| r.wake_at(now, &set.timeouts))
        .chain(
            set.scopes()
                .iter()
                .filter_map(|s| world.hurdles.get(s))
                .map(|h| h.until),
        )
        .chain(want::wake_at(set, now))
        .chain(want::deaf_at(set))
        .chain(set.demand.wake_at(now, set.idle_since()))
        .filter(|at| *at > now)
        .min();

    // A waiting job takes any idle runner, spare or not; what is made beyond the jobs is spare.
    let jobs = want
        .jobs
        .saturating_sub(set.covering())
        .max(set.demand.available().min(1));
    let purpose = |i: u32| if i < jobs { Purpose::Demand } else { Purpose::Spare };
    Plan {
        create: (0..share.granted).map(purpose).collect(),
        retire,
        calls,
        capacity,
        listen_closely: !want.free || (has_spare && !set.demand.zero_confirmed()),
        reasons,
        wake_at,
    }
}
