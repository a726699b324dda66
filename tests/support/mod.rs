//! The harness: real repositories and engines, and real servers on ephemeral loopback ports, which end with the test
//! that started them.

pub mod engine;
pub mod forge_api;
pub mod github_api;
pub(crate) mod http;
pub mod program;
pub mod proxy;
pub mod registry;
pub mod repository;
pub mod swanci;
pub mod tls_front;
pub mod token_server;
