//! GitHub's payloads (docs.github.com, "Webhook events and payloads"; GitHub Enterprise sends the same).

use std::str::FromStr;

use super::wire::{self, Repository, Shape, is_string, string};
use super::{Delivery, Event, PayloadError};
use crate::documents::ReportedChange;
use crate::escape::shortened;
use crate::model::{CommitSha, ForgeName, PullRequest, RepoName};

/// Longer than any URL that a forge gives out.
const MAX_URL: usize = 2048;

/// A pull request as it is read: every field has its type, or the payload is wrong.
#[derive(Default)]
struct PullFields {
    number: Option<u64>,
    title: Option<String>,
    html_url: Option<String>,
    author: Option<String>,
    state: Option<String>,
    merged: Option<bool>,
    merge_commit_sha: Option<String>,
    base_branch: Option<String>,
    head_sha: Option<String>,
}

impl PullFields {
    fn read(shape: &Shape<'_>) -> Result<PullFields, PayloadError> {
        // It also stands beside the pull request; unreadable, it is absent there.
        let number_beside = wire::read(shape.number, "number", "a number").unwrap_or_default();
        let Some(pull) = shape.pull_request.needed_as_object("pull_request")? else {
            return Ok(PullFields { number: number_beside, ..PullFields::default() });
        };
        let user = pull.user.needed_as_object("pull_request.user")?;
        let base = pull.base.needed_as_object("pull_request.base")?;
        let head = pull.head.needed_as_object("pull_request.head")?;
        let number = wire::read(pull.number, "pull_request.number", "the number of a pull request")?;
        Ok(PullFields {
            number: number.or(number_beside),
            title: string(pull.title, "pull_request.title")?,
            html_url: string(pull.html_url, "pull_request.html_url")?,
            author: string(user.and_then(|user| user.login), "pull_request.user.login")?,
            // Of another type, it says nothing.
            state: string(pull.state, "").unwrap_or_default(),
            merged: wire::read(pull.merged, "pull_request.merged", "true or false")?,
            merge_commit_sha: string(pull.merge_commit_sha, "pull_request.merge_commit_sha")?,
            base_branch: string(base.and_then(|base| base.branch), "pull_request.base.ref")?,
            head_sha: string(head.and_then(|head| head.sha), "pull_request.head.sha")?,
        })
    }
}

/// What kind of delivery it is, before anything but its shape was read.
enum Kind {
    Ping,
    PullRequest,
    Other(Option<String>),
}

/// Reads a payload whose top level is `shape`.
pub(super) fn read(shape: &Shape<'_>, event: Option<&str>) -> Result<Delivery, PayloadError> {
    let kind = match event.map(str::trim_ascii).filter(|event| !event.is_empty()) {
        Some("ping") => Kind::Ping,
        // A workflow's own name for the same payload: it only says on which code the workflow runs.
        Some("pull_request" | "pull_request_target") => Kind::PullRequest,
        Some(other) => Kind::Other(Some(other.to_owned())),
        None => deduce(shape),
    };
    // A delivery that is not about a pull request cannot fail here: a value of another type counts as absent.
    let name = shape.repository.object().and_then(|repository| readable(repository.full_name));
    let event = match kind {
        Kind::Ping => Event::Ping,
        Kind::Other(name) => Event::Other { name },
        Kind::PullRequest => pull_request(shape, name.clone())?,
    };
    Ok(Delivery { forge: ForgeName::Github, repository: name, event })
}

/// The event of a payload that came without its header. A review, a comment and a thread also carry a
/// `pull_request`, but their own subject stands beside it.
fn deduce(shape: &Shape<'_>) -> Kind {
    if shape.zen.is_some() && shape.hook_id.is_some() {
        return Kind::Ping;
    }
    let about_it = shape.pull_request.object().is_some() && is_string(shape.action);
    let about_more = shape.review.is_some() || shape.comment.is_some() || shape.thread.is_some();
    if about_it && !about_more { Kind::PullRequest } else { Kind::Other(None) }
}

