//! Orderly ends: every task is named, tracked and told to stop by one token.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, task::JoinHandle, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument as _;

/// A task that panics is started again after this, and later and later within these bounds.
const REVIVE_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// Spawns tracked tasks and ends them. Clones share the same set of tasks and the same token.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
    freeze: Option<Freeze>,
}

/// What makes tasks stand still, and go on in the order in which they came to stand still, so that each run of a simulation
/// is like the other. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Freeze(Arc<FreezeState>);

#[derive(Debug, Default)]
struct FreezeState {
    frozen: AtomicBool,
    changed: Notify,
}

impl Freeze {
    pub fn set(&self, frozen: bool) {
        self.0.frozen.store(frozen, Ordering::Release);
        self.0.changed.notify_waiters();
    }

    pub fn is_set(&self) -> bool {
        self.0.frozen.load(Ordering::Acquire)
    }

    async fn until(&self, frozen: bool) {
        loop {
            let changed = self.0.changed.notified();
            if self.is_set() == frozen {
                return;
            }
            changed.await;
        }
    }
}

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    /// Tasks that stand still while `freeze` says so, as a process does between SIGSTOP and SIGCONT: for simulations, where
    /// time goes on meanwhile.
    pub fn that_freeze(freeze: Freeze) -> Self {
        Self {
            freeze: Some(freeze),
            ..Self::default()
        }
    }

    /// Tasks that stop when these do, and can be stopped (and waited for) alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            tracker: TaskTracker::new(),
            token: self.token.child_token(),
            freeze: self.freeze.clone(),
        }
    }

    /// Starts a task under `name`, which stands in its span.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let future = future.instrument(tracing::debug_span!("task", name));
        match self.freeze.clone() {
            None => self.tracker.spawn(future),
            Some(freeze) => self.tracker.spawn(freezing(freeze, future)),
        }
    }

    /// Keeps a task running under `name` until it ends by itself: when it panics it is started again, later and later
    /// while that goes on, and nobody else is affected.
    pub fn keep<F>(&self, name: &'static str, mut task: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (tasks, stop) = (self.clone(), self.token.clone());
        self.spawn("keeper", async move {
            let (first, longest) = REVIVE_AFTER;
            let mut pause = first;
            loop {
                let began = Instant::now();
                let Err(error) = tasks.spawn(name, task()).await else {
                    return;
                };
                if began.elapsed() > longest {
                    pause = first;
                }
                tracing::error!(task = name, %error, "a task died; starting it again");
                if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                    return;
                }
                pause = (pause * 2).min(longest);
            }
        });
    }

    /// How many are under way.
    pub fn under_way(&self) -> usize {
        self.tracker.len()
    }

    /// Nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Cancelled when the tasks shall end.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Tells the tasks to end; does not wait.
    pub fn stop(&self) {
        self.token.cancel();
    }

    /// Waits until every task has ended. Nothing may be spawned afterwards.
    pub async fn finished(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

async fn freezing<F: Future>(freeze: Freeze, future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    loop {
        freeze.until(false).await;
        tokio::select! {
            biased;
            () = freeze.until(true) => {}
            output = &mut future => return output,
        }
    }
}
