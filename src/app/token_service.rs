//! The GHARTS that the file names: one client and one gate for all, and one provisioner for each team and way of binding
//! that some set asks for.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use crate::{
    admission::{SharedBreaker, gate::Gate},
    clock::Clock,
    config::{ConfigUrl, Gharts, RunnerBinding, ScaleSet},
    control::Service,
    gharts::Client,
    http::SharedTransport,
    identity::Cached,
    provision::gharts::{Binding, GhartsProvisioner, GitHubAccess},
};

/// One token service, spoken to with one identity.
pub(super) struct TokenService {
    pub(super) client: Arc<Client>,
    pub(super) gate: Gate,
    pub(super) breaker: SharedBreaker,
    /// For people, and to tell services apart.
    pub(super) key: String,
    pub(super) max_in_flight: u32,
    clock: Clock,
    /// Where a registration token is used.
    github: SharedTransport,
    seed: u64,
    token: Arc<Cached>,
    /// As the file has it.
    gharts: Gharts,
    accounts: Vec<(Account, Arc<GhartsProvisioner>)>,
}

/// In whose name, and how, a set's runners are asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Account {
    team: Option<String>,
    binding: RunnerBinding,
    runner_group_id: Option<i64>,
    scope: ConfigUrl,
}

impl TokenService {
    /// `transport` leads to it, `github` to where a registration token is used.
    pub(super) fn new(
        gharts: &Gharts,
        token: Arc<Cached>,
        transport: SharedTransport,
        github: SharedTransport,
        clock: Clock,
        seed: u64,
    ) -> Self {
        Self {
            client: Arc::new(Client::new(
                transport,
                clock.clone(),
                &gharts.base_url,
                token.clone(),
                gharts.timeout,
            )),
            gate: Gate::new(Some(&gharts.limits), clock.clone()),
            breaker: SharedBreaker::new(clock.clone()),
            key: format!("GHARTS at {}", gharts.base_url),
            max_in_flight: gharts.limits.max_in_flight,
            clock,
            github,
            seed,
            token,
            gharts: gharts.clone(),
            accounts: Vec::new(),
        }
    }

    /// For a changed file: what is learnt of a service and what is under way there stands as long as it is the same
    /// service, spoken to with the same identity. Else `anew`.
    pub(super) fn renewed(before: Option<Self>, gharts: &Gharts, anew: impl FnOnce() -> Self) -> Self {
        let identity = |gharts: &Gharts| (gharts.base_url.clone(), gharts.oidc.clone(), gharts.timeout);
        let Some(mut same) = before.filter(|before| identity(&before.gharts) == identity(gharts)) else {
            return anew();
        };
        if same.gharts.limits != gharts.limits {
            same.gate = Gate::new(Some(&gharts.limits), same.clock.clone());
            same.max_in_flight = gharts.limits.max_in_flight;
        }
        same.gharts = gharts.clone();
        same
    }

    /// See [`super::compose::Assembly::renew_tokens`].
    pub(super) fn renew_token(&self, changed: &BTreeSet<PathBuf>) {
        if self.gharts.oidc.file().is_some_and(|file| changed.contains(file)) {
            self.token.renew();
        }
    }

    pub(super) fn account(&self, set: &ScaleSet) -> Account {
        Account {
            team: set.gharts.team.clone().or_else(|| self.gharts.team.clone()),
            binding: set.binding,
            runner_group_id: set.gharts.runner_group_id,
            scope: set.github.config_url.clone(),
        }
    }

    /// What it is to one set.
    pub(super) fn service(&mut self, set: &ScaleSet) -> Service {
        let account = self.account(set);
        Service {
            provisioner: self.provisioner(&account),
            key: self.key.clone(),
            account: self.quota_key(&account),
            gate: self.gate.clone(),
            breaker: self.breaker.clone(),
        }
    }

    /// Where no set uses it.
    pub(super) fn default_account(&self, scope: &ConfigUrl) -> Account {
        Account {
            team: self.gharts.team.clone(),
            binding: RunnerBinding::Auto,
            runner_group_id: None,
            scope: scope.clone(),
        }
    }

    /// Sets with the same key share a quota.
    pub(super) fn quota_key(&self, account: &Account) -> String {
        match &account.team {
            Some(team) => format!("{}, team {team}", self.key),
            None => self.key.clone(),
        }
    }

    pub(super) fn provisioner(&mut self, account: &Account) -> Arc<GhartsProvisioner> {
        if let Some((_, made)) = self.accounts.iter().find(|(known, _)| known == account) {
            return made.clone();
        }
        let binding = match account.binding {
            RunnerBinding::Auto | RunnerBinding::ScaleSet => Binding::ScaleSet,
            RunnerBinding::Labels(_) => Binding::Labels {
                runner_group_id: account.runner_group_id,
            },
            RunnerBinding::RegistrationToken => Binding::RegistrationToken(Box::new(GitHubAccess {
                transport: self.github.clone(),
                config_url: account.scope.clone(),
                seed: self.seed,
            })),
        };
        let made = GhartsProvisioner::new(self.client.clone(), self.clock.clone(), account.team.clone(), binding);
        let made = Arc::new(made);
        self.accounts.push((account.clone(), made.clone()));
        made
    }
}
