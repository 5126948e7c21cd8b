//! Docker in Docker: a privileged daemon beside the runner, in the same pod.
//!
//! As a native sidecar (an init container that goes on, Kubernetes 1.29 and newer) it is ready before the runner starts,
//! and the pod ends when the runner ends. The names of containers and volumes are those of the established controller's
//! chart, so that templates made for it fit.

use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, ExecAction, PodSpec, Probe, SecurityContext, Volume,
};

use super::{
    merge::{add_mount, add_volume, mount, overlaid, set_env},
    outside,
};
use crate::config::{Dind, Proxy};

const WORK: &str = "work";
const SOCKET_VOLUME: &str = "dind-sock";
const EXTERNALS: &str = "dind-externals";
const WORK_PATH: &str = "/home/runner/_work";
const EXTERNALS_PATH: &str = "/home/runner/externals";
/// Where the copying container sees the volume.
const EXTERNALS_COPY: &str = "/home/runner/tmpDir";
const GROUP_ENV: &str = "DOCKER_GROUP_GID";
/// Two minutes for the daemon to come up.
const PROBES: i32 = 24;
const PROBE_EVERY: i32 = 5;

pub(super) fn add(spec: &mut PodSpec, runner: &mut Container, dind: &Dind, proxy: &Proxy) {
    let mut before = Vec::new();
    if dind.copy_externals {
        before.push(overlaid(spec, externals(runner)));
    }
    let mut daemon = overlaid(spec, daemon(dind));
    outside::set_proxy(&mut daemon, proxy, &[]);
    if dind.native_sidecar {
        before.push(daemon);
    } else {
        spec.containers.push(daemon);
    }
    let others = spec.init_containers.take().unwrap_or_default();
    before.extend(others);
    spec.init_containers = (!before.is_empty()).then_some(before);

    set_env(runner, "DOCKER_HOST", &format!("unix://{}", dind.socket));
    let wait = dind.wait_for_docker.as_secs().to_string();
    set_env(runner, "RUNNER_WAIT_FOR_DOCKER_IN_SECONDS", &wait);
    add_mount(runner, mount(WORK, WORK_PATH));
    add_mount(runner, mount(SOCKET_VOLUME, folder_of(&dind.socket)));
    add_volume(spec, empty(WORK));
    add_volume(spec, empty(SOCKET_VOLUME));
    if dind.copy_externals {
        add_volume(spec, empty(EXTERNALS));
    }
}

/// The runner's own Node and tools, for the daemon: it mounts them into job containers by their paths.
fn externals(runner: &Container) -> Container {
    Container {
        name: "init-dind-externals".to_owned(),
        image: runner.image.clone(),
        image_pull_policy: runner.image_pull_policy.clone(),
        command: Some(vec!["cp".to_owned()]),
        args: Some(vec![
            "-r".to_owned(),
            format!("{EXTERNALS_PATH}/."),
            format!("{EXTERNALS_COPY}/"),
        ]),
        volume_mounts: Some(vec![mount(EXTERNALS, EXTERNALS_COPY)]),
        ..Container::default()
    }
}

fn daemon(dind: &Dind) -> Container {
    let mut args = vec![
        "dockerd".to_owned(),
        format!("--host=unix://{}", dind.socket),
        format!("--group=$({GROUP_ENV})"),
    ];
    args.extend(dind.args.iter().cloned());
    let mut mounts = vec![mount(WORK, WORK_PATH), mount(SOCKET_VOLUME, folder_of(&dind.socket))];
    if dind.copy_externals {
        mounts.push(mount(EXTERNALS, EXTERNALS_PATH));
    }
    let mut daemon = Container {
        name: "dind".to_owned(),
        image: Some(dind.image.clone()),
        args: Some(args),
        security_context: Some(SecurityContext {
            privileged: Some(true),
            ..SecurityContext::default()
        }),
        resources: dind.resources.clone(),
        volume_mounts: Some(mounts),
        ..Container::default()
    };
    set_env(&mut daemon, GROUP_ENV, &dind.group_id.to_string());
    if dind.socket != Dind::SOCKET {
        // Its probe asks where the client looks.
        set_env(&mut daemon, "DOCKER_HOST", &format!("unix://{}", dind.socket));
    }
    if dind.native_sidecar {
        daemon.restart_policy = Some("Always".to_owned());
        daemon.startup_probe = Some(Probe {
            exec: Some(ExecAction {
                command: Some(vec!["docker".to_owned(), "info".to_owned()]),
            }),
            initial_delay_seconds: Some(0),
            failure_threshold: Some(PROBES),
            period_seconds: Some(PROBE_EVERY),
            ..Probe::default()
        });
    }
    daemon
}

fn folder_of(socket: &str) -> &str {
    match socket.rsplit_once('/') {
        Some((folder, _)) if !folder.is_empty() => folder,
        _ => "/",
    }
}

fn empty(name: &str) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    }
}
