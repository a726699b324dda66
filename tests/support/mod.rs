//! The harness: real servers on ephemeral loopback ports, which end with the test that started them.

pub(crate) mod http;

pub mod github_api;
pub mod program;
pub mod proxy;
pub mod registry;
pub mod token_server;
