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
use super::log::{JobLog, LOG_CAP, Redact};
use super::retention::Retention;
use super::retry::RetryPolicy;
use super::signal::Signal;
use super::store::Ending;
use super::{LEASE, Queue};
use crate::cancel::{Cancel, Stop};
use crate::error::Kind;

/// How often retention is enforced.
const TIDY: Duration = Duration::from_secs(3600);

/// Runs a job: many at once, each on a thread of its own.
pub type Handler = dyn Fn(&ClaimedJob, &JobContext) -> JobResult + Send + Sync;

/// Told what happens, for progress and metrics. Called on the workers' threads.
pub type Observer = dyn Fn(&JobEvent) + Send + Sync;

/// What a handler has besides its job.
pub struct JobContext {
    /// Stops when the job is cancelled, its time is up, or `serve` ends.
    pub cancel: Cancel,
    /// The job's log.
    pub log: JobLog,
}

/// How a handler ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobResult {
    /// Done; the document is kept with the job.
    Succeeded {
        /// What came out.
        outcome: String,
    },
    /// It failed, and would fail again.
    Failed {
        /// The exit code that the same work by hand would have had.
        code: u8,
        /// Why.
        error: String,
    },
    /// The environment failed it; it is tried again while attempts are left.
    Retry {
        /// The exit code that the same work by hand would have had.
        code: u8,
        /// Why.
        error: String,
    },
    /// It saw its `cancel` stop and left off.
    Interrupted,
}

/// Something that happened to a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobEvent {
    /// An attempt began.
    Started {
        /// The job.
        id: JobId,
        /// The number of the attempt, from 1.
        attempt: u32,
    },
    /// An attempt failed and there will be another.
    Retrying {
        /// The job.
        id: JobId,
        /// The attempt that failed.
        attempt: u32,
        /// The wait before the next.
        wait: Duration,
        /// Why it failed.
        error: String,
    },
    /// `serve` ends; the job is queued again.
    Interrupted {
        /// The job.
        id: JobId,
    },
    /// The job has ended.
    Ended {
        /// The job.
        id: JobId,
        /// How.
        state: JobState,
        /// Why, if it failed.
        error: Option<String>,
        /// How long the last attempt took.
        took: Duration,
    },
    /// The queue could not be read or written; it is tried again.
    Trouble {
        /// What it said.
        error: String,
    },
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
    /// How often changes of other processes are looked for. Those of this one are seen at once.
    pub poll: Duration,
    /// The most that one job's log may hold, in bytes.
    pub log_cap: u64,
    /// Takes secrets out of a log's lines.
    pub redact: Redact,
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
            redact: Arc::new(|line| line.into()),
        }
    }
}

/// Workers on a queue. They go on until the pool is shut down or dropped, or the token that it was given stops.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    queue: Queue,
    options: PoolOptions,
    handler: Arc<Handler>,
    observer: Arc<Observer>,
    cancel: Cancel,
    running: Mutex<HashMap<JobId, Cancel>>,
    /// Rings once, when the pool is stopped.
    ended: Signal,
}

