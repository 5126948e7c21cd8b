//! `cleanup`: removes what an installation left, and says what stays and why. What is done is [`app::cleanup`]'s
//! business; this file asks and tells.

use std::fmt::Write as _;

use clap::Args;

use super::{Exit, FileArgs, output};
use crate::{
    app::{self, Fate, Finding, Wish},
    config::Config,
    ids::SetName,
};

#[derive(Debug, Args)]
pub(super) struct CleanupArgs {
    /// Only these scale sets of the file; without any, all.
    #[arg(value_name = "SCALE SET")]
    only: Vec<String>,
    /// Say what would be done, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// End runners that run a job, too: the job fails. Deletes scale sets to which jobs are assigned.
    #[arg(long)]
    busy: bool,
    /// Delete the scale sets at GitHub, too, where nobody listens to them.
    #[arg(long)]
    scale_sets: bool,
    #[command(flatten)]
    file: FileArgs,
}

/// How many things met each fate.
#[derive(Debug, Default)]
struct Tally {
    removed: usize,
    would: usize,
    kept: usize,
    failed: usize,
}

pub(super) async fn run(args: &CleanupArgs) -> Exit {
    let config = match args.file.load() {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    if let Some(unknown) = unknown(&config, &args.only) {
        output::error(
            &format!("the file has no scale set {unknown}"),
            "names are those of `scaleSets`; what a file does not name is not this installation's",
        );
        return Exit::Usage;
    }
    let externals = match app::externals(&config, config.server.listen).await {
        Ok(externals) => externals,
        Err(error) => {
            output::error(&error.to_string(), "check `kubernetes` in the file, or KUBECONFIG");
            return Exit::Temporary;
        }
    };
    let wish = Wish {
        dry_run: args.dry_run,
        busy: args.busy,
        scale_sets: args.scale_sets,
        only: args.only.iter().map(|name| SetName::new(name)).collect(),
    };
    let mut tally = Tally::default();
    let done = app::cleanup(&config, externals, &wish, |finding| {
        tally.count(finding.fate);
        output::text(&line(&finding));
    });
    match done.await {
        Ok(()) => {
            output::text(&tally.summary());
            if tally.failed > 0 || (tally.kept > 0 && !args.dry_run) {
                Exit::Bad
            } else {
                Exit::Well
            }
        }
        Err(refused) => {
            output::error(&format!("nothing was removed: {refused}"), refused.remedy());
            Exit::Bad
        }
    }
}

fn unknown<'a>(config: &Config, only: &'a [String]) -> Option<&'a str> {
    let known = |name: &&String| config.scale_sets.iter().any(|set| set.name.as_str() == name.as_str());
    only.iter().find(|name| !known(name)).map(String::as_str)
}

fn line(finding: &Finding) -> String {
    let fate = match finding.fate {
        Fate::Removed => "removed",
        Fate::WouldRemove => "would remove",
        Fate::Kept => "kept",
        Fate::Failed => "failed",
    };
    let says = if finding.says.is_empty() { "" } else { ": " };
    let mut text = format!("{fate:<9} {}{says}{}\n", finding.what, finding.says);
    if !finding.remedy.is_empty() {
        let _ = writeln!(text, "          help: {}", finding.remedy);
    }
    text
}

impl Tally {
    fn count(&mut self, fate: Fate) {
        *match fate {
            Fate::Removed => &mut self.removed,
            Fate::WouldRemove => &mut self.would,
            Fate::Kept => &mut self.kept,
            Fate::Failed => &mut self.failed,
        } += 1;
    }

    fn summary(&self) -> String {
        let parts = [
            (self.removed, "removed"),
            (self.would, "would be removed"),
            (self.kept, "kept"),
            (self.failed, "failed"),
        ];
        let said: Vec<String> = parts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        if said.is_empty() {
            "nothing is left of this installation\n".to_owned()
        } else {
            format!("\n{}\n", said.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b56_a_line_says_what_became_of_a_thing_and_what_mends_it() {
        let finding = |fate, says: &str, remedy| Finding {
            fate,
            what: "runner linux-abcde-0123456789".to_owned(),
            says: says.to_owned(),
            remedy,
        };
        assert_eq!(
            line(&finding(Fate::Removed, "pod, record at GHARTS", "")),
            "removed   runner linux-abcde-0123456789: pod, record at GHARTS\n"
        );
        assert_eq!(
            line(&finding(Fate::Kept, "it runs a job", "wait")),
            "kept      runner linux-abcde-0123456789: it runs a job\n          help: wait\n"
        );
        let mut tally = Tally::default();
        assert_eq!(tally.summary(), "nothing is left of this installation\n");
        tally.count(Fate::Removed);
        tally.count(Fate::Kept);
        assert_eq!(tally.summary(), "\n1 removed, 1 kept\n");
    }
}
