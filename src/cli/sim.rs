//! `sim`: the simulated world on loopback, for a daemon in another terminal and for people who test a client of
//! their own.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use super::{Exit, output};
use crate::{
    clock::Clock,
    shutdown::Tasks,
    sim::{
        control,
        fleet::FleetSettings,
        gharts::{self, Latency},
        github,
        serve::{ServeOptions, Served, StartError, serve},
        world::{self, GhartsLimits, Options, Provisioner, SetOptions},
    },
};

/// The usual first port.
const PORT_BASE: u16 = 18_080;

/// Which version of GHARTS is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Flavour {
    /// Today's service with the extension that registers runners with scale sets.
    SetAware,
    /// Today's service: teams, no knowledge of scale sets.
    Team,
    /// The older service: policy and quota for each user, registration tokens.
    User,
    /// The first design's contract, unaware of scale sets.
    Seed,
}

impl From<Flavour> for gharts::Flavour {
    fn from(flavour: Flavour) -> Self {
        match flavour {
            Flavour::SetAware => Self::SetAware,
            Flavour::Team => Self::Team,
            Flavour::User => Self::User,
            Flavour::Seed => Self::Seed,
        }
    }
}

/// Where it keeps its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Database {
    /// Serves 15 calls at once; today's versions have no sync with GitHub on it.
    Sqlite,
    /// Serves 30 calls at once (the older version 15).
    Postgres,
}

/// How long GHARTS takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Pace {
    /// Answers at once, however much it is asked.
    AtOnce,
    /// As measured: 2.4 to 4 calls a second whatever the parallelism, GitHub 0.3 s for a runner, and standing still
    /// for 30 s at each call beyond what its database serves at once. The daemon's file has the usual limits then.
    Recorded,
}

/// Which GHARTS is simulated, and how it is run.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct GhartsArgs {
    /// Which version of GHARTS is simulated.
    #[arg(long, value_enum, value_name = "FLAVOUR", default_value = "set-aware")]
    gharts: Flavour,
    /// Where GHARTS keeps its records.
    #[arg(long, value_enum, value_name = "KIND", default_value = "sqlite")]
    gharts_database: Database,
    /// How long GHARTS takes.
    #[arg(long, value_enum, value_name = "PACE", default_value = "at-once")]
    gharts_pace: Pace,
    /// Behind an ingress that sends only /api to GHARTS; everything else is a web page.
    #[arg(long)]
    gharts_ingress: bool,
}

impl GhartsArgs {
    pub(super) fn at_recorded_pace(self) -> bool {
        self.gharts_pace == Pace::Recorded
    }

    /// What they say of a world.
    pub(super) fn apply(self, options: Options) -> Options {
        let recorded = self.at_recorded_pace();
        Options {
            flavour: self.gharts.into(),
            deployment: gharts::Deployment {
                database: match self.gharts_database {
                    Database::Sqlite => gharts::Database::Sqlite,
                    Database::Postgres => gharts::Database::Postgres,
                },
                freezes: recorded,
                latency: if recorded { Latency::RECORDED } else { Latency::None },
                sync: true,
                ingress: self.gharts_ingress,
            },
            gharts_limits: if recorded {
                GhartsLimits::USUAL
            } else {
                GhartsLimits::WIDE
            },
            ..options
        }
    }
}

/// How the simulated GitHub hands out jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Flow {
    /// github.com: assigned within the announced capacity.
    Github,
    /// Older GitHub Enterprise Servers: offered, to be acquired.
    Ghes,
}

impl From<Flow> for github::Flow {
    fn from(flow: Flow) -> Self {
        match flow {
            Flow::Github => Self::GitHub,
            Flow::Ghes => Self::Ghes,
        }
    }
}

