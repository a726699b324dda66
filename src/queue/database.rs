//! The database file: opened, checked, migrated, and changed in transactions.
//!
//! If its file is missing or empty, SQLite starts an empty database; if its write-ahead log (`-wal`) was truncated,
//! SQLite reads it up to the cut. Neither is an error. So a mark file beside the database records the queue's identity
//! and its number of changes. It is written after each commit without an fsync: exact after a crash of the process,
//! possibly behind after a power cut, which can hide a loss but never reports a false one.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::ballast::Ballast;
use super::cannot_use;
use crate::error::Failure;

const MARK: &str = "queue.mark";

/// Another process (`jobs cancel`) holds the write lock only for one small transaction.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The write-ahead log is folded into the database at 1000 pages (4 MiB, SQLite's default) and then truncated to this
/// size.
const WAL_LIMIT: i64 = 4 << 20;

/// Append-only: never change a published entry, because `user_version` counts them.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE jobs (
        id               INTEGER PRIMARY KEY AUTOINCREMENT,
        lane             TEXT    NOT NULL,
        forge            TEXT    NOT NULL,
        repository       TEXT    NOT NULL,
        branch           TEXT    NOT NULL,
        commit_sha       TEXT    NOT NULL,
        event            TEXT    NOT NULL,
        delivery_id      TEXT,
        document         TEXT    NOT NULL,
        state            TEXT    NOT NULL CHECK (state IN ('queued','running','succeeded','failed','cancelled')),
        created_at       INTEGER NOT NULL,
        queued_at        INTEGER NOT NULL,
        started_at       INTEGER,
        finished_at      INTEGER CHECK ((finished_at IS NULL) = (state IN ('queued','running'))),
        attempts         INTEGER NOT NULL DEFAULT 0,
        interruptions    INTEGER NOT NULL DEFAULT 0,
        not_before       INTEGER,
        owner            TEXT    CHECK ((owner IS NULL) = (state <> 'running')),
        lease_expires_at INTEGER,
        cancel_requested INTEGER NOT NULL DEFAULT 0,
        exit_code        INTEGER,
        error            TEXT,
        outcome          TEXT
    ) STRICT;
    CREATE UNIQUE INDEX jobs_merge   ON jobs (lane, branch, commit_sha);
    CREATE INDEX        jobs_ready   ON jobs (lane, id)     WHERE state = 'queued' AND not_before IS NULL;
    CREATE INDEX        jobs_waiting ON jobs (not_before)   WHERE state = 'queued' AND not_before IS NOT NULL;
    CREATE INDEX        jobs_running ON jobs (lane)         WHERE state = 'running';
    CREATE INDEX        jobs_ended   ON jobs (finished_at)  WHERE finished_at IS NOT NULL;
    CREATE INDEX        jobs_state   ON jobs (state, queued_at);
    CREATE TABLE health (id INTEGER PRIMARY KEY CHECK (id = 1), checked_at INTEGER NOT NULL) STRICT;
    INSERT INTO health VALUES (1, 0);
",
    // commit_sha is empty if the forge does not report what landed.
    "
    ALTER TABLE jobs ADD COLUMN pull_request INTEGER;
    ALTER TABLE jobs ADD COLUMN merge_key TEXT NOT NULL DEFAULT '';
    UPDATE jobs SET merge_key = commit_sha;
    DROP INDEX jobs_merge;
    DROP INDEX jobs_ready;
    DROP INDEX jobs_waiting;
    DROP INDEX jobs_state;
    DROP TABLE health;
    CREATE UNIQUE INDEX jobs_merge  ON jobs (lane, branch, merge_key);
    CREATE INDEX        jobs_queued ON jobs (id) WHERE state = 'queued';
    CREATE INDEX        jobs_state  ON jobs (state);
    CREATE TABLE meta (id INTEGER PRIMARY KEY CHECK (id = 1), queue TEXT NOT NULL, changes INTEGER NOT NULL) STRICT;
    INSERT INTO meta VALUES (1, lower(hex(randomblob(8))), 0);
