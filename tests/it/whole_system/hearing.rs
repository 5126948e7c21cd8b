//! What is heard of the queue: polls that hang, and messages that come a second time.

use std::time::Duration;

use gharts_listener::sim::{
    github::{AssignedJobsRunOn, JobState},
    network::Trouble,
    world::{Binding, Options, Provisioner, RUNNER_NAMESPACE, SetOptions},
};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::DeleteParams};

use super::harness::{Run, Running, jobs, with_provisioner};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const GITHUB: &str = "github.test";
const POLLS: &str = "/messages";
const DELETIONS: &str = "/messages/";

/// At its limit a set listens closely, and so does a sensor always.
fn close_listeners() -> [Options; 2] {
    let mut sensor = SetOptions::new("linux", Provisioner::Gharts, 10);
    sensor.binding = Binding::LabelsAvailable;
    let mut full = SetOptions::new("linux", Provisioner::Gharts, 10);
    full.min_runners = 2;
    [
        Options {
            sets: vec![sensor],
            assigned_jobs_run_on: AssignedJobsRunOn::SetRunners,
            ..Options::default()
        },
        Options {
            sets: vec![full],
            quota: Some(1),
            ..Options::default()
        },
    ]
}

/// The poll waits for an admin connection, to renew its token, when statistics fall due, which want one as well.
#[tokio::test(start_paused = true)]
async fn b2_b7_a_poll_that_renews_slowly_and_the_refresh_beside_it_both_come_to_their_end() {
    for (number, options) in close_listeners().into_iter().enumerate() {
        let run = Run::called(format!("listener {number}"));
        let spares = options.quota.map_or(0, |quota| quota as usize);
        let running = Running::start(options).await;
        running.queue(&jobs("linux", 0)).await;
        running.pass(3 * MINUTE).await;
        let slow = running
            .world
            .network
            .disturb(GITHUB, "runner-registration", Trouble::Late(25 * SECOND));
        for _ in 0..8 {
            running.world.github.revoke_admin_tokens();
            assert!(running.world.github.expire_queue_token("linux"));
            running.pass(47 * SECOND).await;
        }
        assert!(slow.met() > 0);
        slow.end();
        let age = || running.metric("gharts_listener_poll_age_seconds", &["set=\"linux\""]);
        running.pass(2 * MINUTE).await;
        assert!(age() < 60.0, "{}", age());
        let queued = running.queue(&jobs("linux", 2).lasting(10 * SECOND)).await;
        running.until_finished(&queued, 4 * MINUTE).await;
        running.end_with_spares(spares).await;
        drop(run);
    }
}

#[tokio::test(start_paused = true)]
async fn b7_polls_that_hang_are_noticed_while_statistics_are_fetched_beside_them() {
    for (number, options) in close_listeners().into_iter().enumerate() {
        let run = Run::called(format!("listener {number}"));
        let spares = options.quota.map_or(0, |quota| quota as usize);
        let running = Running::start(options).await;
        running.queue(&jobs("linux", 0)).await;
        running.pass(3 * MINUTE).await;
        let age = || running.metric("gharts_listener_poll_age_seconds", &["set=\"linux\""]);
        assert!(age() < 60.0, "{}", age());
        assert!(running.reason("linux", "unreachable").is_none());

        let hung = running.world.network.disturb(GITHUB, POLLS, Trouble::Silence);
        running.until_within("a hung poll", MINUTE, |_| hung.met() > 0).await;
        running.pass(99 * SECOND).await;
        assert!(age() > 90.0, "{}", age());
        assert!(hung.met() <= 2, "{} polls where one hangs", hung.met());
        // The second one in a row is a reason.
        running
            .until_within("the reason", 110 * SECOND, |_| {
                running.reason("linux", "unreachable").is_some()
            })
            .await;
        hung.end();
        running
            .until_within("a poll that is answered", 160 * SECOND, |_| {
                running.reason("linux", "unreachable").is_none()
            })
            .await;
        running.until_within("the gauge", MINUTE, |_| age() < 60.0).await;
        let queued = running.queue(&jobs("linux", 2).lasting(10 * SECOND)).await;
        running.until_finished(&queued, 4 * MINUTE).await;
        running.end_with_spares(spares).await;
        drop(run);
    }
}

/// Its deletion hangs until the jobs that it tells of are long over.
#[tokio::test(start_paused = true)]
async fn b4_b9_old_statistics_of_a_message_that_comes_again_overrule_no_newer_ones() {
    let running = Running::start(with_provisioner(Provisioner::ScaleSet)).await;
    running.world.github.configure(|s| s.frozen_statistics = true);
    running.queue(&jobs("linux", 0)).await;
    let hung = running.world.network.disturb(GITHUB, DELETIONS, Trouble::Silence);
    hung.times(1);
    let queued = running.queue(&jobs("linux", 5).lasting(SECOND)).await;
    running.until_finished(&queued, 2 * MINUTE).await;
    running.pass(5 * MINUTE).await;
    assert_eq!(hung.met(), 1);
    let world = running.end().await;
    assert_eq!(world.counters.created(), 5, "and no runner for a job that is over");
}

impl Running {
    /// As a cluster's clean-up of ended pods does.
    async fn clear_pods_away(&self) {
        let api: Api<Pod> = Api::namespaced(self.world.admin_client(), RUNNER_NAMESPACE);
        for pod in self.pods() {
            let name = pod["metadata"]["name"].as_str().unwrap();
            api.delete(name, &DeleteParams::default().grace_period(0))
                .await
                .unwrap();
        }
    }
}

/// Killed between poll and delete; what it left in the queue tells its successor of jobs that are over.
#[tokio::test(start_paused = true)]
async fn b4_b9_what_a_dead_daemon_left_undeleted_makes_no_runner_for_jobs_that_are_over() {
    for provisioner in [Provisioner::ScaleSet, Provisioner::Gharts] {
        let run = Run::called(format!("{provisioner:?}"));
        let mut running = Running::start(with_provisioner(provisioner)).await;
        running.world.github.configure(|s| s.frozen_statistics = true);
        running.queue(&jobs("linux", 0)).await;
        let stuck = running.world.network.disturb(GITHUB, DELETIONS, Trouble::Silence);
        let queued = running.queue(&jobs("linux", 4).lasting(30 * SECOND)).await;
        running
            .until("jobs at work and a message that is not deleted", |_| {
                stuck.met() > 0 && running.count(&queued, JobState::Running) == 4
            })
            .await;
        running.kill();
        stuck.end();
        tokio::time::sleep(2 * MINUTE).await;
        assert_eq!(running.count(&queued, JobState::Finished), 4);
        running.clear_pods_away().await;
        running.start_again();
        running
            .until("a session", |world| world.github.set("linux").unwrap().polling)
            .await;
        running.pass(12 * MINUTE).await;
        assert_eq!(running.end().await.counters.created(), 4);
        drop(run);
    }
}
