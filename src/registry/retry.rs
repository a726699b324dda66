//! When a request is repeated, and how long to wait before.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// How often a request is repeated. Only requests that do no harm twice are, and only for passing causes.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Attempts in all, the first included.
    pub attempts: usize,
    /// No attempt starts later than this after the first one, and a repetition ends by then, or 1 s later.
    pub total: Duration,
    /// The wait before the second attempt; it doubles, with jitter, up to 8 s.
    pub first_delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy { attempts: 5, total: Duration::from_secs(30), first_delay: Duration::from_millis(200) }
    }
}

impl RetryPolicy {
    /// One attempt only, as for `doctor`.
    pub fn never() -> RetryPolicy {
        RetryPolicy { attempts: 1, ..RetryPolicy::default() }
    }

    /// The waits between the attempts. `backon` counts them and adds jitter; the loop around is our own, because
    /// `backon`'s cannot be interrupted and knows no `Retry-After`.
    pub(super) fn delays(&self) -> ExponentialBackoff {
        ExponentialBuilder::new()
            .with_min_delay(self.first_delay)
            .with_max_delay(Duration::from_secs(8))
            .with_max_times(self.attempts.saturating_sub(1))
            .with_jitter()
            .build()
    }

    /// The wait before the next attempt: what the registry asked for, if that is longer; `None` when it would
    /// start too late.
    pub(super) fn delay(
        &self,
        backoff: Option<Duration>,
        retry_after: Option<Duration>,
        elapsed: Duration,
    ) -> Option<Duration> {
        let delay = backoff?.max(retry_after.unwrap_or_default());
        (elapsed + delay < self.total).then_some(delay)
    }
}

/// Whether a status may be another one in a moment (RFC 9110, 15.5.9 and 15.6; RFC 6585, 4).
pub(super) fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// `Retry-After` in its form of seconds; the form of a date is left to the backoff.
pub(super) fn retry_after(value: &str) -> Option<Duration> {
    value.trim().parse::<u32>().ok().map(|seconds| Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_registry_that_asks_for_patience_gets_it_but_not_for_ever() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.delay(Some(SECOND), Some(4 * SECOND), SECOND), Some(4 * SECOND));
        assert_eq!(policy.delay(Some(SECOND), None, SECOND), Some(SECOND));
        assert_eq!(policy.delay(Some(SECOND), Some(3600 * SECOND), SECOND), None);
        assert_eq!(policy.delay(Some(SECOND), None, 30 * SECOND), None);
        assert_eq!(policy.delay(None, Some(SECOND), SECOND), None);
    }

    #[test]
    fn there_are_as_many_waits_as_repetitions() {
        assert_eq!(RetryPolicy::default().delays().count(), 4);
        assert_eq!(RetryPolicy::never().delays().count(), 0);
    }

    #[test]
    fn retry_after_is_read_in_seconds_only() {
        assert_eq!(retry_after(" 7 "), Some(7 * SECOND));
        assert_eq!(retry_after("Fri, 31 Dec 1999 23:59:59 GMT"), None);
        assert_eq!(retry_after("-1"), None);
    }
}
