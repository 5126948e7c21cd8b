//! The rules that a schema cannot say: raw -> [`Config`].
//!
//! Only what the file and the files it names can show. Each rule adds its problem and goes on; a value that
//! is missing here was reported by the schema already. A [`Config`] comes out only when nothing is missing.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use tracing_subscriber::EnvFilter;
use url::Url;

use super::{
    Config, ConfigUrl, Environment, Gharts, GitHub, GitHubAuth, Kubernetes, Lease, Limits, LogFormat, Logging, Retry,
    SecretRef, Server,
    duration::DurationText,
    is_loopback,
    place::{Place, Problems},
    raw::{
        RawApp, RawAuth, RawConfig, RawGharts, RawGitHub, RawGitHubOverrides, RawKubernetes, RawLease, RawLimits,
        RawLogFormat, RawLogging, RawPat, RawRetry, RawServer,
    },
    scale_sets,
    secrets::{self, Shape},
};

const DEFAULT_LEASE: &str = "gharts-listener";
const DEFAULT_LISTEN: &str = "0.0.0.0:8080";
/// A GHARTS call runs up to half a minute at a real server; cancelling one leaks a runner.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(45);

/// What one pass over the file carries along.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    pub(super) environment: &'a Environment,
    pub(super) problems: Problems,
    /// Whether the file has the section.
    has_gharts: bool,
}

/// Applies every rule.
pub(super) fn validate(raw: &RawConfig, environment: &Environment) -> (Option<Config>, Problems) {
    let mut pass = Pass {
        environment,
        problems: Problems::default(),
        has_gharts: raw.gharts.is_some(),
    };
    let root = Place::root();
    let github = raw.github.as_ref().and_then(|r| pass.github(r, &root.key("github")));
    let gharts = raw.gharts.as_ref().map(|r| pass.gharts(r, &root.key("gharts")));
    let kubernetes = raw
        .kubernetes
        .as_ref()
        .and_then(|r| pass.kubernetes(r, &root.key("kubernetes")));
    let lease = pass.lease(&raw.lease, &root.key("lease"));
    let server = pass.server(&raw.server, &root.key("server"));
    let logging = pass.logging(&raw.logging, &root.key("logging"));
    let scale_sets = scale_sets::validate(&mut pass, raw, github.as_ref());
    let config = (|| {
        Some(Config {
            github: github?,
            gharts: match gharts {
                Some(gharts) => Some(gharts?),
                None => None,
            },
            kubernetes: kubernetes?,
            lease,
            server: server?,
            logging: logging?,
            max_runners: raw.max_runners,
            scale_sets: scale_sets?,
        })
    })();
    (config, pass.problems)
}

