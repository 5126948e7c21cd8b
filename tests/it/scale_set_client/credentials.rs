//! The chain of credentials (B24).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use gharts_listener::{
    config::{ConfigUrl, SecretRef},
    http::SharedTransport,
    identity::{Cached, GitHubApp, Token, TokenError, TokenSource},
    scaleset::{Authority, Connection, Error, ScaleSet},
    sim::keys::SigningKey,
};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::fake::{Fake, SERVICE, bytes_reply, exception, json_reply, lost, with_header};

const HOUR: Duration = Duration::from_secs(3600);
const AGENTS: &str = "/_apis/distributedtask/pools/0/agents";

fn fake() -> Fake {
    let fake = Fake::new(HOUR);
    fake.on("GET", AGENTS, vec![json_reply(200, json!({"count": 0, "value": []}))]);
    fake
}

fn hops(fake: &Fake) -> usize {
    fake.seen("POST", "/actions/runner-registration").len()
}

struct PrivateKey {
    path: std::path::PathBuf,
    key: SigningKey,
}

impl PrivateKey {
    fn new(test: &str) -> Self {
        let key = SigningKey::generate(test).unwrap();
        let path = std::env::temp_dir().join(format!("gharts-listener-{test}-{}.pem", std::process::id()));
        std::fs::write(&path, key.private_pem()).unwrap();
        Self { path, key }
    }
}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn app(fake: &Fake, pem: &PrivateKey) -> GitHubApp {
    let transport: SharedTransport = Arc::new(fake.clone());
    GitHubApp {
        transport,
        clock: fake.clock.clone(),
        rest_base: ConfigUrl::parse("https://github.com/acme", false).unwrap().rest_base,
        client_id: "Iv1.abc".into(),
        installation_id: 77,
        private_key: SecretRef::File(pem.path.clone()),
    }
}

#[tokio::test(start_paused = true)]
async fn b24_a_hundred_callers_share_one_rest_token_and_one_admin_connection() {
    let fake = fake();
    let pem = PrivateKey::new("shared");
    let expires = fake.clock.now() + HOUR;
    let tokens = "/app/installations/77/access_tokens";
    fake.on(
        "POST",
        tokens,
        vec![json_reply(
            201,
            json!({"token": "ghs_rest", "expires_at": expires.to_string()}),
        )],
    );
    let cached = Arc::new(Cached::new(Arc::new(app(&fake, &pem)), fake.clock.clone()));
    let connection = fake.connection_with("https://github.com/acme", Authority::Rest(cached));

    let all = join_all((0..100).map(|_| connection.agents())).await;
    assert!(all.iter().all(Result::is_ok));

    let exchange = fake.seen("POST", tokens);
    assert_eq!(
        (exchange.len(), hops(&fake), fake.seen("GET", AGENTS).len()),
        (1, 1, 100)
    );
    assert_eq!(exchange[0].url, format!("https://api.github.com{tokens}"));
    let registration = &fake.seen("POST", "/orgs/acme/actions/runners/registration-token")[0];
    assert_eq!(registration.authorization, "Bearer ghs_rest");
    let admin = &fake.seen("POST", "/actions/runner-registration")[0];
    assert_eq!(admin.authorization, "RemoteAuth reg-token-1");
    assert_eq!(
        admin.body,
        json!({"url": "https://github.com/acme", "runner_event": "register"})
    );
    let call = &fake.seen("GET", AGENTS)[0];
    assert_eq!(call.url, format!("{SERVICE}{AGENTS}?api-version=6.0-preview"));
    assert!(
        serde_json::from_str::<Value>(call.headers["user-agent"].to_str().unwrap())
            .unwrap()
            .is_object()
    );
}

#[tokio::test(start_paused = true)]
async fn b24_the_apps_jwt_is_what_github_accepts() {
    let fake = fake();
    let pem = PrivateKey::new("jwt");
    fake.on(
        "POST",
        "/access_tokens",
        vec![json_reply(201, json!({"token": "t", "expires_at": null}))],
    );
    app(&fake, &pem).fetch().await.unwrap();

    let seen = &fake.seen("POST", "/access_tokens")[0];
    let jwt = seen.authorization.strip_prefix("Bearer ").unwrap();
    let mut rules = Validation::new(Algorithm::RS256);
    rules.validate_exp = false;
    let key = DecodingKey::from_rsa_pem(pem.key.public_pem().as_bytes()).unwrap();
    let claims = jsonwebtoken::decode::<Value>(jwt, &key, &rules).unwrap().claims;
    let (iat, exp) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
    assert_eq!(claims["iss"], "Iv1.abc");
    assert_eq!(iat, fake.clock.now().as_second() - 60);
    assert!(exp > iat && exp - iat <= 600);
}

