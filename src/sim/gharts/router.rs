//! HTTP over the model: the order of checks, headers, and what Starlette does with odd paths and methods.
//!
//! One fallback handler serves everything, because axum's own routing differs where it was recorded: it
//! answers HEAD, does not redirect slashes, and has other bodies for 404 and 405.

use axum::{
    Router,
    body::Body,
    extract::{Request, State as Extract},
    response::Response,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use http_body_util::BodyExt as _;
use jiff::fmt::rfc2822::DateTimePrinter;
use serde::Serialize;
use serde_json::Value;
use url::form_urlencoded;

use super::{
    Fault, Gharts, Operation, VERSION,
    event_loop::Connection,
    flavour::{Accounts, Capabilities, Timestamps},
    model::{AuditEntry, Caller, Model, Team},
    older::{Dashboard, PolicyView, SyncStatus},
    openapi,
    refusal::Refusal,
    registration::TokenRequest,
    routes::Route,
    views::{
        AuditList, AuditView, Deprovisioned, Health, JitAnswer, Me, Members, Root, RunnerList, RunnerView, TeamAudit,
        TeamList, TeamView, UserTeams,
    },
};
use crate::sim::network::broken_connection;

const DEFAULT_PAGE: usize = 50;
/// Largest page of the audit log.
const AUDIT_PAGE: usize = 200;

/// What goes back, before it is HTTP.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    body: Bytes,
    content_type: Option<&'static str>,
    location: Option<String>,
}

impl Answer {
    fn json(status: StatusCode, body: &impl Serialize) -> Result<Self, Refusal> {
        Ok(Self {
            status,
            body: serde_json::to_vec(body).map_err(|_| Refusal::Internal)?.into(),
            content_type: Some("application/json"),
            location: None,
        })
    }

    fn ok(body: &impl Serialize) -> Result<Self, Refusal> {
        Self::json(StatusCode::OK, body)
    }

    /// What the server of the web page says to every path.
    fn of_web_page(path: &str) -> Self {
        let (content_type, text) = match path {
            "/health" => ("text/plain", "OK"),
            _ => ("text/html", "<!doctype html><title>GHARTS</title>"),
        };
        Self {
            status: StatusCode::OK,
            body: Bytes::from_static(text.as_bytes()),
            content_type: Some(content_type),
            location: None,
        }
    }
}

pub(super) fn router(gharts: Gharts) -> Router {
    Router::new().fallback(dispatch).with_state(gharts)
}

/// A call runs in a task of its own: as recorded, it takes its course when the client has gone away.
async fn dispatch(Extract(gharts): Extract<Gharts>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return Response::new(Body::empty());
    };
    let tasks = gharts.inner.tasks.clone();
    let service = gharts.clone();
    let call = tasks.spawn("gharts call", async move { gharts.serve(parts, body.to_bytes()).await });
    let answered = call
        .await
        .unwrap_or_else(|_| Served::Answer(service.refuse(&Refusal::Internal)));
    match answered {
        Served::Answer(answer) => service.respond(answer),
        Served::Lost => broken_connection(),
    }
}

/// An answer, or a connection that breaks where the answer should be.
enum Served {
    Answer(Answer),
    Lost,
}

impl Gharts {
    async fn serve(&self, parts: Parts, body: Bytes) -> Served {
        if self.inner.deployment.ingress && !parts.uri.path().starts_with("/api/") {
            return Served::Answer(Answer::of_web_page(parts.uri.path()));
        }
        let route = Route::of(self.capabilities(), &parts.method, parts.uri.path());
        let operation = route
            .as_ref()
            .map_or(Operation::Other, |route| route.operation(&parts.method));
        let _call = self.enter(operation);
        self.inner.event_loop.awake().await;
        let fault = self.fault(operation);
        if fault == Some(Fault::Refused) {
            return Served::Answer(self.refuse(&Refusal::Internal));
        }
        let mut answer = match self.route(route, &parts, &body, fault).await {
            Ok(answer) => answer,
            Err(refusal) => self.refuse(&refusal),
        };
        match fault {
            Some(Fault::AnswerLost) => return Served::Lost,
            Some(Fault::AnswerSpoiled) => answer = self.refuse(&Refusal::Internal),
            _ => {}
        }
        if parts.method == Method::HEAD {
            answer.body = Bytes::new();
        }
        Served::Answer(answer)
    }

    fn refuse(&self, refusal: &Refusal) -> Answer {
        let (status, body) = refusal.answer(self.capabilities().wording);
        Answer {
            status,
            body: body.to_string().into(),
            content_type: Some("application/json"),
            location: None,
        }
    }

