//! Polls, capacity, messages.

use gharts_listener::sim::github::{Flow, Violation};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::harness::{Message, secs, sim};

#[tokio::test(start_paused = true)]
async fn an_empty_poll_is_held_for_fifty_seconds() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    let since = Instant::now();
    let reply = session.poll(5, 0).await;
    assert_eq!((reply.status, reply.body), (202, Value::Null));
    assert_eq!(since.elapsed(), secs(50));
}

#[tokio::test(start_paused = true)]
async fn a_held_poll_wakes_at_once_and_assigns_within_its_capacity() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    let since = Instant::now();
    let (reply, jobs) = tokio::join!(session.poll(2, 0), async {
        tokio::time::sleep(secs(7)).await;
        sim.queue("linux", 3)
    });
    assert_eq!(since.elapsed(), secs(7));
    assert!(reply.bom);
    let message = Message::new(reply.expect(StatusCode::OK));
    assert_eq!(message.kinds(), ["JobAssigned", "JobAssigned"]);
    assert_eq!(message.entries[0]["jobId"], jobs[0]);
    assert_eq!(
        (message.count("totalAssignedJobs"), message.count("totalAvailableJobs")),
        (2, 1)
    );
    let entry = &message.entries[0];
    for (key, value) in [
        ("runnerRequestId", json!(0)),
        ("repositoryName", json!("app")),
        ("ownerName", json!("acme")),
        ("eventName", json!("push")),
        ("requestLabels", json!(["linux"])),
        ("queueTime", json!("2026-03-01T12:00:07Z")),
        ("scaleSetAssignTime", json!("2026-03-01T12:00:07Z")),
        ("runnerAssignTime", json!("0001-01-01T00:00:00Z")),
        ("finishTime", json!("0001-01-01T00:00:00Z")),
    ] {
        assert_eq!(entry[key], value, "{key}");
    }
    assert!(entry["workflowRunId"].is_u64() && entry["jobWorkflowRef"].is_string());
    assert!(entry["jobDisplayName"].is_string());
}

#[tokio::test(start_paused = true)]
async fn b6_capacity_bounds_the_total_assigned_and_is_stored_nowhere() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    let jobs = sim.queue("linux", 5);
    assert_eq!(session.poll(0, 0).await.status, 202, "capacity 0: a bare 202");
    let first = session.next(2).await;
    assert_eq!(first.entries.len(), 2);
    sim.github.start_job(&jobs[0], "by-hand").unwrap();
    session.next(2).await;
    assert_eq!(
        session.poll(2, 0).await.status,
        202,
        "one waits and one runs: two in all"
    );
    assert_eq!(session.poll(1, 0).await.status, 202, "lowering it takes nothing back");
    assert_eq!(sim.github.set("linux").unwrap().statistics.assigned, 2);
    sim.github.finish_job(&jobs[0], "succeeded").unwrap();
    let third = session.next(2).await;
    assert_eq!(third.kinds(), ["JobCompleted", "JobAssigned"]);
    let view = sim.github.set("linux").unwrap();
    assert_eq!((view.statistics.available, view.announced), (2, Some(2)));
}

#[tokio::test(start_paused = true)]
async fn b4_a_message_not_deleted_comes_again_also_to_a_new_session() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    sim.queue("linux", 1);
    let first = Message::new(session.poll(5, 0).await.expect(StatusCode::OK));
    assert_eq!(first.id, 1);
    assert_eq!(
        session.poll(5, first.id).await.status,
        202,
        "the cursor skips what was seen"
    );
    admin.close(&session).await;
    let session = admin.session(&set).await;
    sim.queue("linux", 1);
    let again = Message::new(session.poll(5, 0).await.expect(StatusCode::OK));
    assert_eq!((again.id, &again.entries), (1, &first.entries));
    assert_eq!(again.count("totalAssignedJobs"), 2, "statistics are of now");
    assert_eq!(session.delete(1).await.status, 204);
    session
        .delete(1)
        .await
        .refused(404, "RunnerScaleSetMessageNotFoundException");
    let second = session.next(5).await;
    assert_eq!((second.id, second.entries.len()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_body_holds_fifty_job_messages_and_the_statistics_count_all() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    sim.queue("linux", 120);
    let mut sizes = Vec::new();
    for _ in 0..3 {
        let message = session.next(1000).await;
        assert_eq!(message.count("totalAssignedJobs"), 120);
        sizes.push(message.entries.len());
    }
    assert_eq!(sizes, [50, 50, 20]);
}

#[tokio::test(start_paused = true)]
async fn a_cursor_of_an_older_sequence_skips_what_it_should_not() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    sim.queue("linux", 1);
    session.next(5).await;
    assert!(sim.github.restart_message_ids("linux"));
    sim.queue("linux", 1);
    assert_eq!(session.poll(5, 9).await.status, 202);
    assert_eq!(session.next(5).await.id, 1);
}

