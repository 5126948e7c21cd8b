//! Gates in front of each destination.
//!
//! | file | what it is |
//! | --- | --- |
//! | [`gate`] | how many calls at once and how many per second, removals first, sets in turn |
//! | [`breaker`] | PURE: whether a server that keeps failing is asked at all |
//!
//! One gate and one breaker per server, whatever the number of scale sets that use it.

pub mod breaker;
pub mod gate;

pub use breaker::{Admission, Breaker, Outcome, SharedBreaker};
pub use gate::{Gate, Load, Permit, Urgency};
