//! The service's own description of itself, as far as this one serves it: what a client may take for evidence of
//! the version that it has found.

use serde_json::{Map, Value, json};

use super::{
    VERSION,
    flavour::{Accounts, Capabilities},
};

/// Beside the calls that hand something out.
const COMMON: &[(&str, &[&str])] = &[
    ("/", &["get"]),
    ("/health", &["get"]),
    ("/api/v1/runners", &["get"]),
    ("/api/v1/runners/{runner_id}", &["get", "delete"]),
    ("/api/v1/runners/{runner_id}/refresh", &["post"]),
    ("/api/v1/auth/me", &["get"]),
    ("/api/v1/audit-logs", &["get"]),
    ("/api/v1/admin/stats", &["get"]),
];
const OF_TEAMS: &[(&str, &[&str])] = &[
    ("/api/v1/admin/teams", &["get", "post"]),
    ("/api/v1/admin/teams/{team_id}", &["get"]),
    ("/api/v1/admin/teams/{team_id}/members", &["get"]),
    ("/api/v1/admin/teams/{team_id}/audit-logs", &["get"]),
    ("/api/v1/admin/teams/users/{user_id}/teams", &["get"]),
];
const OLDER: &[(&str, &[&str])] = &[
    ("/api/v1/auth/my-label-policy", &["get"]),
    ("/api/v1/dashboard/stats", &["get"]),
    ("/api/v1/admin/sync/status", &["get"]),
    ("/api/v1/admin/sync/trigger", &["post"]),
];

pub(super) fn document(capabilities: &Capabilities) -> Value {
    let mut paths = Map::new();
    let mut schemas = Map::new();
    let with_teams = matches!(capabilities.accounts, Accounts::Teams { .. });
    let tables = [
        COMMON,
        if with_teams { OF_TEAMS } else { &[] },
        if capabilities.older_surface { OLDER } else { &[] },
    ];
    for (path, methods) in tables.concat() {
        let operation = json!({ "responses": { "200": { "description": "OK" } } });
        let operations: Map<String, Value> = methods
            .iter()
            .map(|method| ((*method).to_owned(), operation.clone()))
            .collect();
        paths.insert(path.to_owned(), Value::Object(operations));
    }
    let (request, response) = jit(capabilities);
    let mut describe = |path: &str, name: &str, request: Map<String, Value>, response: Map<String, Value>| {
        let (asked, answered) = (format!("{name}Request"), format!("{name}Response"));
        let reference = |name: &str| json!({ "application/json": { "schema": { "$ref": format!("#/components/schemas/{name}") } } });
        paths.insert(
            path.to_owned(),
            json!({ "post": {
                "requestBody": { "content": reference(&asked), "required": true },
                "responses": {
                    "201": { "description": "Successful Response", "content": reference(&answered) },
                },
            }}),
        );
        schemas.insert(asked, json!({ "type": "object", "properties": request }));
        schemas.insert(answered, json!({ "type": "object", "properties": response }));
    };
    describe("/api/v1/runners/jit", "JitProvision", request, response);
    if capabilities.older_surface {
        let (request, response) = registration_token();
        describe("/api/v1/runners/provision", "ProvisionRunner", request, response);
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "GitHub Runner Token Service", "version": VERSION },
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

fn jit(capabilities: &Capabilities) -> (Map<String, Value>, Map<String, Value>) {
    let mut request = fields("string", &["runner_name", "runner_name_prefix", "work_folder"]);
    request.insert("labels".to_owned(), texts());
    request.extend(fields("integer", &["runner_group_id"]));
    match capabilities.accounts {
        Accounts::Teams { by_name: false } => request.extend(fields("string", &["team_id"])),
        Accounts::Teams { by_name: true } => request.extend(fields("string", &["team_name"])),
        Accounts::Identities => {}
    }
    let mut response = fields(
        "string",
        &[
            "runner_id",
            "runner_name",
            "encoded_jit_config",
            "expires_at",
            "run_command",
        ],
    );
    response.insert("labels".to_owned(), texts());
    if capabilities.scale_sets {
        for described in [&mut request, &mut response] {
            described.extend(fields("integer", &["runner_scale_set_id"]));
            described.extend(fields("string", &["runner_scale_set_name"]));
        }
        response.extend(fields("integer", &["github_runner_id"]));
    }
    (request, response)
}

fn registration_token() -> (Map<String, Value>, Map<String, Value>) {
    let mut request = fields("string", &["runner_name", "runner_name_prefix"]);
    request.insert("labels".to_owned(), texts());
    request.extend(fields("integer", &["runner_group_id"]));
    request.extend(fields("boolean", &["ephemeral", "disable_update"]));
    let mut response = fields(
        "string",
        &[
            "runner_id",
            "runner_name",
            "registration_token",
            "expires_at",
            "github_url",
            "configuration_command",
        ],
    );
    response.insert("labels".to_owned(), texts());
    response.extend(fields("integer", &["runner_group_id"]));
    response.extend(fields("boolean", &["ephemeral"]));
    (request, response)
}

fn fields(kind: &str, names: &[&str]) -> Map<String, Value> {
    let field = |name: &&str| ((*name).to_owned(), json!({ "type": kind }));
    names.iter().map(field).collect()
}

fn texts() -> Value {
    json!({ "type": "array", "items": { "type": "string" } })
}