    fn respond(&self, answer: Answer) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = answer.status;
        let headers = response.headers_mut();
        if let Some(date) = DateTimePrinter::new()
            .timestamp_to_rfc9110_string(&self.inner.clock.now())
            .ok()
            .and_then(|date| HeaderValue::try_from(date).ok())
        {
            headers.insert(header::DATE, date);
        }
        headers.insert(header::SERVER, HeaderValue::from_static("uvicorn"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(answer.body.len()));
        if let Some(kind) = answer.content_type {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        if let Some(location) = answer
            .location
            .and_then(|location| HeaderValue::try_from(location).ok())
        {
            headers.insert(header::LOCATION, location);
        }
        if answer.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        *response.body_mut() = Body::from(answer.body);
        response
    }

    async fn route(
        &self,
        route: Option<Route>,
        parts: &Parts,
        body: &Bytes,
        fault: Option<Fault>,
    ) -> Result<Answer, Refusal> {
        let Some(route) = route else {
            return self.redirect(parts).ok_or(Refusal::NoRoute);
        };
        if !route.takes(&parts.method) {
            return Err(Refusal::WrongMethod);
        }
        match route {
            Route::Root => Answer::ok(&Root {
                service: "GitHub Runner Token Service",
                version: VERSION,
                docs: "/docs",
                health: "/health",
                metrics: self.capabilities().metrics.then_some("/metrics"),
            }),
            Route::Health => Answer::ok(&Health {
                status: "healthy",
                version: VERSION,
                timestamp: Timestamps::Rfc3339.print(self.inner.clock.now()),
            }),
            Route::OpenApi => Answer::ok(&openapi::document(self.capabilities())),
            Route::Metrics => Ok(self.metrics()),
            Route::Dashboard => Answer::ok(&Dashboard::new(self.capabilities().timestamps, &self.lock())),
            Route::Jit | Route::Provision => self.hand_out(&route, &parts.headers, body, fault).await,
            route => {
                let (caller, _connection) = self.caller(&parts.headers).await?;
                self.member_route(route, parts, &caller).await
            }
        }
    }

    async fn member_route(&self, route: Route, parts: &Parts, caller: &Caller) -> Result<Answer, Refusal> {
        let times = self.capabilities().timestamps;
        match route {
            Route::Runner(id) if parts.method == Method::DELETE => {
                Answer::ok(&Deprovisioned::new(self.take_back(caller, &id).await?))
            }
            Route::Runner(id) => {
                let model = self.lock();
                Answer::ok(&RunnerView::detail(self.capabilities(), model.owned(caller, &id)?))
            }
            Route::Refresh(id) => Answer::ok(&RunnerView::new(times, &self.refresh(caller, &id).await?)),
            Route::Runners => self.list(caller, &Query::of(parts)),
            Route::Me => Answer::ok(&Me::new(self.capabilities(), &self.lock(), caller)),
            Route::MyPolicy => {
                let policy = self.policy(&caller.identity());
                Answer::ok(&policy.map(PolicyView::from))
            }
            Route::SyncStatus if caller.is_admin() => Answer::ok(&self.sync_status()),
            Route::Audit => self.audit_page(caller, &Query::of(parts)),
            Route::Teams if parts.method == Method::POST => Err(Refusal::TeamAdminOnly),
            Route::Teams => self.team_list(caller, &Query::of(parts)),
            Route::Team(id) => {
                let model = self.lock();
                Answer::ok(&TeamView::new(times, &model, self.team_for(&model, caller, &id)?))
            }
            Route::Members(id) => {
                let model = self.lock();
                Answer::ok(&Members::new(times, &model, self.team_for(&model, caller, &id)?))
            }
            Route::TeamAudit(id) => {
                let model = self.lock();
                let team = self.team_for(&model, caller, &id)?;
                let of_team = |entry: &AuditEntry| entry.team.as_ref().is_some_and(|(id, _)| *id == team.id);
                let logs = audit_logs(&model, self.capabilities(), &Query::of(parts), of_team)?;
                Answer::ok(&TeamAudit {
                    team_id: team.id.clone(),
                    team_name: team.name.clone(),
                    logs: logs.logs,
                    total: logs.total,
                })
            }
            Route::UserTeams(id) => {
                if caller.user_id() != Some(&id) && !caller.is_admin() {
                    return Err(Refusal::AdminOnly);
                }
                let model = self.lock();
                let teams = model.teams_of(&id);
                Answer::ok(&UserTeams {
                    total: teams.len(),
                    teams: teams
                        .into_iter()
                        .map(|team| TeamView::new(times, &model, team))
                        .collect(),
                    user_id: id,
                })
            }
            // Administration is done on the model; over HTTP even an administrator is refused.
            _ => Err(Refusal::AdminOnly),
        }
    }

    /// Syntax, token, user, permission, schema: in the recorded order.
    async fn hand_out(
        &self,
        route: &Route,
        headers: &HeaderMap,
        body: &Bytes,
        fault: Option<Fault>,
    ) -> Result<Answer, Refusal> {
        let json = headers
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .is_some_and(|kind| kind.starts_with("application/json"));
        let parsed: Option<Value> = if json && !body.is_empty() {
            Some(serde_json::from_slice(body).map_err(|_| Refusal::Malformed)?)
        } else {
            None
        };
        let body = parsed.unwrap_or_default();
        let (caller, _connection) = self.caller(headers).await?;
        let Caller::User { user, .. } = &caller else {
            return self.hand_out_jit(&caller, &body, fault).await;
        };
        match route {
            Route::Provision if !user.can_use_registration_token => Err(Refusal::RegistrationNotPermitted),
            Route::Provision => {
                let request = TokenRequest::read(&body)?;
                let answer = self.hand_out_token(&caller, request, fault).await?;
                Answer::json(StatusCode::CREATED, &answer)
            }
            _ if !user.can_use_jit => Err(Refusal::JitNotPermitted),
            _ => self.hand_out_jit(&caller, &body, fault).await,
        }
    }

    async fn hand_out_jit(&self, caller: &Caller, body: &Value, fault: Option<Fault>) -> Result<Answer, Refusal> {
        let request = self.jit_request(body)?;
        let granted = self.grant(caller, request, fault).await?;
        Answer::json(
            StatusCode::CREATED,
            &JitAnswer::new(self.capabilities().timestamps, granted),
        )
    }

    /// Who calls, and the database connection that the call holds until its end.
    async fn caller(&self, headers: &HeaderMap) -> Result<(Caller, Connection), Refusal> {
        let token = bearer(headers).ok_or(Refusal::NotAuthenticated)?;
        let claims = self.inner.verifier.verify(token).await.map_err(Refusal::Token)?;
        let connection = self.inner.event_loop.connection().await?;
        let caller = self.lock().caller(self.capabilities(), &claims)?;
        Ok((caller, connection))
    }

    fn sync_status(&self) -> SyncStatus {
        let times = self.capabilities().timestamps;
        let sync = self.capabilities().sync;
        SyncStatus {
            enabled: self.inner.deployment.sync,
            interval_seconds: sync.map_or(0, |sync| sync.every.as_secs()),
            last_sync_time: self.lock().last_sync.map(|time| times.print(time)),
            last_sync_result: None,
        }
    }

    /// A path that would be right without its trailing slash is sent there, over plain http.
    fn redirect(&self, parts: &Parts) -> Option<Answer> {
        let path = parts.uri.path().strip_suffix('/')?;
        Route::of(self.capabilities(), &parts.method, path)?;
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| parts.uri.authority().map(http::uri::Authority::as_str))?;
        let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        Some(Answer {
            status: StatusCode::TEMPORARY_REDIRECT,
            body: Bytes::new(),
            content_type: None,
            location: Some(format!("http://{host}{path}{query}")),
        })
    }

