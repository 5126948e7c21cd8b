//! Writing: names, versions, patches, deletion, owners, events.

use super::*;

pub(super) async fn a_taken_name_is_refused(c: Cluster) {
    c.pod("p1").await;
    let reply = c.post(&c.path("pods"), &pod("p1")).await;
    reply.refused(409, "AlreadyExists", "pods \"p1\" already exists");
    assert_eq!(reply.json["details"], json!({"name": "p1", "kind": "pods"}));
}

pub(super) async fn wrong_types_and_kinds_are_refused(c: Cluster) {
    let mut body = pod("p1");
    body["spec"]["restartPolicy"] = json!(3);
    let start = "Pod in version \"v1\" cannot be handled as a Pod: ";
    c.post(&c.path("pods"), &body)
        .await
        .refused_like(400, "BadRequest", start);
    let reply = c.post(&c.path("pods"), &secret("p1")).await;
    reply.refused_like(
        400,
        "BadRequest",
        "Secret in version \"v1\" cannot be handled as a Pod: ",
    );
    let mut body = pod("p1");
    body["metadata"]["namespace"] = json!("other");
    let message = "the namespace of the provided object does not match the namespace sent on the request";
    c.post(&c.path("pods"), &body).await.refused(400, "BadRequest", message);
    let request = Request::post(c.path("pods")).header("content-type", "application/json");
    let reply = send(&c.admin, request.body(b"{bad".to_vec()).unwrap()).await;
    reply.refused_like(
        400,
        "BadRequest",
        "the object provided is unrecognized (must be of type Pod)",
    );
}

pub(super) async fn unknown_fields_are_refused_or_warned_of(c: Cluster) {
    let mut body = pod("p1");
    body["spec"]["containers"][0]["imagee"] = json!("x");
    let path = c.path("pods");
    let message = "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"spec.containers[0].imagee\"";
    c.post(&format!("{path}?fieldValidation=Strict"), &body)
        .await
        .refused(400, "BadRequest", message);
    let reply = c.post(&path, &body).await;
    reply.is(201);
    assert_eq!(
        reply.headers["warning"],
        "299 - \"unknown field \\\"spec.containers[0].imagee\\\"\""
    );
    assert_eq!(reply.json["spec"]["containers"][0]["imagee"], Value::Null);
    body["metadata"]["name"] = json!("p2");
    let reply = c.post(&format!("{path}?fieldValidation=Ignore"), &body).await;
    assert!(!reply.is(201).headers.contains_key("warning"));
}

