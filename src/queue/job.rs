//! A job, its states and the ways between them.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};

use crate::model::{BranchName, CommitSha, ForgeName, RepoName};

/// A job's number. Never used twice, also after the job was removed.
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

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Waits for a worker, for its repository's earlier jobs, or for its next attempt.
    Queued,
    /// A worker has it.
    Running,
    /// Done.
    Succeeded,
    /// Given up; a redelivery or `jobs retry` queues it again.
    Failed,
    /// Somebody cancelled it; a redelivery or `jobs retry` queues it again.
    Cancelled,
}

impl JobState {
    /// Every state, in the order of a job's life.
    pub const ALL: [JobState; 5] =
        [JobState::Queued, JobState::Running, JobState::Succeeded, JobState::Failed, JobState::Cancelled];

    /// The word for it, in the database and for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            JobState::Queued => "queued",
            JobState::Running => "running",
            JobState::Succeeded => "succeeded",
            JobState::Failed => "failed",
            JobState::Cancelled => "cancelled",
        }
    }

    /// Whether nothing more happens to the job by itself.
    pub const fn is_ended(self) -> bool {
        match self {
            JobState::Queued | JobState::Running => false,
            JobState::Succeeded | JobState::Failed | JobState::Cancelled => true,
        }
    }

    /// Whether a job in this state may become `to`.
    pub const fn may_become(self, to: JobState) -> bool {
        match self {
            JobState::Queued => matches!(to, JobState::Running | JobState::Cancelled),
            JobState::Running => match to {
                JobState::Queued | JobState::Succeeded | JobState::Failed | JobState::Cancelled => true,
                JobState::Running => false,
            },
            JobState::Succeeded => false,
            JobState::Failed | JobState::Cancelled => matches!(to, JobState::Queued),
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that names no state.
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

/// A merge to be queued. Forge, repository (ignoring case), branch and commit make it the merge that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    /// The forge that announced it.
    pub forge: ForgeName,
    /// The repository as the forge spells it.
    pub repository: RepoName,
    /// The branch that the commit landed on.
    pub branch: BranchName,
    /// The commit.
    pub commit: CommitSha,
    /// The event's name, for people.
    pub event: String,
    /// The delivery's id, for people: it is not signed, so nothing is decided by it.
    pub delivery_id: Option<String>,
    /// What the handler gets; the queue does not look inside.
    pub document: String,
}

impl NewJob {
    /// Jobs of one lane run one at a time: they would move the same tags.
    pub(crate) fn lane(&self) -> String {
        format!("{}:{}", self.forge, self.repository.as_str().to_ascii_lowercase())
    }
}

/// What became of a merge that was handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It was not known; it is on disk now.
    New(JobId),
    /// It is the same merge as a job that is waiting, running or has succeeded.
    Duplicate {
        /// That job.
        id: JobId,
        /// Where it stands.
        state: JobState,
    },
    /// It had failed or was cancelled, and is queued again.
    Requeued(JobId),
}

/// What became of a wish to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelOutcome {
    /// It was waiting and is cancelled now.
    Cancelled,
    /// It is running; its worker stops it within a second.
    Requested,
}

/// A job that a worker has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedJob {
    /// Its number.
    pub id: JobId,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// The repository as the forge spells it.
    pub repository: String,
    /// The branch.
    pub branch: String,
    /// The commit.
    pub commit: String,
    /// What was handed in with it.
    pub document: String,
}

/// Everything about a job that fits on a line or in a table; its documents are read separately.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobRecord {
    /// Its number.
    pub id: JobId,
    /// Where it stands.
    pub state: JobState,
    /// The forge.
    pub forge: String,
    /// The repository as the forge spells it.
    pub repository: String,
    /// The branch.
    pub branch: String,
    /// The commit.
    pub commit: String,
    /// The event's name.
    pub event: String,
    /// The delivery's id, as it came.
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
    /// When it ended.
    #[serde(serialize_with = "optional_rfc3339")]
    pub finished: Option<Timestamp>,
    /// Attempts that came to an end of their own.
    pub attempts: u32,
    /// Attempts that were cut short by the end of `serve`.
    pub interruptions: u32,
    /// When a waiting job is tried again, if it waits for that.
    #[serde(serialize_with = "optional_rfc3339")]
    pub next_attempt: Option<Timestamp>,
    /// Why its last attempt failed.
    pub error: Option<String>,
    /// The exit code that `swanci run` would have had.
    pub exit_code: Option<u8>,
    /// Somebody wants it cancelled.
    pub cancel_requested: bool,
    /// The process that runs it.
    pub owner: Option<String>,
    /// Until when that process has said that it lives; renewed while the job runs.
    #[serde(serialize_with = "optional_rfc3339")]
    pub lease_expires: Option<Timestamp>,
}

/// What went into a job and what came out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobDocuments {
    /// What was handed in.
    pub document: String,
    /// What its last successful attempt left.
    pub outcome: Option<String>,
}

/// Which jobs to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Only jobs in this state.
    pub state: Option<JobState>,
    /// Only jobs of this repository, ignoring case.
    pub repository: Option<String>,
}

/// The queue in figures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct QueueStats {
    /// Waiting jobs, the depth of the queue.
    pub queued: u64,
    /// Jobs that a worker has.
    pub running: u64,
    /// Jobs that are done.
    pub succeeded: u64,
    /// Jobs that were given up.
    pub failed: u64,
    /// Jobs that were cancelled.
    pub cancelled: u64,
    /// When the job that has waited longest was queued.
    #[serde(serialize_with = "optional_rfc3339")]
    pub oldest_queued: Option<Timestamp>,
}

impl QueueStats {
    /// How many jobs are in `state`.
    pub const fn count(&self, state: JobState) -> u64 {
        match state {
            JobState::Queued => self.queued,
            JobState::Running => self.running,
            JobState::Succeeded => self.succeeded,
            JobState::Failed => self.failed,
            JobState::Cancelled => self.cancelled,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_ways_that_contract_names_lead_from_state_to_state() {
        let mut ways = Vec::new();
        for from in JobState::ALL {
            for to in JobState::ALL {
                if from.may_become(to) {
                    ways.push(format!("{from}>{to}"));
                }
            }
        }
        assert_eq!(
            ways,
            [
                "queued>running",
                "queued>cancelled",
                "running>queued",
                "running>succeeded",
                "running>failed",
                "running>cancelled",
                "failed>queued",
                "cancelled>queued",
            ]
        );
    }

    #[test]
    fn a_state_is_read_back_from_its_word() {
        for state in JobState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert!("Queued".parse::<JobState>().is_err());
    }
}
