//! What is looked at from time to time: the agents list, and the comparison of what GitHub and GHARTS hold with
//! what is known here, and how each account stands with its token service.
//!
//! Each peer has rounds of its own (each way to GitHub, each token service), so that one that fails or hangs is
//! waited for by nobody but its own scale sets.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{BEAT, Control, SetParts, SetState, probe::Probes, sweep};
use crate::{
    ids::SetName,
    plan::{Moment, runner::Runner},
};

/// Between two agents lists while a runner is unconfirmed.
const AGENTS_EVERY: Duration = Duration::from_secs(15);
/// Between two looks at whom the runner groups let in: nobody waits for it.
const GROUPS_EVERY: Duration = Duration::from_mins(10);
/// Between two comparisons; the second one follows the first sooner, since what was too young then is old enough
/// soon.
const SWEEP_EVERY: Duration = Duration::from_mins(5);
const SWEEP_SOON: Duration = Duration::from_mins(2);
/// Between two looks at what dead runners left in the cluster, and from a runner's end to the next one.
const LEFTOVERS_EVERY: Duration = Duration::from_mins(2);
const LEFTOVERS_SOON: Duration = Duration::from_secs(10);

/// Something that is done every so often, one at a time.
#[derive(Debug, Default)]
struct Schedule {
    next: Moment,
    under_way: bool,
}

impl Schedule {
    fn is_due(&self, now: Moment) -> bool {
        !self.under_way && self.next <= now
    }

    fn done(&mut self, next: Moment) {
        self.under_way = false;
        self.next = next;
    }
}

/// Comparisons with one peer.
#[derive(Debug, Default)]
struct Sweeps {
    schedule: Schedule,
    made: u32,
    /// When each agent was first seen, by id: for services that do not tell its age.
    first_seen: sweep::FirstSeen,
}

/// The rounds about one peer.
#[derive(Debug, Default)]
struct Rounds {
    /// Who depends on it, each with what it was, or is, served by.
    sets: Vec<Arc<SetParts>>,
    agents: Schedule,
    groups: Schedule,
    sweeps: Sweeps,
    probes: Probes,
}

/// The rounds about every peer, by its key.
#[derive(Debug, Default)]
pub(super) struct AllRounds {
    githubs: BTreeMap<String, Rounds>,
    /// Token services that keep records.
    services: BTreeMap<String, Rounds>,
    /// Sets whose runners make things in the cluster.
    cluster: Rounds,
    /// When the first comparison with any peer may be made.
    first_sweep: Moment,
}

impl AllRounds {
    pub(super) fn of(sets: &BTreeMap<SetName, SetState>, first_sweep: Moment) -> Self {
        let mut all = Self {
            first_sweep,
            ..Self::default()
        };
        let with = |rounds: &mut Rounds, parts: &Arc<SetParts>| {
            if !rounds.sets.iter().any(|other| other.name == parts.name) {
                rounds.sets.push(parts.clone());
            }
        };
        // The first one asks for all: of two credentials the one that the file names now.
        let (removed, living): (Vec<_>, Vec<_>) = sets.values().partition(|set| set.removed);
        let current = living.iter().map(|set| &set.setup.parts);
        let of_before = living.iter().flat_map(|set| set.of_before.values());
        let of_removed = removed.into_iter().flat_map(SetState::all_parts);
        for parts in current.chain(of_before).chain(of_removed) {
            with(all.githubs.entry(parts.github.clone()).or_default(), parts);
            if let Some(service) = &parts.records {
                with(all.services.entry(service.key.clone()).or_default(), parts);
            }
            if parts.leaves_things {
                with(&mut all.cluster, parts);
            }
        }
        for (name, set) in sets.iter().filter(|(_, set)| !set.removed) {
            let (records, provisioner) = (&set.setup.parts.records, &set.setup.parts.service.provisioner);
            // Another's records are kept there as well; how it stands there is no affair of its runners.
            if let (Some(service), Some(_)) = (records, provisioner.gharts_url()) {
                let rounds = all.services.entry(service.key.clone()).or_default();
                rounds.probes.add(name, provisioner);
            }
        }
        for rounds in all.githubs.values_mut().chain(all.services.values_mut()) {
            rounds.sweeps.schedule.next = first_sweep;
        }
        all
    }

    /// How many agents have been seen whose age nobody tells.
    pub(super) fn agents_seen(&self) -> usize {
        let all = self.githubs.values().chain(self.services.values());
        all.map(|rounds| rounds.sweeps.first_seen.len()).sum()
    }

    /// The probes of a token service.
    pub(super) fn probes_of(&mut self, service: &str) -> Option<&mut Probes> {
        self.services.get_mut(service).map(|rounds| &mut rounds.probes)
    }

    /// For the sets as they are now; what was begun and learnt about a peer stands. How the `concerned` ones stand with
    /// their token service is asked anew.
    pub(super) fn renew(&mut self, sets: &BTreeMap<SetName, SetState>, concerned: &BTreeSet<SetName>) {
        let mut renewed = Self::of(sets, self.first_sweep);
        for (now, before) in [
            (&mut renewed.githubs, &mut self.githubs),
            (&mut renewed.services, &mut self.services),
        ] {
            for (key, rounds) in now {
                if let Some(mut before) = before.remove(key) {
                    let mut probes = std::mem::take(&mut rounds.probes);
                    probes.inherit(std::mem::take(&mut before.probes), concerned);
                    *rounds = Rounds {
                        sets: std::mem::take(&mut rounds.sets),
                        probes,
                        ..before
                    };
                }
            }
        }
        let cluster = std::mem::take(&mut self.cluster);
        renewed.cluster = Rounds {
            sets: renewed.cluster.sets,
            ..cluster
        };
        *self = renewed;
    }

