//! api.github.com, as far as runners need it.
//!
//! Operations: `access token`, `registration token`, `runner registration`, `rest jit config`,
//! `runner groups`, `rest group members`, `rest list runners`, `rest get runner`, `rest remove runner`.

use axum::{
    Router,
    body::Bytes,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{super::control::GitHub, answer, credential, read};
use crate::sim::github::{
    access::{Budget, Refusal},
    agents::{NewAgent, rest_json},
    sets::RunnerGroup,
    settings::{GroupAccess, Repositories},
    wire::Fault,
    world::{AgentId, Now, TenantId, World},
};

const DOCS: &str = "https://docs.github.com/rest";
const PAGE: usize = 30;
const LARGEST_PAGE: usize = 100;

pub(super) fn routes(github: &GitHub) -> Router<GitHub> {
    let mut router = Router::new()
        .route(
            "/app/installations/{id}/access_tokens",
            github.named("access token", post(access_token)),
        )
        .route(
            "/actions/runner-registration",
            github.named("runner registration", post(runner_registration)),
        );
    for (scope, members) in [
        ("/orgs/{org}", "repositories"),
        ("/enterprises/{enterprise}", "organizations"),
    ] {
        let groups = format!("{scope}/actions/runner-groups");
        router = router
            .route(&groups, github.named("runner groups", get(list_groups)))
            .route(
                &format!("{groups}/{{group}}/{members}"),
                github.named("rest group members", get(list_group_members)),
            );
    }
    for scope in ["/orgs/{org}", "/repos/{owner}/{repo}", "/enterprises/{enterprise}"] {
        let runners = format!("{scope}/actions/runners");
        router = router
            .route(
                &format!("{runners}/registration-token"),
                github.named("registration token", post(registration_token)),
            )
            .route(
                &format!("{runners}/generate-jitconfig"),
                github.named("rest jit config", post(generate_jit)),
            )
            .route(&runners, github.named("rest list runners", get(list_runners)))
            .route(
                &format!("{runners}/{{runner}}"),
                github
                    .named("rest get runner", get(get_runner))
                    .merge(github.named("rest remove runner", delete(remove_runner))),
            );
    }
    router
}

/// The path's parameters of whichever scope it was.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ScopePath {
    org: Option<String>,
    owner: Option<String>,
    repo: Option<String>,
    enterprise: Option<String>,
    group: Option<u64>,
    runner: Option<AgentId>,
}

impl ScopePath {
    fn scope(&self) -> String {
        match (&self.org, &self.owner, &self.repo, &self.enterprise) {
            (Some(org), ..) => org.clone(),
            (_, Some(owner), Some(repo), _) => format!("{owner}/{repo}"),
            (.., Some(enterprise)) => format!("enterprises/{enterprise}"),
            _ => String::new(),
        }
    }
}

#[derive(Deserialize)]
struct Paging {
    per_page: Option<usize>,
    page: Option<usize>,
}

impl Paging {
    fn of<T>(&self, all: impl Iterator<Item = T>) -> Vec<T> {
        let size = self.per_page.unwrap_or(PAGE).clamp(1, LARGEST_PAGE);
        let page = self.page.unwrap_or(1).max(1);
        all.skip((page - 1) * size).take(size).collect()
    }
}

async fn list_groups(
    State(github): State<GitHub>,
    Path(path): Path<ScopePath>,
    Query(paging): Query<Paging>,
    headers: HeaderMap,
) -> Response {
    authorized(&github, &headers, &path.scope(), |world, tenant, _| {
        let groups = &world.tenants[tenant].groups;
        let body = |group: &RunnerGroup| {
            let GroupAccess {
                public_repositories,
                repositories,
                workflows,
            } = &group.access;
            let visibility = match repositories {
                Repositories::All => "all",
                Repositories::Private => "private",
                Repositories::Selected(_) => "selected",
            };
            json!({
                "id": group.id, "name": group.name, "default": group.is_default, "visibility": visibility,
                "allows_public_repositories": public_repositories, "inherited": false,
                "restricted_to_workflows": workflows.is_some(),
                "selected_workflows": workflows.clone().unwrap_or_default(),
            })
        };
        let page = paging.of(groups.iter().map(body));
        answer(
            StatusCode::OK,
            &json!({"total_count": groups.len(), "runner_groups": page}),
        )
    })
}

