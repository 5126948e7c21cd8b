//! Three hundred scale sets in one process, and some of them in a bad way: the others do not feel it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use gharts_listener::sim::{
    cable::Spoilt,
    fleet::FleetSettings,
    gharts::Latency,
    github::{JobHandle, JobState},
    world::{Options, Provisioner, SetOptions},
};

use super::harness::{Run, Running, jobs, with_provisioner};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// Every third one has its runners from GHARTS.
const SETS: usize = 300;

fn name(number: usize) -> String {
    format!("set-{number:03}")
}

fn provisioner(number: usize) -> Provisioner {
    if number.is_multiple_of(3) {
        Provisioner::Gharts
    } else {
        Provisioner::ScaleSet
    }
}

fn options(sets: usize) -> Options {
    Options {
        sets: (0..sets)
            .map(|n| SetOptions::new(&name(n), provisioner(n), 10))
            .collect(),
        fleet: Some(FleetSettings {
            start_delay: 2 * SECOND,
            jitter: 0.2,
            ..FleetSettings::default()
        }),
        ..Options::default()
    }
}

/// The sets that come to no good: of each kind one behind GHARTS, and one behind GitHub alone.
fn victims(sets: usize) -> BTreeMap<usize, Spoilt> {
    let third = sets / 3 / 3 * 3;
    BTreeMap::from([
        (third, Spoilt::Hangs),
        (third + 1, Spoilt::Hangs),
        (third + 3, Spoilt::Panics),
        (third + 4, Spoilt::Panics),
        (third + 6, Spoilt::Forbidden),
        (third + 7, Spoilt::Forbidden),
    ])
}

/// From now on each victim's polls and requests for runners meet what it is to meet.
fn spoil(running: &Running, victims: &BTreeMap<usize, Spoilt>) {
    let of_set: Vec<(String, String, Spoilt)> = victims
        .iter()
        .map(|(number, spoilt)| {
            let id = running.world.github.set(&name(*number)).unwrap().id;
            let path = format!("/runnerscalesets/{id}/");
            (path, format!("\"{}\"", name(*number)), *spoilt)
        })
        .collect();
    running.daemon.cable.spoil(Arc::new(move |request| {
        let uri = request.uri().path();
        let jit = uri.ends_with("/runners/jit");
        let body = std::str::from_utf8(request.body()).unwrap_or_default();
        let hit = of_set
            .iter()
            .find(|(path, name, _)| uri.contains(path.as_str()) || (jit && body.contains(name.as_str())));
        hit.map(|(_, _, spoilt)| *spoilt)
    }));
}

/// How long the jobs of healthy sets waited for their runner, sorted.
struct Waits(Vec<Duration>);

impl Waits {
    fn of(running: &Running, jobs: &[JobHandle]) -> Self {
        let waited = |job: &JobHandle| {
            let job = running.world.github.job(&job.id).unwrap();
            Duration::try_from(job.started.unwrap().duration_since(job.queued)).unwrap()
        };
        let mut waits: Vec<Duration> = jobs.iter().map(waited).collect();
        waits.sort();
        Self(waits)
    }

    fn share(&self, percent: usize) -> Duration {
        self.0[(self.0.len() - 1) * percent / 100]
    }
}

