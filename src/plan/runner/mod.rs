//! A runner's life, pure: what was seen moves its state, time moves it by deadlines, and [`Runner::due`] says
//! which calls it needs now. The table of the design (section 2) is this folder; each row has tests.
//!
//! | file | what it is |
//! | --- | --- |
//! | `facts` | the words: pods, jobs, calls, failures |
//! | `heard`, `listed` | what each fact changes; what GitHub's lists of runners tell |
//! | `kept` | a failed pod that stays for people to look at |
//! | `deadlines` | what time changes, which calls are due, when to look again |
//! | `todo` | one call and its retries |

mod deadlines;
mod facts;
mod heard;
mod kept;
mod listed;
#[cfg(test)]
mod tests;
mod todo;

use std::time::Duration;

pub use facts::{
    Adopted, AgentSight, Call, CallResult, Died, Failure, Happening, Hearing, Job, Kept, Kind, Meets, Place, PodEnd,
    PodFacts, PodProgress, Purpose,
};
use todo::Todo;

use super::Moment;
use crate::ids::RunnerName;

/// From the decision to the JIT configuration in hand; GHARTS' own worst case is 20 to 30 s.
pub const PROVISIONING: Duration = Duration::from_secs(45);
/// A JIT configuration lives an hour: a pod that has not registered by now never will in time.
pub const PENDING_TOTAL: Duration = Duration::from_mins(50);
/// A removal without an answer is tried again after this.
pub const RETIRING: Duration = Duration::from_secs(30);
/// How long an ended runner stands for the job it ran, and how long we wait to hear of one at all.
pub const VERDICT: Duration = Duration::from_mins(1);
/// A runner found busy waits so long for the news of its job, so that one patch tells it all.
pub const NEWS: Duration = Duration::from_secs(10);
/// A job that is over by then is not worth the write that marks its pod.
pub const SHORT_JOB: Duration = Duration::from_secs(2);
/// By then GitHub has taken back the registration of a runner that had its job.
const DEREGISTERED: Duration = Duration::from_secs(10);
/// Between two agents lists that show an ordinary runner idle, before it may go.
const IDLE_CONFIRMATION: Duration = Duration::from_secs(30);
/// A registration absent from this many lists in a row, each begun after the pod was made, is lost.
const LISTS_TO_LOSE: u8 = 2;
/// `runner` exit code of a version that GitHub no longer serves.
pub const EXIT_DEPRECATED: i32 = 7;

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
    /// Removal decided, or last tried, then; `online` as it was before.
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

/// Which ordinary runners' good ends are looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    None,
    /// Of those that were never seen online.
    OfUnseen,
    OfAll,
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
    /// Which template its pod was made of, where that is known.
    pub template: Option<String>,
    /// Beside its set's: of another place it gets no job any more.
    place: Place,
    /// Found through its pod after a restart: what was heard of it before is forgotten.
    adopted: bool,
    /// When it was decided or adopted.
    known_since: Moment,
    /// When its pod was first known, by our own clock.
    pod_since: Option<Moment>,
    /// The watch has shown the pod, so that the watch will show its end as well.
    watched: bool,
    /// The pod has been and gone: an older answer must not bring it back.
    vanished: bool,
    job_completed: bool,
    /// Ended runners only: stands for its job until the news of the end has certainly reached us.
    covers: bool,
    /// Ended runners only: exit 0, not our doing, and no job heard of yet.
    suspect: bool,
    /// Ended runners only: exit 0, not our doing, and nothing had told of a job by then.
    left: bool,
    hearing: Option<Hearing>,
    /// [`Meets::ByLabels`]: whether its end is to be looked into.
    doubt: Doubt,
    lists_tell: bool,
    /// Lists that showed its registration after its end.
    left_behind: u8,
    absent: u8,
    /// When the newest agents list began that did not show it online.
    not_online: Option<Moment>,
    /// The newest that Kubernetes said of its pod's trouble.
    said: Option<String>,
    /// Failed runners only: nothing had shown it online by then, or its pod was hardly there.
    failed_early: bool,
    /// It was online when it failed.
    failed_online: bool,
    /// Ended runners only: its pod died under its job.
    died: Option<Died>,
    /// Its pod failed and is kept.
    kept: Option<Kept>,
    remove_agent: Todo,
    delete_pod: Todo,
    keep_pod: Todo,
    remove_record: Todo,
    mark_busy: Todo,
    check_secret: Todo,
    kind: Kind,
    /// [`Meets::ByLabels`]: the first and the newest agents list of an unbroken row that showed it idle.
    idle_lists: Option<(Moment, Moment)>,
    /// The first and the newest agents list of an unbroken row that showed it offline.
    silent_lists: Option<(Moment, Moment)>,
    /// Done with its job by what lists do not show: no proof that nothing runs.
    over_by_lists: bool,
    /// When the deletion of its pod was last accepted, or its end seen.
    deletion_asked: Option<Moment>,
    /// Some agents list has shown it.
    listed: bool,
    /// Busy with a job that no set's queue tells of.
    elsewhere: bool,
    /// Nobody can prove that it is idle: it stays until its own end.
    unprovable: bool,
    /// Its start (JIT, Pod, Secret) is still under way: nothing else may be called for it.
    starting: bool,
    /// GitHub counts as many running jobs of the set as its runners have: whatever this one has is among them.
    counted: bool,
}

