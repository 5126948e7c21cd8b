//! One world and one daemon in it, watched by a deadline in virtual time.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail the test")]

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use gharts_listener::{
    app::{self, Externals},
    clock::Clock,
    config,
    shutdown::Tasks,
    sim::{
        github::{JobHandle, JobState, NewJobs},
        world::{Options, Provisioner, SetOptions, World},
    },
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How often conditions are looked at.
const TICK: Duration = Duration::from_millis(250);
/// Longest wait for any condition.
const PATIENCE: Duration = Duration::from_secs(900);

pub(super) fn with_provisioner(provisioner: Provisioner) -> Options {
    Options {
        sets: vec![SetOptions::new("linux", provisioner, 10)],
        ..Options::default()
    }
}

pub(super) struct Running {
    pub(super) world: World,
    tasks: Tasks,
    stop: CancellationToken,
    daemon: JoinHandle<Result<(), app::Error>>,
}

impl Running {
    pub(super) async fn start(options: Options) -> Self {
        let tasks = Tasks::new();
        let clock = Clock::simulated("2026-11-23T00:00:00Z".parse().unwrap());
        let seed = options.seed;
        let world = World::start(options, clock.clone(), &tasks).await.unwrap();
        let dir = scratch();
        let text = world.config(&dir).unwrap();
        let file = dir.join("config.yaml");
        std::fs::write(&file, text).unwrap();
        let config = config::load(&file, &config::Environment::new()).unwrap();
        let externals = Externals {
            github: world.services.transport(),
            gharts: world.services.transport(),
            kubernetes: world.daemon_client(),
            clock,
            seed,
            owner: "daemon".to_owned(),
        };
        let stop = CancellationToken::new();
        let daemon = tasks.spawn("daemon", app::serve(config, externals, None, stop.clone()));
        Self {
            world,
            tasks,
            stop,
            daemon,
        }
    }

    /// Queues jobs once the set is there to take them.
    pub(super) async fn queue(&self, jobs: &NewJobs) -> Vec<JobHandle> {
        let set = jobs.set.clone().unwrap();
        self.until("a session", |world| world.github.set(&set).is_some_and(|s| s.polling))
            .await;
        self.world.github.queue_jobs(jobs)
    }

    pub(super) async fn until(&self, what: &str, condition: impl Fn(&World) -> bool) {
        let waiting = async {
            while !condition(&self.world) {
                assert!(!self.daemon.is_finished(), "the daemon ended");
                tokio::time::sleep(TICK).await;
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            panic!(
                "never came: {what}\nsets {:#?}\nlive {}\nviolations {:?}",
                self.world.github.sets(),
                self.world.counters.live(),
                self.world.github.violations()
            );
        }
    }

    pub(super) async fn until_finished(&self, jobs: &[JobHandle], within: Duration) {
        let begun = self.world.clock.instant();
        self.until("the end of every job", |world| {
            jobs.iter()
                .all(|job| world.github.job(&job.id).is_some_and(|j| j.state == JobState::Finished))
        })
        .await;
        let took = self.world.clock.instant() - begun;
        assert!(took <= within, "it took {took:?}");
    }

    /// Waits until nothing is left of any runner, drains the daemon, and judges the world.
    pub(super) async fn end(self) -> World {
        let mut leaks = self.world.leaks().await.unwrap();
        for _ in 0..2400 {
            leaks = self.world.leaks().await.unwrap();
            leaks.sessions = 0;
            if leaks.is_clean() {
                break;
            }
            tokio::time::sleep(TICK).await;
        }
        assert!(leaks.is_clean(), "left over: {leaks:?}");
        self.stop.cancel();
        self.daemon.await.unwrap().unwrap();
        assert!(self.world.leaks().await.unwrap().is_clean(), "a session stays open");
        assert_eq!(self.world.counters.exceeded(), []);
        assert_eq!(self.world.github.violations(), []);
        self.tasks.stop();
        self.tasks.finished().await;
        self.world
    }
}

fn scratch() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("world-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}
