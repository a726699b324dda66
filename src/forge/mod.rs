//! Bytes and headers → [`Delivery`], independent of the forge.
//!
//! `headers.rs` recognizes the forge and finds the signature, `signature.rs` verifies it, and one file per family reads
//! its payloads. A new forge is a variant of [`ForgeName`] and an arm in each. [`crate::decide`] decides whether to
//! build.

pub(crate) mod api;
mod bitbucket;
mod body;
mod github;
mod gitlab;
mod headers;
mod shape;
pub mod signature;
mod wire;

use crate::documents::ReportedChange;
use crate::error::Failure;
use crate::model::{ForgeName, RepoName};

pub use body::Encoding;
pub use headers::Lookup;
pub(crate) use headers::{READ, delivery_id, event, is_signed, unsigned};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The sender.
    pub forge: ForgeName,
    /// The repository; `None` for deliveries about an account, and for an invalid name.
    pub repository: Option<RepoName>,
    pub event: Event,
    /// The pull request of the event, as far as it is readable. Without a merge nothing landed, so its commit is absent.
    pub change: Option<ReportedChange>,
}

/// The event of a delivery. A closed enum, so that the compiler finds every place that must handle a new kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A test of the webhook.
    Ping,
    /// A pull request was closed by merging it: the only event that announces a merge.
    Merged,
    /// A pull request was closed without merging it; with the payload's value, `None` if absent.
    Closed { merged: Option<bool> },
    /// The delivery contradicts itself: the event is a close or a merge, but the pull request has another state. GitHub
    /// occasionally sends this for a merged pull request, so a merge may be lost.
    Contradiction { state: String },
    /// Another event of a pull request, merged or not; with the forge's name for it, `None` if the payload has none.
    Touched { action: Option<String> },
    /// Any other event: a push, a comment, a review, or one unknown to this version. Without a name, the event header is
    /// missing and the payload does not identify the event.
    Other { name: Option<String> },
}

/// The metadata of a payload.
#[derive(Debug, Clone, Copy, Default)]
pub struct Headers<'a> {
    /// The event header. If absent or empty, the payload's shape determines the event.
    pub event: Option<&'a str>,
    pub encoding: Encoding,
    /// The forge from the command line; otherwise the payload's shape determines it.
    pub forge: Option<ForgeName>,
}

/// A required field is missing or invalid; `problem` is the end of a sentence.
fn invalid(path: &str, problem: impl std::fmt::Display) -> Failure {
    Failure::bad_input(format!("the payload's `{path}` {problem}"))
}

/// The payload of an unsupported forge; `mark` is the JSON path of the key that identifies it.
fn unsupported(forge: &str, mark: &str) -> Failure {
    let known = ForgeName::ALL.map(ForgeName::title).join(", ");
    Failure::bad_input(format!(
        "the payload comes from {forge}, which swanci does not support (recognized by `{mark}`)"
    ))
    .hint(format!(
        "supported are the webhooks of {known}; `swanci catchup` builds the merges of any git repository"
    ))
}

/// Parses a delivery.
///
/// # Errors
/// If the bytes are not a JSON object, come from an unsupported system, or announce a merge without a required field.
pub fn parse(body: &[u8], headers: Headers<'_>) -> Result<Delivery, Failure> {
    let json = body::json(body, headers.encoding)?;
    let top = wire::JsonObject::top(body::text(&json)?)?;
    // `--forge` does not turn a document of swanci into a payload.
    if let Some(hint) = shape::own_document(&top) {
        let text = "this is a document of swanci's own, not a webhook payload";
        return Err(Failure::bad_input(text).hint(hint));
    }
    let forge = headers.forge.map_or_else(|| shape::recognize(&top), Ok)?;
    let event = headers.event.map(str::trim_ascii).filter(|event| !event.is_empty());
    match forge {
        ForgeName::Github
        | ForgeName::Gitea
        | ForgeName::Forgejo
        | ForgeName::Gogs
        | ForgeName::Gitbucket => github::read(forge, &top, event),
        ForgeName::Gitlab => gitlab::read(&top, event),
        ForgeName::Bitbucket | ForgeName::BitbucketServer => bitbucket::read(forge, &top, event),
    }
}

/// Recognizes the forge of a payload without headers by its shape.
pub(crate) fn recognize(body: &[u8]) -> Result<ForgeName, Failure> {
    let json = body::json(body, Encoding::Detect)?;
    shape::recognize(&wire::JsonObject::top(body::text(&json)?)?)
}
