//! Every way to GitHub that the file's scale sets take.
//!
//! Sets of one scope and one credential share everything: connection, gate, breaker, provisioner. Where one
//! credential opens several scopes of a host, its REST token is shared as well. Nothing is shared beyond that, so
//! that a credential that fails or hangs delays nobody else's sets. Where GHARTS hands out registration tokens
//! instead, each scope has its own.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use crate::{
    admission::{SharedBreaker, gate::Gate},
    clock::Clock,
    config::{Config, ConfigUrl, GitHub, GitHubAuth, Limits},
    http::SharedTransport,
    identity::{Cached, TokenSource, github_token_source},
    provision::{Provisioner, scale_set::ScaleSetProvisioner},
    scaleset::{Authority, Connection},
};

/// One credential's way into one scope.
pub(super) struct Way {
    place: (ConfigUrl, GitHubAuth),
    limits: Limits,
    pub(super) connection: Arc<Connection>,
    pub(super) gate: Gate,
    pub(super) breaker: SharedBreaker,
    pub(super) provisioner: Arc<dyn Provisioner>,
    /// For people, and to tell the ways apart.
    pub(super) key: String,
    /// Registrations that may be under way at one time.
    pub(super) jits_in_flight: u32,
}

/// All of them.
#[derive(Default)]
pub(super) struct GitHubs {
    ways: Vec<Arc<Way>>,
    /// REST tokens, each with whose it is.
    tokens: Vec<(GitHub, Arc<Cached>)>,
}

impl GitHubs {
    /// `cached` puts its cache in front of a source of REST tokens; `brokered` is where GHARTS hands out those for
    /// a scope.
    pub(super) fn new(
        config: &Config,
        transport: &SharedTransport,
        clock: &Clock,
        seed: u64,
        cached: impl Fn(Arc<dyn TokenSource>) -> Cached,
        brokered: impl Fn(&ConfigUrl) -> Cached,
    ) -> Self {
        Self::default().renewed(config, transport, clock, seed, cached, brokered, true)
    }

    /// For a changed file: ways and tokens that it takes still are the same ones. `same_service`: so is the GHARTS
    /// that hands out registration tokens.
    #[expect(clippy::too_many_arguments, reason = "what `new` takes, and one thing more")]
    pub(super) fn renewed(
        &self,
        config: &Config,
        transport: &SharedTransport,
        clock: &Clock,
        seed: u64,
        cached: impl Fn(Arc<dyn TokenSource>) -> Cached,
        brokered: impl Fn(&ConfigUrl) -> Cached,
        same_service: bool,
    ) -> Self {
        let mut places: Vec<&GitHub> = Vec::new();
        for set in &config.scale_sets {
            if !places.iter().any(|place| is_same(place, &set.github)) {
                places.push(&set.github);
            }
        }
        let old = |github: &GitHub| {
            let same = self.ways.iter().find(|way| way.is_for(github));
            same.filter(|way| same_service || !way.is_brokered())
        };
        let mut tokens: Vec<(GitHub, Arc<Cached>)> = Vec::new();
        let mut ways: Vec<Arc<Way>> = places.iter().filter_map(|github| old(github).cloned()).collect();
        for (github, seed) in places.iter().zip(seed..) {
            let known = tokens
                .iter()
                .chain(&self.tokens)
                .find(|(other, _)| shares_token(other, github));
            let known = known.map(|(_, token)| token.clone());
            if let Some(token) = known
                .clone()
                .filter(|_| !tokens.iter().any(|(other, _)| shares_token(other, github)))
            {
                tokens.push(((*github).clone(), token));
            }
            if let Some(at) = ways.iter().position(|way| way.is_for(github)) {
                if ways[at].limits != github.limits {
                    ways[at] = Arc::new(Way::new(
                        github,
                        ways[at].connection.clone(),
                        ways[at].key.clone(),
                        clock,
                    ));
                }
                continue;
            }
            let (token, is_brokered) = match known {
                Some(token) => (token, false),
                None => match github_token_source(github, transport.clone(), clock.clone()) {
                    Some(source) => {
                        let token = Arc::new(cached(source));
                        tokens.push(((*github).clone(), token.clone()));
                        (token, false)
                    }
                    None => (Arc::new(brokered(&github.config_url)), true),
                },
            };
            let url = &github.config_url.url;
            let alone = places.iter().filter(|other| is_same_scope(other, github)).count() == 1;
            let key = if alone {
                format!("GitHub at {url}")
            } else {
                format!("GitHub at {url} with {}", token.describe())
            };
            // Two keys of one App, say.
            let taken = |key: &str| ways.iter().any(|way: &Arc<Way>| way.key == key);
            let numbered = (2_u32..).map(|n| format!("{key} ({n})"));
            let key = std::iter::once(key.clone())
                .chain(numbered)
                .find(|key| !taken(key))
                .unwrap_or(key);
            let authority = if is_brokered {
                Authority::Registration(token)
            } else {
                Authority::Rest(token)
            };
            let place = github.config_url.clone();
            let connection = Connection::new(transport.clone(), clock.clone(), place, authority, seed);
            ways.push(Arc::new(Way::new(github, Arc::new(connection), key, clock)));
        }
        Self { ways, tokens }
    }

