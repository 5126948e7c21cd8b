//! One simulated GHARTS between a scripted GitHub and an OIDC provider, and a client to ask it with.

use std::sync::Arc;

use bytes::Bytes;
use gharts_listener::{
    clock::Clock,
    http::{Response, Transport, TransportError},
    shutdown::Tasks,
    sim::{
        gharts::{
            Database, Deployment, Flavour, Gharts, GithubAccess, JwksSource, Latency, Setup, TeamSpec, TrustedIssuer,
            UserSpec,
        },
        keys::SigningKey,
        network::Network,
        oidc::Oidc,
    },
};
use serde_json::{Map, Value, json};

use super::github::Github;

pub(super) const ISSUER: &str = "http://127.0.0.1:18082/";
pub(super) const AUDIENCE: &str = "https://gharts.example.com";
/// The recordings' own mark, in the names of that run.
pub(super) const RUN: &str = "1c3ba6";

/// As it was recorded: nothing happens but what is asked for.
const ALONE: Deployment = Deployment {
    database: Database::Sqlite,
    freezes: false,
    latency: Latency::None,
    sync: false,
    ingress: false,
};

#[derive(Debug)]
pub(super) struct World {
    pub(super) network: Network,
    pub(super) github: Github,
    pub(super) oidc: Oidc,
    pub(super) gharts: Gharts,
    pub(super) clock: Clock,
}

#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) response: Response,
}

impl Reply {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.response.body().to_vec()).unwrap()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(self.response.body()).unwrap()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name).map(|v| v.to_str().unwrap())
    }
}

/// What is asked.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) authorization: Option<String>,
    pub(super) content_type: Option<&'static str>,
    pub(super) body: String,
}

impl World {
    pub(super) fn new(flavour: Flavour) -> Self {
        Self::run(flavour, ALONE)
    }

    pub(super) fn run(flavour: Flavour, deployment: Deployment) -> Self {
        let network = Network::new();
        let clock = Clock::simulated("2026-11-23T03:23:43.898121Z".parse().unwrap());
        let oidc = Oidc::new(ISSUER, 7, clock.clone()).unwrap();
        let github = Github::default();
        let gharts = Gharts::new(setup(flavour, deployment, &network, &oidc, &clock));
        network.attach("127.0.0.1:18081", github.router());
        network.attach("127.0.0.1:18082", oidc.router());
        network.attach("gharts.example.com", gharts.router());
        Self {
            network,
            github,
            oidc,
            gharts,
            clock,
        }
    }

    pub(super) fn setup(&self, flavour: Flavour) -> Setup {
        setup(flavour, ALONE, &self.network, &self.oidc, &self.clock)
    }

    pub(super) async fn try_send(&self, ask: Ask) -> Result<Reply, TransportError> {
        let mut request = http::Request::builder()
            .method(ask.method)
            .uri(format!("http://gharts.example.com{}", ask.path));
        if let Some(value) = ask.authorization {
            request = request.header("authorization", value);
        }
        if let Some(value) = ask.content_type {
            request = request.header("content-type", value);
        }
        let response = self.network.send(request.body(Bytes::from(ask.body)).unwrap()).await?;
        Ok(Reply {
            status: response.status().as_u16(),
            response,
        })
    }

    pub(super) async fn send(&self, ask: Ask) -> Reply {
        self.try_send(ask).await.unwrap()
    }

    pub(super) async fn jit(&self, token: &str, body: &Value) -> Reply {
        self.send(jit(token, body)).await
    }

    pub(super) async fn call(&self, method: &'static str, path: &str, token: &str) -> Reply {
        self.send(call(method, path, token)).await
    }

    /// A token for our audience with these claims on top.
    pub(super) fn token_with(&self, claims: Value) -> String {
        let mut all = Map::new();
        all.insert("aud".to_owned(), json!(AUDIENCE));
        all.extend(claims.as_object().unwrap().clone());
        self.oidc.issue(&all).unwrap()
    }

    pub(super) fn token(&self, user: &str) -> String {
        self.token_with(json!({ "sub": subject(user) }))
    }

    pub(super) fn user(&self, name: &str) -> String {
        self.gharts.add_user(UserSpec::subject(&subject(name)))
    }

    /// A user in a team of its own, which requires nothing, permits everything and is called after it.
    pub(super) fn user_with_team(&self, user: &str, team: &str, quota: Option<u32>) -> (String, String) {
        let team = self.gharts.add_team(TeamSpec {
            max_runners: quota,
            ..TeamSpec::open(team)
        });
        let user = self.user(user);
        self.gharts.add_member(&team, &user);
        (user, team)
    }
}

fn setup(flavour: Flavour, deployment: Deployment, network: &Network, oidc: &Oidc, clock: &Clock) -> Setup {
    Setup {
        flavour,
        deployment,
        seed: 7,
        audience: AUDIENCE.to_owned(),
        issuers: vec![TrustedIssuer {
            issuer: ISSUER.to_owned(),
            jwks: JwksSource::Url(oidc.jwks_url()),
        }],
        github: GithubAccess {
            rest: "http://127.0.0.1:18081".to_owned(),
            org: "acme".to_owned(),
            config_url: "https://github.com/acme".to_owned(),
            app: "4711".to_owned(),
            installation: 815,
            key: SigningKey::shared("app").unwrap(),
        },
        transport: Arc::new(network.clone()),
        clock: clock.clone(),
        tasks: Tasks::new(),
    }
}

pub(super) fn subject(user: &str) -> String {
    format!("system:serviceaccount:{RUN}:{user}")
}

pub(super) fn jit(token: &str, body: &Value) -> Ask {
    Ask {
        method: "POST",
        path: "/api/v1/runners/jit".to_owned(),
        authorization: Some(format!("Bearer {token}")),
        content_type: Some("application/json"),
        body: body.to_string(),
    }
}

pub(super) fn call(method: &'static str, path: &str, token: &str) -> Ask {
    Ask {
        method,
        path: path.to_owned(),
        authorization: Some(format!("Bearer {token}")),
        content_type: None,
        body: String::new(),
    }
}
