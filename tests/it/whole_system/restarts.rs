//! The daemon dies and comes back; the world remembers.

use std::time::Duration;

use gharts_listener::sim::{
    cable::Kill,
    fleet::{Behaviour, FleetSettings},
    github::{JobState, NewJobs},
    kubernetes::{Fault, Trouble},
    world::{Leaks, ORGANIZATION, Options, Provisioner, World},
};

use super::harness::{Running, with_provisioner};

const SECOND: Duration = Duration::from_secs(1);

fn jobs(count: usize) -> NewJobs {
    NewJobs::for_set(ORGANIZATION, "linux", count).lasting(20 * SECOND)
}

/// Runs `count` jobs with one death in between, down for `down`; returns the world at the end, or `None` if the
/// daemon was never killed.
async fn with_one_death(options: Options, count: usize, kill: Kill, down: Duration) -> Option<World> {
    let mut running = Running::start(options).await;
    let jobs = running.world.github.queue_jobs(&jobs(count));
    let killed = running.killed(kill, 600 * SECOND).await;
    tokio::time::sleep(down).await;
    running.start_again();
    running.until_finished(&jobs, 900 * SECOND).await;
    for job in &jobs {
        let job = running.world.github.job(&job.id).unwrap();
        assert_eq!(job.result.as_deref(), Some("succeeded"), "{kill:?}: {job:?}");
    }
    // The dead one's session may have blocked the set until now.
    running
        .until("a session of its own", |world| {
            world.github.set("linux").unwrap().polling
        })
        .await;
    let world = running.end().await;
    killed.then_some(world)
}

/// Every `stride`th request that a daemon makes while it serves three jobs is the last one of its life once.
async fn killed_at_every(stride: usize, provisioner: Provisioner, kill: impl Fn(u64) -> Kill) {
    let mut last = 0;
    for call in (1..).step_by(stride) {
        let options = Options {
            seed: call,
            ..with_provisioner(provisioner)
        };
        let Some(world) = with_one_death(options, 3, kill(call), SECOND).await else {
            break;
        };
        last = call;
        // A start that the death interrupted is made once more, and no other.
        let created = world.counters.created();
        assert!((3..=6).contains(&created), "call {call}: {created} runners for 3 jobs");
    }
    assert!(last > 30, "only {last} calls in a whole life");
}

#[tokio::test(start_paused = true)]
async fn b4_b9_killed_before_any_of_its_calls_the_daemon_loses_no_job_and_starts_nothing_beyond_demand() {
    killed_at_every(2, Provisioner::ScaleSet, |call| Kill::Before { call }).await;
}

#[tokio::test(start_paused = true)]
async fn b4_b9_killed_after_any_of_its_calls_the_daemon_loses_no_job_and_starts_nothing_beyond_demand() {
    killed_at_every(2, Provisioner::ScaleSet, |call| Kill::After { call }).await;
}

#[tokio::test(start_paused = true)]
async fn b21_b47_killed_after_any_call_with_a_gharts_every_record_is_given_back_all_the_same() {
    killed_at_every(3, Provisioner::Gharts, |call| Kill::After { call }).await;
}

#[tokio::test(start_paused = true)]
async fn b4_b9_fifty_jobs_survive_a_kill_at_many_moments() {
    for (seed, call) in [20, 45, 70, 100, 130, 160, 190, 220].into_iter().enumerate() {
        let options = Options {
            seed: seed as u64,
            ..with_provisioner(Provisioner::ScaleSet)
        };
        let kill = if seed % 2 == 0 {
            Kill::Before { call }
        } else {
            Kill::After { call }
        };
        let world = with_one_death(options, 50, kill, SECOND * (seed as u32 * 13 % 40)).await;
        let created = world.expect("so many calls are made").counters.created();
        assert!((50..=60).contains(&created), "{kill:?}: {created} runners for 50 jobs");
    }
}

