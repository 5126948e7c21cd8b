//! The Actions service of one tenant.
//!
//! Operations: `group by name`, `set by name` (also the list of all), `create set`, `get set`, `patch set`,
//! `put set`, `delete set`, `jit config`, `list agents` (also by name), `get agent`, `remove agent`,
//! `open session`, `refresh session`, `close session`, `acquirable jobs`, `acquire jobs`, `poll`, `delete message`.

use axum::{
    Router,
    body::Bytes,
    extract::{Path, Query, State},
    response::{IntoResponse, Response},
    routing::{delete, get, patch, post, put},
};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{super::control::GitHub, answer, credential, read};
use crate::sim::github::{
    sets::SetRequest,
    wire::Fault,
    world::{AgentId, Now, SetId, TenantId, World},
};

/// What a client announces that leaves the header out: no bound.
const UNBOUNDED: u32 = i32::MAX as u32;

pub(super) fn routes(github: &GitHub) -> Router<GitHub> {
    let sets = "/_apis/runtime/runnerscalesets";
    let agents = "/_apis/distributedtask/pools/0/agents";
    let route =
        |router: Router<GitHub>, path: &str, methods: &[(&'static str, axum::routing::MethodRouter<GitHub>)]| {
            let mut all = axum::routing::MethodRouter::new();
            for (operation, method) in methods {
                all = all.merge(github.named(operation, method.clone()));
            }
            router.route(path, all.clone()).route(&format!("{path}/"), all)
        };
    let mut router = Router::new();
    router = route(router, "/_apis/runtime/runnergroups", &[("group by name", get(groups))]);
    router = route(
        router,
        sets,
        &[("set by name", get(list_sets)), ("create set", post(create_set))],
    );
    router = route(
        router,
        &format!("{sets}/{{id}}"),
        &[
            ("get set", get(get_set)),
            ("patch set", patch(patch_set)),
            ("put set", put(put_set)),
            ("delete set", delete(delete_set)),
        ],
    );
    router = route(
        router,
        &format!("{sets}/{{id}}/generatejitconfig"),
        &[("jit config", post(jit_config))],
    );
    router = route(
        router,
        &format!("{sets}/{{id}}/sessions"),
        &[("open session", post(open_session))],
    );
    router = route(
        router,
        &format!("{sets}/{{id}}/sessions/{{session}}"),
        &[
            ("refresh session", patch(refresh_session)),
            ("close session", delete(close_session)),
        ],
    );
    router = route(
        router,
        &format!("{sets}/{{id}}/acquirablejobs"),
        &[("acquirable jobs", get(acquirable_jobs))],
    );
    router = route(
        router,
        &format!("{sets}/{{id}}/acquirejobs"),
        &[("acquire jobs", post(acquire_jobs))],
    );
    router = route(router, &format!("{sets}/{{id}}/messages"), &[("poll", get(poll))]);
    router = route(
        router,
        &format!("{sets}/{{id}}/messages/{{message}}"),
        &[("delete message", delete(delete_message))],
    );
    router = route(router, agents, &[("list agents", get(list_agents))]);
    route(
        router,
        &format!("{agents}/{{agent}}"),
        &[("get agent", get(get_agent)), ("remove agent", delete(remove_agent))],
    )
}

/// The path's parameters; each route has some of them.
#[derive(Debug, Deserialize)]
struct Place {
    tenant: String,
    #[serde(default)]
    id: SetId,
    #[serde(default)]
    session: String,
    #[serde(default)]
    message: u64,
    #[serde(default)]
    agent: AgentId,
}

fn fault(fault: &Fault) -> Response {
    answer(fault.status, &fault.json())
}

fn ok(result: Result<Value, Fault>) -> Response {
    match result {
        Ok(body) => answer(StatusCode::OK, &body),
        Err(f) => fault(&f),
    }
}

fn gone(result: Result<(), Fault>) -> Response {
    match result {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(f) => fault(&f),
    }
}

fn list(values: &[Value]) -> Value {
    json!({"count": values.len(), "value": values})
}

/// Runs `act` for the holder of an admin token of this tenant.
fn admin<T>(
    github: &GitHub,
    headers: &HeaderMap,
    place: &Place,
    act: impl FnOnce(&mut World, TenantId, Now) -> Result<T, Fault>,
) -> Result<T, Fault> {
    let token = credential(headers, &["Bearer"]).unwrap_or_default();
    github.change(|world, now| {
        let tenant = world.check_admin(token, &place.tenant, now);
        act(world, tenant.ok_or_else(|| Fault::unauthorized("token"))?, now)
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct GroupQuery {
    group_name: Option<String>,
}

async fn groups(
    State(github): State<GitHub>,
    Path(place): Path<Place>,
    Query(query): Query<GroupQuery>,
    headers: HeaderMap,
) -> Response {
    ok(admin(&github, &headers, &place, |world, tenant, _| {
        Ok(list(&world.groups_by_name(tenant, query.group_name.as_deref())))
    }))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SetQuery {
    runner_group_id: Option<u64>,
    name: Option<String>,
}

async fn list_sets(
    State(github): State<GitHub>,
    Path(place): Path<Place>,
    Query(query): Query<SetQuery>,
    headers: HeaderMap,
) -> Response {
    ok(admin(&github, &headers, &place, |world, tenant, _| {
        Ok(list(&world.sets(tenant, query.runner_group_id, query.name.as_deref())))
    }))
}

fn set_request(body: &[u8]) -> Result<SetRequest, Fault> {
    read(body).ok_or_else(|| Fault::invalid("The request body is not a runner scale set."))
}

async fn create_set(
    State(github): State<GitHub>,
    Path(place): Path<Place>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    ok(admin(&github, &headers, &place, |world, tenant, now| {
        world.create_set(tenant, set_request(&body)?, now)
    }))
}

async fn get_set(State(github): State<GitHub>, Path(place): Path<Place>, headers: HeaderMap) -> Response {
    ok(admin(&github, &headers, &place, |world, tenant, _| {
        world.set(tenant, place.id).map(|set| world.set_json(set))
    }))
}

async fn patch_set(
    State(github): State<GitHub>,
    Path(place): Path<Place>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    ok(admin(&github, &headers, &place, |world, tenant, now| {
        world.update_set(tenant, place.id, set_request(&body)?, false, now)
    }))
}

async fn put_set(State(github): State<GitHub>, Path(place): Path<Place>, headers: HeaderMap, body: Bytes) -> Response {
    ok(admin(&github, &headers, &place, |world, tenant, now| {
        world.update_set(tenant, place.id, set_request(&body)?, true, now)
    }))
}

async fn delete_set(State(github): State<GitHub>, Path(place): Path<Place>, headers: HeaderMap) -> Response {
    gone(admin(&github, &headers, &place, |world, tenant, now| {
        world.delete_set(tenant, place.id, now)
    }))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JitRequest {
    name: String,
    #[serde(default)]
    work_folder: String,
}

async fn jit_config(
    State(github): State<GitHub>,
    Path(place): Path<Place>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    ok(admin(&github, &headers, &place, |world, tenant, now| {
        let request: JitRequest = read(&body).ok_or_else(|| Fault::invalid("The request has no runner name."))?;
        world.set_jit(tenant, place.id, &request.name, &request.work_folder, now)
    }))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AgentQuery {
    agent_name: Option<String>,
}

async fn list_agents(
    State(github): State<GitHub>,
    Path(place): Path<Place>,
    Query(query): Query<AgentQuery>,
    headers: HeaderMap,
) -> Response {
    ok(admin(&github, &headers, &place, |world, tenant, _| {
        Ok(list(&world.agents(tenant, query.agent_name.as_deref())))
    }))
}

async fn get_agent(State(github): State<GitHub>, Path(place): Path<Place>, headers: HeaderMap) -> Response {
    ok(admin(&github, &headers, &place, |world, tenant, _| {
        world.agent(tenant, place.agent)
    }))
}

async fn remove_agent(State(github): State<GitHub>, Path(place): Path<Place>, headers: HeaderMap) -> Response {
    gone(admin(&github, &headers, &place, |world, tenant, _| {
        world.remove_agent(tenant, place.agent)
    }))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SessionRequest {
    owner_name: String,
}

async fn open_session(
    State(github): State<GitHub>,
    Path(place): Path<Place>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    ok(admin(&github, &headers, &place, |world, tenant, now| {
        let request: SessionRequest = read(&body).ok_or_else(|| Fault::invalid("The session has no owner name."))?;
        world.open_session(tenant, place.id, &request.owner_name, now)
    }))
}

async fn refresh_session(State(github): State<GitHub>, Path(place): Path<Place>, headers: HeaderMap) -> Response {
    ok(admin(&github, &headers, &place, |world, tenant, now| {
        world.refresh_session(tenant, place.id, &place.session, now)
    }))
}

async fn close_session(State(github): State<GitHub>, Path(place): Path<Place>, headers: HeaderMap) -> Response {
    gone(admin(&github, &headers, &place, |world, tenant, _| {
        world.close_session(tenant, place.id, &place.session)
    }))
}

async fn acquirable_jobs(State(github): State<GitHub>, Path(place): Path<Place>, headers: HeaderMap) -> Response {
    match admin(&github, &headers, &place, |world, tenant, _| {
        world.acquirable_jobs(tenant, place.id)
    }) {
        Ok(jobs) if jobs.is_empty() => StatusCode::NO_CONTENT.into_response(),
        Ok(jobs) => answer(StatusCode::OK, &list(&jobs)),
        Err(f) => fault(&f),
    }
}

async fn acquire_jobs(
    State(github): State<GitHub>,
    Path(place): Path<Place>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let token = credential(&headers, &["Bearer"]).unwrap_or_default();
    let Some(requests) = read::<Vec<i64>>(&body) else {
        return fault(&Fault::invalid("The request body is not a list of request ids."));
    };
    match github.change(|world, now| world.acquire_jobs(token, place.id, &requests, now)) {
        Ok(got) => answer(StatusCode::OK, &json!({"count": got.len(), "value": got})),
        Err(f) => fault(&f),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PollQuery {
    last_message_id: Option<u64>,
}

async fn poll(
    State(github): State<GitHub>,
    Path(place): Path<Place>,
    Query(query): Query<PollQuery>,
    headers: HeaderMap,
) -> Response {
    let token = credential(&headers, &["Bearer"]).unwrap_or_default();
    let capacity = match headers.get("x-scalesetmaxcapacity").map(|v| v.to_str()) {
        None => Some(UNBOUNDED),
        Some(Ok(text)) => text.parse().ok(),
        Some(Err(_)) => None,
    };
    let Some(capacity) = capacity else {
        return fault(&Fault::invalid("X-ScaleSetMaxCapacity is not a number."));
    };
    let last = query.last_message_id.unwrap_or(0);
    match github.poll(token, place.id, capacity, last).await {
        Ok(Some(message)) => answer(StatusCode::OK, &message),
        Ok(None) => StatusCode::ACCEPTED.into_response(),
        Err(f) => fault(&f),
    }
}

async fn delete_message(State(github): State<GitHub>, Path(place): Path<Place>, headers: HeaderMap) -> Response {
    let token = credential(&headers, &["Bearer"]).unwrap_or_default();
    gone(github.change(|world, now| world.delete_message(token, place.id, place.message, now)))
}
