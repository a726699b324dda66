//! Backoff of failed attempts. Pure: the random number is a parameter.

use std::time::Duration;

/// How often to retry an environment failure, and how long to wait.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// All attempts, including the first.
    pub attempts: u32,
    /// The wait after the first attempt, before jitter.
    pub first: Duration,
    /// The growth of each wait over the one before.
    pub factor: u32,
    /// The largest random change of a wait, as a fraction: it spreads the retries of jobs that failed together.
    pub jitter: f64,
}

impl Default for RetryPolicy {
    /// 20 s, 1, 3 and 9 minutes, ± 20 %: between 10.6 and 16 minutes in total.
    fn default() -> RetryPolicy {
        RetryPolicy { attempts: 5, first: Duration::from_secs(20), factor: 3, jitter: 0.2 }
    }
}

impl RetryPolicy {
    /// The wait after attempt number `attempt` (from 1) failed; `None` after the last one. `random` is in [0, 1).
    pub fn delay(&self, attempt: u32, random: f64) -> Option<Duration> {
        (attempt < self.attempts).then(|| {
            let plain = self.first.saturating_mul(self.factor.saturating_pow(attempt.saturating_sub(1)));
            plain.mul_f64(1.0 + self.jitter * (2.0 * random - 1.0))
        })
    }

    /// The longest possible wait: a later time was written before the clock was set back.
    pub fn longest(&self) -> Duration {
        self.delay(self.attempts.saturating_sub(1), 1.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn five_attempts_are_spread_over_at_least_ten_minutes(randoms in prop::array::uniform4(0.0..1.0_f64)) {
            let policy = RetryPolicy::default();
            let waits: Vec<Duration> =
                randoms.iter().zip(1..).map(|(random, attempt)| policy.delay(attempt, *random).unwrap()).collect();
            let total: Duration = waits.iter().sum();
            prop_assert!(total >= Duration::from_secs(600) && total <= Duration::from_secs(1000), "{total:?}");
            prop_assert!(waits.is_sorted());
            prop_assert!(waits.iter().all(|wait| *wait <= policy.longest()));
        }

        #[test]
        fn there_is_no_sixth_attempt(attempt in 5..u32::MAX, random in 0.0..1.0_f64) {
            prop_assert_eq!(RetryPolicy::default().delay(attempt, random), None);
        }
    }
}
