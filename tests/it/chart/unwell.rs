//! A real API server that restarts, and one that refuses by its own flow control, in the middle of work.

use serde_json::{Value, json};

use super::{DAEMON_NAMESPACE, world::World};

const FLOW: &str = "flowcontrol.apiserver.k8s.io/v1";

/// A priority level without a seat: while it lasts, a call of the daemon's beside another one is answered with 429.
fn throttled() -> [Value; 2] {
    let level = json!({"apiVersion": FLOW, "kind": "PriorityLevelConfiguration", "metadata": {"name": "none"},
        "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 0, "lendablePercent": 0,
            "borrowingLimitPercent": 0, "limitResponse": {"type": "Reject"}}}});
    let flow = json!({"apiVersion": FLOW, "kind": "FlowSchema", "metadata": {"name": "daemon"},
        "spec": {"matchingPrecedence": 2, "priorityLevelConfiguration": {"name": "none"},
            "rules": [{"subjects": [{"kind": "ServiceAccount",
                    "serviceAccount": {"name": "gharts-listener", "namespace": DAEMON_NAMESPACE}}],
                "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true,
                    "namespaces": ["*"]}]}]}});
    [level, flow]
}

fn refusals(world: &World, code: u16) -> usize {
    let entries = world
        .cluster
        .audit("system:serviceaccount:gharts-listener:gharts-listener");
    entries
        .iter()
        .filter(|entry| entry["responseStatus"]["code"] == code)
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn b36_a_real_api_server_restarts_and_throttles_in_the_middle_of_work_and_every_job_ends() {
    let Some(mut world) = World::start("unwell").await else {
        return;
    };
    world.queue(40, 3).await;
    let some = |state: &Value| state["jobs"]["running"].as_u64() >= Some(5);
    world.control.until("jobs at work", some).await;
    world.cluster.restart_api_server();
    world.finished(40).await;

    for object in throttled() {
        world.cluster.apply(&object);
    }
    let before = refusals(&world, 429);
    world.queue(60, 2).await;
    let refused = async {
        while refusals(&world, 429) < before + 5 {
            tokio::time::sleep(crate::killed::LOOK_EVERY).await;
        }
    };
    tokio::time::timeout(crate::killed::PATIENCE, refused)
        .await
        .expect("the API server throttles");
    world.cluster.kubectl(&["delete", "flowschema", "daemon"]);
    let state = world.finished(100).await;

    assert_eq!(state["limitExceeded"], json!([]), "{state:#}");
    let daemon = world.daemon.as_mut().unwrap();
    assert!(
        daemon.0.try_wait().unwrap().is_none(),
        "the daemon went through all of it"
    );
    world.stop();
}
