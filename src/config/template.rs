//! The pod template: is it one, does it keep its hands off what is ours, does it have a `runner`?
//!
//! Types are checked by decoding into the Kubernetes types; fields that decoding dropped are unknown ones.
//! Defaults beyond a missing `runner` container are the manifest's business.

use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::{
    place::{Place, Step},
    validate::Pass,
};

/// The container that is the runner.
pub(super) const RUNNER: &str = "runner";
const DEFAULT_IMAGE: &str = "ghcr.io/actions/actions-runner:latest";
/// Prefix of our own labels and annotations.
const OUR_PREFIX: &str = "gharts-listener";
/// The variable through which the JIT configuration reaches the runner.
const JIT_VARIABLE: &str = "ACTIONS_RUNNER_INPUT_JITCONFIG";
/// More faults than this in one template are one fault: it is no template.
const MOST_TYPE_FAULTS: usize = 50;

/// Fields that the daemon sets itself, with the reason.
const RESERVED: &[(&str, &str)] = &[
    ("metadata.name", "every runner gets a name of its own"),
    ("metadata.generateName", "every runner gets a name of its own"),
    ("metadata.namespace", "kubernetes.namespace says where the runners live"),
    (
        "metadata.ownerReferences",
        "runners belong to nobody, so that they outlive the daemon's restarts",
    ),
    ("metadata.finalizers", "a finalizer would keep dead runners"),
    ("metadata.uid", "the API server gives it"),
    ("metadata.resourceVersion", "the API server gives it"),
    ("metadata.creationTimestamp", "the API server gives it"),
    (
        "spec.nodeName",
        "it goes round the scheduler; use nodeSelector or affinity",
    ),
    (
        "spec.activeDeadlineSeconds",
        "it would end busy runners; use timeouts.total",
    ),
];

/// The typed template, or `None` after faults that make it unusable.
pub(super) fn validate(pass: &mut Pass<'_>, raw: Option<&Value>, place: &Place) -> Option<PodTemplateSpec> {
    let mut document = raw.cloned().unwrap_or_else(|| json!({}));
    numbers_as_quantities(&mut document);
    refuse_reserved(pass, &document, place);
    let mut template: PodTemplateSpec = decode(pass, document, place, "a pod template")?;
    let spec = template.spec.get_or_insert_default();
    if spec.containers.is_empty() {
        spec.containers.push(default_runner());
    }
    one_runner(pass, spec, place);
    Some(template)
}

fn default_runner() -> Container {
    Container {
        name: RUNNER.to_owned(),
        image: Some(DEFAULT_IMAGE.to_owned()),
        ..Container::default()
    }
}

fn one_runner(pass: &mut Pass<'_>, spec: &PodSpec, place: &Place) {
    let containers = place.key("spec").key("containers");
    match spec.containers.iter().filter(|c| c.name == RUNNER).count() {
        1 => {}
        0 => pass.refuse(
            &containers,
            "has no container named runner",
            "name the container that runs the runner `runner`; the others are sidecars",
        ),
        n => pass.refuse(
            &containers,
            format!("has {n} containers named runner"),
            "keep exactly one",
        ),
    }
    for (n, container) in spec.containers.iter().enumerate() {
        if container.name == RUNNER && container.image.as_deref().is_none_or(str::is_empty) {
            pass.refuse(
                &containers.index(n).key("image"),
                "is required",
                format!("such as {DEFAULT_IMAGE}"),
            );
        }
    }
}

fn refuse_reserved(pass: &mut Pass<'_>, document: &Value, place: &Place) {
    for (path, reason) in RESERVED {
        let inner = Place::from_dotted(path);
        if inner.get(document).is_some() {
            pass.refuse(&join(place, &inner), "is reserved", format!("remove it: {reason}"));
        }
    }
    let restart = Place::from_dotted("spec.restartPolicy");
    if restart.get(document).is_some_and(|policy| policy != "Never") {
        pass.refuse(
            &join(place, &restart),
            "must be Never",
            "remove it: a just-in-time runner runs once",
        );
    }
    for kind in ["labels", "annotations"] {
        let inner = Place::root().key("metadata").key(kind);
        for key in inner
            .get(document)
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(Map::keys)
        {
            if is_ours(key) {
                pass.refuse(
                    &join(place, &inner.key(key)),
                    "is reserved",
                    "use another prefix: the daemon keeps its own state there",
                );
            }
        }
    }
    for list in ["containers", "initContainers"] {
        let inner = Place::root().key("spec").key(list);
        let containers = inner.get(document).and_then(Value::as_array);
        for (n, container) in containers.into_iter().flatten().enumerate() {
            let env = container.get("env").and_then(Value::as_array);
            for (m, variable) in env.into_iter().flatten().enumerate() {
                if variable.get("name").is_some_and(|name| name == JIT_VARIABLE) {
                    pass.refuse(
                        &join(place, &inner.index(n).key("env").index(m)),
                        format!("{JIT_VARIABLE} is reserved"),
                        "remove it: the daemon sets it, in the container runner only",
                    );
                }
            }
        }
    }
}

