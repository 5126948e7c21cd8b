//! What is known of the Lease, who may lead by that, and which call comes next. Pure: time is handed in, and the
//! answers of calls.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    DURATION, RETRY,
    record::{Legacy, Record, ServedSets, SessionRef},
};
use crate::ids::SetName;

/// Between two looks of those who do not lead: a released Lease is found within this.
const LOOK: Duration = Duration::from_secs(1);
/// After a call that failed.
const AGAIN: Duration = Duration::from_secs(1);
/// Between any two calls: hundreds of sets open their sessions within a second, and their ids are gathered meanwhile.
const GATHER: Duration = Duration::from_millis(100);

/// One time of leading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// Counts the terms of this process.
    pub number: u64,
    /// What the last holder left. It does not lead any more, so its sessions may be closed.
    pub inherited: Legacy,
    /// The last holder was this replica itself, or there was none: nothing of anybody else is under way.
    pub after_self: bool,
}

/// Where this replica stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Leading(Arc<Term>),
    /// It stands by. `leader`: who holds the Lease, where that is known. `trouble`: why the Lease cannot be read or
    /// written, in the API server's words.
    Following {
        leader: Option<String>,
        trouble: Option<String>,
    },
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Nothing before this moment.
    Wait(Instant),
    Call(Call),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    Look,
    /// Writes the successor of `base` with this legacy: creates the Lease if it is not stored yet, else replaces
    /// exactly that version.
    Write {
        base: Box<Record>,
        create: bool,
        legacy: Legacy,
    },
}

/// Why a call brought nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Somebody else wrote or made it meanwhile: look again.
    Overtaken,
    /// Somebody deleted it meanwhile; the API server's words.
    Gone(String),
    /// The API server's words; whether a write had its effect is unknown.
    Trouble(String),
}

/// What was last seen of the Lease.
#[derive(Clone, Debug)]
enum View {
    Unknown,
    Absent,
    There(Box<Record>),
}

/// The state of one replica.
#[derive(Debug)]
pub struct Election {
    me: String,
    view: View,
    /// The view may be out of date: look before the next write.
    stale: bool,
    /// When the Lease last showed that a holder is alive; `None`: it never did.
    life: Option<Instant>,
    /// While leading: when the newest renewal was begun.
    renewed: Option<Instant>,
    term: Option<Arc<Term>>,
    terms: u64,
    /// Open sessions and sets: what the next write says.
    legacy: Legacy,
    /// It is not written yet.
    unwritten: bool,
    last_call: Option<Instant>,
    /// When the oldest write was begun of which nobody knows whether it had its effect.
    unanswered: Option<Instant>,
    /// Writes in a row that somebody else was faster than.
    overtaken: u32,
    failed: bool,
    trouble: Option<String>,
}

impl Election {
    pub fn new(me: String) -> Self {
        Self {
            me,
            view: View::Unknown,
            stale: true,
            life: None,
            renewed: None,
            term: None,
            terms: 0,
            legacy: Legacy::default(),
            unwritten: false,
            last_call: None,
            unanswered: None,
            overtaken: 0,
            failed: false,
            trouble: None,
        }
    }

    pub fn standing(&self) -> Standing {
        match &self.term {
            Some(term) => Standing::Leading(term.clone()),
            None => Standing::Following {
                leader: match &self.view {
                    View::There(record) => record.holder().map(str::to_owned),
                    View::Unknown | View::Absent => None,
                },
                trouble: self.trouble.clone(),
            },
        }
    }

    /// Why the newest call failed, in the API server's words.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Lets time pass: a Lease that could not be renewed ends.
    pub fn pass_time(&mut self, now: Instant) {
        if self.expires().is_some_and(|at| at <= now) {
            self.lose();
        }
    }

    /// When the Lease ends without a renewal, while leading.
    pub fn expires(&self) -> Option<Instant> {
        self.renewed.map(|at| at + DURATION)
    }

    /// The call to make now, or when to ask again.
    pub fn next(&self, now: Instant) -> Next {
        let after = |pause: Duration| self.last_call.map_or(now, |last| last + pause);
        let due = match self.renewed {
            _ if self.failed || self.overtaken > 1 => after(AGAIN),
            // Somebody else wrote, or it was never read: what stands there now must be known at once.
            _ if self.stale => now,
            // Deleted under us: it is still ours.
            Some(_) if self.unwritten || matches!(self.view, View::Absent) => now,
            Some(renewed) => renewed + RETRY,
            None => self.free_at(now).map_or(after(LOOK), |at| at.min(after(LOOK))),
        };
        let due = due.max(after(GATHER));
        if due > now {
            return Next::Wait(due);
        }
        let may_write = self.renewed.is_some() || self.free_at(now).is_some_and(|at| at <= now);
        match &self.view {
            View::There(record) if may_write && !self.stale => self.write(record, false),
            View::Absent if may_write && !self.stale => self.write(&Record::default(), true),
            _ => Next::Call(Call::Look),
        }
    }

    fn write(&self, base: &Record, create: bool) -> Next {
        Next::Call(Call::Write {
            base: Box::new(base.clone()),
            create,
            legacy: if self.renewed.is_some() {
                self.legacy.clone()
            } else {
                self.inherited()
            },
        })
    }

