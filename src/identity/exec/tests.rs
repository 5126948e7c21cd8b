//! Real commands, run by a real shell. The clock of the tokens stands still.

use std::{collections::BTreeMap, time::Duration};

use secrecy::ExposeSecret as _;
use serde_json::json;

use super::*;
use crate::identity::claims::jwt;

const NOW: &str = "2026-01-01T00:00:00Z";

fn command(arguments: &[&str], timeout: Duration) -> TokenCommand {
    let command = ExecCommand {
        command: arguments.iter().map(|a| (*a).to_owned()).collect(),
        env: BTreeMap::from([("WHO".to_owned(), "runner".to_owned())]),
        timeout,
    };
    TokenCommand::new(command, Clock::simulated(NOW.parse().unwrap()))
}

fn shell(script: &str) -> TokenCommand {
    command(&["/bin/sh", "-c", script], Duration::from_secs(20))
}

async fn refusal(source: &TokenCommand) -> String {
    let error = source.fetch().await.unwrap_err();
    assert!(matches!(error, TokenError::Refused { .. }), "{error:?}");
    error.to_string()
}

async fn illness(source: &TokenCommand) -> String {
    let error = source.fetch().await.unwrap_err();
    assert!(matches!(error, TokenError::Unavailable { .. }), "{error:?}");
    error.to_string()
}

