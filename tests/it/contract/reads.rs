//! Reading: lists, watches, discovery.

use super::*;

pub(super) async fn lists_of_nowhere_are_empty_but_creation_needs_the_namespace(c: Cluster) {
    let reply = c.get("/api/v1/namespaces/missing/pods").await;
    assert_eq!(reply.is(200).json["items"], json!([]));
    let reply = c.post("/api/v1/namespaces/missing/pods", &pod("p1")).await;
    reply.refused(404, "NotFound", "namespaces \"missing\" not found");
}

pub(super) async fn a_watch_resumes_from_an_old_version(c: Cluster) {
    let path = c.path("pods");
    let version = c.get(&path).await.json["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    c.pod("p1").await;
    c.merge(&c.path("pods/p1"), &json!({"metadata": {"labels": {"a": "b"}}}))
        .await
        .is(200);
    c.delete(&c.path("pods/p1"), &json!({})).await.is(200);
    // A deletion is a change of the object, then its end.
    let expected = ["ADDED p1", "MODIFIED p1", "MODIFIED p1", "DELETED p1"];
    let events = c.watch(&path, &format!("resourceVersion={version}"), &expected).await;
    assert_eq!(events[3]["object"]["metadata"]["labels"]["a"], "b");
    let versions: Vec<u64> = events
        .iter()
        .map(|e| {
            e["object"]["metadata"]["resourceVersion"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect();
    assert!(versions.is_sorted(), "{versions:?}");
}

pub(super) async fn a_watch_begins_with_what_there_is(c: Cluster) {
    c.pod("p1").await;
    c.pod("p2").await;
    c.cached("p2", |_| true).await;
    for query in ["", "resourceVersion=0"] {
        c.watch(&c.path("pods"), query, &["ADDED p1", "ADDED p2"]).await;
    }
    // And goes on with what comes.
    let stream = format!("{}?watch=true&timeoutSeconds=60", c.path("pods"));
    let request = Request::get(stream).body(kube::client::Body::empty()).unwrap();
    let mut lines = c.admin.send(request).await.unwrap().into_body().into_data_stream();
    lines.next().await.unwrap().unwrap();
    c.pod("p3").await;
    let mut text = String::new();
    while !text.contains("p3") {
        text += std::str::from_utf8(&lines.next().await.unwrap().unwrap()).unwrap();
    }
}

pub(super) async fn a_watch_from_a_compacted_version_is_gone(c: Cluster) {
    // Events, since a real server answers watches of other things from a cache of its own.
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e1"}, "reason": "R",
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": c.namespace}});
    let path = c.path("events");
    let before = c.get(&path).await.json["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    c.post(&path, &event).await.is(201);
    let mut another = event.clone();
    another["metadata"]["name"] = json!("e2");
    let made = c.post(&path, &another).await;
    made.is(201);
    match &c.kind {
        Kind::Simulated(model) => model.compact(),
        Kind::Real(_) => {
            let Ok(etcd) = std::env::var("GHARTS_TEST_ETCD") else {
                println!("SKIPPED: no GHARTS_TEST_ETCD to compact");
                return;
            };
            let body = json!({"revision": made.json["metadata"]["resourceVersion"]}).to_string();
            let reply = http_client()
                .post(format!("{etcd}/v3/kv/compaction"))
                .body(body)
                .send()
                .await
                .unwrap();
            assert!(reply.status().is_success());
        }
    }
    let events = c.watch(&path, &format!("resourceVersion={before}"), &["ERROR "]).await;
    assert_eq!(events[0]["object"]["kind"], "Status");
    assert_eq!(events[0]["object"]["code"], 410);
    assert_eq!(events[0]["object"]["reason"], "Expired");
}

#[expect(
    clippy::disallowed_methods,
    reason = "talks to the etcd behind the real API server, not to a peer of ours"
)]
fn http_client() -> reqwest::Client {
    reqwest::Client::new()
}

pub(super) async fn a_watch_from_the_future_is_silent_and_ends(c: Cluster) {
    c.pod("p1").await;
    let path = format!(
        "{}?watch=true&timeoutSeconds=1&resourceVersion=99999999",
        c.path("pods")
    );
    assert_eq!(c.get(&path).await.is(200).text, "");
}

pub(super) async fn a_selective_watch_sees_things_come_and_go(c: Cluster) {
    let path = c.path("pods");
    let version = c.get(&path).await.json["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    c.pod("p1").await;
    c.pod("p2").await;
    let one = c.path("pods/p1");
    for value in [json!("x"), json!("y"), json!("x"), json!(null)] {
        c.merge(&one, &json!({"metadata": {"labels": {"set": value}}}))
            .await
            .is(200);
    }
    let labelled = format!("resourceVersion={version}&labelSelector=set%3Dx");
    let expected = ["ADDED p1", "DELETED p1", "ADDED p1", "DELETED p1"];
    c.watch(&path, &labelled, &expected).await;
    c.bind("p2").await.is(201);
    let on_node = format!("resourceVersion={version}&fieldSelector=spec.nodeName%3Dn1");
    c.watch(&path, &on_node, &["ADDED p2"]).await;
}

pub(super) async fn a_watch_of_no_version_is_an_error(c: Cluster) {
    let reply = c
        .get(&format!("{}?watch=true&resourceVersion=abc", c.path("pods")))
        .await;
    reply.refused_like(500, "", "resourceVersion: Invalid value: \"abc\"");
    let reply = c
        .get(&format!("{}?watch=true&sendInitialEvents=true", c.path("pods")))
        .await;
    reply.refused_like(
        422,
        "Invalid",
        "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
    );
}

pub(super) async fn lists_are_paged(c: Cluster) {
    for name in ["p1", "p2", "p3"] {
        c.pod(name).await;
    }
    let path = c.path("pods");
    let first = c.get(&format!("{path}?limit=2")).await.json;
    assert_eq!(first["kind"], "PodList");
    assert_eq!(names(&first), ["p1", "p2"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = c.get(&format!("{path}?limit=2&continue={token}")).await.json;
    assert_eq!(names(&second), ["p3"]);
    assert_eq!(second["metadata"]["continue"].as_str().unwrap_or_default(), "");
    assert_eq!(
        second["metadata"]["resourceVersion"],
        first["metadata"]["resourceVersion"]
    );
    c.get(&format!("{path}?limit=2&continue=abc"))
        .await
        .refused_like(400, "BadRequest", "invalid continue token");
}

pub(super) async fn lists_are_selected(c: Cluster) {
    for (name, set) in [("p1", "a"), ("p2", "b"), ("p3", "")] {
        let mut body = pod(name);
        if !set.is_empty() {
            body["metadata"]["labels"] = json!({"set": set});
        }
        c.post(&c.path("pods"), &body).await.is(201);
    }
    c.bind("p2").await.is(201);
    for (query, expected) in [
        ("labelSelector=set%3Da", vec!["p1"]),
        ("labelSelector=set%3D%3Da", vec!["p1"]),
        ("labelSelector=set!%3Da", vec!["p2", "p3"]),
        ("labelSelector=set", vec!["p1", "p2"]),
        ("labelSelector=!set", vec!["p3"]),
        ("labelSelector=set+in+(a,b)", vec!["p1", "p2"]),
        ("labelSelector=set+notin+(a)", vec!["p2", "p3"]),
        ("fieldSelector=metadata.name%3Dp3", vec!["p3"]),
        ("fieldSelector=spec.nodeName%3Dn1", vec!["p2"]),
        ("fieldSelector=spec.nodeName%3D", vec!["p1", "p3"]),
        (
            "fieldSelector=status.phase!%3DRunning,metadata.name!%3Dp1",
            vec!["p2", "p3"],
        ),
    ] {
        assert_eq!(
            names(&c.get(&format!("{}?{query}", c.path("pods"))).await.json),
            expected,
            "{query}"
        );
    }
    let path = c.path("pods");
    c.get(&format!("{path}?labelSelector=a+b+c"))
        .await
        .refused_like(400, "BadRequest", "unable to parse requirement");
    let message = "field label not supported: spec.colour";
    c.get(&format!("{path}?fieldSelector=spec.colour%3Dred"))
        .await
        .refused(400, "BadRequest", message);
    let message = "invalid selector: 'abc'; can't understand 'abc'";
    c.get(&format!("{path}?fieldSelector=abc"))
        .await
        .refused(400, "BadRequest", message);
}

pub(super) async fn a_list_from_the_future_times_out(c: Cluster) {
    let reply = c.get(&format!("{}?resourceVersion=99999999", c.path("pods"))).await;
    reply.refused_like(504, "Timeout", "Too large resource version: 99999999, current: ");
}

pub(super) async fn metadata_alone(c: Cluster) {
    c.pod("p1").await;
    let request = Request::get(c.path("pods")).header(
        "accept",
        "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
    );
    let reply = send(&c.admin, request.body(Vec::new()).unwrap()).await;
    assert_eq!(reply.is(200).json["kind"], "PartialObjectMetadataList");
    assert_eq!(names(&reply.json), ["p1"]);
    assert_eq!(reply.json["items"][0]["spec"], Value::Null);
}

pub(super) async fn unknown_paths_are_not_found(c: Cluster) {
    let message = "the server could not find the requested resource";
    c.get(&c.path("nothing")).await.refused(404, "NotFound", message);
    c.get("/apis/none.example.com/v1").await.is(404);
    let found = c.get("/api/v1").await.is(200).json["resources"].clone();
    let pods = found.as_array().unwrap().iter().find(|r| r["name"] == "pods").unwrap();
    assert_eq!(pods["kind"], "Pod");
    assert_eq!(pods["namespaced"], true);
    let groups = c.get("/apis").await.is(200).json["groups"].clone();
    assert!(
        groups
            .as_array()
            .unwrap()
            .iter()
            .any(|g| g["name"] == "coordination.k8s.io")
    );
}
