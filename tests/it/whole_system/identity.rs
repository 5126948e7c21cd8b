//! Who the daemon is for GHARTS, over hours of virtual time; and what it tells of each try at a runner.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use gharts_listener::{
    config::LogFormat,
    sim::{
        fleet::Behaviour,
        network::Trouble,
        oidc::{self, Ailment, AuthStyle},
        world::{MACHINE, Options, Provisioner, SetOptions},
    },
};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{
    harness::{Run, Running, Stage, jobs, with_provisioner},
    operations::Captured,
};

const GHARTS: &str = "gharts.test";
const JIT: &str = "POST /api/v1/runners/jit";
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn through_gharts() -> Options {
    with_provisioner(Provisioner::Gharts)
}

/// A file of this test's own.
fn scratch_file(text: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!(
        "identity-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    );
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// The daemon's file with another identity.
fn with_oidc(text: &str, oidc: &str) -> String {
    let (before, rest) = text.split_once("  oidc:\n").unwrap();
    let after = &rest[rest.find("  limits: ").unwrap()..];
    format!("{before}  oidc: {oidc}\n{after}")
}

fn client_credentials(style: &str) -> String {
    let secret = scratch_file(MACHINE.1);
    format!(
        "{{ provider: external, audience: https://gharts.test, external: {{ tokenUrl: https://oidc.test/oauth/token, \
         clientId: {}, clientSecretFile: {}, scope: runners, authStyle: {style} }} }}",
        MACHINE.0,
        secret.display()
    )
}

/// The machine of the OIDC provider, with tokens of ten minutes.
async fn as_machine(style: &str) -> Stage {
    let stage = Stage::set_with(through_gharts(), |text| with_oidc(&text, &client_credentials(style))).await;
    stage.world.oidc.set_ttl(10 * MINUTE);
    stage
}

async fn served(running: &Running, count: usize) {
    let queued = running.queue(&jobs("linux", count).lasting(SECOND)).await;
    running.until_finished(&queued, 20 * SECOND).await;
}

// ---- Tokens -------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn b16_client_credentials_serve_hours_in_each_style_with_the_expiry_that_the_issuer_tells() {
    for (style, only) in [
        ("body", AuthStyle::Body),
        ("basic", AuthStyle::Basic),
        ("json", AuthStyle::Json),
    ] {
        let _run = Run::called(style.to_owned());
        let stage = as_machine(style).await;
        stage.world.oidc.register(oidc::Client {
            styles: vec![only],
            ..oidc::Client::machine(MACHINE.0, MACHINE.1)
        });
        let running = stage.start();
        for _ in 0..12 {
            served(&running, 2).await;
            running.pass(10 * MINUTE).await;
        }
        let (issued, refused) = (running.world.oidc.tokens_issued(), running.world.oidc.tokens_refused());
        assert_eq!(refused, 0);
        assert!(
            (12..=16).contains(&issued),
            "{issued} tokens of ten minutes in two hours"
        );
        assert_eq!(
            running.metric("arc_gharts_token_refreshes_total", &[]),
            issued as f64,
            "each is counted"
        );
        running.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn b16_a_slow_renewal_delays_no_job_while_the_old_token_is_good() {
    let running = as_machine("body").await.start();
    served(&running, 1).await;
    running.world.oidc.ail_token_endpoint(Some(Ailment::Slow(18 * SECOND)));
    running.pass(8 * MINUTE).await;
    let before = running.world.oidc.tokens_issued();
    let begun = running.world.clock.instant();
    served(&running, 3).await;
    assert!(running.world.clock.instant() - begun < 12 * SECOND);
    running.pass(20 * SECOND).await;
    assert_eq!(running.world.oidc.tokens_issued() - before, 1, "one flight");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b16_an_issuer_that_is_away_is_a_reason_once_the_token_is_over_and_is_not_hammered() {
    let running = as_machine("basic").await.start();
    served(&running, 1).await;
    running
        .world
        .oidc
        .ail_token_endpoint(Some(Ailment::Status(StatusCode::BAD_GATEWAY)));
    let asked = running
        .world
        .network
        .disturb("oidc.test", "", Trouble::Late(Duration::ZERO));
    running.pass(9 * MINUTE).await;
    served(&running, 1).await;
    running.pass(2 * MINUTE).await;
    let queued = running.queue(&jobs("linux", 5)).await;
    let reason = running.until_reason("linux", "issuer_down").await;
    for words in ["client credentials of", "oidc.test", "502"] {
        assert!(reason.message.contains(words), "{}", reason.message);
    }
    let before = asked.met();
    running.pass(10 * MINUTE).await;
    let made = asked.met() - before;
    assert!(made <= 40, "{made} calls to a broken issuer in ten minutes");
    running.world.oidc.ail_token_endpoint(None);
    running.until_finished(&queued, 2 * MINUTE).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b16_a_wrong_client_secret_says_what_mends_it_and_a_right_one_is_read_without_a_restart() {
    let secret = scratch_file("wrong");
    let oidc = format!(
        "{{ provider: external, audience: https://gharts.test, external: {{ tokenUrl: https://oidc.test/oauth/token, \
         clientId: {}, clientSecretFile: {} }} }}",
        MACHINE.0,
        secret.display()
    );
    let running = Running::start_with(through_gharts(), |text| with_oidc(&text, &oidc)).await;
    let queued = running.queue(&jobs("linux", 3)).await;
    let reason = running.until_reason("linux", "credentials").await;
    for words in ["invalid_client", "clientId", "authStyle"] {
        assert!(reason.message.contains(words), "{}", reason.message);
    }
    let before = running.world.oidc.tokens_refused();
    running.pass(10 * MINUTE).await;
    let refused = running.world.oidc.tokens_refused() - before;
    assert!(refused <= 6, "{refused} tries in ten minutes");
    std::fs::write(&secret, MACHINE.1).unwrap();
    running.until_finished(&queued, 7 * MINUTE).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b16_a_projected_token_is_followed_as_it_changes() {
    let file = scratch_file("not yet");
    let oidc = format!("{{ provider: file, tokenFile: {} }}", file.display());
    let stage = Stage::set_with(through_gharts(), |text| with_oidc(&text, &oidc)).await;
    stage.world.oidc.set_ttl(10 * MINUTE);
    let provider = stage.world.oidc.clone();
    let project = || {
        let claims: Map<String, Value> = [
            ("sub".to_owned(), json!(MACHINE.0)),
            ("aud".to_owned(), json!("https://gharts.test")),
            ("gty".to_owned(), json!("client-credentials")),
        ]
        .into_iter()
        .collect();
        std::fs::write(&file, provider.issue(&claims).unwrap()).unwrap();
    };
    project();
    let running = stage.start();
    for _ in 0..20 {
        served(&running, 1).await;
        running.pass(6 * MINUTE).await;
        // Kubernetes does so at four fifths of a token's life.
        project();
        running.pass(MINUTE).await;
    }
    assert_eq!(running.failures("jit_refused"), 0.0);
    assert_eq!(
        running.metric("arc_gharts_provision_attempts_total", &["status=\"error\""]),
        0.0
    );
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b17_a_token_that_is_not_valid_yet_is_kept_and_tried_again_within_seconds() {
    let running = Running::start(through_gharts()).await;
    served(&running, 1).await;
    let tokens = running.requests("create", "serviceaccounts/token");
    let skewed = Trouble::Answered(
        StatusCode::UNAUTHORIZED,
        json!({"detail": "Token validation failed: The token is not yet valid (nbf)"}).to_string(),
    );
    let skewed = running.world.network.disturb(GHARTS, JIT, skewed);
    let queued = running.queue(&jobs("linux", 1).lasting(SECOND)).await;
    let reason = running.until_reason("linux", "clock_skew").await;
    assert!(reason.remedy.is_some_and(|remedy| remedy.contains("clocks")));
    running.pass(10 * SECOND).await;
    assert!((2..=4).contains(&skewed.met()), "{} tries in ten seconds", skewed.met());
    skewed.end();
    running.until_finished(&queued, 30 * SECOND).await;
    assert_eq!(
        running.requests("create", "serviceaccounts/token"),
        tokens,
        "the same token"
    );
    running.end().await;
}

// ---- What each try tells ------------------------------------------------------------------------------

fn policy_violation() -> Trouble {
    Trouble::Answered(
        StatusCode::FORBIDDEN,
        json!({"detail": "Labels ['linux'] not permitted", "error_code": "LABEL_POLICY_VIOLATION"}).to_string(),
    )
}

/// The log lines with this message, as JSON.
fn lines(captured: &Captured, message: &str) -> Vec<Value> {
    let text = captured.text();
    let values = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    values.filter(|value| value["message"] == message).collect()
}

#[tokio::test(start_paused = true)]
async fn b49_every_try_is_one_log_line_with_all_that_the_seed_asked() {
    let captured = Captured::default();
    let _logs = captured.logs(LogFormat::Json, "info");
    let mut options = through_gharts();
    options.sets[0].gharts_labels = vec!["linux".to_owned(), "gpu-a100".to_owned()];
    let running = Running::start(options).await;
    running.world.network.disturb(GHARTS, JIT, policy_violation()).times(2);
    let queued = running.queue(&jobs("linux", 1).lasting(SECOND)).await;
    running.until_finished(&queued, 12 * MINUTE).await;
    served(&running, 1).await;
    running.end().await;

    let failed = lines(&captured, "runner not provisioned");
    assert_eq!(failed.len(), 2);
    for (line, attempt) in failed.iter().zip(1..) {
        for (key, value) in [
            ("level", json!("WARN")),
            ("set", json!("linux")),
            ("labels", json!("linux,gpu-a100")),
            ("gharts_url", json!("https://gharts.test")),
            ("status_code", json!(403)),
            ("error_code", json!("LABEL_POLICY_VIOLATION")),
            ("error_class", json!("label_policy")),
            ("attempt", json!(attempt)),
        ] {
            assert_eq!(line[key], value, "{key} of {line}");
        }
        assert!(line["error"].as_str().unwrap().contains("not permitted"), "{line}");
    }
    let granted = lines(&captured, "runner provisioned");
    assert_eq!(granted.len(), 2);
    for (line, attempt) in granted.iter().zip([3, 1]) {
        for (key, value) in [
            ("level", json!("INFO")),
            ("labels", json!("linux,gpu-a100")),
            ("gharts_url", json!("https://gharts.test")),
            ("status_code", json!(201)),
            ("attempt", json!(attempt)),
        ] {
            assert_eq!(line[key], value, "{key} of {line}");
        }
        let record = line["gharts_runner_id"].as_str().unwrap();
        assert_eq!(record.len(), 36, "GHARTS' own id: {record}");
    }
    let runners = failed
        .iter()
        .chain(&granted)
        .map(|line| line["runner"].as_str().unwrap());
    let runners: std::collections::BTreeSet<_> = runners.collect();
    assert_eq!(runners.len(), 4, "each try under its own name");
    assert!(runners.iter().all(|name| name.starts_with("linux-")), "{runners:?}");
}

#[tokio::test(start_paused = true)]
async fn b49_status_tells_the_last_try_its_error_class_and_code_and_forgets_none_of_it() {
    let running = Running::start(through_gharts()).await;
    let before = running.said_of("linux").unwrap_or_default();
    assert_eq!(
        (before.last_provision_attempt, before.last_provision_error),
        (None, None)
    );
    let refusing = running.world.network.disturb(GHARTS, JIT, policy_violation());
    let queued = running.queue(&jobs("linux", 2).lasting(SECOND)).await;
    running.until_reason("linux", "label_policy").await;
    let said = running.said_of("linux").unwrap();
    assert_eq!(said.last_provision_error_class.as_deref(), Some("label_policy"));
    assert_eq!(
        said.last_provision_error_code.as_deref(),
        Some("LABEL_POLICY_VIOLATION")
    );
    assert!(
        said.last_provision_error
            .unwrap()
            .contains("Labels ['linux'] not permitted")
    );
    assert!((said.policy_violation, said.quota_exceeded, said.degraded) == (true, false, true));
    assert!(said.last_provision_attempt.is_some() && said.last_provision_error_at.is_some());
    assert_eq!(said.last_provision_success, None);
    refusing.end();
    running.until_finished(&queued, 7 * MINUTE).await;
    running.until_no_reason("linux", "label_policy").await;
    let said = running.said_of("linux").unwrap();
    assert!((said.policy_violation, said.quota_exceeded, said.degraded) == (false, false, false));
    assert!(said.last_provision_success > said.last_provision_error_at, "{said:?}");
    assert!(said.last_provision_error.is_some(), "when it happened stands beside it");

    // Where the server has no code of its own, ours stands in.
    let full = json!({"detail": "Team 'platform' runner quota exceeded. Maximum allowed: 2, current: 2"});
    let full = running.world.network.disturb(
        GHARTS,
        JIT,
        Trouble::Answered(StatusCode::BAD_REQUEST, full.to_string()),
    );
    let queued = running.queue(&jobs("linux", 1).lasting(SECOND)).await;
    running.until_reason("linux", "quota_exceeded").await;
    let said = running.said_of("linux").unwrap();
    assert_eq!(said.last_provision_error_code.as_deref(), Some("quota_exceeded"));
    assert!((said.policy_violation, said.quota_exceeded, said.degraded) == (false, true, true));
    full.end();
    running.until_finished(&queued, MINUTE).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b40_the_seeds_metrics_count_every_try_at_gharts_by_status_and_code_and_no_other() {
    let options = Options {
        sets: vec![
            SetOptions::new("linux", Provisioner::Gharts, 10),
            SetOptions::new("plain", Provisioner::ScaleSet, 10),
        ],
        ..Options::default()
    };
    let running = Running::start(options).await;
    let quota = json!({"detail": "Team 'platform' runner quota exceeded. Maximum allowed: 2, current: 2"});
    running.world.network.disturb(GHARTS, JIT, policy_violation()).times(1);
    let queued = running.queue(&jobs("linux", 1).lasting(SECOND)).await;
    running.until_finished(&queued, 7 * MINUTE).await;
    let full = Trouble::Answered(StatusCode::BAD_REQUEST, quota.to_string());
    running.world.network.disturb(GHARTS, JIT, full).times(2);
    let queued = running.queue(&jobs("linux", 1).lasting(SECOND)).await;
    running.until_finished(&queued, MINUTE).await;
    let plain = running.queue(&jobs("plain", 3).lasting(SECOND)).await;
    running.until_finished(&plain, MINUTE).await;
    for (labels, count) in [
        (["status=\"success\"", "error_code=\"\""], 2.0),
        (["status=\"error\"", "error_code=\"LABEL_POLICY_VIOLATION\""], 1.0),
        (["status=\"error\"", "error_code=\"quota_exceeded\""], 2.0),
    ] {
        assert_eq!(
            running.metric("arc_gharts_provision_attempts_total", &labels),
            count,
            "{labels:?}"
        );
    }
    assert_eq!(running.metric("arc_gharts_provision_attempts_total", &[]), 5.0);
    for (status, count) in [("status=\"success\"", 2.0), ("status=\"error\"", 3.0)] {
        assert_eq!(
            running.metric("arc_gharts_provision_duration_seconds_count", &[status]),
            count
        );
    }
    let tokens = running.requests("create", "serviceaccounts/token") as f64;
    assert_eq!(running.metric("arc_gharts_token_refreshes_total", &[]), tokens);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b40_every_figure_that_the_established_controller_lacks_tells_of_a_run() {
    let mut options = through_gharts();
    options.sets[0].min_runners = 1;
    let stage = Stage::set(options).await;
    let rival = stage.rival();
    let held = rival.hold("linux").await;
    let running = stage.start();
    running.until_reason("linux", "session_conflict").await;
    assert!(running.metric("gharts_listener_session_conflicts_total", &["set=\"linux\""]) >= 1.0);
    rival.connection.close_session(held.set_id, &held.id).await.unwrap();
    let fleet = running.world.fleet.clone().unwrap();
    fleet.behave(|_| Behaviour::Crashes(3));
    running
        .until("a failed runner", |_| {
            running.metric("gharts_listener_failures_total", &[]) >= 1.0
        })
        .await;
    fleet.behave(|_| Behaviour::Ordinary);
    running
        .until("a runner that waits", |_| {
            running.metric("gharts_listener_runners", &["set=\"linux\"", "state=\"idle\""]) == 1.0
        })
        .await;
    let queued = running.queue(&jobs("linux", 3).lasting(SECOND)).await;
    running.until_finished(&queued, 15 * MINUTE).await;
    running
        .until("the news of every start", |_| {
            running.metric("gharts_listener_job_queue_seconds_count", &["set=\"linux\""]) == 3.0
        })
        .await;
    for stage in ["jit", "pod", "registered", "started"] {
        let label = format!("stage=\"{stage}\"");
        let count = running.metric("gharts_listener_stage_seconds_count", &["set=\"linux\"", &label]);
        assert!(count >= 1.0, "{stage}");
    }
    let text = running.sources.metrics.render();
    let reasons: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("gharts_listener_failures_total{"))
        .collect();
    assert!(reasons.iter().all(|line| line.contains("reason=\"")), "{reasons:?}");
    assert_eq!(running.metric("gharts_listener_capacity", &["set=\"linux\""]), 10.0);
    assert_eq!(
        running.metric("gharts_listener_reason", &["reason=\"session_conflict\""]),
        0.0
    );
    assert!(running.metric("gharts_listener_poll_age_seconds", &["set=\"linux\""]) <= 60.0);
    for token in ["token=\"gharts\"", "token=\"github\""] {
        let renewals = running.metric("gharts_listener_token_renewals_total", &[token, "result=\"ok\""]);
        assert!(renewals >= 1.0, "{token}");
    }
    let build = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        running.metric("gharts_listener_build_info", &[&build, "commit=\""]),
        1.0
    );
    running.end_with_spares(1).await;
}
