//! Turns what was planned into calls. One gate per destination, so that slow GHARTS calls never hold back a
//! pod's deletion; every outcome comes back to the loop as an event. No lock is held across any call.

use std::{collections::BTreeSet, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use secrecy::SecretString;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    event::{Cause, Event, StartError, StartEvent},
    probe,
    service::Service,
    sweep,
    tenure::Mandate,
    timeline::Timeline,
};
use crate::{
    admission::gate::{Gate, Permit, Urgency},
    gharts::classify,
    http::redact,
    ids::{Namer, RunnerName, SetName},
    plan::{
        notices::Notice,
        runner::{Call, CallResult, Failure, Job, Kept, Meets, Purpose},
    },
    provision::{Class, Granted, JitRequest, Refusal, Registration, ReleaseError, Released},
    runner::{
        cluster::{Cluster, ClusterError, Kind},
        events,
        manifest::{self, Blueprint},
    },
    scaleset::{Connection, Removal},
    shutdown::Tasks,
    telemetry::Metrics,
};

/// What is needed to work for one scale set, as one configuration has it. Every order carries its own: what was begun
/// under one configuration is ended under it.
#[derive(Clone, Debug)]
pub struct SetParts {
    pub name: SetName,
    pub namer: Namer,
    pub blueprint: Blueprint,
    /// What GHARTS' policy sees.
    pub labels: Vec<String>,
    pub work_folder: String,
    /// Registers its runners.
    pub service: Service,
    /// Keeps records of runners: that service, or the file's GHARTS, which may have registered runners of this set
    /// before its provisioner was changed.
    pub records: Option<Service>,
    /// Sets with the same key share one credential, one scope, and with them the connection.
    pub github: String,
    pub connection: Arc<Connection>,
    /// In front of GitHub's Actions service.
    pub github_gate: Gate,
    /// Its runners leave pods, Secrets and jobs behind when they die.
    pub leaves_things: bool,
}

/// In front of the API server. Starts have a pool of their own: in a burst, when the first runners end while the last
/// ones have not been made, neither the deletions nor the starts wait for the others.
#[derive(Clone, Debug)]
pub struct ClusterGates {
    pub starts: Gate,
    pub others: Gate,
}

/// Shared by every call under way.
#[derive(Debug)]
pub(super) struct Executor {
    parts: Arc<Parts>,
    tasks: Tasks,
    /// Calls that need not come to an end: they stop with the loop.
    looks: Tasks,
}

#[derive(Debug)]
pub(super) struct Parts {
    pub(super) cluster: Cluster,
    pub(super) cluster_gates: ClusterGates,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) timeline: Timeline,
    pub(super) metrics: Metrics,
    pub(super) mandate: Mandate,
    /// The deployment's, on every pod: so it is known whose it is.
    pub(super) lease: String,
    /// The process ends: what waits for its turn is not begun any more. The next one will begin it.
    pub(super) draining: CancellationToken,
}

/// One runner to start.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) set: Arc<SetParts>,
    pub(super) name: RunnerName,
    pub(super) scale_set_id: i64,
    pub(super) purpose: Purpose,
    pub(super) meets: Meets,
    /// Which try of the set's this is since one was granted.
    pub(super) attempt: u32,
    /// Set when the runner's deadline passed: its registration must not become a pod any more.
    pub(super) given_up: CancellationToken,
}

/// What the loop remembers of one until it is over.
#[derive(Debug)]
pub(super) struct StartUnderWay {
    pub(super) parts: Arc<SetParts>,
    pub(super) given_up: CancellationToken,
}

/// One call about a runner.
#[derive(Debug)]
pub(super) struct CallOrder {
    pub(super) set: Arc<SetParts>,
    pub(super) name: RunnerName,
    pub(super) call: Call,
    pub(super) agent_id: Option<i64>,
    pub(super) gharts_id: Option<String>,
    pub(super) pod_uid: String,
    /// For [`Call::DeletePod`]: only as it was seen.
    pub(super) pod_version: Option<String>,
    pub(super) job: Option<Job>,
    /// For [`Call::KeepPod`].
    pub(super) kept: Option<KeepOrder>,
}

/// How a failed pod is kept.
#[derive(Debug)]
pub(super) struct KeepOrder {
    pub(super) kept: Kept,
    pub(super) said: Option<String>,
    /// Its containers run still.
    pub(super) ends: bool,
}

