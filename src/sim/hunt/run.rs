//! One plan, carried out from the first moment to the last, and what came of it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::Path,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    aftermath::tell_jobs,
    apply::{AtWork, Stage},
    journal::Journal,
    judge::{Breach, Invariant, Judge},
    plan::{Edit, Fault, Plan},
    process::Replica,
    rules::{LATE, Text},
    strangers::{self, Strangers},
    subject::Subject,
};
use crate::{
    clock::Clock,
    shutdown::Tasks,
    sim::{
        fleet::FleetSettings,
        gharts::{Deployment, Latency},
        github::NewJobs,
        kubernetes::{Onlooker, Pace},
        world::{GhartsLimits, ORGANIZATION, Options, Place, World, WorldError},
    },
};

/// How often the run is looked at, beside every call.
pub(super) const TICK: Duration = Duration::from_millis(500);
/// A daemon that is told to end has so long: 45 s for what is in flight, and its sessions' closing.
pub(super) const ORDERLY_END: Duration = Duration::from_secs(75);
/// Of the simulated clocks.
pub(super) const EPOCH: &str = "2026-11-23T00:00:00Z";

/// A run takes a second or less. One that takes so long of real time has a daemon that never rests, and that virtual
/// time would wait for without an end.
const NO_RUN_TAKES: Duration = Duration::from_mins(2);

/// What came of one plan.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    pub breaches: Vec<Breach>,
    /// Faults that somebody met, by kind and sort.
    pub met: BTreeSet<String>,
    /// Codes of the reasons that the daemon gave.
    pub reasons: BTreeSet<String>,
    /// Of every call and its answer.
    pub digest: u64,
    pub jobs: usize,
    pub pods: usize,
    pub virtual_ms: u64,
    /// From the end of the last fault until nothing was left.
    pub recovery_ms: u64,
    /// The most calls to each peer in a minute.
    pub busiest: BTreeMap<String, usize>,
    /// The most that a daemon kept in memory, by kind.
    pub kept: BTreeMap<&'static str, usize>,
}

/// Carries out `plan` with daemons from `subject`, whose file is written into `dir`. Under a paused clock.
pub async fn run(plan: &Plan, subject: &dyn Subject, journal: &Journal, dir: &Path) -> Result<Outcome, WorldError> {
    let tasks = Tasks::new();
    let clock = Clock::simulated(EPOCH.parse().unwrap_or_default());
    let world = World::start(options(plan), clock, &tasks).await?;
    let told_late = Duration::from_millis(plan.shape.told_late_ms);
    let latency = Duration::from_millis(plan.shape.latency_ms);
    let tokens_live = plan
        .shape
        .tokens_live_s
        .map(|seconds| Duration::from_secs(seconds.into()));
    world.github.configure(|settings| {
        if let Some(ttl) = tokens_live {
            (settings.admin_token_ttl, settings.queue_token_ttl) = (ttl, ttl);
        }
        settings.told_after = told_late;
        settings.answer_latency = latency;
    });
    world.kubernetes.set_pace(Pace {
        answers: Duration::from_millis(plan.shape.api_latency_ms),
        events: Duration::from_millis(plan.shape.events_late_ms),
    });
    let strangers = Strangers::settle(&world)?;
    let judge = Arc::new(Judge::new(plan, &world, strangers, journal));
    // The judge holds the world, and not the other way round: a world that is over must go.
    let looking = Arc::downgrade(&judge);
    world.kubernetes.look_on(Onlooker::new(move |request| {
        if let Some(judge) = looking.upgrade() {
            judge.sees(request);
        }
    }));
    let text = world.config(dir)?;
    let replicas = Replica::all(&plan.shape, dir);
    for replica in &replicas {
        replica.has_file(&text).map_err(|source| WorldError::File {
            path: replica.file.display().to_string(),
            source,
        })?;
    }
    let mut run = Run {
        plan,
        subject,
        journal,
        judge,
        world: &world,
        tasks: &tasks,
        dir,
        lives: 0,
        replicas,
        second_file: VecDeque::new(),
        at_work: Vec::new(),
        waiting: Vec::new(),
        edits: Vec::new(),
        arrived: BTreeMap::new(),
        lost_jobs: Vec::new(),
        said: String::new(),
        secrets: BTreeSet::new(),
        outcome: Outcome::default(),
    };
    run.perform().await;
    let mut outcome = run.outcome;
    outcome.breaches = run.judge.breaches();
    outcome.digest = run.judge.digest();
    outcome.busiest = run.judge.busiest();
    outcome.pods = run.judge.created();
    outcome.jobs = world.github.jobs().len();
    outcome.virtual_ms = journal.now_ms();
    tell_jobs(&world, journal);
    tasks.stop();
    // Its peers hold each other through it.
    world.network.close();
    Ok(outcome)
}

