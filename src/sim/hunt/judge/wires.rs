//! What goes over the daemon's wires to GitHub and GHARTS.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::time::Instant;

use super::{
    super::queue::Place,
    Invariant, Judge,
    calls::CLUSTER,
    cluster::{has_ended, is_live, of_set},
};
use crate::{
    http::{Request, Response, TransportError},
    sim::{
        cable::{self, Sent},
        github::JobState,
        world::RUNNER_NAMESPACE,
    },
};

/// GitHub begins its answers with it.
const BOM: &[u8] = b"\xef\xbb\xbf";
/// A daemon knows of a pod so long after it was made.
const SEEN: Duration = Duration::from_secs(15);

/// Looks at what goes over the wires of one daemon.
pub(in crate::sim::hunt) struct Eye {
    judge: Arc<Judge>,
    /// Whose they are.
    replica: &'static str,
    /// Requests on their way to GHARTS.
    to_gharts: AtomicUsize,
}

impl Eye {
    pub(in crate::sim::hunt) fn of(judge: &Arc<Judge>, replica: &'static str) -> Self {
        Self {
            judge: judge.clone(),
            replica,
            to_gharts: AtomicUsize::new(0),
        }
    }

    fn is_gharts(&self, sent: &Sent) -> bool {
        self.judge.world.services.addresses.gharts.ends_with(&sent.authority)
    }
}

impl cable::Onlooker for Eye {
    fn asked(&self, sent: &Sent, request: &Request) {
        if self.is_gharts(sent) {
            let on_their_way = self.to_gharts.fetch_add(1, Ordering::Relaxed) + 1;
            let most = self.judge.world.services.options.gharts_limits.max_in_flight as usize;
            if on_their_way > most {
                let what = format!(
                    "{on_their_way} calls to GHARTS at one time, at most {most}: {}",
                    sent.line
                );
                self.judge.breach(Invariant::Calm, what);
            }
        }
        let leads = self.judge.lease_holder().as_deref() == Some(self.replica);
        self.judge.asked(sent, request, leads);
        let opens = sent.line.starts_with("POST ") && sent.line.ends_with("/sessions");
        let asks = ["/runners/jit", "/runners/provision", "/generatejitconfig"];
        let asks = asks.iter().any(|path| sent.line.ends_with(path));
        if opens || (asks && !self.judge.goes_on(&sent.line)) {
            self.judge.may_lead(self.replica, &sent.line);
            self.judge.may_begin(self.replica, &sent.line);
        }
        if sent.line.starts_with("DELETE ") && self.judge.runner_removed(&sent.line).is_some() {
            self.judge.may_go_on(self.replica, &sent.line);
        }
    }

    fn cluster_asked(&self, line: &str) {
        let path = line.split_once('?').map_or(line, |(path, _)| path);
        self.judge.called(CLUSTER, path);
        let writes = !path.starts_with("GET ") && (path.ends_with("/pods") || path.contains("/pods/"));
        if writes && !line.contains("dryRun") {
            self.judge.may_lead(self.replica, path);
            if path.starts_with("POST ") {
                self.judge.may_begin(self.replica, path);
            } else {
                self.judge.may_go_on(self.replica, path);
            }
        }
    }

    fn cluster_answered(&self, line: &str, status: u16) {
        self.judge.came_to(self.replica, CLUSTER, line, status);
    }

    fn answered(&self, sent: &Sent, answer: Result<&Response, &TransportError>) {
        let status = answer.map_or(0, |answer| answer.status().as_u16());
        self.judge.came_to(self.replica, &sent.authority, &sent.line, status);
        self.judge.answered(sent, answer);
    }

