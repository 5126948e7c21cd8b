//! What happens to GitHub and what its administrators do, by HTTP.

use std::{collections::BTreeMap, time::Duration};

use axum::{Json, body::Bytes, extract::State};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Controlled, Refusal, read};
use crate::sim::{
    github::{GroupAccess, Limit, Limited, Repositories},
    world::ORGANIZATION,
};

/// Any of these; what is absent stays as it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Change {
    multi_label: Option<bool>,
    refused_names: Option<BTreeMap<String, String>>,
    limit: Option<LimitChange>,
    group: Option<GroupChange>,
    #[serde(default)]
    revoke_tokens: bool,
    remove_scale_set: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LimitChange {
    whom: Limited,
    #[serde(rename = "as")]
    how: Limit,
    seconds: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupChange {
    name: String,
    scope: Option<String>,
    public_repositories: Option<bool>,
    selected: Option<Vec<String>>,
    workflows: Option<Vec<String>>,
}

impl GroupChange {
    fn access(&self) -> GroupAccess {
        let open = GroupAccess::default();
        GroupAccess {
            public_repositories: self.public_repositories.unwrap_or(open.public_repositories),
            repositories: self.selected.clone().map_or(open.repositories, Repositories::Selected),
            workflows: self.workflows.clone(),
        }
    }
}

pub(super) async fn change(State(world): State<Controlled>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let change: Change = read(&body)?;
    let github = &world.services.github;
    let missing = |what: &str, name: &str| Refusal(StatusCode::NOT_FOUND, format!("there is no {what} {name}"));
    if let Some(group) = &change.group {
        let scope = group.scope.as_deref().unwrap_or(ORGANIZATION);
        if !github.set_group_access(scope, &group.name, group.access()) {
            return Err(missing("runner group", &group.name));
        }
    }
    if let Some(set) = &change.remove_scale_set
        && !github.remove_set(set)
    {
        return Err(missing("scale set", set));
    }
    github.configure(|settings| {
        settings.multi_label = change.multi_label.unwrap_or(settings.multi_label);
        if let Some(names) = change.refused_names {
            settings.refused_names = names;
        }
    });
    if let Some(LimitChange { whom, how, seconds }) = change.limit {
        github.limit(whom, how, Duration::from_secs(seconds.into()));
    }
    if change.revoke_tokens {
        github.revoke_installation_tokens();
        github.revoke_admin_tokens();
    }
    Ok(Json(json!({})))
}
