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
}

/// The event of a delivery. A closed enum, so that the compiler finds every place that must handle a new kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A test of the webhook.
    Ping,
    /// A pull request was closed by merging it: the only event that announces a merge.
    Merged(Box<ReportedChange>),
    /// A pull request was closed without merging it.
    Closed {
        /// The payload's value; `None` if absent.
        merged: Option<bool>,
        /// Nothing landed, so its commit is absent.
        change: Option<Box<ReportedChange>>,
    },
    /// The delivery contradicts itself: the event is a close or a merge, but the pull request has another state. GitHub
    /// occasionally sends this for a merged pull request, so a merge may be lost.
    Contradiction {
        /// The state of the pull request in the payload.
        state: String,
        /// The pull request in the payload.
        change: Option<Box<ReportedChange>>,
    },
    /// Another event of a pull request, merged or not.
    Touched {
        /// The forge's name for it; `None` if the payload has none.
        action: Option<String>,
        /// The pull request in the payload.
        change: Option<Box<ReportedChange>>,
    },
    /// Any other event: a push, a comment, a review, or one unknown to this version.
    Other {
        /// The event header; `None` if it is missing and the payload does not identify the event.
        name: Option<String>,
    },
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

/// Why a payload cannot be read. Exit code 4; 400 over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// Empty, or only white space.
    #[error("the payload is empty")]
    Empty,
    /// JSON is UTF-8 (RFC 8259, section 8.1).
    #[error("the payload is not UTF-8: byte {offset} is wrong")]
    NotUtf8 {
        /// Offset of the first invalid byte.
        offset: usize,
    },
    /// The form around the JSON is invalid.
    #[error("the form-encoded payload {0}")]
    Form(&'static str),
    /// Not a JSON object.
    #[error("the payload is not a JSON object: {0}")]
    Syntax(String),
    /// A required field is missing or invalid.
    #[error("the payload's `{path}` {problem}")]
    Field {
        /// Its JSON path, such as `pull_request.merge_commit_sha`.
        path: String,
        /// The problem, as the end of a sentence.
        problem: String,
    },
    /// It comes from an unsupported forge.
    #[error("the payload comes from {forge}, which swanci does not support (recognized by `{mark}`)")]
    OtherForge {
        forge: &'static str,
        /// The JSON path of the key that identifies it.
        mark: &'static str,
    },
    /// It is a document of swanci itself, not a payload.
    #[error("this is a document of swanci's own, not a webhook payload")]
    OwnDocument {
        /// The command that reads it.
        command: &'static str,
    },
}

impl PayloadError {
    /// The JSON path of the error, if known.
    pub fn path(&self) -> Option<&str> {
        match self {
            PayloadError::Field { path, .. } => Some(path),
            PayloadError::OtherForge { mark, .. } => Some(mark),
            PayloadError::Empty
            | PayloadError::NotUtf8 { .. }
            | PayloadError::Form(_)
            | PayloadError::OwnDocument { .. }
            | PayloadError::Syntax(_) => None,
        }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            PayloadError::OwnDocument { command } => Some(format!("give it to `swanci {command}`")),
            PayloadError::OtherForge { .. } => {
                let known = ForgeName::ALL.map(ForgeName::title).join(", ");
                Some(format!(
                    "supported are the webhooks of {known}; `swanci catchup` builds the merges of any git repository"
                ))
            }
            PayloadError::Empty
            | PayloadError::NotUtf8 { .. }
            | PayloadError::Form(_)
            | PayloadError::Field { .. }
            | PayloadError::Syntax(_) => None,
        }
    }

    fn field(path: impl Into<String>, problem: impl Into<String>) -> PayloadError {
        PayloadError::Field { path: path.into(), problem: problem.into() }
    }
}

/// Parses a delivery.
///
/// # Errors
/// [`PayloadError`] if the bytes are not a JSON object, come from an unsupported system, or announce a merge without a
/// required field.
pub fn parse(body: &[u8], headers: Headers<'_>) -> Result<Delivery, PayloadError> {
    let text = body::json_text(body, headers.encoding)?;
    let top = wire::Object::top(&text)?;
    let forge = match headers.forge {
        // `--forge` does not turn a document of swanci into a payload.
        Some(forge) => match shape::own_document(&top) {
            Some(command) => return Err(PayloadError::OwnDocument { command }),
            None => forge,
        },
        None => shape::recognize(&top)?,
    };
    let event = headers.event.map(str::trim_ascii).filter(|event| !event.is_empty());
    match forge {
        ForgeName::Github
        | ForgeName::Gitea
        | ForgeName::Forgejo
        | ForgeName::Gogs
        | ForgeName::Gitbucket => github::read(forge, &top, event),
        ForgeName::Gitlab => gitlab::read(&top, event),
        ForgeName::Bitbucket => bitbucket::cloud(&top, event),
        ForgeName::BitbucketServer => bitbucket::data_center(&top, event),
    }
}

/// Recognizes the forge of a payload without headers by its shape.
pub(crate) fn recognize(body: &[u8]) -> Result<ForgeName, PayloadError> {
    let text = body::json_text(body, Encoding::Detect)?;
    shape::recognize(&wire::Object::top(&text)?)
}
