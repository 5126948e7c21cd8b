use std::sync::Mutex as StdMutex;

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};

use super::*;

fn gate(requests_per_second: f64, burst: u32, max_in_flight: u32) -> Gate {
    let limits = Limits {
        requests_per_second,
        burst,
        max_in_flight,
    };
    Gate::new(Some(&limits), clock())
}

fn clock() -> Clock {
    Clock::simulated("2026-01-01T00:00:00Z".parse().unwrap())
}

fn enter(gate: &Gate, urgency: Urgency, set: &str) -> BoxFuture<'static, Permit> {
    let (gate, set) = (gate.clone(), SetName::new(set));
    Box::pin(async move { gate.enter(urgency, &set).await })
}

/// Fast enough that only the bound on calls in flight cuts.
const FAST: f64 = 100_000.0;

#[tokio::test(start_paused = true)]
async fn b20_never_more_calls_in_flight_than_the_bound_whatever_arrives_and_leaves() {
    for seed in 0..20 {
        let gate = gate(50.0, 10, 4);
        let rng = StdMutex::new(fastrand::Rng::with_seed(seed));
        let random = |below: u64| rng.lock().unwrap().u64(0..below);
        let served = std::cell::Cell::new(0);
        let calls: FuturesUnordered<_> = (0..200)
            .map(|n| {
                let (arrives, works) = (random(3000), random(400));
                // Most give up sooner or later; the rest must be served in the end.
                let patience = if n % 3 == 0 { 60_000 } else { 1 + random(4000) };
                let urgency = if random(3) == 0 {
                    Urgency::Remove
                } else {
                    Urgency::Create
                };
                let (gate, served) = (gate.clone(), &served);
                async move {
                    tokio::time::sleep(Duration::from_millis(arrives)).await;
                    let enter = enter(&gate, urgency, &format!("s{}", n % 7));
                    let Ok(permit) = tokio::time::timeout(Duration::from_millis(patience), enter).await else {
                        assert!(patience < 60_000, "seed {seed}: a waiter was forgotten");
                        return;
                    };
                    assert!(gate.load().in_flight <= 4, "seed {seed}");
                    tokio::time::sleep(Duration::from_millis(works)).await;
                    drop(permit);
                    served.set(served.get() + 1);
                }
            })
            .collect();
        calls.collect::<Vec<()>>().await;
        assert_eq!(gate.load(), Load::default(), "seed {seed}: nothing may be left behind");
        assert!(served.get() > 20, "seed {seed}: only {} served", served.get());
    }
}

#[tokio::test(start_paused = true)]
async fn b20_a_burst_passes_at_once_and_then_the_rate_holds() {
    let gate = gate(3.0, 6, 100);
    let start = Instant::now();
    let mut at = Vec::new();
    let mut calls: FuturesUnordered<_> = (0..36)
        .map(|_| {
            let gate = gate.clone();
            async move {
                drop(enter(&gate, Urgency::Create, "a").await);
                start.elapsed()
            }
        })
        .collect();
    while let Some(elapsed) = calls.next().await {
        at.push(elapsed);
    }
    assert!(at[5] < Duration::from_millis(5), "{:?}", at[5]);
    assert!(at[6] > Duration::from_millis(300), "{:?}", at[6]);
    let last = at[35];
    assert!(
        (Duration::from_millis(9_900)..Duration::from_millis(10_200)).contains(&last),
        "30 calls beyond the burst at 3/s take 10 s, not {last:?}"
    );
}

/// Lets waiters queue behind one permit, frees it, and notes the order in which they pass.
async fn order(gate: &Gate, waiters: &[(Urgency, &str)]) -> Vec<String> {
    let blocker = enter(gate, Urgency::Remove, "blocker").await;
    let passed = StdMutex::new(Vec::new());
    let mut calls: Vec<_> = waiters
        .iter()
        .enumerate()
        .map(|(n, (urgency, name))| {
            let passed = &passed;
            Box::pin(async move {
                let permit = enter(gate, *urgency, name).await;
                passed.lock().unwrap().push(format!("{name}{n}"));
                drop(permit);
            })
        })
        .collect();
    for call in &mut calls {
        assert!(call.as_mut().now_or_never().is_none(), "must wait behind the blocker");
    }
    drop(blocker);
    futures::future::join_all(calls).await;
    passed.into_inner().unwrap()
}

#[tokio::test(start_paused = true)]
async fn b45_waiters_of_several_sets_take_turns() {
    use Urgency::Create as C;
    let gate = gate(FAST, 100, 1);
    let waiters = [(C, "a"), (C, "a"), (C, "a"), (C, "a"), (C, "b"), (C, "b"), (C, "c")];
    assert_eq!(order(&gate, &waiters).await, ["a0", "b4", "c6", "a1", "b5", "a2", "a3"]);
}

