//! What a caller of the queue branches on.

use std::io;
use std::path::{Path, PathBuf};

use super::job::{JobId, JobState};
use super::lock::Holder;
use crate::error::{Failure, Kind};

/// Why the queue did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Nothing was written: the disk is full, the database is locked or the writer is gone. Trying again may help.
    #[error("the queue cannot be written: {0}")]
    Unavailable(String),
    /// The database failed its check. It was left as it is.
    #[error("{} is damaged: {detail}", .path.display())]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What the check found.
        detail: String,
    },
    /// A later swanci wrote this database.
    #[error("{} is of a newer swanci (schema {found}; this one knows {known})", .path.display())]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// Its schema number.
        found: i64,
        /// The newest schema number that this program knows.
        known: i64,
    },
    /// An earlier swanci wrote this database, and no `serve` of this version has brought it up to date yet.
    #[error("{} is of an older swanci (schema {found}; this one needs {known})", .path.display())]
    OlderSchema {
        /// The database.
        path: PathBuf,
        /// Its schema number.
        found: i64,
        /// The schema number that this program needs.
        known: i64,
    },
    /// There is no queue in this state directory.
    #[error("there is no queue in {}", .0.display())]
    Missing(PathBuf),
    /// Another `serve` holds the state directory.
    #[error("{} is held by another serve: {}", .dir.display(), described(.holder.as_ref()))]
    Locked {
        /// The state directory.
        dir: PathBuf,
        /// Who holds it; `None` when it has not said so yet.
        holder: Option<Holder>,
    },
    /// No job has this number.
    #[error("there is no job {0}")]
    NotFound(JobId),
    /// The job's state does not allow it.
    #[error("job {id} is {from} and cannot become {to}")]
    IllegalTransition {
        /// The job.
        id: JobId,
        /// The state that it is in.
        from: JobState,
        /// The state that was asked for.
        to: JobState,
    },
    /// A file of the state directory could not be used.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// SQLite said something else.
    #[error("the queue's database: {0}")]
    Sql(#[from] rusqlite::Error),
}

fn described(holder: Option<&Holder>) -> String {
    holder.map_or_else(|| "it has not said its name yet".to_owned(), Holder::to_string)
}

impl QueueError {
    /// An error of the system on `path`.
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> QueueError + use<> {
        let path = path.to_owned();
        move |source| QueueError::Io { path, source }
    }

    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            QueueError::Unavailable(_) => {
                Some("is there space left in the state directory? trying again may help".to_owned())
            }
            QueueError::Corrupt { path, .. } => Some(format!(
                "the file was kept as it is; move {0} (with {0}-wal and {0}-shm) away and start again, \
                 `swanci catchup` then builds what the lost queue held",
                path.display()
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
            QueueError::IllegalTransition { .. } | QueueError::Io { .. } | QueueError::Sql(_) => None,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            QueueError::NotFound(_) | QueueError::IllegalTransition { .. } => Kind::Failed,
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
