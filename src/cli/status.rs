//! `status`: asks a running daemon, over its own port, and says it for people or for machines.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use bytes::Bytes;
use clap::Args;
use http::{StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::time::timeout;

use super::{Exit, FileArgs, output};
use crate::status::{ConfigurationStatus, SetStatus, Status};

const DEADLINE: Duration = Duration::from_secs(10);
/// Three hundred scale sets are less than one MiB.
const LARGEST: usize = 16 << 20;
/// Where the file does not even say the port.
const BY_URL: &str = "\nA running daemon is asked without its file by --url, such as --url http://127.0.0.1:8080\n";

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// The daemon's address, such as http://127.0.0.1:8080. By default the port of the file, on this host.
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    url: Option<String>,
    #[command(flatten)]
    file: FileArgs,
    /// Print the daemon's answer as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: &StatusArgs) -> Exit {
    let uri = match address(args) {
        Ok(uri) => uri,
        Err(exit) => return exit,
    };
    let answer = match timeout(DEADLINE, fetch(&uri)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} s", DEADLINE.as_secs())),
    };
    let status = answer.and_then(|bytes| {
        serde_json::from_slice::<Status>(&bytes).map_err(|error| format!("the answer is not a status: {error}"))
    });
    match status {
        Ok(status) if args.json => match serde_json::to_string_pretty(&status) {
            Ok(json) => {
                output::text(&(json + "\n"));
                Exit::Well
            }
            Err(error) => failed(&uri, &error.to_string()),
        },
        Ok(status) => {
            output::text(&render(&status));
            Exit::Well
        }
        Err(reason) => failed(&uri, &reason),
    }
}

fn failed(uri: &Uri, reason: &str) -> Exit {
    output::error(
        &format!("cannot ask {uri}: {reason}"),
        "is the daemon running? Name it with --url (a port-forward does for one in a cluster)",
    );
    Exit::Bad
}

fn address(args: &StatusArgs) -> Result<Uri, Exit> {
    let base = if let Some(url) = &args.url {
        url.trim_end_matches('/').to_owned()
    } else {
        let listen = args.file.listen().inspect_err(|_| output::note(BY_URL))?;
        format!("http://{}", reachable(listen))
    };
    match format!("{base}/api/v1/status").parse::<Uri>() {
        Ok(uri) if uri.scheme_str() == Some("http") && uri.authority().is_some() => Ok(uri),
        _ => {
            output::error(
                &format!("{base} is not an http URL"),
                "such as --url http://127.0.0.1:8080",
            );
            Err(Exit::Usage)
        }
    }
}

/// A daemon that listens on every address is asked over loopback.
fn reachable(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    listen
}

async fn fetch(uri: &Uri) -> Result<Bytes, String> {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.get(uri.clone()).await.map_err(|error| chain(&error))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LARGEST).collect().await;
    let bytes = body.map_err(|error| error.to_string())?.to_bytes();
    if status == StatusCode::OK {
        Ok(bytes)
    } else {
        Err(format!("it answered {status}"))
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let _ = write!(text, ": {error}");
        next = error.source();
    }
    text
}

