//! Who gets the next place (B45).

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
    let scope = crate::plan::limits::Scope::Provisioner("gharts".into());
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
