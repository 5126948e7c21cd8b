//! Every recorded answer of the real GHARTS, held against both halves: what the daemon makes of it, and whether
//! the simulated GHARTS says the same.

mod classify;
mod simulator;
