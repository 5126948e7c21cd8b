//! The file changes while jobs run: each kind of change takes effect in place, no session is dropped, no job fails, and
//! a file that is wrong changes nothing.

use std::{fs, path::Path, time::Duration};

use gharts_listener::{
    config::LogFormat,
    sim::{
        fleet::{BEHAVIOUR, Behaviour},
        github::{JobHandle, JobState, NewJobs},
        world::{ORGANIZATION, Options, Provisioner, RUNNER_NAMESPACE, SetOptions, TEAM},
    },
};
use serde_json::json;
use tokio::sync::oneshot;

use super::{
    harness::{Running, Stage, jobs, with_provisioner},
    operations::Captured,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// The file is looked at every 10 s, and what is said of it is a few seconds old.
pub(super) const SEEN: Duration = Duration::from_secs(15);

fn sets(sets: &[(&str, Provisioner, u32)]) -> Options {
    let set = |(name, provisioner, max): &(&str, Provisioner, u32)| SetOptions::new(name, *provisioner, *max);
    Options {
        sets: sets.iter().map(set).collect(),
        ..Options::default()
    }
}

impl Running {
    pub(super) fn text(&self) -> String {
        fs::read_to_string(&self.file).unwrap()
    }

    /// Puts another text there, as a ConfigMap does it: by the swap of a link.
    pub(super) fn write(&self, text: &str) {
        swap(&self.file, text);
    }

    fn edit(&self, from: &str, to: &str) {
        let text = self.text();
        assert!(text.contains(from), "{text}");
        self.write(&text.replacen(from, to, 1));
    }

    /// The lines of one set.
    pub(super) fn section(&self, set: &str) -> String {
        let text = self.text();
        let begin = text.find(&format!("  - name: {set}\n")).unwrap();
        // The container's name is deeper, so its line is no section's.
        let next = text[begin..].find("\n  - name: ");
        text[begin..next.map_or(text.len(), |at| begin + at + 1)].to_owned()
    }

    fn edit_set(&self, set: &str, from: &str, to: &str) {
        let section = self.section(set);
        assert!(section.contains(from), "{section}");
        self.edit(&section, &section.replacen(from, to, 1));
    }

    async fn until_generation(&self, generation: u64) {
        let what = format!("generation {generation}");
        self.until_within(&what, SEEN, |_| self.status().configuration.generation == generation)
            .await;
    }

    async fn hangup(&self) {
        let (done, looked) = oneshot::channel();
        self.daemon.hangup.send(done).await.unwrap();
        looked.await.unwrap();
    }

    pub(super) fn sessions_opened(&self) -> u64 {
        self.world.github.answered("open session", 200)
    }

    fn idle(&self, set: &str) -> u32 {
        self.set_status(set).runners.get("idle").copied().unwrap_or(0)
    }

    pub(super) fn succeeded(&self, jobs: &[JobHandle]) -> bool {
        let of = |job: &JobHandle| self.world.github.job(&job.id).unwrap().result;
        jobs.iter().all(|job| of(job).as_deref() == Some("succeeded"))
    }
}

pub(super) fn swap(path: &Path, text: &str) {
    let next = path.with_extension("next");
    fs::write(&next, text).unwrap();
    fs::rename(next, path).unwrap();
}

#[tokio::test(start_paused = true)]
async fn b38_every_figure_of_a_set_changes_in_place_while_its_jobs_run() {
    let running = Running::start(sets(&[
        ("linux", Provisioner::Gharts, 3),
        ("other", Provisioner::ScaleSet, 3),
    ]))
    .await;
    let long = running.queue(&jobs("linux", 8).lasting(5 * MINUTE)).await;
    let other = running.queue(&jobs("other", 20).lasting(20 * SECOND)).await;
    running
        .until("three at work", |_| running.count(&long, JobState::Running) == 3)
        .await;

    // The world is told of a rise before the daemon is, and of a cut after it.
    let told = |min, max| running.world.counters.told("linux", min, max);
    told(0, 8);
    running.edit_set("linux", "maxRunners: 3", "maxRunners: 8");
    running.until_generation(2).await;
    running
        .until_within("all eight at work", MINUTE, |_| {
            running.count(&long, JobState::Running) == 8
        })
        .await;
    // Lower than what is busy: nobody is killed.
    running.edit_set("linux", "maxRunners: 8", "maxRunners: 2");
    running.until_generation(3).await;
    told(0, 2);
    assert_eq!(running.count(&long, JobState::Running), 8);
    assert_eq!(running.set_status("linux").max_runners, 2);
    running.until_finished(&long, 10 * MINUTE).await;
    running.until_finished(&other, 10 * MINUTE).await;
    assert!(running.succeeded(&long) && running.succeeded(&other));

    told(2, 2);
    running.edit_set("linux", "minRunners: 0", "minRunners: 2");
    running
        .until_within("two idle ones", SEEN + 30 * SECOND, |_| running.idle("linux") == 2)
        .await;
    running.edit_set("linux", "minRunners: 2", "minRunners: 0\n    timeouts: { idle: 20s }");
    running
        .until_within("none", SEEN + 50 * SECOND, |_| running.idle("linux") == 0)
        .await;

    running.edit_set("linux", "maxRunners: 2", "maxRunners: 2\n    labels: [linux, large]");
    running
        .until_within("the label at GitHub", SEEN, |world| {
            world.github.set("linux").unwrap().labels == ["linux", "large"]
        })
        .await;
    running.edit("scaleSets:", "maxRunners: 1\nscaleSets:");
    running.until_generation(7).await;
    running.world.counters.told_total(1);
    let short = running.queue(&jobs("linux", 3).lasting(20 * SECOND)).await;
    running
        .until("one at work", |_| running.count(&short, JobState::Running) == 1)
        .await;
    assert_eq!(running.world.counters.live(), 1, "the total of the file");
    running.until_finished(&short, 10 * MINUTE).await;
    assert_eq!(running.sessions_opened(), 2, "none was dropped");
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b38_sets_come_and_go_while_others_run() {
    let running = Running::start(sets(&[
        ("linux", Provisioner::Gharts, 5),
        ("gone", Provisioner::Gharts, 5),
    ]))
    .await;
    let told = |set, min, max| running.world.counters.told(set, min, max);
    told("gone", 2, 5);
    told("added", 0, 5);
    running.edit_set("gone", "minRunners: 0", "minRunners: 2");
    running.until_generation(2).await;
    let ours = running.queue(&jobs("linux", 10).lasting(2 * MINUTE)).await;
    let theirs = running.queue(&jobs("gone", 1).lasting(5 * MINUTE)).await;
    running
        .until("at work, and two idle", |_| {
            running.count(&theirs, JobState::Running) == 1 && running.idle("gone") == 2
        })
        .await;
    let id = running.world.github.set("gone").unwrap().id;

    // One goes, with a busy runner and two idle ones, and one comes.
    let gone = running.section("gone");
    let text = running.text().replace(&gone, "");
    let added = running.section("linux").replace("name: linux\n", "name: added\n");
    running.write(&(text + &added));
    running.until_generation(3).await;
    let reason = running.reason("gone", "set_removed").unwrap();
    assert!(reason.message.contains("its runners end"), "{}", reason.message);
    running
        .until_within(
            "the session closed, the idle ones gone, the new set served",
            MINUTE,
            |world| {
                let set = world.github.set("gone").unwrap();
                set.session.is_none()
                    && running.set_status("gone").runners.values().sum::<u32>() == 1
                    && world.github.set("added").is_some_and(|set| set.polling)
            },
        )
        .await;
    let added = running.queue(&jobs("added", 3).lasting(30 * SECOND)).await;
    running.until_finished(&added, 3 * MINUTE).await;
    assert_eq!(running.count(&theirs, JobState::Running), 1, "nobody kills it");
    running.until_finished(&theirs, 6 * MINUTE).await;
    running
        .until_within("nothing known of it any more", 14 * MINUTE, |_| {
            running.said_of("gone").is_none()
        })
        .await;
    assert_eq!(running.metric("gha_max_runners", &["name=\"gone\""]), 0.0);
    assert_eq!(
        running.world.github.set("gone").map(|set| set.id),
        Some(id),
        "it is never deleted"
    );
    running.until_finished(&ours, 10 * MINUTE).await;
    assert!(running.succeeded(&ours) && running.succeeded(&theirs) && running.succeeded(&added));
    assert_eq!(running.sessions_opened(), 3);

    // It comes back.
    running.write(&(running.text() + &gone));
    running
        .until("the set again", |world| world.github.set("gone").unwrap().polling)
        .await;
    let again = running.queue(&jobs("gone", 1).lasting(10 * SECOND)).await;
    running.until_finished(&again, MINUTE).await;
    running.write(&running.text().replace(&gone, ""));
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b38_a_set_that_returns_while_it_is_being_removed_keeps_its_runners() {
    let running = Running::start(with_two_sets()).await;
    let long = running.queue(&jobs("other", 2).lasting(5 * MINUTE)).await;
    running
        .until("at work", |_| running.count(&long, JobState::Running) == 2)
        .await;
    let section = running.section("other");
    let text = running.text();
    running.write(&text.replace(&section, ""));
    running.until_generation(2).await;
    running.write(&text);
    running.until_generation(3).await;
    running
        .until_within("its session", 2 * MINUTE, |world| {
            world.github.set("other").unwrap().polling
        })
        .await;
    assert_eq!(running.set_status("other").runners.get("busy"), Some(&2));
    let more = running.queue(&jobs("other", 2).lasting(10 * SECOND)).await;
    running.until_finished(&more, 2 * MINUTE).await;
    running.until_finished(&long, 6 * MINUTE).await;
    assert!(running.succeeded(&long));
    running.end().await;
}

/// Away with one text, and there in another repository with the next.
#[tokio::test(start_paused = true)]
async fn b12_b38_a_set_that_returns_elsewhere_makes_runners_for_its_jobs_there() {
    let running = Running::start(Options {
        sets: vec![
            SetOptions::new("linux", Provisioner::ScaleSet, 5),
            SetOptions {
                scope: Some("acme/web".to_owned()),
                ..SetOptions::new("there", Provisioner::ScaleSet, 5)
            },
        ],
        ..Options::default()
    })
    .await;
    let old = running.queue(&jobs("linux", 2).lasting(20 * MINUTE)).await;
    running
        .until("at work", |_| running.count(&old, JobState::Running) == 2)
        .await;
    let (text, section) = (running.text(), running.section("linux"));
    let there = running.section("there");
    let there = there.lines().find(|line| line.contains("configUrl")).unwrap();
    running.write(&text.replace(&section, ""));
    running.until_generation(2).await;
    let moved = section.replace("    provisioner:", &format!("{there}\n    provisioner:"));
    running.write(&text.replace(&section, &moved));
    running.until_generation(3).await;
    let new = NewJobs::for_set("acme/web", "linux", 2).lasting(10 * SECOND);
    let new = running.world.github.queue_jobs(&new);
    running.until_finished(&new, 3 * MINUTE).await;
    running.until_finished(&old, 21 * MINUTE).await;
    assert!(running.succeeded(&old));
}

/// The group changes while no daemon runs: names are unique in their group alone.
#[tokio::test(start_paused = true)]
async fn b9_b38_a_set_whose_group_changes_between_two_lives_moves_and_no_second_one_is_made() {
    let mut running = Running::start(Options {
        runner_groups: vec!["builders".to_owned()],
        ..with_two_sets()
    })
    .await;
    let long = running.queue(&jobs("other", 2).lasting(5 * MINUTE)).await;
    running
        .until("at work", |_| running.count(&long, JobState::Running) == 2)
        .await;
    let id = running.world.github.set("other").unwrap().id;
    let section = running.section("other");
    // A group that is not there yet: this life knows of the set by the last one's word alone.
    for group in ["nowhere", "builders"] {
        running.kill();
        let before = running.section("other");
        let moved = format!("    github: {{ runnerGroup: {group} }}\n    provisioner:");
        let moved = section.replace("    provisioner:", &moved);
        running.edit_file(|text| text.replace(&before, &moved));
        running.start_again();
        running.pass(30 * SECOND).await;
    }
    let more = running.queue(&jobs("other", 2).lasting(10 * SECOND)).await;
    running.until_finished(&more, 3 * MINUTE).await;
    let sets = running.world.github.sets();
    let named: Vec<u64> = sets
        .iter()
        .filter(|set| set.name == "other")
        .map(|set| set.id)
        .collect();
    assert_eq!(named, [id]);
    running.until_finished(&long, 6 * MINUTE).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b38_b46_what_a_set_left_that_the_file_lost_while_no_daemon_ran_is_ended() {
    for provisioner in [Provisioner::Gharts, Provisioner::ScaleSet] {
        let mut options = sets(&[("linux", provisioner, 5), ("gone", provisioner, 5)]);
        options.sets[1].min_runners = 2;
        let mut running = Running::start(options).await;
        let long = running.queue(&jobs("gone", 1).lasting(10 * MINUTE)).await;
        running
            .until("at work, and two idle", |_| {
                running.count(&long, JobState::Running) == 1 && running.idle("gone") == 2
            })
            .await;
        // A registration without a pod, as a death in the middle of a start leaves it.
        let (github, id) = (
            running.world.github.clone(),
            running.world.github.set("gone").unwrap().id,
        );
        let lost = running.lost_runner("gone");
        assert!(github.register_runner(ORGANIZATION, Some(id), lost.as_str(), &["gone"]));
        running.kill();
        let gone = running.section("gone");
        running.edit_file(|text| text.replace(&gone, ""));
        assert!(!running.text().contains("gone"));
        running.start_again();
        running
            .until_within("all but the busy one gone", 6 * MINUTE, |world| {
                world.github.runners().len() == 1 && running.pods().len() == 1
            })
            .await;
        assert_eq!(running.count(&long, JobState::Running), 1, "nobody kills it");
        let set = github.set("gone").unwrap();
        assert!(!set.polling && set.session.is_none(), "nobody serves it");

        // The next one knows as well.
        running.kill();
        running.start_again();
        running.until_finished(&long, 11 * MINUTE).await;
        assert!(running.succeeded(&long));
        running.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn b46_a_set_that_another_deployment_serves_now_is_left_to_it() {
    let running = Running::start(with_two_sets()).await;
    running
        .until("the set", |world| {
            world.github.set("other").is_some_and(|set| set.polling)
        })
        .await;
    let (github, id) = (
        running.world.github.clone(),
        running.world.github.set("other").unwrap().id,
    );
    running.write(&running.text().replace(&running.section("other"), ""));
    running.until_generation(2).await;
    // Its daemon has made a runner, which waits for a job.
    running.world.counters.told("other", 1, 1);
    let theirs = running.lost_runner("other");
    assert!(github.register_runner(ORGANIZATION, Some(id), theirs.as_str(), &["other"]));
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": theirs.as_str(), "namespace": RUNNER_NAMESPACE,
            "labels": {"app.kubernetes.io/managed-by": "gharts-listener", "app.kubernetes.io/component": "runner"},
            "annotations": {"gharts-listener/scale-set": "other", "gharts-listener/lease": "gharts-listener/another"}},
        "spec": {"containers": [{"name": "theirs", "image": "theirs"}]}});
    running.world.kubernetes.create(&pod).unwrap();
    running.pass(11 * MINUTE).await;
    assert!(github.runner(theirs.as_str()).is_some());
    let pods = &running.world.kubernetes;
    assert!(pods.get("pods", RUNNER_NAMESPACE, theirs.as_str()).is_some());
    pods.delete("pods", RUNNER_NAMESPACE, theirs.as_str()).unwrap();
    assert!(github.remove_runner(theirs.as_str()));
    running.end().await;
}

/// It serves a set of the same name elsewhere at GitHub: its runners are in no list that we see, and none of ours.
#[tokio::test(start_paused = true)]
async fn b46_pods_of_another_deployments_set_of_the_same_name_are_neither_ended_nor_counted() {
    let running = Running::start(with_two_sets()).await;
    running
        .until("the set", |world| world.github.set("linux").is_some())
        .await;
    let pods = &running.world.kubernetes;
    // The world counts theirs as well: one more than the file permits.
    running.world.counters.told("linux", 1, 6);
    let theirs = running.lost_runner("linux");
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": theirs.as_str(), "namespace": RUNNER_NAMESPACE,
            "labels": {"app.kubernetes.io/managed-by": "gharts-listener", "app.kubernetes.io/component": "runner"},
            "annotations": {"gharts-listener/scale-set": "linux", "gharts-listener/lease": "gharts-listener/another",
                "gharts-listener/github": "https://github.com/somebody-else", BEHAVIOUR: "never-registers"}},
        "spec": {"containers": [{"name": "theirs", "image": "theirs"}]}});
    pods.create(&pod).unwrap();
    let queued = running.queue(&jobs("linux", 7)).await;
    running.until_finished(&queued, 5 * MINUTE).await;
    running.pass(11 * MINUTE).await;
    assert!(running.set_status("linux").runners.is_empty(), "theirs is not ours");
    let pod = pods.get("pods", RUNNER_NAMESPACE, theirs.as_str()).unwrap();
    assert!(pod["metadata"]["deletionTimestamp"].is_null());
    pods.delete("pods", RUNNER_NAMESPACE, theirs.as_str()).unwrap();
    running.end().await;
}

