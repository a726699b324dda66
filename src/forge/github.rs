//! GitHub's payloads (docs.github.com, "Webhook events and payloads"; GitHub Enterprise sends the same).

use serde::Deserialize;
use serde_json::value::RawValue;

use super::wire::{self, Shape, is_object, is_string, string};
use super::{Delivery, Event, PayloadError};
use crate::documents::ReportedChange;
use crate::escape::shortened;
use crate::json::Object;
use crate::model::{BranchName, Change, CommitSha, ForgeName, PullRequest, RepoName};

/// Longer than any URL that a forge gives out.
const MAX_URL: usize = 2048;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireRepository<'a> {
    #[serde(borrow)]
    full_name: Option<&'a RawValue>,
    #[serde(borrow)]
    clone_url: Option<&'a RawValue>,
    #[serde(borrow)]
    default_branch: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WirePullRequest {
    number: Option<u64>,
    title: Option<String>,
    html_url: Option<String>,
    user: Option<Object<WireUser>>,
    merged: Option<bool>,
    merge_commit_sha: Option<String>,
    base: Option<Object<WireBase>>,
    head: Option<Object<WireHead>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireUser {
    login: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireBase {
    #[serde(rename = "ref")]
    branch: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WireHead {
    sha: Option<String>,
}

/// What kind of delivery it is, before anything but its shape was read.
enum Kind {
    Ping,
    PullRequest,
    Other(Option<String>),
}

/// Reads a payload whose top level is `shape`.
pub(super) fn read(shape: &Shape<'_>, event: Option<&str>) -> Result<Delivery, PayloadError> {
    let kind = match event.map(str::trim_ascii) {
        Some("ping") => Kind::Ping,
        Some("pull_request") => Kind::PullRequest,
        Some(other) => Kind::Other(Some(other.to_owned())),
        None => deduce(shape),
    };
    // For a delivery that is no merge nothing here can fail: what is unreadable is absent.
    let repository: WireRepository<'_> = match (&kind, shape.repository) {
        (_, None) => WireRepository::default(),
        (Kind::PullRequest, Some(raw)) => wire::object(raw.get(), "repository")?,
        (Kind::Ping | Kind::Other(_), Some(raw)) => wire::object(raw.get(), "repository").unwrap_or_default(),
    };
    let name: Option<RepoName> =
        string(repository.full_name, "").ok().flatten().and_then(|name| name.parse().ok());
    let event = match kind {
        Kind::Ping => Event::Ping,
        Kind::Other(name) => Event::Other { name },
        Kind::PullRequest => pull_request(shape, &repository, name.clone())?,
    };
    Ok(Delivery { forge: ForgeName::Github, repository: name, event })
}

/// The event of a payload that came without its header. A review, a comment and a thread also carry a
/// `pull_request`, but their own subject stands beside it.
fn deduce(shape: &Shape<'_>) -> Kind {
    if shape.zen.is_some() && shape.hook_id.is_some() {
        return Kind::Ping;
    }
    let about_it = is_object(shape.pull_request) && is_string(shape.action);
    let about_more = shape.review.is_some() || shape.comment.is_some() || shape.thread.is_some();
    if about_it && !about_more { Kind::PullRequest } else { Kind::Other(None) }
}

fn pull_request(
    shape: &Shape<'_>,
    repository: &WireRepository<'_>,
    name: Option<RepoName>,
) -> Result<Event, PayloadError> {
    let action = string(shape.action, "action")?;
    let pull: WirePullRequest = match shape.pull_request {
        Some(raw) => wire::object(raw.get(), "pull_request")?,
        None => WirePullRequest::default(),
    };
    let closed = action.as_deref() == Some("closed");
    if closed && pull.merged == Some(true) {
        return Ok(Event::Merged(Box::new(merge(shape, repository, pull)?)));
    }
    let merged = pull.merged;
    let change = reported(shape, repository, pull, name).map(Box::new);
    Ok(if closed { Event::Closed { merged, change } } else { Event::Touched { action, change } })
}

/// A merge says what landed where, or it is refused with the path of what is missing.
fn merge(
    shape: &Shape<'_>,
    repository: &WireRepository<'_>,
    pull: WirePullRequest,
) -> Result<Change, PayloadError> {
    let branch = pull.base.as_ref().and_then(|base| base.0.branch.clone());
    let clone_url = needed(string(repository.clone_url, "repository.clone_url")?, "repository.clone_url")?;
    check_url(&clone_url, "repository.clone_url")?;
    Ok(Change {
        forge: Some(ForgeName::Github),
        repository: checked(string(repository.full_name, "repository.full_name")?, "repository.full_name")?,
        clone_url,
        commit: checked(pull.merge_commit_sha.clone(), "pull_request.merge_commit_sha")?,
        branch: Some(checked(branch, "pull_request.base.ref")?),
        default_branch: default_branch(repository),
        pull_request: Some(describe(shape, pull).ok_or_else(|| missing("pull_request.number"))?),
    })
}

/// What there is to say about a pull request that is not being merged: as much as is readable.
fn reported(
    shape: &Shape<'_>,
    repository: &WireRepository<'_>,
    pull: WirePullRequest,
    name: Option<RepoName>,
) -> Option<ReportedChange> {
    let clone_url = string(repository.clone_url, "").ok().flatten();
    // While it is not merged, GitHub's `merge_commit_sha` is a trial merge that is on no branch.
    let landed = pull.merge_commit_sha.as_deref().filter(|_| pull.merged == Some(true));
    Some(ReportedChange {
        forge: Some(ForgeName::Github),
        repository: name?,
        clone_url: clone_url.filter(|url| check_url(url, "").is_ok()),
        commit: landed.and_then(|sha| sha.parse().ok()),
        branch: pull.base.as_ref().and_then(|base| base.0.branch.as_ref()?.parse().ok()),
        default_branch: default_branch(repository),
        pull_request: describe(shape, pull),
    })
}

fn default_branch(repository: &WireRepository<'_>) -> Option<BranchName> {
    string(repository.default_branch, "").ok().flatten()?.parse().ok()
}

fn describe(shape: &Shape<'_>, pull: WirePullRequest) -> Option<PullRequest> {
    let number = pull.number.or_else(|| serde_json::from_str(shape.number?.get()).ok())?;
    Some(PullRequest {
        number,
        title: pull.title,
        author: pull.user.and_then(|user| user.0.login),
        url: pull.html_url,
        head: pull.head.and_then(|head| head.0.sha?.parse::<CommitSha>().ok()),
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
