//! `completions` and `man`: what a package of this program installs beside it, made from the command line itself.

use std::{io, path::PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;

use super::{Exit, output};

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    shell: Shell,
}

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write a page for every command into this folder instead.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn completions(mut program: Command, args: &CompletionsArgs) -> Exit {
    let name = program.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, name, &mut script);
    output::text(&String::from_utf8_lossy(&script));
    Exit::Well
}

pub(super) fn man(program: Command, args: &ManArgs) -> Exit {
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        return match clap_mangen::Man::new(program).render(&mut page) {
            Ok(()) => {
                output::text(&String::from_utf8_lossy(&page));
                Exit::Well
            }
            Err(error) => failed(&error),
        };
    };
    match std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(program, dir)) {
        Ok(()) => Exit::Well,
        Err(error) => failed(&error),
    }
}

fn failed(error: &io::Error) -> Exit {
    output::error(
        &format!("cannot write the manual: {error}"),
        "name a folder that can be written with --dir",
    );
    Exit::Bad
}
