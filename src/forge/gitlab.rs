//! GitLab's merge requests, from webhooks of projects and from system hooks (docs.gitlab.com, "Webhook events").

use super::wire::JsonObject;
use super::{Delivery, Event};
use crate::documents::ReportedChange;
use crate::error::Failure;
use crate::model::{BranchName, CommitSha, ForgeName, PullRequest, RepoName};

pub(super) fn read(top: &JsonObject<'_>, event: Option<&str>) -> Result<Delivery, Failure> {
    let subject = top.peek_text("object_kind").or_else(|| top.peek_text("event_type"));
    let by_header = matches!(event, None | Some("Merge Request Hook" | "System Hook" | "merge_request"));
    let repository = full_name(top);
    let (event, change) = if by_header && subject.as_deref() == Some("merge_request") {
        let attributes = top.object("object_attributes")?;
        let change = repository.clone().map(|name| reported(top, &attributes, name));
        (merge_request(top, &attributes)?, change)
    } else {
        let name = event.map(str::to_owned).or(subject).or_else(|| top.peek_text("event_name"));
        (Event::Other { name }, None)
    };
    Ok(Delivery { forge: ForgeName::Gitlab, repository, event, change })
}

/// The delivery's project: for a merge request, the target project.
fn full_name(top: &JsonObject<'_>) -> Option<RepoName> {
    let (project, target) = (top.peek("project"), top.peek("object_attributes").peek("target"));
    let by_path = [&project, &target, top].into_iter().find_map(|at| at.peek_as("path_with_namespace"));
    by_path.or_else(|| top.peek_as("project_path_with_namespace")).or_else(|| {
        let repository = top.peek("repository");
        let urls = [(&project, "git_http_url"), (&project, "web_url"), (&target, "git_http_url")];
        let more = [(&target, "http_url"), (&target, "web_url"), (&repository, "homepage")];
        urls.into_iter().chain(more).find_map(|(at, key)| {
            let url = url::Url::parse(&at.peek_text(key)?).ok()?;
            let path = url.path().trim_matches('/');
            path.strip_suffix(".git").unwrap_or(path).parse::<RepoName>().ok().filter(RepoName::has_owner)
        })
    })
}

fn merge_request(top: &JsonObject<'_>, attributes: &JsonObject<'_>) -> Result<Event, Failure> {
    let (action, state) = (attributes.peek_text("action"), attributes.peek_text("state"));
    Ok(match (action.as_deref(), state) {
        (Some("merge"), Some(state)) if state == "merged" => {
            require(top, attributes)?;
            Event::Merged
        }
        (Some("merge"), Some(state)) => Event::Contradiction { state },
        (Some("merge"), None) => Event::Closed { merged: None },
        (Some("close"), _) => Event::Closed { merged: Some(false) },
        (_, _) => Event::Touched { action },
    })
}

/// The data of a merge that must be there; the error has its path.
fn require(top: &JsonObject<'_>, attributes: &JsonObject<'_>) -> Result<(), Failure> {
    if full_name(top).is_none() {
        top.object("project")?.needed::<RepoName>("path_with_namespace")?;
    }
    attributes.needed::<BranchName>("target_branch")?;
    attributes.number("iid")?.ok_or_else(|| attributes.missing("iid"))?;
    for key in ["merge_commit_sha", "squash_commit_sha"] {
        if attributes.has(key) {
            attributes.needed::<CommitSha>(key)?;
        }
    }
    Ok(())
}

fn reported(top: &JsonObject<'_>, attributes: &JsonObject<'_>, name: RepoName) -> ReportedChange {
    let (project, target) = (top.peek("project"), attributes.peek("target"));
    let http_url = |at: &JsonObject<'_>| at.peek_url("git_http_url").or_else(|| at.peek_url("http_url"));
    let landed = attributes.peek_text("state").as_deref() == Some("merged");
    // Both are null after a fast-forward: then the head landed, which the build verifies.
    let commit = attributes.peek_as("merge_commit_sha").or_else(|| attributes.peek_as("squash_commit_sha"));
    let commit = commit.filter(|_| landed);
    let time = |key: &str| attributes.peek_time(key).filter(|_| commit.is_none());
    let (created_at, merged_at, user) = (time("created_at"), time("merged_at"), top.peek("user"));
    // The payload names the user of the action, but gives only the id of the author.
    let is_author = attributes.peek_number("author_id").is_some_and(|id| user.peek_number("id") == Some(id));
    ReportedChange {
        forge: Some(ForgeName::Gitlab),
        forge_url: None,
        repository: name,
        clone_url: http_url(&project).or_else(|| http_url(&target)),
        commit,
        branch: attributes.peek_as("target_branch"),
        default_branch: project.peek_as("default_branch").or_else(|| target.peek_as("default_branch")),
        pull_request: attributes.peek_number("iid").map(|number| PullRequest {
            number,
            title: attributes.peek_text("title"),
            author: user.peek_text("username").filter(|_| is_author),
            url: attributes.peek_text("url"),
            head: attributes.peek("last_commit").peek_as("id"),
            created_at,
            merged_at,
            landed_prefix: None,
        }),
    }
}
