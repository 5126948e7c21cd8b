//! GHARTS at its worst: tokens, refusals, quotas, lost answers, outages. And what is left behind: nothing.

use std::{collections::BTreeSet, time::Duration};

use gharts_listener::{
    ids::{Namer, SetName},
    sim::{
        gharts::{Deployment, Fault, Flavour, Operation},
        github::{JobHandle, JobState},
        network::Trouble,
        world::{Options, Provisioner, SetOptions, TEAM, account_name},
    },
};
use http::StatusCode;
use serde_json::json;

use super::harness::{Run, Running, Stage, jobs, with_provisioner};

const GHARTS: &str = "gharts.test";
const GITHUB: &str = "github.test";
const JIT: &str = "POST /api/v1/runners/jit";
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn through_gharts() -> Options {
    with_provisioner(Provisioner::Gharts)
}

fn with_quota(quota: u32) -> Options {
    Options {
        quota: Some(quota),
        ..through_gharts()
    }
}

fn refusing(status: StatusCode, detail: &str) -> Trouble {
    Trouble::Answered(status, json!({ "detail": detail }).to_string())
}

/// Tokens that the daemon has asked the API server for.
pub(super) fn tokens_requested(running: &Running) -> u64 {
    let requests = running.world.kubernetes.requests();
    let daemon = account_name();
    let of = requests
        .iter()
        .filter(|(kind, _)| kind.user == daemon && kind.resource == "serviceaccounts/token");
    of.map(|(_, count)| count).sum()
}

/// Calls of any kind that have reached GHARTS.
fn calls(running: &Running) -> u64 {
    running.world.gharts.calls().values().sum()
}

/// One job has shown that all is well; what follows finds a daemon that knows its server.
async fn warmed(options: Options) -> Running {
    let running = Running::start(options).await;
    let first = running.queue(&jobs("linux", 1).lasting(SECOND)).await;
    running.until_finished(&first, MINUTE).await;
    running.pass(5 * SECOND).await;
    running
}

