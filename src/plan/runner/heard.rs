//! What each fact changes in a runner's life. Facts may come twice, late and in any order.

use std::time::Duration;

use super::{
    super::Moment, Call, CallResult, Died, Doubt, EXIT_DEPRECATED, Failure, Happening, Job, Meets, NEWS, PodEnd,
    PodFacts, PodProgress, Purpose, Runner, SHORT_JOB, State, Todo, VERDICT,
};

/// What is taken away sooner than this was hardly taken away by chance.
const YOUNG: Duration = Duration::from_mins(1);
/// Kubernetes' word for a container that the kernel killed for its memory.
const OOM_KILLED: &str = "OOMKilled";

impl Runner {
    // ---- Its start ----------------------------------------------------------------------------------

    pub fn granted(&mut self, agent_id: Option<i64>, gharts_id: Option<String>) {
        self.agent_id = agent_id.or(self.agent_id);
        self.gharts_id = gharts_id.or_else(|| self.gharts_id.take());
        if let State::Provisioning { granted, .. } = &mut self.state {
            *granted = true;
        }
    }

    /// Our own create was answered. The watch may have shown the pod before, and its end as well.
    pub fn pod_created(&mut self, now: Moment, uid: &str) -> Option<Happening> {
        if self.pod.is_some() || self.vanished {
            return None;
        }
        let facts = PodFacts {
            uid: uid.to_owned(),
            version: String::new(),
            created: now,
            progress: PodProgress::Unscheduled,
            deleting: false,
            bound: false,
            says: None,
        };
        self.take_pod(now, facts)
    }

    /// Pod and Secret are there.
    pub fn started(&mut self) {
        self.starting = false;
    }

    /// The start failed, or was given up after its deadline; `registered`: a registration may exist.
    pub fn start_failed(&mut self, now: Moment, failure: Failure, registered: bool) -> Option<Happening> {
        self.starting = false;
        // A runner that has had a job was started, whatever an answer that got lost made of it.
        let happening = match (&self.job, &self.pod) {
            (None, _) if !self.is_busy() && self.is_live() => Some(self.fail(now, failure)),
            (_, None) if self.is_live() => {
                self.end(now, false, false);
                Some(Happening::Ended)
            }
            _ => None,
        };
        if !registered {
            self.remove_agent = Todo::Done;
            self.remove_record = Todo::Done;
        }
        if self.pod.is_none() {
            // Should a create whose answer was lost have made one all the same, its sight asks again.
            self.delete_pod.give_up();
        }
        happening
    }

    // ---- Its pod ------------------------------------------------------------------------------------

    /// The watch showed the pod.
    pub fn pod_seen(&mut self, now: Moment, facts: PodFacts) -> Option<Happening> {
        self.watched = true;
        self.take_pod(now, facts)
    }

    fn take_pod(&mut self, now: Moment, mut facts: PodFacts) -> Option<Happening> {
        facts.progress = facts.progress.seen(now, self.pod.as_ref().map(|pod| &pod.progress));
        self.pod_since.get_or_insert(now);
        if matches!(self.state, State::Provisioning { .. }) {
            self.state = State::Pending { since: now };
        }
        let deleting = facts.deleting;
        if facts.says.is_some() {
            self.said.clone_from(&facts.says);
        }
        let end = match &facts.progress {
            PodProgress::Ended(end) => Some(end.clone()),
            _ => None,
        };
        self.pod = Some(facts);
        if deleting {
            // Somebody has asked for it: nobody needs to ask again.
            self.delete_pod = Todo::Done;
            self.forget_kept();
        }
        match end {
            Some(end) => self.container_ended(now, &end),
            None if deleting && matches!(self.state, State::Pending { .. } | State::Idle { .. }) => {
                Some(self.fail(now, Failure::PodDeleted))
            }
            None if deleting && self.is_over_but_for_its_pod() => {
                self.end(now, false, false);
                None
            }
            None => {
                if !self.is_live() {
                    self.delete_pod.demand(now);
                }
                None
            }
        }
    }

    /// The pod no longer exists.
    pub fn pod_gone(&mut self, now: Moment) -> Option<Happening> {
        self.pod = None;
        self.vanished = true;
        self.delete_pod = Todo::Done;
        self.deletion_asked = Some(now);
        self.forget_kept();
        let end = PodEnd {
            exit_code: None,
            reason: "deleted".to_owned(),
        };
        self.container_ended(now, &end)
    }

