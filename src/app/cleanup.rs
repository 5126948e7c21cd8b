//! What `cleanup` removes: all that is left of an installation's runners where no daemon looks after them any more, and
//! on request its scale sets. What a runner's traces allow, [`plan::cleanup`](crate::plan::cleanup) decides.
//!
//! Each runner goes as the daemon lets an idle one go: its registration at GitHub first, which refuses while a job runs,
//! then its pod, then the record at GHARTS.

mod runners;
mod sets;

use std::{cell::Cell, collections::BTreeSet};

use super::{
    Error, Externals,
    compose::{self, Assembly},
};
use crate::{
    config::Config,
    control::SetSetup,
    ids::SetName,
    lease::{
        LeaseSetup, Record, Sessions,
        vacancy::{self, Vacancy},
    },
    runner::cluster::{Cluster, ClusterError, Kind},
    shutdown::Tasks,
    telemetry::Metrics,
};

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// End runners that run a job, too.
    pub busy: bool,
    /// Delete the scale sets at GitHub, too.
    pub scale_sets: bool,
    /// Only these; empty: all of the file.
    pub only: BTreeSet<SetName>,
}

/// What became of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Removed,
    /// A dry run.
    WouldRemove,
    /// It must not be removed now.
    Kept,
    Failed,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub fate: Fate,
    /// `runner NAME`, `scale set NAME`, ...
    pub what: String,
    /// Its parts, or why it stays.
    pub says: String,
    /// What mends it, where it stays.
    pub remedy: &'static str,
}

impl Finding {
    fn new(fate: Fate, what: impl Into<String>, says: impl Into<String>, remedy: &'static str) -> Self {
        Self {
            fate,
            what: what.into(),
            says: says.into(),
            remedy,
        }
    }
}

/// Why nothing was removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("a daemon is at work: {holder} holds the Lease {place} and renews it")]
    AtWork { holder: String, place: String },
    #[error("whether a daemon is at work cannot be told: the Lease {place}: {error}")]
    Lease { place: String, error: String },
    #[error("the namespace {namespace} of the runners does not exist")]
    NoNamespace { namespace: String },
    #[error("{0}")]
    Cluster(ClusterError),
    #[error("{0}")]
    Setup(String),
}

impl Refused {
    /// What mends it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::AtWork { .. } => {
                "stop it first (helm uninstall, replicaCount 0, systemctl stop): it would look after its runners \
                 meanwhile, and make new ones"
            }
            Self::Lease { .. } => "this needs the right to get that Lease (`lease` in the file)",
            Self::NoNamespace { .. } => {
                "pods went with it, and GitHub forgets runners that stay offline; without the namespace's uid nobody can \
                 tell which registrations were this installation's"
            }
            Self::Cluster(_) => "this needs the rights to get that namespace, and to list and delete pods in it",
            Self::Setup(_) => "see `gharts-listener check`",
        }
    }
}

/// Looks for what is left, removes it as wished, and tells each thing as it comes.
pub async fn cleanup(
    config: &Config,
    externals: Externals,
    wish: &Wish,
    mut tell: impl FnMut(Finding),
) -> Result<(), Refused> {
    let lease = compose::lease_setup(config, &externals);
    let seen = vacant(&lease).await?;
    let cluster = Cluster::new(externals.kubernetes.clone(), &config.kubernetes.namespace);
    let uid = cluster.namespace_uid().await.map_err(|error| match error.kind {
        Kind::Gone => Refused::NoNamespace {
            namespace: config.kubernetes.namespace.clone(),
        },
        _ => Refused::Cluster(error),
    })?;
    let tasks = Tasks::new();
    let mut assembly = Assembly::new(externals, Metrics::new(false), uid, tasks.clone());
    let sets = assembly
        .sets(config)
        .map_err(|error: Error| Refused::Setup(error.to_string()))?;
    let asked_for = |set: &SetSetup| wish.only.is_empty() || wish.only.contains(&set.parts.name);
    let job = Job {
        sets: sets.into_iter().filter(asked_for).collect(),
        cluster,
        wish,
        lease: lease.place(),
        sessions: seen.as_ref().map(Record::sessions).unwrap_or_default(),
    };
    let clean = Cell::new(true);
    let mut tell = |finding: Finding| {
        clean.set(clean.get() && matches!(finding.fate, Fate::Removed | Fate::WouldRemove));
        tell(finding);
    };
    let left = job.runners(&mut tell).await?;
    if wish.scale_sets {
        job.scale_sets(&left, &mut tell).await;
    }
    if let Some(seen) = seen.filter(|_| clean.get() && wish.only.is_empty()) {
        tell_of_lease(&lease, &seen, wish, &mut tell).await;
    }
    // What GHARTS wrote down for registration tokens is given back.
    tasks.stop();
    tasks.finished().await;
    Ok(())
}

/// What all steps need.
struct Job<'a> {
    sets: Vec<SetSetup>,
    cluster: Cluster,
    wish: &'a Wish,
    /// Namespace and name of the deployment's Lease.
    lease: String,
    /// That the last leader left open.
    sessions: Sessions,
}

async fn vacant(lease: &LeaseSetup) -> Result<Option<Record>, Refused> {
    let place = lease.place();
    match vacancy::look(lease).await {
        Ok(Vacancy::NoLease) => Ok(None),
        Ok(Vacancy::Vacant(record)) => Ok(Some(*record)),
        Ok(Vacancy::Held(holder)) => Err(Refused::AtWork { holder, place }),
        Err(error) => Err(Refused::Lease { place, error }),
    }
}

/// The last thing: it names the sessions that were open.
async fn tell_of_lease(lease: &LeaseSetup, seen: &Record, wish: &Wish, tell: &mut impl FnMut(Finding)) {
    if vacancy::is_of_a_release(seen) {
        return;
    }
    let what = format!("lease {}/{}", lease.namespace, lease.name);
    let finding = if wish.dry_run {
        Finding::new(Fate::WouldRemove, what, "", "")
    } else {
        match vacancy::remove(lease, seen).await {
            Ok(()) => Finding::new(Fate::Removed, what, "", ""),
            Err(error) => Finding::new(
                Fate::Failed,
                what,
                error,
                "this needs the right to delete it, which the daemon does not have: kubectl delete lease does it",
            ),
        }
    };
    tell(finding);
}
