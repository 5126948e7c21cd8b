//! What the demo has run: a burst of jobs, or a short varied course over three scale sets.

use std::time::Duration;

use tokio::time::Instant;

use crate::sim::{
    github::{GitHub, JobHandle, NewJobs},
    world::{ORGANIZATION, Provisioner, SetOptions},
};

/// Jobs that are queued together.
struct Batch {
    /// After the first.
    after: Duration,
    set: usize,
    duration: Duration,
    exit_code: i32,
}

pub(super) struct Workload {
    sets: Vec<SetOptions>,
    /// By time.
    batches: Vec<Batch>,
}

impl Workload {
    pub(super) fn new(jobs: Option<u32>, max_runners: u32, provisioner: Provisioner, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        match jobs {
            Some(jobs) => Self::burst(jobs, max_runners, provisioner, &mut rng),
            None => Self::course(provisioner, &mut rng),
        }
    }

    fn burst(jobs: u32, max_runners: u32, provisioner: Provisioner, rng: &mut fastrand::Rng) -> Self {
        let job = |_| Batch {
            after: Duration::ZERO,
            set: 0,
            duration: Duration::from_millis(rng.u64(200..2000)),
            exit_code: 0,
        };
        Self {
            sets: vec![SetOptions::new("linux", provisioner, max_runners)],
            batches: (0..jobs).map(job).collect(),
        }
    }

    /// More at once than a set may have, a failing job, a pause, a second wave.
    fn course(provisioner: Provisioner, rng: &mut fastrand::Rng) -> Self {
        const PLAN: [(u64, usize, u64, i32); 14] = [
            (0, 0, 2, 0),
            (0, 0, 3, 0),
            (0, 1, 4, 0),
            (1, 0, 2, 0),
            (1, 0, 1, 0),
            (1, 0, 2, 0),
            (1, 2, 4, 0),
            (2, 2, 3, 0),
            (2, 1, 2, 1),
            (3, 1, 3, 0),
            (8, 0, 1, 0),
            (8, 0, 2, 0),
            (8, 2, 2, 0),
            (9, 1, 1, 0),
        ];
        let job = |(after, set, seconds, exit_code)| Batch {
            after: Duration::from_secs(after),
            set,
            duration: Duration::from_millis(seconds * 1000 + rng.u64(0..500)),
            exit_code,
        };
        Self {
            sets: vec![
                SetOptions::new("linux-small", provisioner, 3),
                SetOptions::new("linux-large", provisioner, 2),
                SetOptions::new("gpu", provisioner, 1),
            ],
            batches: PLAN.map(job).into(),
        }
    }

    /// Jobs in all.
    pub(super) fn len(&self) -> usize {
        self.batches.len()
    }

    pub(super) fn sets(&self) -> impl Iterator<Item = &str> {
        self.sets.iter().map(|set| set.name.as_str())
    }

    pub(super) fn set_options(&self) -> Vec<SetOptions> {
        self.sets.clone()
    }
}

/// The workload as it goes.
pub(super) struct Queued<'a> {
    workload: &'a Workload,
    begun: Option<Instant>,
    jobs: Vec<JobHandle>,
}

impl<'a> Queued<'a> {
    pub(super) fn new(workload: &'a Workload) -> Self {
        Self {
            workload,
            begun: None,
            jobs: Vec::new(),
        }
    }

    /// Queues what is due; nothing before everybody listens.
    pub(super) fn advance(&mut self, github: &GitHub, now: Instant, listening: bool) {
        if self.begun.is_none() && listening {
            self.begun = Some(now);
        }
        let Some(begun) = self.begun else { return };
        for batch in &self.workload.batches[self.jobs.len()..] {
            if begun + batch.after > now {
                return;
            }
            let set = &self.workload.sets[batch.set].name;
            let job = NewJobs::for_set(ORGANIZATION, set, 1)
                .lasting(batch.duration)
                .exiting(batch.exit_code);
            self.jobs.extend(github.queue_jobs(&job));
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.jobs.len() == self.workload.batches.len()
    }

    pub(super) fn jobs(&self) -> &[JobHandle] {
        &self.jobs
    }
}
