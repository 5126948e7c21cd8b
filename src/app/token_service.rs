//! The GHARTS that the file names: one client and one gate for all, and one provisioner for each team and way of binding
//! that some set asks for.

use std::sync::Arc;

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
    team: Option<String>,
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
    pub(super) fn new(gharts: &Gharts, client: Arc<Client>, github: SharedTransport, clock: Clock, seed: u64) -> Self {
        Self {
            client,
            gate: Gate::new(Some(&gharts.limits), clock.clone()),
            breaker: SharedBreaker::new(clock.clone()),
            key: format!("GHARTS at {}", gharts.base_url),
            max_in_flight: gharts.limits.max_in_flight,
            clock,
            github,
            seed,
            team: gharts.team.clone(),
            accounts: Vec::new(),
        }
    }

    pub(super) fn account(&self, set: &ScaleSet) -> Account {
        Account {
            team: set.gharts.team.clone().or_else(|| self.team.clone()),
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
            team: self.team.clone(),
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

/// One identity's way to a token service.
pub(super) fn client(gharts: &Gharts, transport: SharedTransport, clock: Clock, token: Arc<Cached>) -> Arc<Client> {
    Arc::new(Client::new(transport, clock, &gharts.base_url, token, gharts.timeout))
}