/// One line per set, then for each set why there are not more runners.
fn render(status: &Status) -> String {
    let mut text = format!(
        "gharts-listener {}, since {}: {}\n",
        status.version,
        status.started_at,
        status.condition()
    );
    for line in status.leader.words().iter().chain(&status.not_ready) {
        let _ = writeln!(text, "  {}", clean(line));
    }
    text.push_str(&of_the_file(&status.configuration));
    if status.scale_sets.is_empty() {
        text.push_str("\nno scale sets\n");
        return text;
    }
    let head = ["SCALE SET", "JOBS", "RUNNERS", "CAPACITY", "SESSION", "STATE"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(status.scale_sets.iter().map(row));
    text.push('\n');
    text.push_str(&output::table(&rows));
    for set in &status.scale_sets {
        text.push('\n');
        text.push_str(&details(set));
    }
    text
}

/// Nothing, while what the file says is in effect.
fn of_the_file(configuration: &ConfigurationStatus) -> String {
    let mut text = String::new();
    if let Some(since) = &configuration.refused_since {
        let _ = writeln!(
            text,
            "\nthe file has been refused since {since}; the settings of {} stay in effect",
            configuration.since
        );
    }
    for problem in &configuration.problems {
        let _ = writeln!(text, "  {}: {}", clean(&problem.path), clean(&problem.message));
        if !problem.remedy.is_empty() {
            let _ = writeln!(text, "    help: {}", clean(&problem.remedy));
        }
    }
    if !configuration.needs_restart.is_empty() {
        text.push_str("\nchanges of the file that need a restart:\n");
    }
    for change in &configuration.needs_restart {
        let _ = writeln!(text, "  {}", clean(change));
    }
    text
}

fn row(set: &SetStatus) -> Vec<String> {
    let demand = &set.demand;
    let flags = set.flags();
    vec![
        clean(&set.name),
        format!("{} assigned, {} running", demand.assigned, demand.running),
        runners(set),
        format!("{} of {}..{}", set.capacity, set.min_runners, set.max_runners),
        set.session.clone(),
        if flags.is_empty() {
            "ok".to_owned()
        } else {
            flags.join(", ")
        },
    ]
}

fn runners(set: &SetStatus) -> String {
    let parts: Vec<String> = set
        .runners_by_state()
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    if parts.is_empty() {
        "none".to_owned()
    } else {
        parts.join(", ")
    }
}

fn details(set: &SetStatus) -> String {
    let mut text = format!("{} ({}, binding {})\n", clean(&set.name), set.provisioner, set.binding);
    for (n, reason) in set.reasons.iter().enumerate() {
        let since = reason
            .since
            .as_ref()
            .map(|s| format!(", since {s}"))
            .unwrap_or_default();
        let until = reason
            .until
            .as_ref()
            .map(|at| format!(", tried again at {at}"))
            .unwrap_or_default();
        let _ = writeln!(text, "  {}: {}{since}{until}", reason.code, clean(&reason.message));
        // The first reason cuts hardest: mending another changes nothing yet.
        if let (0, Some(remedy)) = (n, &reason.remedy) {
            let _ = writeln!(text, "    help: {}", clean(remedy));
        }
    }
    for pod in &set.kept_pods {
        let said = pod
            .message
            .as_ref()
            .map(|said| format!(": {}", clean(said)))
            .unwrap_or_default();
        let _ = writeln!(text, "  failed {} ({}){said}", pod.runner, pod.reason);
        let _ = writeln!(
            text,
            "    its log, until {}: gharts-listener logs {}",
            pod.until, pod.runner
        );
    }
    for note in &set.notes {
        let _ = writeln!(text, "  note ({}): {}", note.code, clean(&note.message));
    }
    text.push_str(&last_try(set));
    text
}

/// The last try at a runner, and the last refusal unless it is history: then a later try succeeded.
fn last_try(set: &SetStatus) -> String {
    let mut text = String::new();
    if let Some(attempt) = &set.last_provision_attempt {
        let success = set.last_provision_success.as_deref().unwrap_or("none");
        let _ = writeln!(text, "  last try {attempt}, last success {success}");
    }
    if let Some(error) = set.standing_error() {
        let class = set.last_provision_error_class.as_deref().unwrap_or("unknown");
        let code = set.last_provision_error_code.as_deref().filter(|code| *code != class);
        let code = code.map(|code| format!(", {}", clean(code))).unwrap_or_default();
        let at = set
            .last_provision_error_at
            .as_deref()
            .map(|at| format!(" {at}"))
            .unwrap_or_default();
        let _ = writeln!(text, "  last error{at} ({class}{code}): {}", clean(error));
    }
    text
}

/// Names and texts of strangers must not steer the terminal.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::status::{DemandStatus, LeaderStatus, NoteStatus, ProblemStatus, ReasonStatus};

    fn example() -> Status {
        Status {
            version: "0.1.0".to_owned(),
            started_at: "2026-11-23T08:00:00Z".to_owned(),
            ready: true,
            scale_sets: vec![SetStatus {
                name: "linux-large".to_owned(),
                provisioner: "gharts".to_owned(),
                binding: "scaleSet".to_owned(),
                session: "polling".to_owned(),
                max_runners: 50,
                capacity: 7,
                quota_exceeded: true,
                last_provision_attempt: Some("2026-11-23T08:12:00Z".to_owned()),
                last_provision_success: Some("2026-11-23T08:09:00Z".to_owned()),
                last_provision_error_at: Some("2026-11-23T08:12:00Z".to_owned()),
                last_provision_error: Some("GHARTS answered 429: Maximum allowed: 7".to_owned()),
                last_provision_error_class: Some("quota_exceeded".to_owned()),
                last_provision_error_code: Some("QUOTA_EXCEEDED".to_owned()),
                demand: DemandStatus {
                    assigned: 9,
                    running: 6,
                    ..DemandStatus::default()
                },
                runners: BTreeMap::from([("busy".to_owned(), 6), ("idle".to_owned(), 1)]),
                reasons: vec![ReasonStatus {
                    code: "gharts_quota".to_owned(),
                    message: "GHARTS: Maximum allowed: 7\u{1b}[2J".to_owned(),
                    remedy: Some("ask for a higher quota".to_owned()),
                    since: Some("2026-11-23T08:10:00Z".to_owned()),
                    until: Some("2026-11-23T08:12:00Z".to_owned()),
                }],
                notes: vec![NoteStatus {
                    code: "label_missing".to_owned(),
                    message: "GitHub did not store label gpu".to_owned(),
                }],
                ..SetStatus::default()
            }],
            ..Status::default()
        }
    }

    #[test]
    fn b49_the_table_says_what_runs_and_why_not_more() {
        insta::assert_snapshot!(render(&example()), @"
        gharts-listener 0.1.0, since 2026-11-23T08:00:00Z: ready

        SCALE SET    JOBS                   RUNNERS         CAPACITY    SESSION  STATE
        linux-large  9 assigned, 6 running  1 idle, 6 busy  7 of 0..50  polling  quota exceeded

        linux-large (gharts, binding scaleSet)
          gharts_quota: GHARTS: Maximum allowed: 7\u{fffd}[2J, since 2026-11-23T08:10:00Z, tried again at 2026-11-23T08:12:00Z
            help: ask for a higher quota
          note (label_missing): GitHub did not store label gpu
          last try 2026-11-23T08:12:00Z, last success 2026-11-23T08:09:00Z
          last error 2026-11-23T08:12:00Z (quota_exceeded, QUOTA_EXCEEDED): GHARTS answered 429: Maximum allowed: 7
        ");
    }

    #[test]
    fn b42_the_first_lines_say_who_leads() {
        let said = |leads, leader: Option<&str>| {
            let mut status = example();
            status.leader = LeaderStatus {
                lease: "ci/gharts-listener".to_owned(),
                identity: "vm-1".to_owned(),
                leads,
                leader: leader.map(str::to_owned),
            };
            render(&status).lines().nth(1).unwrap().to_owned()
        };
        assert_eq!(
            said(true, Some("vm-1")),
            "  leads as vm-1, by the Lease ci/gharts-listener"
        );
        assert_eq!(
            said(false, Some("vm-2")),
            "  stands by: vm-2 leads, by the Lease ci/gharts-listener"
        );
        assert_eq!(
            said(false, None),
            "  stands by: nobody leads yet, by the Lease ci/gharts-listener"
        );
    }

    #[test]
    fn b38_a_file_that_is_refused_and_changes_that_need_a_restart_are_shown() {
        let status = Status {
            configuration: ConfigurationStatus {
                generation: 3,
                since: "2026-11-23T09:00:00Z".to_owned(),
                refused_since: Some("2026-11-23T09:30:00Z".to_owned()),
                problems: vec![ProblemStatus {
                    path: "scaleSets[0].maxRunners".to_owned(),
                    message: "expected a whole number, found the text \"50\"".to_owned(),
                    remedy: "write 50 without quotes".to_owned(),
                }],
                needs_restart: vec!["server.listen: 0.0.0.0:8080 -> 0.0.0.0:9090".to_owned()],
            },
            ..Status::default()
        };
        insta::assert_snapshot!(of_the_file(&status.configuration), @r#"

        the file has been refused since 2026-11-23T09:30:00Z; the settings of 2026-11-23T09:00:00Z stay in effect
          scaleSets[0].maxRunners: expected a whole number, found the text "50"
            help: write 50 without quotes

        changes of the file that need a restart:
          server.listen: 0.0.0.0:8080 -> 0.0.0.0:9090
        "#);
        assert!(render(&status).contains(&of_the_file(&status.configuration)));
        assert_eq!(of_the_file(&ConfigurationStatus::default()), "");
    }

    #[test]
    fn b49_an_error_that_a_later_success_has_overtaken_stands_in_the_json_alone() {
        let mut status = example();
        status.scale_sets[0].last_provision_success = Some("2026-11-23T08:13:00Z".to_owned());
        let shown = render(&status);
        assert!(
            shown.contains("last success 2026-11-23T08:13:00Z") && !shown.contains("last error"),
            "{shown}"
        );
        let json = serde_json::to_value(&status).unwrap();
        let set = &json["scaleSets"][0];
        for (key, value) in [
            ("lastProvisionAttempt", "2026-11-23T08:12:00Z"),
            ("lastProvisionSuccess", "2026-11-23T08:13:00Z"),
            ("lastProvisionErrorAt", "2026-11-23T08:12:00Z"),
            ("lastProvisionError", "GHARTS answered 429: Maximum allowed: 7"),
            ("lastProvisionErrorClass", "quota_exceeded"),
            ("lastProvisionErrorCode", "QUOTA_EXCEEDED"),
        ] {
            assert_eq!(set[key], value, "{key}");
        }
        for (key, value) in [("quotaExceeded", true), ("policyViolation", false), ("degraded", false)] {
            assert_eq!(set[key], value, "{key}");
        }
    }

    #[test]
    fn a_daemon_on_every_address_is_asked_over_loopback() {
        assert_eq!(reachable("0.0.0.0:8080".parse().unwrap()).to_string(), "127.0.0.1:8080");
        assert_eq!(reachable("[::]:8080".parse().unwrap()).to_string(), "[::1]:8080");
        assert_eq!(reachable("10.0.0.1:80".parse().unwrap()).to_string(), "10.0.0.1:80");
    }
}
