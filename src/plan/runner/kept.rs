//! A failed pod that stays for people to look at, where its set asks for that.
//!
//! It is no capacity and delays nothing: its registration goes as that of any failed runner, a container that still runs
//! in it is ended by the kubelet (`activeDeadlineSeconds`), and only its deletion waits.

use std::time::Duration;

use super::{super::Moment, Kept, PodProgress, Runner, State};

/// A kubelet that was told to end a pod has ended it by then; otherwise the pod is deleted, whoever wants to look at it.
const ENDED_WITHIN: Duration = Duration::from_mins(2);

impl Runner {
    /// Its pod failed and is kept for people to look at.
    pub fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    /// Its failed pod has been looked at for long enough.
    pub fn release(&mut self, now: Moment) {
        if let Some(kept) = &mut self.kept
            && !self.delete_pod.begun()
        {
            kept.until = now;
            self.delete_pod.renew(now);
        }
    }

    /// For how long, if there is a pod that is worth a look: one that no node took has nothing to show.
    pub(super) fn keeps_pod(&self) -> Option<Duration> {
        let there = self.pod.as_ref().is_some_and(|p| p.bound && !p.deleting);
        self.kind.keep_failed.filter(|_| there && !self.delete_pod.begun())
    }

    /// The pod goes: at once, or, where the set keeps failed ones, after a while.
    pub(super) fn part_with_pod(&mut self, now: Moment, reason: &str) {
        let Some(keep) = self.keeps_pod() else {
            self.delete_pod.demand(now);
            return;
        };
        self.keep_pod.renew(now);
        self.stay_until(Kept {
            reason: reason.to_owned(),
            since: now,
            until: now + keep,
        });
    }

    /// One that runs is no capacity that counts, so it is ended, and where that does not help, deleted.
    fn stay_until(&mut self, kept: Kept) {
        let ended = self
            .pod
            .as_ref()
            .is_some_and(|p| matches!(p.progress, PodProgress::Ended(_)));
        let at = if ended {
            kept.until
        } else {
            kept.until.min(kept.since + ENDED_WITHIN)
        };
        self.delete_pod.renew(at);
        self.kept = Some(kept);
    }

    pub(super) fn kept_has_ended(&mut self, now: Moment) {
        if let Some(kept) = self.kept.as_ref().filter(|kept| kept.until > now)
            && !self.delete_pod.begun()
        {
            self.delete_pod.renew(kept.until);
        }
    }

    /// Found after a restart as its own annotations tell.
    pub(super) fn stay_kept(&mut self, now: Moment, kept: Kept) {
        self.state = State::Ended { at: now };
        self.remove_agent.demand(now);
        if self.kind.has_record {
            self.remove_record.demand(now);
        }
        self.stay_until(kept);
    }

    pub(super) fn forget_kept(&mut self) {
        self.kept = None;
        self.keep_pod.give_up();
    }
}
