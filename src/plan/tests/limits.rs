//! Hurdles, capacity and reasons.

use std::time::Duration;

use super::*;

#[test]
fn b31_a_start_whose_secret_is_not_there_proves_nothing_about_the_cluster() {
    let mut set = set("a").with(0, assigned(4)).with_decided(1, 0);
    for runner in set.runners.values_mut() {
        runner.granted(Some(1), None);
        runner.pod_created(at(1), "u");
    }
    let mut world = world([set]);
    let reason = Reason::new(Code::ClusterUnavailable, "no answer");
    world.refused(at(0), at(0), Scope::Cluster, reason, 0.0, None);
    assert_eq!(created(&world, "a", 60), 0, "one try at a time");
    for runner in world.sets.get_mut("a").unwrap().runners.values_mut() {
        runner.started();
    }
    assert_eq!(created(&world, "a", 60), 1);
}
use crate::plan::limits::Scope;

fn gharts() -> Scope {
    Scope::Provisioner("gharts".into())
}

fn refuse(world: &mut World, now: i64, began: i64, code: Code) {
    let reason = Reason::new(code, "no");
    world.refused(at(now), at(began), gharts(), reason, 1.0, None);
}

fn until(world: &World) -> i64 {
    world.hurdles[&gharts()].until.millis() / 1000
}

/// The runner decided first gets its configuration.
fn grant(world: &mut World, name: &str, now: i64) {
    let set = SetName::new(name);
    let runners = &mut world.sets.get_mut(&set).unwrap().runners;
    let runner = runners.values_mut().find(|r| r.awaits_grant()).unwrap();
    runner.granted(Some(1), None);
    runner.pod_created(at(now), "u");
    runner.started();
    world.granted(at(now), &set);
}

#[test]
fn b6_capacity_is_true_from_the_first_plan_on() {
    let mut world = world([set("a").with(0, assigned(3))]);
    assert_eq!(plan_of(&world, "a", 0).capacity, 10);
    world.max_runners = Some(6);
    assert_eq!(plan_of(&world, "a", 0).capacity, 6);
}

#[test]
fn the_total_leaves_each_set_what_the_others_do_not_have() {
    let mut world = world([set("a").with_decided(4, 0), set("b").with_decided(1, 0)]);
    world.max_runners = Some(6);
    assert_eq!(plan_of(&world, "a", 0).capacity, 5);
    assert_eq!(plan_of(&world, "b", 0).capacity, 2);
}

#[test]
fn b19_after_a_refusal_capacity_is_what_is_granted_and_rises_only_with_a_grant() {
    let mut world = world([set("a").with(0, assigned(5)).with_idle(2, 0).with_decided(1, 0)]);
    refuse(&mut world, 0, 0, Code::QuotaExceeded);
    let plan = plan_of(&world, "a", 0);
    assert_eq!(
        (plan.capacity, plan.create.len(), plan.listen_every),
        (2, 0, Duration::from_secs(30))
    );
    assert_eq!(codes(&plan), ["quota_exceeded"]);
    assert_eq!(plan_of(&world, "a", 6).capacity, 2, "asking again is no grant");
    grant(&mut world, "a", 6);
    assert_eq!(plan_of(&world, "a", 6).capacity, 3);
}

#[test]
fn b19_at_quota_one_probe_follows_per_back_off_step() {
    let mut world = world([set("a").with(0, assigned(5))]);
    refuse(&mut world, 0, 0, Code::QuotaExceeded);
    for (now, pause) in [(0, 5), (5, 10), (15, 20), (35, 30), (65, 30)] {
        assert_eq!(until(&world), now + pause);
        assert_eq!(created(&world, "a", now + pause - 1), 0);
        assert_eq!(created(&world, "a", now + pause), 1);
        assert_eq!(plan_of(&world, "a", now).wake_at, Some(at(now + pause)));
        refuse(&mut world, now + pause, now + pause, Code::QuotaExceeded);
    }
}

#[test]
fn b19_a_probe_under_way_is_the_only_one() {
    let mut world = world([
        set("a").with(0, assigned(5)).with_decided(1, 9),
        set("b").with(0, assigned(5)),
    ]);
    refuse(&mut world, 0, 0, Code::QuotaExceeded);
    assert_eq!((created(&world, "a", 10), created(&world, "b", 10)), (0, 0));
}

#[test]
fn b19_calls_that_were_under_way_together_are_refused_together() {
    let mut world = world([set("a").with(0, assigned(5))]);
    for now in [2, 3, 4, 4] {
        refuse(&mut world, now, 0, Code::QuotaExceeded);
    }
    assert_eq!(until(&world), 2 + 5);
}

