//! The task of one scale set's queue: registers the set, holds its session, polls, acknowledges.
//!
//! It works while this replica leads, and waits while it does not. It decides nothing about runners: it tells the loop
//! what it hears and announces the capacity that the loop worked out. It never exits on an error; it says what is wrong
//! and tries again, later and later. A message is deleted only after the loop has taken it in: handle, then delete.
//!
//! Here it registers its set; [`session`] opens and closes, [`turn`] polls, [`messages`] takes in and acquires what [`asking`]
//! says, [`course`] is what one session's polling remembers.

mod asking;
mod course;
mod messages;
mod session;
mod turn;

pub(super) use session::Held;

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    SetSetup,
    event::{Event, QueueEvent},
    tenure::{Mandate, Tenure},
    timeline::Timeline,
    trouble,
};
use crate::{
    ids::SetName,
    lease::SessionRef,
    plan::{Told, world},
    scaleset::{Connection, Error, Spec, ensure},
    telemetry::Metrics,
};

/// Sessions that are lost within so long, one after the other, are opened ever more rarely.
const SHORT_LIFE: Duration = Duration::from_secs(30);

/// What the loop wants announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Announce {
    pub capacity: u32,
    /// Jobs that the set has already, as far as the loop knows.
    pub told: Told,
    /// `None`: the loop has not planned yet.
    pub listen_every: Option<Duration>,
}

/// What the file says of the set at GitHub, and how it is reached.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) spec: Spec,
    pub(super) connection: Arc<Connection>,
}

impl Wish {
    pub(super) fn of(set: &SetSetup) -> Self {
        Self {
            spec: set.spec.clone(),
            connection: set.parts.connection.clone(),
        }
    }
}

impl PartialEq for Wish {
    fn eq(&self, other: &Self) -> bool {
        self.spec == other.spec && Arc::ptr_eq(&self.connection, &other.connection)
    }
}

/// Everything one queue's task needs.
#[derive(Debug)]
pub(super) struct Poller {
    pub(super) set: SetName,
    pub(super) spec: Spec,
    pub(super) owner: String,
    pub(super) connection: Arc<Connection>,
    /// As the file has it; a change interrupts whatever is waited for.
    pub(super) wish: watch::Receiver<Wish>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) announce: watch::Receiver<Announce>,
    pub(super) timeline: Timeline,
    pub(super) metrics: Metrics,
    pub(super) rng: fastrand::Rng,
    /// No more polls.
    pub(super) stop: CancellationToken,
    /// Close the session, too.
    pub(super) close: CancellationToken,
    /// Outlives this task, should it panic.
    pub(super) held: Held,
    pub(super) mandate: Mandate,
    /// A session that the last leader may have left open, or one that could not be closed.
    pub(super) inherited: Option<SessionRef>,
    /// Something is wrong: until a session is open again its reason stands, whatever is being tried.
    pub(super) ailing: bool,
    /// GitHub has no such scale set any more.
    pub(super) gone: bool,
}

/// The loop is gone: so is the reason to poll.
#[derive(Debug)]
struct LoopGone;

/// How a session came to its end.
enum End {
    Stopped,
    /// Open another one.
    Lost {
        error: Error,
        lived: Duration,
    },
    /// Look the set up again. What GitHub says, where it says so.
    SetGone(Option<Error>),
    /// The file has it elsewhere now.
    Moved,
    Gone(LoopGone),
}

impl From<LoopGone> for End {
    fn from(gone: LoopGone) -> Self {
        Self::Gone(gone)
    }
}

