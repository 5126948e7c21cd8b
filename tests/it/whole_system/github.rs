//! The queue's session, GitHub's tokens, and what goes wrong on the way to GitHub.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use gharts_listener::sim::{
    github::{Flow, JobState},
    network::Trouble,
    world::{Credential, Options, Provisioner, SetOptions, World},
};
use http::StatusCode;
use serde_json::{Value, json};

use super::harness::{Run, Running, Stage, jobs, with_provisioner};

const GITHUB: &str = "github.test";
const MINUTE: Duration = Duration::from_secs(60);

fn poll_of(running: &Running, set: &str) -> String {
    format!(
        "/runnerscalesets/{}/messages",
        running.world.github.set(set).unwrap().id
    )
}

#[tokio::test(start_paused = true)]
async fn b1_a_session_that_somebody_else_holds_is_waited_for_and_its_holder_named() {
    let stage = Stage::set(with_provisioner(Provisioner::ScaleSet)).await;
    let rival = stage.rival();
    let mut session = rival.hold("linux").await;
    let set = session.set_id;
    let running = stage.start();
    let reason = running.until_reason("linux", "session_conflict").await;
    assert!(reason.message.contains("rival"), "{}", reason.message);
    assert!(reason.remedy.is_some());
    for _ in 0..20 {
        running.pass(Duration::from_secs(30)).await;
        session = rival.connection.refresh_session(&session).await.unwrap();
    }
    assert_eq!(running.said_of("linux").unwrap().session, "conflict");
    let asked = running.world.github.answered("open session", 409);
    assert!(asked <= 10 * 12, "asked {asked} times in ten minutes");
    rival.connection.close_session(set, &session.id).await.unwrap();
    running
        .until_within("the take-over", Duration::from_secs(30), |world| {
            world.github.set("linux").is_some_and(|s| s.polling)
        })
        .await;
    let queued = running.queue(&jobs("linux", 3)).await;
    running.until_finished(&queued, 2 * MINUTE).await;
    let world = running.end().await;
    assert_eq!(world.github.set("linux").unwrap().id, u64::try_from(set).unwrap());
    assert_eq!(world.github.calls().get("delete set"), None);
}

#[tokio::test(start_paused = true)]
async fn b1_a_dead_listeners_session_is_taken_over_when_the_service_frees_it() {
    let stage = Stage::set(with_provisioner(Provisioner::ScaleSet)).await;
    stage.rival().hold("linux").await;
    let running = stage.start();
    running.until_reason("linux", "session_conflict").await;
    running
        .until_within("the take-over", Duration::from_secs(92 + 30), |world| {
            world.github.set("linux").is_some_and(|s| s.polling)
        })
        .await;
    running.end().await;
}

/// Queues jobs, does something to the queue, queues more: all of them finish, one runner each.
async fn no_job_is_lost_over(what: impl Fn(&Running)) {
    for flow in [Flow::GitHub, Flow::Ghes] {
        let running = Running::start(Options {
            flow,
            ..with_provisioner(Provisioner::ScaleSet)
        })
        .await;
        let mut all = running.queue(&jobs("linux", 4).lasting(2 * MINUTE)).await;
        running.pass(Duration::from_secs(20)).await;
        what(&running);
        all.extend(running.world.github.queue_jobs(&jobs("linux", 4)));
        running.pass(Duration::from_secs(7)).await;
        what(&running);
        all.extend(running.world.github.queue_jobs(&jobs("linux", 1)));
        running.until_finished(&all, 6 * MINUTE).await;
        let world = running.end().await;
        assert_eq!(world.counters.created(), 9, "{flow:?}: one runner per job");
    }
}

