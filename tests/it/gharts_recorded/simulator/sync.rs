//! The sync with GitHub: who is seen, who is gone, who has other labels than were asked for.

use std::time::Duration;

use gharts_listener::sim::gharts::{Database, Deployment, Flavour, Kind, Record, Status};
use serde_json::{Value, json};

use super::{
    github::SET,
    world::{Reply, World},
};

const MINUTE: Duration = Duration::from_secs(60);

fn world(flavour: Flavour, database: Database) -> World {
    let deployment = Deployment {
        database,
        sync: true,
        ..Deployment::default()
    };
    let world = World::run(flavour, deployment);
    if flavour.has_teams() {
        world.user_with_team("listener", "backend", Some(2));
    } else {
        world.user("listener");
    }
    world
}

async fn ask(world: &World, body: Value) -> Reply {
    let reply = world.jit(&world.token("listener"), &body).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    reply
}

async fn plain(world: &World, name: &str) {
    ask(world, json!({ "runner_name": name, "labels": ["linux", "gpu"] })).await;
}

fn record(world: &World, name: &str) -> Record {
    let records = world.gharts.records();
    records.into_iter().find(|record| record.name == name).unwrap()
}

#[tokio::test(start_paused = true)]
async fn b22_the_sync_runs_as_often_as_its_version_and_its_database_let_it() {
    for (flavour, database, after) in [
        (Flavour::User, Database::Sqlite, Some(2)),
        (Flavour::User, Database::Postgres, Some(2)),
        (Flavour::Team, Database::Postgres, Some(5)),
        (Flavour::SetAware, Database::Postgres, Some(5)),
        (Flavour::Team, Database::Sqlite, None),
        (Flavour::Seed, Database::Postgres, None),
    ] {
        let world = world(flavour, database);
        plain(&world, "r-1").await;
        // The minutes are counted a little late.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut seen = None;
        for minute in 1..=30 {
            tokio::time::sleep(MINUTE).await;
            if seen.is_none() && record(&world, "r-1").status == Status::Offline {
                seen = Some(minute);
            }
        }
        assert_eq!(seen, after, "{flavour:?} on {database:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn b22_a_record_follows_its_runner_and_only_what_is_not_yet_online_takes_a_place() {
    let world = world(Flavour::Team, Database::Sqlite);
    let taken = || world.gharts.places_taken("backend");
    plain(&world, "r-1").await;
    world
        .github
        .edit("r-1", |runner| (runner.status, runner.busy) = ("online", true));
    world.gharts.sync().await;
    assert_eq!((record(&world, "r-1").status, taken()), (Status::Online, 0));
    world.github.edit("r-1", |runner| runner.status = "offline");
    world.gharts.sync().await;
    assert_eq!((record(&world, "r-1").status, taken()), (Status::Offline, 1));
    world.github.forget("r-1");
    world.gharts.sync().await;
    assert_eq!((record(&world, "r-1").status, taken()), (Status::Deleted, 0));
}

#[tokio::test(start_paused = true)]
async fn b22_a_runner_that_never_came_is_dropped_an_hour_or_a_day_after_its_grant() {
    for (flavour, kept, dropped) in [(Flavour::Team, 59, 61), (Flavour::User, 23 * 60, 25 * 60)] {
        let world = world(flavour, Database::Sqlite);
        plain(&world, "r-1").await;
        world.github.forget("r-1");
        tokio::time::sleep(MINUTE * kept).await;
        world.gharts.sync().await;
        assert_eq!(record(&world, "r-1").status, Status::Pending, "{flavour:?}");
        tokio::time::sleep(MINUTE * (dropped - kept)).await;
        world.gharts.sync().await;
        assert_eq!(record(&world, "r-1").status, Status::Deleted, "{flavour:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn b22_an_idle_runner_with_other_labels_is_deleted_at_github_too() {
    for (flavour, busy_one) in [(Flavour::Team, Status::Online), (Flavour::User, Status::Deleted)] {
        let world = world(flavour, Database::Sqlite);
        for name in ["same", "more", "less", "busy"] {
            world.gharts.set_quota("backend", None);
            plain(&world, name).await;
            world.github.edit(name, |runner| runner.status = "online");
        }
        world.github.edit("same", |runner| runner.labels.reverse());
        world.github.edit("more", |runner| runner.labels.push("X64".to_owned()));
        world.github.edit("less", |runner| runner.labels.clear());
        world.github.edit("busy", |runner| {
            runner.busy = true;
            runner.labels.push("X64".to_owned());
        });
        world.gharts.sync().await;
        let status = |name| record(&world, name).status;
        assert_eq!((status("same"), world.github.has("same")), (Status::Online, true));
        assert_eq!((status("more"), world.github.has("more")), (Status::Deleted, false));
        assert_eq!((status("less"), world.github.has("less")), (Status::Deleted, false));
        assert_eq!(
            (status("busy"), world.github.has("busy")),
            (busy_one, true),
            "{flavour:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn b22_a_runner_of_a_scale_set_has_no_labels_anywhere_and_outlives_the_sync() {
    let world = world(Flavour::SetAware, Database::Postgres);
    let body = json!({
        "runner_name": "r-1", "labels": ["linux"],
        "runner_scale_set_id": SET.0, "runner_scale_set_name": SET.1,
    });
    ask(&world, body).await;
    tokio::time::sleep(6 * MINUTE).await;
    let record = record(&world, "r-1");
    assert_eq!((record.kind, record.status), (Kind::Jit, Status::Offline));
    assert!(world.github.has("r-1"));
}

#[tokio::test(start_paused = true)]
async fn beyond_the_first_hundred_runners_the_sync_is_blind() {
    let world = world(Flavour::User, Database::Sqlite);
    plain(&world, "r-1").await;
    world.github.edit("r-1", |runner| runner.status = "online");
    world.gharts.sync().await;
    let mine = world.github.lock().runners.remove(0);
    (0..100).for_each(|n| world.github.add(&format!("other-{n}")));
    world.github.lock().runners.push(mine);
    world.gharts.sync().await;
    assert_eq!(record(&world, "r-1").status, Status::Deleted);
    assert!(world.github.has("r-1"), "it lives");
}
