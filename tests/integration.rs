//! One crate for all integration tests: a file for each command, the queue, the listener, the whole way.

// Clippy knows `#[test]` functions as tests, but not the helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod build;
mod catchup;
mod ci_use;
mod config_cli;
mod doctor;
mod documents;
mod evaluate_fixtures;
mod git_sources;
mod hook;
mod house;
mod init;
mod interrupt;
mod jobs;
mod listener;
mod listener_http;
mod listener_limits;
mod push;
mod queue;
mod registry;
mod run;
mod security;
mod serve;
mod stack;
mod support;
mod tutorial;
