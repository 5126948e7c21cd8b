//! HTTP in front of the model: who asks, may they, what do they want, and the answer's form.

use std::{io, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Value, json};

use super::{
    access::{self, User},
    deletion::DeleteOptions,
    discovery,
    faults::Trouble,
    model::{Model, RequestKind},
    onlooker,
    operations::{Page, Target, WriteOptions, Written},
    patch::PatchKind,
    pods,
    refusal::Refusal,
    request::{Query, ResourcePath},
    resource::Resource,
    selector::Selector,
    watch::Watch,
};

/// The largest body that is read: what a real API server takes.
const BODY_MAX: usize = 3 * 1024 * 1024;

/// Marks an answer that must not arrive: whoever carries it breaks the connection instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    Refused,
    Lost,
}

/// The whole API as a service.
pub fn router(model: Model) -> Router {
    Router::new().fallback(handle).with_state(model)
}

/// How much of an object is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Projection {
    #[default]
    Whole,
    Metadata,
}

impl Projection {
    fn of(headers: &HeaderMap) -> Self {
        let accept = headers
            .get(header::ACCEPT)
            .and_then(|a| a.to_str().ok())
            .unwrap_or_default();
        let first = accept.split(',').next().unwrap_or_default();
        if first.contains("as=PartialObjectMetadata") {
            Self::Metadata
        } else {
            Self::Whole
        }
    }

    pub(super) fn object(self, object: Value) -> Value {
        match self {
            Self::Whole => object,
            Self::Metadata => json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                "metadata": object["metadata"]}),
        }
    }
}

enum Answer {
    Json(StatusCode, Value, Vec<String>),
    Text(StatusCode, String),
    Watch(Box<Watch>),
}

impl Answer {
    fn ok(value: Value) -> Self {
        Self::Json(StatusCode::OK, value, Vec::new())
    }

    fn created() -> Self {
        let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Self::Json(StatusCode::CREATED, status, Vec::new())
    }
}

async fn handle(State(model): State<Model>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let path = ResourcePath::parse(parts.uri.path());
    let (verb, resource) = match &path {
        Some(path) => (path.verb(&parts.method, &query), path.full_resource()),
        None => ("get", parts.uri.path().to_owned()),
    };
    let user = model.user(bearer(&parts.headers));
    let trouble = model.meet_trouble(verb, &resource, user.as_ref().map_or("", |user| &user.name));
    let who = user.as_ref().map_or("", |user| &user.name);
    if let Some(delay) = model.answers_after((who, verb, &resource, parts.uri.path())) {
        tokio::time::sleep(delay).await;
    }
    match &trouble {
        Some(Trouble::Refused) => return broken(Broken::Refused),
        Some(Trouble::Hang) => std::future::pending().await,
        Some(Trouble::Slow(delay)) => tokio::time::sleep(*delay).await,
        _ => {}
    }
    let user = match user {
        Ok(user) => user,
        Err(refusal) => return respond(Err(refusal)),
    };
    model.count(RequestKind {
        user: user.name.clone(),
        verb: verb.to_owned(),
        resource: resource.clone(),
    });
    match trouble {
        Some(Trouble::Unauthorized) => return respond(Err(Refusal::unauthorized())),
        Some(Trouble::Unavailable) => return respond(Err(Refusal::unavailable())),
        Some(Trouble::Internal) => return respond(Err(Refusal::internal("injected"))),
        Some(Trouble::Throttled { retry_after }) => return respond(Err(Refusal::too_many_requests(retry_after))),
        Some(Trouble::Invalid) => {
            let why = "admission webhook \"policy.example.com\" denied the request";
            return respond(Err(Refusal::new(422, "Invalid", why)));
        }
        Some(Trouble::Denied) => {
            let why = "admission webhook \"policy.example.com\" denied the request: no such pods here";
            return respond(Err(Refusal::new(403, "Forbidden", why)));
        }
        Some(Trouble::NotFound) => return respond(Err(Refusal::no_such_resource())),
        Some(Trouble::Expired) => return respond(Err(Refusal::expired("too old resource version: 1 (2)"))),
        Some(Trouble::Conflict) => {
            let name = path.as_ref().map_or("", |path| &path.name);
            let why = "the object has been modified; please apply your changes to the latest version and try again";
            return respond(Err(Refusal::conflict_as(&resource, name, why)));
        }
        _ => {}
    }
    let Ok(body) = Limited::new(body, BODY_MAX).collect().await else {
        return respond(Err(Refusal::new(413, "RequestEntityTooLarge", "limit is 3145728")));
    };
    let call = Call {
        model: &model,
        user: &user,
        method: &parts.method,
        headers: &parts.headers,
        query: &query,
        body: body.to_bytes(),
    };
    let answer = match &path {
        Some(path) => {
            let mut shown = onlooker::Request {
                user: &user.name,
                verb,
                resource: &resource,
                namespace: &path.namespace,
                name: &path.name,
                body: &call.body,
                dry_run: query.get("dryRun") == "All",
                status: None,
            };
            model.show(&shown);
            let answer = call.resource(path, verb);
            shown.status = Some(match &answer {
                Ok(Answer::Json(code, ..) | Answer::Text(code, _)) => code.as_u16(),
                Ok(Answer::Watch(_)) => StatusCode::OK.as_u16(),
                Err(refusal) => refusal.code,
            });
            model.show(&shown);
            answer
        }
        None => call.plain(parts.uri.path()),
    };
    match trouble {
        Some(Trouble::Lost) => broken(Broken::Lost),
        Some(Trouble::Late(delay)) => {
            tokio::time::sleep(delay).await;
            respond(answer)
        }
        Some(Trouble::Silent) => respond(answer).map(|_| Body::from_stream(stream::pending::<io::Result<Bytes>>())),
        Some(Trouble::Stuck) => {
            let lasts = Duration::from_secs(query.number("timeoutSeconds").unwrap_or_default());
            respond(answer).map(|_| Body::from_stream(nothing_for(lasts)))
        }
        _ => respond(answer),
    }
}