/// Some minutes of work, each for another fifth of the sets; the waits of the healthy ones.
async fn worked(sets: usize, minutes: usize, spoilt: bool) -> Waits {
    let running = Running::start(options(sets)).await;
    running.world.gharts.set_latency(Latency::RECORDED);
    running
        .until("every session", |world| {
            world.github.sets().iter().filter(|set| set.polling).count() == sets
        })
        .await;
    let victims = victims(sets);
    if spoilt {
        spoil(&running, &victims);
    }
    let mut healthy = Vec::new();
    for round in 0..minutes {
        for number in (0..sets).filter(|number| number % 5 == round % 5 || victims.contains_key(number)) {
            let queued = running
                .world
                .github
                .queue_jobs(&jobs(&name(number), 1).lasting(20 * SECOND));
            if !victims.contains_key(&number) {
                healthy.extend(queued);
            }
        }
        running.pass(MINUTE).await;
    }
    running
        .until("the end of every job of the healthy", |_| {
            running.count(&healthy, JobState::Finished) == healthy.len()
        })
        .await;
    if spoilt {
        for (number, expected) in [(0, "unreachable"), (2, "set_failed"), (4, "not_authorized")] {
            let victim = *victims.keys().nth(number).unwrap();
            let said = running.said_of(&name(victim)).unwrap();
            let codes: Vec<&str> = said.reasons.iter().map(|r| r.code.as_str()).collect();
            assert!(codes.contains(&expected), "{}: {codes:?}", name(victim));
        }
        let degraded = running.status().scale_sets.iter().filter(|set| set.degraded).count();
        assert_eq!(degraded, victims.len(), "and nobody else");
    }
    Waits::of(&running, &healthy)
}

async fn the_others_do_not_feel_it(sets: usize, minutes: usize) {
    let without = worked(sets, minutes, false).await;
    let with = worked(sets, minutes, true).await;
    for (percent, most) in [(50, 1.1), (99, 1.25), (100, 1.5)] {
        let (well, ill) = (without.share(percent), with.share(percent));
        println!("{sets} sets, p{percent}: {well:?} without, {ill:?} with a hanging, a panicking, a forbidden one");
        let limit = well.mul_f64(most) + SECOND / 2;
        assert!(ill <= limit, "p{percent}: {well:?} without, {ill:?} with");
    }
}

/// `cargo test --test it -- --ignored --show-output three_hundred`
#[tokio::test(start_paused = true)]
#[ignore = "minutes of processor time; thirty sets show the same in seconds"]
async fn b8_of_three_hundred_sets_one_that_hangs_panics_or_is_forbidden_delays_no_other() {
    the_others_do_not_feel_it(SETS, 3).await;
}

/// Few sets behind one GHARTS feel each other more than many do.
#[tokio::test(start_paused = true)]
async fn b8_of_thirty_sets_one_that_hangs_panics_or_is_forbidden_delays_no_other() {
    the_others_do_not_feel_it(30, 10).await;
}

/// Requests for runners of a set behind GHARTS meet this, then its polls do.
#[tokio::test(start_paused = true)]
async fn b8_a_set_whose_calls_hang_panic_or_are_forbidden_says_so_and_recovers() {
    for (spoilt, calls, code) in [
        (Spoilt::Panics, "/runners/jit", "set_failed"),
        (Spoilt::Hangs, "/runners/jit", "stalled"),
        (Spoilt::Forbidden, "/runners/jit", "not_authorized"),
        (Spoilt::Panics, "/messages", "set_failed"),
    ] {
        let _run = Run::called(format!("{calls} {spoilt:?}"));
        let running = Running::start(with_provisioner(Provisioner::Gharts)).await;
        running.queue(&jobs("linux", 0)).await;
        let meets = move |path: &str| path.contains(calls).then_some(spoilt);
        running
            .daemon
            .cable
            .spoil(Arc::new(move |request| meets(request.uri().path())));
        let queued = running.world.github.queue_jobs(&jobs("linux", 4).lasting(SECOND));
        let reason = running.until_reason("linux", code).await;
        assert!(reason.remedy.is_some(), "{code}: no remedy");
        running.pass(5 * MINUTE).await;
        running.daemon.cable.spoil(Arc::new(|_| None));
        running.until_finished(&queued, 10 * MINUTE).await;
        running.until_no_reason("linux", code).await;
        assert_eq!(running.count(&queued, JobState::Finished), 4);
        // A message that is delivered again minutes later is believed: for a while there may be runners beyond demand.
        if calls == "/runners/jit" {
            running.end().await;
        }
    }
}
