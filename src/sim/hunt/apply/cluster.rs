//! What goes wrong in the cluster: the API server, nodes, pods.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::json;

use super::{AtWork, Stage};
use crate::sim::{
    fleet::Behaviour,
    hunt::plan::{ApiTrouble, Blow, Fault, PodTrouble, Timed, USURPER},
    kubernetes,
    world::{DAEMON_NAMESPACE, LEASE, RUNNER_NAMESPACE, account_name},
};

/// A runner that waits no longer for a job.
const LEAVES_AFTER: Duration = Duration::from_secs(10);
const SLOW_API: Duration = Duration::from_secs(3);
/// When the pods of a lost node are deleted, and when they are forced away.
const NODE_GIVEN_UP: Duration = Duration::from_secs(60);
const POD_FORCED: Duration = Duration::from_secs(90);

impl Stage<'_> {
    pub(super) fn of_kubernetes(&self, fault: &Fault) -> Option<AtWork> {
        let model = self.world.kubernetes.clone();
        Some(match fault {
            Fault::WatchCut => {
                model.cut_watches();
                AtWork::done(true)
            }
            Fault::HistoryCompacted => {
                model.compact();
                model.cut_watches();
                AtWork::done(true)
            }
            Fault::ApiOutage => {
                let id = model.add_fault(kubernetes::Fault::new(kubernetes::Trouble::Refused));
                model.cut_watches();
                let end = move || {
                    model.end_fault(id);
                };
                AtWork::new(end, || true)
            }
            Fault::ApiTrouble {
                verb,
                resource,
                how,
                times,
                everybody,
            } => {
                let mut fault = kubernetes::Fault::new(api_trouble(*how)).times(*times);
                if !verb.is_empty() {
                    fault = fault.verb(verb);
                }
                if !resource.is_empty() {
                    fault = fault.resource(resource);
                }
                // Of kubelets that wait for ever nothing is to be learnt.
                if !everybody || matches!(how, ApiTrouble::Hang | ApiTrouble::Silent) {
                    fault = fault.user(&account_name());
                }
                let met = fault.met();
                let id = model.add_fault(fault);
                let end = move || {
                    model.end_fault(id);
                };
                AtWork::new(end, move || met.load(Ordering::SeqCst))
            }
            Fault::WritesAnsweredLate { resource, every, ms } => {
                let late = kubernetes::Trouble::Late(Duration::from_millis(*ms));
                let mut fault = kubernetes::Fault::new(late)
                    .writes()
                    .every(*every)
                    .user(&account_name());
                if !resource.is_empty() {
                    fault = fault.resource(resource);
                }
                let met = fault.met();
                let id = model.add_fault(fault);
                let end = move || {
                    model.end_fault(id);
                };
                AtWork::new(end, move || met.load(Ordering::SeqCst))
            }
            Fault::RightsLost { own } => {
                const NAME: &str = "gharts-listener";
                let namespace = if *own { DAEMON_NAMESPACE } else { RUNNER_NAMESPACE };
                let Some(binding) = model.get("rolebindings", namespace, NAME) else {
                    return Some(AtWork::done(false));
                };
                let met = model.delete("rolebindings", namespace, NAME).is_ok();
                let again = json!({"apiVersion": binding["apiVersion"], "kind": binding["kind"],
                    "metadata": {"name": NAME, "namespace": namespace},
                    "roleRef": binding["roleRef"], "subjects": binding["subjects"]});
                let end = move || {
                    // There already where two overlapped.
                    let _ = model.create(&again);
                };
                AtWork::new(end, move || met)
            }
            Fault::LeaseDeleted => AtWork::done(model.delete("leases", DAEMON_NAMESPACE, LEASE).is_ok()),
            Fault::LeaseTaken => {
                let taken = json!({"spec": {"holderIdentity": USURPER, "leaseDurationSeconds": 15}});
                AtWork::done(model.change("leases", DAEMON_NAMESPACE, LEASE, &taken).is_ok())
            }
            Fault::ResourceQuota { pods } => {
                const NAME: &str = "few-pods";
                let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota",
                    "metadata": {"name": NAME, "namespace": RUNNER_NAMESPACE},
                    "spec": {"hard": {"pods": pods.to_string()}}});
                let met = model.create(&quota).is_ok();
                let end = move || {
                    // Where two overlapped, the first one's end has ended both.
                    let _ = model.delete("resourcequotas", RUNNER_NAMESPACE, NAME);
                };
                AtWork::new(end, move || met)
            }
            _ => return None,
        })
    }

    pub(super) fn of_pods(&self, timed: &Timed) -> Option<AtWork> {
        let fleet = self.world.fleet.clone()?;
        Some(match &timed.fault {
            Fault::PodsFail { how, percent } => {
                let met = Arc::new(AtomicBool::new(false));
                let (seen, how, percent) = (met.clone(), pod_trouble(*how), u64::from(*percent));
                fleet.behave(move |pod| {
                    let mut hasher = DefaultHasher::new();
                    pod.metadata.name.hash(&mut hasher);
                    if hasher.finish() % 100 < percent {
                        seen.store(true, Ordering::SeqCst);
                        how
                    } else {
                        Behaviour::Ordinary
                    }
                });
                AtWork::new(
                    move || fleet.behave(|_| Behaviour::Ordinary),
                    move || met.load(Ordering::SeqCst),
                )
            }
            Fault::PodStruck { how, nth, count } => {
                let lasting = Duration::from_millis(timed.for_ms);
                AtWork::done(self.strike_all(*how, *nth, *count, lasting))
            }
            Fault::PodsStuckTerminating { ms } => {
                fleet.linger(Duration::from_millis(*ms));
                AtWork::new(move || fleet.linger(Duration::ZERO), || true)
            }
            _ => return None,
        })
    }

    /// Strikes so many of the daemon's pods that are there, from the `nth` on. False: there is none.
    fn strike_all(&self, how: Blow, nth: usize, count: usize, lasting: Duration) -> bool {
        let pods: Vec<String> = self
            .world
            .kubernetes
            .list("pods", RUNNER_NAMESPACE)
            .iter()
            .filter_map(|pod| pod["metadata"]["name"].as_str())
            .filter(|name| !crate::sim::hunt::strangers::is_theirs(name))
            .map(str::to_owned)
            .collect();
        let struck = pods.iter().cycle().skip(nth).take(count.min(pods.len()));
        // Each of them, also behind one that nothing happened to.
        struck.filter(|name| self.strike(how, name, lasting)).count() > 0
    }

    fn strike(&self, how: Blow, name: &str, lasting: Duration) -> bool {
        let (Some(fleet), model, name) = (&self.world.fleet, self.world.kubernetes.clone(), name.to_owned()) else {
            return false;
        };
        match how {
            Blow::Evicted => fleet.strike(&name, Behaviour::Evicted(Duration::ZERO)),
            Blow::OutOfMemory => fleet.strike(&name, Behaviour::OutOfMemory(Duration::ZERO)),
            Blow::NodeLost => {
                fleet.strike(&name, Behaviour::NodeLost(Duration::ZERO));
                self.tasks.spawn("node controller", async move {
                    tokio::time::sleep(NODE_GIVEN_UP).await;
                    // Gone already where the daemon removed it and somebody let go of it.
                    let _ = model.delete("pods", RUNNER_NAMESPACE, &name);
                    tokio::time::sleep(POD_FORCED).await;
                    let _ = model.purge("pods", RUNNER_NAMESPACE, &name);
                });
            }
            Blow::NodeAway => {
                fleet.cut_off(&name, lasting);
                self.tasks.spawn("node controller", async move {
                    if lasting > NODE_GIVEN_UP {
                        tokio::time::sleep(NODE_GIVEN_UP).await;
                        let _ = model.delete("pods", RUNNER_NAMESPACE, &name);
                    }
                });
            }
            Blow::DeletedByHand => return model.delete("pods", RUNNER_NAMESPACE, &name).is_ok(),
            Blow::SecretDeleted => return model.delete("secrets", RUNNER_NAMESPACE, &name).is_ok(),
            Blow::Unregistered => return self.world.github.remove_runner(&name),
        }
        true
    }
}

