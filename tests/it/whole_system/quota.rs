//! A limit that several sets, and strangers, share: refused, freed, raised, lowered. Nobody is locked out, nobody
//! starves, no place stays free, and nobody is asked more often than the back-off says.

mod observer;

use std::time::Duration;

use gharts_listener::sim::{
    github::{JobHandle, JobState},
    world::{Options, Provisioner, RUNNER_NAMESPACE, SetOptions, TEAM},
};
use serde_json::json;

use self::observer::Observer;
use super::harness::{Run, Running, jobs};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn sets(names: &[&str]) -> Vec<SetOptions> {
    names
        .iter()
        .map(|name| SetOptions::new(name, Provisioner::Gharts, 100))
        .collect()
}

/// `count` jobs whose lengths are spread around `mean`, so that they do not all end together.
async fn spread(running: &Running, set: &str, count: usize, mean: u32) -> Vec<JobHandle> {
    let mut queued = Vec::new();
    for n in 0..count {
        let part = 50 + u32::try_from(n * 37 % 100).unwrap();
        let lasting = SECOND * mean * part / 100;
        queued.extend(running.queue(&jobs(set, 1).lasting(lasting)).await);
    }
    queued
}

fn begun(running: &Running, jobs: &[JobHandle]) -> usize {
    running.count(jobs, JobState::Running) + running.count(jobs, JobState::Finished)
}

#[tokio::test(start_paused = true)]
async fn b19_b45_two_sets_and_a_stranger_share_ten_places_whatever_becomes_of_them() {
    for seed in 1..=3 {
        let _run = Run::called(format!("seed {seed}"));
        ten_places(seed).await;
    }
}

/// Two hundred jobs for ten places: taken by a stranger, given back, raised, lowered.
async fn ten_places(seed: u64) {
    let running = Running::start(Options {
        seed,
        quota: Some(10),
        sets: sets(&["blue", "green"]),
        ..Options::default()
    })
    .await;
    let gharts = running.world.gharts.clone();
    let mut observer = Observer::new(&running);
    let blue = spread(&running, "blue", 100, 60).await;
    let green = spread(&running, "green", 100, 60).await;
    observer.demand("blue", &blue);
    observer.demand("green", &green);

    observer.watch(4 * MINUTE, Some(10)).await;
    let (of_blue, of_green) = (begun(&running, &blue), begun(&running, &green));
    assert!(
        of_blue.abs_diff(of_green) <= 4,
        "served alike: {of_blue} and {of_green}"
    );
    assert!(
        of_blue + of_green >= 35,
        "four minutes of ten places: {of_blue} and {of_green}"
    );

    gharts.take_places(TEAM, 10);
    observer.watch(6 * MINUTE, Some(10)).await;
    assert_eq!(running.world.counters.live(), 0, "every place is the stranger's");
    for set in ["blue", "green"] {
        assert_eq!(running.world.github.set(set).unwrap().announced, Some(0), "{set}");
    }
    let refusals = observer.refusals_within(3 * MINUTE);
    assert!(
        (6..=9).contains(&refusals),
        "one probe per step: {refusals} in three minutes"
    );

    gharts.take_places(TEAM, 4);
    observer.watch(3 * MINUTE, Some(10)).await;
    let live = running.world.counters.live();
    assert!((5..=6).contains(&live), "six places: {live}");

    gharts.set_quota(TEAM, Some(16));
    observer.watch(3 * MINUTE, Some(16)).await;
    let live = running.world.counters.live();
    assert!((11..=12).contains(&live), "twelve places: {live}");

    gharts.set_quota(TEAM, Some(6));
    observer.watch(4 * MINUTE, Some(6)).await;
    let live = running.world.counters.live();
    assert!((1..=2).contains(&live), "two places: {live}");

    gharts.take_places(TEAM, 0);
    gharts.set_quota(TEAM, Some(60));
    observer.watch(2 * MINUTE, Some(60)).await;
    gharts.set_quota(TEAM, None);
    for of_set in [&blue, &green] {
        running.until_finished(of_set, 30 * MINUTE).await;
    }
    observer.judge();
    let (of_blue, of_green) = (blue.len(), green.len());
    let world = running.end().await;
    assert_eq!(world.counters.created(), of_blue + of_green, "one runner per job");
}