    /// The way that a set with these settings takes.
    #[expect(clippy::expect_used, reason = "every scale set's settings were given to `new`")]
    pub(super) fn of(&self, github: &GitHub) -> &Arc<Way> {
        self.ways
            .iter()
            .find(|way| way.is_for(github))
            .expect("a way for every scale set")
    }

    /// See [`super::compose::Assembly::renew_tokens`].
    pub(super) fn renew_tokens(&self, changed: &BTreeSet<PathBuf>) {
        let is_of = |auth: &GitHubAuth| auth.file().is_some_and(|file| changed.contains(file));
        for (_, token) in self.tokens.iter().filter(|(github, _)| is_of(&github.auth)) {
            token.renew();
        }
        for way in self.ways.iter().filter(|way| is_of(&way.place.1)) {
            way.connection.reconsider();
        }
    }

    pub(super) fn ways(&self) -> &[Arc<Way>] {
        &self.ways
    }
}

impl Way {
    /// GHARTS hands out what opens it.
    pub(super) fn is_brokered(&self) -> bool {
        self.place.1 == GitHubAuth::Gharts
    }

    fn is_for(&self, github: &GitHub) -> bool {
        is_scope(&self.place.0, &github.config_url) && self.place.1 == github.auth
    }

    fn new(github: &GitHub, connection: Arc<Connection>, key: String, clock: &Clock) -> Self {
        let most = github.limits.max_in_flight;
        Self {
            place: (github.config_url.clone(), github.auth.clone()),
            limits: github.limits.clone(),
            gate: Gate::new(Some(&github.limits), clock.clone()),
            breaker: SharedBreaker::new(clock.clone()),
            provisioner: Arc::new(ScaleSetProvisioner::new(connection.clone())),
            connection,
            key,
            // Registrations that hang leave room for the removals and lists of every set on this way, those whose
            // runners somebody else registers too.
            jits_in_flight: (most - most / 4).max(1),
        }
    }
}

fn is_scope(one: &ConfigUrl, other: &ConfigUrl) -> bool {
    one.rest_base == other.rest_base && one.url.as_str().eq_ignore_ascii_case(other.url.as_str())
}

fn is_same_scope(one: &GitHub, other: &GitHub) -> bool {
    is_scope(&one.config_url, &other.config_url)
}

fn is_same(one: &GitHub, other: &GitHub) -> bool {
    is_same_scope(one, other) && one.auth == other.auth
}

