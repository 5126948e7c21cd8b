//! What a run is judged by: the most runners that lived at once, limits that were exceeded, what is left over,
//! what it cost.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{
    Api,
    api::ListParams,
    runtime::watcher::{self, watcher},
};
use serde::Serialize;

use super::{Model, RUNNER_NAMESPACE, Services, WorldError, account_name};
use crate::{clock::Clock, shutdown::Tasks};

const SELECTOR: &str = "app.kubernetes.io/managed-by=gharts-listener";
/// On our pods: the full name of the set.
const SCALE_SET: &str = "gharts-listener/scale-set";
const WATCH_PAUSE: Duration = Duration::from_millis(200);

/// The invariant, checked at each creation of a pod: live + 1 <= min(limits, minRunners + assigned as last
/// delivered).
#[derive(Clone, Debug)]
pub struct Counters {
    state: Arc<Mutex<State>>,
    clock: Clock,
}

#[derive(Debug, Default)]
struct State {
    /// Live pods by name, with their sets.
    live: HashMap<String, String>,
    max_live: usize,
    max_live_by_set: BTreeMap<String, usize>,
    /// Pods that get none of their set's jobs any more: they count against the limits alone.
    aside: HashSet<String>,
    /// When each pod was first seen, and when it was gone.
    pods: HashMap<String, PodTimes>,
    /// Pods made so far.
    created: usize,
    exceeded: Vec<Excess>,
    /// `minRunners` and `maxRunners` of each set, and the total, where the file has changed since the start.
    told: BTreeMap<String, (usize, usize)>,
    told_total: Option<usize>,
}

/// What the watch saw of one pod.
#[derive(Clone, Copy, Debug)]
pub struct PodTimes {
    pub created: Timestamp,
    /// Its containers have ended, or its deletion began.
    pub ended: Option<Timestamp>,
    pub gone: Option<Timestamp>,
}

/// A pod that nothing called for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Excess {
    pub pod: String,
    pub scale_set: String,
    /// With this pod.
    pub live: usize,
    pub allowed: usize,
}

impl Counters {
    pub fn start(admin: &kube::Client, services: Services, clock: &Clock, tasks: &Tasks) -> Self {
        let counters = Self {
            state: Arc::default(),
            clock: clock.clone(),
        };
        let pods: Api<Pod> = Api::namespaced(admin.clone(), RUNNER_NAMESPACE);
        let stop = tasks.token().clone();
        let watching = counters.clone();
        tasks.spawn("counters", async move {
            stop.run_until_cancelled(watching.follow(pods, services)).await;
        });
        counters
    }