#[test]
fn b19_a_place_given_back_is_tried_at_once_also_when_a_probe_was_under_way() {
    let mut world = world([set("a").with(0, assigned(5))]);
    refuse(&mut world, 0, 0, Code::QuotaExceeded);
    world.place_freed(at(2), &gharts());
    assert_eq!(created(&world, "a", 2), 1);

    refuse(&mut world, 3, 1, Code::QuotaExceeded);
    assert_eq!(created(&world, "a", 3), 1, "refused before the place was free");
    refuse(&mut world, 4, 3, Code::QuotaExceeded);
    assert_eq!(created(&world, "a", 4), 0);
}

#[test]
fn b19_a_set_without_any_runner_probes_for_what_waits_at_github_and_no_more_than_that() {
    let mut world = world([set("a").with(0, available(1))]);
    assert_eq!(created(&world, "a", 0), 0, "capacity is all that the job waits for");
    refuse(&mut world, 0, 0, Code::QuotaExceeded);
    assert_eq!(created(&world, "a", 5), 1);
    world = World {
        sets: super::world([set("a").with(0, available(1)).with_decided(1, 5)]).sets,
        ..world
    };
    grant(&mut world, "a", 6);
    assert_eq!(created(&world, "a", 6), 0);
    assert_eq!(plan_of(&world, "a", 6).capacity, 1);
}

#[test]
fn b19_a_recovering_quota_falls_when_nobody_lacks_anything() {
    let mut world = world([set("a").with(0, assigned(2)).with_decided(1, 0)]);
    refuse(&mut world, 0, 0, Code::QuotaExceeded);
    grant(&mut world, "a", 6);
    world.advance(at(6));
    assert_eq!(created(&world, "a", 6), 1, "at once, alone");
    assert_eq!(plan_of(&world, "a", 6).capacity, 1);
    let set = world.sets.get_mut("a").unwrap();
    set.demand.read(at(7), at(7), assigned(1));
    world.advance(at(7));
    assert_eq!(plan_of(&world, "a", 7).capacity, 10);
}

#[test]
fn b18_what_repeating_cannot_cure_is_tried_every_5_minutes() {
    let mut world = world([set("a").with(0, assigned(5))]);
    refuse(&mut world, 0, 0, Code::NotAuthorized);
    assert_eq!(until(&world), 300);
    refuse(&mut world, 300, 300, Code::NotAuthorized);
    assert_eq!(until(&world), 600);
}

#[test]
fn b17_a_token_that_may_only_be_too_new_is_tried_twice_within_a_minute_and_then_slowly() {
    let mut world = world([set("a").with(0, assigned(5))]);
    for (refused, again) in [(0, 10), (10, 40), (40, 340), (340, 640)] {
        refuse(&mut world, refused, refused, Code::Credentials);
        assert_eq!(until(&world), again);
    }
}

#[test]
fn b20_a_servers_own_word_is_kept() {
    let mut world = world([set("a").with(0, assigned(5))]);
    let reason = Reason::new(Code::RateLimited, "slow down");
    world.refused(at(0), at(0), gharts(), reason, 1.0, Some(Duration::from_secs(40)));
    assert_eq!(until(&world), 40);
}

#[test]
fn b20_a_servers_own_word_stands_above_a_place_of_ours_and_is_not_taken_for_days() {
    let mut world = world([set("a").with(0, assigned(5))]);
    let reason = Reason::new(Code::QuotaExceeded, "no");
    world.refused(
        at(0),
        at(0),
        gharts(),
        reason.clone(),
        1.0,
        Some(Duration::from_secs(40)),
    );
    world.place_freed(at(10), &gharts());
    assert_eq!(until(&world), 40);
    refuse(&mut world, 41, 41, Code::QuotaExceeded);
    world.place_freed(at(42), &gharts());
    assert_eq!(until(&world), 42, "its word was for that time only");
    world.refused(
        at(50),
        at(50),
        gharts(),
        reason,
        1.0,
        Some(Duration::from_secs(1_000_000)),
    );
    assert_eq!(until(&world), 50 + 3600);
}

#[test]
fn b20_a_service_that_fails_in_turns_fails_in_one_row() {
    let mut world = world([set("a").with(0, assigned(5))]);
    let mut now = 0;
    for (turn, pause) in [1, 2, 4, 8, 30, 30, 30].into_iter().enumerate() {
        let codes = [Code::Upstream, Code::UnknownOutcome, Code::Unreachable];
        refuse(&mut world, now, now, codes[turn % 3]);
        assert_eq!(until(&world), now + pause);
        now += pause;
    }
    refuse(&mut world, now, now, Code::QuotaExceeded);
    assert_eq!(until(&world), now + 5, "another matter, another row");
}

