//! How often the daemon asks, and how often in vain.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::{Invariant, Judge};
use crate::sim::github::JobView;

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
/// Calls to one peer in a minute. Nothing that a small world calls for comes near.
const STORM: usize = 600;
/// Pods made in a minute, likewise, beside those that jobs call for.
const POD_STORM: usize = 60;
/// Which they do until so long after their end.
const JUST: Duration = Duration::from_mins(2);
/// The same of a loop that never rests, of which a run would never come to its end.
const RUNAWAY: usize = 3_000;
/// Calls of one kind that fail in a minute: whoever fails waits ever longer.
const IN_VAIN: usize = 60;
/// The same at the API server, which is asked again after a second each time: for the Lease, and for the pods.
const CLUSTER_IN_VAIN: usize = 75;
/// Sessions of one set that are opened in an hour in which all is well: one for each life, and for each new leader.
const SESSIONS: usize = 4;
/// The API server's name among the peers.
pub(super) const CLUSTER: &str = "kubernetes";
/// The word for them beside the peers' names.
pub(super) const PODS: &str = "new pods";
/// And for calls of one kind that failed.
const FAILED: &str = "failures of one kind";

/// What happened lately.
#[derive(Debug, Default)]
pub(super) struct Calls {
    recent: VecDeque<Instant>,
    most: usize,
}

impl Calls {
    /// One more. How many there are within `time`, and the most that there were before.
    fn count(&mut self, time: Duration) -> (usize, usize) {
        let now = Instant::now();
        self.recent.push_back(now);
        while self.recent.front().is_some_and(|at| *at + time <= now) {
            self.recent.pop_front();
        }
        let (count, before) = (self.recent.len(), self.most);
        self.most = before.max(count);
        (count, before)
    }
}

impl Judge {
    /// The most calls to each peer in one minute.
    pub(in crate::sim::hunt) fn busiest(&self) -> BTreeMap<String, usize> {
        let state = self.lock();
        let peers = state.calls.iter().map(|(peer, calls)| (peer.clone(), calls.most));
        let failed = state.failed.values().map(|calls| calls.most).max();
        peers.chain(failed.map(|most| (FAILED.to_owned(), most))).collect()
    }

    pub(super) fn called(&self, peer: &str, line: &str) {
        let (count, before) = self.lock().calls.entry(peer.to_owned()).or_default().count(MINUTE);
        let limit = match peer {
            PODS if count > POD_STORM => POD_STORM + self.jobs_of_late(),
            PODS => POD_STORM,
            _ => STORM,
        };
        if count > limit && before <= limit {
            let what = format!("more than {limit} calls to {peer} in a minute: {line}");
            self.breach(Invariant::Calm, what);
        }
        if count > RUNAWAY {
            self.end_runaway(&format!("calls to {peer} without rest: {line}"));
        }
    }

    fn jobs_of_late(&self) -> usize {
        let since = self.world.clock.now() - JUST;
        let jobs = self.world.github.jobs();
        let is_late = |job: &&JobView| job.finished.is_none_or(|at| at > since);
        jobs.iter().filter(is_late).count()
    }

    /// Virtual time would wait for such a daemon without an end.
    pub(in crate::sim::hunt) fn end_runaway(&self, what: &str) {
        self.breach(Invariant::Calm, what.to_owned());
        if let Some(token) = self.runaway.get() {
            token.cancel();
        }
    }

    /// A call was answered, with 0 where it was not.
    pub(super) fn came_to(&self, replica: &str, peer: &str, line: &str, status: u16) {
        // What is to be removed and is gone is well.
        let is_well = (100..400).contains(&status) || (status == 404 && line.starts_with("DELETE "));
        if is_well {
            return;
        }
        let kind = format!("{replica} {peer} {}", shape(line));
        let limit = if peer == CLUSTER { CLUSTER_IN_VAIN } else { IN_VAIN };
        let (count, before) = self.lock().failed.entry(kind.clone()).or_default().count(MINUTE);
        if count > limit && before <= limit {
            let what = format!("more than {limit} times in a minute in vain, at last with {status}: {kind}");
            self.breach(Invariant::Calm, what);
        }
    }

    /// A session of the set was opened.
    pub(super) fn session_opened(&self, set: &str) {
        if !self.is_calm() {
            return;
        }
        let (count, before) = self.lock().opened.entry(set.to_owned()).or_default().count(HOUR);
        if count > SESSIONS && before <= SESSIONS {
            let what = format!("{count} sessions of {set} were opened within an hour in which all was well");
            self.breach(Invariant::Calm, what);
        }
    }
}

/// What is alike in calls of one kind: `METHOD /path` without names and ids, but for the set's.
fn shape(line: &str) -> String {
    let path = line.split_once('?').map_or(line, |(path, _)| path);
    let mut before = "";
    let parts = path.split('/').map(|part| {
        let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let is_set = before == "runnerscalesets";
        before = part;
        if (is_number && !is_set) || part.contains('-') {
            "*"
        } else {
            part
        }
    });
    parts.collect::<Vec<&str>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_one_kind_differ_in_names_and_ids() {
        for (line, kind) in [
            (
                "GET /_apis/runnerscalesets/7/messages?x=1",
                "GET /_apis/runnerscalesets/7/messages",
            ),
            (
                "DELETE /_apis/runnerscalesets/7/messages/12",
                "DELETE /_apis/runnerscalesets/7/messages/*",
            ),
            (
                "DELETE /api/v1/namespaces/a/pods/linux-abcde-1",
                "DELETE /api/v1/namespaces/a/pods/*",
            ),
            ("DELETE /_apis/agents/31", "DELETE /_apis/agents/*"),
        ] {
            assert_eq!(shape(line), kind);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_long_ago_does_not_count() {
        let mut calls = Calls::default();
        assert_eq!(calls.count(MINUTE), (1, 0));
        assert_eq!(calls.count(MINUTE), (2, 1));
        tokio::time::advance(MINUTE).await;
        assert_eq!(calls.count(MINUTE), (1, 2));
    }
}
