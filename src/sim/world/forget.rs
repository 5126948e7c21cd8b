//! A world that forgets: its parts remember everything, and in a run of days that would be all that a measured heap shows.

use jiff::Timestamp;

use super::World;

impl World {
    /// Forgets what was over before then.
    pub fn forget(&self, before: Timestamp) {
        self.github.forget(before);
        self.gharts.forget(before);
        self.kubernetes.forget(before);
        self.counters.forget(before);
    }
}
