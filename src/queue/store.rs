//! Jobs, claims, leases, logs and the end of each attempt: SQLite and files in the state directory, both private to
//! this module.

mod sql;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use super::ballast::{BALLAST_BYTES, Ballast};
use super::error::QueueError;
use super::job::{
    Accepted, CancelOutcome, ClaimedJob, JobDocuments, JobFilter, JobId, JobRecord, JobState, NewJob,
    QueueStats,
};
use super::lock::ServeLock;
use super::log::{self, JobLog};
use super::schema::{self, Database};
use crate::cancel::{Cancel, Stop};

use sql::{RECORD, Sql, accept, end, expired, millis, next, queue_again, record, release, state_of, stats};

/// How long a running job stays with its owner without a renewal.
pub(super) const LEASE: Duration = Duration::from_secs(60);

/// How often waiting calls check for changes by other processes.
const POLL: Duration = Duration::from_millis(200);

/// Jobs deleted per transaction: few, so that deliveries do not wait long.
const BATCH: u32 = 200;

/// The wall clock, which may jump forward or back at any time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Which ended jobs to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Jobs that ended within this time …
    pub age: Duration,
    /// … but at most this many.
    pub count: u32,
}

impl Default for Retention {
    /// 90 days, 10,000 jobs.
    fn default() -> Retention {
        Retention { age: Duration::from_secs(90 * 24 * 3600), count: 10_000 }
    }
}

/// How an attempt ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    Succeeded {
        outcome: String,
    },
    Failed {
        code: u8,
        error: String,
    },
    Cancelled,
    Retry {
        code: u8,
        error: String,
        wait: Duration,
    },
    /// Does not count as an attempt.
    Interrupted,
}

impl Ending {
    const fn state(&self) -> JobState {
        match self {
            Ending::Succeeded { .. } => JobState::Succeeded,
            Ending::Failed { .. } => JobState::Failed,
            Ending::Cancelled => JobState::Cancelled,
            Ending::Retry { .. } | Ending::Interrupted => JobState::Queued,
        }
    }
}

/// How a change is treated on a full disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Adds work: refused unless the ballast exists.
    Intake,
    /// Completes work: may use the ballast's space.
    Essential,
}

/// The jobs of a state directory. Clones share it; dropping the last one closes it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    /// Identifies this process and its start: process ids are reused.
    owner: String,
    clock: Clock,
    writer: Mutex<Writer>,
    changes: Mutex<u64>,
    changed: Condvar,
    /// Last field, so that the database is closed before another `serve` may open it.
    lock: Option<ServeLock>,
}

struct Writer {
    database: Database,
    ballast: Option<Ballast>,
    data_version: i64,
}

impl Store {
    /// Opens the store for the one `serve` of a state directory, and requeues jobs that an earlier one left running.
    ///
    /// The database is created, checked and migrated. A damaged one is refused and left unchanged.
    pub fn open(lock: ServeLock, clock: Clock) -> Result<Store, QueueError> {
        Store::open_with_ballast(lock, clock, BALLAST_BYTES)
    }

    /// Like [`Store::open`], for small disks: reserves `ballast` bytes instead of 8 MiB.
    pub fn open_with_ballast(lock: ServeLock, clock: Clock, ballast: u64) -> Result<Store, QueueError> {
        let database = schema::open_for_serve(lock.dir())?;
        let ballast = Ballast::new(lock.dir().join("ballast"), ballast);
        let store = Store::assemble(lock.dir().to_owned(), database, Some(ballast), Some(lock), clock);
        // The lock proves that every other owner is gone, whatever its lease says.
        store.write(Class::Essential, |conn| release(conn, &store.0.owner, i64::MAX, store.now()))?;
        Ok(store)
    }

    /// Opens an existing store to read or change it, also while `serve` runs.
    pub fn open_existing(dir: &Path, clock: Clock) -> Result<Store, QueueError> {
        Ok(Store::assemble(dir.to_owned(), schema::open_beside(dir)?, None, None, clock))
    }

    fn assemble(
        dir: PathBuf,
        database: Database,
        ballast: Option<Ballast>,
        lock: Option<ServeLock>,
        clock: Clock,
    ) -> Store {
        let owner = format!("{}-{:08x}", std::process::id(), fastrand::u32(..));
        let writer = Mutex::new(Writer { database, ballast, data_version: 0 });
        let (changes, changed) = Default::default();
        Store(Arc::new(Inner { dir, owner, clock, writer, changes, changed, lock }))
    }

    /// Stores a merge on disk. `Ok` means that it is stored (fsync); [`QueueError::Unavailable`] that it is not.
    pub fn accept(&self, job: NewJob) -> Result<Accepted, QueueError> {
        let now = self.now();
        self.write(Class::Intake, |conn| accept(conn, &job, now))
    }

