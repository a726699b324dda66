//! The workers: threads that claim jobs, run the handler on them and record how they ended.

use std::any::Any;
use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::backoff::Backoff;
use super::job::{Ending, JobId, JobRecord, JobState};
use super::log::JobLog;
use super::outbox::{Post, PostError};
use super::store::{LEASE, Store};
use crate::cancel::{Cancel, Stop};
use crate::error::{Failure, Kind};

/// How often old jobs are deleted.
const TIDY: Duration = Duration::from_secs(3600);
/// The number of ended jobs to keep.
const KEEP: u32 = 10_000;

/// What `serve` does with jobs, on the pool's threads.
pub trait Handler: Send + Sync {
    /// Runs a job, and returns the document that is stored with it. Called concurrently. Environment failures are retried.
    fn run(&self, job: &JobRecord, context: &JobContext) -> Result<String, Failure>;

    /// Sends a post to the forge.
    fn post(&self, post: &Post, cancel: &Cancel) -> Result<(), PostError>;

    /// An attempt ended, after this time.
    fn ended(&self, job: &JobRecord, ending: &Ending, took: Duration);

    fn warn(&self, text: &str);
}

/// A handler's input, besides its job.
pub struct JobContext {
    /// Stops when the job is cancelled, its time is up, or `serve` ends.
    pub cancel: Cancel,
    pub log: Arc<JobLog>,
}

#[derive(Clone)]
pub struct PoolOptions {
    /// Concurrent jobs. With 0, none run.
    pub jobs: usize,
    /// The limit for one attempt.
    pub timeout: Duration,
    /// When to retry a failed attempt.
    pub backoff: Backoff,
    /// How long to keep ended jobs.
    pub retention: Duration,
    /// How often to check for changes by other processes, and for expired waits. Changes by this process are noticed
    /// immediately.
    pub poll: Duration,
}

impl Default for PoolOptions {
    /// One job at a time, for at most an hour.
    fn default() -> PoolOptions {
        PoolOptions {
            jobs: 1,
            timeout: Duration::from_secs(3600),
            backoff: Backoff::JOBS,
            retention: Duration::from_secs(90 * 24 * 3600),
            poll: Duration::from_millis(500),
        }
    }
}

/// Workers on a store. They run until the pool is shut down or dropped, or its token stops.
pub struct Pool {
    workers: Arc<Workers>,
    threads: Vec<JoinHandle<()>>,
}

struct Workers {
    store: Arc<Store>,
    options: PoolOptions,
    handler: Arc<dyn Handler>,
    cancel: Cancel,
    running: Mutex<HashMap<JobId, Cancel>>,
}

impl Pool {
    /// Starts the workers, and a keeper that forwards cancel requests, renews leases, deletes old jobs and starts the
    /// thread that posts.
    pub fn start(
        store: &Arc<Store>,
        options: PoolOptions,
        cancel: &Cancel,
        handler: Arc<dyn Handler>,
    ) -> io::Result<Pool> {
        let (jobs, store, cancel) = (options.jobs, Arc::clone(store), cancel.child(None));
        let workers = Arc::new(Workers { store, options, handler, cancel, running: Mutex::default() });
        // The threads wait for changes of the store, so a stop has to count as one.
        let weak = Arc::downgrade(&workers);
        workers.cancel.on_stop(move || drop(weak.upgrade().inspect(|workers| workers.store.wake())));
        let mut pool = Pool { workers, threads: Vec::new() };
        // If a thread fails to start, the pool is dropped, which stops the others.
        pool.spawn("queue-keeper".to_owned(), Workers::keep)?;
        for number in 1..=jobs {
            pool.spawn(format!("worker-{number}"), Workers::work)?;
        }
        Ok(pool)
    }

    fn spawn(&mut self, name: String, run: fn(&Arc<Workers>)) -> io::Result<()> {
        let workers = Arc::clone(&self.workers);
        self.threads.push(thread::Builder::new().name(name).spawn(move || run(&workers))?);
        Ok(())
    }

    /// Takes no more jobs, stops the running ones and waits up to `limit` for them. They are queued again. Returns
    /// whether all have ended; the next `serve` queues the others again.
    pub fn shutdown(mut self, reason: Stop, limit: Duration) -> bool {
        self.workers.cancel.stop(reason);
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
}

impl Drop for Pool {
    /// Stops the workers without waiting for them.
    fn drop(&mut self) {
        self.workers.cancel.stop(Stop::Terminated);
    }
}

impl Workers {
    fn work(self: &Arc<Workers>) {
        loop {
            let seen = self.store.changes();
            if self.cancel.check().is_err() {
                return;
            }
            match self.store.claim(self.options.backoff.longest()) {
                Ok(Some(job)) => self.run(&job),
                // The keeper wakes it when a wait expires or another process has queued a job.
                Ok(None) => self.store.wait_change(seen, Duration::MAX),
                Err(error) => self.trouble(&error),
            }
        }
    }

    fn run(&self, job: &JobRecord) {
        let began = Instant::now();
        let cancel = self.cancel.child(Some(self.options.timeout));
        self.running().insert(job.id, cancel.clone());
        let context = JobContext { cancel, log: Arc::new(self.store.open_log(job.id)) };
        let result = catch_unwind(AssertUnwindSafe(|| self.handler.run(job, &context)))
            .unwrap_or_else(|panic| Err(Failure::failed(panic_text(&*panic))));
        let ending = self.ending(job, result, context.cancel.stopped());
        if let Some(error) = &ending.error {
            context.log.line(&format!("attempt {} failed: {error}", job.attempt()));
        }
        drop(context);
        self.record(job, ending, began);
        self.running().remove(&job.id);
    }

