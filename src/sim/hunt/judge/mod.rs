//! The invariants, checked on what passes between the daemon and its world and on the world itself; the daemon is never
//! asked.

mod calls;
mod cluster;
mod fence;
mod invariant;
mod reasons;
mod secrets;
mod wires;

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::calls::Calls;
pub use self::invariant::{Breach, Invariant};
pub(super) use self::{cluster::is_live, wires::Eye};
use super::{
    journal::Journal,
    plan::{Edit, Fault, Plan},
    queue::{CALM_GRACE, GRACE, Queues},
    rules::{Rules, Text},
    strangers::Strangers,
};
use crate::sim::world::{World, account_name};

/// What a fault leaves behind (calls that hang, queues of work, waits before the next try) is over so long after its end.
const CALM_AFTER: Duration = Duration::from_secs(120);
/// What is wrong is told so often, then no more.
const MOST_BREACHES: usize = 20;

/// Whether all peers are well.
#[derive(Debug, Default)]
struct Weather {
    faults: usize,
    /// When the last one ended.
    since: Option<Instant>,
    /// Creations queue for long even in peace.
    narrow: bool,
}

impl Weather {
    fn trouble(&mut self, begins: bool) {
        if begins {
            self.faults += 1;
        } else {
            self.faults = self.faults.saturating_sub(1);
            self.since = Some(Instant::now());
        }
    }

    fn is_calm(&self) -> bool {
        self.faults == 0 && self.since.is_none_or(|since| since.elapsed() > CALM_AFTER)
    }

    /// How long a creation may take that was called for.
    fn grace(&self) -> Duration {
        if self.is_calm() && !self.narrow {
            CALM_GRACE
        } else {
            GRACE
        }
    }
}

#[derive(Debug)]
struct State {
    breaches: Vec<Breach>,
    rules: Rules,
    weather: Weather,
    queues: Queues,
    names: HashSet<String>,
    /// Each set's newest pods.
    made: BTreeMap<String, VecDeque<(Instant, String)>>,
    /// Pods whose deletion is asked for just now, and what was against it.
    asked_to_go: HashMap<String, Option<String>>,
    /// Runners whose removal was asked for, and when it was last refused.
    leaving: HashMap<String, Option<Instant>>,
    /// Who held the Lease when it was last there.
    holder: Option<String>,
    /// Who held it when somebody took it, and when that was seen.
    robbed: Option<(String, Instant)>,
    /// When each replica last wrote into the Lease that it holds it.
    written: HashMap<String, Instant>,
    /// Since when a replica says of a set that lacks runners that it lacks none.
    content: HashMap<(String, String), Instant>,
    calls: BTreeMap<String, Calls>,
    /// Calls of one kind that failed, and sessions of one set that were opened while all was well.
    failed: HashMap<String, Calls>,
    opened: HashMap<String, Calls>,
    digest: u64,
    jits: Vec<String>,
    /// Sessions of which some daemon knows that it opened them.
    sessions: HashSet<String>,
    /// GitHub refuses a credential, or did so until then.
    refuses: Refuses,
}

/// Whether a credential is refused.
#[derive(Clone, Copy, Debug)]
enum Refuses {
    No,
    Yes,
    Until(Instant),
}

impl State {
    /// What was decided while its removal was under way may still come after the refusal.
    fn is_leaving(&self, name: &str) -> bool {
        let grace = self.weather.grace();
        let cannot_be_asked_for = match self.refuses {
            Refuses::No => false,
            Refuses::Yes => true,
            Refuses::Until(at) => Instant::now() < at,
        };
        if cannot_be_asked_for {
            return true;
        }
        let refused = self.leaving.get(name);
        refused.is_some_and(|refused| refused.is_none_or(|at| at.elapsed() < grace))
    }
}

/// Looks at everything. Shared by the wires of every daemon.
pub(super) struct Judge {
    world: World,
    strangers: Strangers,
    journal: Journal,
    daemon: String,
    /// The file changes the limit over all sets: what was announced under another one stands for a while.
    total_changes: bool,
    /// A set goes and comes back where one call at a time goes to GHARTS: its old runners wait long for theirs.
    removals_queue: bool,
    /// How often the plan makes a daemon forget what was refused, at most.
    begins_anew: usize,
    state: Mutex<State>,
    /// What ends a daemon that never rests.
    runaway: OnceLock<CancellationToken>,
}

