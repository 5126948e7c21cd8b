//! Who gets the next place (B45).

use proptest::prelude::*;

use super::*;

fn counts(world: &World, names: [&str; 2]) -> [usize; 2] {
    names.map(|name| created(world, name, 0))
}

#[test]
fn b45_places_go_where_most_is_unmet_per_runner() {
    let mut world = world([set("a").with(0, assigned(6)), set("b").with(0, assigned(3))]);
    world.max_runners = Some(3);
    assert_eq!(counts(&world, ["a", "b"]), [2, 1]);
}

#[test]
fn b45_a_set_without_any_runner_comes_before_all_that_have_some() {
    let busy = SetWorld {
        max_runners: 1000,
        ..set("a")
    };
    let mut world = world([
        busy.with(0, assigned(900)).with_idle(50, 0),
        set("b").with(0, assigned(1)),
    ]);
    world.max_runners = Some(51);
    assert_eq!(counts(&world, ["a", "b"]), [0, 1]);
}

#[test]
fn b45_windows_of_provisioners_are_their_own() {
    let other = SetWorld {
        provisioner: "github".into(),
        in_flight_max: 2,
        ..set("b")
    };
    let world = world([
        set("a").with(0, assigned(9)).with_decided(1, 0),
        other.with(0, assigned(9)),
    ]);
    assert_eq!(counts(&world, ["a", "b"]), [3, 2]);
}

#[test]
fn b48_a_hurdle_of_one_provisioner_stops_no_other() {
    let other = SetWorld {
        provisioner: "github".into(),
        ..set("b")
    };
    let mut world = world([set("a").with(0, assigned(2)), other.with(0, assigned(2))]);
    let scope = Scope::Provisioner("gharts".into());
    let reason = Reason::new(Code::Unreachable, "no route");
    world.refused(at(0), at(0), scope, reason, 1.0, None);
    assert_eq!(counts(&world, ["a", "b"]), [0, 2]);
}

#[test]
fn b10_spare_runners_come_on_top_of_the_jobs() {
    let spare = SetWorld {
        min_runners: 2,
        ..set("a")
    };
    let world = world([spare.with(0, assigned(2)).with_idle(1, 0)]);
    let purposes = plan_of(&world, "a", 0).create;
    assert_eq!(purposes, [Purpose::Demand, Purpose::Spare, Purpose::Spare]);
}

#[test]
fn no_configuration_is_asked_for_while_as_many_wait_for_their_pods() {
    let mut set = SetWorld {
        in_flight_max: 2,
        ..set("a").with(0, assigned(5)).with_decided(2, 0)
    };
    for runner in set.runners.values_mut() {
        runner.granted(Some(1), None);
    }
    let plan = plan_of(&world([set]), "a", 1);
    assert_eq!((plan.create.len(), codes(&plan)), (0, vec!["starting"]));
}

fn quota(world: &mut World, now: i64) {
    let scope = Scope::Provisioner("gharts".into());
    world.refused(
        at(now),
        at(now),
        scope,
        Reason::new(Code::QuotaExceeded, "no"),
        1.0,
        None,
    );
}

fn with_spares(name: &str, min: u32, idle: u32) -> SetWorld {
    let spare = SetWorld {
        min_runners: min,
        ..set(name)
    };
    spare.with(0, assigned(0)).with_idle(idle, 0)
}

fn retired(world: &World, name: &str) -> usize {
    plan_of(world, name, 1).retire.len()
}

#[test]
fn b45_jobs_come_before_spare_runners_of_anybody() {
    let mut world = world([with_spares("a", 5, 0), set("b").with(0, assigned(2)).with_idle(1, 0)]);
    world.max_runners = Some(2);
    assert_eq!(counts(&world, ["a", "b"]), [0, 1]);
    world.max_runners = Some(4);
    assert_eq!(counts(&world, ["a", "b"]), [2, 1]);
}

