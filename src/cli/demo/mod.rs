//! `demo`: the simulated world and the daemon in one process, over real sockets and the real configuration path.
//!
//! The daemon is the one of `run`: its file is written, loaded and validated, its transports are real, its
//! Kubernetes client comes from a kubeconfig file. What came of it is judged by the world, not by the daemon.

mod report;
mod view;
mod workload;

use std::{
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::{
    report::Report,
    view::View,
    workload::{Queued, Workload},
};
use super::{
    Exit, output,
    sim::{BindingArgs, Flow, GhartsArgs, Registrar, failed},
};
use crate::{
    app,
    clock::Clock,
    config::{self, LogFormat, Logging},
    http::{IDLE_BRIEF, SharedTransport, reqwest_transport, send},
    shutdown::Tasks,
    sim::{
        fleet::FleetSettings,
        serve::{ServeOptions, Served, serve},
        world::Options,
    },
    status::{ReasonStatus, Status},
    telemetry::logs,
};

/// How often the world is looked at.
const TICK: Duration = Duration::from_millis(50);
/// Ticks between two questions for the daemon's status.
const STATUS_TICKS: u32 = 5;
/// Longest wait for all jobs, beside what their number calls for.
const PATIENCE: Duration = Duration::from_secs(180);
/// What their number calls for, each: with a GHARTS that answers at once, and at the recorded pace.
const QUICK_JOB: Duration = Duration::from_millis(200);
const SLOW_JOB: Duration = Duration::from_secs(2);
/// Longest wait until nothing is left of any runner.
const CLEAN_UP: Duration = Duration::from_secs(30);
/// The same where runners stand idle that no job will ever end: their idle time, and the looks before it.
const ATTRITION: Duration = Duration::from_mins(5);
/// The reasons that no waiting will cure.
const HOPELESS: [&str; 2] = ["binding_unsupported", "runners_do_not_match_jobs"];

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// This many jobs at once, instead of a short varied workload.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    jobs: Option<u32>,
    /// Of every random choice.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    gharts: GhartsArgs,
    #[command(flatten)]
    binding: BindingArgs,
    #[arg(long, value_enum, default_value = "github")]
    flow: Flow,
    #[arg(long, value_enum, default_value = "gharts")]
    provisioner: Registrar,
    /// Most runners at one time (with --jobs).
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    max_runners: u32,
    /// One JSON object instead of the live view.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: &DemoArgs) -> Exit {
    let tasks = Tasks::new();
    let demo = match Demo::start(args, &tasks).await {
        Ok(demo) => demo,
        Err(exit) => return exit,
    };
    let report = demo.perform(args).await;
    let bad = report.verdict != "ok";
    let dir = demo.dir.clone();
    demo.say(args, &report);
    tasks.stop();
    tasks.finished().await;
    if bad {
        return Exit::Bad;
    }
    // Nobody needs the logs of a run that went well.
    let _ = std::fs::remove_dir_all(dir);
    Exit::Well
}

struct Demo {
    served: Served,
    dir: PathBuf,
    workload: Workload,
    status: StatusOf,
    stop: CancellationToken,
    daemon: tokio::sync::Mutex<Option<JoinHandle<Result<(), app::Error>>>>,
    clock: Clock,
}

impl Demo {
    async fn start(args: &DemoArgs, tasks: &Tasks) -> Result<Self, Exit> {
        let clock = Clock::system();
        let dir = std::env::temp_dir().join(format!("gharts-listener-demo-{}", std::process::id()));
        let temporary = |what: &dyn std::fmt::Display| {
            output::error(
                &format!("the demo cannot start: {what}"),
                "is the temporary directory writable?",
            );
            Exit::Temporary
        };
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| temporary(&e))?;
        listener.set_nonblocking(true).map_err(|e| temporary(&e))?;
        let address = listener.local_addr().map_err(|e| temporary(&e))?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(|e| temporary(&e))?;
        std::fs::create_dir_all(&dir).map_err(|e| temporary(&e))?;
        log_to(&dir.join("daemon.log"), clock.clone()).map_err(|e| temporary(&e))?;

