//! Where one session's polling stands: what was taken in, what may come a second time, which offers wait.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::{
    plan::{Told, demand::STATISTICS_LAG},
    scaleset::{Message, Session},
};

/// A rise of the capacity interrupts the poll at most so often.
const RISE_FLOOR: Duration = Duration::from_secs(1);
/// But where polls are begun anew again and again and none is answered, the next one comes to its end: what messages
/// do not tell is proof of much. GitHub answers within 50 s.
const POLL: Duration = Duration::from_secs(55);
/// Beside the statistics a lower capacity is announced, but only so soon after an answer: every poll that is begun anew
/// may hide that none is answered any more.
const FALL_AFTER_ANSWER: Duration = Duration::from_secs(50);
/// What waited for the session is delivered at once, and soon after its opening.
const REPLAY_AT_ONCE: Duration = Duration::from_secs(1);
const REPLAY_UNTIL: Duration = Duration::from_secs(30);

/// A request for a job.
#[derive(Clone, Copy, Debug)]
struct Acquisition {
    at: Instant,
    /// It was granted; else nobody knows.
    granted: bool,
}

/// One session's polling.
#[derive(Debug)]
pub(super) struct Course {
    /// Deleted, and so before what comes next.
    pub(super) last_message_id: Option<i64>,
    /// The message that the loop has taken in and that is not deleted yet.
    pub(super) taken_in: Option<i64>,
    /// Until then what comes at once may have been delivered to the session before this one.
    replay_until: Instant,
    pub(super) last_rise: Instant,
    /// When the session's statistics came.
    pub(super) read: Instant,
    /// When statistics were last fetched beside a poll.
    pub(super) refreshed: Instant,
    /// When a poll was last answered.
    pub(super) answered: Instant,
    /// What was offered and not acquired, for want of capacity, must be asked for: from then on.
    pub(super) next_offers: Instant,
    /// Requests that were acquired, and that no message has told a start or an end of: statistics may not know of them.
    acquired: BTreeMap<i64, Acquisition>,
    /// Requests on offer that GitHub would not give, and when they may be asked for again.
    refused: BTreeMap<i64, Instant>,
    /// Polls that failed since one was answered.
    pub(super) failures: u32,
    /// What the file says of the set now is not at GitHub yet: when that is tried again, and tries so far.
    pub(super) rewrite: Option<(Instant, u32)>,
}

