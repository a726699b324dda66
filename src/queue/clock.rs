//! Wall time as a parameter. It is shown and stored; no wait in this process hangs on it alone.

use jiff::Timestamp;

/// Says what time it is.
pub trait Clock: Send + Sync {
    /// The wall clock, which a person or NTP may set forward or back at any moment.
    fn now(&self) -> Timestamp;
}

/// The machine's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
