//! The three-way comparison, carried out, one peer at a time: lists what it holds, removes what belongs to nobody.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    execute::{Parts, SetParts},
    service::Service,
};
use crate::{
    admission::gate::Urgency,
    ids::{RunnerName, SetName},
    plan::{
        Moment,
        orphans::{AgentView, Owner, RecordView, orphan_agents, orphan_records},
    },
    provision::{Record, Refusal, Registration},
    scaleset::Agent,
};

/// Whose list is compared with what is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// Agents on a way to GitHub.
    Agents(String),
    /// Records of a token service.
    Records(String),
    /// What runners made in the cluster.
    Leftovers,
}

pub(super) type FirstSeen = BTreeMap<String, Moment>;

/// What the loop knows when it orders a comparison.
#[derive(Debug)]
pub(super) struct Order {
    /// The sets that the subject concerns.
    pub(super) sets: Vec<Arc<SetParts>>,
    /// Every runner in memory of theirs, and the set's id at GitHub. For leftovers: every runner that may be at work.
    pub(super) known: BTreeMap<SetName, (Option<i64>, BTreeSet<RunnerName>)>,
    /// When each agent or record was first seen, by id: for services that do not tell its age, and for clocks that
    /// tell another. For leftovers: what the last look showed.
    pub(super) first_seen: FirstSeen,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) first_seen: FirstSeen,
    /// The list could be had: nothing unseen is left.
    pub(super) complete: bool,
    /// Sets of which the list showed something that belongs to no runner, whether it is gone now or not.
    pub(super) left: BTreeSet<SetName>,
    /// Why the list was refused, and to one of whose sets.
    pub(super) refused: Option<(SetName, Refusal)>,
}

pub(super) async fn run(parts: &Parts, subject: &Subject, order: &Order) -> Findings {
    let found = match subject {
        Subject::Agents(_) => compare_agents(parts, &order.sets, order).await,
        Subject::Records(_) => compare_records(parts, &order.sets, order).await,
        Subject::Leftovers => remove_leftovers(parts, &order.sets, order).await,
    };
    found.unwrap_or_else(|| Findings {
        // An agent's age does not begin anew because one list could not be had.
        first_seen: order.first_seen.clone(),
        ..Findings::default()
    })
}

