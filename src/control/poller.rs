//! The task of one scale set's queue: registers the set, holds its session, polls, acknowledges.
//!
//! It works while this replica leads, and waits while it does not. It decides nothing about runners: it tells the loop what it hears and announces the capacity that the loop
//! worked out. It never exits on an error; it says what is wrong and tries again, later and later. A message is
//! deleted only after the loop has taken it in: handle, then delete.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    SetSetup,
    course::{Course, RISE_FLOOR},
    event::{Event, QueueEvent},
    tenure::{Mandate, Tenure},
    timeline::Timeline,
    trouble,
};
use crate::{
    ids::SetName,
    lease::{News, SessionRef},
    plan::{Moment, Told, world},
    scaleset::{Acquired, Connection, Error, JobMessage, Message, Missing, Note, NoteKind, Session, Spec, ensure},
    telemetry::Metrics,
};

/// A session that somebody else holds is asked for again after a pause in these bounds.
const CONFLICT_PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// The same where it is known, and could not be closed yet.
const KNOWN_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(2));
/// A service that answers an empty poll at once must not make a hot loop.
const POLL_FLOOR: Duration = Duration::from_secs(1);
/// Between two questions for offers that found no capacity when they were made.
const OFFERS_EVERY: Duration = Duration::from_secs(1);
/// Offers are asked for this long after a poll began: what is acquired must be within a capacity that GitHub has
/// been told.
const OFFERS_AFTER: Duration = Duration::from_millis(100);
/// The loop answers within milliseconds; a loop that does not is stuck, and the process restarts.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// A queue that fails so often in a row is not heard: what was heard before may be long out of date, and no
/// runner is made on it.
const DEAF_AFTER: u32 = 2;

/// What the loop wants announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Announce {
    pub capacity: u32,
    /// Jobs that the set has already, as far as the loop knows.
    pub told: Told,
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
    /// The session that the last leader may have left open.
    pub(super) inherited: Option<SessionRef>,
    /// Something is wrong: until a session is open again its reason stands, whatever is being tried.
    pub(super) ailing: bool,
    /// GitHub has no such scale set any more.
    pub(super) gone: bool,
}

/// Set and id of the session that is open. What a task that panicked left open, its supervisor closes: it would
/// block the set for 60 to 92 s.
#[derive(Clone, Debug, Default)]
pub(super) struct Held(Arc<Mutex<Option<(i64, String)>>>);

impl Held {
    fn put(&self, session: Option<(i64, String)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = session;
    }

    pub(super) async fn close(self, connection: Arc<Connection>) {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((set, session)) = held else { return };
        let close = connection.close_session(set, &session);
        if let Ok(Err(error)) = tokio::time::timeout(CLOSE_DEADLINE, close).await {
            tracing::warn!(%error, "what a dead task left open is not closed");
        }
    }
}

/// The loop is gone: so is the reason to poll.
#[derive(Debug)]
struct LoopGone;

/// How a session came to its end.
enum End {
    Stopped,
    /// Open another one.
    Lost,
    /// Look the set up again.
    SetGone,
    /// The file has it elsewhere now.
    Moved,
    Gone(LoopGone),
}

/// What a turn waited for has come.
#[expect(clippy::large_enum_variant, reason = "one at a time, and never kept")]
enum Woken {
    Stopped,
    /// The file wants something else of the set.
    Wished,
    /// More capacity can be announced.
    Risen,
    /// It is time to ask for offers of before.
    Offers,
    /// The poll was answered; its copy of the session, renewed where it had to be.
    Polled((Result<Option<Message>, Error>, Session)),
}

/// A message, and the poll that it answered.
struct Heard {
    message: Message,
    /// It may have been delivered before.
    replayed: bool,
    began: Moment,
    /// What that poll announced.
    capacity: u32,
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
        let mut failures = 0;
        self.inherited = tenure.inherited(&self.set);
        while !self.stop.is_cancelled() {
            let result = self.serve().await;
            match result {
                Ok(End::Stopped | End::Gone(_)) => break,
                Ok(End::Lost | End::SetGone | End::Moved) => failures = 0,
                Err(error) => {
                    failures += 1;
                    if self.failed(&error, failures).await.is_err() {
                        break;
                    }
                }
            }
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
        self.spec.known_id = Some(id);
        let registered = QueueEvent::Registered {
            scale_set_id: id,
            notes: registered.notes,
        };
        if self.tell(registered).await.is_err() {
            return Ok(End::Stopped);
        }
        loop {
            match self.session(id).await? {
                End::Lost => tracing::warn!(set = %self.set, "the session is lost; opening another"),
                End::SetGone => {
                    tracing::warn!(set = %self.set, id, "the scale set is gone at GitHub; creating it again");
                    self.spec.known_id = None;
                    self.gone = true;
                    return Ok(End::SetGone);
                }
                end => return Ok(end),
            }
        }
    }

