//! Step two: who gets the next places where sets share a limit.
//!
//! Places are given one by one, each to the set with the most unmet demand per live runner: max-min sharing by
//! need, so that no set starves and none can hoard. Jobs come before spare runners, and spare runners of one set
//! make room for jobs of another. What is left of the total is announced in shares, so that GitHub is not promised
//! the same place by every set.

use std::collections::BTreeMap;

use super::{
    Moment,
    limits::Scope,
    reason::{Code, Reason},
    tally::Tally,
    want::Want,
    world::{SetWorld, World},
};
use crate::ids::SetName;

/// What one set gets of what it lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Creations to begin now.
    pub granted: u32,
    /// Those of them that jobs wait for.
    pub jobs: u32,
    /// What kept it from getting more.
    pub stopped_by: Option<Stop>,
}

/// A shared limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Total,
    InFlight,
    /// Its own reason says which.
    Hurdle,
}

/// How many creations each set may begin now.
pub fn allocate(
    world: &World,
    sets: &[(&SetWorld, Tally)],
    wants: &[Want],
    total: Total,
    now: Moment,
) -> BTreeMap<SetName, Share> {
    if wants.iter().all(|want| want.missing == 0) {
        return BTreeMap::new();
    }
    hand_out(world, sets, wants, Rooms::of(world, sets, total, now))
}

/// Place by place, as long as there is room for somebody.
fn hand_out(world: &World, sets: &[(&SetWorld, Tally)], wants: &[Want], mut rooms: Rooms) -> BTreeMap<SetName, Share> {
    let mut open: Vec<Candidate<'_>> = sets
        .iter()
        .zip(wants)
        .filter(|(_, want)| want.missing > 0)
        .map(|((set, tally), want)| Candidate {
            set,
            scopes: set.scopes(),
            unmet: want.missing,
            jobs: want.jobs,
            under_way: tally.provisioning,
            refused: set.refused.filter(|_| tries_in_turn(world, set)),
            live: tally.live,
            given: Share::default(),
        })
        .collect();
    let mut shares = BTreeMap::new();
    while let Some(best) = best(&open) {
        let candidate = &mut open[best];
        candidate.given.stopped_by = rooms.take(candidate).err();
        if candidate.given.stopped_by.is_none() {
            candidate.given.granted += 1;
            candidate.given.jobs += u32::from(candidate.jobs > 0);
            candidate.under_way += 1;
            candidate.unmet -= 1;
            candidate.jobs = candidate.jobs.saturating_sub(1);
        }
        if candidate.given.stopped_by.is_some() || candidate.unmet == 0 {
            let Candidate { set, given, .. } = open.swap_remove(best);
            shares.insert(set.name.clone(), given);
        }
    }
    shares
}

struct Candidate<'a> {
    set: &'a SetWorld,
    scopes: [Scope; 4],
    unmet: u32,
    /// Those of them that jobs wait for.
    jobs: u32,
    under_way: u32,
    /// Where the sets take turns at trying: when this one was last refused.
    refused: Option<Moment>,
    live: u32,
    given: Share,
}

/// The place in `open` whose unmet demand per runner (had or granted) is greatest: whoever has none comes before
/// all who have some. Spare runners come after every job; while a service fails, whoever was refused comes after
/// those who were not, or longer ago. Ties: the greater need, then by name.
fn best(open: &[Candidate<'_>]) -> Option<usize> {
    let need = |c: &Candidate<'_>| {
        let wanted = if c.jobs > 0 { c.jobs } else { c.unmet };
        (u64::from(wanted), u64::from(c.live) + u64::from(c.given.granted))
    };
    (0..open.len()).max_by(|a, b| {
        let ((ua, la), (ub, lb)) = (need(&open[*a]), need(&open[*b]));
        (open[*a].jobs > 0)
            .cmp(&(open[*b].jobs > 0))
            .then(open[*b].refused.cmp(&open[*a].refused))
            .then((ua * lb).cmp(&(ub * la)))
            .then(ua.cmp(&ub))
            .then_with(|| open[*b].set.name.cmp(&open[*a].set.name))
    })
}

