//! Secrets change while jobs run: each is used from then on, no session is dropped, no job fails, nothing is started anew.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use gharts_listener::sim::{
    keys::SigningKey,
    network::Trouble,
    oidc,
    world::{Credential, DAEMON_APP_KEY, GITHUB_TOKEN_FILE, MACHINE, Options, Provisioner},
};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{
    harness::{Running, Stage, jobs, with_provisioner},
    identity::with_oidc,
    reload::{SEEN, swap},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn b38_a_personal_access_token_is_rotated_under_load_without_a_failed_job_or_a_new_session() {
    let running = Running::start(with_provisioner(Provisioner::ScaleSet)).await;
    let queued = running.queue(&jobs("linux", 60).lasting(20 * SECOND)).await;
    running.pass(20 * SECOND).await;
    let file = running.file.with_file_name(GITHUB_TOKEN_FILE);
    let old = fs::read_to_string(&file).unwrap();
    let new = format!("ghp_{:032x}", 4242);
    running.world.github.put_pat(gharts_listener::sim::github::Pat {
        token: new.clone(),
        manages_runners: true,
        only_in: None,
    });
    swap(&file, &new);
    running.pass(11 * SECOND).await;
    let new_used = || running.daemon.cable.secrets().contains(&new);
    running.world.github.remove_pat(&old);
    running.world.github.revoke_admin_tokens();
    running.until_finished(&queued, 10 * MINUTE).await;
    assert!(running.succeeded(&queued));
    assert!(new_used());
    let refused = running.world.github.answered("registration token", 401);
    assert_eq!(refused, 0, "the old one was not shown after the change");
    assert_eq!(running.sessions_opened(), 1);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b38_a_second_key_of_the_app_replaces_the_first_under_load() {
    let running = Running::start(Options {
        credential: Credential::App,
        ..with_provisioner(Provisioner::ScaleSet)
    })
    .await;
    let queued = running.queue(&jobs("linux", 60).lasting(20 * SECOND)).await;
    running.pass(20 * SECOND).await;
    let tokens = || running.world.github.answered("access token", 201);
    let before = tokens();
    let file = running.file.with_file_name("github-app.pem");
    let second = SigningKey::shared("the App's second key").unwrap();
    assert!(running.world.github.add_app_key(second.public_pem()));
    swap(&file, second.private_pem());
    running.pass(11 * SECOND).await;
    assert_eq!(tokens(), before + 1, "a token by the new key, at once");
    // The first one is taken back, and whatever it opened.
    running
        .world
        .github
        .remove_app_key(SigningKey::shared(DAEMON_APP_KEY).unwrap().public_pem());
    running.world.github.revoke_installation_tokens();
    running.world.github.revoke_admin_tokens();
    running.until_finished(&queued, 10 * MINUTE).await;
    assert!(running.succeeded(&queued));
    assert_eq!(running.sessions_opened(), 1);
    assert_eq!(
        running.world.github.answered("access token", 401),
        0,
        "the old key was not shown after the change"
    );

    // One that is no key changes nothing.
    swap(&file, "no key");
    running
        .until_within("the refusal", SEEN, |_| {
            !running.status().configuration.problems.is_empty()
        })
        .await;
    let more = running.queue(&jobs("linux", 5).lasting(20 * SECOND)).await;
    running.until_finished(&more, MINUTE).await;
    swap(&file, second.private_pem());
    running
        .until_within("no problem", SEEN, |_| {
            running.status().configuration.problems.is_empty()
        })
        .await;
    running.end().await;
}

/// A daemon that is a machine client of the OIDC provider, and the file with its secret.
async fn with_machine(file: &str, content: &str) -> (Running, PathBuf) {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let secret = dir.join(format!("{file}-{}", std::process::id()));
    fs::write(&secret, content).unwrap();
    let oidc = format!(
        "{{ provider: external, audience: https://gharts.test, external: {{ tokenUrl: https://oidc.test/oauth/token, \
         clientId: {}, clientSecretFile: {}, scope: runners }} }}",
        MACHINE.0,
        secret.display()
    );
    let stage = Stage::set_with(with_provisioner(Provisioner::Gharts), |text| with_oidc(&text, &oidc));
    (stage.await.start(), secret)
}

#[tokio::test(start_paused = true)]
async fn b38_an_oauth_client_secret_is_rotated_under_load() {
    let (running, secret) = with_machine("client-secret", MACHINE.1).await;
    let queued = running.queue(&jobs("linux", 60).lasting(20 * SECOND)).await;
    running.pass(20 * SECOND).await;
    let issued = running.world.oidc.tokens_issued();
    running.world.oidc.register(oidc::Client::machine(MACHINE.0, "another"));
    swap(&secret, "another");
    running.pass(11 * SECOND).await;
    assert_eq!(
        running.world.oidc.tokens_issued(),
        issued + 1,
        "by the new one, at once"
    );
    running.until_finished(&queued, 10 * MINUTE).await;
    assert!(running.succeeded(&queued));
    assert_eq!(running.world.oidc.tokens_refused(), 0);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b38_a_client_secret_that_was_wrong_serves_as_soon_as_it_is_right() {
    let (running, secret) = with_machine("wrong-secret", "wrong").await;
    let queued = running.queue(&jobs("linux", 3).lasting(10 * SECOND)).await;
    running.until_reason("linux", "credentials").await;
    running.pass(7 * MINUTE).await;
    swap(&secret, MACHINE.1);
    running.until_finished(&queued, 10 * SECOND + 25 * SECOND).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b38_a_ca_bundle_makes_new_connections_and_a_broken_one_keeps_the_old() {
    let ca = |name: &str| {
        rcgen::generate_simple_self_signed(vec![name.to_owned()])
            .unwrap()
            .cert
            .pem()
    };
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let bundle = dir.join(format!("bundle-{}.pem", std::process::id()));
    fs::write(&bundle, ca("one")).unwrap();
    let running = Stage::set_with(with_provisioner(Provisioner::ScaleSet), |text| {
        text.replace(
            "  auth:\n",
            &format!("  tls: {{ caFile: {} }}\n  auth:\n", bundle.display()),
        )
    })
    .await
    .start();
    let dialled = || running.daemon.dialled.load(std::sync::atomic::Ordering::Relaxed);
    let queued = running.queue(&jobs("linux", 30).lasting(20 * SECOND)).await;
    running.pass(20 * SECOND).await;
    assert_eq!(dialled(), 0);
    swap(&bundle, &ca("two"));
    running.pass(11 * SECOND).await;
    assert_eq!(dialled(), 1);
    swap(
        &bundle,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    );
    running
        .until_within("the refusal", SEEN, |_| {
            !running.status().configuration.problems.is_empty()
        })
        .await;
    let problem = running.status().configuration.problems[0].clone();
    assert!(problem.message.contains("certificate"), "{problem:?}");
    assert_eq!(dialled(), 1);
    swap(&bundle, &ca("three"));
    running
        .until_within("no problem", SEEN, |_| {
            running.status().configuration.problems.is_empty()
        })
        .await;
    assert_eq!(dialled(), 2);
    // It changes while the file is wrong.
    let right = fs::read_to_string(&running.file).unwrap();
    swap(&running.file, "scaleSetz: []\n");
    running
        .until_within("the refusal", SEEN, |_| {
            !running.status().configuration.problems.is_empty()
        })
        .await;
    swap(&bundle, &ca("four"));
    running.pass(11 * SECOND).await;
    swap(&running.file, &right);
    running
        .until_within("no problem", SEEN, |_| {
            running.status().configuration.problems.is_empty()
        })
        .await;
    assert_eq!(dialled(), 3);
    running.until_finished(&queued, 10 * MINUTE).await;
    assert!(running.succeeded(&queued));
    assert_eq!(running.sessions_opened(), 1);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b38_b52_a_proxys_password_makes_new_connections() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("proxy-{}", std::process::id()));
    fs::write(&file, "user:one").unwrap();
    let running = Stage::set_with(with_provisioner(Provisioner::ScaleSet), |text| {
        let proxy = format!(
            "  proxy: {{ https: \"http://proxy.test:3128\", credentialsFile: {}, runnersSecret: proxy }}\n  auth:\n",
            file.display()
        );
        text.replace("  auth:\n", &proxy)
    })
    .await
    .start();
    let dialled = || running.daemon.dialled.load(std::sync::atomic::Ordering::Relaxed);
    running.pass(20 * SECOND).await;
    assert_eq!(dialled(), 0);
    swap(&file, "user:two");
    running.pass(11 * SECOND).await;
    assert_eq!(dialled(), 1);
    // What was refused on the old way is tried at once on the new one.
    let forbidden = Trouble::Answered(StatusCode::FORBIDDEN, "{}".to_owned());
    let refused = running.world.network.disturb("github.test", "/sessions", forbidden);
    assert!(running.world.github.lose_session("linux"));
    running.until_reason("linux", "not_authorized").await;
    running.pass(10 * MINUTE).await;
    refused.end();
    swap(&file, "user:three");
    running.pass(11 * SECOND).await;
    assert!(running.world.github.set("linux").unwrap().polling);
    running.end().await;
}

/// As a kubelet replaces a projected token, or an agent beside the daemon its own.
#[tokio::test(start_paused = true)]
async fn b38_a_token_file_is_replaced_under_load_and_the_next_call_shows_the_new_token() {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("token-{}", std::process::id()));
    let oidc = format!("{{ provider: file, tokenFile: {} }}", file.display());
    fs::write(&file, "not yet").unwrap();
    let stage = Stage::set_with(with_provisioner(Provisioner::Gharts), |text| with_oidc(&text, &oidc)).await;
    let provider = stage.world.oidc.clone();
    let issue = || {
        let claims: Map<String, Value> = [
            ("sub".to_owned(), json!(MACHINE.0)),
            ("aud".to_owned(), json!("https://gharts.test")),
            ("gty".to_owned(), json!("client-credentials")),
        ]
        .into_iter()
        .collect();
        provider.issue(&claims).unwrap()
    };
    provider.set_ttl(2 * MINUTE);
    swap(&file, &issue());
    let running = stage.start();
    let queued = running.queue(&jobs("linux", 60).lasting(20 * SECOND)).await;
    running.pass(20 * SECOND).await;
    provider.set_ttl(60 * MINUTE);
    let second = issue();
    swap(&file, &second);
    // The first ten have ended, and others follow them; the file would be read again without being asked after a minute.
    running.pass(25 * SECOND).await;
    assert!(running.daemon.cable.secrets().contains(&second), "it is used");
    // The first one ends meanwhile.
    running.until_finished(&queued, 10 * MINUTE).await;
    running.pass(2 * MINUTE).await;
    assert!(running.succeeded(&queued));
    let refused = running.metric("arc_gharts_provision_attempts_total", &["status=\"error\""]);
    assert_eq!(refused, 0.0);
    assert_eq!(running.sessions_opened(), 1);
    running.end().await;
}
