//! swanci turns a merged pull request into Docker images in a private registry.

pub mod cancel;
pub mod cli;
pub mod commands;
pub mod config;
pub mod decide;
pub mod docker;
pub mod documents;
pub mod error;
pub mod escape;
pub mod forge;
pub mod git;
mod json;
pub mod listener;
pub mod lock;
pub mod manifest;
pub mod model;
pub mod parallel;
pub mod pipeline;
pub mod plan;
pub mod process;
pub mod progress;
pub mod queue;
pub mod redact;
pub mod registry;
pub mod signals;
