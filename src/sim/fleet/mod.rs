//! The fleet: plays scheduler, kubelets and runner processes, only through the Kubernetes and GitHub interfaces.
//!
//! It needs no more than a [`kube::Client`] with an administrator's rights and a [`Transport`] to the simulated
//! GitHub, so it serves a real API server as well as the simulated one. A runner costs it three calls to
//! Kubernetes: the binding, one status patch to Running, one to the end. It sees only pods that carry our label
//! and leaves everybody else's alone.
//!
//! Each pod is one task ([`kubelet`]); the process in it is one future ([`process`]), which dies with its pod.
//! What goes wrong on demand stands in [`Behaviour`].
//!
//! Not here: images, volumes, resources of nodes, sidecars that do anything.
//!
//! [`Transport`]: crate::http::Transport

mod behaviour;
mod kubelet;
mod process;
mod secrets;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{
    Api,
    runtime::watcher::{self, watcher},
};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

pub use self::behaviour::{BEHAVIOUR, Behaviour};
use self::{
    behaviour::Rule,
    kubelet::{Kubelet, Told},
    secrets::Secrets,
};
use crate::{clock::Clock, http::SharedTransport, shutdown::Tasks};

/// Pods and Secrets that are ours to play.
const SELECTOR: &str = "app.kubernetes.io/managed-by=gharts-listener";
/// Rest after a broken watch.
const WATCH_PAUSE: Duration = Duration::from_millis(200);

/// How the fleet works.
#[derive(Clone, Debug)]
pub struct FleetSettings {
    pub seed: u64,
    /// Every pod is bound to it; it need not exist.
    pub node: String,
    /// From the binding to the start of the runner's process: image and init containers.
    pub start_delay: Duration,
    /// From the end of the job to the end of the process.
    pub exit_delay: Duration,
    /// How long a process goes on that is asked to end, as a runner does whose shell passes no signal on.
    pub grace: Duration,
    /// The exit code of a runner whose registration or job is gone, or whose configuration was used before.
    pub refused: i32,
    /// Both delays are stretched by up to this share of themselves, at random.
    pub jitter: f64,
    /// Calls to the API server at one time.
    pub calls_in_flight: usize,
}

impl Default for FleetSettings {
    fn default() -> Self {
        Self {
            seed: 1,
            node: "simulated-node".to_owned(),
            start_delay: Duration::ZERO,
            exit_delay: Duration::ZERO,
            grace: Duration::ZERO,
            refused: 1,
            jitter: 0.0,
            calls_in_flight: 64,
        }
    }
}

/// The fleet at work; it ends with its tasks.
#[derive(Clone)]
pub struct Fleet {
    rule: watch::Sender<Rule>,
    blows: watch::Sender<HashMap<String, Behaviour>>,
    lingers: watch::Sender<Duration>,
    cuts: watch::Sender<HashMap<String, Instant>>,
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet").finish_non_exhaustive()
    }
}

impl Fleet {
    /// Plays the pods of `namespace`. `client` may do everything there; `github` reaches the simulated GitHub.
    pub fn start(
        client: &kube::Client,
        github: SharedTransport,
        namespace: &str,
        settings: FleetSettings,
        clock: Clock,
        tasks: &Tasks,
    ) -> Self {
        let (rule, ruled) = watch::channel(behaviour::ordinary());
        let (blows, struck) = watch::channel(HashMap::new());
        let (lingers, lingering) = watch::channel(Duration::ZERO);
        let (cuts, cut_off) = watch::channel(HashMap::new());
        let secrets = Arc::new(Secrets::new(Api::namespaced(client.clone(), namespace)));
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let kubelet = Arc::new(Kubelet {
            pods: pods.clone(),
            secrets: secrets.clone(),
            gate: Arc::new(Semaphore::new(settings.calls_in_flight)),
            github,
            clock,
            rule: ruled,
            struck,
            lingering,
            cut_off,
            settings,
        });
        let secrets_api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let stop = tasks.token().clone();
        tasks.spawn("fleet secrets", async move {
            stop.run_until_cancelled(secrets.follow(events(secrets_api))).await;
        });
        let mut roster = Roster::new(kubelet, tasks.clone());
        let stop = tasks.token().clone();
        tasks.spawn("fleet", async move {
            stop.run_until_cancelled(async {
                let mut events = pin!(events(pods));
                while let Some(event) = events.next().await {
                    roster.take_in(event);
                }
            })
            .await;
        });
        Self {
            rule,
            blows,
            lingers,
            cuts,
        }
    }