/// What became of a call.
#[derive(Debug)]
struct Answered {
    result: CallResult,
    /// A place was given back at the provisioner's service.
    place_freed: bool,
    /// What the provisioner's service said instead.
    refusal: Option<Refusal>,
}

impl From<CallResult> for Answered {
    fn from(result: CallResult) -> Self {
        Self {
            result,
            place_freed: false,
            refusal: None,
        }
    }
}

impl Executor {
    pub(super) fn new(parts: Arc<Parts>, tasks: Tasks, looks: Tasks) -> Self {
        Self { parts, tasks, looks }
    }

    /// What waits for its turn is not begun any more.
    pub(super) fn begin_no_more(&self) {
        self.parts.draining.cancel();
    }

    pub(super) fn start(&self, start: Start) {
        let parts = self.parts.clone();
        self.tasks.spawn("start", async move {
            let started = survive(Box::pin(parts.start(&start))).await;
            let result = started.unwrap_or_else(|panic| Err(panicked(panic)));
            parts.tell_of(&start, StartEvent::Finished(result)).await;
        });
    }

    pub(super) fn call(&self, order: CallOrder) {
        let parts = self.parts.clone();
        self.tasks.spawn("call", async move {
            let answered = survive(parts.call(&order)).await;
            let Answered {
                result,
                place_freed,
                refusal,
            } = answered.unwrap_or_else(|panic| {
                tracing::error!(runner = %order.name, call = ?order.call, panic, "a call panicked; it is tried again");
                CallResult::Failed.into()
            });
            let CallOrder { set, name, call, .. } = order;
            parts
                .tell(Event::Called {
                    set: set.name.clone(),
                    name,
                    call,
                    result,
                    place_freed,
                    refusal,
                })
                .await;
        });
    }

    /// Writes a Kubernetes Event. Nobody waits for it, and its failure is worth no more than a line.
    pub(super) fn tell_operators(&self, words: &Tasks, notice: Notice) {
        let parts = self.parts.clone();
        // Not of one set alone, and the gate wants one for its turns.
        let set = SetName::new("events");
        words.spawn("event", async move {
            let _permit = parts.cluster_gates.others.enter(Urgency::Tell, &set).await;
            let time = |moment| Time(parts.timeline.wall(moment));
            let event = events::event(
                &notice,
                parts.cluster.namespace(),
                time(notice.first),
                time(notice.last),
            );
            if let Err(error) = parts.cluster.create_event(&event).await {
                tracing::debug!(%error, reason = notice.reason, "an Event could not be written");
            }
        });
    }

    /// One unfiltered agents list, for every set on the way to GitHub that `set` takes.
    pub(super) fn list_agents(&self, set: Arc<SetParts>) {
        let parts = self.parts.clone();
        let github = set.github.clone();
        self.tasks.spawn("agents", async move {
            let Some(permit) = parts.turn(&set.github_gate, Urgency::Remove, &set.name).await else {
                return;
            };
            let began = parts.timeline.now();
            let listed = survive(set.connection.agents()).await;
            let agents = match listed.map(|listed| listed.map_err(|error| error.to_string())) {
                Ok(Ok(agents)) => Some(agents),
                Ok(Err(error)) | Err(error) => {
                    tracing::warn!(github, error, "runners cannot be listed at GitHub");
                    None
                }
            };
            drop(permit);
            parts.tell(Event::Agents { github, began, agents }).await;
        });
    }

    /// Whom these runner groups let in, on the way to GitHub that `set` takes.
    pub(super) fn look_at_groups(&self, set: Arc<SetParts>, groups: BTreeSet<String>) {
        let parts = self.parts.clone();
        let github = set.github.clone();
        self.tasks.spawn("groups", async move {
            let Some(permit) = parts.turn(&set.github_gate, Urgency::Remove, &set.name).await else {
                return;
            };
            let groups: Vec<String> = groups.into_iter().collect();
            let asked = survive(set.connection.group_access(&groups)).await;
            let access = match asked.map(|asked| asked.map_err(|error| error.to_string())) {
                Ok(Ok(access)) => access,
                Ok(Err(error)) | Err(error) => {
                    tracing::debug!(github, error, "the runner groups' settings cannot be read now");
                    None
                }
            };
            drop(permit);
            parts.tell(Event::Groups { github, access }).await;
        });
    }

