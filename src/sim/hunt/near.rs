//! From a plan that has shown a bug to one near it: where one was, others are, and a bug that comes again seldom comes
//! in the same words.

use fastrand::Rng;

use super::{
    draw::{self, NEAR_MS},
    plan::{Arrival, Plan, Shape, Timed},
};

/// Most changes.
const CHANGES: u32 = 4;
/// Nothing is shorter.
const SHORTEST_MS: u64 = 500;

/// A plan near one of those that have shown a bug.
pub(super) fn near(seed: u64, rng: &mut Rng) -> Plan {
    let known = Plan::known();
    let (_, mut plan) = known[rng.usize(..known.len())].clone();
    plan.seed = seed;
    for _ in 0..rng.u32(..=CHANGES) {
        change(rng, &mut plan);
    }
    plan.faults.sort_by_key(|timed| timed.at_ms);
    plan.jobs.sort_by_key(|jobs| jobs.at_ms);
    plan
}

fn change(rng: &mut Rng, plan: &mut Plan) {
    match rng.u32(..8) {
        0 | 1 => {
            let another = draw::timed(rng, &plan.shape);
            plan.faults.push(another);
        }
        2 | 3 => {
            if let Some(timed) = any(rng, &mut plan.faults) {
                *timed = moved(rng, timed);
            }
        }
        4 if plan.faults.len() > 1 => {
            plan.faults.swap_remove(rng.usize(..plan.faults.len()));
        }
        5 => {
            if let Some(jobs) = any(rng, &mut plan.jobs) {
                *jobs = others(rng, jobs);
            }
        }
        6 => plan.jobs.extend(draw::jobs(rng, &plan.shape, &plan.faults)),
        _ => reshape(rng, &mut plan.shape),
    }
}

fn any<'a, T>(rng: &mut Rng, of: &'a mut [T]) -> Option<&'a mut T> {
    let nth = rng.usize(..of.len().max(1));
    of.get_mut(nth)
}

/// A moment near this one.
fn about(rng: &mut Rng, ms: u64) -> u64 {
    (ms + rng.u64(..2 * NEAR_MS)).saturating_sub(NEAR_MS)
}

fn moved(rng: &mut Rng, timed: &Timed) -> Timed {
    Timed {
        at_ms: about(rng, timed.at_ms),
        for_ms: (timed.for_ms * rng.u64(50..=150) / 100).max(SHORTEST_MS),
        fault: timed.fault.clone(),
    }
}

fn others(rng: &mut Rng, jobs: &Arrival) -> Arrival {
    Arrival {
        at_ms: about(rng, jobs.at_ms),
        count: rng.usize(1..=4),
        lasting_ms: (jobs.lasting_ms * rng.u64(25..=200) / 100).max(SHORTEST_MS),
        ..jobs.clone()
    }
}

/// One trait of another world. A replica more is one, a replica less is not: faults may name it.
fn reshape(rng: &mut Rng, shape: &mut Shape) {
    let other = draw::shape(rng);
    match rng.u32(..12) {
        0 => shape.start_ms = other.start_ms,
        1 => shape.exit_ms = other.exit_ms,
        2 => shape.told_late_ms = other.told_late_ms,
        3 => shape.latency_ms = other.latency_ms,
        4 => shape.api_latency_ms = other.api_latency_ms,
        5 => shape.events_late_ms = other.events_late_ms,
        6 => shape.max_runners = other.max_runners,
        7 => shape.grace_ms = other.grace_ms,
        8 => shape.slow_gharts = other.slow_gharts,
        9 => shape.tokens_live_s = other.tokens_live_s,
        10 => {
            if let Some(set) = any(rng, &mut shape.sets) {
                set.max = rng.u32(set.min.max(1)..=5);
                set.idle_seconds = other.sets[0].idle_seconds;
            }
        }
        _ => shape.second_replica = shape.second_replica.or(other.second_replica),
    }
}
