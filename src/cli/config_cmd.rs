//! `config example | schema | show`: what to write, what is allowed, what is in effect.

use clap::Subcommand;

use super::{Exit, FileArgs, output};
use crate::config;

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print a commented file to start from.
    Example,
    /// Print the JSON schema of the file, for editors and generators.
    Schema,
    /// Print what is in effect: the file, the environment's overrides, the defaults. Secrets are only named.
    Show(FileArgs),
}

pub(super) fn run(command: &ConfigCommand) -> Exit {
    match command {
        ConfigCommand::Example => output::text(config::EXAMPLE),
        ConfigCommand::Schema => output::text(&(config::schema_json() + "\n")),
        ConfigCommand::Show(args) => {
            let config = match args.load() {
                Ok(config) => config,
                Err(exit) => return exit,
            };
            match config::show(&config) {
                Ok(text) => output::text(&text),
                Err(error) => {
                    output::error(
                        &format!("cannot print the configuration: {error}"),
                        "report this as a bug",
                    );
                    return Exit::Bad;
                }
            }
        }
    }
    Exit::Well
}