// ---- Tokens -------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn b16_a_day_of_jobs_renews_the_token_before_it_ends_and_no_more_often() {
    let running = Running::start(through_gharts()).await;
    for _ in 0..24 {
        let queued = running.queue(&jobs("linux", 2)).await;
        running.until_finished(&queued, 2 * MINUTE).await;
        assert!(!running.said_of("linux").unwrap().degraded);
        running.pass(29 * MINUTE).await;
    }
    // 12 hours; a token lives one, and is renewed after 48 minutes at the earliest.
    let tokens = tokens_requested(&running);
    assert!((12..=16).contains(&tokens), "{tokens} tokens in twelve hours");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b17_one_401_renews_the_token_and_repeats() {
    let running = warmed(through_gharts()).await;
    let before = tokens_requested(&running);
    let refusal = refusing(
        StatusCode::UNAUTHORIZED,
        "Token validation failed: Signature has expired.",
    );
    let once = running.world.network.disturb(GHARTS, JIT, refusal);
    once.times(1);
    let queued = running.queue(&jobs("linux", 3)).await;
    running.until_finished(&queued, 75 * SECOND).await;
    assert_eq!(once.met(), 1);
    assert_eq!(tokens_requested(&running) - before, 1);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b17_a_token_refused_twice_is_a_reason_and_is_tried_slowly() {
    let running = warmed(through_gharts()).await;
    let before = tokens_requested(&running);
    let refusal = refusing(StatusCode::UNAUTHORIZED, "Token validation failed: Invalid audience");
    let refused = running.world.network.disturb(GHARTS, "", refusal);
    let queued = running.queue(&jobs("linux", 5)).await;
    let reason = running.until_reason("linux", "credentials").await;
    assert!(reason.message.contains("Invalid audience"), "{}", reason.message);
    running.pass(10 * MINUTE).await;
    assert!(refused.met() <= 30, "{} calls in ten minutes", refused.met());
    let tokens = tokens_requested(&running) - before;
    assert!(tokens <= 15, "{tokens} tokens in ten minutes");
    let said = running.said_of("linux").unwrap();
    assert!(said.degraded);
    assert_eq!(said.last_provision_error_class.as_deref(), Some("credentials"));
    refused.end();
    running.until_finished(&queued, 7 * MINUTE).await;
    running.until_no_reason("linux", "credentials").await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b17_an_issuer_that_gharts_cannot_reach_keeps_the_token() {
    let running = warmed(through_gharts()).await;
    let before = tokens_requested(&running);
    let refusal = refusing(
        StatusCode::UNAUTHORIZED,
        "Authentication failed: 503: Failed to fetch JWKS: All connection attempts failed",
    );
    let ill = running.world.network.disturb(GHARTS, "", refusal);
    let queued = running.queue(&jobs("linux", 5)).await;
    let reason = running.until_reason("linux", "issuer_down").await;
    assert!(reason.message.contains("Failed to fetch JWKS"), "{}", reason.message);
    running.pass(10 * MINUTE).await;
    assert!(ill.met() <= 45, "{} calls in ten minutes", ill.met());
    assert_eq!(tokens_requested(&running), before);
    ill.end();
    running.until_finished(&queued, 2 * MINUTE).await;
    running.end().await;
}

// ---- Refusals that repeating cannot cure --------------------------------------------------------------

/// Ten minutes of refusal cost a handful of calls, the daemon says why in the server's words, and the cure
/// shows within one re-check.
async fn refused_without_a_storm(
    options: Options,
    spoil: impl Fn(&Running),
    cure: impl Fn(&Running),
    code: &str,
    words: &str,
) {
    let running = Running::start(options).await;
    spoil(&running);
    let queued = running.queue(&jobs("linux", 10)).await;
    let reason = running.until_reason("linux", code).await;
    assert!(reason.message.contains(words), "{}", reason.message);
    assert!(reason.remedy.is_some(), "{code} has no remedy");
    let before = calls(&running);
    running.pass(10 * MINUTE).await;
    let made = calls(&running) - before;
    assert!(made <= 14, "{made} calls in ten minutes of {code}");
    let said = running.said_of("linux").unwrap();
    assert!(said.last_provision_error.is_some_and(|error| error.contains(words)));
    assert_eq!(said.policy_violation, code == "label_policy");
    assert_eq!(running.world.counters.created(), 0);
    cure(&running);
    running.until_finished(&queued, 5 * MINUTE + 75 * SECOND).await;
    running.until_no_reason("linux", code).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b18_missing_required_labels_are_said_and_not_hammered() {
    refused_without_a_storm(
        through_gharts(),
        |running| running.world.gharts.set_policy(TEAM, &["gpu"], &[".*"]),
        |running| running.world.gharts.set_policy(TEAM, &[], &[".*"]),
        "label_policy",
        "Missing required labels for team 'platform': ",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn b18_labels_that_the_policy_forbids_are_said_and_not_hammered() {
    refused_without_a_storm(
        through_gharts(),
        |running| running.world.gharts.set_policy(TEAM, &[], &["windows-.*"]),
        |running| running.world.gharts.set_policy(TEAM, &[], &["linux"]),
        "label_policy",
        "not permitted by team 'platform' policy",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn b18_a_deactivated_user_is_said_and_not_hammered() {
    let user = |running: &Running| running.world.services.gharts_user.clone();
    refused_without_a_storm(
        through_gharts(),
        |running| running.world.gharts.set_user_active(&user(running), false),
        |running| running.world.gharts.set_user_active(&user(running), true),
        "not_authorized",
        "User account is deactivated.",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn b18_a_deactivated_team_is_said_and_not_hammered() {
    let running = warmed(through_gharts()).await;
    running.world.gharts.deactivate_team(TEAM, "budget");
    let queued = running.queue(&jobs("linux", 10)).await;
    running
        .until("a refusal", |_| running.said_of("linux").unwrap().degraded)
        .await;
    let before = calls(&running);
    running.pass(10 * MINUTE).await;
    let made = calls(&running) - before;
    assert!(made <= 14, "{made} calls in ten minutes");
    running.world.gharts.reactivate_team(TEAM);
    running.until_finished(&queued, 5 * MINUTE + 75 * SECOND).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b18_who_is_no_member_of_the_team_is_told_so_and_does_not_hammer() {
    let running = warmed(through_gharts()).await;
    let gharts = running.world.gharts.clone();
    let (team, user) = (
        gharts.team(TEAM).unwrap().id,
        running.world.services.gharts_user.clone(),
    );
    gharts.remove_member(&team, &user);
    let queued = running.queue(&jobs("linux", 10)).await;
    running.until_reason("linux", "not_authorized").await;
    let before = calls(&running);
    running.pass(10 * MINUTE).await;
    let made = calls(&running) - before;
    assert!(made <= 14, "{made} calls in ten minutes");
    gharts.add_member(&team, &user);
    running.until_finished(&queued, 5 * MINUTE + 75 * SECOND).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b18_labels_that_the_server_cannot_read_are_said_with_what_was_sent() {
    let mut options = through_gharts();
    options.sets[0].gharts_labels = vec!["size-xl".to_owned()];
    let running = Running::start(options).await;
    let malformed = Trouble::Answered(
        StatusCode::UNPROCESSABLE_ENTITY,
        json!({"detail": "Validation error", "error_code": "VALIDATION_ERROR"}).to_string(),
    );
    let refused = running.world.network.disturb(GHARTS, JIT, malformed);
    let queued = running.queue(&jobs("linux", 10)).await;
    let reason = running.until_reason("linux", "invalid_request").await;
    assert!(reason.message.contains("size-xl"), "{}", reason.message);
    running.pass(10 * MINUTE).await;
    assert!(refused.met() <= 6, "{} calls in ten minutes", refused.met());
    refused.end();
    running.until_finished(&queued, 5 * MINUTE + 75 * SECOND).await;
    running.end().await;
}

// ---- Quota --------------------------------------------------------------------------------------------

/// Seconds of the audit log's entries of one event.
fn moments(running: &Running, event: &str) -> Vec<f64> {
    let log = running.world.gharts.audit_log();
    let of = log.iter().filter(|entry| entry.event == event);
    of.map(|entry| entry.at.as_nanosecond() as f64 / 1e9).collect()
}

#[tokio::test(start_paused = true)]
async fn b19_four_times_the_quota_in_jobs_all_finish_without_hammering() {
    let running = Running::start(with_quota(5)).await;
    let queued = running.queue(&jobs("linux", 20)).await;
    running.until_reason("linux", "quota_exceeded").await;
    assert!(running.said_of("linux").unwrap().quota_exceeded);
    // Four rounds of a minute, and what it takes to find each place.
    running.until_finished(&queued, 6 * MINUTE).await;
    let (refused, freed) = (moments(&running, "quota_exceeded"), moments(&running, "deprovision"));
    // Those that were under way when the first one was refused are refused, too.
    for pair in refused[4.min(refused.len())..].windows(2) {
        let ours = freed.iter().any(|at| (pair[0]..=pair[1]).contains(at));
        assert!(
            ours || pair[1] - pair[0] >= 3.9,
            "two refusals at {pair:?}, and no place of ours between them"
        );
    }
    assert!(refused.len() <= 20 + 6 * 4, "{} refusals", refused.len());
    running.until_no_reason("linux", "quota_exceeded").await;
    let world = running.end().await;
    assert_eq!(world.counters.created(), 20);
    assert!(world.counters.max_live() <= 5 + 1, "{}", world.counters.max_live());
}

#[tokio::test(start_paused = true)]
async fn b19_a_place_of_our_own_is_asked_for_within_two_seconds() {
    let running = Running::start(with_quota(4)).await;
    // Ends spread out, so that the rate limit holds nothing up.
    let mut queued = Vec::new();
    for i in 0..16 {
        queued.extend(running.queue(&jobs("linux", 1).lasting((40 + 7 * i) * SECOND)).await);
    }
    running.until_finished(&queued, 20 * MINUTE).await;
    let (freed, granted) = (moments(&running, "deprovision"), moments(&running, "provision_jit"));
    let asked: Vec<f64> = granted
        .iter()
        .copied()
        .chain(moments(&running, "quota_exceeded"))
        .collect();
    let last = granted.last().copied().unwrap();
    for at in freed.into_iter().filter(|at| *at < last) {
        let next = asked.iter().any(|asked| (at..=at + 2.0).contains(asked));
        assert!(
            next,
            "nothing was asked for after the place of {at} was free (last grant {last})"
        );
    }
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b19_a_quota_of_zero_announces_no_capacity_and_every_place_is_used_once_it_is_raised() {
    let running = Running::start(with_quota(0)).await;
    let queued = running.queue(&jobs("linux", 10).lasting(5 * MINUTE)).await;
    running.until_reason("linux", "quota_exceeded").await;
    running
        .until_within("no capacity", 55 * SECOND, |world| {
            world.github.set("linux").unwrap().announced == Some(0)
        })
        .await;
    let before = calls(&running);
    running.pass(10 * MINUTE).await;
    let made = calls(&running) - before;
    assert!(made <= 40, "{made} calls in ten minutes");
    running.world.gharts.set_quota(TEAM, Some(10));
    running
        .until_within("every place in use", MINUTE, |_| {
            running.count(&queued, JobState::Running) == 10
        })
        .await;
    running.until_finished(&queued, 6 * MINUTE).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b19_places_that_strangers_give_back_are_used_within_a_minute() {
    let running = warmed(with_quota(6)).await;
    running.world.gharts.take_places(TEAM, 6);
    let queued = running.queue(&jobs("linux", 6).lasting(10 * MINUTE)).await;
    running.until_reason("linux", "quota_exceeded").await;
    running.pass(7 * MINUTE).await;
    assert_eq!(running.world.counters.live(), 0);
    running.world.gharts.take_places(TEAM, 3);
    running
        .until_within("three places in use", MINUTE, |_| {
            running.count(&queued, JobState::Running) == 3
        })
        .await;
    running.pass(3 * MINUTE).await;
    running.world.gharts.take_places(TEAM, 0);
    running
        .until_within("every place in use", MINUTE, |_| {
            running.count(&queued, JobState::Running) == 6
        })
        .await;
    // No place is lacking any more: nothing is refused, and nothing was made beyond the jobs.
    running.until_no_reason("linux", "quota_exceeded").await;
    running.until_finished(&queued, 12 * MINUTE).await;
    let world = running.end().await;
    assert_eq!(world.counters.created(), 1 + 6);
}

// ---- Outages and lost answers -------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn b20_an_ill_gharts_is_asked_at_most_a_few_times_a_minute() {
    let troubles = [
        (
            refusing(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error"),
            "unknown_outcome",
        ),
        (refusing(StatusCode::BAD_GATEWAY, "bad gateway"), "unknown_outcome"),
        (Trouble::LostBefore, "unknown_outcome"),
        (
            refusing(StatusCode::BAD_REQUEST, "GitHub API error: Server Error"),
            "upstream",
        ),
        (refusing(StatusCode::TOO_MANY_REQUESTS, "slow down"), "rate_limited"),
    ];
    for (trouble, code) in troubles {
        let running = warmed(through_gharts()).await;
        // Records to be taken back during the outage, too: each by itself would be repeated every minute.
        let before = running.queue(&jobs("linux", 10)).await;
        running
            .until("ten at work", |_| running.count(&before, JobState::Running) == 10)
            .await;
        let ill = running.world.network.disturb(GHARTS, "", trouble);
        let queued = running.queue(&jobs("linux", 5)).await;
        running.until_finished(&before, 2 * MINUTE).await;
        running.until_reason("linux", code).await;
        running.pass(2 * MINUTE).await;
        let met = ill.met();
        running.pass(10 * MINUTE).await;
        let made = ill.met() - met;
        assert!(made <= 120, "{code}: {made} calls in ten minutes");
        assert!(
            !matches!(code, "unknown_outcome") || made <= 60,
            "{code}: {made} calls in ten minutes"
        );
        ill.end();
        running.until_finished(&queued, 3 * MINUTE).await;
        running.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn b20_a_gharts_that_is_away_is_unreachable_and_is_back_when_it_is_back() {
    let running = warmed(through_gharts()).await;
    let router = running.world.network.detach(GHARTS).unwrap();
    let queued = running.queue(&jobs("linux", 5)).await;
    running.until_reason("linux", "unreachable").await;
    running.pass(10 * MINUTE).await;
    running.world.network.attach(GHARTS, router);
    running.until_finished(&queued, 2 * MINUTE).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b20_a_gharts_that_hangs_is_waited_for_and_nothing_is_cancelled() {
    let running = warmed(through_gharts()).await;
    let slow = running.world.network.disturb(GHARTS, JIT, Trouble::Late(40 * SECOND));
    slow.times(8);
    let queued = running.queue(&jobs("linux", 8)).await;
    running.until_finished(&queued, 5 * MINUTE).await;
    let world = running.end().await;
    assert_eq!(world.counters.created(), 1 + 8);
}

/// Every name that GitHub or GHARTS was asked to register, none of them twice.
fn names_are_used_once(running: &Running) {
    let log = running.world.gharts.audit_log();
    let granted: Vec<&String> = log
        .iter()
        .filter(|entry| entry.event == "provision_jit")
        .filter_map(|entry| entry.runner.as_ref().map(|(_, name)| name))
        .collect();
    let distinct: BTreeSet<&&String> = granted.iter().collect();
    assert_eq!(distinct.len(), granted.len());
}

#[tokio::test(start_paused = true)]
async fn b21_a_lost_answer_of_gharts_leaks_neither_runner_nor_place() {
    for fault in [
        Fault::Refused,
        Fault::AnswerLost,
        Fault::AnswerSpoiled,
        Fault::Unrecorded,
    ] {
        let running = warmed(with_quota(10)).await;
        for _ in 0..3 {
            running.world.gharts.inject(Operation::Jit, fault);
        }
        let queued = running.queue(&jobs("linux", 10)).await;
        running.until_finished(&queued, 5 * MINUTE).await;
        names_are_used_once(&running);
        let world = running.end().await;
        assert_eq!(world.gharts.places_taken(TEAM), 0, "{fault:?}");
        assert_eq!(world.counters.created(), 11, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn b21_a_lost_answer_of_a_deletion_leaks_nothing() {
    for fault in [Fault::Refused, Fault::AnswerLost, Fault::AnswerSpoiled] {
        let running = Running::start(with_quota(10)).await;
        for _ in 0..4 {
            running.world.gharts.inject(Operation::Delete, fault);
        }
        let queued = running.queue(&jobs("linux", 8)).await;
        running.until_finished(&queued, 3 * MINUTE).await;
        let world = running.end().await;
        assert_eq!(world.gharts.places_taken(TEAM), 0, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn b21_a_lost_answer_of_generatejitconfig_leaks_nothing() {
    for trouble in [Trouble::LostAfter, Trouble::LostBefore] {
        let running = warmed(with_provisioner(Provisioner::ScaleSet)).await;
        let lost = running.world.network.disturb(GITHUB, "/generatejitconfig", trouble);
        lost.times(4);
        let queued = running.queue(&jobs("linux", 10)).await;
        running.until_finished(&queued, 3 * MINUTE).await;
        assert_eq!(lost.met(), 4);
        let world = running.end().await;
        assert_eq!(world.counters.created(), 11);
    }
}

#[tokio::test(start_paused = true)]
async fn b26_a_taken_name_costs_one_new_name() {
    let exists = json!({"typeName": "GitHub.DistributedTask.WebApi.TaskAgentExistsException, x",
        "message": "A runner exists with the same name"});
    let running = warmed(with_provisioner(Provisioner::ScaleSet)).await;
    let taken = Trouble::Answered(StatusCode::CONFLICT, exists.to_string());
    running
        .world
        .network
        .disturb(GITHUB, "/generatejitconfig", taken)
        .times(2);
    let queued = running.queue(&jobs("linux", 5)).await;
    running.until_finished(&queued, 2 * MINUTE).await;
    running.end().await;

    let running = warmed(through_gharts()).await;
    let taken = refusing(StatusCode::BAD_REQUEST, "GitHub API error: Already exists");
    running.world.network.disturb(GHARTS, JIT, taken).times(2);
    let queued = running.queue(&jobs("linux", 5)).await;
    running.until_finished(&queued, 2 * MINUTE).await;
    running.end().await;
}

// ---- Binding, independence, fairness ------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn b43_a_gharts_that_knows_no_scale_sets_is_said_and_nothing_is_left_there() {
    for flavour in [Flavour::Seed, Flavour::Team, Flavour::User] {
        // Behind an ingress there is no description of the API: the first runner shows it.
        for ingress in [false, true] {
            binding_is_unsupported(flavour, ingress).await;
        }
    }
}

async fn binding_is_unsupported(flavour: Flavour, ingress: bool) {
    let _run = Run::called(format!("{flavour:?}, ingress {ingress}"));
    let running = Running::start(Options {
        flavour,
        deployment: Deployment {
            ingress,
            ..Deployment::default()
        },
        ..through_gharts()
    })
    .await;
    running.queue(&jobs("linux", 10)).await;
    let reason = running.until_reason("linux", "binding_unsupported").await;
    let remedy = reason.remedy.unwrap();
    assert!(remedy.contains("extension") && remedy.contains("scaleSet"), "{remedy}");
    let before = calls(&running);
    running.pass(10 * MINUTE).await;
    let made = calls(&running) - before;
    assert!(made <= 14, "{made} calls in ten minutes");
    let leaks = running.world.leaks().await.unwrap();
    assert_eq!((leaks.agents, leaks.gharts_records, leaks.pods), (0, 0, 0));
    assert_eq!(running.world.counters.created(), 0);
    assert_eq!(running.said_of("linux").unwrap().capacity, 0);
}

#[tokio::test(start_paused = true)]
async fn b45_sets_under_one_quota_are_served_in_proportion_to_their_need() {
    let running = Running::start(Options {
        quota: Some(8),
        sets: vec![
            SetOptions::new("large", Provisioner::Gharts, 30),
            SetOptions::new("small", Provisioner::Gharts, 30),
        ],
        ..Options::default()
    })
    .await;
    let large = running.queue(&jobs("large", 30).lasting(30 * SECOND)).await;
    let small = running.queue(&jobs("small", 10).lasting(30 * SECOND)).await;
    running
        .until_within("the small set's first job", 90 * SECOND, |_| {
            running.count(&small, JobState::Finished) > 0
        })
        .await;
    running
        .until_within("two thirds of the large set's jobs", 5 * MINUTE, |_| {
            running.count(&large, JobState::Finished) >= 20
        })
        .await;
    let of_small = running.count(&small, JobState::Finished);
    assert!((5..=9).contains(&of_small), "{of_small} of 10, beside 20 of 30");
    let all: Vec<JobHandle> = large.iter().chain(&small).cloned().collect();
    running.until_finished(&all, 6 * MINUTE).await;
    let world = running.end().await;
    let most = world.counters.max_live_by_set();
    assert!(most["large"] >= 4, "{most:?}");
    assert_eq!(world.counters.created(), 40);
}

#[tokio::test(start_paused = true)]
async fn b48_sets_without_gharts_work_while_it_is_away() {
    let stage = Stage::set(Options {
        sets: vec![
            SetOptions::new("bound", Provisioner::Gharts, 10),
            SetOptions::new("plain", Provisioner::ScaleSet, 10),
        ],
        ..Options::default()
    })
    .await;
    let router = stage.world.network.detach(GHARTS).unwrap();
    let running = stage.start();
    let waiting = running.queue(&jobs("bound", 3)).await;
    let well = running.queue(&jobs("plain", 20)).await;
    running.until_finished(&well, 2 * MINUTE + 15 * SECOND).await;
    assert!(!running.said_of("plain").unwrap().degraded);
    assert_eq!(running.count(&waiting, JobState::Finished), 0);
    running.world.network.attach(GHARTS, router);
    running.until_finished(&waiting, 2 * MINUTE).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b48_sets_with_gharts_work_while_generatejitconfig_fails() {
    let running = Running::start(Options {
        sets: vec![
            SetOptions::new("bound", Provisioner::Gharts, 10),
            SetOptions::new("plain", Provisioner::ScaleSet, 10),
        ],
        ..Options::default()
    })
    .await;
    let waiting = running.queue(&jobs("plain", 1)).await;
    running.until_finished(&waiting, 2 * MINUTE).await;
    let plain = running.world.github.set("plain").unwrap().id;
    let pattern = format!("/{plain}/generatejitconfig");
    let failing = running.world.network.disturb(GITHUB, &pattern, Trouble::LostBefore);
    let waiting = running.queue(&jobs("plain", 3)).await;
    let well = running.queue(&jobs("bound", 10)).await;
    running.until_finished(&well, 90 * SECOND).await;
    failing.end();
    running.until_finished(&waiting, 3 * MINUTE).await;
    running.end().await;
}

// ---- Nothing is left ----------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn b46_orphans_of_this_installation_go_and_nobody_elses() {
    let stage = Stage::set(through_gharts()).await;
    let uid = stage.world.kubernetes.get("namespaces", "", "runners").unwrap()["metadata"]["uid"]
        .as_str()
        .unwrap()
        .to_owned();
    let set = SetName::new("linux");
    let mut rng = fastrand::Rng::with_seed(7);
    let (own, other) = (Namer::new(&uid, &set), Namer::new("another cluster", &set));
    let rival = stage.rival();
    let id = rival.register("linux").await;
    let lost = [own.next(&mut rng), own.next(&mut rng)];
    let foreign = [other.next(&mut rng), other.next(&mut rng)];
    for name in [lost[0].as_str(), foreign[0].as_str(), "linux-by-hand"] {
        rival.connection.generate_jit_config(id, name, "_work").await.unwrap();
    }
    for name in [lost[1].as_str(), foreign[1].as_str(), "linux-by-hand-2"] {
        rival.grant(name, id).await;
    }
    let running = stage.start();
    let queued = running.queue(&jobs("linux", 2)).await;
    running.until_finished(&queued, 2 * MINUTE).await;
    let registered = |name: &str| running.world.github.runners().iter().any(|r| r.name == name);
    let recorded = |name: &str| {
        let records = running.world.gharts.records();
        records
            .iter()
            .any(|r| r.name == name && r.status != gharts_listener::sim::gharts::Status::Deleted)
    };
    running
        .until_within("the orphans' end", 15 * MINUTE, |_| {
            lost.iter()
                .all(|name| !registered(name.as_str()) && !recorded(name.as_str()))
        })
        .await;
    running.pass(30 * MINUTE).await;
    for name in [foreign[0].as_str(), "linux-by-hand"] {
        assert!(registered(name), "{name} is not ours");
    }
    for name in [foreign[1].as_str(), "linux-by-hand-2"] {
        assert!(registered(name) && recorded(name), "{name} is not ours");
    }
}

#[tokio::test(start_paused = true)]
async fn b47_records_of_runners_that_ended_in_an_outage_are_deleted_after_it() {
    let running = Running::start(with_quota(10)).await;
    let mut queued = running.queue(&jobs("linux", 5)).await;
    queued.extend(running.queue(&jobs("linux", 5).exiting(1)).await);
    running
        .until("ten at work", |_| running.count(&queued, JobState::Running) == 10)
        .await;
    let router = running.world.network.detach(GHARTS).unwrap();
    running.until_finished(&queued, 2 * MINUTE).await;
    running.pass(20 * MINUTE).await;
    assert_eq!(running.world.gharts.places_taken(TEAM), 10);
    running.world.network.attach(GHARTS, router);
    running
        .until_within("every record deleted", 3 * MINUTE, |world| {
            world.gharts.places_taken(TEAM) == 0
        })
        .await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b47_every_record_is_deleted_after_its_runners_end() {
    let running = Running::start(through_gharts()).await;
    let queued = running.queue(&jobs("linux", 30).lasting(5 * SECOND)).await;
    running.until_finished(&queued, 3 * MINUTE).await;
    running
        .until_within("every record deleted", MINUTE, |world| {
            world.gharts.places_taken(TEAM) == 0
        })
        .await;
    let world = running.end().await;
    assert_eq!(world.gharts.records().len(), 30);
}

/// What refuses deletions alone does not keep jobs from their runners.
#[tokio::test(start_paused = true)]
async fn b20_deletions_that_are_told_to_come_back_later_lock_no_creation_out() {
    let running = Running::start(through_gharts()).await;
    let mut later = http::Response::builder().status(StatusCode::TOO_MANY_REQUESTS);
    later = later.header(http::header::RETRY_AFTER, "60");
    let later = Trouble::Replied(later.body(bytes::Bytes::new()).unwrap());
    let trouble = running.world.network.disturb(GHARTS, "DELETE", later);
    let mut all = Vec::new();
    for _ in 0..10 {
        all.extend(running.queue(&jobs("linux", 1).lasting(5 * SECOND)).await);
        running.pass(MINUTE).await;
    }
    running.until_finished(&all, 10 * MINUTE).await;
    trouble.end();
    running.end().await;
}
