//! Pods: validity, defaults, how they end, quotas, nodes, logs.

use super::*;

pub(super) async fn invalid_pods_are_refused_with_their_causes(c: Cluster) {
    let body = json!({"apiVersion": "v1", "kind": "Pod", "spec": {},
        "metadata": {"name": "Bad_Name", "labels": {"a": "bad value"}}});
    let reply = c.post(&c.path("pods"), &body).await;
    reply.refused_like(
        422,
        "Invalid",
        "Pod \"Bad_Name\" is invalid: [metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain must",
    );
    assert!(
        reply.json["message"]
            .as_str()
            .unwrap()
            .ends_with("spec.containers: Required value]")
    );
    reply.causes(&[
        ("FieldValueInvalid", "metadata.name"),
        ("FieldValueInvalid", "metadata.labels"),
        ("FieldValueRequired", "spec.containers"),
    ]);
    assert_eq!(reply.json["details"]["kind"], "Pod");
    assert_eq!(reply.json["details"]["causes"][2]["message"], "Required value");

    let body = json!({"metadata": {"name": "p"}, "spec": {"restartPolicy": "Sometimes", "containers": [
        {"name": "", "image": ""}, {"name": "A_b", "image": "x"}, {"name": "a", "image": "x"}, {"name": "a", "image": "x",
        "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]}});
    c.post(&c.path("pods"), &body)
        .await
        .refused_like(422, "Invalid", "Duplicate value: \"a\"")
        .causes(&[
            ("FieldValueRequired", "spec.containers[0].name"),
            ("FieldValueRequired", "spec.containers[0].image"),
            ("FieldValueInvalid", "spec.containers[1].name"),
            ("FieldValueNotFound", "spec.containers[3].volumeMounts[0].name"),
            ("FieldValueDuplicate", "spec.containers[3].name"),
            ("FieldValueNotSupported", "spec.restartPolicy"),
        ]);

    let body = json!({"metadata": {}, "spec": {"containers": [{"name": "c", "image": "x"}]}});
    let message = "Pod \"\" is invalid: metadata.name: Required value: name or generateName is required";
    c.post(&c.path("pods"), &body).await.refused(422, "Invalid", message);

    let mut body = pod("p");
    body["metadata"]["labels"] = json!({"a": "x".repeat(64)});
    let reply = c.post(&c.path("pods"), &body).await;
    reply
        .refused_like(422, "Invalid", "must be no more than 63")
        .causes(&[("FieldValueInvalid", "metadata.labels")]);
}

pub(super) async fn what_a_pod_leaves_out_is_filled_in(c: Cluster) {
    let mut body = pod("p1");
    body["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "0.5", "memory": "1024Mi"}});
    body["status"] = json!({"phase": "Running"});
    let reply = c.post(&c.path("pods"), &body).await;
    reply.is(201);
    let spec = &reply.json["spec"];
    assert_eq!(spec["restartPolicy"], "Always");
    assert_eq!(spec["terminationGracePeriodSeconds"], 30);
    assert_eq!(spec["dnsPolicy"], "ClusterFirst");
    assert_eq!(spec["schedulerName"], "default-scheduler");
    assert_eq!(spec["enableServiceLinks"], true);
    assert_eq!(spec["priority"], 0);
    assert_eq!(spec["securityContext"], json!({}));
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    let container = &spec["containers"][0];
    assert_eq!(
        container["resources"],
        json!({"limits": {"cpu": "500m", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}})
    );
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
    assert_eq!(container["terminationMessagePath"], "/dev/termination-log");
    assert_eq!(
        reply.json["status"],
        json!({"phase": "Pending", "qosClass": "Guaranteed"})
    );
    let meta = &reply.json["metadata"];
    assert_eq!(meta["namespace"], c.namespace);
    assert_eq!(meta["generation"], 1);
    assert_eq!(meta["uid"].as_str().unwrap().len(), 36);
    assert!(meta["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    assert!(meta["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > 0);
}

pub(super) async fn a_bad_quantity_is_no_pod(c: Cluster) {
    let mut body = pod("p1");
    body["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "lots"}});
    let message = "Pod in version \"v1\" cannot be handled as a Pod: quantities must match the regular expression \
        '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
    c.post(&c.path("pods"), &body).await.refused(400, "BadRequest", message);
}

pub(super) async fn a_long_name_is_warned_of(c: Cluster) {
    let reply = c.post(&c.path("pods"), &pod(&"x".repeat(64))).await;
    reply.is(201);
    let warning = reply.headers["warning"].to_str().unwrap();
    assert!(warning.starts_with("299 - \"metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must be no more than 63 "), "{warning}");
    let reply = c.post(&c.path("pods"), &pod(&"x".repeat(63))).await;
    assert!(!reply.is(201).headers.contains_key("warning"));
}

pub(super) async fn a_pod_on_no_node_goes_at_once(c: Cluster) {
    c.pod("p1").await;
    let reply = c.delete(&c.path("pods/p1"), &json!({})).await;
    reply.is(200);
    assert_eq!(reply.json["kind"], "Pod");
    assert_eq!(reply.json["metadata"]["deletionGracePeriodSeconds"], 0);
    c.get(&c.path("pods/p1"))
        .await
        .refused(404, "NotFound", "pods \"p1\" not found");
    let made = c.post(&c.path("secrets"), &secret("s1")).await;
    let reply = c.delete(&c.path("secrets/s1"), &json!({})).await;
    assert_eq!(reply.is(200).json["status"], "Success");
    assert_eq!(
        reply.json["details"],
        json!({"name": "s1", "kind": "secrets", "uid": made.json["metadata"]["uid"]})
    );
}

pub(super) async fn a_finished_pod_goes_at_once(c: Cluster) {
    for phase in ["Succeeded", "Failed"] {
        c.bound_pod("p1").await;
        c.phase("p1", phase).await;
        let reply = c.delete(&c.path("pods/p1"), &json!({})).await;
        assert_eq!(reply.is(200).json["metadata"]["deletionGracePeriodSeconds"], 0);
        c.get(&c.path("pods/p1")).await.is(404);
    }
}

pub(super) async fn a_pod_on_a_node_lingers_until_grace_zero(c: Cluster) {
    for phase in ["Pending", "Running"] {
        c.bound_pod("p1").await;
        c.phase("p1", phase).await;
        let path = c.path("pods/p1");
        c.delete(&path, &json!({})).await.is(200);
        let pod = c.get(&path).await.is(200).json.clone();
        assert_eq!(pod["metadata"]["deletionGracePeriodSeconds"], 30);
        assert_eq!(pod["status"]["phase"], phase);
        c.post(&c.path("pods"), &super::pod("p1"))
            .await
            .refused_like(409, "AlreadyExists", "already exists");
        c.delete(&path, &json!({"gracePeriodSeconds": 0})).await.is(200);
        c.get(&path).await.is(404);
    }
}

pub(super) async fn a_second_deletion_only_shortens_the_grace(c: Cluster) {
    let at = |pod: &Value| {
        let at = pod["metadata"]["deletionTimestamp"].as_str();
        let at = at.unwrap_or_else(|| panic!("not being deleted: {pod}"));
        at.parse::<jiff::Timestamp>().unwrap()
    };
    c.bound_pod("p1").await;
    let path = c.path("pods/p1");
    let first = c.delete(&path, &json!({})).await;
    let second = c.delete(&path, &json!({})).await;
    assert_eq!(at(&first.is(200).json), at(&second.is(200).json));
    let longer = c.delete(&path, &json!({"gracePeriodSeconds": 60})).await;
    assert_eq!(longer.is(200).json["metadata"]["deletionGracePeriodSeconds"], 30);
    let shorter = c
        .call(Method::DELETE, &format!("{path}?gracePeriodSeconds=5"), "", None)
        .await;
    assert_eq!(shorter.is(200).json["metadata"]["deletionGracePeriodSeconds"], 5);
    assert_eq!((at(&first.json) - at(&shorter.json)).get_seconds(), 25);
}

pub(super) async fn status_and_spec_are_written_apart(c: Cluster) {
    c.bound_pod("p1").await;
    let both = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"activeDeadlineSeconds": 5}, "status": {"phase": "Running"}});
    let reply = c.strategic(&c.path("pods/p1/status"), &both).await;
    assert_eq!(reply.is(200).json["status"]["phase"], "Running");
    assert_eq!(reply.json["metadata"]["labels"]["a"], "b");
    assert_eq!(reply.json["spec"]["activeDeadlineSeconds"], Value::Null);
    let both = json!({"spec": {"activeDeadlineSeconds": 5}, "status": {"phase": "Failed"}});
    let reply = c.strategic(&c.path("pods/p1"), &both).await;
    assert_eq!(reply.is(200).json["status"]["phase"], "Running");
    assert_eq!(reply.json["spec"]["activeDeadlineSeconds"], 5);
}

pub(super) async fn a_pods_spec_is_fixed(c: Cluster) {
    c.pod("p1").await;
    let path = c.path("pods/p1");
    let patch = json!({"spec": {"containers": [{"name": "runner", "env": [{"name": "A", "value": "b"}]}]}});
    let reply = c.strategic(&path, &patch).await;
    reply.refused_like(422, "Invalid", "Pod \"p1\" is invalid: spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`");
    reply.causes(&[("FieldValueForbidden", "spec")]);
    let patch = json!({"spec": {"containers": [{"name": "runner", "image": "runner:2"}]}});
    let reply = c.strategic(&path, &patch).await;
    assert_eq!(reply.is(200).json["spec"]["containers"][0]["image"], "runner:2");
}

/// What ends a pod and leaves its logs: metadata and the one changeable field in one patch.
pub(super) async fn a_pod_may_be_given_a_deadline_later(c: Cluster) {
    c.pod("p1").await;
    let patch = json!({"metadata": {"labels": {"gharts-listener/failed": "image_pull_timeout"}},
        "spec": {"activeDeadlineSeconds": 1}});
    let patched = c.merge(&c.path("pods/p1"), &patch).await.is(200).json.clone();
    assert_eq!(patched["spec"]["activeDeadlineSeconds"], 1);
    assert_eq!(
        patched["metadata"]["labels"]["gharts-listener/failed"],
        "image_pull_timeout"
    );
}

pub(super) async fn quota_demands_requests(c: Cluster) {
    c.quota(&json!({"requests.cpu": "1"})).await;
    let message = "pods \"q1\" is forbidden: failed quota: rq: must specify requests.cpu for: runner";
    c.post(&c.path("pods"), &pod("q1"))
        .await
        .refused(403, "Forbidden", message);
}

pub(super) async fn quota_is_exceeded_and_freed(c: Cluster) {
    c.quota(&json!({"pods": "1", "requests.cpu": "1"})).await;
    let wanting = |name: &str, cpu: &str| {
        let mut pod = pod(name);
        pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": cpu}});
        pod
    };
    let path = c.path("pods");
    c.post(&path, &wanting("p1", "1")).await.is(201);
    let message = "pods \"q1\" is forbidden: exceeded quota: rq, requested: pods=1,requests.cpu=500m, used: \
        pods=1,requests.cpu=1, limited: pods=1,requests.cpu=1";
    let reply = c.post(&path, &wanting("q1", "500m")).await;
    reply.refused(403, "Forbidden", message);
    assert_eq!(reply.json["details"], json!({"name": "q1", "kind": "pods"}));
    let used = json!({"pods": "1", "requests.cpu": "1"});
    assert_eq!(c.get(&c.path("resourcequotas/rq")).await.json["status"]["used"], used);
    // A finished pod takes nothing.
    c.bind("p1").await.is(201);
    c.phase("p1", "Succeeded").await;
    c.eventually("there is room again", async || {
        c.post(&path, &wanting("q1", "500m")).await.code == 201
    })
    .await;
}

pub(super) async fn binding_puts_a_pod_on_a_node_once(c: Cluster) {
    let pod = c.bound_pod("p1").await;
    assert_eq!(pod["spec"]["nodeName"], "n1");
    assert_eq!(pod["status"]["phase"], "Pending");
    assert_eq!(pod["status"]["conditions"][0]["type"], "PodScheduled");
    assert_eq!(pod["status"]["conditions"][0]["status"], "True");
    let message = "Operation cannot be fulfilled on pods/binding \"p1\": pod p1 is already assigned to node \"n1\"";
    c.bind("p1").await.refused(409, "Conflict", message);
    c.delete(&c.path("pods/p1"), &json!({})).await.is(200);
    c.bind("p1")
        .await
        .refused_like(409, "Conflict", "pod p1 is being deleted, cannot be assigned to a host");
    c.bind("nope").await.refused(404, "NotFound", "pods \"nope\" not found");
}

pub(super) async fn eviction_deletes(c: Cluster) {
    let evict = async |name: &str| {
        let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        c.post(&c.path(&format!("pods/{name}/eviction")), &body).await
    };
    c.pod("p1").await;
    evict("p1").await.is(201);
    c.get(&c.path("pods/p1")).await.is(404);
    c.bound_pod("p2").await;
    c.phase("p2", "Running").await;
    evict("p2").await.is(201);
    assert!(c.get(&c.path("pods/p2")).await.is(200).json["metadata"]["deletionTimestamp"].is_string());
    evict("nope").await.is(404);
}

pub(super) async fn logs_need_a_container_and_a_node(c: Cluster) {
    let mut two = pod("two");
    two["spec"]["containers"] = json!([{"name": "a", "image": "x"}, {"name": "b", "image": "x"}]);
    c.post(&c.path("pods"), &two).await.is(201);
    let path = c.path("pods/two/log");
    let message = "a container name must be specified for pod two, choose one of: [a b]";
    c.get(&path).await.refused(400, "BadRequest", message);
    let message = "container z is not valid for pod two";
    c.get(&format!("{path}?container=z"))
        .await
        .refused(400, "BadRequest", message);
    c.get(&format!("{path}?container=a")).await.is(204);
    c.get(&c.path("pods/nope/log"))
        .await
        .refused(404, "NotFound", "pods \"nope\" not found");
}