/// While everybody behind a failing service waits for one try after the other, the sets take turns: a set whose own
/// requests always fail would keep the others out for ever. So would one whose pods a quota of the cluster can never take.
/// Places that are scarce at the service go by need instead.
fn tries_in_turn(world: &World, set: &SetWorld) -> bool {
    let scopes = set.scopes();
    let hurdles = scopes.iter().filter(|scope| !matches!(scope, Scope::Set(_)));
    let mut hurdles = hurdles.filter_map(|scope| world.hurdles.get(scope));
    hurdles.any(|hurdle| hurdle.reason.code != Code::QuotaExceeded)
}

/// What is left of every shared limit.
struct Rooms {
    total: u32,
    /// Starts that may still be under way behind each provisioner.
    in_flight: BTreeMap<String, u32>,
    /// Sets behind each.
    sharers: BTreeMap<String, u32>,
    /// What each hurdle still lets through.
    hurdles: BTreeMap<Scope, u32>,
}

impl Rooms {
    fn of(world: &World, sets: &[(&SetWorld, Tally)], total: Total, now: Moment) -> Self {
        let mut in_flight = BTreeMap::new();
        let mut sharers: BTreeMap<String, u32> = BTreeMap::new();
        for (set, tally) in sets {
            // One that is removed starts nothing any more.
            *sharers.entry(set.provisioner.clone()).or_default() += u32::from(!set.removed);
            let room = in_flight.entry(set.provisioner.clone()).or_insert(set.in_flight_max);
            *room = room.saturating_sub(tally.provisioning);
        }
        let hurdles = let_through(world, sets, now);
        Self {
            total: total.room(),
            in_flight,
            sharers,
            hurdles,
        }
    }

    /// Takes one place out of every limit that concerns the candidate, or none.
    fn take(&mut self, candidate: &Candidate<'_>) -> Result<(), Stop> {
        let shut = |scope: &Scope| self.hurdles.get(scope) == Some(&0);
        if self.total == 0 {
            return Err(Stop::Total);
        }
        if candidate.scopes.iter().any(shut) {
            return Err(Stop::Hurdle);
        }
        let provisioner = &candidate.set.provisioner;
        let left = self.in_flight.get(provisioner).copied().unwrap_or(0);
        let shared = self.sharers.get(provisioner).is_some_and(|sets| *sets > 1);
        if left == 0 || (shared && candidate.under_way >= most_of_one(candidate.set.in_flight_max)) {
            return Err(Stop::InFlight);
        }
        self.total -= 1;
        if let Some(left) = self.in_flight.get_mut(&candidate.set.provisioner) {
            *left -= 1;
        }
        for scope in &candidate.scopes {
            if let Some(left) = self.hurdles.get_mut(scope) {
                *left -= 1;
            }
        }
        Ok(())
    }
}

/// How many starts each hurdle lets through now, beside those that are under way.
fn let_through(world: &World, sets: &[(&SetWorld, Tally)], now: Moment) -> BTreeMap<Scope, u32> {
    let hurdles = world.hurdles.iter().map(|(scope, hurdle)| {
        let concerned = sets.iter().filter(|(set, _)| set.scopes().contains(scope));
        let under_way = concerned.map(|(_, tally)| match scope {
            // A pod proves the cluster and the template only when it runs.
            Scope::Set(_) => tally.unproved,
            Scope::Account(_) | Scope::Provisioner(_) => tally.provisioning,
            Scope::Cluster => tally.starting,
        });
        (scope.clone(), hurdle.allowance(now).saturating_sub(under_way.sum()))
    });
    hurdles.collect()
}

/// Starts that one of several sets may have under way: calls of its that hang leave something to the others.
fn most_of_one(in_flight_max: u32) -> u32 {
    in_flight_max.saturating_sub((in_flight_max / 4).max(1)).max(1)
}

