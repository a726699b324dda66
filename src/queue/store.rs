//! Jobs, claims, leases, logs and the end of each attempt: SQLite and files in the state directory, both private to
//! this module.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::cannot_use;
use super::database::{Database, Sql};
use super::job::{Ending, JobId, JobRecord, JobState, NewJob, QueueStats};
use super::lock::ServeLock;
use super::log::{self, JobLog, LOG_CAP};
use super::sql::{self, NEXT, RECORD, millis, record};
use crate::cancel::Cancel;
use crate::error::Failure;

/// How long a running job stays with its owner without a renewal.
pub(super) const LEASE: Duration = Duration::from_secs(60);

/// How often waiting calls check for changes by other processes.
const POLL: Duration = Duration::from_millis(200);

/// The wall clock, which may jump forward or back at any time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The jobs of a state directory.
pub struct Store {
    dir: PathBuf,
    /// Identifies this process and its start: process ids are reused.
    owner: String,
    clock: Clock,
    database: Mutex<Database>,
    changes: Mutex<u64>,
    changed: Condvar,
    /// Last field, so that the database is closed before another `serve` may open it.
    _lock: Option<ServeLock>,
}

impl Store {
    /// Opens the store for the one `serve` of a state directory, and requeues jobs that an earlier one left running.
    ///
    /// The database is created, checked and migrated. A damaged one is refused and left unchanged.
    pub fn open(lock: ServeLock, clock: Clock) -> Result<Store, Failure> {
        let database = Database::open(lock.dir(), true)?;
        let store = Store::assemble(lock.dir().to_owned(), database, Some(lock), clock);
        // The lock proves that no other owner runs, even if its lease has not expired.
        store.write(|conn| sql::release(conn, &store.owner, i64::MAX, store.now()))?;
        Ok(store)
    }

    /// Opens an existing store to read or change it, also while `serve` runs.
    pub fn open_existing(dir: &Path, clock: Clock) -> Result<Store, Failure> {
        Ok(Store::assemble(dir.to_owned(), Database::open(dir, false)?, None, clock))
    }

    fn assemble(dir: PathBuf, database: Database, lock: Option<ServeLock>, clock: Clock) -> Store {
        let owner = format!("{}-{:08x}", std::process::id(), fastrand::u32(..));
        let (changes, changed) = Default::default();
        Store { dir, owner, clock, database: Mutex::new(database), changes, changed, _lock: lock }
    }

    /// Stores a merge on disk; `Ok` means that it is stored (fsync). Returns its job, and the job's state before this
    /// call, `None` if the merge was unknown. A job that failed or was cancelled is queued again.
    pub fn accept(&self, job: &NewJob) -> Result<(JobId, Option<JobState>), Failure> {
        self.write_new(|conn| sql::accept(conn, job, self.now()))
    }

    /// Queues a failed or cancelled job again, with a fresh set of attempts.
    pub fn retry(&self, id: JobId) -> Result<(), Failure> {
        if self.write_new(|conn| sql::queue_again(conn, id, self.now()))? {
            return Ok(());
        }
        let verb = self.get(id)?.state.verb();
        Err(Failure::failed(format!("job {id} {verb}; only failed or cancelled jobs can be retried")))
    }

    /// Cancels a queued job; a running one is stopped by its worker within a second. Returns whether it was queued.
    pub fn cancel(&self, id: JobId) -> Result<bool, Failure> {
        let cancelled = self.write(|conn| {
            conn.prepare_cached(
                "UPDATE jobs SET cancel_requested = (state = 'running'),
                     finished_at = iif(state = 'queued', ?2, NULL), not_before = NULL,
                     state = iif(state = 'queued', 'cancelled', state)
                 WHERE id = ?1 AND state IN ('queued', 'running') RETURNING state = 'cancelled'",
            )?
            .query_row(params![id.0, self.now()], |row| row.get(0))
            .optional()
        })?;
        if let Some(cancelled) = cancelled {
            return Ok(cancelled);
        }
        let verb = self.get(id)?.state.verb();
        Err(Failure::failed(format!("job {id} {verb}; only queued or running jobs can be cancelled")))
    }