    /// How the account of `set` stands with its service.
    pub(super) fn probe(&self, set: Arc<SetParts>) {
        let parts = self.parts.clone();
        let stop = self.looks.token().clone();
        self.looks.spawn("probe", async move {
            let answer = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                answer = survive(probe::ask(&set, &parts.timeline)) => answer,
            };
            let answer = answer
                .inspect_err(|panic| tracing::error!(set = %set.name, panic, "a probe panicked; it is tried again"))
                .ok();
            parts.tell(Event::Probed(set, answer)).await;
        });
    }

    pub(super) fn sweep(&self, subject: sweep::Subject, order: sweep::Order) {
        let parts = self.parts.clone();
        self.tasks.spawn("sweep", async move {
            let first_seen = order.first_seen.clone();
            let findings = survive(sweep::run(&parts, &subject, &order))
                .await
                .unwrap_or_else(|panic| {
                    tracing::error!(panic, "the search for orphans panicked; it begins anew soon");
                    sweep::Findings {
                        first_seen,
                        ..sweep::Findings::default()
                    }
                });
            parts.tell(Event::Swept(subject, findings)).await;
        });
    }
}

impl Parts {
    /// The turn of one call; `None`: the process ends before it has come.
    pub(super) async fn turn(&self, gate: &Gate, urgency: Urgency, set: &SetName) -> Option<Permit> {
        self.draining.run_until_cancelled(gate.enter(urgency, set)).await
    }

    /// The same of a call that only the leader makes: while it waited another one may have become that.
    async fn leaders_turn(&self, gate: &Gate, urgency: Urgency, set: &SetName) -> Option<Permit> {
        let permit = self.turn(gate, urgency, set).await?;
        self.mandate.fence.holds().then_some(permit)
    }

    /// The loop is there as long as the executor is; a closed channel means that the process ends.
    async fn tell(&self, event: Event) {
        if self.events.send(event).await.is_err() {
            tracing::debug!("an outcome came after the loop's end");
        }
    }

    async fn tell_of(&self, start: &Start, event: StartEvent) {
        self.tell(Event::Start(start.set.name.clone(), start.name.clone(), event))
            .await;
    }

    /// JIT configuration, Pod, Secret. Never cancelled: cancelling leaks.
    async fn start(&self, start: &Start) -> Result<(), StartError> {
        let set = &start.set;
        let granted = self.provision(set, start).await?;
        let failed = |failure, cause| StartError {
            failure,
            registered: true,
            cause,
        };
        let told = StartEvent::Granted {
            agent_id: granted.agent_id,
            gharts_id: granted.gharts_id.clone(),
        };
        self.tell_of(start, told).await;
        // One turn for both: were the Secrets to queue behind other runners' Pods, in a burst every kubelet would
        // find its pod without one, say so in the pod's status, and wait before it looks again.
        let _permit = self.cluster_gates.starts.enter(Urgency::Create, &set.name).await;
        if let Some((failure, cause)) = self.forbidden(start) {
            return Err(failed(failure, cause));
        }
        let uid = self
            .make_pod(set, start, &granted)
            .await
            .map_err(|e| failed(Failure::PodRefused, Cause::Cluster(e)))?;
        let told = StartEvent::PodCreated { uid: uid.clone() };
        self.tell_of(start, told).await;
        self.make_secret(start, &uid, &granted.jit_config)
            .await
            .map_err(|e| failed(Failure::SecretRefused, Cause::Cluster(e)))
    }

    /// Why this start must go no further, if so.
    fn forbidden(&self, start: &Start) -> Option<(Failure, Cause)> {
        if start.given_up.is_cancelled() {
            return Some((Failure::JitTimeout, Cause::GivenUp));
        }
        (!self.mandate.fence.is_open()).then_some((Failure::NotLeader, Cause::GivenUp))
    }

