//! Every recorded answer of the real GHARTS, against what we make of it.

mod classify;
