//! The SQL statements of the store. An unknown commit is the empty string.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Row, named_params, params};

use crate::queue::job::{Accepted, JobId, JobRecord, JobState, NewJob, QueueStats};

use super::{BATCH, Ending};

pub(super) type Sql<T> = rusqlite::Result<T>;

pub(super) fn accept(conn: &Connection, job: &NewJob, now: i64) -> Sql<Accepted> {
    let (lane, key) = (job.lane(), job.merge_key());
    let commit = job.commit.as_ref().map(ToString::to_string).unwrap_or_default();
    // Not `ON CONFLICT`: it would use up a number for each duplicate.
    let known = conn
        .prepare_cached("SELECT id, state FROM jobs WHERE lane = ? AND branch = ? AND merge_key = ?")?
        .query_row(params![lane, job.branch.as_str(), key], |row| Ok((JobId(row.get(0)?), state(row, 1)?)))
        .optional()?;
    let Some((id, state)) = known else {
        let id = conn
            .prepare_cached(
                "INSERT INTO jobs (lane, forge, repository, branch, commit_sha, merge_key, pull_request, event,
                                   delivery_id, document, state, created_at, queued_at)
                 VALUES (:lane, :forge, :repository, :branch, :commit, :key, :pull_request, :event, :delivery,
                         :document, 'queued', :now, :now)
                 RETURNING id",
            )?
            .query_row(
                named_params! {
                    ":lane": lane, ":forge": job.forge.to_string(), ":repository": job.repository.as_str(),
                    ":branch": job.branch.as_str(), ":commit": commit, ":key": key,
                    ":pull_request": job.pull_request, ":event": job.event, ":delivery": job.delivery_id,
                    ":document": job.document, ":now": now,
                },
                |row| row.get(0),
            )?;
        return Ok(Accepted::New(JobId(id)));
    };
    if !state.may_be_retried() {
        return Ok(Accepted::Duplicate { id, state });
    }
    conn.prepare_cached("UPDATE jobs SET document = ?, event = ?, delivery_id = ? WHERE id = ?")?
        .execute(params![job.document, job.event, job.delivery_id, id.0])?;
    queue_again(conn, id, now)?;
    Ok(Accepted::Requeued(id))
}

pub(super) fn queue_again(conn: &Connection, id: JobId, now: i64) -> Sql<()> {
    conn.prepare_cached(
        "UPDATE jobs SET state = 'queued', queued_at = ?2, attempts = 0, interruptions = 0, not_before = NULL,
             started_at = NULL, finished_at = NULL, cancel_requested = 0, exit_code = NULL, error = NULL, outcome = NULL
         WHERE id = ?1",
    )?
    .execute(params![id.0, now])?;
    Ok(())
}

/// The oldest job that may run at ?1 (no wait, its wait is over, or its wait ends after ?2) and whose lane is free.
pub(super) const NEXT: &str = "
    SELECT id FROM jobs AS job
    WHERE state = 'queued' AND (not_before IS NULL OR not_before <= ?1 OR not_before > ?2)
      AND NOT EXISTS (SELECT 1 FROM jobs AS other WHERE other.state = 'running' AND other.lane = job.lane)
    ORDER BY id LIMIT 1";

pub(super) fn next(conn: &Connection, now: i64, longest: Duration) -> Sql<Option<i64>> {
    conn.prepare_cached(NEXT)?.query_row(params![now, now + millis(longest)], |row| row.get(0)).optional()
}

/// Queues jobs of other owners again whose leases ended before `expired`, or cancels those with a cancel request. Does
/// not count as an attempt.
pub(super) fn release(conn: &Connection, owner: &str, expired: i64, now: i64) -> Sql<()> {
    conn.prepare_cached(
        "UPDATE jobs SET state = iif(cancel_requested, 'cancelled', 'queued'),
             queued_at = iif(cancel_requested, queued_at, ?3), finished_at = iif(cancel_requested, ?3, NULL),
             owner = NULL, lease_expires_at = NULL, cancel_requested = 0, interruptions = interruptions + 1
         WHERE state = 'running' AND owner <> ?1 AND lease_expires_at < ?2",
    )?
    .execute(params![owner, expired, now])?;
    Ok(())
}

/// `None` if the job belongs to another owner.
pub(super) fn end(
    conn: &Connection,
    id: JobId,
    owner: &str,
    ending: &Ending,
    now: i64,
) -> Sql<Option<JobState>> {
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

/// Ended jobs to delete: those that ended before `before`, and those beyond the newest `keep`.
pub(super) fn expired(conn: &Connection, before: i64, keep: u32) -> Sql<Vec<JobId>> {
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

pub(super) const RECORD: &str =
    "SELECT id, state, forge, repository, branch, nullif(commit_sha, ''), pull_request, event, delivery_id,
    created_at, queued_at, started_at, finished_at, attempts, interruptions, not_before, error, exit_code,
    cancel_requested, owner, lease_expires_at FROM jobs";

pub(super) fn record(row: &Row<'_>) -> Sql<JobRecord> {
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

pub(super) fn stats(conn: &Connection) -> Sql<QueueStats> {
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

pub(super) fn state_of(conn: &Connection, id: JobId) -> Sql<Option<JobState>> {
    conn.prepare_cached("SELECT state FROM jobs WHERE id = ?")?
        .query_row([id.0], |row| state(row, 0))
        .optional()
}

pub(super) fn state(row: &Row<'_>, column: usize) -> Sql<JobState> {
    let word: String = row.get(column)?;
    word.parse().map_err(|e| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(e)))
}

pub(super) fn time(row: &Row<'_>, column: usize) -> Sql<Timestamp> {
    Timestamp::from_millisecond(row.get(column)?)
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(column, Type::Integer, Box::new(e)))
}

pub(super) fn optional_time(row: &Row<'_>, column: usize) -> Sql<Option<Timestamp>> {
    match row.get::<_, Option<i64>>(column)? {
        Some(_) => time(row, column).map(Some),
        None => Ok(None),
    }
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}
