//! Commands: one file each. This one parses the command line, sets the process up and names exit codes.

mod check;
mod cleanup;
mod config_cmd;
#[cfg(feature = "sim")]
mod demo;
#[cfg(feature = "sim")]
pub mod hunt;
mod import_arc;
mod logs;
mod output;
mod package;
mod run;
#[cfg(feature = "sim")]
mod sim;
mod status;

use std::{
    net::SocketAddr,
    panic,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::LazyLock,
};

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::{
    config::{self, Config, Environment, Problem},
    telemetry::COMMIT,
};

/// Where the file is when nothing else says so.
const DEFAULT_FILE: &str = "/etc/gharts-listener/config.yaml";
/// Names the file when `--config` does not. One underscore: it is no key of the file.
const FILE_VARIABLE: &str = "GHARTS_LISTENER_CONFIG";

/// Threads of the runtime: the work is waiting, not computing; a node's 64 cores would only cost memory.
const WORKERS: usize = 4;

/// What `--version` says; `-V` says the version alone.
static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    let features = if cfg!(feature = "sim") { "sim" } else { "none" };
    format!("{}\ncommit {COMMIT}\nfeatures {features}", env!("CARGO_PKG_VERSION"))
});

/// What the process says with its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// All is well.
    Well,
    /// A check failed, a peer answered with bad news, or a second signal cut the end short.
    Bad,
    /// The file or the command line is wrong, or the port is in use; no peer was called.
    Usage,
    /// A core task died.
    Core,
    /// Could not start for now; trying again may help.
    Temporary,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Well => 0,
            Exit::Bad => 1,
            Exit::Usage => 64,
            Exit::Core => 70,
            Exit::Temporary => 75,
        })
    }
}

/// GitHub Actions self-hosted runners on Kubernetes, within every limit.
///
/// Watches the demand of GitHub's runner scale sets, has just-in-time runners registered by GHARTS (or by
/// GitHub itself), and runs each as one pod.
#[derive(Debug, Parser)]
#[command(
    version,
    long_version = LONG_VERSION.as_str(),
    after_help = "Exit codes: 0 well; 1 a check failed; 64 the file or the command line is wrong, or the port is in \
                  use; 70 a core task died; 75 could not start, try again."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon.
    Run(FileArgs),
    /// Try everything that can be tried: the file, the rights in Kubernetes, the peers, the clocks.
    ///
    /// One line per check, with a remedy where one failed. Changes nothing anywhere.
    Check(FileArgs),
    /// What a running daemon does: per scale set the demand, the runners, and why there are not more.
    Status(status::StatusArgs),
    /// The last lines of a runner's log with the reason of its failure; without a name, the failed runners that are kept.
    Logs(logs::LogsArgs),
    /// Remove what an installation left: pods, registrations, records, on request its scale sets. Only while no daemon runs.
    ///
    /// Of this file's scale sets in this cluster alone. A runner with a job is kept. Exit code 1 if anything is left.
    Cleanup(cleanup::CleanupArgs),
    /// See it at work, without GitHub, GHARTS or a cluster: everything simulated, over real sockets.
    ///
    /// Ends by itself. Exit code 0 only if every job finished, nothing leaked and no limit was exceeded.
    #[cfg(feature = "sim")]
    Demo(demo::DemoArgs),
    /// Serve the simulated GitHub, GHARTS, OIDC provider and Kubernetes on loopback.
    ///
    /// `run --config DIR/config.yaml` works with it unchanged, in another terminal.
    #[cfg(feature = "sim")]
    Sim(sim::SimArgs),
    /// Hunt for faults: the daemon in thousands of simulated worlds under virtual time, each from a seed. For developers.
    ///
    /// Exit code 1 if an invariant was broken; each failing seed is printed with the shortest plan that still fails.
    #[cfg(feature = "sim")]
    Hunt(hunt::HuntArgs),
    /// Make a file of what ran under the established controller (ARC): values of its charts, or live AutoscalingRunnerSets.
    ///
    /// The file goes to standard output; what is left to do, and what has no counterpart, to standard error.
    ImportArc(import_arc::ImportArgs),
    /// The configuration file: an example, its JSON schema, or what is in effect.
    #[command(subcommand)]
    Config(config_cmd::ConfigCommand),
    /// Print the completions for a shell.
    Completions(package::CompletionsArgs),
    /// Print the manual page.
    Man(package::ManArgs),
}

/// Which file.
#[derive(Clone, Debug, Args)]
struct FileArgs {
    /// The configuration file [default: $GHARTS_LISTENER_CONFIG, else /etc/gharts-listener/config.yaml]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl FileArgs {
    fn path(&self) -> PathBuf {
        self.config
            .clone()
            .or_else(|| std::env::var_os(FILE_VARIABLE).map(PathBuf::from))
            .unwrap_or_else(|| DEFAULT_FILE.into())
    }

    /// Loads the file; prints every problem when it is wrong.
    fn load(&self) -> Result<Config, Exit> {
        self.read(config::load)
    }

    /// Where the file's daemon listens, even if the file is wrong by now.
    fn listen(&self) -> Result<SocketAddr, Exit> {
        self.read(config::listen)
    }

    fn read<T>(&self, read: impl FnOnce(&Path, &Environment) -> Result<T, Vec<Problem>>) -> Result<T, Exit> {
        let path = self.path();
        read(&path, &config::environment()).map_err(|problems| {
            output::problems(&path, &problems);
            Exit::Usage
        })
    }
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    // First of all: rustls refuses to work without a provider. An error says that one is installed already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    install_panic_hook();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be done about a closed terminal.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Well }.into();
        }
    };
    dispatch(cli.command).into()
}

fn dispatch(command: Command) -> Exit {
    match &command {
        Command::Config(command) => return config_cmd::run(command),
        Command::Completions(args) => return package::completions(Cli::command(), args),
        Command::Man(args) => return package::man(Cli::command(), args),
        _ => {}
    }
    #[cfg(feature = "sim")]
    if let Command::Hunt(args) = &command {
        return hunt::run_command(args);
    }
    if let Command::ImportArc(args) = &command {
        return import_arc::run(args);
    }
    let workers = std::thread::available_parallelism().map_or(WORKERS, |cores| cores.get().min(WORKERS));
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            output::error(
                &format!("cannot start: {error}"),
                "raise the limit on threads or memory",
            );
            return Exit::Temporary;
        }
    };
    match command {
        Command::Run(args) => run::run(&runtime, &args),
        Command::Check(args) => runtime.block_on(check::run(&args)),
        Command::Status(args) => runtime.block_on(status::run(&args)),
        Command::Logs(args) => runtime.block_on(logs::run(&args)),
        Command::Cleanup(args) => runtime.block_on(cleanup::run(&args)),
        #[cfg(feature = "sim")]
        Command::Demo(args) => runtime.block_on(demo::run(&args)),
        #[cfg(feature = "sim")]
        Command::Sim(args) => runtime.block_on(sim::run(&args)),
        // Done already, without a runtime.
        #[cfg(feature = "sim")]
        Command::Hunt(_) => Exit::Well,
        Command::Config(_) | Command::Completions(_) | Command::Man(_) | Command::ImportArc(_) => Exit::Well,
    }
}

/// A panic goes to the logs too, with its place, before the usual words on standard error.
fn install_panic_hook() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "a task panicked");
        usual(info);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