/// How many idle runners of each set must make room for jobs of other sets that a shared limit stops: for those that
/// would start now if it had room. What another refusal stops, or the starts that are under way, cannot use a place yet,
/// and whoever gave it would take it again.
pub fn yields(
    world: &World,
    sets: &[(&SetWorld, Tally)],
    wants: &[Want],
    shares: &BTreeMap<SetName, Share>,
    now: Moment,
) -> BTreeMap<SetName, u32> {
    let mut yields = BTreeMap::new();
    let for_want_of_room = |share: &Share| matches!(share.stopped_by, Some(Stop::Total | Stop::Hurdle));
    if !shares.values().any(for_want_of_room) {
        return yields;
    }
    let jobs = |shares: &BTreeMap<SetName, Share>| -> u32 { shares.values().map(|share| share.jobs).sum() };
    // A runner that goes gives back its place in the total, whatever else it is in.
    let without = |limit: Option<&Scope>| {
        let mut rooms = Rooms::of(world, sets, Total::NONE, now);
        rooms.hurdles.retain(|scope, _| Some(scope) != limit);
        jobs(&hand_out(world, sets, wants, rooms))
    };
    let without_total = without(None);
    let leave = |tally: &Tally| tally.leaving;
    make_room(sets, without_total.saturating_sub(jobs(shares)), leave, &mut yields);
    for (scope, _) in world.hurdles.iter().filter(|(_, h)| h.is_for_want_of_places()) {
        let within: Vec<_> = sets
            .iter()
            .filter(|(set, _)| set.scopes().contains(scope))
            .copied()
            .collect();
        let wanted = without(Some(scope)).saturating_sub(without_total);
        match scope {
            // The cluster counts a pod until it is gone.
            Scope::Cluster => make_room(&within, wanted, |tally| tally.leaving + tally.clearing, &mut yields),
            _ => make_room(&within, wanted, leave, &mut yields),
        }
    }
    yields
}

/// So many places from those who have most to spare, but for those that become free anyway.
fn make_room(
    sets: &[(&SetWorld, Tally)],
    places: u32,
    leave: impl Fn(&Tally) -> u32,
    yields: &mut BTreeMap<SetName, u32>,
) {
    let leaving: u32 = sets.iter().map(|(_, tally)| leave(tally)).sum();
    let mut open = places.saturating_sub(leaving);
    if open == 0 {
        return;
    }
    let mut spare: Vec<(u32, &SetName)> = sets
        .iter()
        .map(|(set, tally)| {
            let given = yields.get(&set.name).copied().unwrap_or(0);
            (super::want::spares(set, tally).saturating_sub(given), &set.name)
        })
        .filter(|(spares, _)| *spares > 0)
        .collect();
    spare.sort_by_key(|(spares, name)| (std::cmp::Reverse(*spares), *name));
    for (spares, name) in spare {
        let gives = spares.min(open);
        open -= gives;
        *yields.entry(name.clone()).or_default() += gives;
    }
}

/// Why a set got less than it lacks; hurdles speak for themselves.
pub fn shortfall(set: &SetWorld, live: u32, missing: u32, stop: Stop, total: Total) -> Option<Reason> {
    match stop {
        Stop::Total => Some(total.reached()),
        Stop::InFlight => Some(Reason::new(
            Code::Starting,
            format!(
                "{live} runners, {missing} more wanted; at {} at most {} starts are under way at a time",
                set.provisioner, set.in_flight_max
            ),
        )),
        Stop::Hurdle => None,
    }
}

/// The limit over all sets, and what they have of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Total {
    pub live: u32,
    /// Those of them whose sets the file does not name.
    unserved: u32,
    /// `None`: no such limit.
    pub max: Option<u32>,
    /// What the sets could use is more than it has left.
    pub contended: bool,
}

impl Total {
    const NONE: Self = Self {
        live: 0,
        unserved: 0,
        max: None,
        contended: false,
    };