/// Claims of the JWTs that the App has shown so far.
fn jwts(fake: &Fake, pem: &PrivateKey) -> Vec<Value> {
    let mut rules = Validation::new(Algorithm::RS256);
    rules.validate_exp = false;
    let key = DecodingKey::from_rsa_pem(pem.key.public_pem().as_bytes()).unwrap();
    let seen = fake.seen("POST", "/access_tokens");
    let jwt = |seen: &super::fake::Seen| seen.authorization.strip_prefix("Bearer ").unwrap().to_owned();
    seen.iter()
        .map(|seen| jsonwebtoken::decode::<Value>(&jwt(seen), &key, &rules).unwrap().claims)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn b24_a_wrong_clock_here_is_made_good_by_githubs_own() {
    let fake = fake();
    let pem = PrivateKey::new("clock");
    let app = app(&fake, &pem);
    let theirs = fake.clock.now() + Duration::from_secs(600);
    let expires = (theirs + HOUR).to_string();
    let granted = json_reply(201, json!({"token": "t", "expires_at": expires}));
    let too_early = with_header(401, "date", "Thu, 01 Jan 2026 00:10:00 GMT");
    fake.on("POST", "/access_tokens", vec![too_early.clone(), granted.clone()]);
    let token = app.fetch().await.unwrap();
    let issued: Vec<i64> = jwts(&fake, &pem).iter().map(|c| c["iat"].as_i64().unwrap()).collect();
    let here = fake.clock.now().as_second();
    assert_eq!(issued, [here - 60, here + 600 - 60]);
    let life = token.life.unwrap().as_secs();
    assert!(life.abs_diff(3600) <= 1, "{life}");

    // A clock that is right, or another reason: nothing to repeat.
    for reply in [
        with_header(401, "date", "Thu, 01 Jan 2026 00:00:10 GMT"),
        json_reply(401, json!({"message": "Integration must generate a public key"})),
    ] {
        let before = jwts(&fake, &pem).len();
        fake.on("POST", "/access_tokens", vec![reply]);
        assert!(matches!(app.fetch().await, Err(TokenError::Refused { .. })));
        assert_eq!(jwts(&fake, &pem).len(), before + 1);
    }
    // And no second repetition.
    let before = jwts(&fake, &pem).len();
    fake.on("POST", "/access_tokens", vec![too_early]);
    assert!(matches!(app.fetch().await, Err(TokenError::Refused { .. })));
    assert_eq!(jwts(&fake, &pem).len(), before + 2);
}

#[tokio::test(start_paused = true)]
async fn b24_a_refused_app_is_told_with_remedy_and_ids_and_a_limit_is_not_taken_for_a_refusal() {
    let fake = fake();
    let pem = PrivateKey::new("refused");
    let app = app(&fake, &pem);
    fake.on(
        "POST",
        "/access_tokens",
        vec![json_reply(404, json!({"message": "Not Found"}))],
    );
    let TokenError::Refused { message } = app.fetch().await.unwrap_err() else {
        panic!()
    };
    for part in ["installationId", "Not Found", "X-GitHub-Request-Id REQ:1", "Iv1.abc"] {
        assert!(message.contains(part), "{message}");
    }
    for (reply, wait) in [
        (with_header(403, "retry-after", "60"), Some(60)),
        (with_header(429, "retry-after", "7"), Some(7)),
        (json_reply(429, json!({})), Some(60)),
        (json_reply(502, json!({})), None),
    ] {
        fake.on("POST", "/access_tokens", vec![reply]);
        let error = app.fetch().await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
        assert_eq!(error.retry_after(), wait.map(Duration::from_secs), "{error:?}");
    }
    std::fs::write(&pem.path, "no key").unwrap();
    let error = app.fetch().await.unwrap_err().to_string();
    assert!(
        error.contains(pem.path.to_str().unwrap()) && error.contains("PEM"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn b24_the_admin_connection_is_renewed_at_least_a_minute_before_its_end() {
    for ttl in [3600, 1020, 200] {
        let fake = Fake::new(Duration::from_secs(ttl));
        fake.on("GET", AGENTS, vec![json_reply(200, json!({"value": []}))]);
        let connection = fake.connection();
        connection.agents().await.unwrap();
        tokio::time::advance(Duration::from_secs(ttl / 2)).await;
        connection.agents().await.unwrap();
        assert_eq!(hops(&fake), 1, "too early for {ttl}");
        tokio::time::advance(Duration::from_secs(ttl / 2 - 60)).await;
        connection.agents().await.unwrap();
        assert_eq!(hops(&fake), 2, "too late for {ttl}");
    }
}

#[tokio::test(start_paused = true)]
async fn b24_while_one_renews_ahead_the_others_go_on_and_its_failure_harms_nobody() {
    let fake = fake();
    let connection = fake.connection();
    connection.agents().await.unwrap();
    tokio::time::advance(HOUR - Duration::from_secs(200)).await;
    fake.on("POST", "/registration-token", vec![json_reply(500, json!({}))]);
    let all = join_all((0..20).map(|_| connection.agents())).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(fake.seen("POST", "/registration-token").len(), 2);

    fake.on(
        "POST",
        "/registration-token",
        vec![json_reply(201, json!({"token": "reg-2"}))],
    );
    tokio::time::advance(Duration::from_secs(6)).await;
    connection.agents().await.unwrap();
    assert_eq!(hops(&fake), 2);
}

#[tokio::test(start_paused = true)]
async fn b24_a_401_renews_once_and_repeats_once() {
    let fake = fake();
    let connection = fake.connection();
    let ok = json_reply(200, json!({"value": [{"id": 1, "name": "r"}]}));
    fake.on("GET", AGENTS, vec![json_reply(401, json!({})), ok]);
    assert_eq!(connection.agents().await.unwrap().len(), 1);
    assert_eq!((hops(&fake), fake.seen("GET", AGENTS).len()), (2, 2));

    fake.on("GET", AGENTS, vec![json_reply(401, json!({"message": "no"}))]);
    let error = connection.agents().await.unwrap_err();
    assert!(
        matches!(error, Error::Unauthorized(_)) && !error.is_transient(),
        "{error}"
    );
    assert_eq!((hops(&fake), fake.seen("GET", AGENTS).len()), (3, 4));
}

/// The service is ill, or GitHub's own clock: hundreds of scale sets must not use up the REST limit meanwhile.
#[tokio::test(start_paused = true)]
async fn b24_a_service_that_refuses_every_token_costs_few_new_ones() {
    let fake = fake();
    let connection = fake.connection();
    fake.on("GET", AGENTS, vec![json_reply(401, json!({}))]);
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_mins(1) {
        let all = join_all((0..50).map(|_| connection.agents())).await;
        assert!(all.iter().all(|answer| matches!(answer, Err(Error::Unauthorized(_)))));
    }
    assert!((5..=15).contains(&hops(&fake)), "{} in a minute", hops(&fake));
    fake.on("GET", AGENTS, vec![json_reply(200, json!({"value": []}))]);
    connection.agents().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn b24_a_service_that_has_moved_is_found_again() {
    let fake = fake();
    let connection = fake.connection();
    connection.agents().await.unwrap();
    for unanswered in [lost(), bytes_reply(302, b"")] {
        let before = hops(&fake);
        tokio::time::sleep(Duration::from_mins(2)).await;
        fake.on("GET", AGENTS, vec![unanswered]);
        for _ in 0..5 {
            connection.agents().await.unwrap_err();
        }
        assert_eq!(hops(&fake), before);
        fake.on("GET", AGENTS, vec![json_reply(200, json!({"value": []}))]);
        connection.agents().await.unwrap();
        assert_eq!(hops(&fake), before + 1, "where it is now is asked");
    }
}

#[tokio::test(start_paused = true)]
async fn b24_however_long_a_token_says_that_it_lives_it_is_renewed_within_a_day() {
    let fake = fake();
    fake.chain(Duration::from_secs(1 << 62));
    let connection = fake.connection();
    connection.agents().await.unwrap();
    tokio::time::sleep(Duration::from_hours(24)).await;
    connection.agents().await.unwrap();
    assert_eq!(hops(&fake), 2);
}

#[tokio::test(start_paused = true)]
async fn b24_a_401_seen_by_many_renews_once() {
    let fake = fake();
    let connection = fake.connection();
    connection.agents().await.unwrap();
    let refuse_the_old = json_reply(401, json!({}));
    let mut replies = vec![refuse_the_old; 50];
    replies.push(json_reply(200, json!({"value": []})));
    fake.on("GET", AGENTS, replies);
    let all = join_all((0..50).map(|_| connection.agents())).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(hops(&fake), 2);
}

#[tokio::test(start_paused = true)]
async fn b24_an_admin_token_that_died_early_is_renewed_whatever_call_meets_it() {
    const SETS: &str = "/runnerscalesets";
    const SET: &str = "/runnerscalesets/5";
    const SESSIONS: &str = "/runnerscalesets/5/sessions";
    const SESSION: &str = "/runnerscalesets/5/sessions/s-1";
    const AGENT: &str = "/pools/0/agents/7";
    let set = json!({"id": 5, "name": "linux", "runnerGroupId": 1, "labels": []});
    let session = json!({"sessionId": "s-1", "ownerName": "me", "messageQueueUrl": "https://q.example/m",
        "messageQueueAccessToken": "queue"});
    let agent = json!({"id": 7, "name": "r"});
    let list = |value: &Value| json!({"count": 1, "value": [value]});
    let fake = fake();
    let connection = fake.connection();
    fake.on("POST", SESSIONS, vec![json_reply(200, session.clone())]);
    let open = connection.open_session(5, "me").await.unwrap();
    let labels = ["linux".to_owned()];
    let as_set = |id| ScaleSet {
        id,
        name: "linux".to_owned(),
        ..ScaleSet::default()
    };
    let mut made = hops(&fake);
    // One refused call, one renewal, one repetition.
    macro_rules! renews {
        ($method:literal, $path:expr, $answer:expr, $call:expr) => {
            fake.on(
                $method,
                $path,
                vec![json_reply(401, json!({})), json_reply(200, $answer)],
            );
            let before = fake.seen($method, $path).len();
            assert!($call.await.is_ok(), "{} {}", $method, $path);
            made += 1;
            assert_eq!(hops(&fake), made, "{} {}", $method, $path);
            assert_eq!(
                fake.seen($method, $path).len(),
                before + 2,
                "{} {}",
                $method,
                $path
            );
        };
    }
    let groups = list(&json!({"id": 1, "name": "default"}));
    renews!("GET", "/runnergroups/", groups, connection.runner_group("default"));
    renews!("GET", SETS, list(&set), connection.scale_set_by_name(1, "linux"));
    renews!("GET", SETS, list(&set), connection.list_scale_sets());
    renews!("GET", SET, set.clone(), connection.scale_set_by_id(5));
    renews!(
        "POST",
        SETS,
        set.clone(),
        connection.create_scale_set(1, "linux", &labels, true)
    );
    renews!("PATCH", SET, set.clone(), connection.update_scale_set(5, 1, "linux"));
    renews!(
        "PUT",
        SET,
        set.clone(),
        connection.put_labels(&as_set(5), &labels, true)
    );
    renews!("DELETE", SET, json!({}), connection.delete_scale_set(5));
    let jit = json!({"runner": agent, "encodedJITConfig": "Sml0"});
    renews!(
        "POST",
        "/generatejitconfig",
        jit,
        connection.generate_jit_config(5, "r", "_work")
    );
    renews!("GET", AGENTS, list(&agent), connection.agents());
    renews!("GET", AGENTS, list(&agent), connection.agent_by_name("r"));
    renews!("DELETE", AGENT, json!({}), connection.delete_agent(7));
    renews!(
        "GET",
        "/acquirablejobs",
        list(&json!({})),
        connection.acquirable_jobs(5)
    );
    renews!("POST", SESSIONS, session.clone(), connection.open_session(5, "me"));
    renews!("PATCH", SESSION, session, connection.refresh_session(&open));
    renews!("DELETE", SESSION, json!({}), connection.close_session(5, "s-1"));
}

#[tokio::test(start_paused = true)]
async fn b24_a_401_that_arrives_after_the_renewal_does_not_renew_again() {
    let fake = fake();
    let connection = fake.connection();
    connection.agents().await.unwrap();
    let (no, ok) = (json_reply(401, json!({})), json_reply(200, json!({"value": []})));
    fake.on("GET", AGENTS, vec![no.clone(), ok.clone(), no, ok]);
    fake.latency(Duration::from_secs(5));
    let slow = connection.agents();
    let quick = async {
        fake.latency(Duration::from_millis(50));
        connection.agents().await
    };
    let (slow, quick) = tokio::join!(biased; slow, quick);
    assert!(slow.is_ok() && quick.is_ok());
    assert_eq!((hops(&fake), fake.seen("GET", AGENTS).len()), (2, 5));
}

#[tokio::test(start_paused = true)]
async fn b24_a_fresh_registration_token_may_be_refused_for_a_while() {
    let fake = fake();
    let ok = json_reply(200, json!({"url": SERVICE, "token": "no-jwt-at-all"}));
    let refusals = [401, 403, 502].map(|status| json_reply(status, json!({})));
    fake.on(
        "POST",
        "/actions/runner-registration",
        refusals.into_iter().chain([ok]).collect(),
    );
    fake.connection().agents().await.unwrap();
    assert_eq!((hops(&fake), fake.seen("POST", "/registration-token").len()), (4, 1));
}

#[tokio::test(start_paused = true)]
async fn b24_a_rest_token_that_died_early_is_renewed_once() {
    let fake = fake();
    let (no, yes) = (json_reply(401, json!({})), json_reply(201, json!({"token": "reg"})));
    fake.on("POST", "/registration-token", vec![no.clone(), yes]);
    fake.connection().agents().await.unwrap();
    fake.on("POST", "/registration-token", vec![no]);
    let error = fake.connection().agents().await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn b24_one_failed_chain_answers_for_all_who_wait_and_a_limit_is_honoured() {
    let fake = fake();
    fake.on(
        "POST",
        "/registration-token",
        vec![with_header(429, "retry-after", "120")],
    );
    let connection = fake.connection();
    let all = join_all((0..300).map(|_| connection.agents())).await;
    for error in all.into_iter().map(Result::unwrap_err) {
        assert_eq!(error.retry_after(), Some(Duration::from_secs(120)), "{error}");
    }
    tokio::time::advance(Duration::from_secs(100)).await;
    connection.agents().await.unwrap_err();
    assert_eq!(fake.seen("POST", "/registration-token").len(), 1);
    fake.on(
        "POST",
        "/registration-token",
        vec![json_reply(201, json!({"token": "reg"}))],
    );
    tokio::time::advance(Duration::from_secs(30)).await;
    connection.agents().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn scopes_and_hosts_have_their_own_addresses() {
    for (config_url, expected) in [
        ("https://github.com/acme", "https://api.github.com/orgs/acme/"),
        ("https://github.com/acme/app", "https://api.github.com/repos/acme/app/"),
        (
            "https://github.com/enterprises/big",
            "https://api.github.com/enterprises/big/",
        ),
        ("https://acme.ghe.com/acme", "https://api.acme.ghe.com/orgs/acme/"),
        (
            "https://acme.ghe.com/enterprises/big",
            "https://api.acme.ghe.com/enterprises/big/",
        ),
        (
            "https://ghes.example/acme/app",
            "https://ghes.example/api/v3/repos/acme/app/",
        ),
        (
            "https://ghes.example:8443/enterprises/big",
            "https://ghes.example:8443/api/v3/enterprises/big/",
        ),
    ] {
        let fake = fake();
        fake.connection_to(config_url).agents().await.unwrap();
        let seen = &fake.seen("POST", "/registration-token")[0];
        assert_eq!(seen.url, format!("{expected}actions/runners/registration-token"));
        let admin = &fake.seen("POST", "/actions/runner-registration")[0];
        assert_eq!(admin.body["url"], config_url);
    }
}

/// Hands out `brokered-0`, `brokered-1`, ... for an hour each.
#[derive(Debug)]
struct Broker {
    handed_out: AtomicU32,
}

impl TokenSource for Broker {
    fn fetch(&self) -> futures::future::BoxFuture<'_, Result<Token, TokenError>> {
        Box::pin(async {
            let n = self.handed_out.fetch_add(1, Ordering::SeqCst);
            Ok(Token {
                secret: format!("brokered-{n}").into(),
                life: Some(Duration::from_hours(1)),
            })
        })
    }

    fn describe(&self) -> String {
        "a broker".into()
    }
}

fn brokered(fake: &Fake) -> (Arc<Connection>, Arc<Broker>) {
    let broker = Arc::new(Broker {
        handed_out: AtomicU32::new(0),
    });
    let cached = Cached::new(broker.clone(), fake.clock.clone());
    let authority = Authority::Registration(Arc::new(cached));
    (fake.connection_with("https://github.com/acme", authority), broker)
}

#[tokio::test(start_paused = true)]
async fn b44_a_registration_token_from_elsewhere_is_all_that_is_needed() {
    let fake = fake();
    let (connection, _) = brokered(&fake);
    connection.agents().await.unwrap();
    assert_eq!(fake.seen("POST", "/registration-token").len(), 0);
    let hop = &fake.seen("POST", "/actions/runner-registration")[0];
    assert_eq!(hop.authorization, "RemoteAuth brokered-0");
}

#[tokio::test(start_paused = true)]
async fn b44_a_day_takes_one_registration_token_an_hour_and_none_is_used_after_its_end() {
    let fake = fake();
    let (connection, broker) = brokered(&fake);
    for _ in 0..24 * 12 {
        connection.agents().await.unwrap();
        tokio::time::sleep(Duration::from_secs(300)).await;
    }
    let handed_out = broker.handed_out.load(Ordering::SeqCst);
    assert!((24..=30).contains(&handed_out), "{handed_out} in a day");
    assert!(fake.seen("POST", "/actions/runner-registration").len() <= 50);
}

/// Hands out one token at once, and hangs then.
#[derive(Debug)]
struct Frozen {
    asked: AtomicU32,
}

impl TokenSource for Frozen {
    fn fetch(&self) -> futures::future::BoxFuture<'_, Result<Token, TokenError>> {
        Box::pin(async {
            if self.asked.fetch_add(1, Ordering::SeqCst) > 0 {
                std::future::pending::<()>().await;
            }
            Ok(Token {
                secret: "brokered".into(),
                life: Some(Duration::from_mins(10)),
            })
        })
    }

    fn describe(&self) -> String {
        "a frozen broker".into()
    }
}

#[tokio::test(start_paused = true)]
async fn b44_a_frozen_broker_delays_few_calls_and_those_by_seconds_while_the_old_access_is_good() {
    let fake = fake();
    let source = Arc::new(Frozen {
        asked: AtomicU32::new(0),
    });
    let cached = Cached::new(source.clone(), fake.clock.clone()).with_deadline(Duration::from_secs(90));
    let authority = Authority::Registration(Arc::new(cached));
    let connection = fake.connection_with("https://github.com/acme", authority);
    connection.agents().await.unwrap();
    // Half of its life is over, and so is the registration token's.
    tokio::time::sleep(Duration::from_secs(31 * 60)).await;
    let mut delayed = 0;
    for _ in 0..15 * 60 {
        let asked = tokio::time::Instant::now();
        connection.agents().await.unwrap();
        let took = asked.elapsed();
        assert!(took < Duration::from_secs(11), "{took:?}");
        delayed += u32::from(took > Duration::from_secs(1));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!((1..=50).contains(&delayed), "{delayed} of 900 calls");
    assert!(source.asked.load(Ordering::SeqCst) <= 20);
}

#[tokio::test(start_paused = true)]
async fn b44_a_registration_token_that_github_takes_no_more_is_replaced() {
    let fake = fake();
    let (connection, broker) = brokered(&fake);
    let refusing: Vec<_> = (0..5)
        .map(|_| json_reply(401, json!({"message": "Bad credentials"})))
        .collect();
    fake.on("POST", "/actions/runner-registration", refusing);
    assert!(matches!(connection.agents().await, Err(Error::Unauthorized(_))));
    fake.chain(Duration::from_secs(3600));
    tokio::time::sleep(Duration::from_secs(31)).await;
    connection.agents().await.unwrap();
    assert_eq!(broker.handed_out.load(Ordering::SeqCst), 2);
    let hops = fake.seen("POST", "/actions/runner-registration");
    assert_eq!(hops.last().unwrap().authorization, "RemoteAuth brokered-1");
}

#[tokio::test(start_paused = true)]
async fn b27_no_error_holds_a_credential_and_each_names_its_call() {
    let fake = fake();
    let leaky = exception(
        403,
        "AccessDeniedException",
        "token eyJhbGciOiJub25lIn0.eyJleHAiOjF9.c2ln is not allowed",
    );
    fake.on("GET", AGENTS, vec![leaky]);
    let connection = fake.connection();
    let error = connection.agents().await.unwrap_err();
    assert!(matches!(error, Error::Forbidden(_)));
    let text = format!("{error} {error:?} {connection:?}");
    for part in ["list runners", "ActivityId act-1", "X-GitHub-Request-Id REQ:1"] {
        assert!(text.contains(part), "{text}");
    }
    for secret in ["eyJ", "reg-token-1", pat_header().as_str()] {
        assert!(!text.contains(secret), "{text}");
    }
}

fn pat_header() -> String {
    let secret = SecretRef::Env("CARGO_PKG_NAME".into()).read().unwrap();
    format!("Bearer {}", secret.expose_secret())
}
