//! The one integration binary: modules by behaviour.
#![allow(clippy::pedantic, clippy::missing_panics_doc, reason = "tests are sentences")]

mod architecture;
mod config;
mod contract;
mod gharts_recorded;
mod github_protocol;
mod kubernetes_model;
mod scale_set_client;
mod whole_system;
