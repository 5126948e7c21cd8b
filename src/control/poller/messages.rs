//! What a message brings: taken in, what it offers acquired, then deleted.

use std::{collections::BTreeSet, time::Duration};

use super::{Poller, asking::Asking, course::Course};
use crate::{
    control::event::QueueEvent,
    plan::Moment,
    scaleset::{Acquired, Error, JobMessage, Message, Session},
};

/// Between two questions for offers that found no capacity when they were made.
const OFFERS_EVERY: Duration = Duration::from_secs(1);
/// The same where there were none: most tenants assign their jobs themselves and offer nothing. Each question begins the
/// poll anew, and one that hangs must come to its deadline. So long an offer that GitHub calls wrong is left alone, too.
const NO_OFFERS: Duration = Duration::from_mins(3);
/// The same where the question failed.
const OFFERS_AGAIN: Duration = Duration::from_secs(10);

/// A message, and the poll that it answered.
pub(super) struct Heard {
    pub(super) message: Message,
    /// It may have been delivered before.
    pub(super) replayed: bool,
    pub(super) began: Moment,
    /// What that poll announced.
    pub(super) capacity: u32,
}

/// What GitHub says to the wish for jobs.
enum Answered {
    /// So many were to be had.
    Jobs(usize),
    SelfAssigning,
    /// Something in it is wrong.
    Wrong,
}

impl Poller {
    /// Takes a message in, acquires what it offers, then deletes it.
    pub(super) async fn handle(
        &mut self,
        session: &mut Session,
        course: &mut Course,
        heard: Heard,
    ) -> Result<(), Error> {
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
        let offers = offers(&message.entries);
        if !offers.is_empty() {
            course.next_offers = course.next_offers.min(self.timeline.clock().instant() + OFFERS_EVERY);
        }
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
    pub(super) async fn take_old_offers(
        &mut self,
        session: &mut Session,
        course: &mut Course,
        capacity: u32,
    ) -> Result<(), Error> {
        let now = self.timeline.clock().instant();
        // Should it fail, messages are heard meanwhile.
        course.next_offers = now + OFFERS_AGAIN;
        if course.is_behind(now) {
            self.refresh(session, course).await?;
        }
        let jobs = match self.connection.acquirable_jobs(session.set_id).await {
            Ok(jobs) => jobs,
            Err(error) if error.is_transient() => {
                tracing::warn!(set = %self.set, %error, "offers of before cannot be had; asking again");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let ids: Vec<i64> = jobs
            .iter()
            .map(|job| job.runner_request_id)
            .filter(|id| *id > 0)
            .collect();
        course.on_offer(&ids);
        let may_ask = ids.iter().any(|offer| course.may_ask_for(*offer, now));
        course.next_offers = now + if may_ask { OFFERS_EVERY } else { NO_OFFERS };
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
        let room = usize::try_from(room).unwrap_or(0);
        let new = offers.iter().copied().filter(|offer| !course.has_acquired(*offer));
        let mut asking = Asking::new(room, new.filter(|offer| course.may_ask_for(*offer, now)));
        let (mut got_some, mut outcome) = (false, Ok(()));
        while let Some(wanted) = asking.wanted().filter(|_| !self.stop.is_cancelled()) {
            match self.ask_for(session, course, &wanted).await {
                Ok(Answered::Jobs(got)) => {
                    got_some = true;
                    asking.granted(wanted.len(), got);
                }
                Ok(Answered::SelfAssigning) => break,
                Ok(Answered::Wrong) => {
                    if let Some(offer) = asking.refused(wanted.len()) {
                        course.leaves_alone(offer, self.timeline.clock().instant() + NO_OFFERS);
                    }
                }
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        if got_some {
            // What was acquired is demand at once; the next message may be a while.
            self.refresh(session, course).await?;
        }
        outcome
    }

    /// Asks for these at once. What GitHub calls wrong is left on offer: the message that told of it must not come
    /// again and again for that, with all that it tells of others.
    async fn ask_for(&self, session: &mut Session, course: &mut Course, wanted: &[i64]) -> Result<Answered, Error> {
        // Should the answer get lost, or the refresh after it fail, what was asked for counts for a while all the same.
        course.acquires(self.timeline.clock().instant(), wanted);
        let answer = self.connection.acquire_jobs_renewing(session, wanted).await;
        if answer.as_ref().is_err_and(|error| !error.outcome_unknown()) {
            course.acquired(wanted, &[]);
        }
        match answer {
            Ok(Acquired::Jobs(got)) => {
                course.acquired(wanted, &got);
                tracing::debug!(set = %self.set, asked = wanted.len(), got = got.len(), "jobs acquired");
                Ok(Answered::Jobs(got.len()))
            }
            Ok(Acquired::SelfAssigning) => {
                course.acquired(wanted, &[]);
                Ok(Answered::SelfAssigning)
            }
            Err(error @ Error::Invalid(_)) => {
                tracing::warn!(set = %self.set, requests = ?wanted, %error, "GitHub calls the wish for these jobs wrong: each is asked for alone, and what cannot be acquired stays on offer");
                Ok(Answered::Wrong)
            }
            Err(error) => Err(error),
        }
    }
}

/// Request ids on offer, each once.
fn offers(entries: &[JobMessage]) -> Vec<i64> {
    let mut seen = BTreeSet::new();
    entries
        .iter()
        .filter_map(|entry| match entry {
            JobMessage::Available(job) => Some(job.runner_request_id),
            _ => None,
        })
        .filter(|id| *id > 0 && seen.insert(*id))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaleset::Job;

    #[test]
    fn what_is_offered_twice_is_one_offer() {
        let offer = |id| {
            JobMessage::Available(Job {
                runner_request_id: id,
                ..Job::default()
            })
        };
        assert_eq!(offers(&[7, 8, 0, 7].map(offer)), [7, 8]);
    }
}
