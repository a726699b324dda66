//! The workers: threads that claim jobs, run the handler on them and record how they ended.

use std::any::Any;
use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::error::QueueError;
use super::job::{ClaimedJob, JobId, JobState};
use super::log::{JobLog, LOG_CAP};
use super::retry::RetryPolicy;
use super::store::{Ending, LEASE, Outbox, Retention, Store};
use crate::cancel::{Cancel, Stop};
use crate::error::Kind;

/// How often retention is enforced.
const TIDY: Duration = Duration::from_secs(3600);

/// Runs a job. Called concurrently, each job on its own thread.
pub type Handler = dyn Fn(&ClaimedJob, &JobContext) -> JobResult + Send + Sync;

/// Called for every event of a job, or of the queue as a whole (`None`), on the workers' threads.
pub type Observer = dyn Fn(Option<&ClaimedJob>, &JobEvent) + Send + Sync;

/// A handler's input, besides its job.
pub struct JobContext {
    /// Stops when the job is cancelled, its time is up, or `serve` ends.
    pub cancel: Cancel,
    pub log: JobLog,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobResult {
    /// The document is stored with the job.
    Succeeded { outcome: String },
    /// A retry would fail again. `code` is the exit code of the same work by hand.
    Failed { code: u8, error: String },
    /// An environment failure; retried while attempts remain.
    Retry { code: u8, error: String },
    /// The handler stopped because of `cancel`.
    Interrupted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEvent {
    Started {
        /// Starts at 1.
        attempt: u32,
    },
    /// An attempt failed and another follows.
    Retrying { attempt: u32, wait: Duration, error: String },
    /// `serve` ends; the job is queued again.
    Interrupted,
    Ended {
        state: JobState,
        error: Option<String>,
        /// Duration of the last attempt.
        took: Duration,
    },
    /// The queue could not be read or written; the operation is retried.
    Trouble { error: String },
}

#[derive(Clone)]
pub struct PoolOptions {
    /// Concurrent jobs. With 0, none run.
    pub jobs: usize,
    /// The limit for one attempt.
    pub timeout: Option<Duration>,
    /// When to retry a failed attempt.
    pub retry: RetryPolicy,
    /// Which ended jobs to keep.
    pub retention: Retention,
    /// How often to check for changes by other processes, and for expired waits. Changes by this process are noticed
    /// immediately.
    pub poll: Duration,
    /// Size limit for one job's log, in bytes.
    pub log_cap: u64,
    /// Posts the status of jobs to the forges.
    pub outbox: Option<Arc<Outbox>>,
}

impl Default for PoolOptions {
    /// One job at a time, for at most an hour.
    fn default() -> PoolOptions {
        PoolOptions {
            jobs: 1,
            timeout: Some(Duration::from_secs(3600)),
            retry: RetryPolicy::default(),
            retention: Retention::default(),
            poll: Duration::from_millis(500),
            log_cap: LOG_CAP,
            outbox: None,
        }
    }
}

/// Workers on a store. They run until the pool is shut down or dropped, or its token stops.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    store: Store,
    options: PoolOptions,
    handler: Arc<Handler>,
    observer: Arc<Observer>,
    cancel: Cancel,
    running: Mutex<HashMap<JobId, Cancel>>,
}

impl Pool {
    /// Starts the workers, and a keeper that forwards cancel requests, renews leases and deletes old jobs.
    pub fn start(
        store: &Store,
        options: PoolOptions,
        cancel: &Cancel,
        handler: Arc<Handler>,
        observer: Arc<Observer>,
    ) -> io::Result<Pool> {
        let (jobs, store, running) = (options.jobs, store.clone(), Mutex::default());
        let cancel = cancel.child(None);
        let shared = Arc::new(Shared { store, options, handler, observer, cancel, running });
        // Workers wait for changes of the store, so a stop has to count as one.
        let weak = Arc::downgrade(&shared);
        shared.cancel.on_stop(move || drop(weak.upgrade().inspect(|shared| shared.store.ring())));
        let mut pool = Pool { shared, threads: Vec::new() };
        // If a thread fails to start, the pool is dropped, which stops the others.
        pool.spawn("queue-keeper".to_owned(), Shared::keep)?;
        for number in 1..=jobs {
            pool.spawn(format!("worker-{number}"), Shared::work)?;
        }
        Ok(pool)
    }

