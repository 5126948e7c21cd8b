//! What is looked at from time to time: the agents list, and the comparison of what GitHub and GHARTS hold with
//! what is known here, and how each account stands with its token service.
//!
//! Each peer has rounds of its own (each way to GitHub, each token service), so that one that fails or hangs is
//! waited for by nobody but its own scale sets.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{BEAT, Control, SetState, probe::Probes, sweep};
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
    first_seen: BTreeMap<i64, Moment>,
}

/// The rounds about one peer.
#[derive(Debug, Default)]
struct Rounds {
    /// Who depends on it.
    sets: Vec<SetName>,
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
}

impl AllRounds {
    /// The first comparison is made at `sweeps`.
    pub(super) fn of(sets: &BTreeMap<SetName, SetState>, sweeps: Moment) -> Self {
        let mut all = Self::default();
        for (name, set) in sets {
            let parts = &set.setup.parts;
            let github = all.githubs.entry(parts.github.clone()).or_default();
            github.sets.push(name.clone());
            if let Some(service) = &parts.records {
                let service = all.services.entry(service.key.clone()).or_default();
                service.sets.push(name.clone());
                // Another's records are kept there as well; how it stands there is no affair of its runners.
                if parts.service.provisioner.gharts_url().is_some() {
                    service.probes.add(name, &parts.service.provisioner);
                }
            }
            if parts.leaves_things {
                all.cluster.sets.push(name.clone());
            }
        }
        for rounds in all.githubs.values_mut().chain(all.services.values_mut()) {
            rounds.sweeps.schedule.next = sweeps;
        }
        all
    }

    /// The probes of a token service.
    pub(super) fn probes_of(&mut self, service: &str) -> Option<&mut Probes> {
        self.services.get_mut(service).map(|rounds| &mut rounds.probes)
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
    pub(super) fn sets_of(&self, github: &str) -> &[SetName] {
        self.githubs.get(github).map_or(&[], |rounds| &rounds.sets)
    }

    /// A runner's process has ended: what it left is looked for soon.
    pub(super) fn runner_ended(&mut self, now: Moment, set: &SetName) {
        if self.cluster.sets.contains(set) {
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
        let pause = if *subject == sweep::Subject::Leftovers {
            LEFTOVERS_EVERY
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
            if !github.agents.under_way && github.sets.iter().any(|set| self.has_unconfirmed(set)) {
                if github.agents.is_due(now) {
                    github.agents.under_way = true;
                    self.executor.list_agents(key, &github.sets);
                } else {
                    wake = wake.min(github.agents.next);
                }
            }
            let is_registered = |set: &SetName| self.sets.get(set).is_some_and(|s| s.scale_set_id.is_some());
            if github.sets.iter().any(is_registered) {
                self.sweep(now, sweep::Subject::Agents(key.clone()), github);
                if github.groups.is_due(now) {
                    github.groups.under_way = true;
                    let groups = github.sets.iter().filter_map(|set| self.sets.get(set));
                    let groups: BTreeSet<String> = groups.map(|set| set.setup.spec.group.clone()).collect();
                    self.executor.look_at_groups(key, &github.sets, groups);
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
        let mut runners = self.world.sets.get(set).into_iter().flat_map(|s| s.runners.values());
        runners.any(Runner::is_unconfirmed)
    }

    fn sweep(&self, now: Moment, subject: sweep::Subject, rounds: &mut Rounds) {
        // Until the pods of before are read, every runner of theirs would look like nobody's.
        if !self.world.synced || !rounds.sweeps.schedule.is_due(now) {
            return;
        }
        rounds.sweeps.schedule.under_way = true;
        let known = rounds.sets.iter().map(|name| {
            let id = self.sets.get(name).and_then(|s| s.scale_set_id);
            let runners = self
                .world
                .sets
                .get(name)
                .into_iter()
                .flat_map(|set| set.runners.values());
            let counts = |runner: &&Runner| subject != sweep::Subject::Leftovers || runner.may_be_at_work();
            let runners = runners.filter(counts).map(|runner| runner.name.clone());
            (name.clone(), (id, runners.collect::<BTreeSet<_>>()))
        });
        let order = sweep::Order {
            known: known.collect(),
            first_seen: rounds.sweeps.first_seen.clone(),
        };
        self.executor.sweep(subject, order);
    }
}
