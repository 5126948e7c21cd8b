//! From a seed to a plan. Each part has a generator of its own, so that one more choice in one of them reshuffles no
//! other.

mod cluster;

use fastrand::Rng;

use super::{
    near::near,
    plan::{Arrival, Edit, Fault, GhartsCall, GhartsTrouble, Ill, LEASES, Moment, Peer, Plan, SetShape, Shape, Timed},
};
use crate::sim::{
    gharts::Flavour,
    github::{AssignedJobsRunOn, Flow, Lie, Limit, Limited},
    world::{Binding, Credential, Provisioner},
};

/// Faults begin within so long.
const TROUBLED_MS: u64 = 300_000;
/// One fault in so many is there before the daemon is.
const EARLY: u64 = 10;
/// Most jobs come so long before or after a fault begins: one that nobody meets shows nothing.
pub(super) const NEAR_MS: u64 = 8_000;
/// Most faults of one plan.
const MOST_FAULTS: u64 = 11;
/// One plan in so many has none: what holds only in peace is looked at there.
const PEACE: u64 = 10;
/// One seed in so many begins at a plan that has shown a bug before.
const KNOWN: u64 = 4;

impl Plan {
    /// The plan of this seed.
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        if seed % KNOWN == KNOWN - 1 {
            return near(seed, &mut rng);
        }
        let (mut shapes, mut arrivals, mut faults) = (rng.fork(), rng.fork(), rng.fork());
        let shape = shape(&mut shapes);
        let count = if faults.u64(..PEACE) == 0 {
            0
        } else {
            faults.u64(1..=MOST_FAULTS)
        };
        let mut faults: Vec<Timed> = (0..count).map(|_| timed(&mut faults, &shape)).collect();
        faults.sort_by_key(|timed| timed.at_ms);
        let jobs = jobs(&mut arrivals, &shape, &faults);
        Self {
            seed,
            shape,
            jobs,
            faults,
        }
    }
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())]
}

pub(super) fn shape(rng: &mut Rng) -> Shape {
    let flavour = pick(
        rng,
        &[
            Flavour::SetAware,
            Flavour::SetAware,
            Flavour::SetAware,
            Flavour::Team,
            Flavour::User,
            Flavour::User,
            Flavour::Seed,
        ],
    );
    let flow = if rng.u32(..4) == 0 { Flow::Ghes } else { Flow::GitHub };
    let assigned_jobs_run_on = if rng.u32(..4) == 0 {
        AssignedJobsRunOn::MatchingLabels
    } else {
        AssignedJobsRunOn::SetRunners
    };
    let credential = match rng.u32(..6) {
        0..=2 if flavour == Flavour::User => Credential::Brokered,
        0 | 1 => Credential::App,
        _ => Credential::Pat,
    };
    let count = pick(rng, &[1, 1, 1, 2, 2, 3]);
    let sets: Vec<SetShape> = (0..count)
        .map(|index| set_shape(rng, index, flavour, assigned_jobs_run_on))
        .collect();
    let uses_gharts = sets.iter().any(|set| set.provisioner == Provisioner::Gharts);
    Shape {
        flavour,
        flow,
        assigned_jobs_run_on,
        credential,
        max_runners: (rng.u32(..3) == 0).then(|| rng.u32(2..=6)),
        quota: (uses_gharts && rng.u32(..3) == 0).then(|| rng.u32(2..=6)),
        sets,
        slow_gharts: rng.u32(..4) == 0,
        start_ms: pick(rng, &[0, 0, 1_000, 5_000, 20_000]),
        exit_ms: pick(rng, &[0, 0, 500, 5_000]),
        skew_seconds: pick(rng, &[0, 0, 0, 0, -20, 20]),
        second_replica: (rng.u32(..3) == 0).then(|| pick(rng, &[0, 0, -25, 25])),
        told_late_ms: pick(rng, &[0, 0, 500, 5_000, 20_000]),
        gharts_skew_seconds: pick(rng, &[0, 0, 0, 0, -20, 20]),
        latency_ms: pick(rng, &[0, 0, 0, 300, 1_500]),
        api_latency_ms: pick(rng, &[0, 0, 20, 200, 1_000]),
        events_late_ms: pick(rng, &[0, 0, 50, 500, 3_000]),
        narrow_gharts: rng.u32(..5) == 0,
        second_file_late_ms: pick(rng, &[0, 0, 15_000, 70_000]),
        refused_ends_well: rng.bool(),
        grace_ms: pick(rng, &[0, 0, 30_000]),
        tokens_live_s: pick(rng, &[None, None, Some(400)]),
    }
}