fn shares_token(one: &GitHub, other: &GitHub) -> bool {
    one.config_url.rest_base == other.config_url.rest_base && one.auth == other.auth
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Environment, parse},
        http::{Request, Response, Transport, TransportError},
    };

    #[derive(Debug)]
    struct Nobody;

    impl Transport for Nobody {
        fn send(&self, _: Request) -> futures::future::BoxFuture<'_, Result<Response, TransportError>> {
            Box::pin(std::future::pending())
        }
    }

    /// `CARGO_PKG_NAME` and `CARGO_PKG_VERSION` stand in for tokens: they are set in every test.
    const FILE: &str = "
github: { configUrl: https://github.com/acme, auth: { pat: { tokenEnv: CARGO_PKG_NAME } } }
kubernetes: { namespace: runners }
scaleSets:
  - { name: a, maxRunners: 1 }
  - { name: b, maxRunners: 1, github: { runnerGroup: big } }
  - { name: c, maxRunners: 1, github: { configUrl: https://github.com/Acme/ } }
  - { name: d, maxRunners: 1, github: { configUrl: https://github.com/acme/web } }
  - { name: e, maxRunners: 1, github: { auth: { pat: { tokenEnv: CARGO_PKG_VERSION } } } }
";

    #[tokio::test(start_paused = true)]
    async fn b24_what_is_shared_is_what_has_the_same_credential_and_scope() {
        let environment: Environment = ["CARGO_PKG_NAME", "CARGO_PKG_VERSION"]
            .map(|name| (name.to_owned(), "token".to_owned()))
            .into();
        let config = parse(FILE, &environment).unwrap();
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let tokens = std::cell::Cell::new(0);
        let transport: SharedTransport = Arc::new(Nobody);
        let cached = |source| {
            tokens.set(tokens.get() + 1);
            Cached::new(source, clock.clone())
        };
        let githubs = GitHubs::new(&config, &transport, &clock, 1, cached, |_| unreachable!());
        let keys: Vec<&str> = config
            .scale_sets
            .iter()
            .map(|set| githubs.of(&set.github).key.as_str())
            .collect();
        assert_eq!(
            keys,
            [
                "GitHub at https://github.com/acme with GitHub token from environment variable CARGO_PKG_NAME",
                "GitHub at https://github.com/acme with GitHub token from environment variable CARGO_PKG_NAME",
                "GitHub at https://github.com/acme with GitHub token from environment variable CARGO_PKG_NAME",
                "GitHub at https://github.com/acme/web",
                "GitHub at https://github.com/acme with GitHub token from environment variable CARGO_PKG_VERSION",
            ]
        );
        assert_eq!(
            (githubs.ways().len(), tokens.get()),
            (3, 2),
            "connections and REST tokens"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn b44_each_scope_has_registration_tokens_of_its_own_and_nobody_asks_for_a_credential() {
        let file = "
github: { configUrl: https://github.com/acme, auth: { gharts: {} } }
gharts:
  baseUrl: https://gharts.example.com
  oidc: { provider: kubernetes, audience: gharts, serviceAccount: listener }
kubernetes: { namespace: runners }
scaleSets:
  - { name: a, maxRunners: 1, provisioner: scaleSet }
  - { name: b, maxRunners: 1, provisioner: scaleSet, github: { runnerGroup: big } }
  - { name: c, maxRunners: 1, provisioner: scaleSet, github: { configUrl: https://github.com/other } }
";
        let config = parse(file, &Environment::new()).unwrap();
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap());
        let scopes = std::cell::RefCell::new(Vec::new());
        let transport: SharedTransport = Arc::new(Nobody);
        let brokered = |scope: &ConfigUrl| {
            scopes.borrow_mut().push(scope.url.to_string());
            let none = Arc::new(crate::identity::Pat {
                token: crate::config::SecretRef::Env("CARGO_PKG_NAME".to_owned()),
            });
            Cached::new(none, clock.clone())
        };
        let githubs = GitHubs::new(&config, &transport, &clock, 1, |_| unreachable!(), brokered);
        assert_eq!(
            *scopes.borrow(),
            ["https://github.com/acme", "https://github.com/other"]
        );
        assert!(githubs.ways().iter().all(|way| way.is_brokered()));
    }
}