    /// How pods behave from now on, where their own annotation does not say. Pods that wait for a node or an
    /// image are looked at again.
    pub fn behave(&self, rule: impl Fn(&Pod) -> Behaviour + Send + Sync + 'static) {
        self.rule.send_replace(Arc::new(rule));
    }

    /// Strikes a pod, as soon as it runs: evicted, out of memory, its node lost, its process ended with a code. What
    /// `blow` says of a time does not count.
    pub fn strike(&self, pod: &str, blow: Behaviour) {
        self.blows.send_modify(|all| {
            all.insert(pod.to_owned(), blow);
        });
    }

    /// The pod's node and the API server hear nothing of each other for so long; its process goes on.
    pub fn cut_off(&self, pod: &str, time: Duration) {
        self.cuts.send_modify(|all| {
            all.insert(pod.to_owned(), Instant::now() + time);
        });
    }

    /// How long a pod that is being deleted stays, from now on.
    pub fn linger(&self, time: Duration) {
        self.lingers.send_replace(time);
    }
}

/// What happens to our objects, for ever: begins again after every interruption.
fn events<K>(api: Api<K>) -> impl Stream<Item = watcher::Event<K>> + Send
where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + fmt::Debug + Send + 'static,
    K::DynamicType: Clone,
{
    let config = watcher::Config::default().labels(SELECTOR);
    watcher(api, config).filter_map(|event| async {
        match event {
            Ok(event) => Some(event),
            Err(error) => {
                // The watcher recovers when it is polled again.
                tracing::debug!(%error, "the fleet's watch broke");
                tokio::time::sleep(WATCH_PAUSE).await;
                None
            }
        }
    })
}

/// Who is at work: one task per pod, told what becomes of it.
struct Roster {
    kubelet: Arc<Kubelet>,
    tasks: Tasks,
    rng: fastrand::Rng,
    pods: HashMap<String, Entry>,
    /// Uids of the list under way, while there is one.
    listed: Option<HashSet<String>>,
}

struct Entry {
    uid: String,
    told: watch::Sender<Told>,
}

impl Roster {
    fn new(kubelet: Arc<Kubelet>, tasks: Tasks) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(kubelet.settings.seed),
            kubelet,
            tasks,
            pods: HashMap::new(),
            listed: None,
        }
    }

    fn take_in(&mut self, event: watcher::Event<Pod>) {
        match event {
            watcher::Event::Init => self.listed = Some(HashSet::new()),
            watcher::Event::InitApply(pod) => {
                if let (Some(listed), Some(uid)) = (&mut self.listed, &pod.metadata.uid) {
                    listed.insert(uid.clone());
                }
                self.seen(pod);
            }
            watcher::Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                self.pods.retain(|_, entry| listed.contains(&entry.uid));
            }
            watcher::Event::Apply(pod) => self.seen(pod),
            // Dropping the entry tells the task.
            watcher::Event::Delete(pod) => {
                if let Some(name) = &pod.metadata.name {
                    self.pods.remove(name);
                }
            }
        }
    }

    fn seen(&mut self, pod: Pod) {
        let (Some(name), Some(uid)) = (pod.metadata.name.clone(), pod.metadata.uid.clone()) else {
            return;
        };
        let news = Told::of(&pod);
        match self.pods.get(&name) {
            Some(entry) if entry.uid == uid => {
                entry.told.send_if_modified(|told| told.becomes(news));
            }
            _ => {
                let told = watch::Sender::new(news);
                let play = self
                    .kubelet
                    .clone()
                    .play(pod, told.subscribe(), fastrand::Rng::with_seed(self.rng.u64(..)));
                let stop = self.tasks.token().clone();
                self.tasks.spawn("fleet pod", async move {
                    stop.run_until_cancelled(Box::pin(play)).await;
                });
                self.pods.insert(name, Entry { uid, told });
            }
        }
    }
}
