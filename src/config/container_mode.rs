//! How jobs run containers: the modes and their rules.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaimSpec, PodTemplateSpec, ResourceRequirements, VolumeResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use super::{
    place::Place,
    raw::{RawContainerMode, RawDind, RawKubernetesMode, RawScaleSet},
    template,
    validate::Pass,
};

/// The established controller's default, unpinned as there.
const DIND_IMAGE: &str = "docker:dind";
/// Of the group `docker` in the runner's image.
const DOCKER_GROUP: u32 = 123;
const WAIT_FOR_DOCKER: Duration = Duration::from_mins(2);
const HOOK: &str = "/home/runner/k8s/index.js";
const HOOK_WITHOUT_VOLUME: &str = "/home/runner/k8s-novolume/index.js";
/// As docs/container-modes.md makes it.
const SERVICE_ACCOUNT: &str = "gharts-listener-kubernetes-mode";
const HOOK_TEMPLATE_KEY: &str = "extension";
const WORK_VOLUME: &str = "1Gi";
/// What a node's operating system is called in labels.
const OS_LABEL: &str = "kubernetes.io/os";

/// How jobs run containers.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ContainerMode {
    #[default]
    None,
    /// Docker in Docker, in the runner's pod.
    Dind(Box<Dind>),
    /// Pods of their own, made by the runner's hooks.
    Kubernetes(Box<KubernetesMode>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Dind {
    pub image: String,
    /// Absolute path of the socket that daemon and runner share.
    pub socket: String,
    pub group_id: u32,
    /// Further arguments of `dockerd`.
    pub args: Vec<String>,
    pub resources: Option<ResourceRequirements>,
    pub wait_for_docker: Duration,
    pub copy_externals: bool,
    pub native_sidecar: bool,
}

impl Dind {
    pub const SOCKET: &'static str = "/var/run/docker.sock";
}

#[derive(Clone, Debug, PartialEq)]
pub struct KubernetesMode {
    pub service_account: String,
    pub hook: String,
    pub require_job_container: bool,
    /// Shared with the job's pods; `None`: `kubernetes-novolume`.
    pub work_volume_claim: Option<PersistentVolumeClaimSpec>,
    pub hook_template: Option<HookTemplate>,
}

/// A pod template in a ConfigMap of the runner namespace, which the hooks lay over the job's pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookTemplate {
    pub config_map: String,
    pub key: String,
}

impl ContainerMode {
    /// As the file writes it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Dind(_) => "dind",
            Self::Kubernetes(mode) if mode.work_volume_claim.is_some() => "kubernetes",
            Self::Kubernetes(_) => "kubernetes-novolume",
        }
    }

    /// Runners leave pods, Secrets and jobs behind when they die.
    pub fn leaves_things(&self) -> bool {
        matches!(self, Self::Kubernetes(_))
    }
}

/// The mode, or `None` after faults in it.
pub(super) fn validate(pass: &mut Pass<'_>, raw: &RawScaleSet, place: &Place) -> Option<ContainerMode> {
    let mode = raw.container_mode.unwrap_or(RawContainerMode::None);
    let is_dind = mode == RawContainerMode::Dind;
    let is_kubernetes = matches!(
        mode,
        RawContainerMode::Kubernetes | RawContainerMode::KubernetesNovolume
    );
    for (given, fits, key, modes) in [
        (raw.dind.is_some(), is_dind, "dind", "dind"),
        (
            raw.kubernetes_mode.is_some(),
            is_kubernetes,
            "kubernetesMode",
            "kubernetes or kubernetes-novolume",
        ),
    ] {
        if given && !fits {
            pass.refuse(
                &place.key(key),
                format!("is for containerMode: {modes}"),
                "remove it, or choose that mode",
            );
        }
    }
    match mode {
        RawContainerMode::None => Some(ContainerMode::None),
        RawContainerMode::Dind => {
            let raw = raw.dind.clone().unwrap_or_default();
            let dind = dind(pass, &raw, &place.key("dind"))?;
            Some(ContainerMode::Dind(Box::new(dind)))
        }
        RawContainerMode::Kubernetes | RawContainerMode::KubernetesNovolume => {
            let with_volume = mode == RawContainerMode::Kubernetes;
            let raw = raw.kubernetes_mode.clone().unwrap_or_default();
            let mode = kubernetes(pass, &raw, with_volume, &place.key("kubernetesMode"))?;
            Some(ContainerMode::Kubernetes(Box::new(mode)))
        }
    }
}

