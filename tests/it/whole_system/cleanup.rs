//! `cleanup` after a daemon that is gone: what is its installation's goes, and nothing else.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use gharts_listener::{
    app::{self, Externals, Fate, Finding, Refused, Wish},
    ids::SetName,
    sim::{
        gharts::Flavour,
        github::{AssignedJobsRunOn, JobState},
        kubernetes::Object,
        network::Trouble,
        world::{Binding, ORGANIZATION, Options, Provisioner, RUNNER_NAMESPACE, SetOptions, World},
    },
};
use serde_json::json;

use super::{
    harness::{Running, jobs, with_provisioner},
    modes::{hooks_make, in_mode, made_by},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const GITHUB: &str = "github.test";
const GHARTS: &str = "gharts.test";

/// An operator with the daemon's file runs the command; what it said.
async fn cleanup_as(running: &Running, kubernetes: kube::Client, wish: &Wish) -> Result<Vec<Finding>, Refused> {
    let services = running.world.services.clone();
    let externals = Externals {
        github: services.transport(),
        gharts: services.transport(),
        dial: Arc::new(move |_| Ok((services.transport(), services.transport()))),
        kubernetes_for_lease: kubernetes.clone(),
        kubernetes,
        clock: running.world.clock.clone(),
        seed: 5,
        identity: "an operator".to_owned(),
    };
    let mut said = Vec::new();
    app::cleanup(&running.config, externals, wish, |finding| said.push(finding)).await?;
    Ok(said)
}

async fn cleanup(running: &Running, wish: &Wish) -> Vec<Finding> {
    cleanup_as(running, running.world.admin_client(), wish).await.unwrap()
}

fn of_fate(said: &[Finding], fate: Fate) -> Vec<&Finding> {
    said.iter().filter(|finding| finding.fate == fate).collect()
}

/// Two sets, each with an idle runner and two at work when the daemon dies.
async fn killed_at_work() -> Running {
    let set = |name, provisioner| SetOptions {
        min_runners: 1,
        ..SetOptions::new(name, provisioner, 10)
    };
    let running = Running::start(Options {
        sets: vec![set("linux", Provisioner::Gharts), set("plain", Provisioner::ScaleSet)],
        ..Options::default()
    })
    .await;
    for set in ["linux", "plain"] {
        let long = running.queue(&jobs(set, 2).lasting(10 * MINUTE)).await;
        running
            .until("two at work and one idle", |_| {
                let idle = running.set_status(set).runners.get("idle").copied();
                running.count(&long, JobState::Running) == 2 && idle == Some(1)
            })
            .await;
    }
    running
}

/// What others have in the same cluster, organization and team.
fn strangers(world: &World) -> usize {
    let set = world.github.add_set(ORGANIZATION, "theirs");
    world
        .github
        .register_runner(ORGANIZATION, set, "theirs-zzzzz-0123456789", &[]);
    world
        .github
        .register_runner(ORGANIZATION, None, "linux-zzzzz-0123456789", &["linux"]);
    world
        .gharts
        .add_record(&world.services.gharts_account(), "linux-zzzzz-0123456789");
    let labels = json!({"app.kubernetes.io/managed-by": "gharts-listener", "app.kubernetes.io/component": "runner"});
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "linux-zzzzz-abcdefghjk", "namespace": RUNNER_NAMESPACE, "labels": labels,
            "annotations": {"gharts-listener/scale-set": "linux"}},
        "spec": {"containers": [{"name": "runner", "image": "theirs"}]}});
    world.kubernetes.create(&pod).unwrap();
    2
}

