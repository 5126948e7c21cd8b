//! What comes of tries, and of the runners that they made: which hurdles rise by it, and which fall. Whom a refusal stops
//! is [`super::blame`]'s.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Moment,
    limits::{Hurdle, Scope},
    reason::{Code, Reason},
    runner::{CallResult, Failure, Meets},
    tally::Tally,
    world::{SetWorld, World},
};
use crate::{
    config::Retry,
    ids::{RunnerName, SetName},
};

/// What is taken away so long after another one has nothing to do with that.
const TAKEN_AGAIN: Duration = Duration::from_mins(10);
/// What mends it that runners come online, and go before they have a job.
const TAKEN: &str = "look at the pods' Events for what takes runners away (evictions, taints, a device plugin, whoever deletes pods or \
                     registrations) or keeps GitHub from hearing of them (network policies, proxies)";
/// The same where they end by themselves.
const DIES: &str = "runners register, and end before they have a job: look at their last lines (`gharts-listener logs`), their \
                    memory limit and what else runs in their pods";

impl World {
    /// A hurdle that recovers, or of which nothing has been heard for long, falls when nobody behind it lacks anything.
    pub(super) fn drop_what_stops_nobody(&mut self, now: Moment) {
        let sets = &self.sets;
        let own: BTreeSet<SetName> = self.hurdles.keys().filter_map(Scope::set).cloned().collect();
        self.hurdles.retain(|scope, hurdle| {
            let lacks = |set: &SetWorld| {
                // What its own hurdle stops says nothing of what all share.
                let elsewhere = scope.set().is_none() && own.contains(&set.name);
                let tally = Tally::of(set);
                !elsewhere && (set.could_use(&tally) > tally.covering || tally.awaiting_grant > 0)
            };
            let concerned = || sets.values().filter(|set| set.scopes().contains(scope));
            let is_heard = |set: &SetWorld| set.session.blocks().is_none();
            let stale = hurdle.stale_at().is_some_and(|at| at <= now);
            // Of a set whose queue is not heard nobody knows whether its jobs wait.
            let is_over = (hurdle.recovering && !concerned().any(|set| is_heard(set) && lacks(set)))
                || (stale && concerned().all(|set| is_heard(set) && !lacks(set)));
            !is_over
        });
    }

    /// A refusal of a call that was begun at `began` stops everybody in `scope`.
    pub fn refused(
        &mut self,
        now: Moment,
        began: Moment,
        scope: Scope,
        reason: Reason,
        jitter: f64,
        retry_after: Option<Duration>,
    ) {
        let default = Retry::default();
        let stopped = self.sets.values().find(|set| set.scopes().contains(&scope));
        let retry = match &scope {
            Scope::Cluster => &default,
            _ => stopped.map_or(&default, |set| &set.retry),
        };
        let mut hurdle = Hurdle::raise(self.hurdles.get(&scope), now, began, reason, jitter, retry_after, retry);
        if stopped.is_some_and(|set| set.changed.is_some_and(|changed| began < changed)) {
            // It speaks of what the file said before.
            hurdle.reconsider(now);
        }
        self.hurdles.insert(scope, hurdle);
    }

    /// A call that creates nothing was told to come back later. A hurdle that stands there keeps its own reason.
    pub fn told_to_wait(
        &mut self,
        now: Moment,
        scope: Scope,
        reason: Reason,
        jitter: f64,
        retry_after: Option<Duration>,
    ) {
        match (self.hurdles.get_mut(&scope), retry_after) {
            (Some(hurdle), Some(pause)) => hurdle.told(now, pause),
            _ => self.refused(now, now, scope, reason, jitter, retry_after),
        }
    }

    /// A creation succeeded that `scope` could have stopped; `disproves`: the hurdles that it disproves.
    pub(super) fn passed(&mut self, now: Moment, scope: &Scope, disproves: impl Fn(Code) -> bool) {
        let Some(hurdle) = self.hurdles.get_mut(scope) else {
            return;
        };
        if disproves(hurdle.reason.code) && hurdle.passed(now) {
            self.hurdles.remove(scope);
        }
    }

    /// A JIT configuration was granted: nothing at the provisioner, and nothing that it says of the set, stops.
    pub fn granted(&mut self, now: Moment, set: &SetName) {
        if let Some(world) = self.sets.get_mut(set) {
            world.refused = None;
        }
        let Some(world) = self.sets.get(set) else { return };
        let scopes = [
            Scope::Provisioner(world.provisioner.clone()),
            Scope::Account(world.account.clone()),
        ];
        for scope in scopes {
            self.passed(now, &scope, |_| true);
            self.granted.insert(scope, now);
        }
        self.passed(now, &Scope::Set(set.clone()), |code| {
            !matches!(
                code,
                Code::InvalidTemplate
                    | Code::ClusterUnavailable
                    | Code::PodsFailing
                    | Code::RunnerDeprecated
                    | Code::RunnersLeave
            )
        });
    }

