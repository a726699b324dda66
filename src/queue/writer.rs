//! Group commit: one thread writes, and everything that waits for it at that moment shares a transaction and an fsync.
//!
//! A caller has its answer only after the commit, so an answer means that it is on disk.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use rusqlite::{Connection, ErrorCode};

use super::ballast::Ballast;
use super::error::QueueError;

/// Callers that may wait before the next one blocks; more than the listener has threads.
const WAITING: usize = 1024;

/// Steps of one transaction. Bounds the time that `jobs cancel` of another process waits for the write lock.
const BATCH: usize = 256;

/// What a step may do when the disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Takes on work: refused unless the ballast is in place.
    Intake,
    /// Brings work to its end: gets the ballast's space.
    Essential,
}

/// A step that waits for its transaction. It may run more than once; only the last run is committed.
trait Step: Send {
    fn class(&self) -> Class;
    fn run(&mut self, conn: &Connection) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>, committed: Result<(), QueueError>);
}

struct TypedStep<T, F> {
    class: Class,
    work: F,
    result: Option<rusqlite::Result<T>>,
    caller: SyncSender<Result<T, QueueError>>,
}

impl<T: Send, F: FnMut(&Connection) -> rusqlite::Result<T> + Send> Step for TypedStep<T, F> {
    fn class(&self) -> Class {
        self.class
    }

    fn run(&mut self, conn: &Connection) -> rusqlite::Result<()> {
        conn.prepare_cached("SAVEPOINT step")?.execute([])?;
        let result = (self.work)(conn);
        // SQLite ends the whole transaction by itself on some errors, a full disk among them.
        if result.is_err() && !conn.is_autocommit() {
            conn.prepare_cached("ROLLBACK TO step")?.execute([])?;
        }
        match result {
            Err(error) if conn.is_autocommit() || is_space(&error) => return Err(error),
            result => self.result = Some(result),
        }
        conn.prepare_cached("RELEASE step")?.execute([])?;
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), QueueError>) {
        let answer = match (committed, self.result) {
            (Ok(()), Some(result)) => result.map_err(QueueError::Sql),
            (Ok(()), None) => Err(QueueError::Unavailable("the step was not run".to_owned())),
            (Err(error), _) => Err(error),
        };
        // A caller that is gone does not need it.
        let _ = self.caller.send(answer);
    }
}

/// The one thread of this process that writes to the database.
#[derive(Debug)]
pub(crate) struct Writer {
    steps: Option<SyncSender<Box<dyn Step>>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn start(conn: Connection, ballast: Option<Ballast>) -> std::io::Result<Writer> {
        let (steps, inbox) = sync_channel(WAITING);
        let thread = thread::Builder::new().name("queue-writer".to_owned());
        let thread = thread.spawn(move || WriterThread { conn, ballast }.run(&inbox))?;
        Ok(Writer { steps: Some(steps), thread: Some(thread) })
    }

    /// Runs `work` in the next transaction and returns after its commit.
    pub(crate) fn write<T: Send + 'static>(
        &self,
        class: Class,
        work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, QueueError> {
        let gone = || QueueError::Unavailable("its writer has ended".to_owned());
        let (caller, answer) = sync_channel(1);
        let step = Box::new(TypedStep { class, work, result: None, caller });
        self.steps.as_ref().ok_or_else(gone)?.send(step).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }
}

