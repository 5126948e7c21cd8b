//! The invariants, checked on what passes between the daemon and its world and on the world itself; the daemon is never
//! asked.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    journal::Journal,
    plan::Plan,
    queue::{CALM_GRACE, GRACE, Place, Queues},
    rules::{REVISION, Rules, Text},
    strangers::Strangers,
};
use crate::{
    http::{Request, Response, TransportError},
    sim::{
        cable::{self, Sent},
        github::JobState,
        kubernetes::{self, Object},
        world::{Binding, DAEMON_NAMESPACE, LEASE, RUNNER_NAMESPACE, World, account_name},
    },
};

const MINUTE: Duration = Duration::from_secs(60);
/// Calls to one peer in a minute. Nothing that a small world calls for comes near.
const STORM: usize = 600;
/// Pods made in a minute, likewise.
const POD_STORM: usize = 60;
/// Calls without any time between them: a loop that never rests, which virtual time would never end.
const RUNAWAY: usize = 3_000;
/// What a fault leaves behind (calls that hang, queues of work, waits before the next try) is over so long after its end.
const CALM_AFTER: Duration = Duration::from_secs(120);
/// Pods of one set that come and go without a job, and within how long: whatever ends them, the set backs off.
const WASTE: (usize, Duration) = (24, Duration::from_mins(15));
/// A daemon knows of a pod so long after it was made.
const SEEN: Duration = Duration::from_secs(15);
/// The word for them beside the peers' names.
const PODS: &str = "new pods";
/// What is wrong is told so often, then no more.
const MOST_BREACHES: usize = 20;
/// On our pods: the full name of the set.
const SCALE_SET: &str = "gharts-listener/scale-set";

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Invariant {
    /// Live runners stay within the file's limits, as they are or were a moment ago.
    Limits,
    /// A pod is made for a set that the file names, of its template.
    File,
    /// No runner is started beyond `minRunners` and the jobs that were told of.
    Demand,
    /// Pods that come to nothing are made ever more rarely.
    BackOff,
    /// In peace no pod is made that no job and no `minRunners` calls for.
    Thrift,
    /// When all is well again, `minRunners` are there.
    Spares,
    /// No set announces capacity that the limit over all sets has no room for.
    Capacity,
    /// Nobody deletes the pod of a runner that has a job, or may still be given one.
    BusyKept,
    /// A JIT configuration is used by one process.
    JitOnce,
    /// A runner's name is used by one pod.
    NameOnce,
    /// Only the replica that holds the Lease opens sessions and asks for runners.
    Fence,
    /// Jobs are acquired within what was announced, and no set is deleted.
    Queue,
    /// What is another installation's stays as it is.
    Strangers,
    /// Secrets stand in Secrets and nowhere else.
    Secrets,
    /// Calls to a peer are few.
    Calm,
    /// The daemon runs until it is told to end, and its loop moves.
    Alive,
    /// What the daemon keeps in memory has a bound.
    Memory,
    /// Every set says why there are not more runners.
    Reasons,
    /// When all is well again, every job ends, and new ones succeed.
    JobsEnd,
    /// When all is well again, nothing is left that nobody owns.
    NothingLeft,
    /// Told to end, the daemon ends in good time, and closes its sessions.
    OrderlyEnd,
}

/// One invariant that did not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Breach {
    pub invariant: Invariant,
    pub at_ms: u64,
    pub what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = super::plan::seconds(self.at_ms);
        write!(f, "{:?} at {at} s: {}", self.invariant, self.what)
    }
}

/// Calls to one peer.
#[derive(Debug, Default)]
struct Calls {
    /// Within the last minute.
    recent: VecDeque<Instant>,
    most: usize,
    /// In this moment.
    at_once: usize,
}

/// Whether all peers are well.
#[derive(Debug, Default)]
struct Weather {
    faults: usize,
    /// When the last one ended.
    since: Option<Instant>,
}

impl Weather {
    fn trouble(&mut self, begins: bool) {
        if begins {
            self.faults += 1;
        } else {
            self.faults = self.faults.saturating_sub(1);
            self.since = Some(Instant::now());
        }
    }

    fn is_calm(&self) -> bool {
        self.faults == 0 && self.since.is_none_or(|since| since.elapsed() > CALM_AFTER)
    }

