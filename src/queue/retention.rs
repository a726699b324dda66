//! How long ended jobs and their logs are kept.

use std::time::Duration;

use super::error::QueueError;
use super::writer::Class;
use super::{Queue, log, store};

/// Jobs of one transaction: small, so that a delivery does not wait for it.
const BATCH: u32 = 200;

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

impl Queue {
    /// Forgets ended jobs, with their logs, in small batches. Returns how many.
    pub fn enforce(&self, retention: Retention) -> Result<usize, QueueError> {
        // A time before all times when the age reaches further back than the calendar.
        let before = self.0.clock.now().checked_sub(retention.age).unwrap_or(jiff::Timestamp::MIN);
        let mut forgotten = 0;
        loop {
            let expired = store::expired(&self.reader(), before, retention.count, BATCH)?;
            if expired.is_empty() {
                return Ok(forgotten);
            }
            // Logs first: a crash in between leaves jobs without a log, which go next time, not logs without a job.
            log::remove(&self.0.dir, &expired);
            let done = self.0.writer.write(Class::Essential, move |conn| store::forget(conn, &expired))?;
            if done == 0 {
                return Ok(forgotten); // all of them were queued again meanwhile
            }
            forgotten += done;
        }
    }
}
