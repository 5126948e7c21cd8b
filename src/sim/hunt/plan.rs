//! A plan: the shape of a world, the jobs that come, and what goes wrong when. Plain data, so that it can be drawn from
//! a seed, printed, replayed from a file, and made shorter while it still shows what it shows.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::sim::{
    gharts::Flavour,
    github::{AssignedJobsRunOn, Flow, Lie, Limit, Limited},
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Peer {
    GitHub,
    Gharts,
}

/// What a request to the API server meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ApiTrouble {
    AnswerLost,
    Unauthorized,
    Unavailable,
    Internal,
    Throttled,
    Slow,
    Hang,
    /// The answer begins, and never comes to its end.
    Silent,
    Conflict,
    Invalid,
}

/// What becomes of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PodTrouble {
    Unschedulable,
    ImagePullFails,
    NeverRegisters,
    Crashes,
    /// Exit code 0, and it has never run a job.
    EndsWell,
    /// It waits for a job for a while, and then ends with exit code 0.
    Leaves,
    Deprecated,
}

/// What strikes one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Blow {
    Evicted,
    OutOfMemory,
    NodeLost,
    DeletedByHand,
    SecretDeleted,
    /// Its registration is removed by an administrator.
    Unregistered,
}

/// What befalls a call to GHARTS inside the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum GhartsCall {
    Jit,
    Token,
    Delete,
    List,
    Get,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum GhartsTrouble {
    Refused,
    AnswerLost,
    AnswerSpoiled,
    Unrecorded,
}

/// What ails something that GHARTS needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ill {
    Fails,
    Slow,
    Lost,
}

/// Where the daemon is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Moment {
    BeforeCall,
    AfterCall,
    AtStep,
}

/// A change of the daemon's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Edit {
    MaxRunners {
        set: usize,
        max: u32,
    },
    MinRunners {
        set: usize,
        min: u32,
    },
    /// Over all sets.
    TotalRunners {
        max: Option<u32>,
    },
    Template {
        set: usize,
    },
    /// One more, with jobs.
    SetAdded,
    SetRemoved {
        set: usize,
    },
    /// Nothing that a daemon takes over.
    Wrong,
}

/// Everything that can go wrong. `call` is part of `METHOD /path`; empty: every one. `nth` picks one of those that are
/// there, in the order of their names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Fault {
    // On the way to GitHub and GHARTS.
    Latency {
        peer: Peer,
        call: String,
        ms: u64,
    },
    ResetBefore {
        peer: Peer,
        call: String,
        times: u32,
    },
    ResetAfter {
        peer: Peer,
        call: String,
        times: u32,
    },
    ClientError {
        peer: Peer,
        call: String,
        status: u16,
        times: u32,
    },
    ServerError {
        peer: Peer,
        call: String,
        status: u16,
        times: u32,
    },
    TooManyRequests {
        peer: Peer,
        call: String,
        retry_after: Option<u32>,
        times: u32,
    },
    ForeignBody {
        peer: Peer,
        call: String,
        #[serde(default = "ok")]
        status: u16,
        times: u32,
    },
    TruncatedBody {
        peer: Peer,
        call: String,
        times: u32,
    },
    Hang {
        peer: Peer,
        call: String,
        times: u32,
    },
    Absent {
        peer: Peer,
    },
    /// A job for the set comes while such a call is on its way.
    JobMeets {
        peer: Peer,
        call: String,
        set: usize,
        ms: u64,
        times: u32,
    },
    // GitHub.
    TokensRevoked,
    QueueTokenExpired {
        set: usize,
    },
    PatRefused,
    RateLimit {
        whom: Limited,
        how: Limit,
    },
    SessionLost {
        set: usize,
    },
    SessionStolen {
        set: usize,
    },
    SetDeleted {
        set: usize,
    },
    MessagesTwice {
        set: usize,
    },
    MessagesReordered,
    MessageIdsRestarted {
        set: usize,
    },
    WrongStatistics {
        lie: Lie,
    },
    JobCancelled {
        nth: usize,
    },
    AssignmentDropped {
        nth: usize,
    },
    // Kubernetes.
    WatchCut,
    HistoryCompacted,
    ApiOutage,
    ApiTrouble {
        verb: String,
        resource: String,
        how: ApiTrouble,
        times: u32,
        everybody: bool,
    },
    ResourceQuota {
        pods: u32,
    },
    RightsLost,
    LeaseDeleted,
    // Pods and nodes.
    PodsFail {
        how: PodTrouble,
        percent: u32,
    },
    PodStruck {
        how: Blow,
        nth: usize,
    },
    PodsStuckTerminating {
        ms: u64,
    },
    // GHARTS.
    Quota {
        places: u32,
    },
    PlacesTaken {
        places: u32,
    },
    PolicyChanged,
    TeamDeactivated,
    NotAMember,
    UserDeactivated,
    Frozen,
    GhartsFails {
        call: GhartsCall,
        how: GhartsTrouble,
        times: u32,
    },
    GhartsSeesNoGitHub {
        how: Ill,
    },
    KeysIll {
        how: Ill,
    },
    /// What the daemon shows GitHub is replaced, and the old one refused at the end.
    SecretRotated,
    /// The daemon's file says something else until its end.
    FileChanged {
        how: Edit,
    },
    // The process. `replica`: 0, or 1 where there is a second one.
    Killed {
        moment: Moment,
        count: u64,
        #[serde(default)]
        replica: usize,
    },
    Restarted {
        skew_seconds: i64,
        #[serde(default)]
        replica: usize,
    },
    /// SIGSTOP, and SIGCONT at its end.
    Paused {
        replica: usize,
    },
    /// This replica alone gets no answers from the API server.
    ClusterLost {
        replica: usize,
    },
    /// Somebody sets the clock of its machine.
    ClockStepped {
        replica: usize,
        seconds: i64,
        /// Nobody sets it right again.
        #[serde(default)]
        stays: bool,
    },
    Panic {
        call: String,
        times: u32,
    },
}