    async fn provision(&self, set: &SetParts, start: &Start) -> Result<Granted, StartError> {
        let request = JitRequest {
            set: set.name.clone(),
            scale_set_id: start.scale_set_id,
            name: start.name.clone(),
            labels: set.labels.clone(),
            work_folder: set.work_folder.clone(),
        };
        let turn = self.turn(&set.service.gate, Urgency::Create, &set.name);
        let permit = start.given_up.run_until_cancelled(turn).await.flatten();
        let ended = permit.is_none().then_some((Failure::NotLeader, Cause::GivenUp));
        if let Some((failure, cause)) = self.forbidden(start).or(ended) {
            // While it waited for its turn: nothing has been asked for yet.
            return Err(StartError {
                failure,
                registered: false,
                cause,
            });
        }
        let began = self.timeline.clock().instant();
        set.service.breaker.tried();
        let result = set.service.provisioner.provision(&request).await;
        let refused = result.as_ref().err().filter(|refusal| !refusal.by_github);
        set.service.answered(began, refused, Class::is_outage);
        drop(permit);
        let took = self.timeline.clock().instant().duration_since(began);
        self.tell_of_provisioning(set, start, &result, took);
        result.map_err(|refusal| StartError {
            failure: Failure::JitRefused,
            registered: refusal.left_behind || may_be_registered(refusal.class),
            cause: Cause::Refused(refusal),
        })
    }

    /// One line and one count for each try, as the seed asked: an operator reads there who refused what, and why.
    fn tell_of_provisioning(&self, set: &SetParts, start: &Start, result: &Result<Granted, Refusal>, took: Duration) {
        let gharts_url = set.service.provisioner.gharts_url();
        let labels = set.labels.join(",");
        let (runner, attempt, seconds) = (&start.name, start.attempt, took.as_secs_f64());
        let (status, error_code) = match result {
            Ok(granted) => {
                tracing::info!(
                    set = %set.name, %runner, labels, gharts_url, gharts_runner_id = granted.gharts_id,
                    status_code = granted.status, attempt, seconds,
                    "runner provisioned"
                );
                ("success", "")
            }
            Err(refusal) => {
                let class = refusal.class.as_str();
                tracing::warn!(
                    set = %set.name, %runner, labels, gharts_url, status_code = refusal.status,
                    error_code = refusal.code, error_class = class, attempt, seconds, error = refusal.message,
                    "runner not provisioned"
                );
                ("error", refusal.code.as_deref().map_or(class, classify::label))
            }
        };
        if gharts_url.is_some() {
            self.metrics.provision_attempt(status, error_code, took);
        }
    }

    async fn make_pod(&self, set: &SetParts, start: &Start, granted: &Granted) -> Result<String, ClusterError> {
        let mut pod = set.blueprint.pod(
            &start.name,
            start.purpose,
            start.meets,
            granted.agent_id,
            granted.gharts_id.as_deref(),
        );
        manifest::belongs_to(&mut pod, set.maker(&self.lease));
        let may_go_on = || self.forbidden(start).is_none();
        self.cluster.create_pod(&pod, may_go_on).await
    }

    async fn make_secret(&self, start: &Start, pod_uid: &str, jit_config: &SecretString) -> Result<(), ClusterError> {
        let secret = manifest::secret(&start.name, pod_uid, jit_config);
        self.cluster.create_secret(&secret).await
    }

    async fn call(&self, order: &CallOrder) -> Answered {
        let set = &*order.set;
        match order.call {
            Call::RemoveAgent => {
                let Some(_permit) = self.leaders_turn(&set.github_gate, Urgency::Remove, &set.name).await else {
                    return CallResult::Failed.into();
                };
                remove_agent(set, order).await.into()
            }
            Call::RemoveRecord => self.remove_record(set, order).await,
            // What it says was told in a message that does not come again.
            Call::MarkBusy => {
                let _permit = self.cluster_gates.others.enter(Urgency::Create, &set.name).await;
                self.cluster_call(order).await.into()
            }
            Call::DeletePod | Call::KeepPod | Call::CheckSecret => {
                let urgency = match order.call {
                    Call::DeletePod | Call::KeepPod => Urgency::Remove,
                    _ => Urgency::Create,
                };
                let Some(_permit) = self.leaders_turn(&self.cluster_gates.others, urgency, &set.name).await else {
                    return CallResult::Failed.into();
                };
                self.cluster_call(order).await.into()
            }
        }
    }