        let workload = Workload::new(args.jobs, args.max_runners, args.provisioner.into(), args.seed);
        let place = ServeOptions {
            dir: dir.clone(),
            port_base: None,
            daemon: Some(address),
            kubeconfig: None,
            human_logs: true,
        };
        let served = serve(options(args, &workload), &place, &clock, tasks)
            .await
            .map_err(|error| failed(&error))?;
        let config = config::load(&served.config, &config::Environment::new()).map_err(|problems| {
            output::problems(&served.config, &problems);
            Exit::Usage
        })?;
        let externals = app::externals(&config, address).await.map_err(|e| temporary(&e))?;
        let transport = reqwest_transport(&config.github.tls, &config.github.proxy, IDLE_BRIEF);
        let status = StatusOf {
            url: format!("http://{address}/api/v1/status"),
            transport: transport.map_err(|e| temporary(&e))?,
        };
        let stop = CancellationToken::new();
        let daemon = tasks.spawn("daemon", app::serve(config, externals, Some(listener), stop.clone()));
        Ok(Self {
            served,
            dir,
            workload,
            status,
            stop,
            daemon: tokio::sync::Mutex::new(Some(daemon)),
            clock,
        })
    }

    /// Queues the workload, watches it to its end, drains the daemon, judges.
    async fn perform(&self, args: &DemoArgs) -> Report {
        let mut view = View::new(&self.served, !args.json, self.workload.len());
        view.say(&self.introduction(args));
        let unserved = self.watch(args, &mut view).await;
        let github = &self.served.world.services.github;
        if !unserved.is_empty() {
            view.unserved(&unserved);
            for job in github.jobs() {
                // What runs already is not there to be cancelled; the verdict sees it.
                let _ = github.cancel(&job.id);
            }
        }
        let last = self.status.ask().await;
        let patience = if unserved.is_empty() { CLEAN_UP } else { ATTRITION };
        self.until_clean(patience).await;
        view.say("\nDraining the daemon.\n");
        self.stop.cancel();
        let ended = match self.daemon.lock().await.take() {
            Some(daemon) => daemon.await,
            None => Ok(Ok(())),
        };
        let trouble = match ended {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(panic) => Some(panic.to_string()),
        };
        Report::new(&self.served, self.workload.len(), last.as_ref(), &unserved, trouble).await
    }

    fn introduction(&self, args: &DemoArgs) -> String {
        let version = self.served.world.services.gharts.flavour().name();
        let provisioner = match args.provisioner {
            Registrar::Gharts => format!("GHARTS (simulated, flavour {version})"),
            Registrar::ScaleSet => "the scale set itself, no GHARTS".to_owned(),
        };
        let flow = match args.flow {
            Flow::Github => "assigned, as on github.com",
            Flow::Ghes => "offered and acquired, as on older GHES",
        };
        format!(
            "The daemon runs against a simulated GitHub, GHARTS and Kubernetes over real sockets.\n  runners from  \
             {provisioner}\n  jobs          {flow}\n  its file      {}\n  its logs      {}\n\n",
            self.served.config.display(),
            self.dir.join("daemon.log").display(),
        )
    }

    /// Until every job has ended, or it is clear that none will: then the reasons why.
    async fn watch(&self, args: &DemoArgs, view: &mut View<'_>) -> Vec<ReasonStatus> {
        let github = &self.served.world.services.github;
        let begun = self.clock.instant();
        let per_job = if args.gharts.at_recorded_pace() {
            SLOW_JOB
        } else {
            QUICK_JOB
        };
        let patience = PATIENCE + per_job * u32::try_from(self.workload.len()).unwrap_or(u32::MAX);
        let mut queued = Queued::new(&self.workload);
        let mut tick = 0_u32;
        while begun.elapsed() < patience {
            let listening = self
                .workload
                .sets()
                .all(|set| github.set(set).is_some_and(|s| s.polling));
            queued.advance(github, self.clock.instant(), listening);
            if tick.is_multiple_of(STATUS_TICKS)
                && let Some(status) = self.status.ask().await
            {
                view.status(&status);
                let unserved = unsupported(&status);
                if !unserved.is_empty() {
                    return unserved;
                }
            }
            view.jobs(queued.jobs());
            if queued.is_complete() && github.unfinished_jobs() == 0 {
                return Vec::new();
            }
            tick += 1;
            tokio::time::sleep(TICK).await;
        }
        Vec::new()
    }

    /// Waits until nothing is left of any runner, or until it is clear that something is.
    async fn until_clean(&self, patience: Duration) {
        let world = &self.served.world;
        let begun = self.clock.instant();
        while begun.elapsed() < patience {
            match crate::sim::world::Leaks::count(&world.services, &world.admin).await {
                Ok(leaks) if leaks.without_sessions().is_clean() => return,
                _ => tokio::time::sleep(TICK).await,
            }
        }
    }

    fn say(&self, args: &DemoArgs, report: &Report) {
        if args.json {
            output::text(&report.json());
            return;
        }
        output::text(&report.text());
        if report.verdict != "ok" {
            output::text(&format!(
                "The daemon's logs: {}\n",
                self.dir.join("daemon.log").display()
            ));
        }
    }
}

fn options(args: &DemoArgs, workload: &Workload) -> Options {
    // A person shall see pods start; a measured run shall not wait for them.
    let start_delay = if args.jobs.is_some() { 0 } else { 300 };
    let options = args.gharts.apply(Options {
        seed: args.seed,
        flow: args.flow.into(),
        sets: workload.set_options(),
        fleet: Some(FleetSettings {
            seed: args.seed,
            start_delay: Duration::from_millis(start_delay),
            jitter: 1.0,
            ..FleetSettings::default()
        }),
        ..Options::default()
    });
    args.binding.apply(options)
}

fn unsupported(status: &Status) -> Vec<ReasonStatus> {
    let reasons = status.scale_sets.iter().flat_map(|set| &set.reasons);
    let mut found: Vec<ReasonStatus> = reasons
        .filter(|reason| HOPELESS.contains(&reason.code.as_str()))
        .cloned()
        .collect();
    found.dedup_by(|a, b| a.message == b.message);
    found
}

fn log_to(path: &Path, clock: Clock) -> anyhow::Result<()> {
    let file = Arc::new(File::create(path)?);
    let logging = Logging {
        format: LogFormat::Human,
        level: "info".to_owned(),
    };
    tracing::subscriber::set_global_default(logs::subscriber(&logging, clock, file)?)?;
    Ok(())
}

/// The daemon's own word, over its port.
struct StatusOf {
    url: String,
    transport: SharedTransport,
}

impl StatusOf {
    async fn ask(&self) -> Option<Status> {
        let request = http::Request::get(&self.url).body(bytes::Bytes::new()).ok()?;
        let answer = send(self.transport.as_ref(), request, Duration::from_secs(5))
            .await
            .ok()?;
        serde_json::from_slice(answer.body()).ok()
    }
}
