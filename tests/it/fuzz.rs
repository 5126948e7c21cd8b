//! Every decoder of what a peer, a person or the environment says, fed with what nobody should say: right answers
//! that were damaged, and plain noise. Nothing panics, nothing takes for ever, and no error repeats a credential.
//!
//! A few cases in the usual run; many with `PROPTEST_CASES=5000 cargo test --test it fuzz::`.

mod mangle;

use std::{sync::Arc, time::Duration};

use gharts_listener::{
    app::{self, Externals},
    clock::Clock,
    config::{self, AuthStyle, Environment},
    gharts::{Client, wire},
    http,
    identity::{Cached, TokenSource as _, exec::TokenCommand, file::TokenFile, github_token_source, oauth2},
    plan::Moment,
    runner::observe::{self, WatchedPod},
    scaleset::{Authority, Connection, Spec, ensure},
    shutdown::Tasks,
    sim::{
        fleet::Behaviour,
        github::{JobState, NewJobs},
        world::{MACHINE, ORGANIZATION, Options, Provisioner, SetOptions, World},
    },
};
use proptest::prelude::*;
use serde_json::{Value, json};

use self::mangle::{Mangled, SECRET, mangle, mangle_json, wild};

/// Longer than this no error of ours is, whatever a peer said.
const LONGEST_ERROR: usize = 4000;

fn cases(few: u32) -> ProptestConfig {
    let many = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    ProptestConfig {
        cases: many.unwrap_or(few),
        failure_persistence: None,
        max_shrink_iters: 0,
        ..ProptestConfig::default()
    }
}

/// One case under virtual time.
fn virtually<T>(case: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(case)
}

/// Words for people: short, and without what looks like a credential.
fn sound(words: &str) {
    assert!(words.len() <= LONGEST_ERROR, "{} bytes of words", words.len());
    assert!(!words.contains(&SECRET[..20]), "a credential is repeated: {words}");
    assert!(!words.contains('\u{1b}'), "it steers the terminal: {words:?}");
}

/// What was answered is either understood or refused in sound words, and in time.
async fn judged<T, E: std::fmt::Display>(call: impl Future<Output = Result<T, E>>) -> Option<T> {
    let answered = tokio::time::timeout(Duration::from_secs(4000), call).await;
    match answered.expect("it takes for ever") {
        Ok(answer) => Some(answer),
        Err(error) => {
            sound(&error.to_string());
            None
        }
    }
}

/// A simulated world with one set, a service account's way to GHARTS, and a damaged way to everybody.
async fn world(seed: u64, tasks: &Tasks) -> World {
    let options = Options {
        seed,
        sets: vec![SetOptions::new("linux", Provisioner::Gharts, 5)],
        ..Options::default()
    };
    let clock = Clock::simulated("2026-11-23T00:00:00Z".parse().unwrap());
    World::start(options, clock, tasks).await.unwrap()
}

fn configuration(world: &World, seed: u64) -> config::Config {
    let name = format!("fuzz-{}-{seed:x}", std::process::id());
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&dir).unwrap();
    config::parse(&world.config(&dir).unwrap(), &Environment::new()).unwrap()
}

