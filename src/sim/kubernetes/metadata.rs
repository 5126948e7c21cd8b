//! Names, labels and the fields of `metadata` that the server owns.

use serde_json::{Value, json};

use super::{
    refusal::{Cause, Refusal},
    resource::Resource,
};

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
    and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must \
    start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
    '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex \
    used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
    with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

pub(super) const LABEL_MAX: usize = 63;
const SUBDOMAIN_MAX: usize = 253;
/// What a generated name's random part is made of: no vowels, so no words.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Reads a name or namespace of an object.
pub(super) fn field<'a>(object: &'a Value, name: &str) -> &'a str {
    object["metadata"][name].as_str().unwrap_or_default()
}

pub(super) fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= LABEL_MAX
        && text.bytes().all(is_label_byte)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Why `name` is no label of DNS, if it is none.
pub(super) fn label_problem(at: &str, name: &str) -> Option<Cause> {
    if name.len() > LABEL_MAX {
        return Some(Cause::invalid(at, &json!(name), "must be no more than 63 bytes"));
    }
    (!is_label(name)).then(|| Cause::invalid(at, &json!(name), LABEL))
}

/// Gives a new object its namespace, its name and what only the server knows.
pub(super) fn prepare_create(
    object: &mut Value,
    resource: &Resource,
    namespace: &str,
    now: &str,
    rng: &mut fastrand::Rng,
) -> Result<(), Refusal> {
    let sent = field(object, "namespace").to_owned();
    if resource.namespaced && !sent.is_empty() && sent != namespace {
        return Err(wrong_namespace());
    }
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    let generate = field(object, "generateName").to_owned();
    if field(object, "name").is_empty() && !generate.is_empty() {
        let suffix: String = (0..5)
            .map(|_| char::from(SUFFIX_ALPHABET[rng.usize(..SUFFIX_ALPHABET.len())]))
            .collect();
        object["metadata"]["name"] = json!(generate + &suffix);
    }
    let meta = &mut object["metadata"];
    if resource.namespaced {
        meta["namespace"] = json!(namespace);
    }
    meta["uid"] = json!(uuid(rng));
    meta["creationTimestamp"] = json!(now);
    remove(meta, "resourceVersion");
    remove(meta, "deletionTimestamp");
    remove(meta, "deletionGracePeriodSeconds");
    remove(meta, "selfLink");
    remove(meta, "managedFields");
    Ok(())
}

pub(super) fn wrong_namespace() -> Refusal {
    Refusal::bad_request("the namespace of the provided object does not match the namespace sent on the request")
}

pub(super) fn remove(object: &mut Value, key: &str) {
    if let Value::Object(map) = object {
        map.remove(key);
    }
}

/// Keeps what an update may not touch.
pub(super) fn prepare_update(object: &mut Value, old: &Value) {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    for kept in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
        "generation",
    ] {
        match &old["metadata"][kept] {
            Value::Null => remove(&mut object["metadata"], kept),
            value => object["metadata"][kept] = value.clone(),
        }
    }
    remove(&mut object["metadata"], "managedFields");
}

/// What is wrong with an object's metadata.
pub(super) fn validate(object: &Value, resource: &Resource) -> Vec<Cause> {
    let mut causes = Vec::new();
    let name = field(object, "name");
    if name.is_empty() {
        causes.push(Cause::required("metadata.name", "name or generateName is required"));
    } else {
        causes.extend(name_problem(name, resource));
    }
    for (key, value) in object["metadata"]["labels"].as_object().into_iter().flatten() {
        let text = value.as_str().unwrap_or_default();
        let segment = |t: &str| {
            let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
            t.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
                && edge(t.chars().next())
                && edge(t.chars().last())
        };
        if !segment(key.rsplit('/').next().unwrap_or_default()) {
            causes.push(Cause::invalid("metadata.labels", &json!(key), QUALIFIED));
        }
        if text.len() > LABEL_MAX {
            causes.push(Cause::invalid(
                "metadata.labels",
                value,
                "must be no more than 63 bytes",
            ));
        } else if !text.is_empty() && !segment(text) {
            causes.push(Cause::invalid("metadata.labels", value, LABEL_VALUE));
        }
    }
    causes.extend(owner_problems(object));
    causes
}

fn name_problem(name: &str, resource: &Resource) -> Option<Cause> {
    let value = json!(name);
    if resource.group == "rbac.authorization.k8s.io" {
        let bad = name == "." || name == ".." || name.contains(['/', '%']);
        return bad.then(|| Cause::invalid("metadata.name", &value, "may not contain '/' or '%'"));
    }
    if resource.plural == "namespaces" {
        return label_problem("metadata.name", name);
    }
    if name.len() > SUBDOMAIN_MAX {
        return Some(Cause::invalid(
            "metadata.name",
            &value,
            "must be no more than 253 bytes",
        ));
    }
    let part = |t: &str| is_label(t) || (t.len() > LABEL_MAX && is_label(&t[..1]) && t.bytes().all(is_label_byte));
    (!name.split('.').all(part)).then(|| Cause::invalid("metadata.name", &value, SUBDOMAIN))
}

fn is_label_byte(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-'
}

fn owner_problems(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for owner in object["metadata"]["ownerReferences"].as_array().into_iter().flatten() {
        for (key, detail) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if owner[key].as_str().unwrap_or_default().is_empty() {
                causes.push(Cause::invalid(
                    format!("metadata.ownerReferences.{key}"),
                    &json!(""),
                    detail,
                ));
            }
        }
    }
    causes
}

/// A random (version 4) UUID.
pub(super) fn uuid(rng: &mut fastrand::Rng) -> String {
    let n = (rng.u128(..) & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{n:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}
