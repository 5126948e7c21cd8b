//! Whom a refusal stops: the one scale set, everybody in whose name was asked, everybody behind the service, or, where
//! the cluster refuses, all. Too narrow, and every set tries for itself at a service that serves nobody; too wide, and
//! one set's own trouble stops the others.

use super::{
    limits::{Scope, alike},
    reason::Code,
    world::{SetWorld, World},
};
use crate::{
    ids::SetName,
    plan::Moment,
    provision::{Class, Concerns},
};

/// Sets that must be refused alike before it is the provisioner that refuses.
const PROOF: usize = 3;

/// Who was asked, and in whose name.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub provisioner: &'a str,
    pub account: &'a str,
}

/// What the cluster refuses of a set's own template stops that set alone, and so does an admission that is ill: it may
/// be asked about that set's pods only.
pub fn at_cluster(set: &SetName, code: Code, by_webhook: bool) -> Scope {
    match code {
        Code::InvalidTemplate => Scope::Set(set.clone()),
        _ if by_webhook => Scope::Set(set.clone()),
        _ => Scope::Cluster,
    }
}

impl World {
    /// Whom the refusal of a call about a runner of `set` stops. What GitHub says behind the service's back
    /// (`by_github`) is about the set.
    pub fn stopped_by(&self, set: &SetName, asked: Asked<'_>, class: Class, by_github: bool) -> Scope {
        let all = match class.concerns() {
            Concerns::Set => return Scope::Set(set.clone()),
            _ if by_github => return Scope::Set(set.clone()),
            Concerns::Account => Scope::Account(asked.account.to_owned()),
            Concerns::Service => Scope::Provisioner(asked.provisioner.to_owned()),
        };
        if class.may_concern_one_set() {
            self.concerned(set, class.into(), all)
        } else {
            all
        }
    }

    /// Whom a refusal stops that may be about this set alone or about everybody: its own failing creations must not
    /// stop those of others. So it is about the set, until as many sets as prove it ([`PROOF`]) are refused alike
    /// while nobody within `all` is granted anything.
    fn concerned(&self, set: &SetName, code: Code, all: Scope) -> Scope {
        let own = Scope::Set(set.clone());
        if self.hurdles.contains_key(&all) {
            return all;
        }
        let granted = self.granted.get(&all).copied().unwrap_or(Moment::START);
        let sharers = || self.sets.values().filter(|other| other.scopes().contains(&all));
        let refused = |other: &&SetWorld| {
            other.name != *set
                && self
                    .hurdles
                    .get(&Scope::Set(other.name.clone()))
                    .is_some_and(|h| h.raised > granted && alike(h.reason.code, code))
        };
        let proof = PROOF.min(sharers().count());
        if 1 + sharers().filter(refused).count() >= proof {
            all
        } else {
            own
        }
    }
}
