//! One provisioning, and a death at each of its steps. Whatever the moment, a quarter of an hour after the restart
//! nothing is left that nobody owns, the job has run, and nothing was started beyond it. And what is another
//! installation's stays, whoever dies.

use std::{future::Future, time::Duration};

use gharts_listener::{
    ids::{Namer, SetName},
    sim::{
        cable::Kill,
        fleet::{Fleet, FleetSettings},
        gharts::{Flavour, Latency, Status},
        github::{AssignedJobsRunOn, JobState},
        kubernetes::{Fault, Trouble},
        world::{Binding, Options, Provisioner, install_runners},
    },
};

use super::{
    harness::{Run, Running, jobs, with_provisioner},
    life::Daemon,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A way to have a runner registered.
#[derive(Clone, Copy, Debug)]
struct Way {
    name: &'static str,
    provisioner: Provisioner,
    flavour: Flavour,
    binding: Binding,
    latency: Latency,
}

const WAYS: [Way; 8] = [
    Way {
        name: "the scale set alone",
        provisioner: Provisioner::ScaleSet,
        flavour: Flavour::SetAware,
        binding: Binding::Auto,
        latency: Latency::None,
    },
    Way {
        name: "a set-aware GHARTS that answers at once",
        provisioner: Provisioner::Gharts,
        flavour: Flavour::SetAware,
        binding: Binding::Auto,
        latency: Latency::None,
    },
    Way {
        name: "a set-aware GHARTS as slow as a real one",
        provisioner: Provisioner::Gharts,
        flavour: Flavour::SetAware,
        binding: Binding::Auto,
        latency: Latency::RECORDED,
    },
    Way {
        name: "the older GHARTS' registration tokens",
        provisioner: Provisioner::Gharts,
        flavour: Flavour::User,
        binding: Binding::RegistrationToken,
        latency: Latency::None,
    },
    Way {
        name: "ordinary runners of today's GHARTS",
        provisioner: Provisioner::Gharts,
        flavour: Flavour::Team,
        binding: Binding::LabelsAvailable,
        latency: Latency::None,
    },
    Way {
        name: "ordinary runners of today's GHARTS for jobs that the set was given",
        provisioner: Provisioner::Gharts,
        flavour: Flavour::Team,
        binding: Binding::LabelsAssigned,
        latency: Latency::None,
    },
    Way {
        name: "ordinary runners of the older GHARTS",
        provisioner: Provisioner::Gharts,
        flavour: Flavour::User,
        binding: Binding::LabelsAvailable,
        latency: Latency::None,
    },
    Way {
        name: "ordinary runners of the first design's GHARTS",
        provisioner: Provisioner::Gharts,
        flavour: Flavour::Seed,
        binding: Binding::LabelsAvailable,
        latency: Latency::None,
    },
];

impl Way {
    fn options(self, seed: u64) -> Options {
        let mut options = with_provisioner(self.provisioner);
        for set in &mut options.sets {
            set.binding = self.binding;
        }
        Options {
            seed,
            flavour: self.flavour,
            assigned_jobs_run_on: match self.binding {
                Binding::LabelsAssigned => AssignedJobsRunOn::MatchingLabels,
                _ => AssignedJobsRunOn::SetRunners,
            },
            fleet: Some(FleetSettings {
                seed,
                start_delay: 2 * SECOND,
                exit_delay: SECOND,
                ..FleetSettings::default()
            }),
            ..options
        }
    }
}

/// One job, and the death of the daemon at `step` after it was queued; where `again`, another one so many steps into
/// its next life. False: the job was over and everything of it gone before that step.
async fn one_job(way: Way, step: u64, again: Option<u64>) -> bool {
    let mut running = Running::start(way.options(step)).await;
    running.world.gharts.set_latency(way.latency);
    running.queue(&jobs("linux", 0)).await;
    running.pass(5 * SECOND).await;
    let job = running.world.github.queue_jobs(&jobs("linux", 1).lasting(20 * SECOND));
    if !running.killed(Kill::AtStep { step }, 2 * MINUTE).await {
        return false;
    }
    let finished = running.world.github.job(&job[0].id).unwrap().state == JobState::Finished;
    if finished && running.world.leaks().await.unwrap().without_sessions().is_clean() {
        // What it does from now on is to renew its Lease.
        return false;
    }
    tokio::time::sleep(SECOND).await;
    running.start_again();
    let mut lives = 2;
    if let Some(step) = again {
        running.killed(Kill::AtStep { step }, 2 * MINUTE).await;
        tokio::time::sleep(SECOND).await;
        running.start_again();
        lives += 1;
    }
    running.pass(15 * MINUTE).await;
    let left = running.world.leaks().await.unwrap();
    assert_eq!(
        (left.sessions, left.without_sessions().is_clean()),
        (1, true),
        "{left:?}"
    );
    let job = running.world.github.job(&job[0].id).unwrap();
    assert_eq!(
        (job.state, job.result.as_deref()),
        (JobState::Finished, Some("succeeded"))
    );
    let world = running.end().await;
    let created = world.counters.created();
    assert!((1..=lives).contains(&created), "{created} runners in {lives} lives");
    true
}

/// Thousands of worlds in one runtime would keep each other's timers busy.
fn by_itself<T>(life: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    runtime.block_on(life)
}

#[test]
fn b4_b9_b21_b46_b47_killed_at_any_step_of_a_provisioning_nothing_is_left_and_nothing_is_made_twice() {
    for way in WAYS {
        let mut last = 0;
        for step in 1.. {
            let _run = Run::called(format!("{}: killed at step {step}", way.name));
            if !by_itself(one_job(way, step, None)) {
                break;
            }
            last = step;
        }
        println!("{}: killed at each of {last} steps", way.name);
        assert!(last >= 40, "{}: only {last} steps in a whole life", way.name);
    }
}

#[test]
fn b4_b9_b21_b46_b47_killed_again_while_it_cleans_up_it_leaves_nothing_either() {
    for way in WAYS {
        for step in (1..).step_by(5) {
            let again = 1 + step * 7 % 60;
            let _run = Run::called(format!("{}: killed at step {step}, and {again} steps on", way.name));
            if !by_itself(one_job(way, step, Some(again))) {
                break;
            }
        }
    }
}

// ---- Two installations ----------------------------------------------------------------------------------

const OTHER: &str = "runners-of-the-other";

/// What is left of runners with names of one installation, registered or recorded.
fn registered(running: &Running, namer: &Namer) -> (usize, usize) {
    let agents = running.world.github.runners();
    let records = running.world.gharts.records();
    let living = records.iter().filter(|r| r.status != Status::Deleted);
    (
        agents.iter().filter(|agent| namer.is_ours(&agent.name)).count(),
        living.filter(|record| namer.is_ours(&record.name)).count(),
    )
}

/// Registered and recorded for each pod, and nothing beside: a runner of its is busy, or waits for a job that runs at
/// the other's.
fn whole(running: &Running, namespace: &str) -> (usize, usize) {
    let pods = running.world.kubernetes.list("pods", namespace).len();
    (pods, pods)
}

/// Kills `daemon` when GHARTS has granted it a runner for a new job, and its pod is being made: registered, no pod.
/// `idle` runners of its take a job each first.
async fn killed_with_a_runner_half_made(running: &Running, daemon: &Daemon, namer: &Namer, idle: usize) -> usize {
    let before = registered(running, namer);
    let kubernetes = &running.world.kubernetes;
    kubernetes.add_fault(Fault::new(Trouble::Hang).verb("create").resource("pods"));
    let some = jobs("linux", idle + 1).lasting(90 * MINUTE);
    let queued = running.world.github.queue_jobs(&some);
    tokio::time::sleep(10 * SECOND).await;
    daemon.kill();
    kubernetes.clear_faults();
    let after = registered(running, namer);
    let orphans = after.0 - before.0;
    assert!(
        orphans > 0 && after.1 - before.1 == orphans,
        "{before:?}, then {after:?}"
    );
    assert_eq!(running.count(&queued, JobState::Running), idle);
    for job in queued {
        // Those at work cannot be cancelled.
        let _ = running.world.github.cancel(&job.id);
    }
    orphans
}

#[tokio::test(start_paused = true)]
async fn b46_two_installations_of_one_name_and_one_identity_never_touch_each_others() {
    let mut running = Running::start(with_provisioner(Provisioner::Gharts)).await;
    let admin = running.world.admin_client();
    install_runners(&admin, OTHER).await.unwrap();
    let (transport, clock) = (running.world.services.transport(), running.world.clock.clone());
    let _fleet = Fleet::start(
        &admin,
        transport,
        OTHER,
        FleetSettings::default(),
        clock,
        &running.tasks,
    );
    let namer = |namespace: &str| {
        let object = running.world.kubernetes.get("namespaces", "", namespace).unwrap();
        Namer::new(object["metadata"]["uid"].as_str().unwrap(), &SetName::new("linux"))
    };
    let (ours, others) = (namer("runners"), namer(OTHER));

    // The first has the session and three jobs at work; the second waits, and looks around.
    let long = running.queue(&jobs("linux", 3).lasting(90 * MINUTE)).await;
    running
        .until("three at work", |_| running.count(&long, JobState::Running) == 3)
        .await;
    let mut config = running.config.clone();
    config.kubernetes.namespace = OTHER.to_owned();
    config.lease.namespace = Some(OTHER.to_owned());
    let second = Daemon::launch(&running.world, &config, None, &running.tasks, "other-1", 4242);
    running.pass(20 * MINUTE).await;
    second.assert_alive();
    assert_eq!(registered(&running, &ours), (3, 3));

    // The first dies with a runner half made; the second takes over, and leaves all that alone.
    let orphans = killed_with_a_runner_half_made(&running, &running.daemon, &ours, 0).await;
    tokio::time::sleep(3 * MINUTE).await;
    let served = running.world.github.queue_jobs(&jobs("linux", 4).lasting(10 * SECOND));
    tokio::time::sleep(20 * MINUTE).await;
    second.assert_alive();
    assert_eq!(running.count(&served, JobState::Finished), 4);
    assert_eq!(
        registered(&running, &ours),
        (3 + orphans, 3 + orphans),
        "three at work, and the orphans of the dead one"
    );
    assert_eq!(registered(&running, &others), whole(&running, OTHER));
    let kept = registered(&running, &others).0;

    // The second dies in the same way; the first comes back, and cleans up after itself alone.
    let others_orphans = killed_with_a_runner_half_made(&running, &second, &others, kept).await;
    running.start_again();
    running.pass(20 * MINUTE).await;
    assert_eq!(registered(&running, &ours), whole(&running, "runners"));
    let orphaned = (kept + others_orphans, kept + others_orphans);
    assert_eq!(registered(&running, &others), orphaned, "nobody else's to remove");

    let third = Daemon::launch(&running.world, &config, None, &running.tasks, "other-1", 4243);
    running.pass(15 * MINUTE).await;
    assert_eq!(registered(&running, &others), whole(&running, OTHER));
    assert_eq!(registered(&running, &ours), whole(&running, "runners"));
    third.kill();
    running.until_finished(&long, 90 * MINUTE).await;
    running.pass(MINUTE).await;
    assert_eq!(registered(&running, &ours), whole(&running, "runners"));
}