#[tokio::test(start_paused = true)]
async fn b45_places_follow_the_need_of_each_set() {
    let running = Running::start(Options {
        quota: Some(0),
        sets: sets(&["large", "small"]),
        ..Options::default()
    })
    .await;
    // A refusal: from now on what GitHub assigns says nothing about what each set needs.
    let early = running.queue(&jobs("large", 1).lasting(SECOND)).await;
    running.until_reason("small", "quota_exceeded").await;
    running
        .until("no capacity", |world| {
            world.github.sets().iter().all(|set| set.announced == Some(0))
        })
        .await;
    let large = spread(&running, "large", 90, 60).await;
    let small = spread(&running, "small", 30, 60).await;
    // They are known to wait before there is any place: otherwise the early job's runner ends the hurdle, and GitHub
    // assigns them all.
    running.pass(MINUTE).await;
    running.world.gharts.set_quota(TEAM, Some(12));
    running.pass(5 * MINUTE).await;
    let (of_large, of_small) = (begun(&running, &large), begun(&running, &small));
    // Three to one, give or take a runner at any time.
    assert!(
        (2 * of_small..=5 * of_small).contains(&of_large),
        "{of_large} of 90, {of_small} of 30"
    );
    for of_set in [&large, &small, &early] {
        running.until_finished(of_set, 20 * MINUTE).await;
    }
    running.end().await;
}