pub(super) async fn names_are_generated(c: Cluster) {
    let mut body = pod("");
    body["metadata"] = json!({"generateName": "g-"});
    let reply = c.post(&c.path("pods"), &body).await;
    let name = reply.is(201).json["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("g-") && name.len() == 7, "{name}");
}

pub(super) async fn deletion_respects_preconditions(c: Cluster) {
    let made = c.pod("p1").await;
    let path = c.path("pods/p1");
    let uid = made["metadata"]["uid"].as_str().unwrap();
    let reply = c.delete(&path, &json!({"preconditions": {"uid": "another"}})).await;
    reply.refused_like(
        409,
        "Conflict",
        "the UID in the precondition (another) does not match the UID in record",
    );
    c.get(&path).await.is(200);
    let reply = c
        .delete(&path, &json!({"preconditions": {"resourceVersion": "1"}}))
        .await;
    reply.refused_like(
        409,
        "Conflict",
        "the ResourceVersion in the precondition (1) does not match the ResourceVersion in record",
    );
    c.delete(&path, &json!({"preconditions": {"uid": uid}})).await.is(200);
    c.get(&path).await.is(404);
}

pub(super) async fn what_is_gone_cannot_be_patched_or_put(c: Cluster) {
    let path = c.path("pods/nope");
    let message = "pods \"nope\" not found";
    c.merge(&path, &json!({"metadata": {"labels": {"a": "b"}}}))
        .await
        .refused(404, "NotFound", message);
    c.put(&path, &pod("nope")).await.refused(404, "NotFound", message);
    c.delete(&path, &json!({})).await.refused(404, "NotFound", message);
}

pub(super) async fn a_stale_version_is_refused(c: Cluster) {
    let old = c.pod("p1").await;
    let path = c.path("pods/p1");
    let changed = c.merge(&path, &json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_ne!(
        changed.is(200).json["metadata"]["resourceVersion"],
        old["metadata"]["resourceVersion"]
    );
    let message = "Operation cannot be fulfilled on pods \"p1\": the object has been modified; please apply your \
        changes to the latest version and try again";
    c.put(&path, &old).await.refused(409, "Conflict", message);
    let patch = json!({"metadata": {"resourceVersion": old["metadata"]["resourceVersion"], "labels": {"a": "c"}}});
    c.merge(&path, &patch).await.refused(409, "Conflict", message);
    c.put(&path, &changed.json).await.is(200);
    let mut other = changed.json.clone();
    other["metadata"]["name"] = json!("p2");
    let message = "the name of the object (p2) does not match the name on the URL (p1)";
    c.put(&path, &other).await.refused(400, "BadRequest", message);
}

pub(super) async fn leases_are_guarded_by_version(c: Cluster) {
    let lease = |version: &str, holder: &str| {
        let mut lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l1"},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 10, "renewTime": "2026-01-01T00:00:00.123456Z"}});
        if !version.is_empty() {
            lease["metadata"]["resourceVersion"] = json!(version);
        }
        lease
    };
    let path = c.group_path("coordination.k8s.io", "leases/l1");
    let made = c.put(&path, &lease("", "a")).await;
    made.is(201);
    assert_eq!(made.json["spec"]["renewTime"], "2026-01-01T00:00:00.123456Z");
    let version = made.json["metadata"]["resourceVersion"].as_str().unwrap();
    c.put(&path, &lease("", "b"))
        .await
        .refused_like(422, "Invalid", "must be specified for an update");
    c.put(&path, &lease(version, "b")).await.is(200);
    let message = "Operation cannot be fulfilled on leases.coordination.k8s.io \"l1\": the object has been modified; \
        please apply your changes to the latest version and try again";
    c.put(&path, &lease(version, "c"))
        .await
        .refused(409, "Conflict", message);
    let mut bad = lease("", "a");
    bad["metadata"]["name"] = json!("l2");
    bad["spec"]["leaseDurationSeconds"] = json!(0);
    let message = "Lease.coordination.k8s.io \"l2\" is invalid: spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0";
    c.post(&c.group_path("coordination.k8s.io", "leases"), &bad)
        .await
        .refused(422, "Invalid", message);
}

pub(super) async fn a_write_that_changes_nothing_is_no_write(c: Cluster) {
    let made = c.pod("p1").await;
    let again = c
        .merge(&c.path("pods/p1"), &json!({"metadata": {"namespace": c.namespace}}))
        .await;
    assert_eq!(
        again.is(200).json["metadata"]["resourceVersion"],
        made["metadata"]["resourceVersion"]
    );
}

pub(super) async fn patches_of_three_kinds(c: Cluster) {
    c.pod("p1").await;
    let path = c.path("pods/p1");
    let add = json!([{"op": "add", "path": "/metadata/labels", "value": {"a": "1", "b": "2"}}]);
    let json_patch = "application/json-patch+json";
    c.call(Method::PATCH, &path, json_patch, Some(&add)).await.is(200);
    let reply = c
        .merge(&path, &json!({"metadata": {"labels": {"a": null, "c": "3"}}}))
        .await;
    assert_eq!(reply.is(200).json["metadata"]["labels"], json!({"b": "2", "c": "3"}));
    let ready = |status: &str| json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
    let other = json!({"status": {"conditions": [{"type": "Initialized", "status": "True"}]}});
    let status = c.path("pods/p1/status");
    c.strategic(&status, &ready("False")).await.is(200);
    c.strategic(&status, &other).await.is(200);
    let reply = c.strategic(&status, &ready("True")).await;
    let conditions = reply.is(200).json["status"]["conditions"].as_array().unwrap();
    let mut found: Vec<String> = conditions
        .iter()
        .map(|c| format!("{}={}", c["type"], c["status"]))
        .collect();
    found.sort();
    assert_eq!(found, ["\"Initialized\"=\"True\"", "\"Ready\"=\"True\""]);
    let nowhere = json!([{"op": "remove", "path": "/nope"}]);
    let message = "the server rejected our request due to an error in our request";
    c.call(Method::PATCH, &path, json_patch, Some(&nowhere))
        .await
        .refused(422, "Invalid", message);
    let reply = c.call(Method::PATCH, &path, "application/json", Some(&json!({}))).await;
    reply.refused_like(415, "UnsupportedMediaType", "");
    let reply = c.merge(&path, &json!({"metadata": {"uid": "x"}})).await;
    reply.refused_like(422, "Invalid", "metadata.uid: Invalid value: \"x\": field is immutable");
}

pub(super) async fn immutable_secrets_stay(c: Cluster) {
    let mut body = secret("s1");
    body["immutable"] = json!(true);
    let made = c.post(&c.path("secrets"), &body).await;
    assert_eq!(made.is(201).json["data"], json!({"a": "Yg=="}));
    assert_eq!(made.json["stringData"], Value::Null);
    assert_eq!(made.json["type"], "Opaque");
    let path = c.path("secrets/s1");
    let message = "Secret \"s1\" is invalid: data: Forbidden: field is immutable when `immutable` is set";
    c.merge(&path, &json!({"stringData": {"a": "c"}}))
        .await
        .refused(422, "Invalid", message);
    let message = "Secret \"s1\" is invalid: immutable: Forbidden: field is immutable when `immutable` is set";
    c.merge(&path, &json!({"immutable": false}))
        .await
        .refused(422, "Invalid", message);
    c.merge(&path, &json!({"metadata": {"labels": {"a": "b"}}}))
        .await
        .is(200);
}

pub(super) async fn finalizers_hold_an_object(c: Cluster) {
    let mut body = pod("p1");
    body["metadata"]["finalizers"] = json!(["example.com/hold"]);
    c.post(&c.path("pods"), &body).await.is(201);
    let path = c.path("pods/p1");
    c.delete(&path, &json!({})).await.is(200);
    assert!(c.get(&path).await.is(200).json["metadata"]["deletionTimestamp"].is_string());
    c.merge(&path, &json!({"metadata": {"finalizers": null}})).await.is(200);
    c.get(&path).await.is(404);
}

pub(super) async fn a_dry_run_tells_what_exists_and_stores_nothing(c: Cluster) {
    let path = c.path("secrets?dryRun=All");
    c.post(&path, &secret("s1")).await.is(201);
    c.get(&c.path("secrets/s1")).await.is(404);
    c.post(&c.path("secrets"), &secret("s1")).await.is(201);
    c.post(&path, &secret("s1"))
        .await
        .refused(409, "AlreadyExists", "secrets \"s1\" already exists");
    c.post(&c.path("secrets?dryRun=Some"), &secret("s2"))
        .await
        .refused_like(422, "Invalid", "supported values: \"All\"");
    // Of options in both places, those in the query are not even read.
    let query = c.path("secrets/s1?dryRun=All");
    c.call(Method::DELETE, &query, "", None).await.is(200);
    c.delete(&c.path("secrets/s1"), &json!({"dryRun": ["All"]}))
        .await
        .is(200);
    c.get(&c.path("secrets/s1")).await.is(200);
    c.delete(&query, &json!({})).await.is(200);
    c.get(&c.path("secrets/s1")).await.is(404);
}

pub(super) async fn the_owners_end_takes_its_dependents(c: Cluster) {
    let owned = |name: &str, owners: &[&Value]| {
        let mut secret = secret(name);
        secret["metadata"]["ownerReferences"] = owners
            .iter()
            .map(|o| json!({"apiVersion": "v1", "kind": "Pod", "name": o["metadata"]["name"], "uid": o["metadata"]["uid"]}))
            .collect();
        secret
    };
    let (one, two) = (c.pod("p1").await, c.pod("p2").await);
    c.post(&c.path("secrets"), &owned("s1", &[&one])).await.is(201);
    c.post(&c.path("secrets"), &owned("both", &[&one, &two])).await.is(201);
    c.delete(&c.path("pods/p1"), &json!({})).await.is(200);
    c.eventually("the Secret goes with its pod", async || {
        c.get(&c.path("secrets/s1")).await.code == 404
    })
    .await;
    // One born after its owner's end goes too; one with another owner stays.
    c.post(&c.path("secrets"), &owned("late", &[&one])).await.is(201);
    c.eventually("the orphan goes", async || {
        c.get(&c.path("secrets/late")).await.code == 404
    })
    .await;
    c.eventually("the dead owner is struck off", async || {
        let owners = c.get(&c.path("secrets/both")).await.is(200).json["metadata"]["ownerReferences"].clone();
        owners.as_array().unwrap().len() == 1
    })
    .await;
    let reply = c.post(&c.path("secrets"), &owned("bad", &[&json!({})])).await;
    reply.refused_like(422, "Invalid", "metadata.ownerReferences");
}

pub(super) async fn a_jobs_pods_outlive_it_unless_told_otherwise(c: Cluster) {
    let template = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}});
    let body =
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"template": template}});
    let job = c.group_path("batch", "jobs/j");
    for (options, code) in [(json!({}), 200), (json!({"propagationPolicy": "Background"}), 404)] {
        let made = c.post(&c.group_path("batch", "jobs"), &body).await;
        made.is(201);
        let mut owned = secret("s1");
        owned["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": made.json["metadata"]["uid"]}]);
        c.post(&c.path("secrets"), &owned).await.is(201);
        c.delete(&job, &options).await.is(200);
        c.eventually("the job goes", async || c.get(&job).await.code == 404)
            .await;
        c.eventually("its dependents are dealt with", async || {
            let found = c.get(&c.path("secrets/s1")).await;
            found.code == code && found.json["metadata"]["ownerReferences"].is_null()
        })
        .await;
        c.delete(&c.path("secrets/s1"), &json!({})).await;
    }
}

