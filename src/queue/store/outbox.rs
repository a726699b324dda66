//! What is still to be posted about jobs, and how it is posted.
//!
//! The rows are written by triggers (`schema.rs`), in the transaction that changes the job. They say only which job to
//! report on: what is posted is how it stands at that moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rusqlite::{OptionalExtension as _, params};

use super::{Class, Store, millis};
use crate::cancel::Cancel;
use crate::model::CommitSha;
use crate::queue::error::QueueError;
use crate::queue::job::{JobDocuments, JobId, JobRecord};
use crate::queue::retry::RetryPolicy;

/// 10 s, 30 s, 90 s and so on, up to [`LONGEST`].
const RETRY: RetryPolicy =
    RetryPolicy { attempts: u32::MAX, first: Duration::from_secs(10), factor: 3, jitter: 0.2 };
/// Between two attempts.
const LONGEST: Duration = Duration::from_secs(30 * 60);
/// What could not be posted for so long is dropped.
const DROP_AFTER: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostKind {
    /// The status of a commit.
    Status,
    /// The comment on a pull request.
    Comment,
}

impl PostKind {
    /// The word for it, in the database and for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            PostKind::Status => "status",
            PostKind::Comment => "comment",
        }
    }
}

/// One thing to post.
#[derive(Debug, Clone)]
pub struct Post {
    id: i64,
    pub kind: PostKind,
    pub job: JobRecord,
    pub documents: JobDocuments,
    /// Attempts before this one.
    pub attempts: u32,
    created_at: i64,
}

/// Why something was not posted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostError {
    pub error: String,
    /// How long the server wants to be left alone.
    pub pause: Option<Duration>,
}

/// Posts one thing. `Ok` also where there is nothing to say.
type Poster = dyn Fn(&Post) -> Result<(), PostError> + Send + Sync;

/// Posts what is in the outbox, on a thread that lives only while there is something to post.
pub struct Outbox {
    store: Store,
    cancel: Cancel,
    post: Box<Poster>,
    warn: Box<dyn Fn(&str) + Send + Sync>,
    busy: AtomicBool,
}

impl Outbox {
    /// `warn` is told of what fails and of what is dropped.
    pub fn new(
        store: &Store,
        cancel: &Cancel,
        post: Box<Poster>,
        warn: Box<dyn Fn(&str) + Send + Sync>,
    ) -> Arc<Outbox> {
        let (store, cancel) = (store.clone(), cancel.clone());
        Arc::new(Outbox { store, cancel, post, warn, busy: AtomicBool::new(false) })
    }

    /// Starts the thread if there is something that may be posted now.
    pub(in crate::queue) fn look(self: &Arc<Outbox>) -> Result<(), QueueError> {
        if self.busy.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let next = self.store.next_post();
        if !matches!(next, Ok(Some(_))) {
            self.busy.store(false, Ordering::SeqCst);
            return next.map(drop);
        }
        let outbox = Arc::clone(self);
        let started = thread::Builder::new().name("outbox".to_owned()).spawn(move || {
            // What goes wrong with the database is seen by the next look.
            while let (Ok(()), Ok(Some(post))) = (outbox.cancel.check(), outbox.store.next_post()) {
                if outbox.attempt(&post).is_err() {
                    break;
                }
            }
            outbox.busy.store(false, Ordering::SeqCst);
        });
        if started.is_err() {
            self.busy.store(false, Ordering::SeqCst);
        }
        Ok(())
    }

    fn attempt(&self, post: &Post) -> Result<(), QueueError> {
        let Err(PostError { error, pause }) = (self.post)(post) else {
            return self.store.forget_post(post.id);
        };
        let what = format!("the {} about job {}", post.kind.as_str(), post.job.id);
        if self.store.now().saturating_sub(post.created_at) >= millis(DROP_AFTER) {
            (self.warn)(&format!("{what} was not posted within a day and is dropped: {error}"));
            return self.store.forget_post(post.id);
        }
        if post.attempts == 0 {
            (self.warn)(&format!("{what} was not posted; it is tried again for a day: {error}"));
        }
        let wait = RETRY.delay(post.attempts.saturating_add(1), fastrand::f64()).unwrap_or(LONGEST);
        self.store.postpone(post.id, wait.min(LONGEST).max(pause.unwrap_or_default().min(LONGEST)))
    }
}

impl Store {
    /// Whether jobs are to be reported on. What is in the outbox is dropped with `false`.
    pub fn set_posts(&self, on: bool) -> Result<(), QueueError> {
        let is_on: bool = self.read(|conn| conn.query_row("SELECT posts FROM meta", [], |row| row.get(0)))?;
        if is_on == on {
            return Ok(());
        }
        self.write(Class::Essential, |conn| {
            conn.execute("UPDATE meta SET posts = ?", [on])?;
            conn.execute("DELETE FROM outbox WHERE ?", [!on])?;
            Ok(())
        })
    }

    /// Writes down which commit landed, where the forge did not say it.
    pub fn landed(&self, id: JobId, commit: &CommitSha) -> Result<(), QueueError> {
        self.write(Class::Essential, |conn| {
            conn.prepare_cached("UPDATE jobs SET commit_sha = ?2 WHERE id = ?1 AND commit_sha = ''")?
                .execute(params![id.0, commit.as_str()])?;
            Ok(())
        })
    }

    /// Things that are still to be posted, those that wait for another attempt included.
    pub fn unposted(&self) -> Result<u64, QueueError> {
        let count: i64 =
            self.read(|conn| conn.query_row("SELECT count(*) FROM outbox", [], |row| row.get(0)))?;
        Ok(count.unsigned_abs())
    }

    /// The oldest thing that may be posted now. A wait that is longer than any was written before the clock was set back,
    /// and is over.
    fn next_post(&self) -> Result<Option<Post>, QueueError> {
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
        let (job, documents) = (self.get(job)?, self.documents(job)?);
        Ok(Some(Post { id, kind, job, documents, attempts, created_at }))
    }

    fn forget_post(&self, id: i64) -> Result<(), QueueError> {
        self.write(Class::Essential, |conn| {
            conn.prepare_cached("DELETE FROM outbox WHERE id = ?")?.execute([id]).map(drop)
        })
    }

    fn postpone(&self, id: i64, wait: Duration) -> Result<(), QueueError> {
        let not_before = self.now() + millis(wait);
        self.write(Class::Essential, |conn| {
            conn.prepare_cached("UPDATE outbox SET attempts = attempts + 1, not_before = ?2 WHERE id = ?1")?
                .execute(params![id, not_before])
                .map(drop)
        })
    }
}

#[cfg(test)]
mod tests;
