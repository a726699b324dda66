//! swanci turns a merged pull request into Docker images in a private registry.
//!
//! The way of a merge
//!

pub mod cancel;
pub mod documents;
pub mod error;
pub mod listener;
pub mod model;
