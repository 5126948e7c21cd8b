//! Who we are for GHARTS: the rules of each OIDC provider.

use std::{os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use super::{
    AuthStyle, ExecCommand, Oidc, SecretRef,
    duration::DurationText,
    place::Place,
    raw::{RawAuthStyle, RawExec, RawExternal, RawOidc, RawOidcProvider},
    secrets::{self, Shape},
    validate::Pass,
};

/// Kubernetes refuses shorter tokens.
const SHORTEST_TOKEN: Duration = Duration::from_mins(10);
const DEFAULT_TOKEN: Duration = Duration::from_hours(1);
const DEFAULT_EXEC: Duration = Duration::from_secs(10);
/// Calls to GHARTS wait for their token so long, and no longer.
const LONGEST_EXEC: Duration = Duration::from_secs(25);

impl Pass<'_> {
    pub(super) fn oidc(&mut self, raw: &RawOidc, place: &Place) -> Option<Oidc> {
        let provider = raw.provider?;
        self.oidc_fits(raw, provider, place);
        match provider {
            RawOidcProvider::Kubernetes => {
                let audience = self.needed(
                    raw.audience.as_ref(),
                    &place.key("audience"),
                    "the audience GHARTS expects",
                );
                let account = place.key("serviceAccount");
                let service_account = self.needed(raw.service_account.as_ref(), &account, "whose token is asked for");
                let expiration = self.duration(raw.token_expiration, DEFAULT_TOKEN, &place.key("tokenExpiration"));
                if expiration < SHORTEST_TOKEN {
                    self.refuse(
                        &place.key("tokenExpiration"),
                        format!("is shorter than {}", DurationText(SHORTEST_TOKEN)),
                        "Kubernetes gives no token for less than 10m; 1h is the default",
                    );
                }
                Some(Oidc::Kubernetes {
                    audience: audience?,
                    service_account: service_account?,
                    namespace: raw.namespace.clone(),
                    expiration,
                })
            }
            RawOidcProvider::External => {
                let Some(external) = &raw.external else {
                    self.refuse(
                        &place.key("external"),
                        "is required with provider external",
                        "give tokenUrl, clientId and clientSecretFile",
                    );
                    return None;
                };
                self.external(external, raw.audience.clone(), &place.key("external"))
            }
            RawOidcProvider::File => {
                let place = place.key("tokenFile");
                let Some(path) = &raw.token_file else {
                    self.refuse(
                        &place,
                        "is required with provider file",
                        "name the file that holds the token",
                    );
                    return None;
                };
                let reference = SecretRef::File(path.clone());
                if let Err((message, remedy)) = secrets::probe(&reference, Shape::Text, self.environment) {
                    self.refuse(&place, message, remedy);
                }
                Some(Oidc::File { path: path.clone() })
            }
            RawOidcProvider::Exec => {
                let Some(exec) = &raw.exec else {
                    self.refuse(
                        &place.key("exec"),
                        "is required with provider exec",
                        "give command: program and arguments",
                    );
                    return None;
                };
                self.exec(exec, &place.key("exec"))
            }
        }
    }

    fn exec(&mut self, raw: &RawExec, place: &Place) -> Option<Oidc> {
        let command = raw.command.clone()?;
        if let Some(Err((message, remedy))) = command.first().map(|program| self.program(program)) {
            self.refuse(&place.key("command").index(0), message, remedy);
        }
        let timeout = self.duration(raw.timeout, DEFAULT_EXEC, &place.key("timeout"));
        if timeout > LONGEST_EXEC {
            self.refuse(
                &place.key("timeout"),
                format!("is longer than {}", DurationText(LONGEST_EXEC)),
                "calls wait for the token; 10s is the default",
            );
        }
        Some(Oidc::Exec(ExecCommand {
            command,
            env: raw.env.clone(),
            timeout,
        }))
    }

    /// Whether the program is there to be run.
    fn program(&self, program: &str) -> Result<(), (String, &'static str)> {
        let path = Path::new(program);
        if path.is_absolute() {
            return if is_executable(path) {
                Ok(())
            } else {
                Err((
                    format!("{program} is no file that may be executed"),
                    "install it there, or correct the path",
                ))
            };
        }
        if program.contains('/') {
            return Err((
                "is a relative path".to_owned(),
                "an absolute path, or the bare name of a program in PATH; no shell reads it",
            ));
        }
        let folders = self.environment.get("PATH").map_or("", String::as_str);
        if std::env::split_paths(folders).any(|folder| is_executable(&folder.join(program))) {
            Ok(())
        } else {
            Err((
                "is no program in PATH".to_owned(),
                "one entry per argument, the program first; give its absolute path",
            ))
        }
    }

    /// Keys that the chosen provider would ignore are refused: they show that something else was meant.
    fn oidc_fits(&mut self, raw: &RawOidc, provider: RawOidcProvider, place: &Place) {
        use RawOidcProvider::{Exec, External, File, Kubernetes};
        for (key, given, users) in [
            ("audience", raw.audience.is_some(), &[Kubernetes, External][..]),
            ("serviceAccount", raw.service_account.is_some(), &[Kubernetes]),
            ("namespace", raw.namespace.is_some(), &[Kubernetes]),
            ("tokenExpiration", raw.token_expiration.is_some(), &[Kubernetes]),
            ("external", raw.external.is_some(), &[External]),
            ("tokenFile", raw.token_file.is_some(), &[File]),
            ("exec", raw.exec.is_some(), &[Exec]),
        ] {
            if given && !users.contains(&provider) {
                let chosen = match provider {
                    Kubernetes => "kubernetes",
                    External => "external",
                    File => "file",
                    Exec => "exec",
                };
                self.refuse(
                    &place.key(key),
                    format!("is not used by provider {chosen}"),
                    "remove it, or choose the provider that it belongs to",
                );
            }
        }
    }

    fn external(&mut self, raw: &RawExternal, audience: Option<String>, place: &Place) -> Option<Oidc> {
        let token_url = raw
            .token_url
            .as_deref()
            .and_then(|text| self.service_url(text, &place.key("tokenUrl")));
        let client_secret = self.secret(
            place,
            "clientSecret",
            raw.client_secret_file.as_ref(),
            raw.client_secret_env.as_ref(),
            Shape::Text,
        );
        Some(Oidc::External {
            audience,
            token_url: token_url?,
            client_id: raw.client_id.clone()?,
            client_secret: client_secret?,
            scope: raw.scope.clone(),
            auth_style: match raw.auth_style {
                None | Some(RawAuthStyle::Body) => AuthStyle::Body,
                Some(RawAuthStyle::Basic) => AuthStyle::Basic,
                Some(RawAuthStyle::Json) => AuthStyle::Json,
            },
        })
    }
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}