#[test]
fn b45_a_scarce_place_goes_where_most_waits_assigned_or_not() {
    let waiting = |name: &str, n: i64| {
        let set = SetWorld {
            max_runners: 100,
            ..set(name)
        };
        set.with(0, available(n)).with_idle(2, 0)
    };
    let mut world = world([waiting("a", 3), waiting("b", 90)]);
    quota(&mut world, 0);
    assert_eq!((created(&world, "a", 5), created(&world, "b", 5)), (0, 1));
    let mut total = World {
        max_runners: Some(14),
        hurdles: BTreeMap::new(),
        ..world
    };
    assert_eq!((created(&total, "a", 5), created(&total, "b", 5)), (1, 3));
    total.sets.remove("b");
    assert_eq!(
        created(&total, "a", 5),
        0,
        "with room enough capacity is all that its jobs wait for"
    );
}

#[test]
fn b45_spare_runners_make_room_for_jobs_that_the_total_stops() {
    let mut world = world([with_spares("a", 3, 3), set("b").with(0, assigned(2))]);
    world.max_runners = Some(3);
    assert_eq!((retired(&world, "a"), retired(&world, "b")), (2, 0));
    world.max_runners = Some(4);
    assert_eq!(retired(&world, "a"), 1, "one place is free");
    let a = world.sets.get_mut("a").unwrap();
    a.runners.values_mut().next().unwrap().retire(at(1));
    assert_eq!(retired(&world, "a"), 0, "one is on its way out");
    world.max_runners = None;
    assert_eq!(retired(&world, "a"), 0);
}

#[test]
fn b45_spare_runners_make_room_for_jobs_that_a_quota_stops_and_for_no_others() {
    let mut world = world([with_spares("a", 3, 3), set("b").with(0, assigned(2))]);
    quota(&mut world, 0);
    assert_eq!(retired(&world, "a"), 2);
    let forbidden = Reason::new(Code::LabelPolicy, "no");
    world.refused(at(0), at(0), Scope::Set(SetName::new("b")), forbidden, 1.0, None);
    assert_eq!(retired(&world, "a"), 0, "a place would be of no use to it");
    world.hurdles.clear();
    quota(&mut world, 0);
    world.sets.get_mut("b").unwrap().provisioner = "github".into();
    assert_eq!(retired(&world, "a"), 0, "the quota is not its own");
}

#[test]
fn b45_spare_runners_make_room_for_no_more_jobs_than_may_start_now() {
    let slow = SetWorld {
        in_flight_max: 2,
        ..set("b").with(0, assigned(4))
    };
    let other = SetWorld {
        provisioner: "github".into(),
        ..with_spares("a", 2, 2)
    };
    let mut world = world([other.clone(), slow.clone()]);
    world.max_runners = Some(3);
    assert_eq!(
        (retired(&world, "a"), created(&world, "b", 1)),
        (1, 1),
        "two starts, and one place is free"
    );
    for runner in &slow.with_decided(2, 0).runners {
        world
            .sets
            .get_mut("b")
            .unwrap()
            .runners
            .insert(runner.0.clone(), runner.1.clone());
    }
    world.max_runners = Some(4);
    assert_eq!(retired(&world, "a"), 0, "as many starts as may be are under way");
}

#[test]
fn b45_spare_runners_make_room_where_the_total_and_their_quota_are_both_used_up() {
    let mut world = world([with_spares("a", 2, 2), set("b").with(0, assigned(1))]);
    world.max_runners = Some(2);
    quota(&mut world, 0);
    assert_eq!(retired(&world, "a"), 1);
}

fn cluster_quota(world: &mut World, now: i64) {
    let reason = Reason::new(Code::ResourceQuota, "no");
    world.refused(at(now), at(now), Scope::Cluster, reason, 1.0, None);
}

#[test]
fn b8_b45_a_set_whose_pods_the_namespace_can_never_take_does_not_starve_the_others() {
    let big = |refused| SetWorld {
        refused,
        ..set("b").with(0, assigned(1))
    };
    let busy = SetWorld {
        max_runners: 40,
        ..set("a").with(0, assigned(9)).with_idle(8, 0)
    };
    let mut world = world([busy, big(None)]);
    cluster_quota(&mut world, 0);
    let tries = |world: &World| [created(world, "a", 9), created(world, "b", 9)];
    assert_eq!(tries(&world), [0, 1], "who has none comes first, once");
    world.sets.insert(SetName::new("b"), big(Some(at(0))));
    assert_eq!(tries(&world), [1, 0], "and then the others in their turn");
}

