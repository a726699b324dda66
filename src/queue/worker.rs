//! The workers: threads that take jobs, run the handler on them and write down how it ended.

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

/// Runs a job: many at once, each on a thread of its own.
pub type Handler = dyn Fn(&ClaimedJob, &JobContext) -> JobResult + Send + Sync;

/// Told what happens to a job, or to the queue as a whole. Called on the workers' threads.
pub type Observer = dyn Fn(Option<&ClaimedJob>, &JobEvent) + Send + Sync;

/// What a handler has besides its job.
pub struct JobContext {
    /// Stops when the job is cancelled, its time is up, or `serve` ends.
    pub cancel: Cancel,
    pub log: JobLog,
}

/// How a handler ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobResult {
    /// The document is kept with the job.
    Succeeded { outcome: String },
    /// It would fail again. `code` is the exit code that the same work by hand would have had.
    Failed { code: u8, error: String },
    /// The environment failed it; it is tried again while attempts are left.
    Retry { code: u8, error: String },
    /// It saw its `cancel` stop and left off.
    Interrupted,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEvent {
    Started {
        /// From 1.
        attempt: u32,
    },
    /// An attempt failed and there will be another.
    Retrying { attempt: u32, wait: Duration, error: String },
    /// `serve` ends; the job is queued again.
    Interrupted,
    Ended {
        state: JobState,
        error: Option<String>,
        /// Of the last attempt.
        took: Duration,
    },
    /// The queue could not be read or written; it is tried again.
    Trouble { error: String },
}

/// How the workers work.
#[derive(Clone)]
pub struct PoolOptions {
    /// Jobs at a time. None are run when it is 0.
    pub jobs: usize,
    /// The limit for one attempt.
    pub timeout: Option<Duration>,
    /// When a failed attempt is tried again.
    pub retry: RetryPolicy,
    /// Which ended jobs are kept.
    pub retention: Retention,
    /// How often changes of other processes are looked for, and waits that are over. Changes of this process are seen at once.
    pub poll: Duration,
    /// The most that one job's log may hold, in bytes.
    pub log_cap: u64,
    /// What is posted about jobs.
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

/// Workers on a store. They go on until the pool is shut down or dropped, or the token that it was given stops.
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
    /// Starts the workers, and a keeper that passes on wishes to cancel, renews leases and forgets old jobs.
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
        // The workers wait for changes of the store, and a stop is one.
        let weak = Arc::downgrade(&shared);
        shared.cancel.on_stop(move || drop(weak.upgrade().inspect(|shared| shared.store.ring())));
        let mut pool = Pool { shared, threads: Vec::new() };
        // A thread that cannot be started drops the pool, which stops the others.
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

    /// Takes no more jobs, stops the running ones and waits for them, at most for `limit`. They are queued again.
    /// Returns whether all have ended; one that has not is queued again by the next `serve`.
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
    /// Stops the workers and does not wait for them.
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
                // The keeper wakes it when a wait is over or another process has changed something.
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

    /// What a handler's result means, given why its token stopped. What succeeded has succeeded, whoever wanted it
    /// stopped; anything else that ended under a stop ended by it.
    fn classify(&self, job: &ClaimedJob, result: JobResult, stopped: Option<Stop>) -> Ending {
        // A timeout is 1, and the same attempt would take as long again.
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
            // Nobody stopped it, so it counts: a job must not be repeated without end.
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

    /// Tries until it is written: a job that has ended must not stay `running`. Only the end of `serve` gives it up,
    /// and then the next one runs the job again.
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

    /// A job that is no longer this process's is stopped: another one runs it.
    fn renew_leases(&self) -> Result<(), QueueError> {
        let running: Vec<JobId> = self.running().keys().copied().collect();
        if running.is_empty() {
            return Ok(());
        }
        let own = self.store.renew()?;
        for id in running.iter().filter(|id| !own.contains(id)) {
            // One that has just ended is not in the map any more.
            self.running().get(id).inspect(|cancel| cancel.stop(Stop::Terminated));
        }
        Ok(())
    }

    fn running(&self) -> MutexGuard<'_, HashMap<JobId, Cancel>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what is wrong and waits before the next try.
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
