//! What may go wrong in the cluster: the API server, nodes, pods.

use fastrand::Rng;

use super::{
    super::plan::{ApiTrouble, Blow, Fault, LEASE_RESOURCE, PodTrouble},
    pick,
};

pub(super) fn of_kubernetes(rng: &mut Rng) -> Fault {
    match rng.u32(..14) {
        0 => Fault::WatchCut,
        11 => Fault::WritesAnsweredLate {
            resource: pick(rng, &[LEASE_RESOURCE, LEASE_RESOURCE, "pods", ""]).to_owned(),
            every: pick(rng, &[2, 3, 5]),
            ms: rng.u64(2_000..=5_000),
        },
        12 => lease_trouble(rng),
        10 => Fault::LeaseTaken,
        5 | 9 => Fault::LeaseDeleted,
        4 => Fault::RightsLost { own: rng.bool() },
        1 => Fault::HistoryCompacted,
        2 => Fault::ApiOutage,
        3 => Fault::ResourceQuota { pods: rng.u32(1..=3) },
        _ => api_trouble(rng),
    }
}

/// The Lease ails while pods are well.
fn lease_trouble(rng: &mut Rng) -> Fault {
    let how = pick(
        rng,
        &[
            ApiTrouble::AnswerLost,
            ApiTrouble::Unavailable,
            ApiTrouble::Internal,
            ApiTrouble::Slow,
            ApiTrouble::Hang,
            ApiTrouble::Denied,
            ApiTrouble::Conflict,
            ApiTrouble::NotFound,
        ],
    );
    Fault::ApiTrouble {
        verb: pick(rng, &["update", "update", "get", ""]).to_owned(),
        resource: LEASE_RESOURCE.to_owned(),
        how,
        times: pick(rng, &[1, 3, 1_000, 1_000]),
        everybody: false,
    }
}

fn api_trouble(rng: &mut Rng) -> Fault {
    let verb = pick(rng, &["create", "create", "delete", "patch", "watch", "list", ""]);
    let resource = pick(rng, &["pods", "pods", "secrets", "serviceaccounts/token", ""]);
    let how = pick(
        rng,
        &[
            ApiTrouble::AnswerLost,
            ApiTrouble::Unauthorized,
            ApiTrouble::Unavailable,
            ApiTrouble::Internal,
            ApiTrouble::Throttled,
            ApiTrouble::Slow,
            ApiTrouble::Hang,
            ApiTrouble::Hang,
            ApiTrouble::Silent,
            ApiTrouble::Conflict,
            ApiTrouble::Invalid,
            ApiTrouble::Denied,
            ApiTrouble::NotFound,
            ApiTrouble::Expired,
        ],
    );
    // Who neither hears what its creations came to nor sees any pod can know of none.
    let blind = how == ApiTrouble::Silent && verb.is_empty();
    Fault::ApiTrouble {
        verb: if blind { "watch" } else { verb }.to_owned(),
        resource: resource.to_owned(),
        how,
        times: pick(rng, &[1, 3, 1_000, 1_000]),
        everybody: rng.u32(..3) == 0,
    }
}

pub(super) fn of_pods(rng: &mut Rng) -> Fault {
    match rng.u32(..5) {
        0 | 1 => Fault::PodsFail {
            how: pick(
                rng,
                &[
                    PodTrouble::Unschedulable,
                    PodTrouble::ImagePullFails,
                    PodTrouble::NeverRegisters,
                    PodTrouble::Crashes,
                    PodTrouble::EndsWell,
                    PodTrouble::EndsWell,
                    PodTrouble::Leaves,
                    PodTrouble::Deprecated,
                    PodTrouble::SidecarStays,
                    PodTrouble::FallsSilent,
                    PodTrouble::HangsAfterJob,
                    PodTrouble::InitFails,
                    PodTrouble::Rejected,
                ],
            ),
            percent: pick(rng, &[30, 100, 100]),
        },
        2 => Fault::PodsStuckTerminating {
            ms: pick(rng, &[5_000, 40_000, 90_000]),
        },
        _ => struck(rng),
    }
}

fn struck(rng: &mut Rng) -> Fault {
    let how = pick(
        rng,
        &[
            Blow::Evicted,
            Blow::OutOfMemory,
            Blow::NodeLost,
            Blow::NodeAway,
            Blow::DeletedByHand,
            Blow::SecretDeleted,
            Blow::Unregistered,
        ],
    );
    let of_a_node = matches!(how, Blow::Evicted | Blow::NodeLost | Blow::NodeAway);
    Fault::PodStruck {
        how,
        nth: rng.usize(..6),
        count: if of_a_node { pick(rng, &[1, 2, 3, 8]) } else { 1 },
    }
}