    fn spawn(&mut self, name: String, run: fn(&Shared)) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        self.threads.push(thread::Builder::new().name(name).spawn(move || run(&shared))?);
        Ok(())
    }

    /// Takes no more jobs, stops the running ones and waits up to `limit` for them. They are queued again. Returns
    /// whether all have ended; the next `serve` queues the others again.
    pub fn shutdown(mut self, reason: Stop, limit: Duration) -> bool {
        self.stop(reason);
        let deadline = Instant::now() + limit;
        while !self.threads.iter().all(JoinHandle::is_finished) {
            if Instant::now() >= deadline {
                self.threads.clear();
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
        true
    }

    fn stop(&self, reason: Stop) {
        self.shared.cancel.stop(reason);
    }
}

impl Drop for Pool {
    /// Stops the workers without waiting for them.
    fn drop(&mut self) {
        self.stop(Stop::Terminated);
    }
}

impl Shared {
    fn work(&self) {
        while self.cancel.check().is_ok() {
            let seen = self.store.changes();
            match self.store.claim(self.options.retry.longest()) {
                Ok(Some(job)) => self.run(&job),
                // The keeper wakes it when a wait expires or another process has changed something.
                Ok(None) if self.cancel.check().is_ok() => self.store.wait_change(seen, Duration::MAX),
                Ok(None) => {}
                Err(error) => self.trouble(&error),
            }
        }
    }

    fn run(&self, job: &ClaimedJob) {
        let began = Instant::now();
        let cancel = self.cancel.child(self.options.timeout);
        self.running().insert(job.id, cancel.clone());
        // A short job would end, and replace its pending status, before the keeper's next look.
        if let Err(error) = self.options.outbox.as_ref().map_or(Ok(()), Outbox::look) {
            self.trouble(&error);
        }
        self.tell(job, JobEvent::Started { attempt: job.attempt });
        let log = self.store.open_log(job.id, self.options.log_cap);
        let context = JobContext { cancel, log };
        let result =
            catch_unwind(AssertUnwindSafe(|| (self.handler)(job, &context))).unwrap_or_else(|panic| {
                JobResult::Failed { code: Kind::Failed.code(), error: panic_text(&*panic) }
            });
        let stopped = context.cancel.stopped();
        let ending = self.classify(job, result, stopped);
        if let Ending::Failed { error, .. } | Ending::Retry { error, .. } = &ending {
            context.log.line(&format!("attempt {} failed: {error}", job.attempt));
        }
        drop(context);
        self.write_down(job, ending, began);
        self.running().remove(&job.id);
    }

    /// The ending for a handler's result, given why its token stopped. A success stays a success; any other result
    /// after a stop is attributed to the stop.
    fn classify(&self, job: &ClaimedJob, result: JobResult, stopped: Option<Stop>) -> Ending {
        // A timeout has code 1, and a retry would take as long again.
        let timed_out = stopped == Some(Stop::TimedOut);
        let failed = |error| Ending::Failed { code: Kind::Failed.code(), error };
        match (result, stopped) {
            (JobResult::Succeeded { outcome }, _) => Ending::Succeeded { outcome },
            (_, Some(Stop::Cancelled)) => Ending::Cancelled,
            (_, Some(Stop::Interrupted | Stop::Terminated)) => Ending::Interrupted,
            (JobResult::Failed { code, error }, _) => Ending::Failed { code, error },
            (JobResult::Retry { error, .. }, _) if timed_out => failed(format!("timed out: {error}")),
            (JobResult::Interrupted, _) if timed_out => failed("timed out".to_owned()),
            (JobResult::Retry { code, error }, _) => self.again(job, code, error),
            // It was not stopped, so it counts as an attempt: a job must not repeat endlessly.
            (JobResult::Interrupted, _) => self.again(
                job,
                Kind::Environment.code(),
                "it left off without having been stopped".to_owned(),
            ),
        }
    }

    fn again(&self, job: &ClaimedJob, code: u8, error: String) -> Ending {
        match self.options.retry.delay(job.attempt, fastrand::f64()) {
            None => Ending::Failed { code, error },
            Some(wait) => Ending::Retry { code, error, wait },
        }
    }

    /// Retries until the ending is written: an ended job must not stay `running`. Only the end of `serve` stops the
    /// retries; the next `serve` then runs the job again.
    fn write_down(&self, job: &ClaimedJob, ending: Ending, began: Instant) {
        let state = loop {
            match self.store.end(job.id, &ending) {
                Ok(state) => break state,
                Err(error) => {
                    self.trouble(&error);
                    if matches!(error, QueueError::NotOwner(_)) || self.cancel.check().is_err() {
                        return;
                    }
                }
            }
        };
        let took = began.elapsed();
        let event = match (state, ending) {
            (JobState::Queued, Ending::Retry { error, wait, .. }) => {
                JobEvent::Retrying { attempt: job.attempt, wait, error }
            }
            (JobState::Queued, _) => JobEvent::Interrupted,
            (state, Ending::Failed { error, .. } | Ending::Retry { error, .. }) => {
                JobEvent::Ended { state, error: Some(error), took }
            }
            (state, Ending::Succeeded { .. } | Ending::Cancelled | Ending::Interrupted) => {
                JobEvent::Ended { state, error: None, took }
            }
        };
        self.tell(job, event);
    }

    fn keep(&self) {
        let (mut renewed, mut tidied) = (Instant::now(), None::<Instant>);
        loop {
            let mut tick = || {
                if tidied.is_none_or(|at| at.elapsed() >= TIDY) {
                    tidied = Some(Instant::now());
                    self.store.enforce(self.options.retention)?;
                }
                self.store.look(self.options.retry.longest())?;
                self.options.outbox.as_ref().map_or(Ok(()), Outbox::look)?;
                for id in if self.running().is_empty() { Vec::new() } else { self.store.to_cancel()? } {
                    self.running().get(&id).inspect(|cancel| cancel.stop(Stop::Cancelled));
                }
                if renewed.elapsed() >= LEASE / 4 {
                    renewed = Instant::now();
                    self.renew_leases()?;
                    self.store.release_expired()?;
                }
                Ok(())
            };
            if let Err(error) = tick() {
                self.trouble(&error);
            }
            if self.cancel.sleep(self.options.poll).is_err() {
                return;
            }
        }
    }

    /// Also stops jobs that now belong to another process.
    fn renew_leases(&self) -> Result<(), QueueError> {
        let running: Vec<JobId> = self.running().keys().copied().collect();
        if running.is_empty() {
            return Ok(());
        }
        let own = self.store.renew()?;
        for id in running.iter().filter(|id| !own.contains(id)) {
            // A job that has just ended is no longer in the map.
            self.running().get(id).inspect(|cancel| cancel.stop(Stop::Terminated));
        }
        Ok(())
    }

    fn running(&self) -> MutexGuard<'_, HashMap<JobId, Cancel>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports the error and waits before the next try.
    fn trouble(&self, error: &QueueError) {
        (self.observer)(None, &JobEvent::Trouble { error: error.to_string() });
        let _ = self.cancel.sleep(self.options.poll);
    }

    fn tell(&self, job: &ClaimedJob, event: JobEvent) {
        (self.observer)(Some(job), &event);
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("(no message)"))
}