/// They were made under another Lease, for the same place at GitHub: it was renamed.
#[tokio::test(start_paused = true)]
async fn b9_b47_with_another_lease_the_runners_of_before_are_known_all_the_same() {
    let mut running = Running::start(with_provisioner(Provisioner::Gharts)).await;
    let queued = running.queue(&jobs("linux", 5).lasting(10 * MINUTE)).await;
    running
        .until("at work", |_| running.count(&queued, JobState::Running) == 5)
        .await;
    running.stop().await;
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> =
        kube::Api::namespaced(running.world.admin_client(), RUNNER_NAMESPACE);
    let of_before = json!({"metadata": {"annotations": {"gharts-listener/lease": "gharts-listener/of-before"}}});
    for pod in running.pods() {
        let name = pod["metadata"]["name"].as_str().unwrap();
        let patch = kube::api::Patch::Merge(&of_before);
        pods.patch(name, &kube::api::PatchParams::default(), &patch)
            .await
            .unwrap();
    }
    running.start_again();
    running.until_finished(&queued, 15 * MINUTE).await;
    assert!(running.succeeded(&queued));
    assert_eq!(running.end().await.counters.created(), 5);
}

fn with_two_sets() -> Options {
    sets(&[("linux", Provisioner::Gharts, 5), ("other", Provisioner::ScaleSet, 5)])
}

