//! How a branch came to be what it is.

use super::mirror::Mirror;
use super::{GitError, run};
use crate::model::CommitSha;

/// A commit that once was the tip of a branch: a merge, or the last commit of a direct push or one below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Landed {
    /// The commit.
    pub commit: CommitSha,
    /// The committer's time, seconds since the epoch: as right as the clock of who made it.
    pub time: i64,
}

impl Mirror<'_> {
    /// The first-parent commits of `tip`, newest first: at most `max`, and none that can be reached from `beyond`.
    pub fn first_parents(
        &self,
        tip: &CommitSha,
        beyond: Option<&CommitSha>,
        max: Option<usize>,
    ) -> Result<Vec<Landed>, GitError> {
        let mut tool = self.local().args(["rev-list", "--first-parent", "--timestamp"]);
        if let Some(max) = max {
            tool = tool.arg(format!("--max-count={max}"));
        }
        tool = tool.arg(tip.as_str()).args(beyond.map(|commit| format!("^{commit}")));
        let text = run(tool.arg("--"), self.cancel())?.text();
        text.lines()
            .map(|line| {
                let landed = line.split_once(' ').and_then(|(time, id)| {
                    Some(Landed { commit: id.parse().ok()?, time: time.parse().ok()? })
                });
                landed.ok_or_else(|| GitError::Unexpected(format!("rev-list: {line}")))
            })
            .collect()
    }
}
