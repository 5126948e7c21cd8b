//! Runners that were made before their set's binding or provisioner was changed.

use super::*;
use crate::plan::runner::{AgentSight, Job};

const BY_LABELS: Kind = Kind {
    has_record: true,
    meets: Meets::ByLabels,
    keep_failed: None,
};

/// The set as its file has it after the change; its runners stay as they were made.
fn now_by_labels(set: SetWorld, source: Source) -> SetWorld {
    let mut set = SetWorld { kind: BY_LABELS, ..set };
    set.demand = Demand::of(source);
    set
}

/// A set whose runners are registered with it, and `n` ordinary ones of before, online since 0 and seen idle at 40 s.
fn now_in_set(n: u32) -> SetWorld {
    let before = SetWorld {
        kind: BY_LABELS,
        ..set("a")
    };
    let mut set = before.with_idle(n, 0);
    for runner in set.runners.values_mut() {
        runner.agent_seen(at(40), at(40), AgentSight::Online { busy: false }, None);
    }
    SetWorld { kind: KIND, ..set }
}

fn see(set: &mut SetWorld, now: i64, busy: bool) {
    for runner in set.runners.values_mut() {
        runner.agent_seen(at(now), at(now), AgentSight::Online { busy }, None);
    }
}

fn retired(set: &SetWorld, now: i64) -> usize {
    plan_of(&world([set.clone()]), "a", now).retire.len()
}

fn job(id: &str) -> Job {
    Job {
        id: id.into(),
        ..Job::default()
    }
}

#[test]
fn b43_idle_ordinary_runners_of_before_cover_no_job_and_go_at_once() {
    let set = now_in_set(3).with(41, assigned(2));
    let plan = plan_of(&world([set]), "a", 41);
    assert_eq!((plan.create.len(), plan.retire.len()), (2, 3));
    assert_eq!(plan.capacity, 7, "their places are not free yet");
}

#[test]
fn b12_an_ordinary_runner_of_before_that_may_be_busy_is_not_retired() {
    let mut set = SetWorld {
        kind: BY_LABELS,
        ..set("a")
    }
    .with_idle(1, 0);
    set.kind = KIND;
    assert_eq!(retired(&set, 20), 0, "one list is not enough");
    see(&mut set, 25, true);
    assert_eq!(retired(&set, 600), 0);
    let tally = Tally::of(&set);
    assert_eq!((tally.apart, tally.apart_busy, tally.busy.all), (1, 1, 0));
    assert_eq!(set.with(30, assigned(1)).demand.to_create(tally.busy), 1);
}

#[test]
fn b9_an_ordinary_runner_of_before_that_the_queue_names_has_a_job_of_the_set() {
    let mut set = now_in_set(1).with(41, assigned(1));
    let name = set.runners.keys().next().cloned().unwrap();
    set.runners.get_mut(&name).unwrap().job_started(at(42), job("1"));
    let plan = plan_of(&world([set]), "a", 43);
    assert_eq!((plan.create.len(), plan.retire.len()), (0, 0));
}

#[test]
fn b9_limits_count_runners_of_before() {
    let mut set = SetWorld {
        max_runners: 3,
        ..now_in_set(2).with(41, assigned(3))
    };
    assert_eq!(created(&world([set.clone()]), "a", 41), 1);
    set.min_runners = 3;
    let idle = Tally::of(&set).idle_since;
    assert_eq!((created(&world([set]), "a", 41), idle), (1, None));
}

#[test]
fn b43_registered_runners_of_before_serve_what_is_assigned_whoever_makes_the_next_ones() {
    let before = set("a").with_idle(2, 0);
    let set = now_by_labels(before, Source::Assigned).with(10, assigned(3));
    let plan = plan_of(&world([set]), "a", 10);
    assert_eq!((plan.create.len(), plan.retire.len()), (1, 0));
}

#[test]
fn b43_registered_runners_of_before_wait_for_what_is_assigned_to_a_set_that_takes_no_more() {
    let before = set("a").with_idle(3, 0);
    let mut set = now_by_labels(before, Source::Available);
    assert_eq!(retired(&set, 5), 0, "nothing is known yet");
    let reading = Reading {
        available: 1,
        assigned: 2,
        ..Reading::default()
    };
    set.demand.read(at(10), at(10), reading);
    let plan = plan_of(&world([set.clone()]), "a", 10);
    assert_eq!((plan.create.len(), plan.retire.len(), plan.capacity), (1, 1, 0));
    let name = set.runners.keys().next().cloned().unwrap();
    set.runners.get_mut(&name).unwrap().job_started(at(12), job("1"));
    assert_eq!(
        retired(&set, 12),
        1,
        "one has one of the two jobs, one waits for the other"
    );
    set.demand.read(at(20), at(20), available(1));
    assert_eq!(retired(&set, 20), 0, "one reading may be wrong");
    set.demand.read(at(50), at(50), available(1));
    assert_eq!(retired(&set, 50), 2);
}

#[test]
fn b15_assigned_jobs_that_no_runner_gets_any_more_are_a_reason() {
    let mut set = now_by_labels(set("a").with_idle(1, 0), Source::Available);
    set.demand.read(at(10), at(10), assigned(1));
    assert_eq!(codes(&plan_of(&world([set.clone()]), "a", 10)), ["demand_met"]);
    set.demand.read(at(20), at(20), assigned(3));
    let plan = plan_of(&world([set]), "a", 20);
    assert_eq!(codes(&plan), ["runners_do_not_match_jobs"]);
    assert!(plan.reasons[0].message.starts_with("2 jobs"), "{:?}", plan.reasons);
    assert!(plan.reasons[0].remedy().unwrap().contains("former binding"));
}

#[test]
fn b47_a_pod_says_how_it_was_made_and_one_that_does_not_is_as_its_set_is_now() {
    let github = Kind {
        has_record: false,
        meets: Meets::InSet,
        keep_failed: None,
    };
    let adopted = |gharts_id: Option<&str>, meets, of_set| {
        let found = runner::Adopted {
            pod: running(0),
            agent_id: None,
            gharts_id: gharts_id.map(str::to_owned),
            job: None,
            kept: None,
            meets,
        };
        let mut runner = Runner::adopted(RunnerName::new("r"), Purpose::Demand, at(0), found, of_set);
        let meets = runner.meets();
        runner.pod_gone(at(1));
        (meets, runner.due(at(1)).contains(&Call::RemoveRecord))
    };
    let (set, labels) = (Some(Meets::InSet), Some(Meets::ByLabels));
    assert_eq!(adopted(Some("id"), labels, github), (Meets::ByLabels, true));
    assert_eq!(adopted(Some("id"), set, github), (Meets::InSet, true));
    assert_eq!(adopted(None, set, BY_LABELS), (Meets::InSet, false));
    assert_eq!(adopted(None, None, BY_LABELS), (Meets::ByLabels, true));
    assert_eq!(adopted(Some("id"), None, github), (Meets::InSet, true));
    assert_eq!(adopted(None, None, github), (Meets::InSet, false));
}