pub(super) async fn events_have_two_faces(c: Cluster) {
    let regarding = json!({"kind": "Pod", "name": "p1", "namespace": c.namespace});
    let path = c.group_path("events.k8s.io", "events");
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e1"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "c", "reportingInstance": "i", "action": "A",
        "reason": "R", "note": "N", "type": "Normal", "regarding": regarding});
    c.post(&path, &event).await.is(201);
    let core = c.get(&c.path("events/e1")).await.is(200).json.clone();
    assert_eq!(core["involvedObject"]["name"], "p1");
    assert_eq!(core["message"], "N");
    assert_eq!(core["reportingComponent"], "c");
    let found = c
        .get(&c.path("events?fieldSelector=involvedObject.name%3Dp1,involvedObject.kind%3DPod"))
        .await
        .json;
    assert_eq!(names(&found), ["e1"]);
    let mut incomplete = event.clone();
    incomplete["metadata"]["name"] = json!("e2");
    incomplete["eventTime"] = Value::Null;
    c.post(&path, &incomplete)
        .await
        .refused_like(422, "Invalid", "eventTime: Required value");
    let old = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e3"}, "reason": "R", "message": "M",
        "involvedObject": regarding});
    c.post(&c.path("events"), &old).await.is(201);
    let new = c.get(&format!("{path}/e3")).await.is(200).json.clone();
    assert_eq!(new["note"], "M");
    assert_eq!(new["regarding"]["name"], "p1");
    let mut astray = old.clone();
    astray["involvedObject"]["namespace"] = json!("other");
    let reply = c.post(&c.path("events"), &astray).await;
    reply.refused_like(
        422,
        "Invalid",
        "involvedObject.namespace: Invalid value: \"other\": does not match event.namespace",
    );
}

