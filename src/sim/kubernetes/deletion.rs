//! How objects end: preconditions, grace, finalizers, and what goes with their owners.
//!
//! What a real cluster's garbage collector does a moment later is done at once. Foreground deletion is treated
//! as background deletion.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    metadata::{self, field},
    operations::{ListOptions, Operations, Page, Target, home, stamp},
    pods,
    refusal::Refusal,
    resource::{RESOURCES, Resource, find},
    store::{Object, Place, owner_uids},
};

/// `DeleteOptions`, from body and query.
#[derive(Clone, Debug, Default)]
pub(super) struct DeleteOptions {
    pub grace_seconds: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    /// Leave what it owns alone; `None`: as is usual for the kind.
    pub(super) orphan: Option<bool>,
    pub dry_run: bool,
}

impl Operations {
    /// The object as it was left, or a `Status` for kinds whose deletion answers with one.
    pub(super) fn delete(
        &mut self,
        target: Target<'_>,
        options: &DeleteOptions,
        now: Timestamp,
    ) -> Result<Value, Refusal> {
        let resource = target.resource;
        let home = home(resource);
        let Some(old) = self.store.get(home, target.namespace, target.name).cloned() else {
            return Err(Refusal::not_found(resource, target.name));
        };
        check_preconditions(resource, &old, options)?;
        // A heritage of the first versions of jobs: by itself their deletion spares their pods.
        let orphan = options.orphan.unwrap_or(resource.plural == "jobs");
        let place = Place::of(home, &old);
        let last = if resource.plural == "pods" {
            self.delete_pod(&place, &old, options, now)
        } else if has_finalizers(&old) {
            let mut doomed = Value::clone(&old);
            doomed["metadata"]["deletionTimestamp"] = json!(stamp(now));
            doomed["metadata"]["deletionGracePeriodSeconds"] = json!(0);
            if options.dry_run {
                Arc::new(doomed)
            } else {
                self.store.put(home, doomed)
            }
        } else {
            if !options.dry_run {
                self.remove(&place, orphan, now);
            }
            old
        };
        if matches!(resource.plural, "pods" | "serviceaccounts" | "resourcequotas") {
            return Ok(self.shown(resource, &last));
        }
        let mut details = json!({"name": target.name, "kind": resource.plural, "uid": last["metadata"]["uid"]});
        if !resource.group.is_empty() {
            details["group"] = json!(resource.group);
        }
        Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}))
    }

    fn delete_pod(&mut self, place: &Place, old: &Object, options: &DeleteOptions, now: Timestamp) -> Object {
        let mut pod = Value::clone(old);
        let grace = pods::grace(&pod, options.grace_seconds);
        let dying: Option<Timestamp> = field(&pod, "deletionTimestamp").parse().ok();
        let meta = &mut pod["metadata"];
        let grace = if let Some(until) = dying {
            // A later wish may shorten the time that is left, never lengthen it.
            let given = meta["deletionGracePeriodSeconds"].as_i64().unwrap_or_default();
            let grace = if options.grace_seconds.is_some() || grace == 0 {
                grace.min(given)
            } else {
                given
            };
            let shortened = until - jiff::SignedDuration::from_secs(given - grace);
            meta["deletionTimestamp"] = json!(stamp(shortened));
            grace
        } else {
            meta["deletionTimestamp"] = json!(stamp(now + jiff::SignedDuration::from_secs(grace)));
            let generation = meta["generation"].as_i64().unwrap_or_default();
            meta["generation"] = json!(generation + 1);
            grace
        };
        meta["deletionGracePeriodSeconds"] = json!(grace);
        if options.dry_run {
            return Arc::new(pod);
        }
        let Some(resource) = find(place.group, place.plural) else {
            return Arc::new(pod);
        };
        let gone = grace == 0 && !has_finalizers(&pod);
        let stored = self.store.put(resource, pod);
        if gone {
            self.remove(place, options.orphan == Some(true), now);
        }
        stored
    }

    pub(super) fn delete_collection(
        &mut self,
        resource: &'static Resource,
        namespace: &str,
        list: &ListOptions,
        options: &DeleteOptions,
        now: Timestamp,
    ) -> Result<Page, Refusal> {
        let page = self.list(resource, namespace, list)?;
        for object in &page.items {
            let target = Target {
                resource,
                namespace: field(object, "namespace"),
                name: field(object, "name"),
                subresource: "",
            };
            self.delete(target, options, now)?;
        }
        Ok(page)
    }

    /// Takes an object away, and what only it owned.
    pub(super) fn remove(&mut self, place: &Place, orphan: bool, now: Timestamp) {
        let Some(gone) = self.store.remove(place) else { return };
        if place.plural == "namespaces" {
            self.empty_namespace(&place.name, now);
        }
        for dependent in self.store.dependents(field(&gone, "uid")) {
            self.lose_owner(&dependent, field(&gone, "uid"), orphan, now);
        }
    }

    fn lose_owner(&mut self, dependent: &Place, owner: &str, orphan: bool, now: Timestamp) {
        let Some(resource) = find(dependent.group, dependent.plural) else {
            return;
        };
        let Some(object) = self.store.get(resource, &dependent.namespace, &dependent.name).cloned() else {
            return;
        };
        let owned_by_another = owner_uids(&object).any(|uid| uid != owner && self.store.exists(uid));
        if orphan || owned_by_another {
            let mut object = Value::clone(&object);
            let left: Vec<Value> = object["metadata"]["ownerReferences"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|o| o["uid"] != owner)
                .cloned()
                .collect();
            if left.is_empty() {
                metadata::remove(&mut object["metadata"], "ownerReferences");
            } else {
                object["metadata"]["ownerReferences"] = Value::Array(left);
            }
            self.store.put(resource, object);
            return;
        }
        self.collect(resource, &object, now);
    }

    /// What is born with owners none of which exists is garbage.
    pub(super) fn collect_if_ownerless(&mut self, resource: &'static Resource, object: &Object, now: Timestamp) {
        let mut owners = owner_uids(object).peekable();
        if owners.peek().is_some() && !owners.any(|uid| self.store.exists(uid)) {
            self.collect(resource, object, now);
        }
    }

    fn collect(&mut self, resource: &'static Resource, object: &Object, now: Timestamp) {
        let target = Target {
            resource,
            namespace: field(object, "namespace"),
            name: field(object, "name"),
            subresource: "",
        };
        let options = DeleteOptions {
            orphan: Some(false),
            ..DeleteOptions::default()
        };
        // It exists and no precondition is set, so nothing can refuse.
        let _ = self.delete(target, &options, now);
    }

    fn empty_namespace(&mut self, namespace: &str, now: Timestamp) {
        for resource in RESOURCES.iter().filter(|r| r.namespaced) {
            let places: Vec<Place> = self
                .store
                .list(resource, Some(namespace), None)
                .map(|o| Place::of(resource, o))
                .collect();
            for place in places {
                self.remove(&place, false, now);
            }
        }
    }
}

pub(super) fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|f| !f.is_empty())
}

fn check_preconditions(resource: &Resource, object: &Value, options: &DeleteOptions) -> Result<(), Refusal> {
    let name = field(object, "name");
    for (what, wanted, found) in [
        ("UID", &options.uid, field(object, "uid")),
        (
            "ResourceVersion",
            &options.resource_version,
            field(object, "resourceVersion"),
        ),
    ] {
        if let Some(wanted) = wanted
            && wanted != found
        {
            let why = format!(
                "the {what} in the precondition ({wanted}) does not match the {what} in record ({found}). The object \
                 might have been {}",
                if what == "UID" {
                    "deleted and then recreated"
                } else {
                    "modified"
                }
            );
            return Err(Refusal::conflict_as(resource.kind, name, &why));
        }
    }
    Ok(())
}
