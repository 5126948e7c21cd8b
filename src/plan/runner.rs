//! A runner's life, pure: what was seen moves its state, time moves it by deadlines, and [`Runner::due`] says
//! which calls it needs now. The table of the design (section 2) is this file; each row has a test.

use std::time::Duration;

use super::Moment;
use crate::{config::Timeouts, ids::RunnerName};

/// From the decision to the JIT configuration in hand; GHARTS' own worst case is 20 to 30 s.
pub const PROVISIONING: Duration = Duration::from_secs(45);
/// A JIT configuration lives an hour: a pod that has not registered by now never will in time.
pub const PENDING_TOTAL: Duration = Duration::from_mins(50);
/// A removal without an answer is tried again after this.
pub const RETIRING: Duration = Duration::from_secs(30);
/// How long an ended runner stands for the job it ran, and how long we wait to hear of one at all.
pub const VERDICT: Duration = Duration::from_mins(1);
/// First and longest pause between tries of one call about one runner.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_mins(1);
/// A registration absent from this many lists in a row, each begun after the pod was made, is lost.
const LISTS_TO_LOSE: u8 = 2;
/// `runner` exit code of a version that GitHub no longer serves.
pub const EXIT_DEPRECATED: i32 = 7;

/// Why a runner failed. Stable codes, for metrics, events and status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Failure {
    JitTimeout,
    JitRefused,
    PodRefused,
    SecretRefused,
    LostSecret,
    Scheduling,
    ImagePull,
    Registration,
    PendingTotal,
    RegistrationLost,
    CrashedBeforeJob,
    OutOfMemory,
    Evicted,
    PodDeleted,
    Deprecated,
    ExitedWithoutJob,
    TotalLifetime,
}

impl Failure {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::JitTimeout => "jit_timeout",
            Self::JitRefused => "jit_refused",
            Self::PodRefused => "pod_refused",
            Self::SecretRefused => "secret_refused",
            Self::LostSecret => "lost_secret",
            Self::Scheduling => "scheduling_timeout",
            Self::ImagePull => "image_pull_timeout",
            Self::Registration => "registration_timeout",
            Self::PendingTotal => "pending_timeout",
            Self::RegistrationLost => "registration_lost",
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
    /// failures make the set back off.
    pub fn speaks_against_set(self) -> bool {
        matches!(
            self,
            Self::Scheduling
                | Self::ImagePull
                | Self::Registration
                | Self::PendingTotal
                | Self::CrashedBeforeJob
                | Self::OutOfMemory
                | Self::Deprecated
                | Self::ExitedWithoutJob
        )
    }
}

/// What a pod looks like from outside: all that the daemon keeps of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    pub uid: String,
    pub created: Moment,
    pub progress: PodProgress,
    /// Somebody asked for its deletion.
    pub deleting: bool,
    /// Bound to a node: its deletion waits for the kubelet unless it has ended.
    pub bound: bool,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A job may start on it at any moment: not safe to evict.
    Demand,
    /// One of `minRunners`: safe to evict until it is busy.
    Spare,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Provisioning {
        since: Moment,
        granted: bool,
    },
    Pending {
        since: Moment,
    },
    Idle {
        since: Moment,
    },
    Busy {
        since: Moment,
    },
    JobDone {
        since: Moment,
    },
    /// Removal decided; `online` as it was before, `tried`: newest try.
    Retiring {
        since: Moment,
        online: bool,
    },
    Ended {
        at: Moment,
    },
    Failed {
        at: Moment,
        failure: Failure,
    },
}

/// One call that must be made sooner or later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Todo {
    #[default]
    No,
    Due {
        at: Moment,
        tries: u32,
    },
    InFlight {
        tries: u32,
    },
    Done,
}

impl Todo {
    fn demand(&mut self, now: Moment) {
        if *self == Self::No {
            *self = Self::Due { at: now, tries: 0 };
        }
    }

    fn is_due(self, now: Moment) -> bool {
        matches!(self, Self::Due { at, .. } if at <= now)
    }

    fn open(self) -> bool {
        matches!(self, Self::Due { .. } | Self::InFlight { .. })
    }

    fn due_at(self) -> Option<Moment> {
        match self {
            Self::Due { at, .. } => Some(at),
            _ => None,
        }
    }

