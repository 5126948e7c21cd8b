//! `run`: configuration, port, logs, then the daemon. Whatever the file alone shows to be wrong ends here,
//! before anything is bound or called.

use std::net::TcpListener;

use tokio::runtime::Runtime;

use super::{Exit, FileArgs, output};
use crate::{
    app,
    clock::Clock,
    config::{self, Config},
    telemetry::logs,
};

pub(super) fn run(runtime: &Runtime, args: &FileArgs) -> Exit {
    let (config, listener) = match prepare(args) {
        Ok(prepared) => prepared,
        Err(exit) => return exit,
    };
    if let Err(error) = logs::init(&config.logging, Clock::system()) {
        output::error(&error.to_string(), "correct logging.level");
        return Exit::Usage;
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        config = %args.path().display(),
        listen = %config.server.listen,
        scale_sets = config.scale_sets.len(),
        "gharts-listener starts"
    );
    let daemon = app::run(config, args.path(), config::environment(), listener);
    match runtime.block_on(daemon) {
        Ok(()) => {
            tracing::info!("ended in good order");
            Exit::Well
        }
        Err(error) => {
            tracing::error!(%error, "ended");
            Exit::from(&error)
        }
    }
}

impl From<&app::Error> for Exit {
    fn from(error: &app::Error) -> Self {
        match error {
            app::Error::Temporary(_) => Self::Temporary,
            app::Error::Core(_) => Self::Core,
            app::Error::Aborted => Self::Bad,
        }
    }
}

fn prepare(args: &FileArgs) -> Result<(Config, TcpListener), Exit> {
    let config = args.load()?;
    let listen = config.server.listen;
    let listener = TcpListener::bind(listen).and_then(|listener| {
        // tokio takes over only sockets that do not block.
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    match listener {
        Ok(listener) => Ok((config, listener)),
        Err(error) => {
            output::error(
                &format!("cannot listen on {listen}: {error}"),
                "stop what uses the port, or choose another: server.listen or GHARTS_LISTENER__SERVER__LISTEN",
            );
            Err(Exit::Usage)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::ExitCode;

    use super::*;

    /// Why a daemon of a whole-system test ends so, `errors::b7_...` shows.
    #[test]
    fn b7_a_core_task_that_died_is_exit_code_70() {
        let exit = Exit::from(&app::Error::Core("panicked".to_owned()));
        assert_eq!(
            format!("{:?}", ExitCode::from(exit)),
            format!("{:?}", ExitCode::from(70))
        );
    }
}
