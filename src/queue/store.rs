//! The queue's SQL: each function is one step inside a transaction that [`super::writer`] opens, or one read.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use super::job::{
    Accepted, CancelOutcome, ClaimedJob, JobDocuments, JobFilter, JobId, JobRecord, JobState, NewJob,
    QueueStats,
};

type Sql<T> = rusqlite::Result<T>;

/// A step that the job's state did not allow, or whose job is not there. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    NotFound,
    Illegal { from: JobState, to: JobState },
}

/// How an attempt ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    Succeeded {
        outcome: String,
    },
    Failed {
        code: u8,
        error: String,
    },
    Cancelled,
    /// It failed and is tried again.
    Retry {
        code: u8,
        error: String,
        not_before: Timestamp,
    },
    /// It was cut short: not an attempt.
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

pub(crate) fn accept(conn: &Connection, job: &NewJob, now: Timestamp) -> Sql<Accepted> {
    let now = now.as_millisecond();
    let lane = job.lane();
    let new: Option<i64> = conn
        .prepare_cached(
            "INSERT INTO jobs (lane, forge, repository, branch, commit_sha, event, delivery_id, document, state,
                               created_at, queued_at)
             VALUES (:lane, :forge, :repository, :branch, :commit, :event, :delivery, :document, 'queued', :now, :now)
             ON CONFLICT (lane, branch, commit_sha) DO NOTHING RETURNING id",
        )?
        .query_row(
            named_params! {
                ":lane": lane, ":forge": job.forge.to_string(), ":repository": job.repository.as_str(),
                ":branch": job.branch.as_str(), ":commit": job.commit.as_str(), ":event": job.event,
                ":delivery": job.delivery_id, ":document": job.document, ":now": now,
            },
            |row| row.get(0),
        )
        .optional()?;
    if let Some(id) = new {
        return Ok(Accepted::New(JobId(id)));
    }
    let (id, state) = conn
        .prepare_cached("SELECT id, state FROM jobs WHERE lane = ? AND branch = ? AND commit_sha = ?")?
        .query_row(params![lane, job.branch.as_str(), job.commit.as_str()], |row| {
            Ok((JobId(row.get(0)?), state(row, 1)?))
        })?;
    if !state.may_become(JobState::Queued) || state == JobState::Running {
        return Ok(Accepted::Duplicate { id, state });
    }
    conn.prepare_cached("UPDATE jobs SET document = ?, event = ?, delivery_id = ? WHERE id = ?")?
        .execute(params![job.document, job.event, job.delivery_id, id.0])?;
    queue_again(conn, id, now)?;
    Ok(Accepted::Requeued(id))
}

/// Queues a job that has failed or was cancelled, with all its attempts before it.
pub(crate) fn retry(conn: &Connection, id: JobId, now: Timestamp) -> Sql<Result<(), Denied>> {
    let Some(from) = state_of(conn, id)? else { return Ok(Err(Denied::NotFound)) };
    if from == JobState::Running || !from.may_become(JobState::Queued) {
        return Ok(Err(Denied::Illegal { from, to: JobState::Queued }));
    }
    queue_again(conn, id, now.as_millisecond()).map(Ok)
}

fn queue_again(conn: &Connection, id: JobId, now: i64) -> Sql<()> {
    conn.prepare_cached(
        "UPDATE jobs SET state = 'queued', queued_at = ?2, attempts = 0, interruptions = 0, not_before = NULL,
             started_at = NULL, finished_at = NULL, cancel_requested = 0, exit_code = NULL, error = NULL, outcome = NULL
         WHERE id = ?1 AND state IN ('failed', 'cancelled')",
    )?
    .execute(params![id.0, now])?;
    Ok(())
}