async fn list_group_members(
    State(github): State<GitHub>,
    Path(path): Path<ScopePath>,
    Query(paging): Query<Paging>,
    headers: HeaderMap,
) -> Response {
    let members = if path.enterprise.is_some() {
        "organizations"
    } else {
        "repositories"
    };
    authorized(&github, &headers, &path.scope(), |world, tenant, _| {
        let mut groups = world.tenants[tenant].groups.iter();
        match groups
            .find(|group| Some(group.id) == path.group)
            .map(|g| &g.access.repositories)
        {
            Some(Repositories::Selected(list)) => {
                let page = paging.of(list.iter().map(|name| json!({"full_name": name})));
                answer(StatusCode::OK, &json!({"total_count": list.len(), members: page}))
            }
            Some(_) => problem(
                StatusCode::UNPROCESSABLE_ENTITY,
                "The runner group is not limited to a list.",
            ),
            None => refuse(Refusal::NotFound),
        }
    })
}

fn refuse(refusal: Refusal) -> Response {
    let (status, message) = match refusal {
        Refusal::BadCredentials => (StatusCode::UNAUTHORIZED, "Bad credentials"),
        Refusal::BadJwt(text) => (StatusCode::UNAUTHORIZED, text),
        Refusal::Forbidden => (
            StatusCode::FORBIDDEN,
            "Resource not accessible by personal access token",
        ),
        Refusal::NotFound => (StatusCode::NOT_FOUND, "Not Found"),
        Refusal::RateLimited => (StatusCode::FORBIDDEN, "API rate limit exceeded for installation."),
    };
    problem(status, message)
}

fn problem(status: StatusCode, message: &str) -> Response {
    let body = json!({"message": message, "documentation_url": DOCS, "status": status.as_str()});
    answer(status, &body)
}

fn with_budget(mut response: Response, budget: Option<Budget>) -> Response {
    let Some(budget) = budget else {
        return response;
    };
    let headers = response.headers_mut();
    let reset = u64::try_from(budget.reset.as_second()).unwrap_or(0);
    for (name, value) in [
        ("x-ratelimit-limit", u64::from(budget.limit)),
        ("x-ratelimit-used", u64::from(budget.used)),
        (
            "x-ratelimit-remaining",
            u64::from(budget.limit.saturating_sub(budget.used)),
        ),
        ("x-ratelimit-reset", reset),
    ] {
        headers.insert(name, HeaderValue::from(value));
    }
    headers.insert("x-ratelimit-resource", HeaderValue::from_static("core"));
    response
}

/// Runs `act` for a caller who may manage the runners of the path's scope.
fn authorized(
    github: &GitHub,
    headers: &HeaderMap,
    scope: &str,
    act: impl FnOnce(&mut World, TenantId, Now) -> Response,
) -> Response {
    let token = credential(headers, &["Bearer", "token"]).unwrap_or_default();
    github.change(|world, now| {
        let (budget, tenant) = world.authorize_rest(token, scope, now);
        let response = match tenant {
            Ok(tenant) => act(world, tenant, now),
            Err(refusal) => refuse(refusal),
        };
        with_budget(response, budget)
    })
}

async fn access_token(State(github): State<GitHub>, Path(id): Path<u64>, headers: HeaderMap) -> Response {
    let jwt = credential(&headers, &["Bearer"]).unwrap_or_default();
    match github.change(|world, now| world.installation_token(jwt, id, now)) {
        Ok(issued) => answer(
            StatusCode::CREATED,
            &json!({
                "token": issued.token, "expires_at": seconds(issued.expires),
                "permissions": {"organization_self_hosted_runners": "write", "metadata": "read"},
                "repository_selection": "all",
            }),
        ),
        Err(refusal) => refuse(refusal),
    }
}

