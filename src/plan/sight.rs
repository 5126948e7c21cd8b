//! Whether what pods do is seen: a watch that fails again and again tells nothing, and says nothing by itself.

use std::time::Duration;

use super::{
    Moment,
    reason::{Code, Reason},
    world::World,
};

/// An outage of the watch of pods, and the API server's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interrupted {
    first: Moment,
    newest: Moment,
    words: String,
}

/// Between two failures of a watch that is tried again and again: the longest that one try takes, and a rest.
const WATCH_TRIES: Duration = Duration::from_secs(45);
/// An outage as long as this is told.
const WATCH_OUTAGE: Duration = Duration::from_mins(1);

impl World {
    /// The watch of pods was interrupted.
    pub fn watch_fails(&mut self, now: Moment, words: String) {
        let before = self.interrupted.take();
        let goes_on = before.filter(|outage| now.since(outage.newest) <= WATCH_TRIES);
        self.interrupted = Some(Interrupted {
            first: goes_on.map_or(now, |outage| outage.first),
            newest: now,
            words,
        });
    }

    pub(super) fn is_blind(&self, now: Moment) -> Option<Reason> {
        let outage = self.interrupted.as_ref()?;
        let told = now.since(outage.newest) <= WATCH_TRIES && outage.newest.since(outage.first) >= WATCH_OUTAGE;
        told.then(|| {
            Reason::new(
                Code::ClusterUnavailable,
                format!("the pods cannot be watched: {}", outage.words),
            )
        })
    }
}
