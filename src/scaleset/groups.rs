//! Whom a runner group lets in, as REST tells it.
//!
//! A group that hides public repositories, or that is limited to a list with nothing on it, gives its scale sets no
//! job and says nothing. Who may read the groups' settings can tell; who may not stays silent, since nothing else
//! needs that right. The addresses are made here: an answer's own links are never followed with a credential.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use serde::Deserialize;

use super::{
    Connection, Error,
    connection::{Authority, decode},
    notes::{Note, NoteKind},
    wire::or_zero,
};
use crate::{config::Scope, identity::Cached};

const PAGE: usize = 100;
/// Who has more than a thousand groups is not told about the others.
const PAGES: usize = 10;

/// Whom one group lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupAccess {
    pub name: String,
    pub public_repositories: bool,
    /// How many repositories (organizations) are on the list, where it is limited to one.
    pub selected: Option<u64>,
    /// The workflows that it is limited to, where it is.
    pub workflows: Option<Vec<String>>,
}

impl GroupAccess {
    /// What a scale set in this group should know.
    pub fn notes(&self) -> Vec<Note> {
        let mut notes = Vec::new();
        if self.selected == Some(0) {
            notes.push(Note::new(
                NoteKind::GroupEmpty,
                format!(
                    "runner group {:?} is limited to selected repositories, and none is selected: no job will come; \
                     add some in the group's settings",
                    self.name
                ),
            ));
        }
        if !self.public_repositories {
            notes.push(Note::new(
                NoteKind::GroupNotPublic,
                format!(
                    "runner group {:?} does not serve public repositories: their jobs wait for ever; allow them in the \
                     group's settings if they shall run here",
                    self.name
                ),
            ));
        }
        if let Some(workflows) = &self.workflows {
            let which = if workflows.is_empty() {
                "none is named: no job will come".to_owned()
            } else {
                workflows.join(", ")
            };
            notes.push(Note::new(
                NoteKind::GroupWorkflows,
                format!("runner group {:?} is limited to some workflows: {which}", self.name),
            ));
        }
        notes
    }
}

#[derive(Deserialize)]
struct Groups {
    #[serde(default, deserialize_with = "or_zero")]
    runner_groups: Vec<Group>,
}

/// What GitHub leaves out counts as open: a note must never be a guess.
#[derive(Deserialize)]
struct Group {
    id: i64,
    #[serde(default, deserialize_with = "or_zero")]
    name: String,
    #[serde(default, deserialize_with = "or_zero")]
    default: bool,
    #[serde(default)]
    visibility: Option<String>,
    #[serde(default)]
    allows_public_repositories: Option<bool>,
    #[serde(default)]
    restricted_to_workflows: Option<bool>,
    #[serde(default, deserialize_with = "or_zero")]
    selected_workflows: Vec<String>,
}

impl Group {
    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name) || (self.default && name.eq_ignore_ascii_case("default"))
    }
}

impl Connection {
    /// Whom these groups let in, by the names asked for; a group that is not there is left out. `None`: this scope
    /// has no groups of its own, or this credential may not read them.
    pub async fn group_access(&self, names: &[String]) -> Result<Option<BTreeMap<String, GroupAccess>>, Error> {
        let (scope, members) = match &self.config_url().scope {
            Scope::Organization { org } => (format!("orgs/{org}"), "repositories"),
            Scope::Enterprise { enterprise } => (format!("enterprises/{enterprise}"), "organizations"),
            Scope::Repository { .. } => return Ok(None),
        };
        let Authority::Rest(cached) = self.authority() else {
            return Ok(None);
        };
        let base = format!("{scope}/actions/runner-groups");
        let Some(groups) = self.groups(cached, &base).await? else {
            return Ok(None);
        };
        let mut found = BTreeMap::new();
        for name in names {
            let Some(group) = groups.iter().find(|group| group.is(name)) else {
                continue;
            };
            let selected = match group.visibility.as_deref() {
                Some("selected") => self.members(cached, &format!("{base}/{}/{members}", group.id)).await?,
                _ => None,
            };
            let access = GroupAccess {
                name: group.name.clone(),
                public_repositories: group.allows_public_repositories != Some(false)
                    && group.visibility.as_deref() != Some("private"),
                selected,
                workflows: (group.restricted_to_workflows == Some(true)).then(|| group.selected_workflows.clone()),
            };
            found.insert(name.clone(), access);
        }
        Ok(Some(found))
    }

    async fn groups(&self, cached: &Cached, base: &str) -> Result<Option<Vec<Group>>, Error> {
        const OPERATION: &str = "list runner groups";
        let mut all = Vec::new();
        for page in 1..=PAGES {
            let path = format!("{base}?per_page={PAGE}&page={page}");
            let Some(answer) = unless_refused(self.rest(OPERATION, cached, Method::GET, &path).await)? else {
                return Ok(None);
            };
            let groups = decode::<Groups>(OPERATION, &answer)?.runner_groups;
            let is_last = groups.len() < PAGE;
            all.extend(groups);
            if is_last {
                break;
            }
        }
        Ok(Some(all))
    }

    /// How many are on a group's list.
    async fn members(&self, cached: &Cached, path: &str) -> Result<Option<u64>, Error> {
        const OPERATION: &str = "count a runner group's repositories";
        #[derive(Deserialize)]
        struct Members {
            total_count: u64,
        }
        let path = format!("{path}?per_page=1");
        let answer = unless_refused(self.rest(OPERATION, cached, Method::GET, &path).await)?;
        answer
            .map(|answer| Ok(decode::<Members>(OPERATION, &answer)?.total_count))
            .transpose()
    }
}

/// A missing right is no error here.
fn unless_refused<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(Error::Forbidden(_) | Error::NotFound { .. } | Error::Unauthorized(_)) => Ok(None),
        // Older servers know no such call.
        Err(Error::Invalid(details)) if details.status == StatusCode::METHOD_NOT_ALLOWED.as_u16() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> GroupAccess {
        GroupAccess {
            name: "Big".to_owned(),
            public_repositories: true,
            selected: None,
            workflows: None,
        }
    }

    #[test]
    fn b25_what_a_group_keeps_out_is_told_and_nothing_else() {
        let kinds = |access: GroupAccess| -> Vec<NoteKind> { access.notes().iter().map(|n| n.kind).collect() };
        assert_eq!(kinds(open()), []);
        let some = GroupAccess {
            selected: Some(3),
            ..open()
        };
        assert_eq!(kinds(some), []);
        let shut = GroupAccess {
            public_repositories: false,
            selected: Some(0),
            workflows: Some(vec!["acme/app/.github/workflows/ci.yml@refs/heads/main".to_owned()]),
            ..open()
        };
        let texts: Vec<String> = shut.notes().into_iter().map(|n| n.message).collect();
        assert!(texts.iter().all(|text| text.contains("\"Big\"")), "{texts:?}");
        assert_eq!(
            kinds(shut),
            [NoteKind::GroupEmpty, NoteKind::GroupNotPublic, NoteKind::GroupWorkflows]
        );
    }
}
