//! Ordinary runners: outside of their set, found by labels.

use super::*;

/// Online since 20 s, with the set's labels and outside the set.
fn ordinary() -> Life {
    let mut life = Life::idle();
    life.runner.kind = BY_LABELS;
    life
}

/// Surplus at 60 s, after two lists that showed it idle.
fn ordinary_retiring() -> Life {
    let mut life = ordinary();
    life.listed(50, AgentSight::Online { busy: false });
    assert!(life.runner.spare_since().is_some());
    life.runner.retire(at(60));
    life
}

#[test]
fn b43_an_ordinary_runner_is_asked_after_as_long_as_only_the_list_tells_of_its_job() {
    let mut life = ordinary();
    assert!(life.runner.is_unconfirmed());
    life.listed(35, AgentSight::Online { busy: true });
    assert_eq!((life.state(), life.runner.is_unconfirmed()), ("busy", true));
    assert!(
        !Life::idle().runner.is_unconfirmed(),
        "of the set's own the queue tells"
    );
}

#[test]
fn b12_an_ordinary_runner_is_surplus_only_after_two_lists_half_a_minute_apart_showed_it_idle() {
    let mut life = ordinary();
    assert_eq!(life.runner.spare_since(), None);
    life.listed(48, AgentSight::Online { busy: false });
    assert_eq!(life.runner.spare_since(), None);
    life.listed(50, AgentSight::Online { busy: false });
    assert_eq!(life.runner.spare_since(), Some((true, at(20))));
    life.listed(60, AgentSight::Offline);
    assert_eq!(life.runner.spare_since(), None, "the row is broken");
}

#[test]
fn b12_the_proof_that_an_ordinary_runner_is_idle_is_its_provisioners_word_that_it_removed_it() {
    let mut life = ordinary_retiring();
    life.call(60, Call::RemoveRecord, CallResult::Done);
    assert_eq!(life.due(60), [Call::DeletePod]);
    life.call(60, Call::DeletePod, CallResult::Done);
    assert_eq!((life.state(), life.due(900)), ("ended", vec![]));
}

#[test]
fn b12_an_ordinary_runner_that_github_refuses_to_remove_is_busy() {
    let mut life = ordinary_retiring();
    life.call(60, Call::RemoveRecord, CallResult::Busy);
    assert_eq!((life.state(), life.due(61)), ("busy", vec![]));

    let mut life = ordinary_retiring();
    life.listed(61, AgentSight::Online { busy: true });
    assert_eq!((life.state(), life.due(62)), ("busy", vec![]), "the list says so first");
}

#[test]
fn b43_an_ordinary_runner_whose_record_is_gone_stays_until_its_own_end() {
    let mut life = ordinary_retiring();
    life.call(60, Call::RemoveRecord, CallResult::Gone);
    assert_eq!((life.state(), life.counts(), life.due(900)), ("idle", LIVE, vec![]));
    life.listed(120, AgentSight::Online { busy: false });
    life.listed(180, AgentSight::Online { busy: false });
    assert_eq!(life.runner.spare_since(), None, "nobody can prove that it is idle");
    life.exits(200, 0, "Completed");
    assert_eq!((life.state(), life.due(200)), ("ended", vec![Call::DeletePod]));
}

#[test]
fn b33_an_ordinary_runner_that_ends_well_had_a_job_of_which_nobody_tells() {
    let mut life = ordinary();
    life.exits(40, 0, "Completed");
    assert_eq!(life.due(40), [Call::DeletePod, Call::RemoveRecord]);
    life.passes(9000);
    assert_eq!((life.state(), life.counts()), ("ended", OVER));
}

/// GHARTS knows nothing of it, and GitHub's list may not show such runners at all.
#[test]
fn b12_an_ordinary_runner_whose_record_is_gone_stays_until_its_own_end() {
    let mut life = ordinary();
    life.listed(200, AgentSight::Offline);
    assert_eq!(life.listed(240, AgentSight::Offline), failed(Failure::WentOffline));
    life.call(240, Call::RemoveRecord, CallResult::Gone);
    assert_eq!((life.state(), life.counts()), ("pending", LIVE));
    assert_eq!((life.passes(100_000), life.due(100_000)), (None, vec![]));
    assert_eq!(life.exits(100_001, 0, "Completed"), Some(Happening::Ended));
}

#[test]
fn b43_of_a_busy_ordinary_runner_the_lists_tell_the_end_of_its_job() {
    let mut life = ordinary();
    life.listed(35, AgentSight::Online { busy: true });
    life.listed(50, AgentSight::Absent);
    assert_eq!(life.state(), "busy", "one list may be wrong");
    life.listed(65, AgentSight::Absent);
    assert_eq!((life.state(), life.counts()), ("jobDone", (true, false)));
    assert!(life.runner.is_unconfirmed(), "the lists go on being asked for");
    let hangs = 65 + 5 * 60;
    life.passes(hangs);
    assert_eq!(life.due(hangs), [Call::RemoveRecord], "two lists are no proof");
    life.call(hangs, Call::RemoveRecord, CallResult::Done);
    assert!(life.due(hangs).contains(&Call::DeletePod), "it hangs after its job");

    let mut life = ordinary();
    life.listed(35, AgentSight::Online { busy: true });
    life.listed(50, AgentSight::Online { busy: false });
    life.listed(65, AgentSight::Online { busy: false });
    assert_eq!(life.state(), "busy");
    life.listed(80, AgentSight::Online { busy: false });
    assert_eq!(life.state(), "idle", "it was called busy for another reason");
}