/// One row for each lane with a job that is ready, found by jumping from lane to lane in the index; of those without
/// a running job, the oldest job. What has ended, what waits and how long a lane's queue is cost nothing.
pub(crate) const NEXT: &str = "
    WITH RECURSIVE lanes (lane) AS (
        SELECT (SELECT lane FROM jobs INDEXED BY jobs_ready
                WHERE state = 'queued' AND not_before IS NULL ORDER BY lane LIMIT 1)
        UNION ALL
        SELECT (SELECT lane FROM jobs INDEXED BY jobs_ready
                WHERE state = 'queued' AND not_before IS NULL AND lane > lanes.lane ORDER BY lane LIMIT 1)
        FROM lanes WHERE lanes.lane IS NOT NULL
    )
    SELECT (SELECT id FROM jobs INDEXED BY jobs_ready
            WHERE state = 'queued' AND not_before IS NULL AND lane = lanes.lane ORDER BY id LIMIT 1) AS id
    FROM lanes
    WHERE lanes.lane IS NOT NULL
      AND NOT EXISTS (SELECT 1 FROM jobs INDEXED BY jobs_running WHERE state = 'running' AND lane = lanes.lane)
    ORDER BY id LIMIT 1";

/// Ends the waits that are over; then those that lie further ahead than the longest wait, because they were written
/// before the clock was set back. Two steps, because SQLite would not use the index for an `OR`.
pub(crate) const DUE: [&str; 2] = [
    "UPDATE jobs INDEXED BY jobs_waiting SET not_before = NULL WHERE state = 'queued' AND not_before <= ?",
    "UPDATE jobs INDEXED BY jobs_waiting SET not_before = NULL WHERE state = 'queued' AND not_before > ?",
];

/// Takes the next job whose lane is free.
pub(crate) fn claim(
    conn: &Connection,
    owner: &str,
    now: Timestamp,
    lease: Duration,
    longest: Duration,
) -> Sql<Option<ClaimedJob>> {
    let now = now.as_millisecond();
    for (due, bound) in DUE.iter().zip([now, now + millis(longest)]) {
        conn.prepare_cached(due)?.execute([bound])?;
    }
    let next: Option<i64> = conn.prepare_cached(NEXT)?.query_row([], |row| row.get(0)).optional()?;
    let Some(id) = next else { return Ok(None) };
    conn.prepare_cached(
        "UPDATE jobs SET state = 'running', owner = ?2, started_at = ?3, lease_expires_at = ?4
         WHERE id = ?1 AND state = 'queued'
         RETURNING id, attempts + 1, repository, branch, commit_sha, document",
    )?
    .query_row(params![id, owner, now, now + millis(lease)], |row| {
        Ok(ClaimedJob {
            id: JobId(row.get(0)?),
            attempt: row.get(1)?,
            repository: row.get(2)?,
            branch: row.get(3)?,
            commit: row.get(4)?,
            document: row.get(5)?,
        })
    })
    .optional()
}