impl Poller {
    /// Until `close`: serves the set in each tenure.
    pub(super) async fn run(mut self) {
        let (stop, close) = (self.stop.clone(), self.close.clone());
        loop {
            let tenure = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                tenure = self.mandate.begun() => tenure,
            };
            let Some(tenure) = tenure else { return };
            // Its end is a stop, and nothing is waited for: another replica wants the session.
            self.stop = stop.child_token();
            self.close = close.child_token();
            let ends = [self.stop.clone(), self.close.clone()];
            let over = async {
                tenure.over.cancelled().await;
                ends.iter().for_each(CancellationToken::cancel);
                std::future::pending::<()>().await;
            };
            tokio::select! {
                biased;
                () = over => {}
                () = self.run_in(&tenure) => {}
            }
            if self.events.is_closed() {
                return;
            }
        }
    }

    async fn run_in(&mut self, tenure: &Tenure) {
        let (mut failures, mut gone) = (0, 0);
        self.inherited = tenure.inherited(&self.set);
        let github = self.wish.borrow().connection.config_url().url.to_string();
        self.spec.inherited_id = tenure.known_id(&self.set, &github);
        if self.spec.inherited_id.is_some() {
            // Whoever led meanwhile knows better.
            self.spec.known_id = None;
        }
        while !self.stop.is_cancelled() {
            let began = self.timeline.clock().instant();
            let result = self.serve().await;
            match result {
                Ok(End::Stopped | End::Gone(_)) => break,
                Ok(End::SetGone(error)) => {
                    // It may be there, and only its sessions not to be had.
                    let short = self.timeline.clock().instant() - began < SHORT_LIFE;
                    (failures, gone) = (0, if short { gone + 1 } else { 0 });
                    if let Some(error) = error.filter(|_| gone > 1)
                        && self.rests_after_loss(&error, gone - 1).await
                    {
                        break;
                    }
                }
                Ok(End::Lost { .. } | End::Moved) => (failures, gone) = (0, 0),
                Err(error) => {
                    (failures, gone) = (failures + 1, 0);
                    if self.failed(&error, failures).await.is_err() {
                        break;
                    }
                }
            }
        }
        if self.inherited.is_some() {
            self.close.cancelled().await;
            self.close_inherited().await;
        }
    }

    /// Registers the set and serves sessions until something is wrong with the set itself.
    async fn serve(&mut self) -> Result<End, Error> {
        self.heed_wish();
        if let Err(gone) = self.progress(world::Session::Registering).await {
            return Ok(gone.into());
        }
        let registered = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(End::Stopped),
            registered = ensure(&self.connection, &self.spec) => registered?,
        };
        for change in &registered.changes {
            tracing::info!(set = %self.set, change, "scale set at GitHub");
        }
        let id = registered.scale_set.id;
        if registered.created && std::mem::take(&mut self.gone) {
            self.metrics.set_recreated(self.set.as_str());
        }
        if self.spec.known_id.is_some_and(|known| known != id) || registered.created {
            tracing::info!(set = %self.set, id, created = registered.created, "scale set registered");
        }
        (self.spec.known_id, self.spec.inherited_id) = (Some(id), None);
        let registered = QueueEvent::Registered {
            scale_set_id: id,
            notes: registered.notes,
        };
        if self.tell(registered).await.is_err() {
            return Ok(End::Stopped);
        }
        let mut lost = 0;
        loop {
            match self.session(id).await? {
                End::Lost { error, lived } => {
                    tracing::warn!(set = %self.set, %error, "the session is lost; opening another");
                    lost = if lived < SHORT_LIFE { lost + 1 } else { 0 };
                    if lost > 1 && self.rests_after_loss(&error, lost - 1).await {
                        return Ok(End::Stopped);
                    }
                }
                End::SetGone(error) => {
                    tracing::warn!(set = %self.set, id, "the scale set is gone at GitHub; creating it again");
                    self.spec.known_id = None;
                    self.gone = true;
                    return Ok(End::SetGone(error));
                }
                end => return Ok(end),
            }
        }
    }

    /// Sessions are opened and lost again at once, or not to be had. True when told to stop meanwhile.
    async fn rests_after_loss(&mut self, error: &Error, losses: u32) -> bool {
        let pause = trouble::passing(losses, &mut self.rng);
        let reason = trouble::reason(error, self.timeline.now(), pause);
        self.ailing = true;
        if self
            .tell(QueueEvent::Session(world::Session::Failed(reason)))
            .await
            .is_err()
        {
            return true;
        }
        tokio::select! {
            biased;
            () = self.stop.cancelled() => true,
            // It may have been looked for in the wrong place.
            () = wished(&mut self.wish, None) => false,
            () = tokio::time::sleep(pause) => false,
        }
    }

    /// Takes over what the file says now.
    fn heed_wish(&mut self) {
        let wish = self.wish.borrow_and_update().clone();
        let moved = wish.connection.config_url() != self.connection.config_url();
        self.spec = Spec {
            known_id: self.spec.known_id.filter(|_| !moved),
            inherited_id: self.spec.inherited_id,
            ..wish.spec
        };
        self.connection = wish.connection;
    }

    /// Says what is wrong and waits.
    async fn failed(&mut self, error: &Error, failures: u32) -> Result<(), LoopGone> {
        let pause = trouble::pause(error, failures, &mut self.rng);
        let reason = trouble::reason(error, self.timeline.now(), pause);
        let code = reason.code.as_str();
        // Hundreds of sets behind one credential fail together, and the status tells it of each of them.
        if failures == 1 {
            tracing::warn!(set = %self.set, %error, code, "the scale set cannot be served; trying again");
        } else {
            tracing::debug!(set = %self.set, %error, code, failures, "the scale set cannot be served yet");
        }
        self.ailing = true;
        self.tell(QueueEvent::Session(world::Session::Failed(reason))).await?;
        tokio::select! {
            biased;
            // What the file says now may be what was missing.
            () = wished(&mut self.wish, None) => {}
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
        Ok(())
    }

    fn jitter(&mut self, (least, most): (Duration, Duration)) -> Duration {
        least + most.saturating_sub(least).mul_f64(self.rng.f64())
    }

    /// True when told to stop meanwhile.
    async fn stopped_during(&self, pause: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => true,
            () = tokio::time::sleep(pause) => false,
        }
    }

    /// Says how far it has come, unless something that is wrong says more.
    async fn progress(&self, session: world::Session) -> Result<(), LoopGone> {
        if self.ailing {
            return Ok(());
        }
        self.tell(QueueEvent::Session(session)).await
    }

    async fn tell(&self, event: QueueEvent) -> Result<(), LoopGone> {
        let event = Event::Queue(self.set.clone(), event);
        self.events.send(event).await.map_err(|_| LoopGone)
    }

    /// Tells, and waits until the loop has acted on it.
    async fn ask(&self, event: impl FnOnce(oneshot::Sender<()>) -> QueueEvent) -> Result<(), LoopGone> {
        let (done, taken_in) = oneshot::channel();
        self.tell(event(done)).await?;
        taken_in.await.map_err(|_| LoopGone)
    }
}

/// Resolves when the file says something else of the set, or when it is time to tell GitHub once more.
async fn wished(wish: &mut watch::Receiver<Wish>, again: Option<(tokio::time::Instant, u32)>) {
    let again = async {
        match again {
            Some((at, _)) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        changed = wish.changed() => if changed.is_err() {
            // The loop is gone; the stop token speaks next.
            std::future::pending::<()>().await;
        },
        () = again => {}
    }
}
