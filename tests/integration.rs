//! One crate for all integration tests: a file for each command, the queue, the listener, the whole way.

mod listener;
mod listener_limits;
mod support;
