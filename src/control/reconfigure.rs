//! The file has changed: what of the loop's state changes with it, while everything else goes on.
//!
//! Sets come, change and go one by one, and no session is closed but those of sets that are gone or live elsewhere at
//! GitHub now. What was begun under the old settings is ended under them ([`SetState::of_before`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Control, SetParts, SetSetup, SetState, poller::Wish, sweep};
use crate::{
    ids::{Maker, RunnerName, SetName},
    lease::{ServedSet, ServedSets},
    plan::{
        removed::{Compared, Emptied},
        runner::Place,
        world::SetWorld,
    },
};

/// What a change of the file comes to.
#[derive(Debug)]
pub struct Reconfigured {
    /// Every set of the file as it is now.
    pub sets: Vec<SetSetup>,
    /// Over all sets.
    pub max_runners: Option<u32>,
    /// Sets that the change is about: what was refused to them is tried at once.
    pub concerned: BTreeSet<SetName>,
}

impl SetParts {
    /// Who makes its pods, where `lease` is ours.
    pub(crate) fn maker(&self, lease: &str) -> Maker {
        Maker {
            lease: lease.to_owned(),
            github: Some(self.connection.config_url().url.to_string()),
        }
    }

    /// Whether a runner that was begun with these can be ended with `other`.
    fn serves_as(&self, other: &Self) -> bool {
        let records = |parts: &Self| parts.records.as_ref().map(|service| service.provisioner.clone());
        let same_records = match (records(self), records(other)) {
            (Some(one), Some(other)) => Arc::ptr_eq(&one, &other),
            (None, _) => true,
            (Some(_), None) => false,
        };
        // Whoever may act there may end it: the credential of then may be refused by now.
        same_records && self.leaves_things == other.leaves_things && self.is_in_scope_of(other)
    }

    /// Registered there, a runner is of use for sets of this scope.
    fn is_in_scope_of(&self, other: &Self) -> bool {
        self.connection.config_url() == other.connection.config_url()
    }
}

impl SetSetup {
    /// What ends the runners of a set of before that was served as this one is.
    fn of_former(&self, name: &SetName) -> Self {
        let parts = SetParts {
            name: name.clone(),
            namer: self.parts.namer.of(name),
            ..(*self.parts).clone()
        };
        Self {
            parts: Arc::new(parts),
            ..self.clone()
        }
    }
}

impl SetState {
    /// What the next leader must know of it.
    pub(super) fn served(&self) -> ServedSet {
        ServedSet(self.setup.provisioner_word.to_owned(), self.place(), self.scale_set_id)
    }

    fn place(&self) -> String {
        self.setup.parts.connection.config_url().url.to_string()
    }

    fn place_of(&self, runner: &RunnerName) -> Place {
        if self.strayed.get(runner).is_some_and(|at| *at != self.place()) {
            Place::OutOfReach
        } else if self.parts_of(runner).is_in_scope_of(&self.setup.parts) {
            Place::Here
        } else {
            Place::Elsewhere
        }
    }

    /// What a runner of this set is ended by.
    pub(super) fn parts_of(&self, runner: &RunnerName) -> &Arc<SetParts> {
        self.of_before.get(runner).unwrap_or(&self.setup.parts)
    }

    /// What the set is served by, and what its runners of before are ended by.
    pub(super) fn all_parts(&self) -> impl Iterator<Item = &Arc<SetParts>> {
        std::iter::once(&self.setup.parts).chain(self.of_before.values())
    }
}

impl Control {
    pub(super) fn reconfigure(&mut self, change: Reconfigured) {
        self.world.max_runners = change.max_runners;
        let named: BTreeSet<SetName> = change.sets.iter().map(|set| set.parts.name.clone()).collect();
        let gone = self
            .sets
            .iter()
            .filter(|(name, set)| !set.removed && !named.contains(*name));
        let gone: Vec<SetName> = gone.map(|(name, _)| name.clone()).collect();
        for name in gone {
            self.remove(&name);
        }
        for set in change.sets {
            match self.sets.remove(&set.parts.name) {
                None => self.add(set, None),
                Some(state) if state.removed => self.add(set, Some(state)),
                Some(state) => self.change(set, state, &change.concerned),
            }
        }
        self.rounds.renew(&self.sets, &change.concerned);
        self.leadership.must_tell_of_sets = true;
        let now = self.timeline.now();
        self.world.reconsider(now, &change.concerned);
    }

