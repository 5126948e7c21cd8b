//! The simulated cluster as tests and the fleet see it: state behind one lock, a clock, switches, counters.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    hash::{DefaultHasher, Hash, Hasher as _},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    access::{Tokens, User},
    deletion::DeleteOptions,
    faults::{Fault, FaultId, Faults, Trouble},
    metadata::{field, uuid},
    onlooker::{Onlooker, Request},
    operations::{Operations, Target, WriteOptions, home, stamp},
    patch::PatchKind,
    refusal::{Cause, Refusal},
    resource::{Resource, find, of_object},
    store::{Object, Store},
};
use crate::{clock::Clock, sim::keys::SigningKey};

/// Who signs service-account tokens, and the audience that means this API.
pub const ISSUER: &str = "https://kubernetes.default.svc";
const SHORTEST_TOKEN: i64 = 600;
const USUAL_TOKEN: i64 = 3600;
/// Changes that remain when history is forgotten: no open watch is so far behind.
const BRIEF_HISTORY: usize = 50;

/// One kind of request, for the count of what a caller costs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestKind {
    pub user: String,
    pub verb: String,
    /// With its group where it has one, and its subresource: `pods/status`, `leases.coordination.k8s.io`.
    pub resource: String,
}

impl RequestKind {
    pub fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

/// A simulated Kubernetes API. Clones share one cluster.
#[derive(Clone)]
pub struct Model {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    clock: Clock,
    key: SigningKey,
    admin_token: String,
    /// Counts how often all watches were cut.
    cuts: watch::Sender<u64>,
    onlooker: OnceLock<Onlooker>,
}

pub(super) struct State {
    pub(super) operations: Operations,
    pub(super) tokens: Tokens,
    faults: Faults,
    pace: Pace,
    requests: BTreeMap<RequestKind, u64>,
    logs: BTreeMap<(String, String, String), String>,
}

/// How long the API server takes, at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// Before a request has its effect.
    pub answers: Duration,
    /// From a change to the watches' event.
    pub events: Duration,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model").finish_non_exhaustive()
    }
}