#[test]
fn b8_b45_spare_runners_are_not_given_up_for_a_pod_that_no_place_helps() {
    let mut world = world([with_spares("a", 5, 5), set("b").with(0, assigned(1))]);
    cluster_quota(&mut world, 0);
    for round in 1..=3 {
        assert_eq!(plan_of(&world, "a", round).retire.len(), 1);
        world.place_freed(at(round), &Scope::Cluster);
        cluster_quota(&mut world, round);
    }
    assert_eq!(plan_of(&world, "a", 4).retire.len(), 0, "three did not help");
}

#[test]
fn b45_the_cluster_counts_a_pod_until_it_is_gone() {
    let spares = SetWorld {
        min_runners: 3,
        kind: Kind {
            has_record: false,
            ..KIND
        },
        ..set("a")
    };
    let spares = spares.with(0, assigned(0)).with_idle(3, 0);
    let mut world = world([spares, set("b").with(0, assigned(1))]);
    cluster_quota(&mut world, 0);
    assert_eq!(retired(&world, "a"), 1);
    let first = world.sets.get_mut("a").unwrap().runners.values_mut().next().unwrap();
    first.pod_seen(
        at(1),
        PodFacts {
            deleting: true,
            ..running(0)
        },
    );
    assert!(!first.is_live());
    assert_eq!(retired(&world, "a"), 0, "one place is free as soon as its pod has gone");
    let name = world.sets["a"].runners.keys().next().unwrap().clone();
    world.pod_gone(at(1), &name);
    assert_eq!((retired(&world, "a"), created(&world, "b", 1)), (0, 1));
}

#[test]
fn b15_a_quota_that_recovers_falls_though_a_set_is_stopped_by_its_own_refusal() {
    let mut world = world([
        set("a").with(0, assigned(1)),
        set("b").with(0, assigned(2)).with_idle(2, 0),
    ]);
    quota(&mut world, 0);
    let forbidden = Reason::new(Code::LabelPolicy, "no");
    world.refused(at(0), at(0), Scope::Set(SetName::new("a")), forbidden, 1.0, None);
    world.advance(at(1));
    assert_eq!(world.hurdles.len(), 2);
    world.granted(at(2), &SetName::new("b"));
    world.advance(at(2));
    assert_eq!(
        world.hurdles.keys().collect::<Vec<_>>(),
        [&Scope::Set(SetName::new("a"))]
    );
}

#[test]
fn b6_a_set_that_its_own_refusal_stops_hoards_no_places_of_the_total() {
    let stopped = SetWorld {
        max_runners: 50,
        ..set("a").with(0, assigned(40))
    };
    let mut world = world([stopped, set("b").with(0, assigned(0))]);
    world.max_runners = Some(30);
    assert_eq!(plan_of(&world, "b", 1).capacity, 0);
    let forbidden = Reason::new(Code::LabelPolicy, "no");
    world.refused(at(0), at(0), Scope::Set(SetName::new("a")), forbidden, 1.0, None);
    assert_eq!(plan_of(&world, "b", 1).capacity, 10);
}

#[test]
fn b45_a_runner_made_for_a_job_that_waits_at_github_is_not_spare() {
    let one = set("a").with(0, available(3)).with_idle(1, 0);
    let mut world = world([one, set("b").with(0, available(5))]);
    quota(&mut world, 0);
    assert_eq!((retired(&world, "a"), retired(&world, "b")), (0, 0));
}

#[test]
fn b45_runners_that_a_sets_own_jobs_need_make_no_room() {
    let own = SetWorld {
        min_runners: 1,
        ..set("a")
    };
    let own = own.with(0, assigned(2)).with_idle(3, 0);
    let mut world = world([own, set("b").with(0, assigned(5))]);
    world.max_runners = Some(3);
    assert_eq!(retired(&world, "a"), 1);
}

