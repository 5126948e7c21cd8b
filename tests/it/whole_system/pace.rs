//! A GHARTS as slow and as easily frozen as the real one: the daemon's usual limits keep it moving, and what freezes
//! it all the same costs time and nothing else.

use std::time::Duration;

use gharts_listener::{
    http::Transport as _,
    sim::{
        gharts::{Database, Deployment, Latency},
        world::{MACHINE, Options, Provisioner, World},
    },
};
use serde_json::json;

use super::harness::{Running, jobs, with_provisioner};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn at_the_recorded_pace(database: Database) -> Options {
    Options {
        deployment: Deployment {
            database,
            freezes: true,
            latency: Latency::RECORDED,
            ..Deployment::default()
        },
        ..with_provisioner(Provisioner::Gharts)
    }
}

#[tokio::test(start_paused = true)]
async fn b20_within_the_usual_limits_a_slow_gharts_serves_three_jobs_in_two_seconds_and_never_freezes() {
    for database in [Database::Sqlite, Database::Postgres] {
        let running = Running::start(at_the_recorded_pace(database)).await;
        let begun = running.world.clock.instant();
        let queued = running.queue(&jobs("linux", 200).lasting(SECOND)).await;
        running.until_finished(&queued, 4 * MINUTE).await;
        let rate = 200.0 / begun.elapsed().as_secs_f64();
        let world = running.end().await;
        // A grant and a deletion for each job, and 2.4 to 4 calls a second.
        assert!((1.2..2.0).contains(&rate), "{rate} jobs/s on {database:?}");
        assert_eq!(world.gharts.stood_still(), Duration::ZERO);
        assert!(world.gharts.max_in_flight() <= 4, "{}", world.gharts.max_in_flight());
        assert_eq!(world.counters.created(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn b20_b21_a_gharts_that_stands_still_for_minutes_loses_no_job_and_keeps_no_runner() {
    let running = Running::start(at_the_recorded_pace(Database::Sqlite)).await;
    let queued = running.queue(&jobs("linux", 60).lasting(20 * SECOND)).await;
    for minutes in [1, 5] {
        running.pass(15 * SECOND).await;
        running.world.gharts.freeze(minutes * MINUTE);
        running.pass(minutes * MINUTE).await;
    }
    running.until_finished(&queued, 20 * MINUTE).await;
    running.end().await;
}

/// Strangers ask for so many runners at once that each of their calls beyond the database's connections stops
/// everybody for half a minute.
#[tokio::test(start_paused = true)]
async fn b20_b21_when_strangers_have_frozen_gharts_it_recovers_and_every_job_ends() {
    let running = Running::start(at_the_recorded_pace(Database::Sqlite)).await;
    let queued = running.queue(&jobs("linux", 60).lasting(20 * SECOND)).await;
    running.pass(15 * SECOND).await;
    let world = &running.world;
    let names = (0..40).map(|n| format!(r#"{{"runner_name":"stranger-{n}"}}"#));
    let strangers = names.map(|body| as_stranger(world, "POST", "/jit".to_owned(), body));
    let answers = futures::future::join_all(strangers).await;
    let granted = answers.into_iter().filter(|status| *status == 201).count();
    assert!(granted >= 10, "{granted}");
    let frozen = world.gharts.stood_still();
    assert!(frozen >= 10 * MINUTE, "{frozen:?}");
    // Every call that comes while it stands still makes it stand still longer: the daemon must ask rarely.
    running.until_finished(&queued, 40 * MINUTE).await;
    for record in world
        .gharts
        .records()
        .into_iter()
        .filter(|r| r.name.starts_with("stranger"))
    {
        assert_eq!(
            as_stranger(world, "DELETE", format!("/{}", record.id), String::new()).await,
            200
        );
    }
    // Those of which GHARTS does not know, since it stood still when GitHub answered.
    for runner in world.github.runners().iter().filter(|r| r.name.starts_with("stranger")) {
        world.github.remove_runner(&runner.name);
    }
    running.end().await;
}

/// The status of a call with another identity than the daemon's.
async fn as_stranger(world: &World, method: &str, path: String, body: String) -> u16 {
    let audience = &world.services.addresses.gharts;
    let claims = json!({ "sub": MACHINE.0, "aud": audience, "gty": "client-credentials" });
    let token = world.oidc.issue(claims.as_object().unwrap()).unwrap();
    let request = http::Request::builder()
        .method(method)
        .uri(format!("{audience}/api/v1/runners{path}"))
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
        .body(body.into())
        .unwrap();
    world.network.send(request).await.unwrap().status().as_u16()
}

/// How long strangers keep GHARTS frozen beside the daemon, or without one.
async fn frozen_by_strangers(with_daemon: bool) -> Duration {
    let mut running = Running::start(at_the_recorded_pace(Database::Sqlite)).await;
    let queued = running.queue(&jobs("linux", 60).lasting(20 * SECOND)).await;
    if with_daemon {
        running.pass(15 * SECOND).await;
    } else {
        for job in &queued {
            let _ = running.world.github.cancel(&job.id);
        }
        running.stop().await;
    }
    let world = &running.world;
    let names = (0..40).map(|n| format!(r#"{{"runner_name":"stranger-{n}"}}"#));
    let strangers = names.map(|body| as_stranger(world, "POST", "/jit".to_owned(), body));
    futures::future::join_all(strangers).await;
    let begun = world.clock.instant();
    // It moves when a whole minute has brought no more of it.
    let mut stood = Duration::ZERO;
    while world.gharts.stood_still() > stood && begun.elapsed() < 60 * MINUTE {
        stood = world.gharts.stood_still();
        tokio::time::sleep(10 * MINUTE).await;
    }
    stood
}

#[tokio::test(start_paused = true)]
async fn b20_a_freeze_that_strangers_made_ends_little_later_beside_the_daemon() {
    let without = frozen_by_strangers(false).await;
    let with = frozen_by_strangers(true).await;
    println!("frozen for {without:?} without the daemon, for {with:?} beside it");
    // Each call costs half a minute: what was under way when it began, and a few questions whether it is over.
    assert!(with <= without + 7 * MINUTE, "{without:?} without, {with:?} with");
}
