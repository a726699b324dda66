//! GitHub (docs.github.com, "Webhook events and payloads"), and the forges with similar payloads: Gitea, Forgejo, Gogs,
//! GitBucket.

use super::wire::Object;
use super::{Delivery, Event, PayloadError};
use crate::documents::ReportedChange;
use crate::model::{BranchName, CommitSha, ForgeName, PullRequest, RepoName};

/// The kind of a delivery, from its shape only.
enum Kind {
    Ping,
    PullRequest,
    Other(Option<String>),
}

pub(super) fn read(
    forge: ForgeName,
    top: &Object<'_>,
    event: Option<&str>,
) -> Result<Delivery, PayloadError> {
    let kind = match event {
        Some("ping") => Kind::Ping,
        // A workflow's other name for the same payload: it only determines which version of the workflow runs.
        Some("pull_request" | "pull_request_target") => Kind::PullRequest,
        Some(other) => Kind::Other(Some(other.to_owned())),
        None => deduce(top),
    };
    // An unrelated delivery must not fail here, so a value of another type counts as absent.
    let name = top.peek("repository").peek_as::<RepoName>("full_name");
    let event = match kind {
        Kind::Ping => Event::Ping,
        Kind::Other(name) => Event::Other { name },
        Kind::PullRequest => pull_request(forge, top, name.clone())?,
    };
    Ok(Delivery { forge, repository: name, event })
}

/// The event of a payload without its header. Payloads about a review, a comment or a thread also contain
/// `pull_request`, but have an additional key for their own subject.
fn deduce(top: &Object<'_>) -> Kind {
    if top.has("zen") && top.has("hook_id") {
        return Kind::Ping;
    }
    let about_it = top.is_object("pull_request") && top.is_string("action");
    let about_more = top.has("review") || top.has("comment") || top.has("thread");
    if about_it && !about_more { Kind::PullRequest } else { Kind::Other(None) }
}

fn pull_request(forge: ForgeName, top: &Object<'_>, name: Option<RepoName>) -> Result<Event, PayloadError> {
    let action = top.text("action")?;
    if action.as_deref() != Some("closed") {
        return Ok(Event::Touched { action, change: reported(forge, top, name) });
    }
    let pull = top.object("pull_request")?;
    let state = pull.peek_text("state").filter(|state| state == "open");
    let merged: Option<bool> = pull.read("merged", "true or false")?;
    // GitBucket also closes, without a merge, open pull requests from the target branch of another merge.
    if let (Some(state), true) = (state, forge != ForgeName::Gitbucket || merged == Some(true)) {
        return Ok(Event::Contradiction { state, change: reported(forge, top, name) });
    }
    match merged {
        Some(true) => merge(forge, top, &pull).map(|change| Event::Merged(Box::new(change))),
        Some(false) | None => Ok(Event::Closed { merged, change: reported(forge, top, name) }),
    }
}

/// The change of a merge; missing data is an error with its path.
fn merge(forge: ForgeName, top: &Object<'_>, pull: &Object<'_>) -> Result<ReportedChange, PayloadError> {
    let repository = top.object("repository")?;
    let clone_url = repository.url("clone_url")?;
    let base = pull.object("base")?;
    let is_flat = forge == ForgeName::Gogs && !base.has("ref");
    let branch = if is_flat { pull.needed("base_branch")? } else { base.needed("ref")? };
    let (user, head) = (pull.object("user")?, pull.object("head")?);
    for (object, key) in [(pull, "title"), (pull, "html_url"), (&user, "login"), (&head, "sha")] {
        object.text(key)?;
    }
    let number: Option<u64> = pull.read("number", "the number of a pull request")?;
    let number = number.or_else(|| top.peek_number("number")).ok_or_else(|| pull.missing("number"))?;
    let is_gitea = matches!(forge, ForgeName::Gitea | ForgeName::Forgejo);
    let is_said = names_commit(forge) && (pull.has("merge_commit_sha") || !is_gitea);
    let commit = is_said.then(|| pull.needed("merge_commit_sha")).transpose()?;
    if forge == ForgeName::Github && clone_url.is_none() {
        return Err(repository.missing("clone_url"));
    }
    Ok(ReportedChange {
        forge: Some(forge),
        forge_url: None,
        repository: repository.needed("full_name")?,
        clone_url,
        commit,
        branch: Some(branch),
        default_branch: repository.peek_as("default_branch"),
        pull_request: Some(PullRequest { number, ..described(forge, pull, is_said) }),
    })
}

/// The readable parts of a pull request that is not being merged.
fn reported(forge: ForgeName, top: &Object<'_>, name: Option<RepoName>) -> Option<Box<ReportedChange>> {
    let (repository, pull) = (top.peek("repository"), top.peek("pull_request"));
    let number = pull.peek_number("number").or_else(|| top.peek_number("number"));
    let merged = pull.read("merged", "").ok().flatten() == Some(true);
    // Before the merge, GitHub's value is a trial merge that is on no branch.
    let landed = pull.peek_as::<CommitSha>("merge_commit_sha").filter(|_| merged && names_commit(forge));
    let is_said = landed.is_some();
    Some(Box::new(ReportedChange {
        forge: Some(forge),
        forge_url: None,
        repository: name?,
        clone_url: repository.peek_url("clone_url"),
        commit: landed,
        branch: pull.peek("base").peek_as::<BranchName>("ref").or_else(|| pull.peek_as("base_branch")),
        default_branch: repository.peek_as("default_branch"),
        pull_request: number.map(|number| PullRequest { number, ..described(forge, &pull, is_said) }),
    }))
}

/// Whether `merge_commit_sha` is what landed: in Gogs it is the head's tip, and GitBucket has none.
fn names_commit(forge: ForgeName) -> bool {
    !matches!(forge, ForgeName::Gogs | ForgeName::Gitbucket)
}

/// All fields but the number. The times help to find the commit that landed if it is not reported.
fn described(forge: ForgeName, pull: &Object<'_>, is_said: bool) -> PullRequest {
    let time = |key: &str| pull.peek_time(key).filter(|_| !is_said);
    let user = pull.peek("user");
    let head = pull.peek("head").peek_as("sha");
    let head = head.or_else(|| pull.peek_as("merge_commit_sha").filter(|_| forge == ForgeName::Gogs));
    PullRequest {
        number: 0,
        title: pull.peek_text("title"),
        author: user.peek_text("login").or_else(|| user.peek_text("username")),
        url: pull.peek_text("html_url"),
        head,
        created_at: time("created_at"),
        merged_at: time("merged_at"),
        landed_prefix: None,
    }
}
