//! Errors of the queue.

use std::io;
use std::path::{Path, PathBuf};

use super::job::{JobId, JobState};
use super::lock::Holder;
use crate::error::{Failure, Kind};

#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Nothing was written. A retry may help.
    #[error("the queue cannot be written: {0}")]
    Unavailable(String),
    /// The database failed its check and was left unchanged.
    #[error("{} is damaged: {detail}", .path.display())]
    Corrupt { path: PathBuf, detail: String },
    #[error("{} is of a newer swanci (schema {found}; this one knows {known})", .path.display())]
    NewerSchema { path: PathBuf, found: i64, known: i64 },
    /// No `serve` of this version has migrated it yet.
    #[error("{} is of an older swanci (schema {found}; this one needs {known})", .path.display())]
    OlderSchema { path: PathBuf, found: i64, known: i64 },
    #[error("there is no queue in {}", .0.display())]
    Missing(PathBuf),
    #[error("{} is held by another serve: {}", .dir.display(), described(.holder.as_ref()))]
    Locked {
        dir: PathBuf,
        /// `None` if the holder is not recorded yet.
        holder: Option<Holder>,
    },
    #[error("there is no job {0}")]
    NotFound(JobId),
    #[error("job {id} is {state}; only failed or cancelled jobs can be retried")]
    NotRetried { id: JobId, state: JobState },
    #[error("job {id} is {state}; only queued or running jobs can be cancelled")]
    NotCancelled { id: JobId, state: JobState },
    #[error("job {0} was taken over by another process")]
    NotOwner(JobId),
    // The causes are in the text, and no `source`: each is printed once.
    #[error("cannot use {}: {cause}", .path.display())]
    Io { path: PathBuf, cause: io::Error },
    #[error("the queue's database: {0}")]
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for QueueError {
    fn from(error: rusqlite::Error) -> QueueError {
        QueueError::Sql(error)
    }
}

fn described(holder: Option<&Holder>) -> String {
    holder.map_or_else(|| "it has not said its name yet".to_owned(), Holder::to_string)
}

impl QueueError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> QueueError + use<> {
        let path = path.to_owned();
        move |cause| QueueError::Io { path, cause }
    }

    pub fn hint(&self) -> Option<String> {
        match self {
            QueueError::Unavailable(_) => {
                Some("is there space left in the state directory? trying again may help".to_owned())
            }
            QueueError::Corrupt { path, .. } => Some(format!(
                "the files were kept as they are: restore them from a backup, or move {0}, {0}-wal, {0}-shm and {1} away \
                 to begin an empty queue; `swanci catchup` then builds what the lost one held",
                path.display(),
                path.with_extension("mark").display()
            )),
            QueueError::NewerSchema { .. } => {
                Some("run the newer swanci, or give this one a state directory of its own".to_owned())
            }
            QueueError::OlderSchema { .. } => {
                Some("start this version's `swanci serve` once; it brings the queue up to date".to_owned())
            }
            QueueError::Missing(_) => {
                Some("name the state directory of `swanci serve` with --state-dir".to_owned())
            }
            QueueError::Locked { .. } => {
                Some("stop it first, or give this one a --state-dir of its own".to_owned())
            }
            QueueError::NotFound(_) => Some("`swanci jobs list` shows the jobs".to_owned()),
            QueueError::Io { .. } => Some(
                "is it writable? --state-dir or SWANCI_STATE_DIR chooses another state directory".to_owned(),
            ),
            QueueError::NotRetried { .. }
            | QueueError::NotCancelled { .. }
            | QueueError::NotOwner(_)
            | QueueError::Sql(_) => None,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            QueueError::NotFound(_)
            | QueueError::NotRetried { .. }
            | QueueError::NotCancelled { .. }
            | QueueError::NotOwner(_) => Kind::Failed,
            QueueError::Unavailable(_)
            | QueueError::Corrupt { .. }
            | QueueError::NewerSchema { .. }
            | QueueError::OlderSchema { .. }
            | QueueError::Missing(_)
            | QueueError::Locked { .. }
            | QueueError::Io { .. }
            | QueueError::Sql(_) => Kind::Environment,
        }
    }
}

impl From<QueueError> for Failure {
    fn from(error: QueueError) -> Failure {
        let (kind, hint) = (error.kind(), error.hint());
        Failure { kind, error: error.into(), hint }
    }
}