impl Judge {
    pub(super) fn new(plan: &Plan, world: &World, strangers: Strangers, journal: &Journal) -> Self {
        Self {
            world: world.clone(),
            strangers,
            journal: journal.clone(),
            daemon: account_name(),
            total_changes: plan.faults.iter().any(|timed| {
                let how = &timed.fault;
                matches!(
                    how,
                    Fault::FileChanged {
                        how: Edit::TotalRunners { .. }
                    }
                )
            }),
            removals_queue: plan.shape.narrow_gharts
                && plan.faults.iter().any(|timed| {
                    matches!(
                        timed.fault,
                        Fault::FileChanged {
                            how: Edit::SetRemoved { .. }
                        }
                    )
                }),
            begins_anew: plan.faults.iter().filter(|timed| timed.fault.begins_anew()).count(),
            state: Mutex::new(State {
                breaches: Vec::new(),
                rules: Rules::new(Text::of(&plan.shape, [].iter())),
                weather: Weather {
                    narrow: plan.shape.narrow_gharts,
                    ..Weather::default()
                },
                queues: Queues::default(),
                names: HashSet::new(),
                made: BTreeMap::new(),
                asked_to_go: HashMap::new(),
                leaving: HashMap::new(),
                holder: None,
                robbed: None,
                written: HashMap::new(),
                content: HashMap::new(),
                calls: BTreeMap::new(),
                failed: HashMap::new(),
                opened: HashMap::new(),
                digest: 0,
                jits: Vec::new(),
                sessions: HashSet::new(),
                refuses: Refuses::No,
            }),
            runaway: OnceLock::new(),
        }
    }

    pub(super) fn end_by(&self, runaway: CancellationToken) {
        // Set once, at the start of the run.
        let _ = self.runaway.set(runaway);
    }

    /// The daemon's file says this from now on.
    pub(super) fn file_says(&self, text: Text) {
        self.journal.say(|| {
            let sets = text.sets.iter().map(|set| {
                let (shape, revision) = (&set.shape, set.revision);
                format!("{} {}..{} template {revision}", shape.name, shape.min, shape.max)
            });
            let sets: Vec<String> = sets.collect();
            let wrong = if text.is_wrong { "wrong: " } else { "" };
            format!(
                "file     {wrong}{}, at most {:?} in all",
                sets.join(", "),
                text.max_runners
            )
        });
        self.lock().rules.change(text);
    }

    /// Something goes wrong from now on, or no longer.
    pub(super) fn trouble(&self, fault: &Fault, begins: bool) {
        let state = &mut *self.lock();
        if !fault.is_no_trouble() {
            state.weather.trouble(begins);
        }
        if *fault == Fault::PatRefused {
            state.refuses = if begins {
                Refuses::Yes
            } else {
                Refuses::Until(Instant::now() + GRACE)
            };
        }
    }

    /// Whether some daemon knows that this session is open.
    pub(super) fn knows_session(&self, id: &str) -> bool {
        self.lock().sessions.contains(id)
    }

    /// Nothing goes wrong, and nothing has for a while.
    pub(super) fn is_calm(&self) -> bool {
        self.lock().weather.is_calm()
    }

    /// A daemon has not run until now.
    pub(super) fn slept(&self) {
        self.lock().rules.seen_late();
    }

    /// A daemon stands still from now on, or no longer.
    pub(super) fn sleeps(&self, begins: bool) {
        self.lock().rules.sleeps(begins);
    }

    pub(super) fn breach(&self, invariant: Invariant, what: String) {
        let breach = Breach {
            invariant,
            at_ms: self.journal.now_ms(),
            what,
        };
        self.journal.say(|| format!("BROKEN   {breach}"));
        let mut state = self.lock();
        let known = state
            .breaches
            .iter()
            .any(|b| b.invariant == invariant && b.what == breach.what);
        if !known && state.breaches.len() < MOST_BREACHES {
            state.breaches.push(breach);
        }
    }

    pub(super) fn breaches(&self) -> Vec<Breach> {
        self.lock().breaches.clone()
    }

    pub(super) fn digest(&self) -> u64 {
        self.lock().digest
    }

    pub(super) fn created(&self) -> usize {
        self.lock().names.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn digest_in(&self, peer: &str, line: &str, status: u16) {
        let at = self.journal.now_ms();
        let mut state = self.lock();
        let mut hasher = DefaultHasher::new();
        (state.digest, at, peer, line, status).hash(&mut hasher);
        state.digest = hasher.finish();
    }
}