#[tokio::test(start_paused = true)]
async fn b38_provisioner_and_binding_change_under_jobs_and_every_registration_is_taken_back_where_it_was_made() {
    let running = Running::start(with_provisioner(Provisioner::Gharts)).await;
    let mut all = Vec::new();
    let steps = [
        ("provisioner: gharts\n", "provisioner: scaleSet\n"),
        ("provisioner: scaleSet\n", "provisioner: gharts\n"),
    ];
    for (generation, (from, to)) in (2..).zip(steps) {
        let queued = running.queue(&jobs("linux", 4).lasting(2 * MINUTE)).await;
        running
            .until("at work", |_| running.count(&queued, JobState::Running) == 4)
            .await;
        running.edit_set("linux", from, to);
        running.until_generation(generation).await;
        let more = running.queue(&jobs("linux", 4).lasting(30 * SECOND)).await;
        running.until_finished(&more, 3 * MINUTE).await;
        all.extend([queued, more].concat());
        running.until_finished(&all, 3 * MINUTE).await;
    }
    assert!(running.succeeded(&all));
    assert_eq!(running.sessions_opened(), 1);
    let said = running.set_status("linux");
    assert_eq!(
        (said.provisioner.as_str(), said.binding.as_str()),
        ("gharts", "scaleSet")
    );
    assert_eq!(running.end().await.counters.created(), 16);
}

