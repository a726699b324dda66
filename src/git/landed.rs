//! Finds the commit that a merge put on a branch if the forge does not report it. It does not guess: several candidates
//! give no result.

use std::collections::{HashMap, HashSet};

use super::GitError;
use super::history::CommitInfo;
use super::mirror::Mirror;
use crate::model::CommitSha;

#[derive(Debug, Clone, Default)]
pub struct Merge {
    /// The last commit of the pull request. Several if the forge's ref and the payload differ.
    pub heads: Vec<CommitSha>,
    /// GitBucket's `refs/pull/N/merge`: the commit of a squash, else a trial merge.
    pub tried: Option<CommitSha>,
    /// When the pull request was opened, seconds since the epoch.
    pub created_at: Option<i64>,
    /// When it was merged.
    pub merged_at: Option<i64>,
}

/// Tolerance between `merged_at` and the time of a commit that the forge's server created, in seconds.
const SAME_MOMENT: i64 = 1;

/// A commit whose time differs more from `merged_at`, in seconds, was not created by the merge.
const NEAR: i64 = 60;

struct Diff {
    /// The paths, quoted by git.
    files: String,
    /// Its patch-id, which does not depend on line numbers.
    change: String,
}

impl Merge {
    fn is_at_merge(&self, commit: &CommitInfo) -> bool {
        self.merged_at.is_some_and(|at| (commit.time - at).abs() <= SAME_MOMENT)
    }

    fn is_after_merge(&self, commit: &CommitInfo) -> bool {
        self.merged_at.is_some_and(|at| commit.time > at.saturating_add(SAME_MOMENT))
    }
}

