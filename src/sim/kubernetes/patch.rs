//! Patches: merge (RFC 7386), JSON (RFC 6902) and as much of strategic merge as pods need.
//!
//! Strategic merge keys the lists that pods, events and service accounts have; directives other than
//! `$patch: delete` and `$setElementOrder` (which is skipped) are not understood. No server-side apply.

use serde_json::{Map, Value};

use super::refusal::Refusal;

/// One patch document, by its content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PatchKind {
    Json,
    Merge,
    Strategic,
}

impl PatchKind {
    pub(super) fn of_content_type(content_type: &str) -> Option<Self> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" => Some(Self::Strategic),
            _ => None,
        }
    }

    pub(super) fn apply(self, target: &mut Value, patch: &Value) -> Result<(), Refusal> {
        match self {
            Self::Json => json_patch(target, patch),
            Self::Merge => {
                merge(target, patch, &|_, _, value| value.clone());
                Ok(())
            }
            Self::Strategic => {
                merge(target, patch, &strategic_list);
                Ok(())
            }
        }
    }
}

type Lists<'a> = &'a dyn Fn(&str, Option<&Value>, &Value) -> Value;

fn merge(target: &mut Value, patch: &Value, lists: Lists<'_>) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.remove(key);
            }
            Value::Object(_) => merge(target.entry(key.clone()).or_insert(Value::Null), value, lists),
            _ if key.starts_with("$setElementOrder") || key.starts_with("$retainKeys") => {}
            Value::Array(_) => {
                let merged = lists(key, target.get(key), value);
                target.insert(key.clone(), merged);
            }
            _ => {
                target.insert(key.clone(), value.clone());
            }
        }
    }
}

/// The field that tells the entries of a list apart; lists without one are replaced whole.
fn merge_key(list: &str) -> Option<&'static str> {
    match list {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "env"
        | "volumes"
        | "imagePullSecrets"
        | "secrets" => Some("name"),
        "conditions" => Some("type"),
        "ownerReferences" => Some("uid"),
        "volumeMounts" => Some("mountPath"),
        "ports" => Some("containerPort"),
        "hostAliases" | "podIPs" | "hostIPs" => Some("ip"),
        _ => None,
    }
}

fn strategic_list(list: &str, old: Option<&Value>, new: &Value) -> Value {
    let (Some(key), Some(Value::Array(old)), Value::Array(new)) = (merge_key(list), old, new) else {
        return if list == "finalizers" {
            union(old, new)
        } else {
            new.clone()
        };
    };
    let mut merged = old.clone();
    for entry in new {
        let at = merged.iter().position(|m| m[key] == entry[key]);
        match (at, entry["$patch"] == "delete") {
            (Some(at), true) => {
                merged.remove(at);
            }
            (Some(at), false) => merge(&mut merged[at], entry, &strategic_list),
            (None, true) => {}
            (None, false) => merged.push(entry.clone()),
        }
    }
    Value::Array(merged)
}

fn union(old: Option<&Value>, new: &Value) -> Value {
    let mut all: Vec<Value> = old.and_then(Value::as_array).cloned().unwrap_or_default();
    for entry in new.as_array().into_iter().flatten() {
        if !all.contains(entry) {
            all.push(entry.clone());
        }
    }
    Value::Array(all)
}

fn json_patch(target: &mut Value, patch: &Value) -> Result<(), Refusal> {
    let operations = patch
        .as_array()
        .ok_or_else(|| Refusal::bad_request("json: cannot unmarshal object into Go value of type jsonpatch.Patch"))?;
    operations.iter().try_for_each(|operation| {
        one_operation(target, operation).ok_or_else(|| {
            Refusal::new(
                422,
                "Invalid",
                "the server rejected our request due to an error in our request",
            )
        })
    })
}

/// `None` when the operation cannot be carried out, or its test fails.
fn one_operation(target: &mut Value, operation: &Value) -> Option<()> {
    let path = operation["path"].as_str()?;
    match operation["op"].as_str()? {
        "test" => (target.pointer(path)? == operation.get("value")?).then_some(()),
        "add" => add(target, path, operation.get("value")?.clone()),
        "replace" => {
            *target.pointer_mut(path)? = operation.get("value")?.clone();
            Some(())
        }
        "remove" => remove(target, path).map(drop),
        "copy" => {
            let value = target.pointer(operation["from"].as_str()?)?.clone();
            add(target, path, value)
        }
        "move" => {
            let value = remove(target, operation["from"].as_str()?)?;
            add(target, path, value)
        }
        _ => None,
    }
}

fn parent<'a>(target: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    Some((target.pointer_mut(parent)?, last.replace("~1", "/").replace("~0", "~")))
}

fn add(target: &mut Value, path: &str, value: Value) -> Option<()> {
    match parent(target, path)? {
        (Value::Object(map), key) => {
            map.insert(key, value);
        }
        (Value::Array(items), key) if key == "-" => items.push(value),
        (Value::Array(items), key) => {
            let at: usize = key.parse().ok().filter(|at| *at <= items.len())?;
            items.insert(at, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(target: &mut Value, path: &str) -> Option<Value> {
    match parent(target, path)? {
        (Value::Object(map), key) => map.remove(&key),
        (Value::Array(items), key) => {
            let at: usize = key.parse().ok().filter(|at| *at < items.len())?;
            Some(items.remove(at))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_kind_of_patch_does_to_lists_what_it_should() {
        let pod = json!({"metadata": {"labels": {"a": "1", "b": "2"}},
            "status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "Other", "status": "True"}]}});
        let patch = json!({"metadata": {"labels": {"a": null}}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let (mut merged, mut strategic, mut by_path) = (pod.clone(), pod.clone(), pod);
        PatchKind::Merge.apply(&mut merged, &patch).unwrap();
        PatchKind::Strategic.apply(&mut strategic, &patch).unwrap();
        assert_eq!(merged["metadata"]["labels"], json!({"b": "2"}));
        assert_eq!(
            merged["status"]["conditions"],
            json!([{"type": "Ready", "status": "True"}])
        );
        assert_eq!(strategic["status"]["conditions"].as_array().unwrap().len(), 2);
        assert_eq!(strategic["status"]["conditions"][0]["status"], "True");
        let operations = json!([{"op": "test", "path": "/metadata/labels/a", "value": "1"},
            {"op": "add", "path": "/metadata/labels/x~1y", "value": "3"}, {"op": "remove", "path": "/status"}]);
        PatchKind::Json.apply(&mut by_path, &operations).unwrap();
        assert_eq!(
            by_path,
            json!({"metadata": {"labels": {"a": "1", "b": "2", "x/y": "3"}}})
        );
        assert!(
            PatchKind::Json
                .apply(&mut by_path, &json!([{"op": "remove", "path": "/nope"}]))
                .is_err()
        );
    }
}