fn dind(pass: &mut Pass<'_>, raw: &RawDind, place: &Place) -> Option<Dind> {
    let socket = raw.socket.clone().unwrap_or_else(|| Dind::SOCKET.to_owned());
    absolute(pass, &socket, &place.key("socket"), Dind::SOCKET);
    let resources = match &raw.resources {
        Some(given) => Some(template::decode_part(
            pass,
            given,
            &place.key("resources"),
            "a container's resources",
        )?),
        None => None,
    };
    Some(Dind {
        image: raw.image.clone().unwrap_or_else(|| DIND_IMAGE.to_owned()),
        socket,
        group_id: raw.group_id.unwrap_or(DOCKER_GROUP),
        args: raw.args.clone(),
        resources,
        wait_for_docker: pass.duration(raw.wait_for_docker, WAIT_FOR_DOCKER, &place.key("waitForDocker")),
        copy_externals: raw.copy_externals.unwrap_or(true),
        native_sidecar: raw.native_sidecar.unwrap_or(true),
    })
}

fn kubernetes(
    pass: &mut Pass<'_>,
    raw: &RawKubernetesMode,
    with_volume: bool,
    place: &Place,
) -> Option<KubernetesMode> {
    let default = if with_volume { HOOK } else { HOOK_WITHOUT_VOLUME };
    let hook = raw.hook.clone().unwrap_or_else(|| default.to_owned());
    absolute(pass, &hook, &place.key("hook"), default);
    let claim_at = place.key("workVolumeClaim");
    let claim = match &raw.work_volume_claim {
        Some(_) if !with_volume => {
            pass.refuse(
                &claim_at,
                "is for containerMode: kubernetes",
                "remove it: kubernetes-novolume shares no volume",
            );
            return None;
        }
        Some(given) => Some(template::decode_part(pass, given, &claim_at, "a volume claim's spec")?),
        None => with_volume.then(PersistentVolumeClaimSpec::default),
    };
    Some(KubernetesMode {
        service_account: raw
            .service_account
            .clone()
            .unwrap_or_else(|| SERVICE_ACCOUNT.to_owned()),
        hook,
        require_job_container: raw.require_job_container.unwrap_or(true),
        work_volume_claim: claim.map(with_defaults),
        hook_template: raw.hook_template.as_ref().and_then(|template| {
            Some(HookTemplate {
                config_map: template.config_map.clone()?,
                key: template.key.clone().unwrap_or_else(|| HOOK_TEMPLATE_KEY.to_owned()),
            })
        }),
    })
}

/// One gigabyte for one pod at a time, of the cluster's default class.
fn with_defaults(mut claim: PersistentVolumeClaimSpec) -> PersistentVolumeClaimSpec {
    claim
        .access_modes
        .get_or_insert_with(|| vec!["ReadWriteOnce".to_owned()]);
    claim.resources.get_or_insert_with(|| VolumeResourceRequirements {
        requests: Some([("storage".to_owned(), Quantity(WORK_VOLUME.to_owned()))].into()),
        limits: None,
    });
    claim
}

fn absolute(pass: &mut Pass<'_>, path: &str, place: &Place, default: &str) {
    if !path.starts_with('/') || path.ends_with('/') {
        pass.refuse(
            place,
            "is not the absolute path of a file",
            format!("{default} is the default"),
        );
    }
}

/// What Windows can do: no mode of Linux's, and no `run.sh`.
pub(super) fn check_system(pass: &mut Pass<'_>, mode: &ContainerMode, template: &PodTemplateSpec, place: &Place) {
    let Some(spec) = &template.spec else { return };
    let selected = spec.node_selector.as_ref().and_then(|labels| labels.get(OS_LABEL));
    let named = spec.os.as_ref().map(|os| &os.name);
    if !selected.into_iter().chain(named).any(|os| os == "windows") {
        return;
    }
    if *mode != ContainerMode::None {
        pass.refuse(
            &place.key("containerMode"),
            format!("is {}, and the template's pods run on Windows", mode.as_str()),
            "use containerMode: none for Windows",
        );
    }
    for (n, container) in spec.containers.iter().enumerate() {
        if container.name == template::RUNNER && container.command.is_none() {
            let containers = place.key("template").key("spec").key("containers");
            pass.refuse(
                &containers.index(n).key("command"),
                "is required for Windows, where the default /home/runner/run.sh is not",
                "such as [cmd.exe, /c, 'C:\\actions-runner\\run.cmd']",
            );
        }
    }
}
