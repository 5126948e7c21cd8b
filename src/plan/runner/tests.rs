//! The life table of the design (section 2), row by row.

mod kept;
mod ordinary;

use super::*;
use crate::config::Timeouts;

fn at(secs: i64) -> Moment {
    Moment::from_millis(secs * 1000)
}

const IN_SET: Kind = Kind {
    has_record: true,
    meets: Meets::InSet,
    keep_failed: None,
};
const BY_LABELS: Kind = Kind {
    has_record: true,
    meets: Meets::ByLabels,
    keep_failed: None,
};

/// One runner, driven by sentences.
struct Life {
    runner: Runner,
    timeouts: Timeouts,
}

impl Life {
    /// Decided at 0 s.
    fn decided() -> Self {
        Self::new(Runner::decided(RunnerName::new("r"), Purpose::Demand, at(0), IN_SET))
    }

    fn new(runner: Runner) -> Self {
        Self {
            runner,
            timeouts: Timeouts::default(),
        }
    }

    /// JIT at 1 s, pod and Secret at 2 s.
    fn pending() -> Self {
        let mut life = Self::decided();
        life.runner.granted(Some(7), Some("g".into()));
        life.runner.pod_created(at(2), "u");
        life.runner.started();
        life
    }

    /// Its container runs since 10 s.
    fn running() -> Self {
        let mut life = Self::pending();
        life.sees(10, PodProgress::Running { since: at(10) });
        life
    }

    /// Online since 20 s.
    fn idle() -> Self {
        let mut life = Self::running();
        life.listed(20, AgentSight::Online { busy: false });
        life
    }

    /// Its job started at 30 s.
    fn busy() -> Self {
        let mut life = Self::idle();
        life.job_starts(30);
        life
    }

    fn adopted(progress: &PodProgress, job: Option<Job>) -> Self {
        let mut pod = facts(progress.clone());
        pod.created = at(-10_000);
        let found = Adopted {
            pod: pod.clone(),
            agent_id: Some(7),
            gharts_id: None,
            job,
            meets: None,
            kept: None,
        };
        let mut life = Self::new(Runner::adopted(
            RunnerName::new("r"),
            Purpose::Demand,
            at(0),
            found,
            IN_SET,
        ));
        life.runner.pod_seen(at(0), pod);
        life
    }

    fn sees(&mut self, secs: i64, progress: PodProgress) -> Option<Happening> {
        self.runner.pod_seen(at(secs), facts(progress))
    }

    fn exits(&mut self, secs: i64, code: i32, reason: &str) -> Option<Happening> {
        self.sees(secs, ended(Some(code), reason))
    }

    fn sees_deletion(&mut self, secs: i64) -> Option<Happening> {
        let pod = PodFacts {
            deleting: true,
            ..facts(PodProgress::Running { since: at(10) })
        };
        self.runner.pod_seen(at(secs), pod)
    }

    /// An agents list whose request began a second before.
    fn listed(&mut self, secs: i64, sight: AgentSight) -> Option<Happening> {
        self.runner.agent_seen(at(secs), at(secs - 1), sight, Some(7))
    }

    fn job_starts(&mut self, secs: i64) -> Option<Happening> {
        self.runner.job_started(at(secs), job())
    }

    fn passes(&mut self, secs: i64) -> Option<Happening> {
        self.runner.pass_time(at(secs), &self.timeouts)
    }

    fn due(&self, secs: i64) -> Vec<Call> {
        self.runner.due(at(secs))
    }

    fn call(&mut self, secs: i64, call: Call, result: CallResult) -> Option<Happening> {
        assert!(
            self.due(secs).contains(&call),
            "{call:?} is not due at {secs} s: {:?}",
            self.runner
        );
        self.runner.begin(call);
        self.runner.called(at(secs), call, result)
    }

    fn state(&self) -> &'static str {
        self.runner.state_name()
    }

    /// live, covers a job.
    fn counts(&self) -> (bool, bool) {
        (self.runner.is_live(), self.runner.covers_job())
    }

    /// Nothing fails by itself between two moments.
    fn is_quiet(&mut self, from: i64, to: i64) {
        for secs in from..=to {
            assert_eq!(self.passes(secs), None, "at {secs} s");
        }
    }
}

fn facts(progress: PodProgress) -> PodFacts {
    PodFacts {
        uid: "u".into(),
        version: String::new(),
        created: at(2),
        bound: progress != PodProgress::Unscheduled,
        says: None,
        progress,
        deleting: false,
    }
}

fn ended(exit_code: Option<i32>, reason: &str) -> PodProgress {
    PodProgress::Ended(PodEnd {
        exit_code,
        reason: reason.into(),
    })
}

