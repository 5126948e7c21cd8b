//! Jobs, queues and registrations.

use super::*;

impl Outside {
    pub(super) fn reading(&self, set: &SetName) -> Reading {
        let count = |f: &dyn Fn(&JobState) -> bool| {
            i64::try_from(self.jobs.iter().filter(|(s, j)| s == set && f(j)).count()).unwrap()
        };
        Reading {
            available: count(&|j| *j == JobState::Available),
            assigned: count(&|j| matches!(j, JobState::Assigned | JobState::Running(_))),
            running: count(&|j| matches!(j, JobState::Running(_))),
            ..Reading::default()
        }
    }

    pub(super) fn say(&mut self, set: &SetName, news: News) {
        let reading = self.reading(set);
        let queue = self.queues.get_mut(set).unwrap();
        queue.messages.push_back(Message { reading, news });
    }

    pub(super) fn github_works(&mut self) {
        for job in 0..self.jobs.len() {
            let (set, state) = self.jobs[job].clone();
            let capacity = i64::from(self.queues[&set].capacity);
            if state == JobState::Available && self.reading(&set).assigned < capacity {
                self.jobs[job].1 = JobState::Assigned;
                self.say(&set, News::Assigned(job));
            }
            if self.jobs[job].1 == JobState::Assigned {
                let prefix = format!("{set}-");
                let mut idle = self
                    .agents
                    .iter_mut()
                    .filter(|(name, a)| name.as_str().starts_with(&prefix) && a.online && !a.busy);
                let Some((runner, agent)) = idle.next() else { continue };
                agent.busy = true;
                let runner = runner.clone();
                self.jobs[job].1 = JobState::Running(runner.clone());
                self.say(&set, News::Started(job, runner));
            }
        }
    }

    pub(super) fn finish_job(&mut self) {
        let running = |(at, (_, j)): (usize, &(SetName, JobState))| matches!(j, JobState::Running(_)).then_some(at);
        let running: Vec<usize> = self.jobs.iter().enumerate().filter_map(running).collect();
        if let Some(job) = self.rng.choice(running) {
            self.finish(job, 0);
        }
    }

    /// Its job ends, with it the agent and the container.
    pub(super) fn finish(&mut self, job: usize, exit_code: i32) {
        let (set, JobState::Running(runner)) = self.jobs[job].clone() else {
            return;
        };
        self.jobs[job].1 = JobState::Over;
        self.say(&set, News::Completed(job, runner.clone()));
        self.agents.remove(&runner);
        self.end_pod(&runner, Some(exit_code), "Completed");
    }

    pub(super) fn drop_job(&mut self) {
        if let Some((_, job)) = self.jobs.iter_mut().find(|(_, j)| *j == JobState::Assigned) {
            *job = JobState::Over;
        }
    }

    pub(super) fn deliver(&mut self) {
        let set = self.any_set();
        let now = self.now;
        let queue = self.queues.get_mut(&set).unwrap();
        if let Some(message) = queue.messages.pop_front() {
            let began = std::mem::replace(&mut queue.poll_began, now);
            queue.newest = Some(message.clone());
            self.hear(&set, began, &message);
        }
    }

    pub(super) fn redeliver(&mut self) {
        let set = self.any_set();
        let queue = &self.queues[&set];
        if let Some(message) = queue.newest.clone() {
            self.hear(&set, queue.poll_began, &message);
        }
    }

    pub(super) fn hear(&mut self, set: &SetName, began: Moment, message: &Message) {
        let now = self.now;
        self.world.read(now, began, set, message.reading);
        let world = self.world.sets.get_mut(set).unwrap();
        let mut happened = None;
        match &message.news {
            News::Assigned(job) => world.demand.job_assigned(now, &job.to_string()),
            News::Started(job, name) => {
                world.demand.job_started(now, &job.to_string());
                let told = Job {
                    id: job.to_string(),
                    ..Job::default()
                };
                happened = world.runners.get_mut(name).and_then(|r| r.job_started(now, told));
            }
            News::Completed(job, name) => {
                world.demand.job_left_queue(&job.to_string());
                if let Some(runner) = world.runners.get_mut(name) {
                    runner.job_completed(now, Job::default());
                }
            }
        }
        if let (Some(h), News::Started(_, name)) = (happened, &message.news) {
            self.happened((set.clone(), name.clone(), h));
        }
    }

    pub(super) fn refresh(&mut self) {
        let set = self.any_set();
        self.world.read(self.now, self.now, &set, self.reading(&set));
    }

    pub(super) fn list_agents(&mut self) {
        let now = self.now;
        let mut happenings = Vec::new();
        for (set, world) in &mut self.world.sets {
            for (name, runner) in &mut world.runners {
                let sight = match self.agents.get(name) {
                    None => AgentSight::Absent,
                    Some(agent) if agent.online => AgentSight::Online { busy: agent.busy },
                    Some(_) => AgentSight::Offline,
                };
                let happening = runner.agent_seen(now, now, sight, None);
                happenings.extend(happening.map(|h| (set.clone(), name.clone(), h)));
            }
        }
        self.happen(happenings);
    }
}
