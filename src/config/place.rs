//! Where in the file something stands: `scaleSets[2].template.metadata.labels["a.b/c"]`.

use std::fmt;

use serde_json::Value;

use super::Problem;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// Orders by keys and by the numbers of list entries, so that `[10]` comes after `[2]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(pub(super) Vec<Step>);

impl Place {
    pub(super) fn root() -> Self {
        Self::default()
    }

    /// From keys joined with dots, as environment variables give them.
    pub(super) fn from_dotted(text: &str) -> Self {
        Self(text.split('.').map(|key| Step::Key(key.to_owned())).collect())
    }

    #[must_use]
    pub(super) fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.to_owned()))
    }

    #[must_use]
    pub(super) fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    fn with(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    /// Whether this is `other` or lies within it.
    pub(super) fn within(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }

    pub(super) fn get<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(document, |value, step| match step {
            Step::Key(key) => value.get(key),
            Step::Index(index) => value.get(index),
        })
    }

    pub(super) fn get_mut<'a>(&self, document: &'a mut Value) -> Option<&'a mut Value> {
        self.0.iter().try_fold(document, |value, step| match step {
            Step::Key(key) => value.get_mut(key),
            Step::Index(index) => value.get_mut(index),
        })
    }

    /// The nearest place up from here that is a key of a mapping (an entry of a list cannot be taken out
    /// without renumbering its neighbours).
    pub(super) fn nearest_key(&self) -> Self {
        let keep = self
            .0
            .iter()
            .rposition(|s| matches!(s, Step::Key(_)))
            .map_or(0, |i| i + 1);
        Self(self.0.iter().take(keep).cloned().collect())
    }

    /// Takes the value at this place, which must be a key, out of the document.
    pub(super) fn remove(&self, document: &mut Value) {
        if let Some((Step::Key(last), parents)) = self.0.split_last()
            && let Some(Value::Object(map)) = Self(parents.to_vec()).get_mut(document)
        {
            map.remove(last);
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("(file)");
        }
        for (n, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) if key.chars().all(|c| c.is_alphanumeric() || "-_".contains(c)) && !key.is_empty() => {
                    write!(f, "{}{key}", if n == 0 { "" } else { "." })?;
                }
                Step::Key(key) => write!(f, "[{key:?}]")?,
            }
        }
        Ok(())
    }
}

/// Collects problems with their places.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<(Place, String, String)>);

impl Problems {
    pub(super) fn add(&mut self, place: Place, message: impl Into<String>, remedy: impl Into<String>) {
        self.0.push((place, message.into(), remedy.into()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn absorb(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// Forgets what was found within places whose own value was refused already.
    pub(super) fn without(mut self, refused: &[Place]) -> Self {
        self.0.retain(|(place, ..)| !refused.iter().any(|r| place.within(r)));
        self
    }

    /// Sorted by place, each once. `origin` names the environment variable behind a place.
    pub(super) fn into_sorted(mut self, origin: impl Fn(&Place) -> Option<String>) -> Vec<Problem> {
        self.0.sort();
        self.0.dedup();
        self.0
            .into_iter()
            .map(|(place, message, remedy)| Problem {
                message: match origin(&place) {
                    Some(variable) => format!("{message} (from the environment variable {variable})"),
                    None => message,
                },
                path: place.to_string(),
                remedy,
            })
            .collect()
    }
}