    /// How long a creation may take that was called for.
    fn grace(&self) -> Duration {
        if self.is_calm() { CALM_GRACE } else { GRACE }
    }
}

#[derive(Debug)]
struct State {
    breaches: Vec<Breach>,
    rules: Rules,
    weather: Weather,
    queues: Queues,
    names: HashSet<String>,
    /// Each set's newest pods.
    made: BTreeMap<String, VecDeque<(Instant, String)>>,
    /// Runners whose removal was asked for, and when it was last refused.
    leaving: HashMap<String, Option<Instant>>,
    /// Who held the Lease when it was last there.
    holder: Option<String>,
    calls: BTreeMap<String, Calls>,
    digest: u64,
    jits: Vec<String>,
}

impl State {
    /// What was decided while its removal was under way may still come after the refusal.
    fn is_leaving(&self, name: &str) -> bool {
        let grace = self.weather.grace();
        let refused = self.leaving.get(name);
        refused.is_some_and(|refused| refused.is_none_or(|at| at.elapsed() < grace))
    }
}

/// Looks at everything. Shared by the wires of every daemon.
pub(super) struct Judge {
    world: World,
    strangers: Strangers,
    journal: Journal,
    daemon: String,
    state: Mutex<State>,
    /// What ends a daemon that never rests.
    runaway: OnceLock<CancellationToken>,
}

impl Judge {
    pub(super) fn new(plan: &Plan, world: &World, strangers: Strangers, journal: &Journal) -> Self {
        Self {
            world: world.clone(),
            strangers,
            journal: journal.clone(),
            daemon: account_name(),
            state: Mutex::new(State {
                breaches: Vec::new(),
                rules: Rules::new(Text::of(&plan.shape, [].iter())),
                weather: Weather::default(),
                queues: Queues::default(),
                names: HashSet::new(),
                made: BTreeMap::new(),
                leaving: HashMap::new(),
                holder: None,
                calls: BTreeMap::new(),
                digest: 0,
                jits: Vec::new(),
            }),
            runaway: OnceLock::new(),
        }
    }

    pub(super) fn end_by(&self, runaway: CancellationToken) {
        // Set once, at the start of the run.
        let _ = self.runaway.set(runaway);
    }

    /// The daemon's file says this from now on.
    pub(super) fn file_says(&self, text: Text) {
        self.journal.say(|| {
            let sets = text.sets.iter().map(|set| {
                let (shape, revision) = (&set.shape, set.revision);
                format!("{} {}..{} template {revision}", shape.name, shape.min, shape.max)
            });
            let sets: Vec<String> = sets.collect();
            let wrong = if text.is_wrong { "wrong: " } else { "" };
            format!(
                "file     {wrong}{}, at most {:?} in all",
                sets.join(", "),
                text.max_runners
            )
        });
        self.lock().rules.change(text);
    }

    /// Something goes wrong from now on, or no longer.
    pub(super) fn trouble(&self, begins: bool) {
        self.lock().weather.trouble(begins);
    }

    /// Nothing goes wrong, and nothing has for a while.
    pub(super) fn is_calm(&self) -> bool {
        self.lock().weather.is_calm()
    }

    /// A daemon has not run until now.
    pub(super) fn slept(&self) {
        self.lock().rules.seen_late();
    }

    pub(super) fn breach(&self, invariant: Invariant, what: String) {
        let breach = Breach {
            invariant,
            at_ms: self.journal.now_ms(),
            what,
        };
        self.journal.say(|| format!("BROKEN   {breach}"));
        let mut state = self.lock();
        let known = state
            .breaches
            .iter()
            .any(|b| b.invariant == invariant && b.what == breach.what);
        if !known && state.breaches.len() < MOST_BREACHES {
            state.breaches.push(breach);
        }
    }

    pub(super) fn breaches(&self) -> Vec<Breach> {
        self.lock().breaches.clone()
    }

    pub(super) fn digest(&self) -> u64 {
        self.lock().digest
    }

    pub(super) fn created(&self) -> usize {
        self.lock().names.len()
    }

