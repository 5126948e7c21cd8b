//! The daemon's processes during a run: their starts, their deaths, and what can be seen of them from outside.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    judge::{Eye, Invariant},
    plan::{Fault, LEASES, Moment, Shape, Timed},
    run::{ORDERLY_END, Run, TICK},
    subject::{Glance, Launch},
};
use crate::sim::{
    cable::{Cable, Kill, Spoilt},
    world::RUNNER_NAMESPACE,
};
use crate::{clock::Clock, shutdown::Freeze};

/// The loop beats every few seconds.
const HEARTBEAT: Duration = Duration::from_secs(60);
/// Nothing of what happens in a small world is kept in such numbers.
const MOST_KEPT: usize = 50;
/// A runner is forgotten so long after its pod's end, where all peers are well: its calls are made, and whatever news of
/// its job may come has come.
const FORGOTTEN: Duration = Duration::from_secs(120);
/// From a start that failed to the next one.
const START_AGAIN: Duration = Duration::from_secs(5);
/// A kill that waits for a call which the daemon does not make happens after so long by itself.
const KILL_PATIENCE: Duration = Duration::from_secs(20);

/// A daemon at work, or what is left of it.
pub(super) struct Daemon {
    cable: Cable,
    stop: CancellationToken,
    freeze: Freeze,
    /// When it was last continued: its loop has had no turn yet at that moment.
    thawed: Option<Instant>,
    clock: Clock,
    task: JoinHandle<Result<(), String>>,
    glance: Box<dyn Fn() -> Glance + Send + Sync>,
    says: Box<dyn Fn() -> String + Send + Sync>,
}

/// A death that was ordered, and how long the daemon stays dead.
pub(super) struct Death {
    at_the_latest: Instant,
    down: Duration,
    skew: i64,
    /// Once it has happened.
    reborn: Option<Instant>,
}

impl Death {
    /// It has ended, and is started again.
    fn by_itself(skew: i64) -> Self {
        Self {
            at_the_latest: Instant::now(),
            down: START_AGAIN,
            skew,
            reborn: None,
        }
    }
}

/// One of the deployment's replicas.
pub(super) struct Replica {
    name: &'static str,
    pub(super) file: PathBuf,
    /// It says what no daemon takes over.
    pub(super) is_file_wrong: bool,
    skew: i64,
    /// So far somebody has set its machine's clock forward.
    stepped: i64,
    pub(super) daemon: Option<Daemon>,
    pub(super) death: Option<Death>,
    /// Since when it keeps more runners than there are pods and starts, while all peers are well.
    keeps_more: Option<Instant>,
}

impl Replica {
    pub(super) fn all(shape: &Shape, dir: &Path) -> Vec<Self> {
        let skews = [Some(shape.skew_seconds), shape.second_replica];
        let replica = |(name, skew)| Self {
            name,
            file: dir.join(name).with_extension("yaml"),
            is_file_wrong: false,
            skew,
            stepped: 0,
            daemon: None,
            death: None,
            keeps_more: None,
        };
        ["replica-0", "replica-1"]
            .into_iter()
            .zip(skews.into_iter().flatten())
            .map(replica)
            .collect()
    }

    /// From now on its file says this: all at once, as a ConfigMap changes.
    pub(super) fn has_file(&self, text: &str) -> io::Result<()> {
        let next = self.file.with_extension("next");
        fs::write(&next, text)?;
        fs::rename(&next, &self.file)
    }

    /// It can act: not killed, not told to end, not stopped.
    fn acts(&self) -> Option<&Daemon> {
        let acts = |daemon: &&Daemon| {
            daemon.thawed.is_none_or(|at| at.elapsed() > TICK)
                && !daemon.cable.is_cut()
                && !daemon.stop.is_cancelled()
                && !daemon.freeze.is_set()
        };
        self.daemon.as_ref().filter(acts)
    }
}

