//! Everything that reaches the control loop: facts, never requests.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::oneshot;

use super::{
    SetParts,
    sweep::{Findings, Subject},
};
use crate::{
    ids::{RunnerName, SetName},
    plan::{
        Moment,
        demand::Reading,
        runner::{Call, CallResult, Failure},
        world::Session,
    },
    provision::{Refusal, Standing},
    runner::cluster::{ClusterError, Sighting},
    scaleset::{Agent, GroupAccess, Message, Note, Statistics},
};

/// One fact.
#[derive(Debug)]
pub(super) enum Event {
    Queue(SetName, QueueEvent),
    /// In which view of the pods ([`super::tenure::Views`]).
    Sighting(u64, Sighting),
    Start(SetName, RunnerName, StartEvent),
    Called {
        set: SetName,
        name: RunnerName,
        call: Call,
        result: CallResult,
        /// A place at the provisioner's own service was given back.
        place_freed: bool,
        /// The provisioner's service would not.
        refusal: Option<Refusal>,
    },
    /// The agents list of one way to GitHub; `None` when it could not be had.
    Agents {
        github: String,
        began: Moment,
        agents: Option<Vec<Agent>>,
    },
    Swept(Subject, Findings),
    /// How the account of this set, and of those that share it, stands with its service; `None` when the question came
    /// to nothing.
    Probed(Arc<SetParts>, Option<Result<Standing, Refusal>>),
    /// Whom the runner groups of one way to GitHub let in; `None` when that could not be had.
    Groups {
        github: String,
        access: Option<BTreeMap<String, GroupAccess>>,
    },
}

/// From the task of one set's queue.
#[derive(Debug)]
pub(super) enum QueueEvent {
    Registered {
        scale_set_id: i64,
        notes: Vec<Note>,
    },
    Session(Session),
    /// A session is open: these are its first statistics. Answered when the capacity is worked out.
    Opened {
        statistics: Option<Statistics>,
        began: Moment,
        done: oneshot::Sender<()>,
    },
    /// Statistics of a refresh.
    Statistics {
        statistics: Statistics,
        began: Moment,
    },
    /// A poll was answered by silence.
    Polled,
    /// Answered when every entry is taken in: only then may the message be deleted.
    Message {
        message: Message,
        /// It may have been delivered before: newer statistics than its own have been told already.
        replayed: bool,
        began: Moment,
        done: oneshot::Sender<()>,
    },
}

/// From the start of one runner.
#[derive(Debug)]
pub(super) enum StartEvent {
    Granted {
        agent_id: Option<i64>,
        gharts_id: Option<String>,
    },
    PodCreated {
        uid: String,
    },
    Finished(Result<(), StartError>),
}

/// Why a start came to nothing.
#[derive(Debug)]
pub(super) struct StartError {
    pub failure: Failure,
    /// A registration may exist.
    pub registered: bool,
    pub cause: Cause,
}

#[derive(Debug)]
pub(super) enum Cause {
    Refused(Refusal),
    Cluster(ClusterError),
    /// Its deadline passed meanwhile, or the Lease was not renewed.
    GivenUp,
    /// A fault of this program; its words.
    Panicked(String),
}

impl From<Statistics> for Reading {
    fn from(s: Statistics) -> Self {
        Self {
            available: s.total_available_jobs,
            acquired: s.total_acquired_jobs,
            assigned: s.total_assigned_jobs,
            running: s.total_running_jobs,
            registered: s.total_registered_runners,
            busy: s.total_busy_runners,
            idle: s.total_idle_runners,
        }
    }
}
