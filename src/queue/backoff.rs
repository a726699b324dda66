//! The waits between the attempts of a job or a post. Pure: the random number is a parameter.

use std::time::Duration;

/// Each wait is three times the one before.
const FACTOR: u32 = 3;
/// The largest random change of a wait, as a fraction: it spreads the retries of jobs that failed together.
const JITTER: f64 = 0.2;

#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// All attempts, including the first.
    pub attempts: u32,
    /// The wait after the first attempt, before jitter.
    pub first: Duration,
}

impl Backoff {
    /// 20 s, 1, 3 and 9 minutes, ± 20 %: between 10.6 and 16 minutes in total.
    pub(super) const JOBS: Backoff = Backoff { attempts: 5, first: Duration::from_secs(20) };

    /// The wait after attempt number `attempt` (from 1) failed; `None` after the last one. `random` is in [0, 1).
    pub(super) fn delay(&self, attempt: u32, random: f64) -> Option<Duration> {
        (attempt < self.attempts).then(|| {
            let plain = self.first.saturating_mul(FACTOR.saturating_pow(attempt.saturating_sub(1)));
            plain.mul_f64(1.0 + JITTER * (2.0 * random - 1.0))
        })
    }

    /// The longest possible wait: a later time was written before the clock was set back.
    pub(super) fn longest(&self) -> Duration {
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
            let waits: Vec<Duration> = randoms
                .iter()
                .zip(1..)
                .map(|(random, attempt)| Backoff::JOBS.delay(attempt, *random).unwrap())
                .collect();
            let total: Duration = waits.iter().sum();
            prop_assert!(total >= Duration::from_secs(600) && total <= Duration::from_secs(1000), "{total:?}");
            prop_assert!(waits.is_sorted());
            prop_assert!(waits.iter().all(|wait| *wait <= Backoff::JOBS.longest()));
        }

        #[test]
        fn there_is_no_sixth_attempt(attempt in 5..u32::MAX, random in 0.0..1.0_f64) {
            prop_assert_eq!(Backoff::JOBS.delay(attempt, random), None);
        }
    }
}
