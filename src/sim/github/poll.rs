//! The two long polls: a listener's for messages, a runner's for a job. The only part that waits.

use serde_json::Value;
use tokio::time::timeout_at;

use super::{
    agents::{RunnerFault, Work},
    control::GitHub,
    sessions::{Look, Poll},
    wire::Fault,
    world::{AgentId, SetId},
};

/// Ends a held poll whatever way it goes: answered, or its client gone.
struct Held<'a> {
    github: &'a GitHub,
    poll: Poll,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.github.change(|world, now| world.end_poll(&self.poll, now));
    }
}

struct Waiting<'a> {
    github: &'a GitHub,
    agent: AgentId,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.github.change(|world, now| world.end_wait(self.agent, now));
    }
}

impl GitHub {
    /// A message, or none within the hold.
    pub(super) async fn poll(
        &self,
        token: &str,
        set: SetId,
        capacity: u32,
        last_message: u64,
    ) -> Result<Option<Value>, Fault> {
        let (poll, until) = self.change(|world, now| {
            let poll = world.begin_poll(token, set, capacity, last_message, now)?;
            Ok((poll, now.instant + world.settings.poll_hold))
        })?;
        let held = Held { github: self, poll };
        loop {
            let mut woken = std::pin::pin!(held.poll.wake.notified());
            woken.as_mut().enable();
            match self.with(|world, now| world.look(&held.poll, now))? {
                Look::Message(message) => return Ok(Some(message)),
                Look::Empty => return Ok(None),
                Look::Wait => {}
            }
            if timeout_at(until, woken).await.is_err() {
                return Ok(None);
            }
        }
    }

    /// The runner's job, or none within the hold.
    pub(super) async fn wait_for_job(&self, agent: AgentId, secret: &str) -> Result<Option<Work>, RunnerFault> {
        let (wake, until) = self.change(|world, now| {
            let wake = world.begin_wait(agent, secret, now)?;
            Ok((wake, now.instant + world.settings.poll_hold))
        })?;
        let _held = Waiting { github: self, agent };
        loop {
            let mut woken = std::pin::pin!(wake.notified());
            woken.as_mut().enable();
            if let Some(work) = self.with(|world, _| world.work_of(agent, secret))? {
                return Ok(Some(work));
            }
            if timeout_at(until, woken).await.is_err() {
                return Ok(None);
            }
        }
    }
}
