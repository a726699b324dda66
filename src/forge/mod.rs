//! Bytes and headers → [`Delivery`]: what a forge said, in words that are the same for every forge.
//!
//! `headers.rs` tells the forge and finds the signature, `signature.rs` verifies it, and one file for each family
//! reads its payloads. A new forge is a variant of [`ForgeName`] and an arm in each. Nothing here decides whether to build:
//! that is [`crate::decide`].

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

/// What a forge delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Who sent it.
    pub forge: ForgeName,
    /// The repository it is about; `None` for deliveries about an account, and for a name that no repository has.
    pub repository: Option<RepoName>,
    /// What happened.
    pub event: Event,
}

/// What happened on the forge. Closed, so that a new kind does not compile until every place has classified it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The forge tries the hook out.
    Ping,
    /// A pull request was closed by merging it: the one delivery that announces a merge.
    Merged(Box<ReportedChange>),
    /// A pull request was closed, and not by merging it.
    Closed {
        /// What the payload says; `None` when it says nothing.
        merged: Option<bool>,
        /// Nothing landed, so its commit is absent.
        change: Option<Box<ReportedChange>>,
    },
    /// A delivery that contradicts itself: closed or merged, and the pull request in it is in another state. GitHub
    /// now and then sends it for a pull request that was merged, so a merge may be lost with it.
    Contradiction {
        /// The state that the pull request is said to be in.
        state: String,
        /// The pull request as the delivery describes it.
        change: Option<Box<ReportedChange>>,
    },
    /// Something else happened to a pull request, merged or not.
    Touched {
        /// The forge's word for it; `None` when the payload has none.
        action: Option<String>,
        /// The pull request as it stands.
        change: Option<Box<ReportedChange>>,
    },
    /// Anything else: a push, a comment, a review, an event that did not exist when this was written.
    Other {
        /// The event header; `None` when there was none and the payload does not tell.
        name: Option<String>,
    },
}

/// What came with a payload's bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Headers<'a> {
    /// The event header. When it is absent or empty, the event is deduced from the payload's shape.
    pub event: Option<&'a str>,
    /// How the body is written.
    pub encoding: Encoding,
    /// The forge, when a person named it; otherwise the payload's shape tells it.
    pub forge: Option<ForgeName>,
}

/// Why a payload cannot be read. All of them are exit code 4, and 400 over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// There are no bytes, or only white space.
    #[error("the payload is empty")]
    Empty,
    /// JSON is UTF-8 (RFC 8259, section 8.1).
    #[error("the payload is not UTF-8: byte {offset} is wrong")]
    NotUtf8 {
        /// Offset of the first wrong byte.
        offset: usize,
    },
    /// The form around the JSON is wrong.
    #[error("the form-encoded payload {0}")]
    Form(&'static str),
    /// It is no JSON object.
    #[error("the payload is not a JSON object: {0}")]
    Syntax(String),
    /// It is JSON, but a field that the verdict needs is missing or wrong.
    #[error("the payload's `{path}` {problem}")]
    Field {
        /// Where, as a JSON path: `pull_request.merge_commit_sha`.
        path: String,
        /// What is wrong with it, as the rest of a sentence.
        problem: String,
    },
    /// It comes from a forge that is not supported.
    #[error("the payload comes from {forge}, which swanci does not support (recognized by `{mark}`)")]
    OtherForge {
        /// The forge's name.
        forge: &'static str,
        /// The JSON path of the key that identifies it.
        mark: &'static str,
    },
    /// It is not a payload but a document of swanci's own.
    #[error("this is a document of swanci's own, not a webhook payload")]
    OwnDocument {
        /// The command that takes it.
        command: &'static str,
    },
}

impl PayloadError {
    /// The JSON path of what is wrong, where there is one.
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

    /// What a person can do about it.
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

    /// A field that is wrong.
    fn field(path: impl Into<String>, problem: impl Into<String>) -> PayloadError {
        PayloadError::Field { path: path.into(), problem: problem.into() }
    }
}

/// Reads what a forge delivered.
///
/// # Errors
/// [`PayloadError`] when the bytes are not a JSON object, come from a system that is not supported, or announce a
/// merge without saying properly what was merged where.
pub fn parse(body: &[u8], headers: Headers<'_>) -> Result<Delivery, PayloadError> {
    let text = body::json_text(body, headers.encoding)?;
    let top = wire::Object::top(&text)?;
    let forge = match headers.forge {
        // `--forge` does not turn a document of swanci's own into a payload.
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

/// The forge that a payload without headers comes from, by its shape.
pub(crate) fn recognize(body: &[u8]) -> Result<ForgeName, PayloadError> {
    let text = body::json_text(body, Encoding::Detect)?;
    shape::recognize(&wire::Object::top(&text)?)
}