#[test]
fn b8_one_of_several_sets_leaves_part_of_the_window_to_the_others() {
    let mut world = world([set("a").with(0, assigned(9)), set("b").with(0, assigned(0))]);
    assert_eq!(created(&world, "a", 0), 3);
    world.sets.remove("b");
    assert_eq!(created(&world, "a", 0), 4);
}

fn demand() -> impl Strategy<Value = SetWorld> {
    (0_i64..30, 0_i64..30, 0_u32..6, 0_u32..6, 1_u32..20).prop_map(|(assigned, available, idle, decided, max)| {
        let reading = Reading {
            available,
            assigned,
            ..Reading::default()
        };
        let set = SetWorld {
            max_runners: max,
            in_flight_max: 20,
            ..set("x")
        };
        set.with(0, reading)
            .with_idle(idle.min(max), 0)
            .with_decided(decided.min(max - idle.min(max)), 0)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Together the sets promise the total, and beyond it at most one place each that nobody is known to need.
    #[test]
    fn b6_b45_what_sets_under_one_total_announce_is_the_total_or_a_place_each_beyond(
        sets in prop::collection::vec(demand(), 1..6),
        max in 1_u32..60,
    ) {
        let named = |(n, set): (usize, SetWorld)| SetWorld { name: SetName::new(&format!("s{n}")), ..set };
        let mut world = world(sets.into_iter().enumerate().map(named));
        world.max_runners = Some(max);
        let plans = plan(&world, at(0));
        let live: u32 = world.sets.values().map(|set| Tally::of(set).live).sum();
        let announced: u32 = plans.values().map(|p| p.capacity).sum();
        let made: u32 = plans.values().map(|p| u32::try_from(p.create.len()).unwrap()).sum();
        let all = u32::try_from(plans.len()).unwrap();
        prop_assert!(announced <= max.max(live + made) + all, "{announced} announced of {max}, {live} live");
        let jobs_wait = |set: &SetWorld, plan: &Plan| {
            let tally = Tally::of(set);
            set.could_use(&tally).min(set.max_runners) > plan.capacity.max(tally.live)
        };
        let lacks = world.sets.iter().any(|(name, set)| jobs_wait(set, &plans[name]));
        prop_assert!(!lacks || announced >= max.min(live + made), "{announced} announced of {max} while jobs wait");
    }
}

#[test]
fn b45_while_a_service_fails_the_sets_take_turns_at_trying() {
    let mut world = world([
        set("a").with(0, assigned(9)).with_idle(4, 0),
        set("bad").with(0, assigned(9)),
    ]);
    let scope = Scope::Provisioner("gharts".into());
    let reason = Reason::new(Code::Unreachable, "no route");
    world.refused(at(0), at(0), scope, reason, 1.0, None);
    assert_eq!(counts(&world, ["a", "bad"]), [0, 0]);
    // It has no runner at all, so that by need it would take every try.
    world.sets.get_mut("bad").unwrap().refused = Some(at(0));
    let tries = |world: &World, now| ["a", "bad"].map(|name| created(world, name, now));
    assert_eq!(tries(&world, 60), [1, 0]);
    world.sets.get_mut("a").unwrap().refused = Some(at(60));
    assert_eq!(tries(&world, 60), [0, 1]);
    world.granted(at(61), &SetName::new("a"));
    assert_eq!(world.sets["a"].refused, None);
}

#[test]
fn b18_what_one_of_several_teams_is_refused_slows_no_other_at_the_gate() {
    let of_team = |name: &str, team: &str| SetWorld {
        account: team.into(),
        ..set(name)
    };
    let refused = |sets: [SetWorld; 2], scope| {
        let mut world = world(sets);
        let reason = Reason::new(Code::QuotaExceeded, "full");
        world.refused(at(0), at(0), scope, reason, 1.0, None);
        world.asks_one_by_one("gharts")
    };
    let account = || Scope::Account("one".into());
    assert!(!refused([of_team("a", "one"), of_team("b", "two")], account()));
    assert!(refused([of_team("a", "one"), of_team("b", "one")], account()));
    let all = Scope::Provisioner("gharts".into());
    assert!(refused([of_team("a", "one"), of_team("b", "two")], all));
}
