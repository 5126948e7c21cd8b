//! Sets in a bad way: they say so, and are cured when its cause is gone.

use std::{sync::Arc, time::Duration};

use gharts_listener::sim::{github::JobState, world::Provisioner};

use super::{
    cable::Spoilt,
    harness::{Run, Running, jobs, with_provisioner},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Requests for runners of a set behind GHARTS meet this, then its polls do.
#[tokio::test(start_paused = true)]
async fn b8_a_set_whose_calls_hang_panic_or_are_forbidden_says_so_and_recovers() {
    for (spoilt, calls, code) in [
        (Spoilt::Panics, "/runners/jit", "set_failed"),
        (Spoilt::Hangs, "/runners/jit", "unknown_outcome"),
        (Spoilt::Forbidden, "/runners/jit", "not_authorized"),
        (Spoilt::Panics, "/messages", "set_failed"),
    ] {
        let _run = Run::called(format!("{calls} {spoilt:?}"));
        let running = Running::start(with_provisioner(Provisioner::Gharts)).await;
        running.queue(&jobs("linux", 0)).await;
        let meets = move |path: &str| path.contains(calls).then_some(spoilt);
        running
            .daemon
            .cable
            .spoil(Arc::new(move |request| meets(request.uri().path())));
        let queued = running.world.github.queue_jobs(&jobs("linux", 4).lasting(SECOND));
        let reason = running.until_reason("linux", code).await;
        assert!(reason.remedy.is_some(), "{code}: no remedy");
        running.pass(5 * MINUTE).await;
        running.daemon.cable.spoil(Arc::new(|_| None));
        running.until_finished(&queued, 10 * MINUTE).await;
        running.until_no_reason("linux", code).await;
        assert_eq!(running.count(&queued, JobState::Finished), 4);
        // A message that is delivered again minutes later is believed: for a while there may be runners beyond demand.
        if calls == "/runners/jit" {
            running.end().await;
        }
    }
}