",
    // Pending posts to the forges. Triggers write them together with the change of the job. A newer post about the same
    // commit or pull request replaces an older one.
    "
    ALTER TABLE meta ADD COLUMN posts INTEGER NOT NULL DEFAULT 0;
    CREATE TABLE outbox (
        id         INTEGER PRIMARY KEY AUTOINCREMENT,
        kind       TEXT    NOT NULL CHECK (kind IN ('status','comment')),
        subject    TEXT    NOT NULL,
        job        INTEGER NOT NULL,
        created_at INTEGER NOT NULL,
        attempts   INTEGER NOT NULL DEFAULT 0,
        not_before INTEGER NOT NULL DEFAULT 0,
        UNIQUE (kind, subject)
    ) STRICT;
    CREATE INDEX outbox_job ON outbox (job);
    CREATE TRIGGER job_queued AFTER INSERT ON jobs WHEN (SELECT posts FROM meta) BEGIN
        DELETE FROM outbox WHERE kind = 'status' AND subject = NEW.lane || ' ' || NEW.commit_sha;
        INSERT INTO outbox (kind, subject, job, created_at)
        SELECT 'status', NEW.lane || ' ' || NEW.commit_sha, NEW.id, NEW.created_at WHERE NEW.commit_sha <> '';
    END;
    CREATE TRIGGER job_changed AFTER UPDATE OF state, commit_sha ON jobs
    WHEN (SELECT posts FROM meta)
         AND (OLD.commit_sha <> NEW.commit_sha OR (OLD.finished_at IS NULL) <> (NEW.finished_at IS NULL)) BEGIN
        DELETE FROM outbox WHERE kind = 'status' AND subject = NEW.lane || ' ' || NEW.commit_sha;
        DELETE FROM outbox WHERE kind = 'comment' AND subject = NEW.lane || ' ' || NEW.pull_request;
        INSERT INTO outbox (kind, subject, job, created_at)
        SELECT 'status', NEW.lane || ' ' || NEW.commit_sha, NEW.id,
               coalesce(NEW.finished_at, NEW.started_at, NEW.queued_at)
        WHERE NEW.commit_sha <> '';
        INSERT INTO outbox (kind, subject, job, created_at)
        SELECT 'comment', NEW.lane || ' ' || NEW.pull_request, NEW.id, NEW.finished_at
        WHERE NEW.finished_at IS NOT NULL AND NEW.pull_request IS NOT NULL;
    END;
    CREATE TRIGGER job_forgotten AFTER DELETE ON jobs BEGIN
        DELETE FROM outbox WHERE job = OLD.id;
    END;
",
];

pub(super) type Sql<T> = rusqlite::Result<T>;

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Failure {
        Failure::environment(format!("the queue's database: {error}"))
    }
}

pub(super) struct Database {
    pub(super) conn: Connection,
    queue: String,
    mark: File,
    /// Only the one `serve` has it.
    ballast: Option<Ballast>,
}

