//! The durable queue between a delivery and its run: SQLite in the state directory, and the workers that empty it.
//!
//! It takes an opaque document and a handler, and knows nothing of pipelines, forges or HTTP.
//!
//! - [`Queue::accept`] returns after the fsync; what it returned `Ok` for survives kill -9 and power cuts.
//! - A state changes only where [`JobState::may_become`] says so.
//! - Jobs of one repository run one at a time, in the order of their numbers, except that a job which waits out a
//!   backoff does not hold up later ones.
//! - `serve` owns the queue by [`ServeLock`]; `swanci jobs` reads and writes beside it by [`Queue::open_existing`].

mod ballast;
mod clock;
mod error;
mod job;
mod lock;
mod log;
mod retention;
mod retry;
mod schema;
mod signal;
mod store;
mod worker;
mod writer;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;

use self::ballast::{BALLAST_BYTES, Ballast};
use self::signal::Signal;
use self::store::{Denied, Ending};
use self::writer::{Class, Writer};
use crate::cancel::{Cancel, Stop};

pub use self::clock::{Clock, SystemClock};
pub use self::error::QueueError;
pub use self::job::{
    Accepted, CancelOutcome, ClaimedJob, JobDocuments, JobFilter, JobId, JobRecord, JobState, NewJob,
    QueueStats, UnknownState,
};
pub use self::lock::{Holder, ServeLock};
pub use self::log::{JobLog, LOG_CAP, Redact};
pub use self::retention::Retention;
pub use self::retry::RetryPolicy;
pub use self::worker::{Handler, JobContext, JobEvent, JobResult, Observer, Pool, PoolOptions};

/// How long a running job's owner is believed to live without a word from it.
const LEASE: Duration = Duration::from_secs(60);

/// How often another process's changes are looked for by those who wait.
const POLL: Duration = Duration::from_millis(200);

/// A state directory's queue. Clones share it; the last one closes it.
#[derive(Clone)]
pub struct Queue(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    /// This process and this start of it: process ids come again.
    owner: String,
    clock: Arc<dyn Clock>,
    reader: Mutex<Connection>,
    writer: Writer,
    /// Rings whenever this process has changed something.
    changed: Signal,
    /// Last, so that the database is closed before another `serve` may open it.
    lock: Option<ServeLock>,
}

impl Queue {
    /// Opens the queue for the one `serve` of a state directory, and takes up what an earlier one left running.
    ///
    /// The database is made, checked and brought up to date. A damaged one is refused and kept as it is.
    pub fn open(lock: ServeLock, clock: Arc<dyn Clock>) -> Result<Queue, QueueError> {
        Queue::open_with_ballast(lock, clock, BALLAST_BYTES)
    }

    /// [`Queue::open`] on a small disk: holds back `ballast` bytes instead of 8 MiB, so that running jobs can be
    /// finished on a full disk.
    pub fn open_with_ballast(
        lock: ServeLock,
        clock: Arc<dyn Clock>,
        ballast: u64,
    ) -> Result<Queue, QueueError> {
        let conn = schema::open_for_serve(lock.dir())?;
        let ballast = Ballast::new(lock.dir().join("ballast"), ballast);
        let queue = Queue::assemble(lock.dir().to_owned(), conn, Some(ballast), Some(lock), clock)?;
        let now = queue.0.clock.now();
        queue.0.writer.write(Class::Essential, move |conn| store::recover(conn, now))?;
        Ok(queue)
    }

    /// Opens a queue that is there, to look into it or to change it beside a running `serve`.
    pub fn open_existing(dir: &Path, clock: Arc<dyn Clock>) -> Result<Queue, QueueError> {
        Queue::assemble(dir.to_owned(), schema::open_beside(dir)?, None, None, clock)
    }

    fn assemble(
        dir: PathBuf,
        conn: Connection,
        ballast: Option<Ballast>,
        lock: Option<ServeLock>,
        clock: Arc<dyn Clock>,
    ) -> Result<Queue, QueueError> {
        let reader = Mutex::new(schema::open_beside(&dir)?);
        let writer = Writer::start(conn, ballast).map_err(QueueError::io(&dir))?;
        let owner = format!("{}-{:08x}", std::process::id(), fastrand::u32(..));
        Ok(Queue(Arc::new(Inner { dir, owner, clock, reader, writer, changed: Signal::default(), lock })))
    }