    /// Sets that the last leader served and that the file names no more: it was changed while no daemon ran, or for another
    /// replica. Their runners count from now on, and end as they would under a running daemon, but not before the file has
    /// had the time to come to this replica as well.
    pub(super) fn recall(&mut self, served_before: ServedSets) {
        for (name, ServedSet(provisioner, github, id)) in served_before {
            if let Some(state) = self.sets.get_mut(&name) {
                let ServedSet(_, at, known) = state.served();
                // The next leader must know it, too, should this one come to nothing.
                state.scale_set_id = known.or(id.filter(|_| at == github));
                continue;
            }
            let alike = |state: &&SetState| {
                let ServedSet(by, at, _) = state.served();
                !state.removed && by == provisioner && at == github
            };
            let Some(setup) = self.sets.values().find(alike).map(|like| like.setup.of_former(&name)) else {
                tracing::warn!(
                    set = %name, provisioner, github,
                    "the file names this set no more, and no other one that is served like it: what it left stays; put it \
                     back into the file, or into another one for `gharts-listener cleanup`"
                );
                continue;
            };
            tracing::info!(
                set = %name,
                "the file names this set no more: what it left ends in two minutes, unless the file names it again"
            );
            let queue = self.queues.begin(&name, Wish::of(&setup), self.rng.u64(..), None);
            queue.end();
            let mut world = self.set_anew(&setup);
            world.recall();
            self.world.insert_carefully(world);
            let state = SetState {
                removed: true,
                recalled: true,
                scale_set_id: id,
                ..SetState::new(setup, queue)
            };
            self.sets.insert(name, state);
        }
    }

    /// With the account's name as it is known by now.
    fn set_anew(&self, set: &SetSetup) -> SetWorld {
        let mut world = self.blank_set(set);
        world.account = self.world.account(&world.account).to_owned();
        world
    }

    /// No more runners are made for it; those that it has end. It is not deleted at GitHub.
    fn remove(&mut self, name: &SetName) {
        let (Some(state), Some(world)) = (self.sets.get_mut(name), self.world.sets.get_mut(name)) else {
            return;
        };
        tracing::info!(set = %name, runners = world.runners.len(), "the file names this set no more: its runners end");
        state.removed = true;
        state.queue.end();
        world.remove();
    }

    /// `before`: it is being removed still.
    fn add(&mut self, set: SetSetup, before: Option<SetState>) {
        let name = set.parts.name.clone();
        tracing::info!(set = %name, "a new set");
        let mut world = self.set_anew(&set);
        let (mut of_before, mut strayed) = (BTreeMap::new(), BTreeMap::new());
        let mut queue_before = None;
        if let (Some(old), Some(state)) = (self.world.sets.remove(&name), before) {
            of_before = inherited(&state, &set, old.runners.keys());
            world.runners = old.runners;
            strayed = state.strayed;
            queue_before = Some(state.queue);
        }
        let queue = self.queues.begin(&name, Wish::of(&set), self.rng.u64(..), queue_before);
        if self.leadership.leads() {
            world.unlisted = true;
            self.leadership.list_pods_anew();
        }
        self.world.insert_carefully(world);
        let mut state = SetState::new(set, queue);
        (state.of_before, state.strayed) = (of_before, strayed);
        self.sets.insert(name.clone(), state);
        self.displace(&name);
    }

    /// Runners that are registered elsewhere get no job of the set's any more; those of where it is now do again.
    fn displace(&mut self, set: &SetName) {
        let (Some(state), Some(world)) = (self.sets.get(set), self.world.sets.get_mut(set)) else {
            return;
        };
        for (name, runner) in &mut world.runners {
            runner.set_place(state.place_of(name));
        }
    }

