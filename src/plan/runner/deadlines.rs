//! What time does to a runner: deadlines that pass, calls that fall due, and when to look again.

use std::time::Duration;

use super::{
    super::Moment, Call, Failure, Happening, Meets, PENDING_TOTAL, PROVISIONING, PodProgress, RETIRING, Runner, State,
    Todo, VERDICT,
};
use crate::config::Timeouts;

/// A watch that is well shows within so long that a pod is being deleted.
const DELETION_SHOWS: Duration = Duration::from_mins(1);

#[derive(Clone, Copy)]
enum Deadline {
    Fail(Failure),
    AfterJob,
    RetryRemoval,
    Verdict,
    Elsewhere,
    DeleteAgain,
}

impl Runner {
    /// Applies deadlines that have passed. Idempotent.
    pub fn pass_time(&mut self, now: Moment, timeouts: &Timeouts) -> Option<Happening> {
        let (at, deadline) = self.deadline(timeouts)?;
        if at > now {
            return None;
        }
        match deadline {
            Deadline::Fail(failure) => return Some(self.fail(now, failure)),
            Deadline::AfterJob => {
                self.delete_pod.demand(now);
                self.remove_agent.demand(now);
                if self.over_by_lists {
                    let proof = self.proof();
                    self.todo(proof).demand(now);
                }
            }
            Deadline::RetryRemoval => {
                if let State::Retiring { since, .. } = &mut self.state {
                    *since = now;
                }
                let proof = self.proof();
                self.todo(proof).hurry(now);
            }
            Deadline::Elsewhere => self.elsewhere = true,
            Deadline::DeleteAgain => {
                self.deletion_asked = None;
                self.delete_pod.renew(now);
            }
            Deadline::Verdict => {
                self.covers = false;
                if std::mem::take(&mut self.suspect) && self.kind.meets == Meets::InSet {
                    return Some(self.fail(now, Failure::ExitedWithoutJob));
                }
            }
        }
        None
    }

    fn deadline(&self, t: &Timeouts) -> Option<(Moment, Deadline)> {
        let by_state = self.state_deadline(t);
        by_state
            .into_iter()
            .chain(self.delete_again())
            .min_by_key(|(at, _)| *at)
    }

    /// An accepted deletion of whose effect nothing is seen, nor of the pod's end.
    fn delete_again(&self) -> Option<(Moment, Deadline)> {
        let stays = self.delete_pod == Todo::Done && self.pod.as_ref().is_some_and(|pod| !pod.deleting);
        let asked = self.deletion_asked.filter(|_| stays)?;
        Some((asked + DELETION_SHOWS, Deadline::DeleteAgain))
    }

    fn state_deadline(&self, t: &Timeouts) -> Option<(Moment, Deadline)> {
        let fail = |at, failure| Some((at, Deadline::Fail(failure)));
        match self.state {
            State::Provisioning { since, .. } => fail(since + PROVISIONING, Failure::JitTimeout),
            // It stays until its own end.
            State::Pending { .. } if self.unprovable => None,
            State::Pending { since } => {
                let (at, failure) = self.pending_deadline(since, t);
                fail(at, failure)
            }
            State::Busy { since } => {
                let total = t.total.map(|d| {
                    (
                        self.created.max(self.known_since) + d,
                        Deadline::Fail(Failure::TotalLifetime),
                    )
                });
                let elsewhere = self.elsewhere_at(since).map(|at| (at, Deadline::Elsewhere));
                total.into_iter().chain(elsewhere).min_by_key(|(at, _)| *at)
            }
            State::JobDone { since } if self.delete_pod == Todo::No && self.pod.is_some() => {
                Some((since + t.after_job, Deadline::AfterJob))
            }
            State::Retiring { since, .. } if !self.is_proved() => Some((since + RETIRING, Deadline::RetryRemoval)),
            // Judged by what its queue does not say: only while the queue speaks to us.
            State::Ended { at } if self.suspect && self.kind.meets == Meets::InSet => {
                let heard = self.hearing.filter(|h| h.last >= at)?;
                Some((at.max(heard.since) + VERDICT, Deadline::Verdict))
            }
            State::Ended { at } if self.covers || self.suspect => Some((at + VERDICT, Deadline::Verdict)),
            State::Idle { .. }
            | State::JobDone { .. }
            | State::Retiring { .. }
            | State::Ended { .. }
            | State::Failed { .. } => None,
        }
    }

