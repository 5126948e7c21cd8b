//! What a runner's container hooks made and did not live to remove (`kubernetes` modes): pods, Secrets and jobs with the
//! label `runner-pod`, whose value is the runner's name.

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Pod, Secret},
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, Preconditions, PropagationPolicy},
    core::PartialObjectMeta,
};
use serde::de::DeserializeOwned;

use super::cluster::{Cluster, ClusterError, absent_is_fine, call};

/// The hooks' own label.
const RUNNER_POD: &str = "runner-pod";

/// One object that some runner made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    pub kind: LeftoverKind,
    pub name: String,
    /// Whose it is.
    pub runner: String,
    uid: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftoverKind {
    Pod,
    Secret,
    Job,
}

impl LeftoverKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Secret => "secret",
            Self::Job => "job",
        }
    }
}

impl Cluster {
    /// All that any runner's hooks have made here, whoever's it is. Reads names and labels alone, of Secrets too.
    pub async fn made_by_hooks(&self) -> Result<Vec<Leftover>, ClusterError> {
        let mut all = self.labelled::<Job>(LeftoverKind::Job).await?;
        all.extend(self.labelled::<Pod>(LeftoverKind::Pod).await?);
        all.extend(self.labelled::<Secret>(LeftoverKind::Secret).await?);
        Ok(all)
    }

    async fn labelled<K>(&self, kind: LeftoverKind) -> Result<Vec<Leftover>, ClusterError>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let api: Api<K> = self.api();
        let params = ListParams::default().labels(RUNNER_POD);
        let listed = call("list what runners made", api.list_metadata(&params)).await?;
        let read = |object: PartialObjectMeta<K>| {
            Some(Leftover {
                kind,
                name: object.metadata.name?,
                runner: object.metadata.labels?.remove(RUNNER_POD)?,
                uid: object.metadata.uid,
            })
        };
        Ok(listed.items.into_iter().filter_map(read).collect())
    }

    /// Removes it; a job with its pods.
    pub async fn remove_leftover(&self, leftover: &Leftover) -> Result<(), ClusterError> {
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: leftover.uid.clone().map(|uid| Preconditions {
                uid: Some(uid),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let (name, operation) = (&leftover.name, "remove what a runner left");
        absent_is_fine(match leftover.kind {
            LeftoverKind::Pod => call(operation, self.api::<Pod>().delete(name, &params)).await.map(drop),
            LeftoverKind::Secret => call(operation, self.api::<Secret>().delete(name, &params))
                .await
                .map(drop),
            LeftoverKind::Job => call(operation, self.api::<Job>().delete(name, &params)).await.map(drop),
        })
    }
}
