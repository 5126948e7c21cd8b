//! From a plan that fails to a short one that fails in the same way: takes entries away, halves what is left, and keeps
//! every step after which it still fails.

use super::plan::{Fault, Plan};

/// The shortest plan found within `tries` tries for which `fails` still holds.
pub fn shrink(plan: &Plan, tries: usize, mut fails: impl FnMut(&Plan) -> bool) -> Plan {
    let mut best = plan.clone();
    let mut left = tries;
    loop {
        let mut better = None;
        for candidate in smaller(&best) {
            if left == 0 {
                return best;
            }
            left -= 1;
            if fails(&candidate) {
                better = Some(candidate);
                break;
            }
        }
        match better {
            Some(plan) => best = plan,
            None => return best,
        }
    }
}

/// Plans with something less, the boldest first.
fn smaller(plan: &Plan) -> Vec<Plan> {
    let mut all = Vec::new();
    let without = |from: usize, to: usize| {
        let mut plan = plan.clone();
        plan.faults.drain(from..to);
        plan
    };
    let faults = plan.faults.len();
    let mut chunk = faults.div_ceil(2);
    while chunk > 0 {
        for from in (0..faults).step_by(chunk) {
            all.push(without(from, (from + chunk).min(faults)));
        }
        chunk /= 2;
    }
    for index in 0..plan.jobs.len() {
        let mut fewer = plan.clone();
        fewer.jobs.remove(index);
        all.push(fewer);
        if plan.jobs[index].count > 1 {
            let mut fewer = plan.clone();
            fewer.jobs[index].count = 1;
            all.push(fewer);
        }
        if plan.jobs[index].cancelled_after_ms.is_some() {
            let mut kept = plan.clone();
            kept.jobs[index].cancelled_after_ms = None;
            all.push(kept);
        }
    }
    all.extend(simpler_shapes(plan));
    for index in 0..faults {
        if plan.faults[index].for_ms > 1_000 {
            let mut shorter = plan.clone();
            shorter.faults[index].for_ms /= 2;
            all.push(shorter);
        }
        if let Fault::PodStruck { how, nth, count } = plan.faults[index].fault
            && count > 1
        {
            let mut fewer = plan.clone();
            fewer.faults[index].fault = Fault::PodStruck { how, nth, count: 1 };
            all.push(fewer);
        }
        if let Some(times) = times(&mut plan.clone().faults[index].fault).filter(|times| **times > 1) {
            let half = *times / 2;
            let mut fewer = plan.clone();
            if let Some(times) = self::times(&mut fewer.faults[index].fault) {
                *times = half;
            }
            all.push(fewer);
        }
    }
    all
}

fn simpler_shapes(plan: &Plan) -> Vec<Plan> {
    let mut all = Vec::new();
    let mut with = |change: &dyn Fn(&mut Plan)| {
        let mut simpler = plan.clone();
        change(&mut simpler);
        if simpler != *plan {
            all.push(simpler);
        }
    };
    // Only the last set: the others are named by their index.
    let last = plan.shape.sets.len() - 1;
    if last > 0 && plan.jobs.iter().all(|jobs| jobs.set != last) {
        with(&|plan| {
            plan.shape.sets.pop();
        });
    }
    with(&|plan| plan.shape.max_runners = None);
    with(&|plan| plan.shape.quota = None);
    with(&|plan| plan.shape.slow_gharts = false);
    with(&|plan| plan.shape.skew_seconds = 0);
    with(&|plan| plan.shape.second_replica = None);
    with(&|plan| plan.shape.told_late_ms = 0);
    with(&|plan| plan.shape.gharts_skew_seconds = 0);
    with(&|plan| plan.shape.latency_ms = 0);
    with(&|plan| plan.shape.api_latency_ms = 0);
    with(&|plan| plan.shape.events_late_ms = 0);
    with(&|plan| plan.shape.narrow_gharts = false);
    with(&|plan| plan.shape.start_ms = 0);
    with(&|plan| plan.shape.exit_ms = 0);
    for index in 0..plan.shape.sets.len() {
        with(&|plan| plan.shape.sets[index].min = 0);
        with(&|plan| plan.shape.sets[index].idle_seconds = None);
        with(&|plan| plan.shape.sets[index].keep_failed_seconds = None);
    }
    all
}

fn times(fault: &mut Fault) -> Option<&mut u32> {
    match fault {
        Fault::ResetBefore { times, .. }
        | Fault::ResetAfter { times, .. }
        | Fault::ClientError { times, .. }
        | Fault::ServerError { times, .. }
        | Fault::TooManyRequests { times, .. }
        | Fault::ForeignBody { times, .. }
        | Fault::TruncatedBody { times, .. }
        | Fault::Hang { times, .. }
        | Fault::JobMeets { times, .. }
        | Fault::PollsEmpty { times, .. }
        | Fault::ApiTrouble { times, .. }
        | Fault::GhartsFails { times, .. }
        | Fault::Panic { times, .. } => Some(times),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_matter_is_taken_away() {
        let plan = (0..1_000).map(Plan::draw).find(|plan| plan.faults.len() == 8).unwrap();
        let culprit = plan.faults[5].clone();
        let short = shrink(&plan, 1_000, |plan| {
            plan.faults.iter().any(|timed| timed.fault == culprit.fault)
        });
        assert_eq!(short.faults.len(), 1);
        assert_eq!(short.faults[0].fault, culprit.fault);
        assert!(short.faults[0].for_ms <= 1_000 && short.jobs.is_empty(), "{short}");
    }
}