impl Mirror<'_> {
    /// The commit that this merge put on the first-parent history of `tip`. Everything must be fetched already.
    pub fn landed(&self, tip: &CommitSha, merge: &Merge) -> Result<Option<CommitSha>, GitError> {
        let mut found: Vec<CommitInfo> = Vec::new();
        for head in &merge.heads {
            if self.has_commit(head)? {
                let landed = self.landed_with(head, tip, merge)?;
                found.extend(landed.filter(|commit| !found.contains(commit)));
            }
        }
        if found.len() > 1 {
            found.retain(|commit| merge.is_at_merge(commit));
        }
        Ok(only(found).map(|commit| commit.id))
    }

    fn landed_with(
        &self,
        head: &CommitSha,
        tip: &CommitSha,
        merge: &Merge,
    ) -> Result<Option<CommitInfo>, GitError> {
        // Newest first. Of the head's history, only the head itself can have landed with it.
        let line = self.commits(&["--first-parent", tip.as_str(), &format!("^{head}")])?;
        let tried = merge.tried.as_ref();
        let squash = line.iter().find(|c| Some(&c.id) == tried && c.only_parent().is_some()).cloned();
        if squash.as_ref().is_some_and(|squash| merge.is_at_merge(squash)) {
            return Ok(squash);
        }
        let containing = match self.is_ancestor(head, tip)? {
            true => self.oldest_containing(head, tip, &line)?,
            false => None,
        };
        match containing {
            None => squash.map_or_else(|| self.rewritten(head, tip, &line, merge), |found| Ok(Some(found))),
            Some(containing) if merge.is_after_merge(&containing) => {
                // The head landed again with a later merge, or the first-parent history has changed since: someone
                // merged the branch into their own and pushed the result.
                let merges = self.commits(&["--ancestry-path", "--merges", &format!("{head}..{tip}")])?;
                let made =
                    merges.into_iter().filter(|c| c.parents[1..].contains(head) && merge.is_at_merge(c));
                if let Some(made) = only(made) {
                    return Ok(Some(made));
                }
                // Search the earlier first-parent history for the result of this merge.
                let below = line.iter().skip_while(|c| c.id != containing.id).skip(1);
                let below: Vec<CommitInfo> = below.filter(|c| !merge.is_after_merge(c)).cloned().collect();
                let earlier = match below.first() {
                    Some(newest) => self.rewritten(head, &newest.id, &below, merge)?,
                    None => None,
                };
                Ok(squash.or(earlier).or(Some(containing)))
            }
            Some(containing) => Ok(Some(containing)),
        }
    }

    /// The oldest commit of the first-parent history that contains the head.
    fn oldest_containing(
        &self,
        head: &CommitSha,
        tip: &CommitSha,
        line: &[CommitInfo],
    ) -> Result<Option<CommitInfo>, GitError> {
        let below = line.last().map_or(Some(tip), |oldest| oldest.parents.first());
        if below == Some(head) {
            return Ok(self.commits(&["--no-walk", head.as_str()])?.pop());
        }
        let descendants = self.commits(&["--ancestry-path", &format!("{head}..{tip}")])?;
        let descendants: HashSet<CommitSha> = descendants.into_iter().map(|commit| commit.id).collect();
        Ok(line.iter().rfind(|commit| descendants.contains(&commit.id)).cloned())
    }

    /// The commit that a squashed or rebased head became: it makes the same change as the head's last commit, or as all
    /// its commits; else the only commit from the moment of the merge, if it touches the same files.
    fn rewritten(
        &self,
        head: &CommitSha,
        tip: &CommitSha,
        line: &[CommitInfo],
        merge: &Merge,
    ) -> Result<Option<CommitInfo>, GitError> {
        let own = ["--topo-order", "--no-merges", head.as_str(), &format!("^{tip}")];
        let own = self.commits(&own)?;
        let Some(last) = own.first() else { return Ok(None) };
        // The head is not newer than the commit made from it, unless a clock is fast.
        let at_latest = merge.merged_at.map_or(last.time, |at| last.time.min(at.saturating_sub(SAME_MOMENT)));
        let opened = merge.created_at.unwrap_or(at_latest);
        let candidates: Vec<(&CommitInfo, &CommitSha)> =
            line.iter().filter(|c| c.time >= opened).filter_map(|c| Some((c, c.only_parent()?))).collect();
        let Some((_, before)) = candidates.last() else { return Ok(None) };

        let last = match last.only_parent() {
            Some(parent) => self.diff(&last.id, parent)?,
            None => None,
        };
        // The whole change starts where the head left the branch, or where a part of it has landed since.
        let mut wholes = Vec::new();
        for on_branch in [tip, *before] {
            if let Some(base) = self.merge_base(&[on_branch.as_str(), head.as_str()])? {
                let base = base.parse().map_err(|_| GitError::unexpected(format!("merge-base: {base}")))?;
                wholes.extend(self.diff(head, &base)?);
            }
        }
        let pairs: Vec<_> = candidates.iter().map(|(commit, parent)| (&commit.id, *parent)).collect();
        let files = self.files(&pairs)?;
        let may_be_it = |files: &String| wholes.iter().chain(&last).any(|diff| diff.files == *files);
        let (mut same_files, mut same_change) = (Vec::new(), Vec::new());
        for ((commit, parent), _) in candidates.iter().zip(&files).filter(|(_, files)| may_be_it(files)) {
            same_files.push(*commit);
            let Some(diff) = self.diff(&commit.id, parent)? else { continue };
            let is_same = |other: &Diff| other.change == diff.change;
            let is_last = last.as_ref().is_some_and(is_same);
            // A rebase puts the previous commit below it; the last commit alone may be a cherry-pick.
            let below = line.iter().find(|below| below.id == **parent).map(|below| below.authored);
            let at = own.iter().skip(1).position(|own| Some(own.authored) == below);
            let evidence = match (is_last, at) {
                (true, Some(0)) => 3,
                (true, _) if own.len() == 1 => 2,
                _ if wholes.iter().any(is_same) => 2,
                (true, Some(_)) => 1,
                (true, None) if merge.is_at_merge(commit) => 1,
                (_, _) => continue,
            };
            same_change.push((*commit, evidence));
        }
        let at_merge: Vec<&CommitInfo> =
            candidates.iter().map(|(commit, _)| *commit).filter(|c| merge.is_at_merge(c)).collect();
        if same_change.is_empty() {
            return Ok(only(at_merge).filter(|commit| same_files.contains(commit)).cloned());
        }
        if same_change.len() > 1 {
            let in_moment = same_change.iter().any(|(commit, _)| merge.is_at_merge(commit));
            let fits =
                |c: &CommitInfo| if in_moment { merge.is_at_merge(c) } else { !merge.is_after_merge(c) };
            same_change.retain(|(commit, _)| fits(commit));
            let most = same_change.iter().map(|(_, evidence)| *evidence).max();
            same_change.retain(|(_, evidence)| Some(*evidence) == most);
        }
        // A commit with the same change, but not from the time of the merge.
        let is_elsewhere = |c: &CommitInfo| merge.merged_at.is_some_and(|at| (c.time - at).abs() > NEAR);
        let found = only(same_change).map(|(commit, _)| commit);
        Ok(found.filter(|commit| at_merge.is_empty() || !is_elsewhere(commit)).cloned())
    }

    /// The paths that differ in each pair of commits.
    fn files(&self, pairs: &[(&CommitSha, &CommitSha)]) -> Result<Vec<String>, GitError> {
        let asked: String = pairs.iter().map(|(commit, from)| format!("{commit} {from}\n")).collect();
        let list = ["diff-tree", "--stdin", "-r", "--raw", "--no-renames"];
        let text = self.run(self.local().args(list).stdin(asked))?.text();
        let (mut files, mut of) = (HashMap::<&str, String>::new(), "");
        for line in text.lines() {
            match line.split_once('\t') {
                Some((_, path)) => *files.entry(of).or_default() += &format!("{path}\n"),
                None => of = line,
            }
        }
        Ok(pairs.iter().map(|(commit, _)| files.remove(commit.as_str()).unwrap_or_default()).collect())
    }

    /// The difference of a commit from another; `None` if there is none.
    fn diff(&self, commit: &CommitSha, from: &CommitSha) -> Result<Option<Diff>, GitError> {
        let files = self.files(&[(commit, from)])?;
        let patch = ["diff-tree", "-p", "--full-index", "--no-ext-diff", "--no-textconv", "--no-renames"];
        let patch = self.local().args(patch).args([from.as_str(), commit.as_str()]);
        let patch = self.run(patch)?.stdout;
        // git before 2.39 ignores the content of binary files.
        let (mut index, mut binary) = (&b""[..], String::new());
        for line in patch.split(|byte| *byte == b'\n') {
            if line.starts_with(b"index ") {
                index = line;
            } else if line.starts_with(b"Binary files ") {
                let text = String::from_utf8_lossy(index);
                binary.extend(text.split("..").nth(1));
            }
        }
        let id = self.run(self.local().args(["patch-id", "--stable"]).stdin(patch))?.text();
        let id = id.split(' ').next().filter(|id| !id.is_empty());
        Ok(id
            .zip(files.into_iter().next())
            .map(|(id, files)| Diff { change: format!("{id} {binary}"), files }))
    }
}

fn only<T>(all: impl IntoIterator<Item = T>) -> Option<T> {
    let mut all = all.into_iter();
    all.next().filter(|_| all.next().is_none())
}
