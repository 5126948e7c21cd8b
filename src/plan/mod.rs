//! Deciding, pure: no I/O, no clock, no randomness.
//!
//! Three steps: what each set wants ([`want`]), who gets the next places where sets share a limit
//! ([`allocate`]), then one [`Plan`] per set with a reason for every runner that is not made. Everything
//! that can be decided is decided here; the property tests aim at it.
//!
//! | file | what it is |
//! | --- | --- |
//! | `world`, `demand`, `tally` | all that is known; the jobs of a set; what one look at its runners counts |
//! | `runner` | a runner's life |
//! | `want`, `allocate` | the steps |
//! | `limits`, `blame`, `refusals`, `probe` | hurdles; whom a refusal stops; what comes of tries; questions beside tries |
//! | `sight`, `removed`, `rotate` | whether pods are seen; when a removed set is forgotten; runners of an older template |
//! | `orphans`, `cleanup` | what belongs to nobody; what an operator has removed |
//! | `reason`, `notices` | what is said, and to whom |

pub mod allocate;
pub mod blame;
pub mod cleanup;
pub mod demand;
pub mod limits;
mod moment;
pub mod notices;
pub mod orphans;
pub mod probe;
pub mod reason;
mod refusals;
pub mod removed;
mod rotate;
pub mod runner;
mod sight;
pub mod tally;
#[cfg(test)]
mod tests;
pub mod want;
pub mod world;

use std::{collections::BTreeMap, time::Duration};

use allocate::{Share, Total};
use demand::Source;
use limits::Scope;
pub use moment::Moment;
use reason::{Code, Reason};
use runner::{Call, Purpose};
use tally::Tally;
use world::{SetWorld, World};

use crate::ids::{RunnerName, SetName};

/// Between two readings of the statistics where the poll does not bring them: at a limit and at a zero, and where the
/// waiting jobs that they tell of are the demand.
const CLOSELY_EVERY: Duration = Duration::from_secs(30);
const SENSOR_EVERY: Duration = Duration::from_secs(10);
/// The same while a runner has ended that the newest reading does not know of: the next one waits for it.
const SENSOR_SOON: Duration = Duration::from_secs(3);
/// The same where the poll should bring all: a queue that has fallen silent answers every poll with nothing.
const SELDOM_EVERY: Duration = Duration::from_mins(5);

/// What one scale set needs done now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub create: Vec<Purpose>,
    pub retire: Vec<RunnerName>,
    pub calls: Vec<(RunnerName, Call)>,
    /// Announced to GitHub with the next poll: bounds waiting and running jobs together.
    pub capacity: u32,
    /// Jobs that the set has, as far as messages have told: statistics may know of fewer.
    pub told: Told,
    /// Statistics must be fetched beside the poll, so often: closely at the limit, to confirm a zero, where jobs seem to wait
    /// beside a spare runner, or where they are all that tells of jobs.
    pub listen_every: Duration,
    /// Why there are not more runners: never empty, hardest first.
    pub reasons: Vec<Reason>,
    /// When this plan changes by itself.
    pub wake_at: Option<Moment>,
}

/// Jobs of a set by what messages have told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    pub running: u32,
    pub waiting: u32,
}

impl Told {
    /// Jobs that the set has, of all who tell of some: `statistics` may be out of date, and `acquired` are those that were
    /// asked for and have not been told of since.
    pub fn jobs(self, statistics: i64, acquired: usize) -> i64 {
        let waiting = i64::from(self.waiting).max(i64::try_from(acquired).unwrap_or(i64::MAX));
        statistics.max(waiting.saturating_add(self.running.into()))
    }
}

/// A plan for every set.
pub fn plan(world: &World, now: Moment) -> BTreeMap<SetName, Plan> {
    let sets: Vec<(&SetWorld, Tally)> = world.sets.values().map(|set| (set, Tally::of(set))).collect();
    let total = Total::of(world, &sets);
    let wants: Vec<want::Want> = sets
        .iter()
        .map(|(set, tally)| want::want(world, set, tally, total))
        .collect();
    let shares = allocate::allocate(world, &sets, &wants, total, now);
    let headroom = total.headroom(world, &sets, &shares);
    let yields = allocate::yields(world, &sets, &wants, &shares, now);
    sets.into_iter()
        .zip(wants)
        .enumerate()
        .map(|(at, ((set, tally), want))| {
            let given = Given {
                share: shares.get(&set.name).copied().unwrap_or_default(),
                headroom: headroom.as_ref().and_then(|headroom| headroom.get(at)).copied(),
                make_room: yields.get(&set.name).copied().unwrap_or_default(),
                total,
            };
            (set.name.clone(), plan_set(set, &tally, want, given, world, now))
        })
        .collect()
}

