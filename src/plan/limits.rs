//! Hurdles: what refused us, since when, and when one more try is allowed.
//!
//! While nobody refuses, headroom is unlimited. After a refusal it is 0, and one creation per back-off step is
//! tried, one in flight. A success does not end the hurdle: places may be scarce still, so the next creation
//! follows at once but alone; the hurdle falls when a success leaves no demand unmet.

use std::time::Duration;

use super::{
    Moment,
    reason::{Code, Reason},
};
use crate::{config::Retry, ids::SetName};

/// Retry slowly what repeating cannot cure (B18).
pub const RECHECK: Duration = Duration::from_mins(5);
/// A server's own word when to come back is taken up to here: one odd header must not silence a set for days.
pub const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);
/// Steps between tries while a quota is used up: a place that becomes free is found within the last one.
const QUOTA_STEPS: [u64; 4] = [5, 10, 20, 30];
/// A template, image or cluster that fails every pod.
const PODS_STEPS: [u64; 6] = [5, 10, 30, 60, 120, 300];
/// A service that stands still: each call that comes meanwhile may keep it so for half a minute more.
const STALLED_STEPS: [u64; 5] = [30, 60, 120, 240, 300];
/// A service that has failed so often in a row is tried no more often than this, whatever the file says (B20).
const IN_A_ROW: u32 = 4;
const AILING: Duration = Duration::from_secs(30);
/// A trouble that passes by itself is believed so long after the time of its next try, should nobody have tried.
const STALE: Duration = Duration::from_mins(10);
/// So many places are given back for whom it does not help.
const IN_VAIN: u32 = 3;
/// Clocks differ by seconds, seldom by more.
const SKEW_STEPS: [u64; 2] = [5, 15];
/// A token that is refused may only be too new for a service whose clock is behind, and which does not say so.
const TOO_NEW_STEPS: [u64; 2] = [10, 30];

/// Whom a hurdle stops.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// One scale set.
    Set(SetName),
    /// Every set of one account at a provisioner: one team at a GHARTS, whose quota and rights they share.
    Account(String),
    /// Every set behind one provisioner (one GHARTS, one GitHub credential).
    Provisioner(String),
    /// Every set: the cluster refuses.
    Cluster,
}

impl Scope {
    /// The one set that it stops, if it is one.
    pub fn set(&self) -> Option<&SetName> {
        match self {
            Self::Set(name) => Some(name),
            Self::Account(_) | Self::Provisioner(_) | Self::Cluster => None,
        }
    }
}

/// One refusal and its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hurdle {
    pub reason: Reason,
    pub since: Moment,
    /// The newest refusal of a call that was begun in its knowledge.
    pub raised: Moment,
    /// No try before.
    pub until: Moment,
    /// The server's own word: no try before, not even for a place of ours.
    told: Moment,
    /// Refusals in a row.
    pub step: u32,
    /// The newest try succeeded: go on, one by one.
    pub recovering: bool,
    /// No try was refused: a probe was ([`super::probe`]).
    pub suspected: bool,
    /// A place was given back since the newest refusal.
    freed: Option<Moment>,
    /// How often that did not help.
    freed_in_vain: u32,
}

