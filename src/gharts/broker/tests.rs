//! Against a GHARTS that follows a script: see `testing`.

use secrecy::ExposeSecret as _;
use serde_json::json;

use super::{
    super::testing::{Line, Script, answer, client, clock, fails, json as answered},
    *,
};
use crate::{config::Limits, http::TransportError};

const PROVISION: &str = "POST /api/v1/runners/provision";
const LIST: &str = "GET /api/v1/runners?limit=200&offset=0";
const DELETE_R1: &str = "DELETE /api/v1/runners/r1";

fn broker_for(script: &Arc<Script>, scope: &str) -> Broker {
    let gate = Gate::new(Some(&Limits::default()), clock());
    let scope = scope.parse().unwrap();
    Broker::new(Arc::new(client(script)), gate, clock(), scope, "uid", 1, Tasks::new())
}

fn broker(script: &Arc<Script>) -> Broker {
    broker_for(script, "https://github.com/acme")
}

fn granted(id: &str) -> Line {
    let body = json!({"runner_id": id, "runner_name": "n", "registration_token": format!("AABB{id}"),
        "expires_at": "2026-11-23T05:00:00Z", "github_url": "https://github.com/Acme", "runner_group_id": 1,
        "ephemeral": true, "labels": ["self-hosted"], "configuration_command": "./config.sh"});
    answered(PROVISION, 201, &body.to_string())
}

fn deleted(id: &str) -> Line {
    let body = json!({"runner_id": id, "runner_name": "n", "success": true, "message": "done"});
    answered(&format!("DELETE /api/v1/runners/{id}"), 200, &body.to_string())
}

/// Records by id, name and time of creation.
fn listed(records: &[(&str, &str, &str)]) -> Line {
    let record = |(id, name, created): &(&str, &str, &str)| json!({"runner_id": id, "runner_name": name, "status": "pending", "created_at": created});
    let runners: Vec<_> = records.iter().map(record).collect();
    answered(
        LIST,
        200,
        &json!({"total": runners.len(), "runners": runners}).to_string(),
    )
}

fn our_name(seed: u64) -> String {
    let mut rng = fastrand::Rng::with_seed(seed);
    let namer = Namer::new("uid", &SetName::new(NAME));
    namer.next(&mut rng).as_str().to_owned()
}

/// Lets what goes on beside the caller come to its end.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(500)).await;
}

#[tokio::test(start_paused = true)]
async fn b44_a_token_is_handed_out_without_labels_and_its_record_is_deleted_at_once() {
    let script = Script::of([granted("r1"), deleted("r1"), listed(&[])]);
    let broker = broker(&script);
    let token = broker.fetch().await.unwrap();
    assert_eq!(token.secret.expose_secret(), "AABBr1");
    assert_eq!(token.life, None, "nobody says what time it is there");
    broker.finished().await;
    script.assert_finished();
    let asked = &script.bodies()[0];
    assert_eq!(asked["labels"], json!([]));
    assert_eq!(asked["ephemeral"], true);
    let name = asked["runner_name"].as_str().unwrap();
    assert!(Namer::new("uid", &SetName::new(NAME)).is_ours(name), "{name}");
    assert!(name.len() <= 64, "{name}");
}

#[tokio::test(start_paused = true)]
async fn b44_what_a_crash_left_behind_is_deleted_and_nothing_of_anybody_else() {
    let (old, young) = (our_name(2), our_name(3));
    let foreign = Namer::new("other uid", &SetName::new(NAME)).next(&mut fastrand::Rng::with_seed(4));
    let long_ago = "2026-11-23T03:00:00.123456";
    let script = Script::of([
        granted("r1"),
        deleted("r1"),
        listed(&[
            ("o1", &old, long_ago),
            ("o2", &young, "2026-11-23T03:58:00"),
            ("o3", foreign.as_str(), long_ago),
            ("o4", "somebody-elses", long_ago),
        ]),
        deleted("o1"),
    ]);
    let broker = broker(&script);
    broker.fetch().await.unwrap();
    settle().await;
    script.assert_finished();
    // The young one may be in use by another replica; ten minutes later it is not, whenever it seems to be from.
    script.then([listed(&[("o2", &young, "2026-11-23T06:00:00")]), deleted("o2")]);
    tokio::time::sleep(LEFT_OVER).await;
    script.assert_finished();
    tokio::time::sleep(LEFT_OVER * 3).await;
    script.then([granted("r3"), deleted("r3")]);
    broker.fetch().await.unwrap();
    settle().await;
    script.assert_finished();
}

#[tokio::test(start_paused = true)]
async fn b21_a_lost_answer_leaves_no_record_behind() {
    let lost = TransportError::Lost {
        peer: "gharts.example.com".into(),
        reason: "reset".into(),
    };
    let script = Script::of([fails(PROVISION, lost)]);
    let broker = broker(&script);
    assert!(broker.fetch().await.unwrap_err().is_transient());
    let name = script.bodies()[0]["runner_name"].as_str().unwrap().to_owned();
    script.then([
        granted("r1"),
        deleted("r1"),
        listed(&[("l1", &name, "2026-11-23T03:59:58")]),
        deleted("l1"),
    ]);
    broker.fetch().await.unwrap();
    settle().await;
    // Once more: the lost call may have been at work still.
    script.then([granted("r2"), deleted("r2"), listed(&[])]);
    broker.fetch().await.unwrap();
    settle().await;
    script.then([granted("r3"), deleted("r3")]);
    broker.fetch().await.unwrap();
    settle().await;
    script.assert_finished();
    let names: Vec<_> = script
        .bodies()
        .iter()
        .map(|b| b["runner_name"].clone())
        .filter(serde_json::Value::is_string)
        .collect();
    assert_eq!(names.len(), 4);
    assert_ne!(names[0], names[1], "a fresh name each time");
}

