//! Step one: what one scale set wants, looking at itself alone.

use std::time::Duration;

use super::{
    Moment,
    allocate::Total,
    demand::MISMATCH_AFTER,
    reason::{Code, Reason},
    runner::Meets,
    tally::Tally,
    world::{Session, SetWorld, World},
};
use crate::ids::RunnerName;

/// A poll is held for about 50 s, and given up after 100: who has heard nothing for longer is deaf.
pub const SILENCE: Duration = Duration::from_secs(110);

/// One set's wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// Runners that the set lacks and may have by its own figures.
    pub missing: u32,
    /// Those of them that jobs wait for; the rest would be spare.
    pub jobs: u32,
    /// Nobody has refused: headroom is unlimited.
    pub free: bool,
    /// What stops it, as far as the set alone can tell.
    pub reasons: Vec<Reason>,
}

/// What `set` wants now.
pub fn want(world: &World, set: &SetWorld, tally: &Tally, total: Total) -> Want {
    let mut reasons = Vec::new();
    let jobs = set.demand.to_create(tally.busy);
    let live = tally.live;
    let room = set.max_runners.saturating_sub(live + tally.dying);
    let hurdles: Vec<_> = set.scopes().iter().filter_map(|s| world.hurdles.get(s)).collect();
    reasons.extend(hurdles.iter().map(|h| h.reason.clone()));
    // Where places are scarce jobs wait at GitHub for capacity, and capacity waits for a runner: these need one as
    // much as those that GitHub has assigned, and get it idle.
    let scarce = !hurdles.is_empty() || total.contended;
    let (wanted, for_jobs) = if scarce {
        (set.could_use(tally), jobs.saturating_add(set.waiting_for_capacity()))
    } else {
        (set.wants_to_create(tally), jobs)
    };
    let mut missing = wanted.saturating_sub(tally.covering).min(room);
    let unheard = set.waiting_for_capacity() > 0;
    let full = room == 0 && wanted > tally.covering;
    if jobs.saturating_add(set.min_runners) > set.max_runners || (live >= set.max_runners && unheard) || full {
        reasons.push(Reason::new(
            Code::MaxRunners,
            format!("{live} of at most {} runners", set.max_runners),
        ));
    }

    if unheard && total.share(live) <= live {
        reasons.push(total.reached());
    }

    let mut stopped = false;
    if let Some(reason) = set.session.blocks() {
        reasons.push(reason);
        stopped = true;
    }
    if set.deaf {
        reasons.push(Reason::new(
            Code::SessionFailed,
            format!(
                "the queue has not answered for {} s; what it last said may be over",
                SILENCE.as_secs()
            ),
        ));
        stopped = true;
    }
    let waiting = set.demand.waiting(tally.busy.all);
    if set.mismatched.is_some() && waiting > 0 {
        reasons.push(Reason::new(
            Code::RunnersDoNotMatchJobs,
            format!(
                "{waiting} jobs wait, {} s and longer, beside idle runners that do not get them",
                MISMATCH_AFTER.as_secs()
            ),
        ));
        // Ordinary runners of which not one has a job: more of them would stand there as well. Elsewhere it may be
        // this one runner that is ill, and the others' jobs must not wait for it.
        let running = set.demand.reading().is_some_and(|r| r.running > 0);
        stopped |= set.kind.meets == Meets::ByLabels && tally.busy.all == 0 && !running;
    }
    if set.only_leave() {
        // One at a time, until one is seen to have a job.
        missing = missing.min(1_u32.saturating_sub(tally.unproved));
        reasons.push(Reason::new(
            Code::RunnersLeave,
            "runners have ended well one after the other, and no job was seen to go to any of them",
        ));
    }
    reasons.extend(stranded(set, tally));
    if !world.synced || set.unlisted {
        reasons.push(Reason::new(
            Code::NotSynced,
            "the pods of before have not been read yet",
        ));
        stopped = true;
    }
    // Runners are made all the same: their jobs' messages tell of them.
    reasons.extend(world.blind.clone());
    for reason in [&world.held_back, &world.undeletable].into_iter().flatten() {
        reasons.push(reason.clone());
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
        jobs: for_jobs.saturating_sub(tally.covering).min(missing),
        free: !stopped && hurdles.is_empty(),
        reasons,
    }
}

/// Jobs that were assigned to a set before it became a sensor, and more than the runners of then can take.
fn stranded(set: &SetWorld, tally: &Tally) -> Option<Reason> {
    let jobs = set.demand.reading().map(|_| set.demand.stranded(tally.apart_busy))?;
    let runners = tally.apart.saturating_sub(tally.apart_busy);
    if jobs == u32::MAX || jobs <= runners {
        return None;
    }
    let message = format!(
        "{} jobs are assigned to the scale set from before its binding was changed, and only runners registered with it \
         get them",
        jobs - runners
    );
    Some(Reason {
        remedy: Some("give the set its former binding back until they have run, or cancel them"),
        ..Reason::new(Code::RunnersDoNotMatchJobs, message)
    })
}

