//! Watches a quota from outside: whether places stay free while jobs wait, how often a used-up quota is asked, and
//! how soon a place that was given back is asked for.

use std::{collections::BTreeMap, time::Duration};

use gharts_listener::sim::{
    github::{JobHandle, JobState},
    world::TEAM,
};
use jiff::Timestamp;
use tokio::time::Instant;

use super::super::harness::Running;

const GHARTS: &str = "gharts.test";
const TICK: Duration = Duration::from_millis(250);
/// What the audit log says of a place.
const EVENTS: [&str; 3] = ["quota_exceeded", "provision_jit", "deprovision"];
/// A place must be in use so soon after it has become free.
const FREE_AT_MOST: Duration = Duration::from_secs(60);
/// A place of our own must be asked for so soon after it was given back.
const ASKED_WITHIN: f64 = 2.0;
/// The daemon's pauses between two tries of a used-up quota, at the least.
const LEAST_PAUSES: [f64; 4] = [4.0, 8.0, 16.0, 24.0];
/// Calls in two seconds that the daemon's own rate limit leaves no room beside.
const AT_THE_RATE: usize = 5;

pub struct Observer<'a> {
    running: &'a Running,
    demand: BTreeMap<&'static str, Vec<JobHandle>>,
    /// Since when there have been both a free place and a job for it.
    wasted_since: Option<Instant>,
    start: (Timestamp, Instant),
}

impl<'a> Observer<'a> {
    pub fn new(running: &'a Running) -> Self {
        let clock = &running.world.clock;
        Self {
            running,
            demand: BTreeMap::new(),
            wasted_since: None,
            start: (clock.now(), clock.instant()),
        }
    }

    /// Jobs that wait for places.
    pub fn demand(&mut self, set: &'static str, jobs: &[JobHandle]) {
        self.demand.insert(set, jobs.to_vec());
    }

    /// Lets time pass under a quota of so many.
    pub async fn watch(&mut self, time: Duration, quota: Option<u32>) {
        let clock = self.running.world.clock.clone();
        let end = clock.instant() + time;
        self.wasted_since = None;
        while clock.instant() < end {
            let now = clock.instant();
            if self.wastes(quota) {
                let since = *self.wasted_since.get_or_insert(now);
                assert!(
                    now - since <= FREE_AT_MOST,
                    "a place has been free for {:?} while jobs wait, at {} s; newest first: {:?}\n{:#?}",
                    now - since,
                    self.seconds(clock.now()),
                    self.events(&EVENTS).iter().rev().take(30).collect::<Vec<_>>(),
                    self.running.status()
                );
            } else {
                self.wasted_since = None;
            }
            self.running.pass(TICK).await;
        }
    }

    fn wastes(&self, quota: Option<u32>) -> bool {
        let taken = self.running.world.gharts.places_taken(TEAM);
        let waiting: usize = self
            .demand
            .values()
            .map(|jobs| self.running.count(jobs, JobState::Queued) + self.running.count(jobs, JobState::Assigned))
            .sum();
        let running: usize = self
            .demand
            .values()
            .map(|jobs| self.running.count(jobs, JobState::Running))
            .sum();
        let ready = self.running.world.counters.live().saturating_sub(running);
        quota.is_none_or(|quota| taken < quota) && waiting > ready
    }

    /// Refusals of the quota in the time before now.
    pub fn refusals_within(&self, time: Duration) -> usize {
        let now = self.seconds(self.running.world.clock.now());
        let refused = self.moments(&["quota_exceeded"]);
        refused.iter().filter(|at| now - **at <= time.as_secs_f64()).count()
    }

    pub fn judge(&self) {
        self.judge_probes();
        self.judge_places();
    }

    /// Refusals in a row lie as far apart as the steps of the back-off, unless a place of ours became free between.
    fn judge_probes(&self) {
        let mut last: Option<f64> = None;
        let mut row = 0;
        // Calls that were under way when the first one was refused are refused together with it.
        let together = 1.0;
        for (event, at) in self.events(&EVENTS) {
            match (event, last) {
                ("quota_exceeded", Some(before)) if at - before <= together => {}
                ("quota_exceeded", Some(before)) => {
                    let least = LEAST_PAUSES[row.min(LEAST_PAUSES.len() - 1)];
                    assert!(
                        at - before >= least,
                        "refused at {before} and again at {at}: {row} steps into a row"
                    );
                    row += 1;
                    last = Some(at);
                }
                ("quota_exceeded", None) => last = Some(at),
                _ => {
                    last = None;
                    row = 0;
                }
            }
        }
    }

    /// Every place that we gave back was asked for at once, as long as the rate permitted.
    fn judge_places(&self) {
        let freed = self.moments(&["deprovision"]);
        let asked = self.moments(&["quota_exceeded", "provision_jit"]);
        let last = self.moments(&["provision_jit"]).last().copied().unwrap_or(0.0);
        let log = self.running.daemon.cable.log();
        let sent = log.iter().filter(|sent| sent.authority == GHARTS);
        let sent: Vec<f64> = sent.map(|sent| self.instant(sent.at)).collect();
        let mut judged = 0;
        for at in freed.iter().filter(|at| **at < last) {
            let soon = |t: &&f64| (*at..=*at + ASKED_WITHIN).contains(*t);
            let crowded = sent.iter().filter(soon).count() >= AT_THE_RATE;
            judged += usize::from(!crowded);
            assert!(
                crowded || asked.iter().any(|t| soon(&t)),
                "nothing was asked for after the place of {at} was free"
            );
        }
        assert!(judged >= 20, "only {judged} of {} places were judged", freed.len());
    }

    fn events(&self, names: &[&'static str]) -> Vec<(&'static str, f64)> {
        let log = self.running.world.gharts.audit_log();
        let of = log.iter().filter(|entry| names.contains(&entry.event));
        of.map(|entry| (entry.event, self.seconds(entry.at))).collect()
    }

    fn moments(&self, names: &[&'static str]) -> Vec<f64> {
        self.events(names).into_iter().map(|(_, at)| at).collect()
    }

    fn seconds(&self, at: Timestamp) -> f64 {
        at.duration_since(self.start.0).as_secs_f64()
    }

    fn instant(&self, at: Instant) -> f64 {
        at.saturating_duration_since(self.start.1).as_secs_f64()
    }
}