    /// Puts a merge on disk. `Ok` means that it is there (fsync); [`QueueError::Unavailable`] that nothing is.
    pub fn accept(&self, job: NewJob) -> Result<Accepted, QueueError> {
        let now = self.0.clock.now();
        let accepted = self.0.writer.write(Class::Intake, move |conn| store::accept(conn, &job, now))?;
        self.0.changed.ring();
        Ok(accepted)
    }

    /// Queues a job again that has failed or was cancelled, with all its attempts before it.
    pub fn retry(&self, id: JobId) -> Result<(), QueueError> {
        let now = self.0.clock.now();
        let done = self.0.writer.write(Class::Intake, move |conn| store::retry(conn, id, now))?;
        self.0.changed.ring();
        done.map_err(|denied| refusal(id, denied))
    }

    /// Cancels a waiting job at once; a running one is stopped by its worker, within a second.
    pub fn cancel(&self, id: JobId) -> Result<CancelOutcome, QueueError> {
        let now = self.0.clock.now();
        let done = self.0.writer.write(Class::Essential, move |conn| store::cancel(conn, id, now))?;
        self.0.changed.ring();
        done.map_err(|denied| refusal(id, denied))
    }

    /// The newest `limit` jobs that pass the filter, newest first.
    pub fn list(&self, filter: &JobFilter, limit: u32) -> Result<Vec<JobRecord>, QueueError> {
        Ok(store::list(&self.reader(), filter, limit)?)
    }

    /// One job.
    pub fn get(&self, id: JobId) -> Result<JobRecord, QueueError> {
        store::get(&self.reader(), id)?.ok_or(QueueError::NotFound(id))
    }

    /// What went into a job and what came out.
    pub fn documents(&self, id: JobId) -> Result<JobDocuments, QueueError> {
        store::documents(&self.reader(), id)?.ok_or(QueueError::NotFound(id))
    }

    /// The queue in figures.
    pub fn stats(&self) -> Result<QueueStats, QueueError> {
        Ok(store::stats(&self.reader())?)
    }

    /// Whether a job could be accepted now: writes one page, as `accept` would.
    pub fn check_writable(&self) -> Result<(), QueueError> {
        let now = self.0.clock.now();
        self.0.writer.write(Class::Intake, move |conn| store::touch(conn, now))
    }

    /// The state directory.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Who holds the state directory as its `serve`; `None` when this queue was opened beside it.
    pub fn serve_lock(&self) -> Option<&ServeLock> {
        self.0.lock.as_ref()
    }

    /// Where the log of a job is, once it has begun.
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
            let seen = self.0.changed.seen();
            if let Some(value) = ready()? {
                return Ok(Ok(value));
            }
            if let Err(stop) = cancel.check() {
                return Ok(Err(stop));
            }
            self.0.changed.wait(seen, POLL);
        }
    }

    fn claim(&self, longest_wait: Duration) -> Result<Option<ClaimedJob>, QueueError> {
        let (owner, now) = (self.0.owner.clone(), self.0.clock.now());
        let claim = move |conn: &Connection| store::claim(conn, &owner, now, LEASE, longest_wait);
        self.0.writer.write(Class::Intake, claim)
    }

    fn end(&self, id: JobId, ending: Ending) -> Result<JobState, QueueError> {
        let (owner, now) = (self.0.owner.clone(), self.0.clock.now());
        let end = move |conn: &Connection| store::end(conn, id, &owner, &ending, now);
        let done = self.0.writer.write(Class::Essential, end)?;
        self.0.changed.ring();
        done.map_err(|denied| refusal(id, denied))
    }

    fn renew_leases(&self) -> Result<usize, QueueError> {
        let (owner, now) = (self.0.owner.clone(), self.0.clock.now());
        let renew = move |conn: &Connection| store::renew_leases(conn, &owner, now, LEASE);
        self.0.writer.write(Class::Essential, renew)
    }

    fn to_cancel(&self) -> Result<Vec<JobId>, QueueError> {
        Ok(store::to_cancel(&self.reader())?)
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        // A panic while reading leaves nothing half done.
        self.0.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("dir", &self.0.dir)
            .field("owner", &self.0.owner)
            .finish_non_exhaustive()
    }
}

fn refusal(id: JobId, denied: Denied) -> QueueError {
    match denied {
        Denied::NotFound => QueueError::NotFound(id),
        Denied::Illegal { from, to } => QueueError::IllegalTransition { id, from, to },
    }
}