    fn container_ended(&mut self, now: Moment, end: &PodEnd) -> Option<Happening> {
        self.delete_pod.demand(now);
        let zero = end.exit_code == Some(0);
        match self.state {
            State::Ended { .. } | State::Failed { .. } => {
                self.kept_has_ended(now);
                return None;
            }
            // Without the proof that no job ran, exit 0 most likely means that one did.
            State::Retiring { .. } => self.end(now, false, zero && !self.is_proved()),
            State::JobDone { .. } => self.end(now, zero, false),
            State::Busy { .. } => {
                let deleted = self.pod.as_ref().is_none_or(|p| p.deleting);
                self.died = (!zero && !deleted).then(|| died_of(end));
                self.end(now, zero, true);
            }
            State::Provisioning { .. } | State::Pending { .. } | State::Idle { .. } => {
                let deleted = self.pod.as_ref().is_none_or(|p| p.deleting);
                if !zero {
                    return Some(self.fail(now, failure_of(end, deleted)));
                }
                // Most likely a job so short that its messages are still on their way. Of an adopted one that
                // was never seen idle they may have come before the restart; a deleted one may just have obeyed.
                let unheard = self.adopted && matches!(self.state, State::Pending { .. });
                let well = !deleted && !unheard;
                let online = matches!(self.state, State::Idle { .. });
                self.left = well;
                self.suspect = well
                    && match (self.kind.meets, self.doubt) {
                        (Meets::InSet, _) | (Meets::ByLabels, Doubt::OfAll) => true,
                        (Meets::ByLabels, Doubt::OfUnseen) => !online,
                        (Meets::ByLabels, Doubt::None) => false,
                    };
                self.end(now, well, true);
            }
        }
        Some(Happening::Ended)
    }

    /// An ephemeral runner that exits 0 after a job has been `deregistered` by the service already.
    fn end(&mut self, now: Moment, deregistered: bool, covers: bool) {
        self.state = State::Ended { at: now };
        self.covers = covers && !self.job_completed;
        self.mark_busy.give_up();
        match self.died {
            Some(died) => self.part_with_pod(now, died.as_str()),
            // Should it prove to be a failure, its pod may be worth a look.
            None if self.suspect && self.keeps_pod().is_some() => self.delete_pod.renew(now + VERDICT),
            None => self.delete_pod.demand(now),
        }
        if self.kind.has_record && self.suspect && self.kind.meets == Meets::ByLabels {
            // With its record goes its registration, which tells whether it had a job.
            self.remove_record.renew(now + VERDICT);
        } else if self.kind.has_record {
            self.remove_record.demand(now);
        }
        if !deregistered {
            self.remove_agent.demand(now);
        }
    }

    pub(super) fn fail(&mut self, now: Moment, failure: Failure) -> Happening {
        let unseen = matches!(self.state, State::Provisioning { .. } | State::Pending { .. });
        self.failed_online = !unseen;
        self.failed_early = unseen || self.pod_since.is_none_or(|since| now.since(since) < YOUNG);
        self.state = State::Failed { at: now, failure };
        self.covers = false;
        self.remove_agent.demand(now);
        self.part_with_pod(now, failure.as_str());
        if self.kind.has_record {
            self.remove_record.demand(now);
        }
        Happening::Failed(failure)
    }

    // ---- Its job ------------------------------------------------------------------------------------

    pub fn job_started(&mut self, now: Moment, job: Job) -> Option<Happening> {
        let first = self.job.is_none();
        if self.job.as_ref().is_some_and(|known| known.is_another(&job)) {
            return self.another_job_started(now, job);
        }
        self.job.get_or_insert(job);
        self.acquit(now);
        self.elsewhere = false;
        match self.state {
            State::Provisioning { .. } | State::Pending { .. } | State::Idle { .. } => {
                self.state = State::Busy { since: now };
                self.absent = 0;
            }
            State::Retiring { .. } | State::Failed { .. } if first && self.may_still_work() => self.work_on(now),
            _ => {}
        }
        if first && self.is_busy() {
            self.mark_busy.renew(now + self.mark_after());
        }
        first.then_some(Happening::JobStarted)
    }

