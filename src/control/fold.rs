//! What each event changes in the world. Facts go in; nothing is decided and nothing is called here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kube::Resource as _;

use super::{
    Control, LastError,
    event::{Cause, Event, QueueEvent, StartError, StartEvent},
    execute::SetParts,
    service::Service,
    trouble,
};
use crate::{
    ids::{Maker, RunnerName, SetName, Whose},
    plan::{
        Moment,
        blame::{self, Asked},
        demand::{Reading, is_known_to_statistics},
        limits::Scope,
        notices::About,
        reason::{Code, Reason},
        runner::{AgentSight, Call, CallResult, Failure, Happening, Job, Place, Runner},
        world::{self, Session},
    },
    provision::Refusal,
    runner::{
        cluster::{ClusterError, Kind, Sighting},
        observe,
    },
    scaleset::{self, Agent, GroupAccess, JobMessage, Message, Note},
    telemetry::metrics::JobLabels,
};

/// What one event led to.
#[derive(Debug, Default)]
pub(super) struct Folded {
    pub(super) happenings: Vec<world::Event>,
    pub(super) ack: Option<tokio::sync::oneshot::Sender<()>>,
}

impl Folded {
    fn happening(set: &SetName, name: &RunnerName, happening: Option<Happening>) -> Self {
        let happenings = happening.map(|h| (set.clone(), name.clone(), h)).into_iter().collect();
        Self { happenings, ack: None }
    }
}

impl Control {
    pub(super) fn fold(&mut self, event: Event) -> Folded {
        let now = self.timeline.now();
        match event {
            // Seen before this replica led, or when it still did: a list that is under way tells the newer truth.
            Event::Sighting(view, _) if !self.leadership.is_newest(view) => return Folded::default(),
            Event::Sighting(_, sighting) if !self.leadership.leads() => {
                self.see_standing_by(&sighting);
                return Folded::default();
            }
            // Outcomes of a time that is over; what they made is the next leader's.
            _ if !self.leadership.leads() => return Folded::default(),
            _ => {}
        }
        match event {
            Event::Queue(set, event) => self.fold_queue(now, &set, event),
            Event::Sighting(_, sighting) => self.fold_sighting(now, sighting),
            Event::Start(set, name, event) => self.fold_start(now, &set, &name, event),
            Event::Called {
                set,
                name,
                call,
                result,
                place_freed,
                refusal,
            } => {
                if place_freed {
                    self.place_freed(now, &set);
                }
                if let Some(refusal) = refusal.filter(|refusal| refusal.retry_after.is_some()) {
                    self.told_to_wait(now, &set, &refusal);
                }
                if call == Call::DeletePod {
                    self.world.deletion_came_to(result);
                }
                if result == CallResult::Busy {
                    tracing::info!(%set, runner = %name, "the service refuses to remove it: it is busy");
                }
                let happening = self.world.runner(&set, &name).and_then(|r| r.called(now, call, result));
                Folded::happening(&set, &name, happening)
            }
            Event::Agents { github, began, agents } => {
                self.rounds.agents_listed(now, &github);
                agents.map_or_else(Folded::default, |agents| self.fold_agents(now, began, &github, &agents))
            }
            Event::Groups { github, access } => {
                self.rounds.groups_looked_at(now, &github);
                if let Some(access) = access {
                    self.fold_groups(&github, &access);
                }
                Folded::default()
            }
            Event::Swept(subject, findings) => {
                self.count_comparison(&subject, &findings);
                let refused = findings.refused.as_ref();
                // Creations are held back for as long as that says.
                if let Some((set, refusal)) = refused.filter(|(_, refusal)| refusal.retry_after.is_some()) {
                    self.told_to_wait(now, set, refusal);
                }
                self.rounds.swept(now, &subject, findings);
                Folded::default()
            }
            Event::Probed(asked, answer) => {
                self.fold_probe(now, &asked, answer);
                Folded::default()
            }
        }
    }

    fn fold_groups(&mut self, github: &str, access: &BTreeMap<String, GroupAccess>) {
        for name in self.rounds.sets_of(github) {
            let Some(state) = self.sets.get_mut(name) else {
                continue;
            };
            let access = access.get(&state.setup.spec.group);
            let notes = access.map_or_else(Vec::new, GroupAccess::notes);
            tell_news(name, &state.group_notes, &notes);
            state.group_notes = notes;
        }
    }

