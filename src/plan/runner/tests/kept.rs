//! Failed pods that are kept.

use super::*;

const HALF_AN_HOUR: Duration = Duration::from_mins(30);

/// The same life in a set that keeps failed pods.
fn keeping(mut life: Life) -> Life {
    life.runner.kind.keep_failed = Some(HALF_AN_HOUR);
    life
}

#[test]
fn b57_a_failed_pod_stays_and_its_registration_does_not_wait_for_it() {
    let mut life = keeping(Life::running());
    assert_eq!(life.exits(100, 1, "Error"), failed(Failure::CrashedBeforeJob));
    assert_eq!(life.counts(), OVER);
    assert_eq!(life.due(100), [Call::KeepPod, Call::RemoveAgent, Call::RemoveRecord]);
    let kept = life.runner.kept().unwrap();
    assert_eq!((kept.reason.as_str(), kept.until), ("crashed_before_job", at(1900)));
    for call in life.due(100) {
        life.call(100, call, CallResult::Done);
    }
    assert_eq!(life.due(1899), []);
    assert!(!life.runner.is_over(at(1899)));
    assert_eq!(life.due(1900), [Call::DeletePod]);
    life.call(1900, Call::DeletePod, CallResult::Done);
    life.runner.pod_gone(at(1901));
    assert!(life.runner.is_over(at(1901)));
}

#[test]
fn b57_what_runs_in_it_still_is_ended_once_its_registration_is_gone_or_else_deleted() {
    let never_registered = || {
        let mut life = keeping(Life::running());
        life.listed(200, AgentSight::Offline);
        assert_eq!(life.passes(200), failed(Failure::Registration));
        assert_eq!(life.due(200), [Call::RemoveAgent], "it may have got a job");
        life.call(200, Call::RemoveAgent, CallResult::Done);
        assert!(life.due(200).contains(&Call::KeepPod));
        life.call(200, Call::KeepPod, CallResult::Done);
        life
    };
    let mut life = never_registered();
    assert!(!life.due(319).contains(&Call::DeletePod));
    life.sees(205, ended(None, "DeadlineExceeded"));
    assert!(!life.due(1999).contains(&Call::DeletePod));
    assert!(life.due(2000).contains(&Call::DeletePod));

    let life = never_registered();
    assert!(life.due(320).contains(&Call::DeletePod), "its kubelet does not answer");
}

/// Its image came at last, and we have not seen it: it may have a job by now.
#[test]
fn b12_b57_a_pod_that_did_not_run_when_it_failed_is_ended_only_as_it_was_seen() {
    let mut life = keeping(Life::pending());
    let preparing = PodFacts {
        version: "v1".to_owned(),
        ..facts(PodProgress::Preparing { since: at(10) })
    };
    life.runner.pod_seen(at(10), preparing);
    assert_eq!(life.passes(2000), failed(Failure::ImagePull));
    assert!(life.due(2000).contains(&Call::KeepPod));
    assert_eq!(life.runner.version_to_end(), Some("v1"));
    life.call(2000, Call::KeepPod, CallResult::Failed);
    life.sees(2001, PodProgress::Running { since: at(1999) });
    let proof = [Call::RemoveAgent];
    assert_eq!(life.due(2100), proof, "first it must be proved that it has no job");
    life.call(2100, Call::RemoveAgent, CallResult::Busy);
    assert_eq!(life.state(), "busy");
}

#[test]
fn b57_a_runner_that_proves_busy_after_all_is_not_ended() {
    let mut life = keeping(Life::running());
    life.listed(200, AgentSight::Offline);
    assert_eq!(life.passes(200), failed(Failure::Registration));
    life.call(200, Call::RemoveAgent, CallResult::Busy);
    assert_eq!((life.state(), life.runner.kept()), ("busy", None));
    assert_eq!(life.due(5000), [Call::MarkBusy]);
}

#[test]
fn b57_a_pod_without_a_node_has_nothing_to_show() {
    let mut life = keeping(Life::pending());
    life.sees(3, PodProgress::Unscheduled);
    assert_eq!(life.passes(602), failed(Failure::Scheduling));
    assert!(life.due(602).contains(&Call::DeletePod));
}

#[test]
fn b57_a_pod_that_died_under_its_job_is_kept_and_one_that_did_its_job_is_not() {
    let mut life = keeping(Life::busy());
    assert_eq!(life.sees(100, ended(Some(137), "OOMKilled")), Some(Happening::Ended));
    assert_eq!(life.runner.died(), Some(Died::OutOfMemory));
    assert_eq!(life.runner.kept().unwrap().reason, "out_of_memory_under_job");
    assert!(life.due(100).contains(&Call::KeepPod) && !life.due(100).contains(&Call::DeletePod));

    let mut life = keeping(Life::busy());
    life.exits(100, 0, "Completed");
    assert_eq!(life.runner.kept(), None);
    assert!(life.due(100).contains(&Call::DeletePod));
}

#[test]
fn b57_exit_0_without_a_job_waits_for_its_verdict() {
    let mut life = keeping(Life::idle());
    life.exits(100, 0, "Completed");
    assert!(!life.due(159).contains(&Call::DeletePod));
    assert_eq!(life.passes(160), failed(Failure::ExitedWithoutJob));
    assert!(life.due(160).contains(&Call::KeepPod) && !life.due(160).contains(&Call::DeletePod));

    let mut life = keeping(Life::idle());
    life.exits(100, 0, "Completed");
    life.job_starts(102);
    assert!(
        life.due(102).contains(&Call::DeletePod),
        "the news of its job came late"
    );
}

#[test]
fn b57_a_kept_pod_is_known_again_after_a_restart_and_fails_no_second_time() {
    let pod = facts(ended(Some(1), "Error"));
    let found = Adopted {
        pod: pod.clone(),
        agent_id: Some(7),
        gharts_id: None,
        job: None,
        meets: None,
        kept: Some(Kept {
            reason: "crashed_before_job".to_owned(),
            since: at(-600),
            until: at(900),
        }),
    };
    let runner = Runner::adopted(RunnerName::new("r"), Purpose::Demand, at(0), found, IN_SET);
    let mut life = Life::new(runner);
    assert_eq!(life.runner.pod_seen(at(0), pod), None);
    assert_eq!((life.counts(), life.runner.kept().is_some()), (OVER, true));
    life.is_quiet(0, 899);
    assert_eq!(life.due(899), [Call::RemoveAgent, Call::RemoveRecord]);
    assert_eq!(life.due(900), [Call::DeletePod, Call::RemoveAgent, Call::RemoveRecord]);
}

#[test]
fn b57_a_kept_pod_that_somebody_deletes_is_let_go() {
    let mut life = keeping(Life::running());
    life.exits(100, 1, "Error");
    for call in life.due(100) {
        life.call(100, call, CallResult::Done);
    }
    life.runner.pod_gone(at(150));
    assert!(life.runner.is_over(at(150)));
}