impl Drop for Writer {
    /// Waits for the thread, so that the connection is closed and its log folded in.
    fn drop(&mut self) {
        self.steps = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct WriterThread {
    conn: Connection,
    ballast: Option<Ballast>,
}

impl WriterThread {
    fn run(mut self, inbox: &Receiver<Box<dyn Step>>) {
        while let Ok(first) = inbox.recv() {
            let mut batch = vec![first];
            batch.extend(inbox.try_iter().take(BATCH - 1));
            self.commit(batch);
        }
    }

    fn commit(&mut self, batch: Vec<Box<dyn Step>>) {
        let mut batch = match self.put_ballast() {
            Ok(()) => batch,
            Err(error) => refuse_intake(batch, &format!("the disk is full ({error})")),
        };
        let mut result = self.transact(&mut batch);
        if let Err(error) = &result
            && is_space(error)
        {
            batch = refuse_intake(batch, &error.to_string());
            if !batch.is_empty() {
                self.make_space();
                result = self.transact(&mut batch);
                let _ = self.put_ballast();
            }
        }
        let reason = result.err().map(|error| error.to_string());
        for step in batch {
            step.answer(reason.clone().map_or(Ok(()), |reason| Err(QueueError::Unavailable(reason))));
        }
    }

    fn put_ballast(&mut self) -> std::io::Result<()> {
        self.ballast.as_mut().map_or(Ok(()), Ballast::put)
    }

    /// Gives up the ballast and folds the log of changes into the database, which also frees what the log held.
    fn make_space(&mut self) {
        if let Some(ballast) = &mut self.ballast {
            ballast.release();
        }
        let _ = self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }

    /// All steps in one transaction. On `Err` nothing was written.
    fn transact(&self, batch: &mut [Box<dyn Step>]) -> rusqlite::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let result = batch
            .iter_mut()
            .try_for_each(|step| step.run(&self.conn))
            .and_then(|()| self.conn.prepare_cached("COMMIT")?.execute([]).map(drop));
        if result.is_err() && !self.conn.is_autocommit() {
            let _ = self.conn.execute_batch("ROLLBACK");
        }
        result
    }
}

fn refuse_intake(batch: Vec<Box<dyn Step>>, reason: &str) -> Vec<Box<dyn Step>> {
    let (refused, left): (Vec<_>, Vec<_>) = batch.into_iter().partition(|step| step.class() == Class::Intake);
    for step in refused {
        step.answer(Err(QueueError::Unavailable(reason.to_owned())));
    }
    left
}

/// Whether more space on the disk would help. The shared-memory file says "disk I/O error" when it cannot grow.
fn is_space(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &tempfile::TempDir) -> Connection {
        let conn = Connection::open(dir.path().join("t.db")).unwrap();
        conn.pragma_update(None, "journal_mode", "WAL").unwrap();
        conn.execute_batch("CREATE TABLE IF NOT EXISTS t (x)").unwrap();
        conn
    }

    fn count(conn: &Connection) -> i64 {
        conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
    }

    /// Hands in a step without waiting for its answer.
    fn hand_in<T: Send + 'static>(
        writer: &Writer,
        work: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Receiver<Result<T, QueueError>> {
        let (caller, answer) = sync_channel(1);
        let step = TypedStep { class: Class::Intake, work, result: None, caller };
        writer.steps.as_ref().unwrap().send(Box::new(step)).unwrap();
        answer
    }

    #[test]
    fn those_who_wait_at_the_same_time_share_a_transaction() {
        let dir = tempfile::tempdir().unwrap();
        let (writer, other) = (Writer::start(open(&dir), None).unwrap(), open(&dir));
        let (go, gate) = sync_channel::<()>(1);
        let first = hand_in(&writer, move |_| {
            gate.recv().unwrap();
            Ok(())
        });
        let inserts: Vec<_> = (0..8)
            .map(|x| hand_in(&writer, move |conn| conn.execute("INSERT INTO t VALUES (?)", [x])))
            .collect();
        // Within the batch its own rows are there, and for everybody else none is committed yet.
        let last = hand_in(&writer, move |conn| Ok((count(conn), count(&other))));
        go.send(()).unwrap();
        assert!(first.recv().unwrap().is_ok());
        assert!(inserts.iter().all(|answer| answer.recv().unwrap().is_ok()));
        assert_eq!(last.recv().unwrap().unwrap(), (8, 0));
        assert_eq!(count(&open(&dir)), 8);
    }

    #[test]
    fn a_step_that_fails_takes_only_its_own_writes_back() {
        let dir = tempfile::tempdir().unwrap();
        let writer = Writer::start(open(&dir), None).unwrap();
        let (go, gate) = sync_channel::<()>(1);
        let first = hand_in(&writer, move |_| {
            gate.recv().unwrap();
            Ok(())
        });
        let good = hand_in(&writer, |conn| conn.execute("INSERT INTO t VALUES (1)", []));
        let bad = hand_in(&writer, |conn| {
            conn.execute("INSERT INTO t VALUES (2)", [])?;
            conn.execute("INSERT INTO nowhere VALUES (2)", [])
        });
        let also_good = hand_in(&writer, |conn| conn.execute("INSERT INTO t VALUES (3)", []));
        go.send(()).unwrap();
        assert!(first.recv().unwrap().is_ok());
        assert!(good.recv().unwrap().is_ok() && also_good.recv().unwrap().is_ok());
        assert!(matches!(bad.recv().unwrap(), Err(QueueError::Sql(_))));
        let sum: i64 = open(&dir).query_row("SELECT sum(x) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(sum, 4);
    }
}
