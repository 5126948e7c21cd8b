//! A trivial model of everything outside the planner: GitHub, GHARTS with a quota, the cluster. It drives the
//! world as `control::fold` does and carries plans out as `control::execute` does; every answer waits until a
//! step of the walk lets it come.

mod answers;
mod cluster;
mod github;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use super::*;
use crate::plan::{
    limits::Scope,
    runner::{Adopted, AgentSight, CallResult, Failure, Happening, Job, PodEnd},
    world::Event,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum JobState {
    Available,
    Assigned,
    Running(RunnerName),
    Over,
}

#[derive(Clone, Debug)]
enum News {
    Assigned(usize),
    Started(usize, RunnerName),
    Completed(usize, RunnerName),
}

#[derive(Clone, Debug)]
struct Message {
    reading: Reading,
    news: News,
}

/// One runner scale set's queue at GitHub.
#[derive(Clone, Debug, Default)]
struct Queue {
    messages: VecDeque<Message>,
    newest: Option<Message>,
    poll_began: Moment,
    capacity: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Asked,
    Granted,
    Made,
}

#[derive(Clone, Debug)]
struct Start {
    set: SetName,
    stage: Stage,
}

#[derive(Clone, Debug)]
struct Pod {
    set: SetName,
    facts: PodFacts,
    has_secret: bool,
}

#[derive(Clone, Debug)]
enum Sight {
    Pod(RunnerName, Pod),
    Gone(RunnerName),
}

/// A registration at GitHub.
#[derive(Clone, Debug, Default)]
struct Agent {
    online: bool,
    busy: bool,
}

#[derive(Debug)]
pub(super) struct Outside {
    pub(super) world: World,
    pub(super) now: Moment,
    pub(super) jobs: Vec<(SetName, JobState)>,
    rng: fastrand::Rng,
    quota: usize,
    made: u32,
    queues: BTreeMap<SetName, Queue>,
    starts: BTreeMap<RunnerName, Start>,
    /// With whether the container was known to run when the call was decided.
    calls: Vec<(SetName, RunnerName, Call, bool)>,
    pods: BTreeMap<RunnerName, Pod>,
    sights: VecDeque<Sight>,
    agents: BTreeMap<RunnerName, Agent>,
    records: BTreeSet<RunnerName>,
    listed: Moment,
    read: Moment,
    wake_at: Option<Moment>,
}

impl Outside {
    pub(super) fn new(world: World, quota: usize, seed: u64) -> Self {
        let queues = world.sets.keys().map(|s| (s.clone(), Queue::default())).collect();
        Self {
            world,
            now: Moment::START,
            jobs: Vec::new(),
            rng: fastrand::Rng::with_seed(seed),
            quota,
            made: 0,
            queues,
            starts: BTreeMap::new(),
            calls: Vec::new(),
            pods: BTreeMap::new(),
            sights: VecDeque::new(),
            agents: BTreeMap::new(),
            records: BTreeSet::new(),
            listed: Moment::START,
            read: Moment::START,
            wake_at: None,
        }
    }

    fn any_set(&mut self) -> SetName {
        let at = self.rng.usize(..self.world.sets.len());
        self.world.sets.keys().nth(at).unwrap().clone()
    }

    /// One step of the walk.
    pub(super) fn step(&mut self, step: u8) {
        match step {
            0..=24 => {
                let millis = self.rng.u64(1..3000);
                self.pass(Duration::from_millis(millis));
            }
            25..=29 => {
                let secs = self.rng.u64(3..90);
                self.pass(Duration::from_secs(secs));
            }
            30..=54 => {
                let set = self.any_set();
                self.jobs.push((set, JobState::Available));
            }
            55..=89 => self.deliver(),
            90..=99 => self.refresh(),
            100..=149 => self.advance_start(true),
            150..=179 => self.advance_pod(),
            180..=199 => self.show(),
            200..=209 => self.list_agents(),
            210..=229 => self.answer(true),
            230..=239 => self.finish_job(),
            240..=243 => self.delete_pod_by_hand(),
            244..=247 => self.crash(),
            248..=249 => self.drop_job(),
            250..=252 => self.relist(),
            253 => self.restart(),
            254..=255 => self.redeliver(),
        }
        self.github_works();
        self.act();
    }

    fn pass(&mut self, time: Duration) {
        if time > Duration::from_secs(3) {
            while !self.sights.is_empty() {
                self.show();
            }
        }
        self.now = self.now + time;
    }

    // ---- The loop, as `control` has it --------------------------------------------------------------

    fn happen(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.happened(event);
        }
    }

    fn happened(&mut self, (set, name, happening): Event) {
        match happening {
            Happening::Failed(failure) => self.world.runner_failed(self.now, &set, &name, failure, 0.5),
            Happening::Registered | Happening::JobStarted | Happening::HadJob => {
                self.world.runner_works(self.now, &set);
            }
            Happening::Ended => {}
        }
    }

    fn act(&mut self) {
        for round in 0.. {
            assert!(round < 3, "planning does not come to rest");
            let events = self.world.advance(self.now);
            self.happen(events);
            assert_eq!(self.world.advance(self.now), [], "letting the same moment pass twice");
            let plans = plan(&self.world, self.now);
            self.check(&plans);
            let retired = plans.values().any(|p| !p.retire.is_empty());
            self.wake_at = plans.values().filter_map(|p| p.wake_at).min();
            for (set, plan) in plans {
                self.carry_out(&set, plan);
            }
            if !retired {
                break;
            }
        }
        self.check_that_nothing_changes_by_itself();
    }

    fn carry_out(&mut self, set: &SetName, plan: Plan) {
        self.queues.get_mut(set).unwrap().capacity = plan.capacity;
        let world = self.world.sets.get_mut(set).unwrap();
        for purpose in plan.create {
            self.made += 1;
            let name = RunnerName::new(&format!("{set}-{}", self.made));
            let runner = Runner::decided(name.clone(), purpose, self.now, world.kind);
            world.runners.insert(name.clone(), runner);
            let start = Start {
                set: set.clone(),
                stage: Stage::Asked,
            };
            self.starts.insert(name, start);
        }
        for name in plan.retire {
            world.runners.get_mut(&name).unwrap().retire(self.now);
        }
        for (name, call) in plan.calls {
            let runner = world.runners.get_mut(&name).unwrap();
            runner.begin(call);
            let runs = |p: &PodFacts| matches!(p.progress, PodProgress::Running { .. });
            let looks_running = runner.pod.as_ref().is_some_and(runs);
            self.calls.push((set.clone(), name, call, looks_running));
        }
    }

    fn check(&self, plans: &BTreeMap<SetName, Plan>) {
        let mut total = 0;
        let mut made = 0;
        for (name, plan) in plans {
            let set = &self.world.sets[name];
            let tally = Tally::of(set);
            let create = u32::try_from(plan.create.len()).unwrap();
            total += tally.live + create;
            made += create;
            assert!(!plan.reasons.is_empty(), "{name}: no reason");
            assert!(plan.capacity <= set.max_runners, "{name}: capacity {}", plan.capacity);
            for (runner, call) in &plan.calls {
                let busy = set.runners[runner].is_busy();
                assert!(!busy || *call == Call::MarkBusy, "{runner} is busy: {call:?}");
            }
            if create == 0 {
                continue;
            }
            assert!(self.world.synced && !self.world.draining && set.session == Session::Polling);
            assert!(tally.live + create <= set.max_runners, "{name}: above its maximum");
            let told = set.demand.reading().map_or(0, |r| r.assigned + r.available);
            let told = u32::try_from(told).unwrap() + set.min_runners;
            assert!(
                tally.covering + create <= told,
                "{name}: {create} more than demand as told"
            );
        }
        let max = self.world.max_runners.unwrap_or(u32::MAX);
        assert!(made == 0 || total <= max, "{total} of {max} in all");
    }

    /// Until the plan says so, time alone changes nothing.
    fn check_that_nothing_changes_by_itself(&self) {
        let before = plan(&self.world, self.now);
        let Some(wake) = before.values().filter_map(|p| p.wake_at).min() else {
            return;
        };
        let just_before = wake - Duration::from_millis(1);
        if just_before > self.now {
            let mut later = self.world.clone();
            assert_eq!(later.advance(just_before), []);
            assert_eq!(plan(&later, just_before), before);
        }
    }

    // ---- Peace --------------------------------------------------------------------------------------

    /// Faults end, everything is answered, jobs finish. Returns whether all came to rest within `limit`.
    pub(super) fn settle(&mut self, limit: Duration) -> bool {
        let end = self.now + limit;
        while self.now < end {
            self.tick();
            if self.is_at_rest() {
                return true;
            }
        }
        false
    }

    fn tick(&mut self) {
        let next = self.now + Duration::from_secs(5);
        self.now = self.wake_at.filter(|at| *at > self.now).map_or(next, |at| at.min(next));
        for _ in 0..self.starts.len() * 3 {
            self.advance_start(false);
        }
        for name in self.pods.keys().cloned().collect::<Vec<_>>() {
            self.move_pod(&name);
        }
        self.github_works();
        while self.queues.values().any(|q| !q.messages.is_empty()) {
            self.deliver();
        }
        while !self.sights.is_empty() {
            self.show();
        }
        for _ in 0..self.calls.len() {
            self.answer(false);
        }
        if self.now.since(self.listed) >= Duration::from_secs(15) {
            self.listed = self.now;
            self.list_agents();
        }
        if self.now.since(self.read) >= Duration::from_secs(30) {
            self.read = self.now;
            for set in self.world.sets.keys().cloned().collect::<Vec<_>>() {
                self.world.read(self.now, self.now, &set, self.reading(&set));
            }
            for job in 0..self.jobs.len() {
                self.finish(job, 0);
            }
        }
        self.github_works();
        self.act();
    }

    /// Every job is over, and what is left are the spare runners, online, with one registration each.
    fn is_at_rest(&self) -> bool {
        let runners = || self.world.sets.values().flat_map(|s| s.runners.values());
        let spare: u32 = self.world.sets.values().map(|s| s.min_runners.min(s.max_runners)).sum();
        let total = self.world.max_runners.unwrap_or(u32::MAX);
        let spare = usize::try_from(spare.min(total)).unwrap().min(self.quota);
        self.jobs.iter().all(|(_, j)| *j == JobState::Over)
            && runners().all(|r| r.idle_since().is_some())
            && runners().count() == spare
            && self.agents.len() == spare
            && self.records.len() == spare
            && self.pods.len() == spare
    }

    /// What is left, for the message of a walk that does not come to rest.
    pub(super) fn rest(&self) -> String {
        let open: Vec<_> = self.jobs.iter().filter(|(_, j)| *j != JobState::Over).collect();
        let plans = plan(&self.world, self.now);
        format!(
            "jobs {open:?}\nrunners {:#?}\nagents {:?}\nrecords {:?}\npods {:?}\nhurdles {:?}\nplans {plans:?}",
            self.world.sets.values().map(|s| &s.runners).collect::<Vec<_>>(),
            self.agents,
            self.records,
            self.pods,
            self.world.hurdles
        )
    }
}
