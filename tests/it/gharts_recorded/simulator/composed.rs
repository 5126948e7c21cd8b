//! GHARTS in the whole simulated world: with its GitHub, what an administrator has set up, and under the control
//! interface.

use bytes::Bytes;
use gharts_listener::{
    clock::Clock,
    http::Transport as _,
    shutdown::Tasks,
    sim::{
        control::Controlled,
        gharts::{Flavour, TeamSpec},
        world::{MACHINE, Options, World},
    },
};
use http_body_util::BodyExt as _;
use serde_json::{Map, Value, json};
use tower::ServiceExt as _;

async fn world(flavour: Flavour) -> World {
    let clock = Clock::simulated("2026-11-23T00:00:00Z".parse().unwrap());
    let options = Options {
        flavour,
        quota: Some(2),
        ..Options::default()
    };
    World::start(options, clock, &Tasks::new()).await.unwrap()
}

/// A token of the machine client.
fn machine(world: &World) -> String {
    let claims = json!({ "sub": MACHINE.0, "aud": world.services.addresses.gharts, "gty": "client-credentials" });
    let claims: Map<String, Value> = claims.as_object().unwrap().clone();
    world.oidc.issue(&claims).unwrap()
}

async fn send(world: &World, method: &str, url: &str, authorization: &str, body: &Value) -> (u16, Value) {
    let request = http::Request::builder()
        .method(method)
        .uri(url)
        .header("authorization", authorization)
        .header("content-type", "application/json")
        .body(Bytes::from(body.to_string()))
        .unwrap();
    let answer = world.network.send(request).await.unwrap();
    let body = serde_json::from_slice(answer.body()).unwrap_or_default();
    (answer.status().as_u16(), body)
}

/// Asks GHARTS as the machine client.
async fn ask(world: &World, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let url = format!("{}/api/v1{path}", world.services.addresses.gharts);
    send(world, method, &url, &format!("Bearer {}", machine(world)), body).await
}

async fn control(world: &World, method: &str, body: &Value) -> (u16, Value) {
    let controlled = Controlled {
        services: world.services.clone(),
        counters: world.counters.clone(),
        admin: world.admin_client(),
        kubernetes: Some(world.kubernetes.clone()),
    };
    let request = http::Request::builder()
        .method(method)
        .uri("/control/gharts")
        .body(axum::body::Body::from(body.to_string()))
        .unwrap();
    let answer = controlled.router().oneshot(request).await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test(start_paused = true)]
