//! When a request is repeated, and how long to wait before.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// A server that asks for a longer pause is not waited for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// How often a request is repeated. Only requests that do no harm twice are, and only for passing causes.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Attempts in all, the first included.
    pub attempts: usize,
    /// No attempt starts later than this after the first one, unless the server asked for the pause.
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
    /// The waits between the attempts. `backon` counts them and adds jitter; its own loop cannot be interrupted and
    /// knows no `Retry-After`.
    pub(crate) fn delays(&self) -> ExponentialBackoff {
        ExponentialBuilder::new()
            .with_min_delay(self.first_delay)
            .with_max_delay(Duration::from_secs(8))
            .with_max_times(self.attempts.saturating_sub(1))
            .with_jitter()
            .build()
    }

    /// The wait before the next attempt; `None` when there is none.
    pub(crate) fn delay(
        &self,
        backoff: Option<Duration>,
        retry_after: Option<Duration>,
        elapsed: Duration,
    ) -> Option<Duration> {
        let backoff = backoff?;
        match retry_after.filter(|pause| *pause > backoff) {
            Some(pause) => (pause <= LONGEST_PAUSE && elapsed < 2 * LONGEST_PAUSE).then_some(pause),
            None => (elapsed + backoff < self.total).then_some(backoff),
        }
    }
}

/// Whether a status may be another one in a moment (RFC 9110, 15.5.9 and 15.6; RFC 6585, 4).
pub(crate) fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
}

/// `Retry-After` in seconds or as a date (RFC 9110, 10.2.3).
pub(crate) fn retry_after(value: &str, now: jiff::Timestamp) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let date = jiff::fmt::rfc2822::parse(value).ok()?.timestamp();
    Some(Duration::try_from(date.duration_since(now)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_server_that_asks_for_a_pause_gets_it_within_bounds() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.delay(Some(SECOND), Some(4 * SECOND), SECOND), Some(4 * SECOND));
        assert_eq!(policy.delay(Some(SECOND), Some(60 * SECOND), SECOND), Some(60 * SECOND));
        assert_eq!(policy.delay(Some(SECOND), Some(60 * SECOND), 121 * SECOND), None);
        assert_eq!(policy.delay(Some(SECOND), None, SECOND), Some(SECOND));
        assert_eq!(policy.delay(Some(SECOND), Some(3600 * SECOND), SECOND), None);
        assert_eq!(policy.delay(Some(SECOND), None, 30 * SECOND), None);
        assert_eq!(policy.delay(None, Some(SECOND), SECOND), None);
    }

    #[test]
    fn there_are_as_many_waits_as_repetitions() {
        assert_eq!(RetryPolicy::default().delays().count(), 4);
        assert_eq!(RetryPolicy { attempts: 1, ..RetryPolicy::default() }.delays().count(), 0);
    }

    #[test]
    fn retry_after_is_read_in_seconds_and_as_a_date() {
        let now: jiff::Timestamp = "1999-12-31T23:59:49Z".parse().unwrap();
        assert_eq!(retry_after(" 7 ", now), Some(7 * SECOND));
        assert_eq!(retry_after("Fri, 31 Dec 1999 23:59:59 GMT", now), Some(10 * SECOND));
        assert_eq!(retry_after("Fri, 31 Dec 1999 23:59:39 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("-1", now), None);
        assert_eq!(retry_after("soon", now), None);
    }
}
