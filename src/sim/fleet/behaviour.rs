//! What goes wrong with a pod on demand.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;

/// The annotation that chooses a behaviour for one pod; see [`Behaviour::parse`] for its words.
pub const BEHAVIOUR: &str = "sim.gharts/behaviour";

/// How a pod behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// Starts, runs one job, ends.
    #[default]
    Ordinary,
    /// No node takes it.
    Unschedulable,
    /// Its image cannot be pulled.
    ImagePullFails,
    /// Its process runs and never tells GitHub.
    NeverRegisters,
    /// Its process ends with this code before it registers.
    Crashes(i32),
    /// It registers, and ends with code 0 when it has waited for a job this long.
    Leaves(Duration),
    /// It registers, and then neither takes a job nor ends: its process hangs.
    FallsSilent,
    /// It runs its job, and does not end before the rule changes.
    HangsAfterJob,
    /// An init container fails.
    InitFails,
    /// The kubelet refuses it.
    Rejected,
    /// The node evicts it this long after its start.
    Evicted(Duration),
    /// The kernel kills it this long after its start.
    OutOfMemory(Duration),
    /// A runner like any other, but another container of its pod never ends.
    SidecarStays,
    /// Its node is lost this long after its start: nothing is heard of it any more.
    NodeLost(Duration),
}

impl Behaviour {
    /// `ordinary`, `unschedulable`, `image-pull-fails`, `never-registers`, `crashes:CODE`, `leaves:SECONDS`, `sidecar-stays`, `falls-silent`,
    /// `hangs-after-job`, `init-fails`, `rejected`,
    /// `evicted:SECONDS`, `out-of-memory:SECONDS`, `node-lost:SECONDS`.
    pub fn parse(text: &str) -> Option<Self> {
        let (word, number) = text.split_once(':').unwrap_or((text, ""));
        let seconds = || number.parse().ok().map(Duration::from_secs);
        match word {
            "ordinary" => Some(Self::Ordinary),
            "unschedulable" => Some(Self::Unschedulable),
            "image-pull-fails" => Some(Self::ImagePullFails),
            "falls-silent" => Some(Self::FallsSilent),
            "hangs-after-job" => Some(Self::HangsAfterJob),
            "init-fails" => Some(Self::InitFails),
            "rejected" => Some(Self::Rejected),
            "sidecar-stays" => Some(Self::SidecarStays),
            "never-registers" => Some(Self::NeverRegisters),
            "crashes" => number.parse().ok().map(Self::Crashes),
            "leaves" => seconds().map(Self::Leaves),
            "evicted" => seconds().map(Self::Evicted),
            "out-of-memory" => seconds().map(Self::OutOfMemory),
            "node-lost" => seconds().map(Self::NodeLost),
            _ => None,
        }
    }
}

/// Chooses each pod's behaviour.
pub(super) type Rule = Arc<dyn Fn(&Pod) -> Behaviour + Send + Sync>;

pub(super) fn ordinary() -> Rule {
    Arc::new(|_| Behaviour::Ordinary)
}

/// The pod's own annotation, else the rule.
pub(super) fn of(pod: &Pod, rule: &Rule) -> Behaviour {
    pod.metadata
        .annotations
        .as_ref()
        .and_then(|all| Behaviour::parse(all.get(BEHAVIOUR)?))
        .unwrap_or_else(|| rule(pod))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaviours_have_words_and_a_pods_own_word_counts_more_than_the_rule() {
        assert_eq!(Behaviour::parse("crashes:7"), Some(Behaviour::Crashes(7)));
        assert_eq!(
            Behaviour::parse("evicted:90"),
            Some(Behaviour::Evicted(Duration::from_secs(90)))
        );
        assert_eq!(Behaviour::parse("crashes"), None);
        let mut pod = Pod::default();
        let rule: Rule = Arc::new(|_| Behaviour::Unschedulable);
        assert_eq!(of(&pod, &rule), Behaviour::Unschedulable);
        pod.metadata.annotations = Some([(BEHAVIOUR.to_owned(), "ordinary".to_owned())].into());
        assert_eq!(of(&pod, &rule), Behaviour::Ordinary);
    }
}