#[test]
fn b12_an_ordinary_runner_that_no_list_ever_showed_is_not_lost() {
    let mut life = Life::running();
    life.runner.kind = BY_LABELS;
    for secs in [20, 35, 50, 65] {
        assert_eq!(life.listed(secs, AgentSight::Absent), None);
    }
    assert_eq!((life.state(), life.due(65)), ("pending", vec![]), "it may be at work");
}

#[test]
fn b12_an_ordinary_runner_that_fails_while_it_may_work_goes_by_its_provisioners_word() {
    let mut life = ordinary();
    life.listed(35, AgentSight::Absent);
    life.listed(50, AgentSight::Absent);
    assert_eq!(life.state(), "failed");
    assert_eq!(life.due(50), [Call::RemoveRecord]);
    life.call(50, Call::RemoveRecord, CallResult::Busy);
    assert_eq!((life.state(), life.due(51)), ("busy", vec![]));
}

#[test]
fn b12_a_busy_ordinary_runner_that_the_lists_left_out_for_a_while_is_not_killed() {
    let mut life = ordinary();
    life.listed(35, AgentSight::Online { busy: true });
    life.listed(50, AgentSight::Absent);
    life.listed(65, AgentSight::Absent);
    life.listed(80, AgentSight::Online { busy: true });
    assert_eq!((life.state(), life.counts()), ("busy", LIVE));
    life.passes(9000);
    assert!(!life.due(9000).contains(&Call::DeletePod), "{:?}", life.due(9000));
    life.exits(9001, 0, "Completed");
    assert_eq!((life.state(), life.counts()), ("ended", OVER_FOR_A_JOB));
}

#[test]
fn b9_an_ordinary_runner_whose_job_no_queue_tells_of_works_for_somebody_else() {
    let mut life = ordinary();
    life.listed(35, AgentSight::Online { busy: true });
    life.passes(94);
    assert!(!life.runner.is_elsewhere(), "the news may be on its way");
    assert_eq!(life.runner.wake_at(at(94), &life.timeouts), Some(at(95)));
    life.passes(95);
    assert!(life.runner.is_elsewhere());
    life.job_starts(96);
    assert!(!life.runner.is_elsewhere(), "it came late");

    let mut life = ordinary();
    life.runner.hears(None);
    life.listed(35, AgentSight::Online { busy: true });
    life.passes(900);
    assert!(!life.runner.is_elsewhere(), "nothing is heard at all");
}

// ---- One that ends well without a job -------------------------------------------------------------------

/// Ended well at 12 s, before any list showed it, of a set that nobody has seen work.
fn doubted() -> Life {
    let mut life = Life::running();
    life.runner.kind = BY_LABELS;
    life.runner.doubt(Doubt::OfUnseen, true);
    assert_eq!(life.exits(12, 0, "Completed"), Some(Happening::Ended));
    assert_eq!(life.due(13), [Call::DeletePod], "its record is the only witness");
    life.call(13, Call::DeletePod, CallResult::Done);
    assert!(life.runner.is_unconfirmed() && life.runner.awaits_verdict());
    life
}

#[test]
fn b33_an_ordinary_runner_that_left_its_registration_behind_had_no_job() {
    let mut life = doubted();
    assert_eq!(life.listed(22, AgentSight::Offline), None, "GitHub may need a moment");
    assert_eq!(life.listed(23, AgentSight::Offline), None, "one list may be late");
    assert_eq!(life.listed(38, AgentSight::Offline), failed(Failure::ExitedWithoutJob));
    assert_eq!(life.due(38), [Call::RemoveAgent, Call::RemoveRecord]);
    assert!(!life.runner.is_unconfirmed());
}

#[test]
fn b33_an_ordinary_runner_whose_registration_went_with_its_job_worked() {
    let mut life = doubted();
    assert_eq!(life.listed(23, AgentSight::Absent), Some(Happening::HadJob));
    assert_eq!((life.state(), life.due(23)), ("ended", vec![Call::RemoveRecord]));
}

#[test]
fn b33_an_ordinary_runner_of_which_no_list_tells_is_given_the_benefit_of_the_doubt_after_a_minute() {
    let mut life = doubted();
    assert_eq!(
        life.listed(40, AgentSight::Online { busy: true }),
        None,
        "that is no proof"
    );
    assert_eq!(life.passes(72), None);
    assert_eq!((life.state(), life.due(72)), ("ended", vec![Call::RemoveRecord]));
    assert!(!life.runner.is_unconfirmed());
}

#[test]
fn b33_lists_that_show_no_ordinary_runner_at_all_are_no_proof_of_a_job() {
    let mut life = doubted();
    life.runner.doubt(Doubt::OfUnseen, false);
    assert_eq!(life.listed(23, AgentSight::Absent), None);
    assert!(life.runner.awaits_verdict());
}

#[test]
fn b33_the_record_of_an_ordinary_runner_that_was_seen_online_is_not_kept() {
    let mut life = ordinary();
    life.runner.doubt(Doubt::OfUnseen, true);
    life.exits(40, 0, "Completed");
    assert_eq!(life.due(40), [Call::DeletePod, Call::RemoveRecord]);
}
