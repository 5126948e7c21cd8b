//! Random walks through the whole planner: safety at every step, liveness once faults stop.

use std::time::Duration;

use proptest::prelude::*;

use super::{outside::Outside, *};

fn sets() -> impl Strategy<Value = Vec<SetWorld>> {
    let one = (0_u32..3, 1_u32..6, prop::bool::ANY, prop::bool::ANY);
    prop::collection::vec(one, 1..4).prop_map(|sets| {
        let named = |(i, (min, max, own, keep)): (usize, (u32, u32, bool, bool))| SetWorld {
            min_runners: min,
            max_runners: max,
            provisioner: if own { format!("own-{i}") } else { "shared".into() },
            in_flight_max: 2,
            kind: Kind {
                keep_failed: keep.then_some(Duration::from_mins(10)),
                ..KIND
            },
            ..set(&format!("set{i}"))
        };
        sets.into_iter().enumerate().map(named).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn b9_b12_b15_limits_hold_at_every_step_and_every_job_ends_once_faults_stop(
        sets in sets(),
        room in prop::option::of(1_u32..8),
        places in 1_usize..12,
        seed in any::<u64>(),
        steps in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        // Spare runners may fill the total: they make room for jobs. The quota here is one of several provisioners
        // together, which no real one is: a place is left beside the spare runners of those that it does not stop.
        let spare: u32 = sets.iter().map(|s| s.min_runners.min(s.max_runners)).sum();
        let quota = places + usize::try_from(spare).unwrap();
        let world = World { max_runners: room, ..world(sets) };
        let mut outside = Outside::new(world, quota, seed);
        for step in steps {
            outside.step(step);
        }
        prop_assert!(outside.settle(Duration::from_secs(3 * 3600)), "not at rest: {}", outside.rest());
    }
}
