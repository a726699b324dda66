//! When a failed call is retried, and after which delay.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};

/// A server that asks for a longer pause gets no retry.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// Attempts in all, including the first.
    pub attempts: usize,
    /// No attempt starts later than this after the first one, unless the server asked for the pause.
    pub total: Duration,
    /// The delay before the second attempt; it doubles, with jitter, up to 8 s.
    pub first_delay: Duration,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry { attempts: 5, total: Duration::from_secs(30), first_delay: Duration::from_millis(200) }
    }
}

impl Retry {
    /// The delays of one call: each before the next attempt, `None` when there is none. The argument is the pause that the
    /// server asked for. `backon`'s own loop cannot be interrupted and ignores `Retry-After`.
    pub(crate) fn delays(self) -> impl FnMut(Option<Duration>) -> Option<Duration> {
        let mut delays = ExponentialBuilder::new()
            .with_min_delay(self.first_delay)
            .with_max_delay(Duration::from_secs(8))
            .with_max_times(self.attempts.saturating_sub(1))
            .with_jitter()
            .build();
        let started = Instant::now();
        move |retry_after| delay(delays.next()?, retry_after, started.elapsed(), self.total)
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
        let count = |attempts| {
            let mut delays = Retry { attempts, ..Retry::default() }.delays();
            std::iter::from_fn(|| delays(None)).count()
        };
        assert_eq!((count(5), count(1)), (4, 0));
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