    /// One session, from opening to its end.
    async fn session(&mut self, set_id: i64) -> Result<End, Error> {
        let mut session = match self.open(set_id).await? {
            Ok(session) => session,
            Err(end) => return Ok(end),
        };
        self.held.put(Some((set_id, session.id.clone())));
        let known = SessionRef(set_id, session.id.clone());
        self.mandate.tell(News::Opened(self.set.clone(), known)).await;
        let end = self.poll_until_end(&mut session).await;
        // Whatever the end: a session left open blocks the set for 60 to 92 s.
        if !matches!(end, Ok(End::Lost)) {
            self.leave(&session).await;
        }
        self.held.put(None);
        end
    }

    async fn leave(&self, session: &Session) {
        if self.stop.is_cancelled() {
            self.close.cancelled().await;
        }
        let close = self.connection.close_session(session.set_id, &session.id);
        match tokio::time::timeout(CLOSE_DEADLINE, close).await {
            Ok(Ok(())) => {
                tracing::info!(set = %self.set, "session closed");
                let known = SessionRef(session.set_id, session.id.clone());
                self.mandate.tell(News::Closed(self.set.clone(), known)).await;
            }
            Ok(Err(error)) => tracing::warn!(set = %self.set, %error, "session not closed"),
            Err(_) => tracing::warn!(set = %self.set, "session not closed in time"),
        }
    }