async fn b44_a_brokered_registration_token_opens_the_actions_service_of_its_organization() {
    let world = world(Flavour::User).await;
    let body = json!({ "runner_name": "r-1", "labels": [] });
    let (status, answer) = ask(&world, "POST", "/runners/provision", &body).await;
    assert_eq!(status, 201, "{answer}");
    assert_eq!(answer["github_url"], world.services.addresses.config_url());
    let expires: jiff::Timestamp = answer["expires_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(expires.duration_since(world.clock.now()).as_secs(), 3600);
    let token = answer["registration_token"].as_str().unwrap();
    let registration = format!("{}/api/v3/actions/runner-registration", world.services.addresses.github);
    let body = json!({ "url": answer["github_url"], "runner_event": "register" });
    let (status, admin) = send(&world, "POST", &registration, &format!("RemoteAuth {token}"), &body).await;
    assert_eq!(status, 200, "{admin}");
    assert!(admin["url"].as_str().unwrap().contains("/actions-service/"));
    let (status, _) = send(&world, "POST", &registration, "RemoteAuth AWRONG", &body).await;
    assert_eq!(status, 401);
}

#[tokio::test(start_paused = true)]
async fn b22_runners_of_today_are_ordinary_runners_with_labels_and_of_no_set() {
    for flavour in [Flavour::Team, Flavour::User, Flavour::Seed] {
        let world = world(flavour).await;
        let body = json!({ "runner_name": "r-1", "labels": ["linux"] });
        let (status, answer) = ask(&world, "POST", "/runners/jit", &body).await;
        assert_eq!(status, 201, "{flavour:?}: {answer}");
        let runners = world.github.runners();
        assert_eq!((runners.len(), runners[0].set), (1, None));
        let mut labels = runners[0].labels.clone();
        labels.sort_unstable();
        assert_eq!(labels, ["linux", "self-hosted"], "{flavour:?}");
        // What it shows there is what was stored: the sync lets it live.
        world.gharts.sync().await;
        assert_eq!(world.github.runners().len(), 1, "{flavour:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn b18_b19_an_administrator_changes_quota_policy_and_team_while_the_service_runs() {
    let world = world(Flavour::Team).await;
    let jit = async |name: &str| {
        let (status, answer) = ask(&world, "POST", "/runners/jit", &json!({ "runner_name": name })).await;
        (status, answer["detail"].as_str().unwrap_or_default().to_owned())
    };
    let set = async |change: Value| {
        let (status, answer) = control(&world, "PATCH", &change).await;
        assert_eq!(status, 200, "{answer}");
        answer
    };
    set(json!({ "foreignRunners": 2 })).await;
    let (status, detail) = jit("r-1").await;
    assert_eq!(
        (status, &*detail),
        (
            400,
            "Team 'platform' runner quota exceeded. Maximum allowed: 2, current: 2"
        )
    );
    set(json!({ "quota": null })).await;
    assert_eq!(jit("r-1").await.0, 201);
    set(json!({ "policy": { "labels": ["linux"], "patterns": ["gpu-.*"] } })).await;
    assert_eq!(
        jit("r-2").await,
        (403, "Missing required labels for team 'platform': {'linux'}".to_owned())
    );
    let shown = set(json!({ "team": { "active": false, "reason": "restructuring" } })).await;
    let platform = &shown["accounts"]["platform"];
    assert_eq!(
        (&platform["active"], &platform["reason"]),
        (&json!(false), &json!("restructuring"))
    );
    let (status, detail) = jit("r-2").await;
    assert_eq!(status, 403);
    assert!(detail.contains("was not found or is inactive"), "{detail}");
    set(json!({ "team": { "active": true }, "policy": {}, "clientActive": false })).await;
    assert!(jit("r-2").await.1.contains("is disabled"));
    set(json!({ "clientActive": true, "policy": { "patterns": [".*"] }, "jwks": "fails" })).await;
    let (status, detail) = jit("r-2").await;
    assert_eq!(status, 401);
    assert!(
        detail.starts_with("Authentication failed: 503: Failed to fetch JWKS: "),
        "{detail}"
    );
    set(json!({ "jwks": "ok", "github": 503 })).await;
    assert_eq!(
        jit("r-2").await,
        (400, "GitHub API error: Service Unavailable".to_owned())
    );
    set(json!({ "github": "slow" })).await;
    assert_eq!(jit("r-2").await, (500, "Failed to provision JIT runner: ".to_owned()));
    assert_eq!(world.github.runners().len(), 2, "the unheard one is there");
    set(json!({ "github": "ok", "freezeSeconds": 30 })).await;
    let begin = world.clock.instant();
    assert_eq!(jit("r-3").await.0, 201);
    assert_eq!(begin.elapsed().as_secs(), 30);
    let shown = set(json!({ "sync": true })).await;
    assert_eq!(shown["records"], json!({ "offline": 2 }));
    assert_eq!(shown["flavour"], "team");
    assert_eq!(shown["accounts"]["platform"]["placesTaken"], 4);
    set(json!({ "next": { "call": "jit", "fault": "unrecorded" } })).await;
    assert_eq!(jit("r-4").await.0, 500);
    assert_eq!(world.github.runners().len(), 4, "GitHub did it");
    let other = world.gharts.add_team(TeamSpec::open("other"));
    set(json!({ "clientTeam": "other", "account": "other", "quota": 1 })).await;
    let (_, me) = ask(&world, "GET", "/auth/me", &Value::Null).await;
    assert_eq!(me["teams"], json!([{ "id": other, "name": "other" }]));
    assert_eq!(jit("r-5").await.0, 201);
    assert_eq!(jit("r-6").await.0, 400, "its quota of one");
}

#[tokio::test(start_paused = true)]
async fn an_administrator_of_the_older_version_changes_an_identitys_policy() {
    let world = world(Flavour::User).await;
    let (status, answer) = control(&world, "PATCH", &json!({ "team": { "active": false } })).await;
    assert_eq!(status, 409, "{answer}");
    let change = json!({ "quota": 7, "policy": { "labels": ["linux"] }, "foreignRunners": 3, "userActive": false });
    let (status, shown) = control(&world, "PATCH", &change).await;
    assert_eq!(status, 200, "{shown}");
    let own = &shown["accounts"][shown["account"].as_str().unwrap()];
    assert_eq!((&own["quota"], &own["placesTaken"]), (&json!(7), &json!(3)));
    assert_eq!(own["policy"], json!({ "labels": ["linux"], "patterns": [] }));
    assert_eq!(shown["accounts"][MACHINE.0]["quota"], 2, "somebody else's");
    assert_eq!(world.gharts.security_events()[0].event, "user_deactivated");
    for wrong in [
        json!({ "github": 200 }),
        json!({ "freezeSeconds": -1 }),
        json!({ "quotas": 1 }),
        json!({ "jwks": "gone" }),
        json!({ "next": { "call": "jit", "fault": "refused", "times": 2000 } }),
    ] {
        assert_eq!(control(&world, "PATCH", &wrong).await.0, 400, "{wrong}");
    }
    for unknown in [json!({ "account": "nobody" }), json!({ "clientTeam": "nobody" })] {
        assert_eq!(control(&world, "PATCH", &unknown).await.0, 404, "{unknown}");
    }
}
