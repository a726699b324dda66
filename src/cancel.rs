//! Stops work: signals, cancelled jobs and deadlines.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Failure, Kind};

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// SIGINT.
    #[error("interrupted")]
    Interrupted,
    /// SIGTERM.
    #[error("terminated")]
    Terminated,
    #[error("cancelled")]
    Cancelled,
    #[error("timed out")]
    TimedOut,
}

impl Stop {
    pub fn kind(self) -> Kind {
        match self {
            Stop::Interrupted => Kind::Interrupted,
            Stop::Terminated => Kind::Terminated,
            Stop::Cancelled | Stop::TimedOut => Kind::Failed,
        }
    }
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Failure {
        Failure::new(stop.kind(), stop)
    }
}

/// Tells work to stop. Clones share their state; a child also stops with its parent.
#[derive(Clone, Default)]
pub struct Cancel {
    own: Arc<OnceLock<Stop>>,
    /// Of its parents.
    above: Vec<Arc<OnceLock<Stop>>>,
    deadline: Option<Instant>,
    bell: Arc<Bell>,
}

/// Shared by a token and its children.
#[derive(Default)]
struct Bell {
    wakers: Mutex<Vec<Box<dyn Fn() + Send>>>,
    rung: Condvar,
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cancel").field(&self.stopped()).finish()
    }
}

impl Cancel {
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// A token that stops with this one, by itself, or after `limit` (monotonic clock).
    #[must_use]
    pub fn child(&self, limit: Option<Duration>) -> Cancel {
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let deadline = [self.deadline, deadline].into_iter().flatten().min();
        let above = [&self.own].into_iter().chain(&self.above).cloned().collect();
        Cancel { own: Arc::default(), above, deadline, bell: self.bell.clone() }
    }

    /// The first reason wins.
    pub fn stop(&self, reason: Stop) {
        let _ = self.own.set(reason);
        // Under the lock, so that no sleeper is between its check and its wait.
        self.wakers().iter().for_each(|wake| wake());
        self.bell.rung.notify_all();
    }

    /// Calls `wake` when this token, a parent or a child is stopped, but not at a deadline. `wake` must not block.
    pub(crate) fn on_stop(&self, wake: impl Fn() + Send + 'static) {
        self.wakers().push(Box::new(wake));
    }

    fn wakers(&self) -> MutexGuard<'_, Vec<Box<dyn Fn() + Send>>> {
        self.bell.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn stopped(&self) -> Option<Stop> {
        let stop = [&self.own].into_iter().chain(&self.above).find_map(|stop| stop.get().copied());
        stop.or_else(|| self.deadline.is_some_and(|d| Instant::now() >= d).then_some(Stop::TimedOut))
    }

    pub fn check(&self) -> Result<(), Stop> {
        self.stopped().map_or(Ok(()), Err)
    }

    pub fn sleep(&self, duration: Duration) -> Result<(), Stop> {
        let began = Instant::now();
        let mut wakers = self.wakers();
        loop {
            self.check()?;
            let left = duration.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            let deadline = self.deadline.map(|end| end.saturating_duration_since(Instant::now()));
            let waited = self.bell.rung.wait_timeout(wakers, deadline.map_or(left, |until| left.min(until)));
            wakers = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_stops_with_its_parent_but_not_the_other_way_round() {
        let parent = Cancel::new();
        let (one, two) = (parent.child(None), parent.child(None));
        one.stop(Stop::Cancelled);
        assert_eq!((one.stopped(), two.stopped(), parent.stopped()), (Some(Stop::Cancelled), None, None));
        parent.stop(Stop::Terminated);
        assert_eq!(two.stopped(), Some(Stop::Terminated));
        assert_eq!(one.stopped(), Some(Stop::Cancelled));
    }

    #[test]
    fn a_deadline_stops_a_sleep() {
        let token = Cancel::new().child(Some(Duration::from_millis(30)));
        assert_eq!(token.sleep(Duration::from_secs(600)), Err(Stop::TimedOut));
    }

    #[test]
    fn a_stop_ends_a_sleep_and_calls_the_wakers() {
        let parent = Cancel::new();
        let (woken, wakes) = std::sync::mpsc::channel();
        parent.on_stop(move || woken.send(()).unwrap());
        let sleeper = std::thread::spawn({
            let child = parent.child(None);
            move || child.child(Some(Duration::from_secs(600))).sleep(Duration::MAX)
        });
        parent.stop(Stop::Interrupted);
        assert_eq!(sleeper.join().unwrap(), Err(Stop::Interrupted));
        assert!(wakes.try_recv().is_ok());
    }
}