    /// Opens the session, waiting for as long as somebody else holds it.
    async fn open(&mut self, set_id: i64) -> Result<Result<Session, End>, Error> {
        if let Err(gone) = self.progress(world::Session::Opening).await {
            return Ok(Err(gone.into()));
        }
        loop {
            self.close_inherited().await;
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(Err(End::Stopped)),
                () = self.mandate.opens() => {}
            }
            let began = self.timeline.now();
            let Some(opened) = self.open_or_undo(set_id).await else {
                return Ok(Err(End::Stopped));
            };
            match opened {
                Ok(session) => {
                    self.ailing = false;
                    let statistics = session.statistics;
                    if let Err(gone) = self
                        .ask(|done| QueueEvent::Opened {
                            statistics,
                            began,
                            done,
                        })
                        .await
                    {
                        // The process ends, and nobody else knows of this session.
                        self.leave(&session).await;
                        return Ok(Err(gone.into()));
                    }
                    return Ok(Ok(session));
                }
                Err(Error::Conflict { holder, details }) => {
                    let holder = holder.unwrap_or_else(|| "another listener".to_owned());
                    tracing::warn!(set = %self.set, holder, %details, "the scale set's session is taken; waiting");
                    self.metrics.session_conflict(self.set.as_str());
                    if let Err(gone) = self.tell(QueueEvent::Session(world::Session::Conflict(holder))).await {
                        return Ok(Err(gone.into()));
                    }
                    let pause = self.jitter(match self.inherited {
                        Some(_) => KNOWN_PAUSE,
                        None => CONFLICT_PAUSE,
                    });
                    if self.stopped_during(pause).await {
                        return Ok(Err(End::Stopped));
                    }
                    if self.wish.has_changed().unwrap_or(false) {
                        return Ok(Err(End::Moved));
                    }
                }
                Err(Error::NotFound {
                    what: Missing::ScaleSet,
                    ..
                }) => return Ok(Err(End::SetGone)),
                Err(error) => return Err(error),
            }
        }
    }

    /// The session that the last leader left open: it leads no more, and its session would block the set for 60 to
    /// 92 s.
    async fn close_inherited(&mut self) {
        let Some(SessionRef(set, session)) = self.inherited.clone() else {
            return;
        };
        if !self.mandate.fence.is_open() {
            return;
        }
        let close = self.connection.close_session(set, &session);
        match tokio::time::timeout(CLOSE_DEADLINE, close).await {
            Ok(Ok(())) => {
                tracing::info!(set = %self.set, "the session of the last leader is closed");
                self.inherited = None;
            }
            Ok(Err(error)) => {
                tracing::warn!(set = %self.set, %error, "the session of the last leader is not closed yet");
            }
            Err(_) => tracing::warn!(set = %self.set, "the session of the last leader is not closed in time"),
        }
    }

    /// Opens a session. `None`: told to stop meanwhile; what was opened all the same is closed.
    async fn open_or_undo(&self, set_id: i64) -> Option<Result<Session, Error>> {
        let mut opening = std::pin::pin!(self.connection.open_session(set_id, &self.owner));
        tokio::select! {
            biased;
            opened = &mut opening => return Some(opened),
            () = self.stop.cancelled() => {}
        }
        if let Ok(Ok(session)) = tokio::time::timeout(CLOSE_DEADLINE, opening).await {
            self.leave(&session).await;
        }
        None
    }

    async fn poll_until_end(&mut self, session: &mut Session) -> Result<End, Error> {
        let mut course = Course::new(self.timeline.clock().instant());
        loop {
            match self.turn(session, &mut course).await {
                Ok(Some(end)) => return Ok(end),
                Ok(None) => {}
                Err(error) if error.is_transient() => {
                    course.failures += 1;
                    let failures = course.failures;
                    tracing::warn!(set = %self.set, %error, failures, "the queue cannot be polled; trying again");
                    let pause = trouble::pause(&error, failures, &mut self.rng);
                    if failures >= DEAF_AFTER || error.retry_after().is_some() {
                        let failed = world::Session::Failed(trouble::reason(&error, self.timeline.now(), pause));
                        if let Err(gone) = self.tell(QueueEvent::Session(failed)).await {
                            return Ok(gone.into());
                        }
                    }
                    if self.stopped_during(pause).await {
                        return Ok(End::Stopped);
                    }
                }
                Err(error) => return judge(error),
            }
        }
    }

    /// One poll, or what interrupts it.
    async fn turn(&mut self, session: &mut Session, course: &mut Course) -> Result<Option<End>, Error> {
        let announce = *self.announce.borrow_and_update();
        let began = self.timeline.now();
        let begun = self.timeline.clock().instant();
        let ask_at = course.next_offers.max(self.timeline.clock().instant() + OFFERS_AFTER);
        let connection = self.connection.clone();
        let mut refreshed = false;
        let woken = {
            // On a copy, for statistics are fetched beside it: were the poll begun anew each time, one that hangs would
            // never come to its deadline.
            let (mut polling, after) = (session.clone(), course.last_message_id);
            let mut poll = std::pin::pin!(async move {
                let polled = connection.poll_renewing(&mut polling, after, announce.capacity).await;
                (polled, polling)
            });
            loop {
                let refresh_at = course.refreshed + announce.listen_every.unwrap_or_default();
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => break Woken::Stopped,
                    () = wished(&mut self.wish, course.rewrite) => break Woken::Wished,
                    () = risen(&mut self.announce, announce, course.last_rise + RISE_FLOOR) => break Woken::Risen,
                    () = tokio::time::sleep_until(ask_at), if course.has_offers(session, announce.told, announce.capacity) => {
                        break Woken::Offers;
                    }
                    answer = &mut poll => break Woken::Polled(answer),
                    () = tokio::time::sleep_until(refresh_at), if announce.listen_every.is_some() => {}
                }
                course.refreshed = self.timeline.clock().instant();
                // Both go on meanwhile: the one may hold what the other waits for (the admin connection, a token).
                let mut answer = None;
                {
                    let mut refresh = std::pin::pin!(self.refresh(session));
                    loop {
                        tokio::select! {
                            biased;
                            done = &mut refresh => break done?,
                            polled = &mut poll, if answer.is_none() => answer = Some(polled),
                        }
                    }
                }
                refreshed = true;
                course.read = course.refreshed;
                if let Some(answer) = answer {
                    break Woken::Polled(answer);
                }
                let fell = self.announce.borrow().capacity < announce.capacity;
                if fell && course.may_announce_less() {
                    return Ok(None);
                }
            }
        };
        // The poll is gone by now, and nothing waits for what it held.
        let (message, polling) = match woken {
            Woken::Stopped => return Ok(Some(End::Stopped)),
            Woken::Wished => return Ok(self.rewrite(session, course).await),
            Woken::Risen => {
                course.last_rise = self.timeline.clock().instant();
                return Ok(None);
            }
            Woken::Offers => {
                self.take_old_offers(session, course, announce.capacity).await?;
                return Ok(None);
            }
            Woken::Polled((polled, polling)) => (polled?, polling),
        };
        if !refreshed {
            *session = polling;
        }
        course.answered = self.timeline.clock().instant();
        if let Some(message) = message {
            let again = course.has_taken_in(&message);
            let replayed = again || course.may_have_come_before(begun);
            if !replayed {
                if message.statistics.is_some() {
                    session.statistics = message.statistics;
                    course.read = begun;
                }
            } else if !again {
                self.refresh_in(session, course).await?;
            }
            let heard = Heard {
                message,
                replayed,
                began,
                capacity: announce.capacity,
            };
            self.handle(session, course, heard).await?;
            return Ok(self.heard(course).await.err().map(End::from));
        }
        if let Err(gone) = self.heard(course).await {
            return Ok(Some(gone.into()));
        }
        // What comes next may have a lower id: GitHub's sequence can begin anew under a living session, and would be
        // skipped for ever. What was handled is deleted, so the cursor keeps nothing away that matters.
        course.last_message_id = None;
        if let Err(gone) = self.tell(QueueEvent::Polled).await {
            return Ok(Some(gone.into()));
        }
        let elapsed = self.timeline.now().since(began);
        let stopped = self.stopped_during(POLL_FLOOR.saturating_sub(elapsed)).await;
        Ok(stopped.then_some(End::Stopped))
    }

    /// Takes over what the file says now.
    fn heed_wish(&mut self) {
        let wish = self.wish.borrow_and_update().clone();
        let moved = wish.connection.config_url() != self.connection.config_url();
        let known_id = self.spec.known_id.filter(|_| !moved);
        self.spec = Spec { known_id, ..wish.spec };
        self.connection = wish.connection;
    }

    /// Makes the set at GitHub what the file says now, beside its open session: that is kept, also where GitHub does
    /// not take the change.
    async fn rewrite(&mut self, session: &Session, course: &mut Course) -> Option<End> {
        if self.wish.borrow().connection.config_url() != self.connection.config_url() {
            return Some(End::Moved);
        }
        self.heed_wish();
        let tries = course.rewrite.map_or(0, |(_, tries)| tries) + 1;
        let registered = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Some(End::Stopped),
            registered = ensure(&self.connection, &self.spec) => registered,
        };
        let notes = match registered {
            Ok(registered) if registered.scale_set.id != session.set_id => return Some(End::SetGone),
            Ok(registered) => {
                for change in &registered.changes {
                    tracing::info!(set = %self.set, change, "scale set at GitHub");
                }
                course.rewrite = None;
                registered.notes
            }
            Err(error) => {
                let pause = trouble::pause(&error, tries, &mut self.rng);
                tracing::warn!(set = %self.set, %error, "what the file says of the set is not at GitHub yet; trying again");
                course.rewrite = Some((self.timeline.clock().instant() + pause, tries));
                vec![Note::new(NoteKind::ChangeRefused, error.to_string())]
            }
        };
        let scale_set_id = session.set_id;
        let told = self.tell(QueueEvent::Registered { scale_set_id, notes }).await;
        told.err().map(End::from)
    }

    /// The queue answered, and the loop has taken it in.
    async fn heard(&self, course: &mut Course) -> Result<(), LoopGone> {
        if std::mem::take(&mut course.failures) > 0 {
            self.tell(QueueEvent::Session(world::Session::Polling)).await?;
        }
        Ok(())
    }

    async fn refresh_in(&mut self, session: &mut Session, course: &mut Course) -> Result<(), Error> {
        let began = self.timeline.clock().instant();
        self.refresh(session).await?;
        course.read = began;
        Ok(())
    }

    async fn refresh(&mut self, session: &mut Session) -> Result<(), Error> {
        let began = self.timeline.now();
        *session = self.connection.refresh_session(session).await?;
        // A loop that is gone shows itself at the next poll.
        if let Some(statistics) = session.statistics {
            let _ = self.tell(QueueEvent::Statistics { statistics, began }).await;
        }
        Ok(())
    }

    /// Takes a message in, acquires what it offers, then deletes it.
    async fn handle(&mut self, session: &mut Session, course: &mut Course, heard: Heard) -> Result<(), Error> {
        let Heard {
            message,
            replayed,
            began,
            capacity,
        } = heard;
        for entry in &message.undecodable {
            self.metrics.undecodable_message(self.set.as_str());
            tracing::warn!(set = %self.set, message = message.id, entry, "an entry of a message cannot be read; the others are handled");
        }
        let id = message.id;
        course.offers |= message.entries.iter().any(|e| matches!(e, JobMessage::Available(_)));
        let offers = offers(&message.entries);
        let others = message.entries.iter().filter(|e| !matches!(e, JobMessage::Assigned(_)));
        let not_waiting: Vec<i64> = others.filter_map(|e| Some(e.job()?.runner_request_id)).collect();
        let again = course.has_taken_in(&message);
        let told = if again {
            self.tell(QueueEvent::Polled).await
        } else {
            let event = |done| QueueEvent::Message {
                message,
                replayed,
                began,
                done,
            };
            self.ask(event).await
        };
        if told.is_err() {
            // Not deleted: the next session gets it again.
            return Ok(());
        }
        course.taken_in = Some(id);
        if !again {
            // What it offers may have been acquired since it first came.
            course.wait_no_more(not_waiting.into_iter());
        }
        self.acquire(session, course, &offers, capacity).await?;
        self.connection.delete_message_renewing(session, id).await?;
        course.taken_in = None;
        course.last_message_id = Some(id);
        Ok(())
    }

    /// Acquires offers that were made to a dead session, or when there was no capacity for them.
    async fn take_old_offers(
        &mut self,
        session: &mut Session,
        course: &mut Course,
        capacity: u32,
    ) -> Result<(), Error> {
        course.next_offers = self.timeline.clock().instant() + OFFERS_EVERY;
        let jobs = self.connection.acquirable_jobs(session.set_id).await?;
        let ids: Vec<i64> = jobs
            .iter()
            .map(|job| job.runner_request_id)
            .filter(|id| *id > 0)
            .collect();
        course.offers = !ids.is_empty();
        course.wait_no_more(ids.iter().copied());
        self.acquire(session, course, &ids, capacity).await
    }

    /// Acquires within capacity.
    async fn acquire(
        &mut self,
        session: &mut Session,
        course: &mut Course,
        offers: &[i64],
        capacity: u32,
    ) -> Result<(), Error> {
        let now = self.timeline.clock().instant();
        let jobs = course.jobs(session, self.announce.borrow().told, offers);
        let room = i64::from(capacity).saturating_sub(jobs);
        let new = offers.iter().copied().filter(|offer| !course.has_acquired(*offer));
        let wanted: Vec<i64> = new.take(usize::try_from(room).unwrap_or(0)).collect();
        let wanted = &wanted[..];
        if wanted.is_empty() {
            return Ok(());
        }
        // Should the answer get lost, or the refresh after it fail, what was asked for counts for a while all the same.
        course.acquires(now, wanted);
        let answer = self.connection.acquire_jobs_renewing(session, wanted).await;
        if answer.as_ref().is_err_and(|error| !error.outcome_unknown()) {
            course.acquired(wanted, &[]);
        }
        match answer? {
            Acquired::Jobs(got) => {
                course.acquired(wanted, &got);
                tracing::debug!(set = %self.set, asked = wanted.len(), got = got.len(), "jobs acquired");
                // What was acquired is demand at once; the next message may be a while.
                self.refresh_in(session, course).await
            }
            Acquired::SelfAssigning => {
                course.acquired(wanted, &[]);
                Ok(())
            }
        }
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

/// Resolves when the capacity to announce has risen above what the running poll said, not before `earliest`;
/// also when close listening begins, since the running poll waits for something else.
async fn risen(announce: &mut watch::Receiver<Announce>, said: Announce, earliest: tokio::time::Instant) {
    let closer =
        |now: Option<Duration>, said: Option<Duration>| now.is_some_and(|now| said.is_none_or(|said| now < said));
    let more = |now: &Announce| now.capacity > said.capacity || closer(now.listen_every, said.listen_every);
    if announce.wait_for(more).await.is_err() {
        // The loop is gone; the stop token speaks next.
        std::future::pending::<()>().await;
    }
    tokio::time::sleep_until(earliest).await;
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

/// What an error that repeating cannot cure means for the session.
fn judge(error: Error) -> Result<End, Error> {
    match error {
        Error::SessionLost(_) | Error::QueueTokenRefused(_) | Error::Conflict { .. } => Ok(End::Lost),
        Error::NotFound {
            what: Missing::ScaleSet,
            ..
        } => Ok(End::SetGone),
        error => Err(error),
    }
}

/// Request ids on offer, each once.
fn offers(entries: &[JobMessage]) -> Vec<i64> {
    let mut ids: Vec<i64> = entries
        .iter()
        .filter_map(|entry| match entry {
            JobMessage::Available(job) => Some(job.runner_request_id),
            _ => None,
        })
        .filter(|id| *id > 0)
        .collect();
    ids.dedup();
    ids
}
