//! How the runners that GHARTS registers meet the jobs of a scale set: every flavour of the service, every binding, and
//! both worlds that GitHub may be (B22, B43).

use std::time::Duration;

use gharts_listener::sim::{
    fleet::Behaviour,
    gharts::{Flavour, Record, Status},
    github::{AssignedJobsRunOn, JobState},
    network::Trouble,
    world::{Binding, Options, Provisioner, SetOptions, World},
};
use http::StatusCode;

use super::harness::{Run, Running, jobs};

const WORLDS: [AssignedJobsRunOn; 2] = [AssignedJobsRunOn::SetRunners, AssignedJobsRunOn::MatchingLabels];
const FLAVOURS: [Flavour; 4] = [Flavour::SetAware, Flavour::Team, Flavour::User, Flavour::Seed];

fn options(flavour: Flavour, binding: Binding, world: AssignedJobsRunOn) -> Options {
    let mut set = SetOptions::new("linux", Provisioner::Gharts, 10);
    set.binding = binding;
    Options {
        flavour,
        assigned_jobs_run_on: world,
        sets: vec![set],
        ..Options::default()
    }
}

/// Twelve jobs of a minute on at most ten runners, and nothing left of them.
async fn serves(flavour: Flavour, binding: Binding, world: AssignedJobsRunOn) {
    let run = Run::called(format!("{flavour:?} {binding:?} {world:?}"));
    let running = Running::start(options(flavour, binding, world)).await;
    let jobs = running.queue(&jobs("linux", 12)).await;
    running.until_finished(&jobs, Duration::from_secs(900)).await;
    let world = running.end().await;
    assert!(world.counters.max_live() <= 10);
    drop(run);
}