#[tokio::test(start_paused = true)]
async fn b44_lost_records_that_use_the_quota_up_are_found_without_a_token() {
    let lost = TransportError::Lost {
        peer: "gharts.example.com".into(),
        reason: "reset".into(),
    };
    let script = Script::of([fails(PROVISION, lost)]);
    let broker = broker(&script);
    broker.fetch().await.unwrap_err();
    let name = script.bodies()[0]["runner_name"].as_str().unwrap().to_owned();
    let full = r#"{"detail":"Runner quota exceeded. Maximum allowed: 1, current: 1"}"#;
    script.then([
        answered(PROVISION, 400, full),
        listed(&[("l1", &name, "2026-11-23T03:59:58")]),
        deleted("l1"),
    ]);
    broker.fetch().await.unwrap_err();
    settle().await;
    script.assert_finished();
}

#[tokio::test(start_paused = true)]
async fn b44_a_record_that_cannot_be_deleted_is_tried_again_and_delays_no_token() {
    let broken = || answered(DELETE_R1, 500, r#"{"detail":"Failed to deprovision runner: "}"#);
    let script = Script::of([granted("r1"), broken(), broken(), deleted("r1"), listed(&[])]);
    let broker = broker(&script);
    broker.fetch().await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    script.assert_finished();
    script.then([granted("r1")]);
    script.then((0..6).map(|_| broken()));
    broker.fetch().await.unwrap();
    tokio::time::sleep(Duration::from_secs(300)).await;
    script.assert_finished();
    script.then([granted("r2"), deleted("r2"), listed(&[])]);
    broker.fetch().await.unwrap();
    settle().await;
    script.assert_finished();
}

#[tokio::test(start_paused = true)]
async fn b44_every_refusal_says_who_refused_and_what_mends_it() {
    for (status, detail, denial, words) in [
        (
            400,
            "Runner quota exceeded. Maximum allowed: 1, current: 1",
            Denial::Quota,
            "current: 1",
        ),
        (
            500,
            "Failed to provision runner: Labels {'x'} not permitted by policy. Allowed labels: {'arc'}",
            Denial::LabelPolicy,
            "not permitted by policy",
        ),
        (
            403,
            "Access to registration token API not permitted for this user.",
            Denial::NotAuthorized,
            "registration token API",
        ),
        (
            405,
            "Method Not Allowed",
            Denial::Configuration,
            "only the older, user-based GHARTS hands out",
        ),
    ] {
        let script = Script::of([answered(PROVISION, status, &json!({ "detail": detail }).to_string())]);
        let error = broker(&script).fetch().await.unwrap_err();
        let TokenError::Denied { denial: told, message } = error else {
            panic!("{status}: {error:?}")
        };
        assert_eq!(told, denial, "{message}");
        assert!(
            message.contains(words) && message.contains("gharts.example.com"),
            "{message}"
        );
        script.assert_finished();
    }
    let refused = || {
        answered(
            PROVISION,
            401,
            r#"{"detail":"Token validation failed: Invalid audience"}"#,
        )
    };
    let script = Script::of([refused(), refused()]);
    let error = broker(&script).fetch().await.unwrap_err();
    let denial = Denial::Credentials;
    assert!(matches!(error, TokenError::Denied { denial: told, .. } if told == denial));
    let headers = [("content-type", "application/json"), ("retry-after", "77")];
    let slow = answer(PROVISION, 429, &headers, "{}");
    let error = broker(&Script::of([slow])).fetch().await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(77)), "{error:?}");
    let ill = answered(PROVISION, 503, "{}");
    assert!(broker(&Script::of([ill])).fetch().await.unwrap_err().is_transient());
}

#[tokio::test(start_paused = true)]
async fn b44_a_token_for_another_organization_is_refused_and_given_back() {
    for scope in [
        "https://github.com/other",
        "https://github.com/acme/repo",
        "https://ghes.example.com/acme",
        "https://github.com/enterprises/acme",
    ] {
        let script = Script::of([granted("r1"), deleted("r1"), listed(&[])]);
        let broker = broker_for(&script, scope);
        let error = broker.fetch().await.unwrap_err();
        let message = error.to_string();
        assert!(
            matches!(
                &error,
                TokenError::Denied {
                    denial: Denial::Configuration,
                    ..
                }
            ),
            "{scope}: {error:?}"
        );
        assert!(
            message.contains("https://github.com/Acme") && message.contains(scope),
            "{message}"
        );
        assert!(!message.contains("AABB"), "{message}");
        broker.finished().await;
        script.assert_finished();
    }
}