    /// When it is clear that an ordinary runner has a job of which its set's queue never tells.
    fn elsewhere_at(&self, busy: Moment) -> Option<Moment> {
        let unnamed = self.kind.meets == Meets::ByLabels && self.job.is_none() && !self.elsewhere && !self.counted;
        let heard = self.hearing.filter(|h| unnamed && h.last >= busy)?;
        Some(busy.max(heard.since) + VERDICT)
    }

    /// A pod that runs has registered unless an agents list says otherwise: while there is none, nobody knows,
    /// and after a restart nobody has looked yet. The cluster's times are by its clocks, ours may be hours away: nothing
    /// counts from before we knew of the runner.
    fn pending_deadline(&self, since: Moment, t: &Timeouts) -> (Moment, Failure) {
        let known = |since: Moment| since.max(self.known_since);
        let total = (self.known_since + PENDING_TOTAL, Failure::PendingTotal);
        match self.pod.as_ref().map(|p| &p.progress) {
            Some(PodProgress::Running { since }) => {
                let at = known(*since) + t.registration;
                if self.lists_would_show() && self.not_online.is_some_and(|listed| listed >= at) {
                    total.min((at, Failure::Registration))
                } else {
                    total
                }
            }
            Some(PodProgress::Preparing { since }) => total.min((known(*since) + t.image_pull, Failure::ImagePull)),
            _ => total.min((known(since) + t.scheduling, Failure::Scheduling)),
        }
    }

    /// While a runner process may run, its registration goes first: a service that refuses a busy one is the
    /// only proof. Otherwise the pod goes first: its capacity is free at once.
    fn proof_first(&self) -> bool {
        match self.state {
            State::Retiring { .. } => true,
            // Only lists say so.
            State::JobDone { .. } => self.over_by_lists,
            // Somebody took its label off and put it on again.
            State::Ended { .. } => self.vanished && self.pod_runs(),
            State::Failed { failure, .. } => {
                failure != Failure::TotalLifetime && (self.pod_runs() || self.may_run_unseen(failure))
            }
            _ => false,
        }
    }

    /// It was waited for so long that it may well run, and no watch has shown its pod.
    fn may_run_unseen(&self, failure: Failure) -> bool {
        !self.watched
            && matches!(
                failure,
                Failure::Scheduling | Failure::PendingTotal | Failure::SecretRefused
            )
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
        let awaited = (self.proof_first() && !self.is_proved()).then(|| self.proof());
        let may = |call: Call| awaited.is_none_or(|proof| proof == call);
        if self.delete_pod.is_due(now) && may(Call::DeletePod) && self.pod.is_some() {
            calls.push(Call::DeletePod);
        } else if self.keep_pod.is_due(now) && may(Call::KeepPod) && self.pod.is_some() {
            calls.push(Call::KeepPod);
        }
        if self.remove_agent.is_due(now) && may(Call::RemoveAgent) {
            calls.push(Call::RemoveAgent);
        }
        if self.remove_record.is_due(now) && may(Call::RemoveRecord) {
            calls.push(Call::RemoveRecord);
        }
        if self.check_secret.is_due(now) && matches!(self.state, State::Pending { .. }) {
            calls.push(Call::CheckSecret);
        }
        calls
    }

    /// When [`Self::pass_time`], [`Self::due`] or [`Self::is_over`] will have something new by themselves.
    pub fn wake_at(&self, now: Moment, timeouts: &Timeouts) -> Option<Moment> {
        let todos = [
            self.remove_agent,
            self.delete_pod,
            self.keep_pod,
            self.remove_record,
            self.mark_busy,
            self.check_secret,
        ];
        let forget = match self.state {
            State::Ended { at } | State::Failed { at, .. } => Some(at + VERDICT),
            _ => None,
        };
        todos
            .into_iter()
            .filter_map(Todo::due_at)
            .chain(self.deadline(timeouts).map(|(at, _)| at))
            .chain(forget)
            .filter(|at| *at > now)
            .min()
    }
}
