//! The one integration binary: modules by behaviour.
#![allow(
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    unreachable_pub,
    reason = "tests are sentences; a failed one shall say so by panicking"
)]

mod architecture;
mod chart;
mod checks;
mod commands;
mod config;
mod container_modes;
mod contract;
mod fuzz;
mod gharts_recorded;
mod github_protocol;
mod hunt;
mod image;
mod killed;
mod kubernetes_model;
mod one_process;
mod scale_set_client;
mod systemd;
mod two_processes;
mod whole_system;
