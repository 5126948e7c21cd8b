//! Step two: who gets the next places where sets share a limit.
//!
//! Places are given one by one, each to the set with the most unmet demand per live runner: max-min sharing by
//! need, so that no set starves and none can hoard.

use std::collections::BTreeMap;

use super::{
    Moment,
    limits::Scope,
    reason::{Code, Reason},
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
pub fn allocate(world: &World, wants: &[Want], now: Moment) -> BTreeMap<SetName, Share> {
    let mut rooms = Rooms::of(world, now);
    let mut open: Vec<Candidate<'_>> = world
        .sets
        .values()
        .zip(wants)
        .filter(|(_, want)| want.missing > 0)
        .map(|(set, want)| Candidate {
            set,
            scopes: set.scopes(),
            unmet: want.missing,
            live: set.live(),
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
    scopes: [Scope; 3],
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
    /// JIT requests that each provisioner still takes.
    in_flight: BTreeMap<String, u32>,
    /// What each hurdle still lets through.
    hurdles: BTreeMap<Scope, u32>,
}

impl Rooms {
    fn of(world: &World, now: Moment) -> Self {
        let live: u32 = world.sets.values().map(SetWorld::live).sum();
        let mut in_flight = BTreeMap::new();
        for set in world.sets.values() {
            let room = in_flight.entry(set.provisioner.clone()).or_insert(set.in_flight_max);
            *room = room.saturating_sub(set.awaiting_grant());
        }
        let hurdles = world
            .hurdles
            .iter()
            .map(|(scope, hurdle)| {
                let under_way: u32 = world
                    .sets
                    .values()
                    .filter(|set| set.scopes().contains(scope))
                    .map(|set| match scope {
                        // A pod proves the cluster and the template only when it runs.
                        Scope::Set(_) => starting(set),
                        Scope::Provisioner(_) | Scope::Cluster => provisioning(set),
                    })
                    .sum();
                (scope.clone(), hurdle.allowance(now).saturating_sub(under_way))
            })
            .collect();
        Self {
            total: world.max_runners.map_or(u32::MAX, |max| max.saturating_sub(live)),
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

fn provisioning(set: &SetWorld) -> u32 {
    super::world::count(
        set.runners
            .values()
            .filter(|r| matches!(r.state, super::runner::State::Provisioning { .. })),
    )
}

fn starting(set: &SetWorld) -> u32 {
    use super::runner::State;
    super::world::count(
        set.runners
            .values()
            .filter(|r| matches!(r.state, State::Provisioning { .. } | State::Pending { .. }) || r.awaits_verdict()),
    )
}

/// Why a set got less than it lacks; hurdles speak for themselves.
pub fn shortfall(world: &World, set: &SetWorld, want: &Want, stop: Stop) -> Option<Reason> {
    match stop {
        Stop::Total => Some(total_reached(world)),
        Stop::InFlight => Some(Reason::new(
            Code::Starting,
            format!(
                "{} runners, {} more wanted; at {} at most {} requests are in flight",
                set.live(),
                want.missing,
                set.provisioner,
                set.in_flight_max
            ),
        )),
        Stop::Hurdle => None,
    }
}

/// The total over all sets is used up.
pub fn total_reached(world: &World) -> Reason {
    let total: u32 = world.sets.values().map(SetWorld::live).sum();
    let max = world.max_runners.unwrap_or(u32::MAX);
    Reason::new(
        Code::MaxRunnersTotal,
        format!("{total} of at most {max} runners over all scale sets"),
    )
}

/// What the total over all sets leaves to one that has `live` runners.
pub fn total_share(world: &World, live: u32) -> u32 {
    world.max_runners.map_or(u32::MAX, |max| {
        let all: u32 = world.sets.values().map(SetWorld::live).sum();
        max.saturating_sub(all.saturating_sub(live))
    })
}
