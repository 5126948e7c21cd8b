//! A plan: the shape of a world, the jobs that come, and what goes wrong when. Plain data, so that it can be drawn from
//! a seed, printed, replayed from a file, and made shorter while it still shows what it shows.

mod fault;

pub use fault::{ApiTrouble, Blow, Edit, Fault, GhartsCall, GhartsTrouble, Ill, KINDS, Moment, Peer, PodTrouble};
pub(in crate::sim::hunt) use fault::{LEASE_RESOURCE, LEASES, THIEF, USURPER};

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::sim::{
    gharts::Flavour,
    github::{AssignedJobsRunOn, Flow},
    world::{Binding, Credential, Provisioner},
};

/// One run, whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Plan {
    pub seed: u64,
    pub shape: Shape,
    pub jobs: Vec<Arrival>,
    pub faults: Vec<Timed>,
}

/// What the world is like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Shape {
    pub flavour: Flavour,
    pub flow: Flow,
    pub assigned_jobs_run_on: AssignedJobsRunOn,
    pub credential: Credential,
    pub sets: Vec<SetShape>,
    /// Over all sets.
    pub max_runners: Option<u32>,
    /// Runners that GHARTS gives.
    pub quota: Option<u32>,
    /// GHARTS answers as slowly as a real one.
    pub slow_gharts: bool,
    /// From a pod's binding to its process, and from the job's end to the pod's.
    pub start_ms: u64,
    pub exit_ms: u64,
    /// The daemon's clock beside everybody else's.
    pub skew_seconds: i64,
    /// A second replica, whose clock is so far from the first one's.
    #[serde(default)]
    pub second_replica: Option<i64>,
    /// GitHub's queue knows of a job's start and end so much later, at most.
    #[serde(default)]
    pub told_late_ms: u64,
    /// GHARTS' clock beside that of the cluster, whose tokens it is shown.
    #[serde(default)]
    pub gharts_skew_seconds: i64,
    /// GitHub's answers travel so long, at most.
    #[serde(default)]
    pub latency_ms: u64,
    /// So do the API server's.
    #[serde(default)]
    pub api_latency_ms: u64,
    /// One call to GHARTS at a time.
    #[serde(default)]
    pub narrow_gharts: bool,
    /// From a change to what watches tell of it, at most.
    #[serde(default)]
    pub events_late_ms: u64,
    /// The second replica's file changes so much later than the first one's, as ConfigMaps do from node to node.
    #[serde(default)]
    pub second_file_late_ms: u64,
    /// A runner that GitHub refuses ends with 0, as its usual wrapper has it, and not with 1.
    #[serde(default)]
    pub refused_ends_well: bool,
    /// Runners go on for so long when their pods are deleted.
    #[serde(default)]
    pub grace_ms: u64,
    /// GitHub's tokens are good for so long; `None`: for an hour.
    #[serde(default)]
    pub tokens_live_s: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetShape {
    pub name: String,
    pub provisioner: Provisioner,
    pub binding: Binding,
    pub min: u32,
    pub max: u32,
    /// `timeouts.idle`. `None`: the daemon's default.
    #[serde(default)]
    pub idle_seconds: Option<u32>,
    /// `keepFailed`.
    #[serde(default)]
    pub keep_failed_seconds: Option<u32>,
}

impl Shape {
    /// Whether the set's runners can be made and get its jobs, in this world with this GHARTS.
    pub fn serves(&self, set: &SetShape) -> bool {
        match (set.provisioner, set.binding) {
            (Provisioner::ScaleSet, _) | (_, Binding::LabelsAvailable) => true,
            (_, Binding::Auto | Binding::ScaleSet) => self.flavour == Flavour::SetAware,
            (_, Binding::LabelsAssigned) => self.assigned_jobs_run_on == AssignedJobsRunOn::MatchingLabels,
            (_, Binding::RegistrationToken) => self.flavour == Flavour::User,
        }
    }
}

