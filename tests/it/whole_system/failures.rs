//! What operators hear of failed runners: Kubernetes Events, and failed pods that are kept.

use std::time::Duration;

use gharts_listener::{
    runner::cluster::Cluster,
    sim::{
        fleet::Behaviour,
        github::NewJobs,
        kubernetes::{Fault, Object, Trouble},
        world::{ORGANIZATION, Options, Provisioner, RUNNER_NAMESPACE},
    },
};
use serde_json::json;

use super::harness::{Running, with_provisioner};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn scale_set() -> Options {
    with_provisioner(Provisioner::ScaleSet)
}

fn jobs(count: usize) -> NewJobs {
    NewJobs::for_set(ORGANIZATION, "linux", count).lasting(30 * SECOND)
}

fn keeping(text: String) -> String {
    text.replace("    template:\n", "    keepFailed: 30m\n    template:\n")
}

impl Running {
    fn behave(&self, behaviour: Behaviour) {
        self.world.fleet.clone().unwrap().behave(move |_| behaviour);
    }

    /// The Events with this reason.
    fn events(&self, reason: &str) -> Vec<Object> {
        let all = self.world.kubernetes.list("events", RUNNER_NAMESPACE);
        all.into_iter().filter(|event| event["reason"] == reason).collect()
    }

    fn kept(&self) -> Vec<Object> {
        let kept = |pod: &Object| pod["metadata"]["labels"]["gharts-listener/failed"].is_string();
        self.pods().into_iter().filter(kept).collect()
    }
}

/// Every runner is ill in one way: the operator finds it in an Event on its pod, in Kubernetes' own words.
async fn is_an_event(behaviour: Behaviour, reason: &str, words: &str) {
    let running = Running::start(scale_set()).await;
    running.behave(behaviour);
    running.queue(&jobs(1)).await;
    running.until(reason, |_| !running.events(reason).is_empty()).await;
    let event = running.events(reason).remove(0);
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["involvedObject"]["kind"], "Pod", "{event}");
    assert!(event["involvedObject"]["uid"].is_string(), "{event}");
    let message = event["message"].as_str().unwrap();
    let name = event["involvedObject"]["name"].as_str().unwrap();
    assert!(
        message.contains("scale set linux") && message.contains(name),
        "{message}"
    );
    assert!(message.contains(words), "{message}");
    running.end_in_peace().await;
}

