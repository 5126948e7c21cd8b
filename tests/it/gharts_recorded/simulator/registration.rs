//! The older version's registration tokens beyond what was recorded: what they count for, and what becomes of the
//! runner that uses one.

use std::time::Duration;

use gharts_listener::sim::gharts::{Flavour, Kind, Operation, Policy, Status};
use serde_json::{Value, json};

use super::world::{Ask, Reply, World, jit, subject};

const CHECKED: Duration = Duration::from_secs(61);

fn world() -> World {
    let world = World::new(Flavour::User);
    world.user("listener");
    world.gharts.put_policy(Policy {
        max_runners: Some(2),
        ..Policy::open(&subject("listener"))
    });
    world
}

async fn provision(world: &World, body: Value) -> Reply {
    let ask = Ask {
        path: "/api/v1/runners/provision".to_owned(),
        ..jit(&world.token("listener"), &body)
    };
    world.send(ask).await
}

#[tokio::test(start_paused = true)]
async fn b44_a_registration_token_comes_with_a_pending_record_that_takes_a_place() {
    let world = world();
    let reply = provision(&world, json!({ "runner_name": "r-1", "labels": ["gpu"] })).await;
    let answer = reply.json();
    assert_eq!(reply.status, 201, "{answer}");
    assert_eq!(answer["registration_token"], "AREG");
    assert_eq!(
        answer["expires_at"], "2026-11-23T05:00:00Z",
        "GitHub's own, with a zone"
    );
    assert_eq!(answer["github_url"], "https://github.com/acme");
    assert_eq!(answer["labels"], json!(["gpu", "self-hosted"]));
    assert!(world.github.lock().runners.is_empty(), "the runner registers itself");
    let record = world.gharts.records().remove(0);
    assert_eq!(
        (record.kind, record.status, record.github_id),
        (Kind::RegistrationToken, Status::Pending, None)
    );
    assert_eq!(world.gharts.audit_log()[0].event, "provision");

    let taken = provision(&world, json!({ "runner_name": "r-1" })).await;
    assert_eq!(taken.status, 400, "the name is in use");
    world
        .jit(&world.token("listener"), &json!({ "runner_name": "r-2" }))
        .await;
    let full = provision(&world, json!({ "runner_name": "r-3" })).await;
    assert_eq!(
        (full.status, full.json()["detail"].as_str().unwrap()),
        (400, "Runner quota exceeded. Maximum allowed: 2, current: 2")
    );
    assert_eq!(world.gharts.calls_of(Operation::Token), 3);
    let event = world.gharts.security_events().pop().unwrap();
    assert_eq!((event.event, event.runner.as_deref()), ("quota_exceeded", Some("r-3")));
}

#[tokio::test(start_paused = true)]
async fn b22_a_minute_later_a_runner_with_other_user_labels_is_taken_away() {
    let world = world();
    world.gharts.set_quota(&subject("listener"), None);
    for name in ["same", "system", "bare", "other"] {
        let labels = if name == "bare" { json!([]) } else { json!(["gpu"]) };
        provision(&world, json!({ "runner_name": name, "labels": labels })).await;
    }
    let comes = |name: &str, labels: &[&str]| {
        world.github.add(name);
        world.github.edit(name, |runner| {
            runner.labels = labels.iter().map(|label| (*label).to_owned()).collect();
            runner.busy = name == "other";
        });
    };
    comes("same", &["self-hosted", "gpu"]);
    comes("system", &["self-hosted", "Linux", "X64", "gpu"]);
    comes("bare", &[]);
    comes("other", &["self-hosted", "gpu", "large"]);
    tokio::time::sleep(CHECKED).await;
    let status = |name: &str| {
        let records = world.gharts.records();
        records.into_iter().find(|record| record.name == name).unwrap().status
    };
    for name in ["same", "system", "bare"] {
        assert_eq!(
            (status(name), world.github.has(name)),
            (Status::Pending, true),
            "{name}"
        );
    }
    assert_eq!(status("other"), Status::Deleted);
}

#[tokio::test(start_paused = true)]
async fn b47_a_runner_that_registered_itself_is_given_back_by_its_record() {
    let world = world();
    let answer = provision(&world, json!({ "runner_name": "r-1" })).await.json();
    world.github.add("r-1");
    let path = format!("/api/v1/runners/{}", answer["runner_id"].as_str().unwrap());
    let seen = world
        .call("POST", &format!("{path}/refresh"), &world.token("listener"))
        .await;
    assert_eq!(seen.json()["status"], "offline");
    assert!(seen.json()["github_runner_id"].is_i64());
    let removed = world.call("DELETE", &path, &world.token("listener")).await;
    assert_eq!(removed.status, 200);
    assert!(!world.github.has("r-1"));
    let unused = provision(&world, json!({ "runner_name": "r-2" })).await.json();
    let path = format!("/api/v1/runners/{}", unused["runner_id"].as_str().unwrap());
    assert_eq!(world.call("DELETE", &path, &world.token("listener")).await.status, 200);
    assert_eq!(world.gharts.places_taken(&subject("listener")), 0);
}