    /// Whether a job may run now. A wait that ends later than `longest` from now counts as over: it was written before
    /// the clock was set back.
    pub(super) fn has_next(&self, longest: Duration) -> Result<bool, Failure> {
        let now = self.now();
        self.read(|conn| conn.prepare_cached(NEXT)?.exists(params![now, now + millis(longest)]))
    }

    /// Claims the oldest job that may run now and whose lane is free, under a lease.
    pub(super) fn claim(&self, longest: Duration) -> Result<Option<JobRecord>, Failure> {
        // A plain read needs no transaction, and usually finds nothing.
        if !self.has_next(longest)? {
            return Ok(None);
        }
        let now = self.now();
        self.database().write_new(|conn| {
            conn.prepare_cached(&format!(
                "UPDATE jobs SET state = 'running', owner = ?3, started_at = ?1, lease_expires_at = ?4, not_before = NULL
                 WHERE id = ({NEXT}) RETURNING {RECORD}"
            ))?
            .query_row(params![now, now + millis(longest), self.owner, now + millis(LEASE)], record)
            .optional()
        })
    }

    /// Renews the leases of this process's jobs, queues jobs again whose other owners did not renew theirs, and returns
    /// the jobs that this process owns.
    pub(super) fn renew_leases(&self) -> Result<Vec<JobId>, Failure> {
        let now = self.now();
        if !self.read(|conn| conn.prepare_cached("SELECT 1 FROM jobs WHERE state = 'running'")?.exists([]))? {
            return Ok(Vec::new());
        }
        self.write(|conn| {
            sql::release(conn, &self.owner, now, now)?;
            conn.prepare_cached(
                "UPDATE jobs SET lease_expires_at = ?2 WHERE state = 'running' AND owner = ?1 RETURNING id",
            )?
            .query_map(params![self.owner, now + millis(LEASE)], |row| row.get(0).map(JobId))?
            .collect()
        })
    }

    /// Ends an attempt; returns the state of the job, `None` if another process has taken it over. A job that was
    /// cancelled meanwhile is not retried.
    pub(super) fn end(&self, id: JobId, ending: &Ending) -> Result<Option<JobState>, Failure> {
        self.write(|conn| sql::end(conn, id, &self.owner, ending, self.now()))
    }

    /// Running jobs with a cancel request.
    pub(super) fn to_cancel(&self) -> Result<Vec<JobId>, Failure> {
        self.read(|conn| {
            conn.prepare_cached("SELECT id FROM jobs WHERE state = 'running' AND cancel_requested")?
                .query_map([], |row| row.get(0).map(JobId))?
                .collect()
        })
    }

    /// Deletes jobs that ended longer than `age` ago, and all but the newest `count` ended jobs, with their logs, in
    /// small batches. Returns how many.
    pub fn delete_old(&self, age: Duration, count: u32) -> Result<usize, Failure> {
        let before = self.now().saturating_sub(millis(age));
        let mut deleted = 0;
        loop {
            let expired = self.read(|conn| sql::expired(conn, before, count))?;
            if expired.is_empty() {
                return Ok(deleted);
            }
            // Logs first: a crash in between leaves jobs without logs, which the next run deletes, instead of logs
            // without jobs.
            for id in &expired {
                let _ = std::fs::remove_file(self.log_path(*id));
            }
            let done: usize = self.write(|conn| {
                let mut delete =
                    conn.prepare_cached("DELETE FROM jobs WHERE id = ? AND finished_at IS NOT NULL")?;
                expired.iter().map(|id| delete.execute([id.0])).sum()
            })?;
            if done == 0 {
                return Ok(deleted); // all were queued again meanwhile
            }
            deleted += done;
        }
    }

    /// The newest `limit` jobs, newest first, of this state and of this repository (ignoring case).
    pub fn list(
        &self,
        state: Option<JobState>,
        repository: Option<&str>,
        limit: u32,
    ) -> Result<Vec<JobRecord>, Failure> {
        let (state, repository) = (state.map(JobState::as_str), repository.map(str::to_ascii_lowercase));
        self.read(|conn| {
            conn.prepare_cached(&format!(
                "SELECT {RECORD} FROM jobs
                 WHERE (?1 IS NULL OR state = ?1) AND (?2 IS NULL OR lower(repository) = ?2)
                 ORDER BY id DESC LIMIT ?3"
            ))?
            .query_map(params![state, repository, limit], record)?
            .collect()
        })
    }

