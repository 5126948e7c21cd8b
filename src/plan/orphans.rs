//! The three-way comparison, pure: pods, registrations at GitHub, records at GHARTS. What belongs to nobody
//! goes; what is another installation's, or anybody's, is never touched.

use std::{collections::BTreeSet, time::Duration};

use super::runner::PROVISIONING;
use crate::ids::Namer;

/// An orphan must be older than any start under way. With one replica that is one JIT deadline; GHARTS' own
/// clock is not ours, so a minute is allowed for.
pub const MIN_AGE: Duration = Duration::from_secs(PROVISIONING.as_secs() + 60);

/// A registration at GitHub, as the agents list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentView {
    pub id: i64,
    pub name: String,
    /// `None`: an ordinary runner, outside any set.
    pub scale_set_id: Option<i64>,
    /// Since its registration, or since it was first seen.
    pub age: Duration,
}

/// A record at GHARTS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordView {
    pub gharts_id: String,
    pub name: String,
    /// Since it was made, or since it was first seen.
    pub age: Duration,
}

/// What one scale set may call its own.
#[derive(Clone, Debug)]
pub struct Owner<'a> {
    pub namer: &'a Namer,
    pub scale_set_id: Option<i64>,
    /// Names of every runner that the daemon knows, in whatever state.
    pub known: BTreeSet<&'a str>,
}

impl Owner<'_> {
    fn is_orphan(&self, name: &str, age: Duration) -> bool {
        age >= MIN_AGE && self.has_left(name)
    }

    /// Whether something of this name is its own, and belongs to no runner.
    pub fn has_left(&self, name: &str) -> bool {
        self.namer.is_ours(name) && !self.known.contains(name)
    }

    /// The same of a registration: one in another scale set is somebody else's.
    pub fn has_left_agent(&self, agent: &AgentView) -> bool {
        let may_be = agent.scale_set_id.is_none() || agent.scale_set_id == self.scale_set_id;
        may_be && self.has_left(&agent.name)
    }
}

/// Registrations of `owner` that belong to no runner.
pub fn orphan_agents<'a>(owner: &Owner<'_>, agents: &'a [AgentView]) -> Vec<&'a AgentView> {
    agents
        .iter()
        .filter(|a| owner.has_left_agent(a) && owner.is_orphan(&a.name, a.age))
        .collect()
}

/// Records of `owner` that belong to no runner.
pub fn orphan_records<'a>(owner: &Owner<'_>, records: &'a [RecordView]) -> Vec<&'a RecordView> {
    records.iter().filter(|r| owner.is_orphan(&r.name, r.age)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SetName;

    fn agent(name: &str, scale_set_id: Option<i64>, age: u64) -> AgentView {
        AgentView {
            id: 1,
            name: name.to_owned(),
            scale_set_id,
            age: Duration::from_secs(age),
        }
    }

    #[test]
    fn b46_only_old_enough_unknown_names_of_this_installation_are_orphans() {
        let set = SetName::new("linux");
        let (ours, theirs) = (Namer::new("uid-1", &set), Namer::new("uid-2", &set));
        let mut rng = fastrand::Rng::with_seed(1);
        let (known, lost, foreign) = (ours.next(&mut rng), ours.next(&mut rng), theirs.next(&mut rng));
        let owner = Owner {
            namer: &ours,
            scale_set_id: Some(42),
            known: BTreeSet::from([known.as_str()]),
        };
        let agents = [
            agent(lost.as_str(), Some(42), 3600),
            agent(lost.as_str(), None, 3600),
            agent(lost.as_str(), Some(43), 3600),
            agent(lost.as_str(), Some(42), 60),
            agent(known.as_str(), Some(42), 3600),
            agent(foreign.as_str(), Some(42), 3600),
            agent("linux-runner-1", Some(42), 3600),
        ];
        assert_eq!(orphan_agents(&owner, &agents), [&agents[0], &agents[1]]);
    }
}
