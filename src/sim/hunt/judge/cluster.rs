//! What the daemon does at the API server: its pods, and when they may go.

use std::{collections::HashSet, time::Duration};

use serde_json::Value;
use tokio::time::Instant;

use super::{
    super::{rules::REVISION, strangers},
    Invariant, Judge,
    calls::PODS,
};
use crate::sim::{
    kubernetes::{self, Object},
    world::{Binding, RUNNER_NAMESPACE},
};

/// Pods of one set that come and go in a row without a job, and within how long: whatever ends them, the set backs off.
const WASTE: (usize, Duration) = (24, Duration::from_mins(15));
/// So many more for each time that it may begin anew, after a death or with another template: whether a runner that ended
/// well had a job is clear after a minute.
const WASTE_ANEW: usize = 16;
/// On our pods: the full name of the set.
const SCALE_SET: &str = "gharts-listener/scale-set";

impl Judge {
    /// Runners of ours of which there is anything in the world.
    pub(in crate::sim::hunt) fn pods_and_registrations(&self) -> usize {
        let pods = self.world.kubernetes.list("pods", RUNNER_NAMESPACE);
        let pods = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str());
        let mut names: HashSet<String> = pods.map(str::to_owned).collect();
        names.extend(self.world.github.runners().into_iter().map(|runner| runner.name));
        names.len()
    }

    /// Sees one request to the API server.
    pub(in crate::sim::hunt) fn sees(&self, request: &kubernetes::Request<'_>) {
        if request.user != self.daemon {
            return;
        }
        let kubernetes::Request {
            verb, resource, name, ..
        } = *request;
        let Some(status) = request.status else {
            let writes = matches!(verb, "create" | "update" | "patch" | "delete" | "deletecollection");
            if writes && strangers::is_theirs(name) {
                self.breach(Invariant::Strangers, format!("{verb} {resource} {name}"));
            }
            if writes && resource != "secrets" {
                self.no_secret_in(request.body, &format!("{verb} {resource} {name}"));
            }
            if ends_pod(request) {
                let at_work = self.at_work(name);
                self.lock().asked_to_go.insert(name.to_owned(), at_work);
            }
            return;
        };
        let dry = if request.dry_run { " (dry run)" } else { "" };
        self.journal
            .say(|| format!("call     kubernetes {verb} {resource} {name}{dry} -> {status}"));
        if resource.starts_with("leases") {
            self.lease_holder();
            if matches!((verb, status), ("create" | "update", 200 | 201)) {
                self.lease_written(request.body);
            }
        }
        self.digest_in("kubernetes", &format!("{verb} {resource} {name}"), status);
        if ends_pod(request) {
            self.pod_ended(verb, name, status);
        }
        if (verb, resource, status) == ("create", "pods", 201) && !request.dry_run {
            let body: Value = serde_json::from_slice(request.body).unwrap_or_default();
            self.pod_made(body["metadata"]["name"].as_str().unwrap_or_default());
        }
    }

    /// What the pod is doing, should that be a reason to leave it alone.
    fn at_work(&self, name: &str) -> Option<String> {
        let pod = self.world.kubernetes.get("pods", RUNNER_NAMESPACE, name)?;
        let runner = self.world.github.runner(name).filter(|_| runs(&pod))?;
        match &runner.job {
            Some(job) => Some(format!("it runs job {job}")),
            None => runner.online.then(|| "GitHub may give it a job".to_owned()),
        }
    }

    /// It was asked for, and where the pod had changed by then, refused.
    fn pod_ended(&self, verb: &str, name: &str, status: u16) {
        let at_work = self.lock().asked_to_go.remove(name).flatten();
        if let Some(what) = at_work.filter(|_| status == 200) {
            self.breach(Invariant::BusyKept, format!("{verb} ends pod {name} while {what}"));
        }
    }

    fn pod_made(&self, name: &str) {
        self.called(PODS, name);
        if !self.lock().names.insert(name.to_owned()) {
            self.breach(Invariant::NameOnce, format!("a second pod of the name {name}"));
        }
        let pods: Vec<(String, String)> = self
            .world
            .kubernetes
            .list("pods", RUNNER_NAMESPACE)
            .iter()
            .filter(|pod| is_live(pod))
            .filter_map(|pod| Some((pod["metadata"]["name"].as_str()?.to_owned(), set_of(pod))))
            .filter(|(name, _)| !strangers::is_theirs(name))
            .collect();
        let set = pods
            .iter()
            .find(|(pod, _)| pod == name)
            .map(|(_, set)| set.clone())
            .unwrap_or_default();
        let (max, min, total) = {
            let rules = &mut self.lock().rules;
            (rules.max(&set), rules.min(&set), rules.total())
        };
        let Some(max) = max else {
            self.breach(Invariant::File, format!("pod {name} belongs to no set: {set:?}"));
            return;
        };
        let revision = self.world.kubernetes.get("pods", RUNNER_NAMESPACE, name);
        let revision = revision
            .map(|pod| pod["metadata"]["annotations"][REVISION].clone())
            .unwrap_or_default();
        if !self
            .lock()
            .rules
            .is_revision(&set, revision.as_str().unwrap_or_default())
        {
            self.breach(
                Invariant::File,
                format!("pod {name} is made of another template: {revision}"),
            );
        }
        let of_set: Vec<&str> = pods
            .iter()
            .filter(|(_, of)| *of == set)
            .map(|(pod, _)| pod.as_str())
            .collect();
        if of_set.len() > max as usize {
            let live = of_set.len();
            self.breach(
                Invariant::Limits,
                format!("{name}: {live} live runners of {set}, at most {max}"),
            );
        }
        if let Some(max) = total.filter(|max| pods.len() > *max as usize) {
            self.breach(
                Invariant::Limits,
                format!("{name}: {} live runners in all, at most {max}", pods.len()),
            );
        }
        self.is_worth_it(&set, name, &of_set);
        let staying = {
            let state = self.lock();
            let staying = of_set.iter().copied().filter(|name| {
                // One that is not registered any more gets no job.
                let registered = self.registers_itself(&set) || self.world.github.runner(name).is_some();
                registered && !state.is_leaving(name)
            });
            staying.collect::<Vec<&str>>()
        };
        let covering = self.world.github.standing_for_sets(staying.into_iter());
        let told = {
            let state = &mut *self.lock();
            let grace = state.weather.grace();
            state.queues.most(&set, Instant::now(), grace)
        };
        let wanted = min as usize + told;
        if covering > wanted && !self.removals_queue {
            self.breach(
                Invariant::Demand,
                format!("{name}: {covering} runners of {set} for {wanted} (minRunners {min} and {told} jobs)"),
            );
        }
    }

    /// Its runners come without a registration.
    pub(super) fn registers_itself(&self, set: &str) -> bool {
        let sets = self.world.services.options.sets.iter();
        let mut set = sets.filter(|options| options.name == set);
        set.any(|options| options.binding == Binding::RegistrationToken)
    }

    /// Few of the set's newest pods came to nothing.
    fn is_worth_it(&self, set: &str, name: &str, live: &[&str]) {
        let (most, within) = WASTE;
        let most = most + WASTE_ANEW * self.begins_anew;
        let now = Instant::now();
        let over: Vec<String> = {
            let state = &mut *self.lock();
            let made = state.made.entry(set.to_owned()).or_default();
            while made.front().is_some_and(|(at, _)| *at + within < now) {
                made.pop_front();
            }
            made.push_back((now, name.to_owned()));
            let over = made.iter().filter(|(_, name)| !live.contains(&name.as_str()));
            over.map(|(_, name)| name.clone()).collect()
        };
        let had_no_job = |name: &&String| self.world.github.standing_for_sets(std::iter::once(name.as_str())) > 0;
        let wasted = over.iter().rev().take_while(had_no_job).count();
        if wasted > most {
            let what = format!("{name}: {wasted} pods of {set} in a row came to nothing within {within:?}");
            self.breach(Invariant::BackOff, what);
        }
    }
}

