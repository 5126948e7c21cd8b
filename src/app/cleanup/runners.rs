//! Runners: their registrations, pods and records, and what their container hooks made.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt as _, stream};

use super::{Fate, Finding, Job, Refused};
use crate::{
    admission::gate::Urgency,
    control::SetParts,
    ids::{RunnerName, SetName},
    plan::{
        Moment,
        cleanup::{OwnSet, PodTrace, Remains, Verdict, remains_of},
        runner::PodProgress,
    },
    provision::{Record, Registration, ReleaseError},
    runner::observe,
    scaleset::{Agent, Removal},
};

/// Runners that are removed at one time; gates slow that down where a peer wants it.
const AT_ONCE: usize = 8;
/// GitHub takes a moment to hear that a runner has ended with its pod.
const LOOKS: u32 = 12;
const LOOK_PAUSE: Duration = Duration::from_secs(5);

const WHEN_IDLE: &str = "run cleanup again when its job has ended, or with --busy, which ends the job";
const ASK_GITHUB: &str = "mend GitHub's credential or the way there (`gharts-listener check`) and run cleanup again";
const ASK_GHARTS: &str = "mend GHARTS' identity or the way there (`gharts-listener check`) and run cleanup again; the \
                          service account must still exist";
const ASK_CLUSTER: &str = "this needs the right to delete pods there; run cleanup again";

/// What stays of a set.
pub(super) struct Left {
    pub(super) scale_set_id: Option<i64>,
    /// Some of its runners are there still, or may be.
    pub(super) runners: bool,
}

/// What the peers tell.
struct Seen {
    pods: Vec<(RunnerName, PodTrace)>,
    /// By way to GitHub; `None`: it does not answer.
    agents: BTreeMap<String, Option<Vec<Agent>>>,
    /// By token service.
    records: BTreeMap<String, Option<Vec<Record>>>,
}

/// One runner and what there is of it.
struct Runner<'a> {
    set: &'a SetParts,
    name: RunnerName,
    remains: Remains,
    github_answers: bool,
}