    /// The call is under way.
    pub fn begin(&mut self) {
        if let Self::Due { tries, .. } = *self {
            *self = Self::InFlight { tries };
        }
    }

    /// The call failed: once more, later and later.
    fn again(&mut self, now: Moment) {
        let tries = match *self {
            Self::InFlight { tries } | Self::Due { tries, .. } => tries + 1,
            Self::No | Self::Done => 1,
        };
        let pause = RETRY_FIRST.saturating_mul(1 << tries.min(10)).min(RETRY_LONGEST);
        *self = Self::Due { at: now + pause, tries };
    }
}

/// A call about one runner, to be made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// `DELETE agents/{id}`: refused while the runner is busy.
    RemoveAgent,
    DeletePod,
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
    /// `RemoveAgent`, `RemoveRecord`: it executes a job.
    Busy,
    /// `CheckSecret`: there is none.
    Missing,
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
    Ended,
}

/// One runner.
#[derive(Clone, Debug)]
pub struct Runner {
    pub name: RunnerName,
    pub purpose: Purpose,
    pub state: State,
    /// When it was decided, or its pod made, for adopted ones.
    pub created: Moment,
    pub agent_id: Option<i64>,
    pub gharts_id: Option<String>,
    /// As the watch (or our own create) showed it last; `None` before the pod exists and after it is gone.
    pub pod: Option<PodFacts>,
    pub job: Option<Job>,
    job_completed: bool,
    /// Ended runners only: stands for its job until the news of the end has certainly reached us.
    covers: bool,
    absent: u8,
    remove_agent: Todo,
    delete_pod: Todo,
    remove_record: Todo,
    mark_busy: Todo,
    check_secret: Todo,
    /// The provisioner keeps records of its own, which must be taken back.
    has_record: bool,
    /// Its start (JIT, Pod, Secret) is still under way: nothing else may be called for it.
    starting: bool,
}

impl Runner {
    /// A runner whose creation was decided just now.
    pub fn decided(name: RunnerName, purpose: Purpose, now: Moment, has_record: bool) -> Self {
        Self {
            name,
            purpose,
            state: State::Provisioning {
                since: now,
                granted: false,
            },
            created: now,
            agent_id: None,
            gharts_id: None,
            pod: None,
            job: None,
            job_completed: false,
            covers: false,
            absent: 0,
            remove_agent: Todo::No,
            delete_pod: Todo::No,
            remove_record: Todo::No,
            mark_busy: Todo::No,
            check_secret: Todo::No,
            has_record,
            starting: true,
        }
    }

    /// A runner found through its pod after a restart.
    pub fn adopted(name: RunnerName, purpose: Purpose, now: Moment, found: Adopted, has_record: bool) -> Self {
        let mut runner = Self::decided(name, purpose, now, has_record);
        runner.starting = false;
        runner.created = found.pod.created;
        runner.agent_id = found.agent_id;
        runner.gharts_id = found.gharts_id;
        runner.state = if found.job.is_some() {
            State::Busy { since: now }
        } else {
            State::Pending {
                since: found.pod.created,
            }
        };
        if found.job.is_some() {
            runner.mark_busy = Todo::Done;
        }
        runner.job = found.job;
        if matches!(
            found.pod.progress,
            PodProgress::Unscheduled | PodProgress::Preparing { .. }
        ) {
            runner.check_secret.demand(now);
        }
        runner
    }

    // ---- What it counts for -------------------------------------------------------------------------

    /// Counts against limits.
    pub fn is_live(&self) -> bool {
        !matches!(self.state, State::Ended { .. } | State::Failed { .. })
    }

    /// Stands for one job of the demand (or one spare place).
    pub fn covers_job(&self) -> bool {
        match self.state {
            State::Provisioning { .. } | State::Pending { .. } | State::Idle { .. } | State::Busy { .. } => true,
            State::JobDone { .. } | State::Retiring { .. } | State::Failed { .. } => false,
            State::Ended { .. } => self.covers,
        }
    }

    /// JIT request under way.
    pub fn awaits_grant(&self) -> bool {
        matches!(self.state, State::Provisioning { granted: false, .. })
    }

    pub fn is_busy(&self) -> bool {
        matches!(self.state, State::Busy { .. })
    }

    pub fn idle_since(&self) -> Option<Moment> {
        match self.state {
            State::Idle { since } => Some(since),
            _ => None,
        }
    }

