//! `logs`: the last lines of a runner, or which failed ones there are to look at. Asks the cluster, not the daemon.

use clap::Args;

use super::{Exit, FileArgs, output};
use crate::{
    app,
    ids::RunnerName,
    runner::cluster::{Cluster, ClusterError, FailedPod, Kind},
};

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// The runner, which is also its pod's name. Without one: the failed runners that are kept.
    runner: Option<String>,
    /// How many lines.
    #[arg(long, value_name = "LINES", default_value_t = 100)]
    tail: i64,
    /// The container.
    #[arg(long, value_name = "NAME", default_value = "runner")]
    container: String,
    #[command(flatten)]
    file: FileArgs,
}

pub(super) async fn run(args: &LogsArgs) -> Exit {
    let config = match args.file.load() {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let cluster = match app::cluster(&config).await {
        Ok(cluster) => cluster,
        Err(error) => {
            output::error(&error.to_string(), "check `kubernetes` in the file, or KUBECONFIG");
            return Exit::Temporary;
        }
    };
    let shown = match &args.runner {
        Some(runner) => show(&cluster, &RunnerName::new(runner), args).await,
        None => cluster.failed_pods().await.map(|pods| list(&pods)),
    };
    match shown {
        Ok(text) => {
            output::text(&text);
            Exit::Well
        }
        Err(error) => {
            output::error(&error.to_string(), remedy(&error));
            Exit::Bad
        }
    }
}

/// Why it failed, where it did, before its own words.
async fn show(cluster: &Cluster, runner: &RunnerName, args: &LogsArgs) -> Result<String, ClusterError> {
    let failed = cluster.failed_pods().await?;
    let head = failed.iter().find(|pod| pod.name == *runner).map(|pod| {
        let said = pod.message.as_ref().map(|said| format!(": {said}")).unwrap_or_default();
        format!("# {}{said}\n# kept until {}\n", pod.reason, pod.kept_until)
    });
    let log = cluster.logs(runner, &args.container, args.tail).await?;
    let end = if log.is_empty() || log.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    Ok(head.unwrap_or_default() + &log + end)
}

fn list(pods: &[FailedPod]) -> String {
    if pods.is_empty() {
        return "no failed runner is kept; `keepFailed: 30m` in a scale set keeps its next ones\n".to_owned();
    }
    let head = ["RUNNER", "REASON", "KEPT UNTIL", "KUBERNETES SAYS"]
        .map(str::to_owned)
        .to_vec();
    let rows = pods.iter().map(|pod| {
        let said = pod.message.clone().unwrap_or_default();
        vec![pod.name.to_string(), pod.reason.clone(), pod.kept_until.clone(), said]
    });
    output::table(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

fn remedy(error: &ClusterError) -> &'static str {
    match error.kind {
        Kind::Gone => "its pod is gone; `keepFailed: 30m` in the scale set keeps failed ones for a while",
        Kind::Forbidden => "this needs the rights to list pods and to get pods/log in the runner namespace",
        Kind::Invalid => "its container has not started, or has another name; see --container",
        _ => "is the API server well? Try again",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b57_failed_runners_are_listed_with_their_reasons() {
        let pods = [FailedPod {
            name: RunnerName::new("linux-abcde-0123456789"),
            reason: "crashed_before_job".to_owned(),
            message: Some("exit code 1 (Error)".to_owned()),
            kept_until: "2026-11-23T08:30:00Z".to_owned(),
        }];
        insta::assert_snapshot!(list(&pods), @"
        RUNNER                  REASON              KEPT UNTIL            KUBERNETES SAYS
        linux-abcde-0123456789  crashed_before_job  2026-11-23T08:30:00Z  exit code 1 (Error)
        ");
        assert!(list(&[]).contains("keepFailed"));
    }
}
