//! One crate for all integration tests: a file for each command, the queue, the listener, the whole way.

mod build;
mod evaluate_fixtures;
mod push;
mod queue;
mod registry;
mod support;
