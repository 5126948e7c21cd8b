//! The words of a runner's life: what is heard of it, what it may fail of, what is called for it.

use std::time::Duration;

use super::super::Moment;

/// Why a runner failed. Stable codes, for metrics, events and status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    JitTimeout,
    NotLeader,
    JitRefused,
    StartPanicked,
    PodRefused,
    SecretRefused,
    LostSecret,
    Scheduling,
    ImagePull,
    Registration,
    PendingTotal,
    RegistrationLost,
    /// It was online and waited for a job, and GitHub heard of it no more.
    WentOffline,
    /// Its pod failed before its container `runner` began.
    NotStarted,
    CrashedBeforeJob,
    OutOfMemory,
    Evicted,
    PodDeleted,
    Deprecated,
    ExitedWithoutJob,
    TotalLifetime,
}

impl Failure {
    /// It was none of the runner's own doing.
    pub fn is_taken_away(self) -> bool {
        matches!(self, Self::Evicted | Self::PodDeleted | Self::RegistrationLost)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::JitTimeout => "jit_timeout",
            Self::NotLeader => "not_leader",
            Self::JitRefused => "jit_refused",
            Self::StartPanicked => "start_panicked",
            Self::PodRefused => "pod_refused",
            Self::SecretRefused => "secret_refused",
            Self::LostSecret => "lost_secret",
            Self::Scheduling => "scheduling_timeout",
            Self::ImagePull => "image_pull_timeout",
            Self::Registration => "registration_timeout",
            Self::PendingTotal => "pending_timeout",
            Self::RegistrationLost => "registration_lost",
            Self::WentOffline => "went_offline",
            Self::NotStarted => "failed_to_start",
            Self::CrashedBeforeJob => "crashed_before_job",
            Self::OutOfMemory => "out_of_memory",
            Self::Evicted => "evicted",
            Self::PodDeleted => "pod_deleted",
            Self::Deprecated => "runner_deprecated",
            Self::ExitedWithoutJob => "exited_without_job",
            Self::TotalLifetime => "total_timeout",
        }
    }

    /// Whether the set's template or image is likely at fault, so that the next runner would fail too: such
    /// failures make the set back off. `early`: the runner was hardly there.
    pub fn speaks_against_set(self, early: bool) -> bool {
        (early && self.is_taken_away())
            || matches!(
                self,
                Self::Scheduling
                    | Self::ImagePull
                    | Self::Registration
                    | Self::PendingTotal
                    | Self::WentOffline
                    | Self::NotStarted
                    | Self::CrashedBeforeJob
                    | Self::OutOfMemory
                    | Self::Deprecated
                    | Self::ExitedWithoutJob
            )
    }
}

/// How a pod died under its job. No failure of the set's: the next runner is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Died {
    OutOfMemory,
    /// Evicted, or its node was lost.
    Evicted,
    /// Its container ended with another code than 0; some runners say with it that their job failed.
    ExitCode,
}

impl Died {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OutOfMemory => "out_of_memory_under_job",
            Self::Evicted => "evicted_under_job",
            Self::ExitCode => "exit_code_under_job",
        }
    }
}

/// A failed pod that is kept for people to look at. It is no capacity any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// [`Failure::as_str`] or [`Died::as_str`].
    pub reason: String,
    pub since: Moment,
    pub until: Moment,
}

/// What a pod looks like from outside: all that the daemon keeps of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    pub uid: String,
    /// The API server's resource version; empty where it was not told.
    pub version: String,
    pub created: Moment,
    pub progress: PodProgress,
    /// Somebody asked for its deletion.
    pub deleting: bool,
    /// Bound to a node: its deletion waits for the kubelet unless it has ended.
    pub bound: bool,
    /// What Kubernetes says of its trouble, if it has any: one line, redacted.
    pub says: Option<String>,
}

impl PodFacts {
    /// It runs or is about to, and nobody has asked for its deletion.
    pub fn is_live(&self) -> bool {
        !self.deleting && !matches!(self.progress, PodProgress::Ended(_))
    }
}

/// How far the container `runner` has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodProgress {
    Unscheduled,
    /// On a node since then; images, volumes, init containers.
    Preparing {
        since: Moment,
    },
    Running {
        since: Moment,
    },
    /// The container terminated, or the pod ended without it.
    Ended(PodEnd),
}

