//! The one place where jobs, claims, leases, logs and the end of each attempt are kept: SQLite and files in the state
//! directory. Whoever uses a [`Store`] knows neither.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, named_params, params};

use super::ballast::{BALLAST_BYTES, Ballast};
use super::error::QueueError;
use super::job::{
    Accepted, CancelOutcome, ClaimedJob, JobDocuments, JobFilter, JobId, JobRecord, JobState, NewJob,
    QueueStats,
};
use super::lock::ServeLock;
use super::log::{self, JobLog, Redact};
use super::schema::{self, Database};
use crate::cancel::{Cancel, Stop};

type Sql<T> = rusqlite::Result<T>;

/// How long a running job stays its owner's without being renewed.
pub(super) const LEASE: Duration = Duration::from_secs(60);

/// How often those who wait look for changes of another process.
const POLL: Duration = Duration::from_millis(200);

/// Jobs that one transaction forgets: few, so that a delivery does not wait for it.
const BATCH: u32 = 200;

/// The wall clock, which a person or NTP may set forward or back at any moment.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Which ended jobs are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Those that ended within this time …
    pub age: Duration,
    /// … but never more than this many.
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
    /// Not an attempt.
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

/// What a change may do when the disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Takes on work: refused unless the ballast is in place.
    Intake,
    /// Brings work to its end: gets the ballast's space.
    Essential,
}

/// A state directory's jobs. Clones share it; the last one closes it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    /// This process and this start of it: process ids come again.
    owner: String,
    clock: Clock,
    /// Deliveries that wait for the database: whoever gets it next commits them all.
    waiting: Mutex<Vec<Waiting>>,
    writer: Mutex<Writer>,
    changes: Mutex<u64>,
    changed: Condvar,
    /// Last, so that the database is closed before another `serve` may open it.
    lock: Option<ServeLock>,
}

type Waiting = (NewJob, SyncSender<Result<Accepted, String>>);

struct Writer {
    database: Database,
    ballast: Option<Ballast>,
    data_version: i64,
}

impl Store {
    /// Opens the store for the one `serve` of a state directory, and queues again what an earlier one left running.
    ///
    /// The database is made, checked and brought up to date. A damaged one is refused and kept as it is.
    pub fn open(lock: ServeLock, clock: Clock) -> Result<Store, QueueError> {
        Store::open_with_ballast(lock, clock, BALLAST_BYTES)
    }

    /// [`Store::open`] on a small disk: holds back `ballast` bytes instead of 8 MiB.
    pub fn open_with_ballast(lock: ServeLock, clock: Clock, ballast: u64) -> Result<Store, QueueError> {
        let database = schema::open_for_serve(lock.dir())?;
        let ballast = Ballast::new(lock.dir().join("ballast"), ballast);
        let store = Store::assemble(lock.dir().to_owned(), database, Some(ballast), Some(lock), clock);
        // The lock proves that every other owner is gone, whatever its lease says.
        store.write(Class::Essential, |conn| release(conn, &store.0.owner, i64::MAX, store.now()))?;
        Ok(store)
    }

