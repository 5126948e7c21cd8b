//! The loop: event -> fold(state) -> plan -> execute. One task owns all state; nobody else changes it, and no
//! lock guards it. What it decides, [`crate::plan`] decides; what it calls, [`execute`] calls.
//!
//! Acknowledgements go out after the plan that an event led to has been carried into capacity and calls: so a
//! message is deleted at GitHub only when it has had its effect here.
//!
//! | file | what it is |
//! | --- | --- |
//! | `event`, `fold` | what the loop hears, and what it changes in its state |
//! | `execute`, `service` | starts and calls about runners; GHARTS' or GitHub's side of one provisioner |
//! | `queues`, `poller` | the task of each set's queue: kept alive; session, polls, messages |
//! | `rounds`, `sweep`, `probe` | what is looked at every so often: agents, orphans, leftovers, the service |
//! | `tenure` | leading and standing by; `leads` this term, `holds` until others may (10 s), the fence is `open` (7 s) |
//! | `reconfigure` | the file has changed: sets come, change and go |
//! | `report`, `trouble` | what is said: status, reasons, Events, and when GitHub is asked again |
//! | `kept` | how much of all this is in memory |
//! | `timeline` | the planner's moments and the clocks |

mod event;
mod execute;
mod fold;
mod kept;
mod poller;
mod probe;
mod queues;
mod reconfigure;
mod report;
mod rounds;
mod service;
mod sweep;
mod tenure;
mod timeline;
mod trouble;

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use execute::{CallOrder, Executor, KeepOrder, Parts, Start, StartUnderWay};
pub use execute::{ClusterGates, SetParts};
use fold::Folded;
use futures::{FutureExt as _, StreamExt as _};
use poller::{Announce, Wish};
use queues::{Queue, Queues};
pub use reconfigure::Reconfigured;
pub use report::ScopeLabels;
pub use service::Service;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::{
    event::Event,
    rounds::AllRounds,
    tenure::{Leadership, Views},
    timeline::Timeline,
};
use crate::{
    clock::Clock,
    config::{Retry, Timeouts},
    ids::{RunnerName, SetName},
    lease::{Lease, LeaseSetup},
    plan::{
        Moment, Plan,
        demand::{Demand, Source},
        notices::Notices,
        plan,
        reason::Code,
        removed::Emptied,
        runner::{Kind, PodProgress, Runner},
        world::{Session, SetWorld, World},
    },
    runner::cluster::{Cluster, Sighting},
    scaleset::{Note, Spec},
    server::Heartbeat,
    shutdown::Tasks,
    status::{ConfigurationStatus, Status},
    telemetry::Metrics,
};

/// Events that wait for the loop. It takes them in by the thousand, so a full queue means that it is stuck.
const EVENTS: usize = 4096;
/// Events taken in before the next plan: bounds how long one plan may be put off.
const BATCH: usize = 512;
/// The loop beats at least so often.
const BEAT: Duration = Duration::from_secs(5);
/// What is in flight at SIGTERM may take so long; beyond it the next start cures what is left.
const DRAIN: Duration = Duration::from_secs(45);
/// How often the end of what is in flight is looked for meanwhile.
const DRAIN_LOOK: Duration = Duration::from_millis(50);
/// A plan goes over every runner, so in a burst the next one waits for so many times as long as the last one took,
/// within these bounds: events gather meanwhile, and most of the processor is left to the calls. Shorter rests than
/// the least are none: timers count in milliseconds.
const REST: u32 = 10;
const REST_BOUNDS: (Duration, Duration) = (Duration::from_micros(500), Duration::from_millis(10));
/// Status is for people and scrapers.
const REPORT_EVERY: Duration = Duration::from_millis(250);

/// One scale set as the composition root hands it over.
#[derive(Clone, Debug)]
pub struct SetSetup {
    pub parts: Arc<SetParts>,
    pub spec: Spec,
    pub min_runners: u32,
    pub max_runners: u32,
    pub timeouts: Timeouts,
    pub retry: Retry,
    /// JIT requests that the provisioner takes at once.
    pub in_flight_max: u32,
    pub kind: Kind,
    pub demand: Source,
    /// Labels that every metric of this set has.
    pub scope: ScopeLabels,
    /// For status: `gharts` or `scaleSet`, and the binding as configured.
    pub provisioner_word: &'static str,
    pub binding_word: &'static str,
}

