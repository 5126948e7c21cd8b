//! All that the planner knows: scale sets with their demand and runners, and the hurdles between them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Moment,
    demand::{Demand, Reading, Source},
    limits::{Hurdle, Scope},
    reason::{Code, Reason},
    runner::{Doubt, Happening, Hearing, Kind, Meets, Place, Runner},
    sight::Interrupted,
    tally::Tally,
    want,
};
use crate::{
    config::{Retry, Timeouts},
    ids::{RunnerName, SetName},
};

/// The whole state of the daemon.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub sets: BTreeMap<SetName, SetWorld>,
    pub hurdles: BTreeMap<Scope, Hurdle>,
    /// Over all sets.
    pub max_runners: Option<u32>,
    /// Live pods of ours whose sets the file does not name (any more), and that are not adopted: they count for this limit.
    pub unserved: BTreeSet<RunnerName>,
    /// Pods can be made, and not deleted: one more would stay for ever.
    pub undeletable: Option<Reason>,
    /// The pods of before have been read: until then nothing is created.
    pub synced: bool,
    /// Why this replica may begin nothing new now: another one leads, or the Lease is not renewed.
    pub held_back: Option<Reason>,
    /// The watch of pods was interrupted.
    pub interrupted: Option<Interrupted>,
    /// What pods do is not seen, and has not been for a while.
    pub blind: Option<Reason>,
    /// Shutting down: nothing new is begun.
    pub draining: bool,
    /// Accounts that a service told the payer of: by the names that the file gives them.
    pub payers: BTreeMap<String, String>,
    /// When each provisioner, and each account there, last granted a runner.
    pub granted: BTreeMap<Scope, Moment>,
}

/// A changed file comes to every replica within a minute or so.
const RECALL: Duration = Duration::from_mins(2);
/// A poll is held for 50 s, 88 s at most as far as was seen: answers further apart than that have a hole between them.
const HEARING_GAP: Duration = Duration::from_secs(95);

/// A set whose runners were seen to work so lately is not doubted.
const WORKS: Duration = Duration::from_mins(5);
/// So many of its ordinary runners, or twice its `maxRunners`, may leave in a row with nothing to tell whether one had a job.
const MOST_LEFT: u32 = 6;

/// Failed pods of one set that are kept at one time, where any are: the newest.
pub const KEPT_MOST: usize = 5;

/// One step in the life of a runner of a set.
pub type Event = (SetName, RunnerName, Happening);

impl World {
    /// Lets time pass: deadlines, what is over, hurdles that have fallen. Idempotent.
    pub fn advance(&mut self, now: Moment) -> Vec<Event> {
        let (mut events, mut at_work) = (Vec::new(), Vec::new());
        for set in self.sets.values_mut() {
            let doubt = set.doubt(now);
            let busy = i64::from(Tally::of(set).busy.all);
            let counted = set.demand.reading().is_some_and(|reading| reading.running >= busy);
            set.lists_tell |= set.kind.meets == Meets::ByLabels
                && set
                    .runners
                    .values()
                    .any(|runner| runner.meets() == Meets::ByLabels && runner.was_listed());
            set.runners.retain(|name, runner| {
                runner.hears(set.hearing);
                runner.is_counted(counted);
                runner.doubt(doubt, set.lists_tell);
                if set.removed {
                    runner.goes_unheard(now);
                }
                if let Some(happening) = runner.pass_time(now, &set.timeouts) {
                    events.push((set.name.clone(), name.clone(), happening));
                }
                !runner.is_over(now)
            });
            keep_few(set, now);
            let tally = Tally::of(set);
            if tally.started > set.started {
                set.started = tally.started;
                at_work.push(set.name.clone());
            }
            set.demand.pass_time(now, tally.idle_since, tally.busy.all, set.hearing);
            set.mismatched = want::mismatched(set, &tally, now);
            set.deaf = want::deaf_at(set).is_some_and(|at| at <= now);
            set.surplus_since = match (want::surplus(set, &tally), set.surplus_since) {
                (0, _) => None,
                (_, since) => since.or(Some(now)),
            };
        }
        for set in at_work {
            self.passed(now, &Scope::Set(set), |code| code == Code::RunnersLeave);
        }
        self.drop_what_stops_nobody(now);
        self.blind = self.is_blind(now);
        events
    }

