//! The database file: opening, checking and bringing it up to date.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::error::QueueError;

/// The database's name in the state directory.
pub(crate) const DATABASE: &str = "queue.db";

/// Another process (`jobs cancel`) holds the write lock for one small transaction only.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The log of changes is folded into the database at 1000 pages (4 MiB, SQLite's default) and then cut to this size.
const WAL_LIMIT: i64 = 4 << 20;

/// How the schema came to be. Append only: a published entry never changes, because `user_version` counts them.
///
/// The indexes are partial, so that what has ended costs a claim nothing.
const MIGRATIONS: &[&str] = &["
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
"];

/// Opens the database for the one `serve`: made where it is missing, checked, and brought up to date.
pub(crate) fn open_for_serve(dir: &Path) -> Result<Connection, QueueError> {
    let path = dir.join(DATABASE);
    let mut conn = connect(&path, OpenFlags::SQLITE_OPEN_CREATE)?;
    // Until it has passed its check nothing may be written to it, not even by closing it.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    check(&conn, &path)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    configure(&conn)?;
    migrate(&mut conn, &path, MIGRATIONS)?;
    // The names of new files are durable only with their directory.
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(QueueError::io(dir))?;
    Ok(conn)
}

/// Opens a database that is there, beside a `serve` that may be running on it.
pub(crate) fn open_beside(dir: &Path) -> Result<Connection, QueueError> {
    let path = dir.join(DATABASE);
    if !path.exists() {
        return Err(QueueError::Missing(dir.to_owned()));
    }
    let conn = connect(&path, OpenFlags::empty())?;
    let known = known(MIGRATIONS);
    match version(&conn, &path)? {
        found if found > known => Err(QueueError::NewerSchema { path, found, known }),
        found if found < known => Err(QueueError::OlderSchema { path, found, known }),
        _ => {
            configure(&conn)?;
            Ok(conn)
        }
    }
}

fn connect(path: &Path, more: OpenFlags) -> Result<Connection, QueueError> {
    // NO_MUTEX: every connection is used by one thread at a time, which Rust's types see to.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    Ok(conn)
}

fn configure(conn: &Connection) -> Result<(), QueueError> {
    conn.pragma_update(None, "journal_mode", "WAL")?;
    // FULL: each commit is on disk before it is answered; NORMAL lost acknowledged jobs in power cuts.
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "journal_size_limit", WAL_LIMIT)?;
    conn.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn known(migrations: &[&str]) -> i64 {
    i64::try_from(migrations.len()).unwrap_or(i64::MAX)
}

fn version(conn: &Connection, path: &Path) -> Result<i64, QueueError> {
    conn.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(|error| damage(path, error))
}

fn damage(path: &Path, error: rusqlite::Error) -> QueueError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            QueueError::Corrupt { path: path.to_owned(), detail: error.to_string() }
        }
        _ => QueueError::Sql(error),
    }
}

fn check(conn: &Connection, path: &Path) -> Result<(), QueueError> {
    let (found, known) = (version(conn, path)?, known(MIGRATIONS));
    if found > known {
        return Err(QueueError::NewerSchema { path: path.to_owned(), found, known });
    }
    let detail: String =
        conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(|error| damage(path, error))?;
    if detail == "ok" { Ok(()) } else { Err(QueueError::Corrupt { path: path.to_owned(), detail }) }
}

fn migrate(conn: &mut Connection, path: &Path, migrations: &[&str]) -> Result<(), QueueError> {
    let done = usize::try_from(version(conn, path)?).unwrap_or(0);
    if done < migrations.len() {
        let tx = conn.transaction_with_behavior(TransactionBehavior::Exclusive)?;
        for migration in &migrations[done..] {
            tx.execute_batch(migration)?;
        }
        tx.pragma_update(None, "user_version", known(migrations))?;
        tx.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_migration_finds_what_an_earlier_one_left() {
        let mut conn = Connection::open_in_memory().unwrap();
        let path = Path::new("memory");
        migrate(&mut conn, path, &["CREATE TABLE a (x)"]).unwrap();
        conn.execute("INSERT INTO a VALUES (7)", []).unwrap();
        for _ in 0..2 {
            migrate(&mut conn, path, &["CREATE TABLE a (x)", "ALTER TABLE a ADD COLUMN y DEFAULT 8"])
                .unwrap();
        }
        let row: (i64, i64) =
            conn.query_row("SELECT x, y FROM a", [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
        assert_eq!((row, version(&conn, path).unwrap()), ((7, 8), 2));
    }

    #[test]
    fn a_migration_that_fails_leaves_nothing_behind() {
        let mut conn = Connection::open_in_memory().unwrap();
        let path = Path::new("memory");
        assert!(migrate(&mut conn, path, &["CREATE TABLE a (x)", "no sql"]).is_err());
        assert_eq!(version(&conn, path).unwrap(), 0);
        assert!(conn.prepare("SELECT * FROM a").is_err());
    }
}
