//! Asking a token service how we stand with it, without asking for a runner: when, and what the answer changes.
//!
//! Each account is asked once at the start, so that what is wrong shows before any job waits; again, ever later, until
//! the first good answer; and from then on only while something is wrong and nobody's request finds out whether it
//! still is. A bad answer is a suspicion ([`Hurdle::suspect`]): nobody has been refused a runner, so the first one
//! wanted is asked for at once.

use std::time::Duration;

use super::{
    Moment,
    limits::{Hurdle, RECHECK, Scope, is_stubborn},
    reason::{Code, Reason},
    world::World,
};
use crate::{
    ids::SetName,
    provision::{Class, Concerns},
};

/// After a failure that passes by itself: doubling up to [`RECHECK`].
const SOON: Duration = Duration::from_secs(5);
/// A service that does not answer at all holds a place at its gate for as long as its deadline.
const SLOWLY: Duration = Duration::from_secs(30);

/// What is known of one account's probes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    asked: Option<Moment>,
    /// One answer was good.
    passed: bool,
    /// In a row.
    failures: u32,
    newest: Option<Class>,
}

impl Probe {
    pub fn begun(&mut self, now: Moment) {
        self.asked = Some(now);
    }

    pub fn passed(&mut self) {
        self.passed = true;
        self.failures = 0;
        self.newest = None;
    }

    pub fn refused(&mut self, class: Class) {
        self.failures = self.failures.saturating_add(1);
        self.newest = Some(class);
    }

    /// When the account, that of `sets`, is to be asked next; `None`: nothing is to be found out. `tried`: when one of
    /// them last asked for a runner.
    pub fn due_at(&self, world: &World, sets: &[SetName], tried: Option<Moment>) -> Option<Moment> {
        let Some(asked) = self.asked else {
            return Some(Moment::START);
        };
        let mut doubts: Vec<&Hurdle> = sets
            .iter()
            .flat_map(|set| world.scopes_at_service(set))
            .filter_map(|scope| world.hurdles.get(&scope))
            .collect();
        if self.passed {
            doubts.retain(|hurdle| is_disproved_by_probe(hurdle));
        }
        let stubborn = doubts.iter().any(|hurdle| is_stubborn(hurdle.reason.code));
        let pause = if stubborn { RECHECK } else { self.pause() };
        if !self.passed && doubts.iter().all(|hurdle| hurdle.suspected) {
            return Some(asked + pause);
        }
        let quiet = asked.max(tried.unwrap_or(asked)) + pause;
        let after = |hurdle: &&Hurdle| (hurdle.raised + pause).max(hurdle.until + SLOWLY).max(quiet);
        doubts.iter().map(after).max()
    }

    fn pause(&self) -> Duration {
        let first = match self.newest {
            Some(Class::Stalled) => SLOWLY,
            _ => SOON,
        };
        let doublings = self.failures.saturating_sub(1).min(10);
        (first * (1 << doublings)).min(RECHECK)
    }
}

/// Whether a service that knows us and lets us ask for runners shows that the hurdle has gone. What it says about
/// requests (policy, quota, GitHub behind it) only a request shows.
fn is_disproved_by_probe(hurdle: &Hurdle) -> bool {
    hurdle.suspected
        || matches!(
            hurdle.reason.code,
            Code::Credentials | Code::ClockSkew | Code::IssuerDown | Code::Unreachable | Code::NotAuthorized
        )
}

impl World {
    /// Where a refusal of the service behind `set` can stand.
    fn scopes_at_service(&self, set: &SetName) -> impl Iterator<Item = Scope> + use<> {
        let scopes = self.sets.get(set).map(super::world::SetWorld::scopes);
        scopes.into_iter().flatten().filter(|scope| *scope != Scope::Cluster)
    }

    /// The account of `sets` was refused a probe. What a request was refused says more, and stays.
    pub fn suspect(&mut self, now: Moment, sets: &[SetName], class: Class, reason: &Reason, pause: Option<Duration>) {
        for set in sets {
            let Some(world) = self.sets.get(set) else { continue };
            let scope = match class.concerns() {
                Concerns::Set => Scope::Set(set.clone()),
                Concerns::Account => Scope::Account(world.account.clone()),
                Concerns::Service => Scope::Provisioner(world.provisioner.clone()),
            };
            let old = self.hurdles.get(&scope);
            if old.is_none_or(|old| old.suspected) {
                let hurdle = Hurdle::suspect(old, now, reason.clone(), pause);
                self.hurdles.insert(scope, hurdle);
            }
        }
    }

    /// The account of `sets` stands well with its service.
    pub fn vindicated(&mut self, sets: &[SetName]) {
        let scopes: Vec<Scope> = sets.iter().flat_map(|set| self.scopes_at_service(set)).collect();
        self.hurdles
            .retain(|scope, hurdle| !(scopes.contains(scope) && is_disproved_by_probe(hurdle)));
    }

    /// The account that the file names so, as sets that turned out to share it call it.
    pub fn account<'a>(&'a self, named: &'a str) -> &'a str {
        self.payers.get(named).map_or(named, String::as_str)
    }

    /// Under which name the account of `sets` is kept from now on: so sets that name one team in several ways share
    /// what it is refused.
    pub fn pays(&mut self, sets: &[SetName], account: &str) {
        for set in sets {
            let Some(world) = self.sets.get(set) else { continue };
            if world.account == account {
                continue;
            }
            let old = world.account.clone();
            // Whoever the file names alike is asked for alike, though in another way.
            for set in self.sets.values_mut().filter(|set| set.account == old) {
                account.clone_into(&mut set.account);
            }
            for payer in self.payers.values_mut().filter(|payer| **payer == old) {
                account.clone_into(payer);
            }
            self.payers.insert(old.clone(), account.to_owned());
            let (old, new) = (Scope::Account(old), Scope::Account(account.to_owned()));
            if let Some(hurdle) = self.hurdles.get(&old).cloned() {
                self.hurdles.entry(new.clone()).or_insert(hurdle);
            }
            if let Some(granted) = self.granted.get(&old).copied() {
                let known = self.granted.entry(new).or_insert(granted);
                *known = granted.max(*known);
            }
        }
        let accounts: Vec<Scope> = self
            .sets
            .values()
            .map(|set| Scope::Account(set.account.clone()))
            .collect();
        let is_used = |scope: &Scope| !matches!(scope, Scope::Account(_)) || accounts.contains(scope);
        self.hurdles.retain(|scope, _| is_used(scope));
        self.granted.retain(|scope, _| is_used(scope));
    }
}
