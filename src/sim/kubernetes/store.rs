//! Objects, versions and history: what etcd and the watch cache are to a real API server.
//!
//! One revision counts over all resources. Each resource keeps its newest changes for watches and forgets the
//! rest. No rule of Kubernetes lives here beyond "a write that changes nothing is no write".

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::resource::{RESOURCES, Resource};

/// Changes that each resource remembers for watches that come late.
const HISTORY: usize = 20_000;
/// Where versions start: above 1, so that "from the beginning" is always a version long compacted.
const FIRST_REVISION: u64 = 100;

pub type Object = Arc<Value>;

/// Where one object is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub group: &'static str,
    pub plural: &'static str,
    pub namespace: String,
    pub name: String,
}

impl Place {
    pub(super) fn of(resource: &'static Resource, object: &Value) -> Self {
        let meta = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
        Self {
            group: resource.group,
            plural: resource.plural,
            namespace: meta("namespace"),
            name: meta("name"),
        }
    }
}

/// One write, as a watch tells it.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub revision: u64,
    pub before: Option<Object>,
    /// What there is now; what there was last, under the version of its deletion, where `deleted`.
    pub object: Object,
    pub deleted: bool,
}

/// The history back to the wanted version is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Compacted {
    pub oldest: u64,
}

#[derive(Debug)]
struct Collection {
    objects: BTreeMap<(String, String), Object>,
    history: VecDeque<Change>,
    /// The newest version whose change is forgotten: a watch from before it misses something.
    forgotten: u64,
    newest: watch::Sender<u64>,
}

#[derive(Debug)]
pub(super) struct Store {
    revision: u64,
    collections: BTreeMap<(&'static str, &'static str), Collection>,
    places: HashMap<String, Place>,
    dependents: HashMap<String, BTreeSet<Place>>,
}

impl Store {
    pub(super) fn new() -> Self {
        let collection = || Collection {
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            forgotten: FIRST_REVISION,
            newest: watch::Sender::new(FIRST_REVISION),
        };
        Self {
            revision: FIRST_REVISION,
            collections: RESOURCES.iter().map(|r| ((r.group, r.plural), collection())).collect(),
            places: HashMap::new(),
            dependents: HashMap::new(),
        }
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<&Object> {
        let key = (namespace.to_owned(), name.to_owned());
        self.collection(resource)?.objects.get(&key)
    }

    /// Everything in `namespace` (`None`: in all), by namespace and name, behind `after` if given.
    pub(super) fn list<'a>(
        &'a self,
        resource: &Resource,
        namespace: Option<&'a str>,
        after: Option<(String, String)>,
    ) -> impl Iterator<Item = &'a Object> {
        let from = match (after, namespace) {
            (Some(key), _) => Bound::Excluded(key),
            (None, Some(namespace)) => Bound::Included((namespace.to_owned(), String::new())),
            (None, None) => Bound::Unbounded,
        };
        self.collection(resource)
            .into_iter()
            .flat_map(move |c| c.objects.range((from.clone(), Bound::Unbounded)))
            .take_while(move |((ns, _), _)| namespace.is_none_or(|wanted| wanted == ns))
            .map(|(_, object)| object)
    }

    /// Stores under a new version; a write that changes nothing keeps the old one.
    pub(super) fn put(&mut self, resource: &'static Resource, mut object: Value) -> Object {
        let place = Place::of(resource, &object);
        let before = self.get(resource, &place.namespace, &place.name).cloned();
        if let Some(before) = &before {
            object["metadata"]["resourceVersion"] = before["metadata"]["resourceVersion"].clone();
            if **before == object {
                return before.clone();
            }
            self.forget_owners(before, &place);
        }
        self.revision += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let object = Arc::new(object);
        for owner in owner_uids(&object) {
            self.dependents
                .entry(owner.to_owned())
                .or_default()
                .insert(place.clone());
        }
        if let Some(uid) = object["metadata"]["uid"].as_str() {
            self.places.insert(uid.to_owned(), place.clone());
        }
        let change = Change {
            revision: self.revision,
            before,
            object: object.clone(),
            deleted: false,
        };
        if let Some(collection) = self.collections.get_mut(&(place.group, place.plural)) {
            collection.objects.insert((place.namespace, place.name), object.clone());
            collection.record(change);
        }
        object
    }

    /// Takes an object away; what comes back carries the version of its deletion.
    pub(super) fn remove(&mut self, place: &Place) -> Option<Object> {
        let collection = self.collections.get_mut(&(place.group, place.plural))?;
        let before = collection
            .objects
            .remove(&(place.namespace.clone(), place.name.clone()))?;
        self.revision += 1;
        let mut last = (*before).clone();
        last["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        let object = Arc::new(last);
        collection.record(Change {
            revision: self.revision,
            before: Some(before.clone()),
            object: object.clone(),
            deleted: true,
        });
        self.forget_owners(&before, place);
        if let Some(uid) = before["metadata"]["uid"].as_str() {
            self.places.remove(uid);
        }
        Some(object)
    }

    /// Whether the object with this uid still exists.
    pub(super) fn exists(&self, uid: &str) -> bool {
        self.places.contains_key(uid)
    }

    /// Objects with an owner reference to this uid.
    pub(super) fn dependents(&self, uid: &str) -> Vec<Place> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }

    /// All changes after `revision`.
    pub(super) fn since(&self, resource: &Resource, revision: u64) -> Result<Vec<Change>, Compacted> {
        let Some(collection) = self.collection(resource) else {
            return Ok(Vec::new());
        };
        if revision < collection.forgotten {
            return Err(Compacted {
                oldest: collection.forgotten,
            });
        }
        let start = collection.history.partition_point(|c| c.revision <= revision);
        Ok(collection.history.range(start..).cloned().collect())
    }

    /// Told at every change of the resource.
    pub(super) fn subscribe(&self, resource: &Resource) -> Option<watch::Receiver<u64>> {
        Some(self.collection(resource)?.newest.subscribe())
    }

    /// Forgets all history: watches and continued lists from before now must start anew.
    pub(super) fn compact(&mut self) {
        for collection in self.collections.values_mut() {
            collection.history.clear();
            collection.forgotten = self.revision;
        }
    }

    /// Forgets all history but the newest `changes` of each resource.
    pub(super) fn trim(&mut self, changes: usize) {
        for collection in self.collections.values_mut() {
            collection.trim(changes);
            collection.history.shrink_to_fit();
        }
    }

    fn collection(&self, resource: &Resource) -> Option<&Collection> {
        self.collections.get(&(resource.group, resource.plural))
    }

    fn forget_owners(&mut self, object: &Value, place: &Place) {
        for owner in owner_uids(object) {
            if let Some(all) = self.dependents.get_mut(owner) {
                all.remove(place);
                if all.is_empty() {
                    self.dependents.remove(owner);
                }
            }
        }
    }
}

impl Collection {
    fn record(&mut self, change: Change) {
        let revision = change.revision;
        self.history.push_back(change);
        self.trim(HISTORY);
        self.newest.send_replace(revision);
    }

    fn trim(&mut self, changes: usize) {
        let surplus = self.history.len().saturating_sub(changes);
        if let Some(oldest) = self.history.drain(..surplus).next_back() {
            self.forgotten = oldest.revision;
        }
    }
}

/// The uids of an object's owners.
pub(super) fn owner_uids(object: &Value) -> impl Iterator<Item = &str> {
    object["metadata"]["ownerReferences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|o| o["uid"].as_str())
}
