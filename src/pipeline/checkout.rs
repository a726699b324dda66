//! Fetches a change's commit, proves that it was merged, and writes out the files for the builds.

use std::path::Path;
use std::time::Duration;

use crate::error::Failure;
use crate::events::RunEvent;
use crate::git::{Mirror, Submodules};
use crate::model::{BranchName, Change, CommitSha, RepoName};

use super::Site;
use super::origin::{ByHand, Origin, allowed, typed};

/// Fetches the commit into the mirror, and proves that it is on its branch. `patience` lists the waits before each
/// retry: a webhook can arrive before the forge has replicated the commit.
pub(super) fn fetch<'a>(
    site: &'a Site,
    origin: &'a Origin,
    change: &Change,
    patience: &[Duration],
) -> Result<Mirror<'a>, Failure> {
    let mirror = origin.mirror(site);
    match &change.branch {
        Some(branch) => prove(site, &mirror, branch, &change.commit, patience).map(drop)?,
        None => mirror.fetch_commit(&change.commit)?,
    }
    site.events.emit(&RunEvent::Run { repository: &change.repository, commit: &change.commit });
    Ok(mirror)
}

/// Proof of merge: the branch currently contains the commit. Returns the branch's tip.
pub(super) fn prove(
    site: &Site,
    mirror: &Mirror<'_>,
    branch: &BranchName,
    commit: &CommitSha,
    patience: &[Duration],
) -> Result<CommitSha, Failure> {
    let mut waits = patience.iter();
    loop {
        let tip = mirror.fetch_branch(branch)?;
        if tip == *commit || (mirror.has_commit(commit)? && mirror.is_ancestor(commit, &tip)?) {
            return Ok(tip);
        }
        match waits.next() {
            Some(wait) => {
                site.events
                    .note(&format!("commit {} is not on {branch} yet; fetching it again", commit.short()));
                site.cancel.sleep(*wait)?;
            }
            None => {
                return Err(Failure::refused(format!(
                    "commit {commit} is not on the branch `{branch}` of {}",
                    mirror.remote().as_git_url()
                ))
                .hint("only a commit that was merged is built; was the branch force-pushed?"));
            }
        }
    }
}

/// The change named on the command line, and the site with the login of a typed URL.
pub(crate) fn resolve_by_hand(site: Site, by_hand: &ByHand) -> Result<(Site, Change), Failure> {
    let remote = typed(&site, &by_hand.repository).map_err(|error| {
        error.context(format!("cannot use --repo {}", crate::redact::scrub(&by_hand.repository)))
    })?;
    // The allow-list is checked before any fetch.
    let name: RepoName = match allowed(&site.repositories, &remote)? {
        Some(rule) => rule.name.clone(),
        None => remote
            .repository_name()
            .ok_or_else(|| Failure::usage(format!("`{}` names no repository", remote.as_git_url())))?,
    };
    let mirror = || Mirror::of(&site.state_dir, &remote, &site.access, &site.cancel);
    let commit = match (&by_hand.commit, &by_hand.branch) {
        (Some(commit), _) => commit.parse().or_else(|_| mirror().resolve_abbreviation(commit))?,
        (None, Some(branch)) => mirror().fetch_branch(branch)?,
        (None, None) => return Err(Failure::usage("--repo needs --commit SHA or --branch NAME")),
    };
    let change = Change {
        forge: None,
        forge_url: None,
        repository: name,
        clone_url: Some(remote.as_git_url().to_owned()),
        commit,
        branch: by_hand.branch.clone(),
        default_branch: None,
        pull_request: None,
    };
    Ok((Site { typed: Some(remote), ..site }, change))
}

/// Limit on nested submodules, so that a repository that contains itself ends.
const DEEPEST_SUBMODULE: usize = 8;

/// Writes the submodules that the commit pins below `into`.
pub(super) fn write_submodules(
    site: &Site,
    parent: &Mirror<'_>,
    commit: &CommitSha,
    pinned: &Submodules,
    into: &Path,
    depth: usize,
) -> Result<(), Failure> {
    if pinned.is_empty() {
        return Ok(());
    }
    if depth >= DEEPEST_SUBMODULE {
        return Err(Failure::refused(format!("submodules are nested more than {DEEPEST_SUBMODULE} deep")));
    }
    let stated = parent.submodule_urls(commit)?;
    for (path, pinned) in pinned {
        let Some(url) = stated.get(path) else {
            return Err(Failure::bad_input(format!(".gitmodules has no URL for the submodule `{path}`")));
        };
        let remote = parent.remote().submodule(url).map_err(|error| {
            error.context(format!("the submodule `{path}` is not on the repository's own host"))
        })?;
        let mirror = Mirror::of(&site.state_dir, &remote, &site.access, &site.cancel);
        mirror.fetch_commit(pinned)?;
        let place = into.join(path);
        let inner = mirror.check_out_commit(pinned, &place)?;
        write_submodules(site, &mirror, pinned, &inner, &place, depth + 1)?;
    }
    Ok(())
}
