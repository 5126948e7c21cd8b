//! What `check` tries at GitHub and GHARTS, and the templates at the API server. Only reads and dry runs.

use std::{collections::BTreeSet, sync::Arc};

use futures::FutureExt as _;
use http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::PostParams, client::Body};
use url::Url;

use super::{Check, CheckFailure, DEADLINE, clock_agrees, within};
use crate::{
    admission::gate::Gate,
    app::{
        compose,
        githubs::{GitHubs, Way},
        token_service::{Account, TokenService},
    },
    clock::Clock,
    config::{Config, ConfigUrl, Gharts, ProvisionerKind, ScaleSet},
    gharts::{Broker, Client, broker},
    http::{SharedTransport, send},
    identity::Cached,
    ids::RunnerName,
    plan::{
        reason::Code,
        runner::{Meets, Purpose},
    },
    provision::Provisioner as _,
    runner::manifest::Blueprint,
    scaleset::{Connection, GroupAccess},
    shutdown::Tasks,
};

/// Of the repetitions' jitter; a check needs no better.
const SEED: u64 = 1;

/// GitHub, GHARTS, each scale set, each template. `client`: Kubernetes, where it can be found.
pub(super) fn checks(config: &Config, client: Option<kube::Client>) -> Vec<Check> {
    let (github, gharts) = match compose::transports(config) {
        Ok(transports) => transports,
        Err(error) => {
            let failure = CheckFailure::new(error, "correct github.tls, github.proxy or gharts.tls");
            return vec![Check {
                name: "TLS and proxy can be set up".to_owned(),
                run: async move { Err(failure) }.boxed(),
            }];
        }
    };
    let clock = Clock::system();
    let mut checks = Vec::new();
    let hosts: BTreeSet<&Url> = config
        .scale_sets
        .iter()
        .map(|s| &s.github.config_url.rest_base)
        .collect();
    for host in hosts {
        checks.push(github_clock(host, github.clone(), clock.clone()));
    }
    let service = config.gharts.as_ref().map(|settings| {
        let client = client.clone().unwrap_or_else(no_cluster);
        of_gharts(config, settings, &client, &gharts, &github, &clock)
    });
    let tidying = Tasks::new();
    let githubs = GitHubs::new(
        config,
        &github,
        &clock,
        SEED,
        |source| Cached::new(source, clock.clone()),
        |scope| brokered(scope, service.as_ref().map(|service| &service.client), &clock, &tidying),
    );
    for way in githubs.ways() {
        let of_way = |set: &&ScaleSet| Arc::ptr_eq(githubs.of(&set.github), way);
        let sets = config.scale_sets.iter().filter(of_way);
        let groups: BTreeSet<&str> = sets.map(|set| set.github.runner_group.as_str()).collect();
        checks.extend(groups.into_iter().map(|group| credential(way, group, &tidying)));
    }
    for set in &config.scale_sets {
        checks.push(scale_set(set, githubs.of(&set.github), &tidying));
    }
    if let Some(service) = service {
        checks.extend(token_service(config, service));
    }
    if let Some(client) = client {
        for set in &config.scale_sets {
            checks.push(template(config, set, client.clone()));
        }
    }
    checks
}

fn github_clock(rest_base: &Url, transport: SharedTransport, clock: Clock) -> Check {
    let url = rest_base.to_string();
    Check {
        name: format!("GitHub answers at {url}, and its clock agrees"),
        run: async move {
            let remedy = "check github.configUrl, github.proxy, github.tls and the network's way out";
            let request = Request::get(&url)
                .header(http::header::USER_AGENT, "gharts-listener")
                .body(bytes::Bytes::new())
                .map_err(|error| CheckFailure::new(error.to_string(), remedy))?;
            let answer = send(transport.as_ref(), request, DEADLINE)
                .await
                .map_err(|error| CheckFailure::new(error.to_string(), remedy))?;
            clock_agrees(answer.headers(), clock.now())
        }
        .boxed(),
    }
}

