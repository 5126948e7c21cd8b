//! Container modes at work: what runners make in the cluster, and what becomes of it.

use std::time::Duration;

use gharts_listener::sim::{
    github::{JobState, NewJobs},
    world::{ACCOUNT, DAEMON_NAMESPACE, ORGANIZATION, Provisioner, RUNNER_NAMESPACE},
};
use serde_json::{Value, json};

use super::harness::{Running, with_provisioner};

const MINUTE: Duration = Duration::from_secs(60);

pub(super) async fn in_mode(mode: &str) -> Running {
    let change = |text: String| {
        text.replace(
            "    template:\n",
            &format!("    containerMode: {mode}\n    template:\n"),
        )
    };
    Running::start_with(with_provisioner(Provisioner::ScaleSet), change).await
}

fn create(running: &Running, object: &Value) {
    running.world.kubernetes.create(object).unwrap();
}

/// The rights that only a kubernetes mode needs.
fn may_clean(running: &Running) {
    let metadata = json!({"name": "leftovers", "namespace": RUNNER_NAMESPACE});
    create(
        running,
        &json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": [
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list", "delete"]},
            {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["list", "delete"]}]}),
    );
    create(
        running,
        &json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "leftovers"},
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": DAEMON_NAMESPACE}]}),
    );
}

/// What the hooks of `runner` make for its job.
pub(super) fn hooks_make(running: &Running, runner: &str) {
    let metadata = |suffix: &str| json!({"name": format!("{runner}-{suffix}"), "namespace": RUNNER_NAMESPACE, "labels": {"runner-pod": runner}});
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "job", "image": "node"}]});
    create(
        running,
        &json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata("workflow"), "spec": spec}),
    );
    create(
        running,
        &json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata("env")}),
    );
    create(
        running,
        &json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata("step"),
            "spec": {"template": {"metadata": {}, "spec": spec}}}),
    );
}

/// How many things that `runner` made are there.
pub(super) fn made_by(running: &Running, runner: &str) -> usize {
    let all = ["pods", "secrets", "jobs"].map(|kind| running.world.kubernetes.list(kind, RUNNER_NAMESPACE));
    let labelled =
        |object: &&gharts_listener::sim::kubernetes::Object| object["metadata"]["labels"]["runner-pod"] == runner;
    all.iter().flatten().filter(labelled).count()
}

#[tokio::test(start_paused = true)]
async fn b51_what_a_dead_runner_left_is_removed_and_nothing_of_anybody_else() {
    for mode in ["kubernetes", "kubernetes-novolume"] {
        let mut running = in_mode(mode).await;
        may_clean(&running);
        let long = NewJobs::for_set(ORGANIZATION, "linux", 2).lasting(20 * MINUTE);
        let jobs = running.queue(&long).await;
        running
            .until("busy runners", |world| {
                world.github.jobs().iter().all(|job| job.state == JobState::Running)
            })
            .await;
        let names: Vec<String> = running
            .pods()
            .iter()
            .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
            .collect();
        for runner in names.iter().map(String::as_str).chain(["somebody-elses-runner-abcde"]) {
            hooks_make(&running, runner);
        }
        running.pass(5 * MINUTE).await;
        assert_eq!(
            (made_by(&running, &names[0]), made_by(&running, &names[1])),
            (3, 3),
            "at work"
        );

        // Not lost over a restart, and the other runner works on.
        running.stop().await;
        running
            .world
            .kubernetes
            .delete("pods", RUNNER_NAMESPACE, &names[0])
            .unwrap();
        running.start_again();
        running
            .until_within("their removal", 5 * MINUTE, |_| made_by(&running, &names[0]) == 0)
            .await;
        assert_eq!(made_by(&running, &names[1]), 3, "its neighbour is at work");
        running.until_ended(&jobs, 60 * MINUTE).await;
        running
            .until_within("the other's removal", 5 * MINUTE, |_| made_by(&running, &names[1]) == 0)
            .await;
        assert_eq!(made_by(&running, "somebody-elses-runner-abcde"), 3);
        running.settle(0, 10 * MINUTE).await;
    }
}

#[tokio::test(start_paused = true)]
async fn b51_without_the_right_to_clean_jobs_are_served_all_the_same() {
    let running = in_mode("kubernetes").await;
    let jobs = running.queue(&NewJobs::for_set(ORGANIZATION, "linux", 3)).await;
    running.until_finished(&jobs, 10 * MINUTE).await;
    running.end().await;
}

#[tokio::test(start_paused = true)]
async fn b50_a_pod_with_a_docker_daemon_ends_with_its_runner() {
    for sidecar in [true, false] {
        let mode = format!("dind\n    dind: {{ nativeSidecar: {sidecar} }}");
        let running = in_mode(&mode).await;
        let jobs = running.queue(&NewJobs::for_set(ORGANIZATION, "linux", 3)).await;
        running.until("a pod", |_| !running.pods().is_empty()).await;
        let spec = &running.pods()[0]["spec"];
        let list = if sidecar { "initContainers" } else { "containers" };
        let has_daemon = spec[list].as_array().unwrap().iter().any(|c| c["name"] == "dind");
        assert!(has_daemon, "{spec}");
        running.until_finished(&jobs, 10 * MINUTE).await;
        running.end().await;
    }
}