    /// Opens a store that is there, to look into it or to change it beside a running `serve`.
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
        let (waiting, changes, changed) = Default::default();
        Store(Arc::new(Inner { dir, owner, clock, waiting, writer, changes, changed, lock }))
    }

    /// Puts a merge on disk. `Ok` means that it is there (fsync); [`QueueError::Unavailable`] that nothing is.
    pub fn accept(&self, job: NewJob) -> Result<Accepted, QueueError> {
        let (caller, answer) = sync_channel(1);
        self.waiting().push((job, caller));
        let mut writer = self.writer();
        let batch = std::mem::take(&mut *self.waiting());
        if !batch.is_empty() {
            let now = self.now();
            let accept_all = |conn: &Connection| {
                batch.iter().map(|(job, _)| accept(conn, job, now)).collect::<Sql<Vec<_>>>()
            };
            match writer.write(Class::Intake, accept_all) {
                Ok(all) => batch.iter().zip(all).for_each(|((_, caller), accepted)| {
                    let _ = caller.send(Ok(accepted));
                }),
                Err(reason) => batch.iter().for_each(|(_, caller)| {
                    let _ = caller.send(Err(reason.clone()));
                }),
            }
            self.ring();
        }
        drop(writer);
        match answer.recv() {
            Ok(answer) => answer.map_err(QueueError::Unavailable),
            // Whoever took it panicked before its commit.
            Err(_) => Err(QueueError::Unavailable("it was not written".to_owned())),
        }
    }

    /// Queues a job again that has failed or was cancelled, with all its attempts before it.
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

    /// Cancels a waiting job at once; a running one is stopped by its worker, within a second.
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

    /// Takes the oldest job that may run now and whose lane is free, under a lease. A wait that lies further ahead than
    /// `longest` was written before the clock was set back, and is over.
    pub(super) fn claim(&self, longest: Duration) -> Result<Option<ClaimedJob>, QueueError> {
        let (owner, now) = (&self.0.owner, self.now());
        let mut writer = self.writer();
        // Looking costs no transaction, and most of the time there is nothing.
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

    /// Renews the leases of this process's jobs, and returns the jobs that it still has.
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

    /// Queues again what other owners left running and did not renew.
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

    /// Ends an attempt. Only the owner may; a retry of a job that was cancelled meanwhile is its cancellation.
    pub(super) fn end(&self, id: JobId, ending: &Ending) -> Result<JobState, QueueError> {
        let now = self.now();
        let ended = self.write(Class::Essential, |conn| end(conn, id, &self.0.owner, ending, now))?;
        ended.ok_or(QueueError::NotOwner(id))
    }

    /// Running jobs that somebody wants cancelled.
    pub(super) fn to_cancel(&self) -> Result<Vec<JobId>, QueueError> {
        self.read(|conn| {
            conn.prepare_cached("SELECT id FROM jobs WHERE state = 'running' AND cancel_requested")?
                .query_map([], |row| row.get(0).map(JobId))?
                .collect()
        })
    }

    /// Wakes the workers if there is something to do that this process has not done itself: another process has changed
    /// the database, or a wait is over.
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

    /// Forgets ended jobs, with their logs, in small batches. Returns how many.
    pub fn enforce(&self, retention: Retention) -> Result<usize, QueueError> {
        let before = self.now().saturating_sub(millis(retention.age));
        let mut forgotten = 0;
        loop {
            let expired = self.read(|conn| expired(conn, before, retention.count))?;
            if expired.is_empty() {
                return Ok(forgotten);
            }
            // Logs first: a crash in between leaves jobs without a log, which go next time, not logs without a job.
            log::remove(&self.0.dir, &expired);
            let done: usize = self.write(Class::Essential, |conn| {
                let mut forget =
                    conn.prepare_cached("DELETE FROM jobs WHERE id = ? AND finished_at IS NOT NULL")?;
                expired.iter().map(|id| forget.execute([id.0])).sum()
            })?;
            if done == 0 {
                return Ok(forgotten); // all of them were queued again meanwhile
            }
            forgotten += done;
        }
    }

    /// The newest `limit` jobs that pass the filter, newest first.
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

    /// Whether a job could be accepted now: writes one page, as `accept` would.
    pub fn check_writable(&self) -> Result<(), QueueError> {
        self.writer().write(Class::Intake, |_| Ok(())).map_err(QueueError::Unavailable)
    }

    /// The log of a job, for another attempt.
    pub(super) fn open_log(&self, id: JobId, cap: u64, redact: Redact) -> JobLog {
        JobLog::open(&self.0.dir, id, cap, redact)
    }

    /// Where a person finds the log of a job, once it has begun.
    pub fn log_path(&self, id: JobId) -> PathBuf {
        log::path(&self.0.dir, id)
    }

    /// Hands over what the log of a job holds now.
    pub fn read_log(
        &self,
        id: JobId,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), QueueError> {
        self.get(id)?;
        let path = self.log_path(id);
        log::Follower::new(path.clone()).advance(sink).map_err(QueueError::io(&path))
    }

    /// Hands over the log of a job and what is added to it, until the job has ended or `cancel` stops. A job that
    /// waits for its next attempt has not ended.
    pub fn follow_log(
        &self,
        id: JobId,
        cancel: &Cancel,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<Result<JobRecord, Stop>, QueueError> {
        let path = self.log_path(id);
        let mut follower = log::Follower::new(path.clone());
        loop {
            // The state first: a job that has ended writes no more, so nothing is missed after it.
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

    /// Waits until a job has ended, its retries included.
    pub fn wait_ended(&self, id: JobId, cancel: &Cancel) -> Result<Result<JobRecord, Stop>, QueueError> {
        self.wait(cancel, || {
            let record = self.get(id)?;
            Ok(record.state.is_ended().then_some(record))
        })
    }

    /// Waits until nothing is queued or running any more.
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

    /// How often something has changed. Ask before looking for work, so that no change is missed before the wait.
    pub(super) fn changes(&self) -> u64 {
        *self.0.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until more has changed than `seen`, or for `limit`.
    pub(super) fn wait_change(&self, seen: u64, limit: Duration) {
        let changes = self.0.changes.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.0.changed.wait_timeout_while(changes, limit, |changes| *changes == seen));
    }

    /// Wakes everyone who waits for a change.
    pub(super) fn ring(&self) {
        *self.0.changes.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.changed.notify_all();
    }

    /// Who holds the state directory as its `serve`; `None` when this store was opened beside it.
    pub fn serve_lock(&self) -> Option<&ServeLock> {
        self.0.lock.as_ref()
    }

    fn now(&self) -> i64 {
        (self.0.clock)().as_millisecond()
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        // A panic rolls its transaction back and leaves nothing half done.
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
    /// Runs `work` in a transaction, a second time if the disk was full and it may have the ballast's space. `Err` is the
    /// reason why nothing was written.
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
        // The change is on disk. Without its mark a loss of it would not be noticed, and that is all.
        let _ = mark.write(changes);
        Ok(done)
    }

    fn put_ballast(&mut self) -> io::Result<()> {
        self.ballast.as_mut().map_or(Ok(()), Ballast::put)
    }

    /// Gives up the ballast and folds the log of changes into the database, which also frees what the log held.
    fn make_space(&mut self) {
        if let Some(ballast) = &mut self.ballast {
            ballast.release();
        }
        let _ = self.database.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }
}

/// Whether more space on the disk would help. The shared-memory file says "disk I/O error" when it cannot grow.
fn is_space(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure))
}

fn accept(conn: &Connection, job: &NewJob, now: i64) -> Sql<Accepted> {
    let (lane, key) = (job.lane(), job.merge_key());
    let commit = job.commit.as_ref().map(ToString::to_string).unwrap_or_default();
    let new: Option<i64> = conn
        .prepare_cached(
            "INSERT INTO jobs (lane, forge, repository, branch, commit_sha, merge_key, pull_request, event, delivery_id,
                               document, state, created_at, queued_at)
             VALUES (:lane, :forge, :repository, :branch, :commit, :key, :pull_request, :event, :delivery,
                     :document, 'queued', :now, :now)
             ON CONFLICT (lane, branch, merge_key) DO NOTHING RETURNING id",
        )?
        .query_row(
            named_params! {
                ":lane": lane, ":forge": job.forge.to_string(), ":repository": job.repository.as_str(),
                ":branch": job.branch.as_str(), ":commit": commit, ":key": key, ":pull_request": job.pull_request,
                ":event": job.event, ":delivery": job.delivery_id, ":document": job.document, ":now": now,
            },
            |row| row.get(0),
        )
        .optional()?;
    if let Some(id) = new {
        return Ok(Accepted::New(JobId(id)));
    }
    let (id, state) = conn
        .prepare_cached("SELECT id, state FROM jobs WHERE lane = ? AND branch = ? AND merge_key = ?")?
        .query_row(params![lane, job.branch.as_str(), key], |row| Ok((JobId(row.get(0)?), state(row, 1)?)))?;
    if !state.may_be_retried() {
        return Ok(Accepted::Duplicate { id, state });
    }
    conn.prepare_cached("UPDATE jobs SET document = ?, event = ?, delivery_id = ? WHERE id = ?")?
        .execute(params![job.document, job.event, job.delivery_id, id.0])?;
    queue_again(conn, id, now)?;
    Ok(Accepted::Requeued(id))
}

