//! Another installation, in the same cluster, organization and team: what it has is never touched.

use std::collections::HashSet;

use serde_json::json;

use crate::sim::{
    fleet::BEHAVIOUR,
    world::{ORGANIZATION, RUNNER_NAMESPACE, World, WorldError},
};

/// Where the hash of our own names would stand.
const MARK: &str = "-zzzzz-";

/// A runner of a set of the same name, made by another cluster's installation: what it is at GitHub, as an ordinary
/// runner, and at GHARTS.
const RUNNER: &str = "linux-zzzzz-0123456789";
/// Its pod, in this cluster.
const POD: &str = "linux-zzzzz-abcdefghjk";
/// A set and a runner of it.
const SET: &str = "theirs";
const SET_RUNNER: &str = "theirs-zzzzz-0123456789";
/// Somebody's own machine.
const MACHINE: &str = "build-box";

/// What they take of the account's quota at GHARTS.
pub(super) const PLACES: u32 = 1;

/// Whether it is one of theirs, by its name.
pub(super) fn is_theirs(name: &str) -> bool {
    name.contains(MARK) || name == MACHINE
}

/// How their things are named in requests.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    /// Ids of registrations and records.
    ids: HashSet<String>,
}

impl Strangers {
    pub(super) fn settle(world: &World) -> Result<Self, WorldError> {
        let github = &world.github;
        let set = github.add_set(ORGANIZATION, SET);
        github.register_runner(ORGANIZATION, set, SET_RUNNER, &[]);
        for name in [RUNNER, MACHINE] {
            github.register_runner(ORGANIZATION, None, name, &["linux"]);
        }
        let agents = github.runners().into_iter().map(|agent| agent.id.to_string());
        let ids = agents.chain([world.gharts.add_record(&world.services.gharts_account(), RUNNER)]);
        let labels =
            json!({"app.kubernetes.io/managed-by": "gharts-listener", "app.kubernetes.io/component": "runner"});
        let annotations = json!({"gharts-listener/scale-set": "linux", BEHAVIOUR: "never-registers"});
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": POD, "namespace": RUNNER_NAMESPACE, "labels": labels, "annotations": annotations},
            "spec": {"containers": [{"name": "runner", "image": "theirs"}]}});
        let secret = json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": POD, "namespace": RUNNER_NAMESPACE, "labels": labels}, "stringData": {"jit": "theirs"}});
        for object in [pod, secret] {
            world
                .kubernetes
                .create(&object)
                .map_err(|refusal| WorldError::Refused(refusal.message))?;
        }
        Ok(Self { ids: ids.collect() })
    }

    /// What is gone of theirs, but for what a GHARTS clears away by itself.
    pub(super) fn missing(world: &World) -> Vec<String> {
        let mut missing = Vec::new();
        for plural in ["pods", "secrets"] {
            let object = world.kubernetes.get(plural, RUNNER_NAMESPACE, POD);
            if object.is_none_or(|object| !object["metadata"]["deletionTimestamp"].is_null()) {
                missing.push(format!("{plural} {POD} of others is gone"));
            }
        }
        let agents = world.github.runners();
        let lost = |name: &&&str| !agents.iter().any(|agent| agent.name == **name);
        let names = [MACHINE, SET_RUNNER];
        missing.extend(
            names
                .iter()
                .filter(lost)
                .map(|name| format!("the registration {name} is gone")),
        );
        if !world.github.sets().iter().any(|set| set.name == SET) {
            missing.push(format!("the scale set {SET} of others is gone"));
        }
        missing
    }

    /// Whether a path names a registration or a record of theirs.
    pub(super) fn own(&self, path: &str) -> bool {
        let mut parts = path.rsplit('/');
        let (last, kind) = (parts.next().unwrap_or_default(), parts.next());
        matches!(kind, Some("agents" | "runners")) && self.ids.contains(last)
    }
}