impl Run<'_> {
    pub(super) fn start_all(&mut self) {
        for index in 0..self.replicas.len() {
            self.start(index);
        }
    }

    pub(super) fn start(&mut self, index: usize) {
        let (cable, stop, freeze) = (Cable::default(), CancellationToken::new(), Freeze::default());
        let Replica {
            name, skew, stepped, ..
        } = self.replicas[index];
        let clock = self.world.clock.ahead(skew + stepped);
        cable.look_on(Arc::new(Eye::of(&self.judge, name)));
        let transport = self.world.services.transport();
        let launch = Launch {
            file: &self.replicas[index].file,
            github: cable.transport(transport.clone()),
            gharts: cable.transport(transport),
            kubernetes: cable.client(&self.world.daemon_client(), RUNNER_NAMESPACE),
            clock: clock.clone(),
            seed: self.plan.seed.wrapping_add(7919 * self.lives),
            // The same in each life: it takes its own Lease back at once.
            identity: name.to_owned(),
            stop: stop.clone(),
            freeze: freeze.clone(),
        };
        self.journal
            .say(|| format!("process  {name} started, its clock {skew} s ahead"));
        self.lives += 1;
        match self.subject.launch(launch) {
            Ok(life) => {
                self.replicas[index].daemon = Some(Daemon {
                    task: self.tasks.spawn("daemon", cable.counted(life.serve)),
                    glance: life.glance,
                    says: life.says,
                    cable,
                    stop,
                    freeze,
                    thawed: None,
                    clock,
                });
            }
            // Whoever started it starts it again.
            Err(error) if self.replicas[index].is_file_wrong => {
                self.journal.say(|| format!("process  {name} does not start: {error}"));
                self.replicas[index].death = Some(Death {
                    reborn: Some(Instant::now() + START_AGAIN),
                    ..Death::by_itself(skew)
                });
            }
            Err(error) => self
                .judge
                .breach(Invariant::Alive, format!("{name} does not start: {error}")),
        }
    }

    pub(super) fn order_death(&mut self, fault: &Fault, down: Duration) {
        let (Fault::Killed { replica, .. } | Fault::Restarted { replica, .. }) = fault else {
            return;
        };
        let Some(replica) = self.replicas.get_mut(*replica) else {
            return;
        };
        let (Some(daemon), None) = (&replica.daemon, &replica.death) else {
            return;
        };
        let (skew, patience) = match fault {
            Fault::Killed { moment, count, .. } => {
                daemon.cable.cut_after(match moment {
                    Moment::BeforeCall => Kill::Before { call: *count },
                    Moment::AfterCall => Kill::After { call: *count },
                    Moment::AtStep => Kill::AtStep { step: *count },
                });
                (replica.skew, KILL_PATIENCE)
            }
            Fault::Restarted { skew_seconds, .. } => {
                daemon.freeze.set(false);
                daemon.stop.cancel();
                (*skew_seconds, ORDERLY_END)
            }
            _ => return,
        };
        replica.death = Some(Death {
            at_the_latest: Instant::now() + patience,
            down,
            skew,
            reborn: None,
        });
    }

    fn living(&self) -> impl Iterator<Item = &Daemon> {
        self.replicas.iter().filter_map(|replica| replica.daemon.as_ref())
    }

    /// From now on, so often, whatever sends such a call panics.
    pub(super) fn make_panic(&self, call: &str, times: u32) {
        for daemon in self.living() {
            if call.starts_with('/') {
                daemon.cable.make_fatal(call, times);
            }
            let (call, left) = (call.to_owned(), AtomicU32::new(times));
            daemon.cable.spoil(Arc::new(move |request| {
                let line = format!("{} {}", request.method(), request.uri().path());
                let take = |left: u32| left.checked_sub(1);
                let panics =
                    line.contains(&call) && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
                panics.then_some(Spoilt::Panics)
            }));
        }
    }

    /// SIGSTOP and SIGCONT.
    pub(super) fn pause(&mut self, replica: usize, paused: bool) {
        self.judge.sleeps(paused);
        let replica = self.replicas.get_mut(replica);
        if let Some(daemon) = replica.and_then(|replica| replica.daemon.as_mut()) {
            daemon.freeze.set(paused);
            daemon.thawed = (!paused).then(Instant::now);
            self.judge.slept();
        }
    }

    /// The clock of its machine is set forward, or back.
    pub(super) fn step_clock(&mut self, replica: usize, seconds: i64) {
        let Some(replica) = self.replicas.get_mut(replica) else {
            return;
        };
        replica.stepped += seconds;
        if let Some(daemon) = &replica.daemon {
            daemon.clock.step(seconds);
        }
    }

    pub(super) fn lose_cluster(&self, replica: usize, lost: bool) {
        if let Some(daemon) = self.replicas.get(replica).and_then(|replica| replica.daemon.as_ref()) {
            daemon.cable.lose_cluster(lost);
        }
    }

    pub(super) fn kill_all(&mut self) {
        for index in 0..self.replicas.len() {
            self.kill(index);
        }
    }

    /// SIGKILL to whoever leads, where somebody else can. Which one it was.
    pub(super) fn kill_leader(&mut self) -> Option<usize> {
        if self.living().count() < 2 {
            return None;
        }
        let holder = self.judge.lease_holder()?;
        let leader = self.replicas.iter().position(|replica| replica.name == holder)?;
        self.journal.say(|| format!("process  {holder} killed, while it leads"));
        self.kill(leader);
        Some(leader)
    }

    /// SIGKILL: no call of this daemon's is answered any more, nor any other made.
    fn kill(&mut self, index: usize) {
        if let Some(daemon) = self.replicas[index].daemon.take() {
            daemon.cable.cut();
            // What is left of it in this process has nobody to talk to, and ends.
            daemon.freeze.set(false);
            daemon.stop.cancel();
            self.bury(&daemon);
        }
    }

    fn bury(&mut self, daemon: &Daemon) {
        daemon.cable.cut();
        // What it says while it ends is said between two looks.
        self.outcome
            .reasons
            .extend((daemon.glance)().reasons.into_values().flatten());
        self.said.push_str(&(daemon.says)());
        self.secrets.extend(daemon.cable.secrets());
    }

    pub(super) async fn pass_deaths(&mut self) {
        for index in 0..self.replicas.len() {
            self.pass_death(index).await;
        }
    }

    /// Brings an ordered death about, and the next life.
    async fn pass_death(&mut self, index: usize) {
        let replica = &mut self.replicas[index];
        let Some(death) = &mut replica.death else { return };
        let now = Instant::now();
        match death.reborn {
            None => {
                let Some(daemon) = &replica.daemon else { return };
                let stopping = daemon.stop.is_cancelled();
                if !daemon.cable.is_cut() && !daemon.task.is_finished() && now < death.at_the_latest {
                    return;
                }
                death.reborn = Some(now + death.down);
                replica.skew = death.skew;
                if stopping {
                    self.see_off(index).await;
                } else {
                    let name = replica.name;
                    self.journal.say(|| format!("process  {name} killed"));
                    self.kill(index);
                }
            }
            Some(at) if at <= now => {
                replica.death = None;
                self.start(index);
            }
            Some(_) => {}
        }
    }

    /// SIGTERM to all, and the wait for their end.
    pub(super) async fn stop_all(&mut self) {
        self.journal.say(|| "process  told to end".to_owned());
        for daemon in self.living() {
            daemon.stop.cancel();
        }
        let told = Instant::now();
        while self.living().any(|daemon| !daemon.task.is_finished()) && told.elapsed() < ORDERLY_END {
            let glances = self.living().map(|daemon| (daemon.glance)().reasons);
            let reasons: Vec<String> = glances.flat_map(BTreeMap::into_values).flatten().collect();
            self.outcome.reasons.extend(reasons);
            tokio::time::sleep(TICK).await;
        }
        for index in 0..self.replicas.len() {
            self.see_off(index).await;
        }
    }

    /// Says how a daemon that was told to end in good time has ended.
    async fn see_off(&mut self, index: usize) {
        let name = self.replicas[index].name;
        let Some(mut daemon) = self.replicas[index].daemon.take() else {
            return;
        };
        let ended = tokio::time::timeout(Duration::from_secs(1), &mut daemon.task).await;
        match ended {
            Ok(Ok(Ok(()))) => self.journal.say(|| format!("process  {name} ended in order")),
            Ok(Ok(Err(error))) => self.judge.breach(Invariant::OrderlyEnd, format!("{name}: {error}")),
            Ok(Err(error)) => self.judge.breach(Invariant::OrderlyEnd, format!("{name}: {error}")),
            Err(_) => {
                let what = format!("{name} has not ended {ORDERLY_END:?} after it was told to");
                self.judge.breach(Invariant::OrderlyEnd, what);
            }
        }
        self.bury(&daemon);
    }

    /// What daemons keep of more runners than these, and of more pods than there are.
    pub(super) fn kept_for_nothing(&self, runners: usize) -> Vec<String> {
        let pods = self.world.kubernetes.list("pods", RUNNER_NAMESPACE).len();
        let mut nothing = Vec::new();
        for replica in &self.replicas {
            let Some(daemon) = replica.acts() else { continue };
            for kept in (daemon.glance)().kept {
                let (what, count, name) = (kept.what, kept.count, replica.name);
                if (kept.of_runners && count > runners) || (kept.of_pods && count > pods) {
                    nothing.push(format!("in the memory of {name}: {count} {what} for {runners} runners"));
                }
            }
        }
        nothing
    }

    /// What can be seen of the daemons from outside.
    pub(super) fn look(&mut self) {
        let mut reasons = Vec::new();
        let pods = self.world.kubernetes.list("pods", RUNNER_NAMESPACE).len();
        let calm = self.judge.is_calm();
        // Where the keeper of the Lease panics, the process ends, and whoever started it starts it again.
        let panics = |timed: &Timed| matches!(&timed.fault, Fault::Panic { call, .. } if *call == LEASES);
        let ends_process = self.plan.faults.iter().any(panics);
        for replica in &mut self.replicas {
            let Some(daemon) = replica.acts() else { continue };
            let name = replica.name;
            if daemon.task.is_finished() {
                if ends_process {
                    replica.death = replica.death.take().or(Some(Death::by_itself(replica.skew)));
                } else {
                    self.judge.breach(Invariant::Alive, format!("{name} ended by itself"));
                }
                continue;
            }
            let glance = (daemon.glance)();
            if glance.heartbeat_age > HEARTBEAT {
                let what = format!("the loop of {name} has not moved for {:?}", glance.heartbeat_age);
                self.judge.breach(Invariant::Alive, what);
            }
            for (set, codes) in glance.reasons {
                self.judge.said(name, &set, &codes);
                reasons.extend(codes);
            }
            let count = |what: &str| {
                glance
                    .kept
                    .iter()
                    .find(|kept| kept.what == what)
                    .map_or(0, |kept| kept.count)
            };
            // Without a pod it may be registered still, as long as GitHub believes that it runs a job.
            let more = calm && {
                let runners = count("runners").saturating_sub(count("starts"));
                runners > pods && runners > self.judge.pods_and_registrations()
            };
            replica.keeps_more = replica.keeps_more.or_else(|| Some(Instant::now())).filter(|_| more);
            if replica.keeps_more.is_some_and(|since| since.elapsed() > FORGOTTEN) {
                let what = format!("{name} has kept runners without pods for {FORGOTTEN:?}");
                self.judge.breach(Invariant::Memory, what);
            }
            for kept in glance.kept {
                let most = self.outcome.kept.entry(kept.what).or_default();
                if kept.count > MOST_KEPT && *most <= MOST_KEPT {
                    let what = format!("{name} keeps {} {}", kept.count, kept.what);
                    self.judge.breach(Invariant::Memory, what);
                }
                *most = kept.count.max(*most);
            }
        }
        for reason in reasons {
            if self.outcome.reasons.insert(reason.clone()) {
                self.journal.say(|| format!("reason   {reason} for the first time"));
            }
        }
    }
}