impl Runner {
    /// A runner whose creation was decided just now.
    pub fn decided(name: RunnerName, purpose: Purpose, now: Moment, kind: Kind) -> Self {
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
            template: None,
            place: Place::Here,
            adopted: false,
            known_since: now,
            pod_since: None,
            watched: false,
            vanished: false,
            job_completed: false,
            covers: false,
            suspect: false,
            hearing: Some(Hearing::default()),
            left: false,
            doubt: Doubt::None,
            lists_tell: false,
            left_behind: 0,
            absent: 0,
            not_online: None,
            said: None,
            failed_early: false,
            failed_online: false,
            died: None,
            kept: None,
            remove_agent: Todo::No,
            delete_pod: Todo::No,
            keep_pod: Todo::No,
            remove_record: Todo::No,
            mark_busy: Todo::No,
            check_secret: Todo::No,
            kind,
            idle_lists: None,
            silent_lists: None,
            over_by_lists: false,
            deletion_asked: None,
            listed: false,
            elsewhere: false,
            unprovable: false,
            starting: true,
            counted: false,
        }
    }

    /// A runner found through its pod after a restart; `of_set`: how its set's runners are made now.
    pub fn adopted(name: RunnerName, purpose: Purpose, now: Moment, found: Adopted, of_set: Kind) -> Self {
        let mut runner = Self::decided(name, purpose, now, found.kind(of_set));
        runner.adopted = true;
        runner.starting = false;
        runner.created = found.pod.created.min(now);
        runner.agent_id = found.agent_id;
        runner.gharts_id = found.gharts_id;
        if let Some(kept) = found.kept {
            runner.stay_kept(now, kept);
            return runner;
        }
        runner.state = if found.job.is_some() {
            State::Busy { since: now }
        } else {
            State::Pending { since: runner.created }
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

    /// How well its set's queue is heard; `None`: not at all.
    pub fn hears(&mut self, hearing: Option<Hearing>) {
        self.hearing = hearing;
    }

    /// Whether GitHub counts as many running jobs of its set as the set's runners have. The start of a job that was told
    /// before a restart is told to nobody again.
    pub fn is_counted(&mut self, counted: bool) {
        self.counted = counted;
    }

    /// Nobody tells of an ordinary runner's job. Should this one end well, its record is kept until an agents list shows
    /// whether its registration went with a job.
    /// `lists_tell`: they have shown some ordinary runner of the set.
    pub fn doubt(&mut self, doubt: Doubt, lists_tell: bool) {
        self.doubt = doubt;
        self.lists_tell = lists_tell;
    }

    /// It failed before it was seen online, or soon after. A pod that is taken away by then, each time, is no accident.
    pub fn failed_early(&self) -> bool {
        self.failed_early
    }

    /// It had been seen online when it failed.
    pub fn failed_online(&self) -> bool {
        self.failed_online
    }

    /// It ended well by itself, and until then nothing told of a job.
    pub fn has_left(&self) -> bool {
        self.left
    }

    /// Some agents list has shown it.
    pub fn was_listed(&self) -> bool {
        self.listed
    }

    /// Whether its set is at another place of GitHub's now, where it cannot follow. A job that it has is finished.
    pub fn set_place(&mut self, place: Place) {
        self.place = place;
    }

    pub fn is_displaced(&self) -> bool {
        self.place != Place::Here
    }

    /// Nobody tells of its job any more: how it ends says nothing, nor whether its registration went with a job.
    pub fn goes_unheard(&mut self, now: Moment) {
        if std::mem::take(&mut self.suspect) && matches!(self.state, State::Ended { .. }) {
            self.remove_agent.demand(now);
            self.remove_record.hurry(now);
        }
    }

    /// It ended well without a job that we know of: whether it failed is not known yet.
    pub fn awaits_verdict(&self) -> bool {
        matches!(self.state, State::Ended { .. }) && self.suspect
    }

    /// What Kubernetes said of its pod's trouble last.
    pub fn said(&self) -> Option<&str> {
        self.said.as_deref()
    }

    /// Its pod died under its job.
    pub fn died(&self) -> Option<Died> {
        self.died
    }

    /// Counts against limits.
    pub fn is_live(&self) -> bool {
        !matches!(self.state, State::Ended { .. } | State::Failed { .. })
    }

    /// It failed, and the deletion of its pod has not been accepted yet.
    pub fn is_dying(&self) -> bool {
        let there = |pod: &PodFacts| !pod.deleting && !matches!(pod.progress, PodProgress::Ended(_));
        let failed = matches!(self.state, State::Failed { .. });
        failed && self.delete_pod.open() && self.pod.as_ref().is_some_and(there)
    }

    /// Stands for one job of the demand (or one spare place).
    pub fn covers_job(&self) -> bool {
        match self.state {
            State::Provisioning { .. } | State::Pending { .. } | State::Idle { .. } | State::Busy { .. } => true,
            // A pod that cannot start goes before the next one comes: nothing is waited for but one call.
            State::Failed {
                failure: Failure::LostSecret,
                ..
            } => self.pod.is_some() && self.delete_pod.open(),
            State::JobDone { .. } | State::Retiring { .. } | State::Failed { .. } => false,
            State::Ended { .. } => self.covers,
        }
    }

    /// When it ended, where it stands for its job still.
    pub fn stands_since(&self) -> Option<Moment> {
        match self.state {
            State::Ended { at } if self.covers => Some(at),
            _ => None,
        }
    }

    /// JIT request under way.
    pub fn awaits_grant(&self) -> bool {
        matches!(self.state, State::Provisioning { granted: false, .. })
    }

    /// Its start is under way: registration, pod, Secret.
    pub fn is_starting(&self) -> bool {
        self.starting
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

    /// May be retired when surplus: whether it is online, and since when it waits for work. Runners still
    /// asking for their JIT configuration are not cancelled: cancelling leaks.
    pub fn spare_since(&self) -> Option<(bool, Moment)> {
        if self.unprovable {
            return None;
        }
        match self.state {
            State::Pending { since } => Some((false, since)),
            State::Idle { since } if self.kind.meets == Meets::InSet || self.is_seen_idle() => Some((true, since)),
            _ => None,
        }
    }

    /// As [`Self::spare_since`], for one that is of no more use: it goes at once, but an ordinary one whose pod runs may
    /// be busy for all that is known, until the lists show it idle.
    pub fn may_leave(&self) -> Option<(bool, Moment)> {
        let may_be_busy = |online: bool| !online && self.kind.meets == Meets::ByLabels && self.pod_runs();
        self.spare_since().filter(|(online, _)| !may_be_busy(*online))
    }

    pub fn meets(&self) -> Meets {
        self.kind.meets
    }

    /// The queue has named its job.
    pub fn has_named_job(&self) -> bool {
        self.job.is_some()
    }

    /// An ordinary runner with a job that was taken past its set: no queue tells of it.
    pub fn is_elsewhere(&self) -> bool {
        self.elsewhere && self.is_busy()
    }

    /// Lists show it if it is registered: whether they show ordinary runners at all is known only once they have shown
    /// one. Of one that was there before us its removal will tell.
    fn lists_would_show(&self) -> bool {
        self.kind.meets == Meets::InSet || self.listed || self.lists_tell || self.adopted
    }

    /// To be retired as soon as that can be done.
    pub fn must_go(&self) -> bool {
        self.is_displaced() && self.may_leave().is_some()
    }

    /// Two lists, far enough apart, have shown it idle, and none in between busy.
    fn is_seen_idle(&self) -> bool {
        self.idle_lists
            .is_some_and(|(first, newest)| newest.since(first) >= IDLE_CONFIRMATION)
    }

    /// Two lists, far enough apart, have shown it offline, and none in between otherwise.
    fn is_seen_silent(&self) -> bool {
        self.silent_lists
            .is_some_and(|(first, newest)| newest.since(first) >= IDLE_CONFIRMATION)
    }

    /// It stands for nothing any more, and its place, here or at the provisioner's service, is not free yet.
    pub fn is_leaving(&self) -> bool {
        match self.state {
            State::JobDone { .. } | State::Retiring { .. } => true,
            State::Ended { .. } | State::Failed { .. } => self.remove_record.open(),
            _ => false,
        }
    }

    /// It counts for nothing any more, and its pod, which the cluster still counts, is on its way out.
    pub fn is_clearing(&self) -> bool {
        !self.is_live() && !self.is_leaving() && self.kept().is_none() && self.may_be_at_work()
    }

    /// The agents list would tell news of it: whether it is online, and where nothing else tells, whether it is busy.
    pub fn is_unconfirmed(&self) -> bool {
        match self.state {
            State::Pending { .. } => self.pod_runs(),
            State::Idle { .. } | State::Busy { .. } | State::JobDone { .. } | State::Retiring { .. } => {
                self.kind.meets == Meets::ByLabels
            }
            State::Ended { .. } => self.suspect && self.kind.meets == Meets::ByLabels,
            _ => false,
        }
    }

    /// Its process may run still, so that what it has made belongs to somebody.
    pub fn may_be_at_work(&self) -> bool {
        let ended = |pod: &PodFacts| matches!(pod.progress, PodProgress::Ended(_));
        self.is_live() || self.pod.as_ref().is_some_and(|pod| !ended(pod))
    }

    /// Nothing is left to do or to remember. A pod that the watch has shown is remembered until the watch shows
    /// its end: forgotten earlier, a late word of it would look like a stranger's pod to adopt.
    pub fn is_over(&self, now: Moment) -> bool {
        let end = match self.state {
            State::Ended { at } if !self.covers && !self.suspect => at,
            State::Failed { at, .. } => at,
            _ => return false,
        };
        let open = [self.remove_agent, self.delete_pod, self.remove_record];
        let pod_is_over =
            self.pod.is_none() || (!self.watched && self.delete_pod == Todo::Done && now.since(end) >= VERDICT);
        !self.starting && pod_is_over && !open.into_iter().any(Todo::open)
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

    /// The watch has shown its pod, so that a later list without it means that it is gone. A pod known from our
    /// own create alone may be younger than the list.
    pub fn pod_was_watched(&self) -> bool {
        self.pod.is_some() && self.watched
    }

    fn pod_runs(&self) -> bool {
        self.pod
            .as_ref()
            .is_some_and(|p| matches!(p.progress, PodProgress::Running { .. }))
    }

    /// The version of its pod that alone may be ended: one that has failed before it ran may run by now, and have a job,
    /// without our having seen it. `None`: whichever.
    pub fn version_to_end(&self) -> Option<&str> {
        let pod = self.pod.as_ref()?;
        let may_run = !matches!(pod.progress, PodProgress::Running { .. } | PodProgress::Ended(_));
        let failed = match self.state {
            State::Failed { failure, .. } => failure != Failure::TotalLifetime,
            _ => false,
        };
        (failed && may_run && !self.is_proved() && !pod.version.is_empty()).then_some(&*pod.version)
    }

    /// The call whose success proves that it executes no job.
    fn proof(&self) -> Call {
        match (self.kind.meets, &self.state) {
            (Meets::ByLabels, State::Retiring { .. } | State::Failed { .. }) => Call::RemoveRecord,
            (Meets::ByLabels, State::JobDone { .. }) if self.over_by_lists => Call::RemoveRecord,
            _ => Call::RemoveAgent,
        }
    }

    fn is_proved(&self) -> bool {
        let proof = match self.proof() {
            Call::RemoveRecord => self.remove_record,
            _ => self.remove_agent,
        };
        proof == Todo::Done
    }

    fn todo(&mut self, call: Call) -> &mut Todo {
        match call {
            Call::RemoveAgent => &mut self.remove_agent,
            Call::DeletePod => &mut self.delete_pod,
            Call::KeepPod => &mut self.keep_pod,
            Call::RemoveRecord => &mut self.remove_record,
            Call::MarkBusy => &mut self.mark_busy,
            Call::CheckSecret => &mut self.check_secret,
        }
    }
}
