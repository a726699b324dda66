//! The durable queue between a delivery and its run, and the workers that empty it.
//!
//! It takes an opaque document and a handler, and knows nothing of pipelines, forges or HTTP.
//!
//! - [`Store::accept`] returns after the fsync; what it returned `Ok` for survives kill -9 and power cuts.
//! - Jobs of one repository run one at a time, in the order of their numbers, except that a job which waits out a
//!   backoff does not hold up later ones.
//! - `serve` owns the store by [`ServeLock`]; `swanci jobs` reads and writes beside it by [`Store::open_existing`].

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
pub use self::store::{Clock, Outbox, Post, PostKind, Refusal, Retention, Store};
pub use self::worker::{Handler, JobContext, JobEvent, JobResult, Observer, Pool, PoolOptions};
