//! Who the daemon is for GHARTS, over hours of virtual time; and what it tells of each try at a runner.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use gharts_listener::{
    clock::Clock,
    config::LogFormat,
    shutdown::Tasks,
    sim::{
        fleet::Behaviour,
        gharts::{Flavour, JwksSource, Operation, Status, TrustedIssuer, UserSpec},
        network::Trouble,
        oidc::{self, Ailment, AuthStyle},
        world::{
            ACCOUNT, Addresses, Credential, MACHINE, Options, Provisioner, RUNNER_NAMESPACE, Services, SetOptions,
        },
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
pub(super) fn with_oidc(text: &str, oidc: &str) -> String {
    let (before, rest) = text.split_once("  oidc:\n").unwrap();
    let after = &rest[rest.find("  limits: ").unwrap()..];
    format!("{before}  oidc: {oidc}\n{after}")
}

pub(super) fn client_credentials(style: &str) -> String {
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
    // Told by a probe already: the first try, the first list and what follows them slowly.
    assert!(refused <= 9, "{refused} tries in ten minutes");
    std::fs::write(&secret, MACHINE.1).unwrap();
    running.until_finished(&queued, 7 * MINUTE).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b16_an_account_without_a_namespace_is_the_daemons_own_and_a_missing_right_names_the_role() {
    let oidc = format!("{{ provider: kubernetes, audience: https://gharts.test, serviceAccount: {ACCOUNT} }}");
    let running = Running::start_with(through_gharts(), |text| with_oidc(&text, &oidc)).await;
    running.queue(&jobs("linux", 1)).await;
    let reason = running.until_reason("linux", "credentials").await;
    // The daemon's client of this world lives in the runners' namespace, where no such Role is.
    for words in [
        format!("service account {RUNNER_NAMESPACE}/{ACCOUNT}"),
        format!("a Role in {RUNNER_NAMESPACE} must allow `create` on `serviceaccounts/token` named {ACCOUNT}"),
    ] {
        assert!(reason.message.contains(&words), "{}", reason.message);
    }
    let asked = running.requests("create", "serviceaccounts/token");
    running.pass(10 * MINUTE).await;
    let asked = running.requests("create", "serviceaccounts/token") - asked;
    assert!(asked <= 9, "{asked} requests in ten minutes");
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

// ---- No credential of GitHub's ------------------------------------------------------------------------

const PROVISION: &str = "POST /api/v1/runners/provision";
const HOUR: Duration = Duration::from_secs(3600);

/// The older GHARTS, and a daemon that holds nothing of GitHub's.
fn brokered() -> Options {
    Options {
        flavour: Flavour::User,
        credential: Credential::Brokered,
        ..with_provisioner(Provisioner::ScaleSet)
    }
}

/// Records at GHARTS that are not deleted.
fn records(running: &Running) -> usize {
    let records = running.world.gharts.records();
    records.iter().filter(|record| record.status != Status::Deleted).count()
}

#[tokio::test(start_paused = true)]
async fn b44_a_day_is_served_without_a_credential_of_githubs_at_one_token_an_hour_and_no_record_stays() {
    let captured = Captured::default();
    let _logs = captured.logs(LogFormat::Json, "trace");
    let running = Running::start(brokered()).await;
    for _ in 0..24 {
        served(&running, 3).await;
        assert_eq!(records(&running), 0, "deleted as soon as the token is in hand");
        assert!(!running.said_of("linux").unwrap().degraded);
        running.pass(HOUR).await;
    }
    let tokens = running.world.gharts.calls_of(Operation::Token);
    assert!((24..=32).contains(&tokens), "{tokens} registration tokens in a day");
    assert_eq!(
        running.metric(
            "gharts_listener_token_renewals_total",
            &["token=\"registration\"", "result=\"ok\""]
        ),
        tokens as f64
    );
    assert_eq!(
        running.metric("arc_gharts_provision_attempts_total", &[]),
        0.0,
        "no runner is GHARTS' own"
    );
    let secrets = running.daemon.cable.secrets();
    assert!(secrets.len() >= 24, "registration tokens among them: {}", secrets.len());
    let status = serde_json::to_string(&*running.status()).unwrap();
    running.end().await;
    let told = captured.text() + &status;
    assert!(
        told.contains("GHARTS handed out a registration token"),
        "the logs are captured"
    );
    for secret in &secrets {
        assert!(!told.contains(secret), "a secret is told");
    }
}

#[tokio::test(start_paused = true)]
async fn b44_a_used_up_quota_is_a_reason_and_its_end_is_found() {
    let stage = Stage::set(brokered()).await;
    let account = stage.world.services.gharts_account();
    stage.world.gharts.set_quota(&account, Some(0));
    let running = stage.start();
    let reason = running.until_reason("linux", "quota_exceeded").await;
    for words in ["access to the queue", "Maximum allowed: 0, current: 0"] {
        assert!(reason.message.contains(words), "{}", reason.message);
    }
    let before = running.world.gharts.calls_of(Operation::Token);
    running.pass(10 * MINUTE).await;
    let made = running.world.gharts.calls_of(Operation::Token) - before;
    assert!(made <= 12, "{made} calls in ten minutes");
    running.world.gharts.set_quota(&account, Some(1));
    running.until_no_reason("linux", "quota_exceeded").await;
    served(&running, 2).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b44_a_quota_that_is_full_when_the_token_ends_costs_no_access_for_half_an_hour() {
    let stage = Stage::set(brokered()).await;
    let account = stage.world.services.gharts_account();
    stage.world.gharts.set_quota(&account, Some(3));
    let running = stage.start();
    served(&running, 1).await;
    running.pass(20 * MINUTE).await;
    running.world.gharts.take_places(&account, 3);
    for _ in 0..4 {
        running.pass(15 * MINUTE).await;
        served(&running, 1).await;
        assert!(!running.said_of("linux").unwrap().degraded);
    }
    let asked = running.metric(
        "gharts_listener_token_renewals_total",
        &["token=\"registration\"", "result=\"failed\""],
    );
    assert!((1.0..=70.0).contains(&asked), "{asked} tries");
    running.world.gharts.take_places(&account, 0);
    running.pass(30 * MINUTE).await;
    served(&running, 1).await;
    running.end().await;
}

/// Ten minutes of a refusal that only somebody's hand cures: a reason, a few calls, and the cure found in time.
async fn brokerage_refused(options: Options, trouble: Option<Trouble>, code: &str, words: &[&str]) {
    let stage = Stage::set(options).await;
    let trouble = trouble.map(|trouble| stage.world.network.disturb(GHARTS, PROVISION, trouble));
    let asked = stage
        .world
        .network
        .disturb(GHARTS, PROVISION, Trouble::Late(Duration::ZERO));
    let running = stage.start();
    let reason = running.until_reason("linux", code).await;
    for words in words {
        assert!(reason.message.contains(words), "{code}: {}", reason.message);
    }
    assert!(reason.remedy.is_some(), "{code} has no remedy");
    running.pass(10 * MINUTE).await;
    assert!(running.reason("linux", code).is_some(), "it stands");
    let met = asked.met() + trouble.as_ref().map_or(0, |trouble| trouble.met());
    assert!(met <= 8, "{met} calls in ten minutes of {code}");
    assert_eq!(records(&running), 0);
    if let Some(trouble) = trouble {
        trouble.end();
        running.pass(6 * MINUTE).await;
        served(&running, 1).await;
        assert_eq!(records(&running), 0);
    }
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b44_a_gharts_that_hands_out_no_tokens_says_which_one_does() {
    for flavour in [Flavour::Team, Flavour::SetAware] {
        let options = Options { flavour, ..brokered() };
        let words = ["405", "only the older, user-based GHARTS hands out registration tokens"];
        brokerage_refused(options, None, "configuration", &words).await;
    }
}

#[tokio::test(start_paused = true)]
async fn b44_an_identity_without_the_right_is_told_so() {
    let refusal = json!({"detail": "Access to registration token API not permitted for this user."});
    let refusal = Trouble::Answered(StatusCode::FORBIDDEN, refusal.to_string());
    let words = ["registration token API not permitted"];
    brokerage_refused(brokered(), Some(refusal), "not_authorized", &words).await;
}

#[tokio::test(start_paused = true)]
async fn b44_a_label_policy_that_comes_as_500_is_a_policy_all_the_same() {
    let refusal = json!({"detail": "Failed to provision runner: Labels {'self-hosted'} not permitted by policy. Allowed labels: {'arc'}."});
    let refusal = Trouble::Answered(StatusCode::INTERNAL_SERVER_ERROR, refusal.to_string());
    brokerage_refused(brokered(), Some(refusal), "label_policy", &["Allowed labels: {'arc'}"]).await;
}

#[tokio::test(start_paused = true)]
async fn b44_tokens_of_another_organization_are_given_back_and_said() {
    let elsewhere = |body: &[u8]| {
        let text = String::from_utf8(body.to_vec()).unwrap();
        text.replace("github.test/acme", "github.test/umbrella").into()
    };
    let elsewhere = Trouble::Altered(Arc::new(elsewhere));
    let words = ["github.test/umbrella", "github.test/acme"];
    brokerage_refused(brokered(), Some(elsewhere), "configuration", &words).await;
}

#[tokio::test(start_paused = true)]
async fn b44_an_outage_of_gharts_costs_nothing_at_first_is_said_then_and_is_over_soon_after() {
    let running = Running::start(brokered()).await;
    served(&running, 1).await;
    let router = running.world.network.detach(GHARTS).unwrap();
    for _ in 0..2 {
        running.pass(40 * MINUTE).await;
        served(&running, 2).await;
    }
    running.pass(20 * MINUTE).await;
    let queued = running.world.github.queue_jobs(&jobs("linux", 2).lasting(SECOND));
    let reason = running.until_reason("linux", "unreachable").await;
    assert!(
        reason.message.contains("access to the queue through GHARTS"),
        "{}",
        reason.message
    );
    running.pass(HOUR).await;
    running.world.network.attach(GHARTS, router);
    running.until_finished(&queued, 3 * HOUR).await;
    running.pass(MINUTE).await;
    assert!(!running.said_of("linux").unwrap().degraded);
    served(&running, 2).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b44_what_a_crash_left_between_token_and_deletion_is_gone_an_hour_later() {
    let stage = Stage::set(brokered()).await;
    let stuck = stage
        .world
        .network
        .disturb(GHARTS, "DELETE /api/v1/runners/", Trouble::LostBefore);
    let mut running = stage.start();
    served(&running, 1).await;
    running.kill();
    assert_eq!(records(&running), 1);
    stuck.end();
    running.start_again();
    // The session of the one that was killed must end first.
    running.pass(2 * MINUTE).await;
    served(&running, 1).await;
    running.pass(2 * HOUR).await;
    assert_eq!(records(&running), 0);
    running.end().await;
}

/// Real sockets, and `check` as a person starts it, on a machine without a cluster: client credentials, and a command.
#[tokio::test]
async fn b44_b16_check_tries_the_access_with_each_identity_and_gives_the_record_back() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = Addresses::on(listener.local_addr().unwrap());
    let cluster = TrustedIssuer {
        issuer: "https://kubernetes.test".to_owned(),
        jwks: JwksSource::Fixed(Arc::new(|| json!({ "keys": [] }))),
    };
    let (clock, tasks) = (Clock::system(), Tasks::new());
    let services = Services::start(brokered(), addresses, cluster, &clock, &tasks).unwrap();
    services.gharts.add_user(UserSpec::subject(MACHINE.0));
    let router = services.router();
    let _server = tasks.spawn("server", async move { axum::serve(listener, router).await });

    let (secret, gharts) = (scratch_file(MACHINE.1), &services.addresses.gharts);
    let external = format!(
        "{{ provider: external, audience: {gharts}, external: {{ tokenUrl: {}/oauth/token, clientId: {}, \
         clientSecretFile: {} }} }}",
        services.addresses.oidc,
        MACHINE.0,
        secret.display()
    );
    let claims = json!({"sub": MACHINE.0, "aud": gharts});
    let token = services.oidc.issue(claims.as_object().unwrap()).unwrap();
    let token = scratch_file(&json!({ "status": { "token": token } }).to_string());
    let exec = format!("{{ provider: exec, exec: {{ command: [cat, {}] }} }}", token.display());
    for (oidc, tokens) in [(external, 1), (exec, 2)] {
        let said = checked(&services, &oidc).await;
        let line = |words: &str| {
            said.lines()
                .find(|line| line.contains(words))
                .unwrap_or_else(|| panic!("{words}: {said}"))
        };
        for words in ["accepts the credential", "the scale set linux at GitHub", "accepts us"] {
            assert!(line(words).starts_with("ok"), "{said}");
        }
        assert!(line("Kubernetes can be found").starts_with("failed"), "{said}");
        assert_eq!(services.gharts.calls_of(Operation::Token), tokens);
        let records = services.gharts.records();
        assert!(records.iter().all(|record| record.status == Status::Deleted));
    }
    tasks.stop();
}

/// What `check` says of a daemon with brokered access and this identity.
async fn checked(services: &Services, oidc: &str) -> String {
    let file = scratch_file(&format!(
        "github: {{ configUrl: {}, auth: {{ gharts: {{}} }} }}
gharts: {{ baseUrl: {}, oidc: {oidc} }}
kubernetes: {{ namespace: runners }}
scaleSets: [{{ name: linux, maxRunners: 1, provisioner: scaleSet }}]
",
        services.addresses.config_url(),
        services.addresses.gharts,
    ));
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_gharts-listener"))
        .args(["check", "--config"])
        .arg(&file)
        .env("KUBECONFIG", "/nonexistent")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "there is no cluster: {said}");
    said
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