/// Ends an attempt. Only the owner may; a retry of a job that somebody cancelled meanwhile is its cancellation.
pub(crate) fn end(
    conn: &Connection,
    id: JobId,
    owner: &str,
    ending: &Ending,
    now: Timestamp,
) -> Sql<Result<JobState, Denied>> {
    let found: Option<(JobState, Option<String>, bool)> = conn
        .prepare_cached("SELECT state, owner, cancel_requested FROM jobs WHERE id = ?")?
        .query_row([id.0], |row| Ok((state(row, 0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let Some((from, holder, cancel_requested)) = found else { return Ok(Err(Denied::NotFound)) };
    let cancelled = cancel_requested && ending.state() == JobState::Queued;
    let to = if cancelled { JobState::Cancelled } else { ending.state() };
    if from != JobState::Running || holder.as_deref() != Some(owner) {
        return Ok(Err(Denied::Illegal { from, to }));
    }
    let (attempt, interruption, code, error, outcome, not_before) = match ending {
        Ending::Succeeded { outcome } => (1, 0, Some(0), None, Some(outcome), None),
        Ending::Failed { code, error } => (1, 0, Some(*code), Some(error), None, None),
        Ending::Cancelled => (0, 0, None, None, None, None),
        Ending::Retry { code, error, not_before } => {
            (1, 0, Some(*code), Some(error), None, Some(*not_before))
        }
        Ending::Interrupted => (0, 1, None, None, None, None),
    };
    let now = now.as_millisecond();
    conn.prepare_cached(
        "UPDATE jobs SET state = :state, owner = NULL, lease_expires_at = NULL, cancel_requested = 0,
             attempts = attempts + :attempt, interruptions = interruptions + :interruption,
             exit_code = :code, error = :error, outcome = :outcome, not_before = :not_before,
             queued_at = iif(:ended, queued_at, :now), finished_at = iif(:ended, :now, NULL)
         WHERE id = :id AND state = 'running'",
    )?
    .execute(named_params! {
        ":state": to.as_str(), ":attempt": attempt, ":interruption": interruption, ":code": code, ":error": error,
        ":outcome": outcome, ":not_before": not_before.filter(|_| !to.is_ended()).map(Timestamp::as_millisecond),
        ":ended": to.is_ended(), ":now": now, ":id": id.0,
    })?;
    Ok(Ok(to))
}

/// Cancels a waiting job, or asks the worker of a running one to stop.
pub(crate) fn cancel(conn: &Connection, id: JobId, now: Timestamp) -> Sql<Result<CancelOutcome, Denied>> {
    let Some(from) = state_of(conn, id)? else { return Ok(Err(Denied::NotFound)) };
    match from {
        JobState::Queued => {
            conn.prepare_cached(
                "UPDATE jobs SET state = 'cancelled', finished_at = ?2, not_before = NULL
                 WHERE id = ?1 AND state = 'queued'",
            )?
            .execute(params![id.0, now.as_millisecond()])?;
            Ok(Ok(CancelOutcome::Cancelled))
        }
        JobState::Running => {
            conn.prepare_cached("UPDATE jobs SET cancel_requested = 1 WHERE id = ? AND state = 'running'")?
                .execute([id.0])?;
            Ok(Ok(CancelOutcome::Requested))
        }
        JobState::Succeeded | JobState::Failed | JobState::Cancelled => {
            Ok(Err(Denied::Illegal { from, to: JobState::Cancelled }))
        }
    }
}

/// Takes up what a `serve` that is gone left running: queued again, not an attempt; cancelled if that was wanted.
pub(crate) fn recover(conn: &Connection, now: Timestamp) -> Sql<usize> {
    let now = now.as_millisecond();
    let cancelled = conn.execute(
        "UPDATE jobs SET state = 'cancelled', finished_at = ?, owner = NULL, lease_expires_at = NULL,
             cancel_requested = 0, interruptions = interruptions + 1
         WHERE state = 'running' AND cancel_requested",
        [now],
    )?;
    let queued = conn.execute(
        "UPDATE jobs SET state = 'queued', queued_at = ?, owner = NULL, lease_expires_at = NULL,
             interruptions = interruptions + 1
         WHERE state = 'running'",
        [now],
    )?;
    Ok(cancelled + queued)
}

/// Says that the owner of the running jobs lives.
pub(crate) fn renew_leases(conn: &Connection, owner: &str, now: Timestamp, lease: Duration) -> Sql<usize> {
    conn.prepare_cached("UPDATE jobs SET lease_expires_at = ?2 WHERE state = 'running' AND owner = ?1")?
        .execute(params![owner, now.as_millisecond() + millis(lease)])
}

/// Running jobs that somebody wants cancelled.
pub(crate) fn to_cancel(conn: &Connection) -> Sql<Vec<JobId>> {
    conn.prepare_cached(
        "SELECT id FROM jobs INDEXED BY jobs_running WHERE state = 'running' AND cancel_requested",
    )?
    .query_map([], |row| row.get(0).map(JobId))?
    .collect()
}

/// Up to `limit` ended jobs to forget: those that ended before `before`, and those beyond the newest `keep`.
pub(crate) fn expired(conn: &Connection, before: Timestamp, keep: u32, limit: u32) -> Sql<Vec<JobId>> {
    conn.prepare_cached(
        "SELECT id FROM (
            SELECT id FROM jobs WHERE finished_at < ?1
            UNION
            SELECT id FROM (SELECT id FROM jobs WHERE finished_at IS NOT NULL
                            ORDER BY finished_at DESC LIMIT ?3 OFFSET ?2)
         ) LIMIT ?3",
    )?
    .query_map(params![before.as_millisecond(), keep, limit], |row| row.get(0).map(JobId))?
    .collect()
}

/// Forgets these jobs, unless one was queued again meanwhile.
pub(crate) fn forget(conn: &Connection, ids: &[JobId]) -> Sql<usize> {
    let mut statement = conn.prepare_cached("DELETE FROM jobs WHERE id = ? AND finished_at IS NOT NULL")?;
    ids.iter().map(|id| statement.execute([id.0])).sum()
}

/// A real write of one page.
pub(crate) fn touch(conn: &Connection, now: Timestamp) -> Sql<()> {
    conn.prepare_cached("UPDATE health SET checked_at = ?")?.execute([now.as_millisecond()])?;
    Ok(())
}

const RECORD: &str =
    "SELECT id, state, forge, repository, branch, commit_sha, event, delivery_id, created_at, queued_at,
    started_at, finished_at, attempts, interruptions, not_before, error, exit_code, cancel_requested, owner,
    lease_expires_at FROM jobs";

pub(crate) fn get(conn: &Connection, id: JobId) -> Sql<Option<JobRecord>> {
    conn.prepare_cached(&format!("{RECORD} WHERE id = ?"))?.query_row([id.0], record).optional()
}

/// The newest `limit` jobs that pass the filter, newest first.
pub(crate) fn list(conn: &Connection, filter: &JobFilter, limit: u32) -> Sql<Vec<JobRecord>> {
    let mut sql = format!("{RECORD} WHERE (?1 IS NULL OR lower(repository) = ?1)");
    // A constant, so that the planner sees which index fits.
    if let Some(state) = filter.state {
        sql.push_str(&format!(" AND state = '{state}'"));
    }
    sql.push_str(" ORDER BY id DESC LIMIT ?2");
    let repository = filter.repository.as_deref().map(str::to_ascii_lowercase);
    conn.prepare_cached(&sql)?.query_map(params![repository, limit], record)?.collect()
}

pub(crate) fn documents(conn: &Connection, id: JobId) -> Sql<Option<JobDocuments>> {
    conn.prepare_cached("SELECT document, outcome FROM jobs WHERE id = ?")?
        .query_row([id.0], |row| Ok(JobDocuments { document: row.get(0)?, outcome: row.get(1)? }))
        .optional()
}

pub(crate) fn stats(conn: &Connection) -> Sql<QueueStats> {
    let mut stats = QueueStats::default();
    let mut statement =
        conn.prepare_cached("SELECT state, count(*), min(queued_at) FROM jobs GROUP BY state")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let count = row.get::<_, i64>(1)?.unsigned_abs();
        match state(row, 0)? {
            JobState::Queued => {
                stats.queued = count;
                stats.oldest_queued = Some(time(row, 2)?);
            }
            JobState::Running => stats.running = count,
            JobState::Succeeded => stats.succeeded = count,
            JobState::Failed => stats.failed = count,
            JobState::Cancelled => stats.cancelled = count,
        }
    }
    Ok(stats)
}

fn state_of(conn: &Connection, id: JobId) -> Sql<Option<JobState>> {
    conn.prepare_cached("SELECT state FROM jobs WHERE id = ?")?
        .query_row([id.0], |row| state(row, 0))
        .optional()
}

fn record(row: &Row<'_>) -> Sql<JobRecord> {
    Ok(JobRecord {
        id: JobId(row.get(0)?),
        state: state(row, 1)?,
        forge: row.get(2)?,
        repository: row.get(3)?,
        branch: row.get(4)?,
        commit: row.get(5)?,
        event: row.get(6)?,
        delivery_id: row.get(7)?,
        created: time(row, 8)?,
        queued: time(row, 9)?,
        started: optional_time(row, 10)?,
        finished: optional_time(row, 11)?,
        attempts: row.get(12)?,
        interruptions: row.get(13)?,
        next_attempt: optional_time(row, 14)?,
        error: row.get(15)?,
        exit_code: row.get(16)?,
        cancel_requested: row.get(17)?,
        owner: row.get(18)?,
        lease_expires: optional_time(row, 19)?,
    })
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
