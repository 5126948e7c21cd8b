//! Which tasks may die: those of the core take the process down in good order (exit code 70), all others begin anew.

use std::time::Duration;

use gharts_listener::{
    app,
    sim::{github::JobState, world::Provisioner},
};

use super::harness::{Running, jobs, with_provisioner};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn b7_the_death_of_the_leases_keeper_closes_the_sessions_and_ends_the_process() {
    let mut running = Running::start(with_provisioner(Provisioner::Gharts)).await;
    let queued = running.queue(&jobs("linux", 12).lasting(2 * MINUTE)).await;
    running
        .until("jobs at work", |_| running.count(&queued, JobState::Running) == 10)
        .await;
    running.daemon.cable.make_fatal(Some("/leases/"));
    let ended = tokio::time::timeout(MINUTE, &mut running.daemon.task).await;
    let error = ended.expect("it ends").unwrap().unwrap_err();
    assert!(matches!(error, app::Error::Core(_)), "{error}");
    assert_eq!(running.world.leaks().await.unwrap().sessions, 0, "closed, not left");
    // What is left of the process in this one.
    running.kill();
    assert_eq!(running.count(&queued, JobState::Running), 10, "its runners run on");

    // As Kubernetes or systemd does.
    running.start_again();
    running.until_finished(&queued, 10 * MINUTE).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b8_calls_and_watches_of_pods_that_panic_begin_anew_and_nothing_is_lost() {
    let running = Running::start(with_provisioner(Provisioner::Gharts)).await;
    let before = running.queue(&jobs("linux", 5).lasting(MINUTE)).await;
    running
        .until("jobs at work", |_| running.count(&before, JobState::Running) == 5)
        .await;
    running.daemon.cable.make_fatal(Some("/pods"));
    let meanwhile = running.queue(&jobs("linux", 5).lasting(MINUTE)).await;
    running.until_reason("linux", "set_failed").await;
    running.pass(5 * MINUTE).await;
    assert_eq!(running.count(&meanwhile, JobState::Finished), 0);
    running.daemon.cable.make_fatal(None);
    running.until_finished(&meanwhile, 10 * MINUTE).await;
    running.until_finished(&before, MINUTE).await;
    running.until_no_reason("linux", "set_failed").await;
    running.end().await;
}
