//! One pod's life: scheduler and kubelet in one.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use k8s_openapi::api::core::v1::{Container, Pod};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use super::{
    FleetSettings,
    behaviour::{self, Behaviour, Rule},
    process::{Identity, Process},
    secrets::Secrets,
};
use crate::{clock::Clock, http::SharedTransport};

/// The container whose process is a runner, and where that reads its configuration.
const RUNNER: &str = "runner";
const JIT_ENV: &str = "ACTIONS_RUNNER_INPUT_JITCONFIG";
/// A Secret usually comes milliseconds after its pod; only one that stays away is worth a status.
const SECRET_PATIENCE: Duration = Duration::from_millis(500);
/// An answer that has not come by then is not waited for.
const CALL: Duration = Duration::from_secs(15);
/// Rests between two tries at an API server that does not answer.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
const KILLED: i32 = 137;
const BAD_CONFIGURATION: i32 = 2;

/// What becomes of a pod, as the watch shows it. A closed channel: it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Told {
    Live,
    /// Its `activeDeadlineSeconds` were set while it ran, and have passed.
    Overdue,
    Deleting,
}

impl Told {
    pub(super) fn of(pod: &Pod) -> Self {
        if pod.metadata.deletion_timestamp.is_some() {
            Self::Deleting
        } else if pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.active_deadline_seconds.is_some())
        {
            Self::Overdue
        } else {
            Self::Live
        }
    }

    pub(super) fn becomes(&mut self, next: Self) -> bool {
        let news = next > *self;
        *self = next.max(*self);
        news
    }
}

/// What all pods share.
pub(super) struct Kubelet {
    pub(super) pods: Api<Pod>,
    pub(super) secrets: Arc<Secrets>,
    pub(super) gate: Arc<Semaphore>,
    pub(super) github: SharedTransport,
    pub(super) clock: Clock,
    pub(super) rule: watch::Receiver<Rule>,
    pub(super) struck: watch::Receiver<HashMap<String, Behaviour>>,
    /// How long a pod that is being deleted stays.
    pub(super) lingering: watch::Receiver<Duration>,
    /// Until when nothing passes between a pod's node and the API server.
    pub(super) cut_off: watch::Receiver<HashMap<String, Instant>>,
    pub(super) settings: FleetSettings,
}

/// The pod is gone, or is another one by now.
struct Gone;

/// How the containers ended.
struct End {
    exit_code: i32,
    reason: &'static str,
    evicted: bool,
    /// The pod does, by its other containers.
    goes_on: bool,
}

impl Kubelet {
    /// Plays `pod` until it is gone.
    pub(super) async fn play(self: Arc<Self>, pod: Pod, mut told: watch::Receiver<Told>, rng: fastrand::Rng) {
        let mut life = Life {
            kubelet: &self,
            name: pod.metadata.name.clone().unwrap_or_default(),
            process: None,
            begun: Arc::default(),
            lost: false,
            rng,
            pod,
        };
        let overdue = {
            let (kubelet, name, begun) = (&self, life.name.clone(), life.begun.clone());
            let mut living = pin!(life.live());
            let news = {
                let mut news = pin!(async {
                    let news = told.wait_for(|told| *told > Told::Live).await.map(|told| *told);
                    kubelet.is_connected(&name).await;
                    news
                });
                tokio::select! {
                    biased;
                    // An error says that the pod is gone.
                    news = &mut news => news.ok(),
                    _ = &mut living => None,
                }
            };
            if news == Some(Told::Deleting) && begun.load(Ordering::Relaxed) {
                // The shell that is asked to end tells the runner nothing: that works on, and may even get a job.
                let gone = told.wait_for(|_| false);
                tokio::select! {
                    biased;
                    _ = gone => {}
                    () = tokio::time::sleep(self.settings.grace) => {}
                    _ = living => {}
                }
            }
            news == Some(Told::Overdue)
        };
        if overdue {
            let _ = life.overdue().await;
        }
        let _ = told.wait_for(|told| *told == Told::Deleting).await;
        life.is_connected().await;
        if let Some(secret) = jit_source(&life.pod) {
            self.secrets.forget(&secret.0);
        }
        if let Some(process) = life.process.take().filter(|_| !life.lost) {
            process.terminate().await;
        }
        if told.has_changed().is_ok() && !life.lost {
            let lingers = *self.lingering.borrow();
            tokio::time::sleep(lingers).await;
            // Gone already, or about to be.
            let _ = life.release().await;
        }
    }

