//! The daemon's file in a run: the changes that are in it, and what it has said lately, for the judge.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::{
    plan::{Edit, SetShape, Shape},
    queue::GRACE,
};
use crate::sim::world::SetOptions;

/// A set that is in the file only while a change has added it.
pub(super) const LATE: &str = "late";
/// Which text of the template a pod was made from.
pub(super) const REVISION: &str = "hunt/revision";
/// Ends a text that no daemon takes over.
const WRONG: &str = "scaleSetz: []\n";
/// What an older text called for may still come for so long after a newer one is there: the file is looked at every
/// 10 s, and a creation that was decided before that waits for its turn and its answers.
const LAG: Duration = Duration::from_secs(15).saturating_add(GRACE);
/// A text that stands so long is read: the file is looked at every 10 s.
const LOOK: Duration = Duration::from_secs(12);

/// What one text of the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) sets: Vec<SetText>,
    pub(super) max_runners: Option<u32>,
    /// It is none that a daemon takes over.
    pub(super) is_wrong: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SetText {
    pub(super) shape: SetShape,
    pub(super) revision: u32,
}

impl Text {
    /// The shape's own file with these changes.
    pub(super) fn of<'a>(shape: &Shape, edits: impl Iterator<Item = &'a Edit>) -> Self {
        let sets = shape.sets.iter().cloned();
        let mut sets: Vec<Option<SetText>> = sets.map(|shape| Some(SetText { shape, revision: 0 })).collect();
        let (mut max_runners, mut is_wrong, mut late) = (shape.max_runners, false, None);
        for edit in edits {
            match *edit {
                Edit::MaxRunners { set, max } => {
                    if let Some(Some(set)) = sets.get_mut(set) {
                        set.shape.max = max;
                        set.shape.min = set.shape.min.min(max);
                    }
                }
                Edit::MinRunners { set, min } => {
                    if let Some(Some(set)) = sets.get_mut(set) {
                        set.shape.min = min.min(set.shape.max);
                    }
                }
                Edit::TotalRunners { max } => max_runners = max,
                Edit::Template { set } => {
                    if let Some(Some(set)) = sets.get_mut(set) {
                        set.revision += 1;
                    }
                }
                Edit::SetAdded => {
                    late = shape.sets.first().map(|first| SetText {
                        shape: SetShape {
                            name: LATE.to_owned(),
                            min: 0,
                            ..first.clone()
                        },
                        revision: 0,
                    });
                }
                Edit::SetRemoved { set } => {
                    // A file without a set is none that a daemon takes over.
                    if sets.iter().flatten().count() > 1
                        && let Some(set) = sets.get_mut(set)
                    {
                        *set = None;
                    }
                }
                Edit::Wrong => is_wrong = true,
            }
        }
        Self {
            sets: sets.into_iter().flatten().chain(late).collect(),
            max_runners,
            is_wrong,
        }
    }

    pub(super) fn options(&self) -> Vec<SetOptions> {
        self.sets.iter().map(SetText::options).collect()
    }

    /// What stands behind all that is right.
    pub(super) fn ending(&self) -> &'static str {
        if self.is_wrong { WRONG } else { "" }
    }
}

impl SetText {
    fn options(&self) -> SetOptions {
        let shape = &self.shape;
        SetOptions {
            min_runners: shape.min,
            binding: shape.binding,
            idle_timeout: shape.idle_seconds.map(|seconds| Duration::from_secs(seconds.into())),
            keep_failed: shape
                .keep_failed_seconds
                .map(|seconds| Duration::from_secs(seconds.into())),
            annotations: vec![(REVISION.to_owned(), self.revision.to_string())],
            ..SetOptions::new(&shape.name, shape.provisioner, shape.max)
        }
    }
}

/// What the file says, and what it said before as far as that still counts.
#[derive(Debug)]
pub(super) struct Rules {
    /// Newest last, each with when the next one came to be read.
    texts: VecDeque<(Text, Instant)>,
    /// Since when the newest stands there; `None`: what stands there is wrong.
    stands: Option<Instant>,
    /// Every daemon that runs has read the newest.
    is_read: bool,
    /// Daemons that stand still.
    sleepers: usize,
}

impl Rules {
    pub(super) fn new(text: Text) -> Self {
        Self {
            texts: VecDeque::from([(text, Instant::now())]),
            stands: Some(Instant::now()),
            is_read: true,
            sleepers: 0,
        }
    }

    /// The file says something else from now on. What is wrong changes nothing.
    pub(super) fn change(&mut self, text: Text) {
        let now = Instant::now();
        self.trim(now);
        if text.is_wrong {
            self.stands = None;
            return;
        }
        if let Some((_, until)) = self.texts.back_mut() {
            *until = now;
        }
        self.texts.push_back((text, now));
        self.stands = Some(now);
        self.is_read = false;
    }

