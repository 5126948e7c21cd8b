//! The rules of one scale set, and of the sets among each other.

use std::{collections::BTreeMap, time::Duration};

use super::{
    GhartsOverrides, GitHub, LabelsDemand, ProvisionerKind, RunnerBinding, ScaleSet, Scope, Timeouts, container_mode,
    duration::DurationText,
    place::Place,
    raw::{RawBinding, RawConfig, RawLabelsDemand, RawProvisioner, RawScaleSet, RawTimeouts},
    template,
    validate::Pass,
};
use crate::ids::{self, SetName};

/// As the established controller: longer names do not fit beside what GitHub adds.
const LONGEST_NAME: usize = 45;
const LONGEST_LABEL: usize = 255;
/// What every self-hosted runner is called, whoever registers it.
const SELF_HOSTED: &str = "self-hosted";
/// One process and one namespace: far above what either serves.
const MOST_RUNNERS: u32 = 10_000;
/// A JIT configuration lives an hour; a pod must not start with a dead one.
const LONGEST_PENDING: Duration = Duration::from_mins(50);

/// Kept pods are for a look, and each is an object in the API server.
const LONGEST_KEPT: Duration = Duration::from_hours(48);

/// Every set, or `None` when one is incomplete.
pub(super) fn validate(pass: &mut Pass<'_>, raw: &RawConfig, github: Option<&GitHub>) -> Option<Vec<ScaleSet>> {
    let place = Place::root().key("scaleSets");
    let sets = raw.scale_sets.as_ref()?;
    let total = Place::root().key("maxRunners");
    if raw.max_runners.is_some_and(|most| most > MOST_RUNNERS) {
        pass.refuse(
            &total,
            format!("is more than {MOST_RUNNERS}"),
            "run more deployments, one per runner group",
        );
    }
    names_differ(pass, sets, &place);
    let validated: Vec<Option<ScaleSet>> = sets
        .iter()
        .enumerate()
        .map(|(n, set)| scale_set(pass, set, raw.gharts.is_some(), github, &place.index(n)))
        .collect();
    validated.into_iter().collect()
}

/// Names must differ, also as slugs: the slug is the part of a set's name in its runners' names. Sets in different
/// organizations are no exception: pods, metrics and status know a set by its name alone.
fn names_differ(pass: &mut Pass<'_>, sets: &[RawScaleSet], place: &Place) {
    let mut seen: BTreeMap<String, (usize, &str)> = BTreeMap::new();
    for (n, name) in sets
        .iter()
        .enumerate()
        .filter_map(|(n, s)| Some((n, s.name.as_deref()?)))
    {
        let slug = ids::slug(name);
        if slug.is_empty() {
            continue;
        }
        match seen.get(&slug) {
            None => {
                seen.insert(slug, (n, name));
            }
            Some((first, other)) => {
                let message = if *other == name {
                    format!("{name:?} is the name of scaleSets[{first}] already")
                } else {
                    format!("{name:?} and {other:?} (scaleSets[{first}]) both become {slug:?} in runner names")
                };
                pass.refuse(
                    &place.index(n).key("name"),
                    message,
                    "rename one so that they differ in letters or digits (the first 40 characters count), in whatever \
                     organizations they are; their labels may be alike",
                );
            }
        }
    }
}

fn scale_set(
    pass: &mut Pass<'_>,
    raw: &RawScaleSet,
    has_gharts: bool,
    github: Option<&GitHub>,
    place: &Place,
) -> Option<ScaleSet> {
    let provisioner = provisioner(pass, raw, has_gharts, place);
    let name = raw
        .name
        .as_deref()
        .filter(|name| check_name(pass, name, &place.key("name")));
    let labels = labels(pass, raw, provisioner, name.is_some(), place);
    let policy_at = place.key("gharts").key("labels");
    for (n, label) in raw.gharts.labels.iter().flatten().enumerate() {
        check_label(pass, label, true, &policy_at.index(n));
    }
    let timeouts = timeouts(pass, &raw.timeouts, &place.key("timeouts"));
    let template = template::validate(pass, raw.template.as_ref(), &place.key("template"));
    let keep_failed = keep_failed(pass, raw.keep_failed, &place.key("keepFailed"));
    let mode = container_mode::validate(pass, raw, place);
    if let (Some(mode), Some(template)) = (&mode, &template) {
        container_mode::check_system(pass, mode, template, place);
    }
    let bounds = bounds(pass, raw, place);
    let github = pass.github_of_set(&raw.github, github, &place.key("github"));
    let binding = binding(pass, raw, provisioner, place);
    if let (RunnerBinding::Labels(_), Some(github)) = (binding, &github)
        && !matches!(github.config_url.scope, Scope::Organization { .. })
    {
        pass.refuse(
            &place.key("runnerBinding"),
            "is labels, and GHARTS registers ordinary runners in an organization, where a repository's or an enterprise's \
             lists may not show them",
            "use an organization's configUrl for this set, or another binding",
        );
    }
    Some(ScaleSet {
        name: SetName::new(name?),
        labels,
        min_runners: raw.min_runners.unwrap_or(0),
        max_runners: bounds?,
        provisioner,
        binding,
        gharts: GhartsOverrides {
            team: raw.gharts.team.clone(),
            runner_group_id: raw.gharts.runner_group_id,
            labels: raw.gharts.labels.clone(),
            work_folder: raw.gharts.work_folder.clone(),
        },
        github: github?,
        timeouts,
        keep_failed,
        container_mode: mode?,
        template: template?,
    })
}

