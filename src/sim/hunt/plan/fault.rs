//! Everything that can go wrong.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::sim::github::{Lie, Limit, Limited};

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
    /// 403: an admission refuses this one object.
    Denied,
    /// 404, in JSON.
    NotFound,
    /// 410, likewise.
    Expired,
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
    /// Its runner is ordinary; another container of its pod goes on when that has ended.
    SidecarStays,
    /// It registers and then hangs, before any job.
    FallsSilent,
    /// It runs its job, and its process does not end.
    HangsAfterJob,
    /// It fails before its container `runner` begins.
    InitFails,
    Rejected,
}

/// What strikes one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Blow {
    Evicted,
    OutOfMemory,
    NodeLost,
    /// Its node is cut off from the API server, and comes back at the end.
    NodeAway,
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
    /// Polls are answered at once, without a message: 202, or 200 without a body.
    PollsEmpty {
        status: u16,
        times: u32,
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
    RightsLost {
        /// Those in the daemon's namespace, to its Lease and its tokens, instead of those in the runners'.
        #[serde(default)]
        own: bool,
    },
    /// Every so many-th write has its effect at once, and is answered so much later. `resource`: empty for all.
    WritesAnsweredLate {
        resource: String,
        every: u32,
        ms: u64,
    },
    LeaseDeleted,
    /// Somebody writes another holder into it, who never renews it.
    LeaseTaken,
    // Pods and nodes.
    PodsFail {
        how: PodTrouble,
        percent: u32,
    },
    PodStruck {
        how: Blow,
        nth: usize,
        /// And those after it: a node takes all of its pods along.
        #[serde(default = "one")]
        count: usize,
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
pub(in crate::sim::hunt) const THIEF: &str = "a thief";
/// In the path of every call about it.
pub(in crate::sim::hunt) const LEASES: &str = "/leases/";
/// Who takes the Lease.
pub(in crate::sim::hunt) const USURPER: &str = "somebody-else";

/// The resource of the Lease, as the API server names it.
pub(in crate::sim::hunt) const LEASE_RESOURCE: &str = "leases.coordination.k8s.io";

fn ok() -> u16 {
    200
}

fn one() -> usize {
    1
}

/// Every kind of fault, as [`Fault::kind`] names it.
pub const KINDS: [&str; 55] = [
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
    "pollsEmpty",
    "jobCancelled",
    "assignmentDropped",
    "watchCut",
    "historyCompacted",
    "apiOutage",
    "apiTrouble",
    "resourceQuota",
    "rightsLost",
    "writesAnsweredLate",
    "leaseDeleted",
    "leaseTaken",
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
    pub(in crate::sim::hunt) fn begins_anew(&self) -> bool {
        matches!(
            self,
            Self::Killed { .. }
                | Self::Restarted { .. }
                | Self::Paused { .. }
                | Self::ClusterLost { .. }
                | Self::FileChanged { .. }
        )
    }

    /// Nobody has to do anything otherwise for it: a Lease that is renewed all the same stays where it is.
    pub(in crate::sim::hunt) fn is_no_trouble(&self) -> bool {
        matches!(self, Self::WritesAnsweredLate { resource, .. } if resource == LEASE_RESOURCE)
    }

    /// Whether runners may end under their jobs without the daemon's doing.
    pub(in crate::sim::hunt) fn takes_runners(&self) -> bool {
        matches!(
            self,
            Self::PodsFail { .. } | Self::PodStruck { .. } | Self::SetDeleted { .. }
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
    pub(in crate::sim::hunt) fn waits_for_a_job(&self) -> bool {
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