    fn place_freed(&mut self, now: Moment, set: &SetName) {
        let Some(service) = self.sets.get(set).and_then(|s| s.setup.parts.records.as_ref()) else {
            return;
        };
        let scope = Scope::Account(self.world.account(&service.account).to_owned());
        self.world.place_freed(now, &scope);
    }

    // ---- The queue ----------------------------------------------------------------------------------

    fn fold_queue(&mut self, now: Moment, name: &SetName, event: QueueEvent) -> Folded {
        let (Some(set), Some(state)) = (self.world.sets.get_mut(name), self.sets.get_mut(name)) else {
            return Folded::default();
        };
        match event {
            QueueEvent::Registered { scale_set_id, notes } => {
                tell_news(name, &state.notes, &notes);
                state.notes = notes;
                let before = state.scale_set_id.replace(scale_set_id);
                self.leadership.must_tell_of_sets |= before != Some(scale_set_id);
                let scope = Scope::Set(name.clone());
                let hurdle = self.world.hurdles.get(&scope);
                // What was refused for the set that is gone says nothing about the new one.
                let is_another = before.is_some_and(|before| before != scale_set_id);
                if is_another {
                    // Nor does what is refused from now on, where it was asked before.
                    set.changed = Some(now);
                }
                if is_another && hurdle.is_some_and(|h| h.reason.code == Code::Configuration) {
                    self.world.hurdles.remove(&scope);
                }
            }
            // It was told to end; what it says of itself is its own affair.
            QueueEvent::Session(_) | QueueEvent::Polled if state.removed => {}
            QueueEvent::Session(session) => {
                if session != Session::Polling {
                    set.hearing = None;
                }
                set.session = session;
            }
            QueueEvent::Opened {
                statistics,
                began,
                done,
            } => {
                let (assigned, available) =
                    statistics.map_or((0, 0), |s| (s.total_assigned_jobs, s.total_available_jobs));
                tracing::info!(set = %name, assigned, available, "session open");
                if !state.removed {
                    set.session = Session::Polling;
                }
                set.poll_answered(now);
                state.polled = Some(now);
                if let Some(statistics) = statistics {
                    self.world.read(now, began, name, statistics.into());
                }
                return Folded {
                    ack: Some(done),
                    ..Folded::default()
                };
            }
            QueueEvent::Statistics { statistics, began } => {
                set.statistics_came(now);
                self.world.read(now, began, name, statistics.into());
            }
            QueueEvent::Polled => {
                set.poll_answered(now);
                state.polled = Some(now);
            }
            QueueEvent::Message {
                message,
                replayed,
                began,
                done,
            } => {
                set.poll_answered(now);
                state.polled = Some(now);
                return Folded {
                    happenings: self.fold_message(now, began, name, &message, replayed),
                    ack: Some(done),
                };
            }
        }
        Folded::default()
    }

    fn fold_message(
        &mut self,
        now: Moment,
        began: Moment,
        name: &SetName,
        message: &Message,
        replayed: bool,
    ) -> Vec<world::Event> {
        let reading: Option<Reading> = message.statistics.filter(|_| !replayed).map(Into::into);
        if let Some(reading) = reading {
            self.world.read_demand(now, began, name, reading);
        }
        let mut happenings = Vec::new();
        for entry in &message.entries {
            if replayed && self.is_in_statistics(now, entry) {
                continue;
            }
            if let Some(happening) = self.fold_job(now, name, entry) {
                happenings.push(happening);
            }
        }
        if let Some(reading) = &reading {
            self.world.read_ends(began, name, reading);
        }
        happenings
    }

    /// An assignment of so long ago that the statistics, which are newer than this message, know what became of it.
    fn is_in_statistics(&self, now: Moment, entry: &JobMessage) -> bool {
        let JobMessage::Assigned(job) = entry else { return false };
        let assigned = job.scale_set_assign_time.map(|at| self.timeline.of(at));
        assigned.is_some_and(|at| is_known_to_statistics(now, at))
    }