/// Jobs that come at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Arrival {
    pub at_ms: u64,
    /// Index of the set.
    pub set: usize,
    pub count: usize,
    pub lasting_ms: u64,
    pub exit_code: i32,
    /// Whoever wants them takes those back that have not started by then.
    #[serde(default)]
    pub cancelled_after_ms: Option<u64>,
}

/// A fault, from `at_ms` on for `for_ms`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timed {
    pub at_ms: u64,
    pub for_ms: u64,
    #[serde(flatten)]
    pub fault: Fault,
}

impl Timed {
    pub fn ends_ms(&self) -> u64 {
        self.at_ms + self.for_ms
    }
}

/// Milliseconds as seconds.
pub(super) fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape = &self.shape;
        write!(
            f,
            "seed {}: {:?} GHARTS, {:?} flow, {:?} credential, assigned jobs run on {:?}",
            self.seed, shape.flavour, shape.flow, shape.credential, shape.assigned_jobs_run_on
        )?;
        if let Some(max) = shape.max_runners {
            write!(f, ", at most {max} runners")?;
        }
        if let Some(quota) = shape.quota {
            write!(f, ", quota {quota}")?;
        }
        if shape.slow_gharts {
            f.write_str(", slow GHARTS")?;
        }
        writeln!(
            f,
            ", pods start in {} ms and end in {} ms, skew {} s",
            shape.start_ms, shape.exit_ms, shape.skew_seconds
        )?;
        if shape.latency_ms > 0 {
            writeln!(f, "  GitHub's answers travel up to {} ms", shape.latency_ms)?;
        }
        if shape.narrow_gharts {
            writeln!(f, "  one call to GHARTS at a time")?;
        }
        if shape.api_latency_ms > 0 || shape.events_late_ms > 0 {
            writeln!(
                f,
                "  the API server's answers take up to {} ms, its events {} ms",
                shape.api_latency_ms, shape.events_late_ms
            )?;
        }
        if shape.told_late_ms > 0 {
            writeln!(
                f,
                "  the queue knows of a job's start and end up to {} ms later",
                shape.told_late_ms
            )?;
        }
        if shape.gharts_skew_seconds != 0 {
            writeln!(
                f,
                "  GHARTS' clock is {} s ahead of everybody's",
                shape.gharts_skew_seconds
            )?;
        }
        if let Some(skew) = shape.second_replica {
            writeln!(
                f,
                "  a second replica, its clock {skew} s ahead of everybody's, its file {} s behind",
                seconds(shape.second_file_late_ms)
            )?;
        }
        if shape.refused_ends_well {
            writeln!(f, "  runners whom GitHub refuses end with exit code 0")?;
        }
        if shape.grace_ms > 0 {
            writeln!(
                f,
                "  runners go on for {} s when their pods are deleted",
                seconds(shape.grace_ms)
            )?;
        }
        if let Some(seconds) = shape.tokens_live_s {
            writeln!(f, "  GitHub's tokens are good for {seconds} s")?;
        }
        for (index, set) in shape.sets.iter().enumerate() {
            writeln!(
                f,
                "  set {index} {}: {:?}, binding {:?}, {}..{} runners, idle for {:?} s, failed ones kept for {:?} s",
                set.name, set.provisioner, set.binding, set.min, set.max, set.idle_seconds, set.keep_failed_seconds
            )?;
        }
        for jobs in &self.jobs {
            writeln!(
                f,
                "  at {} s: {} jobs of {} s for set {}, exit code {}, {}",
                seconds(jobs.at_ms),
                jobs.count,
                seconds(jobs.lasting_ms),
                jobs.set,
                jobs.exit_code,
                jobs.cancelled_after_ms
                    .map_or("kept".to_owned(), |ms| format!("cancelled after {} s", seconds(ms)))
            )?;
        }
        for timed in &self.faults {
            writeln!(
                f,
                "  at {} s for {} s: {}",
                seconds(timed.at_ms),
                seconds(timed.for_ms),
                timed.fault
            )?;
        }
        Ok(())
    }
}