#[tokio::test(start_paused = true)]
async fn b56_cleanup_removes_what_is_idle_keeps_what_works_and_comes_to_an_end_when_that_has() {
    let running = killed_at_work().await;
    let theirs = strangers(&running.world);
    let refused = cleanup_as(&running, running.world.admin_client(), &Wish::default()).await;
    assert!(matches!(refused, Err(Refused::AtWork { .. })), "{refused:?}");
    running.kill();

    let before = running.world.leaks().await.unwrap();
    let dry = Wish {
        dry_run: true,
        ..Wish::default()
    };
    let said = cleanup(&running, &dry).await;
    assert_eq!(of_fate(&said, Fate::WouldRemove).len(), 2, "{said:?}");
    assert_eq!(of_fate(&said, Fate::Kept).len(), 4, "{said:?}");
    assert_eq!(running.world.leaks().await.unwrap(), before, "nothing was done");

    let said = cleanup(&running, &Wish::default()).await;
    let removed = of_fate(&said, Fate::Removed);
    let parts: BTreeSet<&str> = removed.iter().map(|finding| finding.says.as_str()).collect();
    let whole = "registration at GitHub, pod, record at GHARTS";
    assert_eq!(
        parts,
        BTreeSet::from([whole, "registration at GitHub, pod"]),
        "{said:?}"
    );
    for kept in of_fate(&said, Fate::Kept) {
        assert!(kept.says.starts_with("it runs a job: acme/"), "{kept:?}");
        assert!(kept.remedy.contains("--busy"), "{kept:?}");
    }
    assert_eq!(running.world.github.unfinished_jobs(), 4, "nobody is killed");

    tokio::time::sleep(11 * MINUTE).await;
    assert_eq!(running.world.github.unfinished_jobs(), 0);
    let results: BTreeSet<_> = running.world.github.jobs().into_iter().map(|job| job.result).collect();
    assert_eq!(results, BTreeSet::from([Some("succeeded".to_owned())]));
    let said = cleanup(&running, &Wish::default()).await;
    assert!(
        said.len() >= 5 && of_fate(&said, Fate::Removed).len() == said.len(),
        "four pods and the Lease: {said:?}"
    );
    assert!(said.last().unwrap().what.starts_with("lease "), "{said:?}");
    assert_eq!(cleanup(&running, &Wish::default()).await, []);
    let left = running.world.leaks().await.unwrap();
    assert_eq!((left.agents, left.gharts_records), (theirs, 1), "theirs stay: {left:?}");
    assert_eq!((left.pods, left.secrets), (1, 0), "{left:?}");
    let sets: Vec<String> = running.world.github.sets().into_iter().map(|set| set.name).collect();
    assert_eq!(sets, ["linux", "plain", "theirs"], "scale sets go on request alone");
}

#[tokio::test(start_paused = true)]
async fn b56_cleanup_ends_busy_runners_by_an_explicit_word_alone_and_only_of_the_sets_that_are_named() {
    let running = killed_at_work().await;
    running.kill();
    let wish = Wish {
        busy: true,
        only: BTreeSet::from([SetName::new("linux")]),
        ..Wish::default()
    };
    let said = cleanup(&running, &wish).await;
    assert_eq!(of_fate(&said, Fate::Removed).len(), 1, "{said:?}");
    // GitHub keeps a runner whose job it counts, until it takes it for lost.
    let waits = |finding: &Finding| finding.fate == Fate::Kept && finding.says.starts_with("its pod is gone");
    assert!(
        said.len() == 3 && said.iter().filter(|f| waits(f)).count() == 2,
        "{said:?}"
    );
    tokio::time::sleep(15 * MINUTE).await;
    let said = cleanup(&running, &wish).await;
    assert_eq!(of_fate(&said, Fate::Removed).len(), 2, "{said:?}");
    assert_eq!(said.len(), 2, "the Lease is both sets': {said:?}");
    let left = running.world.leaks().await.unwrap();
    // The other set's jobs have ended meanwhile, each with its registration.
    assert_eq!((left.agents, left.pods, left.gharts_records), (1, 3, 0), "{left:?}");
    let jobs = running.world.github.jobs();
    let succeeded = |set: &str| {
        let of = jobs.iter().filter(|job| job.set.as_deref() == Some(set));
        of.filter(|job| job.result.as_deref() == Some("succeeded")).count()
    };
    assert_eq!((succeeded("linux"), succeeded("plain")), (0, 2), "{jobs:?}");
}