proptest! {
    #![proptest_config(cases(12))]

    /// Each call of GitHub's protocols, one after the other, on a way where every second answer is damaged.
    #[test]
    fn b3_github_may_answer_anything(seed in any::<u64>(), percent in 20_u8..=100) {
        virtually(async {
            let tasks = Tasks::new();
            let world = world(seed, &tasks).await;
            let config = configuration(&world, seed);
            let clock = world.clock.clone();
            let transport = Arc::new(Mangled::new(world.services.transport(), seed, percent));
            let source = github_token_source(&config.github, transport.clone(), clock.clone()).unwrap();
            let token = Arc::new(Cached::new(source, clock.clone()));
            let url = config.github.config_url.clone();
            let connection = Connection::new(transport, clock, url, Authority::Rest(token), seed);
            let spec = Spec {
                group: "default".to_owned(),
                name: "linux".to_owned(),
                labels: vec!["linux".to_owned()],
                disable_update: true,
                known_id: None,
                inherited_id: None,
            };
            for round in 0..4 {
                let registered = judged(ensure(&connection, &spec)).await;
                let set = registered.map_or(round, |registered| registered.scale_set.id);
                judged(connection.runner_group("default")).await;
                judged(connection.group_access(&["default".to_owned()])).await;
                judged(connection.scale_set_by_name(1, "linux")).await;
                judged(connection.scale_set_by_id(set)).await;
                judged(connection.list_scale_sets()).await;
                judged(connection.acquirable_jobs(set)).await;
                judged(connection.generate_jit_config(set, &format!("r-{round}"), "_work")).await;
                for agent in judged(connection.agents()).await.unwrap_or_default() {
                    judged(connection.delete_agent(agent.id)).await;
                }
                judged(connection.agent_by_name("r-1")).await;
                world.github.queue_jobs(&NewJobs::for_set(ORGANIZATION, "linux", 2));
                let Some(mut session) = judged(connection.open_session(set, "fuzz")).await else {
                    continue;
                };
                for _ in 0..4 {
                    let message = judged(connection.poll_renewing(&mut session, None, 5)).await.flatten();
                    if let Some(message) = message {
                        judged(connection.delete_message_renewing(&mut session, message.id)).await;
                    }
                }
                judged(connection.acquire_jobs_renewing(&mut session, &[1, 2, i64::MAX])).await;
                judged(connection.refresh_session(&session)).await;
                judged(connection.close_session(set, &session.id)).await;
            }
            tasks.stop();
            tasks.finished().await;
        });
    }

    /// The same of GHARTS and of token endpoints.
    #[test]
    fn b20_gharts_and_issuers_may_answer_anything(seed in any::<u64>(), percent in 20_u8..=100) {
        virtually(async {
            let tasks = Tasks::new();
            let world = world(seed, &tasks).await;
            let clock = world.clock.clone();
            let transport = Arc::new(Mangled::new(world.services.transport(), seed, percent));
            let addresses = &world.services.addresses;
            let issuer = oauth2::Issuer {
                token_url: format!("{}/oauth/token", addresses.oidc).parse().unwrap(),
                client_id: MACHINE.0.to_owned(),
                audience: Some(addresses.gharts.clone()),
                scope: None,
                style: [AuthStyle::Body, AuthStyle::Basic, AuthStyle::Json][(seed % 3) as usize],
            };
            let secret: oauth2::ReadSecret = Arc::new(|| Ok(MACHINE.1.to_owned().into()));
            let source = oauth2::ClientCredentials::new(transport.clone(), clock.clone(), issuer, secret);
            let token = Arc::new(Cached::new(Arc::new(source), clock.clone()));
            let base = addresses.gharts.parse().unwrap();
            let client = Client::new(transport, clock, &base, token.clone(), Duration::from_secs(45));
            for round in 0..6 {
                judged(token.get()).await;
                judged(client.me()).await;
                let request = wire::JitRequest {
                    runner_name: format!("fuzz-{round}"),
                    labels: vec!["linux".to_owned()],
                    team_id: None,
                    team_name: None,
                    work_folder: "_work".to_owned(),
                    runner_group_id: None,
                    scale_set: None,
                };
                let made = judged(client.jit(&request)).await;
                let asked = wire::RegistrationRequest {
                    runner_name: format!("token-{round}"),
                    labels: Vec::new(),
                    ephemeral: true,
                };
                judged(client.provision(&asked)).await;
                judged(client.list()).await;
                judged(client.find_by_name("fuzz-0")).await;
                judged(client.delete(made.as_ref().map_or("../..", |made| &made.runner_id))).await;
                let _ = client.description().await;
            }
            tasks.stop();
            tasks.finished().await;
        });
    }

    /// The whole daemon among peers that talk nonsense for ten minutes: it lives, and serves the jobs of afterwards.
    #[test]
    fn b3_the_daemon_outlives_peers_that_talk_nonsense(seed in any::<u64>(), percent in 10_u8..70) {
        virtually(async {
            let tasks = Tasks::new();
            let world = world(seed, &tasks).await;
            let config = configuration(&world, seed);
            let github = Mangled::new(world.services.transport(), seed, percent);
            let gharts = Mangled::new(world.services.transport(), seed ^ 1, percent);
            let externals = Externals {
                dial: Arc::new(|_| Err("no other wire".to_owned())),
                github: Arc::new(github.clone()),
                gharts: Arc::new(gharts.clone()),
                kubernetes: world.daemon_client(),
                kubernetes_for_lease: world.daemon_client(),
                clock: world.clock.clone(),
                seed,
                identity: "fuzz".to_owned(),
            };
            let stop = tokio_util::sync::CancellationToken::new();
            let daemon = app::Daemon::new(config, externals);
            let sources = daemon.sources();
            let task = tasks.spawn("daemon", daemon.serve(None, stop.clone()));
            let fleet = world.fleet.clone().unwrap();
            fleet.behave(|_| Behaviour::Ordinary);
            for _ in 0..10 {
                if world.github.set("linux").is_some() {
                    world.github.queue_jobs(&NewJobs::for_set(ORGANIZATION, "linux", 2).lasting(Duration::from_secs(20)));
                }
                tokio::time::sleep(Duration::from_secs(60)).await;
                prop_assert!(!task.is_finished(), "the daemon ended");
                sound_status(&sources.status.borrow());
            }
            for way in [&github, &gharts] {
                way.heal();
            }
            let polls = async {
                while !world.github.set("linux").is_some_and(|set| set.polling) {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            let polled = tokio::time::timeout(Duration::from_secs(3600), polls).await;
            prop_assert!(polled.is_ok(), "its queue is not polled again: {:#?}", sources.status.borrow());
            let jobs = world.github.queue_jobs(&NewJobs::for_set(ORGANIZATION, "linux", 3));
            let ended = async {
                let is_over = |job: &gharts_listener::sim::github::JobHandle| {
                    world.github.job(&job.id).is_some_and(|job| job.state == JobState::Finished)
                };
                while !jobs.iter().all(is_over) {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            };
            let ended = tokio::time::timeout(Duration::from_secs(3 * 3600), ended).await;
            prop_assert!(ended.is_ok(), "jobs wait: {:#?}", sources.status.borrow());
            let text = sources.metrics.render();
            let crashed = text.lines().any(|line| line.contains("start_panicked") || line.contains("set_failed"));
            prop_assert!(!crashed, "something panicked");
            stop.cancel();
            task.await.unwrap().unwrap();
            tasks.stop();
            tasks.finished().await;
            Ok(())
        })?;
    }
}

fn sound_status(status: &gharts_listener::status::Status) {
    for set in &status.scale_sets {
        for reason in &set.reasons {
            sound(&reason.message);
            assert_ne!(reason.code, "set_failed", "{}", reason.message);
        }
        sound(set.last_provision_error.as_deref().unwrap_or_default());
    }
}

fn pod() -> Value {
    let container = |state: Value| json!({"name": "runner", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state});
    json!({
        "metadata": {
            "name": "a-abcde-0123456789", "namespace": "runners", "uid": "u", "resourceVersion": "7",
            "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-01T00:10:00Z",
            "annotations": {"gharts-listener/scale-set": "a", "gharts-listener/agent-id": "12",
                "gharts-listener/job-id": "j", "gharts-listener/workflow-run-id": "9", "gharts-listener/purpose": "spare",
                "gharts-listener/failed": "x", "gharts-listener/kept-until": "2026-01-01T00:30:00Z"},
        },
        "spec": {"nodeName": "n"},
        "status": {"phase": "Failed", "reason": "Evicted", "message": "low on memory",
            "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node",
                "lastTransitionTime": "2026-01-01T00:00:05Z"}],
            "initContainerStatuses": [container(json!({"terminated": {"exitCode": 1, "message": "m"}}))],
            "containerStatuses": [container(json!({"running": {"startedAt": "2026-01-01T00:00:07Z"}})),
                container(json!({"waiting": {"reason": "ImagePullBackOff", "message": "no image"}}))]},
    })
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn b36_any_pod_off_the_watch_is_read_or_left_aside(seed in any::<u64>()) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let bytes = mangle(&mut rng, pod().to_string().as_bytes());
        if let Ok(pod) = serde_json::from_slice::<WatchedPod>(&bytes) {
            let moment = |at: jiff::Timestamp| Moment::from_millis(at.as_millisecond());
            if let Some(seen) = observe::read(&pod, moment) {
                sound(&seen.adopted.pod.says.unwrap_or_default());
            }
        }
    }

    #[test]
    fn b38_any_file_is_read_or_refused_with_words(seed in any::<u64>(), noise in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let example: Value = serde_yaml_ng::from_str(config::EXAMPLE).unwrap();
        let text = match rng.u8(..5) {
            0 => String::from_utf8_lossy(&noise).into_owned(),
            1 => String::from_utf8_lossy(&mangle(&mut rng, config::EXAMPLE.as_bytes())).into_owned(),
            _ => mangle_json(&mut rng, example).to_string(),
        };
        judge_file(&text, &Environment::new());
    }

    #[test]
    fn b38_any_environment_is_taken_or_refused_with_words(
        parts in prop::collection::vec("[A-Z_a-z0-9]{0,12}", 1..5),
        value in ".{0,40}",
    ) {
        let name = format!("GHARTS_LISTENER__{}", parts.join("__"));
        let environment = Environment::from([
            (name, value.clone()),
            ("GHARTS_LISTENER__GHARTS__LIMITS__BURST".to_owned(), value),
        ]);
        judge_file(config::EXAMPLE, &environment);
    }

    #[test]
    fn b20_any_header_is_a_time_to_wait_or_none(value in prop::collection::vec(any::<u8>(), 0..40), text in "[0-9A-Za-z,: +.-]{0,40}") {
        let now = "2026-11-23T00:00:00Z".parse().unwrap();
        for value in [&value[..], text.as_bytes()] {
            let Ok(value) = ::http::HeaderValue::from_bytes(value) else { continue };
            for name in ["retry-after", "date", "x-ratelimit-reset", "x-ratelimit-remaining"] {
                for status in [403, 429, 503] {
                    let answer = ::http::Response::builder().status(status).header(name, &value);
                    let answer = answer.header("x-ratelimit-remaining", "0").body(b"secondary rate limit").unwrap();
                    let _ = http::retry_after(answer.headers(), now);
                    let _ = http::date(answer.headers());
                    let _ = http::rate_limit(&answer, now);
                    sound(&http::request_ids(answer.headers()));
                }
            }
        }
    }

    #[test]
    fn any_text_is_made_fit_for_a_line(text in "\\PC{0,2000}", at in 0_usize..50) {
        let at = text.char_indices().nth(at).map_or(0, |(at, _)| at);
        let with_secret = format!("{} {SECRET} {}", &text[..at], &text[at..]);
        let line = http::redact(&with_secret);
        sound(&line);
        prop_assert!(!line.contains('\n'));
    }
}

