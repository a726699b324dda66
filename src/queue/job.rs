//! A job, its states and the transitions between them.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};

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

impl FromStr for JobId {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<JobId, Self::Err> {
        text.parse().map(JobId)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Waits for a worker, for its repository's earlier jobs, or for its next attempt.
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

    pub const fn is_ended(self) -> bool {
        match self {
            JobState::Queued | JobState::Running => false,
            JobState::Succeeded | JobState::Failed | JobState::Cancelled => true,
        }
    }

    pub const fn may_be_retried(self) -> bool {
        match self {
            JobState::Failed | JobState::Cancelled => true,
            JobState::Queued | JobState::Running | JobState::Succeeded => false,
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a job state (queued, running, succeeded, failed, cancelled)")]
pub struct UnknownState(pub String);

impl FromStr for JobState {
    type Err = UnknownState;
    fn from_str(word: &str) -> Result<JobState, UnknownState> {
        let found = JobState::ALL.into_iter().find(|state| state.as_str() == word);
        found.ok_or_else(|| UnknownState(word.to_owned()))
    }
}

/// A merge to queue.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// The result of [`super::Store::accept`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    New(JobId),
    /// The same merge as a job that is queued, running or succeeded.
    Duplicate {
        id: JobId,
        state: JobState,
    },
    /// It had failed or was cancelled, and is queued again.
    Requeued(JobId),
}

/// The result of [`super::Store::cancel`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelOutcome {
    /// It was queued.
    Cancelled,
    /// It is running; its worker stops it within a second.
    Requested,
}

/// A job that a worker has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedJob {
    pub id: JobId,
    /// Starts at 1.
    pub attempt: u32,
    pub repository: String,
    pub branch: String,
    pub commit: Option<String>,
    pub pull_request: Option<i64>,
    pub document: String,
}

/// A job without its documents.
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
    #[serde(serialize_with = "rfc3339")]
    pub created: Timestamp,
    /// When it was last queued.
    #[serde(serialize_with = "rfc3339")]
    pub queued: Timestamp,
    /// When its last attempt began.
    #[serde(serialize_with = "optional_rfc3339")]
    pub started: Option<Timestamp>,
    #[serde(serialize_with = "optional_rfc3339")]
    pub finished: Option<Timestamp>,
    /// Attempts that ended without an interruption.
    pub attempts: u32,
    /// Attempts that the end of `serve` interrupted.
    pub interruptions: u32,
    #[serde(serialize_with = "optional_rfc3339")]
    pub next_attempt: Option<Timestamp>,
    /// Why its last attempt failed.
    pub error: Option<String>,
    /// The exit code that `swanci run` would have returned.
    pub exit_code: Option<u8>,
    pub cancel_requested: bool,
    /// The process that runs it.
    pub owner: Option<String>,
    /// Renewed while the job runs; once it expires, another process may take the job.
    #[serde(serialize_with = "optional_rfc3339")]
    pub lease_expires: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobDocuments {
    pub document: String,
    /// The document of its last successful attempt.
    pub outcome: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    pub state: Option<JobState>,
    /// Case-insensitive.
    pub repository: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct QueueStats {
    pub queued: u64,
    pub running: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub cancelled: u64,
    /// When the job that has waited longest was queued.
    #[serde(serialize_with = "optional_rfc3339")]
    pub oldest_queued: Option<Timestamp>,
}

fn rfc3339<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

fn optional_rfc3339<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.collect_str(time),
        None => serializer.serialize_none(),
    }
}