    fn fold_job(&mut self, now: Moment, name: &SetName, entry: &JobMessage) -> Option<world::Event> {
        self.measure_job(name, entry);
        let set = self.world.sets.get_mut(name)?;
        match entry {
            JobMessage::Assigned(job) => {
                set.demand.job_assigned(now, &job.job_id);
                None
            }
            JobMessage::Started { job, runner } => {
                set.demand.job_started(now, &job.job_id);
                let runner = set.runners.get_mut(runner.name.as_str())?;
                tracing::info!(set = %name, runner = %runner.name, job = job.job_id, repository = job.repository_name, "job started");
                let happening = runner.job_started(now, planner_job(job))?;
                Some((name.clone(), runner.name.clone(), happening))
            }
            JobMessage::Completed { job, result, runner } => {
                set.demand.job_left_queue(&job.job_id);
                let runner = set.runners.get_mut(runner.as_ref()?.name.as_str())?;
                tracing::info!(set = %name, runner = %runner.name, job = job.job_id, result, "job completed");
                runner.job_completed(now, planner_job(job));
                None
            }
            JobMessage::Available(_) => None,
            JobMessage::Unknown { message_type } => {
                tracing::debug!(set = %name, message_type, "an unknown kind of message");
                None
            }
        }
    }

    fn measure_job(&self, set: &SetName, entry: &JobMessage) {
        let metrics = &self.setup.metrics;
        let span = |from: Option<jiff::Timestamp>, to: Option<jiff::Timestamp>| {
            std::time::Duration::try_from(to?.duration_since(from?)).ok()
        };
        match entry {
            JobMessage::Started { job, .. } => {
                metrics.job_started(
                    &self.job_labels(set, job),
                    span(job.scale_set_assign_time, job.runner_assign_time),
                );
                if let Some(waited) = span(job.queue_time, job.runner_assign_time) {
                    metrics.queue_time(set.as_str(), waited);
                }
            }
            JobMessage::Completed {
                job,
                result,
                runner: Some(_),
            } => metrics.job_completed(
                &self.job_labels(set, job),
                result,
                span(job.runner_assign_time, job.finish_time),
            ),
            _ => {}
        }
    }

    fn job_labels<'a>(&'a self, set: &SetName, job: &'a scaleset::Job) -> JobLabels<'a> {
        JobLabels {
            enterprise: self.sets.get(set).map_or("", |s| &s.setup.scope.enterprise),
            organization: &job.owner_name,
            repository: &job.repository_name,
            job_name: &job.job_display_name,
            event_name: &job.event_name,
        }
    }

    // ---- Pods ---------------------------------------------------------------------------------------

    pub(super) fn fold_sighting(&mut self, now: Moment, sighting: Sighting) -> Folded {
        match sighting {
            Sighting::Pod(pod) => {
                // Whatever somebody has done to its annotations, it is there.
                if let (Some(listing), Some(name)) = (&mut self.listing, pod.meta().name.as_deref()) {
                    listing.insert(RunnerName::new(name));
                }
                let timeline = self.timeline.clone();
                match observe::read(&pod, |t| timeline.of(t)) {
                    Some(seen) => self.fold_pod(now, seen),
                    None => Folded::default(),
                }
            }
            Sighting::Gone(name) => self.fold_gone(now, &name),
            Sighting::ListBegins => {
                self.listing = Some(BTreeSet::new());
                Folded::default()
            }
            Sighting::ListEnds => self.fold_list_end(now),
            Sighting::Interrupted(why) => {
                self.world.watch_fails(now, why);
                Folded::default()
            }
        }
    }