    /// Waits until the pod's node hears of the API server.
    async fn is_connected(&self, pod: &str) {
        let mut cut_off = self.cut_off.clone();
        loop {
            let until = cut_off.borrow_and_update().get(pod).copied();
            let Some(until) = until.filter(|until| *until > Instant::now()) else {
                return;
            };
            tokio::time::sleep_until(until).await;
        }
    }

    /// Repeats `call` until the API server answers.
    async fn insist<T, F>(&self, call: impl Fn() -> F) -> Result<T, kube::Error>
    where
        F: Future<Output = kube::Result<T>>,
    {
        let mut pause = PAUSES.0;
        loop {
            let permit = self.gate.acquire().await;
            let result = tokio::time::timeout(CALL, call()).await;
            drop(permit);
            let result = result.unwrap_or_else(|_| Err(kube::Error::Service("no answer in time".into())));
            match result {
                // It is gone, or another one by now. Whatever else is said, a kubelet asks again.
                Err(kube::Error::Api(status))
                    if status.code == 409 || (status.code == 404 && status.message.contains("\" not found")) =>
                {
                    return Err(kube::Error::Api(status));
                }
                Err(error) => {
                    tracing::debug!(%error, "the fleet's call failed; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSES.1);
                }
                done => return done,
            }
        }
    }
}

/// One pod at work.
struct Life<'a> {
    kubelet: &'a Kubelet,
    name: String,
    pod: Pod,
    process: Option<Arc<Process>>,
    /// Its process has.
    begun: Arc<AtomicBool>,
    /// Its node is gone: nobody says anything more, not even at its deletion.
    lost: bool,
    rng: fastrand::Rng,
}

