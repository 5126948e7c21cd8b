//! One call that must be made sooner or later, and how it is tried again.

use std::time::Duration;

use super::super::Moment;

/// First and longest pause between tries of one call about one runner.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LONGEST: Duration = Duration::from_mins(1);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Todo {
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
    /// Asks for the call, unless it has been asked for before.
    pub(super) fn demand(&mut self, now: Moment) {
        if *self == Self::No {
            *self = Self::Due { at: now, tries: 0 };
        }
    }

    /// Asks for the call whatever became of an earlier one.
    pub(super) fn renew(&mut self, at: Moment) {
        *self = Self::Due { at, tries: 0 };
    }

    /// A call that waits for its next try is tried now.
    pub(super) fn hurry(&mut self, now: Moment) {
        if let Self::Due { at, .. } = self {
            *at = (*at).min(now);
        }
    }

    /// The reason for the call has gone; what is done stays done, and an answer on its way means nothing.
    pub(super) fn give_up(&mut self) {
        if self.open() {
            *self = Self::No;
        }
    }

    pub(super) fn is_due(self, now: Moment) -> bool {
        matches!(self, Self::Due { at, .. } if at <= now)
    }

    pub(super) fn open(self) -> bool {
        matches!(self, Self::Due { .. } | Self::InFlight { .. })
    }

    /// On its way, or answered.
    pub(super) fn begun(self) -> bool {
        matches!(self, Self::InFlight { .. } | Self::Done)
    }

    pub(super) fn due_at(self) -> Option<Moment> {
        match self {
            Self::Due { at, .. } => Some(at),
            _ => None,
        }
    }

    /// The call is under way.
    pub(super) fn begin(&mut self) {
        if let Self::Due { tries, .. } = *self {
            *self = Self::InFlight { tries };
        }
    }

    /// The call failed: once more, later and later.
    pub(super) fn again(&mut self, now: Moment) {
        let tries = match *self {
            Self::InFlight { tries } | Self::Due { tries, .. } => tries,
            Self::No | Self::Done => 0,
        };
        let pause = RETRY_FIRST.saturating_mul(1 << tries.min(10)).min(RETRY_LONGEST);
        *self = Self::Due {
            at: now + pause,
            tries: tries + 1,
        };
    }
}