    async fn follow(&self, pods: Api<Pod>, services: Services) {
        let config = watcher::Config::default().labels(SELECTOR);
        let mut events = pin!(watcher(pods, config));
        let mut listed = HashSet::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Apply(pod)) => self.seen(&pod, &services),
                Ok(watcher::Event::InitApply(pod)) => {
                    listed.extend(pod.metadata.name.clone());
                    self.seen(&pod, &services);
                }
                Ok(watcher::Event::Delete(pod)) => self.gone(pod.metadata.name.as_deref().unwrap_or_default()),
                Ok(watcher::Event::Init) => listed.clear(),
                Ok(watcher::Event::InitDone) => {
                    for pod in self.missing_from(&listed) {
                        self.gone(&pod);
                    }
                }
                Err(_) => tokio::time::sleep(WATCH_PAUSE).await,
            }
        }
    }

    fn seen(&self, pod: &Pod, services: &Services) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        if !is_live(pod) {
            self.ended(&name);
            return;
        }
        let annotations = pod.metadata.annotations.as_ref();
        let set = annotations.and_then(|a| a.get(SCALE_SET)).cloned().unwrap_or_default();
        let mut state = self.lock();
        if !state.live.contains_key(&name) {
            state.take_in(name, set, services, self.clock.now());
        }
    }

    fn ended(&self, pod: &str) {
        let now = self.clock.now();
        let mut state = self.lock();
        state.live.remove(pod);
        if let Some(times) = state.pods.get_mut(pod) {
            times.ended.get_or_insert(now);
        }
    }

    fn gone(&self, pod: &str) {
        self.ended(pod);
        let now = self.clock.now();
        if let Some(times) = self.lock().pods.get_mut(pod) {
            times.gone = Some(now);
        }
    }

    fn missing_from(&self, listed: &HashSet<String>) -> Vec<String> {
        let state = self.lock();
        state
            .live
            .keys()
            .filter(|pod| !listed.contains(*pod))
            .cloned()
            .collect()
    }

    /// The binding of their sets is changed, so that the live pods stand for no job from now on.
    pub fn stand_aside(&self) {
        let mut state = self.lock();
        let live: Vec<String> = state.live.keys().cloned().collect();
        state.aside.extend(live);
    }

    /// What was seen of a pod.
    pub fn pod(&self, name: &str) -> Option<PodTimes> {
        self.lock().pods.get(name).copied()
    }

    /// Forgets the pods that were gone before then.
    pub fn forget(&self, before: Timestamp) {
        let mut state = self.lock();
        let State { pods, aside, .. } = &mut *state;
        pods.retain(|_, times| times.gone.is_none_or(|at| at >= before));
        aside.retain(|pod| pods.contains_key(pod));
    }

    /// Most runner pods that lived at one time, over all sets.
    pub fn max_live(&self) -> usize {
        self.lock().max_live
    }

    pub fn max_live_by_set(&self) -> BTreeMap<String, usize> {
        self.lock().max_live_by_set.clone()
    }

    pub fn live(&self) -> usize {
        self.lock().live.len()
    }

    /// Pods made so far.
    pub fn created(&self) -> usize {
        self.lock().created
    }

    pub fn exceeded(&self) -> Vec<Excess> {
        self.lock().exceeded.clone()
    }

    /// The file says something else of this set now: `minRunners` and `maxRunners`.
    pub fn told(&self, set: &str, min: usize, max: usize) {
        self.lock().told.insert(set.to_owned(), (min, max));
    }

    /// And of the total.
    pub fn told_total(&self, max: usize) {
        self.lock().told_total = Some(max);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_in(&mut self, pod: String, set: String, services: &Services, now: Timestamp) {
        self.live.insert(pod.clone(), set.clone());
        let times = PodTimes {
            created: now,
            ended: None,
            gone: None,
        };
        if self.pods.insert(pod.clone(), times).is_none() {
            self.created += 1;
        }
        self.max_live = self.max_live.max(self.live.len());
        let of_set: Vec<&str> = self
            .live
            .iter()
            .filter(|(_, owner)| **owner == set)
            .map(|(name, _)| name.as_str())
            .collect();
        let most = self.max_live_by_set.entry(set.clone()).or_default();
        *most = of_set.len().max(*most);
        let options = &services.options;
        let at_start = options.sets.iter().find(|s| s.name == set);
        let at_start = at_start.map(|s| (s.min_runners as usize, s.max_runners as usize));
        let (least, limit) = self.told.get(&set).copied().or(at_start).unwrap_or_default();
        let total = options.max_runners.map(|max| max as usize);
        let total = self.told_total.or(total).unwrap_or(usize::MAX);
        // A runner whose job is over, or was taken past the set, stands for none of its jobs, though its pod still counts against the limits.
        let standing = of_set.iter().filter(|pod| !self.aside.contains(**pod));
        let covering = services.github.standing_for_sets(standing.copied());
        let wanted = least + services.github.demand_as_delivered(&set);
        if of_set.len() > limit || self.live.len() > total || covering > wanted {
            let (live, allowed) = (of_set.len(), limit.min(total).min(wanted));
            self.exceeded.push(Excess {
                pod,
                scale_set: set,
                live,
                allowed,
            });
        }
    }
}

/// Whether a pod is capacity still: not ended, not on its way out.
fn is_live(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// What is left of runners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Leaks {
    /// Pods that still live.
    pub runners: usize,
    pub secrets: usize,
    /// All pods of ours, ended ones too.
    pub pods: usize,
    /// Registrations at GitHub.
    pub agents: usize,
    /// Records of GHARTS that take a place.
    pub gharts_records: usize,
    /// Queue sessions that are open.
    pub sessions: usize,
}

impl Leaks {
    /// Counts what is there now, in a cluster where `admin` may do everything.
    pub async fn count(services: &Services, admin: &kube::Client) -> Result<Self, WorldError> {
        let ours = ListParams::default().labels(SELECTOR);
        let pods: Api<Pod> = Api::namespaced(admin.clone(), RUNNER_NAMESPACE);
        let secrets: Api<Secret> = Api::namespaced(admin.clone(), RUNNER_NAMESPACE);
        let pods = pods.list(&ours).await?.items;
        let records = services.gharts.records();
        Ok(Self {
            runners: pods.iter().filter(|pod| is_live(pod)).count(),
            secrets: secrets.list(&ours).await?.items.len(),
            pods: pods.len(),
            agents: services.github.runners().len(),
            gharts_records: records
                .iter()
                .filter(|record| record.status != crate::sim::gharts::Status::Deleted)
                .count(),
            sessions: services
                .github
                .sets()
                .iter()
                .filter(|set| set.session.is_some())
                .count(),
        })
    }

    /// What is left of runners, while the daemon still holds its sessions.
    #[must_use]
    pub fn without_sessions(self) -> Self {
        Self { sessions: 0, ..self }
    }

    /// Nothing is left.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

/// What the daemon's service account has written, by resource and verb.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DaemonWrites {
    pub by_kind: BTreeMap<String, u64>,
}

impl DaemonWrites {
    pub fn of(model: &Model) -> Self {
        let daemon = account_name();
        let mut by_kind = BTreeMap::new();
        for (kind, count) in model.requests() {
            let ours = kind.user == daemon && kind.is_write();
            if ours && matches!(kind.resource.as_str(), "pods" | "secrets") {
                *by_kind.entry(format!("{} {}", kind.verb, kind.resource)).or_default() += count;
            }
        }
        Self { by_kind }
    }

    pub fn total(&self) -> u64 {
        self.by_kind.values().sum()
    }
}