    /// Queues a failed or cancelled job again, with a fresh set of attempts.
    pub fn retry(&self, id: JobId) -> Result<(), QueueError> {
        let retried = self.write(Class::Intake, |conn| match state_of(conn, id)? {
            Some(state) if state.may_be_retried() => queue_again(conn, id, self.now()).map(|()| Ok(())),
            found => Ok(Err(found)),
        })?;
        retried.map_err(|found| match found {
            None => QueueError::NotFound(id),
            Some(state) => QueueError::NotRetried { id, state },
        })
    }

    /// Cancels a queued job; a running one is stopped by its worker within a second.
    pub fn cancel(&self, id: JobId) -> Result<CancelOutcome, QueueError> {
        let now = self.now();
        let cancelled = self.write(Class::Essential, |conn| match state_of(conn, id)? {
            Some(JobState::Queued) => {
                conn.prepare_cached(
                    "UPDATE jobs SET state = 'cancelled', finished_at = ?2, not_before = NULL WHERE id = ?1",
                )?
                .execute(params![id.0, now])?;
                Ok(Ok(CancelOutcome::Cancelled))
            }
            Some(JobState::Running) => {
                conn.prepare_cached("UPDATE jobs SET cancel_requested = 1 WHERE id = ?")?.execute([id.0])?;
                Ok(Ok(CancelOutcome::Requested))
            }
            found @ (None | Some(JobState::Succeeded | JobState::Failed | JobState::Cancelled)) => {
                Ok(Err(found))
            }
        })?;
        cancelled.map_err(|found| match found {
            None => QueueError::NotFound(id),
            Some(state) => QueueError::NotCancelled { id, state },
        })
    }

    /// Claims the oldest job that may run now and whose lane is free, under a lease. A wait that ends later than
    /// `longest` from now counts as over: it was written before the clock was set back.
    pub(super) fn claim(&self, longest: Duration) -> Result<Option<ClaimedJob>, QueueError> {
        let (owner, now) = (&self.0.owner, self.now());
        let mut writer = self.writer();
        // A plain read needs no transaction, and usually finds nothing.
        if next(&writer.database.conn, now, longest)?.is_none() {
            return Ok(None);
        }
        let claimed = writer.write(Class::Intake, |conn| {
            let Some(id) = next(conn, now, longest)? else { return Ok(None) };
            conn.prepare_cached(
                "UPDATE jobs SET state = 'running', owner = ?2, started_at = ?3, lease_expires_at = ?4, not_before = NULL
                 WHERE id = ?1 AND state = 'queued'
                 RETURNING id, attempts + 1, repository, branch, nullif(commit_sha, ''), pull_request, document",
            )?
            .query_row(params![id, owner, now, now + millis(LEASE)], |row| {
                Ok(ClaimedJob {
                    id: JobId(row.get(0)?),
                    attempt: row.get(1)?,
                    repository: row.get(2)?,
                    branch: row.get(3)?,
                    commit: row.get(4)?,
                    pull_request: row.get(5)?,
                    document: row.get(6)?,
                })
            })
            .optional()
        });
        claimed.map_err(QueueError::Unavailable)
    }

    /// Renews the leases of this process's jobs, and returns the jobs that it still owns.
    pub(super) fn renew(&self) -> Result<Vec<JobId>, QueueError> {
        let until = self.now() + millis(LEASE);
        self.write(Class::Essential, |conn| {
            conn.prepare_cached(
                "UPDATE jobs SET lease_expires_at = ?2 WHERE state = 'running' AND owner = ?1 RETURNING id",
            )?
            .query_map(params![self.0.owner, until], |row| row.get(0).map(JobId))?
            .collect()
        })
    }

    /// Queues jobs again whose other owners did not renew their leases.
    pub(super) fn release_expired(&self) -> Result<(), QueueError> {
        let (owner, now) = (&self.0.owner, self.now());
        let any = self.read(|conn| {
            conn.prepare_cached(
                "SELECT 1 FROM jobs WHERE state = 'running' AND owner <> ?1 AND lease_expires_at < ?2",
            )?
            .exists(params![owner, now])
        })?;
        if any { self.write(Class::Essential, |conn| release(conn, owner, now, now)) } else { Ok(()) }
    }

    /// Ends an attempt. Only the owner may; a job that was cancelled meanwhile is not retried.
    pub(super) fn end(&self, id: JobId, ending: &Ending) -> Result<JobState, QueueError> {
        let now = self.now();
        let ended = self.write(Class::Essential, |conn| end(conn, id, &self.0.owner, ending, now))?;
        ended.ok_or(QueueError::NotOwner(id))
    }

