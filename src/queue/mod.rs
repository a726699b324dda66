//! The durable queue between deliveries and runs, and the workers that process it.
//!
//! A job is an opaque document for a handler: the queue does not depend on pipelines, forges or HTTP.
//!
//! - [`Store::accept`] returns after the fsync: an accepted job survives kill -9 and power cuts.
//! - Jobs of one repository run one at a time, in the order of their numbers, except that a job in a backoff does not
//!   delay later ones.
//! - `serve` owns the store through [`ServeLock`]; `swanci jobs` uses [`Store::open_existing`] concurrently.

mod ballast;
mod error;
mod job;
mod lock;
mod log;
mod retry;
mod schema;
mod store;
mod worker;

pub use self::error::QueueError;
pub use self::job::{
    Accepted, CancelOutcome, ClaimedJob, JobDocuments, JobFilter, JobId, JobRecord, JobState, NewJob,
    QueueStats, UnknownState,
};
pub use self::lock::{Holder, ServeLock, is_served};
pub use self::log::{JobLog, LOG_CAP};
pub use self::retry::RetryPolicy;
pub use self::store::{Clock, Outbox, Post, PostError, PostKind, Retention, Store};
pub use self::worker::{Handler, JobContext, JobEvent, JobResult, Observer, Pool, PoolOptions};