#[tokio::test(start_paused = true)]
async fn b56_without_githubs_word_no_living_pod_goes_and_what_gharts_keeps_is_told() {
    let running = killed_at_work().await;
    running.kill();
    let github = running.world.network.disturb(GITHUB, "/", Trouble::LostBefore);
    let said = cleanup(&running, &Wish::default()).await;
    assert_eq!(of_fate(&said, Fate::Kept).len(), 6, "{said:?}");
    assert!(
        said.iter()
            .any(|f| f.fate == Fate::Failed && f.what.starts_with("registrations at GitHub")),
        "{said:?}"
    );
    assert_eq!(running.world.leaks().await.unwrap().pods, 6);
    github.end();

    // The registration and the pod go; the record is told of and stays.
    let gharts = running.world.network.detach(GHARTS).unwrap();
    let said = cleanup(&running, &Wish::default()).await;
    let failed = of_fate(&said, Fate::Failed);
    assert!(
        failed.len() == 1 && failed[0].what.starts_with("records at GHARTS"),
        "{said:?}"
    );
    assert_eq!(of_fate(&said, Fate::Removed).len(), 2, "{said:?}");
    running.world.network.attach(GHARTS, gharts);
    let said = cleanup(&running, &Wish::default()).await;
    let removed = of_fate(&said, Fate::Removed);
    assert!(removed.len() == 1 && removed[0].says == "record at GHARTS", "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn b56_a_scale_set_is_deleted_on_request_where_nobody_listens_and_no_job_or_runner_of_others_is_on_it() {
    let running = Running::start(with_provisioner(Provisioner::ScaleSet)).await;
    running.queue(&jobs("linux", 0)).await;
    let world = running.world.clone();
    let id = world.github.set("linux").unwrap().id;
    world
        .github
        .register_runner(ORGANIZATION, Some(id), "linux-zzzzz-0123456789", &[]);
    running.kill();
    let wish = Wish {
        scale_sets: true,
        ..Wish::default()
    };
    let kept = async |why: &str| {
        let said = cleanup(&running, &wish).await;
        assert!(said.len() == 1 && said[0].fate == Fate::Kept, "{said:?}");
        assert!(said[0].says.contains(why), "{said:?}");
        assert!(world.github.set("linux").is_some());
    };
    kept("somebody else's runners are registered with it: linux-zzzzz").await;
    assert!(world.github.remove_runner("linux-zzzzz-0123456789"));

    // Its own daemon's session, which the Lease names, is closed; somebody else's is not.
    assert!(world.github.steal_session("linux", "elsewhere"));
    kept("elsewhere holds its session").await;
    assert!(world.github.lose_session("linux"));
    let waiting = world.github.queue_jobs(&jobs("linux", 2));
    tokio::time::sleep(SECOND).await;
    kept("jobs that wait for it or run on it: 2").await;
    assert!(
        world.github.set("linux").unwrap().session.is_none(),
        "it was closed again"
    );
    for job in waiting {
        world.github.cancel(&job.id).unwrap();
    }
    let dry = Wish {
        dry_run: true,
        ..wish.clone()
    };
    let said = cleanup(&running, &dry).await;
    assert_eq!(said[0].what, "scale set linux");
    assert_eq!(said[0].fate, Fate::WouldRemove);
    let said = cleanup(&running, &wish).await;
    let fates: Vec<_> = said.iter().map(|f| (f.fate, f.what.as_str())).collect();
    assert_eq!(fates[0], (Fate::Removed, "scale set linux"), "{said:?}");
    assert!(world.github.set("linux").is_none());
    assert_eq!(world.github.violations(), []);
}

/// As the chart's Job does it: the daemon's rights are enough for all but the Lease.
#[tokio::test(start_paused = true)]
async fn b56_cleanup_right_after_a_kill_closes_the_session_that_the_lease_names_and_needs_the_daemons_rights_alone() {
    let running = Running::start(with_provisioner(Provisioner::Gharts)).await;
    let done = running.queue(&jobs("linux", 3).lasting(20 * SECOND)).await;
    running.until_finished(&done, MINUTE).await;
    running.kill();
    assert!(running.world.github.set("linux").unwrap().session.is_some());
    let wish = Wish {
        scale_sets: true,
        ..Wish::default()
    };
    let began = running.world.clock.instant();
    let said = cleanup_as(&running, running.world.daemon_client(), &wish)
        .await
        .unwrap();
    assert!(
        running.world.clock.instant() - began < 30 * SECOND,
        "GitHub was not waited for"
    );
    assert!(running.world.github.set("linux").is_none(), "{said:?}");
    let failed = of_fate(&said, Fate::Failed);
    assert!(
        failed.len() == 1 && failed[0].what.starts_with("lease ") && failed[0].remedy.contains("kubectl delete lease"),
        "{said:?}"
    );
    let left = running.world.leaks().await.unwrap();
    assert!(left.is_clean(), "{left:?}");
}

/// Runners outside of any set, as GHARTS registers them: nothing is written on their pods, GitHub's word alone tells.
#[tokio::test(start_paused = true)]
async fn b56_an_ordinary_runner_with_a_job_is_kept_and_an_idle_one_goes() {
    for assigned_jobs_run_on in [AssignedJobsRunOn::SetRunners, AssignedJobsRunOn::MatchingLabels] {
        let set = SetOptions {
            min_runners: 1,
            binding: Binding::LabelsAvailable,
            ..SetOptions::new("linux", Provisioner::Gharts, 10)
        };
        let running = Running::start(Options {
            flavour: Flavour::Team,
            assigned_jobs_run_on,
            sets: vec![set],
            ..Options::default()
        })
        .await;
        running.until("an idle one", |world| world.counters.live() == 1).await;
        let long = running.queue(&jobs("linux", 2).lasting(10 * MINUTE)).await;
        running
            .until("two at work and one idle", |world| {
                let idle = world
                    .github
                    .runners()
                    .iter()
                    .filter(|r| r.online && r.job.is_none())
                    .count();
                running.count(&long, JobState::Running) == 2 && idle == 1 && world.counters.live() == 3
            })
            .await;
        running.kill();
        let said = cleanup(&running, &Wish::default()).await;
        let removed = of_fate(&said, Fate::Removed);
        assert!(removed.len() == 1 && said.len() == 3, "{said:?}");
        assert_eq!(removed[0].says, "registration at GitHub, pod, record at GHARTS");
        assert_eq!(running.count(&long, JobState::Running), 2);
        tokio::time::sleep(11 * MINUTE).await;
        assert!(running.succeeded(&long));
        cleanup(&running, &Wish::default()).await;
        let left = running.world.leaks().await.unwrap().without_sessions();
        assert!(left.is_clean(), "{left:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn b51_b56_what_hooks_made_goes_with_its_runner_and_stays_with_one_at_work() {
    let running = in_mode("kubernetes").await;
    let long = running.queue(&jobs("linux", 2).lasting(10 * MINUTE)).await;
    running
        .until("two at work", |_| running.count(&long, JobState::Running) == 2)
        .await;
    let name = |pod: &Object| pod["metadata"]["name"].as_str().unwrap().to_owned();
    let names: Vec<String> = running.pods().iter().map(name).collect();
    let lost = running.lost_runner("linux");
    for runner in names
        .iter()
        .map(String::as_str)
        .chain([lost.as_str(), "somebody-elses-runner-abcde"])
    {
        hooks_make(&running, runner);
    }
    running.kill();
    let said = cleanup(&running, &Wish::default()).await;
    assert_eq!(
        (of_fate(&said, Fate::Kept).len(), of_fate(&said, Fate::Removed).len()),
        (2, 3),
        "{said:?}"
    );
    assert_eq!(made_by(&running, lost.as_str()), 0);
    assert_eq!(made_by(&running, &names[0]), 3, "its runner is at work");
    tokio::time::sleep(11 * MINUTE).await;
    cleanup(&running, &Wish::default()).await;
    let left: Vec<usize> = names.iter().map(|runner| made_by(&running, runner)).collect();
    assert_eq!(left, [0, 0]);
    assert_eq!(made_by(&running, "somebody-elses-runner-abcde"), 3);
    assert!(running.succeeded(&long));
}
