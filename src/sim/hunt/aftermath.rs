//! When all faults are over: what must end, what may be left, and what was said.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::{
    journal::Journal,
    judge::{Invariant, is_live},
    run::{EPOCH, Run, TICK},
    strangers,
};
use crate::sim::{
    gharts::Status,
    github::{JobState, NewJobs, Violation},
    world::{ORGANIZATION, RUNNER_NAMESPACE, World},
};

/// When all is well again, every job has ended and nothing is left within so long: GitHub gives a job's runner up after
/// ten minutes of silence, queues a job that nobody took up to three times again, and the slowest re-check of what only
/// people can mend is five minutes.
const RECOVERY: Duration = Duration::from_mins(45);

impl Run<'_> {
    /// All is well again: what was there ends, and what comes is served.
    pub(super) async fn recover(&mut self) {
        self.journal.say(|| "WELL     all faults are over".to_owned());
        let well = Instant::now();
        let mut proofs = Vec::new();
        for set in &self.plan.shape.sets {
            let new = NewJobs::for_set(ORGANIZATION, &set.name, 1).lasting(Duration::from_secs(5));
            proofs.extend(self.world.github.queue_jobs(&new));
        }
        while Instant::now() - well < RECOVERY {
            if self.world.github.unfinished_jobs() == 0 && self.left().is_empty() {
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
        for job in proofs.iter().filter_map(|job| self.world.github.job(&job.id)) {
            if job.state == JobState::Finished && job.result.as_deref() != Some("succeeded") {
                let what = format!("a job of {:?}, queued when all was well: {:?}", job.set, job.result);
                self.judge.breach(Invariant::JobsEnd, what);
            }
        }
        for what in self.left() {
            self.judge.breach(Invariant::NothingLeft, what);
        }
    }

    /// What nobody needs any more: everything but `minRunners` idle runners of each set, whole.
    fn left(&self) -> Vec<String> {
        let (model, github) = (&self.world.kubernetes, &self.world.github);
        let named = |plural: &str| -> BTreeSet<String> {
            let all = model.list(plural, RUNNER_NAMESPACE);
            let names = all.iter().filter_map(|object| object["metadata"]["name"].as_str());
            let ours = |name: &&str| {
                self.plan
                    .shape
                    .sets
                    .iter()
                    .any(|set| name.starts_with(&format!("{}-", set.name)))
            };
            names
                .filter(ours)
                .filter(|name| !strangers::is_theirs(name))
                .map(str::to_owned)
                .collect()
        };
        let pods = named("pods");
        let mut left = Vec::new();
        for set in &self.plan.shape.sets {
            let of_set = pods
                .iter()
                .filter(|pod| pod.starts_with(&format!("{}-", set.name)))
                .count();
            if of_set > set.min as usize {
                left.push(format!(
                    "{of_set} pods of {}, whose minRunners are {}",
                    set.name, set.min
                ));
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
        left
    }

    pub(super) async fn end_in_order(&mut self) {
        self.stop().await;
        for set in self.world.github.sets() {
            let ours = self.plan.shape.sets.iter().any(|shape| shape.name == set.name);
            if ours && set.session.is_some() {
                self.judge.breach(
                    Invariant::OrderlyEnd,
                    format!("the session of {} is left open", set.name),
                );
            }
        }
        self.judge_github();
    }

    fn judge_github(&self) {
        for violation in self.world.github.violations() {
            let invariant = match violation {
                Violation::JitUsedTwice { .. } => Invariant::JitOnce,
                _ => Invariant::Queue,
            };
            self.judge.breach(invariant, format!("{violation:?}"));
        }
    }

    pub(super) fn judge_what_was_said(&mut self) {
        self.kill();
        let logs = self.subject.logs();
        if let Some(panic) = logs.lines().find(|line| line.contains("panicked")) {
            self.judge.breach(Invariant::Alive, format!("a task panicked: {panic}"));
        }
        for (said, place) in [(&logs, "the logs"), (&self.said, "status or metrics")] {
            self.judge.no_secret_of(self.secrets.iter(), said, place);
        }
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