    /// Runners of ours of which there is anything in the world.
    pub(super) fn pods_and_registrations(&self) -> usize {
        let pods = self.world.kubernetes.list("pods", RUNNER_NAMESPACE);
        let pods = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str());
        let mut names: HashSet<String> = pods.map(str::to_owned).collect();
        names.extend(self.world.github.runners().into_iter().map(|runner| runner.name));
        names.len()
    }

    /// The most calls to each peer in one minute.
    pub(super) fn busiest(&self) -> BTreeMap<String, usize> {
        let state = self.lock();
        state
            .calls
            .iter()
            .map(|(peer, calls)| (peer.clone(), calls.most))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn called(&self, peer: &str, line: &str) {
        let now = Instant::now();
        let mut state = self.lock();
        let calls = state.calls.entry(peer.to_owned()).or_default();
        calls.at_once = if calls.recent.back() == Some(&now) {
            calls.at_once + 1
        } else {
            1
        };
        calls.recent.push_back(now);
        while calls.recent.front().is_some_and(|at| *at + MINUTE <= now) {
            calls.recent.pop_front();
        }
        let limit = if peer == PODS { POD_STORM } else { STORM };
        let (storms, runs_away) = (
            calls.recent.len() > limit && calls.most <= limit,
            calls.at_once > RUNAWAY,
        );
        calls.most = calls.most.max(calls.recent.len());
        drop(state);
        if storms {
            self.breach(
                Invariant::Calm,
                format!("more than {limit} calls to {peer} in a minute: {line}"),
            );
        }
        if runs_away {
            self.breach(Invariant::Calm, format!("calls to {peer} without rest: {line}"));
            if let Some(token) = self.runaway.get() {
                token.cancel();
            }
        }
    }

    fn digest_in(&self, peer: &str, line: &str, status: u16) {
        let at = self.journal.now_ms();
        let mut state = self.lock();
        let mut hasher = DefaultHasher::new();
        (state.digest, at, peer, line, status).hash(&mut hasher);
        state.digest = hasher.finish();
    }

    // ---- The API server -----------------------------------------------------------------------------

    /// Sees one request to the API server.
    pub(super) fn sees(&self, request: &kubernetes::Request<'_>) {
        if request.user != self.daemon {
            return;
        }
        let kubernetes::Request {
            verb, resource, name, ..
        } = *request;
        let Some(status) = request.status else {
            self.called("kubernetes", &format!("{verb} {resource}"));
            let writes = matches!(verb, "create" | "update" | "patch" | "delete" | "deletecollection");
            if writes && super::strangers::is_theirs(name) {
                self.breach(Invariant::Strangers, format!("{verb} {resource} {name}"));
            }
            if writes && resource != "secrets" {
                self.no_secret_in(request.body, &format!("{verb} {resource} {name}"));
            }
            if (verb, resource) == ("delete", "pods") && !request.dry_run {
                self.may_be_deleted(name);
            }
            return;
        };
        let dry = if request.dry_run { " (dry run)" } else { "" };
        self.journal
            .say(|| format!("call     kubernetes {verb} {resource} {name}{dry} -> {status}"));
        if resource.starts_with("leases") {
            self.lease_holder();
        }
        self.digest_in("kubernetes", &format!("{verb} {resource} {name}"), status);
        if (verb, resource, status) == ("create", "pods", 201) && !request.dry_run {
            let body: Value = serde_json::from_slice(request.body).unwrap_or_default();
            self.pod_made(body["metadata"]["name"].as_str().unwrap_or_default());
        }
    }

    fn may_be_deleted(&self, name: &str) {
        let Some(pod) = self.world.kubernetes.get("pods", RUNNER_NAMESPACE, name) else {
            return;
        };
        let runner = self.world.github.runner(name);
        let job = runner.as_ref().and_then(|runner| runner.job.as_deref());
        if let (true, Some(job)) = (runs(&pod), job) {
            self.breach(
                Invariant::BusyKept,
                format!("pod {name} is deleted while it runs job {job}"),
            );
        } else if runs(&pod) && runner.is_some_and(|runner| runner.online) {
            self.breach(
                Invariant::BusyKept,
                format!("pod {name} is deleted while GitHub may give it a job"),
            );
        }
    }

    fn pod_made(&self, name: &str) {
        self.called(PODS, name);
        if !self.lock().names.insert(name.to_owned()) {
            self.breach(Invariant::NameOnce, format!("a second pod of the name {name}"));
        }
        let pods: Vec<(String, String)> = self
            .world
            .kubernetes
            .list("pods", RUNNER_NAMESPACE)
            .iter()
            .filter(|pod| is_live(pod))
            .filter_map(|pod| Some((pod["metadata"]["name"].as_str()?.to_owned(), set_of(pod))))
            .filter(|(name, _)| !super::strangers::is_theirs(name))
            .collect();
        let set = pods
            .iter()
            .find(|(pod, _)| pod == name)
            .map(|(_, set)| set.clone())
            .unwrap_or_default();
        let (max, min, total) = {
            let rules = &mut self.lock().rules;
            (rules.max(&set), rules.min(&set), rules.total())
        };
        let Some(max) = max else {
            self.breach(Invariant::File, format!("pod {name} belongs to no set: {set:?}"));
            return;
        };
        let revision = self.world.kubernetes.get("pods", RUNNER_NAMESPACE, name);
        let revision = revision
            .map(|pod| pod["metadata"]["annotations"][REVISION].clone())
            .unwrap_or_default();
        if !self
            .lock()
            .rules
            .is_revision(&set, revision.as_str().unwrap_or_default())
        {
            self.breach(
                Invariant::File,
                format!("pod {name} is made of another template: {revision}"),
            );
        }
        let of_set: Vec<&str> = pods
            .iter()
            .filter(|(_, of)| *of == set)
            .map(|(pod, _)| pod.as_str())
            .collect();
        if of_set.len() > max as usize {
            let live = of_set.len();
            self.breach(
                Invariant::Limits,
                format!("{name}: {live} live runners of {set}, at most {max}"),
            );
        }
        if let Some(max) = total.filter(|max| pods.len() > *max as usize) {
            self.breach(
                Invariant::Limits,
                format!("{name}: {} live runners in all, at most {max}", pods.len()),
            );
        }
        self.is_worth_it(&set, name, &of_set);
        let staying = {
            let state = self.lock();
            let staying = of_set.iter().copied().filter(|name| {
                // One that is not registered any more gets no job.
                let registered = self.registers_itself(&set) || self.world.github.runner(name).is_some();
                registered && !state.is_leaving(name)
            });
            staying.collect::<Vec<&str>>()
        };
        let covering = self.world.github.standing_for_sets(staying.into_iter());
        let told = {
            let state = &mut *self.lock();
            let grace = state.weather.grace();
            state.queues.most(&set, Instant::now(), grace)
        };
        let wanted = min as usize + told;
        if covering > wanted {
            self.breach(
                Invariant::Demand,
                format!("{name}: {covering} runners of {set} for {wanted} (minRunners {min} and {told} jobs)"),
            );
        }
    }

    /// Its runners come without a registration.
    fn registers_itself(&self, set: &str) -> bool {
        let sets = self.world.services.options.sets.iter();
        let mut set = sets.filter(|options| options.name == set);
        set.any(|options| options.binding == Binding::RegistrationToken)
    }

    /// Few of the set's newest pods came to nothing.
    fn is_worth_it(&self, set: &str, name: &str, live: &[&str]) {
        let (most, within) = WASTE;
        let now = Instant::now();
        let over: Vec<String> = {
            let state = &mut *self.lock();
            let made = state.made.entry(set.to_owned()).or_default();
            while made.front().is_some_and(|(at, _)| *at + within < now) {
                made.pop_front();
            }
            made.push_back((now, name.to_owned()));
            let over = made.iter().filter(|(_, name)| !live.contains(&name.as_str()));
            over.map(|(_, name)| name.clone()).collect()
        };
        let wasted = self.world.github.standing_for_sets(over.iter().map(String::as_str));
        if wasted > most {
            let what = format!("{name}: {wasted} pods of {set} came to nothing within {within:?}");
            self.breach(Invariant::BackOff, what);
        }
    }

    // ---- Secrets ------------------------------------------------------------------------------------

    fn no_secret_in(&self, body: &[u8], place: &str) {
        let text = String::from_utf8_lossy(body);
        let shown = self.lock().jits.iter().any(|jit| text.contains(jit.as_str()));
        if shown {
            self.breach(Invariant::Secrets, format!("a JIT configuration in {place}"));
        }
    }

    /// None of the secrets stands in what the daemon said.
    pub(super) fn no_secret_of<'a>(&self, secrets: impl Iterator<Item = &'a String>, said: &str, place: &str) {
        for secret in secrets.filter(|secret| secret.len() >= 8) {
            if let Some(at) = said.find(secret.as_str()) {
                let before: String = said[..at]
                    .chars()
                    .rev()
                    .take(60)
                    .collect::<Vec<_>>()
                    .into_iter()
                    .rev()
                    .collect();
                self.breach(Invariant::Secrets, format!("in {place}, after {before:?}"));
            }
        }
    }

    // ---- The queue ----------------------------------------------------------------------------------

    fn set_named(&self, id: &str) -> Option<String> {
        let id: u64 = id.parse().ok()?;
        let sets = self.world.github.sets();
        sets.into_iter().find(|set| set.id == id).map(|set| set.name)
    }
}