fn api_trouble(how: ApiTrouble) -> kubernetes::Trouble {
    match how {
        ApiTrouble::AnswerLost => kubernetes::Trouble::Lost,
        ApiTrouble::Unauthorized => kubernetes::Trouble::Unauthorized,
        ApiTrouble::Unavailable => kubernetes::Trouble::Unavailable,
        ApiTrouble::Internal => kubernetes::Trouble::Internal,
        ApiTrouble::Throttled => kubernetes::Trouble::Throttled { retry_after: 2 },
        ApiTrouble::Slow => kubernetes::Trouble::Slow(SLOW_API),
        ApiTrouble::Hang => kubernetes::Trouble::Hang,
        ApiTrouble::Silent => kubernetes::Trouble::Silent,
        ApiTrouble::Conflict => kubernetes::Trouble::Conflict,
        ApiTrouble::Invalid => kubernetes::Trouble::Invalid,
        ApiTrouble::Denied => kubernetes::Trouble::Denied,
        ApiTrouble::NotFound => kubernetes::Trouble::NotFound,
        ApiTrouble::Expired => kubernetes::Trouble::Expired,
    }
}

fn pod_trouble(how: PodTrouble) -> Behaviour {
    match how {
        PodTrouble::Unschedulable => Behaviour::Unschedulable,
        PodTrouble::ImagePullFails => Behaviour::ImagePullFails,
        PodTrouble::NeverRegisters => Behaviour::NeverRegisters,
        PodTrouble::Crashes => Behaviour::Crashes(3),
        PodTrouble::EndsWell => Behaviour::Crashes(0),
        PodTrouble::Leaves => Behaviour::Leaves(LEAVES_AFTER),
        PodTrouble::Deprecated => Behaviour::Crashes(7),
        PodTrouble::SidecarStays => Behaviour::SidecarStays,
        PodTrouble::FallsSilent => Behaviour::FallsSilent,
        PodTrouble::HangsAfterJob => Behaviour::HangsAfterJob,
        PodTrouble::InitFails => Behaviour::InitFails,
        PodTrouble::Rejected => Behaviour::Rejected,
    }
}
