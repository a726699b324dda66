//! swanci turns a merged pull request into Docker images in a private registry.

pub mod cancel;
pub mod config;
pub mod decide;
pub mod docker;
pub mod documents;
pub mod error;
pub mod escape;
pub mod forge;
pub mod git;
pub mod lock;
pub mod model;
pub mod process;
pub mod progress;
pub mod redact;
pub mod registry;
