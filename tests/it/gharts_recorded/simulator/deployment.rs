//! How fast the service is, when it stands still, and what it makes of peers that fail it.

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use gharts_listener::sim::{
    gharts::{Database, Deployment, Flavour, GithubTrouble, Latency},
    oidc::Ailment,
};
use http::StatusCode;
use serde_json::json;

use super::{
    github::{On, Then},
    world::{Reply, World, call, jit},
};

const SQLITE: Deployment = Deployment {
    database: Database::Sqlite,
    freezes: true,
    latency: Latency::None,
    sync: false,
    ingress: false,
};
const POSTGRES: Deployment = Deployment {
    database: Database::Postgres,
    ..SQLITE
};
const HALF_A_MINUTE: Duration = Duration::from_secs(30);

/// A world with one user who may have whatever it asks for.
fn world(flavour: Flavour, deployment: Deployment) -> World {
    let world = World::run(flavour, deployment);
    if flavour.has_teams() {
        world.user_with_team("listener", "backend", None);
    } else {
        world.user("listener");
    }
    world
}

async fn ask(world: &World, name: &str) -> Reply {
    world
        .jit(&world.token("listener"), &json!({ "runner_name": name }))
        .await
}

/// So many JIT calls at once, of which GitHub takes a second each; answers by status and text.
async fn at_once(world: &World, count: usize) -> BTreeMap<(u16, String), usize> {
    (0..count).for_each(|_| world.github.script(On::Jit, Then::Slow(1)));
    let names: Vec<String> = (0..count).map(|n| format!("r-{n}")).collect();
    let mut answers = BTreeMap::new();
    for reply in join_all(names.iter().map(|name| ask(world, name))).await {
        let text = reply.json()["detail"].as_str().unwrap_or_default().to_owned();
        *answers.entry((reply.status, text)).or_default() += 1;
    }
    answers
}