#[test]
fn b31_pods_that_fail_make_their_set_back_off_until_one_comes_online() {
    let mut world = world([set("a").with(0, assigned(5)), set("b").with(0, assigned(1))]);
    let (a, name) = (SetName::new("a"), RunnerName::new("a-0"));
    for (now, pause) in [(0, 5), (5, 10), (15, 30)] {
        world.runner_failed(at(now), &a, &name, runner::Failure::ImagePull, 1.0);
        assert_eq!(created(&world, "a", now + pause - 1), 0);
        assert_eq!(created(&world, "a", now + pause), 1);
        assert_eq!(codes(&plan_of(&world, "a", now)), ["pods_failing"]);
    }
    assert_eq!(created(&world, "b", 15), 1, "nobody else's concern");
    world.runner_works(at(20), &a);
    assert_eq!(created(&world, "a", 20), 3, "the window is shared with the other set");
}

#[test]
fn b31_runners_that_come_online_and_die_without_a_job_make_their_set_back_off_until_one_has_a_job() {
    let mut world = world([set("a").with(0, assigned(3)).with_idle(1, 0)]);
    let (a, name) = (SetName::new("a"), RunnerName::new("a-0"));
    let killed = PodFacts {
        progress: PodProgress::Ended(runner::PodEnd {
            exit_code: Some(137),
            reason: "OOMKilled".to_owned(),
        }),
        ..running(0)
    };
    let happening = world.runner(&a, &name).unwrap().pod_seen(at(100), killed);
    assert_eq!(happening, Some(runner::Happening::Failed(runner::Failure::OutOfMemory)));
    world.runner_failed(at(100), &a, &name, runner::Failure::OutOfMemory, 1.0);
    assert_eq!(codes(&plan_of(&world, "a", 100)), ["runners_leave"]);
    let remedy = plan_of(&world, "a", 100).reasons[0].remedy.unwrap();
    assert!(remedy.contains("memory limit"), "{remedy}");
    world.runner_works(at(101), &a);
    assert_eq!(created(&world, "a", 102), 0, "that one came online, too");
    world.runner_has_job(at(102), &a);
    assert!(created(&world, "a", 102) > 1);
}

#[test]
fn b10_runners_of_sets_that_the_file_does_not_name_count_for_the_limit_over_all() {
    let mut world = world([set("a").with(0, assigned(5))]);
    world.max_runners = Some(4);
    world.unserved = ["b-0", "b-1", "b-2"].map(RunnerName::new).into();
    let plan = plan_of(&world, "a", 0);
    assert_eq!((plan.create.len(), plan.capacity), (1, 1));
    let said = &plan
        .reasons
        .iter()
        .find(|r| r.code == Code::MaxRunnersTotal)
        .unwrap()
        .message;
    assert!(said.contains("3 of them of sets that the file does not name"), "{said}");
    world.pod_gone(at(1), &RunnerName::new("b-1"));
    assert_eq!(created(&world, "a", 1), 2);
}

#[test]
fn b49_a_trouble_that_nobody_asks_about_any_more_is_said_for_ten_minutes_and_not_for_ever() {
    for (code, after_it) in [(Code::Upstream, 0), (Code::LabelPolicy, 1)] {
        let mut world = world([set("a").with(0, assigned(5))]);
        let scope = Scope::Provisioner("gharts".into());
        world.refused(at(0), at(0), scope.clone(), Reason::new(code, "no"), 1.0, None);
        let until = world.hurdles[&scope].until;
        let later = until + Duration::from_mins(10);
        world.advance(later);
        assert_eq!(
            world.hurdles.len(),
            1,
            "jobs wait: it is tried, and stands until a try succeeds"
        );
        world.read(later, later, &SetName::new("a"), assigned(0));
        world.advance(until + Duration::from_secs(599));
        assert_eq!(world.hurdles.len(), 1);
        world.advance(later);
        assert_eq!(world.hurdles.len(), after_it, "{code:?}");
    }
}

#[test]
fn b33_a_deprecated_runner_stops_its_set_and_is_tried_slowly() {
    let mut world = world([set("a").with(0, assigned(5))]);
    world.runner_failed(
        at(0),
        &SetName::new("a"),
        &RunnerName::new("r"),
        runner::Failure::Deprecated,
        1.0,
    );
    assert_eq!((created(&world, "a", 299), created(&world, "a", 300)), (0, 1));
    assert_eq!(codes(&plan_of(&world, "a", 0)), ["runner_deprecated"]);
}

