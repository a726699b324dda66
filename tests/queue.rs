//! The queue of `serve` and `jobs`: durable across kill -9 and a full disk, ordered, one job at a time.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use swanci::cancel::{Cancel, Stop};
use swanci::error::{Failure, Kind};
use swanci::queue::{
    Backoff, Clock, Ending, Handler, JobContext, JobId, JobRecord, JobState, NewJob, Pool, PoolOptions, Post,
    PostError, ServeLock, Store,
};
use tempfile::TempDir;

mod faults;

/// The time limit of every wait.
const BOUND: Duration = Duration::from_secs(30);

/// A wall clock that the test sets.
struct ManualClock(AtomicI64);

impl ManualClock {
    fn new() -> Arc<ManualClock> {
        Arc::new(ManualClock(AtomicI64::new(1_800_000_000)))
    }

    fn clock(self: &Arc<ManualClock>) -> Clock {
        let clock = Arc::clone(self);
        Arc::new(move || Timestamp::from_second(clock.0.load(Ordering::SeqCst)).unwrap())
    }

    fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

fn system() -> Clock {
    Arc::new(Timestamp::now)
}

fn lock(dir: &Path) -> Result<ServeLock, Failure> {
    let mut lock = ServeLock::acquire(dir)?;
    lock.listens_on("127.0.0.1:8080");
    Ok(lock)
}

fn open(dir: &Path) -> Arc<Store> {
    open_at(dir, system())
}

fn open_at(dir: &Path, clock: Clock) -> Arc<Store> {
    Arc::new(Store::open(lock(dir).unwrap(), clock).unwrap())
}

fn job(repository: &str, commit: u64) -> NewJob {
    NewJob {
        forge: swanci::model::ForgeName::Github,
        forge_url: None,
        repository: repository.parse().unwrap(),
        branch: "main".parse().unwrap(),
        commit: Some(format!("{:040x}", commit + 1).parse().unwrap()),
        pull_request: Some(7),
        head: None,
        event: "pull_request".to_owned(),
        delivery_id: Some("the-same-for-all".to_owned()),
        document: format!("{{\"commit\":{commit}}}"),
    }
}

fn accept(queue: &Store, repository: &str, commit: u64) -> JobId {
    let (id, known) = queue.accept(&job(repository, commit)).unwrap();
    assert_eq!(known, None);
    id
}

fn succeeded() -> Result<String, Failure> {
    Ok("{\"outcome\":\"succeeded\"}".to_owned())
}

fn options(jobs: usize) -> PoolOptions {
    PoolOptions { jobs, poll: Duration::from_millis(10), ..PoolOptions::default() }
}

/// An event of a job; `None` at its start.
type Seen = (JobId, Option<Ending>);

struct Runner<F> {
    run: F,
    events: Mutex<Sender<Seen>>,
}

impl<F: Fn(&JobRecord, &JobContext) -> Result<String, Failure> + Send + Sync> Handler for Runner<F> {
    fn run(&self, job: &JobRecord, context: &JobContext) -> Result<String, Failure> {
        let _ = self.events.lock().unwrap().send((job.id, None));
        (self.run)(job, context)
    }

    fn post(&self, post: &Post, _: &Cancel) -> Result<(), PostError> {
        panic!("nothing asked for {post:?}");
    }

    fn ended(&self, job: &JobRecord, ending: &Ending, _: Duration) {
        let _ = self.events.lock().unwrap().send((job.id, Some(ending.clone())));
    }

