//! The effective configuration as a file again: defaults filled in, environment applied, secrets as the
//! references they are. What this prints loads to the same [`Config`].

use serde_json::Value;

use super::{
    AuthStyle, CaSource, Config, ContainerMode, Dind, Gharts, GitHub, GitHubAuth, KubernetesMode, LabelsDemand, Limits,
    LogFormat, Oidc, ProvisionerKind, Proxy, RunnerBinding, RunnerCa, ScaleSet, SecretRef, Tls,
    raw::{
        RawApp, RawAuth, RawAuthStyle, RawBinding, RawBrokered, RawConfig, RawContainerMode, RawDind, RawExec,
        RawExternal, RawGharts, RawGhartsOverrides, RawGitHub, RawGitHubOverrides, RawGitHubTls, RawHookTemplate,
        RawKubernetes, RawKubernetesMode, RawLabelsDemand, RawLease, RawLimits, RawLogFormat, RawLogging, RawOidc,
        RawOidcProvider, RawPat, RawProvisioner, RawProxy, RawRetry, RawRunnerCa, RawScaleSet, RawServer, RawTimeouts,
        RawTls,
    },
};

/// YAML of the effective configuration.
pub fn show(config: &Config) -> Result<String, serde_yaml_ng::Error> {
    serde_yaml_ng::to_string(&raw(config))
}

pub(super) fn raw(config: &Config) -> RawConfig {
    RawConfig {
        github: Some(github(&config.github)),
        gharts: config.gharts.as_ref().map(gharts),
        kubernetes: Some(RawKubernetes {
            namespace: Some(config.kubernetes.namespace.clone()),
            kubeconfig: config.kubernetes.kubeconfig.clone(),
            context: config.kubernetes.context.clone(),
        }),
        lease: RawLease {
            name: Some(config.lease.name.clone()),
            namespace: config.lease.namespace.clone(),
        },
        server: RawServer {
            listen: Some(config.server.listen.to_string()),
        },
        logging: RawLogging {
            format: Some(match config.logging.format {
                LogFormat::Json => RawLogFormat::Json,
                LogFormat::Human => RawLogFormat::Human,
            }),
            level: Some(config.logging.level.clone()),
        },
        max_runners: config.max_runners,
        scale_sets: Some(
            config
                .scale_sets
                .iter()
                .map(|set| scale_set(set, &config.github))
                .collect(),
        ),
    }
}

fn github(github: &GitHub) -> RawGitHub {
    RawGitHub {
        config_url: Some(github.config_url.url.to_string()),
        runner_group: Some(github.runner_group.clone()),
        auth: Some(auth(&github.auth)),
        tls: RawGitHubTls {
            ca_file: github.tls.ca_file.clone(),
            runners: github.runner_ca.as_ref().map(runner_ca),
        },
        proxy: proxy(&github.proxy),
        limits: limits(&github.limits),
    }
}

/// What a set says of its own.
fn github_of_set(set: &GitHub, top: &GitHub) -> RawGitHubOverrides {
    RawGitHubOverrides {
        config_url: (set.config_url != top.config_url).then(|| set.config_url.url.to_string()),
        runner_group: (set.runner_group != top.runner_group).then(|| set.runner_group.clone()),
        // On another host it must be said, even where it is the same.
        auth: (set.auth != top.auth || set.config_url.url.origin() != top.config_url.url.origin())
            .then(|| auth(&set.auth)),
    }
}

fn auth(auth: &GitHubAuth) -> RawAuth {
    match auth {
        GitHubAuth::App {
            client_id,
            installation_id,
            private_key,
        } => {
            let (private_key_file, private_key_env) = reference(private_key);
            RawAuth {
                app: Some(RawApp {
                    client_id: Some(client_id.clone()),
                    installation_id: Some(*installation_id),
                    private_key_file,
                    private_key_env,
                }),
                ..RawAuth::default()
            }
        }
        GitHubAuth::Pat { token } => {
            let (token_file, token_env) = reference(token);
            RawAuth {
                pat: Some(RawPat { token_file, token_env }),
                ..RawAuth::default()
            }
        }
        GitHubAuth::Gharts => RawAuth {
            gharts: Some(RawBrokered {}),
            ..RawAuth::default()
        },
    }
}