/// What a set gets of what all share.
#[derive(Clone, Copy, Debug)]
struct Given {
    share: Share,
    /// What it may announce beyond its runners; `None`: nothing over all sets bounds it.
    headroom: Option<u32>,
    /// Idle runners that must go for the jobs of others.
    make_room: u32,
    total: Total,
}

fn plan_set(set: &SetWorld, tally: &Tally, want: want::Want, given: Given, world: &World, now: Moment) -> Plan {
    let Given { share, total, .. } = given;
    let live = tally.live;
    let mut reasons = want.reasons;
    if let Some(stop) = share.stopped_by {
        reasons.extend(allocate::shortfall(set, live, want.missing, stop, total));
    }
    if reasons.is_empty() {
        reasons.push(Reason::new(Code::DemandMet, "every job has its runner"));
    }
    reasons.sort_by_key(|r| r.code);
    reasons.dedup_by_key(|r| r.code);

    // After a refusal capacity rises only with a registration in hand; lowering it takes nothing back.
    let unproved = if world.hurdles.contains_key(&Scope::Cluster) {
        tally.starting
    } else {
        tally.awaiting_grant
    };
    let sensor = set.demand.source() == Source::Available;
    let capacity = if sensor {
        0
    } else if want.free {
        u32::MAX
    } else {
        live.saturating_sub(unproved)
    };
    let had = live.saturating_add(share.granted);
    let of_total = given.headroom.map_or(u32::MAX, |headroom| had.saturating_add(headroom));
    let capacity = capacity.min(set.max_runners).min(of_total).saturating_sub(tally.apart);
    let without_room = given.headroom == Some(0) && had < set.max_runners;

    let mut calls: Vec<(RunnerName, Call)> = Vec::new();
    let mut runners_wake: Option<Moment> = None;
    for runner in set.runners.values() {
        calls.extend(runner.due(now).into_iter().map(|call| (runner.name.clone(), call)));
        runners_wake = runners_wake.into_iter().chain(runner.wake_at(now, &set.timeouts)).min();
    }
    let hurdled = set.scopes().iter().any(|scope| world.hurdles.contains_key(scope));
    let retire = if world.draining {
        Vec::new()
    } else {
        let surplus = want::retire(set, tally, given.make_room, now);
        rotate::retire(set, tally, surplus, hurdled)
    };

    let wake_at = runners_wake
        .into_iter()
        .chain(
            set.scopes()
                .iter()
                .filter_map(|s| world.hurdles.get(s))
                .flat_map(|h| [Some(h.until), h.stale_at()].into_iter().flatten()),
        )
        .chain(want::wake_at(set, tally, now))
        .chain(want::deaf_at(set))
        .chain(want::mismatch_at(set, tally))
        .chain(set.demand.wake_at(now, tally.idle_since, set.hearing))
        .filter(|at| *at > now)
        .min();

    // What waits beside a runner that may leave has gone, or comes to it: only newer statistics tell.
    let waiting = set.demand.available() > 0 || set.demand.assigned() > tally.busy.all;
    let unclear = !set.demand.zero_confirmed() || waiting;
    let closely = !want.free || without_room || (tally.has_spare && unclear);
    let listen_every = if sensor {
        let ended = tally.covering > tally.staying;
        if ended { SENSOR_SOON } else { SENSOR_EVERY }
    } else if closely {
        CLOSELY_EVERY
    } else {
        SELDOM_EVERY
    };

    // Beside a zero that was read again and again, what one message once told of is over.
    let heard_of = if set.demand.zero_confirmed() {
        0
    } else {
        u32::try_from(set.demand.heard_of()).unwrap_or(u32::MAX)
    };
    // A waiting job takes any idle runner, spare or not; what is made beyond the jobs is spare.
    let purpose = |i: u32| if i < want.jobs { Purpose::Demand } else { Purpose::Spare };
    Plan {
        create: (0..share.granted).map(purpose).collect(),
        retire,
        calls,
        capacity,
        told: Told {
            running: tally.busy.all.saturating_sub(tally.busy.unnamed),
            waiting: heard_of,
        },
        listen_every,
        reasons,
        wake_at,
    }
}