#[tokio::test(start_paused = true)]
async fn b19_removals_pass_before_creations() {
    use Urgency::{Create as C, Remove as R};
    let gate = gate(FAST, 100, 1);
    let waiters = [(C, "a"), (C, "b"), (R, "a"), (C, "a"), (R, "b"), (R, "a")];
    assert_eq!(order(&gate, &waiters).await, ["a2", "b4", "a5", "a0", "b1", "a3"]);
}

#[tokio::test(start_paused = true)]
async fn b19_a_removal_overtakes_creations_that_wait_for_the_rate() {
    let gate = gate(1.0, 1, 10);
    drop(enter(&gate, Urgency::Create, "a").await);
    let mut create = enter(&gate, Urgency::Create, "a");
    assert!((&mut create).now_or_never().is_none());
    let mut remove = enter(&gate, Urgency::Remove, "a");
    assert!((&mut remove).now_or_never().is_none());
    // The creation keeps the time, and the removal gets the token.
    let first = tokio::select! { biased; _ = &mut create => "create", _ = &mut remove => "remove" };
    assert_eq!(first, "remove");
    drop(create.await);
}

#[tokio::test(start_paused = true)]
async fn b20_a_server_that_says_when_to_come_back_is_left_alone_until_then() {
    let gate = gate(FAST, 100, 4);
    let start = Instant::now();
    let first = enter(&gate, Urgency::Create, "a").await;
    gate.hold(Duration::from_secs(30));
    gate.hold(Duration::from_secs(10));
    drop(first);
    let waiters = [Urgency::Create, Urgency::Remove, Urgency::Create].map(|urgency| enter(&gate, urgency, "a"));
    let permits = futures::future::join_all(waiters).await;
    assert!(start.elapsed() >= Duration::from_secs(30), "{:?}", start.elapsed());
    assert!(start.elapsed() <= Duration::from_secs(31), "{:?}", start.elapsed());
    drop(permits);
    drop(enter(&gate, Urgency::Create, "a").await);
    assert!(start.elapsed() <= Duration::from_secs(31), "it is over");
}

#[tokio::test(start_paused = true)]
async fn b20_a_dropped_timekeeper_hands_its_office_on() {
    let gate = gate(1.0, 1, 10);
    drop(enter(&gate, Urgency::Create, "a").await);
    let mut keeper = enter(&gate, Urgency::Create, "a");
    assert!((&mut keeper).now_or_never().is_none());
    let start = Instant::now();
    let waits = enter(&gate, Urgency::Create, "b");
    let drops = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(keeper);
    };
    let (permit, ()) = futures::future::join(waits, drops).await;
    drop(permit);
    assert!(start.elapsed() <= Duration::from_millis(1010), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn b20_a_permit_given_to_a_waiter_that_was_dropped_goes_to_the_next() {
    let gate = gate(FAST, 100, 1);
    let first = enter(&gate, Urgency::Create, "a").await;
    let mut gone = enter(&gate, Urgency::Create, "a");
    let mut next = enter(&gate, Urgency::Create, "b");
    assert!((&mut gone).now_or_never().is_none());
    assert!((&mut next).now_or_never().is_none());
    drop(first);
    assert_eq!(
        gate.load(),
        Load {
            in_flight: 1,
            waiting: 1
        }
    );
    drop(gone);
    drop(next.now_or_never().expect("the permit passed on"));
    assert_eq!(gate.load(), Load::default());
}

#[tokio::test(start_paused = true)]
async fn b19_after_a_refusal_one_creation_at_a_time_and_removals_unhindered() {
    let gate = gate(FAST, 100, 4);
    gate.set_create_limit(Some(1));
    let one = enter(&gate, Urgency::Create, "a").await;
    let mut two = enter(&gate, Urgency::Create, "a");
    assert!((&mut two).now_or_never().is_none());
    let removal = enter(&gate, Urgency::Remove, "a").now_or_never();
    assert!(removal.is_some());
    drop(one);
    let two = two.now_or_never().expect("one at a time passes");
    let mut three = enter(&gate, Urgency::Create, "a");
    assert!((&mut three).now_or_never().is_none());
    gate.set_create_limit(None);
    let three = three.now_or_never().expect("the bound was lifted");
    drop((two, three, removal));
    assert_eq!(gate.load(), Load::default());
}

#[tokio::test(start_paused = true)]
async fn a_gate_without_limits_lets_everything_pass_and_counts_it() {
    let gate = Gate::new(None, clock());
    let permits: Vec<_> = (0..1000)
        .map(|_| enter(&gate, Urgency::Create, "a").now_or_never().expect("no limit"))
        .collect();
    assert_eq!(gate.load().in_flight, 1000);
    drop(permits);
    assert_eq!(gate.load(), Load::default());
}