    fn ended(&self, sent: &Sent) {
        if self.is_gharts(sent) {
            self.to_gharts.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Judge {
    pub(super) fn set_named(&self, id: &str) -> Option<String> {
        let id: u64 = id.parse().ok()?;
        let sets = self.world.github.sets();
        sets.into_iter().find(|set| set.id == id).map(|set| set.name)
    }

    /// What a poll announces has room beside what other sets run.
    fn has_room(&self, place: &Place<'_>, request: &Request) {
        let announced = request.headers().get("X-ScaleSetMaxCapacity");
        let announced = announced.and_then(|text| text.to_str().ok()?.parse::<usize>().ok());
        let (Some(announced), Some(set)) = (announced, self.set_named(place.set)) else {
            return;
        };
        let now = Instant::now();
        let (total, others) = {
            let state = &mut *self.lock();
            let others = state.made.iter().filter(|(other, _)| **other != set);
            let others = others.flat_map(|(_, made)| made).filter(|(at, _)| *at + SEEN < now);
            let others: Vec<String> = others.map(|(_, name)| name.clone()).collect();
            (state.rules.total(), others)
        };
        let live = |name: &String| {
            let pod = self.world.kubernetes.get("pods", RUNNER_NAMESPACE, name);
            pod.is_some_and(|pod| is_live(&pod))
        };
        let elsewhere = others.iter().filter(|name| live(name)).count();
        // What it has may always get a job, also where the limit was lowered; and may be at one while its pod is deleted.
        let pods = self.world.kubernetes.list("pods", RUNNER_NAMESPACE);
        let own = of_set(&pods, &set).filter(|pod| !has_ended(pod)).count();
        let max = self.lock().rules.max(&set).unwrap_or(0) as usize;
        if announced > own.max(max) {
            let what = format!("{set} announces {announced} with {own} runners, at most {max}");
            self.breach(Invariant::Capacity, what);
        }
        let exceeds = |total: &u32| !self.total_changes && announced > own && announced + elsewhere > *total as usize;
        if let Some(total) = total.filter(exceeds) {
            let what =
                format!("{set} announces {announced} beside {elsewhere} runners of others, at most {total} in all");
            self.breach(Invariant::Capacity, what);
        }
    }

    /// The runner whose registration or record such a call removes.
    fn runner_removed(&self, line: &str) -> Option<String> {
        let (path, id) = line.strip_prefix("DELETE ")?.rsplit_once('/')?;
        let (agents, records) = (path.ends_with("/agents"), path.ends_with("/runners"));
        let agent = self
            .world
            .github
            .runners()
            .into_iter()
            .find(|agent| agents && agent.id.to_string() == id);
        let records = records.then(|| self.world.gharts.records()).into_iter().flatten();
        let record = records
            .filter(|record| record.id == id)
            .map(|record| record.name)
            .next();
        agent.map(|agent| agent.name).or(record)
    }

    fn asked(&self, sent: &Sent, request: &Request, leads: bool) {
        self.called(&sent.authority, &sent.line);
        let place = Place::of(&sent.line);
        // One that has slept polls once more, in a session that is closed by now.
        if let Some(place) = place.as_ref().filter(|_| leads && sent.line.starts_with("GET ")) {
            self.has_room(place, request);
        }
        let late = place.and_then(|place| self.lock().queues.answer(&place, request.body()));
        if let Some(id) = late {
            let what = format!("the message that offers request {id} was deleted before it was acquired");
            self.breach(Invariant::Queue, what);
        }
        if let Some(runner) = self.runner_removed(&sent.line) {
            self.lock().leaving.insert(runner, None);
        }
        let deletes = sent.line.starts_with("DELETE ");
        if deletes && self.strangers.own(&sent.line) {
            self.breach(Invariant::Strangers, format!("{} {}", sent.authority, sent.line));
        }
        // Jobs wait at a set, whosever it is, and other clusters may serve it.
        if deletes && sent.line.rsplit('/').nth(1) == Some("runnerscalesets") {
            self.breach(Invariant::Queue, format!("a scale set is deleted: {}", sent.line));
        }
        self.journal.say(|| {
            let body = String::from_utf8_lossy(request.body());
            let body = if body.len() > 200 || body.contains("assertion") {
                "..."
            } else {
                &body
            };
            format!("call     {} {} {body}", sent.authority, sent.line)
        });
    }

    fn answered(&self, sent: &Sent, answer: Result<&Response, &TransportError>) {
        let status = answer.map_or(0, |answer| answer.status().as_u16());
        self.digest_in(&sent.authority, &sent.line, status);
        self.journal.say(|| match answer {
            Ok(answer) => {
                let body = String::from_utf8_lossy(answer.body());
                let short: String = body.chars().take(400).collect();
                // What is told of a queue stands at the end.
                let statistics = body.find("\"statistics\"").map_or("", |at| &body[at..]);
                format!(
                    "answer   {} {} -> {status} {short} {statistics}",
                    sent.authority, sent.line
                )
            }
            Err(error) => format!("answer   {} {} -> {error}", sent.authority, sent.line),
        });
        let done = answer.is_ok_and(|answer| answer.status().is_success() || status == 404);
        if let Some(runner) = self.runner_removed(&sent.line).filter(|_| !done) {
            self.lock().leaving.insert(runner, Some(Instant::now()));
        }
        if let Ok(answer) = answer {
            let place = Place::of(&sent.line).filter(|_| status == 200);
            if let Some((place, name)) = place.and_then(|place| self.set_named(place.set).map(|name| (place, name))) {
                let jobs = self.world.github.jobs().into_iter();
                let running = jobs.filter(|job| job.state == JobState::Running && job.set.as_deref() == Some(&name));
                let running = running.map(|job| job.id).collect();
                let queues = &mut self.lock().queues;
                queues.offered_anew(&place);
                if place.has_news() {
                    queues.hear(&place, &name, answer.body(), Instant::now(), running);
                }
            }
            if sent.line.starts_with("POST ") && sent.line.ends_with("/sessions") {
                let body = answer.body().strip_prefix(BOM).unwrap_or(answer.body());
                let opened = serde_json::from_slice::<Value>(body).ok();
                let id = opened.and_then(|session| Some(session["sessionId"].as_str()?.to_owned()));
                self.lock().sessions.extend(id);
                let set = Place::of(&sent.line).and_then(|place| self.set_named(place.set));
                if let Some(set) = set.filter(|_| status == 200) {
                    self.session_opened(&set);
                }
            }
            let body = answer.body().strip_prefix(BOM).unwrap_or(answer.body());
            let jit = serde_json::from_slice::<Value>(body).ok().and_then(|body| {
                let jit = body["encodedJITConfig"]
                    .as_str()
                    .or(body["encoded_jit_config"].as_str())?;
                Some(jit.to_owned())
            });
            self.lock().jits.extend(jit);
        }
    }
}
