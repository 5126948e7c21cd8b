//! When an account is asked how it stands, and what its answers do.

use std::time::Duration;

use super::*;
use crate::{
    plan::{blame::Asked, limits::Scope, probe::Probe},
    provision::Class,
};

fn names(names: &[&str]) -> Vec<SetName> {
    names.iter().map(|name| SetName::new(name)).collect()
}

fn suspect(world: &mut World, now: i64, set: &str, class: Class) {
    let reason = Reason::new(class.into(), "no");
    world.suspect(at(now), &names(&[set]), class, &reason, None);
}

/// Seconds at which a probe that is always answered so is asked again, up to `until`.
fn asked(world: &mut World, class: Class, until: i64) -> Vec<i64> {
    let (sets, mut probe, mut times) = (names(&["a"]), Probe::default(), Vec::new());
    for now in 0..=until {
        if probe.due_at(world, &sets, None).is_some_and(|due| due <= at(now)) {
            times.push(now);
            probe.begun(at(now));
            probe.refused(class);
            suspect(world, now, "a", class);
        }
    }
    times
}

#[test]
fn b18_an_account_is_asked_at_once_and_after_a_good_answer_no_more() {
    let (world, sets, mut probe) = (world([set("a")]), names(&["a"]), Probe::default());
    assert_eq!(probe.due_at(&world, &sets, None), Some(Moment::START));
    probe.begun(at(0));
    probe.passed();
    assert_eq!(probe.due_at(&world, &sets, None), None);
}

#[test]
fn b18_what_only_people_can_mend_is_asked_every_five_minutes() {
    let times = asked(&mut world([set("a")]), Class::BindingUnsupported, 1000);
    assert_eq!(times, [0, 300, 600, 900]);
}

#[test]
fn b20_what_passes_by_itself_is_asked_ever_later_and_silence_later_still() {
    let times = asked(&mut world([set("a")]), Class::Unreachable, 1000);
    assert_eq!(times, [0, 5, 15, 35, 75, 155, 315, 615, 915]);
    let times = asked(&mut world([set("a")]), Class::Stalled, 1000);
    assert_eq!(times, [0, 30, 90, 210, 450, 750]);
}

#[test]
fn b18_a_refusal_is_looked_into_only_where_nobody_asks_for_a_runner() {
    let (mut world, sets, mut probe) = (world([set("a")]), names(&["a"]), Probe::default());
    probe.begun(at(0));
    probe.passed();
    let scope = Scope::Account("gharts, team".into());
    let reason = Reason::new(Code::NotAuthorized, "no");
    world.refused(at(1000), at(1000), scope.clone(), reason, 1.0, None);
    let due = |world: &World, tried| probe.due_at(world, &sets, tried);
    // The next request may go out after 300 s; if nobody needs one, a probe does.
    assert_eq!(due(&world, Some(at(1000))), Some(at(1330)));
    assert_eq!(due(&world, Some(at(1310))), Some(at(1610)));
    world.vindicated(&sets);
    assert_eq!(due(&world, Some(at(1000))), None);
    assert!(world.hurdles.is_empty());
}

#[test]
fn b18_a_suspicion_gives_the_reason_and_lets_the_first_request_through() {
    let mut world = world([set("a").with(0, assigned(3)), set("b").with(0, assigned(3))]);
    suspect(&mut world, 0, "a", Class::BindingUnsupported);
    let plan = plan_of(&world, "a", 0);
    assert_eq!(
        (codes(&plan)[0], plan.capacity, plan.create.len()),
        ("binding_unsupported", 0, 1)
    );
    let other = plan_of(&world, "b", 0);
    assert_eq!(other.capacity, 10, "it is about the other set alone");
}

#[test]
fn b17_what_a_request_was_refused_weighs_more_than_a_suspicion_and_is_no_second_refusal() {
    let mut world = world([set("a")]);
    let scope = Scope::Provisioner("gharts".into());
    let refuse = |world: &mut World, now: i64| {
        let reason = Reason::new(Code::Unreachable, "request");
        world.refused(at(now), at(now), scope.clone(), reason, 1.0, None);
    };
    suspect(&mut world, 0, "a", Class::Unreachable);
    refuse(&mut world, 10);
    let hurdle = world.hurdles[&scope].clone();
    assert_eq!((hurdle.step, hurdle.until, hurdle.since), (0, at(11), at(0)));
    suspect(&mut world, 12, "a", Class::Unreachable);
    assert_eq!(world.hurdles[&scope], hurdle);
}

