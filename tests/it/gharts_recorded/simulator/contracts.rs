//! What no recording holds: the scale-set extension, the seed's contract, faults, and calls in flight.

use std::time::Duration;

use futures::future::join_all;
use gharts_listener::{
    http::TransportError,
    sim::gharts::{Fault, Flavour, Operation, Status, TeamSpec},
};
use serde_json::{Value, json};

use super::{
    github::{On, SET, Then},
    world::{World, jit},
};

/// A world with one user in one team called `backend`.
fn world(flavour: Flavour) -> (World, String, String) {
    let world = World::new(flavour);
    let team = world.gharts.add_team(TeamSpec {
        name: "backend".to_owned(),
        required_labels: vec!["linux".to_owned()],
        optional_label_patterns: vec!["gpu-.*".to_owned()],
        max_runners: Some(2),
    });
    let user = world.user("listener");
    world.gharts.add_member(&team, &user);
    let token = world.token("listener");
    (world, team, token)
}

fn set_bound(name: &str, team: &str) -> Value {
    json!({
        "runner_name": name, "labels": ["linux"], "team_id": team, "work_folder": "_work",
        "runner_scale_set_id": SET.0, "runner_scale_set_name": SET.1,
    })
}

#[tokio::test(start_paused = true)]
async fn b22_a_runner_is_registered_with_the_scale_set_that_was_asked_for() {
    let (world, team, token) = world(Flavour::SetAware);
    let me = world.call("GET", "/api/v1/auth/me", &token).await.json();
    assert_eq!(me["features"], json!(["runner_scale_set"]));

    let reply = world.jit(&token, &set_bound("r-1", &team)).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    let body = reply.json();
    assert_eq!(body["labels"], json!([]));
    assert_eq!(body["runner_scale_set_id"], SET.0);
    assert_eq!(body["runner_scale_set_name"], SET.1);
    let at_github = world.github.lock().runners[0].clone();
    assert_eq!(at_github.set, Some(SET.0));
    assert_eq!(body["github_runner_id"], at_github.id);
    let record = world.gharts.records().remove(0);
    assert_eq!(record.labels, [""; 0]);
    assert_eq!(record.group, 3, "the set's own group");
    assert!(world.gharts.audit_log()[0].labels.contains(&"linux".to_owned()));

    let path = format!("/api/v1/runners/{}", record.id);
    assert_eq!(world.call("DELETE", &path, &token).await.status, 200);
    assert!(world.github.lock().runners.is_empty(), "the agent is gone too");
}