#[tokio::test(start_paused = true)]
async fn b43_ordinary_runners_serve_jobs_that_wait_in_both_worlds_and_every_flavour() {
    for flavour in FLAVOURS {
        for world in WORLDS {
            serves(flavour, Binding::LabelsAvailable, world).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b43_ordinary_runners_serve_assigned_jobs_where_matching_labels_are_enough() {
    for flavour in FLAVOURS {
        serves(flavour, Binding::LabelsAssigned, AssignedJobsRunOn::MatchingLabels).await;
    }
}

#[tokio::test(start_paused = true)]
async fn b43_registration_tokens_serve_in_both_worlds_with_the_version_that_hands_them_out() {
    for world in WORLDS {
        serves(Flavour::User, Binding::RegistrationToken, world).await;
    }
}

#[tokio::test(start_paused = true)]
async fn b43_auto_and_scale_set_serve_with_the_extension_in_both_worlds() {
    for binding in [Binding::Auto, Binding::ScaleSet] {
        for world in WORLDS {
            serves(Flavour::SetAware, binding, world).await;
        }
    }
}

/// Where a binding cannot be served no runner is made, the reason says what mends it, and nothing is left.
#[tokio::test(start_paused = true)]
async fn b43_a_binding_that_the_service_cannot_serve_makes_no_runner_and_says_the_remedies() {
    let unserved = [
        (Flavour::Team, Binding::Auto),
        (Flavour::User, Binding::Auto),
        (Flavour::Seed, Binding::ScaleSet),
        (Flavour::SetAware, Binding::RegistrationToken),
        (Flavour::Team, Binding::RegistrationToken),
        (Flavour::Seed, Binding::RegistrationToken),
    ];
    for (flavour, binding) in unserved {
        let run = Run::called(format!("{flavour:?} {binding:?}"));
        let running = Running::start(options(flavour, binding, AssignedJobsRunOn::SetRunners)).await;
        let jobs = running.queue(&jobs("linux", 3)).await;
        let reason = running.until_reason("linux", "binding_unsupported").await;
        assert!(reason.message.contains("provisioner: scaleSet"), "{}", reason.message);
        running.pass(Duration::from_secs(600)).await;
        for job in &jobs {
            let _ = running.world.github.cancel(&job.id);
        }
        let world = running.end().await;
        assert_eq!(world.counters.created(), 0);
        drop(run);
    }
}

/// GitHub refuses for sure what the token was handed out for, and GHARTS does not take its record back.
#[tokio::test(start_paused = true)]
async fn b47_a_record_that_could_not_be_given_back_after_a_refusal_goes_as_soon_as_gharts_lets_it() {
    let (user, binding) = (Flavour::User, Binding::RegistrationToken);
    let running = Running::start(options(user, binding, AssignedJobsRunOn::SetRunners)).await;
    running.queue(&jobs("linux", 0)).await;
    let network = &running.world.network;
    let says = |status, text: &str| Trouble::Answered(status, text.to_owned());
    let refused = says(StatusCode::BAD_REQUEST, r#"{"message":"not now"}"#);
    network.disturb("github.test", "/generatejitconfig", refused).times(1);
    let failed = says(
        StatusCode::INTERNAL_SERVER_ERROR,
        r#"{"detail":"Internal server error"}"#,
    );
    let kept = network.disturb("gharts.test", "DELETE /api/v1/runners/", failed);
    let job = running.world.github.queue_jobs(&jobs("linux", 1));
    running.until("the refusal", |_| kept.met() > 0).await;
    running.pass(Duration::from_secs(20)).await;
    kept.end();
    // Long before the next search for orphans.
    let left = |world: &World| {
        let all = world.gharts.records();
        let gone = |record: &&Record| record.status == Status::Deleted;
        all.len() - all.iter().filter(gone).count()
    };
    running
        .until_within("its end", Duration::from_secs(60), |world| left(world) == 0)
        .await;
    running.until_finished(&job, Duration::from_secs(600)).await;
    running.end().await;
}

/// The seed's picture in the world that GitHub most likely is: harmless, and told.
#[tokio::test(start_paused = true)]
async fn b43_the_watchdog_says_that_ordinary_runners_do_not_get_assigned_jobs() {
    for flavour in FLAVOURS {
        let run = Run::called(format!("{flavour:?}"));
        let options = options(flavour, Binding::LabelsAssigned, AssignedJobsRunOn::SetRunners);
        let running = Running::start(options).await;
        let waiting = running.queue(&jobs("linux", 3)).await;
        let reason = running.until_reason("linux", "runners_do_not_match_jobs").await;
        assert!(reason.remedy.unwrap().contains("labelsDemand: available"));
        assert!(running.said_of("linux").unwrap().degraded);
        let made = running.world.counters.created();
        running.queue(&jobs("linux", 3)).await;
        running.pass(Duration::from_secs(90)).await;
        assert_eq!(running.world.counters.created(), made, "no more of what does not help");
        assert_eq!(running.count(&waiting, JobState::Finished), 0);
        running.pass(Duration::from_secs(1800)).await;
        let made = running.world.counters.created();
        assert!(
            made <= 18,
            "{made} runners in half an hour for jobs that none of them gets"
        );
        for job in running.world.github.jobs() {
            let _ = running.world.github.cancel(&job.id);
        }
        running.end().await;
        drop(run);
    }
}

#[tokio::test(start_paused = true)]
async fn b43_no_watchdog_where_jobs_are_served() {
    let options = options(Flavour::SetAware, Binding::Auto, AssignedJobsRunOn::SetRunners);
    let running = Running::start(options).await;
    let jobs = running.queue(&jobs("linux", 30)).await;
    for _ in 0..60 {
        running.pass(Duration::from_secs(10)).await;
        assert!(running.reason("linux", "runners_do_not_match_jobs").is_none());
    }
    running.until_finished(&jobs, Duration::from_secs(900)).await;
    running.end().await;
}

/// Surplus ordinary runners end only by proof, and no job is lost over it.
#[tokio::test(start_paused = true)]
async fn b12_surplus_ordinary_runners_go_and_a_busy_one_never() {
    let mut options = options(Flavour::Team, Binding::LabelsAvailable, AssignedJobsRunOn::SetRunners);
    options.sets[0].min_runners = 3;
    let running = Running::start(options).await;
    running
        .until("three idle runners", |world| world.counters.live() == 3)
        .await;
    for _ in 0..4 {
        let jobs = running.queue(&jobs("linux", 6)).await;
        running.until_finished(&jobs, Duration::from_secs(600)).await;
        running.pass(Duration::from_secs(200)).await;
    }
    running
        .until("three idle runners again", |world| world.counters.live() == 3)
        .await;
    running.end_with_spares(3).await;
}

/// The two ways of ordinary runners, each in the world where it serves.
const ORDINARY: [(Binding, AssignedJobsRunOn); 2] = [
    (Binding::LabelsAssigned, AssignedJobsRunOn::MatchingLabels),
    (Binding::LabelsAvailable, AssignedJobsRunOn::SetRunners),
];

/// Nobody tells of an ordinary runner's job; that one had none shows in the registration that it left behind.
#[tokio::test(start_paused = true)]
async fn b33_ordinary_runners_whose_image_exits_0_at_once_are_not_minted_for_ever() {
    for (binding, world) in ORDINARY {
        let run = Run::called(format!("{binding:?}"));
        let running = Running::start(options(Flavour::Team, binding, world)).await;
        let fleet = running.world.fleet.clone().unwrap();
        fleet.behave(|_| Behaviour::Crashes(0));
        let jobs = running.queue(&jobs("linux", 3)).await;
        running
            .until("a verdict", |_| running.failures("exited_without_job") > 0.0)
            .await;
        running.until_reason("linux", "runners_leave").await;
        let before = running.world.counters.created();
        running.pass(Duration::from_secs(1200)).await;
        let made = running.world.counters.created() - before;
        assert!((1..=30).contains(&made), "{made} pods in twenty minutes");
        fleet.behave(|_| Behaviour::Ordinary);
        running.until_finished(&jobs, Duration::from_secs(3600)).await;
        running.end().await;
        drop(run);
    }
}

/// Jobs too short for any list are no failures.
#[tokio::test(start_paused = true)]
async fn b33_ordinary_runners_with_jobs_of_two_seconds_are_not_taken_for_failures() {
    for (binding, world) in ORDINARY {
        let run = Run::called(format!("{binding:?}"));
        let running = Running::start(options(Flavour::Team, binding, world)).await;
        for _ in 0..4 {
            let short = jobs("linux", 10).lasting(Duration::from_secs(2));
            let short = running.queue(&short).await;
            running.until_finished(&short, Duration::from_secs(300)).await;
            running.pass(Duration::from_secs(31)).await;
        }
        assert!(running.failures("exited_without_job") < 1.0);
        assert!(running.reason("linux", "runners_leave").is_none());
        running.end().await;
        drop(run);
    }
}

/// Where short jobs come faster than they are done, ever more wait and no list shows who works: no sign of a bad image.
#[tokio::test(start_paused = true)]
async fn b33_a_backlog_of_short_jobs_that_grows_holds_no_ordinary_runner_back() {
    for (binding, world) in ORDINARY {
        let run = Run::called(format!("{binding:?}"));
        let running = Running::start(options(Flavour::Team, binding, world)).await;
        let short = jobs("linux", 40).lasting(Duration::from_secs(2));
        let mut all = Vec::new();
        for _ in 0..30 {
            all.extend(running.queue(&short).await);
            for _ in 0..10 {
                running.pass(Duration::from_secs(1)).await;
                assert!(!running.has_reason("linux", "runners_leave"));
            }
        }
        let done = running.count(&all, JobState::Finished);
        assert!(
            (400..1000).contains(&done),
            "{done} of {} jobs in five minutes of ten runners",
            all.len()
        );
        running.until_finished(&all, Duration::from_secs(1200)).await;
        assert!(!running.has_reason("linux", "runners_leave"));
        assert!(running.failures("exited_without_job") < 1.0);
        running.end().await;
        drop(run);
    }
}

/// Also where some had jobs a moment ago, the queue tells that the waiting jobs get no fewer.
#[tokio::test(start_paused = true)]
async fn b33_a_set_whose_ordinary_runners_worked_and_now_leave_one_after_the_other_backs_off_within_a_minute() {
    let (binding, world) = ORDINARY[1];
    let running = Running::start(options(Flavour::Team, binding, world)).await;
    let fleet = running.world.fleet.clone().unwrap();
    let good = running.queue(&jobs("linux", 3)).await;
    running.until_finished(&good, Duration::from_secs(300)).await;
    running
        .until_within("no runner", Duration::from_secs(240), |_| {
            running.set_status("linux").runners.is_empty()
        })
        .await;
    fleet.behave(|_| Behaviour::Crashes(0));
    let before = running.world.counters.created();
    let bad = running.queue(&jobs("linux", 3)).await;
    running
        .until_within("the reason", Duration::from_secs(60), |_| {
            running.has_reason("linux", "runners_leave")
        })
        .await;
    running.pass(Duration::from_secs(600)).await;
    let made = running.world.counters.created() - before;
    assert!((6..=60).contains(&made), "{made} pods in ten minutes");
    fleet.behave(|_| Behaviour::Ordinary);
    running.until_finished(&bad, Duration::from_secs(900)).await;
    assert!(!running.has_reason("linux", "runners_leave"), "one has had its job");
    running.end().await;
}

/// Spare runners that come online, wait no longer than ten seconds, and end with exit code 0.
#[tokio::test(start_paused = true)]
async fn b33_spare_runners_that_do_not_wait_for_a_job_are_made_ever_more_rarely_whatever_the_binding() {
    let bindings = [
        (Flavour::SetAware, Binding::ScaleSet, WORLDS[0]),
        (Flavour::Team, ORDINARY[0].0, ORDINARY[0].1),
        (Flavour::Team, ORDINARY[1].0, ORDINARY[1].1),
    ];
    for (flavour, binding, world) in bindings {
        let run = Run::called(format!("{binding:?}"));
        let mut options = options(flavour, binding, world);
        options.sets[0].min_runners = 2;
        let running = Running::start(options).await;
        let fleet = running.world.fleet.clone().unwrap();
        fleet.behave(|_| Behaviour::Leaves(Duration::from_secs(10)));
        running.until_reason("linux", "runners_leave").await;
        let before = running.world.counters.created();
        running.pass(Duration::from_secs(1200)).await;
        let made = running.world.counters.created() - before;
        assert!((1..=24).contains(&made), "{made} pods in twenty minutes");
        fleet.behave(|_| Behaviour::Ordinary);
        running
            .until_within("spare runners that wait", Duration::from_secs(900), |_| {
                running.set_status("linux").runners.get("idle") == Some(&2)
            })
            .await;
        running.end_with_spares(2).await;
        drop(run);
    }
}