/// A set that this GHARTS can serve.
fn set_shape(rng: &mut Rng, index: usize, flavour: Flavour, run_on: AssignedJobsRunOn) -> SetShape {
    let provisioner = if rng.u32(..5) < 3 {
        Provisioner::Gharts
    } else {
        Provisioner::ScaleSet
    };
    let mut bindings = vec![Binding::LabelsAvailable];
    if run_on == AssignedJobsRunOn::MatchingLabels {
        bindings.push(Binding::LabelsAssigned);
    }
    match flavour {
        Flavour::SetAware => bindings = vec![Binding::Auto, Binding::ScaleSet],
        Flavour::User => bindings.push(Binding::RegistrationToken),
        Flavour::Team | Flavour::Seed => {}
    }
    let binding = match provisioner {
        // Now and then one that cannot be served here: harmless, and told.
        Provisioner::Gharts if rng.u32(..10) == 0 => pick(
            rng,
            &[
                Binding::Auto,
                Binding::ScaleSet,
                Binding::LabelsAssigned,
                Binding::RegistrationToken,
            ],
        ),
        Provisioner::Gharts => pick(rng, &bindings),
        Provisioner::ScaleSet => Binding::Auto,
    };
    SetShape {
        name: ["linux", "windows", "gpu"][index].to_owned(),
        provisioner,
        binding,
        min: pick(rng, &[0, 0, 0, 1, 2]),
        max: rng.u32(2..=5),
        idle_seconds: pick(rng, &[None, None, Some(3), Some(20)]),
        keep_failed_seconds: pick(rng, &[None, None, None, Some(60)]),
    }
}

pub(super) fn jobs(rng: &mut Rng, shape: &Shape, faults: &[Timed]) -> Vec<Arrival> {
    let count = rng.usize(2..=5);
    let moment = |rng: &mut Rng| match rng.choice(faults) {
        Some(timed) if rng.u32(..4) > 0 => (timed.at_ms + rng.u64(..2 * NEAR_MS)).saturating_sub(NEAR_MS),
        _ => rng.u64(..TROUBLED_MS),
    };
    let mut jobs: Vec<Arrival> = (0..count)
        .map(|_| Arrival {
            at_ms: moment(rng),
            set: rng.usize(..shape.sets.len()),
            count: rng.usize(1..=4),
            lasting_ms: pick(rng, &[1_000, 5_000, 20_000, 60_000, 150_000]),
            exit_code: i32::from(rng.u32(..6) == 0),
            cancelled_after_ms: (rng.u32(..4) == 0).then(|| pick(rng, &[500, 3_000, 10_000, 30_000])),
        })
        .collect();
    jobs.sort_by_key(|jobs| jobs.at_ms);
    jobs
}

pub(super) fn timed(rng: &mut Rng, shape: &Shape) -> Timed {
    let at_ms = if rng.u64(..EARLY) == 0 {
        0
    } else {
        rng.u64(..TROUBLED_MS)
    };
    let mut for_ms = pick(rng, &[2_000, 10_000, 30_000, 60_000, 120_000, 200_000]);
    let uses_gharts = shape.sets.iter().any(|set| set.provisioner == Provisioner::Gharts);
    if uses_gharts && shape.narrow_gharts && rng.u32(..5) == 0 {
        return Timed {
            at_ms,
            for_ms,
            fault: Fault::Latency {
                peer: Peer::Gharts,
                call: "/runners/jit".to_owned(),
                ms: pick(rng, &[12_000, 20_000, 25_000]),
            },
        };
    }
    // A greater share of the world's where there is no GHARTS to ail.
    let fault = match rng.u32(..16) {
        0..=2 => on_the_way(rng, uses_gharts, shape.sets.len()),
        3..=5 => of_github(rng, shape),
        10..=11 if uses_gharts => of_gharts(rng),
        6..=7 | 10 => cluster::of_kubernetes(rng),
        8..=9 | 11 => cluster::of_pods(rng),
        12..=13 => of_the_file(rng, shape),
        _ => of_the_process(rng, shape),
    };
    if matches!(fault, Fault::JobMeets { .. }) {
        // It waits for its call.
        for_ms = 200_000;
    }
    if matches!(fault, Fault::PodsFail { .. }) {
        // Long enough to show whether a set backs off.
        for_ms = pick(rng, &[30_000, 120_000, 900_000, 900_000]);
    }
    Timed { at_ms, for_ms, fault }
}

