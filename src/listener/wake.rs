//! How other threads reach the gate's loop.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// A flag with a bell: setting it ends the loop's wait.
#[derive(Debug, Clone)]
pub(crate) struct Wake(Arc<Bell>);

#[derive(Debug)]
struct Bell {
    stop: AtomicBool,
    descriptor: OwnedFd,
}

impl Wake {
    pub(crate) fn new() -> std::io::Result<Wake> {
        let descriptor = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Wake(Arc::new(Bell { stop: AtomicBool::new(false), descriptor })))
    }

    pub(crate) fn stop(&self) {
        self.0.stop.store(true, Ordering::SeqCst);
        self.ring();
    }

    pub(crate) fn stopped(&self) -> bool {
        self.0.stop.load(Ordering::SeqCst)
    }

    /// Ends the loop's wait.
    pub(crate) fn ring(&self) {
        // Fails only when the counter is full, and then the bell rings already.
        let _ = rustix::io::write(&self.0.descriptor, &1u64.to_ne_bytes());
    }

    /// Silences the bell until it is rung again.
    pub(crate) fn heard(&self) {
        let _ = rustix::io::read(&self.0.descriptor, &mut [0u8; 8]);
    }
}

impl AsFd for Wake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.descriptor.as_fd()
    }
}
