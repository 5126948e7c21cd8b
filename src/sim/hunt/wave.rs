//! The second wave: when all is well again and nothing is left, as many jobs at one time as there may be runners. Where
//! there are two replicas, the one that leads is killed in the same moment.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    aftermath::RECOVERY,
    judge::Invariant,
    plan::Shape,
    run::{Run, TICK},
};
use crate::sim::{
    github::{AssignedJobsRunOn, JobState, NewJobs},
    world::{Credential, ORGANIZATION, Provisioner, RUNNER_NAMESPACE},
};

/// Beside the pods' own start: for messages, calls and turns.
const BEGUN: Duration = Duration::from_secs(60);
/// Where jobs go by labels, one may go past the set whose job it was: that is clear when no queue has told of it for a
/// minute.
const ELSEWHERE: Duration = Duration::from_secs(65);
/// A GHARTS whose clock is behind does not take the first token of whoever takes over: that is tried again within a minute.
const TOO_NEW: Duration = Duration::from_secs(60);
/// So long all of them run at one time.
const TOGETHER: Duration = Duration::from_secs(10);

impl Run<'_> {
    pub(super) async fn serve_second_wave(&mut self) {
        let shape = &self.plan.shape;
        // What is not well by now has been told.
        if at_once(shape) == 0 || !self.judge.breaches().is_empty() || !self.settles().await {
            return;
        }
        let elsewhere = match shape.assigned_jobs_run_on {
            AssignedJobsRunOn::MatchingLabels => ELSEWHERE,
            AssignedJobsRunOn::SetRunners => Duration::ZERO,
        };
        let too_new = if shape.gharts_skew_seconds < 0 {
            TOO_NEW
        } else {
            Duration::ZERO
        };
        let begun = BEGUN + elsewhere + too_new + Duration::from_millis(shape.start_ms * 3 / 2 + shape.told_late_ms);
        let (at_once, before) = (at_once(shape), self.judge.created());
        // A pod that was made while something took runners may go still.
        let taken = self.plan.faults.iter().any(|timed| timed.fault.takes_runners());
        let doubtful = taken && !self.world.kubernetes.list("pods", RUNNER_NAMESPACE).is_empty();
        self.journal
            .say(|| format!("WAVE     {at_once} jobs may run at one time"));
        let killed = self.kill_leader();
        let mut ids = Vec::new();
        for set in shape.sets.iter().filter(|set| shape.serves(set)) {
            let new = NewJobs::for_set(ORGANIZATION, &set.name, set.max as usize).lasting(begun + TOGETHER);
            ids.extend(self.world.github.queue_jobs(&new).into_iter().map(|job| job.id));
        }
        let most = self.run_together(&ids, at_once, begun).await;
        if most < at_once && !doubtful {
            let what = format!("{most} jobs at most run at one time after {begun:?}, where {at_once} may");
            self.judge.breach(Invariant::AtOnce, what);
        }
        self.ebb(&ids, doubtful).await;
        self.judge_waste(before, ids.len());
        if let Some(index) = killed {
            self.start(index);
        }
    }

    /// Waits until nothing of before is under way any more.
    async fn settles(&mut self) -> bool {
        let since = Instant::now();
        while !self.judge.is_calm() || !self.second_file.is_empty() || !self.is_still() {
            if since.elapsed() > RECOVERY {
                return false;
            }
            self.pass_until(Instant::now() + 4 * TICK).await;
        }
        true
    }

    fn is_still(&self) -> bool {
        self.world.github.unfinished_jobs() == 0 && self.left().is_empty() && self.spares_missing().is_empty()
    }

    /// The most of these jobs that run at one time.
    async fn run_together(&mut self, ids: &[String], enough: usize, time: Duration) -> usize {
        let (since, mut most) = (Instant::now(), 0);
        while most < enough && since.elapsed() < time {
            self.pass_until(Instant::now() + TICK).await;
            let jobs = ids.iter().filter_map(|id| self.world.github.job(id));
            most = most.max(jobs.filter(|job| job.state == JobState::Running).count());
        }
        most
    }

    /// All of them succeed, and nothing is left.
    async fn ebb(&mut self, ids: &[String], doubtful: bool) {
        let since = Instant::now();
        while since.elapsed() < RECOVERY && !self.is_still() {
            self.pass_until(Instant::now() + 4 * TICK).await;
        }
        for job in ids.iter().filter_map(|id| self.world.github.job(id)) {
            let succeeded = job.result.as_deref() == Some("succeeded");
            let is_lost = doubtful && job.runner_lost;
            if !succeeded && !is_lost {
                let (id, set, result) = (&job.id, &job.set, &job.result);
                let what = format!(
                    "job {id} of {set:?}, of the second wave, is {:?}: {result:?}",
                    job.state
                );
                self.judge.breach(Invariant::JobsEnd, what);
            }
        }
        for what in self.left() {
            self.judge
                .breach(Invariant::NothingLeft, format!("after the second wave: {what}"));
        }
        for what in self.spares_missing() {
            self.judge
                .breach(Invariant::Spares, format!("after the second wave: {what}"));
        }
    }

    /// No pod is made that no job calls for, and no spare place.
    fn judge_waste(&self, before: usize, jobs: usize) {
        let shape = &self.plan.shape;
        let made = self.judge.created() - before;
        let late = shape.told_late_ms > 0 || shape.events_late_ms > 0;
        let unclear = if late { shape.sets.len() + jobs / 4 } else { 0 };
        // Spare runners of one set make room for jobs of another, and come back.
        let spares: u32 = shape.sets.iter().map(|set| set.min).sum();
        if made > jobs + unclear + spares as usize {
            let what = format!("{made} pods for {jobs} jobs of the second wave");
            self.judge.breach(Invariant::Thrift, what);
        }
    }
}

/// Jobs that may run at one time, where every set that can be served has as many as it may have runners.
fn at_once(shape: &Shape) -> usize {
    let all = |provisioner| {
        let sets = shape.sets.iter().filter(move |set| set.provisioner == provisioner);
        sets.filter(|set| shape.serves(set)).map(|set| set.max).sum::<u32>()
    };
    // What no job ever comes to keeps its place.
    let idle: u32 = shape
        .sets
        .iter()
        .filter(|set| !shape.serves(set))
        .map(|set| set.min)
        .sum();
    // Whoever asks GHARTS for a registration token has a record there for a moment.
    let broker = u32::from(shape.credential == Credential::Brokered);
    let quota = shape
        .quota
        .map_or(u32::MAX, |quota| quota.saturating_sub(idle + broker));
    let total = shape.max_runners.map_or(u32::MAX, |total| total.saturating_sub(idle));
    (all(Provisioner::Gharts).min(quota) + all(Provisioner::ScaleSet)).min(total) as usize
}

#[cfg(test)]
mod tests {
    use super::{super::plan::Plan, *};

    #[test]
    fn every_limit_counts() {
        let mut shape = Plan::draw(0).shape;
        shape.credential = Credential::Pat;
        shape.sets.truncate(1);
        (shape.sets[0].provisioner, shape.sets[0].max) = (Provisioner::ScaleSet, 5);
        (shape.max_runners, shape.quota) = (None, Some(1));
        assert_eq!(at_once(&shape), 5);
        shape.max_runners = Some(3);
        assert_eq!(at_once(&shape), 3);
        shape.sets[0].provisioner = Provisioner::Gharts;
        shape.sets[0].binding = crate::sim::world::Binding::LabelsAvailable;
        assert_eq!(at_once(&shape), 1);
    }
}
