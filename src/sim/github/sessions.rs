//! Sessions and the message queue.
//!
//! The queue belongs to the scale set and survives sessions; a session is only the right to read it. Offers
//! are the exception: they were made to one session, and are not made again when it is gone.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{sync::Notify, time::Instant};

use super::{
    sets::ScaleSet,
    settings::Flow,
    wire::{Fault, Kind, job_message},
    world::{JobKey, Now, SessionId, SetId, TenantId, Timer, Violation, World},
};

/// Most job messages in one body.
const BATCH: usize = 50;
/// Job messages that are kept to be said twice.
const REMEMBERED: usize = 20;

#[derive(Debug)]
pub(super) struct Session {
    pub(super) tenant: TenantId,
    pub(super) set: SetId,
    pub(super) owner: String,
    /// Of the newest queue token, and of the oldest one that is still accepted.
    token_serial: u64,
    oldest_token: u64,
    last_seen: Instant,
    /// How long it blocks the set once abandoned.
    ttl: Duration,
    pub(super) polls_held: u32,
    /// The newest poll wins: an older one ends empty.
    newest_poll: u64,
    /// As last announced: to find cheaters; assignment never looks at it.
    pub(super) announced: Option<u32>,
    /// Jobs in all, when more were acquired than had been announced: the next poll must make it good, for a
    /// rise may be used before a poll says it.
    overdrawn: Option<usize>,
}

/// A batch of job messages under one id.
#[derive(Debug)]
pub(super) struct Message {
    id: u64,
    entries: Vec<Value>,
    /// Of the set, when it was first delivered.
    statistics: Value,
}

/// A poll that is being held.
#[derive(Clone, Debug)]
pub(super) struct Poll {
    pub(super) session: SessionId,
    serial: u64,
    capacity: u32,
    last_message: u64,
    pub(super) wake: Arc<Notify>,
}

/// What a look into the queue gave.
#[derive(Debug)]
pub(super) enum Look {
    Message(Value),
    /// Nothing yet.
    Wait,
    /// Answer 202 at once.
    Empty,
}

impl World {
    pub(super) fn open_session(
        &mut self,
        tenant: TenantId,
        set_id: SetId,
        owner: &str,
        now: Now,
    ) -> Result<Value, Fault> {
        let set = self.set(tenant, set_id)?;
        if let Some(held) = set.session.as_ref().and_then(|id| self.sessions.get(id)) {
            return Err(Fault::session_conflict(&set.name, &held.owner));
        }
        let id = self.uuid();
        let (shortest, longest) = self.settings.session_ttl;
        let ttl = shortest + longest.saturating_sub(shortest).mul_f64(self.picks.f64());
        self.sessions.insert(
            id.clone(),
            Session {
                tenant,
                set: set_id,
                owner: owner.to_owned(),
                token_serial: 1,
                oldest_token: 1,
                last_seen: now.instant,
                ttl,
                polls_held: 0,
                newest_poll: 0,
                announced: None,
                overdrawn: None,
            },
        );
        self.set_mut(tenant, set_id)?.session = Some(id.clone());
        self.at(now.instant + ttl, Timer::SessionAbandoned(id.clone()));
        self.session_json(tenant, set_id, &id, now)
    }

    pub(super) fn refresh_session(
        &mut self,
        tenant: TenantId,
        set_id: SetId,
        id: &str,
        now: Now,
    ) -> Result<Value, Fault> {
        self.set(tenant, set_id)?;
        let session = self
            .sessions
            .get_mut(id)
            .filter(|s| s.tenant == tenant && s.set == set_id)
            .ok_or_else(|| Fault::no_session(id))?;
        session.token_serial += 1;
        session.last_seen = now.instant;
        self.session_json(tenant, set_id, id, now)
    }

    pub(super) fn close_session(&mut self, tenant: TenantId, set_id: SetId, id: &str) -> Result<(), Fault> {
        self.set(tenant, set_id)?;
        if self
            .sessions
            .get(id)
            .is_none_or(|s| s.tenant != tenant || s.set != set_id)
        {
            return Err(Fault::no_session(id));
        }
        self.end_session(id);
        Ok(())
    }

    fn session_json(&mut self, tenant: TenantId, set_id: SetId, id: &str, now: Now) -> Result<Value, Fault> {
        self.tell_demand(tenant, set_id, now);
        let set = self.set(tenant, set_id)?;
        let session = self.sessions.get(id).ok_or_else(|| Fault::no_session(id))?;
        Ok(json!({
            "sessionId": id, "ownerName": session.owner,
            "runnerScaleSet": self.set_json(set),
            "messageQueueUrl": format!(
                "{}_apis/runtime/runnerscalesets/{set_id}/messages?sessionId={id}", self.tenant_url(tenant)
            ),
            "messageQueueAccessToken": self.queue_token(id, session.token_serial, now),
            "statistics": self.statistics_json(set),
        }))
    }

