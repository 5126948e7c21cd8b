//! Makes a scale set at GitHub what the file says: found or created, in its group, with its labels.
//!
//! A service may answer 200 to new labels and store none, or store the first only, depending on its version:
//! so what was stored is read back and compared, and the difference is told. Nothing is ever deleted here.

use std::collections::BTreeSet;

use super::{
    Connection, Error, Missing, RunnerGroup, ScaleSet,
    error::Details,
    notes::{Note, NoteKind},
};

/// GitHub's own group, which every scope has, also those that cannot list groups.
const DEFAULT_GROUP: &str = "default";
const DEFAULT_GROUP_ID: i64 = 1;

/// What a scale set should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Name of the runner group.
    pub group: String,
    pub name: String,
    /// Not empty; GitHub would give the set its own name.
    pub labels: Vec<String>,
    /// Whether runners must not update themselves: true for runners that live in images.
    pub disable_update: bool,
    /// The id from an earlier call, so that a set whose group changed is moved, not made a second time. Ids may begin anew
    /// under one address (a restored server): it is believed of a set of this name only.
    pub known_id: Option<i64>,
    /// The same of an earlier process, or of another replica.
    pub inherited_id: Option<i64>,
}

/// What it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    pub scale_set: ScaleSet,
    pub created: bool,
    /// What was changed for the wish, one sentence each: for the log.
    pub changes: Vec<String>,
    /// What differs from the wish and stays so.
    pub notes: Vec<Note>,
}

/// What came to light meanwhile.
#[derive(Default)]
struct Findings {
    changes: Vec<String>,
    notes: Vec<Note>,
}

impl Findings {
    fn note(&mut self, kind: NoteKind, message: String) {
        self.notes.push(Note::new(kind, message));
    }
}

/// Finds or creates the scale set and reconciles group and labels. Idempotent; safe to repeat after any
/// error.
pub async fn ensure(connection: &Connection, spec: &Spec) -> Result<Registered, Error> {
    let mut found = Findings::default();
    let group = find_group(connection, &spec.group).await?;
    let (scale_set, created) = match find(connection, spec, &group).await? {
        Some(set) => (set, false),
        None => create(connection, spec, &group, &mut found).await?,
    };
    let scale_set = reconcile_place(connection, spec, &group, scale_set, &mut found).await?;
    let scale_set = reconcile_labels(connection, spec, scale_set, &mut found).await?;
    Ok(Registered {
        scale_set,
        created,
        changes: found.changes,
        notes: found.notes,
    })
}

async fn find_group(connection: &Connection, name: &str) -> Result<RunnerGroup, Error> {
    let is_default = name.is_empty() || name.eq_ignore_ascii_case(DEFAULT_GROUP);
    let name = if is_default { DEFAULT_GROUP } else { name };
    match connection.runner_group(name).await {
        Ok(Some(group)) => Ok(group),
        Ok(None) | Err(Error::NotFound { .. }) if is_default => Ok(RunnerGroup {
            id: DEFAULT_GROUP_ID,
            name: DEFAULT_GROUP.to_owned(),
            is_default: true,
        }),
        Ok(None) => Err(Error::NotFound {
            what: Missing::RunnerGroup,
            details: Box::new(Details {
                operation: "get runner group",
                status: 200,
                type_name: None,
                message: format!("GitHub lists no group {name:?} for this scope"),
                ids: String::new(),
            }),
        }),
        Err(error) => Err(error),
    }
}

async fn find(connection: &Connection, spec: &Spec, group: &RunnerGroup) -> Result<Option<ScaleSet>, Error> {
    for id in spec.known_id.into_iter().chain(spec.inherited_id) {
        match connection.scale_set_by_id(id).await {
            Ok(set) if set.name.eq_ignore_ascii_case(&spec.name) => return Ok(Some(set)),
            Ok(_)
            | Err(Error::NotFound {
                what: Missing::ScaleSet,
                ..
            }) => {}
            Err(error) => return Err(error),
        }
    }
    connection.scale_set_by_name(group.id, &spec.name).await
}

/// Creates it; when somebody was faster, or a set of that name sits in another group, takes that one.
async fn create(
    connection: &Connection,
    spec: &Spec,
    group: &RunnerGroup,
    found: &mut Findings,
) -> Result<(ScaleSet, bool), Error> {
    let made = connection
        .create_scale_set(group.id, &spec.name, &spec.labels, spec.disable_update)
        .await;
    let exists = match made {
        Ok(set) => {
            look_for_namesakes(connection, &set, found).await;
            return Ok((set, true));
        }
        Err(error @ Error::ScaleSetExists(_)) => error,
        Err(error) => return Err(error),
    };
    if let Some(set) = connection.scale_set_by_name(group.id, &spec.name).await? {
        return Ok((set, false));
    }
    let all = connection.list_scale_sets().await?;
    let Some(set) = all.into_iter().find(|set| set.name.eq_ignore_ascii_case(&spec.name)) else {
        return Err(exists);
    };
    found.changes.push(format!(
        "scale set {} was found in runner group {:?}",
        set.name, set.runner_group_name
    ));
    Ok((set, false))
}

