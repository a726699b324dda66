//! One answer to "should this work go on?": signals, a cancelled job and deadlines, asked by whatever waits.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Failure, Kind};

/// Why work has to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// SIGINT.
    #[error("interrupted")]
    Interrupted,
    /// SIGTERM.
    #[error("terminated")]
    Terminated,
    /// Somebody cancelled the job.
    #[error("cancelled")]
    Cancelled,
    /// Its time is up.
    #[error("timed out")]
    TimedOut,
}

impl Stop {
    /// The error kind that this stop ends a command with.
    pub fn kind(self) -> Kind {
        match self {
            Stop::Interrupted => Kind::Interrupted,
            Stop::Terminated => Kind::Terminated,
            Stop::Cancelled | Stop::TimedOut => Kind::Failed,
        }
    }

    const fn code(self) -> u8 {
        match self {
            Stop::Interrupted => 1,
            Stop::Terminated => 2,
            Stop::Cancelled => 3,
            Stop::TimedOut => 4,
        }
    }

    const fn from_code(code: u8) -> Option<Stop> {
        match code {
            1 => Some(Stop::Interrupted),
            2 => Some(Stop::Terminated),
            3 => Some(Stop::Cancelled),
            4 => Some(Stop::TimedOut),
            _ => None,
        }
    }
}

impl From<Stop> for Failure {
    fn from(stop: Stop) -> Failure {
        Failure::new(stop.kind(), stop)
    }
}

/// A token that work asks whether to go on. Clones share it; a child also stops when its parent does.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    stop: AtomicU8,
    deadline: Option<Instant>,
    parent: Option<Cancel>,
    bell: Arc<Bell>,
}

/// Rings when a token is stopped; shared by a token and all below it.
#[derive(Default)]
struct Bell {
    wakers: Mutex<Vec<Waker>>,
    rung: Condvar,
}

type Waker = Box<dyn Fn() + Send>;

impl Bell {
    fn lock(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bell")
    }
}

impl Cancel {
    /// A token that nothing has stopped yet.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// A token that stops with this one, or by itself, or when `limit` has passed (monotonic clock).
    #[must_use]
    pub fn child(&self, limit: Option<Duration>) -> Cancel {
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let (stop, bell) = (AtomicU8::new(0), Arc::clone(&self.0.bell));
        Cancel(Arc::new(Inner { stop, deadline, parent: Some(self.clone()), bell }))
    }

    /// Stops the work under this token. The first reason stays.
    pub fn stop(&self, reason: Stop) {
        let _ = self.0.stop.compare_exchange(0, reason.code(), Ordering::SeqCst, Ordering::SeqCst);
        // Under the lock, so that a waiter that has just looked is already waiting.
        self.0.bell.lock().iter().for_each(|wake| wake());
        self.0.bell.rung.notify_all();
    }

    /// Has `wake` called when this token, or one above or below it, is stopped; not at a deadline. It must not block.
    pub(crate) fn on_stop(&self, wake: impl Fn() + Send + 'static) {
        self.0.bell.lock().push(Box::new(wake));
    }

    /// Why to stop, if there is a reason.
    pub fn stopped(&self) -> Option<Stop> {
        let own = Stop::from_code(self.0.stop.load(Ordering::SeqCst));
        own.or_else(|| self.0.parent.as_ref().and_then(Cancel::stopped))
            .or_else(|| self.0.deadline.is_some_and(|d| Instant::now() >= d).then_some(Stop::TimedOut))
    }

    /// `Err` when the work should stop.
    pub fn check(&self) -> Result<(), Stop> {
        self.stopped().map_or(Ok(()), Err)
    }

    fn deadline(&self) -> Option<Instant> {
        let above = self.0.parent.as_ref().and_then(Cancel::deadline);
        [self.0.deadline, above].into_iter().flatten().min()
    }

    /// Sleeps for `duration` unless the work should stop first.
    pub fn sleep(&self, duration: Duration) -> Result<(), Stop> {
        let began = Instant::now();
        let deadline = self.deadline();
        let mut wakers = self.0.bell.lock();
        loop {
            self.check()?;
            let left = duration.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            let until = deadline
                .map_or(left, |deadline| left.min(deadline.saturating_duration_since(Instant::now())));
            let waited = self.0.bell.rung.wait_timeout(wakers, until);
            wakers = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_stops_with_its_parent_and_a_parent_not_with_its_child() {
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
    fn a_stop_ends_a_sleep_and_wakes_whoever_asked() {
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