#[tokio::test(start_paused = true)]
async fn b22_the_extension_refuses_in_its_own_and_in_the_recorded_words() {
    let (world, team, token) = world(Flavour::SetAware);
    let refused = async |body: Value| {
        let reply = world.jit(&token, &body).await;
        (reply.status, reply.json()["detail"].as_str().unwrap().to_owned())
    };
    let with = |over: Value| {
        let mut body = set_bound("r-1", &team);
        body.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
        body
    };
    let gone = |id: i64| (404, format!("Runner scale set {id} not found"));
    assert_eq!(refused(with(json!({ "runner_scale_set_id": 43 }))).await, gone(43));
    assert_eq!(
        refused(with(json!({ "runner_scale_set_name": "other" }))).await,
        gone(42)
    );
    let malformed = (422, "Validation error".to_owned());
    assert_eq!(refused(with(json!({ "runner_scale_set_name": null }))).await, malformed);
    assert_eq!(
        refused(with(json!({ "runner_name": null, "runner_name_prefix": "p" }))).await,
        malformed
    );
    assert_eq!(
        refused(with(json!({ "labels": [] }))).await,
        (403, "Missing required labels for team 'backend': {'linux'}".to_owned())
    );
    world.github.add("r-1");
    assert_eq!(
        refused(with(json!({}))).await,
        (400, "GitHub API error: Already exists".to_owned())
    );
    world.github.script(On::SetJit, Then::Status(503, "try later"));
    assert_eq!(
        refused(with(json!({ "runner_name": "r-2" }))).await,
        (400, "GitHub API error: try later".to_owned())
    );
    assert!(world.gharts.records().is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_admin_connection_is_kept_until_the_service_no_longer_takes_it() {
    let (world, team, token) = world(Flavour::SetAware);
    let connections = || {
        let calls = world.github.lock().calls.clone();
        calls
            .iter()
            .filter(|(call, _)| call.ends_with("/actions/runner-registration"))
            .count()
    };
    world.jit(&token, &set_bound("r-1", &team)).await;
    world.jit(&token, &set_bound("r-2", &team)).await;
    assert_eq!(connections(), 1);
    world.gharts.set_quota("backend", None);
    world.github.script(On::Set, Then::Status(401, "token expired"));
    assert_eq!(world.jit(&token, &set_bound("r-3", &team)).await.status, 201);
    assert_eq!(connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn b22_the_seeds_contract_speaks_in_codes() {
    let (world, team, token) = world(Flavour::Seed);
    let refused = async |token: &str, over: Value| {
        let mut body = json!({ "runner_name_prefix": "p", "labels": ["gpu-a"], "team_name": "backend" });
        body.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
        let body = world.jit(token, &body).await;
        let code = body.json()["error_code"].as_str().map(str::to_owned);
        (
            body.status,
            code,
            body.json()["detail"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let code = |text: &str| Some(text.to_owned());

    let (status, coded, detail) = refused(&token, json!({ "labels": ["windows"] })).await;
    assert_eq!((status, coded), (403, code("LABEL_POLICY_VIOLATION")));
    assert_eq!(detail, "Labels ['windows'] not permitted. Allowed patterns: ['gpu-.*']");
    let (status, coded, _) = refused(&token, json!({ "labels": ["a.b"] })).await;
    assert_eq!((status, coded), (400, code("INVALID_LABELS")));
    let (status, coded, _) = refused(&world.token("stranger"), json!({})).await;
    assert_eq!((status, coded), (403, code("USER_NOT_AUTHORIZED")));
    let (status, _, detail) = refused(&token, json!({ "team_name": "nope" })).await;
    assert_eq!((status, &*detail), (404, "Team 'nope' does not exist"));
    world.gharts.add_team(TeamSpec::open("others"));
    let (status, coded, _) = refused(&token, json!({ "team_name": "others" })).await;
    assert_eq!((status, coded), (403, code("USER_NOT_AUTHORIZED")));
    let (status, _, _) = refused("garbage", json!({})).await;
    assert_eq!(status, 401);
    world.github.script(On::Jit, Then::Status(503, "ill"));
    assert_eq!(refused(&token, json!({})).await.0, 502);

    world.gharts.take_places("backend", 2);
    let (status, coded, _) = refused(&token, json!({})).await;
    assert_eq!((status, coded), (429, code("QUOTA_EXCEEDED")));
    world.gharts.deactivate_team(&team, "Team restructuring in progress");
    let (status, _, detail) = refused(&token, json!({})).await;
    assert_eq!(
        (status, &*detail),
        (403, "Team 'backend' is deactivated: Team restructuring in progress")
    );
}

#[tokio::test(start_paused = true)]
async fn b22_the_seeds_server_adds_required_labels_and_knows_no_scale_sets() {
    let (world, _, token) = world(Flavour::Seed);
    let me = world.call("GET", "/api/v1/auth/me", &token).await.json();
    assert_eq!(me.get("features"), None);
    let body = json!({
        "runner_name": "r-1", "labels": ["gpu-a"], "team_name": "backend",
        "runner_scale_set_id": SET.0, "runner_scale_set_name": SET.1,
    });
    let answer = world.jit(&token, &body).await.json();
    assert_eq!(answer.get("runner_scale_set_id"), None);
    assert_eq!(world.github.lock().runners[0].set, None, "an ordinary runner");
    let mut labels: Vec<&str> = answer["labels"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    labels.sort_unstable();
    assert_eq!(labels, ["gpu-a", "linux", "self-hosted"]);
    let expires: jiff::Timestamp = answer["expires_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(expires.duration_since(world.clock.now()).as_secs(), 3600);
    world.gharts.set_status("r-1", Status::Online);
    assert_eq!(world.gharts.places_taken("backend"), 1, "an online runner counts here");
}

#[tokio::test(start_paused = true)]
async fn b43_each_flavour_describes_itself_truly() {
    for (flavour, team, scale_sets, tokens) in [
        (Flavour::SetAware, Some("team_id"), true, false),
        (Flavour::Team, Some("team_id"), false, false),
        (Flavour::User, None, false, true),
        (Flavour::Seed, Some("team_name"), false, false),
    ] {
        let (world, _, token) = world(flavour);
        let document = world.call("GET", "/openapi.json", "").await.json();
        let asked = &document["components"]["schemas"]["JitProvisionRequest"]["properties"];
        let said = |name: &str| asked[name].is_object();
        assert_eq!(said("runner_scale_set_id"), scale_sets, "{flavour:?}");
        for field in ["team_id", "team_name"] {
            assert_eq!(said(field), team == Some(field), "{flavour:?} {field}");
        }
        let paths = &document["paths"];
        assert_eq!(
            paths["/api/v1/admin/teams"].is_object(),
            flavour.has_teams(),
            "{flavour:?}"
        );
        assert_eq!(paths["/api/v1/runners/provision"].is_object(), tokens, "{flavour:?}");
        let me = world.call("GET", "/api/v1/auth/me", &token).await.json();
        assert_eq!(me["features"].is_array(), scale_sets, "{flavour:?}");
        assert_eq!(me["teams"].is_array(), flavour.has_teams(), "{flavour:?}");
        assert_eq!(me["can_use_registration_token"].is_boolean(), tokens, "{flavour:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn b22_versions_without_the_extension_register_ordinary_runners() {
    for flavour in [Flavour::Team, Flavour::User] {
        let (world, team, token) = world(flavour);
        let answer = world.jit(&token, &set_bound("r-1", &team)).await.json();
        assert_eq!(answer.get("runner_scale_set_id"), None, "{flavour:?}");
        let runner = world.github.lock().runners[0].clone();
        assert_eq!(runner.set, None);
        let mut labels = runner.labels;
        labels.sort_unstable();
        assert_eq!(labels, ["linux", "self-hosted"], "{flavour:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn lost_answers_leave_what_they_leave() {
    let (world, team, token) = world(Flavour::SetAware);
    let body = |name: &str| json!({ "runner_name": name, "labels": ["linux"], "team_id": team });
    let known = |name: &str| world.gharts.records().iter().any(|r| r.name == name);
    world.gharts.inject(Operation::Jit, Fault::AnswerLost);
    world.gharts.inject(Operation::Jit, Fault::Unrecorded);
    world.gharts.inject(Operation::Jit, Fault::Refused);
    world.gharts.inject(Operation::Jit, Fault::AnswerSpoiled);

    let lost = world.try_send(jit(&token, &body("r-1"))).await.unwrap_err();
    assert!(matches!(lost, TransportError::Lost { .. }), "{lost}");
    assert!(known("r-1") && world.github.has("r-1"));

    let unrecorded = world.jit(&token, &body("r-2")).await;
    assert_eq!(unrecorded.status, 500);
    assert!(unrecorded.text().contains("Failed to provision JIT runner: "));
    assert!(!known("r-2") && world.github.has("r-2"));

    assert_eq!(world.jit(&token, &body("r-3")).await.status, 500);
    assert!(!known("r-3") && !world.github.has("r-3"));

    assert_eq!(world.jit(&token, &body("r-4")).await.status, 500);
    assert!(known("r-4") && world.github.has("r-4"));
    assert_eq!(
        world.jit(&token, &body("r-5")).await.status,
        400,
        "the quota of two is used up"
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_leaks_its_runner() {
    let (world, team, token) = world(Flavour::SetAware);
    world.github.script(On::Jit, Then::Slow(3));
    let body = json!({ "runner_name": "r-1", "labels": ["linux"], "team_id": team });
    let impatient = tokio::time::timeout(Duration::from_secs(1), world.jit(&token, &body)).await;
    assert!(impatient.is_err());
    assert!(world.gharts.records().is_empty());
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(world.gharts.records_by_status(Status::Pending).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_overshoot_the_quota_as_recorded() {
    let (world, team, token) = world(Flavour::SetAware);
    let attempts = (0..4).map(|n| {
        world.github.script(On::Jit, Then::Slow(1));
        let body = json!({ "runner_name": format!("r-{n}"), "labels": ["linux"], "team_id": team });
        let (world, token) = (&world, &token);
        async move { world.jit(token, &body).await.status }
    });
    assert_eq!(
        join_all(attempts).await,
        [201; 4],
        "all were checked before any was written down"
    );
    assert_eq!(world.gharts.places_taken("backend"), 4);
    assert_eq!(world.gharts.max_in_flight(), 4);
    assert_eq!(world.gharts.calls_of(Operation::Jit), 4);
}