impl Model {
    /// A cluster with the namespaces `default` and `kube-system` and nothing in them. `seed` decides uids,
    /// generated names and the administrator's token; `key` signs service-account tokens.
    pub fn new(seed: u64, clock: Clock, key: SigningKey) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let admin_token = format!("admin-{}", uuid(&mut rng));
        let mut tokens = Tokens::default();
        tokens.add(&admin_token, User::administrator());
        let model = Self {
            inner: Arc::new(Inner {
                state: Mutex::new(State {
                    operations: Operations {
                        store: Store::new(),
                        rng,
                    },
                    tokens,
                    faults: Faults::default(),
                    pace: Pace::default(),
                    requests: BTreeMap::new(),
                    logs: BTreeMap::new(),
                }),
                clock,
                key,
                admin_token,
                cuts: watch::Sender::new(0),
                onlooker: OnceLock::new(),
            }),
        };
        for name in ["default", "kube-system"] {
            model.add_namespace(name);
        }
        model
    }

    /// The token of a user who may do everything.
    pub fn admin_token(&self) -> &str {
        &self.inner.admin_token
    }

    /// Lets `token` speak for `user` from now on.
    pub fn add_user(&self, token: &str, user: User) {
        self.state().tokens.add(token, user);
    }

    /// Creates a namespace and its service account `default`; one that is there is left as it is.
    pub fn add_namespace(&self, name: &str) {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": name}});
        for object in [namespace, account] {
            // Only "already exists" can come back, and that is as well.
            let _ = self.create(&object);
        }
    }

    /// A node with room for `cpu`, `memory` (quantities) and `pods`.
    pub fn add_node(&self, name: &str, cpu: &str, memory: &str, pods: u32) -> Result<Object, Refusal> {
        let room = json!({"cpu": cpu, "memory": memory, "pods": pods.to_string()});
        self.create(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "status": {"capacity": room, "allocatable": room,
                "conditions": [{"type": "Ready", "status": "True"}]}}))
    }

    /// Creates an object as an administrator, outside all counting and trouble.
    pub fn create(&self, object: &Value) -> Result<Object, Refusal> {
        let resource = of_object(object).ok_or_else(Refusal::no_such_resource)?;
        let namespace = if resource.namespaced {
            field(object, "namespace")
        } else {
            ""
        };
        let target = target(resource, namespace, "");
        let now = self.now();
        let mut state = self.state();
        let written = state.operations.create(target, object, WriteOptions::default(), now)?;
        Ok(Arc::new(written.object))
    }

    /// Changes an object as an administrator would, by a merge patch.
    pub fn change(&self, plural: &str, namespace: &str, name: &str, patch: &Value) -> Result<Object, Refusal> {
        let resource = resource(plural).ok_or_else(Refusal::no_such_resource)?;
        let now = self.now();
        let target = target(resource, namespace, name);
        let (kind, options) = (PatchKind::Merge, WriteOptions::default());
        let written = self.state().operations.patch(target, kind, patch, options, now)?;
        Ok(Arc::new(written.object))
    }

    /// Deletes an object as an administrator would, gracefully where pods are given grace.
    pub fn delete(&self, plural: &str, namespace: &str, name: &str) -> Result<(), Refusal> {
        let resource = resource(plural).ok_or_else(Refusal::no_such_resource)?;
        let now = self.now();
        self.state()
            .operations
            .delete(target(resource, namespace, name), &DeleteOptions::default(), now)?;
        Ok(())
    }

    /// Forces an object away, whoever would have to let go of it.
    pub fn purge(&self, plural: &str, namespace: &str, name: &str) -> Result<(), Refusal> {
        let resource = resource(plural).ok_or_else(Refusal::no_such_resource)?;
        let now = self.now();
        let options = DeleteOptions {
            grace_seconds: Some(0),
            ..DeleteOptions::default()
        };
        let target = target(resource, namespace, name);
        self.state().operations.delete(target, &options, now)?;
        Ok(())
    }

    /// What is stored, by resource (`pods`, `leases`, ...), namespace and name.
    pub fn get(&self, plural: &str, namespace: &str, name: &str) -> Option<Object> {
        let resource = home(resource(plural)?);
        self.state().operations.store.get(resource, namespace, name).cloned()
    }

    /// All that is stored of one resource in a namespace; in all of them where it is empty.
    pub fn list(&self, plural: &str, namespace: &str) -> Vec<Object> {
        let Some(resource) = resource(plural) else {
            return Vec::new();
        };
        let namespace = (!namespace.is_empty()).then_some(namespace);
        let state = self.state();
        state
            .operations
            .store
            .list(home(resource), namespace, None)
            .cloned()
            .collect()
    }

    /// The newest resource version.
    pub fn revision(&self) -> u64 {
        self.state().operations.store.revision()
    }

    /// What `kubectl logs` shows of a container.
    pub fn set_log(&self, namespace: &str, pod: &str, container: &str, text: &str) {
        let key = (namespace.to_owned(), pod.to_owned(), container.to_owned());
        self.state().logs.insert(key, text.to_owned());
    }

    pub(super) fn log(&self, namespace: &str, pod: &str, container: &str) -> Option<String> {
        let key = (namespace.to_owned(), pod.to_owned(), container.to_owned());
        self.state().logs.get(&key).cloned()
    }

    /// Forgets all history: watches that resume from before now meet 410.
    pub fn compact(&self) {
        self.state().operations.store.compact();
    }

    /// Forgets events from before then, as a real API server does after an hour, logs of pods that are gone, and all
    /// history that no watch which is open can want.
    pub fn forget(&self, before: Timestamp) {
        for event in self.list("events", "") {
            let made = event["metadata"]["creationTimestamp"].as_str();
            if made
                .and_then(|at| at.parse().ok())
                .is_some_and(|at: Timestamp| at < before)
            {
                // Gone already: that is as well.
                let _ = self.purge("events", field(&event, "namespace"), field(&event, "name"));
            }
        }
        let pods = self.list("pods", "");
        let pods: BTreeSet<(&str, &str)> = pods.iter().map(|p| (field(p, "namespace"), field(p, "name"))).collect();
        let mut state = self.state();
        state
            .logs
            .retain(|(namespace, pod, _), _| pods.contains(&(namespace.as_str(), pod.as_str())));
        state.operations.store.trim(BRIEF_HISTORY);
    }

    /// Ends every watch that is open, as a restarted API server does.
    pub fn cut_watches(&self) {
        self.inner.cuts.send_modify(|n| *n += 1);
    }

    pub(super) fn cuts(&self) -> watch::Receiver<u64> {
        self.inner.cuts.subscribe()
    }

    /// Troubles that requests meet from now on.
    pub fn add_fault(&self, fault: Fault) -> FaultId {
        self.state().faults.add(fault)
    }

    /// Ends one trouble. False: it was over already.
    pub fn end_fault(&self, id: FaultId) -> bool {
        self.state().faults.end(id)
    }

    /// How long everything takes from now on.
    pub fn set_pace(&self, pace: Pace) {
        self.state().pace = pace;
    }

    /// How long the answer to `request` takes, if at all.
    pub(super) fn answers_after(&self, request: impl Hash) -> Option<Duration> {
        let most = self.state().pace.answers;
        self.within(most, request)
    }

    /// How long the next event takes to whoever watches, if at all.
    pub(super) fn events_after(&self, who: impl Hash) -> Option<Duration> {
        let most = self.state().pace.events;
        self.within(most, who)
    }

    /// Not drawn from the model's generator: watches wake in no order, and each run must be like the other.
    fn within(&self, most: Duration, what: impl Hash) -> Option<Duration> {
        if most.is_zero() {
            return None;
        }
        let mut hasher = DefaultHasher::new();
        (self.now().as_millisecond(), what).hash(&mut hasher);
        let seed = hasher.finish();
        Some(most.mul_f64(fastrand::Rng::with_seed(seed).f64()))
    }

    /// Shows every request for a resource to `onlooker`, before it has its effect and after; there is one at most.
    pub fn look_on(&self, onlooker: Onlooker) {
        // A second one would miss what the first has seen.
        let _ = self.inner.onlooker.set(onlooker);
    }

    pub(super) fn show(&self, request: &Request<'_>) {
        if let Some(onlooker) = self.inner.onlooker.get() {
            onlooker.sees(request);
        }
    }

    /// Ends all troubles.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Takes the API server away (connections are refused, watches break), or brings it back.
    pub fn set_outage(&self, out: bool) {
        if out {
            self.add_fault(Fault::new(Trouble::Refused));
            self.cut_watches();
        } else {
            self.clear_faults();
        }
    }

    pub(super) fn meet_trouble(&self, verb: &str, resource: &str, user: &str) -> Option<Trouble> {
        self.state().faults.meet(verb, resource, user)
    }

    /// Requests answered or refused since the start, or since [`Model::reset_requests`].
    pub fn requests(&self) -> BTreeMap<RequestKind, u64> {
        self.state().requests.clone()
    }

    pub fn reset_requests(&self) {
        self.state().requests.clear();
    }

    pub(super) fn count(&self, kind: RequestKind) {
        *self.state().requests.entry(kind).or_default() += 1;
    }

    /// The public keys of service-account tokens, as `/openid/v1/jwks` serves them.
    pub fn jwks(&self) -> Value {
        json!({"keys": [self.inner.key.jwk()]})
    }

    pub fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    pub(super) fn instant(&self) -> tokio::time::Instant {
        self.inner.clock.instant()
    }

    pub(super) fn user(&self, token: Option<&str>) -> Result<User, Refusal> {
        let Some(token) = token else {
            return Ok(User::anonymous());
        };
        let now = self.now();
        let state = self.state();
        state.tokens.user(token, &state.operations.store, now)
    }

    /// TokenRequest for a service account.
    pub(super) fn issue_token(&self, namespace: &str, name: &str, request: &Value) -> Result<Value, Refusal> {
        let accounts = resource("serviceaccounts").ok_or_else(Refusal::no_such_resource)?;
        let now = self.now();
        let mut state = self.state();
        let account = state.operations.get(target(accounts, namespace, name))?;
        let seconds = request["spec"]["expirationSeconds"].as_i64().unwrap_or(USUAL_TOKEN);
        if seconds < SHORTEST_TOKEN {
            let cause = Cause::invalid(
                "spec.expirationSeconds",
                &json!(seconds),
                "may not specify a duration less than 10 minutes",
            );
            return Err(Refusal::invalid_as(
                "authentication.k8s.io",
                "TokenRequest",
                "",
                &[cause],
            ));
        }
        let mut audiences: Vec<&str> = request["spec"]["audiences"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if audiences.is_empty() {
            audiences.push(ISSUER);
        }
        let expires = now + SignedDuration::from_secs(seconds);
        let claims = json!({
            "aud": audiences, "exp": expires.as_second(), "iat": now.as_second(), "iss": ISSUER,
            "jti": uuid(&mut state.operations.rng), "nbf": now.as_second(),
            "kubernetes.io": {"namespace": namespace,
                "serviceaccount": {"name": name, "uid": account["metadata"]["uid"]}},
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
        });
        let token = self
            .inner
            .key
            .sign(&claims)
            .map_err(|e| Refusal::internal(e.to_string()))?;
        let for_the_api = audiences.contains(&ISSUER);
        state.tokens.issue(&token, &account, expires, for_the_api, now);
        Ok(json!({
            "kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": stamp(now)},
            "spec": {"audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": null},
            "status": {"token": token, "expirationTimestamp": stamp(expires)},
        }))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn target<'a>(resource: &'static Resource, namespace: &'a str, name: &'a str) -> Target<'a> {
    Target {
        resource,
        namespace,
        name,
        subresource: "",
    }
}

/// A resource by its plural alone: the core group's where two groups have one of that name.
fn resource(plural: &str) -> Option<&'static Resource> {
    find("", plural).or_else(|| super::resource::RESOURCES.iter().find(|r| r.plural == plural))
}
