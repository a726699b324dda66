//! GitHub (docs.github.com, "Webhook events and payloads"), and the forges with similar payloads: Gitea, Forgejo, Gogs,
//! GitBucket.

use super::wire::JsonObject;
use super::{Delivery, Event};
use crate::documents::ReportedChange;
use crate::error::Failure;
use crate::model::{BranchName, CommitSha, ForgeName, PullRequest, RepoName};

pub(super) fn read(forge: ForgeName, top: &JsonObject<'_>, event: Option<&str>) -> Result<Delivery, Failure> {
    // An unrelated delivery must not fail here, so a value of another type counts as absent.
    let repository = top.peek("repository").peek_as::<RepoName>("full_name");
    let (event, change) = match event.or_else(|| deduce(top)) {
        Some("ping") => (Event::Ping, None),
        // A workflow's other name for the same payload: it only determines which version of the workflow runs.
        Some("pull_request" | "pull_request_target") => {
            (pull_request(forge, top)?, repository.clone().map(|name| reported(forge, top, name)))
        }
        other => (Event::Other { name: other.map(str::to_owned) }, None),
    };
    Ok(Delivery { forge, repository, event, change })
}

/// The event of a payload without its header. Payloads about a review, a comment or a thread also contain
/// `pull_request`, but have an additional key for their own subject.
fn deduce(top: &JsonObject<'_>) -> Option<&'static str> {
    if top.has("zen") && top.has("hook_id") {
        return Some("ping");
    }
    let about_it = top.is_object("pull_request") && top.is_string("action");
    let about_more = top.has("review") || top.has("comment") || top.has("thread");
    (about_it && !about_more).then_some("pull_request")
}

fn pull_request(forge: ForgeName, top: &JsonObject<'_>) -> Result<Event, Failure> {
    let action = top.text("action")?;
    if action.as_deref() != Some("closed") {
        return Ok(Event::Touched { action });
    }
    let pull = top.object("pull_request")?;
    let state = pull.peek_text("state").filter(|state| state == "open");
    let merged: Option<bool> = pull.read("merged", "true or false")?;
    // GitBucket also closes, without a merge, open pull requests from the target branch of another merge.
    if let (Some(state), true) = (state, forge != ForgeName::Gitbucket || merged == Some(true)) {
        return Ok(Event::Contradiction { state });
    }
    match merged {
        Some(true) => require(forge, top, &pull).map(|()| Event::Merged),
        Some(false) | None => Ok(Event::Closed { merged }),
    }
}

/// The data of a merge that must be there; the error has its path.
fn require(forge: ForgeName, top: &JsonObject<'_>, pull: &JsonObject<'_>) -> Result<(), Failure> {
    let repository = top.object("repository")?;
    let clone_url = repository.url("clone_url")?;
    let base = pull.object("base")?;
    let is_flat = forge == ForgeName::Gogs && !base.has("ref");
    let _: BranchName = if is_flat { pull.needed("base_branch")? } else { base.needed("ref")? };
    let (user, head) = (pull.object("user")?, pull.object("head")?);
    for (object, key) in [(pull, "title"), (pull, "html_url"), (&user, "login"), (&head, "sha")] {
        object.text(key)?;
    }
    if pull.number("number")?.is_none() && top.peek_number("number").is_none() {
        return Err(pull.missing("number"));
    }
    let is_gitea = matches!(forge, ForgeName::Gitea | ForgeName::Forgejo);
    if names_commit(forge) && (pull.has("merge_commit_sha") || !is_gitea) {
        pull.needed::<CommitSha>("merge_commit_sha")?;
    }
    if forge == ForgeName::Github && clone_url.is_none() {
        return Err(repository.missing("clone_url"));
    }
    repository.needed::<RepoName>("full_name").map(drop)
}

/// The readable parts of a pull request.
fn reported(forge: ForgeName, top: &JsonObject<'_>, repository: RepoName) -> ReportedChange {
    let (of, pull) = (top.peek("repository"), top.peek("pull_request"));
    let number = pull.peek_number("number").or_else(|| top.peek_number("number"));
    let merged = pull.read("merged", "").ok().flatten() == Some(true);
    let landed = pull.peek_as::<CommitSha>("merge_commit_sha");
    // In Gogs it is the head.
    let gogs_head = landed.clone().filter(|_| forge == ForgeName::Gogs);
    // Before the merge, GitHub's value is a trial merge that is on no branch.
    let commit = landed.filter(|_| merged && names_commit(forge));
    // The times help to find the commit that landed if it is not reported.
    let time = |key: &str| pull.peek_time(key).filter(|_| commit.is_none());
    let user = pull.peek("user");
    let pull_request = number.map(|number| PullRequest {
        number,
        title: pull.peek_text("title"),
        author: user.peek_text("login").or_else(|| user.peek_text("username")),
        url: pull.peek_text("html_url"),
        head: pull.peek("head").peek_as("sha").or(gogs_head),
        created_at: time("created_at"),
        merged_at: time("merged_at"),
        landed_prefix: None,
    });
    ReportedChange {
        forge: Some(forge),
        forge_url: None,
        repository,
        clone_url: of.peek_url("clone_url"),
        branch: pull.peek("base").peek_as::<BranchName>("ref").or_else(|| pull.peek_as("base_branch")),
        default_branch: of.peek_as("default_branch"),
        pull_request,
        commit,
    }
}

/// Whether `merge_commit_sha` is what landed: in Gogs it is the head's tip, and GitBucket has none.
fn names_commit(forge: ForgeName) -> bool {
    !matches!(forge, ForgeName::Gogs | ForgeName::Gitbucket)
}