/// Runners to retire now: what has been surplus for long enough, or so many as must `make_room` for the jobs of
/// another set. Those not yet registered first, then the youngest idle.
pub fn retire(set: &SetWorld, tally: &Tally, make_room: u32, now: Moment) -> Vec<RunnerName> {
    let mut leaving = retire_former(set, tally);
    let due = retire_at(set, tally).is_some_and(|at| at <= now);
    let surplus = if due { surplus(set, tally) } else { 0 };
    if surplus == 0 && make_room == 0 {
        return leaving;
    }
    let mut candidates: Vec<_> = candidates(set).collect();
    candidates.sort_by_key(|c| (c.online, std::cmp::Reverse(c.since), c.name));
    let (mut for_room, mut for_rest) = (make_room, surplus);
    let mut leaves = |candidate: &Candidate<'_>| {
        let ripe = for_rest > 0 && candidate.ripe <= now;
        let goes = ripe || for_room > 0;
        if goes {
            for_rest = for_rest.saturating_sub(1);
            for_room = for_room.saturating_sub(1);
        }
        goes
    };
    candidates.retain(|candidate| leaves(candidate));
    leaving.extend(candidates.into_iter().map(|c| c.name.clone()));
    leaving
}

/// Runners of a former binding go at once, but for as many as there are jobs that only they can run.
fn retire_former(set: &SetWorld, tally: &Tally) -> Vec<RunnerName> {
    if tally.apart == 0 {
        return Vec::new();
    }
    let former = set.runners.values().filter(|r| !set.is_served_by(r));
    let mut idle: Vec<_> = former.filter_map(|r| Some((r.may_leave()?, &r.name))).collect();
    idle.sort_by_key(|((online, since), name)| (*online, std::cmp::Reverse(*since), *name));
    let kept = usize::try_from(set.demand.stranded(tally.apart_busy)).unwrap_or(usize::MAX);
    idle.truncate(idle.len().saturating_sub(kept));
    idle.into_iter().map(|(_, name)| name.clone()).collect()
}

/// Idle runners that no job of the set itself needs, assigned or waiting for one of them.
pub fn spares(set: &SetWorld, tally: &Tally) -> u32 {
    let needed = set
        .demand
        .to_keep(tally.busy)
        .saturating_add(set.waiting_for_capacity());
    let idle = u32::try_from(candidates(set).count()).unwrap_or(u32::MAX);
    idle.min(tally.staying.saturating_sub(needed))
}

/// When [`retire`] changes by itself.
pub fn wake_at(set: &SetWorld, tally: &Tally, now: Moment) -> Option<Moment> {
    let due = retire_at(set, tally)?;
    let ripe = candidates(set).map(|c| c.ripe.max(due));
    ripe.filter(|at| *at > now).min()
}

/// Since when it is clear that this set's jobs and its idle runners do not find each other. One that finds a job proves
/// the contrary; where none is idle any more, nobody knows.
pub fn mismatched(set: &SetWorld, tally: &Tally, now: Moment) -> Option<Moment> {
    match set.mismatched {
        None => mismatch_at(set, tally).filter(|at| *at <= now).map(|_| now),
        Some(since) => {
            let found = set.demand.progressed() > since || tally.started.is_some_and(|at| at > since);
            (!found && tally.idle_since.is_some()).then_some(since)
        }
    }
}

/// When idle runners and waiting jobs will have missed each other for too long.
pub fn mismatch_at(set: &SetWorld, tally: &Tally) -> Option<Moment> {
    set.demand.mismatch_at(tally.idle_since, tally.started, tally.busy.all)
}

/// When a queue that stays silent counts as not heard any more.
pub fn deaf_at(set: &SetWorld) -> Option<Moment> {
    set.heard
        .filter(|_| set.session == Session::Polling)
        .map(|at| at + SILENCE)
}

/// When the surplus will have lasted long enough.
fn retire_at(set: &SetWorld, tally: &Tally) -> Option<Moment> {
    set.surplus_since
        .filter(|_| surplus(set, tally) > 0)
        .map(|since| since + set.timeouts.idle)
}

struct Candidate<'a> {
    name: &'a RunnerName,
    online: bool,
    since: Moment,
    /// An idle runner gets its whole idle time, however long the surplus has lasted.
    ripe: Moment,
}

fn candidates(set: &SetWorld) -> impl Iterator<Item = Candidate<'_>> {
    let serving = set.runners.values().filter(|r| set.is_served_by(r));
    serving.filter_map(|r| {
        let (online, since) = r.spare_since()?;
        Some(Candidate {
            name: &r.name,
            online,
            since,
            ripe: if online { since + set.timeouts.idle } else { since },
        })
    })
}

/// Runners beyond what demand keeps. Jobs that wait at GitHub for capacity may have called for some of them, and would do so
/// again.
pub fn surplus(set: &SetWorld, tally: &Tally) -> u32 {
    let kept = set.wants_to_keep(tally).saturating_add(set.waiting_for_capacity());
    tally.staying.saturating_sub(kept)
}