    /// Running jobs with a cancel request.
    pub(super) fn to_cancel(&self) -> Result<Vec<JobId>, QueueError> {
        self.read(|conn| {
            conn.prepare_cached("SELECT id FROM jobs WHERE state = 'running' AND cancel_requested")?
                .query_map([], |row| row.get(0).map(JobId))?
                .collect()
        })
    }

    /// Wakes the workers if another process has changed the database, or a wait is over.
    pub(super) fn look(&self, longest: Duration) -> Result<(), QueueError> {
        let now = self.now();
        let mut writer = self.writer();
        let version = writer.database.conn.pragma_query_value(None, "data_version", |row| row.get(0))?;
        let changed = std::mem::replace(&mut writer.data_version, version) != version;
        if changed || next(&writer.database.conn, now, longest)?.is_some() {
            drop(writer);
            self.ring();
        }
        Ok(())
    }

    /// Deletes ended jobs and their logs in small batches. Returns how many.
    pub fn enforce(&self, retention: Retention) -> Result<usize, QueueError> {
        let before = self.now().saturating_sub(millis(retention.age));
        let mut forgotten = 0;
        loop {
            let expired = self.read(|conn| expired(conn, before, retention.count))?;
            if expired.is_empty() {
                return Ok(forgotten);
            }
            // Logs first: a crash in between leaves jobs without logs, which the next run deletes, instead of logs
            // without jobs.
            log::remove(&self.0.dir, &expired);
            let done: usize = self.write(Class::Essential, |conn| {
                let mut forget =
                    conn.prepare_cached("DELETE FROM jobs WHERE id = ? AND finished_at IS NOT NULL")?;
                expired.iter().map(|id| forget.execute([id.0])).sum()
            })?;
            if done == 0 {
                return Ok(forgotten); // all were queued again meanwhile
            }
            forgotten += done;
        }
    }

    /// The newest `limit` jobs that match the filter, newest first.
    pub fn list(&self, filter: &JobFilter, limit: u32) -> Result<Vec<JobRecord>, QueueError> {
        let state = filter.state.map(JobState::as_str);
        let repository = filter.repository.as_deref().map(str::to_ascii_lowercase);
        self.read(|conn| {
            conn.prepare_cached(&format!(
                "{RECORD} WHERE (?1 IS NULL OR state = ?1) AND (?2 IS NULL OR lower(repository) = ?2)
                 ORDER BY id DESC LIMIT ?3"
            ))?
            .query_map(params![state, repository, limit], record)?
            .collect()
        })
    }

    pub fn get(&self, id: JobId) -> Result<JobRecord, QueueError> {
        let found = self.read(|conn| {
            conn.prepare_cached(&format!("{RECORD} WHERE id = ?"))?.query_row([id.0], record).optional()
        })?;
        found.ok_or(QueueError::NotFound(id))
    }

    pub fn documents(&self, id: JobId) -> Result<JobDocuments, QueueError> {
        let found = self.read(|conn| {
            conn.prepare_cached("SELECT document, outcome FROM jobs WHERE id = ?")?
                .query_row([id.0], |row| Ok(JobDocuments { document: row.get(0)?, outcome: row.get(1)? }))
                .optional()
        })?;
        found.ok_or(QueueError::NotFound(id))
    }

    pub fn stats(&self) -> Result<QueueStats, QueueError> {
        self.read(stats)
    }

    /// Whether a job could be accepted now: writes one page, like `accept`.
    pub fn check_writable(&self) -> Result<(), QueueError> {
        self.writer().write(Class::Intake, |_| Ok(())).map_err(QueueError::Unavailable)
    }

    /// The log of a job, for another attempt.
    pub(super) fn open_log(&self, id: JobId, cap: u64) -> JobLog {
        JobLog::open(&self.0.dir, id, cap)
    }

    /// The path of a job's log, which exists once the job has started.
    pub fn log_path(&self, id: JobId) -> PathBuf {
        log::path(&self.0.dir, id)
    }

    /// Passes the current content of a job's log to `sink`.
    pub fn read_log(
        &self,
        id: JobId,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), QueueError> {
        self.get(id)?;
        let path = self.log_path(id);
        log::Follower::new(path.clone()).advance(sink).map_err(QueueError::io(&path))
    }

