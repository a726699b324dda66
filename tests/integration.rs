//! One crate for all integration tests: a file for each command, the queue, the listener, and end-to-end tests.
//!
//! `cargo test --test integration -- --skip engine::` needs neither docker nor root.

// Clippy recognises `#[test]` functions as tests, but not their helpers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod check;
mod documents;
mod evaluate_fixtures;
mod forges;
mod hook;
mod init;
mod landed;
mod listener;
mod listener_http;
mod listener_limits;
mod queue;
mod registry;
mod support;

/// Tests that need a docker engine: the one that `docker` on the PATH, `DOCKER_HOST` and `DOCKER_CONFIG` select.
#[path = "."]
mod engine {
    mod build;
    mod catchup;
    mod ci_use;
    mod config_cli;
    mod doctor;
    mod git_sources;
    mod gitea;
    mod identity;
    mod interrupt;
    mod jobs;
    mod push;
    mod remote_builder;
    mod run;
    mod security;
    mod serve;
    mod stack;
    mod statuses;
    mod terminal;
    mod tutorial;
}