    /// May be retired when surplus: since when it waits for work. Runners still asking for their JIT
    /// configuration are not cancelled: cancelling leaks.
    pub fn spare_since(&self) -> Option<(bool, Moment)> {
        match self.state {
            State::Pending { since } => Some((false, since)),
            State::Idle { since } => Some((true, since)),
            _ => None,
        }
    }

    /// Its agent is neither known to be online nor known to be over: the agents list would tell.
    pub fn is_unconfirmed(&self) -> bool {
        matches!(self.state, State::Pending { .. })
            && self
                .pod
                .as_ref()
                .is_some_and(|p| matches!(p.progress, PodProgress::Running { .. }))
    }

    /// Nothing is left to do or to remember.
    pub fn is_over(&self, now: Moment) -> bool {
        let ended = match self.state {
            State::Ended { at } => !self.covers && (self.job.is_some() || now.since(at) >= VERDICT),
            State::Failed { .. } => true,
            _ => return false,
        };
        let open = [self.remove_agent, self.delete_pod, self.remove_record];
        ended && !self.starting && self.pod.is_none() && !open.into_iter().any(Todo::open)
    }

    /// Lower-case name of the state, for status and metrics.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Provisioning { .. } => "provisioning",
            State::Pending { .. } => "pending",
            State::Idle { .. } => "idle",
            State::Busy { .. } => "busy",
            State::JobDone { .. } => "jobDone",
            State::Retiring { .. } => "retiring",
            State::Ended { .. } => "ended",
            State::Failed { .. } => "failed",
        }
    }

    // ---- What is heard of it ------------------------------------------------------------------------

    pub fn granted(&mut self, agent_id: Option<i64>, gharts_id: Option<String>) {
        self.agent_id = agent_id.or(self.agent_id);
        self.gharts_id = gharts_id.or_else(|| self.gharts_id.take());
        if let State::Provisioning { granted, .. } = &mut self.state {
            *granted = true;
        }
    }

    /// Our own create was answered.
    pub fn pod_created(&mut self, now: Moment, uid: &str) -> Option<Happening> {
        if self.pod.is_some() {
            return None;
        }
        self.pod_seen(
            now,
            PodFacts {
                uid: uid.to_owned(),
                created: now,
                progress: PodProgress::Unscheduled,
                deleting: false,
                bound: false,
            },
        )
    }

    /// The watch showed the pod.
    pub fn pod_seen(&mut self, now: Moment, facts: PodFacts) -> Option<Happening> {
        if matches!(self.state, State::Provisioning { .. }) {
            self.state = State::Pending { since: now };
        }
        let end = match &facts.progress {
            PodProgress::Ended(end) => Some(end.clone()),
            _ => None,
        };
        let deleting = facts.deleting;
        self.pod = Some(facts);
        match end {
            Some(end) => self.container_ended(now, &end),
            None if deleting && matches!(self.state, State::Pending { .. } | State::Idle { .. }) => {
                self.fail(now, Failure::PodDeleted)
            }
            None => None,
        }
    }

    /// The pod no longer exists.
    pub fn pod_gone(&mut self, now: Moment) -> Option<Happening> {
        self.pod = None;
        self.delete_pod = Todo::Done;
        let end = PodEnd {
            exit_code: None,
            reason: "deleted".to_owned(),
        };
        self.container_ended(now, &end)
    }

    fn container_ended(&mut self, now: Moment, end: &PodEnd) -> Option<Happening> {
        self.delete_pod.demand(now);
        match self.state {
            State::Ended { .. } | State::Failed { .. } => None,
            State::Retiring { .. } => {
                self.end(now, false);
                Some(Happening::Ended)
            }
            State::JobDone { .. } => {
                self.end(now, end.exit_code == Some(0));
                Some(Happening::Ended)
            }
            State::Busy { .. } => {
                self.end(now, end.exit_code == Some(0));
                self.covers = !self.job_completed;
                Some(Happening::Ended)
            }
            State::Provisioning { .. } | State::Pending { .. } | State::Idle { .. } => match end.exit_code {
                Some(0) => {
                    // Most likely a job so short that its messages are still on their way.
                    self.end(now, true);
                    self.covers = true;
                    Some(Happening::Ended)
                }
                Some(EXIT_DEPRECATED) => self.fail(now, Failure::Deprecated),
                Some(137) => self.fail(now, Failure::OutOfMemory),
                Some(_) => self.fail(now, Failure::CrashedBeforeJob),
                None if end.reason == "deleted" => self.fail(now, Failure::PodDeleted),
                None => self.fail(now, Failure::Evicted),
            },
        }
    }

    fn end(&mut self, now: Moment, deregistered: bool) {
        self.state = State::Ended { at: now };
        self.delete_pod.demand(now);
        if self.has_record {
            self.remove_record.demand(now);
        }
        // An ephemeral runner that exits 0 after a job has been deregistered by the service already.
        if !deregistered {
            self.remove_agent.demand(now);
        }
    }

    fn fail(&mut self, now: Moment, failure: Failure) -> Option<Happening> {
        self.state = State::Failed { at: now, failure };
        self.remove_agent.demand(now);
        self.delete_pod.demand(now);
        if self.has_record {
            self.remove_record.demand(now);
        }
        Some(Happening::Failed(failure))
    }

    /// Pod and Secret are there.
    pub fn started(&mut self) {
        self.starting = false;
    }

    /// The start failed, or was given up after its deadline; `registered`: a registration may exist.
    pub fn start_failed(&mut self, now: Moment, failure: Failure, registered: bool) -> Option<Happening> {
        self.starting = false;
        let happening = if self.is_live() { self.fail(now, failure) } else { None };
        if !registered {
            self.remove_agent = Todo::Done;
            self.remove_record = Todo::Done;
        }
        if self.pod.is_none() {
            self.delete_pod = Todo::Done;
        }
        happening
    }

    pub fn job_started(&mut self, now: Moment, job: Job) -> Option<Happening> {
        let first = self.job.is_none();
        self.job.get_or_insert(job);
        match self.state {
            State::Provisioning { .. } | State::Pending { .. } | State::Idle { .. } | State::Retiring { .. } => {
                self.state = State::Busy { since: now };
            }
            State::Failed { failure, .. } if failure != Failure::Deprecated && self.pod_runs() => {
                self.state = State::Busy { since: now };
                self.give_up_removal();
            }
            _ => {}
        }
        if self.is_busy() {
            self.mark_busy.demand(now);
        }
        first.then_some(Happening::JobStarted)
    }

    /// `JobCompleted` named this runner.
    pub fn job_completed(&mut self, now: Moment) {
        self.job_completed = true;
        self.covers = false;
        if self.job.is_none() {
            self.job = Some(Job::default());
        }
        if matches!(
            self.state,
            State::Provisioning { .. }
                | State::Pending { .. }
                | State::Idle { .. }
                | State::Busy { .. }
                | State::Retiring { .. }
        ) {
            self.state = State::JobDone { since: now };
            self.mark_busy = Todo::Done;
            self.give_up_removal();
        }
    }

    /// Statistics whose request began at `began` know every end before that.
    pub fn statistics_began(&mut self, began: Moment) {
        if matches!(self.state, State::Ended { at } if at < began) {
            self.covers = false;
        }
    }

    /// An agents list whose request began at `began` shows this runner so.
    pub fn agent_seen(&mut self, now: Moment, began: Moment, sight: AgentSight, id: Option<i64>) -> Option<Happening> {
        self.agent_id = self.agent_id.or(id);
        match sight {
            AgentSight::Absent => {
                let known_before = self.pod.as_ref().is_some_and(|_| self.created < began);
                if !known_before || !matches!(self.state, State::Pending { .. } | State::Idle { .. }) {
                    return None;
                }
                self.absent = self.absent.saturating_add(1);
                (self.absent >= LISTS_TO_LOSE)
                    .then(|| self.fail(now, Failure::RegistrationLost))
                    .flatten()
            }
            AgentSight::Offline => {
                self.absent = 0;
                None
            }
            AgentSight::Online { busy } => {
                self.absent = 0;
                match self.state {
                    State::Pending { .. } | State::Idle { .. } if busy => {
                        self.state = State::Busy { since: now };
                        None
                    }
                    State::Pending { .. } => {
                        self.state = State::Idle { since: now };
                        Some(Happening::Registered)
                    }
                    _ => None,
                }
            }
        }
    }

    /// Surplus: registration first, since only its removal proves that no job runs.
    pub fn retire(&mut self, now: Moment) {
        let online = matches!(self.state, State::Idle { .. });
        if matches!(self.state, State::Pending { .. } | State::Idle { .. }) {
            self.state = State::Retiring { since: now, online };
            self.remove_agent = Todo::Due { at: now, tries: 0 };
        }
    }

    fn pod_runs(&self) -> bool {
        self.pod
            .as_ref()
            .is_some_and(|p| matches!(p.progress, PodProgress::Running { .. }))
    }

    fn give_up_removal(&mut self) {
        self.remove_agent = Todo::No;
        self.delete_pod = Todo::No;
        self.remove_record = Todo::No;
    }

    /// A call that [`Self::due`] asked for was answered.
    pub fn called(&mut self, now: Moment, call: Call, result: CallResult) -> Option<Happening> {
        let todo = match call {
            Call::RemoveAgent => &mut self.remove_agent,
            Call::DeletePod => &mut self.delete_pod,
            Call::RemoveRecord => &mut self.remove_record,
            Call::MarkBusy => &mut self.mark_busy,
            Call::CheckSecret => &mut self.check_secret,
        };
        if *todo == Todo::No {
            // The call was given up meanwhile (a job arrived); its answer changes nothing.
            return None;
        }
        match result {
            CallResult::Failed => {
                todo.again(now);
                None
            }
            CallResult::Missing => {
                *todo = Todo::Done;
                self.fail(now, Failure::LostSecret)
            }
            CallResult::Busy => {
                let for_good = matches!(
                    self.state,
                    State::Failed {
                        failure: Failure::TotalLifetime,
                        ..
                    }
                );
                if matches!(self.state, State::Retiring { .. } | State::Failed { .. })
                    && self.pod.is_some()
                    && !for_good
                {
                    self.state = State::Busy { since: now };
                    self.give_up_removal();
                } else {
                    todo.again(now);
                }
                None
            }
            CallResult::Done => {
                *todo = Todo::Done;
                match call {
                    Call::RemoveAgent if matches!(self.state, State::Retiring { .. }) => {
                        self.delete_pod.demand(now);
                        if self.has_record {
                            self.remove_record.demand(now);
                        }
                        if self.pod.is_none() {
                            self.delete_pod = Todo::Done;
                            self.state = State::Ended { at: now };
                        }
                    }
                    // A finished or unbound pod is gone with its DELETE; another one when the watch says so.
                    Call::DeletePod if self.pod.as_ref().is_some_and(|p| !p.lingers()) => {
                        self.pod = None;
                        if matches!(self.state, State::Retiring { .. } | State::JobDone { .. }) {
                            self.end(now, false);
                            self.delete_pod = Todo::Done;
                        }
                    }
                    _ => {}
                }
                None
            }
        }
    }

    /// The executor has taken up a call.
    pub fn begin(&mut self, call: Call) {
        match call {
            Call::RemoveAgent => self.remove_agent.begin(),
            Call::DeletePod => self.delete_pod.begin(),
            Call::RemoveRecord => self.remove_record.begin(),
            Call::MarkBusy => self.mark_busy.begin(),
            Call::CheckSecret => self.check_secret.begin(),
        }
    }

    // ---- What time does to it -----------------------------------------------------------------------

    /// Applies deadlines that have passed. Idempotent.
    pub fn pass_time(&mut self, now: Moment, timeouts: &Timeouts) -> Option<Happening> {
        match self.deadline(timeouts) {
            Some((at, deadline)) if at <= now => match deadline {
                Deadline::Fail(failure) => self.fail(now, failure),
                Deadline::AfterJob => {
                    self.delete_pod.demand(now);
                    self.remove_agent.demand(now);
                    None
                }
                Deadline::RetryRemoval => {
                    if let State::Retiring { since, .. } = &mut self.state {
                        *since = now;
                    }
                    if !self.remove_agent.open() && self.remove_agent != Todo::Done {
                        self.remove_agent = Todo::Due { at: now, tries: 0 };
                    }
                    None
                }
                Deadline::Verdict => {
                    self.covers = false;
                    if self.job.is_none() && self.exited_zero() {
                        self.fail(now, Failure::ExitedWithoutJob)
                    } else {
                        None
                    }
                }
            },
            _ => None,
        }
    }

    fn exited_zero(&self) -> bool {
        // `end` left the agent to the service only for exit code 0.
        self.remove_agent == Todo::No
    }

    fn deadline(&self, t: &Timeouts) -> Option<(Moment, Deadline)> {
        let fail = |at, failure| Some((at, Deadline::Fail(failure)));
        match self.state {
            State::Provisioning { since, .. } => fail(since + PROVISIONING, Failure::JitTimeout),
            State::Pending { since } => {
                let own = match self.pod.as_ref().map(|p| &p.progress) {
                    Some(PodProgress::Running { since }) => (*since + t.registration, Failure::Registration),
                    Some(PodProgress::Preparing { since }) => (*since + t.image_pull, Failure::ImagePull),
                    _ => (since + t.scheduling, Failure::Scheduling),
                };
                let (at, failure) = own.min((self.created + PENDING_TOTAL, Failure::PendingTotal));
                fail(at, failure)
            }
            State::Idle { .. } => None,
            State::Busy { .. } => t.total.and_then(|d| fail(self.created + d, Failure::TotalLifetime)),
            State::JobDone { since }
                if !self.delete_pod.open() && self.pod.is_some() && self.delete_pod != Todo::Done =>
            {
                Some((since + t.after_job, Deadline::AfterJob))
            }
            State::Retiring { since, .. } if self.remove_agent != Todo::Done => {
                Some((since + RETIRING, Deadline::RetryRemoval))
            }
            State::Ended { at } if self.covers || (self.job.is_none() && self.exited_zero()) => {
                Some((at + VERDICT, Deadline::Verdict))
            }
            State::JobDone { .. } | State::Retiring { .. } | State::Ended { .. } | State::Failed { .. } => None,
        }
    }

    /// The calls to make now, in the order in which they matter.
    pub fn due(&self, now: Moment) -> Vec<Call> {
        let mut calls = Vec::new();
        if self.mark_busy.is_due(now) && self.is_busy() && self.pod.is_some() {
            calls.push(Call::MarkBusy);
        }
        if self.starting {
            return calls;
        }
        // While a runner process may run, its registration goes first: a service that refuses a busy one is the
        // only proof. Otherwise the pod goes first: its capacity is free at once.
        let agent_first = match self.state {
            State::Retiring { .. } => true,
            State::Failed { failure, .. } => failure != Failure::TotalLifetime && self.pod_runs(),
            _ => false,
        };
        let agent_blocks = agent_first && self.remove_agent != Todo::Done;
        if self.delete_pod.is_due(now) && !agent_blocks && self.pod.is_some() {
            calls.push(Call::DeletePod);
        }
        if self.remove_agent.is_due(now) {
            calls.push(Call::RemoveAgent);
        }
        if self.remove_record.is_due(now) && !agent_blocks {
            calls.push(Call::RemoveRecord);
        }
        if self.check_secret.is_due(now) && matches!(self.state, State::Pending { .. }) {
            calls.push(Call::CheckSecret);
        }
        calls
    }

    /// When [`Self::pass_time`] or [`Self::due`] will have something new by themselves.
    pub fn wake_at(&self, timeouts: &Timeouts) -> Option<Moment> {
        let todos = [
            self.remove_agent,
            self.delete_pod,
            self.remove_record,
            self.mark_busy,
            self.check_secret,
        ];
        let deadline = self.deadline(timeouts).map(|(at, _)| at);
        let forget = match self.state {
            State::Ended { at } if self.job.is_none() => Some(at + VERDICT),
            _ => None,
        };
        todos
            .into_iter()
            .filter_map(Todo::due_at)
            .chain(deadline)
            .chain(forget)
            .min()
    }
}

impl PodFacts {
    /// After a DELETE the object stays until the kubelet lets go.
    fn lingers(&self) -> bool {
        self.bound && !matches!(self.progress, PodProgress::Ended(_))
    }
}

/// What the pod of an adopted runner tells beside its facts.
#[derive(Clone, Debug)]
pub struct Adopted {
    pub pod: PodFacts,
    pub agent_id: Option<i64>,
    pub gharts_id: Option<String>,
    pub job: Option<Job>,
}

#[derive(Clone, Copy)]
enum Deadline {
    Fail(Failure),
    AfterJob,
    RetryRemoval,
    Verdict,
}