    fn warn(&self, _: &str) {}
}

fn start(
    queue: &Arc<Store>,
    options: PoolOptions,
    run: impl Fn(&JobRecord, &JobContext) -> Result<String, Failure> + Send + Sync + 'static,
) -> (Pool, Receiver<Seen>) {
    let (events, seen) = channel();
    let handler = Arc::new(Runner { run, events: Mutex::new(events) });
    (Pool::start(queue, options, &Cancel::new(), handler).unwrap(), seen)
}

fn ended(queue: &Store, id: JobId) -> JobRecord {
    let bound = Cancel::new().child(Some(BOUND));
    queue.wait_ended(id, &bound).expect("the job should have ended by now")
}

fn until(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + BOUND;
    while !ready() {
        assert!(Instant::now() < deadline, "timeout while waiting until {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn the_same_merge_a_hundred_times_at_once_is_one_job() {
    let dir = TempDir::new().unwrap();
    let queue = open(dir.path());
    let barrier = Arc::new(Barrier::new(100));
    let threads: Vec<_> = (0..100)
        .map(|n| {
            let (queue, barrier) = (queue.clone(), Arc::clone(&barrier));
            thread::spawn(move || {
                barrier.wait();
                queue.accept(&job(if n % 2 == 0 { "Owner/Name" } else { "owner/name" }, 1)).unwrap()
            })
        })
        .collect();
    let answers: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(answers.iter().filter(|answer| **answer == (JobId(1), None)).count(), 1);
    let duplicate = (JobId(1), Some(JobState::Queued));
    assert_eq!(answers.iter().filter(|answer| **answer == duplicate).count(), 99);
    assert_eq!(queue.list(None, None, 1000).unwrap().len(), 1);
}

#[test]
fn a_delivery_id_that_was_seen_does_not_hide_another_merge() {
    let dir = TempDir::new().unwrap();
    let queue = open(dir.path());
    assert_ne!(accept(&queue, "a/b", 1), accept(&queue, "a/b", 2));
    let mut other_branch = job("a/b", 1);
    other_branch.branch = "release/1".parse().unwrap();
    assert_eq!(queue.accept(&other_branch).unwrap().1, None);
}

#[test]
fn a_redelivery_queues_a_failed_merge_again_but_not_a_succeeded_one() {
    let dir = TempDir::new().unwrap();
    let queue = open(dir.path());
    let id = accept(&queue, "a/b", 1);
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    let (_pool, _events) =
        start(&queue, options(1), move |_, _| match count.fetch_add(1, Ordering::SeqCst) {
            0 => Err(Failure::bad_input("malformed")),
            _ => succeeded(),
        });
    let record = ended(&queue, id);
    assert_eq!((record.state, record.exit_code, record.attempts), (JobState::Failed, Some(4), 1));
    assert_eq!(record.error.as_deref(), Some("malformed"));
    assert_eq!(queue.accept(&job("a/b", 1)).unwrap(), (id, Some(JobState::Failed)));
    let record = ended(&queue, id);
    assert_eq!(
        (record.state, record.exit_code, record.error.as_deref()),
        (JobState::Succeeded, Some(0), None)
    );
    assert_eq!(queue.accept(&job("A/B", 1)).unwrap(), (id, Some(JobState::Succeeded)));
    let refused = queue.retry(id).unwrap_err().to_string();
    assert_eq!(refused, "job 1 has succeeded; only failed or cancelled jobs can be retried");
    assert_eq!(record.document, "{\"commit\":1}");
    assert_eq!(record.outcome.as_deref(), Some("{\"outcome\":\"succeeded\"}"));
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

#[test]
fn jobs_of_one_repository_run_in_sequence_and_those_of_others_in_parallel() {
    let dir = TempDir::new().unwrap();
    let queue = open(dir.path());
    let mut ids = Vec::new();
    for commit in 0..4 {
        ids.push(accept(&queue, if commit % 2 == 0 { "o/one" } else { "O/One" }, commit));
        ids.push(accept(&queue, "o/two", commit));
    }
    let seen = Arc::new(Mutex::new((HashSet::new(), Vec::new())));
    let trace = Arc::clone(&seen);
    // A barrier for each pair of jobs, which opens only if both repositories run in parallel.
    let meet = Arc::new(Barrier::new(2));
    let (_pool, _events) = start(&queue, options(4), move |job, _| {
        let lane = job.repository.to_lowercase();
        {
            let mut trace = trace.lock().unwrap();
            assert!(trace.0.insert(lane.clone()), "two jobs of {lane} in parallel");
            trace.1.push((lane.clone(), job.id));
        }
        meet.wait();
        trace.lock().unwrap().0.remove(&lane);
        succeeded()
    });
    for id in ids {
        assert_eq!(ended(&queue, id).state, JobState::Succeeded);
    }
    let order = seen.lock().unwrap().1.clone();
    for lane in ["o/one", "o/two"] {
        let ids: Vec<JobId> = order.iter().filter(|(l, _)| l == lane).map(|(_, id)| *id).collect();
        assert!(ids.len() == 4 && ids.is_sorted(), "{lane}: {ids:?}");
    }
}

#[test]
fn a_poison_job_fails_after_five_attempts_and_does_not_block_others() {
    let dir = TempDir::new().unwrap();
    let clock = ManualClock::new();
    let queue = open_at(dir.path(), clock.clock());
    let poison = accept(&queue, "a/b", 1);
    let (pool, events) = start(&queue, options(1), move |job, _| match job.id == poison {
        true => Err(Failure::environment(format!("attempt {} met no registry", job.attempt()))),
        false => succeeded(),
    });
    let mut waits = Vec::new();
    let last = loop {
        match events.recv_timeout(BOUND).expect("the job should have continued") {
            (id, Some(Ending { wait: Some(wait), .. })) => {
                assert_eq!(id, poison);
                waits.push(wait);
                // While it waits, a later job of the same repository runs.
                let later = accept(&queue, "a/b", 1000 + waits.len() as u64);
                assert_eq!(ended(&queue, later).state, JobState::Succeeded);
                assert_eq!(queue.get(poison).unwrap().state, JobState::Queued);
                assert!(queue.get(poison).unwrap().next_attempt.is_some());
                clock.advance(wait.as_secs() as i64 + 1);
            }
            (id, Some(Ending { state, error, .. })) if id == poison => break (state, error),
            (_, _) => {}
        }
    };
    assert_eq!(last, (JobState::Failed, Some("attempt 5 met no registry".to_owned())));
    assert_eq!(waits.len(), 4);
    assert!(waits.iter().sum::<Duration>() >= Duration::from_secs(600), "{waits:?}");
    let record = queue.get(poison).unwrap();
    assert_eq!((record.attempts, record.exit_code), (5, Some(6)));
    assert!(pool.shutdown(Stop::Terminated, BOUND));
}

#[test]
fn a_panic_fails_only_that_job_and_the_worker_continues() {
    let dir = TempDir::new().unwrap();
    let queue = open(dir.path());
    let (one, two) = (accept(&queue, "a/b", 1), accept(&queue, "a/b", 2));
    let (_pool, _events) = start(&queue, options(1), move |job, _| match job.id == one {
        true => panic!("the builder fell over"),
        false => succeeded(),
    });
    let record = ended(&queue, one);
    assert_eq!(record.state, JobState::Failed);
    assert_eq!(record.error.as_deref(), Some("panicked: the builder fell over"));
    assert_eq!(ended(&queue, two).state, JobState::Succeeded);
}

#[test]
fn the_end_of_serve_does_not_count_as_an_attempt() {
    let dir = TempDir::new().unwrap();
    let queue = open(dir.path());
    let id = accept(&queue, "a/b", 1);
    let (pool, events) = start(&queue, options(1), |_, context| {
        while context.cancel.sleep(BOUND).is_ok() {}
        // Like a pipeline whose children were stopped.
        Err(Failure::failed("docker was killed"))
    });
    assert_eq!(events.recv_timeout(BOUND), Ok((id, None)));
    let record = queue.get(id).unwrap();
    assert_eq!(record.state, JobState::Running);
    assert!(record.owner.is_some() && record.lease_expires > record.started);
    assert!(pool.shutdown(Stop::Terminated, BOUND));
    let record = queue.get(id).unwrap();
    assert_eq!((record.state, record.attempts, record.interruptions), (JobState::Queued, 0, 1));
    assert_eq!(record.owner, None);
}

#[test]
fn a_job_ends_at_its_time_limit() {
    let dir = TempDir::new().unwrap();
    let queue = open(dir.path());
    let id = accept(&queue, "a/b", 1);
    let limited = PoolOptions { timeout: Duration::from_millis(20), ..options(1) };
    let (_pool, _events) = start(&queue, limited, |_, context| match context.cancel.sleep(BOUND) {
        Err(_) => Err(Failure::environment("git was stopped")),
        Ok(()) => succeeded(),
    });
    let record = ended(&queue, id);
    assert_eq!((record.state, record.exit_code, record.attempts), (JobState::Failed, Some(1), 1));
    assert_eq!(record.error.as_deref(), Some("timed out: git was stopped"));
}

#[test]
fn another_connection_cancels_and_retries_while_serve_runs() {
    let dir = TempDir::new().unwrap();
    let queue = open(dir.path());
    let (running, waiting) = (accept(&queue, "a/b", 1), accept(&queue, "a/b", 2));
    let (_pool, events) = start(&queue, options(1), move |job, context| match job.id == running {
        true => match context.cancel.sleep(BOUND) {
            Err(stop) => Err(stop.into()),
            Ok(()) => succeeded(),
        },
        false => succeeded(),
    });
    assert_eq!(events.recv_timeout(BOUND), Ok((running, None)));
    let beside = Store::open_existing(dir.path(), system()).unwrap();
    assert!(beside.cancel(waiting).unwrap(), "a queued job is cancelled at once");
    assert!(!beside.cancel(running).unwrap(), "a running job is asked to stop");
    let record = ended(&beside, running);
    assert_eq!((record.state, record.cancel_requested, record.attempts), (JobState::Cancelled, false, 0));
    assert_eq!(beside.get(waiting).unwrap().state, JobState::Cancelled);
    let refused = beside.cancel(waiting).unwrap_err().to_string();
    assert_eq!(refused, "job 2 was cancelled; only queued or running jobs can be cancelled");
    beside.retry(waiting).unwrap();
    assert_eq!(ended(&beside, waiting).state, JobState::Succeeded);
    for unknown in [beside.cancel(JobId(77)).map(drop), beside.retry(JobId(77))] {
        assert_eq!(unknown.unwrap_err().to_string(), "there is no job 77");
    }
    let stats = beside.stats().unwrap();
    assert_eq!(stats.jobs, [(JobState::Succeeded, 1), (JobState::Cancelled, 1)].into());
}

#[test]
fn a_log_is_followed_from_another_connection_until_the_job_has_ended() {
    let dir = TempDir::new().unwrap();
    let queue = open(dir.path());
    let id = accept(&queue, "a/b", 1);
    let (go, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let (_pool, _events) = start(&queue, options(1), move |_, context| {
        context.log.line("first https://user:s3cret@host");
        gate.lock().unwrap().recv_timeout(BOUND).unwrap();
        context.log.line("last");
        succeeded()
    });
    let beside = Store::open_existing(dir.path(), system()).unwrap();
    let mut text = Vec::new();
    let bound = Cancel::new().child(Some(BOUND));
    let record = beside
        .follow_log(id, &bound, &mut |bytes| {
            text.extend_from_slice(bytes);
            // The job continues only after its first line was read here.
            if text == b"first https://***@host\n" {
                go.send(()).unwrap();
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(record.state, JobState::Succeeded);
    assert_eq!(String::from_utf8(text).unwrap(), "first https://***@host\nlast\n");
}

#[test]
fn without_workers_jobs_wait() {
    let dir = TempDir::new().unwrap();
    let queue = open(dir.path());
    let (pool, _events) = start(&queue, options(0), |_, _| panic!("no job may run"));
    let id = accept(&queue, "a/b", 1);
    let short = Cancel::new().child(Some(Duration::from_millis(100)));
    assert_eq!(queue.wait_ended(id, &short).unwrap_err().to_string(), "timed out");
    assert_eq!(queue.wait_drained(&short).unwrap_err().to_string(), "timed out");
    assert!(pool.shutdown(Stop::Terminated, BOUND));
    let (_pool, _events) = start(&queue, options(1), |_, _| succeeded());
    queue.wait_drained(&Cancel::new().child(Some(BOUND))).unwrap();
    assert_eq!(queue.get(id).unwrap().state, JobState::Succeeded);
}

#[test]
fn old_jobs_are_removed_with_their_logs_and_waiting_jobs_are_kept() {
    let dir = TempDir::new().unwrap();
    let clock = ManualClock::new();
    let queue = open_at(dir.path(), clock.clock());
    let ids: Vec<JobId> = (0..450).map(|commit| accept(&queue, "a/b", commit)).collect();
    let (pool, _events) = start(&queue, options(1), |_, context| {
        context.log.line("hello");
        succeeded()
    });
    for id in &ids {
        assert_eq!(ended(&queue, *id).state, JobState::Succeeded);
    }
    assert!(pool.shutdown(Stop::Terminated, BOUND));
    let day = 24 * 3600;
    clock.advance(89 * day);
    let waiting = accept(&queue, "a/b", 9999);
    let age = PoolOptions::default().retention;
    assert_eq!(queue.delete_old(age, 10_000).unwrap(), 0);
    assert_eq!(queue.delete_old(age, 440).unwrap(), 10);
    clock.advance(2 * day);
    assert_eq!(queue.delete_old(age, 10_000).unwrap(), 440);
    assert_eq!(fs::read_dir(dir.path().join("logs")).unwrap().count(), 0);
    assert_eq!(queue.get(ids[0]).unwrap_err().kind, Kind::Failed);
    assert_eq!(queue.get(waiting).unwrap().state, JobState::Queued);
}

/// Sends the name of the thread that posts about a job.
struct Poster(Mutex<Sender<(JobId, String)>>);

impl Handler for Poster {
    fn run(&self, _: &JobRecord, _: &JobContext) -> Result<String, Failure> {
        succeeded()
    }

    fn post(&self, post: &Post, _: &Cancel) -> Result<(), PostError> {
        let thread = thread::current().name().unwrap_or_default().to_owned();
        self.0.lock().unwrap().send((post.job.id, thread)).unwrap();
        Ok(())
    }

    fn ended(&self, _: &JobRecord, _: &Ending, _: Duration) {}

    fn warn(&self, _: &str) {}
}

#[test]
fn a_post_is_sent_on_a_thread_of_its_own() {
    let dir = TempDir::new().unwrap();
    let queue = open(dir.path());
    queue.set_posts(true).unwrap();
    let (posts, posted) = channel();
    let handler = Arc::new(Poster(Mutex::new(posts)));
    let _pool = Pool::start(&queue, options(0), &Cancel::new(), handler).unwrap();
    let id = accept(&queue, "a/b", 1);
    assert_eq!(posted.recv_timeout(BOUND), Ok((id, "outbox".to_owned())));
    until("the post is recorded", || queue.unposted().unwrap() == 0);
}

#[test]
fn a_custom_backoff_policy_is_used() {
    let dir = TempDir::new().unwrap();
    let queue = open(dir.path());
    let id = accept(&queue, "a/b", 1);
    let backoff = Backoff { attempts: 3, first: Duration::from_millis(1) };
    let (_pool, _events) =
        start(&queue, PoolOptions { backoff, ..options(1) }, |job, _| match job.attempt() {
            3 => succeeded(),
            _ => Err(Failure::environment("down")),
        });
    let record = ended(&queue, id);
    assert_eq!((record.state, record.attempts), (JobState::Succeeded, 3));
}