/// A set with one job among sets with many: its first runner comes before anybody's next.
async fn none_starves(options: Options, within: Duration) {
    let running = Running::start(options).await;
    let first = spread(&running, "first", 60, 60).await;
    let second = spread(&running, "second", 60, 60).await;
    running.pass(3 * MINUTE).await;
    for _ in 0..3 {
        let one = running.queue(&jobs("seldom", 1).lasting(10 * SECOND)).await;
        running
            .until_within("the small set's job at work", within, |_| begun(&running, &one) == 1)
            .await;
        running.pass(MINUTE).await;
    }
    for of_set in [&first, &second] {
        running.until_finished(of_set, 30 * MINUTE).await;
    }
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b45_a_set_with_little_to_do_does_not_starve_under_a_quota() {
    none_starves(
        Options {
            quota: Some(6),
            sets: sets(&["first", "second", "seldom"]),
            ..Options::default()
        },
        75 * SECOND,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn b45_a_set_with_little_to_do_does_not_starve_under_the_total() {
    none_starves(
        Options {
            max_runners: Some(6),
            sets: sets(&["first", "second", "seldom"]),
            ..Options::default()
        },
        75 * SECOND,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn b45_a_set_with_little_to_do_does_not_starve_under_a_resource_quota() {
    let running = Running::start(Options {
        sets: sets(&["first", "second", "seldom"]),
        ..Options::default()
    })
    .await;
    limit_pods(&running, 6);
    let first = spread(&running, "first", 40, 60).await;
    let second = spread(&running, "second", 40, 60).await;
    running.until_reason("first", "resource_quota").await;
    running.pass(3 * MINUTE).await;
    let (of_first, of_second) = (begun(&running, &first), begun(&running, &second));
    assert!(of_first.abs_diff(of_second) <= 5, "{of_first} and {of_second}");
    assert!(of_first + of_second >= 14, "{of_first} and {of_second}");
    let one = running.queue(&jobs("seldom", 1).lasting(10 * SECOND)).await;
    running
        .until_within("the small set's job at work", 90 * SECOND, |_| {
            begun(&running, &one) == 1
        })
        .await;
    limit_pods(&running, 100);
    for of_set in [&first, &second] {
        running.until_finished(of_set, 30 * MINUTE).await;
    }
    let world = running.end().await;
    assert!(world.counters.max_live() <= 80);
}

/// A ResourceQuota of so many pods in the runner namespace.
fn limit_pods(running: &Running, pods: u32) {
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": {"name": "runners", "namespace": RUNNER_NAMESPACE},
        "spec": {"hard": {"pods": pods.to_string()}},
    });
    let model = &running.world.kubernetes;
    if model.get("resourcequotas", RUNNER_NAMESPACE, "runners").is_some() {
        model.delete("resourcequotas", RUNNER_NAMESPACE, "runners").unwrap();
    }
    model.create(&quota).unwrap();
}

/// The sum of what the sets announce.
fn announced(running: &Running) -> u32 {
    let sets = running.world.github.sets();
    sets.iter().filter_map(|set| set.announced).sum()
}

#[tokio::test(start_paused = true)]
async fn b6_b45_sets_under_one_total_together_announce_little_more_than_it() {
    let names = ["first", "second", "third"];
    let running = Running::start(Options {
        max_runners: Some(10),
        sets: sets(&names),
        ..Options::default()
    })
    .await;
    for set in names {
        running.queue(&jobs(set, 0)).await;
    }
    running.pass(5 * SECOND).await;
    let at_rest = announced(&running);
    assert!((9..=12).contains(&at_rest), "{at_rest} announced");
    let first = spread(&running, "first", 40, 60).await;
    let mut second = Vec::new();
    for minute in 0..4 {
        if minute == 1 {
            second = spread(&running, "second", 20, 60).await;
        }
        // What was announced before is not taken back before the next poll.
        running.pass(MINUTE).await;
        let sum = announced(&running);
        assert!((9..=13).contains(&sum), "minute {minute}: {sum} announced");
        assert!(running.world.counters.live() >= 8, "minute {minute}: places in use");
    }
    for of_set in [&first, &second] {
        running.until_finished(of_set, 20 * MINUTE).await;
    }
    let world = running.end().await;
    assert_eq!(world.counters.max_live(), 10);
}

/// `kept` idle runners fill the limit; then another set gets jobs.
async fn spares_yield(mut options: Options) {
    options.sets = sets(&["busy", "ready"]);
    options.sets[1].min_runners = 4;
    let running = Running::start(options).await;
    running
        .until("four idle runners", |world| world.counters.live() == 4)
        .await;
    let queued = running.queue(&jobs("busy", 8).lasting(MINUTE)).await;
    running
        .until_within("every place at work", 75 * SECOND, |_| {
            running.count(&queued, JobState::Running) >= 4
        })
        .await;
    running.until_finished(&queued, 6 * MINUTE).await;
    running
        .until_within("idle runners again", 3 * MINUTE, |world| {
            world
                .github
                .runners()
                .iter()
                .filter(|r| r.name.starts_with("ready-"))
                .count()
                == 4
        })
        .await;
    let world = running.end_with_spares(4).await;
    let created = world.counters.created();
    assert!(
        created <= 4 + 8 + 4 + 4,
        "{created} runners: nothing goes back and forth"
    );
}

#[tokio::test(start_paused = true)]
async fn b45_spare_runners_make_room_for_jobs_of_another_set_under_the_total() {
    spares_yield(Options {
        max_runners: Some(4),
        ..Options::default()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn b45_spare_runners_make_room_for_jobs_of_another_set_under_a_quota() {
    spares_yield(Options {
        quota: Some(4),
        ..Options::default()
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn b19_refused_before_the_first_runner_a_set_gets_out_by_one_idle_runner_per_step() {
    let running = Running::start(Options {
        quota: Some(0),
        sets: sets(&["linux"]),
        ..Options::default()
    })
    .await;
    // The first jobs were assigned before anybody refused; they are taken back, and the others never are.
    let first = running.queue(&jobs("linux", 2).lasting(10 * SECOND)).await;
    running.until_reason("linux", "quota_exceeded").await;
    for job in &first {
        running.world.github.cancel(&job.id).unwrap();
    }
    running
        .until_within("no capacity", 55 * SECOND, |world| {
            world.github.set("linux").unwrap().announced == Some(0)
        })
        .await;
    let queued = running.queue(&jobs("linux", 5).lasting(2 * MINUTE)).await;
    running.pass(5 * MINUTE).await;
    assert_eq!(running.count(&queued, JobState::Queued), 5, "nobody was assigned any");
    let observer = Observer::new(&running);
    let refusals = observer.refusals_within(3 * MINUTE);
    assert!(
        (6..=9).contains(&refusals),
        "one probe per step: {refusals} in three minutes"
    );
    running.world.gharts.set_quota(TEAM, Some(1));
    running
        .until_within("one idle runner", 45 * SECOND, |world| world.counters.live() == 1)
        .await;
    running
        .until_within("its job", 10 * SECOND, |_| {
            running.count(&queued, JobState::Running) == 1
        })
        .await;
    assert_eq!(
        running.world.github.set("linux").unwrap().announced,
        Some(1),
        "after its grant"
    );
    assert_eq!(running.count(&queued, JobState::Queued), 4);
    running.world.gharts.set_quota(TEAM, None);
    running.until_finished(&queued, 4 * MINUTE).await;
    running.end().await;
}
