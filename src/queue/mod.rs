//! The durable queue between deliveries and runs, and the workers that process it.
//!
//! A job is an opaque document for a handler: the queue does not depend on pipelines, forges or HTTP.
//!
//! - [`Store::accept`] returns after the fsync: an accepted job survives kill -9 and power cuts.
//! - Jobs of one repository run one at a time, in the order of their numbers, except that a job in a backoff does not
//!   delay later ones.
//! - `serve` owns the store through [`ServeLock`]; `swanci jobs` uses [`Store::open_existing`] concurrently.

mod backoff;
mod ballast;
mod database;
mod job;
mod lock;
mod log;
mod outbox;
mod sql;
mod store;
mod worker;

use std::io;
use std::path::Path;

use crate::error::Failure;

pub use self::backoff::Backoff;
pub use self::job::{Ending, JobId, JobRecord, JobState, NewJob, QueueStats};
pub use self::lock::{ServeLock, is_served};
pub use self::log::{JobLog, LOG_CAP};
pub use self::outbox::{Post, PostError, PostKind};
pub use self::store::{Clock, Store};
pub use self::worker::{Handler, JobContext, Pool, PoolOptions};

/// The error for a file of the state directory.
fn cannot_use(path: &Path) -> impl FnOnce(io::Error) -> Failure + use<> {
    let path = path.to_owned();
    move |cause| {
        Failure::environment(format!("cannot use {}: {cause}", path.display()))
            .hint("is it writable? --state-dir or SWANCI_STATE_DIR chooses another state directory")
    }
}
