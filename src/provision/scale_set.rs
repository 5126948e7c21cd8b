//! The scale set's own JIT configuration: GitHub alone, no token service. Keeps no records of its own.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::{Class, Granted, JitRequest, Provisioner, Record, Refusal, Registration, ReleaseError, Released};
use crate::{
    http::redact,
    identity::{Denial, TokenError},
    scaleset::{Connection, Error, Jit},
};

/// Asks generatejitconfig through one credential's connection.
#[derive(Debug)]
pub struct ScaleSetProvisioner {
    connection: Arc<Connection>,
}

impl ScaleSetProvisioner {
    pub fn new(connection: Arc<Connection>) -> Self {
        Self { connection }
    }
}

impl Provisioner for ScaleSetProvisioner {
    fn provision<'a>(&'a self, request: &'a JitRequest) -> BoxFuture<'a, Result<Granted, Refusal>> {
        Box::pin(async move {
            let jit = register(&self.connection, request).await?;
            Ok(Granted {
                jit_config: jit.config,
                agent_id: jit.agent_id,
                gharts_id: None,
                status: None,
            })
        })
    }

    fn release<'a>(&'a self, _: &'a Registration) -> BoxFuture<'a, Result<Released, ReleaseError>> {
        Box::pin(async { Ok(Released::AlreadyGone) })
    }

    fn records(&self) -> BoxFuture<'_, Result<Option<Vec<Record>>, Refusal>> {
        Box::pin(async { Ok(None) })
    }
}

/// Registers the runner. One that came under another name would get jobs of which nobody here could tell whose they
/// are, and is taken back.
pub(super) async fn register(connection: &Connection, request: &JitRequest) -> Result<Jit, Refusal> {
    let jit = connection
        .generate_jit_config(request.scale_set_id, request.name.as_str(), &request.work_folder)
        .await
        .map_err(|error| refusal(&error))?;
    if jit.name.is_empty() || jit.name == request.name.as_str() {
        return Ok(jit);
    }
    let undone = match jit.agent_id {
        Some(id) => connection.delete_agent(id).await.map_err(|error| error.to_string()),
        None => Err("its id was not told".to_owned()),
    };
    let fate = match &undone {
        Ok(_) => "it was taken back".to_owned(),
        Err(why) => format!("it could not be taken back yet: {why}"),
    };
    Err(Refusal {
        class: Class::Configuration,
        status: None,
        code: None,
        message: format!(
            "GitHub registered {} under the name {:?} ({fate})",
            request.name,
            redact(&jit.name)
        ),
        retry_after: None,
        by_github: false,
        left_behind: undone.is_err(),
    })
}

/// GitHub's error as a refusal.
pub fn refusal(error: &Error) -> Refusal {
    let class = match error {
        Error::AgentExists(_) => Class::NameTaken,
        Error::NotFound { .. } => Class::Configuration,
        Error::Unauthorized(_) | Error::Credential(TokenError::Refused { .. }) => Class::Credentials,
        Error::Forbidden(_) => Class::NotAuthorized,
        Error::Invalid(_) => Class::InvalidRequest,
        Error::RateLimited { .. } | Error::Credential(TokenError::Limited { .. }) => Class::RateLimited,
        Error::Credential(TokenError::Denied { denial, .. }) => match denial {
            Denial::Quota => Class::Quota,
            Denial::LabelPolicy => Class::LabelPolicy,
            Denial::NotAuthorized => Class::NotAuthorized,
            Denial::Credentials => Class::Credentials,
            Denial::Configuration => Class::Configuration,
        },
        error if error.outcome_unknown() => Class::UnknownOutcome,
        Error::Transport { .. } | Error::Credential(TokenError::Unavailable { .. }) => Class::Unreachable,
        _ => Class::Upstream,
    };
    Refusal {
        class,
        status: error.details().map(|d| d.status),
        code: None,
        message: error.to_string(),
        retry_after: error.retry_after(),
        by_github: false,
        left_behind: false,
    }
}
