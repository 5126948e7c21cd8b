//! Step two: who gets the next places where sets share a limit.
//!
//! Places are given one by one, each to the set with the most unmet demand per live runner: max-min sharing by
//! need, so that no set starves and none can hoard.

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
    let mut rooms = Rooms::of(world, sets, total, now);
    let mut open: Vec<Candidate<'_>> = sets
        .iter()
        .zip(wants)
        .filter(|(_, want)| want.missing > 0)
        .map(|((set, tally), want)| Candidate {
            set,
            scopes: set.scopes(),
            unmet: want.missing,
            live: tally.live,
            granted: 0,
        })
        .collect();
    let mut shares = BTreeMap::new();
    while let Some(best) = best(&open) {
        let candidate = &mut open[best];
        let stopped_by = rooms.take(candidate).err();
        if stopped_by.is_none() {
            candidate.granted += 1;
            candidate.unmet -= 1;
        }
        if stopped_by.is_some() || candidate.unmet == 0 {
            let Candidate { set, granted, .. } = open.swap_remove(best);
            shares.insert(set.name.clone(), Share { granted, stopped_by });
        }
    }
    shares
}

struct Candidate<'a> {
    set: &'a SetWorld,
    scopes: [Scope; 4],
    unmet: u32,
    live: u32,
    granted: u32,
}

/// The place in `open` whose unmet demand per runner (had or granted) is greatest: whoever has none comes before
/// all who have some. Ties: the greater need, then by name.
fn best(open: &[Candidate<'_>]) -> Option<usize> {
    let need = |c: &Candidate<'_>| (u64::from(c.unmet), u64::from(c.live) + u64::from(c.granted));
    (0..open.len()).max_by(|a, b| {
        let ((ua, la), (ub, lb)) = (need(&open[*a]), need(&open[*b]));
        (ua * lb)
            .cmp(&(ub * la))
            .then(ua.cmp(&ub))
            .then_with(|| open[*b].set.name.cmp(&open[*a].set.name))
    })
}

/// What is left of every shared limit.
struct Rooms {
    total: u32,
    /// Starts that may still be under way behind each provisioner.
    in_flight: BTreeMap<String, u32>,
    /// What each hurdle still lets through.
    hurdles: BTreeMap<Scope, u32>,
}

impl Rooms {
    fn of(world: &World, sets: &[(&SetWorld, Tally)], total: Total, now: Moment) -> Self {
        let mut in_flight = BTreeMap::new();
        for (set, tally) in sets {
            let room = in_flight.entry(set.provisioner.clone()).or_insert(set.in_flight_max);
            *room = room.saturating_sub(tally.provisioning);
        }
        let hurdles = world
            .hurdles
            .iter()
            .map(|(scope, hurdle)| {
                let under_way: u32 = sets
                    .iter()
                    .filter(|(set, _)| set.scopes().contains(scope))
                    .map(|(_, tally)| match scope {
                        // A pod proves the cluster and the template only when it runs.
                        Scope::Set(_) => tally.unproved,
                        Scope::Account(_) | Scope::Provisioner(_) | Scope::Cluster => tally.provisioning,
                    })
                    .sum();
                (scope.clone(), hurdle.allowance(now).saturating_sub(under_way))
            })
            .collect();
        Self {
            total: total.room(),
            in_flight,
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
        if self.in_flight.get(&candidate.set.provisioner).copied().unwrap_or(0) == 0 {
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
    /// `None`: no such limit.
    pub max: Option<u32>,
}

impl Total {
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
        Reason::new(
            Code::MaxRunnersTotal,
            format!(
                "{} of at most {} runners over all scale sets",
                self.live,
                self.max.unwrap_or(u32::MAX)
            ),
        )
    }
}
