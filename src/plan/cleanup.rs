//! What an installation that runs no more has left of its runners, pure: which traces belong to one runner, and what
//! may be done about it.

use std::collections::BTreeMap;

use crate::{
    ids::{Maker, Namer, RunnerName, Whose},
    provision::Record,
    scaleset::Agent,
};

/// A pod, as much as counts here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodTrace {
    pub uid: String,
    /// Its runner has ended: no job can be harmed.
    pub ended: bool,
    /// A job is written on it: which one, for people.
    pub job: Option<String>,
    /// `None`: made by an older version.
    pub maker: Option<Maker>,
}

/// A registration at GitHub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentTrace {
    pub id: i64,
    /// As the list tells: that it is not is proved by the attempt to remove it alone.
    pub busy: bool,
}

/// What there is of one runner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remains {
    pub pod: Option<PodTrace>,
    pub agent: Option<AgentTrace>,
    /// GHARTS' id of its record.
    pub record: Option<String>,
}

/// What is to be done about one runner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing that is known says that it works; GitHub has the last word where it is registered.
    Remove,
    /// It runs a job, as far as is told.
    Busy,
    /// It may run a job, and GitHub cannot be asked.
    Unproven,
}

impl Remains {
    /// `github_answers`: its list of runners is known, so that a runner that is not on it is not registered.
    pub fn verdict(&self, github_answers: bool) -> Verdict {
        let lives = self.pod.as_ref().is_some_and(|pod| !pod.ended);
        let has_job = self.pod.as_ref().is_some_and(|pod| pod.job.is_some());
        match &self.agent {
            _ if lives && !github_answers => Verdict::Unproven,
            // GitHub takes a while to notice that a job's runner is gone; the pod shows it at once.
            Some(agent) if (agent.busy || has_job) && (lives || self.pod.is_none()) => Verdict::Busy,
            _ => Verdict::Remove,
        }
    }

    /// GitHub says that it works.
    pub fn is_seen_busy(&self) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.busy)
    }

    /// Its parts, for people.
    pub fn parts(&self) -> Vec<&'static str> {
        let parts = [
            (self.agent.is_some(), "registration at GitHub"),
            (self.pod.is_some(), "pod"),
            (self.record.is_some(), "record at GHARTS"),
        ];
        parts.iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect()
    }
}

/// One scale set of the installation.
#[derive(Clone, Debug)]
pub struct OwnSet<'a> {
    pub namer: &'a Namer,
    /// `None`: GitHub has no such set, or could not be asked.
    pub scale_set_id: Option<i64>,
    pub maker: Maker,
}

impl OwnSet<'_> {
    /// Its name looks like one of ours, and another deployment has made it.
    pub fn is_of_another(&self, name: &RunnerName, pod: &PodTrace) -> bool {
        let whose = pod.maker.as_ref().map(|maker| maker.whose(&self.maker, false));
        whose == Some(Whose::Anothers) && self.namer.is_ours(name.as_str())
    }
}

/// What there is of each runner of the set. Names decide, and with them namespace, cluster and set: nothing of another
/// installation has one of ours; what another deployment in the same namespace has made, its pods say.
pub fn remains_of(
    set: &OwnSet<'_>,
    pods: &[(RunnerName, PodTrace)],
    agents: &[Agent],
    records: &[Record],
) -> BTreeMap<RunnerName, Remains> {
    let mut all: BTreeMap<RunnerName, Remains> = BTreeMap::new();
    for (name, pod) in pods.iter().filter(|(name, _)| set.namer.is_ours(name.as_str())) {
        all.entry(name.clone()).or_default().pod = Some(pod.clone());
    }
    let in_reach = |agent: &&Agent| [None, set.scale_set_id].contains(&agent.runner_scale_set_id);
    let registered = agents.iter().filter(in_reach);
    for agent in registered.filter(|agent| set.namer.is_ours(&agent.name)) {
        all.entry(RunnerName::new(&agent.name)).or_default().agent = Some(AgentTrace {
            id: agent.id,
            busy: agent.busy == Some(true),
        });
    }
    for record in records.iter().filter(|record| set.namer.is_ours(&record.name)) {
        all.entry(RunnerName::new(&record.name)).or_default().record = Some(record.gharts_id.clone());
    }
    all.retain(|name, remains| !remains.pod.as_ref().is_some_and(|pod| set.is_of_another(name, pod)));
    all
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ids::SetName;

    fn pod(ended: bool, job: bool) -> PodTrace {
        PodTrace {
            uid: "u".to_owned(),
            ended,
            job: job.then(|| "build".to_owned()),
            maker: None,
        }
    }

    fn agent(busy: bool) -> AgentTrace {
        AgentTrace { id: 1, busy }
    }

    #[test]
    fn b56_only_what_cannot_be_at_work_is_removed() {
        let cases = [
            (Some(pod(false, false)), Some(agent(false)), true, Verdict::Remove),
            (Some(pod(false, false)), Some(agent(true)), true, Verdict::Busy),
            (Some(pod(false, true)), Some(agent(false)), true, Verdict::Busy),
            // Its job is over: GitHub has let go of it.
            (Some(pod(false, true)), None, true, Verdict::Remove),
            (Some(pod(false, false)), None, false, Verdict::Unproven),
            (Some(pod(true, true)), Some(agent(true)), true, Verdict::Remove),
            (Some(pod(true, true)), None, false, Verdict::Remove),
            // Its pod may have gone with its node, which works on.
            (None, Some(agent(true)), true, Verdict::Busy),
            (None, Some(agent(false)), true, Verdict::Remove),
            (None, None, false, Verdict::Remove),
        ];
        for (pod, agent, github_answers, verdict) in cases {
            let remains = Remains {
                pod,
                agent,
                record: Some("r".to_owned()),
            };
            assert_eq!(remains.verdict(github_answers), verdict, "{remains:?}");
        }
    }

    #[test]
    fn b56_what_belongs_to_another_installation_or_set_is_nobodys_business() {
        let set = SetName::new("linux");
        let (ours, theirs) = (Namer::new("uid-1", &set), Namer::new("uid-2", &set));
        let mut rng = fastrand::Rng::with_seed(1);
        let (mine, foreign) = (ours.next(&mut rng), theirs.next(&mut rng));
        let registered = |name: &RunnerName, set| Agent {
            id: 1,
            name: name.to_string(),
            runner_scale_set_id: set,
            ..Agent::default()
        };
        let record = |name: &RunnerName| Record {
            gharts_id: "r".to_owned(),
            name: name.to_string(),
            agent_id: None,
            age: Duration::ZERO,
        };
        let maker = |lease: &str, github: &str| Maker {
            lease: lease.to_owned(),
            github: Some(github.to_owned()),
        };
        let own = OwnSet {
            namer: &ours,
            scale_set_id: Some(7),
            maker: maker("ns/ours", "https://github.com/one"),
        };
        // Of another deployment in this namespace, for another organization.
        let theirs = ours.next(&mut rng);
        let made_by_others = PodTrace {
            maker: Some(maker("ns/theirs", "https://github.com/two")),
            ..pod(false, true)
        };
        let found = remains_of(
            &own,
            &[
                (mine.clone(), pod(true, false)),
                (foreign.clone(), pod(true, false)),
                (theirs.clone(), made_by_others),
            ],
            &[registered(&foreign, Some(7)), registered(&mine, Some(8))],
            &[record(&mine), record(&foreign), record(&theirs)],
        );
        let expected = Remains {
            pod: Some(pod(true, false)),
            agent: None,
            record: Some("r".to_owned()),
        };
        assert_eq!(found, BTreeMap::from([(mine, expected)]));
    }
}
