//! Scale sets at GitHub as the file wants them, and what is told where GitHub has it otherwise (B25).

use std::time::Duration;

use gharts_listener::sim::{
    github::{GroupAccess, JobState, NewJobs, Repositories},
    network::Trouble,
    world::{Credential, ORGANIZATION, Options, Provisioner, SetOptions},
};
use http::StatusCode;

use super::harness::{Running, Stage, jobs, with_provisioner};

const MINUTE: Duration = Duration::from_secs(60);

fn notes(running: &Running, set: &str) -> Vec<String> {
    let notes = running.set_status(set).notes;
    notes.into_iter().map(|note| note.code).collect()
}

fn two_sets() -> Options {
    Options {
        sets: vec![
            SetOptions::new("well", Provisioner::ScaleSet, 10),
            SetOptions::new("odd", Provisioner::ScaleSet, 10),
        ],
        ..Options::default()
    }
}

/// The file with a line more for the set `odd`.
fn odd(line: &str) -> impl FnOnce(String) -> String {
    let line = format!("  - name: odd\n    {line}\n");
    move |text| text.replace("  - name: odd\n", &line)
}

#[tokio::test(start_paused = true)]
async fn b25_labels_that_the_service_drops_are_told_and_the_set_works() {
    let stage = Stage::set_with(two_sets(), odd("labels: [odd, gpu, large]")).await;
    stage.world.github.configure(|s| s.multi_label = false);
    let mut running = stage.start();
    let queued = running.queue(&jobs("odd", 3)).await;
    running.until_finished(&queued, 2 * MINUTE).await;
    let said = running.said_of("odd").unwrap();
    assert!(!said.degraded);
    assert_eq!(notes(&running, "odd"), ["label_missing", "label_missing"]);
    for label in ["gpu", "large"] {
        assert!(said.notes.iter().any(|n| n.message.contains(label)), "{:?}", said.notes);
    }
    assert!(notes(&running, "well").is_empty());
    let gauge = |running: &Running| running.metric("gharts_listener_note", &["set=\"odd\"", "note=\"label_missing\""]);
    assert_eq!(gauge(&running), 1.0);

    running.stop().await;
    running.world.github.configure(|s| s.multi_label = true);
    running.start_again();
    let labelled = NewJobs::with_labels(ORGANIZATION, &["gpu", "large"], 2);
    running
        .until("the labels", |world| world.github.set("odd").unwrap().labels.len() == 3)
        .await;
    let queued = running.world.github.queue_jobs(&labelled);
    running.until_finished(&queued, 2 * MINUTE).await;
    assert!(notes(&running, "odd").is_empty());
    assert_eq!(gauge(&running), 0.0);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b25_a_name_that_github_refuses_is_a_reason_on_that_set_alone() {
    const WORDS: &str = "The name odd is reserved.";
    let stage = Stage::set(two_sets()).await;
    stage.world.github.configure(|s| {
        s.refused_names.insert("odd".to_owned(), WORDS.to_owned());
    });
    let running = stage.start();
    let reason = running.until_reason("odd", "invalid_request").await;
    for part in [WORDS, "create scale set", "400", "ActivityId", "X-GitHub-Request-Id"] {
        assert!(reason.message.contains(part), "{reason:?}");
    }
    assert!(reason.remedy.unwrap().contains("name"));
    for _ in 0..10 {
        let queued = running.queue(&jobs("well", 3)).await;
        running.until_finished(&queued, 2 * MINUTE).await;
        assert!(
            running.reason("odd", "invalid_request").is_some(),
            "it stands while it is tried again"
        );
    }
    running.pass(50 * MINUTE).await;
    let asked = running.world.github.answered("create set", 400);
    assert!((5..=25).contains(&asked), "asked {asked} times in an hour");
    running.world.github.configure(|s| s.refused_names.clear());
    running
        .until_within("the set", 6 * MINUTE, |world| {
            world.github.set("odd").is_some_and(|s| s.polling)
        })
        .await;
    let queued = running.queue(&jobs("odd", 2)).await;
    running.until_finished(&queued, 2 * MINUTE).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b25_an_unknown_group_is_a_reason_on_that_set_alone() {
    let running = Running::start_with(two_sets(), odd("github: { runnerGroup: nowhere }")).await;
    let reason = running.until_reason("odd", "configuration").await;
    assert!(reason.message.contains("nowhere"), "{reason:?}");
    assert!(reason.remedy.unwrap().contains("runner group"));
    let queued = running.queue(&jobs("well", 3)).await;
    running.until_finished(&queued, 2 * MINUTE).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b25_a_group_that_keeps_jobs_out_is_a_note_until_it_lets_them_in() {
    let running = Running::start(with_provisioner(Provisioner::ScaleSet)).await;
    let first = running.queue(&jobs("linux", 1)).await;
    running.until_finished(&first, 2 * MINUTE).await;
    assert!(notes(&running, "linux").is_empty());
    let github = running.world.github.clone();
    let set = |access| assert!(github.set_group_access(ORGANIZATION, "Default", access));
    let public = NewJobs {
        public: true,
        ..jobs("linux", 1)
    };
    for (access, note) in [
        (
            GroupAccess {
                public_repositories: false,
                ..GroupAccess::default()
            },
            "group_not_public",
        ),
        (
            GroupAccess {
                repositories: Repositories::Selected(Vec::new()),
                ..GroupAccess::default()
            },
            "group_empty",
        ),
        (
            GroupAccess {
                workflows: Some(Vec::new()),
                ..GroupAccess::default()
            },
            "group_workflows",
        ),
    ] {
        set(access);
        let hidden = github.queue_jobs(&public);
        running
            .until_within(note, 11 * MINUTE, |_| notes(&running, "linux") == [note])
            .await;
        let said = running.said_of("linux").unwrap();
        assert!(!said.degraded && said.notes[0].message.contains("Default"), "{said:?}");
        assert_eq!(running.count(&hidden, JobState::Finished), 0);
        set(GroupAccess::default());
        running.until_finished(&hidden, 2 * MINUTE).await;
        running
            .until_within("no note", 11 * MINUTE, |_| notes(&running, "linux").is_empty())
            .await;
    }
    let calls = running.world.github.calls()["runner groups"];
    assert!(calls <= 10, "{calls} looks in an hour");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b25_a_credential_that_may_not_read_groups_says_nothing_of_them_and_works() {
    let stage = Stage::set(with_provisioner(Provisioner::ScaleSet)).await;
    let shut = GroupAccess {
        public_repositories: false,
        ..GroupAccess::default()
    };
    stage.world.github.set_group_access(ORGANIZATION, "Default", shut);
    let refusal = Trouble::Answered(
        StatusCode::FORBIDDEN,
        "{\"message\":\"Must have admin rights\"}".to_owned(),
    );
    let refused = stage.world.network.disturb("github.test", "/runner-groups", refusal);
    let running = stage.start();
    let queued = running.queue(&jobs("linux", 2)).await;
    running.until_finished(&queued, 2 * MINUTE).await;
    running.pass(30 * MINUTE).await;
    assert!((1..=5).contains(&refused.met()), "{} looks", refused.met());
    let said = running.said_of("linux").unwrap();
    assert!(said.notes.is_empty() && !said.degraded, "{said:?}");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b24_a_hundred_sets_share_one_token_and_one_admin_connection() {
    const SETS: usize = 100;
    let stage = Stage::set(Options {
        sets: (0..SETS)
            .map(|n| SetOptions::new(&format!("set-{n}"), Provisioner::ScaleSet, 10))
            .collect(),
        credential: Credential::App,
        ..Options::default()
    })
    .await;
    stage.world.github.configure(|s| s.admin_token_ttl = 10 * MINUTE);
    let running = stage.start();
    running
        .until("every set's session", |world| {
            world.github.sets().iter().filter(|s| s.polling).count() == SETS
        })
        .await;
    let chain = |running: &Running| {
        let calls = running.world.github.calls();
        ["access token", "registration token", "runner registration"].map(|hop| calls[hop])
    };
    assert_eq!(chain(&running), [1, 1, 1]);
    let queue = |n: usize| running.world.github.queue_jobs(&jobs(&format!("set-{n}"), 1));
    let all: Vec<_> = (0..SETS).flat_map(queue).collect();
    running.until_finished(&all, 3 * MINUTE).await;
    // Renewed ahead of its end, whoever asks: every ten minutes the one, within the hour the other.
    running.pass(60 * MINUTE).await;
    let calls = chain(&running);
    assert_eq!(calls[0], 2, "{calls:?}");
    assert!(calls[1..].iter().all(|n| (6..=9).contains(n)), "{calls:?}");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b24_a_registration_token_that_spreads_slowly_costs_seconds_and_no_other_token() {
    let stage = Stage::set(with_provisioner(Provisioner::ScaleSet)).await;
    stage
        .world
        .github
        .configure(|s| s.registration_token_delay = Duration::from_secs(6));
    let running = stage.start();
    running
        .until_within("a session", Duration::from_secs(20), |world| {
            world.github.set("linux").is_some_and(|s| s.polling)
        })
        .await;
    let github = &running.world.github;
    assert_eq!(github.calls()["registration token"], 1);
    assert!((2..=4).contains(&github.answered("runner registration", 401)));
    running.end().await;
}