/// Registration tokens from GHARTS. What it writes down for them is given back by `tidying`.
#[expect(
    clippy::expect_used,
    reason = "the configuration takes `auth: { gharts: {} }` only beside a section `gharts`"
)]
fn brokered(scope: &ConfigUrl, service: Option<&Arc<Client>>, clock: &Clock, tidying: &Tasks) -> Cached {
    let client = service.expect("a section `gharts` beside brokered access");
    let gate = Gate::new(None, clock.clone());
    let (url, tasks) = (scope.url.clone(), tidying.clone());
    let broker = Broker::new(
        client.clone(),
        gate,
        clock.clone(),
        url,
        "check",
        fastrand::u64(..),
        tasks,
    );
    Cached::new(Arc::new(broker), clock.clone()).with_deadline(broker::DEADLINE)
}

/// Stands where no cluster can be found: an identity that needs none is tried all the same.
fn no_cluster() -> kube::Client {
    let service = tower::service_fn(|_: Request<Body>| async {
        let message = "no Kubernetes client; mend the lines about Kubernetes first";
        Err::<http::Response<Body>, _>(std::io::Error::other(message))
    });
    kube::Client::new(service, "default")
}

fn credential(way: &Way, group: &str, tidying: &Tasks) -> Check {
    let (connection, group, tidying) = (way.connection.clone(), group.to_owned(), tidying.clone());
    let is_brokered = way.is_brokered();
    Check {
        name: format!("{} accepts the credential and shows the runner group {group}", way.key),
        run: async move {
            let remedy = if is_brokered {
                "github.auth.gharts needs an older, user-based GHARTS that serves this organization and lets this \
                 identity have registration tokens (can_use_registration_token)"
            } else {
                "check github.auth: client id, installation id and private key, or the token and its scopes; the App \
                 needs read and write on the organization's self-hosted runners"
            };
            let answer = connection.runner_group(&group).await;
            // What GHARTS wrote down for the token is given back before the next line.
            tidying.stop();
            tidying.finished().await;
            match answer {
                Ok(Some(found)) => {
                    let about = format!("group {} has id {}", found.name, found.id);
                    Ok(about + &let_in(&connection, &group).await)
                }
                Ok(None) if group.eq_ignore_ascii_case("default") => {
                    Ok("GitHub's own default group".to_owned() + &let_in(&connection, &group).await)
                }
                Ok(None) => Err(CheckFailure::new(
                    "there is no such runner group",
                    "create it at GitHub, or correct github.runnerGroup",
                )),
                Err(error) => Err(CheckFailure::new(error.to_string(), remedy)),
            }
        }
        .boxed(),
    }
}

/// What the group keeps out, where that can be read: to know, no failure.
async fn let_in(connection: &Connection, group: &str) -> String {
    let groups = [group.to_owned()];
    let Ok(Some(access)) = connection.group_access(&groups).await else {
        return String::new();
    };
    let notes = access.values().flat_map(GroupAccess::notes);
    notes.fold(String::new(), |text, note| {
        format!("{text}\n        note: {}", note.message)
    })
}

fn scale_set(set: &ScaleSet, way: &Way, tidying: &Tasks) -> Check {
    let (connection, tidying) = (way.connection.clone(), tidying.clone());
    let (name, group) = (set.name.to_string(), set.github.runner_group.clone());
    let labels = set.labels.clone();
    Check {
        name: format!("the scale set {name} at GitHub"),
        run: async move {
            let failed = |error: crate::scaleset::Error| {
                CheckFailure::new(error.to_string(), "see the line of GitHub's credential")
            };
            let id = connection
                .runner_group(&group)
                .await
                .map_err(failed)?
                .map_or(1, |group| group.id);
            let found = connection.scale_set_by_name(id, &name).await;
            tidying.stop();
            tidying.finished().await;
            match found.map_err(failed)? {
                Some(found) => Ok(format!(
                    "exists with id {}, labels {}{}",
                    found.id,
                    found.labels.join(", "),
                    stored(&labels, &found.labels)
                )),
                None => Ok("does not exist yet; `run` creates it".to_owned()),
            }
        }
        .boxed(),
    }
}