impl PodProgress {
    /// As it is seen now. By a clock of the cluster's that is ahead of ours it would be from the future, and so would its
    /// deadline; what was seen so `before` is as old as it was then.
    pub(super) fn seen(self, now: Moment, before: Option<&Self>) -> Self {
        match (self, before) {
            (Self::Preparing { since }, Some(Self::Preparing { since: before })) => Self::Preparing {
                since: since.min(*before),
            },
            (Self::Running { since }, Some(Self::Running { since: before })) => Self::Running {
                since: since.min(*before),
            },
            (Self::Preparing { since }, _) => Self::Preparing { since: since.min(now) },
            (Self::Running { since }, _) => Self::Running { since: since.min(now) },
            (other, _) => other,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEnd {
    /// `None`: the pod ended without the container's status (evicted, node lost).
    pub exit_code: Option<i32>,
    /// Kubernetes' word: `Completed`, `Error`, `OOMKilled`, `Evicted`, ...
    pub reason: String,
}

/// The job that `JobStarted` bound to a runner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    pub id: String,
    pub request_id: i64,
    pub repository: String,
    pub display_name: String,
    pub workflow_ref: String,
    pub workflow_run_id: i64,
}

impl Job {
    /// Both are known, and not the same.
    pub(super) fn is_another(&self, than: &Self) -> bool {
        !self.id.is_empty() && !than.id.is_empty() && self.id != than.id
    }
}

/// Where a runner is registered, beside where its set is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Here,
    /// Where the set was before: it gets no job of the set's any more.
    Elsewhere,
    /// The same, by an earlier process: no list that we can have tells of its job.
    OutOfReach,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A job may start on it at any moment: not safe to evict.
    Demand,
    /// One of `minRunners`: safe to evict until it is busy.
    Spare,
}

/// How a runner was made: the same for every runner of a set, until its binding or provisioner is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The provisioner keeps records of its own, which must be taken back.
    pub has_record: bool,
    pub meets: Meets,
    /// Failed pods stay so long for people to look at.
    pub keep_failed: Option<Duration>,
}

/// How a runner meets its job: who tells of it, and who can prove that there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meets {
    /// Registered with the set: the queue tells of its job, and the Actions service refuses to remove it then.
    InSet,
    /// An ordinary runner with the set's labels. Only the agents list shows that it is busy, and only its
    /// provisioner's word that it has removed it (GitHub refuses a busy one) proves that it is not.
    ByLabels,
}

/// A call about one runner, to be made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// `DELETE agents/{id}`: refused while the runner is busy.
    RemoveAgent,
    DeletePod,
    /// Writes on a failed pod why it failed and how long it is kept, and ends what still runs in it.
    KeepPod,
    /// `DELETE` at GHARTS.
    RemoveRecord,
    /// Labels and annotations of the job.
    MarkBusy,
    /// `dryRun` create of the Secret: 201 says that it is missing.
    CheckSecret,
}

/// What the executor reports of a [`Call`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallResult {
    Done,
    /// `RemoveRecord`: there was none, so that nobody looked whether it executes a job.
    Gone,
    /// `RemoveAgent`, `RemoveRecord`: it executes a job.
    Busy,
    /// `CheckSecret`: there is none.
    Missing,
    /// The API server does not let us.
    Forbidden,
    Failed,
}

/// How an agents list shows one runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentSight {
    Absent,
    Offline,
    Online { busy: bool },
}

/// What a step in a runner's life means to its set: for metrics, logs, back-off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    Failed(Failure),
    Registered,
    JobStarted,
    /// It has ended, and its registration went with its job: it had one, of which nobody told.
    HadJob,
    Ended,
}

/// What the pod of an adopted runner tells beside its facts.
#[derive(Clone, Debug)]
pub struct Adopted {
    pub pod: PodFacts,
    pub agent_id: Option<i64>,
    pub gharts_id: Option<String>,
    pub job: Option<Job>,
    /// It had failed before, and is kept.
    pub kept: Option<Kept>,
    /// `None`: made before pods said so.
    pub meets: Option<Meets>,
}

impl Adopted {
    /// How it was made; what its pod does not say is as its set's runners are made now.
    pub(super) fn kind(&self, of_set: Kind) -> Kind {
        let recorded = self.gharts_id.is_some();
        match self.meets {
            Some(meets) => Kind {
                has_record: recorded,
                meets,
                ..of_set
            },
            None => Kind {
                has_record: recorded || of_set.has_record,
                ..of_set
            },
        }
    }
}

/// How well a set's queue is heard: an ended runner is judged by what its queue does not say, so only while it
/// speaks to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hearing {
    /// Without a break since then.
    pub since: Moment,
    /// The newest poll that was answered.
    pub last: Moment,
}

impl Default for Hearing {
    /// Always and everything.
    fn default() -> Self {
        Self {
            since: Moment::START,
            last: Moment::from_millis(i64::MAX),
        }
    }
}
