//! Commits of a mirror: which exist, their parents and times, and which contain which.

use super::GitError;
use super::mirror::Mirror;
use crate::model::{CommitPrefix, CommitSha};
use crate::process::CommandError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitInfo {
    pub id: CommitSha,
    /// The committer date in seconds since the epoch, as accurate as the committer's clock; 0 if unreadable.
    pub time: i64,
    /// The author date, which a rebase and a cherry-pick keep.
    pub authored: i64,
    pub parents: Vec<CommitSha>,
}

impl CommitInfo {
    /// The parent of a commit that is neither a merge nor a root.
    pub(super) fn only_parent(&self) -> Option<&CommitSha> {
        self.parents.first().filter(|_| self.parents.len() == 1)
    }
}

impl Mirror<'_> {
    /// The commits that `git log` prints for these arguments, newest first.
    pub fn commits(&self, args: &[&str]) -> Result<Vec<CommitInfo>, GitError> {
        let log = self.local().args(["log", "--format=%H %ct %at %P"]).args(args).arg("--");
        let text = self.run(log)?.text();
        let parsed = |line: &str| {
            let mut words = line.split(' ');
            let id = words.next()?.parse().ok()?;
            let mut time = || words.next().and_then(|time| time.parse().ok()).unwrap_or(0);
            let (time, authored) = (time(), time());
            let parents = words.filter(|word| !word.is_empty()).map(str::parse);
            Some(CommitInfo { id, time, authored, parents: parents.collect::<Result<_, _>>().ok()? })
        };
        text.lines()
            .map(|line| parsed(line).ok_or_else(|| GitError::unexpected(format!("log: {line}"))))
            .collect()
    }

    pub fn commit_info(&self, commit: &CommitSha) -> Result<CommitInfo, GitError> {
        let found = self.commits(&["--no-walk", commit.as_str()])?.pop();
        found.ok_or_else(|| GitError::unexpected(format!("log {commit}: nothing")))
    }

    /// The first-parent commits of `tip`, newest first: at most `max`, without those reachable from `beyond`. Each was
    /// the tip of the branch at some time: a merge, or a commit of a direct push.
    pub fn first_parents(
        &self,
        tip: &CommitSha,
        beyond: Option<&CommitSha>,
        max: Option<usize>,
    ) -> Result<Vec<CommitInfo>, GitError> {
        let limits = max.map(|max| format!("--max-count={max}")).into_iter();
        let limits: Vec<String> = limits.chain(beyond.map(|commit| format!("^{commit}"))).collect();
        let args = ["--first-parent", tip.as_str()].into_iter().chain(limits.iter().map(String::as_str));
        self.commits(&args.collect::<Vec<_>>())
    }

    /// The commit that a full ref names in the mirror.
    pub fn commit_of(&self, full_ref: &str) -> Result<Option<CommitSha>, GitError> {
        let format = "--format=%(objecttype) %(objectname) %(refname)";
        let text = self.run(self.local().args(["for-each-ref", format, "--", full_ref]))?.text();
        let mut found = text.lines().filter_map(|line| {
            let (id, name) = line.strip_prefix("commit ")?.split_once(' ')?;
            (name == full_ref).then(|| id.parse().ok())?
        });
        Ok(found.next())
    }

    /// Whether the mirror has this commit.
    ///
    /// # Errors
    /// [`NotACommit`](super::GitErrorKind::NotACommit) if the id belongs to another object.
    pub fn has_commit(&self, commit: &CommitSha) -> Result<bool, GitError> {
        match self.kinds(commit.as_str())?.pop() {
            None => Ok(false),
            Some((_, kind)) if kind == "commit" => Ok(true),
            Some((id, kind)) => Err(GitError::not_a_commit(&id, &kind)),
        }
    }

    /// The objects of the mirror with this id prefix: id and kind.
    pub(super) fn disambiguate(&self, abbreviated: &str) -> Result<Vec<(String, String)>, GitError> {
        let list = self.local().args(["rev-parse", &format!("--disambiguate={abbreviated}")]);
        self.kinds(&self.run(list)?.text())
    }

    /// Id and kind of the objects that exist, from ids on a line each. `--batch-check` reports an absent object as output,
    /// not as an error, unlike a git that cannot run.
    fn kinds(&self, ids: &str) -> Result<Vec<(String, String)>, GitError> {
        let tool = self.local().args(["cat-file", "--batch-check"]).stdin(format!("{ids}\n"));
        let text = self.run(tool)?.text();
        let mut kinds = Vec::new();
        for line in text.lines() {
            match line.split(' ').collect::<Vec<_>>().as_slice() {
                [id, kind, _] => kinds.push(((*id).to_owned(), (*kind).to_owned())),
                [_, "missing"] | ["missing"] => {}
                _ => return Err(GitError::unexpected(format!("cat-file: {line}"))),
            }
        }
        Ok(kinds)
    }

    /// The only commit in `tip`'s history with this prefix; `None` for no commit or several.
    pub fn beginning_with(
        &self,
        prefix: &CommitPrefix,
        tip: &CommitSha,
    ) -> Result<Option<CommitSha>, GitError> {
        let mut found = Vec::new();
        for (id, kind) in self.disambiguate(prefix.as_str())? {
            let Ok(commit) = id.parse() else { continue };
            if kind == "commit" && self.is_ancestor(&commit, tip)? {
                found.push(commit);
            }
        }
        Ok(found.pop().filter(|_| found.is_empty()))
    }

    /// Whether `descendant` contains `ancestor`: the proof of merge. False for an unknown commit.
    pub fn is_ancestor(&self, ancestor: &CommitSha, descendant: &CommitSha) -> Result<bool, GitError> {
        Ok(self.merge_base(&["--is-ancestor", ancestor.as_str(), descendant.as_str()])?.is_some())
    }

    /// The output of `git merge-base`; `None` if it exits with 1, which means "no" or "none" (git-merge-base(1)).
    pub(super) fn merge_base(&self, args: &[&str]) -> Result<Option<String>, GitError> {
        match self.local().arg("merge-base").args(args).run(self.cancel()) {
            Ok(done) => Ok(Some(done.text())),
            Err(CommandError::Exit { code: Some(1), .. }) => Ok(None),
            Err(error) => Err(GitError::of_local(self.remote().as_git_url(), error)),
        }
    }
}
