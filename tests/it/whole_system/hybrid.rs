//! Sets that share nothing but the process: other credentials, other scopes, other provisioners. What is wrong with
//! one of them is no affair of the others (B8, B48).

use std::time::Duration;

use gharts_listener::sim::{
    github::{NewJobs, Pat},
    network::Trouble,
    world::{ORGANIZATION, Options, Provisioner, SetOptions},
};
use http::StatusCode;

use super::harness::{Run, Running, Stage, jobs};

const MINUTE: Duration = Duration::from_secs(60);
const REPOSITORY: &str = "acme/web";
const GITHUB: &str = "github.test";
const GHARTS: &str = "gharts.test";
/// Jobs of one minute on a daemon that nothing disturbs.
const AS_EVER: Duration = Duration::from_secs(80);

/// One set in the organization, one in a repository that another credential opens.
fn two_scopes(provisioner: Provisioner) -> Options {
    let mut web = SetOptions::new("web", Provisioner::ScaleSet, 10);
    web.scope = Some(REPOSITORY.to_owned());
    Options {
        sets: vec![SetOptions::new("linux", provisioner, 10), web],
        ..Options::default()
    }
}

fn web_jobs(count: usize) -> NewJobs {
    NewJobs::for_set(REPOSITORY, "web", count)
}

async fn until_polling(running: &Running, set: &str) {
    running
        .until("a session", |world| world.github.set(set).is_some_and(|s| s.polling))
        .await;
}

#[tokio::test(start_paused = true)]
async fn b24_sets_in_two_scopes_each_work_by_their_own_credential() {
    let running = Running::start(two_scopes(Provisioner::ScaleSet)).await;
    let mut all = running.queue(&jobs("linux", 4)).await;
    all.extend(running.queue(&web_jobs(4)).await);
    running.until_finished(&all, 3 * MINUTE).await;
    let scope = |set: &str| running.world.github.set(set).unwrap().scope;
    assert_eq!(
        (scope("linux"), scope("web")),
        (ORGANIZATION.to_owned(), REPOSITORY.to_owned())
    );
    let github = |set: &str| running.said_of(set).unwrap().github;
    assert_eq!(github("web"), "GitHub at https://github.test/acme/web");
    assert_eq!(github("linux"), "GitHub at https://github.test/acme");
    let labels = |organization: &str, repository: &str, name: &str| {
        let labels = [
            format!("organization=\"{organization}\""),
            format!("repository=\"{repository}\""),
            format!("name=\"{name}\""),
        ];
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        running.metric("gha_max_runners", &labels)
    };
    assert_eq!(
        (labels("acme", "web", "web"), labels("acme", "", "linux")),
        (10.0, 10.0)
    );
    let world = running.end().await;
    assert_eq!(world.counters.created(), 8);
    let calls = world.github.calls();
    let chain = (calls["registration token"], calls["runner registration"]);
    assert_eq!(chain, (2, 2), "one chain per credential and scope");
}

#[tokio::test(start_paused = true)]
async fn b46_orphans_of_every_scope_are_found_in_their_own_list() {
    let stage = Stage::set(two_scopes(Provisioner::ScaleSet)).await;
    let mut lost = Vec::new();
    for set in ["linux", "web"] {
        let (rival, name) = (stage.rival_of(set), stage.lost_runner(set));
        let id = rival.register(set).await;
        let made = rival.connection.generate_jit_config(id, name.as_str(), "_work").await;
        lost.push(made.unwrap().name);
    }
    let running = stage.start();
    running
        .until_within("the orphans' end", 15 * MINUTE, |world| {
            let left = world.github.runners();
            lost.iter().all(|name| left.iter().all(|r| r.name != *name))
        })
        .await;
    let removed = |set: &str| running.metric("gharts_listener_orphans_removed_total", &[&format!("set=\"{set}\"")]);
    assert_eq!((removed("linux"), removed("web")), (1.0, 1.0));
    running.end().await;
}

/// What can be wrong with the repository's side, and how it is mended.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    TokenRevoked,
    TokenMayNot,
    RestHangs,
    ServiceHangs,
    ServiceFails,
}

const ALL_WRONG: [Wrong; 5] = [
    Wrong::TokenRevoked,
    Wrong::TokenMayNot,
    Wrong::RestHangs,
    Wrong::ServiceHangs,
    Wrong::ServiceFails,
];

/// Breaks the repository's side; gives what mends it.
fn break_web(stage: &Stage, wrong: Wrong) -> impl FnOnce() + use<> {
    let (github, network) = (stage.world.github.clone(), stage.world.network.clone());
    let token = stage.world.services.pat_of(REPOSITORY).unwrap().to_owned();
    let pat = move |manages_runners| Pat {
        token: token.clone(),
        manages_runners,
        only_in: Some(REPOSITORY.to_owned()),
    };
    let service = github.service_path(REPOSITORY).unwrap();
    let trouble = match wrong {
        Wrong::TokenRevoked => {
            github.remove_pat(&pat(true).token);
            None
        }
        Wrong::TokenMayNot => {
            github.put_pat(pat(false));
            None
        }
        Wrong::RestHangs => Some(("/repos/acme/web/".to_owned(), Trouble::Silence)),
        Wrong::ServiceHangs => Some((service, Trouble::Silence)),
        Wrong::ServiceFails => {
            let answer = Trouble::Answered(StatusCode::INTERNAL_SERVER_ERROR, "{}".to_owned());
            Some((service, answer))
        }
    };
    let disturbance = trouble.map(|(path, trouble)| network.disturb(GITHUB, &path, trouble));
    move || {
        github.put_pat(pat(true));
        if let Some(disturbance) = disturbance {
            disturbance.end();
        }
    }
}

