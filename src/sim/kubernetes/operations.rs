//! What the verbs do to the store: create, read, update, patch, list (`deletion` has the rest).
//!
//! Everything that a real API server, its admission and its garbage collector would do to an object is done
//! here, at once, in one go under one lock.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    decode::{FieldValidation, decode},
    deletion::has_finalizers,
    kinds,
    metadata::{self, field},
    patch::PatchKind,
    pods, quota,
    refusal::{Cause, Refusal},
    resource::{RESOURCES, Resource, find},
    selector::Selector,
    store::{Object, Place, Store},
};

/// Where a request points.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    pub resource: &'static Resource,
    pub namespace: &'a str,
    pub name: &'a str,
    pub subresource: &'a str,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WriteOptions {
    pub dry_run: bool,
    pub validation: FieldValidation,
}

/// An object as the caller gets it back.
#[derive(Debug)]
pub(super) struct Written {
    pub object: Value,
    pub created: bool,
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct ListOptions {
    pub selector: Selector,
    pub limit: usize,
    pub token: String,
}

#[derive(Debug)]
pub(super) struct Page {
    pub items: Vec<Object>,
    pub revision: u64,
    pub next: Option<String>,
    pub remaining: Option<usize>,
}

/// The store, and what a write needs beside it.
#[derive(Debug)]
pub(super) struct Operations {
    pub store: Store,
    pub rng: fastrand::Rng,
}

/// Where a resource's objects are kept: the two kinds of events are one.
pub(super) fn home(resource: &'static Resource) -> &'static Resource {
    if resource.group == "events.k8s.io" {
        find("", "events").unwrap_or(resource)
    } else {
        resource
    }
}

pub(super) fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

impl Operations {
    pub(super) fn create(
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
        refuse_invalid(resource, &name, &problems(resource, &object))?;
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
    pub(super) fn update(
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

    pub(super) fn patch(
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
        refuse_invalid(resource, target.name, &causes)?;
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

    pub(super) fn get(&self, target: Target<'_>) -> Result<Value, Refusal> {
        self.current(target)
            .ok_or_else(|| Refusal::not_found(target.resource, target.name))
    }

    fn current(&self, target: Target<'_>) -> Option<Value> {
        let stored = self.store.get(home(target.resource), target.namespace, target.name)?;
        Some(self.shown(target.resource, stored))
    }

    /// A stored object as callers of `resource` see it.
    pub(super) fn shown(&self, resource: &'static Resource, stored: &Object) -> Value {
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

    pub(super) fn list(
        &self,
        resource: &'static Resource,
        namespace: &str,
        options: &ListOptions,
    ) -> Result<Page, Refusal> {
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

    /// Puts a pod on a node.
    pub(super) fn bind(&mut self, target: Target<'_>, node: &str, now: Timestamp) -> Result<(), Refusal> {
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

fn refuse_invalid(resource: &Resource, name: &str, causes: &[Cause]) -> Result<(), Refusal> {
    if causes.is_empty() {
        return Ok(());
    }
    Err(Refusal::invalid(resource, name, causes))
}

fn wrong_name(sent: &str, url: &str) -> Refusal {
    Refusal::bad_request(format!(
        "the name of the object ({sent}) does not match the name on the URL ({url})"
    ))
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