#[tokio::test(start_paused = true)]
async fn b22_one_call_beyond_the_databases_connections_stops_everybody_for_half_a_minute() {
    for (flavour, deployment, most) in [
        (Flavour::Team, SQLITE, 15),
        (Flavour::SetAware, SQLITE, 15),
        (Flavour::User, SQLITE, 15),
        (Flavour::User, POSTGRES, 15),
        (Flavour::Team, POSTGRES, 30),
    ] {
        let well = world(flavour, deployment);
        assert_eq!(
            at_once(&well, most).await,
            BTreeMap::from([((201, String::new()), most)]),
            "{flavour:?}"
        );
        assert_eq!(well.gharts.stood_still(), Duration::ZERO);

        let world = world(flavour, deployment);
        let begin = world.clock.instant();
        let health = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let reply = world.call("GET", "/health", "").await;
            (reply.status, begin.elapsed())
        };
        let (answers, healthy) = futures::join!(at_once(&world, most + 1), health);
        assert_eq!(healthy, (200, HALF_A_MINUTE), "{flavour:?}");
        let timed_out = "Failed to provision JIT runner: ".to_owned();
        let expected = [((500, "Internal server error".to_owned()), 1), ((500, timed_out), most)];
        assert_eq!(answers, BTreeMap::from(expected), "{flavour:?}");
        assert_eq!(world.github.lock().runners.len(), most, "GitHub did it all the same");
        assert!(world.gharts.records().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_told_to_stand_still_moves_again() {
    let world = world(
        Flavour::User,
        Deployment {
            sync: false,
            ..Deployment::default()
        },
    );
    let begin = world.clock.instant();
    world.gharts.freeze(HALF_A_MINUTE);
    world.gharts.freeze(HALF_A_MINUTE);
    assert_eq!(ask(&world, "r-1").await.status, 201);
    assert_eq!(begin.elapsed(), 2 * HALF_A_MINUTE);
    assert_eq!(ask(&world, "r-2").await.status, 201);
    assert_eq!(begin.elapsed(), 2 * HALF_A_MINUTE);
}

fn at_the_recorded_pace(flavour: Flavour, database: Database) -> World {
    let latency = Latency::RECORDED;
    world(
        flavour,
        Deployment {
            database,
            latency,
            ..SQLITE
        },
    )
}

/// So many calls, at most `in_flight` of them at once.
async fn granted(world: &World, calls: usize, in_flight: usize) -> (Duration, usize) {
    use futures::stream::{self, StreamExt as _};
    let begin = world.clock.instant();
    let names: Vec<String> = (0..calls).map(|n| format!("r-{n}")).collect();
    let answers = stream::iter(&names)
        .map(|name| ask(world, name))
        .buffer_unordered(in_flight);
    let granted = answers
        .filter(|reply| futures::future::ready(reply.status == 201))
        .count()
        .await;
    (begin.elapsed(), granted)
}

#[tokio::test(start_paused = true)]
async fn b22_one_event_loop_grants_two_to_four_runners_a_second_however_many_ask() {
    for flavour in [Flavour::SetAware, Flavour::Team, Flavour::User] {
        for in_flight in [1, 2, 4, 14] {
            let world = at_the_recorded_pace(flavour, Database::Sqlite);
            let (took, granted) = granted(&world, 50, in_flight).await;
            let rate = 50.0 / took.as_secs_f64();
            assert_eq!((granted, world.gharts.stood_still()), (50, Duration::ZERO));
            // Alone, a call waits for GitHub with nobody to use the time.
            let expected = if in_flight == 1 { 1.4..1.8 } else { 2.4..4.0 };
            assert!(
                expected.contains(&rate),
                "{flavour:?}, {in_flight} in flight: {rate} calls/s"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b22_at_the_recorded_pace_too_many_calls_freeze_the_service_as_recorded() {
    let answers = async |world: &World, count: usize| {
        let names: Vec<String> = (0..count).map(|n| format!("r-{n}")).collect();
        let mut answers = BTreeMap::new();
        for reply in join_all(names.iter().map(|name| ask(world, name))).await {
            let text = reply.json()["detail"].as_str().unwrap_or_default().to_owned();
            *answers.entry((reply.status, text)).or_insert(0_usize) += 1;
        }
        (answers, world.gharts.stood_still())
    };
    let world = at_the_recorded_pace(Flavour::Team, Database::Sqlite);
    assert_eq!(answers(&world, 15).await.1, Duration::ZERO);

    let world = at_the_recorded_pace(Flavour::Team, Database::Sqlite);
    let (counted, stood) = answers(&world, 16).await;
    assert_eq!(stood, HALF_A_MINUTE);
    assert!(counted[&(201, String::new())] >= 12, "{counted:?}");

    for (flavour, database) in [
        (Flavour::Team, Database::Sqlite),
        (Flavour::User, Database::Sqlite),
        (Flavour::Team, Database::Postgres),
    ] {
        let world = at_the_recorded_pace(flavour, database);
        let (counted, stood) = answers(&world, 50).await;
        let of = |status: u16, text: &str| counted.get(&(status, text.to_owned())).copied().unwrap_or_default();
        let said = format!("{flavour:?} on {database:?}: {counted:?}, frozen for {stood:?}");
        assert!((120..=1050).contains(&stood.as_secs()), "{said}");
        assert!(of(500, "Internal server error") >= 5, "{said}");
        assert!(of(201, "") >= 5, "{said}");
        assert!(
            of(401, "Authentication failed: 503: Failed to fetch JWKS: ") >= 1,
            "{said}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn b17_an_outage_of_the_issuers_keys_is_a_401_that_blames_no_token() {
    let slow = Ailment::Slow(Duration::from_secs(12));
    for (flavour, deadline) in [(Flavour::Team, 10), (Flavour::User, 20), (Flavour::Seed, 10)] {
        let world = world(
            flavour,
            Deployment {
                sync: false,
                ..Deployment::default()
            },
        );
        let recorded = flavour != Flavour::Seed;
        for (ailment, reason) in [
            (
                Ailment::Status(StatusCode::BAD_GATEWAY),
                "Server error '502 Bad Gateway'",
            ),
            (Ailment::Reset, "Server disconnected without sending a response."),
            (Ailment::Html, "Expecting value: line 1 column 1 (char 0)"),
        ] {
            world.gharts.ail_jwks(Some(ailment));
            let reply = ask(&world, "r-1").await;
            let detail = reply.json()["detail"].as_str().unwrap().to_owned();
            let expected = format!("Authentication failed: 503: Failed to fetch JWKS: {reason}");
            assert_eq!(
                (reply.status, detail.starts_with(&expected)),
                (401, recorded),
                "{detail}"
            );
        }
        let begin = world.clock.instant();
        world.gharts.ail_jwks(Some(slow.clone()));
        assert_eq!(ask(&world, "r-1").await.status, 401);
        assert_eq!(begin.elapsed().as_secs(), deadline, "{flavour:?}");
        world.gharts.ail_jwks(None);
        assert_eq!(ask(&world, "r-1").await.status, 201);
    }
}

#[tokio::test(start_paused = true)]
async fn b21_what_github_does_unheard_leaves_a_runner_that_gharts_does_not_know() {
    for flavour in [Flavour::SetAware, Flavour::Team, Flavour::User] {
        let world = world(
            flavour,
            Deployment {
                sync: false,
                ..Deployment::default()
            },
        );
        let met = async |trouble, name: &str| {
            world.gharts.trouble_github(Some(trouble));
            let begin = world.clock.instant();
            let reply = ask(&world, name).await;
            let detail = reply.json()["detail"].as_str().unwrap().to_owned();
            (reply.status, detail, begin.elapsed().as_secs(), world.github.has(name))
        };
        let unheard = "Failed to provision JIT runner: ".to_owned();
        let slow = GithubTrouble::Slow(Duration::from_secs(7));
        assert_eq!(met(slow, "r-1").await, (500, unheard.clone(), 5, true));
        let lost = unheard + "Server disconnected without sending a response.";
        assert_eq!(met(GithubTrouble::LostAfter, "r-2").await, (500, lost.clone(), 0, true));
        assert_eq!(met(GithubTrouble::LostBefore, "r-3").await, (500, lost, 0, false));
        let refused = "GitHub API error: Service Unavailable".to_owned();
        let status = GithubTrouble::Status(StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(met(status, "r-4").await, (400, refused, 0, false));
        assert!(world.gharts.records().is_empty());
        world.gharts.trouble_github(None);
        assert_eq!(ask(&world, "r-1").await.status, 400, "the name is burnt at GitHub");
        assert_eq!(ask(&world, "r-5").await.status, 201);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_a_frozen_service_is_served_when_its_client_has_gone() {
    let world = world(Flavour::Team, SQLITE);
    world.gharts.freeze(HALF_A_MINUTE);
    let token = world.token("listener");
    let asking = world.send(jit(&token, &json!({ "runner_name": "r-1" })));
    assert!(tokio::time::timeout(Duration::from_secs(5), asking).await.is_err());
    let lists = world.send(call("GET", "/api/v1/runners", &token));
    assert_eq!(lists.await.json()["total"], 1);
}

#[tokio::test(start_paused = true)]
async fn behind_the_ingress_everything_but_the_api_is_a_web_page() {
    let world = world(
        Flavour::SetAware,
        Deployment {
            ingress: true,
            ..SQLITE
        },
    );
    for path in ["/", "/openapi.json", "/metrics", "/dashboard"] {
        let reply = world.call("GET", path, "").await;
        assert_eq!(
            (reply.status, reply.header("content-type")),
            (200, Some("text/html")),
            "{path}"
        );
    }
    assert_eq!(world.call("GET", "/health", "").await.text(), "OK");
    let me = world.call("GET", "/api/v1/auth/me", &world.token("listener")).await;
    assert!(me.json()["features"].is_array());
}