/// How the runners that GHARTS registers meet the jobs of a scale set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Binding {
    /// Registered with the set where GHARTS shows that it can do that; else none is made.
    Auto,
    /// Registered with the set.
    ScaleSet,
    /// Ordinary runners with the set's labels, for the jobs assigned to the set (experimental; where GitHub gives those to the
    /// set's own runners alone, `demo` needs five minutes to see that)
    LabelsAssigned,
    /// Ordinary runners with the set's labels, for the jobs that wait for the set (experimental).
    LabelsAvailable,
    /// Registered with the set, with the registration token that the older GHARTS hands out.
    RegistrationToken,
}

impl From<Binding> for world::Binding {
    fn from(binding: Binding) -> Self {
        match binding {
            Binding::Auto => Self::Auto,
            Binding::ScaleSet => Self::ScaleSet,
            Binding::LabelsAssigned => Self::LabelsAssigned,
            Binding::LabelsAvailable => Self::LabelsAvailable,
            Binding::RegistrationToken => Self::RegistrationToken,
        }
    }
}

/// On which runners the simulated GitHub runs a job that it assigned to a scale set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum RunOn {
    /// Only on the set's own.
    SetRunners,
    /// Also on ordinary ones with matching labels.
    MatchingLabels,
}

impl From<RunOn> for github::AssignedJobsRunOn {
    fn from(run_on: RunOn) -> Self {
        match run_on {
            RunOn::SetRunners => Self::SetRunners,
            RunOn::MatchingLabels => Self::MatchingLabels,
        }
    }
}

/// How jobs and runners find each other.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct BindingArgs {
    /// How the runners that GHARTS registers meet the jobs.
    #[arg(long, value_enum, value_name = "BINDING", default_value = "auto")]
    binding: Binding,
    /// On which runners GitHub runs a job that it assigned to a set.
    #[arg(long, value_enum, value_name = "RUNNERS", default_value = "set-runners")]
    assigned_jobs_run_on: RunOn,
}

impl BindingArgs {
    /// What they say of a world.
    pub(super) fn apply(self, mut options: Options) -> Options {
        options.assigned_jobs_run_on = self.assigned_jobs_run_on.into();
        for set in &mut options.sets {
            if set.provisioner == Provisioner::Gharts {
                set.binding = self.binding.into();
            }
        }
        options
    }
}

/// Who registers the runners.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Registrar {
    Gharts,
    #[value(name = "scaleSet", alias = "scale-set")]
    ScaleSet,
}

impl From<Registrar> for Provisioner {
    fn from(registrar: Registrar) -> Self {
        match registrar {
            Registrar::Gharts => Self::Gharts,
            Registrar::ScaleSet => Self::ScaleSet,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_long_help = control::HELP)]
pub(super) struct SimArgs {
    /// Gets config.yaml, credentials, kubeconfig (the daemon's), admin.kubeconfig and sim.json (all addresses).
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// HTTP here, Kubernetes one above, the daemon's own port two above.
    #[arg(long, value_name = "N", default_value_t = PORT_BASE, value_parser = clap::value_parser!(u16).range(1..=65_533))]
    port_base: u16,
    #[command(flatten)]
    gharts: GhartsArgs,
    #[command(flatten)]
    binding: BindingArgs,
    #[arg(long, value_enum, default_value = "github")]
    flow: Flow,
    /// A real cluster, with an administrator's rights: only Kubernetes is real then.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Somebody else plays scheduler, kubelets and runners.
    #[arg(long)]
    no_fleet: bool,
    /// Scale sets of the written file: set-1, set-2, ...
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    scale_sets: u32,
    #[arg(long, value_enum, default_value = "gharts")]
    provisioner: Registrar,
    /// Of each scale set.
    #[arg(long, value_name = "N", default_value_t = 50)]
    max_runners: u32,
    /// Of each scale set.
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_runners: u32,
    /// Runners that GHARTS gives the team at one time (with --gharts user: the daemon's user).
    #[arg(long, value_name = "N")]
    quota: Option<u32>,
    /// A further GHARTS team that the daemon's user belongs to; may be repeated.
    #[arg(long = "gharts-team", value_name = "NAME")]
    gharts_teams: Vec<String>,
    /// Milliseconds from a pod's binding to the start of its process.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    start_delay: u64,
    /// Milliseconds from a job's end to the end of its process.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    exit_delay: u64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl SimArgs {
    fn options(&self) -> Options {
        let set = |n: u32| SetOptions {
            min_runners: self.min_runners,
            ..SetOptions::new(&format!("set-{n}"), self.provisioner.into(), self.max_runners)
        };
        let fleet = FleetSettings {
            seed: self.seed,
            start_delay: Duration::from_millis(self.start_delay),
            exit_delay: Duration::from_millis(self.exit_delay),
            ..FleetSettings::default()
        };
        let options = self.gharts.apply(Options {
            seed: self.seed,
            flow: self.flow.into(),
            sets: (1..=self.scale_sets).map(set).collect(),
            quota: self.quota,
            more_teams: self.gharts_teams.clone(),
            fleet: (!self.no_fleet).then_some(fleet),
            ..Options::default()
        });
        self.binding.apply(options)
    }