#[test]
fn b16_a_command_may_print_text_json_or_an_exec_credential() {
    let end = Some("2026-01-01T01:00:00Z".parse().unwrap());
    for (output, expected) in [
        ("tok\n", ("tok", None)),
        (r#"{"token": "tok"}"#, ("tok", None)),
        (r#"{"token": "tok", "expiresAt": "2026-01-01T01:00:00Z"}"#, ("tok", end)),
        (
            r#" {"token": "tok", "expirationTimestamp": "2026-01-01T02:00:00+01:00", "other": 1}"#,
            ("tok", end),
        ),
        (
            r#"{"kind": "ExecCredential", "apiVersion": "client.authentication.k8s.io/v1", "spec": {"interactive": false},
               "status": {"token": "tok", "expirationTimestamp": "2026-01-01T01:00:00Z"}}"#,
            ("tok", end),
        ),
        (
            r#"{"kind": "ExecCredential", "status": {"token": "tok"}}"#,
            ("tok", None),
        ),
    ] {
        let (token, expires) = read(output).unwrap();
        assert_eq!((token.as_str(), expires), expected, "{output}");
    }
}

#[test]
fn b16_what_is_no_token_is_refused_without_being_quoted() {
    for output in [
        "",
        " \n",
        "{}",
        r#"{"status": {}}"#,
        r#"{"token": ""}"#,
        r#"{"token": 7777}"#,
        r#"{"token": "s3cret""#,
        "Logged in.\ns3cret",
        "s3cret\u{e9}",
        r#"{"token": "s3cret", "expiresAt": "in an hour"}"#,
        r#"["s3cret one"]"#,
    ] {
        let error = read(output).unwrap_err();
        assert!(
            !error.contains("s3cret") && !error.contains("7777"),
            "{output}: {error}"
        );
    }
}

#[tokio::test]
async fn b16_the_command_runs_without_a_shell_with_its_environment_and_its_end_is_read() {
    let token = command(&["/bin/echo", "$WHO"], Duration::from_secs(20))
        .fetch()
        .await
        .unwrap();
    assert_eq!(token.secret.expose_secret(), "$WHO");
    assert_eq!(token.life, None);
    let token = shell("echo $WHO-$(cat | wc -c)").fetch().await.unwrap();
    assert_eq!(token.secret.expose_secret(), "runner-0", "standard input is empty");
    let own = jwt(&json!({"exp": 1_767_225_900}));
    let token = shell(&format!("echo {own}")).fetch().await.unwrap();
    let life = token.life.unwrap().as_secs();
    assert!((200..=300).contains(&life), "{life}");
}

#[tokio::test]
async fn b16_a_failing_command_says_its_code_and_its_last_words_but_no_secret() {
    let long = "Ab1".repeat(40);
    let script = format!(
        "echo tok-s3cret; for i in 1 2 3; do echo noise $i >&2; done; echo 'session ended: {long} and tok-s3cret' >&2; \
         echo 'log in again' >&2; exit 3"
    );
    let message = illness(&shell(&script)).await;
    assert_eq!(
        message,
        "the token command /bin/sh: exit code 3: noise 3 | session ended: [redacted] and [redacted] | log in again"
    );
    let silent = illness(&shell("exit 1")).await;
    assert!(
        silent.contains("exit code 1") && silent.contains("run it as this user"),
        "{silent}"
    );
    let killed = illness(&shell("kill -9 $$")).await;
    assert!(killed.contains("signal: 9"), "{killed}");
}

#[tokio::test]
async fn b16_much_on_standard_error_blocks_nobody_and_is_cut_at_a_line() {
    let script = "i=0; while [ $i -lt 3000 ]; do echo \"a line of some forty characters or so, $i\" >&2; i=$((i+1)); done; exit 2";
    let message = illness(&shell(script)).await;
    assert!(
        message.ends_with("a line of some forty characters or so, 2999"),
        "{message}"
    );
    let message = illness(&shell("head -c 9000 /dev/zero | tr '\\0' x >&2; exit 2")).await;
    assert!(message.contains("says nothing") && !message.contains("xx"), "{message}");
}

#[tokio::test]
async fn b16_output_without_end_is_cut_off() {
    let message = refusal(&shell("while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done")).await;
    assert!(message.contains("more than 64 KiB"), "{message}");
}

#[tokio::test]
async fn b16_a_command_that_cannot_be_run_and_one_that_prints_no_token_are_refusals() {
    let message = refusal(&command(&["/nonexistent/token"], Duration::from_secs(1))).await;
    assert!(message.contains("/nonexistent/token: it cannot be run"), "{message}");
    let message = refusal(&shell("echo two words")).await;
    assert!(message.contains("token alone"), "{message}");
    let stale = jwt(&json!({"exp": 1}));
    let message = illness(&shell(&format!("echo {stale}"))).await;
    assert!(
        message.contains("expired at 1970") && !message.contains(&stale),
        "{message}"
    );
}

/// Paused time passes the deadline as soon as nothing else happens.
#[tokio::test(start_paused = true)]
async fn b16_a_command_that_hangs_is_given_up_at_its_deadline() {
    let message = illness(&command(&["/bin/sleep", "1000"], Duration::from_secs(5))).await;
    assert!(message.contains("did not end within 5 s"), "{message}");
}

/// The process is gone, or dead and not yet buried.
fn has_ended(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start().chars().next();
    matches!(state, None | Some('Z' | 'X'))
}

#[tokio::test]
async fn b16_a_command_that_is_given_up_ends_with_its_children() {
    let file = std::env::temp_dir().join(format!("gharts-listener-{}-exec-pids", std::process::id()));
    let name = file.display();
    let script = format!("sleep 1000 & echo $$ $! > {name}.new; mv {name}.new {name}; wait");
    let source = shell(&script);
    let look = Duration::from_millis(5);
    let pids = {
        let mut fetch = source.fetch();
        loop {
            tokio::select! {
                early = &mut fetch => panic!("{early:?}"),
                () = tokio::time::sleep(look) => {}
            }
            if let Ok(pids) = std::fs::read_to_string(&file) {
                break pids;
            }
        }
    };
    std::fs::remove_file(&file).unwrap();
    let pids: Vec<&str> = pids.split_whitespace().collect();
    assert_eq!(pids.len(), 2);
    let all_ended = async {
        while !pids.iter().all(|pid| has_ended(pid)) {
            tokio::time::sleep(look).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all_ended).await.unwrap();
}
