//! The first-parent history of a branch.

use super::mirror::Mirror;
use super::{GitError, run};
use crate::model::CommitSha;

/// A commit that was the tip of a branch at some time: a merge, or a commit of a direct push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Landed {
    pub commit: CommitSha,
    /// The committer date in seconds since the epoch, as accurate as the committer's clock.
    pub time: i64,
}

impl Mirror<'_> {
    /// The first-parent commits of `tip`, newest first: at most `max`, without those reachable from `beyond`.
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