fn nothing_for(lasts: Duration) -> impl Stream<Item = io::Result<Bytes>> {
    stream::once(tokio::time::sleep(lasts)).filter_map(|()| std::future::ready(None))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .strip_prefix("Bearer ")
}

/// One request, once it is known who asks.
struct Call<'a> {
    model: &'a Model,
    user: &'a User,
    method: &'a Method,
    headers: &'a HeaderMap,
    query: &'a Query,
    body: Bytes,
}

impl Call<'_> {
    /// Paths that are no resource.
    fn plain(&self, path: &str) -> Result<Answer, Refusal> {
        if !access::path_allowed(self.user, path) {
            let verb = self.method.as_str().to_lowercase();
            return Err(access::path_refusal(self.user, path, &verb));
        }
        if discovery::is_probe(path) {
            return Ok(Answer::Text(StatusCode::OK, "ok".to_owned()));
        }
        let host = self.headers.get(header::HOST).and_then(|h| h.to_str().ok());
        match discovery::answer(self.model, path, host.unwrap_or("kubernetes.default.svc")) {
            Some(value) => Ok(Answer::ok(value)),
            None => Ok(Answer::Text(StatusCode::NOT_FOUND, "404 page not found\n".to_owned())),
        }
    }

    fn resource(&self, path: &ResourcePath, verb: &str) -> Result<Answer, Refusal> {
        if path.group == "authorization.k8s.io" {
            return self.review(path, verb);
        }
        let row = path.row();
        let selector = match row {
            Some(row) => self.query.selector(row)?,
            None => Selector::default(),
        };
        let action = path.action(verb, &selector);
        let may = access::allowed(&self.model.state().operations.store, self.user, &action);
        let row = match row {
            Some(row) if may => row,
            Some(row) => return Err(action.refusal(self.user, row)),
            None => return Err(Refusal::no_such_resource()),
        };
        let target = Target {
            resource: row,
            namespace: &path.namespace,
            name: &path.name,
            subresource: &path.subresource,
        };
        match path.subresource.as_str() {
            "" | "status" => self.verb(target, verb),
            other => self.subresource(target, other, verb),
        }
    }

    fn verb(&self, target: Target<'_>, verb: &str) -> Result<Answer, Refusal> {
        let (model, query) = (self.model, self.query);
        let now = model.now();
        match verb {
            "get" => {
                let object = model.state().operations.get(target)?;
                Ok(Answer::ok(self.projection().object(object)))
            }
            "list" => {
                let options = query.list_options(target.resource)?;
                self.refuse_future(model.revision())?;
                let page = model
                    .state()
                    .operations
                    .list(target.resource, target.namespace, &options)?;
                Ok(Answer::ok(self.page(target.resource, &page)))
            }
            "watch" => {
                let watch = Watch::open(
                    model,
                    target.resource,
                    target.namespace,
                    query,
                    self.projection(),
                    &self.user.name,
                )?;
                Ok(Answer::Watch(Box::new(watch)))
            }
            "create" if target.name.is_empty() && target.resource.namespaced != target.namespace.is_empty() => {
                let (body, options) = (self.json(target.resource)?, query.write_options()?);
                let written = model.state().operations.create(target, &body, options, now)?;
                Ok(Self::written(written))
            }
            "update" if !target.name.is_empty() => {
                let (body, options) = (self.json(target.resource)?, query.write_options()?);
                let written = model.state().operations.update(target, &body, options, now)?;
                Ok(Self::written(written))
            }
            "patch" if !target.name.is_empty() => self.patch(target, query.write_options()?),
            "delete" => {
                let options = self.delete_options()?;
                let last = model.state().operations.delete(target, &options, now)?;
                Ok(Answer::ok(last))
            }
            "deletecollection" => {
                let options = self.delete_options()?;
                let list = query.list_options(target.resource)?;
                let mut state = model.state();
                let page =
                    state
                        .operations
                        .delete_collection(target.resource, target.namespace, &list, &options, now)?;
                drop(state);
                Ok(Answer::ok(self.page(target.resource, &page)))
            }
            _ => Err(Refusal::method_not_allowed()),
        }
    }

    fn patch(&self, target: Target<'_>, options: WriteOptions) -> Result<Answer, Refusal> {
        let content_type = self.content_type();
        let Some(kind) = PatchKind::of_content_type(content_type) else {
            return Err(Refusal::unsupported_media_type());
        };
        let patch = self.json(target.resource)?;
        let now = self.model.now();
        let written = self
            .model
            .state()
            .operations
            .patch(target, kind, &patch, options, now)?;
        Ok(Self::written(written))
    }

    fn subresource(&self, target: Target<'_>, subresource: &str, verb: &str) -> Result<Answer, Refusal> {
        let now = self.model.now();
        match (subresource, verb) {
            ("binding", "create") => {
                let body = self.json(target.resource)?;
                let node = body["target"]["name"].as_str().unwrap_or_default();
                self.model.state().operations.bind(target, node, now)?;
                Ok(Answer::created())
            }
            ("eviction", "create") => {
                let body = self.json(target.resource)?;
                let options = delete_options(&body["deleteOptions"]);
                self.model.state().operations.delete(target, &options, now)?;
                Ok(Answer::created())
            }
            ("token", "create") => {
                let body = self.json(target.resource)?;
                let token = self.model.issue_token(target.namespace, target.name, &body)?;
                Ok(Answer::Json(StatusCode::CREATED, token, Vec::new()))
            }
            ("log", "get") => self.log(target),
            _ => Err(Refusal::method_not_allowed()),
        }
    }

    fn log(&self, target: Target<'_>) -> Result<Answer, Refusal> {
        let pod = self.model.state().operations.get(target)?;
        let name = target.name;
        let names: Vec<&str> = pods::containers(&pod["spec"])
            .filter_map(|c| c["name"].as_str())
            .collect();
        let container = match (self.query.get("container"), &names[..]) {
            ("", [only]) => *only,
            ("", several) => {
                return Err(Refusal::bad_request(format!(
                    "a container name must be specified for pod {name}, choose one of: [{}]",
                    several.join(" ")
                )));
            }
            (wanted, all) if all.contains(&wanted) => wanted,
            (wanted, _) => {
                return Err(Refusal::bad_request(format!(
                    "container {wanted} is not valid for pod {name}"
                )));
            }
        };
        if pod["spec"]["nodeName"].as_str().unwrap_or_default().is_empty() {
            return Ok(Answer::Text(StatusCode::NO_CONTENT, String::new()));
        }
        let text = self.model.log(target.namespace, name, container).unwrap_or_default();
        let text = match self.query.number::<usize>("tailLines") {
            Some(n) => {
                let lines: Vec<&str> = text.split_inclusive('\n').collect();
                lines[lines.len().saturating_sub(n)..].concat()
            }
            None => text,
        };
        Ok(Answer::Text(StatusCode::OK, text))
    }

    fn review(&self, path: &ResourcePath, verb: &str) -> Result<Answer, Refusal> {
        if verb != "create" {
            return Err(Refusal::method_not_allowed());
        }
        if self.content_type().contains("protobuf") {
            return Err(Refusal::unsupported_media_type());
        }
        let body: Value = serde_json::from_slice(&self.body).map_err(|e| Refusal::bad_request(e.to_string()))?;
        let state = self.model.state();
        let answer = access::review(&state.operations.store, self.user, &path.resource, &body);
        let answer = answer.ok_or_else(Refusal::no_such_resource)?;
        Ok(Answer::Json(StatusCode::CREATED, answer, Vec::new()))
    }

    fn written(written: Written) -> Answer {
        let code = if written.created {
            StatusCode::CREATED
        } else {
            StatusCode::OK
        };
        Answer::Json(code, written.object, written.warnings)
    }

    fn page(&self, resource: &'static Resource, page: &Page) -> Value {
        let mut metadata = json!({"resourceVersion": page.revision.to_string()});
        if let Some(next) = &page.next {
            metadata["continue"] = json!(next);
        }
        if let Some(remaining) = page.remaining {
            metadata["remainingItemCount"] = json!(remaining);
        }
        let state = self.model.state();
        let projection = self.projection();
        let items: Vec<Value> = page
            .items
            .iter()
            .map(|stored| projection.object(state.operations.shown(resource, stored)))
            .collect();
        let (kind, version) = match projection {
            Projection::Whole => (resource.list_kind(), resource.api_version()),
            Projection::Metadata => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned()),
        };
        json!({"kind": kind, "apiVersion": version, "metadata": metadata, "items": items})
    }

    /// A list that must not be older than a version nobody has written yet.
    fn refuse_future(&self, current: u64) -> Result<(), Refusal> {
        match self.query.number::<u64>("resourceVersion") {
            Some(wanted) if wanted > current => Err(Refusal::too_large_version(wanted, current)),
            _ => Ok(()),
        }
    }

    fn projection(&self) -> Projection {
        Projection::of(self.headers)
    }

    fn content_type(&self) -> &str {
        let value = self.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        value.unwrap_or_default()
    }

    /// The body, JSON or YAML.
    fn json(&self, resource: &Resource) -> Result<Value, Refusal> {
        let content_type = self.content_type();
        if content_type.contains("protobuf") {
            return Err(Refusal::unsupported_media_type());
        }
        let unreadable = |why: String| {
            Refusal::bad_request(format!(
                "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse \
                 error: {why}",
                resource.kind
            ))
        };
        if content_type.contains("yaml") {
            return serde_yaml_ng::from_slice(&self.body).map_err(|e| unreadable(e.to_string()));
        }
        serde_json::from_slice(&self.body).map_err(|e| unreadable(e.to_string()))
    }

    /// Options from the body; only where there is none, from the query.
    fn delete_options(&self) -> Result<DeleteOptions, Refusal> {
        if !self.body.is_empty() {
            let body: Value = serde_json::from_slice(&self.body).map_err(|e| Refusal::bad_request(e.to_string()))?;
            return Ok(delete_options(&body));
        }
        let policy = self.query.get("propagationPolicy");
        Ok(DeleteOptions {
            grace_seconds: self.query.number("gracePeriodSeconds"),
            orphan: (!policy.is_empty()).then_some(policy == "Orphan"),
            dry_run: self.query.dry_run()?,
            ..DeleteOptions::default()
        })
    }
}