    /// Passes a job's log and all additions to `sink`, until the job has ended or `cancel` stops. A job that waits for
    /// its next attempt has not ended.
    pub fn follow_log(
        &self,
        id: JobId,
        cancel: &Cancel,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<Result<JobRecord, Stop>, QueueError> {
        let path = self.log_path(id);
        let mut follower = log::Follower::new(path.clone());
        loop {
            // The state first: an ended job writes no more, so no line is missed.
            let record = self.get(id)?;
            follower.advance(sink).map_err(QueueError::io(&path))?;
            if record.state.is_ended() {
                return Ok(Ok(record));
            }
            if let Err(stop) = cancel.sleep(POLL) {
                return Ok(Err(stop));
            }
        }
    }

    /// Waits until a job has ended, including its retries.
    pub fn wait_ended(&self, id: JobId, cancel: &Cancel) -> Result<Result<JobRecord, Stop>, QueueError> {
        self.wait(cancel, || {
            let record = self.get(id)?;
            Ok(record.state.is_ended().then_some(record))
        })
    }

    /// Waits until no job is queued or running.
    pub fn wait_drained(&self, cancel: &Cancel) -> Result<Result<(), Stop>, QueueError> {
        self.wait(cancel, || {
            let stats = self.stats()?;
            Ok((stats.queued + stats.running == 0).then_some(()))
        })
    }

    fn wait<T>(
        &self,
        cancel: &Cancel,
        mut ready: impl FnMut() -> Result<Option<T>, QueueError>,
    ) -> Result<Result<T, Stop>, QueueError> {
        loop {
            let seen = self.changes();
            if let Some(value) = ready()? {
                return Ok(Ok(value));
            }
            if let Err(stop) = cancel.check() {
                return Ok(Err(stop));
            }
            self.wait_change(seen, POLL);
        }
    }

    /// The number of changes so far. Read it before looking for work, so that no change is missed before the wait.
    pub(super) fn changes(&self) -> u64 {
        *self.0.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there are more changes than `seen`, or for `limit`.
    pub(super) fn wait_change(&self, seen: u64, limit: Duration) {
        let changes = self.0.changes.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.0.changed.wait_timeout_while(changes, limit, |changes| *changes == seen));
    }

    /// Wakes all threads that wait for a change.
    pub(super) fn ring(&self) {
        *self.0.changes.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.changed.notify_all();
    }

    /// The lock of `serve`; `None` for [`Store::open_existing`].
    pub fn serve_lock(&self) -> Option<&ServeLock> {
        self.0.lock.as_ref()
    }

    fn now(&self) -> i64 {
        (self.0.clock)().as_millisecond()
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic rolls its transaction back, so the data is consistent.
        self.0.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(&self, work: impl FnOnce(&Connection) -> Sql<T>) -> Result<T, QueueError> {
        Ok(work(&self.writer().database.conn)?)
    }

    fn write<T>(&self, class: Class, work: impl Fn(&Connection) -> Sql<T>) -> Result<T, QueueError> {
        let done = self.writer().write(class, work).map_err(QueueError::Unavailable)?;
        self.ring();
        Ok(done)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("dir", &self.0.dir).finish_non_exhaustive()
    }
}

impl Writer {
    /// Runs `work` in a transaction; retries once on a full disk if it may use the ballast's space. `Err` is the reason
    /// why nothing was written.
    fn write<T>(&mut self, class: Class, work: impl Fn(&Connection) -> Sql<T>) -> Result<T, String> {
        if let Err(error) = self.put_ballast()
            && class == Class::Intake
        {
            return Err(format!("the disk is full ({error})"));
        }
        let mut done = self.transact(&work);
        if class == Class::Essential && done.as_ref().is_err_and(is_space) {
            self.make_space();
            done = self.transact(&work);
            let _ = self.put_ballast();
        }
        done.map_err(|error| error.to_string())
    }

    fn transact<T>(&mut self, work: &impl Fn(&Connection) -> Sql<T>) -> Sql<T> {
        let Database { conn, mark } = &mut self.database;
        let transaction = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let done = work(&transaction)?;
        let changes = transaction
            .prepare_cached("UPDATE meta SET changes = changes + 1 RETURNING changes")?
            .query_row([], |row| row.get(0))?;
        transaction.commit()?;
        // The change is on disk. Without its mark, only a later loss of it would go unnoticed.
        let _ = mark.write(changes);
        Ok(done)
    }

    fn put_ballast(&mut self) -> io::Result<()> {
        self.ballast.as_mut().map_or(Ok(()), Ballast::put)
    }

    /// Deletes the ballast and folds the write-ahead log into the database, which also frees space.
    fn make_space(&mut self) {
        if let Some(ballast) = &mut self.ballast {
            ballast.release();
        }
        let _ = self.database.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }
}

/// Whether more disk space would help. SQLite reports "disk I/O error" when the shared-memory file cannot grow.
fn is_space(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure))
}

#[cfg(test)]
mod tests;

mod outbox;
pub use outbox::{Outbox, Post, PostError, PostKind};
