//! How much the loop keeps in memory: everything of it that grows with what happens, counted by kind, so that anybody
//! can see that it stays bounded. What of it stands behind a bound of its own is named with it where it is kept.

use super::Control;
use crate::telemetry::metrics::Kept;

impl Control {
    pub(super) fn kept(&self) -> impl Iterator<Item = (Kept, usize)> {
        let worlds = || self.world.sets.values();
        [
            (Kept::Runners, worlds().map(|set| set.runners.len()).sum()),
            (Kept::Starts, self.starts.len()),
            (
                Kept::FormerRunners,
                self.sets.values().map(|set| set.of_before.len()).sum(),
            ),
            (Kept::JobsHeardOf, worlds().map(|set| set.demand.heard_of()).sum()),
            (Kept::Limits, self.world.hurdles.len()),
            (Kept::AgentsSeen, self.rounds.agents_seen()),
            (Kept::StandbyPods, self.leadership.pods_kept()),
            (Kept::Notices, self.notices.len()),
            (Kept::Events, self.events.len()),
            (Kept::Calls, self.work.under_way() + self.words.under_way()),
        ]
        .into_iter()
    }
}