/// Everything the loop works with.
#[derive(Debug)]
pub struct Setup {
    pub sets: Vec<SetSetup>,
    pub max_runners: Option<u32>,
    pub cluster: Cluster,
    pub cluster_gates: ClusterGates,
    /// Which replica leads. Its identity is our name at GitHub's sessions, too.
    pub lease: LeaseSetup,
    pub clock: Clock,
    pub seed: u64,
    pub metrics: Metrics,
    pub heartbeat: Arc<Heartbeat>,
    pub status: watch::Sender<Arc<Status>>,
    /// What is to be said of the file.
    pub configuration: watch::Receiver<ConfigurationStatus>,
    /// Changes of the file, as they come.
    pub changes: mpsc::Receiver<Reconfigured>,
    pub tasks: Tasks,
}

/// The newest try at a runner that was refused.
#[derive(Debug)]
struct LastError {
    at: Moment,
    message: String,
    class: Code,
    /// The server's own code, where it has one.
    code: Option<String>,
}

/// What the loop keeps of one set beside its world.
#[derive(Debug)]
struct SetState {
    setup: SetSetup,
    queue: Queue,
    /// The file names it no more: it stays known until nothing of it is left.
    removed: bool,
    /// It is known from the last leader alone.
    recalled: bool,
    /// It was removed, and nothing is left of it as far as is known.
    emptied: Option<Emptied>,
    /// Runners that were begun under another configuration, with what they are to be ended by.
    of_before: BTreeMap<RunnerName, Arc<SetParts>>,
    /// Of a removed set: runners that another deployment in the namespace has made for it.
    of_others: BTreeSet<RunnerName>,
    /// Runners that an earlier process registered where the set was then, and where that is: nothing here reaches it.
    strayed: BTreeMap<RunnerName, String>,
    scale_set_id: Option<i64>,
    /// When a poll was last answered.
    polled: Option<Moment>,
    last_attempt: Option<Moment>,
    last_success: Option<Moment>,
    last_error: Option<LastError>,
    /// Tries that were refused since one was granted.
    refused_in_row: u32,
    granted_once: bool,
    /// What is not as the file wants it: at its registration, and of its runner group.
    notes: Vec<Note>,
    group_notes: Vec<Note>,
    /// Its provisioner refused somebody: creations that wait at the gate go one at a time.
    one_by_one: bool,
    /// The reason that was logged last.
    told: Option<Code>,
    plan: Plan,
}

/// The loop.
#[derive(Debug)]
pub struct Control {
    world: World,
    sets: BTreeMap<SetName, SetState>,
    events: mpsc::Receiver<Event>,
    changes: mpsc::Receiver<Reconfigured>,
    queues: Queues,
    executor: Executor,
    /// Calls and starts under way, to be waited for at the end.
    work: Tasks,
    timeline: Timeline,
    rng: fastrand::Rng,
    /// Starts that may still be given up.
    starts: BTreeMap<RunnerName, StartUnderWay>,
    acks: Vec<oneshot::Sender<()>>,
    rounds: AllRounds,
    /// Names that the list of pods under way has brought so far, while one is.
    listing: Option<BTreeSet<RunnerName>>,
    draining_since: Option<Moment>,
    leadership: Leadership,
    reported: Option<Moment>,
    started: Moment,
    /// Events for operators: what is worth one, and their writing, which nobody waits for.
    notices: Notices,
    words: Tasks,
    setup: Shared,
}

#[derive(Debug)]
struct Shared {
    metrics: Metrics,
    heartbeat: Arc<Heartbeat>,
    status: watch::Sender<Arc<Status>>,
    configuration: watch::Receiver<ConfigurationStatus>,
}

