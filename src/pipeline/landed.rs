//! Finds the commit that a merge put on its branch if the forge does not report it.

use std::time::Duration;

use crate::documents::ReportedChange;
use crate::error::Failure;
use crate::git::{Merge, Mirror};
use crate::model::{BranchName, Change, CommitSha, ForgeName, PullRequest};

use super::{Origin, Site};

/// The change with the commit that landed. If the payload does not contain it, it is searched on the fetched branch.
/// `patience` lists the waits before each retry of the fetch.
pub(crate) fn landed(site: &Site, change: &ReportedChange, patience: &[Duration]) -> Result<Change, Failure> {
    if let Some(commit) = &change.commit {
        return Ok(change.clone().at(commit.clone()));
    }
    let (Some(branch), Some(pull)) = (&change.branch, &change.pull_request) else {
        return Err(Failure::bad_input(
            "a build needs a commit, or the pull request and the branch of a merge",
        ));
    };
    let origin = Origin::of(site, change)?;
    let url = origin.remote.as_git_url();
    let mirror = origin.mirror(site);
    let mut waits = patience.iter();
    loop {
        let may_wait = waits.len() > 0;
        if let Some(commit) = find(&mirror, change.forge, branch, pull, may_wait)? {
            site.events.note(&format!("pull request #{} landed as {commit}", pull.number));
            return Ok(change.clone().at(commit));
        }
        let Some(wait) = waits.next() else {
            let (place, number) = (format!("the branch `{branch}` of {url}"), pull.number);
            let text = match &pull.landed_prefix {
                Some(prefix) => format!("no commit of {place} begins with {prefix}, or more than one does"),
                None => format!("pull request #{number} matches no commit of {place}, or more than one"),
            };
            return Err(Failure::refused(text).hint(format!(
                "look it up and build it: swanci build --repo {url} --commit SHA --branch {branch}; \
                 `swanci catchup` builds every merge of the branch"
            )));
        };
        let text = format!("pull request #{} is not on {branch} yet; fetching it again", pull.number);
        site.events.note(&text);
        site.cancel.sleep(*wait)?;
    }
}

fn find(
    mirror: &Mirror<'_>,
    forge: Option<ForgeName>,
    branch: &BranchName,
    pull: &PullRequest,
    may_wait: bool,
) -> Result<Option<CommitSha>, Failure> {
    if let Some(prefix) = &pull.landed_prefix {
        let tip = mirror.fetch_branch(branch)?;
        return Ok(mirror.beginning_with(prefix, &tip)?);
    }
    let (tip, own, tried) = match forge.and_then(|forge| refs_of(forge, pull.number)) {
        Some((folder, head)) => {
            let tip = mirror.fetch_branch_and(branch, Some(&folder))?;
            let named = |name: &str| mirror.commit_of(&format!("{folder}/{name}"));
            let tried = if forge == Some(ForgeName::Gitbucket) { named("merge")? } else { None };
            (tip, named(head)?, tried)
        }
        None => (mirror.fetch_branch(branch)?, None, None),
    };
    let mut heads: Vec<CommitSha> = own.into_iter().collect();
    // After a change of the base branch, GitBucket's payload contains another commit.
    if forge != Some(ForgeName::Gitbucket) {
        heads.extend(pull.head.clone().filter(|head| !heads.contains(head)));
    }
    // The payload may contain the last push to the head before the forge updates its ref.
    for head in &heads {
        if may_wait && !mirror.has_commit(head)? {
            return Ok(None);
        }
    }
    let merge = Merge {
        heads,
        tried,
        created_at: pull.created_at.map(|at| at.as_second()),
        merged_at: pull.merged_at.map(|at| at.as_second()),
    };
    Ok(mirror.landed(&tip, &merge)?)
}

/// The folder of the refs that a forge keeps for a pull request, and the name of the head ref.
fn refs_of(forge: ForgeName, number: u64) -> Option<(String, &'static str)> {
    match forge {
        ForgeName::Github
        | ForgeName::Gitea
        | ForgeName::Forgejo
        | ForgeName::Gogs
        | ForgeName::Gitbucket => Some((format!("refs/pull/{number}"), "head")),
        ForgeName::Gitlab => Some((format!("refs/merge-requests/{number}"), "head")),
        ForgeName::BitbucketServer => Some((format!("refs/pull-requests/{number}"), "from")),
        ForgeName::Bitbucket => None,
    }
}