fn queue_again(conn: &Connection, id: JobId, now: i64) -> Sql<()> {
    conn.prepare_cached(
        "UPDATE jobs SET state = 'queued', queued_at = ?2, attempts = 0, interruptions = 0, not_before = NULL,
             started_at = NULL, finished_at = NULL, cancel_requested = 0, exit_code = NULL, error = NULL, outcome = NULL
         WHERE id = ?1",
    )?
    .execute(params![id.0, now])?;
    Ok(())
}

/// The oldest job that may run at ?1 (it has no wait, its wait is over, or its wait ends after ?2) and whose lane is free.
const NEXT: &str = "
    SELECT id FROM jobs AS job
    WHERE state = 'queued' AND (not_before IS NULL OR not_before <= ?1 OR not_before > ?2)
      AND NOT EXISTS (SELECT 1 FROM jobs AS other WHERE other.state = 'running' AND other.lane = job.lane)
    ORDER BY id LIMIT 1";

fn next(conn: &Connection, now: i64, longest: Duration) -> Sql<Option<i64>> {
    conn.prepare_cached(NEXT)?.query_row(params![now, now + millis(longest)], |row| row.get(0)).optional()
}

/// Queues again what another owner left running and whose lease ended before `expired`: not an attempt. Cancels it if
/// that was wanted.
fn release(conn: &Connection, owner: &str, expired: i64, now: i64) -> Sql<()> {
    conn.prepare_cached(
        "UPDATE jobs SET state = iif(cancel_requested, 'cancelled', 'queued'),
             queued_at = iif(cancel_requested, queued_at, ?3), finished_at = iif(cancel_requested, ?3, NULL),
             owner = NULL, lease_expires_at = NULL, cancel_requested = 0, interruptions = interruptions + 1
         WHERE state = 'running' AND owner <> ?1 AND lease_expires_at < ?2",
    )?
    .execute(params![owner, expired, now])?;
    Ok(())
}