/// REST times have whole seconds.
fn seconds(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

async fn registration_token(State(github): State<GitHub>, Path(path): Path<ScopePath>, headers: HeaderMap) -> Response {
    authorized(&github, &headers, &path.scope(), |world, tenant, now| {
        let issued = world.registration_token(tenant, now);
        let body = json!({"token": issued.token, "expires_at": issued.expires.to_string()});
        answer(StatusCode::CREATED, &body)
    })
}

#[derive(Deserialize)]
struct RegistrationRequest {
    url: String,
    runner_event: String,
}

async fn runner_registration(State(github): State<GitHub>, headers: HeaderMap, body: Bytes) -> Response {
    let Some(request) = read::<RegistrationRequest>(&body).filter(|r| r.runner_event == "register") else {
        return problem(StatusCode::UNPROCESSABLE_ENTITY, "Validation Failed");
    };
    let token = credential(&headers, &["RemoteAuth"]).unwrap_or_default();
    match github.change(|world, now| world.admin_connection(token, &request.url, now)) {
        Ok((url, token)) => {
            let body = json!({"url": url, "token": token, "token_schema": "OAuthAccessToken", "use_v2_flow": true});
            answer(StatusCode::OK, &body)
        }
        Err(refusal) => refuse(refusal),
    }
}

#[derive(Deserialize)]
struct JitRequest {
    name: String,
    runner_group_id: u64,
    labels: Vec<String>,
    #[serde(default)]
    work_folder: Option<String>,
}

async fn generate_jit(
    State(github): State<GitHub>,
    Path(path): Path<ScopePath>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    authorized(&github, &headers, &path.scope(), |world, tenant, now| {
        let request = read::<JitRequest>(&body);
        let Some(request) = request.filter(|r| !r.labels.is_empty() && (1..=64).contains(&r.name.len())) else {
            return problem(StatusCode::UNPROCESSABLE_ENTITY, "Invalid request.");
        };
        if !world.tenants[tenant]
            .groups
            .iter()
            .any(|g| g.id == request.runner_group_id)
        {
            return problem(StatusCode::NOT_FOUND, "Not Found");
        }
        let name = request.name.clone();
        let new = NewAgent {
            name: request.name,
            work_folder: request.work_folder.unwrap_or_else(|| "_work".to_owned()),
            set: None,
            group: request.runner_group_id,
            labels: request.labels,
        };
        match world.register(tenant, new, now) {
            Some((id, blob)) => {
                let runner = world.tenants[tenant].agents.get(&id).map(rest_json);
                answer(
                    StatusCode::CREATED,
                    &json!({"runner": runner, "encoded_jit_config": blob}),
                )
            }
            None => problem(
                StatusCode::CONFLICT,
                &format!("Already exists - A runner with the name {name} already exists."),
            ),
        }
    })
}

#[derive(Deserialize)]
struct ListQuery {
    per_page: Option<usize>,
    page: Option<usize>,
    name: Option<String>,
}

async fn list_runners(
    State(github): State<GitHub>,
    Path(path): Path<ScopePath>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> Response {
    let size = query.per_page.unwrap_or(PAGE).clamp(1, LARGEST_PAGE);
    let page = query.page.unwrap_or(1).max(1);
    authorized(&github, &headers, &path.scope(), |world, tenant, _| {
        let named = |name: &str| {
            query
                .name
                .as_ref()
                .is_none_or(|wanted| wanted.eq_ignore_ascii_case(name))
        };
        let all = world.tenants[tenant].agents.values().filter(|a| named(&a.name));
        let all: Vec<Value> = all.map(rest_json).collect();
        let total = all.len();
        let runners: Vec<Value> = all.into_iter().skip((page - 1) * size).take(size).collect();
        answer(StatusCode::OK, &json!({"total_count": total, "runners": runners}))
    })
}

async fn get_runner(State(github): State<GitHub>, Path(path): Path<ScopePath>, headers: HeaderMap) -> Response {
    authorized(&github, &headers, &path.scope(), |world, tenant, _| {
        let agent = path.runner.and_then(|id| world.tenants[tenant].agents.get(&id));
        match agent {
            Some(agent) => answer(StatusCode::OK, &rest_json(agent)),
            None => refuse(Refusal::NotFound),
        }
    })
}

async fn remove_runner(State(github): State<GitHub>, Path(path): Path<ScopePath>, headers: HeaderMap) -> Response {
    authorized(&github, &headers, &path.scope(), |world, tenant, _| {
        let id = path.runner.unwrap_or(0);
        match world.remove_agent(tenant, id) {
            Ok(()) => StatusCode::NO_CONTENT.into_response(),
            Err(Fault {
                status: StatusCode::NOT_FOUND,
                ..
            }) => refuse(Refusal::NotFound),
            Err(busy) => problem(
                StatusCode::UNPROCESSABLE_ENTITY,
                &format!(
                    "Bad request - {} and cannot be deleted.",
                    busy.message.trim_end_matches('.')
                ),
            ),
        }
    })
}
