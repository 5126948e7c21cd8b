//! From the README to the first finished job in under ten commands, with the chart's own service account and Roles; and
//! what the API server's audit log says of them.

use std::{collections::BTreeSet, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use gharts_listener::http::send;
use serde_json::{Value, json};

use super::{
    DAEMON_NAMESPACE, RUNNER_NAMESPACE, values,
    world::{World, blocks, step},
};

const DAEMON: &str = "system:serviceaccount:gharts-listener:gharts-listener";

/// Rights of the chart that this walk need not use, and what does.
const UNUSED: [(&str, &str); 2] = [
    (
        "runners: get pods",
        "a pod whose creation's answer was lost is looked up",
    ),
    (
        "gharts-listener: create leases",
        "the chart makes it; somebody may have deleted it",
    ),
];

#[test]
fn the_first_job_takes_fewer_than_ten_commands() {
    let blocks = blocks();
    let commands = blocks[..=step::JOB].iter().flat_map(|block| block.text.lines());
    assert_eq!(commands.count(), 8, "the document says how many there are");
}

#[tokio::test(flavor = "multi_thread")]
async fn b35_a_new_users_walk_from_the_readme_to_the_first_job_with_the_charts_rights_and_away_again() {
    let Some(mut world) = World::new("first-job") else {
        return;
    };
    let said = world.does(step::INSTALL);
    assert!(said.contains("looks after 1 scale set of"), "{said}");
    world.simulate().await;
    world.does(step::FILE);
    let said = world.does(step::CHECK);
    assert!(!said.contains("failed ") && said.contains("checks passed"), "{said}");
    world.run().await;
    let said = world.does(step::JOB);
    assert!(said.contains("requestId"), "{said}");
    let state = world.finished(1).await;
    assert_eq!(state["limitExceeded"], json!([]));
    assert!(world.does(step::STATE).contains("\"finished\":1"));
    gharts_verifies_by_the_api_servers_own_keys(&world).await;

    // A restart in the middle of jobs, and a quota of the cluster's: both ask for rights of their own.
    world.queue(5, 15).await;
    let running = |state: &Value| state["jobs"]["running"] == 5;
    world.control.until("five jobs at work", running).await;
    world.stop();
    world.run().await;
    world.finished(6).await;
    a_resource_quota_is_kept_and_its_end_noticed(&world).await;

    world.does(step::UPGRADE);
    let file = [
        "--namespace",
        DAEMON_NAMESPACE,
        "get",
        "configmap",
        "gharts-listener",
        "--output=jsonpath={.data}",
    ];
    assert!(world.cluster.kubectl(&file).contains("maxRunners: 7"));
    // In a cluster the kubelet brings it.
    world.does(step::FILE);
    world.until_generation(2).await;

    world.stop();
    the_audit_log_shows_the_charts_rights_and_no_more(&world);
    world.does(step::UNINSTALL);
    assert_eq!(world.does(step::LIST), "");
    assert_eq!(world.cluster.everything(), Vec::<String>::new());
}

/// GHARTS takes the service account's token because the API server signed it, and for no other reason.
async fn gharts_verifies_by_the_api_servers_own_keys(world: &World) {
    let audience = format!("http://127.0.0.1:{}/gharts", world.port);
    let token = |audience: &str| {
        let wanted = [
            "--namespace",
            DAEMON_NAMESPACE,
            "create",
            "token",
            "gharts-listener",
            "--audience",
            audience,
        ];
        world.cluster.kubectl(&wanted).trim().to_owned()
    };
    let (url, transport) = (&format!("{audience}/api/v1/auth/me"), world.control.transport.as_ref());
    let me = |token: String| async move {
        let request = http::Request::get(url)
            .header("authorization", format!("Bearer {token}"))
            .body(Bytes::new())
            .unwrap();
        let answer = send(transport, request, Duration::from_secs(20)).await;
        answer.unwrap().status().as_u16()
    };
    let good = token(&audience);
    let part = |n: usize| URL_SAFE_NO_PAD.decode(good.split('.').nth(n).unwrap()).unwrap();
    let header: Value = serde_json::from_slice(&part(0)).unwrap();
    let keys: Value = serde_json::from_str(&world.cluster.kubectl(&["get", "--raw", "/openid/v1/jwks"])).unwrap();
    assert_eq!(keys["keys"][0]["kid"], header["kid"]);

    // The same claims, signed by somebody else under the same key's name.
    let stranger = gharts_listener::sim::keys::SigningKey::generate(header["kid"].as_str().unwrap()).unwrap();
    let forged = stranger.sign(&serde_json::from_slice(&part(1)).unwrap()).unwrap();
    assert_eq!(me(good).await, 200);
    assert_eq!(me(forged).await, 401);
    assert_eq!(me(token("https://elsewhere.example.com")).await, 401);
}

/// The real admission refuses, the real controller counts.
async fn a_resource_quota_is_kept_and_its_end_noticed(world: &World) {
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": {"name": "two", "namespace": RUNNER_NAMESPACE}, "spec": {"hard": {"pods": "2"}}});
    world.cluster.apply(&quota);
    let counted = [
        "--namespace",
        RUNNER_NAMESPACE,
        "wait",
        "resourcequota/two",
        "--for=jsonpath={.status.hard.pods}=2",
    ];
    world.cluster.kubectl(&counted);
    world.queue(6, 4).await;
    let two =
        |state: &Value| state["jobs"]["finished"].as_u64() > Some(6) && state["jobs"]["running"].as_u64() > Some(0);
    let state = world.control.until("jobs that run within the quota", two).await;
    assert!(state["liveRunners"].as_u64() <= Some(2), "{state:#}");
    world
        .cluster
        .kubectl(&["--namespace", RUNNER_NAMESPACE, "delete", "resourcequota", "two"]);
    world.finished(12).await;
}

fn the_audit_log_shows_the_charts_rights_and_no_more(world: &World) {
    let objects = world.cluster.helm.template(&["--values", &values("first-job")]);
    let mut granted: BTreeSet<String> = BTreeSet::new();
    for namespace in [RUNNER_NAMESPACE, DAEMON_NAMESPACE] {
        for rule in objects.rules(namespace) {
            let each = |key: &str| {
                rule[key]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|v| v.as_str().unwrap().to_owned())
            };
            for resource in each("resources") {
                for verb in each("verbs") {
                    granted.insert(format!("{namespace}: {verb} {resource}"));
                }
            }
        }
    }
    let entries = world.cluster.audit(DAEMON);
    assert!(entries.len() > 50, "the daemon asked for something");
    let mut used: BTreeSet<String> = BTreeSet::new();
    for entry in &entries {
        let (object, code) = (&entry["objectRef"], &entry["responseStatus"]["code"]);
        let quota = entry["responseStatus"]["message"]
            .as_str()
            .unwrap_or_default()
            .contains("exceeded quota");
        assert!(*code != 403 || quota, "asked for what it may not: {entry:#}");
        let text = |key: &str| object[key].as_str().unwrap_or_default();
        // Everybody may ask for these.
        if entry["requestURI"] == "/version" || text("resource") == "selfsubjectaccessreviews" {
            continue;
        }
        let resource = match text("subresource") {
            "" => text("resource").to_owned(),
            sub => format!("{}/{sub}", text("resource")),
        };
        // A role by which more was allowed than the chart's would show here.
        let reason = entry["annotations"]["authorization.k8s.io/reason"].as_str().unwrap();
        assert!(reason.contains("by RoleBinding \"gharts-listener/"), "{reason}");
        used.insert(format!(
            "{}: {} {resource}",
            text("namespace"),
            entry["verb"].as_str().unwrap()
        ));
    }
    let beyond: Vec<&String> = used.difference(&granted).collect();
    assert_eq!(beyond, Vec::<&String>::new());
    let mut unused: Vec<&str> = granted.difference(&used).map(String::as_str).collect();
    unused.retain(|right| !UNUSED.iter().any(|(known, _)| known == right));
    assert_eq!(unused, Vec::<&str>::new(), "rights that nothing needed");
}