    /// Until a token service has shown what it can do, one request at a time finds out as much as many; and where
    /// several sets ask, a second one, should the first be of a set whose calls hang.
    pub fn begin_carefully(&mut self) {
        let mut sharers: BTreeMap<String, u32> = BTreeMap::new();
        for set in self.sets.values() {
            *sharers.entry(set.provisioner.clone()).or_default() += 1;
        }
        for set in self.sets.values_mut().filter(|set| set.kind.has_record) {
            let shared = sharers.get(&set.provisioner).is_some_and(|sets| *sets > 1);
            set.in_flight_max = set.in_flight_max.min(if shared { 2 } else { 1 });
        }
    }

    /// What [`Self::begin_carefully`] permits a set that comes later.
    fn careful(&self, set: &SetWorld) -> u32 {
        let known = self.granted.contains_key(&Scope::Provisioner(set.provisioner.clone()));
        let bound = if set.kind.has_record && !known { 2 } else { u32::MAX };
        set.in_flight_max.min(bound)
    }

    /// A set that comes later.
    pub fn insert_carefully(&mut self, mut set: SetWorld) {
        set.in_flight_max = self.careful(&set);
        self.sets.insert(set.name.clone(), set);
    }

    /// The file wants something else of a set while its runners live. `moved`: it lives elsewhere at GitHub now, where
    /// they get no job of its, and what was heard of the old place says nothing about the new one.
    pub fn change(&mut self, now: Moment, anew: SetWorld, moved: bool) {
        let careful = self.careful(&anew);
        let Some(set) = self.sets.get_mut(&anew.name) else {
            return;
        };
        if moved {
            for runner in set.runners.values_mut() {
                runner.set_place(Place::Elsewhere);
            }
            set.session = anew.session;
        }
        if moved || set.demand.source() != anew.demand.source() {
            let known = set.demand.reading().filter(|_| !moved).copied();
            let began = set.demand.began();
            set.demand = anew.demand;
            if let Some(reading) = known {
                set.demand.read(now, began, reading);
            }
        }
        set.in_flight_max = if set.provisioner == anew.provisioner {
            set.in_flight_max.min(anew.in_flight_max)
        } else {
            careful
        };
        set.min_runners = anew.min_runners;
        set.max_runners = anew.max_runners;
        set.timeouts = anew.timeouts;
        set.retry = anew.retry;
        set.provisioner = anew.provisioner;
        set.account = anew.account;
        set.kind = anew.kind;
        set.template = anew.template;
    }

    /// Nothing is left of it.
    pub fn forget(&mut self, set: &SetName) {
        self.sets.remove(set);
        self.hurdles.remove(&Scope::Set(set.clone()));
        // What only it was stopped by stops nobody.
        let used: BTreeSet<Scope> = self.sets.values().flat_map(SetWorld::scopes).collect();
        self.hurdles.retain(|scope, _| used.contains(scope));
    }

    /// A change of the file concerns these sets: what was refused to them is tried once more at once.
    pub fn reconsider(&mut self, now: Moment, concerned: &BTreeSet<SetName>) {
        let mut scopes = BTreeSet::new();
        for set in self.sets.values_mut().filter(|set| concerned.contains(&set.name)) {
            set.changed = Some(now);
            scopes.extend(set.scopes());
        }
        for (scope, hurdle) in &mut self.hurdles {
            if scopes.contains(scope) {
                hurdle.reconsider(now);
            }
        }
        // What nobody is stopped by any more, since they have gone to another provisioner.
        let used: BTreeSet<Scope> = self.sets.values().flat_map(SetWorld::scopes).collect();
        self.hurdles.retain(|scope, _| used.contains(scope));
    }

    /// Whether creations that wait for `provisioner` go one at a time: it refused whoever asks, or the one account in
    /// whose name everybody does. What one of several teams is refused slows nobody else.
    pub fn asks_one_by_one(&self, provisioner: &str) -> bool {
        if self.hurdles.contains_key(&Scope::Provisioner(provisioner.to_owned())) {
            return true;
        }
        let behind = |account: &str| {
            let mut sets = self.sets.values().filter(|set| set.provisioner == provisioner);
            sets.all(|set| set.account == account)
        };
        self.hurdles
            .keys()
            .any(|scope| matches!(scope, Scope::Account(account) if behind(account)))
    }

