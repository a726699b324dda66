//! One crate for all integration tests: a file for each command, the queue, the listener, the whole way.

mod catchup;
mod evaluate_fixtures;
mod queue;
mod registry;
mod support;
