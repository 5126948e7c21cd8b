//! The whole planner: shared limits, hurdles and reasons one by one, then random walks.

mod blame;
mod former;
mod limits;
mod outside;
mod probes;
mod shares;
mod surplus;
mod walk;

use super::*;
use crate::{
    config::{Retry, Timeouts},
    plan::{
        demand::{Demand, Reading},
        runner::{Hearing, Kind, Meets, PodFacts, PodProgress, Runner},
        world::Session,
    },
};

/// A runner of a set, with a record at its provisioner.
const KIND: Kind = Kind {
    has_record: true,
    meets: Meets::InSet,
    keep_failed: None,
};

fn at(secs: i64) -> Moment {
    Moment::from_millis(secs * 1000)
}

/// A world that has been read, without limits over all sets.
fn world(sets: impl IntoIterator<Item = SetWorld>) -> World {
    World {
        sets: sets.into_iter().map(|s| (s.name.clone(), s)).collect(),
        synced: true,
        ..World::default()
    }
}

/// A set that polls, of at most 10 runners, whose provisioner takes 4 requests at once.
pub(super) fn set(name: &str) -> SetWorld {
    SetWorld {
        name: SetName::new(name),
        min_runners: 0,
        max_runners: 10,
        timeouts: Timeouts::default(),
        retry: Retry::default(),
        provisioner: "gharts".into(),
        account: "gharts, team".into(),
        in_flight_max: 4,
        kind: KIND,
        session: Session::Polling,
        demand: Demand::default(),
        runners: BTreeMap::new(),
        heard: None,
        hearing: Some(Hearing::default()),
        deaf: false,
        mismatched: None,
        taken: None,
        lists_tell: false,
        worked: None,
        left: Default::default(),
        started: None,
        unlisted: false,
        refused: None,
        surplus_since: None,
        removed: false,
        changed: None,
        template: String::new(),
    }
}

fn assigned(n: i64) -> Reading {
    Reading {
        assigned: n,
        ..Reading::default()
    }
}

fn available(n: i64) -> Reading {
    Reading {
        available: n,
        ..Reading::default()
    }
}

impl SetWorld {
    fn with(mut self, now: i64, reading: Reading) -> Self {
        self.demand.read(at(now), at(now), reading);
        self
    }

    /// Adds `n` runners whose JIT requests are under way since `now`.
    fn with_decided(mut self, n: u32, now: i64) -> Self {
        for _ in 0..n {
            let name = RunnerName::new(&format!("{}-{}", self.name, self.runners.len()));
            let runner = Runner::decided(name.clone(), Purpose::Demand, at(now), self.kind);
            self.runners.insert(name, runner);
        }
        self
    }

    /// Adds `n` runners online and idle since `now`.
    fn with_idle(mut self, n: u32, now: i64) -> Self {
        for _ in 0..n {
            let before = self.runners.len();
            self = self.with_decided(1, now);
            let name = RunnerName::new(&format!("{}-{before}", self.name));
            let runner = self.runners.get_mut(&name).unwrap();
            runner.granted(Some(1), None);
            runner.pod_created(at(now), "u");
            runner.started();
            runner.pod_seen(at(now), running(now));
            runner.agent_seen(at(now), at(now), runner::AgentSight::Online { busy: false }, None);
        }
        self
    }
}

fn running(since: i64) -> PodFacts {
    PodFacts {
        uid: "u".into(),
        version: String::new(),
        created: at(since),
        progress: PodProgress::Running { since: at(since) },
        deleting: false,
        bound: true,
        says: None,
    }
}

fn plan_of(world: &World, name: &str, now: i64) -> Plan {
    plan(world, at(now)).remove(&SetName::new(name)).unwrap()
}

fn created(world: &World, name: &str, now: i64) -> usize {
    plan_of(world, name, now).create.len()
}

fn codes(plan: &Plan) -> Vec<&'static str> {
    plan.reasons.iter().map(|r| r.code.as_str()).collect()
}
