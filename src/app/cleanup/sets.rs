//! Scale sets at GitHub: deleted on request alone, and only where nobody listens to them or runs their jobs.

use std::collections::BTreeMap;

use super::{Fate, Finding, Job, runners::Left};
use crate::{
    admission::gate::Urgency,
    control::SetParts,
    ids::SetName,
    scaleset::{Error, Statistics},
};

/// What `cleanup` calls itself at GitHub.
const OWNER: &str = "gharts-listener cleanup";

impl Job<'_> {
    pub(super) async fn scale_sets(&self, left: &BTreeMap<SetName, Left>, tell: &mut impl FnMut(Finding)) {
        for setup in &self.sets {
            let set = &*setup.parts;
            let Some(left) = left.get(&set.name) else { continue };
            let what = format!("scale set {}", set.name);
            if left.runners {
                let remedy = "see the lines above";
                tell(Finding::new(
                    Fate::Kept,
                    what,
                    "not all of its runners are gone",
                    remedy,
                ));
                continue;
            }
            // GitHub has none: nothing to tell.
            let Some(id) = left.scale_set_id else { continue };
            let _permit = set.github_gate.enter(Urgency::Remove, &set.name).await;
            tell(match self.scale_set(set, id, &what).await {
                Ok(finding) => finding,
                Err(error) => Finding::new(
                    Fate::Failed,
                    what,
                    error.to_string(),
                    "run cleanup again, or delete it at GitHub (Settings, Actions, Runners)",
                ),
            });
        }
    }

    async fn scale_set(&self, set: &SetParts, id: i64, what: &str) -> Result<Finding, Error> {
        let agents = set.connection.agents().await?;
        let mut others = agents.iter().filter(|agent| {
            agent.runner_scale_set_id == Some(id) && !(self.wish.dry_run && set.namer.is_ours(&agent.name))
        });
        if let Some(other) = others.next() {
            let more = match others.count() {
                0 => String::new(),
                n => format!(", and {n} more"),
            };
            let says = format!("somebody else's runners are registered with it: {}{more}", other.name);
            let remedy = "another installation uses the set: leave it, or clean that one up first";
            return Ok(Finding::new(Fate::Kept, what, says, remedy));
        }
        let at = format!("id {id} at {}", set.github);
        if self.wish.dry_run {
            let now = set.connection.scale_set_by_id(id).await?;
            let waiting = waiting(now.statistics).filter(|_| !self.wish.busy);
            return Ok(waiting.map_or_else(
                || Finding::new(Fate::WouldRemove, what, &*at, ""),
                |jobs| jobs_wait(what, jobs),
            ));
        }
        if let Some(left_open) = self.sessions.get(&set.name).filter(|session| session.0 == id) {
            set.connection.close_session(id, &left_open.1).await?;
        }
        // Whoever holds the one session listens to the set.
        let session = match set.connection.open_session(id, OWNER).await {
            Ok(session) => session,
            Err(Error::Conflict { holder, .. }) => {
                let holder = holder.as_deref().unwrap_or("somebody unnamed");
                let says = format!("{holder} holds its session");
                let remedy = "somebody listens to it; the session of a listener that died frees itself in 60 to 92 s: run \
                              cleanup again then";
                return Ok(Finding::new(Fate::Kept, what, says, remedy));
            }
            Err(error) => return Err(error),
        };
        let waiting = waiting(session.statistics).filter(|_| !self.wish.busy);
        set.connection.close_session(id, &session.id).await?;
        if let Some(jobs) = waiting {
            return Ok(jobs_wait(what, jobs));
        }
        set.connection.delete_scale_set(id).await?;
        Ok(Finding::new(Fate::Removed, what, at, ""))
    }
}

/// Jobs that GitHub gave to the set, or offers it.
fn waiting(statistics: Option<Statistics>) -> Option<i64> {
    let jobs = statistics.map_or(0, |s| {
        s.total_assigned_jobs.max(s.total_acquired_jobs) + s.total_available_jobs
    });
    (jobs > 0).then_some(jobs)
}

fn jobs_wait(what: &str, jobs: i64) -> Finding {
    let says = format!("jobs that wait for it or run on it: {jobs}");
    let remedy = "let a listener serve them, or cancel them at GitHub; --busy deletes the set all the same";
    Finding::new(Fate::Kept, what, says, remedy)
}