impl Database {
    /// Opens the database of a state directory, also while `serve` uses it. With `serves` it is created on first use and
    /// migrated. A damaged one is refused and left unchanged.
    pub(super) fn open(dir: &Path, serves: bool) -> Result<Database, Failure> {
        let path = dir.join("queue.db");
        // Before the database, which a `serve` may change meanwhile.
        let mark = read_mark(dir)?;
        check_files(&path, mark.as_ref())?;
        if serves {
            // SQLite would make it world-readable; its other files get this file's mode.
            let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
            let private = file.and_then(|file| file.set_permissions(Permissions::from_mode(0o600)));
            private.map_err(cannot_use(&path))?;
        } else if !path.exists() {
            return Err(Failure::environment(format!("there is no queue in {}", dir.display()))
                .hint("name the state directory of `swanci serve` with --state-dir"));
        }
        let mut conn = connect(&path)?;
        let (found, known) = (version(&conn).map_err(|error| damage(&path, error))?, MIGRATIONS.len());
        if found > known {
            return Err(of_another_version(&path, "a newer", found)
                .hint("run the newer swanci, or give this one a state directory of its own"));
        }
        if serves {
            let detail: String = conn
                .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
                .map_err(|error| damage(&path, error))?;
            if detail != "ok" {
                return Err(corrupt(&path, &detail));
            }
        }
        check_mark(&conn, &path, found, mark)?;
        if found < known && !serves {
            return Err(of_another_version(&path, "an older", found)
                .hint("start this version's `swanci serve` once; it brings the queue up to date"));
        }
        configure(&conn)?;
        migrate(&mut conn, MIGRATIONS)?;
        let (queue, changes) = meta(&conn)?;
        let mark = dir.join(MARK);
        let options = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).clone();
        let mark = options.open(&mark).map_err(cannot_use(&mark))?;
        let ballast = serves.then(|| Ballast::new(dir.join("ballast")));
        let database = Database { conn, queue, mark, ballast };
        // New file names are durable only after an fsync of their directory.
        let synced = database.write_mark(changes).and_then(|()| database.mark.sync_all());
        synced.and_then(|()| File::open(dir)?.sync_all()).map_err(cannot_use(dir))?;
        Ok(database)
    }

    /// Runs `work` in a transaction. On a full disk it may use the ballast's space.
    pub(super) fn write<T>(&mut self, work: impl Fn(&Connection) -> Sql<T>) -> Result<T, Failure> {
        let _ = self.put_ballast();
        let mut done = self.transact(&work);
        if done.as_ref().is_err_and(is_space) {
            if let Some(ballast) = &mut self.ballast {
                ballast.release();
            }
            // Folds the write-ahead log into the database, which also frees space.
            let _ = self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
            done = self.transact(&work);
            let _ = self.put_ballast();
        }
        done.map_err(unavailable)
    }

    /// Like [`Database::write`], for work that adds work: refused unless the ballast exists.
    pub(super) fn write_new<T>(&mut self, work: impl Fn(&Connection) -> Sql<T>) -> Result<T, Failure> {
        self.put_ballast().map_err(|error| unavailable(format!("the disk is full ({error})")))?;
        self.transact(&work).map_err(unavailable)
    }

    fn transact<T>(&mut self, work: &impl Fn(&Connection) -> Sql<T>) -> Sql<T> {
        let transaction = self.conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done = work(&transaction)?;
        let changes = transaction
            .prepare_cached("UPDATE meta SET changes = changes + 1 RETURNING changes")?
            .query_row([], |row| row.get(0))?;
        transaction.commit()?;
        // The change is on disk. Without its mark, only a later loss of it would go unnoticed.
        let _ = self.write_mark(changes);
        Ok(done)
    }

    /// Always the same length, so that it never needs space.
    fn write_mark(&self, changes: i64) -> io::Result<()> {
        self.mark.write_all_at(format!("{} {changes:020}\n", self.queue).as_bytes(), 0)
    }

    fn put_ballast(&mut self) -> io::Result<()> {
        self.ballast.as_mut().map_or(Ok(()), Ballast::put)
    }
}

/// Whether more disk space would help. SQLite reports "disk I/O error" when the shared-memory file cannot grow.
fn is_space(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure))
}

/// Nothing was written.
fn unavailable(cause: impl std::fmt::Display) -> Failure {
    Failure::environment(format!("the queue cannot be written: {cause}"))
        .hint("is there space left in the state directory? trying again may help")
}

fn connect(path: &Path) -> Result<Connection, Failure> {
    // NO_MUTEX: only one thread at a time uses a connection, which Rust's types ensure.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    // Until it has passed its check, nothing may write to it, not even on close.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(conn)
}

fn configure(conn: &Connection) -> Sql<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    // FULL: each commit is on disk before the response; NORMAL lost acknowledged jobs in power cuts.
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "journal_size_limit", WAL_LIMIT)?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn version(conn: &Connection) -> Sql<usize> {
    conn.pragma_query_value(None, "user_version", |row| row.get::<_, u32>(0)).map(|version| version as usize)
}

fn of_another_version(path: &Path, age: &str, found: usize) -> Failure {
    let known = MIGRATIONS.len();
    let path = path.display();
    Failure::environment(format!("{path} is of {age} swanci (schema {found}; this one has {known})"))
}

fn damage(path: &Path, error: rusqlite::Error) -> Failure {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => corrupt(path, &error.to_string()),
        _ => error.into(),
    }
}

fn corrupt(path: &Path, detail: &str) -> Failure {
    let mark = path.with_extension("mark");
    let (path, mark) = (path.display(), mark.display());
    Failure::environment(format!("{path} is damaged: {detail}")).hint(format!(
        "the files were kept as they are: restore them from a backup, or move {path}, {path}-wal, {path}-shm and {mark} \
         away to begin an empty queue; `swanci catchup` then builds what the lost one held"
    ))
}

