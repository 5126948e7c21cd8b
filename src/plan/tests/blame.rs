//! Whom a refusal stops.

use super::{super::blame, *};
use crate::{plan::blame::Asked, provision::Class};

const ASKED: Asked<'static> = Asked {
    provisioner: "gharts",
    account: "gharts, team",
};

fn everybody() -> Scope {
    Scope::Provisioner("gharts".into())
}

fn own(name: &str) -> Scope {
    Scope::Set(SetName::new(name))
}

/// Sets of one account behind one service, each with a job.
fn sets(names: &[&str]) -> World {
    world(names.iter().map(|name| set(name).with(0, assigned(1))))
}

/// The set's request is refused; whom that stops.
fn refuse(world: &mut World, now: i64, name: &str, class: Class) -> Scope {
    let scope = world.stopped_by(&SetName::new(name), ASKED, class, false);
    let reason = Reason::new(class.into(), "no");
    world.refused(at(now), at(now), scope.clone(), reason, 1.0, None);
    scope
}

#[test]
fn b18_a_refusal_stops_those_whom_it_is_about() {
    let account = Scope::Account("gharts, team".into());
    for (class, scope) in [
        (Class::LabelPolicy, own("a")),
        (Class::BindingUnsupported, own("a")),
        (Class::Quota, account),
        (Class::Unreachable, everybody()),
        (Class::Credentials, everybody()),
        (Class::RateLimited, everybody()),
    ] {
        assert_eq!(refuse(&mut sets(&["a", "b", "c"]), 0, "a", class), scope, "{class:?}");
    }
}

#[test]
fn b48_what_github_says_behind_a_service_is_about_the_set_that_asked() {
    for class in [Class::Unreachable, Class::Upstream, Class::Quota, Class::RateLimited] {
        let scope = sets(&["a"]).stopped_by(&SetName::new("a"), ASKED, class, true);
        assert_eq!(scope, own("a"), "{class:?}");
    }
}

#[test]
fn b48_who_else_was_asked_is_stopped_not_the_provisioner_that_the_set_has_now() {
    let mut moved = set("a");
    moved.provisioner = "github".into();
    moved.account = "github".into();
    let scope = world([moved]).stopped_by(&SetName::new("a"), ASKED, Class::RateLimited, false);
    assert_eq!(scope, everybody());
}

#[test]
fn b8_a_refusal_that_may_be_one_sets_own_is_everybodys_once_three_are_refused_alike() {
    let mut world = sets(&["a", "b", "c", "d"]);
    assert_eq!(refuse(&mut world, 2, "b", Class::Upstream), own("b"));
    assert_eq!(refuse(&mut world, 3, "c", Class::NotAuthorized), own("c"), "not alike");
    world.granted(at(4), &SetName::new("d"));
    assert_eq!(
        refuse(&mut world, 5, "a", Class::Upstream),
        own("a"),
        "somebody is served"
    );
    assert_eq!(refuse(&mut world, 6, "b", Class::Upstream), own("b"));
    assert_eq!(refuse(&mut world, 7, "c", Class::UnknownOutcome), everybody());
    assert_eq!(
        refuse(&mut world, 8, "d", Class::Upstream),
        everybody(),
        "it stands in everybody's way now"
    );
}

#[test]
fn b8_where_there_is_one_set_a_refusal_is_the_provisioners() {
    assert_eq!(refuse(&mut sets(&["a"]), 0, "a", Class::UnknownOutcome), everybody());
}

#[test]
fn b31_a_template_that_the_cluster_refuses_stops_its_own_set() {
    let a = SetName::new("a");
    assert_eq!(blame::at_cluster(&a, Code::InvalidTemplate, false), own("a"));
    for code in [Code::Forbidden, Code::ResourceQuota, Code::ClusterUnavailable] {
        assert_eq!(blame::at_cluster(&a, code, false), Scope::Cluster);
    }
    assert_eq!(blame::at_cluster(&a, Code::ClusterUnavailable, true), own("a"));
}
