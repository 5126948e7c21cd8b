//! Ordinary runners that carry the set's labels, as the seed of this project drew them.
//!
//! Experimental: whether such a runner gets a job that was assigned to a scale set is not known for sure, and most
//! likely it does not. The planner's watchdog says so where it does not.

use super::{GhartsProvisioner, Granted, JitRequest, Refusal};

impl GhartsProvisioner {
    pub(super) async fn grant_by_labels(
        &self,
        request: &JitRequest,
        runner_group_id: Option<i64>,
    ) -> Result<Granted, Refusal> {
        let known = self.server().await?;
        let answer = self.ask(request, &known.team, runner_group_id, None).await?;
        Ok(Granted {
            agent_id: answer.agent_id(),
            jit_config: answer.encoded_jit_config,
            gharts_id: Some(answer.runner_id),
            status: Some(answer.status),
        })
    }
}
