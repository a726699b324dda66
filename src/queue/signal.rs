//! A bell for those who wait for a change: none is missed between looking and waiting.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct Signal {
    rung: Mutex<u64>,
    bell: Condvar,
}

impl Signal {
    /// Wakes everyone who waits.
    pub(crate) fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.bell.notify_all();
    }

    /// How often it has rung. Ask before looking for work.
    pub(crate) fn seen(&self) -> u64 {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it rings once more than `seen`, or for `limit`.
    pub(crate) fn wait(&self, seen: u64, limit: Duration) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.bell.wait_timeout_while(rung, limit, |rung| *rung == seen));
    }
}