    /// Somebody who reads the file did not run until now.
    pub(super) fn seen_late(&mut self) {
        let now = Instant::now();
        self.trim(now);
        for (_, until) in &mut self.texts {
            *until = now;
        }
    }

    /// A daemon that stands still reads nothing, and what is wrong when it wakes tells it nothing.
    pub(super) fn sleeps(&mut self, begins: bool) {
        if begins {
            self.trim(Instant::now());
            self.sleepers += 1;
        } else {
            self.sleepers = self.sleepers.saturating_sub(1);
            self.is_read = false;
            // Whatever stands there now it has yet to see.
            self.stands = self.stands.map(|_| Instant::now());
            self.seen_late();
        }
    }

    fn trim(&mut self, now: Instant) {
        self.is_read |= self.sleepers == 0 && self.stands.is_some_and(|since| now - since >= LOOK);
        if !self.is_read || self.sleepers > 0 {
            // What was there before counts still: the newest may be gone before anybody reads it.
            self.texts.iter_mut().for_each(|(_, until)| *until = now);
            return;
        }
        while self.texts.len() > 1 && self.texts[0].1 + LAG < now {
            self.texts.pop_front();
        }
    }

    fn texts(&mut self) -> impl Iterator<Item = &Text> {
        self.trim(Instant::now());
        self.texts.iter().map(|(text, _)| text)
    }

    fn sets(&mut self, name: &str) -> impl Iterator<Item = &SetText> {
        self.texts()
            .filter_map(move |text| text.sets.iter().find(|set| set.shape.name == name))
    }

    /// The most `maxRunners` of a set. `None`: there is no such set.
    pub(super) fn max(&mut self, set: &str) -> Option<u32> {
        self.sets(set).map(|set| set.shape.max).max()
    }

    pub(super) fn min(&mut self, set: &str) -> u32 {
        self.sets(set).map(|set| set.shape.min).max().unwrap_or(0)
    }

    /// Over all sets. `None`: no limit.
    pub(super) fn total(&mut self) -> Option<u32> {
        let all: Option<Vec<u32>> = self.texts().map(|text| text.max_runners).collect();
        all.and_then(|all| all.into_iter().max())
    }

    /// Whether pods of this set may be made from this text of its template.
    pub(super) fn is_revision(&mut self, set: &str, revision: &str) -> bool {
        self.sets(set).any(|set| set.revision.to_string() == revision)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::plan::Plan, *};

    #[tokio::test(start_paused = true)]
    async fn what_the_file_said_counts_until_a_daemon_must_have_seen_the_newer_text() {
        let mut shape = (0..1_000)
            .map(|seed| Plan::draw(seed).shape)
            .find(|shape| shape.sets.len() == 2)
            .unwrap();
        (shape.sets[0].min, shape.sets[0].max, shape.max_runners) = (1, 5, None);
        let name = shape.sets[0].name.clone();
        let text = |edits: &[Edit]| Text::of(&shape, edits.iter());
        let mut rules = Rules::new(text(&[]));
        let fewer = [
            Edit::MaxRunners { set: 0, max: 2 },
            Edit::TotalRunners { max: Some(3) },
            Edit::Template { set: 0 },
        ];
        rules.change(text(&fewer));
        let seen = |rules: &mut Rules| (rules.max(&name), rules.total(), rules.is_revision(&name, "0"));
        assert_eq!(seen(&mut rules), (Some(5), None, true));
        // It is gone again before anybody looks.
        tokio::time::advance(LOOK / 2).await;
        rules.change(text(&[Edit::Wrong, Edit::MaxRunners { set: 0, max: 9 }]));
        tokio::time::advance(LAG * 2).await;
        assert_eq!(seen(&mut rules), (Some(5), None, true));
        rules.change(text(&fewer));
        tokio::time::advance(LOOK).await;
        assert_eq!(seen(&mut rules), (Some(5), None, true));
        rules.change(text(&[Edit::Wrong, Edit::MaxRunners { set: 0, max: 9 }]));
        tokio::time::advance(LAG + Duration::from_secs(1)).await;
        assert_eq!(seen(&mut rules), (Some(2), Some(3), false));
        assert!(rules.is_revision(&name, "1"));

        rules.change(text(&[Edit::SetRemoved { set: 0 }, Edit::SetAdded]));
        tokio::time::advance(LAG / 2).await;
        rules.seen_late();
        tokio::time::advance(LAG).await;
        assert_eq!((rules.max(&name), rules.min(&name)), (Some(2), 1));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((rules.max(&name), rules.min(&name)), (None, 0));
        assert!(rules.max(LATE).is_some());
    }
}