/// The pauses between tries after a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Steps {
    /// Seconds; the last one stays.
    Fixed(&'static [u64]),
    /// As the file's `retry` says: a service that fails (B20).
    BackOff,
    /// After these seconds first, then slowly.
    Recheck(&'static [u64]),
}

impl Steps {
    /// After `step` refusals in a row before this one.
    fn pause(self, step: u32, retry: &Retry) -> Duration {
        match self {
            Self::Fixed(seconds) => usize::try_from(step)
                .ok()
                .and_then(|i| seconds.get(i).or(seconds.last()))
                .map_or(RECHECK, |s| Duration::from_secs(*s)),
            Self::BackOff => retry.pause(step),
            Self::Recheck(first) => usize::try_from(step)
                .ok()
                .and_then(|i| first.get(i))
                .map_or(RECHECK, |s| Duration::from_secs(*s)),
        }
    }
}

fn steps(code: Code) -> Steps {
    match code {
        Code::QuotaExceeded | Code::ResourceQuota => Steps::Fixed(&QUOTA_STEPS),
        Code::ClockSkew => Steps::Fixed(&SKEW_STEPS),
        Code::Credentials => Steps::Recheck(&TOO_NEW_STEPS),
        Code::Stalled => Steps::Fixed(&STALLED_STEPS),
        // An API server that has just started forbids everything until it has read its Roles.
        Code::PodsFailing | Code::RunnersLeave | Code::SetFailed | Code::Forbidden => Steps::Fixed(&PODS_STEPS),
        Code::Upstream
        | Code::UnknownOutcome
        | Code::Unreachable
        | Code::IssuerDown
        | Code::RateLimited
        | Code::ClusterUnavailable
        | Code::NameTaken => Steps::BackOff,
        _ => Steps::Recheck(&[]),
    }
}

/// Whether repeating does not cure it, so that it is looked at slowly.
pub fn is_stubborn(code: Code) -> bool {
    matches!(steps(code), Steps::Recheck(_))
}

/// Whether two refusals are met in the same way, so that they count as one row.
pub fn alike(one: Code, other: Code) -> bool {
    one == other || (!is_stubborn(one) && steps(one) == steps(other))
}

impl Hurdle {
    /// After a refusal of a call that was begun at `began`. `jitter` in 0..1 spreads the tries of many;
    /// `retry_after` is the server's own word; `retry`: the file's back-off for a service that fails.
    pub fn raise(
        old: Option<&Self>,
        now: Moment,
        began: Moment,
        reason: Reason,
        jitter: f64,
        retry_after: Option<Duration>,
        retry: &Retry,
    ) -> Self {
        let same = old.filter(|h| h.reason.code == reason.code);
        let told = now + retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        if let Some(old) = same {
            let told = old.told.max(told);
            if began <= old.raised && old.until > now {
                // Calls that were under way together are refused together: that is one refusal, not a row.
                let until = old.until.max(told);
                return Self {
                    until,
                    told,
                    ..old.clone()
                };
            }
            if old.freed.is_some_and(|freed| began < freed) {
                // The place was given back too late for this call, not for the next.
                return Self {
                    until: told,
                    told,
                    freed: None,
                    ..old.clone()
                };
            }
        }
        // A service that fails now so, now otherwise fails in one row.
        let row = old.filter(|h| !h.suspected && alike(h.reason.code, reason.code));
        let step = row.map_or(0, |h| if h.recovering { 0 } else { h.step + 1 });
        let base = steps(reason.code).pause(step, retry);
        let mut pause = base.mul_f64(0.8 + 0.2 * jitter.clamp(0.0, 1.0));
        if steps(reason.code) == Steps::BackOff && step >= IN_A_ROW {
            pause = pause.max(AILING);
        }
        Self {
            since: same.map_or(now, |h| h.since),
            raised: now,
            reason,
            until: (now + pause).max(told),
            told,
            step,
            recovering: false,
            suspected: false,
            freed: None,
            freed_in_vain: same.map_or(0, |h| h.freed_in_vain + u32::from(h.freed.is_some())),
        }
    }

    /// After a probe that was refused: it says why there might be no runner, and the first one wanted is asked for at
    /// once, alone, unless the server said when.
    pub fn suspect(old: Option<&Self>, now: Moment, reason: Reason, retry_after: Option<Duration>) -> Self {
        let told = now + retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
        let since = old.filter(|h| h.reason.code == reason.code).map_or(now, |h| h.since);
        Self {
            reason,
            since,
            raised: now,
            until: told,
            told,
            step: 0,
            recovering: false,
            suspected: true,
            freed: None,
            freed_in_vain: 0,
        }
    }

    /// The server's own word, beside any refusal.
    ///
    /// Not where a try is due by the word of before: what refuses look-ups may let creations pass, and only a try tells.
    pub fn told(&mut self, now: Moment, pause: Duration) {
        if self.until <= now {
            return;
        }
        self.told = self.told.max(now + pause.min(RETRY_AFTER_MAX));
        self.until = self.until.max(self.told);
    }

    /// A creation that had to pass this hurdle succeeded. True: the hurdle has fallen. False: places may be
    /// scarce still, so the next creation follows at once, but alone.
    pub fn passed(&mut self, now: Moment) -> bool {
        self.recovering = true;
        self.until = now;
        self.step = 0;
        self.freed = None;
        !self.reason.code.is_scarcity()
    }

    /// From when on its trouble is too old to be believed, should nobody want to know. `None`: never, since places that
    /// somebody else holds, and images that fail, do not pass by themselves: the next try goes on where the last one ended.
    pub fn stale_at(&self) -> Option<Moment> {
        let code = self.reason.code;
        // Runners that stay have shown by then that they do.
        let passes =
            steps(code) == Steps::BackOff || matches!(code, Code::ClockSkew | Code::Stalled | Code::RunnersLeave);
        passes.then(|| self.until + STALE)
    }

    /// What it may have been about has changed: try at once.
    pub fn reconsider(&mut self, now: Moment) {
        self.until = self.until.min(now.max(self.told));
    }

    /// One of our own places was given back: try at once.
    pub fn place_freed(&mut self, now: Moment) {
        if self.reason.code.is_scarcity() {
            self.until = self.until.min(now.max(self.told));
            self.freed = Some(now);
        }
    }

    /// Whether more places of ours would let somebody pass: where those that were given back did not, what is scarce is
    /// something else.
    pub fn is_for_want_of_places(&self) -> bool {
        self.reason.code.is_scarcity() && self.freed_in_vain < IN_VAIN
    }

    /// How many creations may be in flight together.
    pub fn allowance(&self, now: Moment) -> u32 {
        u32::from(self.until <= now)
    }
}
