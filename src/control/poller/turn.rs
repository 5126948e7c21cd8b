//! One session's polls, one after the other, and what interrupts them.

use std::time::Duration;

use tokio::sync::watch;

use super::{Announce, End, LoopGone, Poller, course::Course, messages::Heard, wished};
use crate::{
    control::{event::QueueEvent, trouble},
    plan::{Moment, world},
    scaleset::{Error, Message, Missing, Note, NoteKind, Session, ensure},
};

/// A service that answers an empty poll at once must not make a hot loop.
const POLL_FLOOR: Duration = Duration::from_secs(1);
/// Offers are asked for this long after a poll began: what is acquired must be within a capacity that GitHub has
/// been told.
const OFFERS_AFTER: Duration = Duration::from_millis(100);
/// A queue that fails so often in a row is not heard: what was heard before may be long out of date, and no
/// runner is made on it.
const DEAF_AFTER: u32 = 2;

/// The session tells where its queue is. After so many failures in a row it is asked again: the queue may have moved.
const ASK_ANEW_AFTER: u32 = 5;

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

impl Poller {
    pub(super) async fn poll_until_end(&mut self, session: &mut Session) -> Result<End, Error> {
        let mut course = Course::new(self.timeline.clock().instant());
        let opened = course.answered;
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
                    if failures.is_multiple_of(ASK_ANEW_AFTER)
                        && let Err(error) = self.refresh(session, &mut course).await
                        && !error.is_transient()
                    {
                        return judge(error, self.timeline.clock().instant() - opened);
                    }
                }
                Err(error) => return judge(error, self.timeline.clock().instant() - opened),
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
                let rise_at = course.may_announce_more(begun, session, announce.capacity);
                let refresh_at = course.refreshed + announce.listen_every.unwrap_or_default();
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => break Woken::Stopped,
                    () = wished(&mut self.wish, course.rewrite) => break Woken::Wished,
                    () = risen(&mut self.announce, announce, rise_at) => break Woken::Risen,
                    () = tokio::time::sleep_until(ask_at), if course.has_offers(begun, session, announce.told, announce.capacity) => {
                        break Woken::Offers;
                    }
                    // Also where polls are answered at once, one after the other.
                    () = tokio::time::sleep_until(refresh_at), if announce.listen_every.is_some() => {}
                    answer = &mut poll => break Woken::Polled(answer),
                }
                course.refreshed = self.timeline.clock().instant();
                // Both go on meanwhile: the one may hold what the other waits for (the admin connection, a token).
                let mut answer = None;
                {
                    let mut refresh = std::pin::pin!(self.refresh(session, course));
                    loop {
                        tokio::select! {
                            biased;
                            done = &mut refresh => break done?,
                            polled = &mut poll, if answer.is_none() => answer = Some(polled),
                        }
                    }
                }
                refreshed = true;
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
                self.refresh(session, course).await?;
            }
            // The service gives again what was deleted.
            let again_at_once = course.last_message_id == Some(message.id);
            let heard = Heard {
                message,
                replayed,
                began,
                capacity: announce.capacity,
            };
            self.handle(session, course, heard).await?;
            if again_at_once && self.rests_out_floor(began).await {
                return Ok(Some(End::Stopped));
            }
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
        Ok(self.rests_out_floor(began).await.then_some(End::Stopped))
    }

    /// True when told to stop meanwhile.
    async fn rests_out_floor(&self, began: Moment) -> bool {
        let elapsed = self.timeline.now().since(began);
        self.stopped_during(POLL_FLOOR.saturating_sub(elapsed)).await
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
            Ok(registered) if registered.scale_set.id != session.set_id => return Some(End::SetGone(None)),
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

    /// Fetches the session's statistics.
    pub(super) async fn refresh(&mut self, session: &mut Session, course: &mut Course) -> Result<(), Error> {
        let (began, begun) = (self.timeline.now(), self.timeline.clock().instant());
        *session = self.connection.refresh_session(session).await?;
        course.read = begun;
        // A loop that is gone shows itself at the next poll.
        if let Some(statistics) = session.statistics {
            let _ = self.tell(QueueEvent::Statistics { statistics, began }).await;
        }
        Ok(())
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

/// What an error that repeating cannot cure means for the session.
fn judge(error: Error, lived: Duration) -> Result<End, Error> {
    match error {
        Error::SessionLost(_) | Error::QueueTokenRefused(_) | Error::Conflict { .. } => Ok(End::Lost { error, lived }),
        Error::NotFound {
            what: Missing::ScaleSet,
            ..
        } => Ok(End::SetGone(Some(error))),
        error => Err(error),
    }
}