    /// What it was given first was taken back before it began.
    fn another_job_started(&mut self, now: Moment, job: Job) -> Option<Happening> {
        let lives = matches!(
            self.state,
            State::Pending { .. } | State::Idle { .. } | State::Busy { .. } | State::JobDone { .. }
        );
        if !lives || self.delete_pod.begun() {
            return None;
        }
        self.job = Some(job);
        self.work_on(now);
        self.mark_busy.renew(now + self.mark_after());
        None
    }

    /// A spare runner's pod is safe to evict until it is marked; that of any other was never.
    fn mark_after(&self) -> Duration {
        match self.purpose {
            Purpose::Spare => Duration::ZERO,
            Purpose::Demand => SHORT_JOB,
        }
    }

    /// It had a job: there is nothing to look at in its pod.
    pub(super) fn acquit(&mut self, now: Moment) {
        if std::mem::take(&mut self.suspect) {
            self.delete_pod.hurry(now);
            self.remove_record.hurry(now);
        }
    }

    /// `JobCompleted` named this runner, and this job.
    pub fn job_completed(&mut self, now: Moment, job: Job) {
        if self.job.as_ref().is_some_and(|known| known.is_another(&job)) {
            // One that was taken back before this one began.
            return;
        }
        self.job_completed = true;
        self.covers = false;
        self.acquit(now);
        self.job.get_or_insert(job);
        match self.state {
            State::Retiring { .. } if !self.may_still_work() => {}
            State::Provisioning { .. }
            | State::Pending { .. }
            | State::Idle { .. }
            | State::Busy { .. }
            | State::Retiring { .. } => {
                self.state = State::JobDone { since: now };
                self.mark_busy.give_up();
                self.give_up_removal();
                // Its node is lost, maybe, and nobody lets go of what somebody else has deleted.
                if self.pod.as_ref().is_some_and(|pod| pod.deleting) {
                    self.end(now, false, false);
                }
            }
            State::JobDone { .. } | State::Ended { .. } | State::Failed { .. } => {}
        }
    }

    /// Its removal was decided, but its pod runs (as far as a pod that retires does) and nobody has asked for
    /// its deletion yet.
    pub(super) fn may_still_work(&self) -> bool {
        let runs = match self.state {
            State::Retiring { .. } => self.pod.is_some(),
            State::JobDone { .. } => self.over_by_lists && self.pod.is_some(),
            State::Failed { failure, .. } => {
                !matches!(failure, Failure::TotalLifetime | Failure::Deprecated) && self.pod_runs()
            }
            _ => false,
        };
        let taken = matches!(
            self.state,
            State::Failed {
                failure: Failure::PodDeleted,
                ..
            }
        );
        // Whom somebody else's deletion gives time may work for all of it.
        runs && (taken || !self.delete_pod.begun()) && !self.keep_pod.begun()
    }

    /// Busy after all.
    fn work_on(&mut self, now: Moment) {
        self.state = State::Busy { since: now };
        (self.absent, self.job_completed, self.over_by_lists) = (0, false, false);
        self.give_up_removal();
    }

    fn give_up_removal(&mut self) {
        self.remove_agent.give_up();
        self.delete_pod.give_up();
        self.forget_kept();
        self.remove_record.give_up();
    }

    /// Statistics know of its end.
    pub fn end_is_known(&mut self) {
        if matches!(self.state, State::Ended { .. }) {
            self.covers = false;
        }
    }

    pub(super) fn found_busy(&mut self, now: Moment) {
        self.work_on(now);
        if self.mark_busy == Todo::No {
            self.mark_busy.renew(now + NEWS);
        }
    }

    /// Surplus: registration first, since only its removal proves that no job runs.
    pub fn retire(&mut self, now: Moment) {
        let online = matches!(self.state, State::Idle { .. });
        if matches!(self.state, State::Pending { .. } | State::Idle { .. }) {
            self.state = State::Retiring { since: now, online };
            let proof = self.proof();
            self.todo(proof).renew(now);
        }
    }

    // ---- Its calls ----------------------------------------------------------------------------------

    /// The executor has taken up a call.
    pub fn begin(&mut self, call: Call) {
        self.todo(call).begin();
    }