fn options(plan: &Plan) -> Options {
    let shape = &plan.shape;
    Options {
        seed: plan.seed,
        flavour: shape.flavour,
        deployment: Deployment {
            latency: if shape.slow_gharts {
                Latency::RECORDED
            } else {
                Latency::None
            },
            ..Deployment::default()
        },
        flow: shape.flow,
        assigned_jobs_run_on: shape.assigned_jobs_run_on,
        credential: shape.credential,
        sets: Text::of(shape, [].iter()).options(),
        max_runners: shape.max_runners,
        quota: shape.quota.map(|quota| quota + strangers::PLACES),
        gharts_limits: GhartsLimits {
            max_in_flight: if shape.narrow_gharts {
                1
            } else {
                GhartsLimits::USUAL.max_in_flight
            },
            ..GhartsLimits::USUAL
        },
        gharts_ahead: shape.gharts_skew_seconds,
        fleet: Some(FleetSettings {
            seed: plan.seed,
            start_delay: Duration::from_millis(shape.start_ms),
            exit_delay: Duration::from_millis(shape.exit_ms),
            grace: Duration::from_millis(shape.grace_ms),
            refused: i32::from(!shape.refused_ends_well),
            jitter: 0.5,
            ..FleetSettings::default()
        }),
        ..Options::default()
    }
}

pub(super) struct Run<'a> {
    pub(super) plan: &'a Plan,
    pub(super) subject: &'a dyn Subject,
    pub(super) journal: &'a Journal,
    pub(super) judge: Arc<Judge>,
    pub(super) world: &'a World,
    pub(super) tasks: &'a Tasks,
    /// Where the daemons' files are.
    pub(super) dir: &'a Path,
    pub(super) lives: u64,
    pub(super) replicas: Vec<Replica>,
    /// What the second replica's file has yet to say, and when.
    pub(super) second_file: VecDeque<(Instant, FileText)>,
    /// With the index of each in the plan.
    pub(super) at_work: Vec<(usize, AtWork)>,
    /// Those that have found nothing to happen to so far.
    waiting: Vec<usize>,
    /// Changes of the file at work, likewise.
    edits: Vec<(usize, Edit)>,
    /// Ids of jobs that came, by the index of their coming.
    pub(super) arrived: BTreeMap<usize, Vec<String>>,
    /// Those of a set that is there for a while only.
    pub(super) lost_jobs: Vec<String>,
    /// What daemons of before have said.
    pub(super) said: String,
    pub(super) secrets: BTreeSet<String>,
    pub(super) outcome: Outcome,
}

/// What stands in a daemon's file.
pub(super) struct FileText {
    text: String,
    /// No daemon takes it over.
    is_wrong: bool,
}

/// Ends a run that stands still.
struct Watch(#[expect(dead_code, reason = "its end is all that the thread waits for")] mpsc::Sender<()>);

impl Watch {
    fn over(judge: &Arc<Judge>) -> Self {
        let (alive, over) = mpsc::channel::<()>();
        let judge = judge.clone();
        thread::spawn(move || {
            if over.recv_timeout(NO_RUN_TAKES) == Err(mpsc::RecvTimeoutError::Timeout) {
                judge.end_runaway("not at its end after two minutes of real time: the daemon never rests");
            }
        });
        Self(alive)
    }
}

/// What the plan has for one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Ends(usize),
    GivesUp(usize),
    Arrives(usize),
    Begins(usize),
}

