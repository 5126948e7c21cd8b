//! The live heap of a day: the whole daemon in the simulated world under virtual time, jobs all the while.
//!
//!     cargo bench --bench heap [-- HOURS]     # 24 virtual hours by default; `--profile dev` builds sooner
//!
//! Every five virtual seconds comes a job for one of three sets, two of them served through a GHARTS, one by the scale set
//! itself. One job in ten fails, one pod in fifty crashes before its runner registers and one is evicted; each hour a watch
//! is cut, GHARTS refuses a call and loses an answer, and each minute somebody reads the metrics and the status. The world
//! forgets what was over ten minutes ago, so that what grows is the daemon's.
//!
//! Two things are compared, after the last hour with after the first: the whole heap, as its mean over the hour's last ten
//! minutes; and the daemon's own part, which is what it gives back when it ends right after the last job (for the first
//! hour, that of another daemon in another world). Exits 1 where one of them has grown by more than a tenth. The real
//! HTTP stacks are not in it: `soak.py` watches those.
#![expect(clippy::print_stdout, reason = "what it measures is its output")]

use std::{
    alloc::System,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};
use gharts_listener::{
    app::{self, Externals},
    clock::Clock,
    config::{self, Environment},
    server::Sources,
    shutdown::Tasks,
    sim::{
        fleet::Behaviour,
        gharts::{Fault, Operation},
        github::NewJobs,
        world::{ORGANIZATION, Options, Provisioner, SetOptions, World},
    },
};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// From one job to the next.
const TICK: Duration = Duration::from_secs(5);
const TICKS_A_MINUTE: u64 = 12;
const MINUTES_AN_HOUR: u64 = 60;
/// The minutes of each hour in which it is measured: the last ones.
const MEASURED: u64 = 10;
/// How long the world remembers what is over.
const REMEMBERED: SignedDuration = SignedDuration::from_mins(10);
/// Longest wait for the last jobs' end, and then for that of their pods.
const LAST_JOBS: Duration = Duration::from_secs(1800);
const LAST_PODS: Duration = Duration::from_secs(60);
const SETS: [&str; 3] = ["linux", "windows", "gpu"];
const MIB: f64 = 1024.0 * 1024.0;
/// Largest growth from the first hour to the last.
const TOLERATED: f64 = 1.1;

fn main() -> anyhow::Result<ExitCode> {
    // Cargo adds `--bench`.
    let hours = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    let hours = hours.map_or(Ok(24), |hours| hours.parse()).context("HOURS")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()?;
    runtime.block_on(measure(hours))
}

/// Bytes that are allocated now.
fn live() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

#[expect(clippy::cast_precision_loss, reason = "no heap of ours comes near 2^52 bytes")]
fn mib(bytes: usize) -> f64 {
    bytes as f64 / MIB
}

async fn measure(hours: u64) -> anyhow::Result<ExitCode> {
    println!("hour  runners so far  heap MiB  kept by the daemon");
    let say = |hour, heap: f64, day: &Day| {
        let runners = day.world.counters.created();
        println!("{hour:4}  {runners:14}  {heap:8.2}  {:18}", day.kept());
    };
    let (heaps, own) = day(hours, say).await?;
    let (_, own_at_first) = day(1, |_, _, _| ()).await?;
    let (first, last) = (heaps[0], heaps[heaps.len() - 1]);
    let growths = [("the whole", first, last), ("the daemon's own part", own_at_first, own)];
    for (what, first, last) in growths {
        let ratio = last / first;
        println!("{what}: {first:.2} MiB after the first hour, {last:.2} after the last: {ratio:.3} of it");
    }
    let grows = growths.iter().any(|(_, first, last)| last / first > TOLERATED);
    Ok(ExitCode::from(u8::from(grows)))
}

/// So many hours of load: the heap of each, and the daemon's own part at the end, in MiB.
async fn day(hours: u64, say: impl Fn(u64, f64, &Day)) -> anyhow::Result<(Vec<f64>, f64)> {
    let clock = Clock::simulated("2026-11-23T00:00:00Z".parse()?);
    let tasks = Tasks::new();
    let world = World::start(options(), clock, &tasks).await?;
    if let Some(fleet) = &world.fleet {
        fleet.behave(behaviour);
    }
    let day = Day::begin(world, tasks)?;
    let mut rng = fastrand::Rng::with_seed(1);
    let mut heaps = Vec::new();
    for hour in 1..=hours {
        let heap = day.hour(&mut rng).await?;
        say(hour, heap, &day);
        heaps.push(heap);
    }
    Ok((heaps, day.end().await?))
}