impl Pass<'_> {
    pub(super) fn refuse(&mut self, place: &Place, message: impl Into<String>, remedy: impl Into<String>) {
        self.problems.add(place.clone(), message, remedy);
    }

    fn github(&mut self, raw: &RawGitHub, place: &Place) -> Option<GitHub> {
        let config_url = raw
            .config_url
            .as_deref()
            .and_then(|text| self.config_url(text, &place.key("configUrl")));
        let auth = raw.auth.as_ref().and_then(|auth| self.auth(auth, &place.key("auth")));
        let tls_at = place.key("tls");
        let tls = self.ca_file(raw.tls.ca_file.as_ref(), &tls_at);
        let runners = raw.tls.runners.as_ref();
        let runner_ca = runners.map(|ca| self.runner_ca(ca, &tls_at.key("runners")));
        let proxy = self.proxy(&raw.proxy, &place.key("proxy"));
        Some(GitHub {
            runner_ca: match runner_ca {
                Some(ca) => Some(ca?),
                None => None,
            },
            config_url: config_url?,
            runner_group: raw.runner_group.clone().unwrap_or_else(|| "default".to_owned()),
            auth: auth?,
            tls,
            proxy: proxy?,
            limits: limits(&raw.limits, &Limits::github()),
        })
    }

    /// The top-level section as one set changes it. `None`: a part of it is wrong, and said to be.
    pub(super) fn github_of_set(
        &mut self,
        raw: &RawGitHubOverrides,
        top: Option<&GitHub>,
        place: &Place,
    ) -> Option<GitHub> {
        let config_url = match &raw.config_url {
            Some(text) => Some(self.config_url(text, &place.key("configUrl"))?),
            None => None,
        };
        let auth = match &raw.auth {
            Some(auth) => Some(self.auth(auth, &place.key("auth"))?),
            None => None,
        };
        let top = top?;
        if let Some(url) = config_url.as_ref().filter(|_| auth.is_none())
            && url.url.origin() != top.config_url.url.origin()
        {
            // A credential is never shown to a host that it was not given for.
            self.refuse(
                &place.key("configUrl"),
                "is on another host than github.configUrl, whose credential does not belong there",
                "give the set an auth of its own beside it",
            );
            return None;
        }
        Some(GitHub {
            config_url: config_url.unwrap_or_else(|| top.config_url.clone()),
            runner_group: raw.runner_group.clone().unwrap_or_else(|| top.runner_group.clone()),
            auth: auth.unwrap_or_else(|| top.auth.clone()),
            ..top.clone()
        })
    }

    fn config_url(&mut self, text: &str, place: &Place) -> Option<ConfigUrl> {
        let force_ghes = self
            .environment
            .get("GITHUB_ACTIONS_FORCE_GHES")
            .is_some_and(|v| matches!(v.as_str(), "1" | "true"));
        match ConfigUrl::parse(text, force_ghes) {
            Ok(url) => Some(url),
            Err(message) => {
                self.refuse(
                    place,
                    message,
                    "https://HOST/ORG, https://HOST/OWNER/REPO or https://HOST/enterprises/NAME",
                );
                None
            }
        }
    }

    fn auth(&mut self, raw: &RawAuth, place: &Place) -> Option<GitHubAuth> {
        let given: Vec<&str> = [
            ("app", raw.app.is_some()),
            ("pat", raw.pat.is_some()),
            ("gharts", raw.gharts.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
        .collect();
        match raw {
            _ if given.is_empty() => {
                self.refuse(
                    place,
                    "gives no way to authenticate",
                    "give exactly one of app, pat and gharts",
                );
                None
            }
            _ if given.len() > 1 => {
                let message = format!("gives more than one way: {}", given.join(", "));
                self.refuse(place, message, "keep exactly one of app, pat and gharts");
                None
            }
            RawAuth { app: Some(app), .. } => self.app(app, &place.key("app")),
            RawAuth {
                pat: Some(RawPat { token_file, token_env }),
                ..
            } => {
                let place = place.key("pat");
                let token = self.secret(&place, "token", token_file.as_ref(), token_env.as_ref(), Shape::Text)?;
                Some(GitHubAuth::Pat { token })
            }
            _ => {
                if !self.has_gharts {
                    self.refuse(
                        &place.key("gharts"),
                        "needs the section gharts",
                        "add gharts with baseUrl and oidc at the top of the file",
                    );
                }
                Some(GitHubAuth::Gharts)
            }
        }
    }

    fn app(&mut self, raw: &RawApp, place: &Place) -> Option<GitHubAuth> {
        let key = self.secret(
            place,
            "privateKey",
            raw.private_key_file.as_ref(),
            raw.private_key_env.as_ref(),
            Shape::PrivateKey,
        );
        Some(GitHubAuth::App {
            client_id: raw.client_id.clone()?,
            installation_id: raw.installation_id?,
            private_key: key?,
        })
    }

    /// Exactly one of `{name}File` and `{name}Env`, and what it names can be read and looks right.
    pub(super) fn secret(
        &mut self,
        place: &Place,
        name: &str,
        file: Option<&PathBuf>,
        variable: Option<&String>,
        shape: Shape,
    ) -> Option<SecretRef> {
        let (in_file, in_env) = (format!("{name}File"), format!("{name}Env"));
        let (place, reference) = match (file, variable) {
            (Some(path), None) => (place.key(&in_file), SecretRef::File(path.clone())),
            (None, Some(variable)) => (place.key(&in_env), SecretRef::Env(variable.clone())),
            (Some(_), Some(_)) => {
                self.refuse(
                    place,
                    format!("{in_file} and {in_env} are both given"),
                    "keep exactly one of them",
                );
                return None;
            }
            (None, None) => {
                self.refuse(
                    &place.key(&in_file),
                    "is required",
                    format!("name the file that holds the secret, or its environment variable with {in_env}"),
                );
                return None;
            }
        };
        if let Err((message, remedy)) = secrets::probe(&reference, shape, self.environment) {
            self.refuse(&place, message, remedy);
        }
        Some(reference)
    }

    fn gharts(&mut self, raw: &RawGharts, place: &Place) -> Option<Gharts> {
        let base_url = raw
            .base_url
            .as_deref()
            .and_then(|text| self.service_url(text, &place.key("baseUrl")));
        let oidc = raw.oidc.as_ref().and_then(|oidc| self.oidc(oidc, &place.key("oidc")));
        let tls = self.tls(&raw.tls, &place.key("tls"));
        let retry = self.retry(&raw.retry, &place.key("retry"));
        let timeout = self.duration(raw.timeout, DEFAULT_TIMEOUT, &place.key("timeout"));
        Some(Gharts {
            base_url: base_url?,
            team: raw.team.clone(),
            oidc: oidc?,
            tls,
            limits: limits(&raw.limits, &Limits::default()),
            timeout,
            retry,
        })
    }

    /// A peer's URL: https except to loopback, nothing but a base.
    pub(super) fn service_url(&mut self, text: &str, place: &Place) -> Option<Url> {
        let fault = match Url::parse(text.trim()) {
            Err(error) => format!("is not a URL: {error}"),
            Ok(url) if !matches!(url.scheme(), "http" | "https") || !url.has_host() => {
                "is not the URL of a web service".to_owned()
            }
            Ok(url) if url.scheme() == "http" && !is_loopback(&url) => {
                "must use https (plain http only to loopback)".to_owned()
            }
            Ok(url) if has_credentials(&url) => "must not hold credentials".to_owned(),
            Ok(url) if url.query().is_some() || url.fragment().is_some() => {
                "must not have a query or a fragment".to_owned()
            }
            Ok(mut url) => {
                let path = url.path().trim_end_matches('/').to_owned();
                url.set_path(&path);
                return Some(url);
            }
        };
        self.refuse(place, fault, "https://HOST, with a port and a path where needed");
        None
    }

    fn retry(&mut self, raw: &RawRetry, place: &Place) -> Retry {
        let default = Retry::default();
        let retry = Retry {
            max_retries: raw.max_retries.unwrap_or(default.max_retries),
            initial_backoff: self.duration(
                raw.initial_backoff,
                default.initial_backoff,
                &place.key("initialBackoff"),
            ),
            max_backoff: self.duration(raw.max_backoff, default.max_backoff, &place.key("maxBackoff")),
            multiplier: raw.multiplier.unwrap_or(default.multiplier),
        };
        if retry.initial_backoff > retry.max_backoff {
            self.refuse(
                &place.key("initialBackoff"),
                format!("is longer than maxBackoff ({})", DurationText(retry.max_backoff)),
                "make it at most maxBackoff",
            );
        }
        retry
    }

    fn kubernetes(&mut self, raw: &RawKubernetes, place: &Place) -> Option<Kubernetes> {
        let namespace = raw.namespace.clone()?;
        if !is_dns_label(&namespace) {
            self.refuse(
                &place.key("namespace"),
                "is not the name of a namespace",
                "lower-case letters, digits and hyphens, at most 63 characters",
            );
        }
        if let Some(path) = &raw.kubeconfig {
            let reference = SecretRef::File(path.clone());
            if let Err((message, remedy)) = secrets::probe(&reference, Shape::Text, self.environment) {
                self.refuse(&place.key("kubeconfig"), message, remedy);
            }
        }
        Some(Kubernetes {
            namespace,
            kubeconfig: raw.kubeconfig.clone(),
            context: raw.context.clone(),
        })
    }

    fn lease(&mut self, raw: &RawLease, place: &Place) -> Lease {
        let name = raw.name.as_deref().unwrap_or(DEFAULT_LEASE);
        let words = [
            ("name", Some(name), "a Lease"),
            ("namespace", raw.namespace.as_deref(), "a namespace"),
        ];
        for (key, text, of) in words {
            if text.is_some_and(|text| !is_dns_label(text)) {
                self.refuse(
                    &place.key(key),
                    format!("is not the name of {of}"),
                    "lower-case letters, digits and hyphens, at most 63 characters",
                );
            }
        }
        Lease {
            name: name.to_owned(),
            namespace: raw.namespace.clone(),
        }
    }

    fn server(&mut self, raw: &RawServer, place: &Place) -> Option<Server> {
        if let Some(listen) = listen(raw.listen.as_deref()) {
            return Some(Server { listen });
        }
        self.refuse(
            &place.key("listen"),
            "is not an address with a port",
            "such as 0.0.0.0:8080, 127.0.0.1:8080 or [::]:8080",
        );
        None
    }

    fn logging(&mut self, raw: &RawLogging, place: &Place) -> Option<Logging> {
        let level = raw.level.clone().unwrap_or_else(|| "info".to_owned());
        if !is_log_filter(&level) {
            self.refuse(
                &place.key("level"),
                "is neither a level nor a filter",
                "error, warn, info, debug, trace, or a filter such as info,gharts_listener::plan=debug",
            );
            return None;
        }
        let format = match raw.format {
            None | Some(RawLogFormat::Json) => LogFormat::Json,
            Some(RawLogFormat::Human) => LogFormat::Human,
        };
        Some(Logging { format, level })
    }

    /// A duration of at least a millisecond.
    pub(super) fn duration(&mut self, raw: Option<DurationText>, default: Duration, place: &Place) -> Duration {
        let duration = raw.map_or(default, |text| text.0);
        if duration.is_zero() {
            self.refuse(
                place,
                "must not be zero",
                format!("{} is the default", DurationText(default)),
            );
        }
        duration
    }

    pub(super) fn needed(&mut self, value: Option<&String>, place: &Place, meaning: &str) -> Option<String> {
        if value.is_none() {
            self.refuse(place, "is required with this provider", meaning);
        }
        value.cloned()
    }
}

fn limits(raw: &RawLimits, default: &Limits) -> Limits {
    Limits {
        requests_per_second: raw.requests_per_second.unwrap_or(default.requests_per_second),
        burst: raw.burst.unwrap_or(default.burst),
        max_in_flight: raw.max_in_flight.unwrap_or(default.max_in_flight),
    }
}

pub(super) fn has_credentials(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

/// An address with a port; the usual one where the file names none.
pub(super) fn listen(text: Option<&str>) -> Option<SocketAddr> {
    text.unwrap_or(DEFAULT_LISTEN).parse().ok()
}

fn is_dns_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// A bare word other than a level would be read as the name of a module: surely a slip.
fn is_log_filter(text: &str) -> bool {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    if text.contains(['=', ',']) {
        EnvFilter::builder().parse(text).is_ok()
    } else {
        LEVELS.contains(&text.to_lowercase().as_str())
    }
}