#[tokio::test(start_paused = true)]
async fn b33_pods_that_ran_jobs_are_adopted_and_never_deleted_while_busy() {
    let mut running = Running::start(with_provisioner(Provisioner::ScaleSet)).await;
    let jobs = running.queue(&jobs(6).lasting(600 * SECOND)).await;
    running
        .until("six busy runners", |world| {
            world.github.jobs().iter().all(|j| j.state == JobState::Running)
        })
        .await;
    running.kill();
    let before: Vec<_> = running.pods().iter().map(|p| p["metadata"]["uid"].clone()).collect();
    tokio::time::sleep(5 * SECOND).await;
    running.start_again();
    tokio::time::sleep(300 * SECOND).await;
    let after: Vec<_> = running.pods().iter().map(|p| p["metadata"]["uid"].clone()).collect();
    assert_eq!(before, after);
    assert_eq!(running.set_status("linux").runners.get("busy"), Some(&6));
    running.until_finished(&jobs, 400 * SECOND).await;
    let world = running.end().await;
    assert_eq!(world.counters.created(), 6);
}

#[tokio::test(start_paused = true)]
async fn b33_runners_that_ended_while_nobody_listened_are_no_failures() {
    let mut running = Running::start(with_provisioner(Provisioner::ScaleSet)).await;
    // They get their jobs before, or after, the daemon is gone, and end while it is, or while its
    // predecessor's session still blocks the queue.
    let jobs = running.queue(&jobs(8)).await;
    running.until("eight pods", |world| world.counters.created() == 8).await;
    running.kill();
    tokio::time::sleep(3 * SECOND).await;
    running.start_again();
    running.until_finished(&jobs, 300 * SECOND).await;
    tokio::time::sleep(300 * SECOND).await;
    assert_eq!(running.metric("gharts_listener_failures_total", &[]), 0.0);
    assert!(!running.has_reason("linux", "pods_failing"));
    assert_eq!(running.end().await.counters.created(), 8);
}

/// The call that is to be the daemon's last: its first request to create a Secret.
async fn killed_before_the_secret(running: &Running) -> bool {
    running
        .world
        .kubernetes
        .add_fault(Fault::new(Trouble::Hang).verb("create").resource("secrets"));
    let stuck = async {
        while running.pods().is_empty() {
            tokio::time::sleep(SECOND / 10).await;
        }
        tokio::time::sleep(SECOND).await;
    };
    let came = tokio::time::timeout(60 * SECOND, stuck).await.is_ok();
    running.kill();
    running.world.kubernetes.clear_faults();
    came
}

#[tokio::test(start_paused = true)]
async fn b28_a_pod_whose_secret_never_came_is_a_failed_start_after_a_restart() {
    let mut running = Running::start(with_provisioner(Provisioner::Gharts)).await;
    let jobs = running.queue(&jobs(1)).await;
    assert!(killed_before_the_secret(&running).await);
    running.start_again();
    running
        .until("the verdict", |_| running.failures("lost_secret") > 0.0)
        .await;
    running.until_finished(&jobs, 300 * SECOND).await;
    assert_eq!(running.failures("lost_secret"), 1.0);
    assert_eq!(running.end().await.counters.created(), 2);
}

#[tokio::test(start_paused = true)]
async fn b37_told_to_end_under_load_it_finishes_what_is_in_flight_and_leaves_runners_running() {
    let mut running = Running::start(Options {
        fleet: Some(FleetSettings {
            start_delay: 3 * SECOND,
            ..FleetSettings::default()
        }),
        ..with_provisioner(Provisioner::Gharts)
    })
    .await;
    let jobs = running.queue(&jobs(40)).await;
    running
        .until("runners at work", |world| world.counters.created() >= 5)
        .await;
    let took = running.stop().await;
    assert!(took <= 45 * SECOND, "{took:?}");
    let Leaks {
        sessions,
        pods,
        secrets,
        ..
    } = running.world.leaks().await.unwrap();
    assert_eq!(sessions, 0, "closed");
    assert!(pods >= 5, "left running");
    assert_eq!(pods, secrets, "no start is left half done");
    running.start_again();
    let begun = running.world.clock.instant();
    running
        .until("a session", |world| world.github.set("linux").unwrap().polling)
        .await;
    assert!(running.world.clock.instant() - begun < 2 * SECOND, "nobody blocks it");
    running.until_finished(&jobs, 600 * SECOND).await;
    assert_eq!(running.end().await.counters.created(), 40);
}

