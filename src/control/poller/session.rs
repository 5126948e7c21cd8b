//! A session: opened as soon as nobody else holds it, closed whatever its end.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{End, Poller};
use crate::{
    control::event::QueueEvent,
    lease::{News, SessionRef},
    plan::world,
    scaleset::{Connection, Error, Missing, ScaleSet, Session},
};

/// A session that somebody else holds is asked for again after a pause in these bounds.
const CONFLICT_PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));
/// The same for as long as it may be one that a dead process of ours has left open: GitHub ends it within 92 s.
const LEFT_OPEN: Duration = Duration::from_secs(100);
const LEFT_OPEN_PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(5));
/// The same where it is known, and could not be closed yet.
const KNOWN_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3));
/// The loop answers within milliseconds; a loop that does not is stuck, and the process restarts.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// Set and id of the session that is open. What a task that panicked left open, its supervisor closes: it would
/// block the set for 60 to 92 s.
#[derive(Clone, Debug, Default)]
pub(in crate::control) struct Held(Arc<Mutex<Option<(i64, String)>>>);

impl Held {
    fn put(&self, session: Option<(i64, String)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = session;
    }

    pub(in crate::control) async fn close(self, connection: Arc<Connection>) {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((set, session)) = held else { return };
        let close = connection.close_session(set, &session);
        if let Ok(Err(error)) = tokio::time::timeout(CLOSE_DEADLINE, close).await {
            tracing::warn!(%error, "what a dead task left open is not closed");
        }
    }
}

impl Poller {
    /// One session, from opening to its end.
    pub(super) async fn session(&mut self, set_id: i64) -> Result<End, Error> {
        let mut session = match self.open(set_id).await? {
            Ok(session) => session,
            Err(end) => return Ok(end),
        };
        self.held.put(Some((set_id, session.id.clone())));
        let known = SessionRef(set_id, session.id.clone());
        self.mandate.tell(News::Opened(self.set.clone(), known)).await;
        let end = self.poll_until_end(&mut session).await;
        // Whatever the end: a session left open blocks the set for 60 to 92 s, also one that something in between called lost.
        if !self.leave(&session).await {
            self.inherited = Some(SessionRef(set_id, session.id.clone()));
        }
        self.held.put(None);
        end
    }

    /// Opens the session, waiting for as long as somebody else holds it.
    async fn open(&mut self, set_id: i64) -> Result<Result<Session, End>, Error> {
        if let Err(gone) = self.progress(world::Session::Opening).await {
            return Ok(Err(gone.into()));
        }
        let asked = self.timeline.now();
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
                    if let Some(error) = session.scale_set.as_ref().and_then(|set| self.anothers(set)) {
                        self.leave(&session).await;
                        return Ok(Err(End::SetGone(Some(error))));
                    }
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
                        Some(_) if self.timeline.now().since(asked) < LEFT_OPEN => KNOWN_PAUSE,
                        None if self.timeline.now().since(asked) < LEFT_OPEN => LEFT_OPEN_PAUSE,
                        _ => CONFLICT_PAUSE,
                    });
                    if self.stopped_during(pause).await {
                        return Ok(Err(End::Stopped));
                    }
                    let in_vain = self.timeline.now().since(asked) >= LEFT_OPEN;
                    if in_vain
                        && let Ok(set) = self.connection.scale_set_by_id(set_id).await
                        && let Some(error) = self.anothers(&set)
                    {
                        return Ok(Err(End::SetGone(Some(error))));
                    }
                    if self.wish.has_changed().unwrap_or(false) {
                        return Ok(Err(End::Moved));
                    }
                }
                Err(
                    error @ Error::NotFound {
                        what: Missing::ScaleSet,
                        ..
                    },
                ) => return Ok(Err(End::SetGone(Some(error)))),
                Err(error) => return Err(error),
            }
        }
    }

    /// Ids may begin anew under one address (a restored server): then ours is another set's.
    fn anothers(&self, set: &ScaleSet) -> Option<Error> {
        let is_ours = set.name.is_empty() || set.name.eq_ignore_ascii_case(&self.spec.name);
        (!is_ours).then(|| Error::set_is_anothers(set.id, &set.name))
    }

    /// The session that the last leader left open, or that we could not close: it would block the set for 60 to 92 s.
    pub(super) async fn close_inherited(&mut self) {
        let Some(known) = self.inherited.clone() else {
            return;
        };
        if self.mandate.fence.is_open() && self.close_known(known).await {
            self.inherited = None;
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

    /// Whether it is closed.
    async fn leave(&self, session: &Session) -> bool {
        if self.stop.is_cancelled() {
            self.close.cancelled().await;
        }
        self.close_known(SessionRef(session.set_id, session.id.clone())).await
    }

    async fn close_known(&self, known: SessionRef) -> bool {
        let SessionRef(set_id, id) = &known;
        let close = self.connection.close_session(*set_id, id);
        match tokio::time::timeout(CLOSE_DEADLINE, close).await {
            Ok(Ok(())) => {
                tracing::info!(set = %self.set, "session closed");
                self.mandate.tell(News::Closed(self.set.clone(), known)).await;
                return true;
            }
            Ok(Err(error)) => tracing::warn!(set = %self.set, %error, "session not closed"),
            Err(_) => tracing::warn!(set = %self.set, "session not closed in time"),
        }
        false
    }
}