    pub fn of(world: &World, sets: &[(&SetWorld, Tally)]) -> Self {
        let unserved = u32::try_from(world.unserved.len()).unwrap_or(u32::MAX);
        let mut total = Self {
            live: sets.iter().map(|(_, tally)| tally.live + tally.dying).sum::<u32>() + unserved,
            unserved,
            max: world.max_runners,
            contended: false,
        };
        if total.max.is_some() {
            let needed: u64 = sets.iter().map(|(set, tally)| u64::from(need(world, set, tally))).sum();
            total.contended = needed > u64::from(total.room());
        }
        total
    }

    /// What each set may announce beyond the runners that it has, or is granted now. First what it is known to
    /// need; what is left then is shared alike, and everybody may promise one place of it, or its first job would
    /// be heard of late. `None`: no such limit.
    pub fn headroom(
        self,
        world: &World,
        sets: &[(&SetWorld, Tally)],
        shares: &BTreeMap<SetName, Share>,
    ) -> Option<Vec<u32>> {
        self.max?;
        let granted = |set: &SetWorld| shares.get(&set.name).map_or(0, |share| share.granted);
        let room = self
            .room()
            .saturating_sub(sets.iter().map(|(set, _)| granted(set)).sum());
        let needs: Vec<u32> = sets
            .iter()
            .map(|(set, tally)| need(world, set, tally).saturating_sub(granted(set)))
            .collect();
        let needed: u64 = needs.iter().map(|need| u64::from(*need)).sum();
        let Some(rest) = u64::from(room).checked_sub(needed) else {
            return Some(in_proportion(&needs, needed, room));
        };
        let rest = u32::try_from(rest).unwrap_or(u32::MAX);
        let served = sets.iter().filter(|(set, _)| !set.removed).count();
        let count = u32::try_from(served).unwrap_or(u32::MAX).max(1);
        let alike = if rest == 0 { 0 } else { (rest / count).max(1) };
        Some(needs.into_iter().map(|need| need.saturating_add(alike)).collect())
    }

    fn room(self) -> u32 {
        self.max.map_or(u32::MAX, |max| max.saturating_sub(self.live))
    }

    /// What it leaves to a set that has `live` runners of all.
    pub fn share(self, live: u32) -> u32 {
        self.max
            .map_or(u32::MAX, |max| max.saturating_sub(self.live.saturating_sub(live)))
    }

    /// It is used up.
    pub fn reached(self) -> Reason {
        let of_no_set = match self.unserved {
            0 => String::new(),
            unserved => format!(", {unserved} of them of sets that the file does not name"),
        };
        Reason::new(
            Code::MaxRunnersTotal,
            format!(
                "{} of at most {} runners over all scale sets{of_no_set}",
                self.live,
                self.max.unwrap_or(u32::MAX)
            ),
        )
    }
}

/// Runners that a set could use more than it has, assigned or waiting. What its own hurdle stops uses one place at a time.
fn need(world: &World, set: &SetWorld, tally: &Tally) -> u32 {
    if set.session.blocks().is_some() || set.deaf {
        return 0;
    }
    let room = set.max_runners.saturating_sub(tally.live + tally.dying);
    let is_stopped = world.hurdles.contains_key(&Scope::Set(set.name.clone()));
    let room = if is_stopped { room.min(1) } else { room };
    set.could_use(tally).saturating_sub(tally.covering).min(room)
}

/// `room` in proportion to `needs`, which are more; what division leaves goes to the first of them.
fn in_proportion(needs: &[u32], needed: u64, room: u32) -> Vec<u32> {
    let share = |need: &u32| u32::try_from(u64::from(*need) * u64::from(room) / needed.max(1)).unwrap_or(u32::MAX);
    let mut shares: Vec<u32> = needs.iter().map(share).collect();
    let mut left = room.saturating_sub(shares.iter().sum());
    for (share, need) in shares.iter_mut().zip(needs) {
        if left > 0 && *share < *need {
            *share += 1;
            left -= 1;
        }
    }
    shares
}
