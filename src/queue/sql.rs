//! The longer SQL statements of the store. An unknown commit is the empty string.

use std::time::Duration;

use jiff::Timestamp;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, Type, ValueRef};
use rusqlite::{Connection, OptionalExtension as _, Row, named_params, params};

use super::database::Sql;
use super::job::{Ending, JobId, JobRecord, JobState, NewJob, QueueStats};

/// Jobs deleted per transaction: few, so that deliveries do not wait long.
const BATCH: u32 = 200;

/// The job of a merge, and its state before this call; `None` if the merge was unknown. A job that failed or was
/// cancelled is queued again.
pub(super) fn accept(conn: &Connection, job: &NewJob, now: i64) -> Sql<(JobId, Option<JobState>)> {
    let (lane, key) = (job.lane(), job.merge_key());
    let commit = job.commit.as_ref().map(ToString::to_string).unwrap_or_default();
    // Not `ON CONFLICT`: it would use up a number for each duplicate.
    let known = conn
        .prepare_cached("SELECT id, state FROM jobs WHERE lane = ? AND branch = ? AND merge_key = ?")?
        .query_row(params![lane, job.branch.as_str(), key], |row| Ok((JobId(row.get(0)?), row.get(1)?)))
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
        return Ok((JobId(id), None));
    };
    if queue_again(conn, id, now)? {
        conn.prepare_cached("UPDATE jobs SET document = ?, event = ?, delivery_id = ? WHERE id = ?")?
            .execute(params![job.document, job.event, job.delivery_id, id.0])?;
    }
    Ok((id, Some(state)))
}

/// Queues a job again with a fresh set of attempts, if it failed or was cancelled.
pub(super) fn queue_again(conn: &Connection, id: JobId, now: i64) -> Sql<bool> {
    let changed = conn
        .prepare_cached(
            "UPDATE jobs SET state = 'queued', queued_at = ?2, attempts = 0, interruptions = 0, not_before = NULL,
             started_at = NULL, finished_at = NULL, cancel_requested = 0, exit_code = NULL, error = NULL, outcome = NULL
             WHERE id = ?1 AND state IN ('failed', 'cancelled')",
        )?
        .execute(params![id.0, now])?;
    Ok(changed > 0)
}

/// The oldest job that may run at ?1 (no wait, its wait is over, or its wait ends after ?2) and whose lane is free.
pub(super) const NEXT: &str = "
    SELECT id FROM jobs AS job
    WHERE state = 'queued' AND (not_before IS NULL OR not_before <= ?1 OR not_before > ?2)
      AND NOT EXISTS (SELECT 1 FROM jobs AS other WHERE other.state = 'running' AND other.lane = job.lane)
    ORDER BY id LIMIT 1";

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

/// The state of the job after the attempt; `None` if it belongs to another owner.
pub(super) fn end(
    conn: &Connection,
    id: JobId,
    owner: &str,
    ending: &Ending,
    now: i64,
) -> Sql<Option<JobState>> {
    let interrupted = ending.state == JobState::Queued && ending.wait.is_none();
    let counts = !interrupted && ending.state != JobState::Cancelled;
    conn.prepare_cached(
        "WITH job AS (SELECT id, iif(cancel_requested AND :state = 'queued', 'cancelled', :state) AS state
                      FROM jobs WHERE id = :id AND state = 'running' AND owner = :owner)
         UPDATE jobs SET state = job.state, owner = NULL, lease_expires_at = NULL, cancel_requested = 0,
             attempts = attempts + :attempt, interruptions = interruptions + :interruption,
             exit_code = :code, error = :error, outcome = :outcome,
             not_before = iif(job.state = 'queued', :not_before, NULL),
             queued_at = iif(job.state = 'queued', :now, queued_at),
             finished_at = iif(job.state = 'queued', NULL, :now)
         FROM job WHERE jobs.id = job.id RETURNING state",
    )?
    .query_row(
        named_params! {
            ":id": id.0, ":owner": owner, ":state": ending.state.as_str(), ":attempt": counts,
            ":interruption": interrupted, ":code": ending.exit_code, ":error": ending.error,
            ":outcome": ending.outcome, ":not_before": ending.wait.map(|wait| now + millis(wait)), ":now": now,
        },
        |row| row.get(0),
    )
    .optional()
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

/// The columns of [`record`].
pub(super) const RECORD: &str = "id, state, forge, repository, branch, nullif(commit_sha, ''), pull_request, event,
    delivery_id, created_at, queued_at, started_at, finished_at, attempts, interruptions, not_before, error, exit_code,
    cancel_requested, owner, lease_expires_at, document, outcome";

pub(super) fn record(row: &Row<'_>) -> Sql<JobRecord> {
    Ok(JobRecord {
        id: JobId(row.get(0)?),
        state: row.get(1)?,
        forge: row.get(2)?,
        repository: row.get(3)?,
        branch: row.get(4)?,
        commit: row.get(5)?,
        pull_request: row.get(6)?,
        event: row.get(7)?,
        delivery_id: row.get(8)?,
        created: time(row, 9)?.unwrap_or_default(),
        queued: time(row, 10)?.unwrap_or_default(),
        started: time(row, 11)?,
        finished: time(row, 12)?,
        attempts: row.get(13)?,
        interruptions: row.get(14)?,
        next_attempt: time(row, 15)?,
        error: row.get(16)?,
        exit_code: row.get(17)?,
        cancel_requested: row.get(18)?,
        owner: row.get(19)?,
        lease_expires: time(row, 20)?,
        document: row.get(21)?,
        outcome: row.get(22)?,
    })
}

pub(super) fn stats(conn: &Connection) -> Sql<QueueStats> {
    let jobs = conn
        .prepare_cached("SELECT state, count(*) FROM jobs GROUP BY state")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Sql<_>>()?;
    let oldest_queued = conn
        .prepare_cached("SELECT min(queued_at) FROM jobs WHERE state = 'queued'")?
        .query_row([], |row| time(row, 0))?;
    Ok(QueueStats { jobs, oldest_queued })
}

impl FromSql for JobState {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<JobState> {
        value.as_str()?.parse().map_err(|error: String| FromSqlError::Other(error.into()))
    }
}

fn time(row: &Row<'_>, column: usize) -> Sql<Option<Timestamp>> {
    let time = row.get::<_, Option<i64>>(column)?.map(Timestamp::from_millisecond).transpose();
    time.map_err(|e| rusqlite::Error::FromSqlConversionFailure(column, Type::Integer, Box::new(e)))
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}