    /// Frees the set; whoever still polls under this session is told so.
    pub(super) fn end_session(&mut self, id: &str) {
        let Some(session) = self.sessions.remove(id) else {
            return;
        };
        let Some(set) = self.tenants[session.tenant].sets.get_mut(&session.set) else {
            return;
        };
        set.session = None;
        let is_offer = |entry: &Value| entry["messageType"] == "JobAvailable";
        set.pending.retain(|entry| !is_offer(entry));
        for message in &mut set.messages {
            message.entries.retain(|entry| !is_offer(entry));
        }
        set.messages.retain(|message| !message.entries.is_empty());
        set.wake.notify_waiters();
    }

    pub(super) fn check_abandoned(&mut self, id: &str, now: Now) {
        let Some(session) = self.sessions.get(id) else {
            return;
        };
        let due = if session.polls_held > 0 {
            now.instant + session.ttl
        } else {
            session.last_seen + session.ttl
        };
        if due <= now.instant {
            self.end_session(id);
        } else {
            self.at(due, Timer::SessionAbandoned(id.to_owned()));
        }
    }

    /// From now on the session's present queue token answers 401.
    pub(super) fn expire_queue_token(&mut self, id: &str) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.oldest_token = session.token_serial + 1;
        }
    }

    /// The session that a queue token opens, if it is one of this set.
    fn check_queue_token(&self, token: &str, set: SetId, now: Now) -> Result<SessionId, Fault> {
        let (id, serial) = self
            .read_queue_token(token, now)
            .ok_or_else(|| Fault::unauthorized("message queue token"))?;
        let session = self.sessions.get(&id).ok_or_else(|| Fault::no_session(&id))?;
        if serial < session.oldest_token || session.set != set {
            return Err(Fault::unauthorized("message queue token"));
        }
        Ok(id)
    }

    pub(super) fn begin_poll(
        &mut self,
        token: &str,
        set: SetId,
        capacity: u32,
        last_message: u64,
        now: Now,
    ) -> Result<Poll, Fault> {
        let id = self.check_queue_token(token, set, now)?;
        let session = self.sessions.get_mut(&id).ok_or_else(|| Fault::no_session(&id))?;
        session.polls_held += 1;
        session.newest_poll += 1;
        session.last_seen = now.instant;
        session.announced = Some(capacity);
        let (tenant, serial) = (session.tenant, session.newest_poll);
        let overdrawn = session.overdrawn.take().filter(|total| *total > capacity as usize);
        if let Some(total) = overdrawn {
            let set = self.set(tenant, set)?.name.clone();
            self.violations.push(Violation::AcquiredBeyondCapacity {
                set,
                announced: capacity,
                total: u32::try_from(total).unwrap_or(u32::MAX),
            });
        }
        let wake = Arc::clone(&self.set(tenant, set)?.wake);
        wake.notify_waiters();
        Ok(Poll {
            session: id,
            serial,
            capacity,
            last_message,
            wake,
        })
    }

    pub(super) fn end_poll(&mut self, poll: &Poll, now: Now) {
        if let Some(session) = self.sessions.get_mut(&poll.session) {
            session.polls_held -= 1;
            session.last_seen = now.instant;
        }
    }

    /// Hands out work within the poll's capacity, then looks for a message behind its cursor.
    pub(super) fn look(&mut self, poll: &Poll, now: Now) -> Result<Look, Fault> {
        let session = self
            .sessions
            .get(&poll.session)
            .ok_or_else(|| Fault::no_session(&poll.session))?;
        if session.newest_poll != poll.serial {
            return Ok(Look::Empty);
        }
        let (tenant, set_id) = (session.tenant, session.set);
        match self.settings.flow {
            Flow::GitHub => self.assign_within(tenant, set_id, poll.capacity, now)?,
            Flow::Ghes if poll.capacity > 0 => self.offer_waiting(tenant, set_id)?,
            Flow::Ghes => {}
        }
        let set = self.set_mut(tenant, set_id)?;
        if !set.messages.iter().any(|m| m.id > poll.last_message) && !set.pending.is_empty() {
            let statistics = self.statistics_json(self.set(tenant, set_id)?);
            let set = self.set_mut(tenant, set_id)?;
            // Below a cursor that its keeper has from an older sequence, the message is skipped: as recorded.
            set.last_message += 1;
            let count = set.pending.len().min(BATCH);
            let (id, mut entries) = (set.last_message, set.pending.drain(..count).collect::<Vec<Value>>());
            if self.settings.shuffled {
                self.picks.shuffle(&mut entries);
            }
            let set = self.set_mut(tenant, set_id)?;
            set.messages.push_back(Message {
                id,
                entries,
                statistics,
            });
        }
        let set = self.set(tenant, set_id)?;
        let Some(message) = set.messages.iter().find(|m| m.id > poll.last_message) else {
            return Ok(Look::Wait);
        };
        let statistics = if self.settings.frozen_statistics {
            message.statistics.clone()
        } else {
            self.statistics_json(set)
        };
        let answer = json!({
            "messageId": message.id,
            "messageType": "RunnerScaleSetJobMessages",
            "body": Value::from(message.entries.clone()).to_string(),
            "statistics": statistics,
        });
        self.tell_demand(tenant, set_id, now);
        Ok(Look::Message(answer))
    }

    fn assign_within(&mut self, tenant: TenantId, set_id: SetId, capacity: u32, now: Now) -> Result<(), Fault> {
        loop {
            let set = self.set(tenant, set_id)?;
            if set.total_assigned() >= capacity as usize {
                return Ok(());
            }
            let Some(job) = set.available.first().copied() else {
                return Ok(());
            };
            self.assign(job, set_id, now);
        }
    }

    fn offer_waiting(&mut self, tenant: TenantId, set_id: SetId) -> Result<(), Fault> {
        let waiting: Vec<JobKey> = std::mem::take(&mut self.set_mut(tenant, set_id)?.unoffered)
            .into_iter()
            .collect();
        for job in waiting {
            self.push(job, set_id, Kind::Available, None);
        }
        Ok(())
    }

    /// Puts a job message into the set's queue.
    pub(super) fn push(&mut self, job: JobKey, set: SetId, kind: Kind, result: Option<&str>) {
        let Some(tenant) = self.jobs.get_mut(&job).map(|job| {
            job.announced = true;
            job.tenant
        }) else {
            return;
        };
        let url = format!(
            "{}_apis/runtime/runnerscalesets/{set}/acquirejobs",
            self.tenant_url(tenant)
        );
        let Some(job) = self.jobs.get(&job) else {
            return;
        };
        let entry = job_message(kind, job, self.settings.flow, &url, result);
        if let Some(set) = self.tenants[tenant].sets.get_mut(&set) {
            if set.said.len() == REMEMBERED {
                set.said.pop_front();
            }
            set.said.push_back(entry.clone());
            set.pending.push_back(entry);
            set.wake.notify_waiters();
        }
        self.changed();
    }

    /// Says the set's newest job messages once more, in an order of its own.
    pub(super) fn say_again(&mut self, tenant: TenantId, set: SetId) {
        if let Some(set) = self.tenants[tenant].sets.get_mut(&set) {
            // An offer is made once.
            let again = set.said.iter().filter(|entry| entry["messageType"] != "JobAvailable");
            let mut again: Vec<Value> = again.cloned().collect();
            self.picks.shuffle(&mut again);
            set.pending.extend(again);
            set.wake.notify_waiters();
        }
        self.changed();
    }

    pub(super) fn delete_message(&mut self, token: &str, set: SetId, message: u64, now: Now) -> Result<(), Fault> {
        let id = self.check_queue_token(token, set, now)?;
        let tenant = self.sessions.get_mut(&id).map(|session| {
            session.last_seen = now.instant;
            session.tenant
        });
        let set = self.set_mut(tenant.ok_or_else(|| Fault::no_session(&id))?, set)?;
        let position = set
            .messages
            .iter()
            .position(|m| m.id == message)
            .ok_or_else(|| Fault::no_message(message))?;
        set.messages.remove(position);
        Ok(())
    }

    /// The ids that the set now has; jobs that are gone or taken are left out.
    pub(super) fn acquire_jobs(
        &mut self,
        token: &str,
        set_id: SetId,
        requests: &[i64],
        now: Now,
    ) -> Result<Vec<i64>, Fault> {
        if self.settings.flow == Flow::GitHub {
            return Err(Fault::assigns_by_itself());
        }
        let id = self.check_queue_token(token, set_id, now)?;
        let (tenant, announced) = match self.sessions.get_mut(&id) {
            Some(session) => {
                session.last_seen = now.instant;
                (session.tenant, session.announced)
            }
            None => return Err(Fault::no_session(&id)),
        };
        let job_of = |request: &i64| self.jobs.get(self.request_ids.get(request)?);
        if requests.iter().filter_map(job_of).any(|job| job.spoilt) {
            return Err(Fault::invalid("A job of the request cannot be acquired."));
        }
        let mut got = Vec::new();
        for request in requests {
            let job = self.request_ids.get(request).copied();
            let job = job.filter(|key| {
                self.set(tenant, set_id)
                    .is_ok_and(|s: &ScaleSet| s.available.contains(key))
            });
            if let Some(job) = job {
                self.assign(job, set_id, now);
                got.push(*request);
            }
        }
        let set = self.set(tenant, set_id)?;
        let total = set.total_assigned();
        let too_many = announced.is_some_and(|announced| total > announced as usize);
        if let Some(session) = self.sessions.get_mut(&id).filter(|_| too_many && !got.is_empty()) {
            session.overdrawn = Some(total);
        }
        Ok(got)
    }

    pub(super) fn acquirable_jobs(&self, tenant: TenantId, set_id: SetId) -> Result<Vec<Value>, Fault> {
        let set = self.set(tenant, set_id)?;
        if self.settings.flow == Flow::GitHub {
            return Ok(Vec::new());
        }
        let url = format!(
            "{}_apis/runtime/runnerscalesets/{set_id}/acquirejobs",
            self.tenant_url(tenant)
        );
        Ok(set
            .available
            .iter()
            .filter_map(|key| self.jobs.get(key))
            .map(|job| job_message(Kind::Available, job, Flow::Ghes, &url, None))
            .collect())
    }
}