#[tokio::test(start_paused = true)]
async fn b37_a_call_that_hangs_does_not_hold_the_end_back_beyond_45_s() {
    let mut running = Running::start(with_provisioner(Provisioner::ScaleSet)).await;
    running.queue(&jobs(0)).await;
    running
        .world
        .kubernetes
        .add_fault(Fault::new(Trouble::Hang).verb("create").resource("pods"));
    let jobs = running.queue(&jobs(3)).await;
    tokio::time::sleep(2 * SECOND).await;
    let took = running.stop().await;
    assert!(took <= 56 * SECOND, "{took:?}");
    running.world.kubernetes.clear_faults();
    running.start_again();
    running.until_finished(&jobs, 300 * SECOND).await;
    running.end().await;
}

/// Thirty worlds, each with its own deaths and its own misfortunes of pods.
#[tokio::test(start_paused = true)]
async fn b4_b9_b32_random_deaths_and_random_pods_leave_every_job_ended_and_nothing_behind() {
    let only = std::env::var("WHOLE_SYSTEM_SEED").ok().and_then(|s| s.parse().ok());
    for seed in only.map_or(1..31, |seed: u64| seed..seed + 1) {
        eprintln!("seed {seed}; alone: WHOLE_SYSTEM_SEED={seed} cargo test --test it random_deaths_and_random_pods");
        random_life(seed).await;
    }
}

async fn random_life(seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let provisioner = if rng.bool() {
        Provisioner::Gharts
    } else {
        Provisioner::ScaleSet
    };
    let mut options = with_provisioner(provisioner);
    options.seed = seed;
    options.sets[0].min_runners = rng.u32(0..3);
    options.fleet = Some(FleetSettings {
        seed,
        start_delay: Duration::from_millis(rng.u64(0..8000)),
        exit_delay: Duration::from_millis(rng.u64(0..4000)),
        jitter: 0.5,
        ..FleetSettings::default()
    });
    let idle = options.sets[0].min_runners as usize;
    let mut running = Running::start(options).await;
    let fates = std::sync::Mutex::new(rng.fork());
    let fleet = running.world.fleet.clone().unwrap();
    fleet.behave(move |_| random_behaviour(&mut fates.lock().unwrap()));
    let mut jobs = Vec::new();
    for _ in 0..rng.usize(2..6) {
        let some = self::jobs(rng.usize(1..8)).lasting(SECOND * rng.u32(1..200));
        jobs.extend(running.world.github.queue_jobs(&some));
        tokio::time::sleep(Duration::from_millis(rng.u64(0..60_000))).await;
        match rng.u32(0..3) {
            0 => {
                running.kill();
                tokio::time::sleep(Duration::from_millis(rng.u64(0..100_000))).await;
                running.start_again();
            }
            1 => {
                running.stop().await;
                tokio::time::sleep(Duration::from_millis(rng.u64(0..30_000))).await;
                running.start_again();
            }
            _ => {}
        }
    }
    fleet.behave(|_| Behaviour::Ordinary);
    running.until_ended(&jobs, 3600 * SECOND).await;
    running.settle(idle, 3600 * SECOND).await;
    assert_eq!(running.world.counters.exceeded(), [], "seed {seed}");
    assert_eq!(running.world.github.violations(), [], "seed {seed}");
    running.stop().await;
}

fn random_behaviour(rng: &mut fastrand::Rng) -> Behaviour {
    let soon = SECOND * rng.u32(1..60);
    match rng.u32(0..20) {
        0 => Behaviour::Evicted(soon),
        1 => Behaviour::OutOfMemory(soon),
        2 => Behaviour::NodeLost(soon),
        3 => Behaviour::NeverRegisters,
        4 => Behaviour::Crashes(1),
        5 => Behaviour::Unschedulable,
        6 => Behaviour::ImagePullFails,
        _ => Behaviour::Ordinary,
    }
}
