//! The scale set's own JIT configuration: GitHub alone, no token service. Keeps no records of its own.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::{Class, Granted, JitRequest, Provisioner, Record, Refusal, Registration, ReleaseError, Released};
use crate::{
    identity::{Denial, TokenError},
    scaleset::{Connection, Error},
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
            let jit = self
                .connection
                .generate_jit_config(request.scale_set_id, request.name.as_str(), &request.work_folder)
                .await
                .map_err(|error| refusal(&error))?;
            Ok(Granted {
                jit_config: jit.config,
                agent_id: Some(jit.agent_id),
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
