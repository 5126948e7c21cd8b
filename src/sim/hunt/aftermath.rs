//! When all faults are over: what must end, what may be left, and what was said.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::{
    journal::Journal,
    judge::{Invariant, is_live},
    plan::{Arrival, Blow, Fault, LEASES, Plan, SetShape, THIEF, Timed},
    rules::LATE,
    run::{EPOCH, Run, TICK},
    strangers::{self, Strangers},
};
use crate::sim::{
    gharts::Status,
    github::{JobState, NewJobs, Violation},
    world::{ORGANIZATION, RUNNER_NAMESPACE, World},
};

/// When all is well again, every job has ended and nothing is left within so long: GitHub gives a job's runner up after
/// ten minutes of silence, queues a job that nobody took up to three times again, and the slowest re-check of what only
/// people can mend is five minutes. Beside the time that the jobs themselves take.
pub(super) const RECOVERY: Duration = Duration::from_mins(25);

/// What the daemon says of a set whose runners go one after the other.
const LEAVE: &str = "runners_leave";

impl Run<'_> {
    /// All is well again: what was there ends, and what comes is served.
    pub(super) async fn recover(&mut self) {
        self.journal.say(|| "WELL     all faults are over".to_owned());
        let well = Instant::now();
        let shape = &self.plan.shape;
        for job in &self.lost_jobs {
            // One that runs ends by itself.
            let _ = self.world.github.cancel(job);
        }
        for job in self.world.github.jobs() {
            let set = shape.sets.iter().find(|set| job.set.as_deref() == Some(&set.name));
            // Jobs may have come for a set that was there for a while only.
            let late = job.set.as_deref() == Some(LATE) && job.state != JobState::Running;
            if late {
                let _ = self.world.github.cancel(&job.id);
            }
            if set
                .or_else(|| self.wanted_of(&job.id))
                .is_some_and(|set| !shape.serves(set))
            {
                // Nobody will ever run it; one that runs all the same ends by itself.
                let _ = self.world.github.cancel(&job.id);
            }
        }
        let mut proofs = Vec::new();
        for set in shape.sets.iter().filter(|set| shape.serves(set)) {
            let new = NewJobs::for_set(ORGANIZATION, &set.name, 1).lasting(Duration::from_secs(5));
            proofs.extend(self.world.github.queue_jobs(&new));
        }
        let within = RECOVERY + work(self.plan);
        while Instant::now() - well < within {
            let is_well = self.left().is_empty() && self.spares_missing().is_empty();
            if self.world.github.unfinished_jobs() == 0 && is_well {
                break;
            }
            self.pass_until(Instant::now() + 4 * TICK).await;
        }
        self.outcome.recovery_ms = u64::try_from(well.elapsed().as_millis()).unwrap_or(u64::MAX);
        for job in self.world.github.jobs() {
            if job.state != JobState::Finished {
                let what = format!(
                    "job {} of {:?} is {:?} after {} attempts",
                    job.id, job.set, job.state, job.attempts
                );
                self.judge.breach(Invariant::JobsEnd, what);
            }
        }
        // A pod that was made while something took runners may go still.
        let taken = self.plan.faults.iter().any(|timed| timed.fault.takes_runners());
        for job in proofs.iter().filter_map(|job| self.world.github.job(&job.id)) {
            let lost = taken && job.runner_lost;
            if job.state == JobState::Finished && job.result.as_deref() != Some("succeeded") && !lost {
                let what = format!("a job of {:?}, queued when all was well: {:?}", job.set, job.result);
                self.judge.breach(Invariant::JobsEnd, what);
            }
        }
        if self.plan.faults.is_empty() {
            self.judge_results();
        }
        for what in self.left() {
            self.judge.breach(Invariant::NothingLeft, what);
        }
        for what in self.spares_missing() {
            self.judge.breach(Invariant::Spares, what);
        }
        let (jobs, spares): (usize, u32) = (
            self.world.github.jobs().len(),
            shape.sets.iter().map(|set| set.min).sum(),
        );
        let needed = jobs + spares as usize;
        // Where sets share a limit, spare runners of one make room for jobs of another, and come back.
        let shared = shape.max_runners.is_some() || shape.quota.is_some();
        // Whoever hears late takes some runner for idle that is not, and of a pod that ends badly he cannot know that it
        // had a job.
        let late = shape.told_late_ms > 0 || shape.events_late_ms > 0;
        let spare = if late { shape.sets.len() + jobs / 4 } else { 0 };
        let unclear = late && self.plan.jobs.iter().any(|jobs| jobs.exit_code != 0);
        if self.plan.faults.is_empty() && !shared && !unclear && self.judge.created() > needed + spare {
            let what = format!(
                "{} pods for {jobs} jobs and {spares} spare runners",
                self.judge.created()
            );
            self.judge.breach(Invariant::Thrift, what);
        }
    }

    /// Where nothing goes wrong every job comes to what its steps come to.
    fn judge_results(&self) {
        for (index, ids) in &self.arrived {
            let Some(jobs) = self.plan.jobs.get(*index) else {
                continue;
            };
            let set = self.plan.shape.sets.get(jobs.set);
            if !set.is_some_and(|set| self.plan.shape.serves(set)) {
                continue;
            }
            for job in ids.iter().filter_map(|id| self.world.github.job(id)) {
                if !comes_to(jobs, job.result.as_deref()) {
                    let what = format!("job {} of {:?} in peace: {:?}", job.id, job.set, job.result);
                    self.judge.breach(Invariant::JobsEnd, what);
                }
            }
        }
    }

    /// Whose job it is by the plan, registered or not.
    fn wanted_of(&self, job: &str) -> Option<&SetShape> {
        let mut arrived = self.arrived.iter();
        let (index, _) = arrived.find(|(_, ids)| ids.iter().any(|id| id == job))?;
        self.plan.shape.sets.get(self.plan.jobs.get(*index)?.set)
    }

    /// Sets whose `minRunners` are not there, where every limit has room for them.
    pub(super) fn spares_missing(&self) -> Vec<String> {
        let shape = &self.plan.shape;
        let all: u32 = shape.sets.iter().map(|set| set.min).sum();
        if shape.max_runners.or(Some(all)).min(shape.quota.or(Some(all))) < Some(all) {
            return Vec::new();
        }
        let pods = self.world.kubernetes.list("pods", RUNNER_NAMESPACE);
        let of = |name: &str| {
            let ours = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str());
            ours.filter(|pod| pod.starts_with(&format!("{name}-")) && !strangers::is_theirs(pod))
                .count()
        };
        let lacking = shape
            .sets
            .iter()
            .filter(|set| shape.serves(set) && of(&set.name) < set.min as usize);
        lacking
            .map(|set| format!("{} of {} spare runners of {}", of(&set.name), set.min, set.name))
            .collect()
    }

    /// What nobody needs any more: everything but `minRunners` idle runners of each set, whole.
    pub(super) fn left(&self) -> Vec<String> {
        let (model, github) = (&self.world.kubernetes, &self.world.github);
        let sets = &self.plan.shape.sets;
        let of_sets = || sets.iter().map(|set| set.name.as_str()).chain([LATE]);
        let named = |plural: &str| -> BTreeSet<String> {
            let all = model.list(plural, RUNNER_NAMESPACE);
            let names = all.iter().filter_map(|object| object["metadata"]["name"].as_str());
            let ours = |name: &&str| of_sets().any(|set| name.starts_with(&format!("{set}-")));
            names
                .filter(ours)
                .filter(|name| !strangers::is_theirs(name))
                .map(str::to_owned)
                .collect()
        };
        let pods = named("pods");
        let mut left = Vec::new();
        for name in of_sets() {
            let min = sets.iter().find(|set| set.name == name).map_or(0, |set| set.min);
            let of_set = pods.iter().filter(|pod| pod.starts_with(&format!("{name}-")));
            let of_set = of_set.count();
            if of_set > min as usize {
                left.push(format!("{of_set} pods of {name}, whose minRunners are {min}"));
            }
        }
        let is_over = |pod: &&String| {
            model
                .get("pods", RUNNER_NAMESPACE, pod)
                .is_none_or(|pod| !is_live(&pod))
        };
        left.extend(pods.iter().filter(is_over).map(|pod| format!("the ended pod {pod}")));
        left.extend(
            named("secrets")
                .difference(&pods)
                .map(|name| format!("the Secret {name}")),
        );
        let agents = github.runners().into_iter().map(|agent| agent.name);
        let agents: BTreeSet<String> = agents.filter(|name| !strangers::is_theirs(name)).collect();
        left.extend(agents.difference(&pods).map(|name| format!("the registration {name}")));
        left.extend(
            pods.difference(&agents)
                .map(|name| format!("the pod {name}, which is not registered")),
        );
        let records = self.world.gharts.records();
        let records = records.into_iter().filter(|record| record.status != Status::Deleted);
        let records: BTreeSet<String> = records
            .map(|record| record.name)
            .filter(|name| !strangers::is_theirs(name))
            .collect();
        left.extend(
            records
                .difference(&pods)
                .map(|name| format!("GHARTS' record of {name}")),
        );
        left.extend(self.kept_for_nothing(pods.len()));
        left
    }

    pub(super) async fn end_in_order(&mut self) {
        self.stop_all().await;
        let text = self.text();
        let killed = |timed: &Timed| matches!(timed.fault, Fault::Killed { .. });
        let killed = self.plan.faults.iter().any(killed);
        // Where whoever closes a session panics, and whoever closes it in his stead, GitHub ends it within 92 s.
        let panics =
            |timed: &Timed| matches!(&timed.fault, Fault::Panic { call, .. } if "/sessions".contains(call.as_str()));
        let panics = self.plan.faults.iter().any(panics);
        for set in self.world.github.sets() {
            let stolen = set.session_owner.as_deref() == Some(THIEF);
            let ours = self.plan.shape.sets.iter().any(|shape| shape.name == set.name) || set.name == LATE;
            // What a dead process left open of a set that the file names no more, GitHub ends within 92 s.
            let of_dead = killed && !text.sets.iter().any(|named| named.shape.name == set.name);
            // Of one whose opening was never answered nobody knows.
            let known = set.session.as_ref().is_some_and(|id| self.judge.knows_session(id));
            if ours && known && !stolen && !of_dead && !panics {
                self.judge.breach(
                    Invariant::OrderlyEnd,
                    format!("the session of {} is left open", set.name),
                );
            }
        }
        self.judge_lease();
        self.judge_github();
        self.judge_jobs();
        for what in Strangers::missing(self.world) {
            self.judge.breach(Invariant::Strangers, what);
        }
    }

    /// Whoever ends in order leaves the Lease to the next one.
    fn judge_lease(&self) {
        // Where its keeper panics nobody is left to release it.
        let panics = |timed: &Timed| matches!(&timed.fault, Fault::Panic { call, .. } if call == LEASES);
        if self.plan.faults.iter().any(panics) {
            return;
        }
        // Who could not renew it to the end does not hold it any more.
        if let Some(holder) = self.judge.lease_holder().filter(|holder| self.judge.holds(holder)) {
            let what = format!("the Lease is left to {holder}");
            self.judge.breach(Invariant::OrderlyEnd, what);
        }
    }

    fn judge_jobs(&self) {
        if self.plan.faults.iter().any(|timed| timed.fault.takes_runners()) {
            return;
        }
        for job in self.world.github.jobs() {
            if job.runner_lost {
                let what = format!("job {} of {:?} lost its runner {:?}", job.id, job.set, job.runner);
                self.judge.breach(Invariant::JobsKept, what);
            }
        }
    }

    fn judge_github(&self) {
        // What GitHub itself hides in its statistics for minutes, a listener takes for ended.
        let lies = |timed: &Timed| matches!(timed.fault, Fault::WrongStatistics { .. });
        let hidden = self.plan.faults.iter().any(lies);
        for violation in self.world.github.violations() {
            if hidden && matches!(violation, Violation::AcquiredBeyondCapacity { .. }) {
                continue;
            }
            let invariant = match violation {
                Violation::JitUsedTwice { .. } => Invariant::JitOnce,
                _ => Invariant::Queue,
            };
            self.judge.breach(invariant, format!("{violation:?}"));
        }
    }

    /// Runners that a node takes along all together are one chance, and no reason to make fewer.
    fn judge_back_off(&self) {
        let [only] = &self.plan.faults[..] else { return };
        let chance = matches!(
            &only.fault,
            Fault::PodStruck {
                how: Blow::Evicted | Blow::NodeLost,
                ..
            }
        );
        if chance && self.outcome.reasons.contains(LEAVE) {
            let what = format!("{LEAVE}, where nothing happened but {}", only.fault);
            self.judge.breach(Invariant::BackOff, what);
        }
    }

    pub(super) fn judge_what_was_said(&mut self) {
        self.kill_all();
        self.judge_back_off();
        let logs = self.subject.logs();
        let ordered = self
            .plan
            .faults
            .iter()
            .any(|timed| matches!(timed.fault, Fault::Panic { .. }));
        if let Some(panic) = logs.lines().find(|line| !ordered && line.contains("panicked")) {
            self.judge.breach(Invariant::Alive, format!("a task panicked: {panic}"));
        }
        for (said, place) in [(&logs, "the logs"), (&self.said, "status or metrics")] {
            self.judge.no_secret_of(self.secrets.iter(), said, place);
        }
    }
}