    /// The agents list of a way to GitHub has come, or could not be had.
    pub(super) fn agents_listed(&mut self, now: Moment, github: &str) {
        if let Some(rounds) = self.githubs.get_mut(github) {
            rounds.agents.done(now + AGENTS_EVERY);
        }
    }

    pub(super) fn groups_looked_at(&mut self, now: Moment, github: &str) {
        if let Some(rounds) = self.githubs.get_mut(github) {
            rounds.groups.done(now + GROUPS_EVERY);
        }
    }

    /// Scale sets on that way.
    pub(super) fn sets_of(&self, github: &str) -> impl Iterator<Item = &SetName> {
        let rounds = self.githubs.get(github);
        rounds.into_iter().flat_map(|rounds| &rounds.sets).map(|set| &set.name)
    }

    /// A runner's process has ended: what it left is looked for soon.
    pub(super) fn runner_ended(&mut self, now: Moment, set: &SetName) {
        if self.cluster.sets.iter().any(|parts| parts.name == *set) {
            let schedule = &mut self.cluster.sweeps.schedule;
            schedule.next = schedule.next.min(now + LEFTOVERS_SOON);
        }
    }

    pub(super) fn swept(&mut self, now: Moment, subject: &sweep::Subject, findings: sweep::Findings) {
        let rounds = match subject {
            sweep::Subject::Agents(key) => self.githubs.get_mut(key),
            sweep::Subject::Records(key) => self.services.get_mut(key),
            sweep::Subject::Leftovers => Some(&mut self.cluster),
        };
        let Some(rounds) = rounds else { return };
        let sweeps = &mut rounds.sweeps;
        sweeps.made += 1;
        let is_new = |id: &String| !sweeps.first_seen.contains_key(id);
        let pause = if *subject == sweep::Subject::Leftovers {
            if findings.first_seen.keys().any(is_new) {
                LEFTOVERS_SOON
            } else {
                LEFTOVERS_EVERY
            }
        } else if sweeps.made < 2 || !findings.complete {
            SWEEP_SOON
        } else {
            SWEEP_EVERY
        };
        sweeps.schedule.done(now + pause);
        sweeps.first_seen = findings.first_seen;
    }
}

impl Control {
    /// Begins every round whose time has come.
    pub(super) fn look_around(&mut self, now: Moment) -> Moment {
        let mut wake = now + BEAT;
        let mut rounds = std::mem::take(&mut self.rounds);
        for (key, github) in &mut rounds.githubs {
            let Some(first) = github.sets.first() else { continue };
            if !github.agents.under_way && github.sets.iter().any(|set| self.has_unconfirmed(&set.name)) {
                if github.agents.is_due(now) {
                    github.agents.under_way = true;
                    self.executor.list_agents(first.clone());
                } else {
                    wake = wake.min(github.agents.next);
                }
            }
            let is_registered =
                |set: &Arc<SetParts>| self.sets.get(&set.name).is_some_and(|s| s.scale_set_id.is_some());
            if github.sets.iter().any(is_registered) {
                let first = first.clone();
                self.sweep(now, sweep::Subject::Agents(key.clone()), github);
                if github.groups.is_due(now) {
                    github.groups.under_way = true;
                    let groups = github.sets.iter().filter_map(|set| self.sets.get(&set.name));
                    let groups: BTreeSet<String> = groups.map(|set| set.setup.spec.group.clone()).collect();
                    self.executor.look_at_groups(first, groups);
                }
            }
        }
        for (key, service) in &mut rounds.services {
            self.sweep(now, sweep::Subject::Records(key.clone()), service);
            self.probe(now, &mut service.probes);
        }
        if !rounds.cluster.sets.is_empty() {
            self.sweep(now, sweep::Subject::Leftovers, &mut rounds.cluster);
            wake = wake.min(rounds.cluster.sweeps.schedule.next.max(now));
        }
        self.rounds = rounds;
        wake
    }

    fn has_unconfirmed(&self, set: &SetName) -> bool {
        let set = self.world.sets.get(set);
        set.is_some_and(|set| set.runners.values().any(Runner::is_unconfirmed) || set.disagrees())
    }

    fn sweep(&self, now: Moment, subject: sweep::Subject, rounds: &mut Rounds) {
        // Until the pods of before are read, every runner of theirs would look like nobody's.
        let is_unlisted = |set: &Arc<SetParts>| self.world.sets.get(&set.name).is_some_and(|set| set.unlisted);
        if !self.world.synced || rounds.sets.iter().any(is_unlisted) || !rounds.sweeps.schedule.is_due(now) {
            return;
        }
        rounds.sweeps.schedule.under_way = true;
        let known = rounds.sets.iter().map(|set| {
            let name = &set.name;
            let id = self.sets.get(name).and_then(|s| s.scale_set_id);
            let runners = self
                .world
                .sets
                .get(name)
                .into_iter()
                .flat_map(|set| set.runners.values());
            let counts = |runner: &&Runner| subject != sweep::Subject::Leftovers || runner.may_be_at_work();
            let runners = runners.filter(counts).map(|runner| runner.name.clone());
            let others = self.sets.get(name).into_iter().flat_map(|state| &state.of_others);
            let runners = runners.chain(others.cloned());
            (name.clone(), (id, runners.collect::<BTreeSet<_>>()))
        });
        let order = sweep::Order {
            sets: rounds.sets.clone(),
            known: known.collect(),
            first_seen: rounds.sweeps.first_seen.clone(),
        };
        self.executor.sweep(subject, order);
    }
}