    fn change(&mut self, set: SetSetup, mut state: SetState, concerned: &BTreeSet<SetName>) {
        let name = set.parts.name.clone();
        let now = self.timeline.now();
        let anew = self.set_anew(&set);
        let Some(world) = self.world.sets.get(&name) else {
            return;
        };
        let moved = !state.setup.parts.is_in_scope_of(&set.parts);
        state.of_before = inherited(&state, &set, world.runners.keys());
        if moved {
            state.scale_set_id = None;
            state.notes.clear();
            state.group_notes.clear();
        }
        if world.provisioner != anew.provisioner {
            state.granted_once = false;
        }
        self.world.change(now, anew, moved);
        let is_blocked = self
            .world
            .sets
            .get(&name)
            .is_some_and(|world| world.session.blocks().is_some());
        let wish = Wish::of(&set);
        let unserved = concerned.contains(&name) && is_blocked;
        state.queue.wish.send_if_modified(|old| {
            let changed = *old != wish;
            *old = wish;
            changed || unserved
        });
        // A gate that is kept knows of its bound, a new one does not.
        set.parts.service.gate.set_create_limit(None);
        state.one_by_one = false;
        state.setup = set;
        self.sets.insert(name.clone(), state);
        self.displace(&name);
    }

    /// A comparison has found something of a removed set, or nothing.
    pub(super) fn count_comparison(&mut self, subject: &sweep::Subject, findings: &sweep::Findings) {
        if !findings.complete {
            return;
        }
        for (name, state) in &mut self.sets {
            let (Some(emptied), parts) = (&mut state.emptied, &state.setup.parts) else {
                continue;
            };
            let with = match subject {
                sweep::Subject::Agents(github) if *github == parts.github => Compared::Agents,
                sweep::Subject::Records(key) if parts.records.as_ref().is_some_and(|r| r.key == *key) => {
                    Compared::Records
                }
                _ => continue,
            };
            emptied.compare(with, findings.left.contains(name));
        }
    }

    /// Forgets the sets that were removed once nothing of them is left: also while standing by, lest their pods be
    /// nobody's when this replica leads.
    pub(super) fn forget_removed(&mut self) {
        // Nobody knows what is left before the pods are read.
        if !self.world.synced {
            return;
        }
        let now = self.timeline.now();
        let (world, leadership) = (&mut self.world, &self.leadership);
        let metrics = &self.setup.metrics;
        let before = self.sets.len();
        self.sets.retain(|name, state| {
            let is_left = match world.sets.get(name) {
                Some(set) if leadership.leads() => {
                    state.of_before.retain(|runner, _| set.runners.contains_key(runner));
                    !set.runners.is_empty()
                }
                _ => leadership.sees_pod_of(&state.setup.parts),
            };
            if !state.removed || !state.queue.is_over() || is_left {
                state.emptied = None;
                return true;
            }
            let has_records = state.setup.parts.records.is_some();
            let emptied = state.emptied.get_or_insert(Emptied::new(now));
            let is_over = emptied.is_over(now, leadership.leads(), has_records);
            if is_over {
                tracing::info!(set = %name, "nothing is left of the set that was removed");
                world.forget(name);
                metrics.remove_set(name.as_str());
            }
            !is_over
        });
        if self.sets.len() != before {
            self.leadership.must_tell_of_sets = true;
            self.rounds.renew(&self.sets, &BTreeSet::new());
        }
    }
}

/// Which runners are to be ended by other parts than `new` ones.
fn inherited<'a>(
    state: &SetState,
    new: &SetSetup,
    runners: impl Iterator<Item = &'a RunnerName>,
) -> BTreeMap<RunnerName, Arc<SetParts>> {
    runners
        .filter(|runner| !state.strayed.contains_key(*runner))
        .map(|runner| (runner, state.parts_of(runner)))
        .filter(|(_, parts)| !parts.serves_as(&new.parts))
        .map(|(runner, parts)| (runner.clone(), parts.clone()))
        .collect()
}