    /// Statistics of a request that began at `began`.
    pub fn read(&mut self, now: Moment, began: Moment, set: &SetName, reading: Reading) {
        self.read_demand(now, began, set, reading);
        self.read_ends(began, set, &reading);
    }

    /// The jobs of [`Self::read`].
    pub fn read_demand(&mut self, now: Moment, began: Moment, set: &SetName, reading: Reading) {
        if let Some(set) = self.sets.get_mut(set) {
            set.demand.read(now, began, reading);
        }
    }

    /// The ends that [`Self::read`] tells of, once those are known that a message beside it names.
    pub fn read_ends(&mut self, began: Moment, set: &SetName, reading: &Reading) {
        if let Some(set) = self.sets.get_mut(set) {
            set.forget_ends(began, reading);
        }
    }

    /// The pod of runner `name` no longer exists.
    pub fn pod_gone(&mut self, now: Moment, name: &RunnerName) -> Option<Event> {
        self.place_freed(now, &Scope::Cluster);
        self.unserved.remove(name);
        self.undeletable = None;
        self.sets.values_mut().find_map(|set| {
            let happening = set.runners.get_mut(name)?.pod_gone(now)?;
            Some((set.name.clone(), name.clone(), happening))
        })
    }

    /// A full list of pods ended: of those that had been seen before, what it does not name is gone.
    pub fn pods_listed(&mut self, now: Moment, listed: &BTreeSet<RunnerName>) -> Vec<Event> {
        self.synced = true;
        self.unserved.retain(|name| listed.contains(name));
        for set in self.sets.values_mut() {
            set.unlisted = false;
        }
        let runners = self.sets.values().flat_map(|set| set.runners.values());
        let gone: Vec<RunnerName> = runners
            .filter(|r| r.pod_was_watched() && !listed.contains(&r.name))
            .map(|r| r.name.clone())
            .collect();
        gone.iter().filter_map(|name| self.pod_gone(now, name)).collect()
    }

    pub fn runner(&mut self, set: &SetName, name: &RunnerName) -> Option<&mut Runner> {
        self.sets.get_mut(set)?.runners.get_mut(name)
    }
}

/// Lets go of the failed pods that are too many.
fn keep_few(set: &mut SetWorld, now: Moment) {
    let mut kept: Vec<(Moment, RunnerName)> = set
        .runners
        .values()
        .filter_map(|runner| {
            Some((
                runner.kept().filter(|kept| kept.until > now)?.since,
                runner.name.clone(),
            ))
        })
        .collect();
    kept.sort_unstable_by(|one, other| other.cmp(one));
    for (_, name) in kept.into_iter().skip(KEPT_MOST) {
        if let Some(runner) = set.runners.get_mut(&name) {
            runner.release(now);
        }
    }
}

/// One scale set.
#[derive(Clone, Debug)]
pub struct SetWorld {
    pub name: SetName,
    pub min_runners: u32,
    pub max_runners: u32,
    pub timeouts: Timeouts,
    /// How its provisioner's service is tried again when it fails.
    pub retry: Retry,
    /// Which provisioner serves it: sets with the same key share its limits.
    pub provisioner: String,
    /// In whose name it is asked there: sets with the same account share its quota.
    pub account: String,
    /// Starts under way behind this provisioner at one time, from the JIT request to the pod: what it takes at once, and
    /// no configuration is asked for that the cluster could not take.
    pub in_flight_max: u32,
    pub kind: Kind,
    pub session: Session,
    /// When the queue last answered, if only by silence: statistics from before a long deafness may speak of
    /// jobs that are over.
    pub heard: Option<Moment>,
    /// `None`: no session polls, or its polls fail.
    pub hearing: Option<Hearing>,
    /// It has been silent for too long ([`want::SILENCE`]).
    pub deaf: bool,
    /// Since when it is clear that jobs wait beside idle runners that do not get them.
    pub mismatched: Option<Moment>,
    pub demand: Demand,
    pub runners: BTreeMap<RunnerName, Runner>,
    /// Agents lists have shown ordinary runners of its.
    pub lists_tell: bool,
    /// When a runner of its was taken away that had hardly begun.
    pub taken: Option<Moment>,
    /// When one of its runners was last seen to work.
    pub worked: Option<Moment>,
    /// How many of its ordinary runners have left in a row without a job that was seen, since one found a runner at that
    /// moment.
    pub left: (Moment, u32),
    /// When a runner of its last turned busy.
    pub started: Option<Moment>,
    /// It came after the pods were listed: some of them may be its own.
    pub unlisted: bool,
    /// When a start of its was last refused, with none granted since.
    pub refused: Option<Moment>,
    /// Since when there have been more runners than demand wants, without a break.
    pub surplus_since: Option<Moment>,
    /// The file names it no more: its runners end.
    pub removed: bool,
    /// When the file last changed what concerns it.
    pub changed: Option<Moment>,
    /// Which template new runners are made of.
    pub template: String,
}

