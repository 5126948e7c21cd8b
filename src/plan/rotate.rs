//! Runners that a change of the file has left behind: those that get no job any more go at once, idle ones of an older
//! template are replaced gently.

use super::{
    runner::{Runner, State},
    tally::Tally,
    world::SetWorld,
};
use crate::ids::RunnerName;

/// Of `minRunners`, so many may be on their way out or in for the sake of a new template.
const SHARE: u32 = 4;

/// The surplus, and whom a change of the file has left behind. `hurdled`: something stops the set's creations, so
/// that a runner given away might not be replaced.
pub(super) fn retire(set: &SetWorld, tally: &Tally, surplus: Vec<RunnerName>, hurdled: bool) -> Vec<RunnerName> {
    let mut all = surplus;
    let displaced = set.runners.values().filter(|r| r.must_go() && !all.contains(&r.name));
    let displaced: Vec<RunnerName> = displaced.map(|r| r.name.clone()).collect();
    all.extend(displaced);
    if all.is_empty() && !hurdled {
        all = outdated(set, tally);
    }
    all
}

/// Idle runners of an older template, a few at a time: the next ones when the replacements of the last are online.
/// Only where idle runners are kept: elsewhere each goes by itself within minutes.
fn outdated(set: &SetWorld, tally: &Tally) -> Vec<RunnerName> {
    if set.min_runners == 0 || set.removed || set.session.blocks().is_some() {
        return Vec::new();
    }
    let mut old: Vec<&Runner> = set.runners.values().filter(|r| is_outdated(set, r)).collect();
    if old.is_empty() {
        return Vec::new();
    }
    let leaving = set
        .runners
        .values()
        .filter(|r| matches!(r.state, State::Retiring { .. }))
        .count();
    let wanting = set.wants_to_create(tally).saturating_sub(tally.staying);
    let under_way = tally.unproved + u32::try_from(leaving).unwrap_or(u32::MAX).saturating_add(wanting);
    let at_once = (set.min_runners / SHARE).max(1).saturating_sub(under_way);
    // Longest idle first: which one a job is given to is GitHub's choice, and none is more likely.
    old.sort_by_key(|r| (r.idle_since(), r.name.clone()));
    let at_once = usize::try_from(at_once).unwrap_or(usize::MAX);
    old.into_iter().take(at_once).map(|r| r.name.clone()).collect()
}

fn is_outdated(set: &SetWorld, runner: &Runner) -> bool {
    let is_idle = matches!(runner.spare_since(), Some((true, _)));
    is_idle
        && runner
            .template
            .as_ref()
            .is_some_and(|template| *template != set.template)
}
