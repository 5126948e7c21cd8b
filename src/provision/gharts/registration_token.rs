//! GHARTS as the keeper of policy, quota and audit; GitHub's own generatejitconfig for the runner, with the authority
//! of the registration token that GHARTS handed out for exactly this runner.
//!
//! Only the older GHARTS hands out such tokens. It deletes a runner, a minute later, whose own labels differ from
//! those asked for, and a runner of a scale set has none: so none are asked for.

use std::sync::Arc;

use futures::future::BoxFuture;

use super::{super::scale_set, Class, GhartsProvisioner, Granted, JitRequest, Refusal, fate, refusal, refused_jit};
use crate::{
    config::ConfigUrl,
    gharts::{
        is_same_place,
        wire::{RegistrationAnswer, RegistrationRequest},
    },
    http::SharedTransport,
    identity::{Cached, Token, TokenError, TokenSource},
    scaleset::{Authority, Connection},
};

pub(super) const UNSUPPORTED: &str = "this GHARTS hands out no registration tokens: use the version that does (and keep it from \
                           everybody's reach), `provisioner: scaleSet`, or `runnerBinding: auto` with a GHARTS that has the \
                           extension described in docs/gharts-extension.md";

/// The way to GitHub that a registration token opens.
#[derive(Clone)]
pub struct GitHubAccess {
    pub transport: SharedTransport,
    pub config_url: ConfigUrl,
    /// Of the jitter of repetitions.
    pub seed: u64,
}

impl std::fmt::Debug for GitHubAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GitHubAccess")
            .field("config_url", &self.config_url)
            .finish_non_exhaustive()
    }
}

impl GhartsProvisioner {
    pub(super) async fn grant_by_registration_token(
        &self,
        request: &JitRequest,
        github: &GitHubAccess,
    ) -> Result<Granted, Refusal> {
        let wish = RegistrationRequest {
            runner_name: request.name.as_str().to_owned(),
            labels: Vec::new(),
            ephemeral: true,
        };
        let answer = self.client.provision(&wish).await.map_err(|failure| {
            if matches!(failure.status, Some(404 | 405)) {
                return refusal(Class::BindingUnsupported, UNSUPPORTED.to_owned());
            }
            refused_jit(failure, request)
        })?;
        match self.configure(request, github, &answer).await {
            Ok(granted) => Ok(granted),
            Err(mut refusal) => {
                let undone = self.undo(&answer.runner_id).await;
                refusal.message = format!("{} (its record at GHARTS: {})", refusal.message, fate(&undone));
                refusal.left_behind = undone.is_err();
                Err(refusal)
            }
        }
    }

    async fn configure(
        &self,
        request: &JitRequest,
        github: &GitHubAccess,
        answer: &RegistrationAnswer,
    ) -> Result<Granted, Refusal> {
        let scope = &github.config_url.url;
        if let Some(told) = answer.github_url.as_deref().filter(|told| !is_same_place(told, scope)) {
            return Err(refusal(
                Class::Configuration,
                format!(
                    "the registration tokens of this GHARTS are for {}, and github.configUrl is {scope}: set configUrl \
                     to what GHARTS serves, or use the GHARTS of that organization",
                    crate::http::redact(told)
                ),
            ));
        }
        let token = Given(Token {
            secret: answer.registration_token.clone(),
            life: answer.life(),
        });
        let authority = Authority::Registration(Arc::new(Cached::new(Arc::new(token), self.clock.clone())));
        let connection = Connection::new(
            github.transport.clone(),
            self.clock.clone(),
            github.config_url.clone(),
            authority,
            github.seed,
        );
        let jit = scale_set::register(&connection, request)
            .await
            .map_err(refused_by_github)?;
        Ok(Granted {
            jit_config: jit.config,
            agent_id: jit.agent_id,
            gharts_id: Some(answer.runner_id.clone()),
            status: Some(answer.status),
        })
    }
}

/// The token is GHARTS' own: no credential of the file, and no right of it, would cure that it is refused.
fn refused_by_github(refusal: Refusal) -> Refusal {
    let (class, message) = match refusal.class {
        Class::Credentials | Class::NotAuthorized => (
            Class::Upstream,
            format!(
                "GitHub does not take the registration token that GHARTS handed out ({}): look at the GitHub App of that GHARTS",
                refusal.message
            ),
        ),
        class => (class, refusal.message),
    };
    Refusal {
        class,
        message,
        by_github: true,
        ..refusal
    }
}

/// The token that came with the answer: there is no other for this runner.
#[derive(Debug)]
struct Given(Token);

impl TokenSource for Given {
    fn fetch(&self) -> BoxFuture<'_, Result<Token, TokenError>> {
        Box::pin(async { Ok(self.0.clone()) })
    }

    fn describe(&self) -> String {
        "the registration token that GHARTS handed out".to_owned()
    }
}
