//! What the verbs do to the store: create, read, update, patch, delete, list.
//!
//! Everything that a real API server, its admission and its garbage collector would do to an object is done
//! here, at once, in one go under one lock.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    decode::{FieldValidation, decode},
    kinds,
    metadata::{self, field},
    patch::PatchKind,
    pods, quota,
    refusal::{Cause, Refusal},
    resource::{RESOURCES, Resource, find},
    selector::Selector,
    store::{Object, Place, Store, owner_uids},
};

/// Where a request points.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub resource: &'static Resource,
    pub namespace: &'a str,
    pub name: &'a str,
    pub subresource: &'a str,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub validation: FieldValidation,
}

/// An object as the caller gets it back.
#[derive(Debug)]
pub struct Written {
    pub object: Value,
    pub created: bool,
    pub warnings: Vec<String>,
}

/// `DeleteOptions`, from body and query.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    pub grace_seconds: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub orphan: bool,
    pub dry_run: bool,
}

#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    pub selector: Selector,
    pub limit: usize,
    pub token: String,
}

#[derive(Debug)]
pub struct Page {
    pub items: Vec<Object>,
    pub revision: u64,
    pub next: Option<String>,
    pub remaining: Option<usize>,
}

/// The store, and what a write needs beside it.
#[derive(Debug)]
pub struct Operations {
    pub store: Store,
    pub rng: fastrand::Rng,
}

