//! B36: the API server takes a list or a watch of pods and then falls silent, and nobody says that it did.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use gharts_listener::sim::{
    github::NewJobs,
    kubernetes::{Fault, Trouble},
    network::Trouble as OnTheWay,
    world::{ORGANIZATION, Options, Provisioner, RUNNER_NAMESPACE, SetOptions, account_name},
};
use serde_json::json;

use super::harness::{Running, Stage};

const MINUTE: Duration = Duration::from_secs(60);

/// Two runners at most: what comes after the first two jobs waits until the daemon has seen pods end.
fn two_runners() -> Options {
    Options {
        sets: vec![SetOptions::new("linux", Provisioner::ScaleSet, 2)],
        ..Options::default()
    }
}

fn jobs(count: usize) -> NewJobs {
    NewJobs::for_set(ORGANIZATION, "linux", count).lasting(MINUTE / 2)
}

/// The daemon's next request of this kind for pods meets `trouble`; whether it has.
fn strike(running: &Running, verb: &str, trouble: Trouble) -> Arc<AtomicBool> {
    let fault = Fault::new(trouble).verb(verb).resource("pods").user(&account_name());
    let met = fault.met();
    running.world.kubernetes.add_fault(fault.times(1));
    met
}

/// Two of six jobs run when the watch is cut; the request that follows meets `trouble`.
async fn watch_meets(trouble: Trouble, within: Duration) {
    let running = Running::start(two_runners()).await;
    let queued = running.queue(&jobs(6)).await;
    running.until("two runners", |world| world.counters.live() == 2).await;
    let met = strike(&running, "watch", trouble);
    running.world.kubernetes.cut_watches();
    running.until_finished(&queued, within).await;
    assert!(met.load(Ordering::SeqCst), "no watch met it");
    running.end().await;
}

/// Somebody has taken the right to watch away; pods are made all the same, and no runner dies of it.
#[tokio::test(start_paused = true)]
async fn b12_b15_pods_that_cannot_be_watched_are_said_and_not_ended_without_proof() {
    let running = Running::start(two_runners()).await;
    running.queue(&jobs(1)).await;
    running.until("a runner", |world| world.counters.live() == 1).await;
    running.pass(2 * MINUTE).await;
    let kubernetes = &running.world.kubernetes;
    for verb in ["watch", "list"] {
        kubernetes.add_fault(
            Fault::new(Trouble::NotFound)
                .verb(verb)
                .resource("pods")
                .user(&account_name()),
        );
    }
    kubernetes.cut_watches();
    // Nor does the queue tell which runner has a job.
    let unheard = |body: &[u8]| Bytes::from(String::from_utf8_lossy(body).replace("JobStarted", "JobUnheard"));
    let unheard = OnTheWay::Altered(Arc::new(unheard));
    let unheard = running.world.network.disturb("github.test", "/messages", unheard);
    let long = running.queue(&jobs(2).lasting(20 * MINUTE)).await;
    let reason = running.until_reason("linux", "cluster_unavailable").await;
    assert!(reason.message.contains("cannot be watched"), "{}", reason.message);
    running.pass(15 * MINUTE).await;
    unheard.end();
    kubernetes.clear_faults();
    running.until_finished(&long, 30 * MINUTE).await;
    for job in &long {
        assert!(!running.world.github.job(&job.id).unwrap().runner_lost);
    }
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b36_a_watch_that_is_never_answered_is_asked_for_again_within_a_minute() {
    watch_meets(Trouble::Hang, 3 * MINUTE).await;
}

#[tokio::test(start_paused = true)]
async fn b36_a_watch_that_begins_and_falls_silent_is_given_up_after_a_minute() {
    watch_meets(Trouble::Silent, 3 * MINUTE).await;
}

#[tokio::test(start_paused = true)]
async fn b36_a_watch_that_is_refused_by_half_an_answer_is_asked_for_again_within_a_minute() {
    let running = Running::start(two_runners()).await;
    let queued = running.queue(&jobs(6)).await;
    running.until("two runners", |world| world.counters.live() == 2).await;
    // The refusal begins, and its words never come.
    let kubernetes = &running.world.kubernetes;
    let met = strike(&running, "watch", Trouble::Silent);
    let rights = kubernetes
        .get("rolebindings", RUNNER_NAMESPACE, "gharts-listener")
        .unwrap();
    kubernetes
        .delete("rolebindings", RUNNER_NAMESPACE, "gharts-listener")
        .unwrap();
    kubernetes.cut_watches();
    running.pass(Duration::from_secs(5)).await;
    assert!(met.load(Ordering::SeqCst), "no watch met it");
    let again = json!({"apiVersion": rights["apiVersion"], "kind": rights["kind"],
        "metadata": {"name": "gharts-listener", "namespace": RUNNER_NAMESPACE},
        "roleRef": rights["roleRef"], "subjects": rights["subjects"]});
    kubernetes.create(&again).unwrap();
    running.until_finished(&queued, 5 * MINUTE).await;
    running.end().await;
}

/// The daemon's first lists of pods meet `trouble`: of one who stands by, and of one who leads.
async fn first_lists_meet(trouble: Trouble) {
    let stage = Stage::set(two_runners()).await;
    let fault = Fault::new(trouble).verb("list").resource("pods").user(&account_name());
    let met = fault.met();
    let fault = stage.world.kubernetes.add_fault(fault);
    let running = stage.start();
    let queued = running.queue(&jobs(1)).await;
    running.pass(Duration::from_secs(10)).await;
    assert!(met.load(Ordering::SeqCst), "no list met it");
    running.world.kubernetes.end_fault(fault);
    running.until_finished(&queued, 2 * MINUTE).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b36_a_list_that_is_never_answered_is_asked_for_again_within_a_minute() {
    first_lists_meet(Trouble::Hang).await;
}

#[tokio::test(start_paused = true)]
async fn b36_a_list_that_begins_and_falls_silent_is_asked_for_again_within_a_minute() {
    first_lists_meet(Trouble::Silent).await;
}

/// They begin, end in their time, and bring nothing: after a restore of etcd, say.
#[tokio::test(start_paused = true)]
async fn b36_watches_that_bring_nothing_do_not_blind_for_long() {
    let running = Running::start(two_runners()).await;
    running
        .until("a session", |world| world.github.sets().iter().any(|set| set.polling))
        .await;
    let stuck = Fault::new(Trouble::Stuck)
        .verb("watch")
        .resource("pods")
        .user(&account_name());
    let met = stuck.met();
    running.world.kubernetes.add_fault(stuck);
    running.world.kubernetes.cut_watches();
    running.pass(MINUTE).await;
    assert!(met.load(Ordering::SeqCst), "no watch met it");
    let queued = running.queue(&jobs(4)).await;
    running.until_finished(&queued, 40 * MINUTE).await;
    running
        .until("no pods", |world| {
            world.kubernetes.list("pods", RUNNER_NAMESPACE).is_empty()
        })
        .await;
    running.world.kubernetes.clear_faults();
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b36_where_no_pod_changes_the_list_is_read_a_few_times_an_hour() {
    let running = Running::start(two_runners()).await;
    running
        .until("a session", |world| world.github.sets().iter().any(|set| set.polling))
        .await;
    let before = running.requests("list", "pods");
    assert!(before > 0, "the daemon has not listed");
    running.pass(60 * MINUTE).await;
    let again = running.requests("list", "pods") - before;
    assert!((5..=6).contains(&again), "{again} times");
    running.end().await;
}
