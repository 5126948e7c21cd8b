//! What the daemon says of its sets, beside what they lack.

use std::time::Duration;

use tokio::time::Instant;

use super::{Invariant, Judge, cluster::live_of};
use crate::sim::{
    github::{JobState, JobView},
    world::RUNNER_NAMESPACE,
};

/// What it says when nothing is missing.
const CONTENT: &str = "demand_met";
/// A set may lack runners for so long without a word of it.
const UNSAID: Duration = Duration::from_secs(30);

impl Judge {
    /// What a replica says now of one set.
    pub(in crate::sim::hunt) fn said(&self, replica: &str, set: &str, codes: &[String]) {
        if codes.is_empty() {
            self.breach(Invariant::Reasons, format!("{replica} gives no reason for {set}"));
        }
        let leads = self.lease_holder().as_deref() == Some(replica);
        let content = leads && self.is_calm() && codes == [CONTENT];
        let lacking = if content { self.lacking(set) } else { None };
        let key = (replica.to_owned(), set.to_owned());
        let Some((jobs, live)) = lacking else {
            self.lock().content.remove(&key);
            return;
        };
        let since = *self.lock().content.entry(key).or_insert_with(Instant::now);
        if since.elapsed() > UNSAID {
            let what = format!("{replica} says no more than {CONTENT} of {set}, with {live} runners for {jobs} jobs");
            self.breach(Invariant::Reasons, what);
        }
    }

    /// Jobs that the set has and was told of, and its live runners, where they are fewer.
    fn lacking(&self, set: &str) -> Option<(usize, usize)> {
        let pods = self.world.kubernetes.list("pods", RUNNER_NAMESPACE);
        let runners: Vec<&str> = live_of(&pods, set)
            .iter()
            .filter_map(|pod| pod["metadata"]["name"].as_str())
            .collect();
        let live = runners.len();
        let told = self.lock().queues.newest(set);
        if told <= live {
            return None;
        }
        let jobs = self.world.github.jobs();
        // One whose runner was lost keeps its place until GitHub knows: nobody can say what the others wait for.
        let is_lost = |job: &&JobView| {
            let runs_here = job.runner.as_deref().is_some_and(|name| runners.contains(&name));
            job.set.as_deref() == Some(set) && job.state == JobState::Running && !runs_here
        };
        if jobs.iter().any(|job| is_lost(&job)) {
            return None;
        }
        let jobs = jobs.iter().filter(|job| job.set.as_deref() == Some(set));
        // Of one that was taken back while it waited nobody is told.
        let jobs = jobs.filter(|job| matches!(job.state, JobState::Queued | JobState::Assigned | JobState::Running));
        let jobs = jobs.count().min(told);
        (jobs > live).then_some((jobs, live))
    }
}