/// A set of this name in another group is somebody's: left alone, but told, since jobs may be routed to it.
async fn look_for_namesakes(connection: &Connection, made: &ScaleSet, found: &mut Findings) {
    let Ok(all) = connection.list_scale_sets().await else {
        // Not worth a failure: the set itself is made.
        return;
    };
    let is_namesake = |set: &&ScaleSet| set.id != made.id && set.name.eq_ignore_ascii_case(&made.name);
    for other in all.iter().filter(is_namesake) {
        found.note(
            NoteKind::NameElsewhere,
            format!(
                "another scale set {:?} (id {}) stands in runner group {:?}: jobs may wait there; delete it \
                 at GitHub if nobody listens to it",
                other.name, other.id, other.runner_group_name
            ),
        );
    }
}

/// Name and group.
async fn reconcile_place(
    connection: &Connection,
    spec: &Spec,
    group: &RunnerGroup,
    set: ScaleSet,
    found: &mut Findings,
) -> Result<ScaleSet, Error> {
    // 0: the service did not tell, so there is nothing to compare.
    let group_differs = set.runner_group_id != group.id && set.runner_group_id != 0;
    if !group_differs && set.name == spec.name {
        return Ok(set);
    }
    connection.update_scale_set(set.id, group.id, &spec.name).await?;
    let stored = connection.scale_set_by_id(set.id).await?;
    if stored.runner_group_id == group.id && stored.name == spec.name {
        found.changes.push(format!(
            "moved from {:?} in group {} to {:?} in group {}",
            set.name, set.runner_group_id, stored.name, stored.runner_group_id
        ));
    } else {
        found.note(
            NoteKind::Placement,
            format!(
                "GitHub kept name {:?} and runner group {} where {:?} and {} ({:?}) were asked for",
                stored.name, stored.runner_group_id, spec.name, group.id, group.name
            ),
        );
    }
    Ok(stored)
}

async fn reconcile_labels(
    connection: &Connection,
    spec: &Spec,
    set: ScaleSet,
    found: &mut Findings,
) -> Result<ScaleSet, Error> {
    // Create and search may tell less than the set's own address does.
    let set = connection.scale_set_by_id(set.id).await?;
    let wanted = folded(&spec.labels);
    let update_differs = set.disable_update.is_some_and(|is| is != spec.disable_update);
    if folded(&set.labels) == wanted && !update_differs {
        return Ok(set);
    }
    match connection.put_labels(&set, &spec.labels, spec.disable_update).await {
        Ok(()) => {}
        // A service that knows no such call: live with what is stored, and say so.
        Err(error @ (Error::Invalid(_) | Error::Forbidden(_))) => {
            found.note(
                NoteKind::LabelsFixed,
                format!("GitHub does not change this scale set's labels: {error}"),
            );
        }
        Err(error) => return Err(error),
    }
    let stored = connection.scale_set_by_id(set.id).await?;
    found.notes.extend(label_notes(&spec.labels, &stored.labels));
    if folded(&set.labels) != folded(&stored.labels) {
        found
            .changes
            .push(format!("labels changed from {:?} to {:?}", set.labels, stored.labels));
    }
    Ok(stored)
}

/// How what is stored differs from what was asked for.
pub fn label_notes(wanted: &[String], stored: &[String]) -> Vec<Note> {
    let (want, has) = (folded(wanted), folded(stored));
    let missing = wanted.iter().filter(|label| !has.contains(&label.to_lowercase()));
    let kept = stored.iter().filter(|label| !want.contains(&label.to_lowercase()));
    let missing = missing.map(|label| {
        Note::new(
            NoteKind::LabelMissing,
            format!("GitHub did not store label {label:?}: jobs that ask for it will not come here"),
        )
    });
    let kept = kept.map(|label| {
        Note::new(
            NoteKind::LabelKept,
            format!("GitHub keeps label {label:?}, which the file does not name"),
        )
    });
    missing.chain(kept).collect()
}

/// Labels as GitHub compares them: a set, whatever their case.
fn folded(labels: &[String]) -> BTreeSet<String> {
    labels.iter().map(|l| l.to_lowercase()).collect()
}