/// Deletes it, or has its kubelet end what runs in it.
fn ends_pod(request: &kubernetes::Request<'_>) -> bool {
    let ends = match request.verb {
        "delete" => true,
        "patch" => {
            let patch: Value = serde_json::from_slice(request.body).unwrap_or_default();
            !patch["spec"]["activeDeadlineSeconds"].is_null()
        }
        _ => false,
    };
    ends && request.resource == "pods" && !request.dry_run
}

fn set_of(pod: &Object) -> String {
    pod["metadata"]["annotations"][SCALE_SET]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// The daemon's pods of one set.
pub(super) fn of_set<'a>(pods: &'a [Object], set: &'a str) -> impl Iterator<Item = &'a Object> {
    let ours = |pod: &&Object| !pod["metadata"]["name"].as_str().is_some_and(strangers::is_theirs);
    pods.iter().filter(move |pod| set_of(pod) == set).filter(ours)
}

/// Those of them that are live.
pub(super) fn live_of<'a>(pods: &'a [Object], set: &'a str) -> Vec<&'a Object> {
    of_set(pods, set).filter(|pod| is_live(pod)).collect()
}

pub(super) fn has_ended(pod: &Object) -> bool {
    let ended = |status: &Value| status["name"] == "runner" && !status["state"]["terminated"].is_null();
    let containers = pod["status"]["containerStatuses"].as_array();
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
        || containers.into_iter().flatten().any(ended)
}

/// Its containers run, and nobody has told them to end.
fn runs(pod: &Object) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null() && !has_ended(pod)
}

/// Whether a pod is capacity still: not ended, not on its way out.
pub(in crate::sim::hunt) fn is_live(pod: &Object) -> bool {
    runs(pod)
}
