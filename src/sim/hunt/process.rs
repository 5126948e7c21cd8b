//! The daemon's process during a run: its starts, its deaths, and what can be seen of it from outside.

use std::{
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
    plan::{Fault, Moment},
    run::{ORDERLY_END, Run, TICK},
    subject::{Glance, Launch},
};
use crate::sim::{
    cable::{Cable, Kill, Spoilt},
    world::RUNNER_NAMESPACE,
};

/// The loop beats every few seconds.
const HEARTBEAT: Duration = Duration::from_secs(60);
/// A kill that waits for a call which the daemon does not make happens after so long by itself.
const KILL_PATIENCE: Duration = Duration::from_secs(20);

/// A daemon at work, or what is left of it.
pub(super) struct Daemon {
    cable: Cable,
    stop: CancellationToken,
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

impl Run<'_> {
    pub(super) fn start(&mut self) {
        let (cable, stop) = (Cable::default(), CancellationToken::new());
        cable.look_on(Arc::new(Eye::of(&self.judge)));
        let transport = self.world.services.transport();
        let launch = Launch {
            file: self.file,
            github: cable.transport(transport.clone()),
            gharts: cable.transport(transport),
            kubernetes: cable.client(&self.world.daemon_client(), RUNNER_NAMESPACE),
            clock: self.world.clock.ahead(self.skew),
            seed: self.plan.seed.wrapping_add(7919 * self.lives),
            // The same in each life: it takes its own Lease back at once.
            identity: "daemon".to_owned(),
            stop: stop.clone(),
        };
        self.journal
            .say(|| format!("process  started, its clock {} s ahead", self.skew));
        self.lives += 1;
        match self.subject.launch(launch) {
            Ok(life) => {
                self.daemon = Some(Daemon {
                    task: self.tasks.spawn("daemon", cable.counted(life.serve)),
                    glance: life.glance,
                    says: life.says,
                    cable,
                    stop,
                });
            }
            Err(error) => self
                .judge
                .breach(Invariant::Alive, format!("the daemon does not start: {error}")),
        }
    }

    pub(super) fn order_death(&mut self, fault: &Fault, down: Duration) {
        let (Some(daemon), None) = (&self.daemon, &self.death) else {
            return;
        };
        let skew = match fault {
            Fault::Killed { moment, count } => {
                daemon.cable.cut_after(match moment {
                    Moment::BeforeCall => Kill::Before { call: *count },
                    Moment::AfterCall => Kill::After { call: *count },
                    Moment::AtStep => Kill::AtStep { step: *count },
                });
                self.skew
            }
            Fault::Restarted { skew_seconds } => {
                daemon.stop.cancel();
                *skew_seconds
            }
            _ => return,
        };
        let patience = if matches!(fault, Fault::Restarted { .. }) {
            ORDERLY_END
        } else {
            KILL_PATIENCE
        };
        self.death = Some(Death {
            at_the_latest: Instant::now() + patience,
            down,
            skew,
            reborn: None,
        });
    }

    /// From now on, so often, whatever sends such a call panics.
    pub(super) fn make_panic(&self, call: &str, times: u32) {
        let Some(daemon) = &self.daemon else { return };
        let (call, left) = (call.to_owned(), AtomicU32::new(times));
        daemon.cable.spoil(Arc::new(move |request| {
            let line = format!("{} {}", request.method(), request.uri().path());
            let take = |left: u32| left.checked_sub(1);
            let panics = line.contains(&call) && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
            panics.then_some(Spoilt::Panics)
        }));
    }

    /// SIGKILL: no call of this daemon's is answered any more, nor any other made.
    pub(super) fn kill(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.cable.cut();
            // What is left of it in this process has nobody to talk to, and ends.
            daemon.stop.cancel();
            self.bury(&daemon);
        }
    }

    fn bury(&mut self, daemon: &Daemon) {
        daemon.cable.cut();
        self.said.push_str(&(daemon.says)());
        self.secrets.extend(daemon.cable.secrets());
    }

    /// Brings an ordered death about, and the next life.
    pub(super) async fn pass_death(&mut self) {
        let Some(death) = &mut self.death else { return };
        let now = Instant::now();
        match death.reborn {
            None => {
                let Some(daemon) = &mut self.daemon else { return };
                let stopping = daemon.stop.is_cancelled();
                if !daemon.cable.is_cut() && !daemon.task.is_finished() && now < death.at_the_latest {
                    return;
                }
                death.reborn = Some(now + death.down);
                self.skew = death.skew;
                if stopping {
                    self.see_off().await;
                } else {
                    self.journal.say(|| "process  killed".to_owned());
                    self.kill();
                }
            }
            Some(at) if at <= now => {
                self.death = None;
                self.start();
            }
            Some(_) => {}
        }
    }

    /// SIGTERM, and the wait for the daemon's end.
    pub(super) async fn stop(&mut self) {
        let Some(daemon) = &self.daemon else { return };
        self.journal.say(|| "process  told to end".to_owned());
        daemon.stop.cancel();
        let told = Instant::now();
        while !daemon.task.is_finished() && told.elapsed() < ORDERLY_END {
            let reasons = (daemon.glance)().reasons;
            self.outcome.reasons.extend(reasons);
            tokio::time::sleep(TICK).await;
        }
        self.see_off().await;
    }

    /// Says how a daemon that was told to end in good time has ended.
    async fn see_off(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        let ended = tokio::time::timeout(Duration::from_secs(1), &mut daemon.task).await;
        match ended {
            Ok(Ok(Ok(()))) => self.journal.say(|| "process  ended in order".to_owned()),
            Ok(Ok(Err(error))) => self.judge.breach(Invariant::OrderlyEnd, error),
            Ok(Err(error)) => self.judge.breach(Invariant::OrderlyEnd, error.to_string()),
            Err(_) => {
                let what = format!("not ended {ORDERLY_END:?} after it was told to");
                self.judge.breach(Invariant::OrderlyEnd, what);
            }
        }
        self.bury(&daemon);
    }

    /// What can be seen of the daemon from outside.
    pub(super) fn look(&mut self) {
        let Some(daemon) = &self.daemon else { return };
        if daemon.cable.is_cut() || daemon.stop.is_cancelled() {
            return;
        }
        if daemon.task.is_finished() {
            self.judge
                .breach(Invariant::Alive, "the daemon ended by itself".to_owned());
            return;
        }
        let glance = (daemon.glance)();
        if glance.heartbeat_age > HEARTBEAT {
            let what = format!("its loop has not moved for {:?}", glance.heartbeat_age);
            self.judge.breach(Invariant::Alive, what);
        }
        for set in glance.silent {
            self.judge.breach(Invariant::Reasons, format!("{set} gives no reason"));
        }
        self.note_reasons(glance.reasons);
    }

    fn note_reasons(&mut self, reasons: Vec<String>) {
        for reason in reasons {
            if self.outcome.reasons.insert(reason.clone()) {
                self.journal.say(|| format!("reason   {reason} for the first time"));
            }
        }
    }
}
