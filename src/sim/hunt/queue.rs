//! What the daemon has been told of its sets' jobs, as it arrived, and how it answered.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use serde_json::Value;
use tokio::time::Instant;

/// A runner that was called for stays so for this long after newer news: its creation waits for its turn, and for
/// GHARTS' answer, for no longer than one deadline.
pub(super) const GRACE: Duration = Duration::from_secs(60);
/// The same where all peers are well: a dozen starts, at three calls a second.
pub(super) const CALM_GRACE: Duration = Duration::from_secs(15);

/// The part of `METHOD /path` behind a set's collection: its id, what of it, and which one of these.
pub(super) struct Place<'a> {
    pub(super) set: &'a str,
    what: &'a str,
    which: Option<&'a str>,
}

impl<'a> Place<'a> {
    pub(super) fn of(line: &'a str) -> Option<Self> {
        let (_, rest) = line.split_once("runnerscalesets/")?;
        let mut parts = rest.split('/');
        Some(Self {
            set: parts.next()?,
            what: parts.next().unwrap_or_default(),
            which: parts.next(),
        })
    }

    /// Its answers tell of jobs.
    pub(super) fn has_news(&self) -> bool {
        self.what == "sessions" || (self.what == "messages" && self.which.is_none())
    }
}

/// One set's jobs.
#[derive(Debug, Default)]
struct Told {
    /// Newest last; all but the newest are younger than [`GRACE`].
    jobs: VecDeque<(Instant, usize)>,
    /// Assigned by message, and neither started nor over by message.
    ledger: HashSet<String>,
}

/// All sets, by name.
#[derive(Debug, Default)]
pub(super) struct Queues {
    told: HashMap<String, Told>,
    /// Request ids that messages offer, by the set's id and the message's.
    offered: HashMap<(String, String), Vec<i64>>,
    /// Those whose message was deleted.
    acknowledged: HashSet<i64>,
}

impl Queues {
    /// An answer that [`Place::has_news`] of the set `name`.
    /// `running`: its jobs that run at this moment, told of or not.
    pub(super) fn hear(
        &mut self,
        place: &Place<'_>,
        name: &str,
        body: &[u8],
        now: Instant,
        mut running: HashSet<String>,
    ) {
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        let Ok(answer) = serde_json::from_slice::<Value>(body) else {
            return;
        };
        let entries = answer["body"].as_str().and_then(|text| serde_json::from_str(text).ok());
        let entries: Vec<Value> = entries.unwrap_or_default();
        if let Some(message) = answer["messageId"].as_i64() {
            let offers = entries.iter().filter(|entry| entry["messageType"] == "JobAvailable");
            let ids: Vec<i64> = offers.filter_map(|entry| entry["runnerRequestId"].as_i64()).collect();
            // Of one that was taken back and is offered again the older message says nothing any more.
            self.acknowledged.retain(|id| !ids.contains(id));
            self.offered.insert((place.set.to_owned(), message.to_string()), ids);
        }
        let told = self.told.entry(name.to_owned()).or_default();
        for entry in &entries {
            let job = entry["jobId"].as_str().unwrap_or_default();
            if entry["messageType"] == "JobAssigned" {
                told.ledger.insert(job.to_owned());
            } else {
                told.ledger.remove(job);
            }
        }
        let count = |key: &str| usize::try_from(answer["statistics"][key].as_u64().unwrap_or(0)).unwrap_or(0);
        // Statistics that come late, or lie, say less of the assigned ones than messages do, and runners with a job.
        running.extend(told.ledger.iter().cloned());
        let assigned = count("totalAssignedJobs").max(running.len());
        told.jobs.push_back((now, assigned + count("totalAvailableJobs")));
    }

    /// The most jobs that the set has been told of, of what still counts after `grace`.
    pub(super) fn most(&mut self, name: &str, now: Instant, grace: Duration) -> usize {
        let Some(told) = self.told.get_mut(name) else { return 0 };
        while told.jobs.get(1).is_some_and(|(at, _)| *at + GRACE < now) {
            told.jobs.pop_front();
        }
        // Each counts until so long after the next one came.
        let until = told.jobs.iter().skip(1).map(|(at, _)| Some(*at + grace)).chain([None]);
        let counting = told
            .jobs
            .iter()
            .zip(until)
            .filter(|(_, until)| until.is_none_or(|until| until >= now));
        counting.map(|((_, jobs), _)| *jobs).max().unwrap_or(0)
    }

    /// The jobs that the set was last told of.
    pub(super) fn newest(&self, name: &str) -> usize {
        let told = self.told.get(name).and_then(|told| told.jobs.back());
        told.map_or(0, |(_, jobs)| *jobs)
    }

    /// What is offered anew may be taken, whatever message told of it first.
    pub(super) fn offered_anew(&mut self, place: &Place<'_>) {
        if place.what == "acquirablejobs" {
            self.acknowledged.clear();
        }
    }

    /// What a message offers is acquired before it is deleted, or asked for anew. A request id for which that does not
    /// hold.
    pub(super) fn answer(&mut self, place: &Place<'_>, body: &[u8]) -> Option<i64> {
        match (place.what, place.which) {
            ("messages", Some(message)) => {
                let offers = self.offered.remove(&(place.set.to_owned(), message.to_owned()));
                self.acknowledged.extend(offers.into_iter().flatten());
                None
            }
            ("acquirejobs", _) => {
                let wanted: Vec<i64> = serde_json::from_slice(body).unwrap_or_default();
                wanted.into_iter().find(|id| self.acknowledged.contains(id))
            }
            _ => None,
        }
    }
}