    fn place(&self) -> std::io::Result<ServeOptions> {
        Ok(ServeOptions {
            // The written file must work from any directory.
            dir: std::path::absolute(&self.dir)?,
            port_base: Some(self.port_base),
            daemon: None,
            kubeconfig: self.kubeconfig.clone(),
            human_logs: true,
        })
    }
}

pub(super) async fn run(args: &SimArgs) -> Exit {
    let tasks = Tasks::new();
    let place = match args.place() {
        Ok(place) => place,
        Err(error) => {
            output::error(&format!("--dir: {error}"), "name a directory that can be made");
            return Exit::Usage;
        }
    };
    let served = match serve(args.options(), &place, &Clock::system(), &tasks).await {
        Ok(served) => served,
        Err(error) => return failed(&error),
    };
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        output::error("signals cannot be waited for", "raise the limit on open files");
        return Exit::Temporary;
    };
    output::text(&greeting(&served, &place));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tasks.stop();
    tasks.finished().await;
    Exit::Well
}

/// Says why the world could not be made.
pub(super) fn failed(error: &StartError) -> Exit {
    let (remedy, exit) = match error {
        StartError::Port { .. } => (
            "stop what uses the port, or choose others with --port-base",
            Exit::Usage,
        ),
        StartError::Kubeconfig { .. } => ("name a kubeconfig with an administrator's rights", Exit::Usage),
        StartError::World(world::WorldError::File { .. }) => ("name a directory that can be written", Exit::Usage),
        StartError::World(_) => (
            "does the API server answer, and may this kubeconfig do everything?",
            Exit::Temporary,
        ),
        StartError::Tls(_) => ("this should not happen; please report it", Exit::Temporary),
    };
    output::error(&error.to_string(), remedy);
    exit
}

fn greeting(served: &Served, place: &ServeOptions) -> String {
    let dir = place.dir.display();
    let github = &served.addresses.github;
    let first = served
        .world
        .services
        .options
        .sets
        .first()
        .map_or("set-1", |set| set.name.as_str());
    let kubernetes = match &place.kubeconfig {
        Some(path) => format!("real, of {}", path.display()),
        None => "simulated".to_owned(),
    };
    format!(
        "The simulated world is up; Ctrl-C ends it.

  GitHub      {config_url}
  GHARTS      {gharts}
  OIDC        {oidc}
  Kubernetes  {kubernetes}
  Control     {github}/control   (sim --help explains it)
  Addresses   {dir}/sim.json

Next, in other terminals:
  gharts-listener run --config {dir}/config.yaml
  kubectl --kubeconfig {dir}/kubeconfig get pods --watch
  curl -s {github}/control/jobs -d '{{\"scaleSet\":\"{first}\",\"count\":10,\"durationSeconds\":5}}'
  curl -s {github}/control/state
",
        config_url = served.addresses.config_url(),
        gharts = served.addresses.gharts,
        oidc = served.addresses.oidc,
    )
}
