//! What goes when there is too much (B13, B14).

use super::*;
use crate::plan::runner::{AgentSight, Job};

fn names(plan: &Plan) -> Vec<&str> {
    plan.retire.iter().map(RunnerName::as_str).collect()
}

/// Two readings of zero, 30 s apart.
fn zero(world: &mut World, now: i64) {
    for secs in [now - 30, now] {
        world.read(at(secs), at(secs), &SetName::new("a"), assigned(0));
        world.advance(at(secs));
    }
}

#[test]
fn b13_surplus_goes_after_its_idle_time_youngest_first() {
    let mut world = world([set("a")
        .with(0, assigned(3))
        .with_idle(1, 10)
        .with_idle(1, 20)
        .with_idle(1, 15)]);
    let one_runs = Reading {
        running: 1,
        ..assigned(1)
    };
    world.read(at(60), at(60), &SetName::new("a"), one_runs);
    world.advance(at(60));
    let plan = plan_of(&world, "a", 60);
    assert_eq!((names(&plan), plan.wake_at), (vec![], Some(at(180))));
    assert_eq!(names(&plan_of(&world, "a", 180)), ["a-1", "a-2"]);
}

#[test]
fn b13_not_yet_registered_runners_go_first_and_young_idle_ones_wait() {
    let mut world = world([set("a").with(0, assigned(3)).with_idle(2, 0)]);
    let set = world.sets.get_mut("a").unwrap();
    *set = set.clone().with_decided(1, 0);
    let late = set.runners.get_mut("a-2").unwrap();
    late.pod_created(at(80), "u");
    late.started();
    let flapped = set.runners.get_mut("a-1").unwrap();
    *flapped = Runner::decided(flapped.name.clone(), Purpose::Demand, at(0), KIND);
    flapped.pod_created(at(0), "u");
    flapped.started();
    flapped.agent_seen(at(100), at(100), AgentSight::Online { busy: false }, None);
    zero(&mut world, 60);
    assert_eq!(names(&plan_of(&world, "a", 179)), Vec::<&str>::new());
    let plan = plan_of(&world, "a", 180);
    assert_eq!((names(&plan), plan.wake_at), (vec!["a-2", "a-0"], Some(at(220))));
    assert_eq!(names(&plan_of(&world, "a", 220)), ["a-2", "a-1", "a-0"]);
}

#[test]
fn b13_statistics_that_call_an_ended_runners_job_running_have_not_heard_of_its_end() {
    let ends_at_20 = |running| {
        let (mut world, name) = (
            world([set("s").with(0, assigned(2)).with_idle(2, 1)]),
            SetName::new("s"),
        );
        let set = world.sets.get_mut(&name).unwrap();
        for (runner, ended) in set.runners.values_mut().zip([19, 20]) {
            runner.job_started(at(10), Job::default());
            runner.pod_gone(at(ended));
        }
        let reading = Reading { running, ..assigned(2) };
        world.read(at(20), at(20), &name, reading);
        let late = created(&world, "s", 20);
        world.read(at(22), at(21), &name, reading);
        (late, created(&world, "s", 22))
    };
    assert_eq!(ends_at_20(0), (1, 2), "both jobs wait for other runners");
    assert_eq!(ends_at_20(1), (0, 1), "one of the ends is not known yet");
    assert_eq!(ends_at_20(2), (0, 0));
}

#[test]
fn b14_nothing_is_surplus_before_the_first_reading_nor_before_a_zero_is_confirmed() {
    let mut unheard = world([set("a").with_idle(3, 0)]);
    unheard.advance(at(0));
    assert_eq!(names(&plan_of(&unheard, "a", 9000)), Vec::<&str>::new());

    let mut once = world([set("a").with(0, assigned(3)).with_idle(3, 0)]);
    once.read(at(10), at(10), &SetName::new("a"), assigned(0));
    once.advance(at(10));
    let plan = plan_of(&once, "a", 9000);
    assert_eq!(names(&plan), Vec::<&str>::new());
    assert_eq!(
        plan.listen_every,
        Duration::from_secs(30),
        "a second reading is asked for"
    );
}

#[test]
fn b14_newer_statistics_are_asked_for_where_jobs_by_the_old_ones_stand_beside_idle_runners() {
    let closely = |reading: Reading, idle: u32| {
        let mut world = world([set("a").with(0, reading).with_idle(idle, 1)]);
        // A zero among them is confirmed.
        world.read(at(40), at(40), &SetName::new("a"), reading);
        world.advance(at(40));
        plan_of(&world, "a", 40).listen_every == Duration::from_secs(30)
    };
    let stale = Reading {
        running: 2,
        ..assigned(2)
    };
    assert!(closely(stale, 2), "no runner of ours has one of them");
    assert!(!closely(stale, 0), "others may have them");
    let waiting = Reading {
        available: 2,
        ..assigned(0)
    };
    assert!(closely(waiting, 1), "it would have gone to the idle runner");
    assert!(!closely(waiting, 0));
}

#[test]
fn b43_no_room_is_made_for_jobs_that_another_refusal_stops() {
    let spare = SetWorld {
        min_runners: 2,
        ..set("a")
    };
    let stopped = |refused: bool| {
        let mut world = world([
            spare.clone().with(0, assigned(0)).with_idle(2, 1),
            set("b").with(0, assigned(3)),
        ]);
        world.max_runners = Some(2);
        if refused {
            let reason = Reason::new(Code::QuotaExceeded, "no place");
            world.refused(at(19), at(19), Scope::Set(SetName::new("b")), reason, 0.0, None);
        }
        world.advance(at(20));
        names(&plan_of(&world, "a", 20)).len()
    };
    assert_eq!(stopped(false), 2, "jobs come before spare runners");
    assert_eq!(stopped(true), 0, "the place would be given back to whoever made room");
}

#[test]
fn b10_spare_runners_are_no_surplus() {
    let spare = SetWorld {
        min_runners: 2,
        ..set("a")
    };
    let mut world = world([spare.with(0, assigned(1)).with_idle(3, 0)]);
    zero(&mut world, 60);
    assert_eq!(plan_of(&world, "a", 180).retire.len(), 1);
}

#[test]
fn nothing_retires_and_nothing_is_made_while_draining() {
    let mut world = world([set("a").with(0, assigned(0)).with_idle(3, 0)]);
    zero(&mut world, 60);
    world.draining = true;
    let plan = plan_of(&world, "a", 9000);
    assert_eq!((plan.retire, plan.create), (vec![], vec![]));
}
