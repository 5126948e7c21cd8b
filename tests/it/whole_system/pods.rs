//! What befalls pods, and what becomes of their runners, of their jobs, and of the set.

use std::time::Duration;

use gharts_listener::sim::{
    fleet::Behaviour,
    github::{JobHandle, JobState, NewJobs},
    kubernetes::{Fault, Trouble},
    world::{ORGANIZATION, Options, Provisioner, RUNNER_NAMESPACE, SetOptions, World, install},
};
use serde_json::json;

use super::harness::{Running, with_provisioner};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn scale_set() -> Options {
    with_provisioner(Provisioner::ScaleSet)
}

fn jobs(count: usize) -> NewJobs {
    NewJobs::for_set(ORGANIZATION, "linux", count).lasting(30 * SECOND)
}

fn fleet(running: &Running) -> gharts_listener::sim::fleet::Fleet {
    running.world.fleet.clone().unwrap()
}

fn all_succeeded(world: &World, jobs: &[JobHandle]) {
    for job in jobs {
        let job = world.github.job(&job.id).unwrap();
        assert_eq!(job.result.as_deref(), Some("succeeded"), "{job:?}");
    }
}

/// Every pod is ill in one way until its runner has failed twice; then the cause goes, and the job must end
/// without a restart.
async fn failing_then_cured(behaviour: Behaviour, reason: &str, patience: Duration) {
    let running = Running::start(scale_set()).await;
    fleet(&running).behave(move |_| behaviour);
    let jobs = running.queue(&jobs(1)).await;
    running
        .until_within(reason, patience, |_| running.failures(reason) >= 2.0)
        .await;
    assert!(running.has_reason("linux", "pods_failing"), "{:#?}", running.status());
    fleet(&running).behave(|_| Behaviour::Ordinary);
    running
        .until_within("the job's end", 60 * MINUTE, |world| {
            world
                .github
                .job(&jobs[0].id)
                .is_some_and(|j| j.state == JobState::Finished)
        })
        .await;
    assert!(!running.has_reason("linux", "pods_failing"));
    running.settle(0, 10 * MINUTE).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b30_a_pod_that_no_node_takes_fails_by_its_deadline_and_frees_its_capacity() {
    failing_then_cured(Behaviour::Unschedulable, "scheduling_timeout", 40 * MINUTE).await;
}

#[tokio::test(start_paused = true)]
async fn b30_b31_an_image_that_cannot_be_pulled_fails_by_its_deadline_and_frees_its_capacity() {
    failing_then_cured(Behaviour::ImagePullFails, "image_pull_timeout", 40 * MINUTE).await;
}

#[tokio::test(start_paused = true)]
async fn b30_a_runner_that_never_registers_fails_by_its_deadline_and_frees_its_capacity() {
    failing_then_cured(Behaviour::NeverRegisters, "registration_timeout", 20 * MINUTE).await;
}

#[tokio::test(start_paused = true)]
async fn b31_a_runner_that_crashes_before_it_registers_makes_its_set_back_off() {
    failing_then_cured(Behaviour::Crashes(1), "crashed_before_job", 10 * MINUTE).await;
}

#[tokio::test(start_paused = true)]
async fn b31_crashing_pods_are_not_made_by_the_hundred() {
    not_by_the_hundred(Behaviour::Crashes(1)).await;
}

/// An ill device plugin, a template whose init container fails.
#[tokio::test(start_paused = true)]
async fn b31_pods_that_never_begin_are_not_made_by_the_hundred() {
    for behaviour in [Behaviour::Rejected, Behaviour::InitFails] {
        not_by_the_hundred(behaviour).await;
    }
}

#[tokio::test(start_paused = true)]
async fn b31_an_init_container_that_fails_has_its_own_reason() {
    failing_then_cured(Behaviour::InitFails, "failed_to_start", 10 * MINUTE).await;
}

/// Its process hangs, GitHub sees it no more, and gives it no job.
#[tokio::test(start_paused = true)]
async fn b12_b14_a_job_does_not_wait_for_an_idle_runner_that_has_fallen_silent() {
    let running = Running::start(Options {
        sets: vec![SetOptions {
            min_runners: 1,
            // There is no place for another one beside it.
            ..SetOptions::new("linux", Provisioner::ScaleSet, 1)
        }],
        ..Options::default()
    })
    .await;
    fleet(&running).behave(|_| Behaviour::FallsSilent);
    running
        .until("a spare runner", |world| {
            world.github.runners().iter().any(|runner| runner.online)
        })
        .await;
    running.pass(30 * SECOND).await;
    fleet(&running).behave(|_| Behaviour::Ordinary);
    let jobs = running.queue(&jobs(1)).await;
    running.until_ended(&jobs, 4 * MINUTE).await;
    running.end_with_spares(1).await;
}

/// Its process hangs after its job, and the daemon is started again before it has removed the pod.
#[tokio::test(start_paused = true)]
async fn b34_a_pod_whose_job_is_long_over_is_not_taken_for_busy_after_a_restart() {
    let mut running = Running::start(Options {
        sets: vec![SetOptions::new("linux", Provisioner::ScaleSet, 1)],
        ..Options::default()
    })
    .await;
    fleet(&running).behave(|_| Behaviour::HangsAfterJob);
    let first = running.queue(&jobs(1)).await;
    running.until_ended(&first, 2 * MINUTE).await;
    running.pass(10 * SECOND).await;
    running.kill();
    running.start_again();
    let second = running.queue(&jobs(1)).await;
    running
        .until_within("the old pod's end", 10 * MINUTE, |world| {
            world.github.job(&second[0].id).is_some_and(|job| job.runner.is_some())
        })
        .await;
    fleet(&running).behave(|_| Behaviour::Ordinary);
    running.until_ended(&second, 2 * MINUTE).await;
    running.end().await;
}

async fn not_by_the_hundred(behaviour: Behaviour) {
    let running = Running::start(scale_set()).await;
    fleet(&running).behave(move |_| behaviour);
    running.queue(&jobs(10)).await;
    // Looked at often: where they are made without end, ten minutes never pass.
    for _ in 0..600 {
        tokio::time::sleep(SECOND).await;
        let made = running.world.counters.created();
        assert!(made <= 30, "{behaviour:?}: {made} pods in ten minutes");
    }
    let made = running.world.counters.created();
    assert!(made >= 3, "{behaviour:?}: {made} pods in ten minutes");
    tokio::time::sleep(10 * MINUTE).await;
    let more = running.world.counters.created() - made;
    assert!(
        (1..=made / 2).contains(&more),
        "{behaviour:?}: {made} pods in ten minutes, {more} in the next ten: ever more rarely"
    );
}

#[tokio::test(start_paused = true)]
async fn b33_exit_0_without_a_job_is_a_failure_and_does_not_mint_for_ever() {
    let running = Running::start(scale_set()).await;
    fleet(&running).behave(|_| Behaviour::Crashes(0));
    let jobs = running.queue(&jobs(3)).await;
    running
        .until("the verdict", |_| running.failures("exited_without_job") > 0.0)
        .await;
    tokio::time::sleep(10 * MINUTE).await;
    let made = running.world.counters.created();
    assert!((3..=30).contains(&made), "{made} pods in ten minutes");
    fleet(&running).behave(|_| Behaviour::Ordinary);
    running.until_ended(&jobs, 60 * MINUTE).await;
    running.settle(0, 10 * MINUTE).await;
}

#[tokio::test(start_paused = true)]
async fn b33_exit_7_stops_the_set_with_its_reason_and_is_probed_slowly() {
    let running = Running::start(scale_set()).await;
    fleet(&running).behave(|_| Behaviour::Crashes(7));
    let jobs = running.queue(&jobs(1)).await;
    running
        .until("the reason", |_| running.has_reason("linux", "runner_deprecated"))
        .await;
    let before = running.world.counters.created();
    tokio::time::sleep(20 * MINUTE).await;
    let probes = running.world.counters.created() - before;
    assert!((1..=6).contains(&probes), "{probes} probes in 20 minutes");
    fleet(&running).behave(|_| Behaviour::Ordinary);
    running.until_ended(&jobs, 60 * MINUTE).await;
    assert!(!running.has_reason("linux", "runner_deprecated"));
    running.settle(0, 10 * MINUTE).await;
}

#[tokio::test(start_paused = true)]
async fn b10_idle_runners_are_kept_ready_while_some_fail() {
    let mut options = scale_set();
    options.sets[0].min_runners = 3;
    let running = Running::start(options).await;
    running.until("three idle runners", |_| idle(&running) == 3).await;
    // Two of three die; what replaces them is well again.
    for pod in running.pods().iter().take(2) {
        let name = pod["metadata"]["name"].as_str().unwrap();
        running.world.kubernetes.delete("pods", RUNNER_NAMESPACE, name).unwrap();
    }
    running.until("fewer", |_| running.failures("pod_deleted") == 2.0).await;
    running
        .until_within("three idle runners again", MINUTE, |_| idle(&running) == 3)
        .await;
    assert_eq!(running.world.counters.exceeded(), []);
}

fn idle(running: &Running) -> u32 {
    running.set_status("linux").runners.get("idle").copied().unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn b11_pods_that_cannot_be_scheduled_do_not_stand_for_jobs_once_failed() {
    let running = Running::start(scale_set()).await;
    fleet(&running).behave(|_| Behaviour::Unschedulable);
    let jobs = running.queue(&jobs(4)).await;
    running
        .until_within("their deadline", 12 * MINUTE, |_| {
            running.failures("scheduling_timeout") >= 4.0
        })
        .await;
    let live: u32 = running.set_status("linux").runners.values().sum();
    assert!(live <= 1, "one probe at most: {live}");
    fleet(&running).behave(|_| Behaviour::Ordinary);
    running.until_ended(&jobs, 60 * MINUTE).await;
    running.settle(0, 10 * MINUTE).await;
    assert_eq!(running.world.counters.exceeded(), []);
}

/// Jobs come at the very moment when idle runners are being retired; whatever the timing, none is killed.
#[tokio::test(start_paused = true)]
async fn b12_surplus_runners_that_get_a_job_at_the_worst_moment_keep_it() {
    for step in 1..41_u64 {
        let options = Options {
            seed: step,
            ..scale_set()
        };
        let running = Running::start(options).await;
        // Four idle runners whose jobs were taken away.
        fleet(&running).behave(|_| Behaviour::Unschedulable);
        let gone = running.queue(&jobs(4)).await;
        running
            .until("four runners", |world| world.counters.created() == 4)
            .await;
        for job in &gone {
            running.world.github.cancel(&job.id).unwrap();
        }
        fleet(&running).behave(|_| Behaviour::Ordinary);
        running.until("four idle runners", |_| idle(&running) == 4).await;
        // They go two minutes after the zero was confirmed; jobs come around that moment.
        if step < 20 {
            let world = &running.world;
            let first_retired = async {
                while world.github.runners().len() == 4 {
                    tokio::time::sleep(Duration::from_millis(step)).await;
                }
            };
            tokio::time::timeout(10 * MINUTE, first_retired).await.unwrap();
        } else {
            tokio::time::sleep(119 * SECOND + Duration::from_millis(50 * step)).await;
        }
        let late = running.world.github.queue_jobs(&jobs(4));
        running.until_ended(&late, 10 * MINUTE).await;
        all_succeeded(&running.world, &late);
        assert!(
            late.iter()
                .all(|j| !running.world.github.job(&j.id).unwrap().runner_lost)
        );
        running.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn b13_idle_surplus_goes_after_its_time_the_unregistered_first() {
    let running = Running::start(scale_set()).await;
    fleet(&running).behave(|_| Behaviour::Unschedulable);
    let gone = running.queue(&jobs(3)).await;
    running
        .until("three runners", |world| world.counters.created() == 3)
        .await;
    let late = std::sync::atomic::AtomicBool::new(true);
    // One stays without a node; two get ready.
    fleet(&running).behave(move |_| match late.swap(false, std::sync::atomic::Ordering::Relaxed) {
        true => Behaviour::NeverRegisters,
        false => Behaviour::Ordinary,
    });
    for job in &gone[..2] {
        running.world.github.cancel(&job.id).unwrap();
    }
    let begun = running.world.clock.instant();
    running
        .until("one runner less", |world| world.github.runners().len() < 3)
        .await;
    assert!(running.world.clock.instant() - begun >= 20 * SECOND);
    running.until_ended(&gone, 10 * MINUTE).await;
    running.settle(0, 10 * MINUTE).await;
    assert_eq!(
        running.world.counters.created(),
        3,
        "the runners that were there did the job"
    );
}

#[tokio::test(start_paused = true)]
async fn b28_a_runner_costs_four_writes() {
    let running = Running::start(with_provisioner(Provisioner::Gharts)).await;
    let jobs = running.queue(&jobs(30)).await;
    running.until_finished(&jobs, 10 * MINUTE).await;
    let world = running.end().await;
    let writes = world.daemon_writes();
    let expected = [
        ("create pods", 30),
        ("create secrets", 30),
        ("patch pods", 30),
        ("delete pods", 30),
    ];
    let expected: std::collections::BTreeMap<_, _> = expected.map(|(k, n)| (k.to_owned(), n)).into();
    assert_eq!(writes.by_kind, expected);
}

/// A pod dies of `behaviour` under its job; the registration goes, capacity is back, no configuration is used
/// twice, and at most one idle runner takes its place while GitHub still counts the dead job.
async fn dies_under_its_job(behaviour: Behaviour) {
    let running = Running::start(scale_set()).await;
    let first = std::sync::atomic::AtomicBool::new(true);
    fleet(&running).behave(move |_| match first.swap(false, std::sync::atomic::Ordering::Relaxed) {
        true => behaviour,
        false => Behaviour::Ordinary,
    });
    let jobs = running.queue(&jobs(1).lasting(5 * MINUTE)).await;
    running.until_ended(&jobs, 20 * MINUTE).await;
    assert!(running.world.github.job(&jobs[0].id).unwrap().runner_lost);
    running.settle(0, 20 * MINUTE).await;
    assert!(
        running.world.counters.created() <= 2,
        "{}",
        running.world.counters.created()
    );
    assert_eq!(running.world.github.violations(), []);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b32_an_evicted_runner_leaves_nothing_behind() {
    dies_under_its_job(Behaviour::Evicted(20 * SECOND)).await;
}

#[tokio::test(start_paused = true)]
async fn b32_a_runner_killed_for_memory_leaves_nothing_behind() {
    dies_under_its_job(Behaviour::OutOfMemory(20 * SECOND)).await;
}

#[tokio::test(start_paused = true)]
async fn b32_a_runner_whose_node_is_lost_leaves_nothing_behind() {
    dies_under_its_job(Behaviour::NodeLost(20 * SECOND)).await;
}

#[tokio::test(start_paused = true)]
async fn b32_pods_deleted_by_hand_cost_their_jobs_only() {
    let running = Running::start(with_provisioner(Provisioner::Gharts)).await;
    let jobs = running.queue(&jobs(6).lasting(5 * MINUTE)).await;
    running
        .until("busy runners", |world| {
            world.github.jobs().iter().all(|j| j.state == JobState::Running)
        })
        .await;
    for pod in running.pods().iter().take(3) {
        let name = pod["metadata"]["name"].as_str().unwrap();
        running.world.kubernetes.delete("pods", RUNNER_NAMESPACE, name).unwrap();
    }
    running.until_ended(&jobs, 20 * MINUTE).await;
    let lost = jobs
        .iter()
        .filter(|j| running.world.github.job(&j.id).unwrap().runner_lost);
    assert_eq!(lost.count(), 3);
    running.settle(0, 10 * MINUTE).await;
    let created = running.world.counters.created();
    assert!(created <= 9, "{created}");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b34_only_spare_runners_are_safe_to_evict_and_not_while_busy() {
    const SAFE: &str = "/metadata/annotations/cluster-autoscaler.kubernetes.io~1safe-to-evict";
    const KEEP: &str = "/metadata/annotations/karpenter.sh~1do-not-disrupt";
    let mut options = scale_set();
    options.sets[0].min_runners = 1;
    let running = Running::start(options).await;
    running.until("an idle runner", |_| idle(&running) == 1).await;
    let spare = running.pods()[0]["metadata"]["name"].clone();
    assert_eq!(running.pods()[0].pointer(SAFE), Some(&json!("true")));
    let jobs = running.queue(&jobs(1).lasting(MINUTE)).await;
    running
        .until("a busy runner", |world| {
            world.github.job(&jobs[0].id).unwrap().state == JobState::Running
        })
        .await;
    tokio::time::sleep(SECOND).await;
    let pods = running.pods();
    let busy = pods.iter().find(|p| p["metadata"]["name"] == spare).unwrap();
    assert_eq!(busy.pointer(SAFE), Some(&json!("false")));
    assert_eq!(busy.pointer(KEEP), Some(&json!("true")));
    running.until_finished(&jobs, 5 * MINUTE).await;
}

#[tokio::test(start_paused = true)]
async fn b31_an_invalid_template_is_told_and_not_tried_without_end() {
    let broken = |text: String| {
        text.replace(
            "    template:\n",
            "    template:\n      metadata: { labels: { team: \"no label!\" } }\n",
        )
    };
    let running = Running::start_with(scale_set(), broken).await;
    running.queue(&jobs(3)).await;
    running
        .until("the reason", |_| running.has_reason("linux", "invalid_template"))
        .await;
    running.world.kubernetes.reset_requests();
    tokio::time::sleep(10 * MINUTE).await;
    let tries = running.requests("create", "pods");
    assert!((1..=10).contains(&tries), "{tries} tries in ten minutes");
    assert!(
        running.world.github.runners().len() <= 1,
        "registrations are taken back"
    );
}

#[tokio::test(start_paused = true)]
async fn b31_b35_without_its_role_it_says_forbidden_and_recovers_with_it() {
    let running = Running::start(scale_set()).await;
    running.queue(&jobs(0)).await;
    running
        .world
        .kubernetes
        .delete("roles", RUNNER_NAMESPACE, "gharts-listener")
        .unwrap();
    let jobs = running.queue(&jobs(3)).await;
    running
        .until("the reason", |_| running.has_reason("linux", "forbidden"))
        .await;
    running.world.kubernetes.reset_requests();
    tokio::time::sleep(10 * MINUTE).await;
    let tries = running.requests("create", "pods");
    assert!((1..=10).contains(&tries), "{tries} tries in ten minutes");
    install(&running.world.admin_client()).await.unwrap();
    running.until_ended(&jobs, 15 * MINUTE).await;
    assert!(!running.has_reason("linux", "forbidden"));
    // The runner that tries whether it is allowed again is idle, beyond what GitHub has assigned meanwhile.
    running.settle(0, 10 * MINUTE).await;
    assert!(running.world.counters.created() <= 4);
}

#[tokio::test(start_paused = true)]
async fn b15_b31_where_pods_can_be_made_and_not_deleted_no_more_are_made() {
    let running = Running::start(scale_set()).await;
    running.queue(&jobs(0)).await;
    let kubernetes = &running.world.kubernetes;
    let role = kubernetes.get("roles", RUNNER_NAMESPACE, "gharts-listener").unwrap();
    kubernetes.delete("roles", RUNNER_NAMESPACE, "gharts-listener").unwrap();
    let mut rules = role["rules"].clone();
    for rule in rules.as_array_mut().unwrap() {
        rule["verbs"].as_array_mut().unwrap().retain(|verb| verb != "delete");
    }
    let metadata = json!({"name": "gharts-listener", "namespace": RUNNER_NAMESPACE});
    let fewer = json!({"apiVersion": role["apiVersion"], "kind": role["kind"], "metadata": metadata, "rules": rules});
    kubernetes.create(&fewer).unwrap();
    let first = running.queue(&jobs(3)).await;
    running.until_ended(&first, 5 * MINUTE).await;
    running
        .until("the reason", |_| running.has_reason("linux", "forbidden"))
        .await;
    let late = running.queue(&jobs(5)).await;
    tokio::time::sleep(10 * MINUTE).await;
    let made = running.world.counters.created();
    assert!(made <= 4, "{made} pods that cannot be removed");
    kubernetes.delete("roles", RUNNER_NAMESPACE, "gharts-listener").unwrap();
    install(&running.world.admin_client()).await.unwrap();
    running.until_ended(&late, 15 * MINUTE).await;
    running
        .until("the reason's end", |_| !running.has_reason("linux", "forbidden"))
        .await;
    running.settle(0, 10 * MINUTE).await;
}

/// A real API server that has just started answers so until it has read its Roles.
#[tokio::test(start_paused = true)]
async fn b36_an_api_server_that_forbids_everything_for_a_moment_costs_seconds() {
    let running = Running::start(scale_set()).await;
    running.queue(&jobs(0)).await;
    let kubernetes = &running.world.kubernetes;
    kubernetes.delete("roles", RUNNER_NAMESPACE, "gharts-listener").unwrap();
    let jobs = running.queue(&jobs(3)).await;
    running
        .until("the reason", |_| running.has_reason("linux", "forbidden"))
        .await;
    install(&running.world.admin_client()).await.unwrap();
    running.until_ended(&jobs, MINUTE).await;
    running.settle(0, 10 * MINUTE).await;
}

#[tokio::test(start_paused = true)]
async fn b31_a_full_resource_quota_is_told_and_never_exceeded_and_places_are_used_as_they_come() {
    let running = Running::start(scale_set()).await;
    running
        .world
        .kubernetes
        .create(&json!({"apiVersion": "v1", "kind": "ResourceQuota",
            "metadata": {"name": "few", "namespace": RUNNER_NAMESPACE}, "spec": {"hard": {"pods": "2"}}}))
        .unwrap();
    let jobs = running.queue(&jobs(8)).await;
    running
        .until("the reason", |_| running.has_reason("linux", "resource_quota"))
        .await;
    running.until_ended(&jobs, 20 * MINUTE).await;
    all_succeeded(&running.world, &jobs);
    assert_eq!(running.world.counters.max_live(), 2);
    running
        .until("the reason's end", |_| !running.has_reason("linux", "resource_quota"))
        .await;
    running.end().await;
}

/// Jobs come all the while `trouble` lasts; afterwards everything is in order.
async fn through(name: &str, trouble: impl AsyncFnOnce(&Running)) {
    let running = Running::start(scale_set()).await;
    let mut all = running.queue(&jobs(8)).await;
    running.until("runners", |world| world.counters.created() >= 4).await;
    trouble(&running).await;
    all.extend(running.world.github.queue_jobs(&jobs(8)));
    running.world.kubernetes.clear_faults();
    running.until_ended(&all, 20 * MINUTE).await;
    all_succeeded(&running.world, &all);
    let created = running.end().await.counters.created();
    assert!(created <= 18, "{name}: {created} runners for 16 jobs");
}

#[tokio::test(start_paused = true)]
async fn b36_watches_that_are_cut_or_expire_cost_nothing() {
    through("cut", async |running| {
        for _ in 0..5 {
            running.world.kubernetes.cut_watches();
            tokio::time::sleep(2 * SECOND).await;
            running.world.kubernetes.compact();
            running.world.kubernetes.cut_watches();
            tokio::time::sleep(7 * SECOND).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn b36_an_outage_of_two_minutes_passes() {
    through("outage", async |running| {
        running.world.kubernetes.set_outage(true);
        tokio::time::sleep(2 * MINUTE).await;
        running.world.kubernetes.set_outage(false);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn b36_a_throttling_api_server_is_borne() {
    through("throttled", async |running| {
        running
            .world
            .kubernetes
            .add_fault(Fault::new(Trouble::Throttled { retry_after: 2 }));
        tokio::time::sleep(MINUTE).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn b36_answers_that_are_lost_make_no_second_pod() {
    through("lost", async |running| {
        running
            .world
            .kubernetes
            .add_fault(Fault::new(Trouble::Lost).verb("create").times(12));
        running
            .world
            .kubernetes
            .add_fault(Fault::new(Trouble::Lost).verb("delete").times(6));
        tokio::time::sleep(MINUTE).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn b36_a_slow_api_server_slows_only() {
    through("slow", async |running| {
        running
            .world
            .kubernetes
            .add_fault(Fault::new(Trouble::Slow(5 * SECOND)));
        tokio::time::sleep(2 * MINUTE).await;
    })
    .await;
}
