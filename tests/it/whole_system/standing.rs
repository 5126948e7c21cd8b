//! What is wrong with a GHARTS, or with us there, shows before any job waits, and goes when it is mended: each account
//! is asked how it stands, without a runner being asked for (B18, B43, B48).

use std::time::Duration;

use gharts_listener::sim::{
    gharts::Flavour,
    network::Trouble,
    world::{Binding, Options, Provisioner, SetOptions, TEAM},
};
use http::StatusCode;
use serde_json::json;

use super::{
    gharts::tokens_requested,
    harness::{Run, Running, Stage, jobs, with_provisioner},
    identity::{client_credentials, with_oidc},
};

const GHARTS: &str = "gharts.test";
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// As long as a session takes to be opened, and more.
const AT_START: Duration = Duration::from_secs(20);

/// Calls to GHARTS so far that begin so.
fn sent(running: &Running, line: &str) -> usize {
    let log = running.daemon.cable.log();
    let of = log.iter().filter(|sent| sent.authority == GHARTS);
    of.filter(|sent| sent.line.starts_with(line)).count()
}

async fn said_at_start(running: &Running, set: &str, code: &str) {
    running
        .until_within(code, AT_START, |_| running.reason(set, code).is_some())
        .await;
}

/// Where nobody may have a runner none is asked for, and GitHub is promised none.
async fn nothing_is_promised(running: &Running, set: &str) {
    running
        .until_within("no capacity", AT_START, |world| {
            world.github.set(set).is_some_and(|set| set.announced == Some(0))
        })
        .await;
    assert_eq!(sent(running, "POST"), 0);
}

#[tokio::test(start_paused = true)]
async fn b43_a_binding_that_the_service_cannot_serve_is_told_before_any_job() {
    for (flavour, binding) in [
        (Flavour::Team, Binding::Auto),
        (Flavour::User, Binding::Auto),
        (Flavour::Seed, Binding::ScaleSet),
        (Flavour::SetAware, Binding::RegistrationToken),
        (Flavour::Team, Binding::RegistrationToken),
    ] {
        let run = Run::called(format!("{flavour:?} {binding:?}"));
        let mut options = with_provisioner(Provisioner::Gharts);
        options.flavour = flavour;
        options.sets[0].binding = binding;
        let running = Running::start(options).await;
        said_at_start(&running, "linux", "binding_unsupported").await;
        assert!(running.said_of("linux").unwrap().degraded);
        nothing_is_promised(&running, "linux").await;
        let asked = sent(&running, "");
        running.pass(60 * MINUTE).await;
        let asked = sent(&running, "") - asked;
        // Twelve times two questions, and as many lists for the comparison.
        assert!(asked <= 40, "{asked} calls in an hour");
        running.end().await;
        drop(run);
    }
}

#[tokio::test(start_paused = true)]
async fn b18_a_machine_client_of_another_team_is_refused_at_start() {
    let mut options = with_provisioner(Provisioner::Gharts);
    options.sets[0].team = Some("data".to_owned());
    options.more_teams = vec!["data".to_owned()];
    let stage = Stage::set_with(options, |text| with_oidc(&text, &client_credentials("body"))).await;
    let running = stage.start();
    said_at_start(&running, "linux", "configuration").await;
    let reason = running.reason("linux", "configuration").unwrap();
    assert!(
        reason.message.contains("`data`") && reason.message.contains(TEAM),
        "{reason:?}"
    );
    nothing_is_promised(&running, "linux").await;
    // Nor is it asked for when jobs wait: GHARTS would bill its own team.
    let queued = running.queue(&jobs("linux", 2)).await;
    running.pass(10 * MINUTE).await;
    assert_eq!(sent(&running, "POST"), 0);
    for job in &queued {
        let _ = running.world.github.cancel(&job.id);
    }
    running.end().await;
}

/// What an administrator breaks before the start and mends after it; `code` says it.
struct Broken {
    code: &'static str,
    words: &'static str,
    begin: fn(&Stage),
    end: fn(&Running),
}

#[tokio::test(start_paused = true)]
async fn b18_what_gharts_has_against_us_is_told_before_any_job_and_is_over_when_it_is_mended() {
    let broken = [
        Broken {
            code: "not_authorized",
            words: "deactivated",
            begin: |stage| {
                stage
                    .world
                    .gharts
                    .set_user_active(&stage.world.services.gharts_user, false);
            },
            end: |running| {
                running
                    .world
                    .gharts
                    .set_user_active(&running.world.services.gharts_user, true);
            },
        },
        Broken {
            code: "not_authorized",
            words: "is deactivated at GHARTS: budget",
            begin: |stage| stage.world.gharts.deactivate_team(TEAM, "budget"),
            end: |running| running.world.gharts.reactivate_team(TEAM),
        },
    ];
    for Broken {
        code,
        words,
        begin,
        end,
    } in broken
    {
        let run = Run::called(words.to_owned());
        let stage = Stage::set(with_provisioner(Provisioner::Gharts)).await;
        begin(&stage);
        let running = stage.start();
        said_at_start(&running, "linux", code).await;
        let said = running.reason("linux", code).unwrap().message;
        assert!(said.contains(words), "{said}");
        nothing_is_promised(&running, "linux").await;
        end(&running);
        let mended = format!("the end of {code}");
        running
            .until_within(&mended, 6 * MINUTE, |_| running.reason("linux", code).is_none())
            .await;
        let queued = running.queue(&jobs("linux", 3)).await;
        running.until_finished(&queued, 2 * MINUTE).await;
        running.end().await;
        drop(run);
    }
}

