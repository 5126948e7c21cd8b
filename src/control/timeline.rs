//! From clocks to the planner's moments.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::{clock::Clock, plan::Moment};

/// Moments count from here. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Timeline {
    clock: Clock,
    start: Instant,
    wall_start: Timestamp,
}

impl Timeline {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            start: clock.instant(),
            wall_start: clock.now(),
            clock,
        }
    }

    pub(super) fn now(&self) -> Moment {
        Moment::START + self.clock.instant().duration_since(self.start)
    }

    /// A peer's wall time; peers' clocks differ, so only long deadlines may hang on it.
    pub(super) fn of(&self, wall: Timestamp) -> Moment {
        let millis = wall.duration_since(self.wall_start).as_millis();
        Moment::from_millis(i64::try_from(millis).unwrap_or(if millis < 0 { i64::MIN } else { i64::MAX }))
    }

    /// When tokio's clock reaches `moment`; the start for moments before it.
    pub(super) fn instant(&self, moment: Moment) -> Instant {
        self.start + Duration::from_millis(u64::try_from(moment.millis()).unwrap_or(0))
    }

    /// Wall time of a moment, for people.
    pub(super) fn wall(&self, moment: Moment) -> Timestamp {
        self.wall_start
            .checked_add(jiff::SignedDuration::from_millis(moment.millis()))
            .unwrap_or(self.wall_start)
    }

    /// [`Self::wall`] as people read it: RFC 3339, whole seconds.
    pub(super) fn wall_text(&self, moment: Moment) -> String {
        self.wall(moment).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }
}
