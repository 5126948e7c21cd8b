//! Demand and capacity: what is announced, what is acquired, and that there is one runner per job.

use std::time::Duration;

use gharts_listener::sim::{
    fleet::FleetSettings,
    github::{Flow, JobState},
    world::{GhartsLimits, Options, Provisioner, SetOptions, TEAM},
};

use super::harness::{Run, Running, Stage, jobs, with_provisioner};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn at_most(max_runners: u32, provisioner: Provisioner) -> Options {
    Options {
        sets: vec![SetOptions::new("linux", provisioner, max_runners)],
        ..Options::default()
    }
}

/// A rise of the capacity is announced within a second; statuses and looks add a quarter each.
const RISE: Duration = Duration::from_millis(1500);

#[tokio::test(start_paused = true)]
async fn b5_offers_beyond_the_capacity_are_acquired_when_there_is_room() {
    for provisioner in [Provisioner::ScaleSet, Provisioner::Gharts] {
        let running = Running::start(Options {
            flow: Flow::Ghes,
            ..at_most(3, provisioner)
        })
        .await;
        let queued = running.queue(&jobs("linux", 10)).await;
        let begun = running.world.clock.instant();
        running
            .until("all ten have come to an end", |world| {
                let set = world.github.set("linux").unwrap();
                assert!(set.statistics.assigned <= 3, "{:?}", set.statistics);
                running.count(&queued, JobState::Finished) == 10
            })
            .await;
        running.until_finished(&queued, SECOND).await;
        // Four rounds of a minute: no place stays empty for long.
        let took = running.world.clock.instant() - begun;
        assert!(took <= 4 * MINUTE + 20 * SECOND, "{took:?}");
        let world = running.end().await;
        assert_eq!((world.counters.created(), world.counters.max_live()), (10, 3));
    }
}

#[tokio::test(start_paused = true)]
async fn b5_offers_that_github_will_not_give_keep_nobody_else_waiting() {
    let running = Running::start(Options {
        flow: Flow::Ghes,
        ..at_most(6, Provisioner::ScaleSet)
    })
    .await;
    let calls = |operation| running.world.github.calls().get(operation).copied().unwrap_or(0);
    let mut queued = running.queue(&jobs("linux", 8)).await;
    // More than are tried at one time, and before all others.
    let others = queued.split_off(4);
    let spoilt = |wrong| {
        for job in &queued {
            assert!(running.world.github.spoil_offer(&job.id, wrong));
        }
    };
    spoilt(true);
    running.until_finished(&others, 2 * MINUTE).await;
    // Nor those that come later, of which they would be some in the same request.
    let later = running.queue(&jobs("linux", 7)).await;
    running.until_finished(&later, 4 * MINUTE).await;
    let before = calls("acquire jobs");
    for _ in 0..40 {
        running.pass(15 * SECOND).await;
        let age = running.metric("gharts_listener_poll_age_seconds", &["set=\"linux\""]);
        // One may be begun anew for the question.
        assert!(age <= 110.0, "no poll has been answered for {age} s");
    }
    assert_eq!(running.count(&queued, JobState::Queued), 4);
    let asked = calls("acquire jobs") - before;
    assert!((4..=25).contains(&asked), "asked {asked} times in ten minutes");
    assert_eq!(calls("open session"), 1);
    spoilt(false);
    running.until_finished(&queued, 5 * MINUTE).await;
    let world = running.end().await;
    assert_eq!((world.counters.created(), world.counters.max_live()), (15, 6));
}

