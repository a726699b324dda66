//! swanci turns a merged pull request into Docker images in a private registry.
//!
//! The way of a merge
//!

pub mod cancel;
pub mod decide;
pub mod documents;
pub mod error;
pub mod escape;
pub mod forge;
mod json;
pub mod manifest;
pub mod model;