impl SetWorld {
    /// Statistics whose request began at `began` know of every end before that; but where they call more jobs running
    /// than runners of ours are busy, GitHub has not heard of so many ends yet: the newest.
    fn forget_ends(&mut self, began: Moment, reading: &Reading) {
        let busy = self.runners.values().filter(|runner| runner.is_busy()).count();
        let running = usize::try_from(reading.running).unwrap_or(0);
        let ended = self
            .runners
            .values()
            .filter_map(|r| Some((r.stands_since()?, r.name.clone())));
        let mut known: Vec<(Moment, RunnerName)> = ended.filter(|(at, _)| *at < began).collect();
        known.sort_unstable_by(|one, other| other.cmp(one));
        for (_, name) in known.into_iter().skip(running.saturating_sub(busy)) {
            if let Some(runner) = self.runners.get_mut(&name) {
                runner.end_is_known();
            }
        }
    }
}

/// What the queue's own task says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Session {
    /// Another replica has it.
    StandingBy,
    /// The set is being looked up or created.
    Registering,
    Opening,
    Polling,
    /// Somebody else holds the session.
    Conflict(String),
    /// The peer refuses or fails; tried again.
    Failed(Reason),
    /// The set is in the file no more.
    Closed,
}

impl Session {
    pub fn name(&self) -> &'static str {
        match self {
            Self::StandingBy => "standby",
            Self::Registering => "registering",
            Self::Opening => "opening",
            Self::Polling => "polling",
            Self::Conflict(_) => "conflict",
            Self::Failed(_) => "failed",
            Self::Closed => "closed",
        }
    }

    /// Why no runner may be made for this set now, if so.
    pub fn blocks(&self) -> Option<Reason> {
        match self {
            Self::Registering => Some(Reason::new(
                Code::SetNotRegistered,
                "the scale set is being looked up at GitHub",
            )),
            Self::Opening => Some(Reason::new(Code::SessionOpening, "the session is being opened")),
            Self::Conflict(owner) => Some(Reason::new(
                Code::SessionConflict,
                format!("{owner} holds the session of this scale set"),
            )),
            Self::Failed(reason) => Some(reason.clone()),
            Self::Closed => Some(Reason::new(
                Code::SetRemoved,
                "the file names this scale set no more: its runners end, what they may have left elsewhere is looked for, and then it is forgotten",
            )),
            // Why it stands by, the world knows.
            Self::Polling | Self::StandingBy => None,
        }
    }
}

impl SetWorld {
    /// The file names it no more: no runner is wanted, and idle ones go at once.
    pub fn remove(&mut self) {
        self.removed = true;
        self.min_runners = 0;
        self.max_runners = 0;
        self.timeouts.idle = Duration::ZERO;
        self.session = Session::Closed;
        self.hearing = None;
        self.heard = None;
    }

    /// The last leader served it, and our file does not name it, or not yet: as if it were removed, but its runners have the
    /// time until the file has come.
    pub fn recall(&mut self) {
        self.remove();
        self.timeouts = Timeouts {
            idle: RECALL,
            total: None,
            ..self.timeouts.clone()
        };
    }

    /// Which of its ordinary runners' ends are looked into: one at a time, and none while some are seen to work.
    fn doubt(&self, now: Moment) -> Doubt {
        let works = self.worked.is_some_and(|at| now.since(at) < WORKS);
        if self.runners.values().any(Runner::awaits_verdict) {
            Doubt::None
        } else if self.only_leave() {
            Doubt::OfAll
        } else if works {
            Doubt::None
        } else {
            Doubt::OfUnseen
        }
    }

