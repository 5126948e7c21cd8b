//! Sessions and the message queue (B1, B2, B3, B5).

use std::{sync::Arc, time::Duration};

use gharts_listener::{
    http::TransportError,
    scaleset::{Acquired, Connection, Error, JobMessage, Missing, Session},
};
use serde_json::json;

use super::fake::{Fake, bytes_reply, exception, json_reply, lost, with_header};

const SESSIONS: &str = "/runnerscalesets/5/sessions";
const SESSION: &str = "/runnerscalesets/5/sessions/s-1";
const QUEUE: &str = "/queue";
const ACQUIRE: &str = "/runnerscalesets/5/acquirejobs";

fn session_body(token: &str, assigned: i64) -> serde_json::Value {
    json!({
        "sessionId": "s-1", "ownerName": "me",
        "messageQueueUrl": "https://queue.example/q/queue?sig=%2Fx%3D&set=5",
        "messageQueueAccessToken": token,
        "statistics": {"totalAssignedJobs": assigned},
        "runnerScaleSet": {"id": 5, "name": "linux"},
    })
}

async fn opened() -> (Fake, Arc<Connection>, Session) {
    let fake = Fake::new(Duration::from_secs(3600));
    fake.on(
        "POST",
        SESSIONS,
        vec![json_reply(200, session_body("queue-token-1", 3))],
    );
    fake.on(
        "PATCH",
        SESSION,
        vec![json_reply(200, session_body("queue-token-2", 4))],
    );
    let connection = fake.connection();
    let session = connection.open_session(5, "me").await.unwrap();
    (fake, connection, session)
}

#[tokio::test(start_paused = true)]
async fn a_session_is_opened_with_its_statistics_and_hides_its_secrets() {
    let (fake, _, session) = opened().await;
    assert_eq!((session.id.as_str(), session.owner.as_str()), ("s-1", "me"));
    assert_eq!(session.statistics.unwrap().total_assigned_jobs, 3);
    assert_eq!(fake.seen("POST", SESSIONS)[0].body, json!({"ownerName": "me"}));
    let debug = format!("{session:?}");
    assert!(!debug.contains("queue-token-1") && !debug.contains("sig="), "{debug}");
}