/// Sets of which something is left that belongs to no runner.
fn left_of(sets: &[Arc<SetParts>], order: &Order, has_left: impl Fn(&Owner<'_>) -> bool) -> BTreeSet<SetName> {
    let left = sets.iter().filter(|set| has_left(&owner(set, order)));
    left.map(|set| set.name.clone()).collect()
}

/// `None`: the list cannot be had.
async fn compare_agents(parts: &Parts, sets: &[Arc<SetParts>], order: &Order) -> Option<Findings> {
    let agents = list_agents(parts, sets.first()?).await?;
    let ids = agents.iter().map(|agent| (agent.name.as_str(), agent.id.to_string()));
    let first_seen = first_seen(parts, sets, order, ids);
    let views = views(parts, order, &agents);
    for set in sets {
        remove_agents(parts, set, order, &views).await;
    }
    Some(Findings {
        left: left_of(sets, order, |owner| {
            views.iter().any(|agent| owner.has_left_agent(agent))
        }),
        first_seen,
        complete: true,
        refused: None,
    })
}

async fn list_agents(parts: &Parts, set: &SetParts) -> Option<Vec<Agent>> {
    let _permit = parts.turn(&set.github_gate, Urgency::Remove, &set.name).await?;
    match set.connection.agents().await {
        Ok(agents) => Some(agents),
        Err(error) => {
            tracing::warn!(github = set.github, %error, "orphans cannot be looked for: GitHub does not list its runners");
            None
        }
    }
}

/// Of names and ids, those that are ours.
fn first_seen<'a>(
    parts: &Parts,
    sets: &[Arc<SetParts>],
    order: &Order,
    ids: impl Iterator<Item = (&'a str, String)>,
) -> FirstSeen {
    let now = parts.timeline.now();
    ids.filter(|(name, _)| sets.iter().any(|set| set.namer.is_ours(name)))
        .map(|(_, id)| {
            let since = order.first_seen.get(&id).copied().unwrap_or(now);
            (id, since)
        })
        .collect()
}

/// Since its birth by the peer's clock, or since it was first seen: whichever is longer ago. Whose first sight this is
/// may have been begun after the order was given, whatever our clock makes of its birth.
fn age(parts: &Parts, order: &Order, id: &str, told: Duration) -> Duration {
    let seen_before = order.first_seen.get(id);
    seen_before.map_or(Duration::ZERO, |at| told.max(parts.timeline.now().since(*at)))
}

fn views(parts: &Parts, order: &Order, agents: &[Agent]) -> Vec<AgentView> {
    let age = |agent: &Agent| -> Duration {
        let told = agent.created_on.as_deref().and_then(|t| t.parse().ok());
        let told = told.map(|t| parts.timeline.clock().since(t)).unwrap_or_default();
        age(parts, order, &agent.id.to_string(), told)
    };
    let view = |a: &Agent| AgentView {
        id: a.id,
        name: a.name.clone(),
        scale_set_id: a.runner_scale_set_id,
        age: age(a),
    };
    agents.iter().map(view).collect()
}

fn owner<'a>(set: &'a SetParts, order: &'a Order) -> Owner<'a> {
    let (scale_set_id, known) = order
        .known
        .get(&set.name)
        .map_or((None, BTreeSet::new()), |(id, names)| {
            (*id, names.iter().map(RunnerName::as_str).collect())
        });
    Owner {
        namer: &set.namer,
        scale_set_id,
        known,
    }
}

async fn remove_agents(parts: &Parts, set: &SetParts, order: &Order, agents: &[AgentView]) {
    for agent in orphan_agents(&owner(set, order), agents) {
        let Some(_permit) = parts.turn(&set.github_gate, Urgency::Remove, &set.name).await else {
            return;
        };
        if !parts.mandate.fence.holds() {
            return;
        }
        match set.connection.delete_agent(agent.id).await {
            Ok(what) => {
                tracing::info!(runner = agent.name, outcome = ?what, "an orphaned registration at GitHub");
                parts.metrics.orphan_removed(set.name.as_str(), "agent");
            }
            Err(error) => tracing::warn!(runner = agent.name, %error, "an orphaned registration stays for now"),
        }
    }
}

/// One list per provisioner, whose sets all look into it. `None`: the records cannot be had.
async fn compare_records(parts: &Parts, sets: &[Arc<SetParts>], order: &Order) -> Option<Findings> {
    let first = sets.first()?;
    let service = first.records.as_ref()?;
    if !service.breaker.admits() {
        return None;
    }
    let permit = parts.turn(&service.gate, Urgency::Remove, &first.name).await?;
    let began = service.breaker.now();
    let records = service.provisioner.records().await;
    service.answered(began, records.as_ref().err(), |_| true);
    drop(permit);
    let records = match records {
        Ok(records) => records.unwrap_or_default(),
        Err(refusal) => {
            tracing::warn!(provisioner = service.key, %refusal, "orphaned records cannot be looked for");
            return Some(Findings {
                first_seen: order.first_seen.clone(),
                refused: Some((first.name.clone(), refusal)),
                ..Findings::default()
            });
        }
    };
    let ids = records.iter().map(|r| (r.name.as_str(), r.gharts_id.clone()));
    let first_seen = first_seen(parts, sets, order, ids);
    let view = |r: Record| RecordView {
        age: age(parts, order, &r.gharts_id, r.age),
        gharts_id: r.gharts_id,
        name: r.name,
    };
    let views: Vec<RecordView> = records.into_iter().map(view).collect();
    for set in sets {
        for record in orphan_records(&owner(set, order), &views) {
            if !service.breaker.admits() {
                return None;
            }
            remove_record(parts, set, service, record).await;
        }
    }
    Some(Findings {
        left: left_of(sets, order, |owner| {
            views.iter().any(|record| owner.has_left(&record.name))
        }),
        first_seen,
        complete: true,
        refused: None,
    })
}

/// `None`: what is there cannot be listed.
async fn remove_leftovers(parts: &Parts, sets: &[Arc<SetParts>], order: &Order) -> Option<Findings> {
    let first = sets.first()?;
    let made = {
        let _permit = parts
            .turn(&parts.cluster_gates.others, Urgency::Tell, &first.name)
            .await?;
        parts.cluster.made_by_hooks().await
    };
    let made = match made {
        Ok(made) => made,
        Err(error) => {
            tracing::warn!(%error, "what dead runners left cannot be looked for");
            return None;
        }
    };
    let mut first_seen = FirstSeen::new();
    for left in made {
        let owner = sets.iter().find(|set| set.namer.is_ours(&left.runner));
        let Some(set) = owner.filter(|set| !at_work(order, set, &left.runner)) else {
            continue;
        };
        // A runner that was begun after the order was given is at work as well: only what two looks in a row show.
        let id = format!("{}/{}", left.kind.as_str(), left.name);
        let seen_before = order.first_seen.contains_key(&id);
        first_seen.insert(id, parts.timeline.now());
        if !seen_before || !parts.mandate.fence.holds() {
            continue;
        }
        let _permit = parts
            .turn(&parts.cluster_gates.others, Urgency::Remove, &set.name)
            .await?;
        let kind = left.kind.as_str();
        match parts.cluster.remove_leftover(&left).await {
            Ok(()) => {
                tracing::info!(set = %set.name, runner = left.runner, kind, name = left.name, "a dead runner left this");
                parts.metrics.orphan_removed(set.name.as_str(), kind);
            }
            Err(error) => {
                tracing::warn!(runner = left.runner, kind, name = left.name, %error, "a leftover stays for now");
            }
        }
    }
    Some(Findings {
        complete: true,
        first_seen,
        ..Findings::default()
    })
}

fn at_work(order: &Order, set: &SetParts, runner: &str) -> bool {
    order
        .known
        .get(&set.name)
        .is_some_and(|(_, at_work)| at_work.contains(runner))
}

async fn remove_record(parts: &Parts, set: &SetParts, service: &Service, record: &RecordView) {
    let registration = Registration {
        name: RunnerName::new(&record.name),
        agent_id: None,
        gharts_id: Some(record.gharts_id.clone()),
    };
    let Some(_permit) = parts.turn(&service.gate, Urgency::Remove, &set.name).await else {
        return;
    };
    if !parts.mandate.fence.holds() {
        return;
    }
    match service.release(&registration).await {
        Ok(_) => {
            tracing::info!(runner = record.name, "an orphaned record at GHARTS is removed");
            parts.metrics.orphan_removed(set.name.as_str(), "record");
        }
        Err(error) => tracing::warn!(runner = record.name, %error, "an orphaned record stays for now"),
    }
}
