//! Asks each account of a token service how it stands there, before any runner is wanted. When, and what follows, is
//! [`crate::plan::probe`]'s to decide.
//!
//! One probe at a time for each service, so that probes take at most one of the places at its gate.

use std::{collections::BTreeSet, sync::Arc};

use super::{Control, execute::SetParts, timeline::Timeline};
use crate::{
    admission::gate::Urgency,
    ids::SetName,
    plan::{Moment, probe::Probe, reason::Reason},
    provision::{Class, Provisioner, Refusal, Standing},
};

/// The accounts at one token service.
#[derive(Debug, Default)]
pub(super) struct Probes {
    accounts: Vec<Account>,
    under_way: bool,
}

/// Sets that are served in one name and in one way.
#[derive(Debug)]
struct Account {
    provisioner: Arc<dyn Provisioner>,
    sets: Vec<SetName>,
    probe: Probe,
}

impl Probes {
    pub(super) fn add(&mut self, set: &SetName, provisioner: &Arc<dyn Provisioner>) {
        let known = |account: &&mut Account| Arc::ptr_eq(&account.provisioner, provisioner);
        match self.accounts.iter_mut().find(known) {
            Some(account) => account.sets.push(set.clone()),
            None => self.accounts.push(Account {
                provisioner: provisioner.clone(),
                sets: vec![set.clone()],
                probe: Probe::default(),
            }),
        }
    }

    /// What the probes of `before` came to, but for accounts that a change of the file concerns.
    pub(super) fn inherit(&mut self, before: Self, concerned: &BTreeSet<SetName>) {
        self.under_way = before.under_way;
        for old in before.accounts {
            let same = |account: &&mut Account| Arc::ptr_eq(&account.provisioner, &old.provisioner);
            let same = self.accounts.iter_mut().find(same);
            if let Some(account) = same.filter(|account| account.sets.iter().all(|set| !concerned.contains(set))) {
                account.probe = old.probe;
            }
        }
    }
}

impl Control {
    /// Begins the probe whose time has come longest ago.
    pub(super) fn probe(&self, now: Moment, probes: &mut Probes) {
        if probes.under_way {
            return;
        }
        let tried = |sets: &[SetName]| {
            let tries = sets.iter().filter_map(|set| self.sets.get(set)?.last_attempt);
            tries.max()
        };
        let due = probes.accounts.iter_mut().filter_map(|account| {
            let sets = &account.sets;
            let at = account.probe.due_at(&self.world, sets, tried(sets))?;
            (at <= now).then_some((at, account))
        });
        let Some((_, account)) = due.min_by_key(|(at, _)| *at) else {
            return;
        };
        let first = account.sets.first().and_then(|set| self.sets.get(set));
        let parts = first.map(|set| &set.setup.parts);
        if let Some(parts) = parts.filter(|parts| parts.service.breaker.admits()) {
            account.probe.begun(now);
            self.executor.probe(parts.clone());
            probes.under_way = true;
        }
    }

    /// `None`: the question came to nothing.
    pub(super) fn fold_probe(&mut self, now: Moment, asked: &SetParts, answer: Option<Result<Standing, Refusal>>) {
        let service = &asked.service.key;
        let Some(probes) = self.rounds.probes_of(service) else {
            return;
        };
        probes.under_way = false;
        let is_of = |account: &&mut Account| Arc::ptr_eq(&account.provisioner, &asked.service.provisioner);
        let Some(account) = probes.accounts.iter_mut().find(is_of) else {
            return;
        };
        match answer {
            None => {}
            Some(Ok(Standing { says, payer })) => {
                tracing::info!(service, sets = account.sets.len(), "the service knows us: {says}");
                account.probe.passed();
                self.world.vindicated(&account.sets);
                if let Some(payer) = payer {
                    self.world.pays(&account.sets, &format!("{service}, {payer}"));
                }
            }
            Some(Err(refusal)) => {
                tracing::debug!(service, sets = account.sets.len(), %refusal, "the service does not let us have runners");
                account.probe.refused(refusal.class);
                let reason = Reason::new(refusal.class.into(), refusal.message);
                self.world
                    .suspect(now, &account.sets, refusal.class, &reason, refusal.retry_after);
            }
        }
    }
}

/// Once the breaker has admitted the call.
pub(super) async fn ask(set: &SetParts, timeline: &Timeline) -> Result<Standing, Refusal> {
    let permit = set.service.gate.enter(Urgency::Remove, &set.name).await;
    let began = timeline.clock().instant();
    let answer = set.service.provisioner.probe().await;
    // Who tells one account that it may not have runners serves the others.
    let fails = |class: Class| class.is_outage() && class != Class::NotAuthorized;
    set.service.answered(began, answer.as_ref().err(), fails);
    drop(permit);
    answer
}