impl Life<'_> {
    async fn live(&mut self) -> Result<(), Gone> {
        let status = self.pod.status.clone().unwrap_or_default();
        match status.phase.as_deref() {
            Some("Succeeded" | "Failed") => return Ok(()),
            // Started by a fleet that is no more: its process died with it.
            Some("Running") => return self.ended(&End::code(KILLED)).await,
            _ => {}
        }
        let behaviour = self.settle().await?;
        if let Some(status) = refused_status(behaviour) {
            return self.patch(status).await;
        }
        let delay = self.stretched(self.kubelet.settings.start_delay);
        tokio::time::sleep(delay).await;
        let jit = match jit_source(&self.pod) {
            Some((secret, key)) => Some(self.secret(&secret, &key).await?),
            None => None,
        };
        let started = self.now();
        self.begun.store(true, Ordering::Relaxed);
        let (running, end) = {
            let process = jit.as_deref().and_then(Identity::decode).map(|identity| {
                let (github, clock) = (self.kubelet.github.clone(), self.kubelet.clock.clone());
                Arc::new(Process::new(identity, github, clock))
            });
            self.process.clone_from(&process);
            let exit_delay = self.stretched(self.kubelet.settings.exit_delay);
            let status = running_status(&self.pod, &started);
            tokio::join!(self.patch(status), async {
                let end = tokio::select! {
                    biased;
                    end = run(process.as_deref(), behaviour, self.kubelet) => end,
                    end = self.struck() => end,
                };
                tokio::time::sleep(exit_delay).await;
                end
            })
        };
        running?;
        self.process = None;
        let Some(end) = end else {
            self.lost = true;
            return std::future::pending().await;
        };
        self.ended_since(&end, &started).await
    }

    /// Finds a node and an image; waits while there is none.
    async fn settle(&mut self) -> Result<Behaviour, Gone> {
        let mut rule = self.kubelet.rule.clone();
        let mut bound = self.pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        loop {
            let behaviour = behaviour::of(&self.pod, &rule.borrow_and_update().clone());
            if behaviour == Behaviour::Unschedulable {
                self.patch(unschedulable(&self.now())).await?;
            } else {
                if !bound {
                    self.bind().await?;
                    bound = true;
                }
                if behaviour != Behaviour::ImagePullFails {
                    return Ok(behaviour);
                }
                let reason = ("ImagePullBackOff", "Back-off pulling image");
                let status = waiting_status(&self.pod, reason, &self.now());
                self.patch(status).await?;
            }
            if rule.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn bind(&self) -> Result<(), Gone> {
        let name = &self.name;
        let target = json!({"apiVersion": "v1", "kind": "Node", "name": self.kubelet.settings.node});
        let metadata = json!({"name": name, "uid": self.pod.metadata.uid});
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target});
        let params = PostParams::default();
        let bound: kube::Result<Value> = self
            .kubelet
            .insist(|| self.kubelet.pods.create_subresource("binding", name, &params, &binding))
            .await;
        match bound {
            Ok(_) => Ok(()),
            // Bound already: an answer was lost.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            Err(_) => Err(Gone),
        }
    }

    async fn secret(&self, name: &str, key: &str) -> Result<String, Gone> {
        let secrets = &self.kubelet.secrets;
        if let Ok(value) = tokio::time::timeout(SECRET_PATIENCE, secrets.value(name, key)).await {
            return Ok(value);
        }
        let message = format!("secret \"{name}\" not found");
        let status = waiting_status(&self.pod, ("CreateContainerConfigError", &message), &self.now());
        self.patch(status).await?;
        Ok(secrets.value(name, key).await)
    }

    /// Ends when somebody strikes the pod.
    async fn struck(&self) -> Option<End> {
        let mut struck = self.kubelet.struck.clone();
        let blow = match struck.wait_for(|all| all.contains_key(&self.name)).await {
            Ok(all) => all.get(&self.name).copied(),
            Err(_) => None,
        };
        match blow {
            Some(Behaviour::Evicted(_)) => Some(End::evicted()),
            Some(Behaviour::OutOfMemory(_)) => Some(End::out_of_memory()),
            Some(Behaviour::Crashes(code)) => Some(End::code(code)),
            Some(Behaviour::NodeLost(_)) => None,
            _ => std::future::pending().await,
        }
    }

    /// The kubelet ends what runs in it. What has not begun stays as it is.
    async fn overdue(&mut self) -> Result<(), Gone> {
        let now = self.now();
        let mut status = match self.process.take() {
            Some(process) => {
                process.terminate().await;
                ended_status(&self.pod, &End::code(KILLED), &now, &now)
            }
            None => json!({"phase": "Failed"}),
        };
        status["reason"] = json!("DeadlineExceeded");
        status["message"] = json!("Pod was active on the node longer than the specified deadline");
        self.patch(status).await
    }

    async fn ended(&self, end: &End) -> Result<(), Gone> {
        self.ended_since(end, &self.now()).await
    }

    async fn ended_since(&self, end: &End, started: &str) -> Result<(), Gone> {
        self.patch(ended_status(&self.pod, end, started, &self.now())).await
    }

    async fn is_connected(&self) {
        self.kubelet.is_connected(&self.name).await;
    }

    async fn patch(&self, status: Value) -> Result<(), Gone> {
        self.is_connected().await;
        let patch = Patch::Merge(json!({"metadata": {"uid": self.pod.metadata.uid}, "status": status}));
        let params = PatchParams::default();
        let pods = &self.kubelet.pods;
        let patched = self
            .kubelet
            .insist(|| pods.patch_status(&self.name, &params, &patch))
            .await;
        patched.map(drop).map_err(|error| {
            tracing::debug!(pod = self.name, %error, "the fleet's pod went away");
            Gone
        })
    }

    /// Lets go of a pod that is being deleted.
    async fn release(&self) -> Result<(), Gone> {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: self.pod.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let pods = &self.kubelet.pods;
        let deleted = self.kubelet.insist(|| pods.delete(&self.name, &params)).await;
        deleted.map(drop).map_err(|_| Gone)
    }

    fn now(&self) -> String {
        self.kubelet.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    fn stretched(&mut self, delay: Duration) -> Duration {
        delay.mul_f64(1.0 + self.kubelet.settings.jitter * self.rng.f64())
    }
}

/// Runs the runner's process as `behaviour` has it. `None`: nothing is heard of it any more.
async fn run(process: Option<&Process>, behaviour: Behaviour, kubelet: &Kubelet) -> Option<End> {
    let (mut rule, refused) = (kubelet.rule.clone(), kubelet.settings.refused);
    rule.borrow_and_update();
    let leaves_after = match behaviour {
        Behaviour::Leaves(after) => Some(after),
        _ => None,
    };
    let ordinary = async {
        match process {
            Some(process) => process.run(leaves_after).await.unwrap_or(refused),
            None => BAD_CONFIGURATION,
        }
    };
    let (after, cut) = match behaviour {
        Behaviour::NeverRegisters => return std::future::pending().await,
        Behaviour::FallsSilent => {
            if let Some(process) = process {
                process.fall_silent().await;
            }
            return std::future::pending().await;
        }
        Behaviour::HangsAfterJob => {
            let code = ordinary.await;
            // Until pods behave otherwise.
            let _ = rule.changed().await;
            return Some(End::code(code));
        }
        Behaviour::Crashes(code) => return Some(End::code(code)),
        Behaviour::Evicted(after) => (after, Some(End::evicted())),
        Behaviour::OutOfMemory(after) => (after, Some(End::out_of_memory())),
        Behaviour::NodeLost(after) => (after, None),
        Behaviour::SidecarStays => {
            return Some(End {
                goes_on: true,
                ..End::code(ordinary.await)
            });
        }
        Behaviour::Ordinary
        | Behaviour::Unschedulable
        | Behaviour::ImagePullFails
        | Behaviour::InitFails
        | Behaviour::Rejected
        | Behaviour::Leaves(_) => {
            return Some(End::code(ordinary.await));
        }
    };
    match tokio::time::timeout(after, ordinary).await {
        Ok(code) => Some(End::code(code)),
        Err(_) => cut,
    }
}