/// Runs the loop with all its tasks until `stop`, then drains. Returns when sessions are closed.
pub async fn run(setup: Setup, stop: CancellationToken) {
    let (events_in, events) = mpsc::channel(EVENTS);
    let timeline = Timeline::new(setup.clock.clone());
    let mut rng = fastrand::Rng::with_seed(setup.seed);
    let watching = setup.tasks.child();
    let words = setup.tasks.child();
    let views = Arc::new(Views::default());
    watch_pods(&watching, setup.cluster.clone(), events_in.clone(), views.clone());
    let owner = setup.lease.identity.clone();
    let lease = Lease::keep(setup.lease, &watching);
    let (leadership, mandate) = Leadership::new(&lease, views);

    let parts = Arc::new(Parts {
        cluster: setup.cluster,
        cluster_gates: setup.cluster_gates,
        events: events_in.clone(),
        timeline: timeline.clone(),
        metrics: setup.metrics.clone(),
        mandate,
        lease: lease.place.clone(),
        draining: CancellationToken::new(),
    });
    let queues = Queues {
        tasks: setup.tasks.child(),
        stop: CancellationToken::new(),
        close: CancellationToken::new(),
        owner,
        parts: parts.clone(),
    };
    let world = World {
        max_runners: setup.max_runners,
        ..World::default()
    };
    let mut sets = BTreeMap::new();
    for set in setup.sets {
        let name = set.parts.name.clone();
        let queue = queues.begin(&name, Wish::of(&set), rng.u64(..), None);
        sets.insert(name, SetState::new(set, queue));
    }
    let work = setup.tasks.child();
    let rounds = AllRounds::of(&sets, timeline.now());
    let mut control = Control {
        world,
        sets,
        events,
        changes: setup.changes,
        queues: queues.clone(),
        executor: Executor::new(parts, work.clone(), watching.clone()),
        work,
        rng,
        starts: BTreeMap::new(),
        acks: Vec::new(),
        rounds,
        listing: None,
        draining_since: None,
        leadership,
        reported: None,
        notices: Notices::default(),
        words,
        started: timeline.now(),
        timeline,
        setup: Shared {
            metrics: setup.metrics,
            heartbeat: setup.heartbeat,
            status: setup.status,
            configuration: setup.configuration,
        },
    };
    control.stand_by();
    let worked = AssertUnwindSafe(control.work_until_drained(&stop)).catch_unwind().await;
    // Where the loop died they poll still.
    queues.stop.cancel();
    queues.close.cancel();
    // The loop no longer answers; tasks that wait for it see its channel closed.
    drop(control);
    queues.tasks.finished().await;
    // A core task: its panic is the process's. What it had under way goes on until the process ends, so the Lease is not
    // given away before that.
    if let Err(panic) = worked {
        std::panic::resume_unwind(panic);
    }
    let resigned = lease.resign().await;
    watching.stop();
    watching.finished().await;
    if let Err(died) = resigned {
        std::panic::resume_unwind(died.into_panic());
    }
}

/// How long to gather events after an act that took `took`.
fn rest(took: Duration) -> Duration {
    let (least, most) = REST_BOUNDS;
    match took * REST {
        rest if rest < least => Duration::ZERO,
        rest => rest.min(most),
    }
}

fn set_world(setup: &SetSetup, session: Session) -> SetWorld {
    SetWorld {
        name: setup.parts.name.clone(),
        min_runners: setup.min_runners,
        max_runners: setup.max_runners,
        timeouts: setup.timeouts.clone(),
        retry: setup.retry.clone(),
        provisioner: setup.parts.service.key.clone(),
        account: setup.parts.service.account.clone(),
        in_flight_max: setup.in_flight_max,
        kind: setup.kind,
        session,
        demand: Demand::of(setup.demand),
        runners: BTreeMap::new(),
        heard: None,
        hearing: None,
        deaf: false,
        mismatched: None,
        taken: None,
        lists_tell: false,
        worked: None,
        left: Default::default(),
        started: None,
        unlisted: false,
        refused: None,
        surplus_since: None,
        removed: false,
        changed: None,
        template: setup.parts.blueprint.hash().to_owned(),
    }
}