/// Who steals sessions.
pub(super) const THIEF: &str = "a thief";

fn ok() -> u16 {
    200
}

/// Every kind of fault, as [`Fault::kind`] names it.
pub const KINDS: [&str; 52] = [
    "latency",
    "resetBefore",
    "resetAfter",
    "clientError",
    "serverError",
    "tooManyRequests",
    "foreignBody",
    "truncatedBody",
    "hang",
    "absent",
    "jobMeets",
    "tokensRevoked",
    "queueTokenExpired",
    "patRefused",
    "rateLimit",
    "sessionLost",
    "sessionStolen",
    "setDeleted",
    "messagesTwice",
    "messagesReordered",
    "messageIdsRestarted",
    "wrongStatistics",
    "jobCancelled",
    "assignmentDropped",
    "watchCut",
    "historyCompacted",
    "apiOutage",
    "apiTrouble",
    "resourceQuota",
    "rightsLost",
    "leaseDeleted",
    "podsFail",
    "podStruck",
    "podsStuckTerminating",
    "quota",
    "placesTaken",
    "policyChanged",
    "teamDeactivated",
    "notAMember",
    "userDeactivated",
    "frozen",
    "ghartsFails",
    "ghartsSeesNoGitHub",
    "keysIll",
    "secretRotated",
    "fileChanged",
    "killed",
    "restarted",
    "clockStepped",
    "panic",
    "paused",
    "clusterLost",
];

impl Fault {
    /// Whether a daemon may know nothing afterwards of what was refused before.
    pub(super) fn begins_anew(&self) -> bool {
        matches!(
            self,
            Self::Killed { .. }
                | Self::Restarted { .. }
                | Self::Paused { .. }
                | Self::ClusterLost { .. }
                | Self::FileChanged { .. }
        )
    }

    /// As JSON.
    fn fields(&self) -> serde_json::Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(fields)) => fields,
            _ => serde_json::Map::new(),
        }
    }

    /// It happens to a job, as soon as there is one.
    pub(super) fn waits_for_a_job(&self) -> bool {
        matches!(self, Self::JobCancelled { .. } | Self::AssignmentDropped { .. })
    }

    pub fn kind(&self) -> String {
        self.fields()["fault"].as_str().unwrap_or_default().to_owned()
    }

    /// What else tells it from others of its kind: `evicted`, `503`; for the count of what was met.
    pub fn sort(&self) -> String {
        let fields = self.fields();
        let kind = fields["fault"].as_str().unwrap_or_default();
        let how = ["how", "lie", "moment", "status"]
            .iter()
            .find_map(|key| fields.get(*key));
        match how {
            Some(Value::String(how)) => format!("{kind}:{how}"),
            Some(Value::Object(how)) => format!("{kind}:{}", how.keys().next().map_or("", String::as_str)),
            Some(how) => format!("{kind}:{how}"),
            None => kind.to_owned(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = self.fields();
        f.write_str(fields["fault"].as_str().unwrap_or_default())?;
        for (key, value) in fields.iter().filter(|(key, _)| *key != "fault") {
            match value {
                Value::String(text) => write!(f, " {key}={text:?}")?,
                other => write!(f, " {key}={other}")?,
            }
        }
        Ok(())
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
            writeln!(f, "  a second replica, its clock {skew} s ahead of everybody's")?;
        }
        for (index, set) in shape.sets.iter().enumerate() {
            writeln!(
                f,
                "  set {index} {}: {:?}, binding {:?}, {}..{} runners, idle for {:?} s",
                set.name, set.provisioner, set.binding, set.min, set.max, set.idle_seconds
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
