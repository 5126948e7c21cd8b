//! The live view: one line for each step of each job, or a count where there are many.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Write as _,
};

use jiff::Timestamp;

use super::super::output;
use crate::{
    sim::{
        github::{JobHandle, JobState, JobView},
        serve::Served,
    },
    status::{ReasonStatus, Status},
};

/// More jobs than this are counted, not told one by one.
const MOST_TOLD: usize = 40;
/// Ticks between two counts.
const COUNT_TICKS: u32 = 20;

pub(super) struct View<'a> {
    served: &'a Served,
    shown: bool,
    one_by_one: bool,
    /// Number and last told state of each job.
    told: HashMap<String, (usize, JobState)>,
    bindings: BTreeSet<(String, String)>,
    reasons: BTreeSet<(String, String)>,
    begun: Option<Timestamp>,
    ticks: u32,
}

impl<'a> View<'a> {
    pub(super) fn new(served: &'a Served, shown: bool, jobs: usize) -> Self {
        Self {
            served,
            shown,
            one_by_one: jobs <= MOST_TOLD,
            told: HashMap::new(),
            bindings: BTreeSet::new(),
            reasons: BTreeSet::new(),
            begun: None,
            ticks: 0,
        }
    }

    pub(super) fn say(&self, text: &str) {
        if self.shown {
            output::text(text);
        }
    }

    /// Tells a binding when it is decided, and what limits a set when that is worth a word.
    pub(super) fn status(&mut self, status: &Status) {
        for set in &status.scale_sets {
            if self.bindings.insert((set.name.clone(), set.binding.clone())) {
                self.say(&format!("          {}: binding {}\n", set.name, set.binding));
            }
            for reason in &set.reasons {
                let told = matches!(reason.code.as_str(), "demand_met" | "starting" | "draining");
                if !told && self.reasons.insert((set.name.clone(), reason.code.clone())) {
                    self.say(&format!(
                        "          {}: {} ({})\n",
                        set.name, reason.code, reason.message
                    ));
                }
            }
        }
    }

    pub(super) fn jobs(&mut self, jobs: &[JobHandle]) {
        self.ticks += 1;
        if !self.shown {
            return;
        }
        if !self.one_by_one {
            if self.ticks.is_multiple_of(COUNT_TICKS) {
                self.count();
            }
            return;
        }
        let mut text = String::new();
        for (number, handle) in jobs.iter().enumerate() {
            if let Some(job) = self.served.world.services.github.job(&handle.id) {
                self.steps(number + 1, &job, &mut text);
            }
        }
        self.say(&text);
    }

    fn count(&self) {
        let world = &self.served.world;
        let jobs = world.services.github.jobs();
        let of = |state: JobState| jobs.iter().filter(|job| job.state == state).count();
        self.say(&format!(
            "  queued {:4}   assigned {:4}   running {:4}   finished {:4}   live runners {:4}\n",
            of(JobState::Queued),
            of(JobState::Assigned),
            of(JobState::Running),
            of(JobState::Finished),
            world.counters.live(),
        ));
    }

    fn steps(&mut self, number: usize, job: &JobView, text: &mut String) {
        let begun = *self.begun.get_or_insert(job.queued);
        let before = self.told.insert(job.id.clone(), (number, job.state)).map(|told| told.1);
        if before == Some(job.state) {
            return;
        }
        let mut line = |at: Timestamp, step: &str| {
            let set = job.set.as_deref().unwrap_or("-");
            let _ = writeln!(text, "{:7.2} s  job {number:<3} {set:<12} {step}", seconds(begun, at));
        };
        if before.is_none() {
            line(job.queued, "queued");
        }
        if let (Some(started), true) = (job.started, !has_started(before)) {
            line(started, &format!("running    {}", self.served.way(job)));
        }
        if let Some(finished) = job.finished {
            let result = job.result.as_deref().unwrap_or("?");
            let took = job.started.map_or(0.0, |started| seconds(started, finished));
            line(finished, &format!("finished   {result} after {took:.2} s"));
        }
    }

    pub(super) fn unserved(&self, reasons: &[ReasonStatus]) {
        for reason in reasons {
            self.say(&format!("\n{}: {}\n", reason.code, reason.message));
            if let Some(remedy) = &reason.remedy {
                self.say(&format!("  help: {remedy}\n"));
            }
        }
    }
}

fn has_started(state: Option<JobState>) -> bool {
    matches!(state, Some(JobState::Running | JobState::Finished))
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

impl Served {
    /// The way of a job's runner, each step with its time since the one before.
    fn way(&self, job: &JobView) -> String {
        let Some(runner) = &job.runner else {
            return String::new();
        };
        let asked = self.witness.runner(runner);
        let steps = [
            ("requested", asked.map(|asked| asked.requested)),
            ("granted", asked.and_then(|asked| asked.granted)),
            ("pod", self.world.counters.pod(runner).map(|pod| pod.created)),
            ("registered", self.world.services.github.connected(runner)),
            ("running", job.started),
        ];
        let mut last = job.queued;
        let mut text = format!("on {runner}:");
        for (step, at) in steps {
            let Some(at) = at else { continue };
            let _ = write!(text, " {step} +{:.0} ms", (seconds(last, at) * 1000.0).max(0.0));
            last = at;
        }
        text
    }
}
