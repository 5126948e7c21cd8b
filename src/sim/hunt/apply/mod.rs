//! From a fault in a plan to what happens in the world, and its end.

mod cluster;
mod gharts;
mod github;
mod wires;

use std::path::Path;

use super::plan::{Plan, Timed};
use crate::{shutdown::Tasks, sim::world::World};

/// A fault at work.
pub(super) struct AtWork {
    end: Box<dyn FnOnce() + Send>,
    met: Box<dyn Fn() -> bool + Send>,
}

impl AtWork {
    fn new(end: impl FnOnce() + Send + 'static, met: impl Fn() -> bool + Send + 'static) -> Self {
        Self {
            end: Box::new(end),
            met: Box::new(met),
        }
    }

    /// It has happened at once, or had nothing to happen to.
    fn done(met: bool) -> Self {
        Self::new(|| {}, move || met)
    }

    /// Ends it. Whether anybody met it.
    pub(super) fn end(self) -> bool {
        (self.end)();
        (self.met)()
    }
}

/// What faults are applied to.
pub(super) struct Stage<'a> {
    pub(super) world: &'a World,
    pub(super) plan: &'a Plan,
    pub(super) tasks: &'a Tasks,
    /// Where the daemon's files are.
    pub(super) dir: &'a Path,
}

impl Stage<'_> {
    /// `None`: it is about the daemon's process.
    pub(super) fn begin(&self, timed: &Timed) -> Option<AtWork> {
        let fault = &timed.fault;
        self.on_the_way(fault)
            .or_else(|| self.of_github(timed))
            .or_else(|| self.of_kubernetes(fault))
            .or_else(|| self.of_pods(timed))
            .or_else(|| self.of_gharts(timed))
    }

    fn set(&self, index: usize) -> &str {
        self.plan.shape.sets.get(index).map_or("", |set| &set.name)
    }
}