#[tokio::test(start_paused = true)]
async fn b6_what_was_acquired_counts_also_while_no_statistics_can_be_had() {
    let running = Running::start(Options {
        flow: Flow::Ghes,
        sets: vec![SetOptions::new("linux", Provisioner::ScaleSet, 3)],
        ..Options::default()
    })
    .await;
    // A message may not be one of a session before: then nothing is acquired without statistics.
    running.queue(&jobs("linux", 0)).await;
    running.pass(2 * MINUTE).await;
    let network = &running.world.network;
    let refreshes = network.disturb(GITHUB, "PATCH /", Trouble::LostBefore);
    // A poll takes longer than it takes to look for offers, and there are more than there is room for.
    running
        .world
        .github
        .configure(|settings| settings.latency = Duration::from_millis(200));
    let all = running.queue(&jobs("linux", 5).lasting(2 * MINUTE)).await;
    running.pass(MINUTE).await;
    assert!(refreshes.met() > 0);
    assert_eq!(running.world.github.violations(), []);
    refreshes.end();
    running.until_finished(&all, 10 * MINUTE).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b2_an_expired_queue_token_is_refreshed() {
    no_job_is_lost_over(|running| {
        assert!(running.world.github.expire_queue_token("linux"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn b2_a_session_that_the_service_lost_is_opened_anew() {
    no_job_is_lost_over(|running| {
        running.world.github.lose_session("linux");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn b2_a_refresh_that_finds_no_session_leads_to_a_new_one() {
    no_job_is_lost_over(|running| {
        let network = &running.world.network;
        network
            .disturb(
                GITHUB,
                &poll_of(running, "linux"),
                Trouble::Answered(StatusCode::UNAUTHORIZED, "{}".to_owned()),
            )
            .times(1);
        running.world.github.lose_session("linux");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn b24_an_admin_token_that_dies_early_is_renewed() {
    no_job_is_lost_over(|running| running.world.github.revoke_admin_tokens()).await;
}

#[tokio::test(start_paused = true)]
async fn b24_an_apps_installation_token_that_dies_early_is_renewed() {
    let running = Running::start(Options {
        credential: Credential::App,
        ..with_provisioner(Provisioner::ScaleSet)
    })
    .await;
    let first = running.queue(&jobs("linux", 3)).await;
    running.until_finished(&first, 2 * MINUTE).await;
    running.world.github.revoke_installation_tokens();
    running.world.github.revoke_admin_tokens();
    let second = running.queue(&jobs("linux", 3)).await;
    running.until_finished(&second, 2 * MINUTE).await;
    // The admin connection's ordinary end, too.
    running.pass(3 * 60 * MINUTE).await;
    let third = running.queue(&jobs("linux", 3)).await;
    running.until_finished(&third, 2 * MINUTE).await;
    let world = running.end().await;
    assert_eq!(world.counters.created(), 9);
}

#[tokio::test(start_paused = true)]
async fn b2_a_set_that_github_deleted_is_created_again_and_serves_what_is_queued_then() {
    for provisioner in [Provisioner::ScaleSet, Provisioner::Gharts] {
        let mut options = with_provisioner(provisioner);
        options.sets[0].min_runners = 2;
        let running = Running::start(options).await;
        running
            .until("two idle runners", |world| world.counters.live() == 2)
            .await;
        let before = running.world.github.set("linux").unwrap().id;
        assert!(running.world.github.remove_set("linux"));
        running
            .until_within("a new set", MINUTE, |world| {
                world.github.set("linux").is_some_and(|s| s.polling && s.id != before)
            })
            .await;
        let queued = running.queue(&jobs("linux", 3)).await;
        running.until_finished(&queued, 4 * MINUTE).await;
        let world = &running.world;
        let after = world.github.set("linux").unwrap().id;
        assert!(world.github.runners().iter().all(|r| r.set == Some(after)));
        let counted = running.metric("gharts_listener_sets_recreated_total", &["set=\"linux\""]);
        assert_eq!(counted, 1.0);
    }
}

#[tokio::test(start_paused = true)]
async fn b2_runners_that_a_vanished_set_refused_hold_nothing_up_once_it_is_back() {
    let running = Running::start(with_provisioner(Provisioner::ScaleSet)).await;
    let first = running.queue(&jobs("linux", 1)).await;
    running.until_finished(&first, 2 * MINUTE).await;
    // The refusal reaches the daemon before its queue tells it that the set is gone.
    let gone = json!({"typeName": "GitHub.Actions.Runtime.WebApi.RunnerScaleSetNotFoundException, x",
        "message": "no such set"});
    running
        .world
        .network
        .disturb(
            GITHUB,
            "/generatejitconfig",
            Trouble::Answered(StatusCode::NOT_FOUND, gone.to_string()),
        )
        .times(1);
    running.world.github.queue_jobs(&jobs("linux", 1));
    running.until_reason("linux", "configuration").await;
    running.world.github.remove_set("linux");
    running
        .until("a new set", |world| {
            world.github.set("linux").is_some_and(|s| s.polling)
        })
        .await;
    let queued = running.queue(&jobs("linux", 2)).await;
    running.until_finished(&queued, 2 * MINUTE).await;
}

#[tokio::test(start_paused = true)]
async fn b3_entries_that_nobody_understands_cost_nothing_else_of_their_batch() {
    let running = Running::start(with_provisioner(Provisioner::ScaleSet)).await;
    running
        .until("a session", |world| {
            world.github.set("linux").is_some_and(|s| s.polling)
        })
        .await;
    let alter = |body: &[u8]| -> Bytes {
        let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        let Ok(mut message) = serde_json::from_slice::<Value>(text) else {
            return Bytes::copy_from_slice(body);
        };
        let Some(entries) = message["body"].as_str() else {
            return Bytes::copy_from_slice(body);
        };
        let mut entries: Vec<Value> = serde_json::from_str(entries).unwrap_or_default();
        entries.insert(0, json!({"messageType": 17}));
        entries.push(json!({"messageType": "JobDanced", "jobId": "x", "news": {"a": [1]}}));
        message["body"] = serde_json::to_string(&entries).unwrap().into();
        message["somethingNew"] = json!(1);
        [b"\xef\xbb\xbf".as_slice(), message.to_string().as_bytes()]
            .concat()
            .into()
    };
    let altered = running
        .world
        .network
        .disturb(GITHUB, &poll_of(&running, "linux"), Trouble::Altered(Arc::new(alter)));
    let queued = running.queue(&jobs("linux", 8)).await;
    running.until_finished(&queued, 3 * MINUTE).await;
    assert!(altered.met() > 0);
    let metrics = running.sources.metrics.render();
    let told = metrics
        .lines()
        .find(|line| line.contains("undecodable") && !line.starts_with('#'));
    assert!(told.is_some_and(|line| !line.ends_with(" 0")), "{told:?}");
    let world = running.end().await;
    assert_eq!(world.counters.created(), 8);
}

#[tokio::test(start_paused = true)]
async fn b3_whatever_github_answers_for_a_while_no_job_is_lost() {
    let troubles = [
        Trouble::Answered(StatusCode::INTERNAL_SERVER_ERROR, "{}".to_owned()),
        Trouble::Answered(StatusCode::SERVICE_UNAVAILABLE, "<html>".to_owned()),
        Trouble::Answered(StatusCode::TOO_MANY_REQUESTS, "{}".to_owned()),
        Trouble::Answered(StatusCode::OK, String::new()),
        Trouble::LostBefore,
        Trouble::LostAfter,
        Trouble::Late(Duration::from_secs(3)),
    ];
    for trouble in troubles {
        let _run = Run::called(format!("{trouble:?}"));
        let running = Running::start(with_provisioner(Provisioner::ScaleSet)).await;
        let mut all = running.queue(&jobs("linux", 3)).await;
        running.pass(Duration::from_secs(30)).await;
        let disturbed = running.world.network.disturb(GITHUB, "/_apis/", trouble.clone());
        all.extend(running.world.github.queue_jobs(&jobs("linux", 3)));
        running.pass(4 * MINUTE).await;
        assert!(
            disturbed.met() <= 4 * 120,
            "{trouble:?}: {} calls in four minutes",
            disturbed.met()
        );
        disturbed.end();
        running.until_finished(&all, 6 * MINUTE).await;
        let world = running.end().await;
        assert!(world.counters.created() >= 6, "{trouble:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn b7_a_poll_that_hangs_is_replaced_within_100_seconds() {
    let running = Running::start(with_provisioner(Provisioner::ScaleSet)).await;
    running
        .until("a session", |world| {
            world.github.set("linux").is_some_and(|s| s.polling)
        })
        .await;
    let silent = running
        .world
        .network
        .disturb(GITHUB, &poll_of(&running, "linux"), Trouble::Silence);
    silent.times(1);
    running.until("the hang", |_| silent.met() == 1).await;
    let queued = running.world.github.queue_jobs(&jobs("linux", 2));
    running
        .until_within("both jobs run", Duration::from_secs(105), |world| {
            let runs = |id: &str| world.github.job(id).is_some_and(|j| j.state == JobState::Running);
            queued.iter().all(|job| runs(&job.id))
        })
        .await;
    running.until_finished(&queued, 2 * MINUTE).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b8_sets_that_hang_or_are_refused_leave_the_others_alone() {
    let mut refused = SetOptions::new("refused", Provisioner::Gharts, 10);
    refused.gharts_labels = vec!["forbidden".to_owned()];
    let running = Running::start(Options {
        sets: vec![
            SetOptions::new("bound", Provisioner::Gharts, 10),
            SetOptions::new("plain", Provisioner::ScaleSet, 10),
            SetOptions::new("silent", Provisioner::ScaleSet, 10),
            refused,
        ],
        ..Options::default()
    })
    .await;
    running.world.gharts.set_policy("platform", &[], &["bound"]);
    for set in ["bound", "plain", "silent", "refused"] {
        running
            .until("a session", |world| world.github.set(set).is_some_and(|s| s.polling))
            .await;
    }
    let silent = running.world.github.set("silent").unwrap().id;
    let network = &running.world.network;
    let hang = network.disturb(GITHUB, &format!("/runnerscalesets/{silent}/"), Trouble::Silence);
    let refused = running.world.github.queue_jobs(&jobs("refused", 5));
    running.until_reason("refused", "label_policy").await;
    running.world.github.lose_session("silent");
    for _ in 0..3 {
        let mut well = running.world.github.queue_jobs(&jobs("bound", 5));
        well.extend(running.world.github.queue_jobs(&jobs("plain", 10)));
        running.until_finished(&well, Duration::from_secs(80)).await;
    }
    assert_eq!(running.count(&refused, JobState::Finished), 0);
    for set in ["bound", "plain"] {
        assert!(!running.said_of(set).unwrap().degraded, "{set}");
    }
    hang.end();
    running.world.gharts.set_policy("platform", &[], &[".*"]);
    let late = running.world.github.queue_jobs(&jobs("silent", 2));
    running.until_finished(&refused, 8 * MINUTE).await;
    running.until_finished(&late, 5 * MINUTE).await;
    running.end().await;
}

/// The set is there by its own account, and no session is to be had.
#[tokio::test(start_paused = true)]
async fn b1_b15_sessions_that_are_not_found_are_asked_for_ever_more_rarely_and_said() {
    let running = Running::start(with_provisioner(Provisioner::ScaleSet)).await;
    let gone = json!({"message": "there is none"}).to_string();
    let refused = running.world.network.disturb(
        GITHUB,
        "/sessions",
        Trouble::Answered(StatusCode::NOT_FOUND, gone.clone()),
    );
    // Asked without a rest, it would be asked for ever, and no time would pass.
    refused.times(1000);
    running.world.github.lose_session("linux");
    running.until_reason("linux", "configuration").await;
    running.pass(10 * MINUTE).await;
    let asked = refused.met();
    assert!((5..=60).contains(&asked), "asked {asked} times in ten minutes");
    refused.end();
    let queued = running.queue(&jobs("linux", 3)).await;
    running.until_finished(&queued, 5 * MINUTE).await;
    running.end().await;
}

/// The service answers each deletion, and gives the message again at once, wherever the cursor stands.
#[tokio::test(start_paused = true)]
async fn b2_a_message_that_comes_again_after_its_deletion_makes_no_storm() {
    let running = Running::start(with_provisioner(Provisioner::ScaleSet)).await;
    running
        .until("a session", |world| {
            world.github.set("linux").is_some_and(|s| s.polling)
        })
        .await;
    // What comes at once after the session's opening may be a repetition, and is rested from for that.
    running.pass(MINUTE).await;
    let kept = running
        .world
        .network
        .disturb(GITHUB, "DELETE /", Trouble::Answered(StatusCode::OK, "{}".to_owned()));
    let (network, polls) = (&running.world.network, poll_of(&running, "linux"));
    let message = Arc::new(OnceLock::new());
    let given = message.clone();
    let look = move |body: &[u8]| {
        if !body.is_empty() {
            given.get_or_init(|| String::from_utf8_lossy(body).into_owned());
        }
        Bytes::copy_from_slice(body)
    };
    let looked_at = network.disturb(GITHUB, &polls, Trouble::Altered(Arc::new(look)));
    let queued = running.queue(&jobs("linux", 1).lasting(10 * MINUTE)).await;
    running.until("a message", |_| message.get().is_some()).await;
    looked_at.end();
    let message = message.get().unwrap().clone();
    let again = network.disturb(GITHUB, &polls, Trouble::Answered(StatusCode::OK, message));
    // Asked without a rest, it would be given for ever, and no time would pass.
    again.times(1000);
    running.pass(5 * MINUTE).await;
    let calls = kept.met();
    assert!((100..=310).contains(&calls), "{calls} deletions in five minutes");
    again.end();
    kept.end();
    running.until_finished(&queued, 20 * MINUTE).await;
    running.end().await;
}

/// The answer that opened the session named a host that is no more, or one that never was.
#[tokio::test(start_paused = true)]
async fn b3_b36_a_queue_that_is_somewhere_else_by_now_is_found() {
    let running = Running::start(with_provisioner(Provisioner::ScaleSet)).await;
    running
        .until("a session", |world| {
            world.github.set("linux").is_some_and(|s| s.polling)
        })
        .await;
    let elsewhere = |body: &[u8]| Bytes::from(String::from_utf8_lossy(body).replace("github.test", "gone.test"));
    let told_wrongly = running
        .world
        .network
        .disturb(GITHUB, "POST /", Trouble::Altered(Arc::new(elsewhere)));
    told_wrongly.times(1);
    running.world.github.lose_session("linux");
    running.until_reason("linux", "unreachable").await;
    assert_eq!(told_wrongly.met(), 1);
    let queued = running.world.github.queue_jobs(&jobs("linux", 3));
    running.until_finished(&queued, 5 * MINUTE).await;
    running.end().await;
}

/// It answers every poll, and never brings anything: only the session's statistics know of the job.
#[tokio::test(start_paused = true)]
async fn b3_b14_a_queue_that_has_fallen_silent_is_heard_through_its_statistics() {
    let running = Running::start(with_provisioner(Provisioner::ScaleSet)).await;
    let session = |world: &World| world.github.set("linux").is_some_and(|s| s.polling);
    running.until("a session", session).await;
    let nothing = Trouble::Altered(Arc::new(|_: &[u8]| Bytes::new()));
    let silent = running
        .world
        .network
        .disturb(GITHUB, &poll_of(&running, "linux"), nothing);
    running.pass(MINUTE).await;
    let queued = running.world.github.queue_jobs(&jobs("linux", 3));
    running.until_finished(&queued, 10 * MINUTE).await;
    let polls = silent.met();
    assert!((100..=700).contains(&polls), "{polls} polls");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b25_b46_a_set_whose_id_is_another_sets_by_now_leaves_that_alone() {
    let running = Running::start(with_provisioner(Provisioner::ScaleSet)).await;
    let session = |world: &World| world.github.set("linux").is_some_and(|s| s.polling);
    running.until("a session", session).await;
    assert!(running.world.github.give_id_to("linux", "theirs"));
    running.until("a set of its own", session).await;
    let theirs = running.world.github.set("theirs").unwrap();
    assert_eq!(
        (theirs.name.as_str(), theirs.labels),
        ("theirs", vec!["theirs".to_owned()])
    );
    assert_eq!(theirs.session, None, "nobody keeps it from its own listener");
    let queued = running.queue(&jobs("linux", 3)).await;
    running.until_finished(&queued, 5 * MINUTE).await;
    running.end().await;
}

/// The same, and its new owner's listener has the session.
#[tokio::test(start_paused = true)]
async fn b1_b25_whoever_waits_for_the_session_of_a_set_that_is_anothers_by_now_finds_its_own() {
    let running = Running::start(with_provisioner(Provisioner::ScaleSet)).await;
    let session = |world: &World| world.github.set("linux").is_some_and(|s| s.polling);
    running.until("a session", session).await;
    running.world.github.steal_session("linux", "their listener");
    running.until_reason("linux", "session_conflict").await;
    let held = running.world.github.give_id_to("linux", "theirs");
    assert!(held && running.world.github.steal_session("theirs", "their listener"));
    running.until("a set of its own", session).await;
    let queued = running.queue(&jobs("linux", 3)).await;
    running.until_finished(&queued, 5 * MINUTE).await;
    running.end().await;
}

/// By its sessions alone, each time: a proxy that answers with what it kept of another set, say.
#[tokio::test(start_paused = true)]
async fn b1_b15_sessions_that_are_always_another_sets_are_opened_ever_more_rarely_and_said() {
    let running = Running::start(with_provisioner(Provisioner::ScaleSet)).await;
    let renamed =
        |body: &[u8]| Bytes::from(String::from_utf8_lossy(body).replace(r#""name":"linux""#, r#""name":"theirs""#));
    let altered = Trouble::Altered(Arc::new(renamed));
    let wrong = running.world.network.disturb(GITHUB, "/sessions", altered);
    running.world.github.lose_session("linux");
    let reason = running.until_reason("linux", "configuration").await;
    assert!(reason.message.contains("theirs"), "{}", reason.message);
    running.pass(10 * MINUTE).await;
    let asked = wrong.met();
    assert!((5..=120).contains(&asked), "{asked} calls in ten minutes");
    assert_eq!(running.world.github.sets().len(), 1, "and none is made anew");
    wrong.end();
    let queued = running.queue(&jobs("linux", 3)).await;
    running.until_finished(&queued, 5 * MINUTE).await;
    running.end().await;
}