/// `None` if the job is not this owner's.
fn end(conn: &Connection, id: JobId, owner: &str, ending: &Ending, now: i64) -> Sql<Option<JobState>> {
    let cancel_requested: Option<bool> = conn
        .prepare_cached("SELECT cancel_requested FROM jobs WHERE id = ? AND state = 'running' AND owner = ?")?
        .query_row(params![id.0, owner], |row| row.get(0))
        .optional()?;
    let Some(cancel_requested) = cancel_requested else { return Ok(None) };
    let cancelled = cancel_requested && ending.state() == JobState::Queued;
    let to = if cancelled { JobState::Cancelled } else { ending.state() };
    let (attempt, interruption, code, error, outcome, wait) = match ending {
        Ending::Succeeded { outcome } => (1, 0, Some(0), None, Some(outcome), None),
        Ending::Failed { code, error } => (1, 0, Some(*code), Some(error), None, None),
        Ending::Cancelled => (0, 0, None, None, None, None),
        Ending::Retry { code, error, wait } => (1, 0, Some(*code), Some(error), None, Some(*wait)),
        Ending::Interrupted => (0, 1, None, None, None, None),
    };
    conn.prepare_cached(
        "UPDATE jobs SET state = :state, owner = NULL, lease_expires_at = NULL, cancel_requested = 0,
             attempts = attempts + :attempt, interruptions = interruptions + :interruption,
             exit_code = :code, error = :error, outcome = :outcome, not_before = :not_before,
             queued_at = iif(:ended, queued_at, :now), finished_at = iif(:ended, :now, NULL)
         WHERE id = :id",
    )?
    .execute(named_params! {
        ":state": to.as_str(), ":attempt": attempt, ":interruption": interruption, ":code": code, ":error": error,
        ":outcome": outcome, ":not_before": wait.filter(|_| !to.is_ended()).map(|wait| now + millis(wait)),
        ":ended": to.is_ended(), ":now": now, ":id": id.0,
    })?;
    Ok(Some(to))
}