fn provisioner(pass: &mut Pass<'_>, raw: &RawScaleSet, has_gharts: bool, place: &Place) -> ProvisionerKind {
    match raw.provisioner {
        Some(RawProvisioner::ScaleSet) => ProvisionerKind::ScaleSet,
        None if !has_gharts => ProvisionerKind::ScaleSet,
        None => ProvisionerKind::Gharts,
        Some(RawProvisioner::Gharts) => {
            if !has_gharts {
                pass.refuse(
                    &place.key("provisioner"),
                    "is gharts, but the file has no gharts section",
                    "add gharts with baseUrl and oidc, or use provisioner: scaleSet",
                );
            }
            ProvisionerKind::Gharts
        }
    }
}

fn binding(pass: &mut Pass<'_>, raw: &RawScaleSet, provisioner: ProvisionerKind, place: &Place) -> RunnerBinding {
    let asked = raw.runner_binding.unwrap_or(RawBinding::Auto);
    if provisioner == ProvisionerKind::ScaleSet {
        let gharts = place.key("gharts");
        let other_binding = matches!(asked, RawBinding::Labels | RawBinding::RegistrationToken);
        for (is_set, place) in [
            (other_binding, place.key("runnerBinding")),
            (raw.gharts.team.is_some(), gharts.key("team")),
            (raw.gharts.labels.is_some(), gharts.key("labels")),
        ] {
            if is_set {
                pass.refuse(
                    &place,
                    "is for runners that GHARTS registers, and this set's come from GitHub itself",
                    "leave it out, or use provisioner: gharts",
                );
            }
        }
    }
    if asked != RawBinding::Labels {
        if raw.labels_demand.is_some() {
            pass.refuse(
                &place.key("labelsDemand"),
                "is for runnerBinding: labels only",
                "remove it, or set runnerBinding: labels",
            );
        }
        if raw.gharts.runner_group_id.is_some() {
            pass.refuse(
                &place.key("gharts").key("runnerGroupId"),
                "is for runnerBinding: labels only: a runner of a scale set is in the set's group",
                "remove it; github.runnerGroup names the set's group",
            );
        }
    }
    match asked {
        RawBinding::Auto => RunnerBinding::Auto,
        RawBinding::ScaleSet => RunnerBinding::ScaleSet,
        RawBinding::RegistrationToken => {
            if raw.gharts.team.is_some() || raw.gharts.labels.is_some() {
                pass.refuse(
                    &place.key("gharts"),
                    "names a team or labels, and runnerBinding: registrationToken can ask for neither: that GHARTS has \
                     no teams, and deletes runners whose own labels differ from those asked for",
                    "remove gharts.team and gharts.labels of this set",
                );
            }
            RunnerBinding::RegistrationToken
        }
        RawBinding::Labels => {
            labels_are_the_sets(pass, raw, place);
            RunnerBinding::Labels(match raw.labels_demand {
                Some(RawLabelsDemand::Assigned) => LabelsDemand::Assigned,
                Some(RawLabelsDemand::Available) | None => LabelsDemand::Available,
            })
        }
    }
}

/// An ordinary runner gets the labels that GHARTS is asked for: without the set's own it would get no job.
fn labels_are_the_sets(pass: &mut Pass<'_>, raw: &RawScaleSet, place: &Place) {
    let Some(asked) = &raw.gharts.labels else { return };
    let own = raw.labels.as_deref().filter(|labels| !labels.is_empty());
    let own = own.unwrap_or(raw.name.as_slice());
    // GHARTS adds `self-hosted` by itself.
    let lacks = |label: &&String| *label != SELF_HOSTED && !asked.contains(label);
    if let Some(missing) = own.iter().find(lacks) {
        pass.refuse(
            &place.key("gharts").key("labels"),
            format!("lacks {missing:?}: with runnerBinding: labels they are the runner's own labels"),
            "name the set's labels too, or leave gharts.labels out",
        );
    }
}