fn job() -> Job {
    Job {
        id: "j".into(),
        ..Job::default()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what the runner's methods answer")]
fn failed(failure: Failure) -> Option<Happening> {
    Some(Happening::Failed(failure))
}

const LIVE: (bool, bool) = (true, true);
const LIVE_WITHOUT_JOB: (bool, bool) = (true, false);
const OVER: (bool, bool) = (false, false);
const OVER_FOR_A_JOB: (bool, bool) = (false, true);

// ---- Provisioning ---------------------------------------------------------------------------------------

#[test]
fn provisioning_has_45_seconds_and_what_is_granted_later_is_taken_back() {
    let mut life = Life::decided();
    assert_eq!((life.state(), life.counts()), ("provisioning", LIVE));
    life.is_quiet(1, 44);
    assert_eq!(life.passes(45), failed(Failure::JitTimeout));
    assert_eq!(life.counts(), OVER);
    assert_eq!(life.due(45), [], "while its start is under way nothing is called");
    assert!(!life.runner.is_over(at(3600)), "the registration may come yet");
    life.runner.granted(Some(7), Some("g".into()));
    assert_eq!(life.runner.start_failed(at(50), Failure::JitTimeout, true), None);
    assert_eq!(life.due(50), [Call::RemoveAgent, Call::RemoveRecord]);
    life.call(50, Call::RemoveAgent, CallResult::Done);
    life.call(50, Call::RemoveRecord, CallResult::Done);
    assert!(life.runner.is_over(at(51)));
}

#[test]
fn a_start_given_up_too_late_ends_with_its_pod_deleted() {
    let mut life = Life::decided();
    life.passes(45);
    life.runner.granted(Some(7), None);
    life.runner.pod_created(at(46), "u");
    life.runner.started();
    assert_eq!(
        life.due(46),
        [Call::DeletePod, Call::RemoveAgent, Call::RemoveRecord],
        "its container does not run: pod first"
    );
}

#[test]
fn a_refusal_that_rules_out_a_registration_leaves_nothing_to_do() {
    let mut life = Life::decided();
    let happening = life.runner.start_failed(at(1), Failure::JitRefused, false);
    assert_eq!(happening, failed(Failure::JitRefused));
    assert_eq!((life.counts(), life.due(1)), (OVER, vec![]));
    assert!(life.runner.is_over(at(1)));
}

#[test]
fn b21_a_refusal_that_leaves_it_open_is_cured_by_name() {
    let mut life = Life::decided();
    life.runner.start_failed(at(1), Failure::JitRefused, true);
    assert_eq!(life.due(1), [Call::RemoveAgent, Call::RemoveRecord]);
}

#[test]
fn a_pod_whose_create_seemed_to_fail_is_deleted_when_it_shows() {
    let mut life = Life::decided();
    life.runner.granted(Some(7), None);
    life.runner.start_failed(at(5), Failure::PodRefused, true);
    life.call(5, Call::RemoveAgent, CallResult::Done);
    life.sees(6, PodProgress::Unscheduled);
    assert_eq!(life.due(6), [Call::DeletePod, Call::RemoveRecord]);
}

#[test]
fn the_watch_may_be_faster_than_the_answer_to_our_own_create() {
    let mut life = Life::decided();
    life.runner.granted(Some(7), None);
    life.sees(2, PodProgress::Preparing { since: at(2) });
    assert_eq!(life.runner.pod_created(at(3), "u"), None);
    assert_eq!(
        life.runner.pod.as_ref().map(|p| &p.progress),
        Some(&PodProgress::Preparing { since: at(2) })
    );
    assert_eq!(life.runner.pod_gone(at(4)), failed(Failure::PodDeleted));
    life.runner.started();
    assert_eq!(life.due(4), [Call::RemoveAgent, Call::RemoveRecord]);
}

#[test]
fn an_answer_that_comes_after_the_pods_end_does_not_bring_it_back() {
    let mut life = Life::decided();
    life.sees(2, PodProgress::Unscheduled);
    life.runner.pod_gone(at(3));
    assert_eq!(life.runner.pod_created(at(4), "u"), None);
    assert_eq!(life.runner.pod, None);
    life.runner.started();
    life.call(4, Call::RemoveAgent, CallResult::Done);
    life.call(4, Call::RemoveRecord, CallResult::Done);
    assert!(life.runner.is_over(at(5)));
}

#[test]
fn a_list_without_a_pod_that_the_watch_never_showed_proves_nothing() {
    let mut life = Life::pending();
    assert!(!life.runner.pod_was_watched(), "the list may be older than the pod");
    life.sees(3, PodProgress::Unscheduled);
    assert!(life.runner.pod_was_watched());
}

// ---- Pending --------------------------------------------------------------------------------------------

#[test]
fn b30_a_pending_runner_has_a_deadline_for_each_thing_it_waits_for() {
    let mut life = Life::pending();
    assert_eq!((life.state(), life.counts()), ("pending", LIVE));
    life.is_quiet(3, 601);
    assert_eq!(life.passes(602), failed(Failure::Scheduling));

    let mut life = Life::pending();
    life.sees(500, PodProgress::Preparing { since: at(500) });
    life.is_quiet(500, 1099);
    assert_eq!(life.passes(1100), failed(Failure::ImagePull));
    assert_eq!(
        life.due(1100),
        [Call::DeletePod, Call::RemoveAgent, Call::RemoveRecord],
        "no runner process can run: pod first"
    );
}

#[test]
fn b30_no_deadline_of_a_start_counts_from_before_the_runner_was_known_whatever_the_clusters_clock_says() {
    let mut life = Life::pending();
    life.sees(10, PodProgress::Preparing { since: at(-3600) });
    life.is_quiet(10, 599);
    assert_eq!(life.passes(600), failed(Failure::ImagePull));
    let mut life = Life::adopted(&PodProgress::Preparing { since: at(-7200) }, None);
    life.is_quiet(10, 599);
    assert_eq!(life.passes(600), failed(Failure::ImagePull));
}

#[test]
fn b30_no_deadline_waits_for_a_clock_of_the_clusters_that_is_ahead() {
    let mut life = Life::pending();
    life.sees(10, PodProgress::Preparing { since: at(3600) });
    life.sees(300, PodProgress::Preparing { since: at(3600) });
    life.is_quiet(300, 609);
    assert_eq!(life.passes(610), failed(Failure::ImagePull));
    let mut life = Life::adopted(&PodProgress::Running { since: at(7200) }, None);
    life.listed(185, AgentSight::Offline);
    assert_eq!(life.passes(185), failed(Failure::Registration));
}

#[test]
fn b30_registration_is_overdue_when_a_list_says_so() {
    let mut life = Life::running();
    life.listed(185, AgentSight::Offline);
    life.is_quiet(185, 1000);
    life.listed(1000, AgentSight::Offline);
    assert_eq!(life.passes(1000), failed(Failure::Registration));
    assert_eq!(life.due(1000), [Call::RemoveAgent], "it may be online by now, and busy");
}

#[test]
fn b30_while_nobody_can_look_nobody_is_overdue_for_50_minutes() {
    let mut life = Life::running();
    life.is_quiet(10, 2999);
    assert_eq!(life.passes(3000), failed(Failure::PendingTotal));
}

#[test]
fn b30_pending_ends_after_50_minutes_in_all() {
    let mut life = Life::pending();
    life.timeouts.scheduling = at(9999).since(at(0));
    life.is_quiet(2900, 2999);
    assert_eq!(life.passes(3000), failed(Failure::PendingTotal));
}

#[test]
fn b33_an_adopted_runner_that_has_run_for_hours_is_given_time_to_be_seen_online() {
    let mut life = Life::adopted(&PodProgress::Running { since: at(-9000) }, None);
    life.is_quiet(0, 170);
    life.listed(170, AgentSight::Offline);
    life.is_quiet(170, 190);
    assert_eq!(
        life.listed(191, AgentSight::Online { busy: false }),
        Some(Happening::Registered)
    );
    life.is_quiet(191, 9000);
    assert_eq!(life.state(), "idle");
}

#[test]
fn an_adopted_pod_without_its_secret_is_lost() {
    let mut life = Life::adopted(&PodProgress::Preparing { since: at(-5) }, None);
    assert_eq!(life.due(0), [Call::CheckSecret]);
    assert_eq!(
        life.call(0, Call::CheckSecret, CallResult::Missing),
        failed(Failure::LostSecret)
    );
    assert_eq!(life.due(0), [Call::DeletePod, Call::RemoveAgent, Call::RemoveRecord]);

    let mut life = Life::adopted(&PodProgress::Preparing { since: at(-5) }, None);
    life.call(0, Call::CheckSecret, CallResult::Failed);
    assert_eq!((life.due(0), life.due(1)), (vec![], vec![Call::CheckSecret]));
    life.call(1, Call::CheckSecret, CallResult::Done);
    assert_eq!((life.state(), life.due(60)), ("pending", vec![]));

    let life = Life::adopted(&PodProgress::Running { since: at(-5) }, None);
    assert_eq!(life.due(0), [], "a container that runs has its Secret");
}

#[test]
fn a_registration_is_lost_when_two_lists_in_a_row_begun_after_the_pod_lack_it() {
    let mut life = Life::running();
    assert_eq!(life.listed(2, AgentSight::Absent), None, "begun before the pod");
    assert_eq!(life.listed(15, AgentSight::Absent), None);
    assert_eq!(life.listed(30, AgentSight::Offline), None);
    assert_eq!(life.listed(45, AgentSight::Absent), None);
    assert_eq!(life.listed(60, AgentSight::Absent), failed(Failure::RegistrationLost));
    assert_eq!(life.due(60), [Call::RemoveAgent]);
}

// ---- Idle and busy --------------------------------------------------------------------------------------

#[test]
fn an_idle_runner_waits_as_long_as_it_is_wanted() {
    let mut life = Life::idle();
    assert_eq!((life.state(), life.counts()), ("idle", LIVE));
    life.is_quiet(20, 9000);
    assert_eq!(life.due(9000), []);
}

#[test]
fn b28_a_job_makes_it_busy_and_one_patch_says_so_however_often_it_is_told() {
    let mut life = Life::idle();
    assert_eq!(life.job_starts(30), Some(Happening::JobStarted));
    assert_eq!((life.state(), life.counts()), ("busy", LIVE));
    assert_eq!(life.due(31), [], "a job that is over at once is not worth a write");
    life.call(32, Call::MarkBusy, CallResult::Done);
    assert_eq!(life.job_starts(33), None);
    assert_eq!(life.due(9000), []);
    life.is_quiet(33, 9000);
}

#[test]
fn b28_a_job_that_is_over_at_once_costs_no_patch() {
    let mut life = Life::idle();
    life.job_starts(30);
    life.sees(31, ended(Some(0), "Completed"));
    assert_eq!(life.due(900), [Call::DeletePod, Call::RemoveRecord]);
}

#[test]
fn b34_a_spare_runners_pod_is_marked_as_soon_as_its_job_starts() {
    let mut life = Life::idle();
    life.runner.purpose = Purpose::Spare;
    life.job_starts(30);
    assert_eq!(life.due(30), [Call::MarkBusy]);
}

#[test]
fn b28_a_runner_listed_as_busy_is_patched_once_with_its_job_when_the_news_comes_soon() {
    let mut life = Life::running();
    assert_eq!(
        life.listed(20, AgentSight::Online { busy: true }),
        Some(Happening::Registered)
    );
    assert_eq!((life.state(), life.due(29)), ("busy", vec![]));
    life.job_starts(25);
    life.call(27, Call::MarkBusy, CallResult::Done);
    assert_eq!(life.due(60), []);

    let mut life = Life::idle();
    life.listed(30, AgentSight::Online { busy: true });
    life.call(40, Call::MarkBusy, CallResult::Done);
    life.job_starts(50);
    assert_eq!(life.due(52), [Call::MarkBusy], "now with its job");
}

#[test]
fn a_job_may_be_heard_of_before_the_pod() {
    let mut life = Life::decided();
    life.job_starts(3);
    assert_eq!((life.state(), life.due(3)), ("busy", vec![]));
    life.runner.pod_created(at(4), "u");
    assert_eq!(life.due(5), [Call::MarkBusy]);
    let nothing = life.runner.start_failed(at(5), Failure::SecretRefused, true);
    assert_eq!(
        (nothing, life.state()),
        (None, "busy"),
        "it was started, whatever the answer said"
    );
}

#[test]
fn b33_a_busy_runner_is_adopted_by_its_annotation() {
    let life = Life::adopted(&PodProgress::Running { since: at(-9000) }, Some(job()));
    assert_eq!(
        (life.state(), life.due(0)),
        ("busy", vec![]),
        "its patch is what told us"
    );
}

#[test]
fn b12_only_a_total_lifetime_ends_a_busy_runner_and_redelivery_does_not_save_it() {
    let mut life = Life::busy();
    life.timeouts.total = Some(at(3600).since(at(0)));
    life.is_quiet(30, 3599);
    assert_eq!(life.passes(3600), failed(Failure::TotalLifetime));
    assert_eq!(life.due(3600), [Call::DeletePod, Call::RemoveAgent, Call::RemoveRecord]);
    life.job_starts(3601);
    life.call(3601, Call::RemoveAgent, CallResult::Busy);
    assert_eq!(life.state(), "failed");
    assert_eq!(life.due(3603), [Call::DeletePod, Call::RemoveAgent, Call::RemoveRecord]);
}

// ---- Job done, ended ------------------------------------------------------------------------------------

#[test]
fn b12_a_runner_that_does_not_end_after_its_job_goes_after_a_while() {
    let mut life = Life::busy();
    life.runner.job_completed(at(100), job());
    assert_eq!((life.state(), life.counts()), ("jobDone", LIVE_WITHOUT_JOB));
    life.is_quiet(100, 399);
    assert_eq!(life.due(399), []);
    life.passes(400);
    assert_eq!(life.due(400), [Call::DeletePod, Call::RemoveAgent]);
    life.call(400, Call::DeletePod, CallResult::Done);
    assert_eq!(
        life.state(),
        "ended",
        "what is being deleted is no capacity, though the kubelet takes its time"
    );
    assert_eq!(life.exits(410, 143, "Error"), None);
    assert_eq!(
        life.due(410),
        [Call::RemoveAgent, Call::RemoveRecord],
        "never two deletes"
    );
}

#[test]
fn b28_after_a_job_one_delete_ends_it_and_the_record_goes() {
    let mut life = Life::busy();
    life.runner.job_completed(at(100), job());
    assert_eq!(life.exits(101, 0, "Completed"), Some(Happening::Ended));
    assert_eq!(life.counts(), OVER);
    assert_eq!(
        life.due(101),
        [Call::DeletePod, Call::RemoveRecord],
        "the service deregisters an ephemeral runner"
    );
    life.call(101, Call::DeletePod, CallResult::Done);
    life.call(101, Call::RemoveRecord, CallResult::Done);
    assert!(!life.runner.is_over(at(102)), "the watch has not shown its end yet");
    life.exits(102, 0, "Completed");
    assert_eq!(life.due(102), []);
    life.runner.pod_gone(at(103));
    assert!(life.runner.is_over(at(103)));
    assert_eq!(life.passes(500), None);
}

#[test]
fn b13_an_ended_runner_stands_for_its_job_until_the_news_of_its_end() {
    let end = || {
        let mut life = Life::busy();
        life.exits(100, 0, "Completed");
        assert_eq!((life.state(), life.counts()), ("ended", OVER_FOR_A_JOB));
        life
    };
    let mut life = end();
    life.runner.job_completed(at(101), job());
    assert_eq!(life.counts(), OVER);

    let mut life = end();
    life.runner.end_is_known();
    assert_eq!(life.counts(), OVER);

    let mut life = end();
    life.is_quiet(100, 159);
    assert_eq!(life.counts(), OVER_FOR_A_JOB);
    assert_eq!(life.passes(160), None, "its job was heard of: no failure");
    assert_eq!(life.counts(), OVER);
}

#[test]
fn b33_exit_0_without_any_job_is_a_failure_after_a_minute() {
    let mut life = Life::idle();
    assert_eq!(life.exits(100, 0, "Completed"), Some(Happening::Ended));
    assert_eq!(
        life.counts(),
        OVER_FOR_A_JOB,
        "most likely a job so short that we have not heard of it"
    );
    life.call(100, Call::DeletePod, CallResult::Done);
    life.runner.pod_gone(at(101));
    life.runner.end_is_known();
    life.is_quiet(101, 159);
    assert!(!life.runner.is_over(at(159)));
    assert_eq!(life.passes(160), failed(Failure::ExitedWithoutJob));
    assert_eq!(
        life.due(160),
        [Call::RemoveAgent, Call::RemoveRecord],
        "never two deletes"
    );
}

#[test]
fn b33_a_job_that_started_or_completed_after_the_pods_end_is_no_failure() {
    let mut life = Life::idle();
    life.exits(100, 0, "Completed");
    assert_eq!(life.job_starts(130), Some(Happening::JobStarted));
    assert_eq!((life.state(), life.counts()), ("ended", OVER_FOR_A_JOB));
    assert_eq!(life.passes(160), None);

    let mut life = Life::idle();
    life.exits(100, 0, "Completed");
    life.runner.job_completed(at(130), job());
    assert_eq!((life.counts(), life.passes(160)), (OVER, None));
}

#[test]
fn a_completion_without_a_start_is_a_job_done() {
    let mut life = Life::idle();
    life.runner.job_completed(at(30), job());
    assert_eq!(life.state(), "jobDone");
    assert_eq!(life.job_starts(31), None, "an older message");
    assert_eq!((life.state(), life.due(31)), ("jobDone", vec![]));
    life.exits(32, 0, "Completed");
    assert_eq!((life.counts(), life.passes(92)), (OVER, None));
}

#[test]
fn b33_what_ended_before_a_restart_is_not_judged_by_what_was_heard_after_it() {
    let mut life = Life::adopted(&ended(Some(0), "Completed"), None);
    assert_eq!((life.state(), life.counts()), ("ended", OVER_FOR_A_JOB));
    assert_eq!(life.passes(60), None);
    assert_eq!(life.counts(), OVER);
}

/// What it was given first was taken back before it began.
#[test]
fn b33_a_second_job_of_one_runner_is_its_own() {
    let other = || Job {
        id: "another".to_owned(),
        ..job()
    };
    let mut life = Life::busy();
    life.runner.job_completed(at(40), job());
    assert_eq!(life.state(), "jobDone");
    assert_eq!(life.runner.job_started(at(50), other()), None);
    assert_eq!((life.state(), life.counts()), ("busy", LIVE));
    life.runner.job_completed(at(60), job());
    assert_eq!(life.state(), "busy", "the first one's end, once more");
    assert_eq!(life.passes(2000), None);
    life.runner.job_completed(at(2000), other());
    assert_eq!(life.state(), "jobDone");

    let mut life = Life::idle();
    life.runner.job_started(at(30), other());
    life.runner.job_completed(at(31), job());
    assert_eq!(life.state(), "busy", "the other's end came late");
}

/// Whose job has ended while nobody listened, and whose process hangs.
#[test]
fn b33_a_busy_runner_that_is_registered_no_more_is_done_and_its_pod_goes_after_proof() {
    let mut life = Life::adopted(&PodProgress::Running { since: at(-10_000) }, Some(job()));
    assert_eq!(life.state(), "busy");
    life.listed(100, AgentSight::Absent);
    life.listed(115, AgentSight::Online { busy: true });
    life.listed(130, AgentSight::Absent);
    assert_eq!(life.state(), "busy");
    life.listed(145, AgentSight::Absent);
    assert_eq!((life.state(), life.counts()), ("jobDone", (true, false)));
    assert_eq!(life.passes(445), None);
    assert_eq!(life.due(445), [Call::RemoveAgent], "two lists are no proof");
    life.call(446, Call::RemoveAgent, CallResult::Busy);
    assert_eq!(life.state(), "busy");
    life.listed(500, AgentSight::Absent);
    life.listed(515, AgentSight::Absent);
    life.passes(815);
    life.call(815, Call::RemoveAgent, CallResult::Done);
    assert_eq!(life.due(815), [Call::DeletePod]);
}

#[test]
fn b12_an_idle_runner_that_goes_offline_is_let_go_after_proof() {
    let mut life = Life::idle();
    assert_eq!(life.listed(100, AgentSight::Offline), None);
    assert_eq!(life.listed(115, AgentSight::Online { busy: false }), None);
    assert_eq!(life.listed(130, AgentSight::Offline), None);
    assert_eq!(life.listed(145, AgentSight::Offline), None);
    assert_eq!(life.listed(160, AgentSight::Offline), failed(Failure::WentOffline));
    assert_eq!((life.counts(), life.due(160)), (OVER, vec![Call::RemoveAgent]));
    life.call(160, Call::RemoveAgent, CallResult::Busy);
    assert_eq!((life.state(), life.counts()), ("busy", LIVE));
}

#[test]
fn b32_a_deletion_of_which_nothing_shows_is_asked_for_again() {
    let mut life = Life::busy();
    life.exits(50, 0, "Completed");
    life.call(55, Call::DeletePod, CallResult::Done);
    assert_eq!(life.passes(114), None);
    assert!(!life.due(114).contains(&Call::DeletePod));
    life.passes(115);
    assert!(life.due(115).contains(&Call::DeletePod));
    life.call(115, Call::DeletePod, CallResult::Done);
    life.sees_deletion(116);
    life.passes(500);
    assert!(!life.due(500).contains(&Call::DeletePod));
}

#[test]
fn b12_a_pod_that_no_watch_has_shown_is_not_ended_without_proof() {
    let mut life = Life::pending();
    assert_eq!(life.passes(602), failed(Failure::Scheduling));
    assert_eq!(life.due(602), [Call::RemoveAgent]);
    life.call(602, Call::RemoveAgent, CallResult::Done);
    assert!(life.due(602).contains(&Call::DeletePod));
}

#[test]
fn b30_a_clock_far_ahead_ends_no_runner_at_its_adoption() {
    let mut life = Life::adopted(&PodProgress::Running { since: at(-10_000) }, Some(job()));
    life.timeouts.total = Some(Duration::from_secs(6_000));
    assert_eq!(life.passes(5_999), None);
    assert_eq!(life.passes(6_000), failed(Failure::TotalLifetime));
}

// ---- Ends before any job --------------------------------------------------------------------------------

#[test]
fn b32_b33_each_end_before_a_job_has_its_own_reason() {
    let cases = [
        (ended(Some(1), "Error"), Failure::CrashedBeforeJob, true),
        (ended(Some(7), "Error"), Failure::Deprecated, true),
        (ended(Some(137), "OOMKilled"), Failure::OutOfMemory, true),
        (ended(Some(137), "Error"), Failure::CrashedBeforeJob, true),
        (ended(None, "Evicted"), Failure::Evicted, false),
        (ended(None, "NodeLost"), Failure::Evicted, false),
        // An init container failed; the kubelet refused it.
        (ended(None, "Failed"), Failure::NotStarted, true),
        (ended(None, "UnexpectedAdmissionError"), Failure::NotStarted, true),
    ];
    for (progress, failure, speaks) in cases {
        for mut life in [Life::running(), Life::idle()] {
            assert_eq!(life.sees(100, progress.clone()), failed(failure), "{progress:?}");
            assert_eq!(life.counts(), OVER);
            assert_eq!(failure.speaks_against_set(false), speaks, "{failure:?}");
            assert!(failure.speaks_against_set(true), "{failure:?} of each new one");
            assert_eq!(life.due(100), [Call::DeletePod, Call::RemoveAgent, Call::RemoveRecord]);
        }
    }
}

#[test]
fn b32_a_pod_deleted_by_hand_speaks_against_nobody() {
    let mut life = Life::idle();
    assert_eq!(life.sees_deletion(50), failed(Failure::PodDeleted));
    assert!(!Failure::PodDeleted.speaks_against_set(false));
    assert_eq!(life.due(50), [Call::RemoveAgent], "its runner process may have a job");
    life.call(50, Call::RemoveAgent, CallResult::Done);
    assert_eq!(life.due(50), [Call::RemoveRecord], "it is being deleted already");
    life.exits(60, 143, "Error");
    life.runner.pod_gone(at(61));
    life.call(61, Call::RemoveRecord, CallResult::Done);
    assert!(life.runner.is_over(at(61)));

    let mut life = Life::idle();
    assert_eq!(life.runner.pod_gone(at(50)), failed(Failure::PodDeleted));

    let mut life = Life::idle();
    let killed = PodFacts {
        deleting: true,
        ..facts(ended(Some(137), "Error"))
    };
    assert_eq!(life.runner.pod_seen(at(50), killed), failed(Failure::PodDeleted));
}

/// A drain gives it time, and GitHub a job.
#[test]
fn b32_a_runner_that_works_while_its_pod_is_deleted_counts_until_its_end() {
    let mut life = Life::idle();
    assert_eq!(life.sees_deletion(50), failed(Failure::PodDeleted));
    assert_eq!(life.counts(), OVER);
    assert_eq!(life.job_starts(51), Some(Happening::JobStarted));
    assert_eq!((life.state(), life.counts()), ("busy", LIVE));

    let mut life = Life::idle();
    life.sees_deletion(50);
    life.call(51, Call::RemoveAgent, CallResult::Busy);
    assert_eq!((life.state(), life.counts()), ("busy", LIVE));
    life.runner.pod_gone(at(80));
    assert_eq!(life.state(), "ended");
}

/// Its node is lost, and nobody lets go of the pod.
#[test]
fn b32_a_pod_that_somebody_else_deletes_and_that_stays_is_no_capacity_once_its_job_is_over() {
    let mut life = Life::busy();
    assert_eq!(life.sees_deletion(100), None);
    assert_eq!(life.counts(), (true, true), "its job may still come to an end");
    life.runner.job_completed(at(700), job());
    assert_eq!(life.counts(), OVER);
    assert!(life.due(700).contains(&Call::RemoveAgent));

    let mut life = Life::busy();
    life.runner.job_completed(at(90), job());
    assert_eq!(life.sees_deletion(100), None);
    assert_eq!(life.counts(), OVER);
}

#[test]
fn b32_a_busy_runner_whose_pod_dies_stands_for_its_job_a_while_and_loses_its_registration() {
    for progress in [ended(Some(137), "OOMKilled"), ended(None, "Evicted")] {
        let mut life = Life::busy();
        assert_eq!(life.sees(100, progress), Some(Happening::Ended));
        assert_eq!(life.counts(), OVER_FOR_A_JOB);
        assert!(life.due(100).contains(&Call::RemoveAgent));
        life.call(100, Call::RemoveAgent, CallResult::Busy);
        assert_eq!(
            life.state(),
            "ended",
            "GitHub still counts the dead job: asked again later"
        );
        life.is_quiet(100, 160);
        assert_eq!(life.counts(), OVER);
        assert!(life.due(160).contains(&Call::RemoveAgent));
    }
}

#[test]
fn b12_a_busy_runner_whose_pod_is_being_deleted_is_left_to_end() {
    let mut life = Life::busy();
    life.call(32, Call::MarkBusy, CallResult::Done);
    assert_eq!(life.sees_deletion(40), None);
    assert_eq!((life.state(), life.due(41)), ("busy", vec![]));
    life.runner.pod_gone(at(70));
    assert_eq!((life.state(), life.counts()), ("ended", OVER_FOR_A_JOB));
    assert_eq!(life.due(70), [Call::RemoveAgent, Call::RemoveRecord]);
}

// ---- Retiring -------------------------------------------------------------------------------------------

#[test]
fn b10_a_retiring_runner_whose_pod_somebody_else_deletes_gives_its_place_back() {
    let mut first = Life::idle();
    first.runner.retire(at(200));
    first.sees_deletion(201);
    assert_eq!(first.counts(), LIVE_WITHOUT_JOB, "it may have a job still");
    first.call(202, Call::RemoveAgent, CallResult::Done);
    assert_eq!(first.state(), "ended", "its node may be lost, and nobody lets go of it");

    let mut second = Life::idle();
    second.runner.retire(at(200));
    second.call(201, Call::RemoveAgent, CallResult::Done);
    second.runner.begin(Call::DeletePod);
    second.sees_deletion(202);
    assert_eq!(
        second.state(),
        "ended",
        "the answer to our own deletion may come later, or never"
    );
    second.runner.called(at(203), Call::DeletePod, CallResult::Failed);
    assert_eq!(second.due(600), [Call::RemoveRecord]);
}

#[test]
fn b12_a_pod_whose_label_was_off_for_a_while_is_not_ended_without_proof() {
    let mut life = Life::busy();
    life.runner.pod_gone(at(40));
    assert_eq!(life.state(), "ended");
    life.sees(41, PodProgress::Running { since: at(10) });
    assert_eq!(life.due(41), [Call::RemoveAgent], "its job may go on");
    life.call(41, Call::RemoveAgent, CallResult::Busy);
    for at in 42..600 {
        life.passes(at);
        assert!(!life.due(at).contains(&Call::DeletePod), "at {at} s");
    }
}

fn retiring() -> Life {
    let mut life = Life::idle();
    life.runner.retire(at(200));
    assert_eq!((life.state(), life.counts()), ("retiring", LIVE_WITHOUT_JOB));
    assert_eq!(life.due(200), [Call::RemoveAgent]);
    life
}

#[test]
fn b12_retiring_takes_registration_then_pod_then_record() {
    let mut life = retiring();
    life.call(200, Call::RemoveAgent, CallResult::Done);
    assert_eq!(life.due(200), [Call::DeletePod, Call::RemoveRecord]);
    life.call(200, Call::DeletePod, CallResult::Done);
    life.call(200, Call::RemoveRecord, CallResult::Done);
    assert_eq!((life.state(), life.counts()), ("ended", OVER));
    life.exits(201, 143, "Error");
    assert_eq!((life.state(), life.counts(), life.due(201)), ("ended", OVER, vec![]));
    life.runner.pod_gone(at(202));
    assert!(life.runner.is_over(at(202)));
    assert_eq!(life.passes(300), None, "removed by us: no verdict");
}

#[test]
fn an_unbound_pod_frees_its_capacity_with_the_answer_to_its_deletion() {
    let mut life = Life::pending();
    life.runner.retire(at(200));
    life.call(200, Call::RemoveAgent, CallResult::Done);
    life.call(200, Call::DeletePod, CallResult::Done);
    assert_eq!((life.state(), life.counts()), ("ended", OVER));
    life.call(200, Call::RemoveRecord, CallResult::Done);
    assert!(!life.runner.is_over(at(201)));
    assert!(
        life.runner.is_over(at(260)),
        "a pod that the watch never showed is not waited for"
    );
}

#[test]
fn b12_a_refused_removal_means_a_job() {
    let mut life = retiring();
    life.call(200, Call::RemoveAgent, CallResult::Busy);
    assert_eq!((life.state(), life.counts(), life.due(200)), ("busy", LIVE, vec![]));
    life.job_starts(201);
    assert_eq!(life.due(203), [Call::MarkBusy]);
}

#[test]
fn b12_a_job_that_arrives_while_the_removal_is_under_way_keeps_its_pod() {
    for answer in [CallResult::Busy, CallResult::Failed, CallResult::Done] {
        let mut life = retiring();
        life.runner.begin(Call::RemoveAgent);
        life.job_starts(201);
        assert_eq!((life.state(), life.counts()), ("busy", LIVE));
        life.runner.called(at(202), Call::RemoveAgent, answer);
        assert_eq!(
            (life.state(), life.due(900)),
            ("busy", vec![Call::MarkBusy]),
            "{answer:?}"
        );
    }
    let mut life = retiring();
    life.job_starts(201);
    assert_eq!(life.due(900), [Call::MarkBusy], "nothing of the removal is left");
}

#[test]
fn b13_a_retiring_runner_that_was_given_a_short_job_stands_for_it() {
    let mut life = retiring();
    life.exits(201, 0, "Completed");
    assert_eq!(life.counts(), OVER_FOR_A_JOB);
    assert_eq!(life.passes(261), None, "it was to go: no verdict");

    let mut life = retiring();
    life.call(200, Call::RemoveAgent, CallResult::Done);
    life.exits(201, 0, "Completed");
    assert_eq!(life.counts(), OVER, "its registration was removed: it had no job");
}

#[test]
fn a_removal_that_fails_is_tried_again_at_least_every_30_seconds() {
    let mut life = retiring();
    let mut tries = 0;
    for secs in 200..500 {
        life.passes(secs);
        if life.due(secs).contains(&Call::RemoveAgent) {
            life.call(secs, Call::RemoveAgent, CallResult::Failed);
            tries += 1;
        }
    }
    assert!((10..=16).contains(&tries), "{tries}");
    assert_eq!(life.counts(), LIVE_WITHOUT_JOB);
}

// ---- Failed ---------------------------------------------------------------------------------------------

fn unregistered() -> Life {
    let mut life = Life::running();
    life.listed(300, AgentSight::Offline);
    assert_eq!(life.passes(300), failed(Failure::Registration));
    life
}

#[test]
fn a_failed_runner_whose_container_runs_goes_registration_first() {
    let mut life = unregistered();
    assert_eq!(life.due(300), [Call::RemoveAgent]);
    life.call(300, Call::RemoveAgent, CallResult::Done);
    assert_eq!(life.due(300), [Call::DeletePod, Call::RemoveRecord]);
}

#[test]
fn b12_a_job_that_arrives_while_it_fails_by_registration_timeout_keeps_its_pod() {
    let mut life = unregistered();
    life.call(300, Call::RemoveAgent, CallResult::Busy);
    assert_eq!((life.state(), life.due(300)), ("busy", vec![]));

    let mut life = unregistered();
    life.job_starts(301);
    assert_eq!((life.state(), life.due(303)), ("busy", vec![Call::MarkBusy]));

    let mut life = unregistered();
    life.call(300, Call::RemoveAgent, CallResult::Done);
    life.runner.begin(Call::DeletePod);
    life.job_starts(301);
    assert_eq!(life.state(), "failed", "too late: its deletion is under way");
}

#[test]
fn a_failed_call_that_the_pods_end_has_overtaken_is_not_repeated() {
    let mut life = Life::idle();
    life.exits(100, 1, "Error");
    life.runner.begin(Call::DeletePod);
    life.runner.pod_gone(at(101));
    life.runner.called(at(102), Call::DeletePod, CallResult::Failed);
    life.call(102, Call::RemoveAgent, CallResult::Done);
    life.call(102, Call::RemoveRecord, CallResult::Done);
    assert!(life.runner.is_over(at(102)));
}

#[test]
fn calls_are_repeated_later_and_later_up_to_a_minute() {
    let mut life = Life::decided();
    life.runner.start_failed(at(0), Failure::JitRefused, true);
    let mut tries = Vec::new();
    for secs in 0..200 {
        if life.due(secs).contains(&Call::RemoveRecord) {
            life.call(secs, Call::RemoveRecord, CallResult::Failed);
            tries.push(secs);
        }
    }
    assert_eq!(tries, [0, 1, 3, 7, 15, 31, 63, 123, 183]);
    assert_eq!(life.runner.wake_at(at(200), &life.timeouts), Some(at(243)));
}