impl Pool {
    /// Starts the workers, and a keeper that passes on wishes to cancel, renews leases and forgets old jobs.
    pub fn start(
        queue: &Queue,
        options: PoolOptions,
        cancel: &Cancel,
        handler: Arc<Handler>,
        observer: Arc<Observer>,
    ) -> io::Result<Pool> {
        let jobs = options.jobs;
        let (running, ended) = (Mutex::default(), Signal::default());
        let cancel = cancel.child(None);
        let shared =
            Arc::new(Shared { queue: queue.clone(), options, handler, observer, cancel, running, ended });
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
        self.shared.ended.ring();
        self.shared.queue.0.changed.ring();
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
            let seen = self.queue.0.changed.seen();
            match self.queue.claim(self.options.retry.longest()) {
                Ok(Some(job)) => self.run(&job),
                Ok(None) => self.queue.0.changed.wait(seen, self.options.poll),
                Err(error) => self.trouble(&error),
            }
        }
    }

    fn run(&self, job: &ClaimedJob) {
        let began = Instant::now();
        let cancel = self.cancel.child(self.options.timeout);
        self.running().insert(job.id, cancel.clone());
        self.tell(JobEvent::Started { id: job.id, attempt: job.attempt });
        let log =
            JobLog::open(self.queue.dir(), job.id, self.options.log_cap, Arc::clone(&self.options.redact));
        let context = JobContext { cancel, log };
        let result =
            catch_unwind(AssertUnwindSafe(|| (self.handler)(job, &context))).unwrap_or_else(|panic| {
                JobResult::Failed { code: Kind::Failed.code(), error: panic_text(&*panic) }
            });
        let stopped = context.cancel.stopped();
        let (ending, wait) = self.classify(job, result, stopped);
        if let Ending::Failed { error, .. } | Ending::Retry { error, .. } = &ending {
            context.log.line(&format!("attempt {} failed: {error}", job.attempt));
        }
        drop(context);
        self.write_down(job, ending, wait, began);
        self.running().remove(&job.id);
    }

    /// What a handler's result means, given why its token stopped. What succeeded has succeeded, whoever wanted it
    /// stopped; anything else that ended under a stop ended by it.
    fn classify(&self, job: &ClaimedJob, result: JobResult, stopped: Option<Stop>) -> (Ending, Duration) {
        let failed = |code, error| (Ending::Failed { code, error }, Duration::ZERO);
        let by_stop = match stopped {
            Some(Stop::Cancelled) => Some(Ending::Cancelled),
            Some(Stop::Interrupted | Stop::Terminated) => Some(Ending::Interrupted),
            Some(Stop::TimedOut) | None => None,
        };
        // A timeout is 1, and the same attempt would take as long again.
        let timed_out = stopped == Some(Stop::TimedOut);
        match (result, by_stop) {
            (JobResult::Succeeded { outcome }, Some(_) | None) => {
                (Ending::Succeeded { outcome }, Duration::ZERO)
            }
            (JobResult::Failed { .. } | JobResult::Retry { .. } | JobResult::Interrupted, Some(ending)) => {
                (ending, Duration::ZERO)
            }
            (JobResult::Failed { code, error }, None) => failed(code, error),
            (JobResult::Retry { error, .. }, None) if timed_out => {
                failed(Kind::Failed.code(), format!("timed out: {error}"))
            }
            (JobResult::Retry { code, error }, None) => self.again(job, code, error),
            (JobResult::Interrupted, None) if timed_out => {
                failed(Kind::Failed.code(), "timed out".to_owned())
            }
            // Nobody stopped it, so it counts: a job must not go round for ever.
            (JobResult::Interrupted, None) => self.again(
                job,
                Kind::Environment.code(),
                "it left off without having been stopped".to_owned(),
            ),
        }
    }

    fn again(&self, job: &ClaimedJob, code: u8, error: String) -> (Ending, Duration) {
        match self.options.retry.delay(job.attempt, fastrand::f64()) {
            None => (Ending::Failed { code, error }, Duration::ZERO),
            Some(wait) => {
                let now = self.queue.0.clock.now();
                // At once, if the calendar ends before.
                (Ending::Retry { code, error, not_before: now.checked_add(wait).unwrap_or(now) }, wait)
            }
        }
    }

    /// Tries until it is written: a job that has ended must not stay `running`. Only the end of `serve` gives it up,
    /// and then the next one runs the job again.
    fn write_down(&self, job: &ClaimedJob, ending: Ending, wait: Duration, began: Instant) {
        let id = job.id;
        let state = loop {
            match self.queue.end(id, ending.clone()) {
                Ok(state) => break state,
                Err(error @ (QueueError::NotFound(_) | QueueError::IllegalTransition { .. })) => {
                    return self.tell(JobEvent::Trouble { error: error.to_string() });
                }
                Err(error) => {
                    if self.cancel.check().is_err() {
                        return self.tell(JobEvent::Trouble { error: error.to_string() });
                    }
                    self.trouble(&error);
                }
            }
        };
        self.tell(match (state, ending) {
            (JobState::Queued, Ending::Retry { error, .. }) => {
                JobEvent::Retrying { id, attempt: job.attempt, wait, error }
            }
            (JobState::Queued, _) => JobEvent::Interrupted { id },
            (state, Ending::Failed { error, .. } | Ending::Retry { error, .. }) => {
                JobEvent::Ended { id, state, error: Some(error), took: began.elapsed() }
            }
            (state, Ending::Succeeded { .. } | Ending::Cancelled | Ending::Interrupted) => {
                JobEvent::Ended { id, state, error: None, took: began.elapsed() }
            }
        });
    }

    fn keep(&self) {
        let (mut renewed, mut tidied) = (Instant::now(), None::<Instant>);
        while self.cancel.check().is_ok() {
            if tidied.is_none_or(|at| at.elapsed() >= TIDY) {
                tidied = Some(Instant::now());
                if let Err(error) = self.queue.enforce(self.options.retention) {
                    self.trouble(&error);
                }
            }
            if !self.running().is_empty() {
                if let Err(error) = self.pass_on_cancels() {
                    self.trouble(&error);
                }
                if renewed.elapsed() >= LEASE / 4 {
                    renewed = Instant::now();
                    // Only shown: a lease that could not be renewed takes no job away.
                    let _ = self.queue.renew_leases();
                }
            }
            // Not the queue's bell: every delivery rings that.
            self.ended.wait(0, self.options.poll);
        }
    }

    fn pass_on_cancels(&self) -> Result<(), QueueError> {
        for id in self.queue.to_cancel()? {
            if let Some(cancel) = self.running().get(&id) {
                cancel.stop(Stop::Cancelled);
            }
        }
        Ok(())
    }

    fn running(&self) -> MutexGuard<'_, HashMap<JobId, Cancel>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what is wrong and waits before the next try.
    fn trouble(&self, error: &QueueError) {
        self.tell(JobEvent::Trouble { error: error.to_string() });
        let _ = self.cancel.sleep(self.options.poll);
    }

    fn tell(&self, event: JobEvent) {
        (self.observer)(&event);
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("(no message)"))
}
