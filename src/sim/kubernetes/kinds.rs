//! What Kubernetes knows about the kinds other than pods: defaults, validity, the two faces of events.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::{
    metadata::{field, remove},
    refusal::Cause,
    resource::Resource,
};

/// Fills in what a new object leaves out.
pub(super) fn prepare_create(resource: &Resource, object: &mut Value) {
    match resource.plural {
        "secrets" => prepare_secret(object),
        "namespaces" => {
            object["spec"] = json!({"finalizers": ["kubernetes"]});
            object["status"] = json!({"phase": "Active"});
            let name = field(object, "name").to_owned();
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = json!(name);
        }
        "resourcequotas" => object["status"] = json!({}),
        "jobs" => {
            object["status"] = json!({});
            object["metadata"]["generation"] = json!(1);
        }
        _ => {}
    }
}

/// Folds `stringData`, which nobody ever reads back, into `data`.
pub(super) fn prepare_secret(secret: &mut Value) {
    let texts = secret["stringData"].as_object().cloned().unwrap_or_default();
    for (key, text) in texts {
        secret["data"][key] = json!(STANDARD.encode(text.as_str().unwrap_or_default()));
    }
    remove(secret, "stringData");
    if secret["type"].as_str().unwrap_or_default().is_empty() {
        secret["type"] = json!("Opaque");
    }
}

pub(super) fn validate(resource: &Resource, object: &Value) -> Vec<Cause> {
    match resource.plural {
        "leases" => lease_problems(object),
        "events" => event_problems(resource, object),
        _ => Vec::new(),
    }
}

fn lease_problems(lease: &Value) -> Vec<Cause> {
    let seconds = &lease["spec"]["leaseDurationSeconds"];
    if seconds.as_i64().is_some_and(|s| s <= 0) {
        return vec![Cause::invalid(
            "spec.leaseDurationSeconds",
            seconds,
            "must be greater than 0",
        )];
    }
    Vec::new()
}

/// Events of the core group are taken as they are; those of events.k8s.io must be complete.
fn event_problems(resource: &Resource, event: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let about = if resource.group.is_empty() {
        "involvedObject"
    } else {
        "regarding"
    };
    let namespace = event[about]["namespace"].as_str().unwrap_or_default();
    let wanted = if namespace.is_empty() { "default" } else { namespace };
    if field(event, "namespace") != wanted {
        causes.push(Cause::invalid(
            "involvedObject.namespace",
            &json!(namespace),
            "does not match event.namespace",
        ));
    }
    if !resource.group.is_empty() {
        for required in [
            "eventTime",
            "reportingController",
            "reportingInstance",
            "action",
            "reason",
        ] {
            if event[required].as_str().unwrap_or_default().is_empty() {
                causes.push(Cause::required(required, ""));
            }
        }
        let kind = event["type"].as_str().unwrap_or_default();
        if !matches!(kind, "Normal" | "Warning") {
            causes.push(Cause::invalid(
                "type",
                &json!(""),
                &format!("has invalid value: {kind}"),
            ));
        }
    }
    causes
}

/// What an update may not change.
pub(super) fn validate_update(resource: &Resource, object: &Value, old: &Value) -> Vec<Cause> {
    if !matches!(resource.plural, "secrets" | "configmaps") {
        return Vec::new();
    }
    let mut causes = Vec::new();
    if resource.plural == "secrets" && object["type"] != old["type"] {
        causes.push(Cause::invalid("type", &object["type"], "field is immutable"));
    }
    if old["immutable"] == true {
        let message = "field is immutable when `immutable` is set";
        if object["immutable"] != true {
            causes.push(Cause::forbidden("immutable", message));
        }
        for kept in ["data", "binaryData"] {
            if object[kept] != old[kept] {
                causes.push(Cause::forbidden(kept, message));
            }
        }
    }
    causes
}

/// Field names of one and the same event, in the core group and in events.k8s.io.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// An event of events.k8s.io as the core group has it, which is how all are stored.
pub(super) fn core_event(event: &Value) -> Value {
    renamed(event, "v1", |name| {
        EVENT_FIELDS.iter().find(|(_, new)| *new == name).map(|(core, _)| *core)
    })
}

/// A stored event as events.k8s.io has it.
pub(super) fn new_event(event: &Value) -> Value {
    renamed(event, "events.k8s.io/v1", |name| {
        EVENT_FIELDS.iter().find(|(core, _)| *core == name).map(|(_, new)| *new)
    })
}

fn renamed(event: &Value, api_version: &str, name_of: impl Fn(&str) -> Option<&'static str>) -> Value {
    let mut out: Map<String, Value> = event
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| (name_of(key).map_or_else(|| key.clone(), str::to_owned), value.clone()))
        .collect();
    out.insert("apiVersion".to_owned(), json!(api_version));
    out.insert("kind".to_owned(), json!("Event"));
    Value::Object(out)
}
