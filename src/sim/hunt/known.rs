//! What the hunt found once, and was mended: the shortest plan that showed it, each in a file of its own. Every build
//! carries them out as they stand ([`Plan::known`]); every fourth seed begins at one of them.

use super::plan::Plan;

macro_rules! plans {
    ($($name:literal,)*) => {
        &[$(($name, include_str!(concat!("known/", $name, ".json"))),)*]
    };
}

/// Name and text.
const PLANS: &[(&str, &str)] = plans![
    "acquires-beyond-what-it-knows",
    "api-server-that-hangs",
    "app-tokens-revoked",
    "busy-registration-of-a-removed-set",
    "clock-an-hour-ahead",
    "clock-that-stays-wrong",
    "deleted-where-no-watch-tells",
    "deletion-answered-by-a-proxy",
    "ends-unknown-to-statistics",
    "failed-runners-take-up-places",
    "gharts-that-comes-back",
    "jobs-that-nobody-told-of-end-badly",
    "jobs-wait-for-a-removed-set",
    "kept-pod-that-runs-by-now",
    "lease-deleted-under-load",
    "lease-refused-again-and-again",
    "lease-written-and-answered-late",
    "left-behind-by-a-removed-set",
    "lost-records-use-the-quota-up",
    "made-and-retired-again",
    "message-ids-begin-anew",
    "node-takes-its-pods-along",
    "offers-that-nobody-answered",
    "pod-that-runs-by-now",
    "pods-from-the-future",
    "pods-that-end-well",
    "proxy-answers-a-removal",
    "record-from-the-future",
    "record-of-a-broker-that-died",
    "redelivered-offers",
    "removal-that-waited-past-the-lease",
    "room-for-starts-under-way",
    "runners-of-a-set-that-nobody-serves",
    "secrets-that-never-come",
    "sessions-that-are-not-found",
    "set-back-after-it-was-nobodys",
    "set-lost-while-no-daemon-ran",
    "start-beyond-its-deadline",
    "starts-that-were-slept-through",
    "token-too-new-for-gharts",
    "two-ways-to-ask-in-one-name",
    "watch-refused-by-half-an-answer",
];

impl Plan {
    /// Each plan that showed a bug once, with its name.
    pub fn known() -> Vec<(&'static str, Self)> {
        PLANS
            .iter()
            .map(|&(name, text)| match serde_json::from_str(text) {
                Ok(plan) => (name, plan),
                Err(error) => unreachable!("the plan {name}: {error}"),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn every_plan_is_read_and_none_is_forgotten() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sim/hunt/known");
        let files: BTreeSet<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        let known: BTreeSet<String> = Plan::known().into_iter().map(|(name, _)| name.to_owned()).collect();
        assert_eq!(known, files);
    }
}