    fn list(&self, caller: &Caller, query: &Query) -> Result<Answer, Refusal> {
        let (limit, offset) = query.page(self.capabilities().max_page)?;
        let times = self.capabilities().timestamps;
        let model = self.lock();
        let mut found = model.visible(caller);
        if let Some(status) = query.get("status") {
            found.retain(|record| record.status.as_str() == status);
        }
        if query.flag("ephemeral")? == Some(false) {
            found.clear();
        }
        let teams = self.capabilities().accounts != Accounts::Identities;
        if let (true, Some(name), Caller::User { .. }) = (teams, query.get("team"), caller) {
            let team = model.teams.iter().find(|team| team.name == name).map(|team| &team.id);
            found.retain(|record| record.team.as_ref() == team);
        }
        Answer::ok(&RunnerList {
            total: found.len(),
            runners: found
                .into_iter()
                .skip(offset)
                .take(limit)
                .map(|record| RunnerView::new(times, record))
                .collect(),
        })
    }

    fn team_list(&self, caller: &Caller, query: &Query) -> Result<Answer, Refusal> {
        let times = self.capabilities().timestamps;
        let model = self.lock();
        let inactive_too = query.flag("include_inactive")? == Some(true);
        let (first, teams): (Option<TeamView>, Vec<&Team>) = match caller {
            Caller::User { user, .. } if user.admin => {
                let shown = |team: &&Team| inactive_too || team.deactivated.is_none();
                (
                    Some(TeamView::admins(&model)),
                    model.teams.iter().filter(shown).collect(),
                )
            }
            _ if inactive_too => return Err(Refusal::InactiveTeamsForAdmins),
            Caller::User { user, .. } => (None, model.teams_of(&user.id)),
            Caller::Machine { .. } => (None, Vec::new()),
        };
        let rest = teams.into_iter().map(|team| TeamView::new(times, &model, team));
        let teams: Vec<TeamView> = first.into_iter().chain(rest).collect();
        Answer::ok(&TeamList {
            total: teams.len(),
            teams,
        })
    }