#[tokio::test(start_paused = true)]
async fn b38_another_scope_at_github_moves_the_set_and_its_busy_runners_finish_where_they_are() {
    let (running, old) = moved_under_jobs(3 * MINUTE).await;
    running.until_finished(&old, 4 * MINUTE).await;
    assert!(running.succeeded(&old));
    running.end_with_spares(1).await;
}

/// The next leader knows of the old place by what stands on the pods alone.
#[tokio::test(start_paused = true)]
async fn b12_b38_a_new_leader_lets_busy_runners_of_the_old_scope_finish_and_makes_others_for_the_new_one() {
    let (mut running, old) = moved_under_jobs(20 * MINUTE).await;
    running.kill();
    running.start_again();
    let new = NewJobs::for_set("acme/web", "linux", 3).lasting(10 * SECOND);
    let new = running.world.github.queue_jobs(&new);
    running.until_finished(&new, 3 * MINUTE).await;
    running.until_finished(&old, 21 * MINUTE).await;
    assert!(running.succeeded(&old));
}

/// Two jobs run where the set was, and it is served elsewhere by now.
async fn moved_under_jobs(lasting: Duration) -> (Running, Vec<JobHandle>) {
    let running = Running::start(Options {
        sets: vec![
            SetOptions {
                min_runners: 1,
                ..SetOptions::new("linux", Provisioner::ScaleSet, 5)
            },
            SetOptions {
                scope: Some("acme/web".to_owned()),
                ..SetOptions::new("there", Provisioner::ScaleSet, 5)
            },
        ],
        ..Options::default()
    })
    .await;
    let old = running.queue(&jobs("linux", 2).lasting(lasting)).await;
    running
        .until("two at work, one idle", |_| {
            running.count(&old, JobState::Running) == 2 && running.idle("linux") == 1
        })
        .await;
    let there = running.section("there");
    let there = there.lines().find(|line| line.contains("configUrl")).unwrap();
    running.edit_set("linux", "    provisioner:", &format!("{there}\n    provisioner:"));
    let github = running.world.github.clone();
    let sets = || github.sets().into_iter().filter(|set| set.name == "linux");
    let moved = || sets().find(|set| set.scope == "acme/web");
    running
        .until_within("the set there, with an idle runner", SEEN + MINUTE, |world| {
            let runners = world.github.runners();
            moved().is_some_and(|set| set.polling && runners.iter().any(|r| r.set == Some(set.id) && r.online))
        })
        .await;
    let left = sets().find(|set| set.scope == "acme").unwrap();
    assert!(left.session.is_none(), "the session there is closed");
    let still = running.world.github.runners();
    let still = still.iter().filter(|r| r.set == Some(left.id));
    assert!(still.clone().all(|r| r.job.is_some()), "no idle one is left there");
    assert_eq!(still.count(), 2);
    (running, old)
}

