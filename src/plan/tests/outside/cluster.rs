//! Pods and the watch.

use super::*;

impl Outside {
    pub(super) fn change_pod(&mut self, name: &RunnerName, change: impl FnOnce(&mut PodFacts)) {
        if let Some(pod) = self.pods.get_mut(name) {
            change(&mut pod.facts);
            self.sights.push_back(Sight::Pod(name.clone(), pod.clone()));
        }
    }

    pub(super) fn end_pod(&mut self, name: &RunnerName, exit_code: Option<i32>, reason: &str) {
        let end = PodEnd {
            exit_code,
            reason: reason.into(),
        };
        self.change_pod(name, |facts| facts.progress = PodProgress::Ended(end));
    }

    pub(super) fn remove_pod(&mut self, name: &RunnerName) {
        if self.pods.remove(name).is_some() {
            self.sights.push_back(Sight::Gone(name.clone()));
        }
        self.runner_dies(name);
    }

    /// The runner process is gone: its job fails, its registration stays, offline.
    pub(super) fn runner_dies(&mut self, name: &RunnerName) {
        if let Some(agent) = self.agents.get_mut(name) {
            agent.online = false;
            agent.busy = false;
        }
        let dead = JobState::Running(name.clone());
        if let Some(job) = self.jobs.iter().position(|(_, j)| *j == dead) {
            self.jobs[job].1 = JobState::Over;
            let set = self.jobs[job].0.clone();
            self.say(&set, News::Completed(job, name.clone()));
        }
    }

    pub(super) fn advance_pod(&mut self) {
        let names: Vec<RunnerName> = self.pods.keys().cloned().collect();
        if let Some(name) = self.rng.choice(names) {
            self.move_pod(&name);
        }
    }

    pub(super) fn move_pod(&mut self, name: &RunnerName) {
        let now = self.now;
        let pod = &self.pods[name];
        match pod.facts.progress {
            _ if pod.facts.deleting => self.remove_pod(name),
            PodProgress::Unscheduled => self.change_pod(name, |facts| {
                facts.bound = true;
                facts.progress = PodProgress::Preparing { since: now };
            }),
            PodProgress::Preparing { .. } if pod.has_secret => {
                self.change_pod(name, |facts| facts.progress = PodProgress::Running { since: now });
            }
            PodProgress::Running { .. } => match self.agents.get_mut(name) {
                Some(agent) => agent.online = true,
                // Its registration was removed.
                None => self.end_pod(name, Some(1), "Error"),
            },
            PodProgress::Preparing { .. } | PodProgress::Ended(_) => {}
        }
    }

    pub(super) fn running_pod(&mut self) -> Option<RunnerName> {
        let runs = |(name, pod): (&RunnerName, &Pod)| {
            matches!(pod.facts.progress, PodProgress::Running { .. }).then(|| name.clone())
        };
        let running: Vec<RunnerName> = self.pods.iter().filter_map(runs).collect();
        self.rng.choice(running)
    }

    pub(super) fn delete_pod_by_hand(&mut self) {
        if let Some(name) = self.running_pod() {
            self.change_pod(&name, |facts| facts.deleting = true);
        }
    }

    pub(super) fn crash(&mut self) {
        let ends = [
            (Some(0), "Completed"),
            (Some(1), "Error"),
            (Some(7), "Error"),
            (Some(137), "OOMKilled"),
            (None, "Evicted"),
        ];
        let (code, reason) = ends[self.rng.usize(..ends.len())];
        if let Some(name) = self.running_pod() {
            self.end_pod(&name, code, reason);
            self.runner_dies(&name);
            if code == Some(0) {
                // It took its leave.
                self.agents.remove(&name);
            }
        }
    }

    /// The watch shows the next change.
    pub(super) fn show(&mut self) {
        let now = self.now;
        match self.sights.pop_front() {
            Some(Sight::Pod(name, pod)) => self.show_pod(&name, &pod),
            Some(Sight::Gone(name)) => {
                let event = self.world.pod_gone(now, &name);
                self.happen(event);
            }
            None => {}
        }
    }

    pub(super) fn show_pod(&mut self, name: &RunnerName, pod: &Pod) {
        let world = self.world.sets.get_mut(&pod.set).unwrap();
        let kind = world.kind;
        let found = Adopted {
            pod: pod.facts.clone(),
            agent_id: None,
            gharts_id: None,
            job: None,
            meets: None,
            kept: None,
        };
        assert!(
            world.runners.contains_key(name) || !self.world.synced,
            "{name} was forgotten too early"
        );
        let adopt = || Runner::adopted(name.clone(), Purpose::Demand, self.now, found, kind);
        let runner = world.runners.entry(name.clone()).or_insert_with(adopt);
        let happening = runner.pod_seen(self.now, pod.facts.clone());
        self.happen(happening.map(|h| (pod.set.clone(), name.clone(), h)));
    }

    /// The watch broke and begins again with a list.
    pub(super) fn relist(&mut self) {
        self.sights.clear();
        for (name, pod) in self.pods.clone() {
            self.show_pod(&name, &pod);
        }
        let listed = self.pods.keys().cloned().collect();
        let events = self.world.pods_listed(self.now, &listed);
        self.happen(events);
    }

    /// The daemon dies and starts again; what it leaves behind is swept at once.
    pub(super) fn restart(&mut self) {
        self.world.synced = false;
        self.world.hurdles.clear();
        self.starts.clear();
        self.calls.clear();
        for set in self.world.sets.values_mut() {
            set.runners.clear();
            set.demand = Demand::default();
            set.surplus_since = None;
        }
        self.agents.retain(|name, _| self.pods.contains_key(name));
        self.records.retain(|name| self.pods.contains_key(name));
        self.act();
        self.relist();
    }
}
