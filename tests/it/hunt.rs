//! The hunt's seeds of every build: worlds with faults at the worst moments, judged by the world. `HUNT_SEEDS` and
//! `HUNT_FROM` choose others; `cargo run --release -- hunt --seeds 10000` takes all cores for many more.
//!
//! What it found and was mended stands in `src/sim/hunt/known/` as the shortest plan that showed it.

use std::num::NonZeroUsize;

use gharts_listener::{
    cli::hunt::{Hunt, carry_out, hunt},
    sim::hunt::Plan,
};

/// Seeds of every build.
const SEEDS: u64 = 200;

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |text| text.parse().unwrap())
}

#[test]
fn nothing_is_lost_whatever_goes_wrong() {
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let (from, seeds) = (number("HUNT_FROM", 0), number("HUNT_SEEDS", SEEDS));
    let what = Hunt {
        from,
        seeds,
        jobs: cores,
        shrinks: number("HUNT_SHRINK", 1) == 1,
        first: false,
    };
    let report = hunt(&what, |_| {});
    println!("{}", report.text());
    assert!(report.failures.is_empty() && report.broken.is_none(), "see above");
    if seeds >= SEEDS {
        assert!(report.kinds_missed().is_empty(), "{:?}", report.kinds_missed());
    }
}

#[test]
fn a_seed_runs_the_same_way_each_time() {
    for seed in [3, 17] {
        let plan = Plan::draw(seed);
        let digests = [(); 2].map(|()| carry_out(&plan, false).unwrap().0.digest);
        assert_eq!(digests[0], digests[1], "seed {seed}");
    }
}

#[test]
fn what_was_found_once_stays_mended() {
    let known = Plan::known();
    assert!(!known.is_empty());
    for (name, plan) in known {
        let (outcome, _) = carry_out(&plan, false).unwrap();
        assert_eq!(outcome.breaches, [], "{name}");
        for timed in &plan.faults {
            let kind = timed.fault.kind();
            assert!(
                outcome.met.iter().any(|met| met.starts_with(&kind)),
                "{name}: nobody met {kind}"
            );
        }
    }
}