/// Ended jobs to forget: those that ended before `before`, and those beyond the newest `keep`.
fn expired(conn: &Connection, before: i64, keep: u32) -> Sql<Vec<JobId>> {
    conn.prepare_cached(
        "SELECT id FROM (
            SELECT id FROM jobs WHERE finished_at < ?1
            UNION
            SELECT id FROM (SELECT id FROM jobs WHERE finished_at IS NOT NULL
                            ORDER BY finished_at DESC LIMIT ?3 OFFSET ?2)
         ) LIMIT ?3",
    )?
    .query_map(params![before, keep, BATCH], |row| row.get(0).map(JobId))?
    .collect()
}

const RECORD: &str =
    "SELECT id, state, forge, repository, branch, nullif(commit_sha, ''), pull_request, event, delivery_id,
    created_at, queued_at, started_at, finished_at, attempts, interruptions, not_before, error, exit_code,
    cancel_requested, owner, lease_expires_at FROM jobs";

fn record(row: &Row<'_>) -> Sql<JobRecord> {
    Ok(JobRecord {
        id: JobId(row.get(0)?),
        state: state(row, 1)?,
        forge: row.get(2)?,
        repository: row.get(3)?,
        branch: row.get(4)?,
        commit: row.get(5)?,
        pull_request: row.get(6)?,
        event: row.get(7)?,
        delivery_id: row.get(8)?,
        created: time(row, 9)?,
        queued: time(row, 10)?,
        started: optional_time(row, 11)?,
        finished: optional_time(row, 12)?,
        attempts: row.get(13)?,
        interruptions: row.get(14)?,
        next_attempt: optional_time(row, 15)?,
        error: row.get(16)?,
        exit_code: row.get(17)?,
        cancel_requested: row.get(18)?,
        owner: row.get(19)?,
        lease_expires: optional_time(row, 20)?,
    })
}

fn stats(conn: &Connection) -> Sql<QueueStats> {
    let mut stats = QueueStats::default();
    let mut statement = conn.prepare_cached("SELECT state, count(*) FROM jobs GROUP BY state")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let count = row.get::<_, i64>(1)?.unsigned_abs();
        match state(row, 0)? {
            JobState::Queued => stats.queued = count,
            JobState::Running => stats.running = count,
            JobState::Succeeded => stats.succeeded = count,
            JobState::Failed => stats.failed = count,
            JobState::Cancelled => stats.cancelled = count,
        }
    }
    stats.oldest_queued = conn
        .prepare_cached("SELECT min(queued_at) FROM jobs WHERE state = 'queued'")?
        .query_row([], |row| optional_time(row, 0))?;
    Ok(stats)
}

fn state_of(conn: &Connection, id: JobId) -> Sql<Option<JobState>> {
    conn.prepare_cached("SELECT state FROM jobs WHERE id = ?")?
        .query_row([id.0], |row| state(row, 0))
        .optional()
}

fn state(row: &Row<'_>, column: usize) -> Sql<JobState> {
    let word: String = row.get(column)?;
    word.parse().map_err(|e| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(e)))
}

fn time(row: &Row<'_>, column: usize) -> Sql<Timestamp> {
    Timestamp::from_millisecond(row.get(column)?)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(column, Type::Integer, Box::new(e)))
}

fn optional_time(row: &Row<'_>, column: usize) -> Sql<Option<Timestamp>> {
    match row.get::<_, Option<i64>>(column)? {
        Some(_) => time(row, column).map(Some),
        None => Ok(None),
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests;

mod outbox;
pub use outbox::{Outbox, Post, PostKind, Refusal};