#[tokio::test(start_paused = true)]
async fn b01_a_conflict_names_the_holder_and_a_missing_set_is_told_from_it() {
    let (fake, connection, _) = opened().await;
    let text = "The runner scale set linux already has an active session for owner other-pod.";
    fake.on(
        "POST",
        SESSIONS,
        vec![exception(409, "TaskAgentSessionConflictException", text)],
    );
    let Err(Error::Conflict { holder, .. }) = connection.open_session(5, "me").await else {
        panic!()
    };
    assert_eq!(holder.as_deref(), Some("other-pod"));

    fake.on(
        "POST",
        SESSIONS,
        vec![exception(404, "RunnerScaleSetNotFoundException", "gone")],
    );
    let error = connection.open_session(5, "me").await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::NotFound {
                what: Missing::ScaleSet,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn b02_a_session_left_behind_is_closed_by_its_id_and_one_already_gone_is_closed() {
    let (fake, connection, _) = opened().await;
    fake.on(
        "DELETE",
        "/sessions/other%2Fid",
        vec![bytes_reply(204, b""), json_reply(404, json!({}))],
    );
    connection.close_session(5, "other/id").await.unwrap();
    connection.close_session(5, "other/id").await.unwrap();
    fake.on("DELETE", "/sessions/other%2Fid", vec![json_reply(500, json!({}))]);
    assert!(
        connection
            .close_session(5, "other/id")
            .await
            .unwrap_err()
            .is_transient()
    );
}

#[tokio::test(start_paused = true)]
async fn b06_a_poll_announces_its_capacity_and_its_cursor_beside_the_queues_own_query() {
    let (fake, connection, session) = opened().await;
    fake.on("GET", QUEUE, vec![bytes_reply(202, b"")]);
    assert_eq!(connection.poll(&session, None, 0).await.unwrap(), None);
    assert_eq!(connection.poll(&session, Some(41), 17).await.unwrap(), None);
    let polls = fake.seen("GET", QUEUE);
    assert_eq!(polls[0].url, "https://queue.example/q/queue?sig=%2Fx%3D&set=5");
    assert_eq!(
        polls[1].url,
        "https://queue.example/q/queue?sig=%2Fx%3D&set=5&lastMessageId=41"
    );
    assert_eq!(polls[0].headers["x-scalesetmaxcapacity"], "0");
    assert_eq!(polls[1].headers["x-scalesetmaxcapacity"], "17");
    assert_eq!(polls[1].headers["accept"], "application/json; api-version=6.0-preview");
    assert_eq!(polls[1].authorization, "Bearer queue-token-1");
}

#[tokio::test(start_paused = true)]
async fn b03_a_message_is_read_whatever_surrounds_it() {
    let (fake, connection, session) = opened().await;
    let body = json!([
        {"messageType": "JobAssigned", "jobId": "j-1", "runnerRequestId": 0, "queueTime": "0001-01-01T00:00:00Z"},
        "garbage",
        {"messageType": "JobNews"},
    ]);
    let envelope = json!({
        "messageId": 8, "messageType": "RunnerScaleSetJobMessages", "body": body.to_string(),
        "statistics": {"totalAssignedJobs": 2, "totalMarsJobs": 1}, "tomorrow": true,
    });
    let with_bom = [b"\xef\xbb\xbf".as_slice(), envelope.to_string().as_bytes()].concat();
    fake.on("GET", QUEUE, vec![bytes_reply(200, b""), bytes_reply(200, &with_bom)]);

    assert_eq!(connection.poll(&session, None, 1).await.unwrap(), None);
    let message = connection.poll(&session, None, 1).await.unwrap().unwrap();
    assert_eq!((message.id, message.statistics.unwrap().total_assigned_jobs), (8, 2));
    assert!(matches!(&message.entries[0], JobMessage::Assigned(job) if job.job_id == "j-1"));
    assert!(matches!(&message.entries[1], JobMessage::Unknown { .. }));
    assert_eq!(message.undecodable, ["\"garbage\""]);
}

#[tokio::test(start_paused = true)]
async fn b03_what_is_no_message_at_all_is_a_passing_error() {
    let (fake, connection, session) = opened().await;
    let page = bytes_reply(200, b"<html>maintenance</html>");
    for reply in [
        page,
        json_reply(500, json!({})),
        with_header(429, "retry-after", "3"),
        lost(),
        bytes_reply(302, b""),
    ] {
        fake.on("GET", QUEUE, vec![reply]);
        let error = connection.poll(&session, None, 1).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn b02_a_refused_queue_token_is_refreshed_once_and_the_poll_repeated_once() {
    for status in [401, 403] {
        let (fake, connection, mut session) = opened().await;
        let no = json_reply(status, json!({"message": "token expired"}));
        fake.on("GET", QUEUE, vec![no.clone(), bytes_reply(202, b"")]);
        assert_eq!(connection.poll_renewing(&mut session, None, 1).await.unwrap(), None);
        assert_eq!(session.statistics.unwrap().total_assigned_jobs, 4);
        let polls = fake.seen("GET", QUEUE);
        assert_eq!(polls.len(), 2);
        assert_eq!(polls[1].authorization, "Bearer queue-token-2");
        assert_eq!(fake.seen("PATCH", SESSION).len(), 1);

        fake.on("GET", QUEUE, vec![no]);
        let error = connection.poll_renewing(&mut session, None, 1).await.unwrap_err();
        assert!(matches!(error, Error::QueueTokenRefused(_)), "{error}");
        assert_eq!(
            (fake.seen("GET", QUEUE).len(), fake.seen("PATCH", SESSION).len()),
            (4, 2)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn b02_a_lost_session_and_a_lost_set_are_told_apart() {
    let (fake, connection, mut session) = opened().await;
    for status in [404, 410] {
        fake.on("GET", QUEUE, vec![json_reply(status, json!({}))]);
        let error = connection.poll_renewing(&mut session, None, 1).await.unwrap_err();
        assert!(matches!(error, Error::SessionLost(_)), "{error}");
    }
    fake.on("GET", QUEUE, vec![json_reply(401, json!({}))]);
    fake.on("PATCH", SESSION, vec![json_reply(404, json!({}))]);
    let error = connection.poll_renewing(&mut session, None, 1).await.unwrap_err();
    assert!(matches!(error, Error::SessionLost(_)), "{error}");
    fake.on(
        "PATCH",
        SESSION,
        vec![exception(404, "RunnerScaleSetNotFoundException", "gone")],
    );
    let error = connection.poll_renewing(&mut session, None, 1).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::NotFound {
                what: Missing::ScaleSet,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn b07_a_hung_poll_ends_at_its_deadline() {
    let (fake, connection, session) = opened().await;
    fake.latency(Duration::from_secs(100_000));
    let start = tokio::time::Instant::now();
    let error = connection.poll(&session, None, 1).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::Transport {
                error: TransportError::Timeout { .. },
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(start.elapsed().as_secs(), 100);
    let error = connection.delete_message(&session, 1).await.unwrap_err();
    assert!(error.outcome_unknown());
    assert_eq!(start.elapsed().as_secs(), 130);
}

#[tokio::test(start_paused = true)]
async fn b04_a_message_is_deleted_under_the_queues_path_and_one_already_gone_is_fine() {
    let (fake, connection, mut session) = opened().await;
    let no = json_reply(401, json!({}));
    fake.on(
        "DELETE",
        "/queue/8",
        vec![
            bytes_reply(204, b""),
            json_reply(404, json!({})),
            no,
            bytes_reply(204, b""),
        ],
    );
    connection.delete_message(&session, 8).await.unwrap();
    connection.delete_message(&session, 8).await.unwrap();
    connection.delete_message_renewing(&mut session, 8).await.unwrap();
    let deletes = fake.seen("DELETE", "/queue/8");
    assert_eq!(deletes[0].url, "https://queue.example/q/queue/8?sig=%2Fx%3D&set=5");
    assert_eq!(deletes[3].authorization, "Bearer queue-token-2");
}

#[tokio::test(start_paused = true)]
async fn b05_offered_jobs_are_acquired_with_the_queue_token() {
    let (fake, connection, mut session) = opened().await;
    let got = json_reply(200, json!({"count": 1, "value": [11]}));
    fake.on("POST", ACQUIRE, vec![got.clone(), json_reply(401, json!({})), got]);
    assert_eq!(
        connection.acquire_jobs(&session, &[11, 12]).await.unwrap(),
        Acquired::Jobs(vec![11])
    );
    let ask = &fake.seen("POST", ACQUIRE)[0];
    assert_eq!(
        (ask.authorization.as_str(), &ask.body),
        ("Bearer queue-token-1", &json!([11, 12]))
    );
    let again = connection.acquire_jobs_renewing(&mut session, &[11]).await.unwrap();
    assert_eq!(again, Acquired::Jobs(vec![11]));
    assert_eq!(fake.seen("POST", ACQUIRE)[2].authorization, "Bearer queue-token-2");
    connection.acquire_jobs(&session, &[]).await.unwrap();
    assert_eq!(fake.seen("POST", ACQUIRE).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn b05_acquire_404_means_that_the_tenant_assigns_by_itself() {
    let (fake, connection, session) = opened().await;
    fake.on("POST", ACQUIRE, vec![bytes_reply(404, b"not found")]);
    assert_eq!(
        connection.acquire_jobs(&session, &[1]).await.unwrap(),
        Acquired::SelfAssigning
    );
    fake.on(
        "POST",
        ACQUIRE,
        vec![exception(404, "RunnerScaleSetNotFoundException", "gone")],
    );
    assert!(connection.acquire_jobs(&session, &[1]).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn b05_jobs_on_offer_are_listed_and_204_means_none() {
    let (fake, connection, _) = opened().await;
    let list = json!({"count": 2, "value": [{"runnerRequestId": 4, "workflowRunId": 2}, {"bad": []}]});
    fake.on(
        "GET",
        "/5/acquirablejobs",
        vec![bytes_reply(204, b""), json_reply(200, list)],
    );
    assert!(connection.acquirable_jobs(5).await.unwrap().is_empty());
    let jobs = connection.acquirable_jobs(5).await.unwrap();
    assert_eq!((jobs.len(), jobs[0].runner_request_id), (1, 4));
    // As where jobs are acquired: a tenant that assigns by itself.
    fake.on(
        "GET",
        "/5/acquirablejobs",
        vec![json_reply(404, json!({"message": "no such thing"}))],
    );
    assert!(connection.acquirable_jobs(5).await.unwrap().is_empty());
    let gone = exception(404, "RunnerScaleSetNotFoundException", "gone");
    fake.on("GET", "/5/acquirablejobs", vec![gone]);
    let error = connection.acquirable_jobs(5).await.unwrap_err();
    assert!(
        matches!(
            error,
            Error::NotFound {
                what: Missing::ScaleSet,
                ..
            }
        ),
        "{error}"
    );
}

/// GitHub has given such answers; the session is open all the same.
#[tokio::test(start_paused = true)]
async fn b1_a_session_that_cannot_be_used_is_closed_again() {
    for hole in ["messageQueueUrl", "messageQueueAccessToken"] {
        let (fake, connection, _) = opened().await;
        let mut answer = session_body("queue-token-1", 3);
        answer[hole] = if hole == "messageQueueUrl" {
            json!("")
        } else {
            json!(null)
        };
        fake.on("POST", SESSIONS, vec![json_reply(200, answer)]);
        fake.on("DELETE", SESSION, vec![bytes_reply(204, b"")]);
        let error = connection.open_session(5, "me").await.unwrap_err();
        assert!(matches!(error, Error::Decode(_)), "{error}");
        assert_eq!(fake.seen("DELETE", SESSION).len(), 1, "{hole}");
    }
}
