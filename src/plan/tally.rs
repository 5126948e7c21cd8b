//! What one pass over a set's runners counts. The planner needs these figures at every step of a decision; it
//! walks the runners once for all of them, since in a burst there are hundreds.

use super::{
    Moment,
    demand::Busy,
    runner::{Runner, State},
    world::SetWorld,
};

/// Runners of one set, by what they mean to the plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Count against limits.
    pub live: u32,
    /// Failed, and their pods still there, undeleted: they take up places until then, and do nothing else.
    pub dying: u32,
    /// Stand for a job or a spare place each, those that ended just now included.
    pub covering: u32,
    /// The same without those that ended.
    pub staying: u32,
    pub busy: Busy,
    /// When one of those that are busy last turned so.
    pub started: Option<Moment>,
    /// JIT requests under way.
    pub awaiting_grant: u32,
    /// Decided, and no pod yet.
    pub provisioning: u32,
    /// Starts under way: of some the pod is there already, and its Secret is not.
    pub starting: u32,
    /// They have not proved yet that the set's pods work.
    pub unproved: u32,
    /// Since when some online runner has been idle.
    pub idle_since: Option<Moment>,
    /// Some runner may be retired when surplus.
    pub has_spare: bool,
    /// On their way out: each gives a place back soon.
    pub leaving: u32,
    /// Of others their pods alone are still on their way out.
    pub clearing: u32,
    /// Live ones that get none of the set's jobs ([`SetWorld::is_served_by`]): all that they count for is limits. And
    /// how many of them are busy.
    pub apart: u32,
    pub apart_busy: u32,
}

impl Tally {
    pub fn of(set: &SetWorld) -> Self {
        let mut tally = Self::default();
        for runner in set.runners.values() {
            tally.count(set, runner);
        }
        tally
    }

    fn count(&mut self, set: &SetWorld, runner: &Runner) {
        let (live, covers) = (runner.is_live(), runner.covers_job());
        let provisioning = matches!(runner.state, State::Provisioning { .. });
        let pending = matches!(runner.state, State::Pending { .. });
        self.live += u32::from(live);
        self.dying += u32::from(runner.is_dying());
        self.awaiting_grant += u32::from(runner.awaits_grant());
        self.provisioning += u32::from(provisioning);
        // One that was given up waits for its turn to be told.
        self.starting += u32::from(live && runner.is_starting());
        self.unproved += u32::from(provisioning || pending || runner.awaits_verdict());
        self.leaving += u32::from(runner.is_leaving());
        self.clearing += u32::from(runner.is_clearing());
        if !set.is_served_by(runner) {
            self.apart += u32::from(live);
            self.apart_busy += u32::from(runner.is_busy());
            return;
        }
        self.covering += u32::from(covers);
        self.staying += u32::from(live && covers);
        if let State::Busy { since } = runner.state {
            self.busy.all += 1;
            self.busy.unnamed += u32::from(!runner.has_named_job());
            self.busy.news += u32::from(since > set.demand.began());
            self.started = self.started.max(Some(since));
        }
        if let Some(since) = runner.idle_since() {
            self.idle_since = Some(self.idle_since.map_or(since, |other| other.min(since)));
        }
        self.has_spare |= runner.spare_since().is_some();
    }
}
