//! What Kubernetes knows about pods: defaults, validity, what may change, how they end.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    metadata::{self, LABEL_MAX},
    refusal::Cause,
};

const IMMUTABLE: &str = "pod updates may not change fields other than \
    `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only \
    additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
    previously negative)\n";

/// Fills in what a new pod leaves out, and its first status.
pub(super) fn prepare_create(pod: &mut Value) {
    if !pod["spec"].is_object() {
        pod["spec"] = json!({});
    }
    let spec = &mut pod["spec"];
    for (field, value) in [
        ("restartPolicy", json!("Always")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("dnsPolicy", json!("ClusterFirst")),
        ("securityContext", json!({})),
        ("schedulerName", json!("default-scheduler")),
        ("priority", json!(0)),
        ("enableServiceLinks", json!(true)),
        ("preemptionPolicy", json!("PreemptLowerPriority")),
    ] {
        default(spec, field, value);
    }
    if let Some(account) = spec["serviceAccountName"].as_str().map(str::to_owned) {
        default(spec, "serviceAccount", json!(account));
    }
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            container_defaults(container);
        }
    }
    add_tolerations(spec);
    pod["metadata"]["generation"] = json!(1);
    pod["status"] = json!({"phase": "Pending", "qosClass": qos_class(&pod["spec"])});
    let gates = &pod["spec"]["schedulingGates"];
    if gates.as_array().is_some_and(|g| !g.is_empty()) {
        pod["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]);
    }
}

fn default(object: &mut Value, field: &str, value: Value) {
    if object[field].is_null() {
        object[field] = value;
    }
}

fn container_defaults(container: &mut Value) {
    let image = container["image"].as_str().unwrap_or_default().to_owned();
    let tag = image.rsplit('/').next().unwrap_or_default();
    let latest = !image.contains('@') && (!tag.contains(':') || tag.ends_with(":latest"));
    default(
        container,
        "imagePullPolicy",
        json!(if latest { "Always" } else { "IfNotPresent" }),
    );
    default(container, "terminationMessagePath", json!("/dev/termination-log"));
    default(container, "terminationMessagePolicy", json!("File"));
    default(container, "resources", json!({}));
    for (name, limit) in container["resources"]["limits"]
        .as_object()
        .cloned()
        .into_iter()
        .flatten()
    {
        default(&mut container["resources"], "requests", json!({}));
        default(&mut container["resources"]["requests"], &name, limit);
    }
}

/// The two that admission adds, so that a pod outlives short troubles of its node.
fn add_tolerations(spec: &mut Value) {
    default(spec, "tolerations", json!([]));
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        if let Value::Array(all) = &mut spec["tolerations"]
            && !all.iter().any(|t| t["key"] == key || t["key"].is_null())
        {
            all.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
}

fn qos_class(spec: &Value) -> &'static str {
    let (mut any, mut all) = (false, true);
    for container in containers(spec) {
        let resources = &container["resources"];
        for name in ["cpu", "memory"] {
            let (request, limit) = (&resources["requests"][name], &resources["limits"][name]);
            any |= !request.is_null() || !limit.is_null();
            all &= !limit.is_null() && request == limit;
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Init containers and containers.
pub(super) fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers"]
        .into_iter()
        .flat_map(|list| spec[list].as_array().into_iter().flatten())
}

pub(super) fn validate(pod: &Value) -> Vec<Cause> {
    let spec = &pod["spec"];
    let mut causes = Vec::new();
    let volumes: BTreeSet<&str> = spec["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|v| v["name"].as_str())
        .collect();
    if spec["containers"].as_array().is_none_or(Vec::is_empty) {
        causes.push(Cause::required("spec.containers", ""));
    }
    let mut names = BTreeSet::new();
    for list in ["initContainers", "containers"] {
        for (i, container) in spec[list].as_array().into_iter().flatten().enumerate() {
            let at = format!("spec.{list}[{i}]");
            causes.extend(container_problems(container, &at, &volumes));
            let name = container["name"].as_str().unwrap_or_default();
            if !name.is_empty() && !names.insert(name) {
                causes.push(Cause::duplicate(format!("{at}.name"), &json!(name)));
            }
        }
    }
    let policy = &spec["restartPolicy"];
    if !["Always", "OnFailure", "Never"].iter().any(|p| policy == p) {
        causes.push(Cause::unsupported(
            "spec.restartPolicy",
            policy,
            &["Always", "OnFailure", "Never"],
        ));
    }
    causes
}

fn container_problems(container: &Value, at: &str, volumes: &BTreeSet<&str>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let name = container["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        causes.push(Cause::required(format!("{at}.name"), ""));
    } else {
        causes.extend(metadata::label_problem(&format!("{at}.name"), name));
    }
    if container["image"].as_str().unwrap_or_default().is_empty() {
        causes.push(Cause::required(format!("{at}.image"), ""));
    }
    for (i, variable) in container["env"].as_array().into_iter().flatten().enumerate() {
        if variable["name"].as_str().unwrap_or_default().is_empty() {
            causes.push(Cause::required(format!("{at}.env[{i}].name"), ""));
        }
    }
    for (i, mount) in container["volumeMounts"].as_array().into_iter().flatten().enumerate() {
        let volume = mount["name"].as_str().unwrap_or_default();
        if !volumes.contains(volume) {
            causes.push(Cause {
                reason: "FieldValueNotFound",
                message: format!("Not found: \"{volume}\""),
                field: format!("{at}.volumeMounts[{i}].name"),
            });
        }
    }
    causes
}

/// What a change of the spec may not touch.
pub(super) fn validate_update(pod: &Value, old: &Value) -> Vec<Cause> {
    if frozen_part(&pod["spec"]) == frozen_part(&old["spec"]) {
        return Vec::new();
    }
    vec![Cause::forbidden("spec", IMMUTABLE)]
}

fn frozen_part(spec: &Value) -> Value {
    let mut spec = spec.clone();
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            metadata::remove(container, "image");
        }
    }
    metadata::remove(&mut spec, "activeDeadlineSeconds");
    metadata::remove(&mut spec, "tolerations");
    metadata::remove(&mut spec, "serviceAccount");
    spec
}

/// What the API says of a pod that it stores all the same.
pub(super) fn warnings(pod: &Value) -> Vec<String> {
    let name = metadata::field(pod, "name");
    if name.len() <= LABEL_MAX && !name.contains('.') {
        return Vec::new();
    }
    let why = if name.len() > LABEL_MAX {
        "must be no more than 63 bytes"
    } else {
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end \
         with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
         '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
    };
    vec![format!(
        "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is \
         recommended: [{why}]"
    )]
}

/// Whether a pod counts: it has not ended.
pub(super) fn is_live(pod: &Value) -> bool {
    !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// Seconds that a pod is given to end: none where no kubelet would have to act.
pub(super) fn grace(pod: &Value, wanted: Option<i64>) -> i64 {
    if pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty() || !is_live(pod) {
        return 0;
    }
    wanted
        .or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64())
        .unwrap_or(30)
        .max(0)
}

/// Puts a pod on a node.
pub(super) fn bind(pod: &mut Value, node: &str, now: &str) {
    pod["spec"]["nodeName"] = json!(node);
    default(&mut pod["status"], "conditions", json!([]));
    if let Value::Array(conditions) = &mut pod["status"]["conditions"] {
        conditions.retain(|c| c["type"] != "PodScheduled");
        conditions.push(json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now}));
    }
}