#[tokio::test(start_paused = true)]
async fn b6_the_first_poll_announces_the_true_capacity() {
    for flow in [Flow::GitHub, Flow::Ghes] {
        let stage = Stage::set(Options {
            flow,
            ..at_most(4, Provisioner::ScaleSet)
        })
        .await;
        // Jobs wait already when the first session opens.
        stage.rival().register("linux").await;
        let queued = stage.world.github.queue_jobs(&jobs("linux", 20));
        let running = stage.start();
        running
            .until("the end of twenty jobs", |world| {
                let set = world.github.set("linux").unwrap();
                assert!(set.announced.is_none_or(|announced| announced <= 4), "{set:?}");
                assert!(set.statistics.assigned <= 4, "{set:?}");
                running.count(&queued, JobState::Finished) == 20
            })
            .await;
        running.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn b6_a_rise_is_announced_within_a_second() {
    let running = Running::start(Options {
        quota: Some(2),
        ..with_provisioner(Provisioner::Gharts)
    })
    .await;
    let queued = running.queue(&jobs("linux", 10).lasting(3 * MINUTE)).await;
    running.until_reason("linux", "quota_exceeded").await;
    running.pass(MINUTE).await;
    assert_eq!(running.world.github.set("linux").unwrap().announced, Some(2));
    running.world.gharts.set_quota(TEAM, None);
    let mut late = None;
    while running.count(&queued, JobState::Finished) < 10 {
        let wanted = running.said_of("linux").unwrap().capacity;
        let now = running.world.clock.instant();
        let set = running.world.github.set("linux").unwrap();
        if set.announced.is_some_and(|announced| announced < wanted) {
            let since = *late.get_or_insert(now);
            assert!(now - since <= RISE, "{wanted} is not announced yet: {set:?}");
        } else {
            late = None;
        }
        running.pass(SECOND / 4).await;
    }
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b6_while_runners_are_refused_the_capacity_is_what_lives() {
    let running = Running::start(Options {
        quota: Some(3),
        ..with_provisioner(Provisioner::Gharts)
    })
    .await;
    let queued = running.queue(&jobs("linux", 9).lasting(2 * MINUTE)).await;
    running.until_reason("linux", "quota_exceeded").await;
    running.pass(55 * SECOND).await;
    assert_eq!(running.count(&queued, JobState::Running), 3);
    assert_eq!(running.said_of("linux").unwrap().capacity, 3);
    assert_eq!(running.world.github.set("linux").unwrap().announced, Some(3));
    running.until_finished(&queued, 8 * MINUTE).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b13_a_hundred_short_jobs_take_a_hundred_runners() {
    for seed in 1..=3 {
        for provisioner in [Provisioner::Gharts, Provisioner::ScaleSet] {
            for flow in [Flow::GitHub, Flow::Ghes] {
                let _run = Run::called(format!("{provisioner:?} {flow:?} seed {seed}"));
                let running = Running::start(Options {
                    seed,
                    flow,
                    gharts_limits: GhartsLimits::WIDE,
                    fleet: Some(FleetSettings {
                        seed,
                        start_delay: SECOND,
                        exit_delay: SECOND / 2,
                        jitter: 1.0,
                        ..FleetSettings::default()
                    }),
                    ..at_most(30, provisioner)
                })
                .await;
                let mut rng = fastrand::Rng::with_seed(seed);
                let mut queued = Vec::new();
                for _ in 0..20 {
                    let lasting = SECOND.mul_f64(2.0 * rng.f64());
                    queued.extend(running.queue(&jobs("linux", 5).lasting(lasting)).await);
                    running.pass(SECOND.mul_f64(rng.f64())).await;
                }
                running.until_finished(&queued, 3 * MINUTE).await;
                let world = running.end().await;
                assert_eq!(world.counters.created(), 100);
            }
        }
    }
}

/// One seed by `SEED`, or all.
fn seeds() -> Vec<u64> {
    match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (1..=30).collect(),
    }
}

fn any_options(rng: &mut fastrand::Rng, seed: u64) -> Options {
    let sets = (0..rng.usize(1..=3)).map(|i| {
        let provisioner = *rng.choice(&[Provisioner::Gharts, Provisioner::ScaleSet]).unwrap();
        let mut set = SetOptions::new(&format!("set-{i}"), provisioner, rng.u32(1..=12));
        set.min_runners = if rng.bool() {
            0
        } else {
            rng.u32(0..=2).min(set.max_runners)
        };
        set
    });
    let sets: Vec<SetOptions> = sets.collect();
    let spares: u32 = sets.iter().map(|s| s.min_runners).sum();
    Options {
        seed,
        flow: *rng.choice(&[Flow::GitHub, Flow::Ghes]).unwrap(),
        max_runners: rng.bool().then(|| spares + rng.u32(2..=15)),
        quota: rng.bool().then(|| spares + rng.u32(2..=15)),
        gharts_limits: *rng.choice(&[GhartsLimits::USUAL, GhartsLimits::WIDE]).unwrap(),
        fleet: Some(FleetSettings {
            seed,
            start_delay: Duration::from_secs(rng.u64(0..=10)),
            exit_delay: Duration::from_secs(rng.u64(0..=3)),
            jitter: rng.f64(),
            ..FleetSettings::default()
        }),
        sets,
        ..Options::default()
    }
}

#[tokio::test(start_paused = true)]
async fn b9_any_workload_ends_within_every_limit_and_leaves_nothing() {
    for seed in seeds() {
        let _run = Run::called(format!("SEED={seed} cargo test --test it b9_any_workload"));
        let mut rng = fastrand::Rng::with_seed(seed);
        let options = any_options(&mut rng, seed);
        let sets = options.sets.clone();
        let running = Running::start(options).await;
        let mut queued = Vec::new();
        for _ in 0..rng.usize(3..=12) {
            let set = &sets[rng.usize(..sets.len())].name;
            let lasting = Duration::from_secs(rng.u64(0..=120));
            let new = jobs(set, rng.usize(1..=8)).lasting(lasting).exiting(rng.i32(0..=1));
            let made = running.queue(&new).await;
            running.pass(Duration::from_millis(rng.u64(0..=20_000))).await;
            for job in &made {
                if rng.u8(..6) == 0 {
                    // Refused where the job runs by now.
                    let _ = running.world.github.cancel(&job.id);
                }
            }
            queued.extend(made);
        }
        running.until_finished(&queued, 50 * MINUTE).await;
        let spares: u32 = sets.iter().map(|s| s.min_runners).sum();
        let world = running.end_with_spares(usize::try_from(spares).unwrap()).await;
        assert!(!queued.is_empty() && world.counters.created() > 0);
    }
}