#[tokio::test(start_paused = true)]
async fn b53_a_changed_template_rotates_idle_runners_a_few_at_a_time_and_touches_no_busy_one() {
    let running = Running::start(Options {
        sets: vec![SetOptions {
            min_runners: 8,
            ..SetOptions::new("linux", Provisioner::ScaleSet, 20)
        }],
        ..Options::default()
    })
    .await;
    running.until("eight idle", |_| running.idle("linux") == 8).await;
    let busy = running.queue(&jobs("linux", 2).lasting(20 * MINUTE)).await;
    running
        .until("two at work, eight idle", |_| {
            running.count(&busy, JobState::Running) == 2 && running.idle("linux") == 8
        })
        .await;
    let image = |pod: &gharts_listener::sim::kubernetes::Object| {
        pod["spec"]["containers"][0]["image"].as_str().unwrap().to_owned()
    };
    let of_image = |wanted: &str| running.pods().iter().filter(|pod| image(pod).ends_with(wanted)).count();
    assert_eq!(of_image(":latest"), 10);
    running.edit_set("linux", "actions-runner:latest", "actions-runner:next");
    let mut fewest = 8;
    for _ in 0..600 {
        running.pass(SECOND).await;
        fewest = fewest.min(running.idle("linux"));
        if of_image(":next") == 8 && running.idle("linux") == 8 {
            break;
        }
    }
    assert_eq!((of_image(":next"), of_image(":latest")), (8, 2), "the busy ones stay");
    assert!(fewest >= 6, "never more than two of eight are missing: {fewest}");
    running.pass(5 * MINUTE).await;
    assert_eq!(running.world.counters.created(), 18, "each once");

    // The next one is broken: what there is keeps.
    let fleet = running.world.fleet.clone().unwrap();
    fleet.behave(|pod| {
        if image_of(pod).ends_with(":broken") {
            Behaviour::Crashes(3)
        } else {
            Behaviour::Ordinary
        }
    });
    running.edit_set("linux", "actions-runner:next", "actions-runner:broken");
    running.pass(20 * MINUTE).await;
    assert!(running.idle("linux") >= 6, "{:?}", running.set_status("linux").runners);
    assert!(running.has_reason("linux", "pods_failing"));
    // It is mended, and tried at once, not when the back-off says.
    running.edit_set("linux", "actions-runner:broken", "actions-runner:mended");
    running
        .until_within("all of the mended one", 3 * MINUTE, |_| {
            of_image(":mended") == 8 && running.idle("linux") == 8
        })
        .await;
    assert_eq!(running.sessions_opened(), 1);
    running.until_finished(&busy, 30 * MINUTE).await;
    assert!(running.succeeded(&busy));
    running.end_with_spares(8).await;
}

