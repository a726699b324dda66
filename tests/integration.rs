//! One crate for all integration tests: a file for each command, the queue, the listener, the whole way.

// Clippy knows `#[test]` functions as tests, but not the helpers beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod evaluate_fixtures;
mod listener;
mod listener_http;
mod listener_limits;
mod queue;
mod registry;
mod stack;
mod support;
