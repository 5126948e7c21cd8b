//! What becomes of starts and calls.

use super::*;

impl Outside {
    pub(super) fn advance_start(&mut self, faults: bool) {
        let names: Vec<RunnerName> = self.starts.keys().cloned().collect();
        let Some(name) = self.rng.choice(names) else { return };
        let Start { set, stage } = self.starts[&name].clone();
        let bad = faults && self.rng.u8(..) < 20;
        match stage {
            Stage::Asked if self.records.len() >= self.quota => {
                self.refuse(&set, &name, Code::QuotaExceeded, Failure::JitRefused, false);
            }
            Stage::Asked if bad => {
                if self.rng.bool() {
                    self.register(&name);
                }
                self.refuse(&set, &name, Code::UnknownOutcome, Failure::JitRefused, true);
            }
            Stage::Asked => {
                self.register(&name);
                self.world.granted(self.now, &set);
                let runner = self.world.runner(&set, &name).unwrap();
                runner.granted(Some(1), None);
                let given_up = !runner.is_live();
                if given_up {
                    self.starts.remove(&name);
                    runner.start_failed(self.now, Failure::JitTimeout, true);
                } else if let Some(start) = self.starts.get_mut(&name) {
                    start.stage = Stage::Granted;
                }
            }
            Stage::Granted if bad => self.refuse(&set, &name, Code::ResourceQuota, Failure::PodRefused, true),
            Stage::Granted => self.make_pod(&set, &name),
            Stage::Made => {
                self.starts.remove(&name);
                if let Some(pod) = self.pods.get_mut(&name) {
                    pod.has_secret = true;
                }
                self.world.pod_accepted(self.now, &set);
                self.world.runner(&set, &name).unwrap().started();
            }
        }
    }

    pub(super) fn register(&mut self, name: &RunnerName) {
        self.agents.insert(name.clone(), Agent::default());
        self.records.insert(name.clone());
    }

    pub(super) fn make_pod(&mut self, set: &SetName, name: &RunnerName) {
        let facts = PodFacts {
            uid: name.to_string(),
            version: String::new(),
            created: self.now,
            progress: PodProgress::Unscheduled,
            deleting: false,
            bound: false,
            says: None,
        };
        let pod = Pod {
            set: set.clone(),
            facts,
            has_secret: false,
        };
        self.pods.insert(name.clone(), pod.clone());
        self.sights.push_back(Sight::Pod(name.clone(), pod));
        if self.rng.bool() {
            // The watch is faster than the answer.
            while !self.sights.is_empty() {
                self.show();
            }
        }
        let event = self
            .world
            .runner(set, name)
            .unwrap()
            .pod_created(self.now, name.as_str());
        self.happen(event.map(|h| (set.clone(), name.clone(), h)));
        if let Some(start) = self.starts.get_mut(name) {
            start.stage = Stage::Made;
        }
    }

    pub(super) fn refuse(&mut self, set: &SetName, name: &RunnerName, code: Code, failure: Failure, registered: bool) {
        self.starts.remove(name);
        let scope = match code {
            Code::ResourceQuota => Scope::Cluster,
            _ => Scope::Provisioner(self.world.sets[set].provisioner.clone()),
        };
        let runner = self.world.runner(set, name).unwrap();
        let began = runner.created;
        let happening = runner.start_failed(self.now, failure, registered);
        self.world
            .refused(self.now, began, scope, Reason::new(code, "no"), 0.5, None);
        self.happen(happening.map(|h| (set.clone(), name.clone(), h)));
    }

    pub(super) fn answer(&mut self, faults: bool) {
        if self.calls.is_empty() {
            return;
        }
        let (set, name, call, looked_running) = self.calls.swap_remove(self.rng.usize(..self.calls.len()));
        let result = if faults && self.rng.u8(..) < 25 {
            CallResult::Failed
        } else {
            self.serve(&set, &name, call, looked_running)
        };
        let happening = self
            .world
            .runner(&set, &name)
            .and_then(|r| r.called(self.now, call, result));
        self.happen(happening.map(|h| (set.clone(), name.clone(), h)));
    }

    pub(super) fn serve(&mut self, set: &SetName, name: &RunnerName, call: Call, looked_running: bool) -> CallResult {
        match call {
            Call::RemoveAgent => {
                if self.agents.get(name).is_some_and(|a| a.busy) {
                    return CallResult::Busy;
                }
                self.agents.remove(name);
            }
            Call::DeletePod => {
                let Some(pod) = self.pods.get(name) else {
                    return CallResult::Done;
                };
                let busy = self.agents.get(name).is_some_and(|a| a.busy);
                assert!(!busy || !looked_running, "{name} was killed with its job");
                if matches!(pod.facts.progress, PodProgress::Ended(_)) || !pod.facts.bound {
                    self.remove_pod(name);
                } else {
                    self.change_pod(name, |facts| facts.deleting = true);
                }
            }
            Call::KeepPod => {
                let runs = |pod: &Pod| !matches!(pod.facts.progress, PodProgress::Ended(_));
                if self.pods.get(name).is_some_and(runs) {
                    let busy = self.agents.get(name).is_some_and(|a| a.busy);
                    assert!(!busy || !looked_running, "{name} was ended with its job");
                    self.end_pod(name, None, "DeadlineExceeded");
                    self.runner_dies(name);
                }
            }
            Call::RemoveRecord => {
                if self.records.remove(name) {
                    let scope = Scope::Provisioner(self.world.sets[set].provisioner.clone());
                    self.world.place_freed(self.now, &scope);
                }
            }
            Call::CheckSecret => {
                if self.pods.get(name).is_some_and(|p| !p.has_secret) {
                    return CallResult::Missing;
                }
            }
            Call::MarkBusy => {}
        }
        CallResult::Done
    }
}