fn delete_options(body: &Value) -> DeleteOptions {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    DeleteOptions {
        grace_seconds: body["gracePeriodSeconds"].as_i64(),
        uid: text(&body["preconditions"]["uid"]),
        resource_version: text(&body["preconditions"]["resourceVersion"]),
        orphan: text(&body["propagationPolicy"]).map(|policy| policy == "Orphan"),
        dry_run: body["dryRun"][0] == "All",
    }
}

fn respond(answer: Result<Answer, Refusal>) -> Response {
    match answer {
        Ok(Answer::Json(code, value, warnings)) => {
            let mut response = json_response(code, &value);
            for warning in warnings {
                if let Ok(text) = HeaderValue::from_str(&format!("299 - {}", json!(warning))) {
                    response.headers_mut().append(header::WARNING, text);
                }
            }
            response
        }
        Ok(Answer::Text(code, text)) => {
            let mut response = Response::new(Body::from(text));
            *response.status_mut() = code;
            let plain = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, plain);
            response
        }
        Ok(Answer::Watch(watch)) => {
            let mut response = Response::new(Body::from_stream(watch.into_lines()));
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(header::CONTENT_TYPE, json);
            response
        }
        Err(refusal) => {
            let code = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut response = json_response(code, &refusal.to_status());
            if let Some(seconds) = refusal.retry_after {
                response
                    .headers_mut()
                    .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            response
        }
    }
}

fn json_response(code: StatusCode, value: &Value) -> Response {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = code;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn broken(how: Broken) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response.extensions_mut().insert(how);
    response
}