    async fn remove_record(&self, set: &SetParts, order: &CallOrder) -> Answered {
        let Some(service) = &set.records else {
            tracing::warn!(runner = %order.name, "its record stays where it is: the file names no GHARTS any more");
            return CallResult::Gone.into();
        };
        if !service.breaker.admits() {
            return CallResult::Failed.into();
        }
        let Some(_permit) = self.leaders_turn(&service.gate, Urgency::Remove, &set.name).await else {
            return CallResult::Failed.into();
        };
        let registration = Registration {
            name: order.name.clone(),
            agent_id: order.agent_id,
            gharts_id: order.gharts_id.clone(),
        };
        match service.release(&registration).await {
            Ok(Released::Removed) => Answered {
                place_freed: true,
                ..CallResult::Done.into()
            },
            Ok(Released::AlreadyGone) => CallResult::Gone.into(),
            Err(ReleaseError::Busy) => CallResult::Busy.into(),
            Err(ReleaseError::Failed(refusal)) => {
                tracing::warn!(runner = %order.name, %refusal, "the record is not removed yet");
                Answered {
                    refusal: Some(refusal),
                    ..CallResult::Failed.into()
                }
            }
        }
    }

    async fn cluster_call(&self, order: &CallOrder) -> CallResult {
        let result = match order.call {
            Call::MarkBusy => {
                let patch = manifest::busy_patch(order.job.as_ref());
                self.cluster
                    .patch_pod(&order.name, patch, None)
                    .await
                    .map(|()| CallResult::Done)
            }
            Call::KeepPod => {
                let Some(KeepOrder { kept, said, ends }) = &order.kept else {
                    return CallResult::Done;
                };
                let until = self.timeline.wall_text(kept.until);
                let patch = manifest::keep_patch(&kept.reason, said.as_deref(), &until, *ends);
                let version = order.pod_version.as_deref();
                let patched = self.cluster.patch_pod(&order.name, patch, version).await;
                patched.map(|()| CallResult::Done)
            }
            Call::CheckSecret => {
                let probe = manifest::secret(&order.name, &order.pod_uid, &SecretString::from("probe"));
                let missing = self.cluster.secret_missing(&probe).await;
                missing.map(|missing| if missing { CallResult::Missing } else { CallResult::Done })
            }
            _ => self
                .cluster
                .delete_pod(&order.name, &order.pod_uid, order.pod_version.as_deref())
                .await
                .map(|()| CallResult::Done),
        };
        result.unwrap_or_else(|error| {
            tracing::warn!(runner = %order.name, %error, "a Kubernetes call failed; it is tried again");
            match error.kind {
                Kind::Forbidden => CallResult::Forbidden,
                _ => CallResult::Failed,
            }
        })
    }
}

/// Takes the registration back, by its id where that is known. What is not there under its id may be there under its
/// name: an id may have been told wrongly, or not at all where an answer was lost.
async fn remove_agent(set: &SetParts, order: &CallOrder) -> CallResult {
    let removed = match order.agent_id {
        Some(id) => set.connection.delete_agent(id).await,
        None => Ok(Removal::AlreadyGone),
    };
    let removed = match removed {
        Ok(Removal::AlreadyGone) => match set.connection.agent_by_name(order.name.as_str()).await {
            Ok(Some(agent)) if order.agent_id != Some(agent.id) => set.connection.delete_agent(agent.id).await,
            Ok(_) => Ok(Removal::AlreadyGone),
            Err(error) => {
                tracing::warn!(runner = %order.name, %error, "the registration cannot be looked up yet");
                return CallResult::Failed;
            }
        },
        other => other,
    };
    match removed {
        Ok(Removal::Removed | Removal::AlreadyGone) => CallResult::Done,
        Ok(Removal::Busy) => CallResult::Busy,
        Err(error) => {
            tracing::warn!(runner = %order.name, %error, "the registration is not removed yet");
            CallResult::Failed
        }
    }
}

/// Runs a call to its end, or to its panic, whose words come back: an outcome that never came would leave its runner
/// in flight for ever.
async fn survive<T>(call: impl Future<Output = T>) -> Result<T, String> {
    let outcome = AssertUnwindSafe(call).catch_unwind().await;
    outcome.map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        redact(&text.unwrap_or_else(|| "without a word".to_owned()))
    })
}

/// A start that panicked may have come to anything.
fn panicked(panic: String) -> StartError {
    StartError {
        failure: Failure::StartPanicked,
        registered: true,
        cause: Cause::Panicked(panic),
    }
}

/// Whether a refusal of this class leaves open that a registration exists. Who is told to slow down has not been
/// served, and looking for what is not there would be no slower.
fn may_be_registered(class: Class) -> bool {
    matches!(
        class,
        Class::NameTaken | Class::Upstream | Class::UnknownOutcome | Class::Stalled
    )
}