/// Whether the files can be a queue, before SQLite opens them.
fn check_files(path: &Path, mark: Option<&(String, i64)>) -> Result<(), Failure> {
    let length = |path: &Path| path.metadata().map_or(0, |file| file.len());
    let log = PathBuf::from(format!("{}-wal", path.display()));
    // SQLite writes the first page of the database before the first of its log.
    if length(path) == 0 && (mark.is_some() || length(&log) > 0) {
        let what = if path.exists() { "empty" } else { "missing" };
        return Err(corrupt(path, &format!("it is {what}, but there was a queue here")));
    }
    Ok(())
}

/// The queue's identity and its number of changes.
fn meta(conn: &Connection) -> Sql<(String, i64)> {
    conn.query_row("SELECT queue, changes FROM meta", [], |row| Ok((row.get(0)?, row.get(1)?)))
}

fn check_mark(
    conn: &Connection,
    path: &Path,
    version: usize,
    mark: Option<(String, i64)>,
) -> Result<(), Failure> {
    let Some((marked_queue, marked)) = mark else { return Ok(()) };
    // The second version of the schema introduced marks.
    if version < 2 {
        return Err(corrupt(path, "its content is gone"));
    }
    let (queue, changes) = meta(conn)?;
    if !marked_queue.is_empty() && marked_queue != queue {
        return Err(corrupt(path, "it is not the queue that was here before"));
    }
    match marked - changes {
        lost if lost > 0 => Err(corrupt(path, &format!("its last {lost} changes are missing"))),
        _ => Ok(()),
    }
}

/// The queue's identity and its number of changes; `None` if no queue was ever created.
fn read_mark(dir: &Path) -> Result<Option<(String, i64)>, Failure> {
    let path = dir.join(MARK);
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => String::from_utf8_lossy(&read.map_err(cannot_use(&path))?).into_owned(),
    };
    // An unreadable mark contains no count, but still shows that a queue existed.
    let (queue, changes) = text.split_once(' ').unwrap_or_default();
    Ok(Some((queue.to_owned(), changes.trim().parse().unwrap_or(0))))
}

fn migrate(conn: &mut Connection, migrations: &[&str]) -> Sql<()> {
    let done = version(conn)?;
    if done < migrations.len() {
        let transaction = conn.transaction_with_behavior(TransactionBehavior::Exclusive)?;
        for migration in &migrations[done..] {
            transaction.execute_batch(migration)?;
        }
        transaction.pragma_update(None, "user_version", migrations.len() as u32)?;
        transaction.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_build_on_each_other() {
        let mut conn = Connection::open_in_memory().unwrap();
        migrate(&mut conn, &["CREATE TABLE a (x)"]).unwrap();
        conn.execute("INSERT INTO a VALUES (7)", []).unwrap();
        for _ in 0..2 {
            migrate(&mut conn, &["CREATE TABLE a (x)", "ALTER TABLE a ADD COLUMN y DEFAULT 8"]).unwrap();
        }
        let row: (i64, i64) =
            conn.query_row("SELECT x, y FROM a", [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
        assert_eq!((row, version(&conn).unwrap()), ((7, 8), 2));
    }

    #[test]
    fn a_migration_that_fails_leaves_nothing_behind() {
        let mut conn = Connection::open_in_memory().unwrap();
        assert!(migrate(&mut conn, &["CREATE TABLE a (x)", "no sql"]).is_err());
        assert_eq!(version(&conn).unwrap(), 0);
        assert!(conn.prepare("SELECT * FROM a").is_err());
    }

    #[test]
    fn a_queue_of_the_first_version_keeps_its_jobs() {
        let dir = tempfile::tempdir().unwrap();
        let mut conn = Connection::open(dir.path().join("queue.db")).unwrap();
        configure(&conn).unwrap();
        migrate(&mut conn, &MIGRATIONS[..1]).unwrap();
        conn.execute(
            "INSERT INTO jobs (lane, forge, repository, branch, commit_sha, event, document, state, created_at, queued_at)
             VALUES ('github:a/b', 'github', 'a/b', 'main', 'c0ffee', 'e', '{}', 'queued', 1, 1)",
            [],
        )
        .unwrap();
        drop(conn);
        let database = Database::open(dir.path(), true).unwrap();
        let key: String =
            database.conn.query_row("SELECT merge_key FROM jobs", [], |row| row.get(0)).unwrap();
        assert_eq!(key, "c0ffee");
    }
}