    /// Pod and Secret were created: nothing at the cluster stops.
    pub fn pod_accepted(&mut self, now: Moment, set: &SetName) {
        self.passed(now, &Scope::Cluster, |_| true);
        self.passed(now, &Scope::Set(set.clone()), |code| {
            matches!(code, Code::InvalidTemplate | Code::ClusterUnavailable)
        });
    }

    /// The deletion of a pod was answered: where the right to delete is missing, one pod more would stay for ever.
    pub fn deletion_came_to(&mut self, result: CallResult) {
        match result {
            CallResult::Forbidden => {
                let said = "the API server forbids to delete pods: no more are made until it lets us delete one";
                self.undeletable = Some(Reason::new(Code::Forbidden, said));
            }
            CallResult::Done => self.undeletable = None,
            _ => {}
        }
    }

    /// A runner came online: the set's pods do not fail.
    pub fn runner_works(&mut self, now: Moment, set: &SetName) {
        if let Some(set) = self.sets.get_mut(set) {
            set.worked = Some(now);
        }
        self.passed(now, &Scope::Set(set.clone()), |code| {
            matches!(code, Code::PodsFailing | Code::RunnerDeprecated)
        });
    }

    /// A runner has or had a job: the set's runners stay until they get one.
    pub fn runner_has_job(&mut self, now: Moment, set: &SetName) {
        self.runner_works(now, set);
        if let Some(set) = self.sets.get_mut(set) {
            set.left.1 = 0;
        }
        self.passed(now, &Scope::Set(set.clone()), |code| code == Code::RunnersLeave);
    }

    /// A runner ended.
    pub fn runner_ended(&mut self, set: &SetName, name: &RunnerName) {
        let left = self.runner(set, name).is_some_and(|runner| runner.has_left());
        if let Some(set) = self
            .sets
            .get_mut(set)
            .filter(|set| left && set.kind.meets == Meets::ByLabels)
        {
            set.has_left();
        }
    }

    /// A runner failed; its set backs off where the next one would fail too.
    pub fn runner_failed(&mut self, now: Moment, set: &SetName, name: &RunnerName, failure: Failure, jitter: f64) {
        let early = self.runner(set, name).is_some_and(|runner| runner.failed_early());
        if !failure.speaks_against_set(early) || (failure.is_taken_away() && !self.is_taken_again(now, set, name)) {
            return;
        }
        let (code, remedy) = match failure {
            Failure::Deprecated => (Code::RunnerDeprecated, None),
            Failure::ExitedWithoutJob => (Code::RunnersLeave, None),
            // That the next one comes online proves nothing: a job would.
            lost if lost.is_taken_away() || lost == Failure::WentOffline => (Code::RunnersLeave, Some(TAKEN)),
            // Of an ordinary runner nobody tells whether it had one.
            _ if self
                .runner(set, name)
                .is_some_and(|runner| runner.failed_online() && runner.meets() == Meets::InSet) =>
            {
                (Code::RunnersLeave, Some(DIES))
            }
            _ => (Code::PodsFailing, None),
        };
        let runner = self.runner(set, name);
        let began = runner.as_ref().map_or(now, |r| r.created);
        let said = runner
            .and_then(|r| r.said().map(|said| format!(" ({said})")))
            .unwrap_or_default();
        let reason = Reason::new(code, format!("runner {name} failed: {}{said}", failure.as_str()));
        let reason = Reason {
            remedy: remedy.or(reason.remedy),
            ..reason
        };
        self.refused(now, began, Scope::Set(set.clone()), reason, jitter, None);
    }

    /// One that is taken away may be chance; the one that was made in its place is not.
    fn is_taken_again(&mut self, now: Moment, set: &SetName, name: &RunnerName) -> bool {
        let made = self.runner(set, name).map_or(now, |runner| runner.created);
        let Some(set) = self.sets.get_mut(set) else {
            return false;
        };
        let again = set.taken.is_some_and(|at| at <= made && now.since(at) < TAKEN_AGAIN);
        if again || set.taken.is_none_or(|at| now.since(at) >= TAKEN_AGAIN) {
            set.taken = Some(now);
        }
        again
    }

    /// One of our own places behind `scope` was given back: it is tried for at once.
    pub fn place_freed(&mut self, now: Moment, scope: &Scope) {
        if let Some(hurdle) = self.hurdles.get_mut(scope) {
            hurdle.place_freed(now);
        }
    }
}