    /// From when on this replica may take the Lease, should nobody show life until then. `None`: not known yet.
    fn free_at(&self, now: Instant) -> Option<Instant> {
        match &self.view {
            View::Unknown => None,
            // The first start of all, as far as anybody can tell; or it was deleted under a leader, who leads on until
            // the Lease would have ended.
            View::Absent => Some(self.life.map_or(now, |at| at + DURATION)),
            View::There(record) => match record.holder() {
                // Released, or ours: no two living processes share an identity.
                None => Some(now),
                Some(holder) if holder == self.me => Some(now),
                Some(_) => self.life.map(|at| at + record.duration()),
            },
        }
    }

    /// What the last holder left open, as far as the Lease knows; and what this replica itself had open and could not
    /// write any more.
    fn inherited(&self) -> Legacy {
        let View::There(record) = &self.view else {
            return self.legacy.clone();
        };
        let mut legacy = record.legacy();
        if record.holder() == Some(self.me.as_str()) {
            legacy.sessions.extend(self.legacy.sessions.clone());
        }
        legacy
    }

    /// A call begins.
    pub fn begin(&mut self, now: Instant) {
        self.last_call = Some(now);
    }

    /// The answer of [`Call::Look`]; `None`: there is no Lease.
    pub fn looked(&mut self, now: Instant, answer: Result<Option<Record>, Failure>) {
        let Some(found) = self.answered(answer) else { return };
        self.stale = false;
        let Some(record) = found else {
            self.view = View::Absent;
            return;
        };
        if let Some(began) = self.unanswered.filter(|began| self.is_ours_since(&record, *began, now)) {
            let legacy = record.legacy();
            self.took_effect(began, &legacy, record);
            return;
        }
        self.see(now, record);
        if self.renewed.is_some() && !self.is_mine() {
            self.lose();
        }
    }

    /// The answer of [`Call::Write`] that was begun at `began` with `legacy`: what is stored now.
    pub fn wrote(&mut self, began: Instant, legacy: &Legacy, answer: Result<Record, Failure>) {
        if matches!(answer, Err(Failure::Trouble(_))) {
            // It may have had its effect: the next look tells.
            self.stale = true;
            self.unanswered.get_or_insert(began);
        }
        let Some(record) = self.answered(answer) else { return };
        self.stale = false;
        self.took_effect(began, legacy, record);
    }

    /// Whether a write of ours whose answer was lost, and that was begun at `began`, made this of what was last seen.
    fn is_ours_since(&self, record: &Record, began: Instant, now: Instant) -> bool {
        let is_another = match &self.view {
            View::There(before) => record.lives_on(before),
            View::Unknown | View::Absent => true,
        };
        is_another && record.holder() == Some(self.me.as_str()) && now < began + DURATION
    }

    fn took_effect(&mut self, began: Instant, legacy: &Legacy, record: Record) {
        (self.unanswered, self.overtaken) = (None, 0);
        if self.renewed.is_none() {
            let after_self = match &self.view {
                View::There(before) => before.holder().is_none_or(|holder| holder == self.me),
                View::Unknown | View::Absent => true,
            };
            self.terms += 1;
            self.term = Some(Arc::new(Term {
                number: self.terms,
                inherited: legacy.clone(),
                after_self,
            }));
            self.legacy.clone_from(legacy);
        }
        self.unwritten = self.legacy != *legacy;
        self.renewed = Some(began);
        self.see(began, record);
    }

    /// A session was opened.
    pub fn opened(&mut self, set: SetName, session: SessionRef) {
        self.legacy.sessions.insert(set, session);
        self.unwritten = true;
    }

    /// These sets may have runners.
    pub fn serves(&mut self, sets: ServedSets) {
        if self.legacy.sets != sets {
            self.legacy.sets = sets;
            self.unwritten = true;
        }
    }

    /// A session was closed; another one of the same set stays.
    pub fn closed(&mut self, set: &SetName, session: &SessionRef) {
        if self.legacy.sessions.get(set) == Some(session) {
            self.legacy.sessions.remove(set);
            self.unwritten = true;
        }
    }

    /// The last word of a leader that ends; `None` where there is nothing to give up.
    pub fn resign(&mut self) -> Option<(Box<Record>, Legacy)> {
        self.renewed?;
        let legacy = self.legacy.clone();
        self.lose();
        match &self.view {
            View::There(record) => Some((record.clone(), legacy)),
            View::Unknown | View::Absent => None,
        }
    }

    fn answered<T>(&mut self, answer: Result<T, Failure>) -> Option<T> {
        self.failed = matches!(answer, Err(Failure::Trouble(_)));
        match answer {
            Ok(found) => {
                self.trouble = None;
                Some(found)
            }
            Err(Failure::Overtaken | Failure::Gone(_)) => {
                self.stale = true;
                self.overtaken += 1;
                None
            }
            Err(Failure::Trouble(words)) => {
                self.trouble = Some(words);
                None
            }
        }
    }

    fn see(&mut self, now: Instant, record: Record) {
        let lives = match &self.view {
            View::There(before) => record.lives_on(before),
            View::Unknown | View::Absent => true,
        };
        if lives {
            self.life = Some(now);
        }
        self.view = View::There(Box::new(record));
    }

    fn is_mine(&self) -> bool {
        matches!(&self.view, View::There(record) if record.holder() == Some(self.me.as_str()))
    }

    fn lose(&mut self) {
        self.renewed = None;
        self.term = None;
    }
}

#[cfg(test)]
mod tests;