fn reference(secret: &SecretRef) -> (Option<std::path::PathBuf>, Option<String>) {
    match secret {
        SecretRef::File(path) => (Some(path.clone()), None),
        SecretRef::Env(variable) => (None, Some(variable.clone())),
    }
}

fn tls(tls: &Tls) -> RawTls {
    RawTls {
        ca_file: tls.ca_file.clone(),
    }
}

fn runner_ca(ca: &RunnerCa) -> RawRunnerCa {
    let (config_map, secret) = match &ca.source {
        CaSource::ConfigMap(name) => (Some(name.clone()), None),
        CaSource::Secret(name) => (None, Some(name.clone())),
    };
    RawRunnerCa {
        config_map,
        secret,
        key: Some(ca.key.clone()),
        mount_path: Some(ca.mount_path.clone()),
    }
}

fn proxy(proxy: &Proxy) -> RawProxy {
    let (credentials_file, credentials_env) = proxy.credentials.as_ref().map_or((None, None), reference);
    RawProxy {
        credentials_file,
        credentials_env,
        runners_secret: proxy.runners_secret.clone(),
        http: proxy.http.as_ref().map(ToString::to_string),
        https: proxy.https.as_ref().map(ToString::to_string),
        no_proxy: proxy.no_proxy.clone(),
    }
}

fn limits(limits: &Limits) -> RawLimits {
    RawLimits {
        requests_per_second: Some(limits.requests_per_second),
        burst: Some(limits.burst),
        max_in_flight: Some(limits.max_in_flight),
    }
}

fn gharts(gharts: &Gharts) -> RawGharts {
    RawGharts {
        base_url: Some(gharts.base_url.to_string()),
        team: gharts.team.clone(),
        oidc: Some(oidc(&gharts.oidc)),
        tls: tls(&gharts.tls),
        limits: limits(&gharts.limits),
        timeout: Some(gharts.timeout.into()),
        retry: RawRetry {
            max_retries: Some(gharts.retry.max_retries),
            initial_backoff: Some(gharts.retry.initial_backoff.into()),
            max_backoff: Some(gharts.retry.max_backoff.into()),
            multiplier: Some(gharts.retry.multiplier),
        },
    }
}

fn oidc(oidc: &Oidc) -> RawOidc {
    match oidc {
        Oidc::Kubernetes {
            audience,
            service_account,
            namespace,
            expiration,
        } => RawOidc {
            provider: Some(RawOidcProvider::Kubernetes),
            audience: Some(audience.clone()),
            service_account: Some(service_account.clone()),
            namespace: namespace.clone(),
            token_expiration: Some((*expiration).into()),
            ..RawOidc::default()
        },
        Oidc::External {
            audience,
            token_url,
            client_id,
            client_secret,
            scope,
            auth_style,
        } => {
            let (client_secret_file, client_secret_env) = reference(client_secret);
            RawOidc {
                provider: Some(RawOidcProvider::External),
                audience: audience.clone(),
                external: Some(RawExternal {
                    token_url: Some(token_url.to_string()),
                    client_id: Some(client_id.clone()),
                    client_secret_file,
                    client_secret_env,
                    scope: scope.clone(),
                    auth_style: Some(match auth_style {
                        AuthStyle::Body => RawAuthStyle::Body,
                        AuthStyle::Basic => RawAuthStyle::Basic,
                        AuthStyle::Json => RawAuthStyle::Json,
                    }),
                }),
                ..RawOidc::default()
            }
        }
        Oidc::File { path } => RawOidc {
            provider: Some(RawOidcProvider::File),
            token_file: Some(path.clone()),
            ..RawOidc::default()
        },
        Oidc::Exec(exec) => RawOidc {
            provider: Some(RawOidcProvider::Exec),
            exec: Some(RawExec {
                command: Some(exec.command.clone()),
                env: exec.env.clone(),
                timeout: Some(exec.timeout.into()),
            }),
            ..RawOidc::default()
        },
    }
}