/// A file that is refused is refused with places and remedies.
fn judge_file(text: &str, environment: &Environment) {
    match config::parse(text, environment) {
        // What is understood can be shown, and means the same then.
        Ok(config) => {
            let shown = config::show(&config).unwrap();
            assert_eq!(
                config::parse(&shown, &Environment::new()).as_ref(),
                Ok(&config),
                "{shown}"
            );
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in problems {
                assert!(!problem.path.is_empty() && !problem.message.is_empty() && !problem.remedy.is_empty());
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(16))]

    /// Tokens that others write: a projected file, and what a command prints.
    #[test]
    fn b16_any_token_file_and_any_command_are_understood_or_refused(seed in any::<u64>()) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let claims = mangle(&mut rng, json!({"exp": 1_900_000_000_i64, "sub": "s"}).to_string().as_bytes());
        let payload = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, &claims);
        let printed = json!({"token": SECRET, "expiresAt": "2026-11-23T01:00:00Z",
            "status": {"token": SECRET, "expirationTimestamp": "2026-11-23T01:00:00Z"}});
        let path = std::env::temp_dir().join(format!("gharts-fuzz-{}-{seed:x}", std::process::id()));
        let clock = Clock::simulated("2026-11-23T00:00:00Z".parse().unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for content in [
            format!("h.{payload}.s").into_bytes(),
            mangle(&mut rng, format!("h.{payload}.s").as_bytes()),
            mangle(&mut rng, printed.to_string().as_bytes()),
            wild(&mut rng).to_string().into_bytes(),
        ] {
            std::fs::write(&path, content).unwrap();
            let file = TokenFile::new(path.clone(), clock.clone());
            let command = config::ExecCommand {
                command: vec!["/bin/cat".to_owned(), path.display().to_string()],
                env: std::collections::BTreeMap::new(),
                timeout: Duration::from_secs(10),
            };
            let command = TokenCommand::new(command, clock.clone());
            runtime.block_on(async {
                judged(file.fetch()).await;
                judged(command.fetch()).await;
            });
        }
        std::fs::remove_file(&path).unwrap();
    }
}