fn watch_pods(tasks: &Tasks, cluster: Cluster, events: mpsc::Sender<Event>, views: Arc<Views>) {
    let stop = tasks.token().clone();
    tasks.keep("watch", move || {
        let (stop, cluster, events, views) = (stop.clone(), cluster.clone(), events.clone(), views.clone());
        async move {
            let mut view = views.newest();
            let mut interrupted = false;
            let mut sightings = std::pin::pin!(cluster.watch());
            loop {
                let sighting = tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = views.renewed() => {
                        view = views.newest();
                        sightings.set(cluster.watch());
                        continue;
                    }
                    sighting = sightings.next() => sighting,
                };
                let Some(sighting) = sighting else { return };
                match &sighting {
                    // One line for each outage, however often it is tried again.
                    Sighting::Interrupted(why) if interrupted => tracing::debug!(why, "the watch fails still"),
                    Sighting::Interrupted(why) => {
                        tracing::warn!(why, "the watch was interrupted; it begins again");
                        interrupted = true;
                    }
                    _ => interrupted = false,
                }
                if events.send(Event::Sighting(view, sighting)).await.is_err() {
                    return;
                }
            }
        }
    });
}

impl SetState {
    fn new(setup: SetSetup, queue: Queue) -> Self {
        Self {
            setup,
            queue,
            removed: false,
            recalled: false,
            emptied: None,
            of_before: BTreeMap::new(),
            of_others: BTreeSet::new(),
            strayed: BTreeMap::new(),
            scale_set_id: None,
            polled: None,
            last_attempt: None,
            last_success: None,
            last_error: None,
            refused_in_row: 0,
            granted_once: false,
            notes: Vec::new(),
            group_notes: Vec::new(),
            one_by_one: false,
            told: None,
            plan: Plan::default(),
        }
    }
}