fn pull_request(shape: &Shape<'_>, name: Option<RepoName>) -> Result<Event, PayloadError> {
    let action = string(shape.action, "action")?;
    let nothing = Repository::default();
    let repository = shape.repository.needed_as_object("repository")?.unwrap_or(&nothing);
    let pull = PullFields::read(shape)?;
    let closed = action.as_deref() == Some("closed");
    if closed && pull.state.as_deref() == Some("open") {
        return Ok(Event::ClosedButOpen {
            change: name.map(|name| Box::new(reported(repository, pull, name))),
        });
    }
    if closed && pull.merged == Some(true) {
        return Ok(Event::Merged(Box::new(merge(repository, pull)?)));
    }
    let merged = pull.merged;
    let change = name.map(|name| Box::new(reported(repository, pull, name)));
    Ok(if closed { Event::Closed { merged, change } } else { Event::Touched { action, change } })
}

/// A merge says what landed where, or it is refused with the path of what is missing.
fn merge(repository: &Repository<'_>, pull: PullFields) -> Result<ReportedChange, PayloadError> {
    let clone_url = needed(string(repository.clone_url, "repository.clone_url")?, "repository.clone_url")?;
    check_url(&clone_url, "repository.clone_url")?;
    Ok(ReportedChange {
        forge: Some(ForgeName::Github),
        forge_url: None,
        repository: checked(string(repository.full_name, "repository.full_name")?, "repository.full_name")?,
        clone_url: Some(clone_url),
        commit: Some(checked(pull.merge_commit_sha.clone(), "pull_request.merge_commit_sha")?),
        branch: Some(checked(pull.base_branch.clone(), "pull_request.base.ref")?),
        default_branch: readable(repository.default_branch),
        pull_request: Some(describe(pull).ok_or_else(|| missing("pull_request.number"))?),
    })
}

/// What there is to say about a pull request that is not being merged: as much as is readable.
fn reported(repository: &Repository<'_>, pull: PullFields, name: RepoName) -> ReportedChange {
    let clone_url = string(repository.clone_url, "").unwrap_or_default();
    // While it is not merged, GitHub's `merge_commit_sha` is a trial merge that is on no branch.
    let landed = pull.merge_commit_sha.as_deref().filter(|_| pull.merged == Some(true));
    ReportedChange {
        forge: Some(ForgeName::Github),
        forge_url: None,
        repository: name,
        clone_url: clone_url.filter(|url| check_url(url, "").is_ok()),
        commit: landed.and_then(|sha| sha.parse().ok()),
        branch: pull.base_branch.as_ref().and_then(|branch| branch.parse().ok()),
        default_branch: readable(repository.default_branch),
        pull_request: describe(pull),
    }
}

/// A string of this kind, where there is one.
fn readable<T: FromStr>(value: wire::Raw<'_>) -> Option<T> {
    string(value, "").unwrap_or_default()?.parse().ok()
}

fn describe(pull: PullFields) -> Option<PullRequest> {
    Some(PullRequest {
        number: pull.number?,
        title: pull.title,
        author: pull.author,
        url: pull.html_url,
        head: pull.head_sha.and_then(|sha| sha.parse::<CommitSha>().ok()),
        created_at: None,
        merged_at: None,
        landed_prefix: None,
    })
}

fn missing(path: &str) -> PayloadError {
    PayloadError::field(path, "is missing")
}

fn needed(value: Option<String>, path: &str) -> Result<String, PayloadError> {
    value.ok_or_else(|| missing(path))
}

fn checked<T>(value: Option<String>, path: &str) -> Result<T, PayloadError>
where
    T: TryFrom<String, Error = crate::model::InvalidValue>,
{
    T::try_from(needed(value, path)?).map_err(|e| PayloadError::field(path, format!("is wrong: {e}")))
}

/// Judges a URL's syntax only; which URL may be cloned is for `build` to say.
fn check_url(url: &str, path: &str) -> Result<(), PayloadError> {
    let problem = if url.is_empty() {
        "is empty".to_owned()
    } else if url.len() > MAX_URL {
        format!("is longer than {MAX_URL} bytes")
    } else if url.chars().any(char::is_control) {
        format!("has a control character: `{}`", shortened(url, 80))
    } else if url.starts_with('-') {
        format!("looks like an option: `{}`", shortened(url, 80))
    } else {
        return Ok(());
    };
    Err(PayloadError::field(path, problem))
}