#[tokio::test(start_paused = true)]
async fn b17_bad_credentials_are_told_before_any_job_and_looked_at_slowly() {
    let stage = Stage::set(with_provisioner(Provisioner::Gharts)).await;
    let words = json!({ "detail": "Token validation failed: Invalid audience" }).to_string();
    let refused = stage
        .world
        .network
        .disturb(GHARTS, "", Trouble::Answered(StatusCode::UNAUTHORIZED, words));
    let running = stage.start();
    said_at_start(&running, "linux", "credentials").await;
    running.pass(30 * MINUTE).await;
    let tokens = tokens_requested(&running);
    assert!(tokens <= 30, "{tokens} tokens in half an hour");
    refused.end();
    // A job that comes meanwhile is not kept waiting by what was only a suspicion.
    let queued = running.queue(&jobs("linux", 1)).await;
    running.until_finished(&queued, 2 * MINUTE).await;
    running.until_no_reason("linux", "credentials").await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b48_a_gharts_that_hangs_at_the_start_is_told_asked_rarely_and_delays_no_other_set() {
    let stage = Stage::set(Options {
        sets: vec![
            SetOptions::new("linux", Provisioner::Gharts, 10),
            SetOptions::new("web", Provisioner::ScaleSet, 10),
        ],
        ..Options::default()
    })
    .await;
    let silence = stage.world.network.disturb(GHARTS, "", Trouble::Silence);
    let running = stage.start();
    let queued = running.queue(&jobs("web", 5)).await;
    running.until_finished(&queued, 80 * SECOND).await;
    assert!(!running.said_of("web").unwrap().degraded);
    running.until_reason("linux", "stalled").await;
    // Each question takes 45 s to be given up; they become rare.
    let asked = sent(&running, "GET /api/v1/auth/me");
    running.pass(60 * MINUTE).await;
    let asked = sent(&running, "GET /api/v1/auth/me") - asked;
    assert!((6..=14).contains(&asked), "asked {asked} times in an hour");
    silence.end();
    running
        .until_within("the end of it", 6 * MINUTE, |_| {
            !running.said_of("linux").unwrap().degraded
        })
        .await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b37_a_question_under_way_does_not_hold_up_the_end() {
    let stage = Stage::set(with_provisioner(Provisioner::Gharts)).await;
    let silence = stage
        .world
        .network
        .disturb(GHARTS, "GET /api/v1/auth/me", Trouble::Silence);
    let mut running = stage.start();
    running.pass(10 * SECOND).await;
    assert_eq!(silence.met(), 1);
    let took = running.stop().await;
    assert!(took <= SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn b8_sets_of_one_account_ask_once_and_each_other_account_by_itself() {
    let set = |name: String, team: Option<&str>| SetOptions {
        team: team.map(str::to_owned),
        ..SetOptions::new(&name, Provisioner::Gharts, 10)
    };
    let mut sets: Vec<SetOptions> = (0..100).map(|n| set(format!("own-{n}"), None)).collect();
    sets.extend((0..100).map(|n| set(format!("data-{n}"), Some("data"))));
    sets.push(set("lost".to_owned(), Some("strangers")));
    let running = Running::start(Options {
        sets,
        more_teams: vec!["data".to_owned()],
        ..Options::default()
    })
    .await;
    said_at_start(&running, "lost", "configuration").await;
    running.pass(4 * MINUTE).await;
    assert_eq!(sent(&running, "GET /api/v1/auth/me"), 3);
    assert_eq!(sent(&running, "POST"), 0);
    for other in ["own-7", "data-99"] {
        assert!(!running.said_of(other).unwrap().degraded, "{other}");
    }
    running.end().await;
}

/// The file names one team in one place and leaves it to GHARTS in another: one quota, one refusal.
#[tokio::test(start_paused = true)]
async fn b19_sets_whose_team_is_one_share_its_quota_however_the_file_names_it() {
    let mut named = SetOptions::new("named", Provisioner::Gharts, 10);
    named.team = Some(TEAM.to_owned());
    let options = Options {
        sets: vec![SetOptions::new("unnamed", Provisioner::Gharts, 10), named],
        quota: Some(3),
        ..Options::default()
    };
    let running = Running::start_with(options, |text| text.replace(&format!("\n  team: {TEAM}\n"), "\n")).await;
    let long = running.queue(&jobs("named", 3).lasting(10 * MINUTE)).await;
    running.until("three at work", |world| world.counters.live() == 3).await;
    running.queue(&jobs("unnamed", 1)).await;
    running.until_reason("unnamed", "quota_exceeded").await;
    // Nobody of this set has been refused; it knows all the same.
    running.pass(SECOND).await;
    assert!(running.reason("named", "quota_exceeded").is_some());
    assert_eq!(running.said_of("named").unwrap().last_provision_error, None);
    running.until_finished(&long, 15 * MINUTE).await;
    running.end().await;
}

/// The last word about a peer that nobody asks any more grows old.
#[tokio::test(start_paused = true)]
async fn b49_a_failure_of_before_is_not_said_for_ever_once_nothing_is_wanted() {
    let running = Running::start(with_provisioner(Provisioner::Gharts)).await;
    let trouble = Trouble::Answered(
        StatusCode::BAD_REQUEST,
        json!({"detail": "GitHub API error: no"}).to_string(),
    );
    let trouble = running.world.network.disturb(GHARTS, "POST", trouble);
    let waiting = running.queue(&jobs("linux", 2)).await;
    running.until_reason("linux", "upstream").await;
    for job in &waiting {
        running.world.github.cancel(&job.id).unwrap();
    }
    running.pass(30 * MINUTE).await;
    assert!(running.reason("linux", "upstream").is_none());
    assert!(!running.said_of("linux").unwrap().degraded);
    trouble.end();
    let jobs = running.queue(&jobs("linux", 2)).await;
    running.until_finished(&jobs, 10 * MINUTE).await;
    running.end().await;
}
