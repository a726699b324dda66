//! A job and its states.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::{BranchName, CommitSha, ForgeName, RepoName};

/// Never reused, even after the job was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub i64);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Waits for a worker, for its repository's earlier jobs, or for its next attempt.
    #[default]
    Queued,
    Running,
    Succeeded,
    /// A redelivery or `jobs retry` queues it again.
    Failed,
    /// A redelivery or `jobs retry` queues it again.
    Cancelled,
}

impl JobState {
    pub const ALL: [JobState; 5] =
        [JobState::Queued, JobState::Running, JobState::Succeeded, JobState::Failed, JobState::Cancelled];

    /// The name, in the database and in messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Succeeded => "succeeded",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        }
    }

    /// The verb of a sentence about a job.
    pub(crate) const fn verb(self) -> &'static str {
        match self {
            JobState::Queued => "is queued",
            JobState::Running => "is running",
            JobState::Succeeded => "has succeeded",
            JobState::Failed => "has failed",
            JobState::Cancelled => "was cancelled",
        }
    }

    pub const fn is_ended(self) -> bool {
        !matches!(self, JobState::Queued | JobState::Running)
    }

    pub const fn may_be_retried(self) -> bool {
        matches!(self, JobState::Failed | JobState::Cancelled)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for JobState {
    type Err = String;
    fn from_str(word: &str) -> Result<JobState, String> {
        let found = JobState::ALL.into_iter().find(|state| state.as_str() == word);
        found.ok_or_else(|| {
            format!("`{word}` is not a job state (queued, running, succeeded, failed, cancelled)")
        })
    }
}

/// A merge to queue.
#[derive(Debug, Clone)]
pub struct NewJob {
    pub forge: ForgeName,
    /// Its URL, unless it is the public instance of its kind.
    pub forge_url: Option<String>,
    /// In the forge's spelling.
    pub repository: RepoName,
    /// The branch that the commit landed on.
    pub branch: BranchName,
    /// `None` if the forge does not report what landed.
    pub commit: Option<CommitSha>,
    pub pull_request: Option<i64>,
    /// The last commit of the source branch.
    pub head: Option<CommitSha>,
    pub event: String,
    /// For people: it is not signed, so no decision uses it.
    pub delivery_id: Option<String>,
    /// The handler's input; the queue does not parse it.
    pub document: String,
}

impl NewJob {
    /// Jobs of one lane run one at a time: they move the same tags.
    pub(super) fn lane(&self) -> String {
        let at = self.forge_url.as_ref().map(|url| format!("@{url}")).unwrap_or_default();
        format!("{}{at}:{}", self.forge, self.repository.as_str().to_ascii_lowercase())
    }

    /// Identifies the merge, together with lane and branch: the commit or, without one, the pull request and its head.
    pub(super) fn merge_key(&self) -> String {
        match &self.commit {
            Some(commit) => commit.to_string(),
            None => {
                let number = self.pull_request.map(|number| number.to_string()).unwrap_or_default();
                let head = self.head.as_ref().map(ToString::to_string).unwrap_or_default();
                format!("pull request {number} at {head}")
            }
        }
    }
}

/// A job of the queue, and its JSON in `jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobRecord {
    pub id: JobId,
    pub state: JobState,
    pub forge: String,
    pub repository: String,
    pub branch: String,
    pub commit: Option<String>,
    pub pull_request: Option<i64>,
    pub event: String,
    pub delivery_id: Option<String>,
    /// When it was first accepted.
    pub created: Timestamp,
    /// When it was last queued.
    pub queued: Timestamp,
    /// When its last attempt began.
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    /// Attempts that ended without an interruption.
    pub attempts: u32,
    /// Attempts that the end of `serve` interrupted.
    pub interruptions: u32,
    pub next_attempt: Option<Timestamp>,
    /// Why its last attempt failed.
    pub error: Option<String>,
    /// The exit code that `swanci run` would have returned.
    pub exit_code: Option<u8>,
    pub cancel_requested: bool,
    /// The process that runs it.
    pub owner: Option<String>,
    /// Renewed while the job runs; once it expires, another process may take the job.
    pub lease_expires: Option<Timestamp>,
    /// The handler's input.
    #[serde(skip)]
    pub document: String,
    /// The document of its last successful attempt.
    #[serde(skip)]
    pub outcome: Option<String>,
}

impl JobRecord {
    /// The number of the running attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempts.saturating_add(1)
    }
}

/// How an attempt ends. The default is an interruption, which does not count as an attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ending {
    /// `Queued` after an interruption and before a retry.
    pub state: JobState,
    pub outcome: Option<String>,
    pub exit_code: Option<u8>,
    pub error: Option<String>,
    /// The time until the retry.
    pub wait: Option<Duration>,
}

#[derive(Debug, Clone, Default)]
pub struct QueueStats {
    pub jobs: BTreeMap<JobState, i64>,
    /// When the job that has waited longest was queued.
    pub oldest_queued: Option<Timestamp>,
}

impl QueueStats {
    pub fn count(&self, state: JobState) -> i64 {
        self.jobs.get(&state).copied().unwrap_or_default()
    }
}
