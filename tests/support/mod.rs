//! The harness: what the tests of several rooms share.

pub(crate) mod http;