/// Whether such jobs may have this result.
fn comes_to(jobs: &Arrival, result: Option<&str>) -> bool {
    match result {
        Some("succeeded") => jobs.exit_code == 0,
        Some("failed") => jobs.exit_code != 0,
        Some("canceled") => jobs.cancelled_after_ms.is_some(),
        _ => false,
    }
}

/// Where every job got, for the timeline.
pub(super) fn tell_jobs(world: &World, journal: &Journal) {
    let origin: jiff::Timestamp = EPOCH.parse().unwrap_or_default();
    for job in world.github.jobs() {
        let steps = [
            ("queued", Some(job.queued)),
            ("assigned", job.assigned),
            ("started", job.started),
            ("finished", job.finished),
        ];
        for (step, at) in steps {
            let Some(at) = at else { continue };
            let since = u64::try_from(at.duration_since(origin).as_millis()).unwrap_or(0);
            let (id, runner, result) = (&job.id, &job.runner, &job.result);
            journal.say_of(since, || match step {
                "finished" => format!("job      {id} finished: {result:?} on {runner:?}"),
                "started" => format!("job      {id} started on {runner:?}"),
                _ => format!("job      {id} {step}"),
            });
        }
    }
}

/// How long the plan's jobs take, where those of one set run side by side as far as the limits let them.
fn work(plan: &Plan) -> Duration {
    let shared = plan.shape.max_runners.into_iter().chain(plan.shape.quota).min();
    let of = |jobs: &Arrival| {
        let max = plan.shape.sets.get(jobs.set).map_or(1, |set| set.max);
        let places = shared.unwrap_or(max).min(max).max(1);
        jobs.lasting_ms * jobs.count as u64 / u64::from(places)
    };
    Duration::from_millis(plan.jobs.iter().map(of).sum())
}