/// Where a resource's objects are kept: the two kinds of events are one.
pub fn home(resource: &'static Resource) -> &'static Resource {
    if resource.group == "events.k8s.io" {
        find("", "events").unwrap_or(resource)
    } else {
        resource
    }
}

pub fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Operations {
    pub fn create(
        &mut self,
        target: Target<'_>,
        body: &Value,
        options: WriteOptions,
        now: Timestamp,
    ) -> Result<Written, Refusal> {
        let resource = target.resource;
        let (mut object, mut warnings) = typed(resource, body, options.validation)?;
        if !target.name.is_empty() && field(&object, "name") != target.name {
            return Err(wrong_name(field(&object, "name"), target.name));
        }
        metadata::prepare_create(&mut object, resource, target.namespace, &stamp(now), &mut self.rng)?;
        if resource.namespaced {
            self.namespace_exists(target.namespace)?;
        }
        if resource.plural == "pods" {
            pods::prepare_create(&mut object);
            warnings.extend(pods::warnings(&object));
        } else {
            kinds::prepare_create(resource, &mut object);
        }
        let name = field(&object, "name").to_owned();
        refuse_invalid(resource, &name, problems(resource, &object))?;
        if let Some(quotas) = find("", "resourcequotas") {
            quota::admit(&self.store, quotas, resource, &object, target.namespace)?;
        }
        let home = home(resource);
        if self.store.get(home, target.namespace, &name).is_some() {
            return Err(Refusal::already_exists(resource, &name));
        }
        if !options.dry_run {
            let stored = self.store.put(home, for_store(resource, object));
            object = self.shown(resource, &stored);
            self.collect_if_ownerless(home, &stored, now);
        }
        Ok(Written {
            object,
            created: true,
            warnings,
        })
    }

    /// PUT.
    pub fn update(
        &mut self,
        target: Target<'_>,
        body: &Value,
        options: WriteOptions,
        now: Timestamp,
    ) -> Result<Written, Refusal> {
        let resource = target.resource;
        let (object, warnings) = typed(resource, body, options.validation)?;
        if field(&object, "name") != target.name {
            return Err(wrong_name(field(&object, "name"), target.name));
        }
        let namespace = field(&object, "namespace");
        if !namespace.is_empty() && namespace != target.namespace {
            return Err(metadata::wrong_namespace());
        }
        let Some(old) = self.current(target) else {
            if resource.create_on_update && target.subresource.is_empty() {
                return self.create(target, body, options, now);
            }
            return Err(Refusal::not_found(resource, target.name));
        };
        let uid = field(&object, "uid");
        if !uid.is_empty() && uid != field(&old, "uid") {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                field(&old, "uid")
            );
            return Err(Refusal::conflict(resource, target.name, &why));
        }
        let version = field(&object, "resourceVersion");
        if version.is_empty() && !resource.unconditional_update {
            let cause = Cause::invalid("metadata.resourceVersion", &json!(0), "must be specified for an update");
            return Err(Refusal::invalid_as(
                resource.group,
                resource.plural,
                target.name,
                &[cause],
            ));
        }
        if !version.is_empty() && version != field(&old, "resourceVersion") {
            return Err(Refusal::stale(resource, target.name));
        }
        let object = self.replace(target, object, &old, options, now)?;
        Ok(Written {
            object,
            created: false,
            warnings,
        })
    }

    pub fn patch(
        &mut self,
        target: Target<'_>,
        kind: PatchKind,
        patch: &Value,
        options: WriteOptions,
        now: Timestamp,
    ) -> Result<Written, Refusal> {
        let resource = target.resource;
        let old = self
            .current(target)
            .ok_or_else(|| Refusal::not_found(resource, target.name))?;
        let mut patched = old.clone();
        kind.apply(&mut patched, patch)?;
        if field(&patched, "name") != target.name {
            return Err(wrong_name(field(&patched, "name"), target.name));
        }
        let version = field(&patched, "resourceVersion");
        if !version.is_empty() && version != field(&old, "resourceVersion") {
            return Err(Refusal::stale(resource, target.name));
        }
        let uid = field(&patched, "uid");
        if !uid.is_empty() && uid != field(&old, "uid") {
            let cause = Cause::invalid("metadata.uid", &json!(uid), "field is immutable");
            return Err(Refusal::invalid(resource, target.name, &[cause]));
        }
        let (object, warnings) = typed(resource, &patched, options.validation)?;
        let object = self.replace(target, object, &old, options, now)?;
        Ok(Written {
            object,
            created: false,
            warnings,
        })
    }

    /// What update and patch have in common: from a wanted object to the stored one.
    fn replace(
        &mut self,
        target: Target<'_>,
        mut object: Value,
        old: &Value,
        options: WriteOptions,
        now: Timestamp,
    ) -> Result<Value, Refusal> {
        let resource = target.resource;
        metadata::prepare_update(&mut object, old);
        let (kept, changed) = if target.subresource == "status" {
            ("spec", "status")
        } else {
            ("status", "spec")
        };
        match old.get(kept) {
            Some(value) => object[kept] = value.clone(),
            None => metadata::remove(&mut object, kept),
        }
        if resource.plural == "secrets" {
            kinds::prepare_secret(&mut object);
        }
        let mut causes = problems(resource, &object);
        if resource.plural == "pods" && changed == "spec" {
            causes.extend(pods::validate_update(&object, old));
        }
        causes.extend(kinds::validate_update(resource, &object, old));
        refuse_invalid(resource, target.name, causes)?;
        if options.dry_run {
            return Ok(object);
        }
        let home = home(resource);
        let stored = self.store.put(home, for_store(resource, object));
        let done = !stored["metadata"]["deletionTimestamp"].is_null()
            && stored["metadata"]["deletionGracePeriodSeconds"] == 0
            && !has_finalizers(&stored);
        if done {
            self.remove(&Place::of(home, &stored), false, now);
        }
        Ok(self.shown(resource, &stored))
    }

    pub fn get(&self, target: Target<'_>) -> Result<Value, Refusal> {
        self.current(target)
            .ok_or_else(|| Refusal::not_found(target.resource, target.name))
    }

    fn current(&self, target: Target<'_>) -> Option<Value> {
        let stored = self.store.get(home(target.resource), target.namespace, target.name)?;
        Some(self.shown(target.resource, stored))
    }

    /// A stored object as callers of `resource` see it.
    pub fn shown(&self, resource: &'static Resource, stored: &Object) -> Value {
        if resource.group == "events.k8s.io" {
            return kinds::new_event(stored);
        }
        let mut object = Value::clone(stored);
        if resource.plural == "resourcequotas" {
            let counted: Vec<&'static Resource> = RESOURCES.iter().filter(|r| r.namespaced).collect();
            object["status"] = quota::status(&self.store, &counted, stored);
        }
        object
    }

    pub fn list(&self, resource: &'static Resource, namespace: &str, options: &ListOptions) -> Result<Page, Refusal> {
        let home = home(resource);
        let namespace = (!namespace.is_empty()).then_some(namespace);
        let (revision, after) = if options.token.is_empty() {
            (self.store.revision(), None)
        } else {
            let (revision, after) = read_continue(&options.token, namespace)?;
            if self.store.since(home, revision).is_err() {
                return Err(Refusal::expired(
                    "The provided continue parameter is too old to display a consistent list result. You must start \
                     a new list without the continue parameter.",
                ));
            }
            (revision, Some(after))
        };
        let mut found = self
            .store
            .list(home, namespace, after)
            .filter(|object| options.selector.matches(object));
        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        let items: Vec<Object> = found.by_ref().take(limit).cloned().collect();
        let left = found.count();
        let next = (left > 0)
            .then(|| items.last().map(|last| write_continue(revision, last, namespace)))
            .flatten();
        Ok(Page {
            items,
            revision,
            next,
            remaining: (left > 0 && options.selector.is_empty()).then_some(left),
        })
    }

    /// The object as it was left, or a `Status` for kinds whose deletion answers with one.
    pub fn delete(&mut self, target: Target<'_>, options: &DeleteOptions, now: Timestamp) -> Result<Value, Refusal> {
        let resource = target.resource;
        let home = home(resource);
        let Some(old) = self.store.get(home, target.namespace, target.name).cloned() else {
            return Err(Refusal::not_found(resource, target.name));
        };
        check_preconditions(resource, &old, options)?;
        let orphan = options.orphan;
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
            self.remove(place, options.orphan, now);
        }
        stored
    }

    pub fn delete_collection(
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

    /// Puts a pod on a node.
    pub fn bind(&mut self, target: Target<'_>, node: &str, now: Timestamp) -> Result<(), Refusal> {
        let mut pod = self.get(target)?;
        let name = target.name;
        let conflict = |why: String| Refusal::conflict_as("pods/binding", name, &why);
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            return Err(conflict(format!(
                "pod {name} is being deleted, cannot be assigned to a host"
            )));
        }
        if let Some(taken) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
            return Err(conflict(format!("pod {name} is already assigned to node \"{taken}\"")));
        }
        pods::bind(&mut pod, node, &stamp(now));
        self.store.put(target.resource, pod);
        Ok(())
    }

    /// Takes an object away, and what only it owned.
    fn remove(&mut self, place: &Place, orphan: bool, now: Timestamp) {
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
            if let Some(owners) = object["metadata"]["ownerReferences"].as_array_mut() {
                owners.retain(|o| o["uid"] != owner);
            }
            self.store.put(resource, object);
            return;
        }
        self.collect(resource, &object, now);
    }

    /// What is born with owners none of which exists is garbage.
    fn collect_if_ownerless(&mut self, resource: &'static Resource, object: &Object, now: Timestamp) {
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
        // It exists and no precondition is set, so nothing can refuse.
        let _ = self.delete(target, &DeleteOptions::default(), now);
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

    fn namespace_exists(&self, namespace: &str) -> Result<(), Refusal> {
        match find("", "namespaces") {
            Some(row) if self.store.get(row, "", namespace).is_none() => Err(Refusal::not_found(row, namespace)),
            _ => Ok(()),
        }
    }
}

