//! Which tasks may die: those of the core take the process down in good order (exit code 70), all others begin anew.
//! And an end that comes at the worst moment of a task.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use gharts_listener::{
    app,
    http::{Request, Response, TransportError},
    sim::{
        cable::{Onlooker, Sent},
        github::JobState,
        world::Provisioner,
    },
};
use tokio_util::sync::CancellationToken;
use tracing::{Event, Subscriber, field::Field};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt as _},
};

use super::harness::{Running, jobs, with_provisioner};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn b7_the_death_of_the_leases_keeper_closes_the_sessions_and_ends_the_process() {
    let mut running = Running::start(with_provisioner(Provisioner::Gharts)).await;
    let queued = running.queue(&jobs("linux", 12).lasting(2 * MINUTE)).await;
    running
        .until("jobs at work", |_| running.count(&queued, JobState::Running) == 10)
        .await;
    running.daemon.cable.make_fatal("/leases/", u32::MAX);
    let ended = tokio::time::timeout(MINUTE, &mut running.daemon.task).await;
    let error = ended.expect("it ends").unwrap().unwrap_err();
    assert!(matches!(error, app::Error::Core(_)), "{error}");
    assert_eq!(running.world.leaks().await.unwrap().sessions, 0, "closed, not left");
    // What is left of the process in this one.
    running.kill();
    assert_eq!(running.count(&queued, JobState::Running), 10, "its runners run on");

    // As Kubernetes or systemd does.
    running.start_again();
    running.until_finished(&queued, 10 * MINUTE).await;
    running.end().await;
}

/// Whoever logs this panics, once.
struct Fatal {
    words: &'static str,
    met: AtomicBool,
}

impl<S: Subscriber> Layer<S> for Fatal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut said = String::new();
        event.record(&mut |field: &Field, value: &dyn fmt::Debug| {
            if field.name() == "message" {
                said = format!("{value:?}");
            }
        });
        if said == self.words && !self.met.swap(true, Ordering::Relaxed) {
            // No words on standard error: it is what is asked for.
            std::panic::resume_unwind(Box::new("as the test wants it"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b7_the_death_of_the_control_loop_closes_the_sessions_and_ends_the_process() {
    let fatal = Fatal {
        words: "job started",
        met: AtomicBool::new(false),
    };
    let _logs = tracing::subscriber::set_default(tracing_subscriber::registry().with(fatal));
    let mut running = Running::start(with_provisioner(Provisioner::Gharts)).await;
    let queued = running.queue(&jobs("linux", 3).lasting(2 * MINUTE)).await;
    let ended = tokio::time::timeout(5 * MINUTE, &mut running.daemon.task).await;
    let error = ended.expect("it ends").unwrap().unwrap_err();
    assert!(matches!(error, app::Error::Core(_)), "{error}");
    assert_eq!(running.world.leaks().await.unwrap().sessions, 0, "closed, not left");
    running.kill();

    running.start_again();
    running.until_finished(&queued, 10 * MINUTE).await;
    running.end().await;
}

/// Tells the daemon to end in the moment in which a session that it opens is granted.
struct EndsThen(CancellationToken);

impl Onlooker for EndsThen {
    fn cluster_asked(&self, _: &str) {}

    fn asked(&self, _: &Sent, _: &Request) {}

    fn answered(&self, sent: &Sent, _: Result<&Response, &TransportError>) {
        if sent.line.starts_with("POST ") && sent.line.ends_with("/sessions") {
            self.0.cancel();
        }
    }

    fn ended(&self, _: &Sent) {}
}

#[tokio::test(start_paused = true)]
async fn b37_a_session_that_is_granted_in_the_moment_of_the_end_is_closed() {
    let mut running = Running::start(with_provisioner(Provisioner::Gharts)).await;
    let end = EndsThen(running.daemon.stop.clone());
    running.daemon.cable.look_on(std::sync::Arc::new(end));
    let ended = tokio::time::timeout(MINUTE, &mut running.daemon.task).await;
    ended.expect("it ends").unwrap().unwrap();
    assert_eq!(running.world.github.answered("open session", 200), 1);
    assert_eq!(running.world.leaks().await.unwrap().sessions, 0, "closed, not left");
}

#[tokio::test(start_paused = true)]
async fn b8_calls_and_watches_of_pods_that_panic_begin_anew_and_nothing_is_lost() {
    let running = Running::start(with_provisioner(Provisioner::Gharts)).await;
    let before = running.queue(&jobs("linux", 5).lasting(MINUTE)).await;
    running
        .until("jobs at work", |_| running.count(&before, JobState::Running) == 5)
        .await;
    running.daemon.cable.make_fatal("/pods", u32::MAX);
    let meanwhile = running.queue(&jobs("linux", 5).lasting(MINUTE)).await;
    running.until_reason("linux", "set_failed").await;
    running.pass(5 * MINUTE).await;
    assert_eq!(running.count(&meanwhile, JobState::Finished), 0);
    running.daemon.cable.make_fatal("/pods", 0);
    running.until_finished(&meanwhile, 10 * MINUTE).await;
    running.until_finished(&before, MINUTE).await;
    running.until_no_reason("linux", "set_failed").await;
    running.end().await;
}
