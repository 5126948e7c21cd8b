//! What `check` tries at GitHub and GHARTS, and the templates at the API server. Only reads and dry runs.

use std::sync::Arc;

use futures::FutureExt as _;
use http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::PostParams};

use super::{Check, CheckFailure, DEADLINE, clock_agrees, within};
use crate::{
    app::compose,
    clock::Clock,
    config::{Config, Gharts, ProvisionerKind, ScaleSet},
    http::{SharedTransport, send},
    identity::{Cached, github_token_source},
    ids::RunnerName,
    plan::{reason::Code, runner::Purpose},
    runner::manifest::Blueprint,
    scaleset::Connection,
};

/// Of the repetitions' jitter; a check needs no better.
const SEED: u64 = 1;

/// GitHub, GHARTS, each scale set, each template. `client`: Kubernetes, where it can be found.
pub(super) fn checks(config: &Config, client: Option<kube::Client>) -> Vec<Check> {
    let (github, gharts) = match compose::transports(config) {
        Ok(transports) => transports,
        Err(error) => {
            let failure = CheckFailure::new(error.to_string(), "correct github.tls, github.proxy or gharts.tls");
            return vec![Check {
                name: "TLS and proxy can be set up".to_owned(),
                run: async move { Err(failure) }.boxed(),
            }];
        }
    };
    let clock = Clock::system();
    let mut checks = vec![github_clock(config, github.clone(), clock.clone())];
    let source = github_token_source(&config.github, github.clone(), clock.clone());
    let token = Arc::new(Cached::new(source, clock.clone()));
    let connection = compose::connection(&config.github, github, clock.clone(), token, SEED);
    checks.push(credential(config, connection.clone()));
    for set in &config.scale_sets {
        checks.push(scale_set(config, set, connection.clone()));
    }
    if let Some(settings) = &config.gharts {
        checks.push(token_service(config, settings, client.as_ref(), &gharts, &clock));
    }
    if let Some(client) = client {
        for set in &config.scale_sets {
            checks.push(template(config, set, client.clone()));
        }
    }
    checks
}

fn github_clock(config: &Config, transport: SharedTransport, clock: Clock) -> Check {
    let url = config.github.config_url.rest_base.to_string();
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

fn credential(config: &Config, connection: Arc<Connection>) -> Check {
    let group = config.github.runner_group.clone();
    Check {
        name: format!("GitHub accepts the credential and shows the runner group {group}"),
        run: async move {
            let remedy = "check github.auth: client id, installation id and private key, or the token and its scopes; \
                          the App needs read and write on the organization's self-hosted runners";
            match connection.runner_group(&group).await {
                Ok(Some(group)) => Ok(format!("group {} has id {}", group.name, group.id)),
                Ok(None) if group.eq_ignore_ascii_case("default") => Ok("GitHub's own default group".to_owned()),
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

fn scale_set(config: &Config, set: &ScaleSet, connection: Arc<Connection>) -> Check {
    let (name, group) = (set.name.to_string(), config.github.runner_group.clone());
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
            match connection.scale_set_by_name(id, &name).await.map_err(failed)? {
                Some(found) => Ok(format!(
                    "exists with id {}, labels {}",
                    found.id,
                    found.labels.join(", ")
                )),
                None => Ok("does not exist yet; `run` creates it".to_owned()),
            }
        }
        .boxed(),
    }
}

fn token_service(
    config: &Config,
    gharts: &Gharts,
    client: Option<&kube::Client>,
    transport: &SharedTransport,
    clock: &Clock,
) -> Check {
    let name = format!("GHARTS at {} accepts us", gharts.base_url);
    let Some(client) = client else {
        let failure = CheckFailure::new("no Kubernetes client", "mend the lines about Kubernetes first");
        return Check {
            name,
            run: async move { Err(failure) }.boxed(),
        };
    };
    let source = compose::token_source(&gharts.oidc, config, client, transport, clock);
    let token = Arc::new(Cached::new(source, clock.clone()));
    let provisioner = compose::gharts_provisioner(gharts, transport.clone(), clock.clone(), token);
    let used = config
        .scale_sets
        .iter()
        .any(|s| s.provisioner == ProvisionerKind::Gharts);
    Check {
        name,
        run: async move {
            match provisioner.probe().await {
                Ok(found) => Ok(found),
                Err(refusal) if !used => Ok(format!("no scale set uses it; it says: {refusal}")),
                Err(refusal) => {
                    let remedy = Code::from(refusal.class).remedy().unwrap_or("see the message");
                    Err(CheckFailure::new(refusal.message, remedy))
                }
            }
        }
        .boxed(),
    }
}

/// The whole pod, as a dry run: admission, quota and every field are the API server's own verdict.
fn template(config: &Config, set: &ScaleSet, client: kube::Client) -> Check {
    let blueprint = Blueprint::new(&set.name, &set.template);
    let namespace = config.kubernetes.namespace.clone();
    Check {
        name: format!("the API server takes the pod of scale set {}", set.name),
        run: async move {
            let pods: Api<Pod> = Api::namespaced(client, &namespace);
            let name = RunnerName::new("gharts-listener-check-0123456789");
            let pod = blueprint.pod(&name, Purpose::Demand, None, None);
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
