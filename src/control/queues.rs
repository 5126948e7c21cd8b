//! The queues' tasks: one for each scale set, started again when it panics, and ended alone when its set goes.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    event::{Event, QueueEvent},
    execute::Parts,
    poller::{Announce, Held, Poller, Wish},
};
use crate::{
    ids::SetName,
    plan::{
        reason::{Code, Reason},
        world::Session,
    },
    shutdown::Tasks,
};

/// A panicking queue task starts again after this, and later and later within these bounds while it goes on.
const REVIVE_AFTER: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(1));

/// Starts and ends them. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Queues {
    pub(super) tasks: Tasks,
    /// No more polls.
    pub(super) stop: CancellationToken,
    /// Close the sessions, too.
    pub(super) close: CancellationToken,
    pub(super) owner: String,
    pub(super) parts: Arc<Parts>,
}

/// The loop's end of one queue's task.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) announce: watch::Sender<Announce>,
    pub(super) wish: watch::Sender<Wish>,
    stop: CancellationToken,
    close: CancellationToken,
    task: JoinHandle<()>,
}

impl Queue {
    /// No more polls, and the session is closed.
    pub(super) fn end(&self) {
        self.stop.cancel();
        self.close.cancel();
    }

    pub(super) fn is_over(&self) -> bool {
        self.task.is_finished()
    }
}

/// What a queue's task is made of, each time it is started.
#[derive(Debug)]
struct Seed {
    set: SetName,
    wish: watch::Receiver<Wish>,
    announce: watch::Receiver<Announce>,
    rng: u64,
    stop: CancellationToken,
    close: CancellationToken,
    /// The set's queue of before, which may hold its session still.
    before: Option<JoinHandle<()>>,
}

impl Queues {
    /// Starts one set's queue task and keeps it running: a panic in it ends nobody else's work. It begins when the
    /// one `before` has ended.
    pub(super) fn begin(&self, set: &SetName, wish: Wish, rng: u64, before: Option<Queue>) -> Queue {
        let (announce, announced) = watch::channel(Announce::default());
        let (wish_in, wish) = watch::channel(wish);
        let (stop, close) = (self.stop.child_token(), self.close.child_token());
        let seed = Seed {
            set: set.clone(),
            wish,
            announce: announced,
            rng,
            stop: stop.clone(),
            close: close.clone(),
            before: before.map(|queue| queue.task),
        };
        let (parts, owner, inner) = (self.parts.clone(), self.owner.clone(), self.tasks.clone());
        let task = self.tasks.spawn("queue", seed.supervise(parts, owner, inner));
        Queue {
            announce,
            wish: wish_in,
            stop,
            close,
            task,
        }
    }
}

impl Seed {
    async fn supervise(mut self, parts: Arc<Parts>, owner: String, tasks: Tasks) {
        if let Some(before) = self.before.take() {
            // However it ended.
            let _ = before.await;
        }
        let mut pause = Duration::ZERO;
        let held = Held::default();
        for round in 0_u64.. {
            let poller = self.poller(&parts, &owner, &held, round);
            let began = parts.timeline.now();
            let Err(error) = tasks.spawn("poller", poller.run()).await else {
                return;
            };
            tracing::error!(set = %self.set, %error, "the queue's task died; starting it again");
            // In a task of its own: what made the one panic may do the same to this.
            let connection = self.wish.borrow().connection.clone();
            let _ = tasks.spawn("close", held.clone().close(connection)).await;
            let reason = Reason::new(Code::SetFailed, format!("the queue's task died: {error}"));
            let died = QueueEvent::Session(Session::Failed(reason));
            if parts.events.send(Event::Queue(self.set.clone(), died)).await.is_err() {
                return;
            }
            let lived = parts.timeline.now().since(began);
            pause = match pause {
                _ if lived >= REVIVE_AFTER.1 => REVIVE_AFTER.0,
                pause if pause.is_zero() => REVIVE_AFTER.0,
                pause => (pause * 2).min(REVIVE_AFTER.1),
            };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn poller(&self, parts: &Parts, owner: &str, held: &Held, round: u64) -> Poller {
        let wish = self.wish.borrow().clone();
        Poller {
            set: self.set.clone(),
            spec: wish.spec,
            connection: wish.connection,
            wish: self.wish.clone(),
            owner: owner.to_owned(),
            events: parts.events.clone(),
            announce: self.announce.clone(),
            timeline: parts.timeline.clone(),
            metrics: parts.metrics.clone(),
            rng: fastrand::Rng::with_seed(self.rng.wrapping_add(round)),
            stop: self.stop.clone(),
            close: self.close.clone(),
            held: held.clone(),
            mandate: parts.mandate.clone(),
            inherited: None,
            // What the dead one said of its end stands until this one does better.
            ailing: round > 0,
            gone: false,
        }
    }
}