impl Job<'_> {
    /// Removes what may be removed of every runner; what stays of each set.
    pub(super) async fn runners(&self, tell: &mut impl FnMut(Finding)) -> Result<BTreeMap<SetName, Left>, Refused> {
        let seen = self.look(tell).await?;
        let mut left = BTreeMap::new();
        let mut staying = BTreeSet::new();
        for setup in &self.sets {
            let set = &*setup.parts;
            let agents = seen.agents.get(&set.github).and_then(Option::as_ref);
            let scale_set_id = self.scale_set_id(setup, agents.is_some()).await;
            let records = set.records.as_ref().and_then(|service| seen.records.get(&service.key));
            let own = OwnSet {
                namer: &set.namer,
                scale_set_id,
                maker: set.maker(&self.lease),
            };
            let known_records = records.and_then(Option::as_deref).unwrap_or_default();
            let remains = remains_of(
                &own,
                &seen.pods,
                agents.map(Vec::as_slice).unwrap_or_default(),
                known_records,
            );
            let runners = remains.into_iter().map(|(name, remains)| Runner {
                set,
                name,
                remains,
                github_answers: agents.is_some(),
            });
            let mut findings = stream::iter(runners)
                .map(|runner| async move { (self.runner(&runner).await, runner.name) })
                .buffered(AT_ONCE);
            let of_others = seen.pods.iter().filter(|(name, pod)| own.is_of_another(name, pod));
            staying.extend(of_others.map(|(name, _)| name.clone()));
            let mut stays = agents.is_none() || records.is_some_and(Option::is_none);
            while let Some((finding, name)) = findings.next().await {
                if matches!(finding.fate, Fate::Kept | Fate::Failed) {
                    stays = true;
                    staying.insert(name);
                }
                tell(finding);
            }
            drop(findings);
            let what = Left {
                scale_set_id,
                runners: stays,
            };
            left.insert(set.name.clone(), what);
        }
        self.leftovers(&staying, tell).await;
        Ok(left)
    }

    /// Asks every peer once.
    async fn look(&self, tell: &mut impl FnMut(Finding)) -> Result<Seen, Refused> {
        let pods = self.cluster.runner_pods().await.map_err(Refused::Cluster)?;
        let mut seen = Seen {
            pods: pods.iter().filter_map(trace).collect(),
            agents: BTreeMap::new(),
            records: BTreeMap::new(),
        };
        for setup in &self.sets {
            let set = &*setup.parts;
            if !seen.agents.contains_key(&set.github) {
                let _permit = set.github_gate.enter(Urgency::Remove, &set.name).await;
                let agents = set.connection.agents().await.map_err(|error| {
                    let what = format!("registrations at {}", set.github);
                    tell(Finding::new(Fate::Failed, what, error.to_string(), ASK_GITHUB));
                });
                seen.agents.insert(set.github.clone(), agents.ok());
            }
            let Some(service) = &set.records else { continue };
            if !seen.records.contains_key(&service.key) {
                let _permit = service.gate.enter(Urgency::Remove, &set.name).await;
                let records = service.provisioner.records().await.map_err(|refusal| {
                    let what = format!("records at {}", service.key);
                    tell(Finding::new(Fate::Failed, what, refusal.to_string(), ASK_GHARTS));
                });
                let records = records.ok().map(Option::unwrap_or_default);
                seen.records.insert(service.key.clone(), records);
            }
        }
        Ok(seen)
    }

    async fn runner(&self, runner: &Runner<'_>) -> Finding {
        let (what, remains) = (format!("runner {}", runner.name), &runner.remains);
        let verdict = remains.verdict(runner.github_answers);
        match verdict {
            Verdict::Unproven if !self.wish.busy => {
                let says = "GitHub cannot be asked whether it runs a job";
                return Finding::new(Fate::Kept, what, says, ASK_GITHUB);
            }
            Verdict::Busy if !self.wish.busy && (self.wish.dry_run || remains.is_seen_busy()) => {
                return kept(what, remains);
            }
            _ if self.wish.dry_run => {
                let says = match verdict {
                    Verdict::Busy | Verdict::Unproven => format!("{}; its job ends with it", list(&remains.parts())),
                    Verdict::Remove => list(&remains.parts()),
                };
                return Finding::new(Fate::WouldRemove, what, says, "");
            }
            _ => {}
        }
        self.remove(runner, what).await
    }

    /// A job that is written on its pod may be over: GitHub is asked.
    async fn remove(&self, runner: &Runner<'_>, what: String) -> Finding {
        let (set, remains) = (runner.set, &runner.remains);
        let mut registered = remains.agent.is_some();
        if let Some(agent) = &remains.agent {
            match self.take_back(set, agent.id).await {
                Ok(Removal::Busy) if self.wish.busy || remains.pod.as_ref().is_some_and(|pod| pod.ended) => {}
                Ok(Removal::Busy) => return kept(what, remains),
                Ok(Removal::Removed | Removal::AlreadyGone) => registered = false,
                Err(error) => return Finding::new(Fate::Failed, what, error, ASK_GITHUB),
            }
        }
        if let Some(pod) = &remains.pod
            && let Err(error) = self.cluster.delete_pod(&runner.name, &pod.uid, None).await
        {
            return Finding::new(Fate::Failed, what, error.to_string(), ASK_CLUSTER);
        }
        if let Some(agent) = remains.agent.as_ref().filter(|_| registered)
            && let Some(finding) = self.wait_for_its_end(set, agent.id, &what).await
        {
            return finding;
        }
        if let (Some(id), Some(service)) = (&remains.record, &set.records) {
            let registration = Registration {
                name: runner.name.clone(),
                agent_id: None,
                gharts_id: Some(id.clone()),
            };
            let _permit = service.gate.enter(Urgency::Remove, &set.name).await;
            match service.provisioner.release(&registration).await {
                Ok(_) => {}
                Err(ReleaseError::Busy) => return kept(what, remains),
                Err(ReleaseError::Failed(refusal)) => {
                    return Finding::new(Fate::Failed, what, refusal.to_string(), ASK_GHARTS);
                }
            }
        }
        Finding::new(Fate::Removed, what, list(&remains.parts()), "")
    }

    async fn take_back(&self, set: &SetParts, agent: i64) -> Result<Removal, String> {
        let _permit = set.github_gate.enter(Urgency::Remove, &set.name).await;
        set.connection
            .delete_agent(agent)
            .await
            .map_err(|error| error.to_string())
    }

    /// After its pod is gone; `None`: the registration is, too.
    async fn wait_for_its_end(&self, set: &SetParts, agent: i64, what: &str) -> Option<Finding> {
        for _ in 0..LOOKS {
            tokio::time::sleep(LOOK_PAUSE).await;
            match self.take_back(set, agent).await {
                Ok(Removal::Busy) => {}
                Ok(Removal::Removed | Removal::AlreadyGone) => return None,
                Err(error) => return Some(Finding::new(Fate::Failed, what, error, ASK_GITHUB)),
            }
        }
        let says = "its pod is gone, but GitHub still counts its job and keeps the registration";
        let remedy = "GitHub gives a lost runner's job up after some minutes; run cleanup again then";
        Some(Finding::new(Fate::Kept, what, says, remedy))
    }

    /// The set's id at GitHub; `None` also where that cannot be told.
    async fn scale_set_id(&self, setup: &super::SetSetup, github_answers: bool) -> Option<i64> {
        if !github_answers {
            return None;
        }
        let (set, spec) = (&setup.parts, &setup.spec);
        let _permit = set.github_gate.enter(Urgency::Remove, &set.name).await;
        let group = set.connection.runner_group(&spec.group).await.ok().flatten();
        // GitHub's own group has this number everywhere, also where groups cannot be listed.
        let group = group.map_or(1, |group| group.id);
        let found = set.connection.scale_set_by_name(group, &spec.name).await.ok()?;
        found.map(|set| set.id)
    }

    /// What the hooks of kubernetes modes made for runners that are gone.
    async fn leftovers(&self, staying: &BTreeSet<RunnerName>, tell: &mut impl FnMut(Finding)) {
        let leaving: Vec<_> = self.sets.iter().filter(|set| set.parts.leaves_things).collect();
        if leaving.is_empty() {
            return;
        }
        let remedy = "this needs the rights to list and delete pods, secrets and jobs there";
        let made = match self.cluster.made_by_hooks().await {
            Ok(made) => made,
            Err(error) => {
                let what = "what container hooks made";
                return tell(Finding::new(Fate::Failed, what, error.to_string(), remedy));
            }
        };
        let ours = |name: &str| leaving.iter().any(|set| set.parts.namer.is_ours(name));
        for left in made.iter().filter(|left| ours(&left.runner)) {
            if staying.contains(left.runner.as_str()) {
                continue;
            }
            let what = format!("{} {}", left.kind.as_str(), left.name);
            let says = format!("made for runner {}", left.runner);
            tell(if self.wish.dry_run {
                Finding::new(Fate::WouldRemove, what, says, "")
            } else {
                match self.cluster.remove_leftover(left).await {
                    Ok(()) => Finding::new(Fate::Removed, what, says, ""),
                    Err(error) => Finding::new(Fate::Failed, what, error.to_string(), remedy),
                }
            });
        }
    }
}

fn kept(what: String, remains: &Remains) -> Finding {
    let job = remains.pod.as_ref().and_then(|pod| pod.job.as_deref());
    let says = match job.filter(|job| !job.is_empty()) {
        Some(job) => format!("it runs a job: {job}"),
        None => "it runs a job".to_owned(),
    };
    Finding::new(Fate::Kept, what, says, WHEN_IDLE)
}

fn list(parts: &[&str]) -> String {
    parts.join(", ")
}

/// As much of a pod as counts.
fn trace(pod: &observe::WatchedPod) -> Option<(RunnerName, PodTrace)> {
    let seen = observe::read(pod, |_| Moment::START)?;
    let job = seen.adopted.job.map(|job| {
        let parts = [job.repository, job.display_name];
        parts
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(", ")
    });
    let trace = PodTrace {
        uid: seen.adopted.pod.uid,
        ended: matches!(seen.adopted.pod.progress, PodProgress::Ended(_)),
        job,
        maker: seen.maker,
    };
    Some((seen.name, trace))
}
