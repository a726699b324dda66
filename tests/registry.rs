//! The registry client against Debian's `docker-registry`, and against faults between them.

#![allow(clippy::disallowed_methods, reason = "tests may spawn")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test fails loudly")]

mod absent;
mod answers;
mod credentials;
mod faults;
mod login;
mod proxies;
mod tls;
mod verify;

use swanci::model::{Digest, ImageName, Tag};

pub(crate) fn image(name: &str) -> ImageName {
    name.parse().unwrap()
}

pub(crate) fn tag(tag: &str) -> Tag {
    tag.parse().unwrap()
}

pub(crate) fn nothing() -> Digest {
    format!("sha256:{}", "0".repeat(64)).parse().unwrap()
}