    /// Its ordinary runners come and go, none is seen to get a job, and the queue does not get shorter.
    pub fn only_leave(&self) -> bool {
        let most = MOST_LEFT.max(self.max_runners.saturating_mul(2));
        // Where no list shows such runners, nobody could ever tell.
        self.lists_tell && self.left.1 >= most && self.left.0 == self.at_work()
    }

    /// One of its runners ended well, and nobody knows of a job.
    pub(super) fn has_left(&mut self) {
        let at_work = self.at_work();
        let before = if self.left.0 == at_work { self.left.1 } else { 0 };
        self.left = (at_work, before.saturating_add(1));
    }

    /// When some job last found a runner, as far as the queue tells or the runners show.
    fn at_work(&self) -> Moment {
        self.demand.progressed().max(self.started.unwrap_or_default())
    }

    /// The queue has told its statistics.
    pub fn statistics_came(&mut self, now: Moment) {
        self.heard = Some(now);
    }

    /// A poll was answered, by a message or by silence. What a hung one would have told comes when it is over, so that a
    /// long gap begins the hearing anew.
    pub fn poll_answered(&mut self, now: Moment) {
        if self.removed {
            return;
        }
        self.heard = Some(now);
        let unbroken = self.hearing.filter(|hearing| now.since(hearing.last) < HEARING_GAP);
        let since = unbroken.map_or(now, |hearing| hearing.since);
        self.hearing = Some(Hearing { since, last: now });
    }

    /// What GitHub counts and what the set's runners seem to do do not go together: jobs wait beside idle runners, which
    /// may be idle no more or never get one, or fewer jobs run than runners are busy. For a moment that is nothing; an
    /// agents list tells.
    pub fn disagrees(&self) -> bool {
        let tally = Tally::of(self);
        let busy = tally.busy;
        let waits = tally.idle_since.is_some() && self.demand.to_create(busy) > busy.all;
        let running = self.demand.reading().map(|reading| reading.running);
        // Of jobs that have started since it was read it cannot know.
        let known = i64::from(busy.all.saturating_sub(busy.news));
        waits || running.is_some_and(|running| running < known)
    }

    /// Whether this runner gets the jobs that the set's demand counts. One that was made before the set's binding was
    /// changed may get none of them, and an ordinary one may have taken another.
    pub fn is_served_by(&self, runner: &Runner) -> bool {
        if runner.is_displaced() {
            return false;
        }
        match (self.demand.source(), runner.meets()) {
            (Source::Assigned, Meets::InSet) | (Source::Available, Meets::ByLabels) => true,
            // What is assigned to the set is not asked for any more.
            (Source::Available, Meets::InSet) => false,
            (Source::Assigned, Meets::ByLabels) if self.kind.meets == Meets::ByLabels => !runner.is_elsewhere(),
            // What the queue names is assigned, whichever runner it went to.
            (Source::Assigned, Meets::ByLabels) => runner.has_named_job(),
        }
    }

    /// Runners that the jobs and the spare places need, within the set's own limit.
    pub fn wants_to_create(&self, tally: &Tally) -> u32 {
        let jobs = self.demand.to_create(tally.busy);
        jobs.saturating_add(self.min_runners).min(self.max_runners)
    }

    /// As [`Self::wants_to_create`], but slow to believe that there are fewer jobs.
    pub fn wants_to_keep(&self, tally: &Tally) -> u32 {
        let jobs = self.demand.to_keep(tally.busy);
        jobs.saturating_add(self.min_runners).min(self.max_runners)
    }

    /// Jobs that wait at GitHub for capacity, and may get some.
    pub fn waiting_for_capacity(&self) -> u32 {
        if self.removed { 0 } else { self.demand.available() }
    }

    /// With what waits at GitHub for capacity.
    pub fn could_use(&self, tally: &Tally) -> u32 {
        self.wants_to_create(tally)
            .saturating_add(self.waiting_for_capacity())
            .min(self.max_runners)
    }

    /// The scopes whose hurdles stop this set.
    pub fn scopes(&self) -> [Scope; 4] {
        [
            Scope::Set(self.name.clone()),
            Scope::Account(self.account.clone()),
            Scope::Provisioner(self.provisioner.clone()),
            Scope::Cluster,
        ]
    }
}
