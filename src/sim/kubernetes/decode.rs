//! Reading what a caller sends: types, unknown fields, quantities.
//!
//! The known fields are those of k8s-openapi's types: an object is read as its type and written again, and
//! what did not survive was unknown.

use serde_json::Value;

use super::{
    quantity::{MALFORMED, Quantity},
    refusal::Refusal,
    resource::Resource,
};

/// How unknown fields are met (`?fieldValidation=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

impl FieldValidation {
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        match text {
            "" | "Warn" => Ok(Self::Warn),
            "Ignore" => Ok(Self::Ignore),
            "Strict" => Ok(Self::Strict),
            other => Err(Refusal::bad_request(format!(
                "invalid fieldValidation parameter \"{other}\", must be one of: Ignore, Warn, Strict"
            ))),
        }
    }
}

/// An object in its type's own form, and warnings for the caller.
pub(super) fn decode(
    resource: &Resource,
    object: &Value,
    mode: FieldValidation,
) -> Result<(Value, Vec<String>), Refusal> {
    let unreadable = |why: &str| {
        Refusal::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: {why}",
            resource.kind, resource.version, resource.kind
        ))
    };
    if !object.is_object() {
        return Err(unreadable("json: cannot unmarshal into a Go value"));
    }
    let mut canonical = (resource.canonical)(object).map_err(|e| unreadable(&e))?;
    quantities(&mut canonical).map_err(|()| unreadable(MALFORMED))?;
    let mut unknown = Vec::new();
    if mode != FieldValidation::Ignore {
        differences(object, &canonical, "", &mut unknown);
    }
    if mode == FieldValidation::Strict && !unknown.is_empty() {
        return Err(unreadable(&format!("strict decoding error: {}", unknown.join(", "))));
    }
    Ok((canonical, unknown))
}

/// `unknown field "spec.containers[0].imagee"` for everything in `sent` that `kept` lacks.
fn differences(sent: &Value, kept: &Value, path: &str, out: &mut Vec<String>) {
    match (sent, kept) {
        (Value::Object(sent), Value::Object(kept)) => {
            for (key, value) in sent {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                match kept.get(key) {
                    Some(kept) => differences(value, kept, &path, out),
                    None if value.is_null() => {}
                    None => out.push(format!("unknown field \"{path}\"")),
                }
            }
        }
        (Value::Array(sent), Value::Array(kept)) => {
            for (i, (sent, kept)) in sent.iter().zip(kept).enumerate() {
                differences(sent, kept, &format!("{path}[{i}]"), out);
            }
        }
        _ => {}
    }
}

/// Brings every amount (below `limits`, `requests`, `hard`, ...) into canonical form.
fn quantities(value: &mut Value) -> Result<(), ()> {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let amounts = matches!(
                    key.as_str(),
                    "limits" | "requests" | "hard" | "used" | "capacity" | "allocatable"
                );
                match value {
                    Value::Object(named) if amounts && named.values().all(Value::is_string) => {
                        for amount in named.values_mut() {
                            let parsed = amount.as_str().and_then(Quantity::parse).ok_or(())?;
                            *amount = parsed.to_string().into();
                        }
                    }
                    _ => quantities(value)?,
                }
            }
            Ok(())
        }
        Value::Array(items) => items.iter_mut().try_for_each(quantities),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::sim::kubernetes::resource::find;

    #[test]
    fn unknown_fields_are_told_by_path_and_amounts_are_checked() {
        let pods = find("", "pods").unwrap();
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"any": "thing"}},
            "spec": {"containers": [{"name": "c", "imagee": "x", "resources": {"requests": {"cpu": "1000m"}}}]}});
        let (kept, warnings) = decode(pods, &pod, FieldValidation::Warn).unwrap();
        assert_eq!(warnings, ["unknown field \"spec.containers[0].imagee\""]);
        assert_eq!(kept["spec"]["containers"][0]["resources"]["requests"]["cpu"], "1");
        assert!(decode(pods, &pod, FieldValidation::Strict).is_err());
        let bad = json!({"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "lots"}}}]}});
        assert!(
            decode(pods, &bad, FieldValidation::Ignore)
                .unwrap_err()
                .message
                .contains("quantities must match")
        );
    }
}
