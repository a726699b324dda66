//! Bitbucket Cloud (support.atlassian.com, "Event payloads"), and Bitbucket Data Center (confluence.atlassian.com,
//! "Event payload"; its plugin Post Webhooks sends Cloud's events with other keys).

use serde_json::Value;

use super::wire::{JsonObject, is_url};
use super::{Delivery, Event};
use crate::documents::ReportedChange;
use crate::error::Failure;
use crate::model::{BranchName, CommitPrefix, CommitSha, ForgeName, PullRequest, RepoName};

/// The parts of a payload, independent of its kind.
struct Pull<'a> {
    forge: ForgeName,
    pull: JsonObject<'a>,
    /// The side that it is merged into.
    target: JsonObject<'a>,
    source: JsonObject<'a>,
    /// Whether the keys are Cloud's.
    is_like_cloud: bool,
}

pub(super) fn read(forge: ForgeName, top: &JsonObject<'_>, event: Option<&str>) -> Result<Delivery, Failure> {
    let in_body = top.peek_text("eventKey").filter(|_| forge == ForgeName::BitbucketServer);
    let deduced = deduce(top);
    let key = event.or(in_body.as_deref()).or(deduced);
    let Some(action) =
        key.and_then(|key| key.strip_prefix("pr:").or_else(|| key.strip_prefix("pullrequest:")))
    else {
        let event = match key {
            Some("diagnostics:ping") => Event::Ping,
            name => Event::Other { name: name.map(str::to_owned) },
        };
        let repository = repository_of(&top.peek("repository"));
        return Ok(Delivery { forge, repository, event, change: None });
    };
    let pull_key = if top.has("pullRequest") { "pullRequest" } else { "pullrequest" };
    let is_merge = matches!(action, "merged" | "fulfilled");
    let pull = if is_merge { top.object(pull_key)? } else { top.peek(pull_key) };
    let is_like_cloud = forge == ForgeName::Bitbucket || pull.has("destination");
    let [target, source] = if is_like_cloud { ["destination", "source"] } else { ["toRef", "fromRef"] };
    let (target, source) = (pull.peek(target), pull.peek(source));
    let pull = Pull { forge, pull, target, source, is_like_cloud };
    let repository =
        repository_of(&pull.target.peek("repository")).or_else(|| repository_of(&top.peek("repository")));
    let change = repository.clone().map(|name| pull.reported(top, name));
    // The plugin's payloads may lack the state; Atlassian's examples contain `OPEN|MERGED|DECLINED`.
    let is_plugins = pull_key == "pullrequest" && forge == ForgeName::BitbucketServer;
    let event = match (action, pull.pull.peek_text("state")) {
        ("merged" | "fulfilled", Some(state)) if state.split('|').any(|state| state == "MERGED") => {
            Event::Merged
        }
        ("merged" | "fulfilled", None) if is_plugins && deduced.is_none() => Event::Merged,
        ("merged" | "fulfilled", Some(state)) => Event::Contradiction { state },
        ("merged" | "fulfilled", None) => Event::Closed { merged: None },
        ("declined" | "rejected" | "deleted", _) => Event::Closed { merged: Some(false) },
        (_, _) => Event::Touched { action: Some(action.to_owned()) },
    };
    if event == Event::Merged {
        pull.require(top, change.as_ref())?;
    }
    Ok(Delivery { forge, repository, event, change })
}

