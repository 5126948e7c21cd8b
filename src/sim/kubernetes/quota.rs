//! ResourceQuota: what a namespace may hold, and the two ways in which creation is refused.
//!
//! Usage is counted afresh from what is stored, so it is never late (a real server's controller lags by
//! moments). Scopes are not looked at.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{metadata::field, pods, quantity::Quantity, refusal::Refusal, resource::Resource, store::Store};

type Amounts = BTreeMap<String, Quantity>;

/// Names that oblige every container to ask for the thing when a quota names them.
const MUST_BE_ASKED: [&str; 6] = [
    "cpu",
    "memory",
    "requests.cpu",
    "requests.memory",
    "limits.cpu",
    "limits.memory",
];

/// Refuses `object` when a quota of its namespace has no room for it.
pub(super) fn admit(
    store: &Store,
    quotas: &Resource,
    resource: &'static Resource,
    object: &Value,
    namespace: &str,
) -> Result<(), Refusal> {
    let name = field(object, "name");
    let mut used = None;
    for quota in store.list(quotas, Some(namespace), None) {
        let (title, hard) = (field(quota, "name"), hard(quota));
        if resource.plural == "pods"
            && let Some(missing) = unasked(&object["spec"], &hard)
        {
            let why = format!("failed quota: {title}: must specify {missing}");
            return Err(Refusal::forbidden(resource, name, &why));
        }
        let wanted = usage_of(resource, object);
        let used = used.get_or_insert_with(|| usage(store, resource, namespace));
        let amount = |amounts: &Amounts, key: &str| amounts.get(key).copied().unwrap_or_default();
        let over: Vec<&String> = hard
            .iter()
            .filter(|(key, limit)| {
                wanted.contains_key(*key) && (amount(used, key) + amount(&wanted, key)).exceeds(**limit)
            })
            .map(|(key, _)| key)
            .collect();
        if !over.is_empty() {
            let list = |amounts: &Amounts| {
                let parts: Vec<String> = over.iter().map(|k| format!("{k}={}", amount(amounts, k))).collect();
                parts.join(",")
            };
            let why = format!(
                "exceeded quota: {title}, requested: {}, used: {}, limited: {}",
                list(&wanted),
                list(used),
                list(&hard)
            );
            return Err(Refusal::forbidden(resource, name, &why));
        }
    }
    Ok(())
}

/// A quota's status: its limits, and what of them is used.
pub(super) fn status(store: &Store, counted: &[&'static Resource], quota: &Value) -> Value {
    let namespace = field(quota, "namespace");
    let mut all = Amounts::new();
    for resource in counted {
        all.extend(usage(store, resource, namespace));
    }
    let hard = hard(quota);
    let used: BTreeMap<&String, String> = hard
        .keys()
        .map(|key| (key, all.get(key).copied().unwrap_or_default().to_string()))
        .collect();
    json!({"hard": quota["spec"]["hard"], "used": used})
}

fn hard(quota: &Value) -> Amounts {
    amounts(&quota["spec"]["hard"])
}

fn amounts(value: &Value) -> Amounts {
    value
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, amount)| Some((name.clone(), Quantity::parse(amount.as_str()?)?)))
        .collect()
}

/// What a quota counts of all stored objects of one resource.
fn usage(store: &Store, resource: &Resource, namespace: &str) -> Amounts {
    let mut sum = Amounts::new();
    for object in store.list(resource, Some(namespace), None) {
        if resource.plural == "pods" && !pods::is_live(object) {
            continue;
        }
        for (name, amount) in usage_of(resource, object) {
            *sum.entry(name).or_default() += amount;
        }
    }
    sum
}

fn usage_of(resource: &Resource, object: &Value) -> Amounts {
    let one = Quantity::count(1);
    let mut amounts = Amounts::from([(format!("count/{}", resource.qualified()), one)]);
    if matches!(resource.plural, "pods" | "secrets" | "configmaps" | "resourcequotas") {
        amounts.insert(resource.plural.to_owned(), one);
    }
    if resource.plural == "pods" {
        for (kind, name, amount) in pod_resources(&object["spec"]) {
            if kind == "requests" && matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
                amounts.insert(name.clone(), amount);
            }
            amounts.insert(format!("{kind}.{name}"), amount);
        }
    }
    amounts
}

/// What a pod takes: its containers together, or its greediest init container if that is more.
fn pod_resources(spec: &Value) -> Vec<(&'static str, String, Quantity)> {
    let mut out = Vec::new();
    for kind in ["requests", "limits"] {
        let (mut running, mut peak) = (Amounts::new(), Amounts::new());
        for container in spec["initContainers"].as_array().into_iter().flatten() {
            let sidecar = container["restartPolicy"] == "Always";
            for (name, amount) in amounts(&container["resources"][kind]) {
                let before = running.get(&name).copied().unwrap_or_default();
                if sidecar {
                    running.insert(name, before + amount);
                } else {
                    let top = peak.entry(name).or_default();
                    *top = top.max(before + amount);
                }
            }
        }
        for container in spec["containers"].as_array().into_iter().flatten() {
            for (name, amount) in amounts(&container["resources"][kind]) {
                *running.entry(name).or_default() += amount;
            }
        }
        for (name, amount) in peak {
            let sum = running.entry(name).or_default();
            *sum = sum.max(amount);
        }
        out.extend(running.into_iter().map(|(name, amount)| (kind, name, amount)));
    }
    out
}

/// `requests.cpu for: runner` when a quota obliges containers to ask for what they do not.
fn unasked(spec: &Value, hard: &Amounts) -> Option<String> {
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for name in MUST_BE_ASKED.iter().filter(|name| hard.contains_key(**name)) {
        let (kind, plain) = match name.split_once('.') {
            Some((kind, plain)) => (kind, plain),
            None => ("requests", *name),
        };
        for container in pods::containers(spec) {
            if container["resources"][kind][plain].is_null() {
                let container = container["name"].as_str().unwrap_or_default();
                missing.entry(name).or_default().insert(container);
            }
        }
    }
    let parts: Vec<String> = missing
        .iter()
        .map(|(name, containers)| {
            let containers: Vec<&str> = containers.iter().copied().collect();
            format!("{name} for: {}", containers.join(","))
        })
        .collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}