/// Looks at what goes over the wires of one daemon.
pub(super) struct Eye {
    judge: Arc<Judge>,
    /// Whose they are.
    replica: &'static str,
    /// Requests on their way to GHARTS.
    to_gharts: AtomicUsize,
}

impl Eye {
    pub(super) fn of(judge: &Arc<Judge>, replica: &'static str) -> Self {
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
        self.judge.asked(sent, request);
        let opens = sent.line.starts_with("POST ") && sent.line.ends_with("/sessions");
        if opens || sent.line.ends_with("/runners/jit") || sent.line.ends_with("/generatejitconfig") {
            self.judge.may_lead(self.replica, &sent.line);
        }
    }

    fn answered(&self, sent: &Sent, answer: Result<&Response, &TransportError>) {
        self.judge.answered(sent, answer);
    }

    fn ended(&self, sent: &Sent) {
        if self.is_gharts(sent) {
            self.to_gharts.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Judge {
    /// Whoever does what only one may do holds the Lease.
    fn may_lead(&self, replica: &str, line: &str) {
        let holder = self.lease_holder();
        if holder.as_deref() != Some(replica) {
            self.breach(
                Invariant::Fence,
                format!("{replica} while {holder:?} holds the Lease: {line}"),
            );
        }
    }

    /// Who holds the Lease; of one that somebody deleted, who held it.
    fn lease_holder(&self) -> Option<String> {
        let lease = self.world.kubernetes.get("leases", DAEMON_NAMESPACE, LEASE);
        let holder = &mut self.lock().holder;
        if let Some(lease) = lease {
            *holder = lease["spec"]["holderIdentity"].as_str().map(str::to_owned);
        }
        holder.clone()
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
        if let Some(total) = total.filter(|total| announced + elsewhere > *total as usize) {
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

    fn asked(&self, sent: &Sent, request: &Request) {
        self.called(&sent.authority, &sent.line);
        let place = Place::of(&sent.line);
        if let Some(place) = place.as_ref().filter(|_| sent.line.starts_with("GET ")) {
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
        if sent.line.starts_with("DELETE ") && self.strangers.own(&sent.line) {
            self.breach(Invariant::Strangers, format!("{} {}", sent.authority, sent.line));
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
            let jit = serde_json::from_slice::<Value>(answer.body()).ok().and_then(|body| {
                let jit = body["encodedJITConfig"]
                    .as_str()
                    .or(body["encoded_jit_config"].as_str())?;
                Some(jit.to_owned())
            });
            self.lock().jits.extend(jit);
        }
    }
}

fn set_of(pod: &Object) -> String {
    pod["metadata"]["annotations"][SCALE_SET]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn has_ended(pod: &Object) -> bool {
    let ended = |status: &Value| status["name"] == "runner" && !status["state"]["terminated"].is_null();
    let containers = pod["status"]["containerStatuses"].as_array();
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
        || containers.into_iter().flatten().any(ended)
}

/// Its containers run, and nobody has told them to end.
fn runs(pod: &Object) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null() && !has_ended(pod)
}

/// Whether a pod is capacity still: not ended, not on its way out.
pub(super) fn is_live(pod: &Object) -> bool {
    runs(pod)
}