/// How the labels at GitHub differ from the file's.
fn stored(wanted: &[String], stored: &[String]) -> String {
    let has = |label: &&String| stored.iter().any(|s| s.eq_ignore_ascii_case(label));
    let missing: Vec<&str> = wanted.iter().filter(|l| !has(l)).map(String::as_str).collect();
    if missing.is_empty() {
        return String::new();
    }
    format!(
        "\n        note: not stored: {}; `run` puts the labels, and where they stay away this GitHub keeps fewer",
        missing.join(", ")
    )
}

fn of_gharts(
    config: &Config,
    gharts: &Gharts,
    client: &kube::Client,
    transport: &SharedTransport,
    github: &SharedTransport,
    clock: &Clock,
) -> TokenService {
    let source = compose::token_source(&gharts.oidc, config, client, transport, clock);
    let token = Arc::new(Cached::new(source, clock.clone()));
    TokenService::new(gharts, token, transport.clone(), github.clone(), clock.clone(), SEED)
}

/// One line for each team and way of binding that the sets ask for; one, too, where none uses it.
fn token_service(config: &Config, mut service: TokenService) -> Vec<Check> {
    let users = config
        .scale_sets
        .iter()
        .filter(|set| set.provisioner == ProvisionerKind::Gharts);
    let mut accounts: Vec<(Account, Vec<&str>)> = Vec::new();
    for set in users {
        let account = service.account(set);
        match accounts.iter_mut().find(|(known, _)| *known == account) {
            Some((_, sets)) => sets.push(set.name.as_str()),
            None => accounts.push((account, vec![set.name.as_str()])),
        }
    }
    if accounts.is_empty() {
        let account = service.default_account(&config.github.config_url);
        let provisioner = service.provisioner(&account);
        return vec![Check {
            name: format!("{} accepts us", service.key),
            run: async move {
                let standing = provisioner.probe().await;
                let says = standing.map_or_else(|refusal| refusal.message, |standing| standing.says);
                Ok(format!("no scale set uses it; it says: {says}"))
            }
            .boxed(),
        }];
    }
    let mut check = |(account, sets): (Account, Vec<&str>)| {
        let provisioner = service.provisioner(&account);
        Check {
            name: format!("{} accepts us for {}", service.key, sets.join(", ")),
            run: async move {
                let standing = provisioner.probe().await.map_err(|refusal| {
                    let remedy = Code::from(refusal.class).remedy().unwrap_or("see the message");
                    CheckFailure::new(refusal.message, remedy)
                })?;
                Ok(standing.says)
            }
            .boxed(),
        }
    };
    accounts.into_iter().map(&mut check).collect()
}

/// The whole pod, as a dry run: admission, quota and every field are the API server's own verdict.
fn template(config: &Config, set: &ScaleSet, client: kube::Client) -> Check {
    let blueprint = Blueprint::new(&set.name, set.into());
    let namespace = config.kubernetes.namespace.clone();
    Check {
        name: format!("the API server takes the pod of scale set {}", set.name),
        run: async move {
            let pods: Api<Pod> = Api::namespaced(client, &namespace);
            let name = RunnerName::new("gharts-listener-check-0123456789");
            let pod = blueprint.pod(&name, Purpose::Demand, Meets::InSet, None, None);
            let dry = PostParams {
                dry_run: true,
                ..PostParams::default()
            };
            let remedy = Code::InvalidTemplate.remedy().unwrap_or_default();
            within(pods.create(&dry, &pod), remedy).await.map(|_| String::new())
        }
        .boxed(),
    }
}