impl Running {
    async fn end_in_peace(self) {
        self.behave(Behaviour::Ordinary);
        self.until("the end of every job", |world| world.github.unfinished_jobs() == 0)
            .await;
        self.settle(0, 60 * MINUTE).await;
        self.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn b31_a_pod_that_no_node_takes_is_an_event_with_the_schedulers_words() {
    is_an_event(Behaviour::Unschedulable, "SchedulingTimeout", "0/1 nodes are available").await;
}

#[tokio::test(start_paused = true)]
async fn b31_an_image_that_cannot_be_pulled_is_an_event_with_the_kubelets_words() {
    is_an_event(
        Behaviour::ImagePullFails,
        "ImagePullTimeout",
        "ImagePullBackOff: Back-off pulling image",
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn b31_a_runner_that_never_registers_is_an_event() {
    is_an_event(Behaviour::NeverRegisters, "RegistrationTimeout", "registration_timeout").await;
}

#[tokio::test(start_paused = true)]
async fn b31_a_crash_before_registration_is_an_event_with_its_exit_code() {
    is_an_event(Behaviour::Crashes(3), "CrashedBeforeJob", "exit code 3 (Error)").await;
}

#[tokio::test(start_paused = true)]
async fn b33_a_deprecated_runner_is_an_event() {
    is_an_event(Behaviour::Crashes(7), "RunnerDeprecated", "exit code 7").await;
}

#[tokio::test(start_paused = true)]
async fn b32_a_pod_that_is_killed_for_its_memory_under_its_job_is_an_event() {
    is_an_event(Behaviour::OutOfMemory(10 * SECOND), "OutOfMemoryUnderJob", "OOMKilled").await;
}

#[tokio::test(start_paused = true)]
async fn b31_pods_that_crash_for_an_hour_are_a_dozen_events_that_count_them_all() {
    let running = Running::start(scale_set()).await;
    running.behave(Behaviour::Crashes(1));
    running.queue(&jobs(10)).await;
    tokio::time::sleep(60 * MINUTE).await;
    let events = running.events("CrashedBeforeJob");
    assert!((2..=13).contains(&events.len()), "{}", events.len());
    let counted: i64 = events.iter().filter_map(|e| e["count"].as_i64()).sum();
    let failures = running.failures("crashed_before_job");
    assert!(
        (failures - 3.0..=failures).contains(&(counted as f64)),
        "{counted} of {failures}"
    );
}

#[tokio::test(start_paused = true)]
async fn b31_a_full_resource_quota_is_an_event_on_the_namespace_and_so_is_its_end() {
    let running = Running::start(scale_set()).await;
    running
        .world
        .kubernetes
        .create(&json!({"apiVersion": "v1", "kind": "ResourceQuota",
            "metadata": {"name": "few", "namespace": RUNNER_NAMESPACE}, "spec": {"hard": {"pods": "2"}}}))
        .unwrap();
    running.queue(&jobs(8)).await;
    running
        .until("the event", |_| !running.events("ResourceQuota").is_empty())
        .await;
    let event = running.events("ResourceQuota").remove(0);
    assert_eq!(event["involvedObject"]["kind"], "Namespace");
    let message = event["message"].as_str().unwrap();
    assert!(
        message.contains("exceeded quota: few") && message.contains("To mend it"),
        "{message}"
    );
    running
        .until("its end", |_| {
            let over = |event: &Object| event["message"].as_str().unwrap().contains("resource_quota is over");
            running.events("Recovered").iter().any(over)
        })
        .await;
    running.end_in_peace().await;
}

#[tokio::test(start_paused = true)]
async fn b31_an_invalid_template_is_an_event() {
    let broken = |text: String| {
        let label = "    template:\n      metadata: { labels: { team: \"no label!\" } }\n";
        text.replace("    template:\n", label)
    };
    let running = Running::start_with(scale_set(), broken).await;
    running.queue(&jobs(1)).await;
    running
        .until("the event", |_| !running.events("InvalidTemplate").is_empty())
        .await;
}

#[tokio::test(start_paused = true)]
async fn b31_events_that_cannot_be_written_harm_nothing() {
    let running = Running::start(scale_set()).await;
    for trouble in [Trouble::Hang, Trouble::Unavailable] {
        let fault = Fault::new(trouble).verb("create").resource("events").times(3);
        running.world.kubernetes.add_fault(fault);
    }
    running.behave(Behaviour::Crashes(1));
    running.queue(&jobs(2)).await;
    running
        .until("failures", |_| running.failures("crashed_before_job") >= 4.0)
        .await;
    running.end_in_peace().await;
}

#[tokio::test(start_paused = true)]
async fn b57_failed_pods_are_kept_for_a_while_with_their_reason_and_their_log() {
    let mut running = Running::start_with(scale_set(), keeping).await;
    running.behave(Behaviour::Crashes(1));
    running.queue(&jobs(3)).await;
    running.until("kept pods", |_| running.kept().len() == 3).await;
    let kept = running.kept();
    let annotations = &kept[0]["metadata"]["annotations"];
    assert_eq!(annotations["gharts-listener/failed"], "crashed_before_job");
    assert_eq!(annotations["gharts-listener/failed-message"], "exit code 1 (Error)");
    running
        .until("its status", |_| running.set_status("linux").kept_pods.len() == 3)
        .await;
    running
        .until("no registrations", |world| world.github.runners().is_empty())
        .await;

    let name = kept[0]["metadata"]["name"].as_str().unwrap();
    let log = "one\ntwo\nthree\n";
    running.world.kubernetes.set_log(RUNNER_NAMESPACE, name, "runner", log);
    let cluster = Cluster::new(running.world.admin_client(), RUNNER_NAMESPACE);
    let pods = cluster.failed_pods().await.unwrap();
    let pod = pods.iter().find(|pod| pod.name.as_str() == name).unwrap();
    assert_eq!(pod.reason, "crashed_before_job");
    assert_eq!(cluster.logs(&pod.name, "runner", 2).await.unwrap(), "two\nthree\n");

    // Neither a restart nor the next failures make more of them than five, nor fail them again.
    let failures = running.failures("crashed_before_job");
    assert!(failures >= 3.0);
    running.stop().await;
    running.start_again();
    running
        .until_within("the newest five", 20 * MINUTE, |_| {
            running.failures("crashed_before_job") >= 5.0 && running.kept().len() == 5
        })
        .await;
    let made = running.world.counters.created();
    let failed = running.failures("crashed_before_job");
    assert!(
        failed <= (made - 3) as f64,
        "{failed} failures after the restart of {made} pods in all"
    );
    running.end_in_peace().await;
}

#[tokio::test(start_paused = true)]
async fn b57_kept_pods_stay_their_whole_time_across_a_restart() {
    let mut running = Running::start_with(scale_set(), keeping).await;
    running.behave(Behaviour::Crashes(1));
    running.queue(&jobs(1)).await;
    running.until("a kept pod", |_| running.kept().len() == 1).await;
    running.behave(Behaviour::Ordinary);
    let names = |running: &Running| {
        running
            .kept()
            .iter()
            .map(|pod| pod["metadata"]["name"].to_string())
            .collect()
    };
    let before: Vec<String> = names(&running);

    running.stop().await;
    tokio::time::sleep(10 * MINUTE).await;
    running.start_again();
    running
        .until("its status", |_| running.set_status("linux").kept_pods.len() == 1)
        .await;
    running.pass(18 * MINUTE).await;
    assert_eq!(names(&running), before, "28 minutes after the failure");
    running.pass(3 * MINUTE).await;
    assert!(running.kept().is_empty(), "31 minutes after the failure");
    running.end_in_peace().await;
}

#[tokio::test(start_paused = true)]
async fn b57_a_pod_whose_runner_never_registered_is_ended_and_kept_and_no_capacity() {
    for behaviour in [Behaviour::NeverRegisters, Behaviour::ImagePullFails] {
        let running = Running::start_with(scale_set(), keeping).await;
        running.behave(behaviour);
        running.queue(&jobs(2)).await;
        running
            .until_within("kept pods", 30 * MINUTE, |_| {
                running.kept().iter().any(|pod| pod["status"]["phase"] == "Failed")
            })
            .await;
        let kept = running.kept().remove(0);
        assert_eq!(kept["spec"]["activeDeadlineSeconds"], 1);
        running
            .until("its end", |world| {
                world
                    .kubernetes
                    .get("pods", RUNNER_NAMESPACE, kept["metadata"]["name"].as_str().unwrap())
                    .unwrap()["status"]["phase"]
                    == "Failed"
            })
            .await;
        assert_eq!(running.world.counters.exceeded(), []);
        running.end_in_peace().await;
    }
}