#[tokio::test(start_paused = true)]
async fn message_ids_can_jump_ahead_and_begin_anew() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    assert!(sim.github.skip_message_ids("linux"));
    sim.queue("linux", 1);
    let ahead = session.next(5).await.id;
    assert!(ahead > 1_000);
    assert!(sim.github.restart_message_ids("linux"));
    sim.queue("linux", 1);
    assert_eq!(session.poll(5, ahead).await.status, 202);
    assert_eq!(session.next(5).await.id, 1);
}

#[tokio::test(start_paused = true)]
async fn what_becomes_of_a_job_is_told_later_and_in_its_order() {
    let sim = sim(|setup| setup.settings.told_after = secs(20));
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    let job = sim.queue("linux", 1).remove(0);
    session.next(1).await;
    let counts = || {
        let statistics = sim.github.set("linux").unwrap().statistics;
        (statistics.assigned, statistics.running)
    };
    sim.github.start_job(&job, "by-hand").unwrap();
    assert_eq!(counts(), (1, 0));
    tokio::time::sleep(secs(20)).await;
    assert_eq!((session.next(1).await.kinds(), counts()), (vec!["JobStarted"], (1, 1)));
    sim.github.finish_job(&job, "succeeded").unwrap();
    assert_eq!(counts(), (1, 1), "it is over, and nobody knows");
    tokio::time::sleep(secs(20)).await;
    assert_eq!(
        (session.next(1).await.kinds(), counts()),
        (vec!["JobCompleted"], (0, 0))
    );

    let short = sim.queue("linux", 1).remove(0);
    session.next(1).await;
    sim.github.start_job(&short, "by-hand").unwrap();
    sim.github.finish_job(&short, "succeeded").unwrap();
    tokio::time::sleep(secs(20)).await;
    let mut kinds = Vec::new();
    while kinds.len() < 2 {
        kinds.extend(session.next(1).await.kinds().into_iter().map(str::to_owned));
    }
    assert_eq!(kinds, ["JobStarted", "JobCompleted"]);
}

#[tokio::test(start_paused = true)]
async fn answers_travel_for_a_time_of_their_own() {
    let sim = sim(|setup| setup.settings.answer_latency = secs(3));
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    let mut times = Vec::new();
    for _ in 0..5 {
        let since = Instant::now();
        session.poll(0, 0).await;
        times.push(since.elapsed() - secs(50));
    }
    assert!(times.iter().all(|time| *time <= secs(3)), "{times:?}");
    times.sort_unstable();
    times.dedup();
    assert!(times.len() > 1, "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn a_newer_poll_ends_the_older_one() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    let (old, new) = tokio::join!(session.poll(9, 0), async {
        tokio::time::sleep(secs(1)).await;
        let reply = tokio::join!(session.poll(1, 0), async {
            tokio::time::sleep(secs(1)).await;
            sim.queue("linux", 3);
        });
        reply.0
    });
    assert_eq!(old.status, 202);
    assert_eq!(Message::new(new.body).entries.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_poll_assigns_nothing() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    assert!(tokio::time::timeout(secs(5), session.poll(9, 0)).await.is_err());
    assert!(!sim.github.set("linux").unwrap().polling);
    sim.queue("linux", 1);
    tokio::time::sleep(secs(1)).await;
    assert_eq!(sim.github.set("linux").unwrap().statistics.available, 1);
}

