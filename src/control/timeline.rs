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
}

impl Timeline {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            start: clock.instant(),
            clock,
        }
    }

    pub(super) fn now(&self) -> Moment {
        Moment::START + self.clock.instant().duration_since(self.start)
    }

    /// A peer's wall time, by what our own wall clock says now: it may have been set since the start. Peers' clocks differ,
    /// so only long deadlines may hang on it.
    pub(super) fn of(&self, wall: Timestamp) -> Moment {
        let ago = self.clock.now().duration_since(wall).as_millis();
        let ago = i64::try_from(ago).unwrap_or(if ago < 0 { i64::MIN } else { i64::MAX });
        Moment::from_millis(self.now().millis().saturating_sub(ago))
    }

    /// When tokio's clock reaches `moment`; the start for moments before it.
    pub(super) fn instant(&self, moment: Moment) -> Instant {
        self.start + Duration::from_millis(u64::try_from(moment.millis()).unwrap_or(0))
    }

    /// Wall time of a moment, for people.
    pub(super) fn wall(&self, moment: Moment) -> Timestamp {
        let (now, wall) = (self.now(), self.clock.now());
        let ahead = jiff::SignedDuration::from_millis(moment.millis().saturating_sub(now.millis()));
        wall.checked_add(ahead).unwrap_or(wall)
    }

    /// [`Self::wall`] as people read it: RFC 3339, whole seconds.
    pub(super) fn wall_text(&self, moment: Moment) -> String {
        self.wall(moment).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wall_clock_that_is_set_moves_no_moment() {
        let clock = Clock::simulated(Timestamp::UNIX_EPOCH);
        let timeline = Timeline::new(clock.clone());
        tokio::time::advance(Duration::from_secs(100)).await;
        let of = |seconds: i64| timeline.of(Timestamp::from_second(seconds).unwrap());
        assert_eq!(of(90), Moment::from_millis(90_000));
        assert_eq!(of(400), Moment::from_millis(400_000), "until when a failed pod is kept");
        clock.step(3600);
        assert_eq!(of(3690), Moment::from_millis(90_000));
        assert_eq!(timeline.wall_text(Moment::from_millis(90_000)), "1970-01-01T01:01:30Z");
        clock.step(-7200);
        assert_eq!(of(-3510), Moment::from_millis(90_000));
    }
}