const GITHUB_CALLS: [&str; 9] = [
    "",
    "/messages",
    "/sessions",
    "/generatejitconfig",
    "/acquirejobs",
    "/agents",
    "DELETE /",
    "/runnerscalesets",
    "/actions/runner-registration",
];
const GHARTS_CALLS: [&str; 5] = ["", "/runners/jit", "DELETE /", "GET /", "/runners/provision"];

fn on_the_way(rng: &mut Rng, uses_gharts: bool, sets: usize) -> Fault {
    let peer = if uses_gharts && rng.bool() {
        Peer::Gharts
    } else {
        Peer::GitHub
    };
    let call = match peer {
        Peer::GitHub => pick(rng, &GITHUB_CALLS),
        Peer::Gharts => pick(rng, &GHARTS_CALLS),
    };
    let call = call.to_owned();
    let times = pick(rng, &[1, 2, 5, 1_000]);
    match rng.u32(..12) {
        10 | 11 => {
            let removals = [(Peer::GitHub, "/agents/"), (Peer::Gharts, "DELETE /")];
            let removal = pick(rng, &removals[..=usize::from(uses_gharts)]);
            let (peer, call) = pick(rng, &[removal, removal, (peer, call.as_str())]);
            Fault::JobMeets {
                peer,
                call: call.to_owned(),
                set: rng.usize(..sets),
                ms: pick(rng, &[1, 1, 100, 2_000]),
                times: pick(rng, &[1, 3]),
            }
        }
        0 => Fault::Latency {
            peer,
            call,
            ms: pick(rng, &[200, 2_000, 12_000, 25_000, 40_000]),
        },
        1 => Fault::ResetBefore { peer, call, times },
        2 => Fault::ResetAfter { peer, call, times },
        3 => Fault::ClientError {
            peer,
            status: pick(rng, statuses_of(&call)),
            call,
            times,
        },
        4 => Fault::ServerError {
            peer,
            call,
            status: pick(rng, &[500, 502, 503, 504]),
            times,
        },
        5 => Fault::TooManyRequests {
            peer,
            call,
            retry_after: pick(rng, &[None, Some(0), Some(7), Some(90)]),
            times,
        },
        6 => Fault::ForeignBody {
            peer,
            call,
            status: pick(rng, &[200, 200, 404, 503]),
            times,
        },
        7 => Fault::TruncatedBody { peer, call, times },
        8 => Fault::Hang { peer, call, times },
        _ => Fault::Absent { peer },
    }
}

/// Which refusals may come of such a call. 404 of what is to be removed says that it is gone, and is believed.
fn statuses_of(call: &str) -> &'static [u16] {
    const ALL: [u16; 8] = [400, 401, 403, 408, 409, 422, 404, 410];
    let removes = call.is_empty() || call.starts_with("DELETE") || call.ends_with("/agents");
    if removes { &ALL[..6] } else { &ALL }
}

fn of_github(rng: &mut Rng, shape: &Shape) -> Fault {
    let set = rng.usize(..shape.sets.len());
    match rng.u32(..17) {
        0 => Fault::TokensRevoked,
        15 | 16 => Fault::PollsEmpty {
            status: pick(rng, &[202, 200]),
            times: pick(rng, &[3, 1_000, 1_000]),
        },
        13 => Fault::SecretRotated,
        1 => Fault::QueueTokenExpired { set },
        2 => Fault::PatRefused,
        3 => Fault::RateLimit {
            whom: pick(rng, &[Limited::Rest, Limited::Service]),
            how: pick(
                rng,
                &[Limit::Primary, Limit::Secondary, Limit::SecondaryUntold, Limit::TooMany],
            ),
        },
        4 => Fault::SessionLost { set },
        5 => Fault::SessionStolen { set },
        6 => Fault::SetDeleted { set },
        7 => Fault::MessagesTwice { set },
        8 => Fault::MessagesReordered,
        9 | 14 => Fault::MessageIdsRestarted { set },
        10 => Fault::WrongStatistics {
            lie: pick(rng, &[Lie::Stuck, Lie::Zero, Lie::Ghosts(2)]),
        },
        11 => Fault::JobCancelled { nth: rng.usize(..8) },
        _ => Fault::AssignmentDropped { nth: rng.usize(..8) },
    }
}

