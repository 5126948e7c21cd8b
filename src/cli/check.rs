//! `check`: every problem of the file at once; then one line per thing that was tried, with its remedy.
//!
//! What is tried is [`app::checks`]'s business; this file says it.

use std::fmt::Write as _;

use futures::{StreamExt as _, stream};

use super::{Exit, FileArgs, output};
use crate::app;

/// Checks under way at one time.
const AT_ONCE: usize = 8;

pub(super) async fn run(args: &FileArgs) -> Exit {
    let config = match args.load() {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    output::text(&format!("ok      the file {} is valid\n", args.path().display()));
    // Side by side, told in order: a peer that hangs costs one deadline, not one per check.
    let outcomes = stream::iter(app::checks(&config).await)
        .map(|app::Check { name, run }| async move { (name, run.await) })
        .buffered(AT_ONCE);
    let mut outcomes = std::pin::pin!(outcomes);
    // The file was the first of them.
    let (mut tried, mut failed) = (1_usize, 0_usize);
    while let Some((name, outcome)) = outcomes.next().await {
        tried += 1;
        failed += usize::from(outcome.is_err());
        output::text(&line(&name, &outcome));
    }
    output::text(&summary(tried, failed));
    if failed == 0 { Exit::Well } else { Exit::Bad }
}

fn line(name: &str, outcome: &Result<String, app::CheckFailure>) -> String {
    match outcome {
        Ok(detail) if detail.is_empty() => format!("ok      {name}\n"),
        Ok(detail) => format!("ok      {name}: {detail}\n"),
        Err(failure) => {
            let mut text = format!("failed  {name}: {}\n", failure.message);
            for remedy in failure.remedy.lines() {
                let _ = writeln!(text, "        help: {remedy}");
            }
            text
        }
    }
}

fn summary(tried: usize, failed: usize) -> String {
    match failed {
        0 => format!("\nall {tried} checks passed\n"),
        failed => format!("\n{failed} of {tried} checks failed\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_ok_or_failed_and_what_mends_it() {
        assert_eq!(
            line("namespace runners", &Ok(String::new())),
            "ok      namespace runners\n"
        );
        let failure = app::CheckFailure {
            message: "create is not allowed".to_owned(),
            remedy: "bind the Role".to_owned(),
        };
        assert_eq!(
            line("may create pods", &Err(failure)),
            "failed  may create pods: create is not allowed\n        help: bind the Role\n"
        );
        assert_eq!(summary(3, 1), "\n1 of 3 checks failed\n");
    }
}
