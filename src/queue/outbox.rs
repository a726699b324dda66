//! Pending posts about jobs.
//!
//! Triggers (`database.rs`) write the rows, in the transaction that changes the job. A row only names the job: a post
//! contains the job's state at the time of the post.

use std::time::Duration;

use rusqlite::{OptionalExtension as _, params};

use super::backoff::Backoff;
use super::job::{JobId, JobRecord};
use super::sql::millis;
use super::store::Store;
use crate::error::Failure;
use crate::model::CommitSha;

/// 10 s, 30 s, 90 s and so on, up to [`LONGEST`].
const BACKOFF: Backoff = Backoff { attempts: u32::MAX, first: Duration::from_secs(10) };
/// Between two attempts.
const LONGEST: Duration = Duration::from_secs(30 * 60);
/// A post that failed for this long is dropped.
const DROP_AFTER: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostKind {
    /// The status of a commit.
    Status,
    /// The comment on a pull request.
    Comment,
}

#[derive(Debug, Clone)]
pub struct Post {
    id: i64,
    pub kind: PostKind,
    pub job: JobRecord,
    attempts: u32,
    created_at: i64,
}

#[derive(Debug, Clone)]
pub struct PostError {
    pub error: String,
    /// How long the server asks to wait.
    pub pause: Option<Duration>,
}

impl Store {
    /// Whether jobs are reported. `false` drops all pending posts.
    pub fn set_posts(&self, on: bool) -> Result<(), Failure> {
        let is_on: bool = self.read(|conn| conn.query_row("SELECT posts FROM meta", [], |row| row.get(0)))?;
        if is_on == on {
            return Ok(());
        }
        self.write(|conn| {
            conn.execute("UPDATE meta SET posts = ?", [on])?;
            conn.execute("DELETE FROM outbox WHERE ?", [!on]).map(drop)
        })
    }

    /// Records which commit landed, if the forge did not report it.
    pub fn landed(&self, id: JobId, commit: &CommitSha) -> Result<(), Failure> {
        self.write(|conn| {
            conn.prepare_cached("UPDATE jobs SET commit_sha = ?2 WHERE id = ?1 AND commit_sha = ''")?
                .execute(params![id.0, commit.as_str()])
                .map(drop)
        })
    }

    /// Pending posts, including those that wait for another attempt.
    pub fn unposted(&self) -> Result<i64, Failure> {
        self.read(|conn| conn.query_row("SELECT count(*) FROM outbox", [], |row| row.get(0)))
    }

    /// The oldest post that may be sent now. A wait that is longer than any was written before the clock was set back,
    /// and is over.
    pub(super) fn next_post(&self) -> Result<Option<Post>, Failure> {
        let now = self.now();
        let row = self.read(|conn| {
            conn.prepare_cached(
                "SELECT id, kind = 'status', job, created_at, attempts FROM outbox
                 WHERE not_before <= ?1 OR not_before > ?2 ORDER BY id LIMIT 1",
            )?
            .query_row(params![now, now + millis(LONGEST)], |row| {
                Ok((row.get(0)?, row.get(1)?, JobId(row.get(2)?), row.get(3)?, row.get(4)?))
            })
            .optional()
        })?;
        let Some((id, is_status, job, created_at, attempts)) = row else { return Ok(None) };
        let kind = if is_status { PostKind::Status } else { PostKind::Comment };
        Ok(Some(Post { id, kind, job: self.get(job)?, attempts, created_at }))
    }

    /// Records that a post was sent or failed; one that failed is sent again later. Returns a warning to show.
    pub(super) fn posted(&self, post: &Post, sent: Result<(), PostError>) -> Result<Option<String>, Failure> {
        let is_old = self.now().saturating_sub(post.created_at) >= millis(DROP_AFTER);
        let what = match post.kind {
            PostKind::Status => "status",
            PostKind::Comment => "comment",
        };
        let what = format!("the {what} about job {} was not posted", post.job.id);
        let (wait, warning) = match sent {
            Ok(()) => (None, None),
            Err(PostError { error, .. }) if is_old => {
                (None, Some(format!("{what} within a day and is dropped: {error}")))
            }
            Err(PostError { error, pause }) => {
                let wait = BACKOFF.delay(post.attempts.saturating_add(1), fastrand::f64());
                let wait = wait.max(pause).unwrap_or(LONGEST).min(LONGEST);
                let first = post.attempts == 0;
                (Some(wait), first.then(|| format!("{what}; it is tried again for a day: {error}")))
            }
        };
        let not_before = wait.map(|wait| self.now() + millis(wait));
        self.write(|conn| {
            match not_before {
                None => conn.prepare_cached("DELETE FROM outbox WHERE id = ?")?.execute([post.id]),
                Some(not_before) => conn
                    .prepare_cached(
                        "UPDATE outbox SET attempts = attempts + 1, not_before = ?2 WHERE id = ?1",
                    )?
                    .execute(params![post.id, not_before]),
            }
            .map(drop)
        })?;
        Ok(warning)
    }
}

#[cfg(test)]
mod tests;