    /// A team that the caller may look at. Machine clients may look at none, not even their own.
    fn team_for<'m>(&self, model: &'m Model, caller: &Caller, id: &str) -> Result<&'m Team, Refusal> {
        let by_name = self.capabilities().accounts == Accounts::Teams { by_name: true };
        let named = |team: &&Team| team.id == id || (by_name && team.name == id);
        let team = model.teams.iter().find(named).ok_or(Refusal::TeamNotFound)?;
        let member = caller.user_id().is_some_and(|user| model.is_member(&team.id, user));
        if member || caller.is_admin() {
            Ok(team)
        } else {
            Err(Refusal::NotTeamMember)
        }
    }

    /// An administrator sees all, others what concerns their teams, or themselves where there are none.
    fn audit_page(&self, caller: &Caller, query: &Query) -> Result<Answer, Refusal> {
        let model = self.lock();
        let of_team = |team: &str| match caller {
            Caller::Machine { team: own, .. } => own == team,
            Caller::User { user, .. } => user.admin || model.is_member(team, &user.id),
        };
        let teams = self.capabilities().accounts != Accounts::Identities;
        let visible = |entry: &AuditEntry| match &entry.team {
            Some((team, _)) => of_team(team),
            None => !teams && (caller.is_admin() || entry.identity == caller.identity()),
        };
        Answer::ok(&audit_logs(&model, self.capabilities(), query, visible)?)
    }

    fn metrics(&self) -> Answer {
        let model = self.lock();
        let lines = super::Status::ALL.map(|status| {
            let count = model.records.all().filter(|record| record.status == status).count();
            format!("gharts_runners_by_status{{status=\"{}\"}} {count}\n", status.as_str())
        });
        let text = format!("# TYPE gharts_runners_by_status gauge\n{}", lines.concat());
        Answer {
            status: StatusCode::OK,
            body: text.into(),
            content_type: Some("text/plain; version=0.0.4; charset=utf-8"),
            location: None,
        }
    }
}

fn audit_logs(
    model: &Model,
    capabilities: &Capabilities,
    query: &Query,
    visible: impl Fn(&AuditEntry) -> bool,
) -> Result<AuditList, Refusal> {
    let (limit, offset) = query.page(AUDIT_PAGE)?;
    let entries: Vec<_> = model.audit.iter().rev().filter(|entry| visible(entry)).collect();
    Ok(AuditList {
        total: entries.len(),
        logs: entries
            .into_iter()
            .skip(offset)
            .take(limit)
            .map(|entry| AuditView::new(capabilities, entry))
            .collect(),
    })
}

/// The credentials after the word `Bearer`, in any case.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

struct Query(Vec<(String, String)>);

impl Query {
    fn of(parts: &Parts) -> Self {
        let query = parts.uri.query().unwrap_or_default();
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, Refusal> {
        match self.get(name).map(str::to_ascii_lowercase).as_deref() {
            None => Ok(None),
            Some("true" | "1" | "yes" | "on") => Ok(Some(true)),
            Some("false" | "0" | "no" | "off") => Ok(Some(false)),
            Some(_) => Err(Refusal::Malformed),
        }
    }

    fn page(&self, max: usize) -> Result<(usize, usize), Refusal> {
        let number = |name: &str, default: usize| match self.get(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| Refusal::Malformed),
        };
        let limit = number("limit", DEFAULT_PAGE)?;
        if limit == 0 || limit > max {
            return Err(Refusal::Malformed);
        }
        Ok((limit, number("offset", 0)?))
    }
}