/// `gharts-listener/...`, `gharts-listener.dev/...`, `x.gharts-listener.dev/...`
fn is_ours(key: &str) -> bool {
    key.split_once('/')
        .is_some_and(|(prefix, _)| prefix.split('.').any(|part| part == OUR_PREFIX))
}

/// A part of a pod that stands elsewhere in the file; `what` it is, for messages.
pub(super) fn decode_part<T: DeserializeOwned + Serialize>(
    pass: &mut Pass<'_>,
    raw: &Value,
    place: &Place,
    what: &str,
) -> Option<T> {
    let mut document = raw.clone();
    numbers_as_quantities(&mut document);
    decode(pass, document, place, what)
}

/// Decodes, takes out what does not fit, and tries again, so that all faults come at once.
fn decode<T: DeserializeOwned + Serialize>(
    pass: &mut Pass<'_>,
    mut document: Value,
    place: &Place,
    what: &str,
) -> Option<T> {
    let mut sound = true;
    for _ in 0..MOST_TYPE_FAULTS {
        match serde_path_to_error::deserialize::<_, T>(&document) {
            Ok(template) => {
                sound &= refuse_unknown(pass, &document, &template, place, what);
                return sound.then_some(template);
            }
            Err(error) => {
                sound = false;
                let inner = fault_place(error.path());
                let message = error.inner().to_string();
                let remedy = if message.ends_with("expected a string") {
                    "put it in quotes"
                } else {
                    "see `kubectl explain pod.spec` for the field's type"
                };
                pass.refuse(&join(place, &inner), message, remedy);
                if inner.0.is_empty() {
                    return None;
                }
                inner.nearest_key().remove(&mut document);
            }
        }
    }
    None
}

fn fault_place(path: &serde_path_to_error::Path) -> Place {
    use serde_path_to_error::Segment;
    let steps = path.iter().filter_map(|segment| match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    Place(steps.collect())
}

/// Whatever decoding dropped is a field that Kubernetes does not know (or has not known so far).
fn refuse_unknown<T: Serialize>(
    pass: &mut Pass<'_>,
    document: &Value,
    template: &T,
    place: &Place,
    what: &str,
) -> bool {
    let Ok(kept) = serde_json::to_value(template) else {
        return true;
    };
    let mut dropped = Vec::new();
    find_dropped(document, &kept, &Place::root(), &mut dropped);
    for inner in &dropped {
        pass.refuse(
            &join(place, inner),
            format!("is not a field of {what}"),
            "check its spelling and indentation (`kubectl explain pod.spec`)",
        );
    }
    dropped.is_empty()
}

fn find_dropped(written: &Value, kept: &Value, at: &Place, dropped: &mut Vec<Place>) {
    match (written, kept) {
        (Value::Object(written), Value::Object(kept)) => {
            for (key, value) in written {
                match kept.get(key) {
                    Some(kept) => find_dropped(value, kept, &at.key(key), dropped),
                    None if value.is_null() => {}
                    None => dropped.push(at.key(key)),
                }
            }
        }
        (Value::Array(written), Value::Array(kept)) => {
            for (n, (value, kept)) in written.iter().zip(kept).enumerate() {
                find_dropped(value, kept, &at.index(n), dropped);
            }
        }
        _ => {}
    }
}

/// Kubernetes takes `cpu: 2` for `cpu: "2"`; the types do not.
fn numbers_as_quantities(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                match (key.as_str(), &mut *inner) {
                    ("limits" | "requests", Value::Object(quantities)) => {
                        quantities.values_mut().for_each(number_as_text);
                    }
                    ("sizeLimit", quantity) => number_as_text(quantity),
                    (_, inner) => numbers_as_quantities(inner),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(numbers_as_quantities),
        _ => {}
    }
}

fn number_as_text(value: &mut Value) {
    if let Value::Number(number) = value {
        *value = Value::String(number.to_string());
    }
}

fn join(outer: &Place, inner: &Place) -> Place {
    Place(outer.0.iter().chain(&inner.0).cloned().collect())
}