    pub fn get(&self, id: JobId) -> Result<JobRecord, Failure> {
        let found = self.read(|conn| {
            conn.prepare_cached(&format!("SELECT {RECORD} FROM jobs WHERE id = ?"))?
                .query_row([id.0], record)
                .optional()
        })?;
        found.ok_or_else(|| {
            Failure::failed(format!("there is no job {id}")).hint("`swanci jobs list` shows the jobs")
        })
    }

    pub fn stats(&self) -> Result<QueueStats, Failure> {
        self.read(sql::stats)
    }

    /// Whether a job could be accepted now: writes one page, like `accept`.
    pub fn check_writable(&self) -> Result<(), Failure> {
        self.database().write_new(|_| Ok(()))
    }

    /// The log of a job, for another attempt.
    pub(super) fn open_log(&self, id: JobId) -> JobLog {
        JobLog::open(&self.log_path(id), LOG_CAP)
    }

    /// The path of a job's log, which exists once the job has started.
    pub fn log_path(&self, id: JobId) -> PathBuf {
        self.dir.join("logs").join(format!("{id}.log"))
    }

    /// Passes the current content of a job's log to `sink`.
    pub fn read_log(&self, id: JobId, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<(), Failure> {
        let path = self.log_path(id);
        log::copy(&path, &mut 0, sink).map_err(cannot_use(&path))
    }

    /// Passes a job's log and all additions to `sink`, until the job has ended. A job that waits for its next attempt
    /// has not ended.
    pub fn follow_log(
        &self,
        id: JobId,
        cancel: &Cancel,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<JobRecord, Failure> {
        let (path, mut at) = (self.log_path(id), 0);
        self.wait(cancel, || {
            // The state first: an ended job writes no more, so no line is missed.
            let job = self.get(id)?;
            log::copy(&path, &mut at, sink).map_err(cannot_use(&path))?;
            Ok(job.state.is_ended().then_some(job))
        })
    }

    /// Waits until a job has ended, including its retries.
    pub fn wait_ended(&self, id: JobId, cancel: &Cancel) -> Result<JobRecord, Failure> {
        self.wait(cancel, || Ok(Some(self.get(id)?).filter(|job| job.state.is_ended())))
    }

    /// Waits until no job is queued or running.
    pub fn wait_drained(&self, cancel: &Cancel) -> Result<(), Failure> {
        self.wait(cancel, || {
            let stats = self.stats()?;
            Ok((stats.count(JobState::Queued) + stats.count(JobState::Running) == 0).then_some(()))
        })
    }

    fn wait<T>(
        &self,
        cancel: &Cancel,
        mut ready: impl FnMut() -> Result<Option<T>, Failure>,
    ) -> Result<T, Failure> {
        loop {
            let seen = self.changes();
            if let Some(value) = ready()? {
                return Ok(value);
            }
            cancel.check()?;
            self.wait_change(seen, POLL);
        }
    }

    /// The number of changes so far. Read it before looking for work, so that no change is missed before the wait.
    pub(super) fn changes(&self) -> u64 {
        *self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there are more changes than `seen`, or for `limit`.
    pub(super) fn wait_change(&self, seen: u64, limit: Duration) {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_timeout_while(changes, limit, |changes| *changes == seen));
    }

    /// Wakes all threads that wait for a change.
    pub(super) fn wake(&self) {
        *self.changes.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.changed.notify_all();
    }

    pub(super) fn now(&self) -> i64 {
        (self.clock)().as_millisecond()
    }

    fn database(&self) -> MutexGuard<'_, Database> {
        // A panic rolls its transaction back, so the data is consistent.
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read<T>(&self, work: impl FnOnce(&Connection) -> Sql<T>) -> Result<T, Failure> {
        Ok(work(&self.database().conn)?)
    }

    pub(super) fn write<T>(&self, work: impl Fn(&Connection) -> Sql<T>) -> Result<T, Failure> {
        self.database().write(work).inspect(|_| self.wake())
    }

    fn write_new<T>(&self, work: impl Fn(&Connection) -> Sql<T>) -> Result<T, Failure> {
        self.database().write_new(work).inspect(|_| self.wake())
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("dir", &self.dir).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