/// The event of a payload without its header and without `eventKey`. Payloads about a comment, an approval or a request
/// for changes also contain the pull request, but have an additional key for their own subject.
fn deduce(top: &JsonObject<'_>) -> Option<&'static str> {
    let about_more = ["comment", "approval", "changes_request", "participant"].iter().any(|key| top.has(key));
    if !top.is_object("pullrequest") || about_more || top.has("eventKey") {
        return None;
    }
    let state = top.peek("pullrequest").peek_text("state")?;
    Some(match state.as_str() {
        "MERGED" => "pullrequest:fulfilled",
        "DECLINED" => "pullrequest:rejected",
        _ => "pullrequest:updated",
    })
}

/// `full_name` in Cloud, project and slug in Data Center, `fullName` in the plugin's payloads.
fn repository_of(repository: &JsonObject<'_>) -> Option<RepoName> {
    let (key, slug) = (repository.peek("project").peek_text("key"), repository.peek_text("slug"));
    let by_slug = || format!("{}/{}", key?, slug?).parse().ok();
    repository.peek_as("full_name").or_else(|| repository.peek_as("fullName")).or_else(by_slug)
}

/// One of the links: an object, or a list of objects.
fn link(of: &JsonObject<'_>, key: &str, name: &str) -> Option<String> {
    let links: Value = of.read("links", "").ok()??;
    let has_name = |link: &&Value| link["name"].as_str().unwrap_or_default().starts_with(name);
    let link = links[key].as_array().map_or(Some(&links[key]), |list| list.iter().find(has_name));
    link?["href"].as_str().filter(|href| is_url(href)).map(str::to_owned)
}

impl Pull<'_> {
    fn branch(&self) -> Option<BranchName> {
        let full = self.target.peek_text("id");
        let by_ref = full.and_then(|id| id.strip_prefix("refs/heads/").and_then(|name| name.parse().ok()));
        by_ref
            .or_else(|| self.target.peek_as("displayId"))
            .or_else(|| self.target.peek("branch").peek_as("name"))
    }

    /// The data of a merge that must be there; the error has its path.
    fn require(&self, top: &JsonObject<'_>, change: Option<&ReportedChange>) -> Result<(), Failure> {
        let Some(change) = change else { return self.require_name(top) };
        if change.branch.is_none() {
            if self.is_like_cloud || self.target.has("branch") {
                self.target.object("branch")?.needed::<BranchName>("name")?;
            }
            self.target.needed::<BranchName>("displayId")?;
        }
        if change.pull_request.is_none() {
            self.pull.number("id")?;
            return Err(self.pull.missing("id"));
        }
        let (at, key) = self.landed();
        if at.has(key) && change.commit.is_none() {
            at.needed::<CommitPrefix>(key)?;
        }
        Ok(())
    }

    fn require_name(&self, top: &JsonObject<'_>) -> Result<(), Failure> {
        let repository = self.target.object("repository")?;
        if self.is_like_cloud {
            let at = if repository.has("full_name") { repository } else { top.object("repository")? };
            return at.needed::<RepoName>("full_name").map(drop);
        }
        let project = repository.object("project")?;
        let key = project.text("key")?.ok_or_else(|| project.missing("key"))?;
        let slug = repository.text("slug")?.ok_or_else(|| repository.missing("slug"))?;
        for (name, object, wrong) in
            [(format!("{key}/x"), &project, "key"), (format!("{key}/{slug}"), &repository, "slug")]
        {
            let parsed = name.parse::<RepoName>();
            parsed.map_err(|error| object.wrong(wrong, format!("is wrong: {error}")))?;
        }
        Ok(())
    }

    /// The object and key of the commit that landed.
    fn landed(&self) -> (JsonObject<'_>, &'static str) {
        if self.pull.has("merge_commit") {
            (self.pull.peek("merge_commit"), "hash")
        } else if self.pull.has("mergeCommit") {
            (self.pull.peek("mergeCommit"), "hash")
        } else {
            (self.pull.peek("properties").peek("mergeCommit"), "id")
        }
    }

    fn reported(&self, top: &JsonObject<'_>, name: RepoName) -> ReportedChange {
        let pull = &self.pull;
        let (at, key) = self.landed();
        let landed = at.peek_text(key);
        let commit: Option<CommitSha> = landed.as_deref().and_then(|hash| hash.parse().ok());
        let time = |key: &str| pull.peek_time(key).filter(|_| commit.is_none());
        let (created_at, merged_at) =
            (time("created_on").or_else(|| time("createdDate")), time("closedDate"));
        let landed_prefix = landed.filter(|_| commit.is_none()).and_then(|hash| hash.parse().ok());
        let (repository, beside) = (self.target.peek("repository"), top.peek("repository"));
        let author = pull.peek("author");
        let (author, user) =
            (author.peek_text("nickname").or_else(|| author.peek_text("username")), author.peek("user"));
        let head = self.source.peek_as("latestCommit").or_else(|| self.source.peek("commit").peek_as("hash"));
        let page =
            link(pull, "html", "").or_else(|| link(pull, "self", "")).or_else(|| pull.peek_url("link"));
        let web = |of: &JsonObject<'_>| Some(format!("{}.git", link(of, "html", "")?));
        ReportedChange {
            forge: Some(self.forge),
            forge_url: None,
            repository: name,
            clone_url: link(&repository, "clone", "http")
                .or_else(|| web(&repository))
                .or_else(|| web(&beside)),
            commit,
            branch: self.branch(),
            default_branch: beside.peek("mainbranch").peek_as("name"),
            pull_request: pull.peek_number("id").map(|number| PullRequest {
                number,
                title: pull.peek_text("title"),
                author: author.or_else(|| user.peek_text("name")).or_else(|| pull.peek_text("authorLogin")),
                url: page,
                head,
                created_at,
                merged_at,
                landed_prefix,
            }),
        }
    }
}