/// The organization's set works as ever from the start, whatever is wrong with the repository's; which works, too,
/// once that is mended.
async fn unharmed_by_the_repository(provisioner: Provisioner) {
    for wrong in ALL_WRONG {
        let _run = Run::called(format!("{wrong:?} beside {provisioner:?}"));
        let stage = Stage::set(two_scopes(provisioner)).await;
        let (rival, lost) = (stage.rival_of("linux"), stage.lost_runner("linux"));
        let id = rival.register("linux").await;
        match provisioner {
            Provisioner::ScaleSet => {
                let made = rival.connection.generate_jit_config(id, lost.as_str(), "_work").await;
                made.unwrap();
            }
            Provisioner::Gharts => rival.grant(lost.as_str(), id).await,
        }
        let mend = break_web(&stage, wrong);
        let running = stage.start();
        until_polling(&running, "linux").await;
        for _ in 0..3 {
            let well = running.world.github.queue_jobs(&jobs("linux", 8));
            running.until_finished(&well, AS_EVER).await;
        }
        running
            .until_within("the orphan's end", 15 * MINUTE, |world| {
                let recorded = world
                    .gharts
                    .records()
                    .into_iter()
                    .any(|r| r.name == lost.as_str() && r.status != gharts_listener::sim::gharts::Status::Deleted);
                !recorded && world.github.runners().iter().all(|r| r.name != lost.as_str())
            })
            .await;
        assert!(!running.said_of("linux").unwrap().degraded);
        let web = running.said_of("web").unwrap();
        assert!(web.degraded, "{web:#?}");
        mend();
        running
            .until_within("the repository's session", 8 * MINUTE, |world| {
                world.github.set("web").is_some_and(|s| s.polling)
            })
            .await;
        let late = running.world.github.queue_jobs(&web_jobs(3));
        running.until_finished(&late, 2 * MINUTE).await;
        running.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn b8_a_credential_that_fails_or_hangs_delays_no_other_credentials_sets() {
    unharmed_by_the_repository(Provisioner::ScaleSet).await;
}

#[tokio::test(start_paused = true)]
async fn b48_sets_behind_a_gharts_work_while_the_scale_sets_own_side_is_down() {
    unharmed_by_the_repository(Provisioner::Gharts).await;
}

/// Both in one organization, by one credential.
fn both() -> Options {
    Options {
        sets: vec![
            SetOptions::new("plain", Provisioner::ScaleSet, 40),
            SetOptions::new("bound", Provisioner::Gharts, 10),
        ],
        ..Options::default()
    }
}

#[tokio::test(start_paused = true)]
async fn b48_the_scale_sets_own_sets_work_while_gharts_is_down_in_whatever_way() {
    let refused = || Trouble::Answered(StatusCode::UNAUTHORIZED, "{\"detail\":\"Invalid token\"}".to_owned());
    let wrong_url = || Trouble::Answered(StatusCode::NOT_FOUND, "{\"detail\":\"Not Found\"}".to_owned());
    for trouble in [Trouble::Silence, Trouble::LostBefore, refused(), wrong_url()] {
        let _run = Run::called(format!("{trouble:?}"));
        let stage = Stage::set(both()).await;
        let (rival, lost) = (stage.rival(), stage.lost_runner("plain"));
        let id = rival.register("plain").await;
        let made = rival.connection.generate_jit_config(id, lost.as_str(), "_work").await;
        made.unwrap();
        let down = stage.world.network.disturb(GHARTS, "/", trouble);
        let running = stage.start();
        until_polling(&running, "plain").await;
        until_polling(&running, "bound").await;
        let waiting = running.world.github.queue_jobs(&jobs("bound", 5));
        for _ in 0..3 {
            let well = running.world.github.queue_jobs(&jobs("plain", 20));
            running.until_finished(&well, AS_EVER).await;
        }
        running
            .until_within("the orphan's end", 15 * MINUTE, |world| {
                world.github.runners().iter().all(|r| r.name != lost.as_str())
            })
            .await;
        assert!(!running.said_of("plain").unwrap().degraded);
        assert!(running.said_of("bound").unwrap().degraded);
        down.end();
        running.until_finished(&waiting, 10 * MINUTE).await;
        running.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn b48_registrations_that_hang_at_github_leave_room_for_what_gharts_registered() {
    let mut bound = SetOptions::new("bound", Provisioner::Gharts, 10);
    bound.min_runners = 2;
    let stage = Stage::set(Options {
        sets: vec![SetOptions::new("plain", Provisioner::ScaleSet, 200), bound],
        ..Options::default()
    })
    .await;
    let id = stage.rival().register("plain").await;
    // GHARTS calls the same service for its own.
    let jits = format!("/runnerscalesets/{id}/generatejitconfig");
    let hang = stage.world.network.disturb(GITHUB, &jits, Trouble::Silence);
    let plain = stage.world.github.queue_jobs(&jobs("plain", 150));
    let running = stage.start();
    // Well before the first of the hanging calls is given up; only an agents list can tell of idle runners.
    running
        .until_within("idle runners", Duration::from_secs(25), |_| {
            let idle = running.set_status("bound").runners.get("idle").copied();
            hang.met() >= 40 && idle == Some(2)
        })
        .await;
    let queued = running.world.github.queue_jobs(&jobs("bound", 8));
    running.until_finished(&queued, AS_EVER).await;
    hang.end();
    running.until_finished(&plain, 15 * MINUTE).await;
    running.end_with_spares(2).await;
}
