//! What happened when, for people: faults, calls, answers, the daemon's own words.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::time::Instant;

use super::plan::seconds;

/// Clones write into the same journal.
#[derive(Clone, Debug)]
pub struct Journal {
    origin: Instant,
    /// `None`: nobody will read it.
    lines: Option<Arc<Mutex<Lines>>>,
}

/// Each with its time.
type Lines = Vec<(u64, String)>;

impl Journal {
    /// Time counts from now on.
    pub fn new(kept: bool) -> Self {
        Self {
            origin: Instant::now(),
            lines: kept.then(Arc::default),
        }
    }

    /// Milliseconds since the beginning.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub fn say(&self, text: impl FnOnce() -> String) {
        self.say_of(self.now_ms(), text);
    }

    /// About an earlier moment.
    pub fn say_of(&self, at_ms: u64, text: impl FnOnce() -> String) {
        if let Some(lines) = &self.lines {
            let text = text();
            lines.lock().unwrap_or_else(PoisonError::into_inner).push((at_ms, text));
        }
    }

    /// Everything in the order of time.
    pub fn text(&self) -> String {
        let mut out = String::new();
        if let Some(lines) = &self.lines {
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner).clone();
            lines.sort_by_key(|(at, _)| *at);
            for (at, line) in lines {
                let _ = writeln!(out, "{:>9} {}", seconds(at), line.trim_end());
            }
        }
        out
    }
}