fn options() -> Options {
    let provisioners = [Provisioner::Gharts, Provisioner::ScaleSet, Provisioner::Gharts];
    let sets = SETS.into_iter().zip(provisioners);
    let mut sets: Vec<SetOptions> = sets.map(|(name, by)| SetOptions::new(name, by, 20)).collect();
    sets[2].min_runners = 1;
    Options {
        sets,
        ..Options::default()
    }
}

fn behaviour(pod: &Pod) -> Behaviour {
    let mut hasher = DefaultHasher::new();
    pod.metadata.name.hash(&mut hasher);
    match hasher.finish() % 50 {
        0 => Behaviour::Crashes(1),
        1 => Behaviour::Evicted(Duration::from_secs(20)),
        _ => Behaviour::Ordinary,
    }
}

struct Day {
    world: World,
    tasks: Tasks,
    sources: Sources,
    stop: CancellationToken,
    daemon: tokio::task::JoinHandle<Result<(), app::Error>>,
    dir: PathBuf,
}

impl Day {
    fn begin(world: World, tasks: Tasks) -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(format!("gharts-listener-heap-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let file = dir.join("config.yaml");
        std::fs::write(&file, world.config(&dir)?)?;
        let config = config::load(&file, &Environment::new()).map_err(|problems| anyhow!("{problems:?}"))?;
        let (transport, again) = (world.services.transport(), world.services.transport());
        let externals = Externals {
            github: transport.clone(),
            gharts: transport,
            dial: Arc::new(move |_| Ok((again.clone(), again.clone()))),
            kubernetes: world.daemon_client(),
            kubernetes_for_lease: world.daemon_client(),
            clock: world.clock.clone(),
            seed: 1,
            identity: "replica-1".to_owned(),
        };
        let daemon = app::Daemon::new(config, externals);
        let stop = CancellationToken::new();
        Ok(Self {
            sources: daemon.sources(),
            daemon: tasks.spawn("daemon", daemon.serve(None, stop.clone())),
            world,
            tasks,
            stop,
            dir,
        })
    }

    /// An hour of load; its heap in MiB.
    async fn hour(&self, rng: &mut fastrand::Rng) -> anyhow::Result<f64> {
        let (mut sum, mut count) = (0.0, 0_u32);
        for minute in 0..MINUTES_AN_HOUR {
            self.trouble(minute);
            for _ in 0..TICKS_A_MINUTE {
                self.world.github.queue_jobs(&job(rng));
                tokio::time::sleep(TICK).await;
                if minute >= MINUTES_AN_HOUR - MEASURED {
                    sum += mib(live());
                    count += 1;
                }
            }
            self.world.forget(self.world.clock.now() - REMEMBERED);
            // As a scrape and somebody who looks do.
            let _ = self.sources.metrics.render();
            let _ = serde_json::to_string(&**self.sources.status.borrow())?;
            ensure!(!self.daemon.is_finished(), "the daemon ended");
        }
        Ok(sum / f64::from(count))
    }

    fn trouble(&self, minute: u64) {
        match minute {
            5 => self.world.kubernetes.cut_watches(),
            25 => self.world.gharts.inject(Operation::Jit, Fault::Refused),
            45 => self.world.gharts.inject(Operation::Jit, Fault::AnswerLost),
            _ => {}
        }
    }

    /// Everything that `gharts_listener_kept` counts.
    fn kept(&self) -> f64 {
        let text = self.sources.metrics.render();
        let kept = text.lines().filter(|line| line.starts_with("gharts_listener_kept{"));
        kept.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Lets all jobs end, then the daemon; what that gave back, in MiB.
    async fn end(self) -> anyhow::Result<f64> {
        let Self { world, .. } = &self;
        let begun = world.clock.instant();
        while world.github.unfinished_jobs() > 0 {
            ensure!(world.clock.instant() - begun < LAST_JOBS, "jobs are left");
            tokio::time::sleep(TICK).await;
        }
        tokio::time::sleep(LAST_PODS).await;
        let (exceeded, violations) = (world.counters.exceeded(), world.github.violations());
        ensure!(exceeded.is_empty(), "limits exceeded: {exceeded:?}");
        ensure!(violations.is_empty(), "{violations:?}");
        let with = live();
        self.stop.cancel();
        self.daemon.await??;
        drop(self.sources);
        let own = with.saturating_sub(live());
        self.tasks.stop();
        self.tasks.finished().await;
        std::fs::remove_dir_all(self.dir)?;
        Ok(mib(own))
    }
}

fn job(rng: &mut fastrand::Rng) -> NewJobs {
    let set = SETS[rng.usize(..SETS.len())];
    let job = NewJobs::for_set(ORGANIZATION, set, 1).lasting(Duration::from_secs(rng.u64(10..90)));
    let exit_code = i32::from(rng.u32(..10) == 0);
    NewJobs {
        repository: format!("app-{}", rng.u32(..20)),
        ..job.exiting(exit_code)
    }
}
