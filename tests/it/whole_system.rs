//! The daemon, unchanged, in the simulated world under virtual time.

mod harness;

use std::time::Duration;

use gharts_listener::sim::{
    github::{Flow, NewJobs},
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
