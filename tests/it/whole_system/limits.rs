//! GitHub's rate limits: honoured, said, and left behind as soon as they are over.

use std::time::Duration;

use gharts_listener::sim::{
    github::{JobHandle, Limit, Limited},
    world::{Credential, Options, Provisioner, SetOptions},
};

use super::harness::{Run, Running, Stage, jobs, with_provisioner};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Calls to GitHub so far, those of runner processes aside.
fn calls(running: &Running) -> u64 {
    let calls = running.world.github.calls();
    let of_daemon = |operation: &str| operation == "runner registration" || !operation.starts_with("runner ");
    calls.iter().filter(|(o, _)| of_daemon(o)).map(|(_, n)| n).sum()
}

fn many_sets(count: usize) -> Options {
    let set = |n| SetOptions::new(&format!("set-{n}"), Provisioner::ScaleSet, 10);
    Options {
        sets: (0..count).map(set).collect(),
        ..Options::default()
    }
}

fn a_job_each(running: &Running, count: usize) -> Vec<JobHandle> {
    let queue = |n| running.world.github.queue_jobs(&jobs(&format!("set-{n}"), 1));
    (0..count).flat_map(queue).collect()
}

async fn until_all_poll(running: &Running, within: Duration) {
    running
        .until_within("every set's session", within, |world| {
            world.github.sets().iter().all(|s| s.polling)
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn b24_a_rest_limit_is_waited_for_by_one_call_and_over_within_seconds_of_its_end() {
    for how in [Limit::Primary, Limit::Secondary, Limit::SecondaryUntold, Limit::TooMany] {
        for credential in [Credential::App, Credential::Pat] {
            let _run = Run::called(format!("{how:?} with {credential:?}"));
            let stage = Stage::set(Options {
                credential,
                ..many_sets(20)
            })
            .await;
            stage.world.github.limit(Limited::Rest, how, 10 * MINUTE);
            let running = stage.start();
            let begun = running.world.clock.instant();
            let reason = running.until_reason("set-7", "rate_limited").await;
            for part in ["X-GitHub-Request-Id", "ActivityId"] {
                assert!(reason.message.contains(part), "{reason:?}");
            }
            let until = reason.until.expect("when it is tried again");
            assert!(until.as_str() > "2026-11-23T00:00:5", "{until}");
            running.pass(10 * MINUTE - begun.elapsed() - SECOND).await;
            assert!(running.reason("set-7", "rate_limited").is_some());
            let told = how != Limit::SecondaryUntold;
            // Without a word each minute's end is a try.
            let (most, late) = if told { (1, 6 * SECOND) } else { (11, 70 * SECOND) };
            assert!(calls(&running) <= most, "{:?}", running.world.github.calls());
            until_all_poll(&running, late).await;
            running.until_no_reason("set-7", "rate_limited").await;
            let all = a_job_each(&running, 20);
            running.until_finished(&all, 2 * MINUTE).await;
            running.end().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b24_a_rest_limit_stops_nobody_while_the_admin_connection_lives() {
    let running = Running::start(with_provisioner(Provisioner::ScaleSet)).await;
    let first = running.queue(&jobs("linux", 2)).await;
    running.until_finished(&first, 2 * MINUTE).await;
    running.world.github.limit(Limited::Rest, Limit::Primary, 20 * MINUTE);
    for _ in 0..5 {
        let queued = running.world.github.queue_jobs(&jobs("linux", 4));
        running.until_finished(&queued, 2 * MINUTE).await;
        assert!(!running.said_of("linux").unwrap().degraded);
    }
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b20_a_limit_of_the_actions_service_is_waited_for_by_all_who_share_the_credential() {
    const SETS: usize = 20;
    for how in [Limit::TooMany, Limit::Secondary] {
        let _run = Run::called(format!("{how:?}"));
        let running = Running::start(many_sets(SETS)).await;
        running
            .until("every set's session", |world| {
                world.github.sets().len() == SETS && world.github.sets().iter().all(|s| s.polling)
            })
            .await;
        let before = calls(&running);
        running.world.github.limit(Limited::Service, how, 5 * MINUTE);
        let all = a_job_each(&running, SETS);
        running.until_reason("set-3", "rate_limited").await;
        running.pass(5 * MINUTE - 10 * SECOND).await;
        let made = calls(&running) - before;
        // Each held poll brings its message and is acknowledged or refused; each set asks once more.
        assert!(made <= 5 * SETS as u64, "{made} calls in five minutes");
        running.until_finished(&all, 90 * SECOND).await;
        until_all_poll(&running, 10 * SECOND).await;
        running.end().await;
    }
}