/// The set's labels: as given, else its own name (whose faults as a name are told already).
fn labels(
    pass: &mut Pass<'_>,
    raw: &RawScaleSet,
    provisioner: ProvisionerKind,
    name_is_sound: bool,
    place: &Place,
) -> Vec<String> {
    // With registration tokens no labels are asked for.
    let for_policy = provisioner == ProvisionerKind::Gharts
        && raw.gharts.labels.is_none()
        && raw.runner_binding != Some(RawBinding::RegistrationToken);
    match (&raw.labels, &raw.name) {
        (Some(labels), _) if !labels.is_empty() => {
            for (n, label) in labels.iter().enumerate() {
                check_label(pass, label, for_policy, &place.key("labels").index(n));
            }
            labels.clone()
        }
        (_, Some(name)) => {
            if name_is_sound {
                check_label(pass, name, for_policy, &place.key("name"));
            }
            vec![name.clone()]
        }
        (_, None) => Vec::new(),
    }
}

fn check_name(pass: &mut Pass<'_>, name: &str, place: &Place) -> bool {
    let length = name.chars().count();
    let fault = if !(1..=LONGEST_NAME).contains(&length) {
        format!("has {length} characters, allowed are 1 to {LONGEST_NAME}")
    } else if name.trim() != name || name.chars().any(char::is_control) {
        "begins or ends with a space, or holds a control character".to_owned()
    } else if ids::slug(name).is_empty() {
        "has no ASCII letter or digit, so runner names cannot be made of it".to_owned()
    } else {
        return true;
    };
    pass.refuse(
        place,
        fault,
        "such as linux-large; it is also the set's label when labels are not given",
    );
    false
}

fn check_label(pass: &mut Pass<'_>, label: &str, for_policy: bool, place: &Place) {
    let length = label.chars().count();
    if !(1..=LONGEST_LABEL).contains(&length) {
        pass.refuse(
            place,
            format!("has {length} characters, allowed are 1 to {LONGEST_LABEL}"),
            "shorten the label",
        );
    } else if label.trim() != label || label.chars().any(char::is_control) {
        pass.refuse(
            place,
            "begins or ends with a space, or holds a control character",
            "such as linux-large",
        );
    } else if for_policy && !is_policy_label(label) {
        pass.refuse(
            place,
            format!("{label:?} is a label that GHARTS refuses"),
            "use letters, digits, hyphens and underscores, with at least one letter or digit; \
             gharts.labels of the set may name other labels for GHARTS",
        );
    }
}

fn is_policy_label(label: &str) -> bool {
    label
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        && label.bytes().any(|b| b.is_ascii_alphanumeric())
}

/// `maxRunners`, when it is there.
fn bounds(pass: &mut Pass<'_>, raw: &RawScaleSet, place: &Place) -> Option<u32> {
    let max = raw.max_runners?;
    if max > MOST_RUNNERS {
        pass.refuse(
            &place.key("maxRunners"),
            format!("is more than {MOST_RUNNERS}"),
            "split the set, or run more deployments",
        );
    }
    if let Some(min) = raw.min_runners.filter(|min| *min > max) {
        pass.refuse(
            &place.key("minRunners"),
            format!("is {min}, more than maxRunners ({max})"),
            "lower minRunners or raise maxRunners",
        );
    }
    Some(max)
}

fn keep_failed(pass: &mut Pass<'_>, raw: Option<DurationText>, place: &Place) -> Option<Duration> {
    let keep = pass.duration(Some(raw?), Duration::from_mins(30), place);
    if keep > LONGEST_KEPT {
        pass.refuse(
            place,
            format!("is longer than {}", DurationText(LONGEST_KEPT)),
            "ended pods are no archive: send their logs to one",
        );
    }
    Some(keep)
}

fn timeouts(pass: &mut Pass<'_>, raw: &RawTimeouts, place: &Place) -> Timeouts {
    let default = Timeouts::default();
    let timeouts = Timeouts {
        scheduling: pass.duration(raw.scheduling, default.scheduling, &place.key("scheduling")),
        image_pull: pass.duration(raw.image_pull, default.image_pull, &place.key("imagePull")),
        registration: pass.duration(raw.registration, default.registration, &place.key("registration")),
        idle: pass.duration(raw.idle, default.idle, &place.key("idle")),
        after_job: pass.duration(raw.after_job, default.after_job, &place.key("afterJob")),
        total: raw
            .total
            .map(|total| pass.duration(Some(total), Duration::from_hours(24), &place.key("total"))),
    };
    let pending = timeouts.scheduling + timeouts.image_pull + timeouts.registration;
    if pending >= LONGEST_PENDING {
        pass.refuse(
            place,
            format!(
                "scheduling, imagePull and registration add up to {}",
                DurationText(pending)
            ),
            "stay under 50m together: a just-in-time configuration lives an hour",
        );
    }
    timeouts
}