impl Run<'_> {
    async fn perform(&mut self) {
        let runaway = CancellationToken::new();
        self.judge.end_by(runaway.clone());
        let _watch = Watch::over(&self.judge);
        if runaway.run_until_cancelled(self.in_order()).await.is_none() {
            self.kill_all();
        }
        self.judge_what_was_said();
    }

    async fn in_order(&mut self) {
        let begun = Instant::now();
        for (at_ms, turn) in self.turns() {
            // What is there from the first moment on is there before the daemon.
            if at_ms > 0 && self.lives == 0 {
                self.start_all();
            }
            self.pass_until(begun + Duration::from_millis(at_ms)).await;
            match turn {
                Turn::GivesUp(index) => self.cancel(index),
                Turn::Arrives(index) => self.queue(index),
                Turn::Begins(index) => self.begin(index),
                Turn::Ends(index) => self.end(index),
            }
        }
        if self.lives == 0 {
            self.start_all();
        }
        // A death that was ordered late.
        while self.replicas.iter().any(|replica| replica.death.is_some()) {
            self.pass_until(Instant::now() + TICK).await;
        }
        self.recover().await;
        self.serve_second_wave().await;
        self.end_in_order().await;
    }

    fn turns(&self) -> Vec<(u64, Turn)> {
        let mut turns: Vec<(u64, Turn)> = Vec::new();
        for (index, jobs) in self.plan.jobs.iter().enumerate() {
            turns.push((jobs.at_ms, Turn::Arrives(index)));
            let given_up = jobs.cancelled_after_ms.map(|after| jobs.at_ms + after);
            turns.extend(given_up.map(|at| (at, Turn::GivesUp(index))));
        }
        for (index, timed) in self.plan.faults.iter().enumerate() {
            turns.push((timed.at_ms, Turn::Begins(index)));
            turns.push((timed.ends_ms(), Turn::Ends(index)));
        }
        turns.sort_unstable();
        turns
    }

    // ---- Time ---------------------------------------------------------------------------------------

    pub(super) async fn pass_until(&mut self, at: Instant) {
        loop {
            self.pass_deaths().await;
            self.follow_with_second_file();
            self.try_waiting();
            self.look();
            let next = at.min(Instant::now() + TICK);
            tokio::time::sleep_until(next).await;
            if next >= at {
                return;
            }
        }
    }

    // ---- The plan -----------------------------------------------------------------------------------

    fn queue(&mut self, index: usize) {
        let jobs = &self.plan.jobs[index];
        let Some(set) = self.plan.shape.sets.get(jobs.set) else {
            return;
        };
        self.journal
            .say(|| format!("jobs     {} of {} ms for {}", jobs.count, jobs.lasting_ms, set.name));
        let new = NewJobs::for_set(ORGANIZATION, &set.name, jobs.count)
            .lasting(Duration::from_millis(jobs.lasting_ms))
            .exiting(jobs.exit_code);
        let jobs = self.world.github.queue_jobs(&new);
        self.arrived.insert(index, jobs.into_iter().map(|job| job.id).collect());
    }

    /// Whoever wants these jobs waits no longer.
    fn cancel(&self, index: usize) {
        let jobs = self.arrived.get(&index).into_iter().flatten();
        let cancelled = jobs.filter(|job| self.world.github.cancel(job).is_ok()).count();
        self.journal.say(|| format!("jobs     {cancelled} cancelled"));
    }

    fn begin(&mut self, index: usize) {
        let timed = &self.plan.faults[index];
        self.journal.say(|| format!("FAULT    {index} begins: {}", timed.fault));
        self.judge.trouble(&timed.fault, true);
        // Nobody would know any more what it said.
        let unwatched = self.replicas.iter().all(|replica| replica.daemon.is_none());
        if timed.fault == Fault::LeaseDeleted && unwatched {
            return;
        }
        if timed.fault.waits_for_a_job() {
            self.waiting.push(index);
            self.try_waiting();
        } else if let Some(at_work) = self.stage().begin(timed) {
            self.at_work.push((index, at_work));
        } else {
            match &timed.fault {
                Fault::Panic { call, times } => self.make_panic(call, *times),
                Fault::Paused { replica } => self.pause(*replica, true),
                Fault::ClusterLost { replica } => self.lose_cluster(*replica, true),
                Fault::FileChanged { how } => self.change_file(index, Some(how)),
                Fault::ClockStepped { replica, seconds, .. } => self.step_clock(*replica, *seconds),
                fault => self.order_death(fault, Duration::from_millis(timed.for_ms)),
            }
            self.met(index);
        }
    }

    fn stage(&self) -> Stage<'_> {
        Stage {
            world: self.world,
            plan: self.plan,
            tasks: self.tasks,
            dir: self.dir,
        }
    }

    /// Lets those faults happen that have waited for a job to happen to.
    fn try_waiting(&mut self) {
        for index in self.waiting.clone() {
            let at_work = self.stage().begin(&self.plan.faults[index]);
            if at_work.is_some_and(AtWork::end) {
                self.journal.say(|| format!("FAULT    {index} happens"));
                self.waiting.retain(|other| *other != index);
                self.met(index);
            }
        }
    }

    fn end(&mut self, index: usize) {
        self.judge.trouble(&self.plan.faults[index].fault, false);
        self.waiting.retain(|other| *other != index);
        match &self.plan.faults[index].fault {
            Fault::Panic { call, .. } => self.make_panic(call, 0),
            Fault::Paused { replica } => self.pause(*replica, false),
            Fault::ClusterLost { replica } => self.lose_cluster(*replica, false),
            Fault::FileChanged { .. } => self.change_file(index, None),
            Fault::ClockStepped {
                replica,
                seconds,
                stays: false,
            } => self.step_clock(*replica, -seconds),
            _ => {}
        }
        let Some(place) = self.at_work.iter().position(|(other, _)| *other == index) else {
            return;
        };
        let (_, at_work) = self.at_work.swap_remove(place);
        let met = at_work.end();
        self.journal
            .say(|| format!("FAULT    {index} ends, {}", if met { "met" } else { "met by nobody" }));
        if met {
            self.met(index);
        }
    }

    /// Writes the file anew, with the change of this index or without it any more.
    fn change_file(&mut self, index: usize, edit: Option<&Edit>) {
        self.edits.retain(|(other, _)| *other != index);
        self.edits.extend(edit.map(|edit| (index, edit.clone())));
        if edit == Some(&Edit::SetAdded) {
            let new = NewJobs::for_set(ORGANIZATION, LATE, 2).lasting(Duration::from_secs(5));
            let jobs = self.world.github.queue_jobs(&new);
            self.lost_jobs.extend(jobs.into_iter().map(|job| job.id));
        }
        let text = self.text();
        let services = &self.world.services;
        let options = Options {
            sets: text.options(),
            max_runners: text.max_runners,
            ..Options::clone(&services.options)
        };
        let written = FileText {
            text: services.config_of(&options, self.dir, &Place::default()) + text.ending(),
            is_wrong: text.is_wrong,
        };
        self.write_file(0, &written);
        self.judge.file_says(text);
        if self.replicas.len() > 1 {
            // Whose file is behind reads nothing new so far.
            self.judge.sleeps(true);
            let late = Duration::from_millis(self.plan.shape.second_file_late_ms);
            self.second_file.push_back((Instant::now() + late, written));
            self.follow_with_second_file();
        }
    }

    fn follow_with_second_file(&mut self) {
        while let Some((_, written)) = self.second_file.pop_front_if(|(at, _)| *at <= Instant::now()) {
            self.journal.say(|| "file     the second replica's too".to_owned());
            self.write_file(1, &written);
            self.judge.sleeps(false);
        }
    }

    fn write_file(&mut self, replica: usize, written: &FileText) {
        let replica = &mut self.replicas[replica];
        replica.is_file_wrong = written.is_wrong;
        if let Err(error) = replica.has_file(&written.text) {
            let what = format!("the hunt cannot write {}: {error}", replica.file.display());
            self.judge.breach(Invariant::Alive, what);
        }
    }

    /// What the file says now.
    pub(super) fn text(&self) -> Text {
        Text::of(&self.plan.shape, self.edits.iter().map(|(_, edit)| edit))
    }

    fn met(&mut self, index: usize) {
        let fault = &self.plan.faults[index].fault;
        self.outcome.met.extend([fault.kind(), fault.sort()]);
    }
}