impl Course {
    /// Of a session that is opened now.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last_message_id: None,
            taken_in: None,
            replay_until: now + REPLAY_UNTIL,
            last_rise: now.checked_sub(RISE_FLOOR).unwrap_or(now),
            read: now,
            refreshed: now,
            answered: now,
            // Offers made to a dead session are not made again: the first turn asks for them.
            next_offers: now,
            acquired: BTreeMap::new(),
            refused: BTreeMap::new(),
            failures: 0,
            rewrite: None,
        }
    }

    /// Whether it was granted, and nothing has been heard of it since.
    pub(super) fn has_acquired(&self, request: i64) -> bool {
        self.acquired
            .get(&request)
            .is_some_and(|acquisition| acquisition.granted)
    }

    /// GitHub calls the wish for it wrong: it is left alone until then.
    pub(super) fn leaves_alone(&mut self, request: i64, until: Instant) {
        self.refused.insert(request, until);
    }

    /// Whether GitHub has not called the wish for it wrong a moment ago.
    pub(super) fn may_ask_for(&self, request: i64, now: Instant) -> bool {
        self.refused.get(&request).is_none_or(|again| *again <= now)
    }

    /// These are asked for.
    pub(super) fn acquires(&mut self, now: Instant, requests: &[i64]) {
        self.acquired.retain(|_, asked| self.read < asked.at + STATISTICS_LAG);
        let asked = Acquisition {
            at: now,
            granted: false,
        };
        self.acquired.extend(requests.iter().map(|request| (*request, asked)));
    }

    /// Of those that were `asked` for, only some were to be had.
    pub(super) fn acquired(&mut self, asked: &[i64], got: &[i64]) {
        self.wait_no_more(asked.iter().copied().filter(|request| !got.contains(request)));
        for request in got {
            if let Some(acquisition) = self.acquired.get_mut(request) {
                acquisition.granted = true;
            }
        }
    }

    /// These alone are on offer now: of all others that were asked for, somebody has granted us the request.
    pub(super) fn on_offer(&mut self, requests: &[i64]) {
        self.wait_no_more(requests.iter().copied());
        for asked in self.acquired.values_mut() {
            asked.granted = true;
        }
        self.refused.retain(|request, _| requests.contains(request));
    }

    /// Whether something was acquired so long ago that statistics know of it, and none have been read since.
    pub(super) fn is_behind(&self, now: Instant) -> bool {
        let mut acquired = self.acquired.values().map(|asked| asked.at + STATISTICS_LAG);
        acquired.any(|known| self.read < known && known <= now)
    }

    /// They have started, ended, or are on offer again.
    pub(super) fn wait_no_more(&mut self, requests: impl Iterator<Item = i64>) {
        for request in requests {
            self.acquired.remove(&request);
        }
    }

    /// Jobs that the set has, but for those `on_offer` of which nobody knows whether they were granted: the session's
    /// statistics may be out of date, and so may `told`.
    pub(super) fn jobs(&self, session: &Session, told: Told, on_offer: &[i64]) -> i64 {
        self.jobs_with(session, told, |id, asked| asked.granted || !on_offer.contains(&id))
    }

    fn jobs_with(&self, session: &Session, told: Told, counts: impl Fn(i64, &Acquisition) -> bool) -> i64 {
        // A message that would have told more of what was acquired may be lost; newer statistics know of it.
        let acquired = || self.acquired.iter().filter(|(id, asked)| counts(**id, asked));
        let since = |lag| acquired().filter(|(_, asked)| self.read < asked.at + lag).count();
        let statistics = session.statistics.map_or(0, |s| s.total_assigned_jobs);
        let newer = i64::try_from(since(Duration::ZERO)).unwrap_or(i64::MAX);
        told.jobs(statistics.saturating_add(newer), since(STATISTICS_LAG))
    }

    /// The loop has taken it in before: only its deletion failed.
    pub(super) fn has_taken_in(&self, message: &Message) -> bool {
        self.taken_in == Some(message.id)
    }

    /// Whether what answered a poll begun at `begun` may have been delivered to the session before this one. Then it may
    /// carry the statistics of that time.
    pub(super) fn may_have_come_before(&self, begun: Instant) -> bool {
        self.answered - begun < REPLAY_AT_ONCE && self.answered < self.replay_until
    }

    /// When a poll that was begun at `begun` and announces `capacity` may be begun anew to announce more.
    pub(super) fn may_announce_more(&self, begun: Instant, session: &Session, capacity: u32) -> Instant {
        let waiting = session.statistics.is_some_and(|s| s.total_available_jobs > 0);
        if begun - self.answered > FALL_AFTER_ANSWER && !waiting && capacity > 0 {
            begun + POLL
        } else {
            self.last_rise + RISE_FLOOR
        }
    }

    /// Whether a poll that is under way may be begun anew to announce less.
    pub(super) fn may_announce_less(&self) -> bool {
        self.refreshed - self.answered < FALL_AFTER_ANSWER
    }

    /// Whether jobs wait that were offered before, and there may be room for one. What was asked for and never answered,
    /// or acquired long ago, fills none: to ask for offers is what tells.
    pub(super) fn has_offers(&self, now: Instant, session: &Session, told: Told, capacity: u32) -> bool {
        let waiting = session.statistics.is_some_and(|s| s.total_available_jobs > 0);
        let jobs = || {
            self.jobs_with(session, told, |_, asked| {
                asked.granted && now < asked.at + STATISTICS_LAG
            })
        };
        waiting && i64::from(capacity) > jobs()
    }
}