/// As the daemon writes them: counted, and about the namespace itself where there is no pod.
pub(super) async fn an_event_may_be_about_its_own_namespace_and_carry_a_count(c: Cluster) {
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"generateName": "it."}, "type": "Warning",
        "reason": "ResourceQuota", "message": "m", "count": 7, "firstTimestamp": "2026-01-01T00:00:00Z",
        "lastTimestamp": "2026-01-01T00:05:00Z", "source": {"component": "gharts-listener"},
        "involvedObject": {"apiVersion": "v1", "kind": "Namespace", "name": c.namespace, "namespace": c.namespace}});
    let made = c.post(&c.path("events"), &event).await.is(201).json.clone();
    assert_eq!(made["count"], 7);
    assert!(made["metadata"]["name"].as_str().unwrap().starts_with("it."));
}

pub(super) async fn collections_are_deleted_by_selector(c: Cluster) {
    for (name, set) in [("s1", "a"), ("s2", "b")] {
        let mut body = secret(name);
        body["metadata"]["labels"] = json!({"set": set});
        c.post(&c.path("secrets"), &body).await.is(201);
    }
    let reply = c.delete(&c.path("secrets?labelSelector=set%3Da"), &json!({})).await;
    reply.is(200);
    assert_eq!(names(&c.get(&c.path("secrets")).await.json), ["s2"]);
}