#[test]
fn b15_every_limit_has_its_reason() {
    let reasons = |world: &World| codes(&plan_of(world, "a", 0));
    let one = || world([set("a").with(0, assigned(5))]);
    assert_eq!(
        reasons(&world([set("a").with(0, assigned(1)).with_idle(1, 0)])),
        ["demand_met"]
    );
    assert_eq!(reasons(&one()), ["starting"]);
    assert_eq!(
        reasons(&world([set("a").with(0, assigned(50))])),
        ["max_runners", "starting"]
    );
    let full = set("a").with(0, available(3)).with_idle(10, 0);
    assert_eq!(reasons(&world([full])), ["max_runners"]);

    let mut total = one();
    total.max_runners = Some(3);
    assert_eq!(reasons(&total), ["max_runners_total"], "reached with this very plan");
    let mut total = world([set("a").with(0, available(3)).with_idle(2, 0)]);
    total.max_runners = Some(2);
    assert_eq!(reasons(&total), ["max_runners_total"]);

    let unread = World { synced: false, ..one() };
    assert_eq!(reasons(&unread), ["not_synced"]);
    let draining = World {
        draining: true,
        ..one()
    };
    assert_eq!(reasons(&draining), ["draining"]);
    for (session, code) in [
        (Session::Registering, "set_not_registered"),
        (Session::Opening, "session_opening"),
        (Session::Conflict("somebody".into()), "session_conflict"),
        (
            Session::Failed(Reason::new(Code::SessionFailed, "no")),
            "session_failed",
        ),
    ] {
        let mut world = one();
        world.sets.get_mut("a").unwrap().session = session;
        assert_eq!(reasons(&world), [code]);
        assert_eq!(created(&world, "a", 0), 0);
    }
}

#[test]
fn b43_a_sensor_takes_no_job_and_reads_the_statistics_sooner_when_a_runner_has_ended() {
    let mut sensor = set("a");
    sensor.kind.meets = Meets::ByLabels;
    sensor.demand = Demand::of(Source::Available);
    let mut world = world([sensor.with(0, available(2)).with_idle(1, 0)]);
    let plan = plan_of(&world, "a", 1);
    assert_eq!((plan.capacity, plan.create.len()), (0, 1));
    assert_eq!(plan.listen_every, Duration::from_secs(10));

    let end = PodProgress::Ended(runner::PodEnd {
        exit_code: Some(0),
        reason: "Completed".into(),
    });
    let facts = PodFacts {
        progress: end,
        ..running(0)
    };
    let name = RunnerName::new("a-0");
    world.runner(&SetName::new("a"), &name).unwrap().pod_seen(at(2), facts);
    let plan = plan_of(&world, "a", 3);
    assert_eq!(
        plan.create.len(),
        1,
        "the job of the one that ended may be counted still"
    );
    assert_eq!(plan.listen_every, Duration::from_secs(3));
}

#[test]
fn b20_a_service_that_fails_is_tried_again_as_the_file_says() {
    let retry = Retry {
        max_retries: 2,
        initial_backoff: Duration::from_secs(3),
        max_backoff: Duration::from_secs(40),
        multiplier: 3.0,
    };
    let mut world = world([SetWorld { retry, ..set("a") }]);
    let scope = Scope::Provisioner("gharts".into());
    let mut now = 0;
    let mut pauses = Vec::new();
    for _ in 0..4 {
        let reason = Reason::new(Code::Unreachable, "no route");
        world.refused(at(now), at(now), scope.clone(), reason, 1.0, None);
        let until = world.hurdles[&scope].until;
        pauses.push(until.since(at(now)).as_secs());
        now = until.millis() / 1000;
    }
    assert_eq!(pauses, [3, 9, 40, 40]);
}

#[test]
fn b15_where_deletions_are_forbidden_nothing_is_made_until_one_succeeds_or_a_pod_is_gone() {
    let refused = || {
        let mut world = world([set("a").with(0, assigned(2)).with_idle(1, 0)]);
        world.deletion_came_to(runner::CallResult::Forbidden);
        world
    };
    let mut world = refused();
    assert_eq!(codes(&plan_of(&world, "a", 0)), ["forbidden"]);
    assert_eq!(created(&world, "a", 0), 0);
    world.deletion_came_to(runner::CallResult::Failed);
    assert_eq!(created(&world, "a", 0), 0, "that says nothing of rights");
    world.deletion_came_to(runner::CallResult::Done);
    assert_eq!(created(&world, "a", 0), 1);
    let mut world = refused();
    world.pod_gone(at(1), &RunnerName::new("a-0"));
    assert!(created(&world, "a", 1) > 0, "whoever has deleted it");
}