fn image_of(pod: &k8s_openapi::api::core::v1::Pod) -> &str {
    let spec = pod.spec.as_ref();
    let runner = spec.and_then(|spec| spec.containers.first());
    runner.and_then(|runner| runner.image.as_deref()).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn b38_a_bad_file_keeps_the_old_settings_and_says_so_in_log_metric_and_status_until_a_good_one_comes() {
    let captured = Captured::default();
    let _logs = captured.logs(LogFormat::Json, "info");
    let running = Running::start(with_two_sets()).await;
    let queued = running.queue(&jobs("linux", 10).lasting(MINUTE)).await;
    let good = running.text();
    running.edit_set("linux", "maxRunners: 5", "maxRunners: \"7\"\n    labels: [\"\"]");
    running
        .until_within("the refusal", SEEN, |_| {
            !running.status().configuration.problems.is_empty()
        })
        .await;
    let said = running.status().configuration.clone();
    let paths: Vec<&str> = said.problems.iter().map(|p| p.path.as_str()).collect();
    assert_eq!(paths, ["scaleSets[0].labels[0]", "scaleSets[0].maxRunners"]);
    assert_eq!(said.generation, 1);
    assert!(said.refused_since.is_some());
    running.pass(5 * MINUTE).await;
    let lines = || -> Vec<String> {
        let text = captured.text();
        let refused = text.lines().filter(|line| line.contains("the file is refused"));
        refused.map(str::to_owned).collect()
    };
    let refused = lines();
    assert_eq!(refused.len(), 1, "one line, not one a look: {refused:?}");
    assert!(refused[0].contains("labels[0]") && refused[0].contains("maxRunners: expected a whole number"));
    assert_eq!(running.metric("gharts_listener_config_refused", &[]), 1.0);
    assert_eq!(running.metric("gharts_listener_config_reload_failures_total", &[]), 1.0);
    let since = running.metric("gharts_listener_config_reload_success_timestamp_seconds", &[]);
    assert_eq!(running.set_status("linux").max_runners, 5);
    running.until_finished(&queued, 10 * MINUTE).await;

    // It says again what is in effect.
    running.write(&good);
    running
        .until_within("no problem", SEEN, |_| {
            running.status().configuration.problems.is_empty()
        })
        .await;
    assert_eq!(running.status().configuration.generation, 1);
    assert_eq!(running.metric("gharts_listener_config_refused", &[]), 0.0);
    assert!(running.metric("gharts_listener_config_reload_success_timestamp_seconds", &[]) > since);
    running.edit_set("linux", "maxRunners: 5", "maxRunners: 7");
    running.hangup().await;
    running.until_generation(2).await;
    assert!(
        captured.text().contains("scaleSets[linux].maxRunners: 5 -> 7"),
        "the difference is told"
    );
    assert_eq!(running.metric("gharts_listener_config_generation", &[]), 2.0);
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b38_what_cannot_change_under_way_is_named_and_the_rest_is_applied() {
    let running = Running::start(with_provisioner(Provisioner::ScaleSet)).await;
    running.queue(&jobs("linux", 0)).await;
    let text = running.text();
    let other = text.replace("namespace: runners", "namespace: elsewhere");
    let other = other.replace("maxRunners: 10", "maxRunners: 11");
    running.write(&(other + "server: { listen: 127.0.0.1:9999 }\nlogging: { level: debug }\n"));
    running.until_generation(2).await;
    let said = running.status().configuration.clone();
    assert_eq!(
        said.needs_restart,
        [
            "kubernetes.namespace: runners -> elsewhere",
            "logging.level: info -> debug",
            "server.listen: 0.0.0.0:8080 -> 127.0.0.1:9999",
        ]
    );
    assert_eq!(running.set_status("linux").max_runners, 11);
    let queued = running.queue(&jobs("linux", 2).lasting(10 * SECOND)).await;
    running.until_finished(&queued, MINUTE).await;
    running.write(&text);
    running.until_generation(3).await;
    assert!(running.status().configuration.needs_restart.is_empty());
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b18_a_change_of_the_labels_is_tried_at_once_after_a_refusal() {
    let running = Running::start(with_provisioner(Provisioner::Gharts)).await;
    running.world.gharts.set_policy(TEAM, &[], &["large"]);
    let queued = running.queue(&jobs("linux", 3).lasting(10 * SECOND)).await;
    running.until_reason("linux", "label_policy").await;
    running.pass(30 * SECOND).await;
    running.edit_set(
        "linux",
        "maxRunners: 10",
        "maxRunners: 10\n    gharts: { labels: [large] }",
    );
    running.until_finished(&queued, SEEN + 30 * SECOND).await;
    running.until_no_reason("linux", "label_policy").await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b18_a_refusal_of_a_runner_group_ends_with_the_change_of_the_file() {
    let running = Stage::set_with(with_provisioner(Provisioner::ScaleSet), |text| {
        text.replace("  auth:\n", "  runnerGroup: nowhere\n  auth:\n")
    })
    .await
    .start();
    running
        .until("the refusal", |_| running.set_status("linux").session == "failed")
        .await;
    running.pass(10 * MINUTE).await;
    running.edit("  runnerGroup: nowhere\n", "");
    running
        .until_within("a session", SEEN + 5 * SECOND, |world| {
            world.github.set("linux").is_some_and(|set| set.polling)
        })
        .await;
    // The other way round: what worked goes on to work.
    running.edit("  auth:\n", "  runnerGroup: nowhere\n  auth:\n");
    running.until_generation(3).await;
    running.pass(MINUTE).await;
    let notes = running.set_status("linux").notes;
    assert!(notes.iter().any(|note| note.code == "change_refused"), "{notes:?}");
    let queued = running.queue(&jobs("linux", 3).lasting(10 * SECOND)).await;
    running.until_finished(&queued, MINUTE).await;
    assert_eq!(running.sessions_opened(), 1);
    running.edit("  runnerGroup: nowhere\n", "");
    running
        .until_within("no note", SEEN + 5 * SECOND, |_| {
            running
                .set_status("linux")
                .notes
                .iter()
                .all(|note| note.code != "change_refused")
        })
        .await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b33_a_deprecated_runner_is_tried_again_when_the_template_changes() {
    let running = Running::start(with_provisioner(Provisioner::ScaleSet)).await;
    let fleet = running.world.fleet.clone().unwrap();
    fleet.behave(|pod| {
        if image_of(pod).ends_with(":latest") {
            Behaviour::Crashes(7)
        } else {
            Behaviour::Ordinary
        }
    });
    let queued = running.queue(&jobs("linux", 3).lasting(10 * SECOND)).await;
    running.until_reason("linux", "runner_deprecated").await;
    running.pass(20 * SECOND).await;
    running.edit_set("linux", "actions-runner:latest", "actions-runner:next");
    running.until_finished(&queued, SEEN + MINUTE).await;
    running.until_no_reason("linux", "runner_deprecated").await;
    running.end().await;
}