    /// The ending for a handler's result, given why its token stopped. A success stays a success; any other result
    /// after a stop is attributed to the stop.
    fn ending(&self, job: &JobRecord, result: Result<String, Failure>, stopped: Option<Stop>) -> Ending {
        let failure = match (result, stopped) {
            (Ok(outcome), _) => {
                let (state, outcome, exit_code) = (JobState::Succeeded, Some(outcome), Some(0));
                return Ending { state, outcome, exit_code, ..Ending::default() };
            }
            (Err(_), Some(Stop::Cancelled)) => {
                return Ending { state: JobState::Cancelled, ..Ending::default() };
            }
            (Err(_), Some(Stop::Interrupted | Stop::Terminated)) => return Ending::default(),
            (Err(failure), Some(Stop::TimedOut) | None) => failure,
        };
        let (mut error, mut code) = (failure.one_line(), failure.kind.code());
        let mut wait = None;
        match failure.kind {
            // A retry would take as long again.
            Kind::Environment | Kind::Interrupted | Kind::Terminated if stopped.is_some() => {
                (error, code) = (format!("timed out: {error}"), Kind::Failed.code());
            }
            // An interruption without a stop counts as an attempt: a job must not repeat endlessly.
            Kind::Environment | Kind::Interrupted | Kind::Terminated => {
                code = Kind::Environment.code();
                wait = self.options.backoff.delay(job.attempt(), fastrand::f64());
            }
            Kind::Failed | Kind::Usage | Kind::NothingToBuild | Kind::BadInput | Kind::Refused => {}
        }
        let state = if wait.is_some() { JobState::Queued } else { JobState::Failed };
        Ending { state, outcome: None, exit_code: Some(code), error: Some(error), wait }
    }

    /// Retries until the ending is written: an ended job must not stay `running`. Only the end of `serve` stops the
    /// retries; the next `serve` then runs the job again.
    fn record(&self, job: &JobRecord, mut ending: Ending, began: Instant) {
        loop {
            match self.store.end(job.id, &ending) {
                Ok(Some(state)) => {
                    ending.state = state;
                    return self.handler.ended(job, &ending, began.elapsed());
                }
                Ok(None) => {
                    let text = format!("job {} was taken over by another process", job.id);
                    return self.handler.warn(&text);
                }
                Err(error) => {
                    self.trouble(&error);
                    if self.cancel.check().is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn keep(self: &Arc<Workers>) {
        let (mut ticked, mut renewed, mut tidied) = (None::<Instant>, Instant::now(), None::<Instant>);
        let mut poster = None;
        loop {
            let seen = self.store.changes();
            if self.cancel.check().is_err() {
                return;
            }
            // At each change: a short job would end before the next tick and replace its pending status.
            let mut done = self.post(&mut poster);
            if done.is_ok() && ticked.is_none_or(|at| at.elapsed() >= self.options.poll) {
                ticked = Some(Instant::now());
                done = self.tick(&mut renewed, &mut tidied);
            }
            if let Err(error) = done {
                self.trouble(&error);
            }
            let since = ticked.map_or(Duration::ZERO, |at| at.elapsed());
            self.store.wait_change(seen, self.options.poll.saturating_sub(since));
        }
    }

    /// Sends the pending posts, on a thread that lives only while there is something to post.
    fn post(self: &Arc<Workers>, poster: &mut Option<JoinHandle<()>>) -> Result<(), Failure> {
        if poster.as_ref().is_none_or(JoinHandle::is_finished) && self.store.next_post()?.is_some() {
            let workers = Arc::clone(self);
            let send_all =
                move || while workers.cancel.check().is_ok() && matches!(workers.post_one(), Ok(true)) {};
            *poster = thread::Builder::new().name("outbox".to_owned()).spawn(send_all).ok();
        }
        Ok(())
    }

    /// Sends one post, if there is one that may be sent now.
    fn post_one(&self) -> Result<bool, Failure> {
        let Some(post) = self.store.next_post()? else { return Ok(false) };
        let sent = self.handler.post(&post, &self.cancel);
        if let Some(warning) = self.store.posted(&post, sent)? {
            self.handler.warn(&warning);
        }
        Ok(true)
    }

    fn tick(&self, renewed: &mut Instant, tidied: &mut Option<Instant>) -> Result<(), Failure> {
        if tidied.is_none_or(|at| at.elapsed() >= TIDY) {
            *tidied = Some(Instant::now());
            self.store.delete_old(self.options.retention, KEEP)?;
        }
        if self.store.has_next(self.options.backoff.longest())? {
            self.store.wake();
        }
        for id in if self.running().is_empty() { Vec::new() } else { self.store.to_cancel()? } {
            self.running().get(&id).inspect(|cancel| cancel.stop(Stop::Cancelled));
        }
        if renewed.elapsed() >= LEASE / 4 {
            *renewed = Instant::now();
            let running: Vec<JobId> = self.running().keys().copied().collect();
            let own = self.store.renew_leases()?;
            for id in running.iter().filter(|id| !own.contains(id)) {
                // Another process has taken it over, or it has just ended and is no longer in the map.
                self.running().get(id).inspect(|cancel| cancel.stop(Stop::Terminated));
            }
        }
        Ok(())
    }

    fn running(&self) -> MutexGuard<'_, HashMap<JobId, Cancel>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports the error and waits before the next try.
    fn trouble(&self, error: &Failure) {
        self.handler.warn(&format!("{error}; it is tried again"));
        let _ = self.cancel.sleep(self.options.poll);
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("(no message)"))
}