#[tokio::test(start_paused = true)]
async fn b5_the_self_assigning_service_offers_nothing_and_knows_no_acquirejobs() {
    let sim = sim(|_| ());
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    sim.queue("linux", 1);
    assert_eq!(session.acquire(&[1]).await.status, 404);
    let path = format!("runtime/runnerscalesets/{}/acquirablejobs", set["id"]);
    assert_eq!(admin.call("GET", &path, None).await.status, 204);
}

#[tokio::test(start_paused = true)]
async fn b5_the_offering_service_offers_once_and_assigns_what_is_acquired() {
    let sim = sim(|s| s.settings.flow = Flow::Ghes);
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    sim.queue("linux", 3);
    assert_eq!(session.poll(0, 0).await.status, 202);
    let offers = session.next(2).await;
    assert_eq!(offers.kinds(), ["JobAvailable"; 3]);
    assert_eq!(offers.count("totalAssignedJobs"), 0);
    let acquire_url = offers.entries[0]["acquireJobUrl"].as_str().unwrap();
    assert!(acquire_url.ends_with("/acquirejobs"), "{acquire_url}");
    let ids: Vec<i64> = offers
        .entries
        .iter()
        .map(|e| e["runnerRequestId"].as_i64().unwrap())
        .collect();
    assert!(ids.iter().all(|id| *id > 0));

    let path = format!("runtime/runnerscalesets/{}/acquirablejobs", set["id"]);
    assert_eq!(admin.call("GET", &path, None).await.expect(StatusCode::OK)["count"], 3);
    let got = session.acquire(&[ids[0], 999_999]).await.expect(StatusCode::OK);
    assert_eq!(got, json!({"count": 1, "value": [ids[0]]}));
    let got = session.acquire(&[ids[0], ids[1]]).await.expect(StatusCode::OK);
    assert_eq!(got["value"], json!([ids[1]]), "taken already: left out");
    let assigned = session.next(2).await;
    assert_eq!(assigned.kinds(), ["JobAssigned", "JobAssigned"]);
    assert_eq!(
        (
            assigned.count("totalAcquiredJobs"),
            assigned.count("totalAvailableJobs")
        ),
        (2, 1)
    );
    assert_eq!(session.poll(2, 0).await.status, 202, "an offer is made once");
    assert_eq!(sim.github.violations(), []);
    session.acquire(&[ids[2]]).await.expect(StatusCode::OK);
    assert_eq!(sim.github.violations(), [], "the next poll may announce a rise");
    session.poll(2, 0).await;
    let beyond = Violation::AcquiredBeyondCapacity {
        set: "linux".to_owned(),
        announced: 2,
        total: 3,
    };
    assert_eq!(sim.github.violations(), [beyond]);
    // acquirejobs goes by the queue token, not the admin token.
    let url = session.url.replace("/messages?", "/acquirejobs?");
    let reply = sim.call("POST", &url, &admin.auth, Some(json!([ids[2]]))).await;
    reply.refused(401, "VssUnauthorizedException");
}

#[tokio::test(start_paused = true)]
async fn b5_offers_to_a_dead_session_are_not_made_again_but_can_be_asked_for() {
    let sim = sim(|s| s.settings.flow = Flow::Ghes);
    let admin = sim.admin().await;
    let set = admin.create_set("linux").await;
    let session = admin.session(&set).await;
    sim.queue("linux", 2);
    session.poll(5, 0).await.expect(StatusCode::OK);
    sim.github.lose_session("linux");
    let session = admin.session(&set).await;
    assert_eq!(session.body["statistics"]["totalAvailableJobs"], 2);
    assert_eq!(session.poll(5, 0).await.status, 202);
    let path = format!("runtime/runnerscalesets/{}/acquirablejobs", set["id"]);
    let jobs = admin.call("GET", &path, None).await.expect(StatusCode::OK);
    assert_eq!(jobs["count"], 2);
    let id = jobs["value"][0]["runnerRequestId"].as_i64().unwrap();
    assert_eq!(session.acquire(&[id]).await.expect(StatusCode::OK)["count"], 1);
}