impl End {
    fn code(exit_code: i32) -> Self {
        Self {
            exit_code,
            reason: if exit_code == 0 { "Completed" } else { "Error" },
            evicted: false,
            goes_on: false,
        }
    }

    fn evicted() -> Self {
        Self {
            evicted: true,
            ..Self::code(KILLED)
        }
    }

    fn out_of_memory() -> Self {
        Self {
            reason: "OOMKilled",
            ..Self::code(KILLED)
        }
    }
}

/// Name and key of the Secret that the runner's configuration comes from.
fn jit_source(pod: &Pod) -> Option<(String, String)> {
    let runner = containers(pod).iter().find(|c| c.name == RUNNER)?;
    let variable = runner.env.iter().flatten().find(|e| e.name == JIT_ENV)?;
    let reference = variable.value_from.as_ref()?.secret_key_ref.as_ref()?;
    Some((reference.name.clone(), reference.key.clone()))
}

fn containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().map_or(&[], |spec| &spec.containers)
}

fn conditions(ready: bool, now: &str) -> Value {
    let condition = |kind: &str, holds: bool| {
        let status = if holds { "True" } else { "False" };
        json!({"type": kind, "status": status, "lastTransitionTime": now})
    };
    json!([
        condition("PodScheduled", true),
        condition("Initialized", true),
        condition("ContainersReady", ready),
        condition("Ready", ready),
    ])
}

fn container_statuses(pod: &Pod, ready: bool, state: &Value) -> Vec<Value> {
    let status = |c: &Container| {
        let image = c.image.clone().unwrap_or_default();
        json!({"name": c.name, "image": image, "imageID": "", "ready": ready, "started": ready, "restartCount": 0,
            "state": state})
    };
    containers(pod).iter().map(status).collect()
}

fn unschedulable(now: &str) -> Value {
    json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 node(s) were unschedulable.", "lastTransitionTime": now}]})
}

fn waiting_status(pod: &Pod, (reason, message): (&str, &str), now: &str) -> Value {
    let state = json!({"waiting": {"reason": reason, "message": message}});
    json!({"phase": "Pending", "startTime": now, "conditions": conditions(false, now),
        "containerStatuses": container_statuses(pod, false, &state)})
}

/// Of a pod whose container `runner` never begins.
fn refused_status(behaviour: Behaviour) -> Option<Value> {
    match behaviour {
        Behaviour::InitFails => Some(
            json!({"phase": "Failed", "initContainerStatuses": [{"name": "init", "image": "",
            "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]}),
        ),
        Behaviour::Rejected => Some(json!({"phase": "Failed", "reason": "UnexpectedAdmissionError",
            "message": "Allocate failed due to no healthy devices present; cannot allocate unhealthy devices"})),
        _ => None,
    }
}

fn running_status(pod: &Pod, now: &str) -> Value {
    let state = json!({"running": {"startedAt": now}});
    json!({"phase": "Running", "startTime": now, "conditions": conditions(true, now),
        "containerStatuses": container_statuses(pod, true, &state)})
}

fn ended_status(pod: &Pod, end: &End, started: &str, now: &str) -> Value {
    let state = json!({"terminated": {"exitCode": end.exit_code, "reason": end.reason, "startedAt": started,
        "finishedAt": now}});
    let phase = match end.exit_code {
        _ if end.goes_on => "Running",
        0 => "Succeeded",
        _ => "Failed",
    };
    let mut status = json!({"phase": phase, "conditions": conditions(false, now),
        "containerStatuses": container_statuses(pod, false, &state)});
    if end.evicted {
        status["reason"] = json!("Evicted");
        status["message"] = json!("The node was low on resource: memory.");
    }
    status
}