fn dind(dind: &Dind) -> RawDind {
    RawDind {
        image: Some(dind.image.clone()),
        socket: Some(dind.socket.clone()),
        group_id: Some(dind.group_id),
        args: dind.args.clone(),
        resources: dind.resources.as_ref().and_then(|r| serde_json::to_value(r).ok()),
        wait_for_docker: Some(dind.wait_for_docker.into()),
        copy_externals: Some(dind.copy_externals),
        native_sidecar: Some(dind.native_sidecar),
    }
}

fn kubernetes_mode(mode: &KubernetesMode) -> RawKubernetesMode {
    let claim = mode.work_volume_claim.as_ref();
    RawKubernetesMode {
        service_account: Some(mode.service_account.clone()),
        hook: Some(mode.hook.clone()),
        require_job_container: Some(mode.require_job_container),
        work_volume_claim: claim.and_then(|claim| serde_json::to_value(claim).ok()),
        hook_template: mode.hook_template.as_ref().map(|template| RawHookTemplate {
            config_map: Some(template.config_map.clone()),
            key: Some(template.key.clone()),
        }),
    }
}

fn scale_set(set: &ScaleSet, top: &GitHub) -> RawScaleSet {
    RawScaleSet {
        name: Some(set.name.to_string()),
        labels: Some(set.labels.clone()),
        min_runners: Some(set.min_runners),
        max_runners: Some(set.max_runners),
        provisioner: Some(match set.provisioner {
            ProvisionerKind::Gharts => RawProvisioner::Gharts,
            ProvisionerKind::ScaleSet => RawProvisioner::ScaleSet,
        }),
        runner_binding: Some(match set.binding {
            RunnerBinding::Auto => RawBinding::Auto,
            RunnerBinding::ScaleSet => RawBinding::ScaleSet,
            RunnerBinding::Labels(_) => RawBinding::Labels,
            RunnerBinding::RegistrationToken => RawBinding::RegistrationToken,
        }),
        labels_demand: match set.binding {
            RunnerBinding::Labels(LabelsDemand::Assigned) => Some(RawLabelsDemand::Assigned),
            RunnerBinding::Labels(LabelsDemand::Available) => Some(RawLabelsDemand::Available),
            _ => None,
        },
        gharts: RawGhartsOverrides {
            team: set.gharts.team.clone(),
            runner_group_id: set.gharts.runner_group_id,
            labels: set.gharts.labels.clone(),
            work_folder: set.gharts.work_folder.clone(),
        },
        github: github_of_set(&set.github, top),
        container_mode: Some(match &set.container_mode {
            ContainerMode::None => RawContainerMode::None,
            ContainerMode::Dind(_) => RawContainerMode::Dind,
            ContainerMode::Kubernetes(mode) if mode.work_volume_claim.is_some() => RawContainerMode::Kubernetes,
            ContainerMode::Kubernetes(_) => RawContainerMode::KubernetesNovolume,
        }),
        dind: match &set.container_mode {
            ContainerMode::Dind(mode) => Some(dind(mode)),
            _ => None,
        },
        kubernetes_mode: match &set.container_mode {
            ContainerMode::Kubernetes(mode) => Some(kubernetes_mode(mode)),
            _ => None,
        },
        timeouts: RawTimeouts {
            scheduling: Some(set.timeouts.scheduling.into()),
            image_pull: Some(set.timeouts.image_pull.into()),
            registration: Some(set.timeouts.registration.into()),
            idle: Some(set.timeouts.idle.into()),
            after_job: Some(set.timeouts.after_job.into()),
            total: set.timeouts.total.map(Into::into),
        },
        keep_failed: set.keep_failed.map(Into::into),
        template: serde_json::to_value(&set.template).ok().filter(Value::is_object),
    }
}