    fn fold_pod(&mut self, now: Moment, seen: observe::PodSeen) -> Folded {
        self.world.unserved.remove(&seen.name);
        let Some(set) = self.world.sets.get_mut(&seen.set) else {
            // What another deployment in the same namespace makes is its own affair.
            let by_us = |maker: &Maker| self.leadership.place == maker.lease;
            if seen.maker.as_ref().is_some_and(by_us) && seen.adopted.pod.is_live() {
                self.world.unserved.insert(seen.name);
            }
            return Folded::default();
        };
        let Some(state) = self.sets.get_mut(&seen.set) else {
            return Folded::default();
        };
        let ours = state.setup.parts.maker(&self.leadership.place);
        // Its name has another hash where the namespace was deleted and made again while a daemon ran.
        let by_lease = seen.maker.as_ref().is_some_and(|maker| maker.lease == ours.lease);
        if !by_lease && !state.setup.parts.namer.is_ours(seen.name.as_str()) {
            return Folded::default();
        }
        let is_known = set.runners.contains_key(&seen.name);
        let github = seen.maker.as_ref().and_then(|maker| maker.github.clone());
        let whose = seen
            .maker
            .map_or(Whose::Ours, |maker| maker.whose(&ours, state.removed));
        if !is_known && whose == Whose::Anothers {
            if state.of_others.insert(seen.name.clone()) {
                tracing::info!(
                    set = %seen.set, runner = %seen.name,
                    "this pod is another deployment's, by its Lease, and is left to it"
                );
            }
            return Folded::default();
        }
        let runner = set.runners.entry(seen.name.clone()).or_insert_with(|| {
            tracing::info!(set = %seen.set, runner = %seen.name, "a running pod is adopted");
            let mut adopted = seen.adopted.clone();
            if whose == Whose::OursElsewhere {
                // Where the set lives now that id is somebody else's.
                adopted.agent_id = None;
            }
            let mut runner = Runner::adopted(seen.name.clone(), seen.purpose, now, adopted, set.kind);
            runner.template.clone_from(&seen.template);
            runner
        });
        if let (Whose::OursElsewhere, false, Some(github)) = (whose, is_known, github) {
            state.strayed.insert(seen.name.clone(), github);
            runner.set_place(Place::OutOfReach);
        }
        let happening = runner.pod_seen(now, seen.adopted.pod);
        Folded::happening(&seen.set, &seen.name, happening)
    }

    fn fold_gone(&mut self, now: Moment, name: &RunnerName) -> Folded {
        for state in self.sets.values_mut() {
            state.of_others.remove(name);
            state.strayed.remove(name);
        }
        Folded {
            happenings: self.world.pod_gone(now, name).into_iter().collect(),
            ack: None,
        }
    }

    fn fold_list_end(&mut self, now: Moment) -> Folded {
        let listed = self.listing.take().unwrap_or_default();
        for state in self.sets.values_mut() {
            state.of_others.retain(|name| listed.contains(name));
        }
        if !self.world.synced {
            tracing::info!(pods = listed.len(), "the pods of before are read");
        }
        Folded {
            happenings: self.world.pods_listed(now, &listed),
            ack: None,
        }
    }

    // ---- Starts -------------------------------------------------------------------------------------

    fn fold_start(&mut self, now: Moment, set: &SetName, name: &RunnerName, event: StartEvent) -> Folded {
        match event {
            StartEvent::Granted { agent_id, gharts_id } => {
                if self.was_asked_where_the_set_is(set, name) {
                    self.granted(now, set);
                }
                let metrics = self.setup.metrics.clone();
                if let Some(runner) = self.world.runner(set, name) {
                    runner.granted(agent_id, gharts_id);
                    metrics.stage(set.as_str(), "jit", now.since(runner.created));
                }
                Folded::default()
            }
            StartEvent::PodCreated { uid } => {
                let metrics = self.setup.metrics.clone();
                let happening = self.world.runner(set, name).and_then(|runner| {
                    metrics.stage(set.as_str(), "pod", now.since(runner.created));
                    runner.pod_created(now, &uid)
                });
                Folded::happening(set, name, happening)
            }
            StartEvent::Finished(Ok(())) => {
                self.starts.remove(name);
                self.world.pod_accepted(now, set);
                if let Some(runner) = self.world.runner(set, name) {
                    runner.started();
                }
                Folded::default()
            }
            StartEvent::Finished(Err(error)) => {
                let asked = self.starts.remove(name).map(|start| start.parts);
                self.start_failed(now, set, name, asked, &error)
            }
        }
    }

    /// The set's provisioner is another one by now, perhaps, about which an answer of the old one says nothing.
    fn was_asked_where_the_set_is(&self, set: &SetName, name: &RunnerName) -> bool {
        match (self.starts.get(name), self.world.sets.get(set)) {
            (Some(start), Some(world)) => start.parts.service.key == world.provisioner,
            _ => true,
        }
    }