fn typed(
    resource: &'static Resource,
    body: &Value,
    validation: FieldValidation,
) -> Result<(Value, Vec<String>), Refusal> {
    let kind = body["kind"].as_str().unwrap_or(resource.kind);
    if kind != resource.kind {
        return Err(Refusal::bad_request(format!(
            "{kind} in version \"{}\" cannot be handled as a {}: no kind \"{kind}\" is known here",
            resource.version, resource.kind
        )));
    }
    let mut body = body.clone();
    if body.is_object() {
        body["kind"] = json!(resource.kind);
        body["apiVersion"] = json!(resource.api_version());
    }
    decode(resource, &body, validation)
}

fn for_store(resource: &Resource, object: Value) -> Value {
    if resource.group == "events.k8s.io" {
        kinds::core_event(&object)
    } else {
        object
    }
}

fn problems(resource: &Resource, object: &Value) -> Vec<Cause> {
    let mut causes = metadata::validate(object, resource);
    causes.extend(if resource.plural == "pods" {
        pods::validate(object)
    } else {
        kinds::validate(resource, object)
    });
    causes
}

fn refuse_invalid(resource: &Resource, name: &str, causes: Vec<Cause>) -> Result<(), Refusal> {
    if causes.is_empty() {
        return Ok(());
    }
    Err(Refusal::invalid(resource, name, &causes))
}

fn wrong_name(sent: &str, url: &str) -> Refusal {
    Refusal::bad_request(format!(
        "the name of the object ({sent}) does not match the name on the URL ({url})"
    ))
}

fn has_finalizers(object: &Value) -> bool {
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

fn write_continue(revision: u64, last: &Value, namespace: Option<&str>) -> String {
    let name = field(last, "name");
    let start = match namespace {
        Some(_) => name.to_owned(),
        None => format!("{}/{name}", field(last, "namespace")),
    };
    URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": revision, "start": start + "\0"}).to_string())
}

fn read_continue(token: &str, namespace: Option<&str>) -> Result<(u64, (String, String)), Refusal> {
    let parsed = || {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let token: Value = serde_json::from_slice(&bytes).ok()?;
        let start = token["start"].as_str()?.strip_suffix('\0')?;
        let key = match namespace {
            Some(namespace) => (namespace.to_owned(), start.to_owned()),
            None => start
                .split_once('/')
                .map(|(ns, name)| (ns.to_owned(), name.to_owned()))?,
        };
        (token["v"] == "meta.k8s.io/v1").then_some((token["rv"].as_u64()?, key))
    };
    parsed().ok_or_else(|| Refusal::bad_request("invalid continue token: continue key is not valid"))
}
