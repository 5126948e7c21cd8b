//! The daemon, unchanged, in the simulated world under virtual time.

mod bindings;
mod cleanup;
mod errors;
mod failures;
mod gharts;
mod github;
mod harness;
mod hearing;
mod hybrid;
mod identity;
mod kill;
mod life;
mod limits;
mod many;
mod modes;
mod operations;
mod pace;
mod pods;
mod queue;
mod quota;
mod rebinding;
mod registration;
mod reload;
mod replicas;
mod restarts;
mod rotation;
mod standing;
mod supervision;
mod teams;
mod watch;

use std::time::Duration;

use gharts_listener::sim::{
    fleet::Behaviour,
    github::{Flow, JobHandle, NewJobs},
    world::{ORGANIZATION, Options, Provisioner, SetOptions},
};

use self::harness::{Running, with_provisioner};

async fn twenty_jobs(options: Options) {
    let running = Running::start(options).await;
    let jobs = running.queue(&NewJobs::for_set(ORGANIZATION, "linux", 20)).await;
    running.until_finished(&jobs, Duration::from_secs(600)).await;
    let world = running.end().await;
    assert_eq!(world.counters.created(), 20, "one runner per job");
    assert_eq!(world.counters.max_live(), 10, "maxRunners at one time");
}

#[tokio::test(start_paused = true)]
async fn jobs_are_served_through_a_set_aware_gharts() {
    twenty_jobs(with_provisioner(Provisioner::Gharts)).await;
}

#[tokio::test(start_paused = true)]
async fn jobs_are_served_through_the_scale_set_alone() {
    twenty_jobs(with_provisioner(Provisioner::ScaleSet)).await;
}

#[tokio::test(start_paused = true)]
async fn b5_jobs_are_acquired_where_the_service_offers_them() {
    twenty_jobs(Options {
        flow: Flow::Ghes,
        ..with_provisioner(Provisioner::Gharts)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn b10_idle_runners_are_kept_ready_on_top_of_demand() {
    let mut set = SetOptions::new("linux", Provisioner::ScaleSet, 10);
    set.min_runners = 2;
    let running = Running::start(Options {
        sets: vec![set],
        ..Options::default()
    })
    .await;
    running
        .until("two idle runners", |world| world.counters.live() == 2)
        .await;
    let jobs = running.queue(&NewJobs::for_set(ORGANIZATION, "linux", 3)).await;
    running.until_finished(&jobs, Duration::from_secs(300)).await;
    running
        .until("two idle runners again", |world| world.counters.live() == 2)
        .await;
    assert_eq!(running.world.counters.exceeded(), []);
}

#[tokio::test(start_paused = true)]
async fn b31_a_set_whose_pods_crashed_is_served_once_the_cause_is_gone() {
    let running = Running::start(with_provisioner(Provisioner::Gharts)).await;
    let fleet = running.world.fleet.clone().unwrap();
    fleet.behave(|_| Behaviour::Crashes(3));
    let jobs = running.queue(&NewJobs::for_set(ORGANIZATION, "linux", 3)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(running.world.github.unfinished_jobs(), 3, "nobody registered");
    fleet.behave(|_| Behaviour::Ordinary);
    running.until_finished(&jobs, Duration::from_secs(800)).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b30_a_pod_that_waits_for_a_node_serves_its_job_when_there_is_one() {
    let running = Running::start(with_provisioner(Provisioner::ScaleSet)).await;
    let fleet = running.world.fleet.clone().unwrap();
    fleet.behave(|_| Behaviour::Unschedulable);
    let jobs = running.queue(&NewJobs::for_set(ORGANIZATION, "linux", 2)).await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(
        running.world.counters.created(),
        2,
        "one pod per job, and no more while they wait"
    );
    fleet.behave(|_| Behaviour::Ordinary);
    running.until_finished(&jobs, Duration::from_secs(300)).await;
    assert_eq!(running.end().await.counters.created(), 2);
}

/// Three hundred at once cost the fleet three writes each and no time.
#[tokio::test(start_paused = true)]
async fn a_burst_of_three_hundred_is_served_without_a_surplus_pod() {
    let running = Running::start(Options {
        sets: vec![SetOptions::new("linux", Provisioner::ScaleSet, 300)],
        ..Options::default()
    })
    .await;
    let jobs = running.queue(&NewJobs::for_set(ORGANIZATION, "linux", 300)).await;
    running.until_finished(&jobs, Duration::from_secs(120)).await;
    let world = running.end().await;
    assert_eq!(world.counters.created(), 300);
    assert!(world.daemon_writes().total() <= 4 * 300, "{:?}", world.daemon_writes());
}

#[tokio::test(start_paused = true)]
async fn a_world_that_forgets_its_past_disturbs_nobody() {
    let running = Running::start(with_provisioner(Provisioner::Gharts)).await;
    let first = running.queue(&NewJobs::for_set(ORGANIZATION, "linux", 5)).await;
    running.until_finished(&first, Duration::from_secs(300)).await;
    running.pass(Duration::from_secs(300)).await;
    let second = running.queue(&NewJobs::for_set(ORGANIZATION, "linux", 5)).await;
    running
        .until("runners at work", |world| world.counters.live() == 5)
        .await;
    let lists = running.requests("list", "pods");
    running
        .world
        .forget(running.world.clock.now() - jiff::SignedDuration::from_mins(2));
    let told = |jobs: &[JobHandle]| {
        jobs.iter()
            .filter(|job| running.world.github.job(&job.id).is_some())
            .count()
    };
    assert_eq!((told(&first), told(&second)), (0, 5));
    assert_eq!(running.world.gharts.records().len(), 5, "those of the second jobs");
    running.until_finished(&second, Duration::from_secs(300)).await;
    assert_eq!(running.requests("list", "pods"), lists, "no watch lost its place");
    assert_eq!(running.end().await.counters.created(), 10);
}