    fn granted(&mut self, now: Moment, set: &SetName) {
        if let Some(state) = self.sets.get_mut(set) {
            state.last_success = Some(now);
            state.refused_in_row = 0;
            state.granted_once = true;
        }
        let provisioner = self.world.sets.get(set).map(|s| s.provisioner.clone());
        for (name, world) in &mut self.world.sets {
            if let Some(state) = self
                .sets
                .get(name)
                .filter(|_| Some(&world.provisioner) == provisioner.as_ref())
            {
                world.in_flight_max = state.setup.in_flight_max;
            }
        }
        self.world.granted(now, set);
    }

    /// `asked`: what the start was made with.
    fn start_failed(
        &mut self,
        now: Moment,
        set: &SetName,
        name: &RunnerName,
        asked: Option<Arc<SetParts>>,
        error: &StartError,
    ) -> Folded {
        let raised = match &error.cause {
            Cause::Refused(refusal) => {
                let parts = asked.or_else(|| Some(self.sets.get(set)?.setup.parts.clone()));
                parts.map(|parts| self.refused_by(set, &parts.service, refusal))
            }
            Cause::Cluster(error) => {
                let code = cluster_code(error);
                let scope = blame::at_cluster(set, code, error.kind == Kind::WebhookFails);
                Some((scope, Reason::new(code, error.to_string()), None))
            }
            Cause::GivenUp => None,
            Cause::Panicked(panic) => {
                let reason = Reason::new(Code::SetFailed, format!("the start of a runner panicked: {panic}"));
                Some((Scope::Set(set.clone()), reason, None))
            }
        };
        if let Some((scope, reason, retry_after)) = raised {
            let refusal = match &error.cause {
                Cause::Refused(refusal) => Some(refusal),
                _ => None,
            };
            // Who asked has told of refused registrations already.
            if refusal.is_none() {
                tracing::warn!(
                    %set, runner = %name, class = reason.code.as_str(), error = reason.message,
                    "no runner: refused"
                );
            }
            if let Some(state) = self.sets.get_mut(set) {
                state.refused_in_row = state.refused_in_row.saturating_add(u32::from(refusal.is_some()));
                state.last_error = Some(LastError {
                    at: now,
                    message: reason.message.clone(),
                    class: reason.code,
                    code: refusal.and_then(|refusal| refusal.code.clone()),
                });
            }
            let jitter = self.rng.f64();
            let began = self.world.runner(set, name).map_or(now, |r| r.created);
            if let Some(world) = self.world.sets.get_mut(set) {
                world.refused = Some(now);
            }
            self.world.refused(now, began, scope, reason, jitter, retry_after);
        }
        let happening = self
            .world
            .runner(set, name)
            .and_then(|r| r.start_failed(now, error.failure, error.registered));
        Folded::happening(set, name, happening)
    }

    /// A removal was told when to come back: a creation would be told the same.
    fn told_to_wait(&mut self, now: Moment, set: &SetName, refusal: &Refusal) {
        let Some(service) = self.sets.get(set).and_then(|s| s.setup.parts.records.as_ref()) else {
            return;
        };
        let (scope, reason, retry_after) = self.refused_by(set, service, refusal);
        let jitter = self.rng.f64();
        self.world.told_to_wait(now, scope, reason, jitter, retry_after);
    }

    fn refused_by(
        &self,
        set: &SetName,
        service: &Service,
        refusal: &Refusal,
    ) -> (Scope, Reason, Option<std::time::Duration>) {
        let asked = Asked {
            provisioner: &service.key,
            account: self.world.account(&service.account),
        };
        let scope = self.world.stopped_by(set, asked, refusal.class, refusal.by_github);
        let mut reason = Reason::new(refusal.class.into(), refusal.message.clone());
        // The general remedies are GHARTS'.
        if refusal.by_github || service.provisioner.gharts_url().is_none() {
            reason.remedy = trouble::remedy_at_github(refusal.class);
        }
        (scope, reason, refusal.retry_after)
    }

    // ---- Registrations ------------------------------------------------------------------------------

