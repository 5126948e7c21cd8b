//! What GitHub's list of runners tells of one: whether it is registered, online, busy.

use std::time::Duration;

use super::{super::Moment, AgentSight, DEREGISTERED, Failure, Happening, LISTS_TO_LOSE, Meets, Place, Runner, State};

impl Runner {
    /// An agents list whose request began at `began` shows this runner so.
    pub fn agent_seen(&mut self, now: Moment, began: Moment, sight: AgentSight, id: Option<i64>) -> Option<Happening> {
        if self.place == Place::OutOfReach && self.is_busy() {
            return None;
        }
        // The list shows it by its name: no other answer knows better.
        self.agent_id = id.or(self.agent_id);
        self.idle_lists = match sight {
            AgentSight::Online { busy: false } => Some((self.idle_lists.map_or(began, |(first, _)| first), began)),
            _ => None,
        };
        self.silent_lists = match sight {
            AgentSight::Offline => Some((self.silent_lists.map_or(began, |(first, _)| first), began)),
            _ => None,
        };
        self.listed |= sight != AgentSight::Absent;
        if let State::Ended { at } = self.state {
            return self.ordinary_end_seen(now, began.since(at), sight);
        }
        if self.kind.meets == Meets::ByLabels && self.is_busy() {
            self.busy_ordinary_seen(now, began, sight);
            return None;
        }
        // Whether this list shows ordinary runners of ours at all is known only once it has shown one.
        let ordinary_unseen = sight == AgentSight::Absent && self.kind.meets == Meets::ByLabels && !self.listed;
        if ordinary_unseen && !self.lists_tell {
            self.not_online = Some(began);
            return None;
        }
        match (sight, &self.state) {
            (AgentSight::Absent, State::Pending { .. } | State::Idle { .. }) => {
                if self.pod_since.is_none_or(|since| since >= began) {
                    return None;
                }
                self.not_online = Some(began);
                self.absent = self.absent.saturating_add(1);
                if self.absent < LISTS_TO_LOSE {
                    return None;
                }
                if ordinary_unseen && self.pod_runs() {
                    // Its registration has come and gone between two lists, and most likely with a job.
                    self.job_is_over_by_lists(now);
                    return None;
                }
                Some(self.fail(now, Failure::RegistrationLost))
            }
            (AgentSight::Absent, State::Busy { .. }) if self.pod_since.is_some_and(|since| since < began) => {
                self.absent = self.absent.saturating_add(1);
                if self.absent >= LISTS_TO_LOSE {
                    self.job_is_over_by_lists(now);
                }
                None
            }
            (AgentSight::Offline, state) => {
                self.absent = 0;
                self.not_online = Some(began);
                let silent = matches!(state, State::Idle { .. }) && self.is_seen_silent();
                silent.then(|| self.fail(now, Failure::WentOffline))
            }
            (AgentSight::Online { busy }, State::Pending { .. } | State::Idle { .. }) => {
                self.absent = 0;
                let first = matches!(self.state, State::Pending { .. });
                if busy {
                    self.found_busy(now);
                } else if first {
                    self.state = State::Idle { since: now };
                }
                first.then_some(Happening::Registered)
            }
            (AgentSight::Online { busy: true }, State::Retiring { .. })
                if self.kind.meets == Meets::ByLabels && self.may_still_work() =>
            {
                self.found_busy(now);
                None
            }
            // Two lists were wrong about its end.
            (AgentSight::Online { busy: true }, State::JobDone { .. })
                if (self.kind.meets == Meets::ByLabels || self.over_by_lists) && !self.delete_pod.begun() =>
            {
                self.found_busy(now);
                None
            }
            (AgentSight::Online { .. }, _) => {
                self.absent = 0;
                None
            }
            _ => None,
        }
    }

    /// GitHub has no registration of it any more, which goes with its job: nobody told of the job's end, or that was
    /// before a restart. Its pod is not ended without proof.
    fn job_is_over_by_lists(&mut self, now: Moment) {
        let job = self.job.clone().unwrap_or_default();
        self.job_completed(now, job);
        self.over_by_lists = matches!(self.state, State::JobDone { .. });
    }

    /// Of an ordinary runner's job nothing but the list tells: neither its start nor its end.
    fn busy_ordinary_seen(&mut self, now: Moment, began: Moment, sight: AgentSight) {
        match sight {
            AgentSight::Absent if self.listed && self.pod_since.is_some_and(|since| since < began) => {
                self.absent = self.absent.saturating_add(1);
                if self.absent >= LISTS_TO_LOSE {
                    self.job_is_over_by_lists(now);
                }
            }
            AgentSight::Online { busy: false } if self.is_seen_idle() => {
                self.absent = 0;
                self.state = State::Idle { since: now };
                self.elsewhere = false;
                self.mark_busy.give_up();
            }
            _ => self.absent = 0,
        }
    }

    /// The registration of an ephemeral runner goes with its job. `after`: how long after its end the list began.
    fn ordinary_end_seen(&mut self, now: Moment, after: Duration, sight: AgentSight) -> Option<Happening> {
        if !self.suspect || self.kind.meets == Meets::InSet || after < DEREGISTERED {
            return None;
        }
        match sight {
            // A list that has never shown any of the set's ordinary runners may be one that shows none.
            AgentSight::Absent if !self.lists_tell => None,
            AgentSight::Absent => {
                self.acquit(now);
                Some(Happening::HadJob)
            }
            AgentSight::Offline | AgentSight::Online { busy: false } => {
                self.left_behind = self.left_behind.saturating_add(1);
                if self.left_behind < LISTS_TO_LOSE {
                    return None;
                }
                self.suspect = false;
                let failed = self.fail(now, Failure::ExitedWithoutJob);
                self.remove_record.hurry(now);
                Some(failed)
            }
            AgentSight::Online { busy: true } => None,
        }
    }
}
