//! `hunt`: thousands of simulated worlds, each with faults of its own, and the daemon in them.

mod report;
mod subject;

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use clap::Args;

pub use self::report::{Failure, Report};
use self::subject::{Daemon, Logs};
use super::{Exit, output};
use crate::{
    clock::Clock,
    config::{LogFormat, Logging},
    sim::hunt::{Invariant, Journal, Outcome, Plan, run, shrink},
    telemetry::logs,
};

/// Runs spent on making one failing plan shorter.
const SHRINKING: usize = 150;
/// A long hunt says so often how far it is.
const TELLING: Duration = Duration::from_secs(30);
/// What is logged in a run: all that operators see.
const LOG_LEVEL: &str = "gharts_listener=info,gharts_listener::sim=off";

#[derive(Debug, Args)]
pub(super) struct HuntArgs {
    /// How many seeds.
    #[arg(long, value_name = "N", default_value_t = 200)]
    seeds: u64,
    /// The first seed.
    #[arg(long, value_name = "N", default_value_t = 0)]
    from: u64,
    /// Carry out this seed alone and print its timeline.
    #[arg(long, value_name = "N", conflicts_with_all = ["seeds", "from", "plan"])]
    seed: Option<u64>,
    /// Carry out the plan in this file (JSON, as printed for a failing seed) and print its timeline.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "from"])]
    plan: Option<PathBuf>,
    /// Seeds at one time [default: one per core]
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Print failing plans as they were drawn.
    #[arg(long)]
    no_shrink: bool,
    /// End with the first seed that fails.
    #[arg(long)]
    first: bool,
    /// One JSON object at the end instead of words.
    #[arg(long)]
    json: bool,
}

pub(super) fn run_command(args: &HuntArgs) -> Exit {
    if let Some(file) = &args.plan {
        return match read(file) {
            Ok(plan) => replay(&plan),
            Err(error) => {
                output::error(&error, "give a plan as `hunt` prints it for a failing seed");
                Exit::Usage
            }
        };
    }
    if let Some(seed) = args.seed {
        return replay(&Plan::draw(seed));
    }
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let told = Mutex::new(Told::default());
    let what = Hunt {
        from: args.from,
        seeds: args.seeds,
        jobs: args.jobs.unwrap_or(cores),
        shrinks: !args.no_shrink,
        first: args.first,
    };
    let report = hunt(&what, |report| {
        told.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .tell(report, args.seeds);
    });
    output::text(&(if args.json { report.json() } else { report.text() } + "\n"));
    match (report.failures.is_empty(), &report.broken) {
        (false, _) => Exit::Bad,
        (true, Some(_)) => Exit::Temporary,
        (true, None) => Exit::Well,
    }
}

fn read(file: &Path) -> Result<Plan, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))
}

fn replay(plan: &Plan) -> Exit {
    match carry_out(plan, true) {
        Ok((outcome, timeline)) => {
            output::text(&format!("{plan}\n{timeline}\n{}\n", report::verdict(&outcome)));
            if outcome.breaches.is_empty() {
                Exit::Well
            } else {
                Exit::Bad
            }
        }
        Err(error) => {
            output::error(&error, "see that the directory for temporary files can be written");
            Exit::Temporary
        }
    }
}

/// Carries a plan out, under virtual time, in this thread: what came of it, and the timeline where it is `kept`.
pub fn carry_out(plan: &Plan, kept: bool) -> Result<(Outcome, String), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .map_err(|error| error.to_string())?;
    let dir = Scratch::new()?;
    runtime.block_on(async {
        let journal = Journal::new(kept);
        let logs = Logs::new(&journal);
        let logging = Logging {
            format: LogFormat::Human,
            level: LOG_LEVEL.to_owned(),
        };
        let clock = Clock::simulated(jiff::Timestamp::UNIX_EPOCH);
        let subscriber = logs::subscriber(&logging, clock, logs.clone()).map_err(|error| error.to_string())?;
        let _guard = tracing::subscriber::set_default(subscriber);
        let outcome = run(plan, &Daemon { logs }, &journal, &dir.0)
            .await
            .map_err(|error| error.to_string())?;
        Ok((outcome, journal.text()))
    })
}

/// A directory for one run's files.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, String> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("gharts-listener-hunt-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Left behind, it is a few kilobytes among the temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What to hunt through.
#[derive(Clone, Copy, Debug)]
pub struct Hunt {
    /// The first seed, and how many.
    pub from: u64,
    pub seeds: u64,
    /// At one time.
    pub jobs: NonZeroUsize,
    /// Plans that fail are made as short as they still do.
    pub shrinks: bool,
    /// The first failure is the last.
    pub first: bool,
}

/// What of a long hunt was told on standard error.
#[derive(Debug, Default)]
struct Told {
    failures: usize,
    at: Duration,
}

impl Told {
    /// Each seed that fails at once, and now and then how far the hunt is.
    fn tell(&mut self, report: &Report, seeds: u64) {
        for failure in report.failures.iter().skip(self.failures) {
            output::note(&format!("{}\n", failure.brief()));
        }
        self.failures = report.failures.len();
        if report.took >= self.at + TELLING {
            self.at = report.took;
            output::note(&format!("{}\n", report.progress(seeds)));
        }
    }
}

/// Carries out the plans of many seeds. After each one `progress` gets what there is so far.
pub fn hunt(hunt: &Hunt, progress: impl Fn(&Report) + Sync) -> Report {
    let Hunt { from, seeds, jobs, .. } = *hunt;
    let begun = Clock::system().instant();
    let next = AtomicU64::new(from);
    let enough = AtomicBool::new(false);
    let report = Mutex::new(Report::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs.get() {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + seeds || enough.load(Ordering::Relaxed) {
                        return;
                    }
                    let plan = Plan::draw(seed);
                    let outcome = carry_out(&plan, false);
                    let failure = outcome
                        .as_ref()
                        .ok()
                        .and_then(|(outcome, _)| fail(&plan, outcome, hunt.shrinks));
                    if hunt.first && failure.is_some() {
                        enough.store(true, Ordering::Relaxed);
                    }
                    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
                    match outcome {
                        Ok((outcome, _)) => {
                            report.count(&outcome, failure);
                            report.took = begun.elapsed();
                            progress(&report);
                        }
                        Err(error) => {
                            report.broken = Some(error);
                            enough.store(true, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.failures.sort_by_key(|failure| failure.seed);
    report
}

fn fail(plan: &Plan, outcome: &Outcome, shrinks: bool) -> Option<Failure> {
    let first = outcome.breaches.first()?;
    let shortest = if shrinks {
        shrink(plan, SHRINKING, |plan| breaks(plan, first.invariant))
    } else {
        plan.clone()
    };
    Some(Failure {
        seed: plan.seed,
        breaches: outcome.breaches.clone(),
        plan: shortest,
    })
}

fn breaks(plan: &Plan, invariant: Invariant) -> bool {
    let outcome = carry_out(plan, false);
    outcome.is_ok_and(|(outcome, _)| outcome.breaches.iter().any(|breach| breach.invariant == invariant))
}

/// Seconds with three digits.
fn seconds(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64())
}