impl Control {
    async fn work_until_drained(&mut self, stop: &CancellationToken) {
        let clock = self.timeline.clock().clone();
        let mut at = clock.instant();
        let mut rested = at;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled(), if self.draining_since.is_none() => self.drain(),
                () = self.leadership.changed(), if !self.leadership.dead => self.heed_lease(),
                Some(change) = self.changes.recv() => self.reconfigure(change),
                Some(event) = self.events.recv() => self.take_in(event),
                () = tokio::time::sleep_until(at) => {}
            }
            self.setup.heartbeat.beat();
            let began = clock.instant();
            if began < rested {
                at = rested;
                continue;
            }
            let wake = self.act();
            if self.is_drained() || self.leadership.dead {
                return;
            }
            let ended = clock.instant();
            rested = ended + rest(ended - began);
            at = self.timeline.instant(wake);
        }
    }

    fn drain(&mut self) {
        tracing::info!("draining: no more polls; what is in flight is finished, runners keep running");
        self.queues.stop.cancel();
        self.executor.begin_no_more();
        self.world.draining = true;
        self.draining_since = Some(self.timeline.now());
    }

    fn is_drained(&self) -> bool {
        self.draining_since
            .is_some_and(|since| self.work.is_idle() || self.timeline.now().since(since) >= DRAIN)
    }

    /// Takes in an event and those that wait behind it.
    fn take_in(&mut self, first: Event) {
        let mut next = Some(first);
        let mut taken = 0;
        while let Some(event) = next {
            let folded = self.fold(event);
            self.reap(folded);
            taken += 1;
            next = if taken < BATCH {
                self.events.try_recv().ok()
            } else {
                None
            };
        }
    }

    fn reap(&mut self, folded: Folded) {
        self.acks.extend(folded.ack);
        for happening in folded.happenings {
            self.happened(happening);
        }
    }

    /// Lets time pass, plans, and carries the plan out; again while that changes the world. Returns when to
    /// look again.
    fn act(&mut self) -> Moment {
        let now = self.timeline.now();
        let mut wake = now + BEAT;
        // Carrying out a plan (retirements) can call for a second one, never for more.
        for _ in 0..2 {
            for happening in self.world.advance(now) {
                self.happened(happening);
            }
            self.look_at_fence();
            let plans = plan(&self.world, now);
            let mut again = false;
            wake = now + BEAT;
            for (name, plan) in plans {
                wake = plan.wake_at.map_or(wake, |at| at.min(wake));
                again |= self.carry_out(&name, plan, now);
            }
            if !again {
                break;
            }
        }
        for ack in self.acks.drain(..) {
            // A task that was stopped meanwhile needs no answer.
            let _ = ack.send(());
        }
        self.forget_removed();
        self.tell_of_sets();
        wake = match self.draining_since {
            None if self.leadership.holds() => wake.min(self.look_around(now)),
            None => wake,
            Some(_) => now + DRAIN_LOOK,
        };
        self.report(now).min(wake)
    }

    /// True when the world changed so that it must be planned anew.
    fn carry_out(&mut self, name: &SetName, plan: Plan, now: Moment) -> bool {
        let Some(state) = self.sets.get_mut(name) else {
            return false;
        };
        let announce = Announce {
            capacity: plan.capacity,
            told: plan.told,
            listen_every: Some(plan.listen_every),
        };
        state.queue.announce.send_if_modified(|old| {
            let changed = *old != announce;
            *old = announce;
            changed
        });
        let parts = &state.setup.parts;
        let one_by_one = self.world.asks_one_by_one(&parts.service.key);
        // The gate is one for every set behind it, and so is the answer.
        if std::mem::replace(&mut state.one_by_one, one_by_one) != one_by_one {
            let limit = one_by_one.then_some(1);
            state.setup.parts.service.gate.set_create_limit(limit);
        }
        // Whatever this replica believes: the clocks say that another one may lead.
        let leads = self.leadership.holds();
        for purpose in plan.create.iter().filter(|_| leads) {
            self.create(name, *purpose, now);
        }
        let mut again = false;
        for runner in plan.retire.iter().filter(|_| leads) {
            if let Some(runner) = self.world.runner(name, runner) {
                tracing::info!(set = %name, runner = %runner.name, "surplus: retiring");
                runner.retire(now);
                again = true;
            }
        }
        if self.draining_since.is_none() && leads {
            for (runner, call) in &plan.calls {
                self.call(name, runner, *call);
            }
        }
        if let Some(state) = self.sets.get_mut(name) {
            state.plan = plan;
        }
        again
    }

    fn create(&mut self, set: &SetName, purpose: crate::plan::runner::Purpose, now: Moment) {
        let (Some(state), Some(world)) = (self.sets.get_mut(set), self.world.sets.get_mut(set)) else {
            return;
        };
        let Some(scale_set_id) = state.scale_set_id else { return };
        let parts = state.setup.parts.clone();
        let name = parts.namer.next(&mut self.rng);
        let attempt = state.refused_in_row.saturating_add(1);
        state.last_attempt = Some(now);
        let mut runner = Runner::decided(name.clone(), purpose, now, world.kind);
        runner.template = Some(parts.blueprint.hash().to_owned());
        world.runners.insert(name.clone(), runner);
        let given_up = CancellationToken::new();
        let under_way = StartUnderWay {
            parts: parts.clone(),
            given_up: given_up.clone(),
        };
        self.starts.insert(name.clone(), under_way);
        self.executor.start(Start {
            set: parts,
            name,
            scale_set_id,
            purpose,
            meets: world.kind.meets,
            attempt,
            given_up,
        });
    }

    fn call(&mut self, set: &SetName, name: &RunnerName, call: crate::plan::runner::Call) {
        let Some(state) = self.sets.get(set) else { return };
        let Some(runner) = self.world.runner(set, name) else {
            return;
        };
        runner.begin(call);
        let order = CallOrder {
            set: state.parts_of(name).clone(),
            name: name.clone(),
            call,
            agent_id: runner.agent_id,
            gharts_id: runner.gharts_id.clone(),
            pod_uid: runner.pod.as_ref().map(|p| p.uid.clone()).unwrap_or_default(),
            pod_version: runner.version_to_end().map(str::to_owned),
            job: runner.job.clone(),
            kept: runner.kept().map(|kept| KeepOrder {
                kept: kept.clone(),
                said: runner.said().map(str::to_owned),
                ends: runner
                    .pod
                    .as_ref()
                    .is_some_and(|p| !matches!(p.progress, PodProgress::Ended(_))),
            }),
        };
        self.executor.call(order);
    }

    /// A start that is given up must not become a pod any more.
    fn give_up_start(&mut self, name: &RunnerName) {
        if let Some(start) = self.starts.get(name) {
            start.given_up.cancel();
        }
    }
}