    /// A call that [`Self::due`] asked for was answered. The answer to a call that was given up meanwhile (a job
    /// arrived, the pod vanished) changes nothing.
    pub fn called(&mut self, now: Moment, call: Call, result: CallResult) -> Option<Happening> {
        if !matches!(self.todo(call), Todo::InFlight { .. }) {
            return None;
        }
        match result {
            CallResult::Missing => {
                *self.todo(call) = Todo::Done;
                if matches!(self.state, State::Pending { .. }) {
                    return Some(self.fail(now, Failure::LostSecret));
                }
            }
            CallResult::Gone if self.proof() == call && self.may_still_work_without_record() => {
                *self.todo(call) = Todo::Done;
                self.keep_to_its_end(now);
            }
            CallResult::Busy if self.may_still_work() => self.found_busy(now),
            CallResult::Busy | CallResult::Failed | CallResult::Forbidden => self.todo(call).again(now),
            CallResult::Done | CallResult::Gone => {
                *self.todo(call) = Todo::Done;
                self.done(now, call);
            }
        }
        None
    }

    /// Whoever was to prove that it runs no job knows nothing of it.
    fn may_still_work_without_record(&self) -> bool {
        match self.state {
            State::Retiring { .. } => true,
            State::Failed { .. } => self.kind.meets == Meets::ByLabels && self.may_still_work(),
            _ => false,
        }
    }

    /// It may execute a job, and nobody can tell: it is not surplus any more.
    fn keep_to_its_end(&mut self, now: Moment) {
        self.unprovable = true;
        self.state = match self.state {
            State::Retiring { online: true, .. } => State::Idle { since: now },
            _ => State::Pending { since: now },
        };
        self.give_up_removal();
    }

    /// Its job is over, or it is proved that it has none: a pod in deletion is no capacity any more, whoever deletes it.
    fn is_over_but_for_its_pod(&self) -> bool {
        match self.state {
            State::JobDone { .. } => true,
            State::Retiring { .. } => self.is_proved(),
            _ => false,
        }
    }

    fn done(&mut self, now: Moment, call: Call) {
        if call == Call::DeletePod {
            self.deletion_asked = Some(now);
        }
        match (call, &self.state) {
            // Its provisioner has removed the registration at GitHub, too.
            (Call::RemoveRecord, State::Retiring { .. }) if self.proof() == call => {
                self.remove_agent = Todo::Done;
                self.delete_pod.demand(now);
            }
            (Call::RemoveAgent, State::Retiring { .. }) => {
                self.delete_pod.demand(now);
                if self.kind.has_record {
                    self.remove_record.demand(now);
                }
            }
            // A pod in deletion is no capacity: its node may be lost, and nobody lets go of it.
            (Call::DeletePod, State::Retiring { .. } | State::JobDone { .. }) => {
                self.end(now, false, false);
            }
            _ => {}
        }
        let is_retiring = matches!(self.state, State::Retiring { .. });
        if is_retiring && self.is_proved() && self.pod.as_ref().is_some_and(|pod| pod.deleting) {
            self.end(now, false, false);
        }
    }
}

fn died_of(end: &PodEnd) -> Died {
    match end.exit_code {
        Some(_) if end.reason == OOM_KILLED => Died::OutOfMemory,
        Some(_) => Died::ExitCode,
        None => Died::Evicted,
    }
}

/// Words of Kubernetes for pods that it took away itself.
const TAKEN_AWAY: [&str; 7] = [
    "Evicted",
    "Preempting",
    "NodeLost",
    "NodeShutdown",
    "NodeAffinity",
    "Shutdown",
    "Terminated",
];

fn failure_of(end: &PodEnd, deleted: bool) -> Failure {
    match end.exit_code {
        _ if deleted => Failure::PodDeleted,
        Some(EXIT_DEPRECATED) => Failure::Deprecated,
        Some(_) if end.reason == OOM_KILLED => Failure::OutOfMemory,
        Some(_) => Failure::CrashedBeforeJob,
        None if TAKEN_AWAY.contains(&end.reason.as_str()) => Failure::Evicted,
        // An init container failed, or the kubelet refused the pod.
        None => Failure::NotStarted,
    }
}