#[test]
fn b20_a_suspicion_keeps_to_the_servers_own_word_when_to_come_back() {
    let mut world = world([set("a").with(0, assigned(1))]);
    let reason = Reason::new(Code::RateLimited, "slow down");
    let pause = Some(Duration::from_secs(60));
    world.suspect(at(0), &names(&["a"]), Class::RateLimited, &reason, pause);
    assert_eq!(created(&world, "a", 59), 0);
    assert_eq!(created(&world, "a", 60), 1);
}

#[test]
fn b20_no_probe_disproves_what_only_a_request_can_show() {
    let (mut world, sets) = (world([set("a")]), names(&["a"]));
    for code in [Code::QuotaExceeded, Code::LabelPolicy, Code::Upstream] {
        let scope = Scope::Account("gharts, team".into());
        world.refused(at(0), at(0), scope, Reason::new(code, "no"), 1.0, None);
        world.vindicated(&sets);
        assert_eq!(world.hurdles.len(), 1, "{code:?}");
        world.hurdles.clear();
    }
}

#[test]
fn b19_sets_that_turn_out_to_be_of_one_team_share_what_it_was_refused() {
    let mut other = set("b");
    other.account = "gharts, team f64e".into();
    let mut world = world([set("a"), other]);
    let scope = Scope::Account("gharts, team f64e".into());
    world.refused(at(0), at(0), scope, Reason::new(Code::QuotaExceeded, "no"), 1.0, None);
    world.pays(&names(&["a"]), "gharts, team web");
    assert_eq!(codes(&plan_of(&world, "a", 0)), ["demand_met"]);
    world.pays(&names(&["b"]), "gharts, team web");
    for set in ["a", "b"] {
        assert_eq!(codes(&plan_of(&world, set, 0)), ["quota_exceeded"], "{set}");
    }
    assert_eq!(world.hurdles.len(), 1);
    // What is said of a place or a refusal in the file's words finds it.
    assert_eq!(world.account("gharts, team f64e"), "gharts, team web");
    assert_eq!(world.account("another"), "another");
}

#[test]
fn b18_while_requests_find_out_no_probe_does_and_after_the_first_grant_one_does() {
    let (mut world, sets, mut probe) = (world([set("a")]), names(&["a"]), Probe::default());
    probe.begun(at(0));
    probe.refused(Class::BindingUnsupported);
    suspect(&mut world, 0, "a", Class::BindingUnsupported);
    let scope = Scope::Set(SetName::new("a"));
    let reason = Reason::new(Code::BindingUnsupported, "no");
    world.refused(at(10), at(10), scope, reason, 1.0, None);
    assert_eq!(probe.due_at(&world, &sets, Some(at(10))), Some(at(340)));
    assert_eq!(probe.due_at(&world, &sets, Some(at(311))), Some(at(611)));
    world.granted(at(320), &sets[0]);
    assert_eq!(probe.due_at(&world, &sets, Some(at(311))), Some(at(5)));
}

/// Two bindings of one team are two ways to ask in its name, and one of them may not be told who it is.
#[test]
fn b20_b48_whoever_the_file_names_alike_is_stopped_by_what_either_is_refused() {
    let mut world = world([set("a").with(0, assigned(1)), set("b").with(0, assigned(1))]);
    world.pays(&[SetName::new("b")], "gharts, platform");
    let asked = Asked {
        provisioner: "gharts",
        account: world.account("gharts, team"),
    };
    let scope = world.stopped_by(&SetName::new("a"), asked, Class::Quota, false);
    assert!(world.sets["a"].scopes().contains(&scope), "{scope:?}");
    world.refused(at(0), at(0), scope, Reason::new(Code::QuotaExceeded, "no"), 1.0, None);
    assert_eq!((created(&world, "a", 1), created(&world, "b", 1)), (0, 0));
}
