//! The hunt: thousands of worlds, each drawn from a seed, each with faults at the worst moments, each judged by the
//! world and not by the daemon.
//!
//! | file | what it is |
//! | --- | --- |
//! | [`plan`] | plain data: the world's shape, the jobs that come, what goes wrong when |
//! | `draw` | from a seed to a plan |
//! | `known`, `near` | plans that have shown a bug once, and what a seed makes of one |
//! | `apply` | from a fault to what happens in the world, and its end |
//! | `run`, `process`, `aftermath` | carry a plan out, under virtual time: time and turns, the daemon's lives, the end |
//! | `wave` | when all is well again, as many jobs as the limits let run at one time |
//! | `judge` | the invariants, checked at every call |
//! | `rules` | what the daemon's file says and has said lately, for the judge |
//! | `queue` | what the daemon was told of its jobs, for the judge |
//! | `strangers` | another installation, never to be touched |
//! | `shrink` | from a plan that fails to the shortest that still does |
//! | `subject` | the program under test, as the hunt knows it |
//! | `journal` | the timeline, for people |
//!
//! The program under test comes in through [`Subject`]: nothing here knows it.

mod aftermath;
mod apply;
mod draw;
mod journal;
mod judge;
mod known;
mod near;
pub mod plan;
mod process;
mod queue;
mod rules;
mod run;
mod shrink;
mod strangers;
mod subject;
mod wave;

pub use journal::Journal;
pub use judge::{Breach, Invariant};
pub use plan::{KINDS, Plan};
pub use run::{Outcome, run};
pub use shrink::shrink;
pub use subject::{Glance, Kept, Launch, Life, Subject};