fn of_gharts(rng: &mut Rng) -> Fault {
    let ill = |rng: &mut Rng| pick(rng, &[Ill::Fails, Ill::Slow, Ill::Lost]);
    match rng.u32(..12) {
        0 => Fault::Quota { places: rng.u32(..3) },
        1 => Fault::PlacesTaken { places: rng.u32(1..=8) },
        2 => Fault::PolicyChanged,
        3 => Fault::TeamDeactivated,
        4 => Fault::NotAMember,
        5 => Fault::UserDeactivated,
        6 => Fault::Frozen,
        7 => Fault::GhartsSeesNoGitHub { how: ill(rng) },
        8 => Fault::KeysIll { how: ill(rng) },
        _ => Fault::GhartsFails {
            call: pick(
                rng,
                &[
                    GhartsCall::Jit,
                    GhartsCall::Token,
                    GhartsCall::Delete,
                    GhartsCall::List,
                    GhartsCall::Get,
                ],
            ),
            how: pick(
                rng,
                &[
                    GhartsTrouble::Refused,
                    GhartsTrouble::AnswerLost,
                    GhartsTrouble::AnswerSpoiled,
                    GhartsTrouble::Unrecorded,
                ],
            ),
            times: pick(rng, &[1, 2, 6]),
        },
    }
}

fn of_the_file(rng: &mut Rng, shape: &Shape) -> Fault {
    let set = rng.usize(..shape.sets.len());
    let how = match rng.u32(..9) {
        0 | 1 => Edit::MaxRunners {
            set,
            max: rng.u32(1..=6),
        },
        2 => Edit::MinRunners { set, min: rng.u32(..3) },
        3 => Edit::TotalRunners {
            max: pick(rng, &[None, Some(1), Some(3), Some(6)]),
        },
        4 => Edit::Template { set },
        5 => Edit::SetAdded,
        6 | 7 => Edit::SetRemoved { set },
        _ => Edit::Wrong,
    };
    Fault::FileChanged { how }
}

fn of_the_process(rng: &mut Rng, shape: &Shape) -> Fault {
    let replica = shape.second_replica.map_or(0, |_| rng.usize(..2));
    let killed = |moment, count| Fault::Killed { moment, count, replica };
    match rng.u32(..8) {
        7 => Fault::ClockStepped {
            replica,
            seconds: pick(rng, &[-3_600, -40, 40, 3_600, 3_600]),
            stays: rng.u32(..3) > 0,
        },
        0 => Fault::Restarted {
            skew_seconds: pick(rng, &[0, 0, -30, 30]),
            replica,
        },
        1 => killed(Moment::BeforeCall, rng.u64(1..=12)),
        2 => killed(Moment::AfterCall, rng.u64(1..=12)),
        3 => killed(Moment::AtStep, rng.u64(1..=300)),
        4 => Fault::Paused { replica },
        5 => Fault::ClusterLost { replica },
        _ => Fault::Panic {
            call: pick(
                rng,
                &[
                    "",
                    "/messages",
                    "/sessions",
                    "jit",
                    "/agents",
                    "DELETE /",
                    "/pods",
                    LEASES,
                ],
            )
            .to_owned(),
            times: pick(rng, &[1, 3]),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::plan::KINDS, *};

    #[test]
    fn every_kind_of_fault_is_drawn_and_a_plan_survives_being_written_down() {
        let mut met = BTreeSet::new();
        for seed in 0..500 {
            let plan = Plan::draw(seed);
            assert_eq!(plan, Plan::draw(seed));
            let text = serde_json::to_string(&plan).unwrap();
            assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan, "{text}");
            met.extend(plan.faults.iter().map(|timed| timed.fault.kind()));
        }
        let all: BTreeSet<String> = KINDS.iter().map(|&kind| kind.to_owned()).collect();
        assert_eq!(met, all);
    }
}