    fn fold_agents(&mut self, now: Moment, began: Moment, github: &str, agents: &[Agent]) -> Folded {
        let by_name: BTreeMap<&str, &Agent> = agents.iter().map(|a| (a.name.as_str(), a)).collect();
        let mut folded = Folded::default();
        for set_name in self.rounds.sets_of(github) {
            let (Some(set), Some(state)) = (self.world.sets.get_mut(set_name), self.sets.get(set_name)) else {
                continue;
            };
            // This list knows nothing of runners that are registered elsewhere.
            let here = |name: &RunnerName| state.parts_of(name).github == github;
            for (name, runner) in set.runners.iter_mut().filter(|(name, _)| here(name)) {
                let agent = by_name.get(name.as_str());
                let sight = match agent {
                    None => AgentSight::Absent,
                    Some(agent) if agent.is_online() => AgentSight::Online {
                        busy: agent.busy.unwrap_or(false),
                    },
                    Some(_) => AgentSight::Offline,
                };
                let happening = runner.agent_seen(now, began, sight, agent.map(|a| a.id));
                folded
                    .happenings
                    .extend(happening.map(|h| (set_name.clone(), name.clone(), h)));
            }
        }
        folded
    }

    // ---- Consequences -------------------------------------------------------------------------------

    /// What a step in a runner's life means to its set.
    pub(super) fn happened(&mut self, (set, name, happening): world::Event) {
        let now = self.timeline.now();
        match happening {
            Happening::Failed(failure) => {
                tracing::warn!(%set, runner = %name, reason = failure.as_str(), "runner failed");
                self.setup.metrics.failure(set.as_str(), failure.as_str());
                if failure == Failure::JitTimeout {
                    self.give_up_start(&name);
                }
                self.notice_end(now, &set, &name, Some(failure));
                let jitter = self.rng.f64();
                self.world.runner_failed(now, &set, &name, failure, jitter);
            }
            Happening::Registered | Happening::JobStarted => {
                let stage = match happening {
                    Happening::Registered => "registered",
                    _ => "started",
                };
                if let Some(runner) = self.world.runner(&set, &name) {
                    let took = now.since(runner.created);
                    self.setup.metrics.stage(set.as_str(), stage, took);
                }
                if happening == Happening::JobStarted {
                    self.world.runner_has_job(now, &set);
                } else {
                    self.world.runner_works(now, &set);
                }
            }
            Happening::HadJob => self.world.runner_has_job(now, &set),
            Happening::Ended => {
                tracing::info!(%set, runner = %name, "runner ended");
                self.world.runner_ended(&set, &name);
                self.notice_end(now, &set, &name, None);
            }
        }
    }

    /// What operators hear of a runner's end.
    fn notice_end(&mut self, now: Moment, set: &SetName, name: &RunnerName, failure: Option<Failure>) {
        self.rounds.runner_ended(now, set);
        let Some(runner) = self.world.sets.get(set).and_then(|world| world.runners.get(name)) else {
            return;
        };
        let about = match &runner.pod {
            Some(pod) => About::Pod {
                name: name.clone(),
                uid: pod.uid.clone(),
            },
            None => About::Namespace,
        };
        if let Some(failure) = failure {
            self.notices.runner_failed(now, set, about, failure, runner.said());
        } else if let Some(died) = runner.died() {
            self.notices.runner_died(now, set, about, died, runner.said());
        }
    }
}

/// One line for each note that is new.
fn tell_news(set: &SetName, before: &[Note], now: &[Note]) {
    for note in now.iter().filter(|note| !before.contains(note)) {
        let kind = note.kind.as_str();
        if note.kind.is_usual() {
            tracing::info!(%set, note = kind, "{}", note.message);
        } else {
            tracing::warn!(%set, note = kind, "{}", note.message);
        }
    }
}

/// What a refusal of the API server means to the planner.
fn cluster_code(error: &ClusterError) -> Code {
    match error.kind {
        Kind::Invalid => Code::InvalidTemplate,
        Kind::Forbidden => Code::Forbidden,
        Kind::ResourceQuota => Code::ResourceQuota,
        Kind::Gone => Code::Configuration,
        Kind::Exists | Kind::Conflict | Kind::Unavailable | Kind::WebhookFails => Code::ClusterUnavailable,
    }
}

fn planner_job(job: &scaleset::Job) -> Job {
    Job {
        id: job.job_id.clone(),
        request_id: job.runner_request_id,
        repository: format!("{}/{}", job.owner_name, job.repository_name),
        display_name: job.job_display_name.clone(),
        workflow_ref: job.job_workflow_ref.clone(),
        workflow_run_id: job.workflow_run_id,
    }
}
