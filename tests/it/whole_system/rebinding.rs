//! A set's binding or provisioner changes in the file while its runners run: those that are busy end undisturbed, those
//! that get none of its jobs any more go, and the jobs do not wait for either (B9, B12, B43, B47).

use std::time::Duration;

use gharts_listener::sim::{
    fleet::FleetSettings,
    gharts::Flavour,
    github::{AssignedJobsRunOn, JobState},
    world::{Options, Provisioner, SetOptions},
};

use super::harness::{Run, Running, jobs};

const SECOND: Duration = Duration::from_secs(1);
const MOST: u32 = 8;
/// A set that is never used: the file has a section `gharts` whoever makes the runners of the other.
const BESIDE: &str = "beside";

/// How a set's runners are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// By GHARTS, in the set.
    Auto,
    Tokens,
    Assigned,
    Available,
    /// Without GHARTS.
    ScaleSet,
}

impl Way {
    fn lines(self) -> &'static str {
        match self {
            Self::Auto => "provisioner: gharts\n",
            Self::Tokens => "provisioner: gharts\n    runnerBinding: registrationToken\n",
            Self::Assigned => "provisioner: gharts\n    runnerBinding: labels\n    labelsDemand: assigned\n",
            Self::Available => "provisioner: gharts\n    runnerBinding: labels\n    labelsDemand: available\n",
            Self::ScaleSet => "provisioner: scaleSet\n",
        }
    }

    /// Whether runners of this way get the jobs of a set of that one.
    fn serves(self, other: Self) -> bool {
        let by_labels = |way| matches!(way, Self::Assigned | Self::Available);
        by_labels(self) == by_labels(other) || other == Self::Assigned
    }
}

/// What the first daemon's runners are at when it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    BusyAndIdle,
    BusyAndPending,
}

/// The file in which the set has its runners in this way, and keeps so many idle.
fn file(way: Way, idle: u32) -> impl FnOnce(String) -> String {
    move |text| {
        let idle = format!("minRunners: {idle}\n    maxRunners: {MOST}");
        text.replacen("provisioner: gharts\n", way.lines(), 1).replacen(
            &format!("minRunners: 0\n    maxRunners: {MOST}"),
            &idle,
            1,
        )
    }
}

async fn rebound(flavour: Flavour, github: AssignedJobsRunOn, from: Way, to: Way, at: At) {
    let run = Run::called(format!("{flavour:?} {github:?}: {from:?} -> {to:?}, {at:?}"));
    let mut running = Running::start_with(
        Options {
            flavour,
            assigned_jobs_run_on: github,
            sets: vec![
                SetOptions::new("linux", Provisioner::Gharts, MOST),
                SetOptions::new(BESIDE, Provisioner::Gharts, 1),
            ],
            fleet: Some(FleetSettings {
                start_delay: 8 * SECOND,
                ..FleetSettings::default()
            }),
            ..Options::default()
        },
        file(from, 0),
    )
    .await;
    let mut all = running.queue(&jobs("linux", 2).lasting(600 * SECOND)).await;
    running
        .until("two busy ones", |_| running.count(&all, JobState::Running) == 2)
        .await;
    match at {
        At::BusyAndPending => {
            all.extend(running.queue(&jobs("linux", 2).lasting(20 * SECOND)).await);
            running.until("two more pods", |world| world.counters.live() == 4).await;
        }
        At::BusyAndIdle => {
            let lost = running.queue(&jobs("linux", 2)).await;
            running.until("two more pods", |world| world.counters.live() == 4).await;
            for job in &lost {
                running.world.github.cancel(&job.id).unwrap();
            }
            running.pass(20 * SECOND).await;
        }
    }
    running.stop().await;
    if !from.serves(to) {
        running.world.counters.stand_aside();
    }
    running.edit_file(file(to, 0));
    running.start_again();
    let more = running.queue(&jobs("linux", 4).lasting(20 * SECOND)).await;
    // They wait for none of the long ones.
    running.until_finished(&more, 150 * SECOND).await;
    all.extend(more);
    running.until_finished(&all, 600 * SECOND).await;
    for job in &all {
        let job = running.world.github.job(&job.id).unwrap();
        assert_eq!(job.result.as_deref(), Some("succeeded"), "{job:?}");
    }
    assert_eq!(running.failures(""), 0.0, "no runner fails of it");
    let world = running.end().await;
    assert!(world.counters.max_live() <= MOST as usize);
    drop(run);
}

async fn each_change(flavour: Flavour, github: AssignedJobsRunOn, ways: &[Way]) {
    for from in ways {
        for to in ways.iter().filter(|to| *to != from) {
            for at in [At::BusyAndIdle, At::BusyAndPending] {
                rebound(flavour, github, *from, *to, at).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b12_b43_b47_a_set_changes_its_binding_or_provisioner_under_its_runners() {
    let ways = [Way::Auto, Way::Available, Way::ScaleSet];
    each_change(Flavour::SetAware, AssignedJobsRunOn::SetRunners, &ways).await;
}

#[tokio::test(start_paused = true)]
async fn b12_b43_b47_the_same_where_ordinary_runners_get_assigned_jobs() {
    let ways = [Way::Auto, Way::Available, Way::Assigned, Way::ScaleSet];
    each_change(Flavour::SetAware, AssignedJobsRunOn::MatchingLabels, &ways).await;
}

#[tokio::test(start_paused = true)]
async fn b12_b43_b47_the_same_with_registration_tokens() {
    let ways = [Way::Tokens, Way::Available, Way::ScaleSet];
    for github in [AssignedJobsRunOn::SetRunners, AssignedJobsRunOn::MatchingLabels] {
        each_change(Flavour::User, github, &ways).await;
    }
}
