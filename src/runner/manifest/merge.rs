//! Adding to a template: what it has already stays as it is.

use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec, Volume, VolumeMount};
use serde_json::{Map, Value};

/// Sets a variable unless the template does.
pub(super) fn set_env(container: &mut Container, name: &str, value: &str) {
    add_env(
        container,
        EnvVar {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            ..EnvVar::default()
        },
    );
}

pub(super) fn add_env(container: &mut Container, variable: EnvVar) {
    let env = container.env.get_or_insert_default();
    if !env.iter().any(|e| e.name == variable.name) {
        env.push(variable);
    }
}

/// Mounts a volume unless the template mounts it somewhere.
pub(super) fn add_mount(container: &mut Container, mount: VolumeMount) {
    let mounts = container.volume_mounts.get_or_insert_default();
    if !mounts.iter().any(|m| m.name == mount.name) {
        mounts.push(mount);
    }
}

pub(super) fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        ..VolumeMount::default()
    }
}

/// Adds a volume unless the template has one of that name.
pub(super) fn add_volume(spec: &mut PodSpec, volume: Volume) {
    let volumes = spec.volumes.get_or_insert_default();
    if !volumes.iter().any(|v| v.name == volume.name) {
        volumes.push(volume);
    }
}

/// Takes the template's container of that name out of either list and lays it over ours: its fields count, and what it
/// does not say stays.
pub(super) fn overlaid(spec: &mut PodSpec, ours: Container) -> Container {
    let lists = [Some(&mut spec.containers), spec.init_containers.as_mut()];
    for list in lists.into_iter().flatten() {
        if let Some(at) = list.iter().position(|c| c.name == ours.name) {
            let theirs = list.remove(at);
            return overlay(&ours, &theirs).unwrap_or(theirs);
        }
    }
    ours
}

fn overlay(ours: &Container, theirs: &Container) -> Option<Container> {
    let mut merged = serde_json::to_value(ours).ok()?;
    merge(&mut merged, serde_json::to_value(theirs).ok()?, "");
    serde_json::from_value(merged).ok()
}

fn merge(under: &mut Value, over: Value, key: &str) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => merge_maps(under, over),
        (Value::Array(under), Value::Array(over)) if identity(key).is_some() => {
            let id = identity(key).unwrap_or_default();
            for entry in over {
                match under.iter_mut().find(|e| e.get(id) == entry.get(id)) {
                    Some(same) => *same = entry,
                    None => under.push(entry),
                }
            }
        }
        (under, over) => *under = over,
    }
}

fn merge_maps(under: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match under.get_mut(&key) {
            Some(inner) => merge(inner, value, &key),
            None => {
                under.insert(key, value);
            }
        }
    }
}

/// Lists whose entries have names of their own; any other is replaced as a whole.
fn identity(list: &str) -> Option<&'static str> {
    match list {
        "env" => Some("name"),
        "volumeMounts" => Some("mountPath"),
        _ => None,
    }
}
