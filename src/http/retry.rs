//! When a failed call is retried, and after which delay.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// A server that asks for a longer pause gets no retry.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Attempts in all, including the first.
    pub attempts: usize,
    /// No attempt starts later than this after the first one, unless the server asked for the pause.
    pub total: Duration,
    /// The delay before the second attempt; it doubles, with jitter, up to 8 s.
    pub first_delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy { attempts: 5, total: Duration::from_secs(30), first_delay: Duration::from_millis(200) }
    }
}

impl RetryPolicy {
    pub(crate) fn start(&self) -> Retries {
        let delays = ExponentialBuilder::new()
            .with_min_delay(self.first_delay)
            .with_max_delay(Duration::from_secs(8))
            .with_max_times(self.attempts.saturating_sub(1))
            .with_jitter()
            .build();
        Retries { delays, started: Instant::now(), total: self.total, attempt: 1 }
    }
}

/// The retries of one call. `backon`'s own loop cannot be interrupted and knows no `Retry-After`.
pub(crate) struct Retries {
    delays: ExponentialBackoff,
    started: Instant,
    total: Duration,
    attempt: usize,
}

impl Retries {
    /// The delay before the next attempt; `None` when there is none.
    pub(crate) fn next_delay(&mut self, retry_after: Option<Duration>) -> Option<Duration> {
        let backoff = self.delays.next()?;
        self.attempt += 1;
        delay(backoff, retry_after, self.started.elapsed(), self.total)
    }

    /// The number of the attempt that follows the delay; the first attempt is 1.
    pub(crate) fn attempt(&self) -> usize {
        self.attempt
    }
}

fn delay(
    backoff: Duration,
    retry_after: Option<Duration>,
    elapsed: Duration,
    total: Duration,
) -> Option<Duration> {
    match retry_after.filter(|pause| *pause > backoff) {
        Some(pause) => (pause <= LONGEST_PAUSE && elapsed < 2 * LONGEST_PAUSE).then_some(pause),
        None => (elapsed + backoff < total).then_some(backoff),
    }
}

/// Whether the same request may get another status in a moment (RFC 9110, 15.5.9 and 15.6; RFC 6585, 4).
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
        let after = |pause: Option<u32>, elapsed| {
            delay(SECOND, pause.map(|seconds| seconds * SECOND), elapsed * SECOND, 30 * SECOND)
        };
        assert_eq!(after(Some(4), 1), Some(4 * SECOND));
        assert_eq!(after(Some(60), 1), Some(60 * SECOND));
        assert_eq!(after(Some(60), 121), None);
        assert_eq!(after(None, 1), Some(SECOND));
        assert_eq!(after(Some(3600), 1), None);
        assert_eq!(after(None, 30), None);
    }

    #[test]
    fn every_attempt_but_the_first_follows_a_delay() {
        let delays = |attempts| {
            let mut retries = RetryPolicy { attempts, ..RetryPolicy::default() }.start();
            (std::iter::from_fn(|| retries.next_delay(None)).count(), retries.attempt())
        };
        assert_eq!(delays(5), (4, 5));
        assert_eq!(delays(1), (0, 1));
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
